"""The story of a request: what is asked, whether it may, and what goes upstream.

`read` makes an `Ask` of a request, from its head and its content alone. `decide` walks through `guard`, `send` or
`verify`, top to bottom, and comes to an answer or to a `Grant`; the first `Refusal` ends it. Who is let in, `admitting`
says. `carry` takes a grant to upstream, and settles it with what upstream says. The sidecar's own API makes the same
`Ask`, and calls the same `send`.

Invariant: what may pass is listed here. Every step answers with a value or raises, and `carry` is the only line that
hands a request to upstream.
"""

import asyncio
import functools
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from json.encoder import encode_basestring as _text
from typing import Any, Final, Literal

from sidecar import identity, intake, problem
from sidecar.admission import Admission
from sidecar.admitting import Admitted, Admitting, guessed_too_much, limited, no_token
from sidecar.assent import Assent
from sidecar.config.model import Config, Route
from sidecar.delivery.outbox import Answered, Entry
from sidecar.errors import Refusal, StoreAwayError, StoreError
from sidecar.events import SettleFailed, Tell, Verified
from sidecar.faces import Faces
from sidecar.identity import Bound, Signer
from sidecar.limits.buckets import Buckets
from sidecar.problem import Answer
from sidecar.proxy.forward import Forwarder
from sidecar.recipient import Recipient
from sidecar.recipient import parse as parse_recipient
from sidecar.store.client import ReplyError
from sidecar.verification import codes
from sidecar.verification.idempotency import MAX_KEY, Idempotency
from sidecar.verification.states import Status
from sidecar.verification.verifications import Count, Hold, Issued, Proof, Record, Verifications
from sidecar.visit import Visit

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
# Returned, and never raised: an exception that is raised again and again would grow.
_DENIED: Final = Refusal("route_denied", "deny", "This route is closed.")
TOKEN_FIELD: Final = "X-Verification-Token"  # noqa: S105 - a field's name
TOKEN_COOKIE: Final = "sidecar-verification"  # noqa: S105 - a cookie's name; the hosted page sets it


@dataclass(slots=True)  # not frozen: it is made for every request
class Ask:
    """What is asked, parsed once: by `read` for a route, by `api` for the sidecar's own endpoint.

    `recipient` and `proof` are None where the route has none, or hands on what it could not read, as it only observes.
    """

    body: bytes = b""
    recipient: Recipient | None = None
    captcha_token: str | None = None
    proof: Proof | None = None
    locale: str = ""  # as `language.read` makes it
    idempotency_key: str = ""


@dataclass(slots=True)  # not frozen: it is made for every request
class Grant:
    """Leave to go upstream: with which body and which proven identity, and what upstream's answer settles."""

    body: bytes
    proven: str | None = None  # as claims of its JWT
    hold: Hold | None = None
    assent: Assent | None = None  # hears whether upstream says yes, where its status alone does not tell


@dataclass(slots=True)  # as Grant
class Queued:
    """What a `send` came to: a message that is queued. Times in seconds from now."""

    id: str
    recipient: Recipient
    expires_in_s: int
    resend_in_s: int
    status: Status = "queued"

    def answer(self) -> Answer:
        """The JSON of contract section 4: as text, which takes a fifth of the time of a dict."""
        recipient = self.recipient
        return problem.written(
            202,
            f'{{"id":{_text(self.id)},"to":{_text(recipient.masked)},"channel":"{recipient.channel}"'
            f',"status":"{self.status}","expires_in":{self.expires_in_s},"resend_in":{self.resend_in_s}}}',
        )


