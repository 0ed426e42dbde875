"""Cloudflare Turnstile: what to ask siteverify, and what its answer means. Pure.

https://developers.cloudflare.com/turnstile/get-started/server-side-validation/ (read as stored in 2024-2026).
A token lives 300 s and works once; the idempotency key lets the same question be asked again. The host and action that
the configuration names must be those of the answer: a browser cannot forge them.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final
from urllib.parse import quote_plus

from sidecar.captcha import siteverify
from sidecar.captcha.seam import Endpoint, Key, Outcome, Verdict
from sidecar.captcha.siteverify import Hostnames
from sidecar.config.model import Captcha, Doubt
from sidecar.config.units import Text
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 2048  # documented
LIFE_S: Final = 300.0  # documented
ASK_AGAIN: Final = True  # the idempotency key

# The secret for tests, with which every token passes.
_TEST_KEYS: Final = frozenset({"1x0000000000000000000000000000000AA"})
# The vendor's words -> ours; the first one listed here that an answer has, decides.
_ERROR_CODES: Final[Mapping[str, Outcome]] = {
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

    widget_keys: ClassVar = ("site_key", "action", "script")
    page_needs: ClassVar = ("site_key",)

    secret: Key
    site_key: Text = ""  # for the hosted page
    hostname: Hostnames = ()
    action: Text = ""  # empty: not checked
    endpoint: Endpoint = "https://challenges.cloudflare.com/turnstile/v0/siteverify"
    script: Endpoint = "https://challenges.cloudflare.com/turnstile/v0/api.js?render=explicit"

    def doubtful(self) -> Iterable[Doubt]:
        """The key for tests."""
        return siteverify.test_key(self.secret, _TEST_KEYS)

    @functools.cached_property
    def form_secret(self) -> str:
        """The secret, as a form writes it."""
        return quote_plus(self.secret)


def identify(settings: Settings, token: str) -> str | Verdict:  # noqa: ARG001 - the seam's shape
    """Give what the token is known by: itself."""
    return token


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token. `nonce` is 32 hex digits: as a UUID it is the idempotency key."""
    key = f"&idempotency_key={nonce[:8]}-{nonce[8:12]}-{nonce[12:16]}-{nonce[16:20]}-{nonce[20:]}"
    return siteverify.request(settings.endpoint, settings.form_secret, token, client_ip, key)


def read(settings: Settings, reply: HttpReply) -> Verdict:
    """Read siteverify's answer. Only `success` true, with the configured host and action, passes."""
    found = siteverify.read(reply, _ERROR_CODES, settings.hostname)
    if isinstance(found, Verdict):
        return found
    if settings.action and found.get("action") != settings.action:
        return Verdict("policy", "action")
    return Verdict("pass")
