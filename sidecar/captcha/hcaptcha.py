"""hCaptcha: what to ask siteverify, and what its answer means. Pure.

https://docs.hcaptcha.com/#verify-the-user-response-server-side (read through repositories that quote it, 2026-11). The
form is the only shape that it takes. A token lives two minutes and works once; a lost answer cannot be asked for again.
With the site key, a token of another site of the account is refused too.
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

MAX_TOKEN: Final = 8192  # undocumented; seen ones have up to some 4,000 characters
LIFE_S: Final = 300.0  # 120 by its widget; a claim may live longer
ASK_AGAIN: Final = False

# The secret for tests, with which every token passes.
_TEST_KEYS: Final = frozenset({f"0x{0:040}"})
# The vendor's words -> ours; the first one listed here that an answer has, decides.
_ERROR_CODES: Final[Mapping[str, Outcome]] = {
    "missing-input-secret": "config",
    "invalid-input-secret": "config",
    "sitekey-secret-mismatch": "config",
    "not-using-dummy-passcode": "config",  # a test key, and a token of a real one
    "bad-request": "config",
    "missing-remoteip": "config",
    "invalid-remoteip": "config",
    "expired-input-response": "spent",
    "already-seen-response": "spent",
    "invalid-or-already-seen-response": "spent",
    "missing-input-response": "reject",
    "invalid-input-response": "reject",
}


class Settings(Captcha):
    """[captcha.NAME] with kind = "hcaptcha"."""

    widget_keys: ClassVar = ("site_key", "script")
    page_needs: ClassVar = ("site_key",)

    secret: Key
    site_key: Text = ""  # for the hosted page; told to the vendor, too
    hostname: Hostnames = ()
    endpoint: Endpoint = "https://api.hcaptcha.com/siteverify"
    script: Endpoint = "https://js.hcaptcha.com/1/api.js?render=explicit&recaptchacompat=off"

    def doubtful(self) -> Iterable[Doubt]:
        """The key for tests."""
        return siteverify.test_key(self.secret, _TEST_KEYS)

    @functools.cached_property
    def form(self) -> tuple[str, str]:
        """What a form says at each call: the secret, and the site key as one more pair."""
        return quote_plus(self.secret), f"&sitekey={quote_plus(self.site_key)}" if self.site_key else ""


def identify(settings: Settings, token: str) -> str | Verdict:  # noqa: ARG001 - the seam's shape
    """Give what the token is known by: itself."""
    return token


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token."""
    secret, site_key = settings.form
    return siteverify.request(settings.endpoint, secret, token, client_ip, site_key)


def read(settings: Settings, reply: HttpReply) -> Verdict:
    """Read siteverify's answer. Only `success` true, with the configured host, passes."""
    found = siteverify.read(reply, _ERROR_CODES, settings.hostname)
    return found if isinstance(found, Verdict) else Verdict("pass")