class Gate:
    """The gate of one configuration. Built by `app`, which hands in every room."""

    def __init__(
        self,
        *,
        config: Config,
        admission: Admission,
        faces: Faces,
        forwarder: Forwarder,
        buckets: Buckets,
        admitting: Admitting,
        verifications: Verifications,
        idempotency: Idempotency,
        put: Callable[[Entry, Recipient, Answered | None], Awaitable[None]],
        signer: Signer,
        tell: Tell,
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._admission = admission
        self._faces = faces
        self._forwarder = forwarder
        self._buckets = buckets
        self._admitting = admitting
        self._verifications = verifications
        self._idempotency = idempotency
        self._put = put
        self._signer = signer
        self._tell = tell
        self._now = now
        rules = config.numbers
        self._parse = partial(
            parse_recipient,
            default_country=rules.default_country,
            known=rules.test,
            extra=rules.extra,
            example=rules.example,
        )
        self._identity_field = config.identity.header.encode()
        self._begun: set[asyncio.Task[Any]] = set()  # the loop itself keeps none

    # What is asked…

    def refused_at_once(self, visit: Visit, body: bytes) -> Refusal | None:
        """Say what forbids a visit at a glance, without reading what it asks: most of a flood ends here."""
        route = visit.route
        if route is None or route.mode != "enforce":
            return None
        if route.action == "deny":
            return _DENIED
        if route.action != "pass" and (blocked := self._admission.blocked_at_once(visit)) is not None:
            return blocked
        if _has_form_in_page(visit, route):
            return None
        lacks_token = bool(route.captcha) and intake.surely_lacks(route.captcha_token, body)
        if lacks_token and not self._admission.steps_up(route):
            return _no_token_at_once(self._admitting.offered(route))
        known = self._known_to_be_full(visit, route)
        if known is None and lacks_token and self._surely_demands(visit, route):
            return _no_token_at_once(self._admitting.offered(route))
        return known

    def _surely_demands(self, visit: Visit, route: Route) -> bool:
        """Say whether a limit demands the captcha of a route that steps up, as far as is known without the store."""
        demanded = self._buckets.demanding(self._admission.demanding(visit, route))
        if not demanded or (route.action == "send" and visit.header("Idempotency-Key")):
            return False  # what is asked again under its key has its answer already
        visit.log["captcha_demanded_by"] = list(demanded)
        return True

    def blocked_at_once(self, visit: Visit) -> Refusal | None:
        """Say which list forbids a visit whatever it asks for."""
        return self._admission.blocked_at_once(visit)

    def _known_to_be_full(self, visit: Visit, route: Route) -> Refusal | None:
        """Say which limit on who asks forbids a visit, as far as that is known without the store."""
        if not self._buckets.has_full:
            return None
        if route.limits and (ruling := self._buckets.full(self._admission.who(visit, route))) is not None:
            # What is asked again under its key costs nothing, and has its answer already.
            return None if route.action == "send" and visit.header("Idempotency-Key") else limited(ruling)
        if route.action == "verify":
            ruling = self._buckets.full(self._admission.of_wrong_codes(visit, None))
            return guessed_too_much(ruling) if ruling is not None and not _token(visit) else None
        return None

    def read(self, visit: Visit, body: bytes) -> Ask:
        """Read what a visit asks for. Raises Refusal for what the head and the body alone forbid."""
        route = visit.route
        if route is None or route.action == "pass":
            return Ask(body)
        if route.action == "verify" and route.browser and visit.wants_page:
            self._faces.keep_form(visit, route, body)
        try:
            ask = self._read(visit, route, body)
        except Refusal as refusal:
            if route.action == "send":
                raise  # observed or not: there is nobody to send to
            self._admitting.observe(visit, route, refusal)
            return Ask(body)
        if (
            route.mode == "enforce"
            and _has_form_in_page(visit, route)
            and (known := self._known_to_be_full(visit, route)) is not None
        ):
            raise known
        return ask

    def _read(self, visit: Visit, route: Route, body: bytes) -> Ask:
        request = intake.Request(visit.request.target, visit.raw, body)
        visit.wish = intake.wish(route, request)
        selected = intake.read(route, request)
        if (
            route.captcha
            and selected.captcha_token is None
            and route.mode == "enforce"
            and not self._admission.steps_up(route)
        ):
            raise no_token(self._admitting.offered(route))
        if route.action == "guard":
            return Ask(body, captcha_token=selected.captcha_token)
        visit.typed = selected.to or ""
        recipient = self.recipient(selected.to, route.channel, selected.country)
        if selected.country:
            visit.typed = recipient.address  # the page that asks the API has no country beside it
        visit.log["to"] = recipient.masked
        if route.action == "verify":
            proof = _proof(visit, selected.code)
            if proof.kind == "code" and self._buckets.has_full:
                ruling = self._buckets.full(self._admission.of_wrong_codes(visit, recipient))
                if ruling is not None:
                    raise guessed_too_much(ruling)
            return Ask(body, recipient, selected.captcha_token, proof)
        key = visit.header("Idempotency-Key")
        return Ask(body, recipient, selected.captcha_token, locale=visit.locale, idempotency_key=key)

    # The stories…

    def decide(self, visit: Visit, ask: Ask) -> Coroutine[Any, Any, Grant | Answer]:
        """Give the coroutine that decides: it raises Refusal, StoreError. A closed route's Refusal is raised here."""
        route = visit.route
        if route is None or route.action == "pass":
            return self._pass(ask)  # it was read to see whether it passes
        match route.action:
            case "guard":
                return self._guard(visit, route, ask)
            case "send":
                return self._send_route(visit, route, ask)
            case "verify":
                return self._verify(visit, route, ask)
            case _:
                raise Refusal("route_denied", "deny", "This route is closed.")

    async def _pass(self, ask: Ask) -> Grant:
        return Grant(ask.body)

    async def _guard(self, visit: Visit, route: Route, ask: Ask) -> Grant:
        """Captcha and limits, then upstream, with a JWT that says only that."""
        admitted = await self._admitting.admit(visit, route, None, ask.captcha_token)
        return Grant(ask.body, identity.of_captcha() if admitted.solved else None)

    async def _send_route(self, visit: Visit, route: Route, ask: Ask) -> Answer:
        """Send, and answer in the route's own shape."""
        queued = await self.send(visit, route, ask)
        if route.wait:
            queued = replace(queued, status=await self._wait_for_provider(queued.id, route.wait))
        if route.reply is not None:
            answer = problem.shaped(route.reply)
        elif visit.wants_page:
            answer = self._faces.sent_page(visit, queued.recipient)
        else:
            answer = queued.answer()
        answer.location = f"{self._config.api.prefix}/v1/verifications/{queued.id}"
        return answer

    def send(self, visit: Visit, route: Route, ask: Ask) -> Coroutine[Any, Any, Queued]:
        """Give the coroutine that sends, for a route or the API: it raises Refusal, StoreError."""
        recipient = ask.recipient
        assert recipient is not None
        if ask.idempotency_key:
            return self._send_once(visit, route, ask, recipient)
        return self._send(visit, route, ask, recipient, "")

    async def _send_once(self, visit: Visit, route: Route, ask: Ask, recipient: Recipient) -> Queued:
        """Send, unless a request with the same Idempotency-Key has: then its answer is given again."""
        if len(ask.idempotency_key) > MAX_KEY:
            raise Refusal("malformed_request", "idempotency_key", f"Idempotency-Key: {MAX_KEY} characters at most.")
        claim = self._idempotency.key(route.match, recipient.identity, ask.idempotency_key)
        before = await self._idempotency.claim(claim)
        if before is not None:
            visit.log["outcome"] = "repeated"
            return Queued(recipient=recipient, **json.loads(before))
        try:
            return await self._send(visit, route, ask, recipient, claim)
        finally:
            with suppress(StoreError):
                await self._idempotency.forget(claim)

    async def _send(self, visit: Visit, route: Route, ask: Ask, recipient: Recipient, claim: str) -> Queued:
        """Admit, make a verification, queue its message. `claim`: the Idempotency-Key's, "" for none."""
        admitted = await self._admitting.admit(visit, route, recipient, ask.captcha_token)
        issued: Issued | None = None
        try:
            issued = await self._verifications.issue(recipient, admitted.again_in_s)
            queued = Queued(issued.id, recipient, int(issued.expires_in_s), admitted.again_in_s)
            answered = self._answered(claim, queued) if claim else None
            await self._queue(visit, recipient, ask.locale, issued, admitted, answered)
        except (Refusal, ReplyError):
            # Surely not queued. When the store does not answer it may have been, and what was spent stays spent.
            with suppress(StoreError):
                if issued is not None:
                    await self._verifications.withdraw(issued)
            await self._unspend(admitted)
            raise
        except StoreAwayError:
            if issued is None:  # surely not queued, either; another node of a cluster may be there to hear of it
                self._begin(self._unspend(admitted))
            raise
        self._tell(Verified(outcome="started" if issued.fresh else "resent"))
        visit.log |= {"outcome": "queued", "verification": queued.id}
        return queued

    async def _unspend(self, admitted: Admitted) -> None:
        """Give back what a send that is not queued has spent."""
        with suppress(StoreError):
            await self._buckets.refund(admitted.tickets)
        await self._admitting.give_back_send(admitted.send_ticket)

    async def _verify(self, visit: Visit, route: Route, ask: Ask) -> Grant:
        """Hold the proof, and say of whom it is; a yes of upstream will spend it, everything else releases it."""
        if ask.recipient is None or ask.proof is None:  # the route observes only
            return Grant(ask.body)
        is_guess = ask.proof.kind == "code"
        admitted = await self._admitting.admit(visit, route, ask.recipient, ask.captcha_token, is_guess=is_guess)
        try:
            hold = await self.hold(visit, route, ask, admitted)
        except (Refusal, StoreError) as error:
            self._admitting.observe(visit, route, error)
            return Grant(ask.body)
        visit.log["verification"] = hold.id
        assent = Assent(route.spend_when.members, self._config.server.max_guarded_body) if route.spend_when else None
        return Grant(ask.body, identity.of_recipient(ask.recipient, hold.id), hold, assent)

    # Going upstream…

    async def carry(self, visit: Visit, grant: Grant) -> bool:
        """Hand a request to upstream, settle its grant, relay the answer: says whether the client's connection stays.

        Raises Refusal(upstream_unavailable, upstream_timeout) while nothing of the answer is sent.
        """
        extra: list[tuple[bytes, bytes]] = []
        try:
            if grant.proven is not None:
                bound = Bound(visit.method, visit.path, grant.body)
                extra.append((self._identity_field, self._signer.sign(grant.proven, bound)))
            async with self._forwarder.sent(
                visit.request,
                visit.connection,
                client=visit.client,
                request_id=visit.request_id,
                body=grant.body,
                extra=extra,
                listener=grant.assent,
            ) as sent:
                visit.status = sent.status
                if grant.hold is not None:
                    await self._settle(visit, grant.hold, grant.assent, sent.status)
                return await sent.relay()
        finally:
            if grant.hold is not None:
                await grant.hold.leave()

    async def _settle(self, visit: Visit, hold: Hold, assent: Assent | None, status: int) -> None:
        """Spend a proof when upstream says yes, else let it be used again."""
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
            self._tell(SettleFailed(verification=hold.id, request_id=visit.request_id))
            self._begin(_settle_later(hold, spend=is_yes))
        else:
            self._tell(Verified(outcome="verified" if is_yes else "released"))

    # Holding a proof, for a route or the API…

    def hold(self, visit: Visit, route: Route, ask: Ask, admitted: Admitted | None = None) -> Coroutine[Any, Any, Hold]:
        """Hold a recipient's proof, its wrong tries counted as everywhere. Raises as `Verifications.hold`."""
        recipient, proof = ask.recipient, ask.proof
        assert recipient is not None
        assert proof is not None
        held = partial(self._verifications.hold, recipient, proof)
        return self._held(visit, route, ask.captcha_token, admitted or Admitted(), held)

    def hold_by_id(
        self, visit: Visit, route: Route, verification_id: str, shown: str | int, token: str | None
    ) -> Coroutine[Any, Any, Hold]:
        """Hold the proof that the API checks, its wrong tries counted as everywhere. Raises as `Verifications.hold`.

        Whose it is is known only here, so the lists are asked here: Refusal(route_denied, recipient_not_allowed).
        """

        def held(count: Count) -> Awaitable[Hold]:
            screened = partial(self._screened, visit, count)
            return self._verifications.hold_by_id(verification_id, shown, screened)

        return self._held(visit, route, token, Admitted(), held)

    async def _screened(self, visit: Visit, count: Count, recipient: Recipient, is_right: bool) -> Callable[[], None]:
        """Count a try, as `count` does, once the lists have let its recipient pass."""
        visit.log["to"] = recipient.masked
        self.screen(visit, recipient)
        return await count(recipient, is_right)

    async def _held(
        self,
        visit: Visit,
        route: Route,
        token: str | None,
        admitted: Admitted,
        hold: Callable[[Count], Awaitable[Hold]],
    ) -> Hold:
        """Hold a proof. Where the recipient's wrong codes demand a captcha, it is solved before any code is judged."""
        try:
            return await hold(partial(self._admitting.count, self._begin, visit, admitted, route.captcha_after))
        except Refusal as refusal:
            if refusal.code != "captcha_required":
                raise
        try:
            await self._admitting.step_up(visit, route, self._admission.solve(visit, route, token), admitted)
            return await hold(partial(self._admitting.count, self._begin, visit, admitted, None))
        finally:
            await self._admitting.give_back(admitted)

    # What the API asks besides…

    def screen(self, visit: Visit, recipient: Recipient) -> None:
        """Hold a visit to the API against the lists. Raises Refusal(route_denied, recipient_not_allowed)."""
        self._admission.screen(visit, recipient)

    def step(self, visit: Visit, captcha: str, shown: Mapping[str, Any]) -> Coroutine[Any, Any, dict[str, Any]]:
        """Take one step of solving a built-in captcha: as `Admitting.step`."""
        return self._admitting.step(visit, captcha, shown)

    def recipient(
        self, text: str | None, channel: Literal["sms", "email", "auto"], country: str | None = None
    ) -> Recipient:
        """Parse a recipient by the configuration's rules. Raises Refusal(invalid_recipient)."""
        return self._parse(text or "", channel, country=country)

    # Queueing the message…

    def _answered(self, claim: str, queued: Queued) -> Answered:
        """What is kept of an answer for the repeats of its request."""
        answer = {"id": queued.id, "expires_in_s": queued.expires_in_s, "resend_in_s": queued.resend_in_s}
        return self._idempotency.kept(claim, json.dumps(answer).encode())

    def _queue(
        self,
        visit: Visit,
        recipient: Recipient,
        locale: str,
        issued: Issued,
        admitted: Admitted,
        answered: Answered | None,
    ) -> Awaitable[None]:
        """Give the coroutine that puts the message where nothing is lost, and its answer; a test number gets none."""
        if self._admission.is_test(recipient):
            return self._mark_test(issued, answered)
        return self._put(
            Entry(
                verification_id=issued.id,
                sealed=issued.sealed,
                locale=locale,
                tickets=admitted.tickets,
                send_ticket=admitted.send_ticket,
                expires_at=self._now() + issued.expires_in_s,
                request_id=visit.request_id,
            ),
            recipient,
            answered,
        )

    async def _mark_test(self, issued: Issued, answered: Answered | None) -> None:
        await self._verifications.mark(issued.id, "sent")
        if answered:
            await self._idempotency.keep(*answered)

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

    # What goes on after the answer…

    def _begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Begin work whose outcome nobody waits for."""
        task = asyncio.create_task(work)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        task.add_done_callback(_drop_error)

    async def drain(self, timeout_s: float) -> None:
        """Wait for the work that was begun, at most `timeout_s` seconds."""
        if self._begun:
            await asyncio.wait(self._begun, timeout=timeout_s)


def _has_form_in_page(visit: Visit, route: Route) -> bool:
    """True where a refusal is a page in the language of the form, or with the form in it: it is read beforehand."""
    return bool(route.locale or route.browser) and visit.wants_page


# Of these the same one is returned, and never raised.
_no_token_at_once = functools.lru_cache(256)(no_token)


def _not_delivered(reason: str) -> Refusal:
    """The refusal of a message that failed for `reason`, in the API's words (contract section 4)."""
    if reason == "recipient_limited":
        said = "This recipient has been sent too many messages; wait before asking again."
        return Refusal("rate_limited", reason, said, retry_after_s=_VENDOR_LIMIT_S)
    if reason in _UNREACHABLE:
        return Refusal("recipient_unreachable", reason, _UNREACHABLE[reason])
    return Refusal("delivery_failed", reason, "No provider could send the message; try again in a moment.")


def _proof(visit: Visit, code: str | int | None) -> Proof:
    """What the client shows: a token in its field, the code of the body, or the token in the hosted page's cookie.

    The cookie comes last: it may be an older one, spent since, and a code that was typed is meant.
    """
    token = visit.header(TOKEN_FIELD)
    if not token and code is not None and not codes.is_blank(code):
        return Proof("code", code)
    token = _token(visit)
    if not token:
        raise Refusal("code_required", "no_proof", "Send the code that the recipient was sent.")
    return Proof("token", token)


def _token(visit: Visit) -> str:
    """The verification token of a field, or of the cookie."""
    return visit.header(TOKEN_FIELD) or _cookie(";".join(visit.all("Cookie")))


def _cookie(field: str) -> str:
    for pair in field.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == TOKEN_COOKIE:
            return value
    return ""


def _drop_error(task: asyncio.Task[Any]) -> None:
    """Take an error that nobody waits for, or asyncio would report it."""
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
