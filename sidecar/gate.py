"""The story of a request, from arrival to upstream.

`handle` names the client and asks which route this is. A plain request is forwarded, nothing else read. A guarded one
becomes an `Asked` and walks through `guard`, `send` or `verify`, top to bottom, stopping at the first `Refusal`; the
sidecar's own API makes the same `Asked` and calls the same `send`.

Invariant: what may pass is listed here. Every step answers with a value or raises; nothing but the last line of a
story reaches upstream, and a refusal is rendered, logged and counted in one place, `told`.
"""

import asyncio
import functools
import json
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar

import structlog
from aiohttp import web
from multidict import CIMultiDict

from sidecar import identity, intake, language, problem
from sidecar.assent import Assent
from sidecar.captcha.seam import Verifier
from sidecar.config.model import Config, Limit, Route
from sidecar.config.units import Rate
from sidecar.delivery.outbox import Entry, Outbox
from sidecar.errors import Refusal, StoreError
from sidecar.identity import Bound, Signer
from sidecar.intake import Ask
from sidecar.limits.buckets import Bucket, Buckets, Ruling, client_key, rate_limit_fields
from sidecar.metrics import Metrics
from sidecar.pages import browser, pages, told
from sidecar.pages.pages import Page, Resume
from sidecar.problem import Answer
from sidecar.proxy import client as proxy_client
from sidecar.proxy import fields as proxy_fields
from sidecar.proxy.client import Client
from sidecar.proxy.forward import Forwarder, asked, continue_100
from sidecar.recipient import Recipient
from sidecar.recipient import parse as parse_recipient
from sidecar.routes import Routes
from sidecar.secret import Secret
from sidecar.spelling import values
from sidecar.store.client import ReplyError
from sidecar.store.names import Names
from sidecar.verification import codes
from sidecar.verification.idempotency import MAX_KEY, Idempotency
from sidecar.verification.states import Status
from sidecar.verification.verifications import Hold, Issued, Proof, Record, Verifications

_T = TypeVar("_T")
# Limits on who asks, decided before the captcha; all others are on what is asked, decided after it.
_WHO: Final = ("ip", "header:")  # ip, ip_prefix, header:NAME
# How many askers' wrong codes a whole site may show: IPv4's /24, IPv6's /48.
_ASKERS_OF_A_SITE: Final = 10
# The actions whose stories change something.
_FINISHED: Final = frozenset({"send", "verify"})
# A guarded body is small; a client that takes longer than this over it is not a sign-up form.
_BODY_S: Final = 20.0
# What the hosted page can mend: a browser without a proof, or with one that is no longer good.
_PAGE_CODES: Final = frozenset({"code_required", "code_expired", "too_many_attempts"})
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
# Verdicts that are the token's fault.
_WRONG_TOKEN: Final = frozenset({"reject", "spent", "policy"})
# How often a held answer looks whether its message has moved: at first, when most do, and later.
_LOOK_S: Final = 0.05
_MAX_LOOK_S: Final = 0.5
# How soon a settlement that the store did not take is tried again: at first, and at the latest; doubled in between.
_SETTLE_AGAIN_S: Final = 0.5
_MAX_SETTLE_AGAIN_S: Final = 15.0
# What is wrong with a recipient that no provider sends to, by the reason that the verification failed for.
_UNREACHABLE: Final[Mapping[str, str]] = {
    "recipient_invalid": "The message cannot be delivered: there is no such recipient. Check it for a mistake.",
    "recipient_unsupported": "Messages cannot be sent to recipients of this kind.",
    "recipient_blocked": "This recipient takes no messages from us: they were stopped by a reply, or are blocked.",
}
# Vendors that have sent a number too much seldom say when they will send to it again; the shortest of their limits is
# one message a minute.
_VENDOR_LIMIT_S: Final = 60.0
# Why a body is read that no route asks for, and what lets a larger one through.
_IN_METHOD: Final = (
    " This path is guarded for another method, which a form may name; where upstream takes none from a form, write"
    " method_override = false in [upstream]."
)
_IN_PATH: Final = (
    " A form may name another path here, which is guarded; where forms are larger, raise max_guarded_body in [server]."
)
TOKEN_FIELD: Final = "X-Verification-Token"  # noqa: S105 - a field's name
TOKEN_COOKIE: Final = "sidecar-verification"  # noqa: S105 - a cookie's name; the hosted page sets it


