"""Whose turn is it? Guarded work waits here, and gets a bounded slice of each turn of the event loop.

The law: plain traffic is served when its octets come, and no flood of guarded requests makes it wait for longer than a
slice. Work is done in the order in which it came: each has the same time to be answered in, so the oldest has the
earliest deadline. But whoever was refused last waits behind those who were not, and gets one turn in four while they
wait: a bot pays for its wrong captchas with its own time. Work that comes while many wait, the oldest for too long, is
not taken: it would not be answered in time. Bots that wait too long keep other bots out, and nobody else.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

# Of a turn of the loop, for work that begins: a few refusals, or one request that is read. What goes on after waiting
# (for the store, a vendor) comes besides, and so does reading what the answered send next, which is as much again.
SLICE_S: Final = 0.0002
# How often one who was refused last comes before one who was not.
_TURN_OF_REFUSED: Final = 4
# How long the oldest may have waited while more is taken. A burst of a launch is worked off; a flood that never ends is
# refused, and what was taken before is answered in time.
BEHIND_S: Final = 0.3
# So few are done within a few milliseconds, however long the oldest has waited: the machine stood still, not the line.
FEW: Final = 64


class Line:
    """The waiting line of one process. Must be made inside the loop. `clock` is in seconds, and never goes back."""

    def __init__(
        self,
        *,
        slice_s: float = SLICE_S,
        behind_s: float = BEHIND_S,
        few: int = FEW,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._slice_s = slice_s
        self._behind_s = behind_s
        self._few = few
        self._clock = clock
        self._first: deque[tuple[float, Callable[[], None]]] = deque()
        self._second: deque[tuple[float, Callable[[], None]]] = deque()
        self._done = 0
        self._has_turn = False

    def put(self, work: Callable[[], None], *, was_refused: bool = False) -> None:
        """Have it done when its turn comes. `was_refused`: whoever asks was, the last time."""
        if not self._has_turn:
            self._has_turn = True
            self._loop.call_soon(self._turn)
        (self._second if was_refused else self._first).append((self._clock(), work))

    def is_behind(self, *, was_refused: bool = False) -> bool:
        """True while more than a few wait, and the oldest has waited too long: no more of their like should be taken.

        `was_refused`: of those who were refused last, who wait by themselves.
        """
        line = self._second if was_refused else self._first
        return len(line) > self._few and self._clock() - line[0][0] > self._behind_s

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def _turn(self) -> None:
        until = self._clock() + self._slice_s
        try:
            while self._first or self._second:
                self._done += 1
                is_seconds = not self._first or (self._second and self._done % _TURN_OF_REFUSED == 0)
                _, work = (self._second if is_seconds else self._first).popleft()
                work()
                if self._clock() >= until:
                    break
        finally:  # work that raises, by a mistake, is the loop's to report, and no other work waits for ever
            self._has_turn = len(self) > 0
            if self._has_turn:
                self._loop.call_soon(self._turn)
