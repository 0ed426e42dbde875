"""Cloudflare Turnstile: what to ask siteverify, and what its answer means. Pure.

https://developers.cloudflare.com/turnstile/get-started/server-side-validation/ (read as stored in 2024-2026).
A token lives 300 s and works once; the idempotency key lets the same question be asked again. `success` must be true
or false as JSON has it, and the host and action that the configuration names must be those of the answer: a browser
cannot forge them.
"""

import json
import uuid
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from pydantic import Field

from sidecar.captcha.seam import Outcome, Verdict
from sidecar.config.model import Captcha
from sidecar.config.units import NonEmpty, Text
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 2048  # documented
ASK_AGAIN: Final = True  # the idempotency key

# The vendor's words -> ours; the first one listed here that an answer has, decides.
_ERROR_CODES: Final[dict[str, Outcome]] = {
    "missing-input-secret": "config",
    "invalid-input-secret": "config",
    "bad-request": "config",
    "internal-error": "provider_error",
    "timeout-or-duplicate": "spent",
    "missing-input-response": "reject",
    "invalid-input-response": "reject",
}


class Settings(Captcha):
    """[captcha.NAME] with kind = "turnstile"."""

    secret: Annotated[NonEmpty, Field(repr=False)]
    site_key: Text = ""  # for the hosted page
    hostname: Text = ""  # empty: not checked
    action: Text = ""  # empty: not checked
    endpoint: Annotated[NonEmpty, Field(pattern=r"^https?://")] = (
        "https://challenges.cloudflare.com/turnstile/v0/siteverify"
    )


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token. `nonce` is 32 hex digits: as a UUID it is the idempotency key."""
    form = {
        "secret": settings.secret,
        "response": token,
        "remoteip": client_ip,
        "idempotency_key": str(uuid.UUID(hex=nonce)),
    }
    return HttpRequest(
        "POST",
        settings.endpoint,
        (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")),
        urlencode({name: value for name, value in form.items() if value}).encode(),
    )


def read(settings: Settings, reply: HttpReply) -> Verdict:
    """Read siteverify's answer. Only `success` true, with the configured host and action, passes."""
    if reply.status != 200:
        return Verdict("provider_error", f"http_{reply.status}")
    try:
        answer: Any = json.loads(reply.body)
    except (ValueError, RecursionError):
        return Verdict("provider_error", "not_json")
    success = answer.get("success") if isinstance(answer, dict) else None
    if success is True:
        if settings.hostname and answer.get("hostname") != settings.hostname:
            return Verdict("policy", "hostname")
        if settings.action and answer.get("action") != settings.action:
            return Verdict("policy", "action")
        return Verdict("pass")
    if success is False:
        codes = answer.get("error-codes")
        given = codes if isinstance(codes, list) else []
        return next(
            (Verdict(outcome, code) for code, outcome in _ERROR_CODES.items() if code in given),
            Verdict("reject", "unknown_code"),
        )
    return Verdict("provider_error", "no_verdict")
