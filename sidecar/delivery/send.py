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
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

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

# Receipts that say the provider took the message.
_TAKEN: Final = frozenset({"enroute", "delivered"})

Kind = Literal["accepted", "refused", "lost", "uncertain"]
# Make one attempt at a provider within so many seconds.
Start = Callable[[str, float], Awaitable[Outcome]]
# May it start now? Waits at most `patience_s`, and never past `deadline`, which is in the loop's time.
Turn = Callable[[str, float, float], Awaitable[bool]]
# What has a receipt said that came before the answer, if any did?
Heard = Callable[[str, Outcome], Awaitable[ReceiptState | None]]
# What an attempt comes to that was never made.
HELD: Final = Rejected("throttled", "no_turn")
# What is known of one that is under way.
_SILENT: Final = Uncertain("under_way")


@dataclass(frozen=True, slots=True)
class Attempted:
    """An attempt that is over. `duplicate`: another had been accepted, so the recipient gets the code twice.

    `heard`: what a receipt said that came before the answer.
    """

    provider: str
    outcome: Outcome
    seconds: float
    duplicate: bool = False
    heard: ReceiptState | None = None

    @property
    def came_to(self) -> Kind:
        """What a result of this attempt alone would be."""
        if self.heard in LOST:
            return "lost"
        if isinstance(self.outcome, Accepted) or self.heard in _TAKEN:
            return "accepted"
        return "refused" if isinstance(self.outcome, Rejected) else "uncertain"


@dataclass(frozen=True, slots=True)
class Result:
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
    later: Mapping[str, float] = field(default_factory=dict)
    refusals: int = 0  # how often the one that refused for now most often did so, earlier races included


@asynccontextmanager
async def race(
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
    later: Mapping[str, float] = MappingProxyType({}),
    refusals: int = 0,
    waits: bool = True,
) -> AsyncIterator[Result]:
    """Ask the providers of a plan and yield the result as soon as it is known.

    Leaving the block waits for those still under way.
    `start(provider, timeout_s)` makes one attempt; `record` is told of every one that ends, before or after the result.
    `switch=False`: whoever is silent is not followed, for somebody may have the message; only a sure failure is.
    `later`: providers that are not in the plan, and may be asked after so many seconds, when all in the plan have been.
    `refusals`: of earlier races with this message; the pauses go on growing from there.
    `waits=False`: nobody is waited for who may only be asked later; the result tells when.
    An error in the block, or a cancellation, cancels what is under way.
    """
    limits_s = (switch_after_s, attempt_timeout_s, deadline_s)
    running = _Race(plan, start, limits_s, record, turn, heard, switch, later, refusals, waits)
    try:
        yield await running.decide()
        await running.finish()
    finally:
        await running.cancel()


