"""The story of a message: leased, planned, raced, told, acked.

At least once. The ack comes last, so whatever dies, somebody leases the message again and sends the same code: at most
the attempts under way are repeated. A message leaves the outbox only when it was sent, may have been sent, or is
reported failed. Nothing here ends the courier but `drain`; no code and no unmasked recipient is ever logged.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

import structlog

from sidecar.config.model import CodeRules
from sidecar.delivery import text
from sidecar.delivery.ledger import Ledger, Posted
from sidecar.delivery.outbox import Entry, Leased, Outbox
from sidecar.delivery.providers.seam import Accepted, FailureReason, Message, Receipt, Rejected, failure_reason
from sidecar.delivery.router import Router
from sidecar.delivery.send import Attempted, Result, where, word
from sidecar.errors import StoreAwayError
from sidecar.metrics import Metrics
from sidecar.recipient import Recipient
from sidecar.verification.verifications import Record

# Messages at a time. A vendor answers in about 0.3 s: two hundred messages a second, on as many connections.
LEASES: Final = 64
# After a kill, a lease runs out and somebody sees it: 5 + 2 + what a lease may wait is less than the promised 10 s.
# A heartbeat may be lost without losing the lease.
_IDLE_S: Final = 5.0
_RECLAIM_EVERY_S: Final = 2.0
_RENEW_EVERY_S: Final = 2.0
# How often to look for messages that nobody has confirmed in time, and how many of them come back at once: a vendor
# that takes messages and sends none must not make a queue here.
_DUE_EVERY_S: Final = 0.25
_DUE: Final = 1_000
# When most people who got a code have typed it in.
_LEARN_AFTER_S: Final = 60.0
_LEASE_WAIT_S: Final = 1.0
# How long to leave a store alone that is away: at first, and at most.
_BACKOFF_S: Final = 0.1
_MAX_BACKOFF_S: Final = 2.0

# Receipts that say the message will not arrive.
_LOST: Final = frozenset({"expired", "undeliverable", "rejected"})

_T = TypeVar("_T")
_log = structlog.get_logger()


class Courier:
    """The delivery loop of one process.

    `code` derives a verification's code, None when no accepted secret made it; `read` and `mark` are the verification's
    status; `refund` gives back what the message had cost; `now` is in seconds since the epoch.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        router: Router,
        ledger: Ledger,
        code: Callable[[str, Recipient], str | None],
        open_recipient: Callable[[bytes], Recipient],
        read: Callable[[str], Awaitable[Record | None]],
        mark: Callable[[str, Literal["sent", "unconfirmed", "delivered", "failed"], str], Awaitable[Any]],
        refund: Callable[[Sequence[str]], Awaitable[None]],
        metrics: Metrics,
        now: Callable[[], float],
        code_rules: CodeRules,
    ) -> None:
        self._outbox = outbox
        self._router = router
        self._ledger = ledger
        self._code = code
        self._open_recipient = open_recipient
        self._read = read
        self._mark = mark
        self._refund = refund
        self._metrics = metrics
        self._now = now
        self._code_rules = code_rules

        self._draining = False
        self._running: asyncio.Task[None] | None = None
        self._leased: set[str] = set()
        self._room = asyncio.Event()
        # Also those that are acked and wait for an attempt that lost.
        self._deliveries: set[asyncio.Task[None]] = set()
        self._reclaim_at = 0.0
        self._due_at = 0.0
        self._backoff_s = _BACKOFF_S

    @property
    def is_draining(self) -> bool:
        """True once it has been told to take no more messages."""
        return self._draining

    async def run(self) -> None:
        """Deliver until drained. Cancelled, it leaves its leases to others."""
        self._running = asyncio.current_task()
        renewing = asyncio.create_task(self._renew())
        try:
            while not self._draining:
                await self._take()
            while self._deliveries:
                await asyncio.wait(self._deliveries)
        finally:
            ending = {renewing, *self._deliveries}
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            with suppress(StoreAwayError):
                await self._outbox.leave()

    async def drain(self, timeout_s: float) -> None:
        """Take no more messages, and let those under way end for at most `timeout_s` seconds."""
        self._draining = True
        if self._running is None:
            return
        await asyncio.wait([self._running], timeout=timeout_s)
        self._running.cancel()
        await asyncio.wait([self._running])

    # Taking messages…

    async def _take(self) -> None:
        """Lease what there is room for: first what others dropped, then what is new."""
        self._room.clear()
        if len(self._leased) >= LEASES:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), _LEASE_WAIT_S)
            return
        clock = asyncio.get_running_loop().time
        try:
            if clock() >= self._reclaim_at:
                self._reclaim_at = clock() + _RECLAIM_EVERY_S
                self._begin(await self._outbox.reclaim(_IDLE_S, LEASES - len(self._leased)))
            if clock() >= self._due_at:
                self._due_at = clock() + _DUE_EVERY_S
                await self._outbox.bring_due(_DUE)
            if len(self._leased) < LEASES:
                self._begin(await self._outbox.lease(LEASES - len(self._leased), _LEASE_WAIT_S))
        except Exception as error:  # noqa: BLE001 - a courier that dies breaks every promise that was made
            if not isinstance(error, StoreAwayError):  # which the store itself tells
                _log.warning("outbox_away", error=where(error), again_in_s=self._backoff_s)
            await asyncio.sleep(self._backoff_s)
            self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
            # Nobody could renew a lease in the meantime. They are given the time to, or messages would go out twice.
            self._reclaim_at = clock() + _IDLE_S
        else:
            self._backoff_s = _BACKOFF_S

    def _begin(self, messages: Sequence[Leased]) -> None:
        for leased in messages:
            if leased.id in self._leased:
                continue  # ours already: we were too slow to renew it
            self._leased.add(leased.id)
            delivery = asyncio.create_task(self._deliver(leased))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._deliveries.discard)

    async def _renew(self) -> None:
        """Say every two seconds that our leases are in use."""
        while True:
            try:
                await self._outbox.renew(tuple(self._leased))
            except StoreAwayError:
                pass
            except Exception as error:  # noqa: BLE001 - as in _take
                _log.warning("renew_failed", error=where(error), leases=len(self._leased))
            await asyncio.sleep(_RENEW_EVERY_S)

    # One message…

    async def _deliver(self, leased: Leased) -> None:
        log = _log.bind(message=leased.id, verification_id=leased.verification_id)
        try:
            await self._story(leased, log)
        except Exception as error:  # noqa: BLE001 - what cannot be understood now never will be: report it, go on
            log.error("message_unreadable", error=where(error))  # noqa: TRY400 - a traceback may quote the message
            if leased.id in self._leased:  # else it is concluded, and only the late attempts broke
                dead = f"unreadable: {where(error)}"
                await self._conclude(leased, "failed", (), log, dead=dead, reason="no_provider")
        finally:
            self._leased.discard(leased.id)

    async def _story(self, leased: Leased, log: Any) -> None:
        # Step 1: what is it? The store has the recipient sealed, and has no code.
        entry = leased.entry
        if entry is None:
            raise ValueError("fields are missing")
        recipient = self._open_recipient(entry.sealed)
        code = self._code(entry.verification_id, recipient)
        if code is None:
            raise ValueError("the code's secret is gone")
        log = log.bind(request_id=entry.request_id, to=recipient.masked)

        # Step 2: does anybody still wait for it?
        record = await _insist(lambda: self._read(entry.verification_id))
        left_s = entry.expires_at - self._now()
        if entry.accepted and record is not None:
            was = record.status in {"verified", "delivered"}
            self._router.confirmed(entry.accepted, recipient, entry.locale, was=was)
        if record is None or record.status == "verified" or (entry.tried and record.status == "delivered"):
            log.info("message_dropped", reason=record.status if record else "withdrawn")
            await self._conclude(leased, None, (), log)
            return
        if record.status == "expired" or left_s <= 0:
            log.warning("message_dropped", reason="expired")
            await self._conclude(leased, None if entry.tried else "failed", (), log, reason="no_provider")
            return

        # Step 3: through whom? No rule, or no provider for this channel: refused by all, who are none.
        way = self._router.way(recipient, entry.locale)
        if entry.tried and (way is None or not way.usable or way.rule.confirm_within is None):
            await self._conclude(leased, None, (), log)  # it came back to be learnt from, and not to be sent
            return
        if way is None or not way.usable:
            reason = "no_provider" if way else "no_rule"
            log.error("message_failed", reason=reason, country=recipient.country)
            await self._conclude(leased, "failed", entry.tickets, log, dead=reason, reason="no_provider")
            return

        # Step 4: race. What comes of it is told at once; the attempts that lost end in their own time.
        minutes = text.minutes_left(left_s)
        message = Message(
            id=f"{entry.verification_id}_{leased.id}",
            recipient=recipient,
            locale=entry.locale,
            code=code,
            minutes=minutes,
            text=text.render(self._code_rules, entry.locale, code, minutes, recipient.channel),
        )
        async with self._router.sent(
            way, message, left_s, lambda attempted: self._record(attempted, entry, way.segment, log), entry.tried
        ) as result:
            # Step 5: tell. Silence is not a failure: somebody may have the message. One that comes back because nobody
            # confirmed it was told of before.
            if result.kind == "refused":
                log.warning("message_failed", reason=_reason(result), again=bool(entry.tried))
                if entry.tried:
                    await self._conclude(leased, None, (), log)
                else:
                    refusals = [one.outcome for one in result.attempts if isinstance(one.outcome, Rejected)]
                    why = failure_reason(refusals)
                    await self._conclude(leased, "failed", entry.tickets, log, dead=_reason(result), reason=why)
            else:
                if result.kind == "accepted":
                    log.info("message_sent", provider=result.provider, again=bool(entry.tried))
                else:
                    log.warning("message_unconfirmed", reason=_reason(result), again=bool(entry.tried))
                # Step 6: was it confirmed? It comes back, once, to be learnt from, and to go to the next provider.
                within_s = way.rule.confirm_within
                if within_s is None and way.rule.strategy == "adaptive":
                    within_s = _LEARN_AFTER_S
                again = None
                if within_s is not None and within_s < left_s and not entry.tried:
                    again = replace(entry, tried=result.asked, accepted=result.provider or "")
                status: Literal["sent", "unconfirmed"] = "sent" if result.kind == "accepted" else "unconfirmed"
                await self._conclude(leased, status, (), log, again, within_s or 0.0)

    async def received(self, posted: Posted, receipt: Receipt) -> None:
        """Take what a vendor says became of one of our messages. Raises StoreAwayError."""
        _log.info(
            "receipt",
            provider=posted.provider,
            verification_id=posted.verification_id,
            state=receipt.state,
            vendor_code=receipt.vendor_code,
            seconds=round(posted.after_s, 3),
        )
        self._metrics.receipt(posted.provider, receipt.state)
        if receipt.state == "delivered":
            await self._mark(posted.verification_id, "delivered", "")
        elif receipt.state in _LOST:
            await self._mark(posted.verification_id, "failed", "provider")
            # Nobody will confirm it any more: its one more try is due now.
            await self._outbox.bring_due(_DUE, at_once=posted.verification_id)

    def _record(self, attempted: Attempted, entry: Entry, segment: str, log: Any) -> None:
        outcome = type(attempted.outcome).__name__.lower()
        log.info(
            "attempt",
            provider=attempted.provider,
            outcome=outcome,
            reason=word(attempted.outcome),
            seconds=round(attempted.seconds, 3),
            duplicate=attempted.duplicate,
        )
        self._metrics.attempt(attempted.provider, outcome, attempted.seconds)
        if attempted.duplicate:
            self._metrics.duplicate(attempted.provider)
        if isinstance(attempted.outcome, Accepted):
            # Not on the message's way: without it a receipt moves nothing, and nothing else is lost.
            message_id = attempted.outcome.provider_message_id
            posted = self._ledger.posted(attempted.provider, message_id, entry.verification_id, segment)
            noting = asyncio.create_task(_noted(posted, log))
            self._deliveries.add(noting)
            noting.add_done_callback(self._deliveries.discard)

    async def _conclude(
        self,
        leased: Leased,
        status: Literal["sent", "unconfirmed", "failed"] | None,
        refund: Sequence[str],
        log: Any,
        again: Entry | None = None,
        after_s: float = 0.0,
        dead: str = "",
        reason: FailureReason | Literal[""] = "",
    ) -> None:
        """Say what became of the verification, give back what it had cost, and last of all ack.

        `again` is what comes back after `after_s` seconds, put aside in the same step. `dead`: why nobody could send
        it, for the dead letters.
        """
        steps: list[tuple[str, Callable[[], Awaitable[Any]]]] = []
        if status and leased.verification_id:
            steps.append(("mark", lambda: self._mark(leased.verification_id, status, reason)))
        if refund:
            steps.append(("refund", lambda: self._refund(refund)))
        if dead:
            steps.append(("bury", lambda: self._outbox.bury(leased.id, dead)))
        else:
            steps.append(("ack", lambda: self._outbox.ack(leased.id, again, after_s)))
        for name, step in steps:
            try:
                await _insist(step)
            except Exception as error:  # noqa: BLE001 - broken book-keeping must not send a message again
                log.error("message_not_concluded", step=name, error=where(error))  # noqa: TRY400 - as above
        self._leased.discard(leased.id)
        self._room.set()


async def _insist(step: Callable[[], Awaitable[_T]]) -> _T:
    """Do what needs the store, as often as it takes."""
    backoff_s = _BACKOFF_S
    while True:
        try:
            return await step()
        except StoreAwayError:
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)


async def _noted(posted: Awaitable[None], log: Any) -> None:
    try:
        await posted
    except Exception as error:  # noqa: BLE001 - as in _conclude
        log.warning("message_not_noted", error=where(error))


def _reason(result: Result) -> str:
    return ", ".join(f"{attempted.provider}: {word(attempted.outcome)}" for attempted in result.attempts)
