"""GeeTest behaviour captcha, version 4: what to ask, signed, and what the answer means. Pure.

https://docs.geetest.com/gt4/apirefer/api/server (read through the vendor's public demos, 2026-11). The widget gives
not one token but several: `getValidate()` is an object, which is sent on as JSON. It lives about ten minutes and works
once; a lost answer cannot be asked for again. Every answer has HTTP status 200.

The vendor's demo lets everyone in when the call fails; here `on_failure` says so. A pass has no `reason`: one that has
passes for another cause than a person.
"""

import hmac
from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import quote_plus

from sidecar.captcha import answer
from sidecar.captcha.seam import Endpoint, Key, Outcome, Verdict
from sidecar.config.model import Captcha
from sidecar.config.units import NonEmpty
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 4096  # undocumented; seen ones have some 1,000 characters
LIFE_S: Final = 900.0  # about 600; a claim may live longer
ASK_AGAIN: Final = False

_FIELDS: Final = (("Content-Type", "application/x-www-form-urlencoded"),)
_PARTS: Final = ("lot_number", "captcha_output", "pass_token", "gen_time")
# `reason` of a refusal -> ours; every other one is a wrong token.
_REASONS: Final[Mapping[str, Outcome]] = {"pass_token expire": "spent", "pass_token error": "reject"}
# What an error's `msg` is about, where it is about what no browser sends: the page lists no words for these.
_OURS: Final = ("captcha_id", "sign_token")


class Settings(Captcha):
    """[captcha.NAME] with kind = "geetest"."""

    widget_keys: ClassVar = ("captcha_id", "script")

    captcha_id: NonEmpty
    captcha_key: Key
    endpoint: Endpoint = "https://gcaptcha4.geetest.com/validate"
    script: Endpoint = "https://static.geetest.com/v4/gt4.js"


def identify(settings: Settings, token: str) -> str | Verdict:
    """Give what the token is known by: its lot_number. One of another account's captcha is refused unasked."""
    found = answer.parts(token, *_PARTS)
    if found is None:
        return Verdict("reject", "unreadable")
    of = (answer.members(token) or {}).get("captcha_id", settings.captcha_id)
    return found[0] if of == settings.captcha_id else Verdict("policy", "captcha_id")


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token, which `identify` found readable."""
    values = answer.parts(token, *_PARTS) or ("",) * len(_PARTS)
    form = [*zip(_PARTS, values, strict=True), ("sign_token", sign(settings.captcha_key, values[0]))]
    body = "&".join([f"{name}={quote_plus(value)}" for name, value in form])
    url = f"{settings.endpoint}?captcha_id={quote_plus(settings.captcha_id)}"
    return HttpRequest("POST", url, _FIELDS, body.encode())


def sign(captcha_key: str, lot_number: str) -> str:
    """The vendor's signature: HMAC-SHA256 over the lot_number, in lower-case hex."""
    return hmac.digest(captcha_key.encode(), lot_number.encode(), "sha256").hex()


def read(settings: Settings, reply: HttpReply) -> Verdict:  # noqa: ARG001 - the seam's shape
    """Read the answer. Older ones have no `status`; one that is there and no "success" outranks `result`."""
    found = answer.members(reply.body) if reply.status == 200 else None
    if found is None:
        return Verdict("provider_error", answer.unreadable(reply))
    if found.get("status", "success") != "success":
        message = found.get("msg")
        is_ours = isinstance(message, str) and any(word in message for word in _OURS)
        return Verdict("config", "our_keys") if is_ours else Verdict("reject", "status_error")
    reason = found.get("reason", "")
    match found.get("result"):
        case "success":
            return Verdict("unproven", "pass_with_reason") if reason else Verdict("pass")
        case "fail":
            known = reason if isinstance(reason, str) and reason in _REASONS else ""
            return Verdict(_REASONS.get(known, "reject"), known.replace(" ", "_") or "fail")
        case _:
            return Verdict("provider_error", "no_verdict")
