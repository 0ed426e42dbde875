"""How is a plan run? The hedged race: who is silent is joined, who fails is followed, who accepts first has won.

An attempt ends in one of these ways. Accepted: nobody else is asked. Rejected by a provider for its own reasons, or
lost without an answer: the next is asked at once. Silent for `switch_after_s`: the next is asked beside it. Rejected
because of the number: nobody else is asked. Rejected for now (throttled, unreachable): the next is asked at once, and
when all have been, the same provider again, after a pause that grows with every refusal and is never shorter than the
vendor asks for; never while its last attempt is under way.
An attempt is never cut short for having lost: its message may be on its way, and its late answer is recorded.
A receipt may come before the answer: it then says what the attempt came to. It is looked for when an attempt ends, and
while one is silent.
No attempt starts after the deadline, and none is given more time than is left before it. An attempt may have to wait
for its turn; one whose turn does not come, or comes when another has won, was never made (`HELD`): the next is asked.
"""

import asyncio
import math
import re
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from sidecar.delivery.providers.seam import LOST, Accepted, Message, Outcome, ReceiptState, Rejected, Uncertain

# A provider keeps its own time, and knows better than we what a time-out means; one that does not is cut off this much
# later.
_GRACE_S: Final = 0.25
# How long a provider that refused for now is left alone; twice as long after each further refusal, up to the most. Four
# attempts fit the usual deadline of five seconds.
_PAUSE_S: Final = 0.5
_MAX_PAUSE_S: Final = 30.0
# How often to look whether a receipt has come of an attempt that is silent.
_LOOK_S: Final = 0.25
# What is left before the deadline when a provider is asked again: with less time, a clear refusal would become silence.
_LEAST_S: Final = 1.0

# So many digits at a number's end name somebody; fewer stand in many an id by chance.
_LAST_DIGITS: Final = 7

_NOBODY: Final[Mapping[str, float]] = MappingProxyType({})
# Receipts that say the provider took the message.
_TAKEN: Final = frozenset({"enroute", "delivered"})

Kind = Literal["accepted", "refused", "lost", "uncertain"]
# Make one attempt at a provider within so many seconds.
Start = Callable[[str, float], Awaitable[Outcome]]
# May it start now? None: at once. What is given waits at most `patience_s`, and never past `deadline`, which is in the
# loop's time.
Turn = Callable[[str, float, float], Awaitable[bool] | None]
# What has a receipt said that came before the answer, if any did?
Heard = Callable[[str, Outcome], Awaitable[ReceiptState | None]]
# What an attempt comes to that was never made.
HELD: Final = Rejected("throttled", "no_turn")
# What is known of one that is under way.
_SILENT: Final = Uncertain("under_way")
# What an attempt's task gives: what it came to, in how many seconds, and what a receipt has said of it.
_Ended = tuple[Outcome, float, ReceiptState | None]


class Attempted(NamedTuple):
    """An attempt that is over. `duplicate`: another had been accepted, so the recipient gets the code twice.

    `came_to`: what a result of this attempt alone would be; `heard`: what a receipt said that came before the answer.
    """

    provider: str
    outcome: Outcome
    seconds: float
    came_to: Kind
    duplicate: bool = False
    heard: ReceiptState | None = None


class Result(NamedTuple):
    """What a race came to.

    accepted   `provider` has the message
    refused    every provider that was asked refused: nothing is on its way
    lost       as refused, but a provider had taken the message, and said then that it will not arrive
    uncertain  somebody may have it, and nobody said so
    """

    kind: Kind
    provider: str | None
    attempts: tuple[Attempted, ...]
    # Who may have the message, or had it: accepted, silent, or still under way.
    holders: tuple[str, ...] = ()
    # Who refused for now, or was not asked before the deadline: in how many seconds it may be asked.
    later: Mapping[str, float] = _NOBODY
    refusals: int = 0  # how often the one that refused for now most often did so, earlier races included


@dataclass(slots=True)
class _Attempt:
    """One that is under way. `until`: when it is cut off, by the loop's clock; `has_begun`: its turn has come."""

    provider: str
    until: float
    has_begun: bool = False
    is_cut_off: bool = False


