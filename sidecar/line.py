"""Whose turn is it? Guarded work waits here, and gets a bounded slice of each turn of the event loop.

The law: plain traffic is served when its octets come, and no flood of guarded requests makes it wait for longer than a
slice. That holds for work that begins, and for each step of it after waiting for the store or a vendor, however many of
their answers come at once. Work is done in the order in which it came: each has the same time to be answered in, so the
oldest has the earliest deadline. So what goes on comes before what begins; or all who ask would be begun, and each
would wait for all others at each step. But whoever was refused last waits behind those who were not, and gets one turn
in four while they wait: a bot pays for its wrong captchas with its own time. Work that comes while many wait to begin,
the oldest for too long, is not taken: it would not be answered in time. Bots that wait too long keep other bots out,
and nobody else.
"""

import asyncio
import contextvars
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

# Of a turn of the loop: a few refusals, or a few steps of what waits for the store in between. Reading what those send
# next who are answered in it comes besides, and is as much again.
SLICE_S: Final = 0.0003
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
        # What waits to begin, and what waits to go on: of those who were not refused last, and of those who were.
        self._first: deque[tuple[float, Callable[[], None]]] = deque()
        self._second: deque[tuple[float, Callable[[], None]]] = deque()
        self._first_begun: deque[Callable[[], None]] = deque()
        self._second_begun: deque[Callable[[], None]] = deque()
        self._waiting = 0
        self._done = 0
        self._has_turn = False

    def put(self, work: Callable[[], None], *, was_refused: bool = False, has_begun: bool = False) -> None:
        """Have work done when its turn comes.

        `was_refused`: whoever asks was, the last time. `has_begun`: it goes on with what was begun in an earlier turn.
        """
        if not self._has_turn:
            self._has_turn = True
            self._loop.call_soon(self._turn)
        self._waiting += 1
        if has_begun:
            (self._second_begun if was_refused else self._first_begun).append(work)
        else:
            (self._second if was_refused else self._first).append((self._clock(), work))

    def begin(self, coroutine: Coroutine[Any, Any, None], *, was_refused: bool = False) -> asyncio.Task[None] | None:
        """Take a coroutine's first step now, and each later one in its turn. Call it in a turn.

        Gives the task that takes the later steps; None where the first step was the last. The first step has no task,
        so there is no `asyncio.timeout` before the coroutine has waited once. Raises what the first step raises.
        """
        steps = self._in_turns(coroutine, was_refused)
        try:
            steps.send(None)
        except StopIteration:
            return None
        return self._loop.create_task(steps)

    async def _in_turns(self, coroutine: Coroutine[Any, Any, None], was_refused: bool) -> None:
        """Take a coroutine's steps: the first as this is begun, each other one when its turn has come."""
        cancelled: asyncio.CancelledError | None = None
        has_task = False
        while True:
            try:
                waits_for = coroutine.send(None) if cancelled is None else coroutine.throw(cancelled)
            except StopIteration:
                return
            finally:
                cancelled = None  # it holds this frame, by its traceback
            try:
                if not has_task:
                    has_task = True
                    await _pause()
                await _Turn(self, waits_for, was_refused)
            except asyncio.CancelledError as error:
                cancelled = error

    def is_behind(self, *, was_refused: bool = False) -> bool:
        """True while more than a few wait, and the oldest has waited too long: no more of their like should be taken.

        `was_refused`: of those who were refused last, who wait by themselves.
        """
        line = self._second if was_refused else self._first
        return len(line) > self._few and self._clock() - line[0][0] > self._behind_s

    def __len__(self) -> int:
        return self._waiting

    def _turn(self) -> None:
        until = self._clock() + self._slice_s
        try:
            while self._waiting:
                self._next()()
                if self._clock() >= until:
                    break
        finally:  # work that raises, by a mistake, is the loop's to report, and no other work waits for ever
            self._has_turn = self._waiting > 0
            if self._has_turn:
                self._loop.call_soon(self._turn)

    def _next(self) -> Callable[[], None]:
        """Take the work whose turn it is out of the line; some waits."""
        self._waiting -= 1
        self._done += 1
        first, second = self._first_begun or self._first, self._second_begun or self._second
        is_seconds = not first or (second and self._done % _TURN_OF_REFUSED == 0)
        begun, new = (self._second_begun, self._second) if is_seconds else (self._first_begun, self._first)
        return begun.popleft() if begun else new.popleft()[1]


@types.coroutine
def _pause() -> Generator[None, None, None]:
    """Wait until whoever has begun a coroutine by hand has made a task of it."""
    yield


class _Turn:
    """What a task waits for in place of `waits_for`: that this is done, and that its turn in the line has come.

    A future, as far as a task is concerned (`asyncio.isfuture`: any object with `_asyncio_future_blocking`). A real one
    would have the loop wake the task, in the loop's next turn and with all others that are done by then; this one wakes
    it in the line's slice. `waits_for` is None where a coroutine only lets others go first.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_line", "_waits_for", "_wake", "_was_refused")

    def __init__(self, line: Line, waits_for: "asyncio.Future[Any] | None", was_refused: bool) -> None:
        self._asyncio_future_blocking = True
        self._line = line
        self._waits_for = waits_for
        self._was_refused = was_refused

    def __await__(self) -> Generator["_Turn", None, None]:
        yield self

    # What a task asks of it…

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._line._loop  # noqa: SLF001 - the line's own

    def add_done_callback(self, wake: Callable[["_Turn"], None], *, context: contextvars.Context) -> None:
        self._wake, self._context = wake, context
        if self._waits_for is None:
            self._queue()
        else:
            self._waits_for._asyncio_future_blocking = False  # noqa: SLF001 - a task would have said so
            self._waits_for.add_done_callback(self._queue)

    def cancel(self, msg: object = None) -> bool:
        """Cancel what is waited for; where that is done, the task itself has to be cancelled, once its turn comes."""
        return self._waits_for is not None and self._waits_for.cancel(msg)

    def result(self) -> None:
        """Tell the task nothing: the coroutine asks what it has waited for itself."""

    # …and what becomes of it.

    def _queue(self, _: object = None) -> None:
        self._line.put(self._come, was_refused=self._was_refused, has_begun=True)

    def _come(self) -> None:
        self._context.run(self._wake, self)
