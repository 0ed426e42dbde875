"""When may this provider be asked again? Whoever must wait for an account's `rate` stands in line, by deadline.

A rate is a bucket in the store that holds one, so no worker, and not all of them together, ever send faster, not even
in a burst. Whoever cannot have a turn in time is told so at once, and does not hold up those behind.
"""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from sidecar.errors import StoreError

# The store is away, and nobody may go: look again then.
_AWAY_S: Final = 0.2

# Take one from a provider's bucket: 0.0 when it was there, else the seconds until one will be.
Take = Callable[[str], Awaitable[float]]


@dataclass(order=True, slots=True)
class _Waiting:
    """One in line. Ordered by when its message must have gone."""

    deadline: float
    number: int
    turn: asyncio.Future[bool] = field(compare=False)


@dataclass(slots=True)
class _Line:
    waiting: list[_Waiting] = field(default_factory=list)
    server: asyncio.Task[None] | None = None


class Rates:
    """The lines of one process. Providers without a rate have none."""

    def __init__(self, limited: frozenset[str], take: Take) -> None:
        self._take = take
        self._lines = {provider: _Line() for provider in limited}
        self._numbers = itertools.count()

    def limits(self, provider: str) -> bool:
        """Tell whether a provider has a rate."""
        return provider in self._lines

    async def turn(self, provider: str, deadline: float, patience_s: float) -> bool:
        """Wait for a turn, at most `patience_s`; False when none came. `deadline` is in the loop's time."""
        line = self._lines.get(provider)
        if line is None:
            return True
        loop = asyncio.get_running_loop()
        mine = _Waiting(deadline, next(self._numbers), loop.create_future())
        heapq.heappush(line.waiting, mine)
        if line.server is None or line.server.done():
            line.server = asyncio.create_task(self._serve(provider, line))
        try:
            async with asyncio.timeout(min(patience_s, deadline - loop.time())):
                return await mine.turn
        except TimeoutError:
            return False  # and its future is cancelled: the line passes over it

    async def close(self) -> None:
        """Send everybody away."""
        for line in self._lines.values():
            if line.server is not None:
                line.server.cancel()
                await asyncio.wait([line.server])

    async def _serve(self, provider: str, line: _Line) -> None:
        clock = asyncio.get_running_loop().time
        while _first(line.waiting):
            try:
                wait_s = await self._take(provider)
            except StoreError:
                wait_s = _AWAY_S
            first = _first(line.waiting)
            if first is None:
                return  # the turn is lost, which is slower than the rate, never faster
            if not wait_s:
                heapq.heappop(line.waiting).turn.set_result(True)
            elif clock() + wait_s >= first.deadline:
                heapq.heappop(line.waiting).turn.set_result(False)
            else:
                await asyncio.sleep(wait_s)


def _first(waiting: list[_Waiting]) -> _Waiting | None:
    """The one whose message must go first, of those still waiting."""
    while waiting and waiting[0].turn.done():
        heapq.heappop(waiting)
    return waiting[0] if waiting else None
