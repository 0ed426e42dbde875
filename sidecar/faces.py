"""How does an answer of ours look to this client? A refusal's face, the page of a browser, what a script may read.

The law: nothing is decided here. A refusal has the route's own shape, or a page for a browser, or is a problem
document; and every answer of ours leaves through `dressed`.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from sidecar import intake, problem
from sidecar.config.model import Config, Route
from sidecar.errors import OVERLOADED, Refusal
from sidecar.limits.buckets import rate_limit_fields
from sidecar.pages import browser, pages, told
from sidecar.pages.pages import Page, Resume
from sidecar.problem import Answer
from sidecar.recipient import Recipient
from sidecar.visit import Visit

# What the hosted page can mend: a browser without a proof, or with one that is no longer good.
_PAGE_CODES: Final = frozenset({"code_required", "code_expired", "too_many_attempts"})
# What demanded a captcha where wrong codes alone did.
_GUESSES: Final = ["code.failures"]
# What a person can mend in the form itself, and what may go well another time.
_WRONG_RECIPIENT: Final = frozenset({"invalid_recipient", "recipient_not_allowed", "recipient_unreachable"})
_PASSING: Final = frozenset(
    {
        *("rate_limited", "too_many_attempts", "verification_in_use", "captcha_unavailable"),
        *("store_unavailable", "overloaded", "upstream_unavailable", "upstream_timeout"),
    }
)
# The header list of a CORS preflight: as many names as scripts send.
_FIELD_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1000}")
# Fetch standard, CORS protocol. With credentials, for a route's front end may send its session along.
_READABLE: Final = (
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Expose-Headers", "Location, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id"),
)


class Faces:
    """The looks of one configuration's answers. `new_id` makes what cannot be guessed."""

    def __init__(self, config: Config, new_id: Callable[[], str]) -> None:
        self._config = config
        self._new_id = new_id
        self._origins = frozenset(config.api.cors_origins)
        self._overloaded = problem.prepared(OVERLOADED)
        self._has_warned_of_host = False

    def dressed(self, visit: Visit, answer: Answer) -> Answer:
        """Have the scripts of an allowed origin read an answer."""
        if not self._origins:
            return answer
        fields: tuple[tuple[str, str], ...] = (*answer.fields, ("Vary", "Origin"))
        if origin := self.allowed_origin([value.encode() for value in visit.all("Origin")]):
            fields = (*fields, ("Access-Control-Allow-Origin", origin), *_READABLE)
        return replace(answer, fields=fields)

    # A refusal…

    def refusal(self, visit: Visit, refusal: Refusal) -> Answer:
        """Render a refusal in the route's own shape, as a page for a browser, or as a problem document."""
        route = visit.route
        own, wants_page = route.errors.get(refusal.code) if route else None, visit.wants_page
        if refusal is OVERLOADED and own is None and not wants_page:
            return self._overloaded(visit.request_id)  # what it takes is taken from those that were let in
        fields = problem.refusal_fields(refusal, rate_limit_fields(refusal.limits) if refusal.limits else ())
        if own is not None:
            return problem.shaped(own, fields)
        if wants_page:
            return self._refusal_page(visit, refusal, fields)
        return problem.document(refusal, visit.request_id, fields)

    def _refusal_page(self, visit: Visit, refusal: Refusal, fields: Sequence[tuple[str, str]]) -> Answer:
        """The page of a refusal: the one that verifies where that mends it, else one that says what is wrong."""
        route = visit.route
        is_dead = refusal.code in _PAGE_CODES or refusal.extra.get("attempts_left") == 0
        # A token of the page's is no guess, so wrong codes demand no captcha of it; limits would.
        is_dead = is_dead or (refusal.code == "captcha_required" and visit.log.get("captcha_demanded_by") == _GUESSES)
        needs_proof = is_dead and refusal.retry_after_s is None
        if needs_proof and route is not None and visit.resume is not None:
            return self.hosted_page(visit, visit.typed, _without_code(visit.resume, route))
        is_other_site = needs_proof and visit.is_other_site
        page = told.refusal_page(
            refusal,
            prefix=self._config.api.prefix,
            brand=self._config.code.brand,
            locale=visit.locale,
            example=self._config.numbers.example,
            request_id=visit.request_id,
            mend=_mend(visit, route, refusal) if route is not None else None,
            channel=route.channel if route is not None else "sms",
            is_other_site=is_other_site,
            may_go_back=visit.method == "POST",
        )
        return _of_page(page, () if is_other_site else fields)

    # Pages…

    def keep_form(self, visit: Visit, route: Route, body: bytes) -> None:
        """Keep a browser's form for a page of ours, unless another site may have sent it."""
        client, public = visit.client, self._config.server.public_url
        own = [f"{client.scheme}://{client.host}", *([public] if public else [])]
        site, origin = visit.all("Sec-Fetch-Site"), visit.all("Origin")
        if browser.is_from_another_site(site, origin, visit.all("Referer"), own):
            visit.is_other_site = visit.log["other_site"] = True
            if site == ["same-origin"] and not self._has_warned_of_host:
                self._has_warned_of_host = True
                structlog.get_logger().warning(
                    "own_form_refused",
                    host=client.host,
                    origin=", ".join(origin)[:253],
                    advice="if origin is your site, let your load balancer pass Host on, or set server.public_url",
                )
            return
        with suppress(Refusal, UnicodeDecodeError):  # what cannot be read is refused in a moment, for good
            visit.resume = _resume(visit, route, body)

    def hosted_page(self, visit: Visit, to: str, resume: Resume | None) -> Answer:
        """The page that verifies a recipient, and then sends the form again that it stands in for."""
        rules = [(name, self._config.captcha[name]) for name in self._config.api.captcha]
        page = pages.hosted_page(
            prefix=self._config.api.prefix,
            captchas=[pages.Captcha(name, one.kind, one.widget()) for name, one in rules],
            captcha_always=all(self._config.limits[name].mode != "captcha" for name in self._config.api.limits),
            to=to,
            resume=resume,
            code_length=self._config.code.length,
            brand=self._config.code.brand,
            locale=visit.locale,
            nonce=self._new_id(),
            example=self._config.numbers.example,
        )
        return _of_page(page)

    def sent_page(self, visit: Visit, recipient: Recipient) -> Answer:
        """The page that says that a message is on its way."""
        prefix, brand = self._config.api.prefix, self._config.code.brand
        return _of_page(told.sent_page(recipient.masked, prefix=prefix, brand=brand, locale=visit.locale))

    # Scripts of another origin…

    def allowed_origin(self, origins: Sequence[bytes]) -> str:
        """The one Origin of a request, if its scripts may call us; else ""."""
        origin = origins[0].decode("utf-8", "surrogateescape") if len(origins) == 1 else ""
        return origin if origin in self._origins else ""

    def preflight(self, visit: Visit) -> Answer:
        """The answer to the preflight of a guarded route."""
        headers = visit.header("Access-Control-Request-Headers")
        method = visit.header("Access-Control-Request-Method")
        wanted = headers if _FIELD_NAMES.fullmatch(headers) else "Content-Type"
        return preflight(method if _FIELD_NAMES.fullmatch(method) else "POST", wanted)