class Race:
    """Ask the providers of a plan. `async with` gives the result as soon as it is known.

    Leaving the block waits for those still under way.
    `start(provider, timeout_s)` makes one attempt; `record` is told of every one that ends, before or after the result.
    `switch=False`: whoever is silent is not followed, for somebody may have the message; only a sure failure is.
    `attempts` are those that are over, before or after the result.
    `later`: providers that are not in the plan, and may be asked after so many seconds, when all in the plan have been.
    `refusals`: of earlier races with this message; the pauses go on growing from there.
    `waits=False`: nobody is waited for who may only be asked later; the result tells when.
    An error in the block, or a cancellation, cancels what is under way.
    """

    def __init__(
        self,
        plan: Sequence[str],
        start: Start,
        *,
        switch_after_s: float,
        attempt_timeout_s: float,
        deadline_s: float,
        record: Callable[[Attempted], None],
        turn: Turn | None = None,
        heard: Heard | None = None,
        switch: bool = True,
        later: Mapping[str, float] = _NOBODY,
        refusals: int = 0,
        waits: bool = True,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._clock = loop.time
        now = loop.time()
        self._start = start
        self._switch_after_s = switch_after_s
        self._attempt_timeout_s = attempt_timeout_s
        self._deadline = now + deadline_s
        self._record = record
        self._turn = turn
        self._heard = heard
        self._switch = switch
        self._waits = waits
        self._to_come = deque(plan)
        # Who may be asked again, and from when on.
        self._later = {provider: now + seconds for provider, seconds in later.items()} if later else {}
        # How often each refused for now; one that did not yet begins with `_had_refusals`.
        self._refusals: dict[str, int] = {}
        self._had_refusals = refusals
        # Nobody else shall have the message: it is the number's fault, or somebody silent may have it.
        self._is_over = False
        # When the next one joins those that are silent.
        self._due = now
        self._under_way: dict[asyncio.Task[_Ended], _Attempt] = {}
        # Ended, and not looked at yet; what waits for the next one to end.
        self._ends: list[asyncio.Task[_Ended]] = []
        self._waker: asyncio.Future[None] | None = None
        # That are over, in the order of their ends; who of them may have the message, or had it.
        self.attempts: list[Attempted] = []
        self._holders: dict[str, None] = {}
        # Under way still, and a receipt says that they come to nothing.
        self._lost: set[str] = set()
        self._winner: str | None = None

    async def __aenter__(self) -> Result:
        """Go on until somebody has accepted, or nobody is left who could before the deadline."""
        try:
            while self._winner is None:
                next_at, now = self._next_at(), self._clock()
                if next_at <= now:
                    self._start_next(now)
                elif self._under_way:
                    if not await self._ended(next_at if self._heard is None else min(next_at, now + _LOOK_S)):
                        await self._look()
                elif next_at < math.inf:
                    await asyncio.sleep(next_at - now)
                else:
                    break
        except BaseException:
            await self._cancel()
            raise
        return self._result()

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        if not self._under_way:
            return
        try:
            while error is None and self._under_way:
                await self._ended(math.inf)  # each ends within its own time
        finally:
            await self._cancel()

    def _result(self) -> Result:
        """Say what it has come to, now that it is decided."""
        later = _NOBODY
        if self._later or self._to_come:
            now = self._clock()
            later = {provider: max(0.0, at - now) for provider, at in self._later.items()}
            later |= dict.fromkeys(self._to_come, 0.0)
        refusals = max(self._refusals.values()) if self._refusals else 0
        holders = tuple(self._holders)
        if self._under_way:
            holders = tuple(self._holders | dict.fromkeys([one.provider for one in self._under_way.values()]))
        return Result(self._kind(), self._winner, tuple(self.attempts), holders, later, refusals)

    async def _cancel(self) -> None:
        """Leave no task behind."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _next_at(self) -> float:
        """When the next attempt starts if nothing ends before; infinity when none does."""
        if not self._switch and any(one.provider not in self._lost for one in self._under_way.values()):
            return math.inf  # silence is not followed where only a sure failure may be
        if self._to_come:
            return self._due if self._due < self._deadline else math.inf
        if not self._waits or not self._later:
            return math.inf
        at = max(self._due, min(self._later.values()))
        return at if at <= self._deadline - min(_LEAST_S, self._attempt_timeout_s) else math.inf

    def _start_next(self, now: float) -> None:
        if self._to_come:
            provider = self._to_come.popleft()
        else:
            provider = min(self._later, key=self._later.__getitem__)
            del self._later[provider]
        patience_s = self._deadline - now
        if self._to_come:
            patience_s = min(patience_s, self._switch_after_s)
        self._due = now + self._switch_after_s
        attempt = _Attempt(provider, min(now + self._attempt_timeout_s, self._deadline) + _GRACE_S)
        task = self._loop.create_task(self._try(attempt, patience_s))
        self._under_way[task] = attempt
        task.add_done_callback(self._end)

    async def _try(self, attempt: "_Attempt", patience_s: float) -> "_Ended":
        """Make one attempt when its turn comes; what it came to, in how many seconds, and what a receipt said of it."""
        provider = attempt.provider
        turn = self._turn(provider, self._deadline, patience_s) if self._turn is not None else None
        if turn is not None and not await turn:
            return HELD, 0.0, None
        started = self._clock()
        if self._winner is not None or started >= self._deadline:
            return HELD, 0.0, None
        timeout_s = min(self._attempt_timeout_s, self._deadline - started)
        attempt.has_begun, attempt.until = True, started + timeout_s + _GRACE_S
        outcome: Outcome
        try:
            outcome = await self._start(provider, timeout_s)
        except asyncio.CancelledError:
            if not attempt.is_cut_off:
                raise
            outcome = Uncertain("no_answer_in_time")
        except Exception as error:  # noqa: BLE001 - a fault in a provider's file must not lose the message
            outcome = Uncertain(where(error))
        seconds = self._clock() - started
        if self._heard is None or isinstance(outcome, Rejected):
            return outcome, seconds, None
        attempt.until = math.inf
        return outcome, seconds, await self._heard(provider, outcome)

    def _end(self, task: "asyncio.Task[_Ended]") -> None:
        self._ends.append(task)
        self._wake()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def _ended(self, until: float) -> bool:
        """Wait for attempts to end, at most until then by the loop's clock, and take them; False: none has."""
        if not self._ends:
            for one in self._under_way.values():
                until = min(until, one.until)
            self._waker = self._loop.create_future()
            timer = self._loop.call_at(until, self._wake) if until < math.inf else None
            try:
                await self._waker
            finally:
                self._waker = None
                if timer is not None:
                    timer.cancel()
            if not self._ends:
                self._cut_off()
        ends, self._ends = self._ends, []
        for task in ends:
            self._take(task)
        return bool(ends)

    def _cut_off(self) -> None:
        """End the attempts that take longer than they were given."""
        now = self._clock()
        for task, attempt in self._under_way.items():
            if attempt.until <= now and not attempt.has_begun:
                attempt.until = now + _LOOK_S  # it waits for its turn: its time has not begun
            elif attempt.until <= now:
                attempt.is_cut_off, attempt.until = True, math.inf
                task.cancel()

    def _take(self, task: "asyncio.Task[_Ended]") -> None:
        """Take what an attempt that has ended came to: tell of it, and heed it."""
        provider = self._under_way.pop(task).provider
        outcome, seconds, heard = task.result()
        is_duplicate, came_to = False, _came_to(outcome, heard)
        if came_to == "accepted":
            is_duplicate = self._winner is not None and self._winner != provider
            self._winner = self._winner or provider
        attempted = Attempted(provider, outcome, seconds, came_to, is_duplicate, heard)
        self.attempts.append(attempted)
        if came_to != "refused":
            self._holders[provider] = None
        self._record(attempted)
        if came_to != "accepted":
            self._heed(attempted)

    async def _look(self) -> None:
        """Has a receipt come of an attempt that is silent? Lost: the next one is asked, at once. Else it has won."""
        if self._heard is None:
            return
        for provider in {one.provider for one in self._under_way.values()} - self._lost:
            heard = await self._heard(provider, _SILENT)
            if heard in LOST:
                self._lost.add(provider)
                self._due = self._clock()
            elif heard in _TAKEN:
                self._winner = self._winner or provider

    def _heed(self, ended: Attempted) -> None:
        """Who is asked after this, which nobody accepted? Failed surely, or lost: the next one, at once."""
        if ended.provider in self._lost:
            self._lost.remove(ended.provider)
            return  # the next one was asked when the receipt came
        self._due = self._clock()
        outcome = ended.outcome
        if isinstance(outcome, Rejected) and outcome.is_passing:
            self._later[ended.provider] = self._due + self._pause_s(ended.provider, outcome)
        elif isinstance(outcome, Rejected):
            self._is_over |= not outcome.may_try_next
        else:
            self._is_over |= ended.came_to == "uncertain" and not self._switch
        if self._is_over:
            self._to_come.clear()
            self._later.clear()

    def _pause_s(self, provider: str, refusal: Rejected) -> float:
        refusals = self._refusals[provider] = self._refusals.get(provider, self._had_refusals) + 1
        pause_s = min(_MAX_PAUSE_S, _PAUSE_S * 2.0 ** min(refusals - 1, 16))
        return max(refusal.retry_after_s or 0.0, pause_s)

    def _kind(self) -> Kind:
        if self._winner is not None:
            return "accepted"
        kinds = {attempted.came_to for attempted in self.attempts}
        return "uncertain" if "uncertain" in kinds else "lost" if "lost" in kinds else "refused"


def _came_to(outcome: Outcome, heard: ReceiptState | None) -> Kind:
    if heard in LOST:
        return "lost"
    if isinstance(outcome, Accepted) or heard in _TAKEN:
        return "accepted"
    return "refused" if isinstance(outcome, Rejected) else "uncertain"


def where(error: Exception) -> str:
    """Name an error and its place, and not what it says: that may quote the message."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}"


def word(outcome: Outcome, message: Message) -> str:
    """An outcome in the log's words: the vendor's own, with stars for what it repeats of the message."""
    match outcome:
        case Accepted():
            said = outcome.provider_message_id
        case Rejected():
            said = f"{outcome.fault} ({outcome.vendor_code})"
        case Uncertain():
            said = outcome.reason
    recipient = message.recipient
    # A vendor writes a number with its country code or without; its end is the same.
    address = recipient.address if recipient.channel == "email" else recipient.address[-_LAST_DIGITS:]
    # To compile a pattern costs more than all the rest of a message's way: only for what stands there.
    shown, is_ascii = said.lower(), said.isascii()
    for private in (message.code, address):
        if private.lower() in shown or not (is_ascii and private.isascii()):
            said = re.sub(re.escape(private), "*" * len(private), said, flags=re.IGNORECASE)
    return said