class _Race:
    def __init__(
        self,
        plan: Sequence[str],
        start: Start,
        limits_s: tuple[float, float, float],
        record: Callable[[Attempted], None],
        turn: Turn | None,
        heard: Heard | None,
        switch: bool,
        later: Mapping[str, float],
        refusals: int,
        waits: bool,
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self._start = start
        self._switch_after_s, self._attempt_timeout_s, deadline_s = limits_s
        self._deadline = self._clock() + deadline_s
        self._record = record
        self._turn = turn
        self._heard = heard
        self._switch = switch
        self._waits = waits
        self._to_come = deque(plan)
        # Who may be asked again, and from when on.
        self._later = {provider: self._clock() + seconds for provider, seconds in later.items()}
        self._refusals: defaultdict[str, int] = defaultdict(lambda: refusals)
        # Nobody else shall have the message: it is the number's fault, or somebody silent may have it.
        self._is_over = False
        # When the next one joins those that are silent.
        self._due = self._clock()
        self._under_way: dict[asyncio.Task[tuple[Outcome, float, ReceiptState | None]], str] = {}
        self._over: list[Attempted] = []
        # Under way still, and a receipt says that they come to nothing.
        self._lost: set[str] = set()
        self._winner: str | None = None

    async def decide(self) -> Result:
        """Go on until somebody has accepted, or nobody is left who could before the deadline."""
        while self._winner is None:
            next_at = self._next_at()
            if next_at is not None and next_at <= self._clock():
                self._start_next()
            elif self._under_way:
                ended = await self._ended(min(_LOOK_S, math.inf if next_at is None else next_at - self._clock()))
                for one in ended:
                    self._heed(one)
                if not ended:
                    await self._look()
            elif next_at is not None:
                await asyncio.sleep(next_at - self._clock())
            else:
                break
        now = self._clock()
        later = dict.fromkeys(self._to_come, now) | self._later
        return Result(
            self._kind(),
            self._winner,
            tuple(self._over),
            self._holders(),
            {provider: max(0.0, at - now) for provider, at in later.items()},
            max(self._refusals.values(), default=0),
        )

    async def finish(self) -> None:
        """Wait for the attempts that lost; each ends within its own time."""
        while self._under_way:
            await self._ended(None)

    async def cancel(self) -> None:
        """Leave no task behind."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _next_at(self) -> float | None:
        """When the next attempt starts if nothing ends before; None when none does."""
        if not self._switch and set(self._under_way.values()) - self._lost:
            return None  # silence is not followed where only a sure failure may be
        if self._to_come:
            return self._due if self._due < self._deadline else None
        if not self._waits:
            return None
        at = max(self._due, min(self._later.values(), default=math.inf))
        return at if at <= self._deadline - min(_LEAST_S, self._attempt_timeout_s) else None

    def _start_next(self) -> None:
        now = self._clock()
        provider = self._to_come.popleft() if self._to_come else min(self._later, key=self._later.__getitem__)
        self._later.pop(provider, None)
        patience_s = self._deadline - now
        if self._to_come:
            patience_s = min(patience_s, self._switch_after_s)
        self._due = now + self._switch_after_s
        self._under_way[asyncio.create_task(self._try(provider, patience_s))] = provider

    async def _try(self, provider: str, patience_s: float) -> tuple[Outcome, float, ReceiptState | None]:
        """Make one attempt when its turn comes; what it came to, in how many seconds, and what a receipt said of it."""
        if self._turn is not None and not await self._turn(provider, self._deadline, patience_s):
            return HELD, 0.0, None
        started = self._clock()
        if self._winner is not None or started >= self._deadline:
            return HELD, 0.0, None
        timeout_s = min(self._attempt_timeout_s, self._deadline - started)
        outcome = await _within(timeout_s, self._start(provider, timeout_s))
        seconds = self._clock() - started
        heard = None
        if self._heard is not None and not isinstance(outcome, Rejected):
            heard = await self._heard(provider, outcome)
        return outcome, seconds, heard

    async def _ended(self, wait_s: float | None) -> list[Attempted]:
        """Wait for attempts to end, at most `wait_s` seconds, and record those that did."""
        done, _ = await asyncio.wait(self._under_way, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        ended = []
        for task in done:
            provider = self._under_way.pop(task)
            attempted = Attempted(provider, *task.result()[:2], heard=task.result()[2])
            if attempted.came_to == "accepted":
                attempted = replace(attempted, duplicate=self._winner not in {None, provider})
                self._winner = self._winner or provider
            ended.append(attempted)
            self._record(attempted)
        self._over += ended
        return ended

    async def _look(self) -> None:
        """Has a receipt come of an attempt that is silent? Lost: the next one is asked, at once. Else it has won."""
        if self._heard is None:
            return
        for provider in set(self._under_way.values()) - self._lost:
            heard = await self._heard(provider, _SILENT)
            if heard in LOST:
                self._lost.add(provider)
                self._due = self._clock()
            elif heard in _TAKEN:
                self._winner = self._winner or provider

    def _heed(self, ended: Attempted) -> None:
        """Who is asked after this? Failed surely, or lost without an answer: the next one, at once."""
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
        self._refusals[provider] += 1
        pause_s = min(_MAX_PAUSE_S, _PAUSE_S * 2.0 ** min(self._refusals[provider] - 1, 16))
        return max(refusal.retry_after_s or 0.0, pause_s)

    def _holders(self) -> tuple[str, ...]:
        over = (attempted.provider for attempted in self._over if attempted.came_to != "refused")
        return tuple(dict.fromkeys([*over, *self._under_way.values()]))

    def _kind(self) -> Kind:
        if self._winner is not None:
            return "accepted"
        kinds = {attempted.came_to for attempted in self._over}
        return "uncertain" if "uncertain" in kinds else "lost" if "lost" in kinds else "refused"


async def _within(timeout_s: float, attempt: Awaitable[Outcome]) -> Outcome:
    try:
        async with asyncio.timeout(timeout_s + _GRACE_S):
            return await attempt
    except TimeoutError:
        return Uncertain("no_answer_in_time")
    except Exception as error:  # noqa: BLE001 - a fault in a provider's file must not lose the message
        return Uncertain(where(error))


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
    address = message.recipient.address
    # A vendor writes a number with its country code or without; its end is the same.
    for private in (message.code, address if message.recipient.channel == "email" else address[-_LAST_DIGITS:]):
        said = re.sub(re.escape(private), "*" * len(private), said, flags=re.IGNORECASE)
    return said
