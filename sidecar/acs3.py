"""How is a request to Alibaba Cloud signed? ACS3-HMAC-SHA256, for parameters in the query or in a form. Pure.

help.aliyun.com, "V3 request syntax and signature method" (public documentation, read 2026-11). The clock may be 15
minutes off, and a nonce is good for one request.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from sidecar.outbound import HttpReply, HttpRequest

_ALGORITHM: Final = "ACS3-HMAC-SHA256"
_NOTHING: Final = hashlib.sha256(b"").hexdigest()
# What stays as it is in a query.
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*")


def request(
    endpoint: str,
    call: tuple[str, str],
    params: Mapping[str, str],
    *,
    key: tuple[str, str],
    now: float,
    nonce: str,
    security_token: str = "",
    in_form: bool = False,
) -> HttpRequest:
    """Sign one call (action, version) with a key (id, secret) at `now`, in seconds since the epoch.

    `in_form`: the parameters travel in the body, as those services have it whose pages say formData.
    """
    action, version = call
    fields = {
        "host": urlsplit(endpoint).netloc,
        "x-acs-action": action,
        "x-acs-version": version,
        "x-acs-date": f"{datetime.fromtimestamp(int(now), UTC).isoformat()[:19]}Z",
        "x-acs-signature-nonce": nonce,
    }
    if security_token:
        fields["x-acs-accesskey-id"] = key[0]
        fields["x-acs-security-token"] = security_token
    if not in_form:
        return signed("POST", endpoint, params, fields, b"", key)
    fields["content-type"] = "application/x-www-form-urlencoded"
    return signed("POST", endpoint, {}, fields, urlencode(params).encode(), key)


def signed(
    method: str, endpoint: str, params: Mapping[str, str], fields: Mapping[str, str], body: bytes, key: tuple[str, str]
) -> HttpRequest:
    """Sign every one of these fields, which have lower-case names, and the body's hash."""
    # Step 1: the body's hash is one of the fields.
    digest = hashlib.sha256(body).hexdigest() if body else _NOTHING
    fields = {**fields, "x-acs-content-sha256": digest}
    # Step 2: the query, by name; only unreserved characters stay as they are.
    query = "&".join([f"{_spell(name)}={_spell(value)}" for name, value in sorted(params.items())])
    # Step 3: the fields, by name.
    ordered = sorted(fields.items())
    names = ";".join([name for name, _ in ordered])
    lines = "".join([f"{name}:{value.strip()}\n" for name, value in ordered])
    # Step 4: the whole request as the vendor writes it.
    path = urlsplit(endpoint).path
    canonical = f"{method}\n{path or '/'}\n{query}\n{lines}\n{names}\n{digest}"
    # Step 5: its hash is what is signed.
    to_sign = f"{_ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(key[1].encode(), to_sign.encode(), "sha256").hex()
    # Step 6.
    authorization = f"{_ALGORITHM} Credential={key[0]},SignedHeaders={names},Signature={signature}"
    base = endpoint if path else f"{endpoint}/"
    return HttpRequest(
        method, f"{base}?{query}" if query else base, (*fields.items(), ("Authorization", authorization)), body
    )


def asked_to_wait_s(reply: HttpReply) -> float | None:
    """Read x-acs-retry-after, milliseconds that a throttled answer may carry, in seconds; None for none."""
    value = reply.fields.get("x-acs-retry-after", "")
    return int(value) / 1000 if re.fullmatch("[0-9]{1,8}", value) else None


def _spell(value: str) -> str:
    return value if _UNRESERVED.fullmatch(value) else quote(value, safe="-_.~")
