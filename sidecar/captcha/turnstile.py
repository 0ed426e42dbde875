"""Cloudflare Turnstile: what to ask siteverify, and what its answer means. Pure.

https://developers.cloudflare.com/turnstile/get-started/server-side-validation/ (read as stored in 2024-2026).
A token lives 300 s and works once; the idempotency key lets the same question be asked again. `success` must be true
or false as JSON has it, and the host and action that the configuration names must be those of the answer: a browser
cannot forge them.
"""

import functools
import json
import re
from typing import Annotated, Any, Final
from urllib.parse import quote_plus, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from sidecar.captcha.seam import Outcome, Verdict
from sidecar.config.findings import UnfitError
from sidecar.config.model import Captcha, called
from sidecar.config.units import NonEmpty, Text, one_or_more, text_or_list
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 2048  # documented
LIFE_S: Final = 300.0  # documented
ASK_AGAIN: Final = True  # the idempotency key

_FIELDS: Final = (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json"))
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


def _spelt(host: str) -> str:
    """Spell a host name in one way: lower case, no dot at its end, other scripts as IDNA writes them."""
    name = host.lower().rstrip(".")
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return name


def _host(value: str) -> str:
    name = _spelt(value)
    if re.fullmatch(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", name):
        return name
    try:
        meant = urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        meant = ""
    example = meant if re.fullmatch(r"[\w-]+(?:\.[\w-]+)*", meant) else "www.example.com"
    raise UnfitError("is no host name alone", f'write "{example}", or a list of such')


class Settings(Captcha):
    """[captcha.NAME] with kind = "turnstile"."""

    secret: Annotated[NonEmpty, Field(repr=False)]
    site_key: Text = ""  # for the hosted page
    # Those that a token may be from, in one spelling; none: not checked.
    hostname: Annotated[
        tuple[Annotated[Text, AfterValidator(_host)], ...],
        BeforeValidator(one_or_more),
        text_or_list(),
    ] = ()
    action: Text = ""  # empty: not checked
    endpoint: Annotated[NonEmpty, Field(pattern=r"^https?://"), AfterValidator(called)] = (
        "https://challenges.cloudflare.com/turnstile/v0/siteverify"
    )

    @functools.cached_property
    def form_secret(self) -> str:
        """The secret, as a form writes it."""
        return quote_plus(self.secret)


def identify(settings: Settings, token: str) -> str | Verdict:  # noqa: ARG001 - the seam's shape
    """Give what the token is known by: itself."""
    return token


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token. `nonce` is 32 hex digits: as a UUID it is the idempotency key."""
    form = f"secret={settings.form_secret}&response={quote_plus(token)}"
    if client_ip:
        form += f"&remoteip={quote_plus(client_ip)}"
    form += f"&idempotency_key={nonce[:8]}-{nonce[8:12]}-{nonce[12:16]}-{nonce[16:20]}-{nonce[20:]}"
    return HttpRequest("POST", settings.endpoint, _FIELDS, form.encode())


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
        host = answer.get("hostname")
        if settings.hostname and host not in settings.hostname:  # as it came: mostly in our spelling
            host = _spelt(host) if isinstance(host, str) else None
        if settings.hostname and host not in settings.hostname:
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