def preflight(methods: str, headers: str) -> Answer:
    """The answer to a CORS preflight (Fetch standard): what a script may send."""
    return Answer(
        204,
        (
            ("Access-Control-Allow-Methods", methods),
            ("Access-Control-Allow-Headers", headers),
            ("Access-Control-Max-Age", "600"),
        ),
        b"",
    )


def _of_page(page: Page, fields: Sequence[tuple[str, str]] = ()) -> Answer:
    return Answer(page.status, (("Content-Type", page.content_type), *page.fields, *fields), page.body)


def _resume(visit: Visit, route: Route, body: bytes) -> Resume:
    """What a hosted page would send again: the form's fields, or the JSON."""
    if (route.to or "").startswith("json:"):
        return Resume(visit.method, json=body.decode())
    return Resume(visit.method, intake.form_pairs(visit.target, visit.raw, body))


def _without_code(resume: Resume, route: Route) -> Resume:
    """Empty the field of a code that is of no use: it would go before the proof that the page hands back."""
    name = (route.code or "").partition(":")[2]
    return replace(resume, fields=tuple((key, "" if key == name else value) for key, value in resume.fields))


def _mend(visit: Visit, route: Route, refusal: Refusal) -> told.Mend | None:
    """What the person can send again: the form with one field to correct, or as it was; None where no form can."""
    resume = visit.resume
    if resume is None or resume.json is not None or resume.method not in {"GET", "POST"}:
        return None
    is_to = refusal.code in _WRONG_RECIPIENT or refusal.reason == "no_recipient"
    if not is_to and refusal.code != "code_mismatch":
        return told.Mend(resume) if refusal.code in _PASSING else None
    place, _, name = ((route.to if is_to else route.code) or "").partition(":")
    if place != ("form" if resume.method == "POST" else "query"):
        return None
    return told.Mend(resume, name, "to" if is_to else "code", visit.typed, route.channel)
