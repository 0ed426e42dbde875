"""The story of a message: queued, leased, planned, raced, told, acked.

At least once. The ack comes last, and only with what says that a message was sent, so whatever dies, somebody leases
the message again and sends the same code: at most the attempts under way are repeated. What is queued here is leased
here in the same step where there is room, and what its request knew of it a moment ago is not looked up again; whoever
leases it later looks. A message leaves the outbox only when it was sent, may have been sent, or is reported failed; one
that all refused for now is put aside in the store, with its past, and comes back.
Nothing here ends the courier but `drain`; no code and no unmasked recipient is ever logged.
"""

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

from sidecar.config.model import CodeRules
from sidecar.delivery.ledger import Ledger, Moved, Noted
from sidecar.delivery.outbox import Answered, Back, Entry, Leased, Outbox, Past, Unreadable
from sidecar.delivery.providers.seam import (
    LOST,
    Accepted,
    FailureReason,
    Fault,
    Message,
    Outcome,
    ReceiptState,
    Rejected,
    failure_reason,
)
from sidecar.delivery.router import Router, Way
from sidecar.delivery.send import Attempted, Result, where, word
from sidecar.delivery.text import Texts, minutes_left
from sidecar.errors import StoreAwayError, StoreError
from sidecar.events import (
    Attempt,
    MessageConcluded,
    MessageDeferred,
    MessageDropped,
    MessageFailed,
    MessageNeverConfirmed,
    MessageNotConcluded,
    MessageNotNoted,
    MessageSent,
    MessageUnconfirmed,
    MessageUnreadable,
    OutboxAway,
    ReceiptMoved,
    RenewFailed,
    Tell,
)
from sidecar.limits.sends import Sends
from sidecar.line import Line, Running
from sidecar.recipient import Recipient
from sidecar.verification.verifications import Record

# Messages at a time. A vendor answers in about 0.3 s: some 1,700 messages a second, on as many connections. As many may
# be sent twice when the process is killed.
LEASES: Final = 512
# Recipients of messages that were queued here and have to wait: to unseal and parse one takes as long as all the rest.
_KNOWN: Final = 1_000
# Messages that one look into the outbox leases.
_AT_ONCE: Final = 8
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

# All refused it, and meanwhile the person asked again and that message was sent, with the same code.
_ELSEWHERE: Final = "another was sent"
# The courier's clock and the store's may differ: a code is looked at this much after it has died.
_END_MARGIN_S: Final = 1.0

_T = TypeVar("_T")
# How the store is asked to remember a message, and what that gave the first time.
_Note = tuple[Callable[[], Noted | None], Noted | None]