@dataclass(slots=True)
class Visit:
    """One request on its way through: who asks, and what the log will say of it."""

    request: web.BaseRequest
    client: Client
    request_id: str
    started: float
    log: dict[str, Any] = field(default_factory=dict)
    status: int | None = None  # upstream's, once it is known
    resume: Resume | None = None  # what a hosted page would send again
    typed: str = ""  # the recipient as the request has it, for that page
    is_other_site: bool = False  # another site sent the form: no page holds it
    wish: str = ""  # the language where the route says that it stands

    @property
    def raw(self) -> Sequence[tuple[bytes, bytes]]:
        return self.request.raw_headers

    def header(self, name: str) -> str:
        """Return the first value of a field, in whatever spelling; "" for none."""
        return next((value.decode("utf-8", "surrogateescape") for value in values(self.raw, name)), "")

    @property
    def locale(self) -> str:
        """The languages that the client takes, as `language.read` makes them."""
        return language.read(self.wish, ",".join(self.request.headers.getall("Accept-Language", ())))

    def all(self, name: str) -> list[str]:
        """Return all values of a field, in whatever spelling."""
        return [value.decode("utf-8", "surrogateescape") for value in values(self.raw, name)]

    @property
    def wants_page(self) -> bool:
        """True when the client is a browser that would show a page."""
        return browser.wants_page(self.all("Accept"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, parsed once: by `intake` for a route, by `api` for the sidecar's own endpoint."""

    recipient: Recipient
    captcha_token: str | None = None
    code: str | None = None
    locale: str = ""  # as `language.read` makes it
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a `send` came to: the message is queued."""

    id: str
    recipient: Recipient
    expires_in_s: int
    resend_in_s: int
    status: Status = "queued"

    def document(self) -> dict[str, Any]:
        """The JSON of contract section 4."""
        return {
            "id": self.id,
            "to": self.recipient.masked,
            "channel": self.recipient.channel,
            "status": self.status,
            "expires_in": self.expires_in_s,
            "resend_in": self.resend_in_s,
        }


@dataclass(frozen=True, slots=True)
class Admitted:
    """What it took to be let in: the tickets of what was spent, and the seconds until another would be allowed."""

    solved: bool
    tickets: tuple[str, ...] = ()
    again_in_s: int = 0


@dataclass(slots=True)
class Once:
    """What an Idempotency-Key led to before; its claim while this request runs, "" for none."""

    answer: dict[str, Any] | None = None
    claim: str = ""


class Gate:
    """The gate of one configuration. Built by `app`, which hands in every room."""

    def __init__(
        self,
        *,
        config: Config,
        routes: Routes,
        forwarder: Forwarder,
        buckets: Buckets,
        names: Names,
        captchas: Mapping[str, Verifier],
        verifications: Verifications,
        idempotency: Idempotency,
        outbox: Outbox,
        signer: Signer,
        secret: Secret,
        metrics: Metrics,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._config = config
        self._routes = routes
        self._forwarder = forwarder
        self._buckets = buckets
        self._captchas = captchas
        self._verifications = verifications
        self._idempotency = idempotency
        self._outbox = outbox
        self._signer = signer
        self._names = names
        self._secret = secret
        self._metrics = metrics
        self._now = now
        self._new_id = new_id
        self._has_warned_of_host = False
        self._identity_field = config.identity.header
        self._begun: set[asyncio.Task[Any]] = set()  # the loop itself keeps none
        self._stories: Mapping[str, Callable[[Visit, Route, bytes | None], Awaitable[web.StreamResponse]]] = {
            "deny": self._deny,
            "guard": self._guard,
            "send": self._send_route,
            "verify": self._verify,
        }

    # The arrival…

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take one request of the public listener."""
        visit = self.visit(request)
        if preflighted := self._preflighted(visit):
            return await self.told(visit, preflighted, "preflight", self._preflight(visit))
        found = self._routes.find(request.method, request.raw_path, visit.raw)
        if not found.needs_body_for_override:
            return await self._walked(visit, found.route, None)
        # A form may name another method inside, or another path: it is read before anything is decided.
        try:
            body = await self.read_body(visit, _IN_PATH if found.may_name_path else _IN_METHOD)
        except Refusal as refusal:
            return await self.refused(visit, "override", refusal)
        found = self._routes.with_body_override(found, body, b", ".join(values(visit.raw, "Content-Type")))
        return await self._walked(visit, found.route, body)

    async def _walked(self, visit: Visit, route: Route | None, body: bytes | None) -> web.StreamResponse:
        if route is None or route.action == "pass":
            return await self.told(visit, route, "pass", self._pass(visit, body))
        told = self.told(visit, route, route.action, self._stories[route.action](visit, route, body))
        return await (self.finished(told) if route.action in _FINISHED else told)

    def visit(self, request: web.BaseRequest) -> Visit:
        """Name the client and the request."""
        peer = request.protocol.peername
        client = proxy_client.name(
            peer[0] if isinstance(peer, tuple) else "",
            asked(request).fields.raw,
            self._config.server.trusted_proxies,
            "https" if request.protocol.ssl_context else "http",
        )
        request_id = proxy_fields.request_id(asked(request).fields) or self._new_id()
        return Visit(request, client, request_id, time.perf_counter())

    async def told(
        self, visit: Visit, route: Route | None, action: str, story: Awaitable[web.StreamResponse]
    ) -> web.StreamResponse:
        """Run a story to its answer; whatever it refuses is rendered, logged and counted here.

        A story whose client leaves is told, too: as forwarded where upstream has answered, else as "left".
        """
        try:
            answer = await story
            visit.status = answer.status
            outcome = visit.log.pop("outcome", "forwarded")
        except (asyncio.CancelledError, ConnectionError):
            visit.log.pop("outcome", None)
            self._tell(visit, route, action, "forwarded" if visit.status else "left")
            raise
        except (Refusal, StoreError) as error:
            refusal = _as_refusal(error)
            visit.log.pop("outcome", None)
            outcome = "refused"
            self._metrics.refusals.labels(refusal.code).inc()
            visit.log |= {"code": refusal.code, "reason": refusal.reason}
            answer = await self._refused(visit, route, refusal)
            visit.status = answer.status
        except Exception:
            visit.log.pop("outcome", None)
            visit.status = 500
            self._tell(visit, route, action, "failed")
            raise
        self._tell(visit, route, action, outcome)
        return answer

    def _tell(self, visit: Visit, route: Route | None, action: str, outcome: str) -> None:
        """Log and count a request that has ended."""
        self._metrics.requests.labels(action, outcome).inc()
        if self._config.server.access_log == "all" or (
            self._config.server.access_log == "guarded" and action != "pass"
        ):
            structlog.get_logger().info(
                "request",
                request_id=visit.request_id,
                client=visit.client.ip,
                method=visit.request.method,
                route=route.match if route else None,
                action=action,
                outcome=outcome,
                status=visit.status,
                ms=round((time.perf_counter() - visit.started) * 1000, 1),
                **visit.log,
            )

    async def refused(self, visit: Visit, action: str, refusal: Refusal) -> web.StreamResponse:
        """Tell a refusal that came before any route's story."""

        async def story() -> web.StreamResponse:
            raise refusal

        return await self.told(visit, None, action, story())

    # The stories…

    async def _pass(self, visit: Visit, body: bytes | None) -> web.StreamResponse:
        """Forward what was read to see whether it passes; all else that does was relayed before it came here."""
        return await self._forward(visit, await self.read_body(visit) if body is None else body)

    async def _deny(self, _visit: Visit, _route: Route, _body: bytes | None) -> web.StreamResponse:
        raise Refusal("route_denied", "deny", "This route is closed.")

    async def _guard(self, visit: Visit, route: Route, body: bytes | None) -> web.StreamResponse:
        """Captcha and limits, then upstream, with a JWT that says only that."""
        body = await self.read_body(visit) if body is None else body
        proven: dict[str, Any] | None = None
        with self._observing(visit, route):
            ask = self._read(visit, route, body)
            admitted = await self._admit(visit, route, None, ask.captcha_token)
            if admitted.solved:
                proven = identity.of_captcha()
        return await self._forward(visit, body, proven)

    async def _send_route(self, visit: Visit, route: Route, body: bytes | None) -> web.StreamResponse:
        """Read what is asked of a `send` route, send, and answer in the route's own shape."""
        body = await self.read_body(visit) if body is None else body
        ask = self._read(visit, route, body)
        asked = Asked(
            recipient=self.recipient(ask.to, route.channel, ask.country),
            captcha_token=ask.captcha_token,
            locale=visit.locale,
            idempotency_key=visit.header("Idempotency-Key"),
        )
        sent = await self.send(visit, route, asked)
        if route.wait:
            sent = replace(sent, status=await self._wait_for_provider(sent.id, route.wait))
        location = ("Location", f"{self._config.api.prefix}/v1/verifications/{sent.id}")
        if route.reply is not None:
            return await self.answer(visit, problem.shaped(route.reply, [location]))
        if visit.wants_page:
            prefix = self._config.api.prefix
            page = told.sent_page(
                sent.recipient.masked, prefix=prefix, brand=self._config.code.brand, locale=visit.locale
            )
            return await self.answer(visit, _of_page(page, [location]))
        return await self.answer(visit, problem.json_answer(202, sent.document(), [location]))

    async def send(self, visit: Visit, route: Route, asked: Asked) -> Sent:
        """Admit, make a verification, queue its message."""
        recipient = asked.recipient
        visit.log["to"] = recipient.masked
        async with self._once(route, asked) as once:
            if once.answer is not None:
                visit.log["outcome"] = "repeated"
                return Sent(recipient=recipient, **once.answer)
            admitted = await self._admit(visit, route, recipient, asked.captcha_token)
            issued: Issued | None = None
            try:
                issued = await self._verifications.issue(recipient, admitted.again_in_s)
                sent = Sent(issued.id, recipient, int(issued.expires_in_s), admitted.again_in_s)
                await self._queue(visit, asked, issued, admitted.tickets, self._answered(once, sent))
            except (Refusal, ReplyError):
                # Surely not queued. When the store does not answer it may have been, and what was spent stays spent.
                with suppress(StoreError):
                    if issued is not None:
                        await self._verifications.withdraw(issued)
                    await self._buckets.refund(admitted.tickets)
                raise
        self._metrics.verifications.labels("started" if issued.fresh else "resent").inc()
        visit.log |= {"outcome": "queued", "verification": sent.id}
        return sent

    async def _verify(self, visit: Visit, route: Route, body: bytes | None) -> web.StreamResponse:
        """Hold the proof, sign, forward; a yes of upstream spends the proof, everything else releases it."""
        body = await self.read_body(visit) if body is None else body
        async with AsyncExitStack() as stack:
            hold: Hold | None = None
            proven: dict[str, Any] | None = None
            with self._observing(visit, route):
                if route.browser and visit.wants_page:
                    self._keep_form(visit, route, body)
                ask = self._read(visit, route, body)
                visit.typed = ask.to or ""
                recipient = self.recipient(ask.to, route.channel, ask.country)
                if ask.country:
                    visit.typed = recipient.address  # the page that asks the API has no country beside it
                visit.log["to"] = recipient.masked
                proof = _proof(visit, ask.code)
                await self._admit(visit, route, recipient, ask.captcha_token)
                hold = await stack.enter_async_context(self.held(visit, recipient, proof))
                proven = identity.of_recipient(recipient, hold.id)
                visit.log["verification"] = hold.id

            assent = self._assent(route) if hold is not None else None

            async def settle(status: int) -> None:
                if hold is None:
                    return
                if assent is None:
                    is_yes = status < 400  # also the 101 that opens a WebSocket
                else:
                    is_yes = assent.is_yes
                    if 200 <= status < 400:
                        visit.log["assent"] = assent.why
                try:
                    await (hold.spend() if is_yes else hold.release())
                except StoreError:
                    # Upstream has acted on it, so its answer must reach the client now; the store hears of it later.
                    structlog.get_logger().error("settle_failed", verification=hold.id, request_id=visit.request_id)
                    self._begin(_settle_later(hold, spend=is_yes))
                else:
                    self._metrics.verifications.labels("verified" if is_yes else "released").inc()

            return await self._forward(visit, body, proven, settle, assent)

    def _assent(self, route: Route) -> Assent | None:
        """What hears whether upstream's answer says yes, where the route asks for more than its status."""
        if route.spend_when is None:
            return None
        return Assent(route.spend_when.members, self._config.server.max_guarded_body)

    def held(self, visit: Visit, recipient: Recipient, proof: Proof) -> AbstractAsyncContextManager[Hold]:
        """Hold a recipient's proof, its wrong tries counted as everywhere. Raises as `Verifications.held`."""
        return self._verifications.held(recipient, proof, functools.partial(self._counted, visit))

    def held_by_id(self, visit: Visit, verification_id: str, shown: str | int) -> AbstractAsyncContextManager[Hold]:
        """Hold the proof that the API checks, its wrong tries counted as everywhere. Raises as `Verifications.held`."""
        return self._verifications.held_by_id(verification_id, shown, functools.partial(self._counted, visit))

    async def finished(self, story: Coroutine[Any, Any, _T]) -> _T:
        """Run to its end a story that changes something, also when its client leaves meanwhile.

        Or a client that left after the queueing would have a message for nothing and in no log, and one that left
        before upstream's answer would have its code again, and upstream the account.
        """
        return await asyncio.shield(self._begin(story))

    def _begin(self, story: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.create_task(story)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        task.add_done_callback(_heard)
        return task

    async def drain(self, timeout_s: float) -> None:
        """Wait for what clients began and did not wait for, at most `timeout_s` seconds."""
        if self._begun:
            await asyncio.wait(self._begun, timeout=timeout_s)

    # Being admitted…

    async def _admit(
        self, visit: Visit, route: Route, recipient: Recipient | None, captcha_token: str | None
    ) -> "Admitted":
        """Limits on who asks, captcha, limits on what is asked and the number policy, in this order.

        Nothing is spent before everything is allowed: the last step decides all buckets together.
        """
        buckets = self._buckets_of(visit, route, recipient)
        with self._observing(visit, route):
            if route.captcha and not captcha_token:
                raise Refusal("captcha_required", "no_token", "Solve the captcha and send its token along.")
        with self._observing(visit, route):
            await self._within(visit, [bucket for bucket, who in buckets if who], spend=False)
        solved = False
        with self._observing(visit, route):
            solved = await self._captcha(visit, route, captcha_token)
        with self._observing(visit, route):
            self._number_policy(recipient)
        with self._observing(visit, route):
            ruling = await self._within(visit, [bucket for bucket, _ in buckets], spend=True)
            return Admitted(solved, ruling.tickets, math.ceil(ruling.again_in_s))
        return Admitted(solved)

    def _buckets_of(self, visit: Visit, route: Route, recipient: Recipient | None) -> list[tuple[Bucket, bool]]:
        """The buckets that a route names for this request, each with whether it is on who asks."""
        # A test number's sends cost nothing, so nothing that is asked is limited; who asks is, and so are guesses.
        is_free = route.action == "send" and recipient is not None and self._is_test(recipient)
        named = []
        for name in route.limits:
            limit = self._config.limits[name]
            hashed = self._secret.hash(self._key_value(limit.key, visit, route, recipient))
            who = limit.key.startswith(_WHO)
            if is_free and not who:
                continue
            named.append((Bucket.of(name, limit, hashed, self._names, enforce=route.mode == "enforce"), who))
        return named

    def _key_value(self, key: str, visit: Visit, route: Route, recipient: Recipient | None) -> str:
        """What a limit's key is for this request. A bucket of nothing ("") is one that all such requests share."""
        match key:
            case "ip" | "ip_prefix":
                return client_key(key, visit.client.ip)
            case "to":
                return recipient.identity if recipient else ""
            case "to_prefix":
                return recipient.prefix if recipient else ""
            case "country":
                return recipient.country if recipient else ""
            case "route":
                return route.match
            case "global":
                return ""
            case _:
                name = key.removeprefix("header:")
                # One of several would be the client's choice of a bucket, and upstream may go by another one.
                return visit.header(name) if len(values(visit.raw, name)) == 1 else ""

    async def _within(self, visit: Visit, buckets: Sequence[Bucket], *, spend: bool) -> Ruling:
        """Ask the buckets, all together. Raises Refusal(rate_limited)."""
        ruling = await (self._buckets.spend(buckets) if spend else self._buckets.peek(buckets))
        if ruling.observed and spend:
            self._metrics.observed.labels("rate_limited").inc()
            visit.log["observed_limits"] = list(ruling.observed)
        if not ruling.allowed:
            raise Refusal(
                "rate_limited",
                f"limit {ruling.refused[0].name}",
                "Wait before trying again.",
                retry_after_s=ruling.retry_after_s,
                limits=ruling.refused,
            )
        return ruling

    @asynccontextmanager
    async def _counted(self, visit: Visit, recipient: Recipient, is_right: bool) -> AsyncIterator[None]:
        """Around the judgement of a code: count a wrong one, whatever limits the route names.

        Counted beforehand, so that a hundred at once are not more than one after another; a right one costs nothing,
        and neither does one that was not judged after all (another request holds the code, or it is dead).
        Raises Refusal(too_many_attempts), for right and wrong codes alike.
        """
        buckets = self._guess_buckets(visit, recipient)
        ruling = await (self._buckets.peek(buckets) if is_right else self._buckets.spend(buckets))
        if not ruling.allowed:
            first = ruling.refused[0]
            raise Refusal(
                "too_many_attempts",
                first.name,
                "Too many wrong codes. Wait before trying again.",
                retry_after_s=ruling.retry_after_s,
                limits=(first,),
            )
        try:
            yield
        except Refusal as refusal:
            if refusal.code != "code_mismatch":
                # Nobody waits for it: how long an answer takes must not tell wrong codes from right ones.
                self._begin(self._buckets.refund(ruling.tickets))
            raise

    def _guess_buckets(self, visit: Visit, recipient: Recipient) -> list[Bucket]:
        """Wrong codes: of one recipient, by one asker, and by one site, which has many addresses (IPv6 gives 65,536).

        Under the hash of each accepted secret, or a rotation would begin all budgets anew.
        """
        rules = self._config.code
        per_site = Rate(_ASKERS_OF_A_SITE * rules.failures_per_ip.count, rules.failures_per_ip.period_s)
        budgets = (
            ("code.failures", rules.failures, recipient.identity),
            ("code.failures_per_ip", rules.failures_per_ip, client_key("ip", visit.client.ip)),
            ("code.failures_per_site", per_site, client_key("ip_prefix", visit.client.ip)),
        )
        return [
            Bucket.of(name, Limit(key="ip", rate=rate), hashed, self._names)
            for name, rate, value in budgets
            for hashed in self._secret.hashes(value)
        ]

    def _is_test(self, recipient: Recipient) -> bool:
        return recipient.identity in self._config.numbers.test

    async def _captcha(self, visit: Visit, route: Route, token: str | None) -> bool:
        """Ask the route's verifier. Says whether a person was really proven: not so where `on_failure` lets in."""
        if not route.captcha or not token:
            return False
        rules = self._config.captcha[route.captcha]
        wrong = Bucket.of(
            f"captcha.{route.captcha}",
            Limit(key="ip", rate=rules.failures),
            self._secret.hash(client_key("ip", visit.client.ip)),
            self._names,
            enforce=True,
        )
        # Counted beforehand, so that a hundred wrong ones at once are not more than one after another.
        ruling = await self._within(visit, [wrong], spend=True)
        verdict = await self._captchas[route.captcha].verify(token, visit.client.ip)
        if verdict.outcome not in _WRONG_TOKEN:
            with suppress(StoreError):
                await self._buckets.refund(ruling.tickets)
        match verdict.outcome:
            case "pass":
                return True
            case outcome if outcome in _WRONG_TOKEN:
                raise Refusal("captcha_failed", f"{verdict.outcome}: {verdict.reason}", "Solve a new captcha.")
            case _:
                structlog.get_logger().error(
                    "captcha_broken", captcha=route.captcha, outcome=verdict.outcome, reason=verdict.reason
                )
                if verdict.outcome == "provider_error" and rules.on_failure == "allow":
                    return False
                raise Refusal("captcha_unavailable", verdict.reason, "Try again in a moment.", retry_after_s=5)

    def _number_policy(self, recipient: Recipient | None) -> None:
        """`numbers.countries` and `numbers.block_types`. Raises Refusal(recipient_not_allowed)."""
        rules = self._config.numbers
        if recipient is None or recipient.channel != "sms" or self._is_test(recipient):
            return
        if rules.countries and recipient.country not in rules.countries:
            raise Refusal("recipient_not_allowed", "country", "Numbers of this country are not served.")
        if recipient.number_type in rules.block_types:
            raise Refusal("recipient_not_allowed", "number_type", "Numbers of this type are not served.")

    def recipient(
        self, text: str | None, channel: Literal["sms", "email", "auto"], country: str | None = None
    ) -> Recipient:
        """Parse a recipient by the configuration's rules. Raises Refusal(invalid_recipient)."""
        rules = self._config.numbers
        return parse_recipient(
            text or "",
            channel,
            rules.default_country,
            country=country,
            known=rules.test,
            extra=rules.extra,
            example=rules.example,
        )

    @contextmanager
    def _observing(self, visit: Visit, route: Route) -> Iterator[None]:
        """On a route that observes, a refusal inside is logged and counted, and the story goes on after it."""
        try:
            yield
        except (Refusal, StoreError) as error:
            if route.mode != "observe":
                raise
            refusal = _as_refusal(error)
            self._metrics.observed.labels(refusal.code).inc()
            visit.log.setdefault("observed", []).append({"code": refusal.code, "reason": refusal.reason})

    # Queueing the message…

    @asynccontextmanager
    async def _once(self, route: Route, asked: Asked) -> AsyncIterator["Once"]:
        """One story per Idempotency-Key: `answer` is what the first one came to."""
        if not asked.idempotency_key:
            yield Once()
            return
        if len(asked.idempotency_key) > MAX_KEY:
            raise Refusal("malformed_request", "idempotency_key", f"Idempotency-Key: {MAX_KEY} characters at most.")
        key = self._idempotency.key(route.match, asked.recipient.identity, asked.idempotency_key)
        before = await self._idempotency.claim(key)
        if before is not None:
            yield Once(json.loads(before))
            return
        try:
            yield Once(claim=key)
        finally:
            with suppress(StoreError):
                await self._idempotency.forget(key)

    def _answered(self, once: Once, sent: Sent) -> tuple[str, bytes, int] | None:
        """What is kept of an answer for the repeats of its request; None where these name no key."""
        if not once.claim:
            return None
        answer = {"id": sent.id, "expires_in_s": sent.expires_in_s, "resend_in_s": sent.resend_in_s}
        return self._idempotency.kept(once.claim, json.dumps(answer).encode())

    async def _queue(
        self,
        visit: Visit,
        asked: Asked,
        issued: Issued,
        tickets: tuple[str, ...],
        answered: tuple[str, bytes, int] | None,
    ) -> None:
        """Put the message where nothing is lost, and its answer with it; a test number gets none."""
        if self._is_test(asked.recipient):
            await self._verifications.mark(issued.id, "sent")
            if answered:
                await self._idempotency.keep(*answered)
            return
        await self._outbox.put(
            Entry(
                verification_id=issued.id,
                sealed=self._secret.seal(asked.recipient.address),
                locale=asked.locale,
                tickets=tickets,
                expires_at=self._now() + issued.expires_in_s,
                request_id=visit.request_id,
            ),
            answered,
        )

    async def _wait_for_provider(self, verification_id: str, wait_s: float) -> Status:
        """Hold the answer until a provider accepted, or may have; what is still being tried then stays queued.

        Raises Refusal(recipient_unreachable, rate_limited, delivery_failed) when all refused.
        """
        record = await self.wait_for_change(verification_id, "queued", wait_s)
        if record is None:
            return "queued"  # the record is gone, so nobody can say more than the 202 says
        if record.status == "failed":
            raise _not_delivered(record.reason)
        return record.status

    async def wait_for_change(self, verification_id: str, status: str, wait_s: float) -> Record | None:
        """Read a verification once its status is no longer `status`, or the wait is over."""
        until = time.monotonic() + wait_s
        pause_s = _LOOK_S
        while True:
            record = await self._verifications.read(verification_id)
            if record is None or record.status != status or time.monotonic() >= until:
                return record
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _MAX_LOOK_S)

    # Reading, forwarding, answering…

    async def read_body(self, visit: Visit, why: str = "") -> bytes:
        """Read a guarded request's body whole; `why` is one more sentence for who sends a larger one.

        Raises Refusal(body_too_large, malformed_request).
        """
        most = self._config.server.max_guarded_body
        too_large = Refusal("body_too_large", "guarded_body", f"At most {most} bytes are read here.{why}")
        if (asked(visit.request).fields.length or 0) > most:
            raise too_large
        await continue_100(visit.request)
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                while chunk := await visit.request.content.readany():
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise Refusal("malformed_request", "body_too_slow", f"The body must arrive within {_BODY_S:g} s.") from None
        return bytes(body)

    def _read(self, visit: Visit, route: Route, body: bytes) -> Ask:
        """Read what is asked. Raises Refusal(malformed_request, captcha_required)."""
        request = intake.Request(visit.request.raw_path, visit.raw, body)
        visit.wish = intake.wish(route, request)
        return intake.read(route, request)

    async def _forward(
        self,
        visit: Visit,
        body: bytes,
        proven: Mapping[str, Any] | None = None,
        on_status: Callable[[int], Awaitable[None]] | None = None,
        listener: Assent | None = None,
    ) -> web.StreamResponse:
        """Hand the request to upstream: the only line that does."""

        async def heard(status: int) -> None:
            visit.status = status
            if on_status is not None:
                await on_status(status)

        extra: list[tuple[bytes, bytes]] = []
        if proven is not None:
            path = asked(visit.request).origin.partition(b"?")[0].decode("utf-8", "surrogateescape")
            bound = Bound(visit.request.method, path, body)
            extra.append((self._identity_field.encode(), self._signer.sign(proven, bound).encode()))
        return await self._forwarder.forward(
            visit.request,
            client=visit.client,
            request_id=visit.request_id,
            body=body,
            extra=extra,
            on_status=heard,
            listener=listener,
        )

    async def _refused(self, visit: Visit, route: Route | None, refusal: Refusal) -> web.StreamResponse:
        """A refusal's face: the route's own shape, a page for a browser, or a problem document."""
        own = route.errors.get(refusal.code) if route else None
        fields = problem.refusal_fields(refusal, rate_limit_fields(refusal.limits))
        if own is not None:
            answer = problem.shaped(own, fields)
        elif visit.wants_page:
            answer = self._refusal_page(visit, route, refusal, fields)
        else:
            answer = problem.document(refusal, visit.request_id, fields)
        # What was not read of the body would be taken for the next request's head.
        return await self.answer(visit, answer, close=not visit.request.content.is_eof())

    def _refusal_page(
        self, visit: Visit, route: Route | None, refusal: Refusal, fields: Sequence[tuple[str, str]]
    ) -> Answer:
        """The page of a refusal: the one that verifies where that mends it, else one that says what is wrong."""
        is_dead = refusal.code in _PAGE_CODES or refusal.extra.get("attempts_left") == 0
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
            may_go_back=visit.request.method == "POST",
        )
        return _of_page(page, () if is_other_site else fields)

    def _keep_form(self, visit: Visit, route: Route, body: bytes) -> None:
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
        captcha = None
        if self._config.api.captcha:
            rules = self._config.captcha[self._config.api.captcha]
            keys = (getattr(rules, "site_key", ""), getattr(rules, "action", ""))
            captcha = pages.Captcha(self._config.api.captcha, rules.kind, *keys)
        page = pages.hosted_page(
            prefix=self._config.api.prefix,
            captcha=captcha,
            to=to,
            resume=resume,
            code_length=self._config.code.length,
            brand=self._config.code.brand,
            locale=visit.locale,
            nonce=self._new_id(),
            example=self._config.numbers.example,
        )
        return _of_page(page)

    async def answer(self, visit: Visit, answer: Answer, *, close: bool = False) -> web.StreamResponse:
        """Send an answer of our own, which the scripts of an allowed origin may read."""
        response = web.Response(status=answer.status, body=answer.body, headers=CIMultiDict(answer.fields))
        if self._config.api.cors_origins:
            response.headers.add("Vary", "Origin")
        if origin := self._allowed_origin(visit):
            # Fetch standard, CORS protocol. With credentials, for a route's front end may send its session along.
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
            response.headers["Access-Control-Expose-Headers"] = (
                "Location, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id"
            )
        response.headers["X-Request-Id"] = visit.request_id
        response.headers["Server"] = "signup-sidecar"  # not what it is made of
        if close:
            response.force_close()
        return response

    # Scripts of another origin…

    def _allowed_origin(self, visit: Visit) -> str:
        """The one Origin of a request, if its scripts may call us; else ""."""
        origins = visit.all("Origin")
        return origins[0] if len(origins) == 1 and origins[0] in self._config.api.cors_origins else ""

    def _preflighted(self, visit: Visit) -> Route | None:
        """The guarded route that a CORS preflight of an allowed origin asks about, if it does.

        Upstream may know nothing of that origin, nor of X-Verification-Token; what it answers to the request itself is
        its own.
        """
        method = visit.header("Access-Control-Request-Method")
        if visit.request.method != "OPTIONS" or not method or not self._allowed_origin(visit):
            return None
        route = self._routes.find(method, visit.request.raw_path, visit.raw).route
        return route if route is not None and route.action != "pass" else None

    async def _preflight(self, visit: Visit) -> web.StreamResponse:
        visit.log["outcome"] = "answered"
        headers = visit.header("Access-Control-Request-Headers")
        method = visit.header("Access-Control-Request-Method")
        wanted = headers if _FIELD_NAMES.fullmatch(headers) else "Content-Type"
        return await self.answer(visit, preflight(method if _FIELD_NAMES.fullmatch(method) else "POST", wanted))


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


def _not_delivered(reason: str) -> Refusal:
    """The refusal of a message that failed for `reason`, in the API's words (contract section 4)."""
    if reason == "recipient_limited":
        said = "This recipient has been sent too many messages; wait before asking again."
        return Refusal("rate_limited", reason, said, retry_after_s=_VENDOR_LIMIT_S)
    if reason in _UNREACHABLE:
        return Refusal("recipient_unreachable", reason, _UNREACHABLE[reason])
    return Refusal("delivery_failed", reason, "No provider could send the message; try again in a moment.")


def _resume(visit: Visit, route: Route, body: bytes) -> Resume:
    """What a hosted page would send again: the form's fields, or the JSON."""
    if (route.to or "").startswith("json:"):
        return Resume(visit.request.method, json=body.decode())
    return Resume(visit.request.method, intake.form_pairs(visit.request.raw_path, visit.raw, body))


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


def _proof(visit: Visit, code: str | int | None) -> Proof:
    """What the client shows: a token in its field, the code of the body, or the token in the hosted page's cookie.

    The cookie comes last: it may be an older one, spent since, and a code that was typed is meant.
    """
    token = visit.header(TOKEN_FIELD)
    if not token and code is not None and not codes.is_blank(code):
        return Proof("code", code)
    token = token or _cookie(b";".join(values(visit.raw, "Cookie")).decode("latin-1"))
    if not token:
        raise Refusal("code_required", "no_proof", "Send the code that the recipient was sent.")
    return Proof("token", token)


def _cookie(field: str) -> str:
    for pair in field.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == TOKEN_COOKIE:
            return value
    return ""


def _heard(task: asyncio.Task[Any]) -> None:
    """Take note of an error that nobody waits for any more, or asyncio would report it."""
    if not task.cancelled():
        task.exception()


async def _settle_later(hold: Hold, *, spend: bool) -> None:
    """Settle a hold once the store is back: tried for as long as it keeps others off, and past that it has lapsed."""
    left_s, pause_s = hold.lasts_s, _SETTLE_AGAIN_S
    while left_s > 0:
        pause_s = min(pause_s, left_s)
        await asyncio.sleep(pause_s)
        with suppress(StoreError):
            await (hold.spend() if spend else hold.release(again=True))
            return
        left_s -= pause_s
        pause_s = min(2 * pause_s, _MAX_SETTLE_AGAIN_S)


def _as_refusal(error: Refusal | StoreError) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ReplyError):
        # It answers, and does not do it: strange data, or a server that lacks a command. The store's own log is silent.
        structlog.get_logger().error("store_refused", reason=error.code)
        return Refusal("store_unavailable", f"the store said {error.code}", "Try again later.", retry_after_s=5)
    return Refusal("store_unavailable", str(error), "Try again in a moment.", retry_after_s=1)
