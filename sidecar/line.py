"""Whose turn is it? Guarded work waits here, and gets a bounded slice of each turn of the event loop.

The law: plain traffic is served when its octets come, and no flood of guarded requests makes it wait for longer than a
slice. That holds for work that begins, and for each step of it after waiting for the store or a vendor, however many of
their answers come at once. Work is done in the order in which it came: each has the same time to be answered in, so the
oldest has the earliest deadline. So what goes on comes before what begins; or all who ask would be begun, and each
would wait for all others at each step. But whoever was refused last waits behind those who were not, and gets one turn
in four while they wait: a bot pays for its wrong captchas with its own time. So does what its owner knows to be
refused.

Work that could not begin in time is not taken: where some have waited to begin without a break for 0.1 s, no more may
wait than began in 0.3 s, as it went lately. So a burst is worked off; of a flood as much is taken as is done, and the
line neither grows nor runs empty. Bots in the line keep other bots out, and nobody else.
"""

import asyncio
import time
from asyncio.tasks import _enter_task as enter_task  # for others' tasks, as their documentation has it
from asyncio.tasks import _leave_task as leave_task
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

# Of a turn of the loop, while plain traffic is under way: a few refusals, or a few steps of what waits for the store in
# between. Reading what those send next who are answered in it comes besides, and is as much again.
SLICE_S: Final = 0.0003
# Besides, while no plain traffic is under way, for who was not refused last: steps that are taken in one turn ask the
# store in one write. A plain request that comes then waits once for so long.
MORE_S: Final = 0.003
# How often one who was refused last comes before one who was not.
_TURN_OF_REFUSED: Final = 4
# For how long work may wait to begin where more comes than is done.
BEHIND_S: Final = 0.3
# For so much of that some must have waited without a break: before, nobody knows how soon they begin.
_BUSY: Final = 1 / 3
# So few may always wait: they are begun within a few milliseconds.
FEW: Final = 64
# As long as this, but not longer, a turn of the loop may take: then the machine stood still, and not the line.
_MOST_S: Final = 0.05
# What is "lately": of a longer time, each half counts half as much as the one after it.
_LATELY_S: Final = 2.0


class _Lane:
    """Those who were refused last, or those who were not.

    `new` waits to begin, `begun` to go on. `begins`: how many have begun since `busy_since`, from when on some have
    waited to begin, by the line's own time.
    """

    __slots__ = ("begins", "begun", "busy_since", "new")

    def __init__(self) -> None:
        self.new: deque[Callable[[], None]] = deque()
        self.begun: deque[Steps] = deque()
        self.begins = 0.0
        self.busy_since = 0.0