class Courier:
    """The delivery loop of one process.

    `code` derives a verification's code, None when no accepted secret made it; `read` and `mark` are the verification's
    status; `refund` gives back what a message had cost, once for each; `now` is in seconds since the epoch.
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
        mark: Callable[[str, Literal["sent", "unconfirmed", "delivered", "failed"], str, bool], Awaitable[Any]],
        refund: Callable[[Sequence[str], str], Awaitable[None]],
        sends: Sends | None = None,
        tell: Tell,
        now: Callable[[], float],
        code_rules: CodeRules,
        line: Line,
    ) -> None:
        self._outbox = outbox
        self._router = router
        self._ledger = ledger
        self._code = code
        self._open_recipient = open_recipient
        self._read = read
        self._mark = mark
        self._refund = refund
        self._sends = sends
        self._tell = tell
        self._now = now
        self._texts = Texts(code_rules)
        self._line = line

        self._draining = False
        self._running: asyncio.Task[None] | None = None
        # True while `run` ends what is begun.
        self._is_open = False
        self._leased: set[str] = set()
        # Leases that are asked for: by requests that are being queued, and by the look into the outbox.
        self._queueing = 0
        self._looking = 0
        # By how they are sealed, the oldest first.
        self._known: dict[bytes, Recipient] = {}
        # Something has ended.
        self._room = asyncio.Event()
        # A message was queued here, and waits for somebody to look; when one was queued here last, by the loop's clock.
        self._waits = asyncio.Event()
        self._queued_at = -math.inf
        # Also those that wait for their first turn, and those that are acked and wait for an attempt that lost.
        self._deliveries = Running()
        self._reclaim_at = 0.0
        self._due_at = 0.0
        self._backoff_s = _BACKOFF_S

    @property
    def is_draining(self) -> bool:
        """True once it has been told to take no more messages."""
        return self._draining

    async def put(self, entry: Entry, recipient: Recipient, answered: Answered | None) -> None:
        """Queue a message of `recipient` durably, and begin to send it where there is room. Raises as `Outbox.put`."""
        self._queued_at = asyncio.get_running_loop().time()
        if not self._is_open or self._draining or self._room_left() <= 0:
            await self._outbox.put(entry, answered)
            self._know(entry, recipient)
            return
        self._queueing += 1
        try:
            leased = await self._outbox.put_and_lease(entry, answered)
        finally:
            self._queueing -= 1
            self._room.set()
        if leased is not entry:
            self._know(entry, recipient)
        if leased is not None and self._is_open:
            self._begin(leased, recipient if leased is entry else None)

    def _know(self, entry: Entry, recipient: Recipient) -> None:
        """Remember a recipient for when its message is leased, if that is soon, and here; and have it looked for."""
        self._waits.set()
        self._known[entry.sealed] = recipient
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]

    async def run(self) -> None:
        """Deliver until drained. Cancelled, it leaves its leases to others."""
        self._running = asyncio.current_task()
        self._is_open = True
        renewing = asyncio.create_task(self._renew())
        try:
            while not self._draining:
                await self._take()
            while self._queueing:
                self._room.clear()
                await self._room.wait()
            await self._deliveries.over()
        finally:
            self._is_open = False
            renewing.cancel()
            self._deliveries.cancel()
            await self._deliveries.over()
            await asyncio.wait([renewing])
            self._leased.clear()  # it may be begun again, and then they are another's to reclaim, or its own
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

    def _room_left(self) -> int:
        """How many more leases may be asked for."""
        return LEASES - len(self._leased) - self._queueing - self._looking

    async def _take(self) -> None:
        """Lease what there is room for: first what others dropped, then what is new.

        While messages are queued here, those that others queue are found within `_DUE_EVERY_S`; else at once.
        """
        self._room.clear()
        if self._room_left() <= 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEASE_WAIT_S):
                    await self._room.wait()
            return
        clock = asyncio.get_running_loop().time
        try:
            if clock() >= self._reclaim_at:
                self._reclaim_at = clock() + _RECLAIM_EVERY_S
                await self._look(lambda count: self._outbox.reclaim(_IDLE_S, count), LEASES)
            if clock() >= self._due_at:
                self._due_at = clock() + _DUE_EVERY_S
                await self._outbox.bring_due(_DUE)
            # A read that blocks makes the store wake it for every message that is queued: only where none is here.
            wait_s = min(_LEASE_WAIT_S, max(0.0, self._due_at - clock()))
            is_busy = clock() - self._queued_at < _DUE_EVERY_S
            self._waits.clear()
            found = await self._look(lambda count: self._outbox.lease(count, 0.0 if is_busy else wait_s), _AT_ONCE)
            if is_busy and not found:
                with suppress(TimeoutError):  # and no `wait_for`, which on 3.11 drops a cancellation beside the news
                    async with asyncio.timeout(wait_s):
                        await self._waits.wait()
        except Exception as error:  # noqa: BLE001 - a courier that dies breaks every promise that was made
            if not isinstance(error, StoreAwayError):  # which the store itself tells
                self._tell(OutboxAway(error=where(error), again_in_s=self._backoff_s))
            await asyncio.sleep(self._backoff_s)
            self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
            # Nobody could renew a lease in the meantime. They are given the time to, or messages would go out twice.
            self._reclaim_at = clock() + _IDLE_S
        else:
            self._backoff_s = _BACKOFF_S

    async def _look(self, lease: Callable[[int], Awaitable[Sequence[Leased]]], most: int) -> bool:
        """Lease up to `most` messages, or as many as there is room for; False when there were none.

        The room is taken while it looks.
        """
        self._looking = max(0, min(most, self._room_left()))
        try:
            found = await lease(self._looking) if self._looking else ()
            for leased in found:
                self._begin(leased)
            return bool(found)
        finally:
            self._looking = 0

    def _begin(self, leased: Leased, recipient: Recipient | None = None) -> None:
        """Begin to send a message that is ours now, in its turn. `recipient` is its own, where it is known."""
        if leased.id in self._leased:
            return  # ours already: we were too slow to renew it
        self._leased.add(leased.id)
        self._line.go_on_with(self._deliver(leased, recipient), self._deliveries)

    async def _renew(self) -> None:
        """Say every two seconds that our leases are in use."""
        while True:
            try:
                await self._outbox.renew(tuple(self._leased))
            except StoreAwayError:
                pass
            except Exception as error:  # noqa: BLE001 - as in _take
                self._tell(RenewFailed(error=where(error), leases=len(self._leased)))
            await asyncio.sleep(_RENEW_EVERY_S)

    # One message…

    async def _deliver(self, leased: Leased, recipient: Recipient | None) -> None:
        """Tell one message's story, and what broke in it. `recipient`: None where it is not known yet. Never raises."""
        try:
            await self._story(leased, recipient)
        except Exception as error:  # noqa: BLE001 - what cannot be understood now never will be: report it, go on
            why = where(error)
            self._tell(MessageUnreadable(message=leased.id, verification_id=leased.verification_id, error=why))
            if leased.id in self._leased:  # else it is concluded, and only the late attempts broke
                await self._conclude(leased, status="failed", reason="no_provider", dead=f"unreadable: {why}")
        finally:
            self._leased.discard(leased.id)  # also of one that a library cancelled by mistake: its lease lapses

    async def _story(self, leased: Leased, recipient: Recipient | None) -> None:
        # Step 1: what is it? The store has the recipient sealed, and has no code.
        if isinstance(leased, Unreadable):
            raise ValueError("fields are missing")  # noqa: TRY004 - no type is wrong, but the message
        entry = leased
        is_fresh = recipient is not None
        recipient = recipient or self._known.pop(entry.sealed, None) or self._open_recipient(entry.sealed)
        code = self._code(entry.verification_id, recipient)
        if code is None:
            raise ValueError("the code's secret is gone")
        past = entry.past
        message_id = past.message_id or f"{entry.verification_id}_{entry.id}"
        # What every event of it says.
        what = {
            "message": entry.id,
            "verification_id": entry.verification_id,
            "request_id": entry.request_id,
            "to": recipient.masked,
        }

        # Step 2: does anybody still wait for it? Of what was queued a moment ago its request knew.
        now = self._now()
        left_s = entry.expires_at - now
        is_open = False
        if not is_fresh:
            record = await _insist(functools.partial(self._read, entry.verification_id))
            # The store's clock says how long the code lives: ours may be wrong, and whoever asked again may have made
            # it live longer.
            left_s = record.expires_in_s if record is not None else 0.0
            now = self._now()
            entry = replace(entry, expires_at=now + left_s)
            if past.back == "confirm" and past.accepted and record is not None:
                was = record.status in {"verified", "delivered"}
                self._router.confirmed(past.accepted, recipient, entry.locale, was=was)
            over = _is_over(record, past)
            if over or record is None:
                self._tell(MessageDropped(**what, reason=over))
                if over == _ELSEWHERE:
                    await self._conclude(entry, refund=True, once=message_id)
                else:
                    await self._conclude(entry)
                return
            is_open = record.came_to == "unconfirmed"
        if left_s <= 0:
            reason = past.reason if is_open else "; ".join(filter(None, ("the code has expired", past.reason)))
            after = replace(entry, past=replace(past, message_id=message_id, reason=reason))
            await self._give_up(after, what, is_open=is_open)
            return

        # Step 3: through whom? No rule, or no provider for this channel: refused by all, who are none.
        way = self._router.way(recipient, entry.locale)
        if (
            way is None
            or not way.usable
            or past.back == "end"
            or (past.back == "confirm" and way.rule.confirm_within is None)  # it came back to be learnt from
        ):
            reason = past.reason or ("no_provider" if way else "no_rule")
            after = replace(entry, past=replace(past, message_id=message_id, reason=reason))
            await self._give_up(after, what | {"country": recipient.country}, is_open=is_open)
            return

        # Step 4: race. What comes of it is told at once; the attempts that lost end in their own time.
        minutes = minutes_left(left_s)
        text = self._texts.render(entry.locale, code, minutes, recipient.channel)
        message = Message(message_id, recipient, entry.locale, code, minutes, text)
        hears = self._ledger.hears(way.usable)
        race = self._router.sent(
            way,
            message,
            left_s,
            functools.partial(self._record, message, past, what),
            heard=functools.partial(self._heard, message_id) if hears else None,
            past=past,
            now=now,
        )
        async with race as result:
            # Step 5: from now on its receipts find it.
            noting = None
            if hears or past.holders:
                noting = self._note(message_id, entry, way.segment, result.attempts, past.holders)
            # Step 6: tell, and put aside what comes back. Then those receipts are taken that came early.
            await self._tell_of(entry, message, result, way, what, is_open=is_open)
            if noting is not None:
                await self._take_early(*noting)
        if hears:
            noting = self._note(message_id, entry, way.segment, race.attempts[len(result.attempts) :])
            if noting is not None:
                await self._take_early(*noting)  # those of attempts that lost
        # Step 7: now that every attempt is over, what has it cost? Unsaid, it costs what was reserved for it.
        if self._sends is not None and (paid := [one.provider for one in race.attempts if one.came_to != "refused"]):
            with suppress(StoreError):
                await self._sends.paid(entry.send_ticket, recipient.country, paid, is_first=not past.holders)

    def _tell_of(
        self,
        entry: Entry,
        message: Message,
        result: Result,
        way: Way,
        what: Mapping[str, str],
        *,
        is_open: bool,
    ) -> Awaitable[None]:
        """Say what a race came to; gives the coroutine that concludes. `is_open`: somebody may have had it before."""
        is_first = not entry.past.holders  # nobody had it before
        within_s = way.rule.confirm_within
        if result.kind == "accepted":
            self._tell(MessageSent(**what, provider=result.provider, again=not is_first))
            # Was it confirmed? It comes back, once, to be learnt from, and to go to the next provider.
            if within_s is None and way.rule.strategy == "adaptive":
                within_s = _LEARN_AFTER_S
            again = None
            if is_first and within_s is not None and within_s < entry.expires_at - (now := self._now()):
                again = _back(_after(entry, result, message, now), "confirm")
            return self._conclude(entry, status="sent", again=again, after_s=within_s or 0.0)
        now = self._now()
        left_s = entry.expires_at - now
        after = _after(entry, result, message, now)
        past = after.past
        status: Literal["unconfirmed"] | None = None
        if result.kind == "uncertain":
            # Silence is not a failure: somebody may have the message, and nobody said so.
            self._tell(MessageUnconfirmed(**what, reason=past.reason, again=not is_first))
            status = "unconfirmed"
        pause_s = min(result.later.values(), default=math.inf)
        if pause_s < left_s:
            # Refused for now: the same providers are asked again, for as long as the code lives.
            self._tell(MessageDeferred(**what, reason=past.reason, again_in_s=pause_s))
            return self._conclude(entry, status=status, again=_back(after, "retry"), after_s=pause_s)
        if status and is_first and within_s is not None and within_s < left_s:
            return self._conclude(entry, status=status, again=_back(after, "confirm"), after_s=within_s)
        return self._give_up(after, what, status=status, is_open=is_open or bool(status))

    async def _give_up(
        self,
        entry: Entry,
        what: Mapping[str, str],
        *,
        is_open: bool,
        status: Literal["unconfirmed"] | None = None,
    ) -> None:
        """Conclude a message that nobody is left to ask for. `is_open`: nobody accepted it, and one may have it."""
        past = entry.past
        left_s = entry.expires_at - self._now()
        if not past.holders or past.is_lost:
            # Nobody has it. Who took it and lost it was paid for it, so only what all refused is given back.
            self._tell(MessageFailed(**what, reason=past.reason))
            is_free = not past.holders
            once = past.message_id
            why = _failure(past)
            await self._conclude(entry, status="failed", reason=why, refund=is_free, once=once, dead=past.reason)
        elif is_open and left_s > 0:
            again = _back(entry, "end")
            await self._conclude(entry, status=status, again=again, after_s=left_s + _END_MARGIN_S)
        elif is_open:
            self._tell(MessageNeverConfirmed(**what, reason=past.reason))
            await self._conclude(entry, dead=f"unconfirmed: {past.reason}")
        else:
            await self._conclude(entry)  # it was sent, and nobody else is left who could send it, too

    async def received(self, moved: Moved) -> None:
        """Take what a vendor says became of one of our messages. Raises StoreAwayError."""
        self._tell(
            ReceiptMoved(
                provider=moved.provider,
                verification_id=moved.verification_id,
                state=moved.state,
                vendor_code=moved.vendor_code,
                seconds=moved.after_s,
                duplicate=moved.duplicate,
            )
        )
        if moved.state == "delivered":
            await self._mark(moved.verification_id, "delivered", "", False)
        elif moved.state == "enroute":
            # It has it, though its answer may have been lost.
            await self._mark(moved.verification_id, "sent", "", False)
        elif moved.state in LOST and not moved.others and not await self._outbox.bring_lost(moved.message_id):
            # Nobody else may bring it, and it does not come back to go to the next provider.
            await self._mark(moved.verification_id, "failed", "provider", False)

    async def _heard(self, message_id: str, provider: str, outcome: Outcome) -> ReceiptState | None:
        """What has a receipt said that came before the provider's answer?"""
        try:
            return await self._ledger.early(provider, message_id, _vendor_id(outcome))
        except StoreError:
            return None  # it is taken when the message is noted

    def _note(
        self, message_id: str, entry: Entry, segment: str, attempts: Sequence[Attempted], before: Iterable[str] = ()
    ) -> _Note | None:
        """Have it remembered who has a message, or may have it. The store is asked at once; None: no receipt may come.

        `before`: who may have had it before these attempts.
        Without it a receipt moves nothing, and nothing else is lost.
        """
        holders: dict[str, str | None] = dict.fromkeys(before)
        holders |= {one.provider: _vendor_id(one.outcome) for one in attempts if one.came_to != "refused"}
        if not self._ledger.hears(holders):
            return None
        took = {one.provider for one in attempts if one.came_to == "accepted"}
        note = functools.partial(self._ledger.note, message_id, entry.verification_id, segment, holders, took)
        return note, note()

    async def _take_early(self, note: Callable[[], Noted | None], first: Noted | None) -> None:
        """Take the receipts that came before their message was noted. `first`: what `note` gave already."""

        async def take(noted: Noted | None) -> None:
            if noted is not None:
                async for moved in self._ledger.taken(noted):
                    await _insist(functools.partial(self.received, moved))

        if first is None:
            return
        try:
            await _insist(lambda: take(note()), take(first))
        except Exception as error:  # noqa: BLE001 - as in _conclude
            self._tell(MessageNotNoted(error=where(error)))

    def _record(self, message: Message, past: Past, what: Mapping[str, str], attempted: Attempted) -> None:
        """Tell of an attempt that is over. `what`: what every event of its message says."""
        # One that took it on an earlier way is no part of this race; where it lost it, the recipient gets it once.
        took_before = bool(past.accepted) and not past.is_lost and attempted.came_to == "accepted"
        self._tell(
            Attempt(
                **what,
                provider=attempted.provider,
                outcome=type(attempted.outcome).__name__.lower(),
                reason=word(attempted.outcome, message),
                seconds=attempted.seconds,
                duplicate=attempted.duplicate or took_before,
            )
        )

    async def _conclude(
        self,
        leased: Leased,
        *,
        status: Literal["sent", "unconfirmed", "failed"] | None = None,
        reason: FailureReason | Literal[""] = "",
        refund: bool = False,
        once: str = "",
        again: Entry | None = None,
        after_s: float = 0.0,
        dead: str = "",
    ) -> None:
        """Give back what it had cost, once, say what became of the verification, and last of all ack.

        Of a message that was sent, status and ack are asked together. When the status alone is lost with the process,
        it says "queued" of a message that was sent; when the ack alone is, the message is sent again. What failed waits
        for each step: whoever is told of it may ask again at once, so what it had cost is there by then.
        `again` is what comes back after `after_s` seconds, put aside in the same step. `dead`: why nobody could send
        it, or confirmed it, for the dead letters.
        """
        # Each by its name, and what it gave where it was asked already.
        steps: list[tuple[str, Callable[[], Awaitable[Any]], Awaitable[Any] | None]] = []
        is_sent = status == "sent"
        is_given_back = False
        if refund and isinstance(leased, Entry):
            is_given_back = bool(leased.tickets)
            if leased.tickets:
                steps.append(("refund", functools.partial(self._refund, leased.tickets, once), None))
            if leased.send_ticket and self._sends is not None:
                steps.append(("refund", functools.partial(self._sends.give_back, leased.send_ticket), None))
        if status and leased.verification_id:
            mark = functools.partial(self._mark, leased.verification_id, status, reason, is_given_back)
            steps.append(("mark", mark, mark() if is_sent else None))
        if dead:
            steps.append(("bury", functools.partial(self._outbox.bury, leased.id, dead), None))
        else:
            ack = functools.partial(self._outbox.ack, leased.id, again, after_s)
            steps.append(("ack", ack, ack() if is_sent else None))
        for name, step, asked in steps:
            try:
                await _insist(step, asked)
            except Exception as error:  # noqa: BLE001 - broken book-keeping must not send a message again
                self._tell(
                    MessageNotConcluded(
                        message=leased.id, verification_id=leased.verification_id, step=name, error=where(error)
                    )
                )
        if status or (again is not None and again.past.back == "retry"):
            self._tell(MessageConcluded(outcome=status or "deferred"))
        self._leased.discard(leased.id)
        self._room.set()


