"""Google reCAPTCHA, versions 2 and 3, and Enterprise: what to ask, and what the answer means. Pure.

https://developers.google.com/recaptcha/docs/verify and /v3, and
https://cloud.google.com/recaptcha/docs/create-assessment-website (public documentation, read 2026-11). A token lives
two minutes and works once; a lost answer cannot be asked for again.

Version 3 and Enterprise say yes of every genuine token, a robot's too: the score decides. So the version is configured
and never inferred, and an answer with a score is no answer to version 2.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self
from urllib.parse import quote_plus

from pydantic import Field, model_validator

from sidecar.captcha import answer, siteverify
from sidecar.captcha.seam import Endpoint, Outcome, Verdict
from sidecar.captcha.siteverify import Hostnames
from sidecar.config.model import Captcha, Doubt
from sidecar.config.units import Text, fitting
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 8192  # undocumented; seen ones have up to some 4,000 characters
LIFE_S: Final = 180.0  # 120, documented; a claim may live longer
ASK_AGAIN: Final = False

_SCRIPT: Final = "https://www.google.com/recaptcha/enterprise.js"
_ENTERPRISE: Final = "https://recaptchaenterprise.googleapis.com"
# The secret for tests, with which every token passes.
_TEST_KEYS: Final = frozenset({"6LeIxAcTAAAAAGG-vFI1TnRWxMZNFuojJ4WifJWe"})
# The vendor's words -> ours; the first one listed here that an answer has, decides.
_ERROR_CODES: Final[Mapping[str, Outcome]] = {
    "missing-input-secret": "config",
    "invalid-input-secret": "config",
    "bad-request": "config",
    "timeout-or-duplicate": "spent",
    "missing-input-response": "reject",
    "invalid-input-response": "reject",
}
# `tokenProperties.invalidReason` -> ours; every other one is a wrong token.
_INVALID: Final[Mapping[str, Outcome]] = {"EXPIRED": "spent", "DUPE": "spent"}
_REASONS: Final = frozenset({*_INVALID, "MALFORMED", "MISSING", "BROWSER_ERROR", "SITE_MISMATCH"})
# `error.status` of the API -> ours (google.rpc.Code); every other one is the vendor's trouble.
_STATUSES: Final[Mapping[str, Outcome]] = {
    "INVALID_ARGUMENT": "config",
    "UNAUTHENTICATED": "config",
    "PERMISSION_DENIED": "config",
    "NOT_FOUND": "config",
    "FAILED_PRECONDITION": "config",
}


class Settings(Captcha):
    """[captcha.NAME] with kind = "recaptcha"."""

    widget_keys: ClassVar = ("site_key", "action", "version", "script")
    page_needs: ClassVar = ("site_key",)

    version: Literal["v2", "v3", "enterprise"] = "v2"
    secret: Annotated[Text, Field(repr=False)] = ""  # of v2 and v3
    project: Annotated[
        Text,
        fitting(
            r"(?:[a-z0-9][a-z0-9:.-]{0,62})?", "is no project of Google Cloud", 'write its id, such as "my-shop-1234"'
        ),
    ] = ""  # of enterprise, as are the API key and the site key
    api_key: Annotated[Text, Field(repr=False)] = ""
    site_key: Text = ""  # for the hosted page
    hostname: Hostnames = ()
    action: Text = ""  # of v3 and enterprise; empty: not checked
    min_score: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.5  # of v3 and enterprise: 0 is a robot, 1 a person
    endpoint: Endpoint = "https://www.google.com/recaptcha/api/siteverify"
    script: Endpoint = "https://www.google.com/recaptcha/api.js"

    @model_validator(mode="after")
    def _fits_its_version(self) -> Self:
        needed = ("project", "api_key", "site_key") if self.version == "enterprise" else ("secret",)
        for key in needed:
            if not getattr(self, key):
                raise ValueError(f'{key} is missing, which version = "{self.version}" needs; write {key} = "…"')
        known = {"v2": (), "v3": ("action", "min_score"), "enterprise": ("action", "min_score", "project", "api_key")}
        for key in ("action", "min_score", "project", "api_key"):
            if key in self.model_fields_set and getattr(self, key) != "" and key not in known[self.version]:
                fit = " or ".join(f'"{version}"' for version, keys in known.items() if key in keys)
                raise ValueError(
                    f'{key} has no meaning with version = "{self.version}"; leave it out, or write version = {fit}'
                )
        if self.version == "enterprise" and self.secret:
            raise ValueError('secret has no meaning with version = "enterprise"; leave it out: api_key is in its place')
        return self

    def doubtful(self) -> Iterable[Doubt]:
        """The key for tests."""
        return siteverify.test_key(self.secret, _TEST_KEYS)

    @functools.cached_property
    def form_secret(self) -> str:
        """The secret, as a form writes it."""
        return quote_plus(self.secret)

    def widget(self) -> dict[str, str]:
        """What the widget in a browser is told; Enterprise has a script of its own."""
        script = self.script if "script" in self.model_fields_set or self.version != "enterprise" else _SCRIPT
        return super().widget() | {"script": script}

    @functools.cached_property
    def assessments(self) -> str:
        """Where Enterprise makes assessments. `endpoint` is its address without a path, if it is configured."""
        base = self.endpoint if "endpoint" in self.model_fields_set else _ENTERPRISE
        return f"{base.rstrip('/')}/v1/projects/{self.project}/assessments"


def identify(settings: Settings, token: str) -> str | Verdict:  # noqa: ARG001 - the seam's shape
    """Give what the token is known by: itself."""
    return token


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token."""
    if settings.version != "enterprise":
        return siteverify.request(settings.endpoint, settings.form_secret, token, client_ip)
    event = {"token": token, "siteKey": settings.site_key}
    if settings.action:
        event["expectedAction"] = settings.action
    if client_ip:
        event["userIpAddress"] = client_ip
    # In a field and not in the query: no log of a proxy has it.
    fields = (("Content-Type", "application/json"), ("X-Goog-Api-Key", settings.api_key))
    return HttpRequest("POST", settings.assessments, fields, json.dumps({"event": event}).encode())


