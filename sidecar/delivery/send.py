"""How is a plan run? The hedged race: who is silent is joined, who fails is followed, who accepts first has won.

An attempt ends in one of three ways. Accepted: nobody else is asked. Rejected by a provider for its own reasons, or
lost without an answer: the next is asked at once. Rejected because of the number: nobody else is asked. An attempt is
never cut short for having lost: its message may be on its way, and its late answer is recorded.
No attempt starts after the deadline, and none is given more time than is left before it. An attempt may have to wait
for its turn; one whose turn does not come, or comes when another has won, was never made (`HELD`): the next is asked.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from sidecar.delivery.plan import Attempt
from sidecar.delivery.providers.seam import Accepted, Outcome, Rejected, Uncertain

# A provider keeps its own time, and knows better than we what a time-out means; one that does not is cut off this much
# later.
_GRACE_S: Final = 0.25

# Make one attempt at a provider within so many seconds.
Start = Callable[[str, float], Awaitable[Outcome]]
# May it start now? Waits at most `patience_s`, and never past `deadline`, which is in the loop's time.
Turn = Callable[[str, float, float], Awaitable[bool]]
# What an attempt comes to that was never made.
HELD: Final = Rejected("throttled", "no_turn")


@dataclass(frozen=True, slots=True)
class Attempted:
    """An attempt that is over. `duplicate`: another had been accepted, so the recipient gets the code twice."""

    provider: str
    outcome: Outcome
    seconds: float
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a race came to.

    accepted   `provider` has the message
    refused    every provider that was asked refused: nothing is on its way
    uncertain  somebody may have it, and nobody said so
    """

    kind: Literal["accepted", "refused", "uncertain"]
    provider: str | None
    attempts: tuple[Attempted, ...]
    asked: tuple[str, ...] = ()  # all that were, those still under way too


@asynccontextmanager
async def race(
    plan: Sequence[Attempt],
    start: Start,
    *,
    attempt_timeout_s: float,
    deadline_s: float,
    record: Callable[[Attempted], None],
    turn: Turn | None = None,
    switch: bool = True,
) -> AsyncIterator[Result]:
    """Run a plan and yield its result as soon as it is known; leaving the block waits for those still under way.

    `start(provider, timeout_s)` makes one attempt; `record` is told of every one that ends, before or after the result.
    `switch=False`: whoever is silent is not followed, for somebody may have the message; only a sure failure is.
    An error in the block, or a cancellation, cancels what is under way.
    """
    running = _Race(plan, start, attempt_timeout_s, deadline_s, record, turn, switch)
    try:
        yield await running.decide()
        await running.finish()
    finally:
        await running.cancel()


class _Race:
    def __init__(
        self,
        plan: Sequence[Attempt],
        start: Start,
        attempt_timeout_s: float,
        deadline_s: float,
        record: Callable[[Attempted], None],
        turn: Turn | None,
        switch: bool,
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self._start = start
        self._attempt_timeout_s = attempt_timeout_s
        self._deadline = self._clock() + deadline_s
        self._record = record
        self._turn = turn
        self._switch = switch
        self._asked: list[str] = []
        self._to_come = deque(plan)
        # When the next one joins those that are silent.
        self._due = self._clock()
        self._under_way: dict[asyncio.Task[tuple[Outcome, float]], str] = {}
        self._over: list[Attempted] = []
        self._winner: str | None = None

    async def decide(self) -> Result:
        """Go on until somebody has accepted, or nobody is left who could."""
        self._start_next()
        while self._under_way and self._winner is None:
            wait_s = max(0.0, self._due - self._clock()) if self._to_come and self._switch else None
            for ended in await self._ended(wait_s):
                if isinstance(ended.outcome, Rejected) and not ended.outcome.may_try_next:
                    self._to_come.clear()
                if not self._switch and isinstance(ended.outcome, Uncertain):
                    self._to_come.clear()
                if self._winner is None:
                    self._start_next()
            if self._winner is None and self._switch and self._clock() >= self._due:
                self._start_next()
        return Result(self._kind(), self._winner, tuple(self._over), tuple(self._asked))

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

    def _start_next(self) -> None:
        now = self._clock()
        if not self._to_come or now >= self._deadline:
            self._to_come.clear()
            return
        attempt = self._to_come.popleft()
        patience_s = self._deadline - now
        if self._to_come:
            patience_s = min(patience_s, self._to_come[0].offset_s - attempt.offset_s)
            self._due = now + patience_s
        self._under_way[asyncio.create_task(self._try(attempt.provider, patience_s))] = attempt.provider

    async def _try(self, provider: str, patience_s: float) -> tuple[Outcome, float]:
        """Make one attempt when its turn comes; what it came to, and how many seconds that took."""
        if self._turn is not None and not await self._turn(provider, self._deadline, patience_s):
            return HELD, 0.0
        started = self._clock()
        if self._winner is not None or started >= self._deadline:
            return HELD, 0.0
        self._asked.append(provider)
        timeout_s = min(self._attempt_timeout_s, self._deadline - started)
        outcome = await _within(timeout_s, self._start(provider, timeout_s))
        return outcome, self._clock() - started

    async def _ended(self, wait_s: float | None) -> list[Attempted]:
        """Wait for attempts to end, at most `wait_s` seconds, and record those that did."""
        done, _ = await asyncio.wait(self._under_way, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        ended = []
        for task in done:
            provider = self._under_way.pop(task)
            outcome, seconds = task.result()
            duplicate = isinstance(outcome, Accepted) and self._winner is not None
            if isinstance(outcome, Accepted) and self._winner is None:
                self._winner = provider
            ended.append(Attempted(provider, outcome, seconds, duplicate))
            self._record(ended[-1])
        self._over += ended
        return ended

    def _kind(self) -> Literal["accepted", "refused", "uncertain"]:
        if self._winner is not None:
            return "accepted"
        return "refused" if all(isinstance(a.outcome, Rejected) for a in self._over) else "uncertain"


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


def word(outcome: Outcome) -> str:
    """An outcome in the log's words: the vendor's own, never the message's."""
    if isinstance(outcome, Accepted):
        return outcome.provider_message_id
    if isinstance(outcome, Rejected):
        return f"{outcome.fault} ({outcome.vendor_code})"
    return outcome.reason