class Line:
    """The waiting line of one process. Must be made inside the loop. `clock` is in seconds, and never goes back.

    `slice_s`: of a turn of the loop; `more_s`: of one beside no plain traffic, for who was not refused.
    """

    def __init__(
        self,
        *,
        slice_s: float = SLICE_S,
        more_s: float = MORE_S,
        behind_s: float = BEHIND_S,
        few: int = FEW,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.plain = 0  # how much plain traffic is under way, which its owner counts
        self._slice_s, self._more_s = slice_s, more_s
        self._behind_s = behind_s
        self._few = few
        self._clock = clock
        self._first = _Lane()  # who was not refused
        self._second = _Lane()
        self._time = 0.0  # the line's own: the clock's, without what the machine stood still
        self._turned = 0.0  # when the last turn began, by the clock
        self._contested = 0  # turns that were had while some of those waited who were refused
        self.has_turn = False  # one of the loop is coming, or there

    def put(self, work: Callable[[], None], *, was_refused: bool = False) -> None:
        """Have work begun when its turn comes. `was_refused`: whoever asks was, the last time, or surely will be."""
        lane = self._second if was_refused else self._first
        if not lane.new:
            lane.begins, lane.busy_since = 0.0, self._time
        lane.new.append(work)
        if not self.has_turn:
            self.have_turn()

    def begin(
        self, coroutine: Coroutine[Any, Any, None], running: "Running", *, was_refused: bool = False
    ) -> "Steps | None":
        """Take a coroutine's first step now, and each later one in its turn. Call it in a turn.

        Gives what can be cancelled; None where the first step was the last. `running` has it until then. Raises what
        the first step raises.
        """
        steps = Steps(self, self._second if was_refused else self._first, coroutine, running)
        steps.take()
        return steps if steps in running else None

    def go_on_with(self, coroutine: Coroutine[Any, Any, None], running: "Running") -> None:
        """Take a coroutine's every step in its turn, the first one, too: it goes on with what was begun in another."""
        Steps(self, self._first, coroutine, running).wait()

    def have_turn(self) -> None:
        """Have a turn of the loop, where none is coming yet: work has come."""
        self.has_turn = True
        self._turned = self._clock()
        self.loop.call_soon(self._turn)

    def is_behind(self, *, was_refused: bool = False, most: float = 1.0) -> bool:
        """True while more wait to begin than can in time: no more of their like should be taken.

        `was_refused`: of those who were refused last, who wait by themselves. `most`: so many times as many may wait.
        """
        lane = self._second if was_refused else self._first
        waiting, busy_s = len(lane.new), self._time - lane.busy_since
        if waiting <= self._few or busy_s < self._behind_s * _BUSY:
            return False
        if busy_s > _LATELY_S:
            busy_s, lane.begins = busy_s / 2, lane.begins / 2
            lane.busy_since = self._time - busy_s
        return waiting * busy_s >= lane.begins * self._behind_s * most

    def __len__(self) -> int:
        return sum(len(lane.begun) + len(lane.new) for lane in (self._first, self._second))

    def _turn(self) -> None:
        try:
            now = self._clock()
            self._time += min(now - self._turned, _MOST_S)
            self._turned = now
            if not self.plain:
                self._work(now + self._more_s, of_all=False)
            self._work(self._clock() + self._slice_s, of_all=True)
        finally:  # work that raises, by a mistake, is the loop's to report, and no other work waits for ever
            self.has_turn = len(self) > 0
            if self.has_turn:
                self.loop.call_soon(self._turn)

    def _work(self, until: float, *, of_all: bool) -> None:
        """Do work until that time, or until none waits of who was not refused; `of_all`: nor of who was."""
        clock, first, second = self._clock, self._first, self._second
        begun, new = first.begun, first.new
        while begun or new or (of_all and (second.begun or second.new)):
            lane = first
            if (second.begun or second.new) and self._is_turn_of_refused():
                lane = second
            if lane.begun:
                lane.begun.popleft().take()
            else:
                lane.begins += 1
                lane.new.popleft()()
            if clock() >= until:
                break

    def _is_turn_of_refused(self) -> bool:
        """Say, while some wait who were refused last, whether one of them has the next turn."""
        first = self._first
        self._contested += 1
        return not (first.begun or first.new) or self._contested % _TURN_OF_REFUSED == 0


class Running:
    """What its owner has begun and has not ended. The loop itself keeps none of it."""

    def __init__(self) -> None:
        self._steps: set[Steps] = set()
        self._is_over = asyncio.Event()

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, steps: "Steps") -> bool:
        return steps in self._steps

    def add(self, steps: "Steps") -> None:
        """Some have begun."""
        self._steps.add(steps)

    def end(self, steps: "Steps") -> None:
        """They have come to their end."""
        self._steps.discard(steps)
        if not self._steps:
            self._is_over.set()

    def cancel(self) -> None:
        """Break all of it off."""
        for steps in list(self._steps):
            steps.cancel()

    async def over(self) -> None:
        """Wait until all of it has ended."""
        while self._steps:
            self._is_over.clear()
            await self._is_over.wait()

    async def drain(self, timeout_s: float) -> None:
        """Wait at most so many seconds until all of it has ended, and break off what has not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.over()
        self.cancel()
        await self.over()


class Steps:
    """A coroutine under way, each step in its turn, where a task would take it in the loop's next one.

    To what asks for the current task (`asyncio.timeout`) it is one, as the Python documentation lets others' tasks be
    ("Extending", docs.python.org/3/library/asyncio-extending.html). Nobody can await it, and it has no context of its
    own: what is done in a turn is done for whoever's turn it is.
    """

    __slots__ = ("_cancels", "_coroutine", "_is_cancelled", "_lane", "_line", "_running", "_waits_for")

    def __init__(self, line: Line, lane: _Lane, coroutine: Coroutine[Any, Any, None], running: Running) -> None:
        self._line = line
        self._lane = lane
        self._coroutine = coroutine
        self._running = running
        self._waits_for: asyncio.Future[Any] | None = None  # or waited for, and has it
        self._is_cancelled = False  # which its next step is told
        self._cancels = 0
        running.add(self)

    def take(self) -> None:
        """Take one step."""
        loop = self._line.loop
        enter_task(loop, self)  # type: ignore[arg-type]
        try:
            if self._is_cancelled:
                self._is_cancelled = False
                waits_for = self._coroutine.throw(asyncio.CancelledError())
            else:
                waits_for = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._running.end(self)
            return
        except BaseException:
            self._running.end(self)
            raise
        finally:
            leave_task(loop, self)  # type: ignore[arg-type]
        if waits_for is None:  # it only lets others go first
            self.wait()
            return
        self._waits_for = waits_for
        waits_for._asyncio_future_blocking = False  # noqa: SLF001 - a task would say so, too
        waits_for.add_done_callback(self.wait)
        if self._is_cancelled and waits_for.cancel():
            self._is_cancelled = False

    def wait(self, _: object = None) -> None:
        """Wait in line for the next step: what it waited for, if anything, has come."""
        self._lane.begun.append(self)
        if not self._line.has_turn:
            self._line.have_turn()

    # What is asked of a current task…

    def cancel(self, msg: object = None) -> bool:
        """Have it told at its next step, and that step come: what it waits for is cancelled."""
        self._cancels += 1
        if self._waits_for is None or not self._waits_for.cancel(msg):
            self._is_cancelled = True
        return True

    def done(self) -> bool:
        """True when it has come to its end: a TaskGroup in it asks before it cancels it for a child that failed."""
        return self not in self._running

    def cancelling(self) -> int:
        """How often it was cancelled, and not taken back."""
        return self._cancels

    def uncancel(self) -> int:
        """Take a cancellation back, that somebody has heard; gives how many are left."""
        self._cancels = max(0, self._cancels - 1)
        if not self._cancels:
            self._is_cancelled = False
        return self._cancels