def read(settings: Settings, reply: HttpReply) -> Verdict:
    """Read the answer by the configured version's rules."""
    if settings.version == "enterprise":
        return _read_assessment(settings, reply)
    found = siteverify.read(reply, _ERROR_CODES, settings.hostname)
    if isinstance(found, Verdict):
        return found
    if settings.version == "v2":
        # A key of version 3, whose every token is a yes.
        return Verdict("config", "score_in_v2") if "score" in found else Verdict("pass")
    return _by_score(settings, found.get("action"), found.get("score"))


def _read_assessment(settings: Settings, reply: HttpReply) -> Verdict:
    found = answer.members(reply.body)
    if found is None:
        return Verdict("provider_error", answer.unreadable(reply))
    if reply.status != 200:
        status = answer.member(found, "error").get("status")
        outcome = _STATUSES.get(status) if isinstance(status, str) else None
        return Verdict(outcome, str(status)) if outcome else Verdict("provider_error", f"http_{reply.status}")
    token = answer.member(found, "tokenProperties")
    if token.get("valid") is False:
        reason = token.get("invalidReason")
        if not isinstance(reason, str) or reason not in _REASONS:
            return Verdict("reject", "invalid")
        return Verdict(_INVALID.get(reason, "reject"), reason)
    if token.get("valid") is not True:
        return Verdict("provider_error", "no_verdict")
    if not siteverify.is_from(token.get("hostname"), settings.hostname):
        return Verdict("policy", "hostname")
    return _by_score(settings, token.get("action"), answer.member(found, "riskAnalysis").get("score"))


def _by_score(settings: Settings, action: Any, score: Any) -> Verdict:
    if settings.action and action != settings.action:
        return Verdict("policy", "action")
    return Verdict("pass") if siteverify.has_score(score, settings.min_score) else Verdict("policy", "score")
