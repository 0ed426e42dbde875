"""How is a request to Tencent Cloud signed? TC3-HMAC-SHA256, for a JSON body. Pure.

cloud.tencent.com, "signature method v3" (public documentation, read 2026-11). The clock may be five minutes off.
"""

import functools
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.outbound import HttpRequest

_ALGORITHM: Final = "TC3-HMAC-SHA256"
_WRITE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_CONTENT_TYPE: Final = "application/json"
_SIGNED: Final = "content-type;host"


def request(
    endpoint: str,
    call: tuple[str, str, str],
    content: Mapping[str, Any],
    *,
    key: tuple[str, str],
    now: float,
    region: str = "",
    token: str = "",
) -> HttpRequest:
    """Sign one call (service, action, version) with a key (id, secret) at `now`, in seconds since the epoch.

    `token`: of temporary credentials.
    """
    service, action, version = call
    body = _WRITE(content).encode()
    host = urlsplit(endpoint).netloc
    fields = {
        "Host": host,
        "Content-Type": _CONTENT_TYPE,
        "X-TC-Action": action,
        "X-TC-Version": version,
        "X-TC-Timestamp": str(int(now)),
    }
    if region:
        fields["X-TC-Region"] = region
    fields["Authorization"] = sign(service, host, int(now), body, key)
    if token:
        fields["X-TC-Token"] = token
    # The signature is for the path "/".
    return HttpRequest("POST", endpoint.rstrip("/") + "/", tuple(fields.items()), body)


def sign(service: str, host: str, timestamp: int, body: bytes, key: tuple[str, str]) -> str:
    """Give the Authorization of one call with a key (id, secret). `timestamp` in seconds; its date is UTC's."""
    # Step 1: the request as the vendor writes it.
    digest = hashlib.sha256(body).hexdigest()
    canonical = f"POST\n/\n\ncontent-type:{_CONTENT_TYPE}\nhost:{host}\n\n{_SIGNED}\n{digest}"
    # Steps 2 and 3: what is signed.
    date = datetime.fromtimestamp(timestamp, UTC).isoformat()[:10]
    scope = f"{date}/{service}/tc3_request"
    to_sign = f"{_ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    # Step 4: a key for this day and service.
    signature = hmac.digest(_derived(key[1], date, service), to_sign.encode(), "sha256").hex()
    # Step 5.
    return f"{_ALGORITHM} Credential={key[0]}/{scope}, SignedHeaders={_SIGNED}, Signature={signature}"


@functools.lru_cache(8)  # a few accounts, on one day
def _derived(secret_key: str, date: str, service: str) -> bytes:
    derived = f"TC3{secret_key}".encode()
    for part in (date, service, "tc3_request"):
        derived = hmac.digest(derived, part.encode(), "sha256")
    return derived