def _is_over(record: Record | None, past: Past) -> str:
    """Why a message need not be sent any more; "" when it is wanted, or when its code has died by itself."""
    if record is None:
        return "withdrawn"
    if record.status == "verified" or (past.back and record.came_to == "delivered"):
        return record.came_to
    if past.back == "retry" and not past.holders and record.came_to == "sent":
        return _ELSEWHERE
    return "replaced" if record.is_replaced else ""


def _after(entry: Entry, result: Result, message: Message, now: float) -> Entry:
    """What a message is after one more race."""
    past = entry.past
    refused = {
        one.provider: one.outcome.fault
        for one in result.attempts
        if isinstance(one.outcome, Rejected) and one.provider not in result.later
    }
    is_lost = past.is_lost if past.holders else result.kind == "lost"
    after = Past(
        message_id=message.id,
        holders=tuple(dict.fromkeys([*past.holders, *result.holders])),
        accepted=result.provider or past.accepted,
        is_lost=is_lost and result.kind in {"refused", "lost"},
        refused={**past.refused, **refused},
        later={name: now + seconds for name, seconds in result.later.items()},
        refusals=result.refusals,
        reason=_reason(result, message) or past.reason,
    )
    return replace(entry, past=after)


def _back(entry: Entry, back: Back) -> Entry:
    return replace(entry, past=replace(entry.past, back=back))


def _failure(past: Past) -> FailureReason:
    """Why nobody could send it, in the API's words."""
    if past.is_lost:
        return "provider"
    passing: list[Fault] = ["throttled"] if past.later else []
    return failure_reason([Rejected(fault, "") for fault in [*past.refused.values(), *passing]])


def _vendor_id(outcome: Outcome) -> str | None:
    return outcome.provider_message_id if isinstance(outcome, Accepted) else None


async def _insist(step: Callable[[], Awaitable[_T]], first: Awaitable[_T] | None = None) -> _T:
    """Do what needs the store, as often as it takes. `first`: it has been asked once already."""
    backoff_s = _BACKOFF_S
    while True:
        try:
            return await (first or step())
        except StoreAwayError:
            first = None
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)


def _reason(result: Result, message: Message) -> str:
    """What each provider came to, in the log's words: the last that it said."""
    said = {one.provider: one.heard or word(one.outcome, message) for one in result.attempts}
    return ", ".join(f"{provider}: {text_}" for provider, text_ in said.items())
