"""Which tasks live as long as the process, and where does the process stand: starting, serving, draining?

The law: a long-lived task that ends, however it ends, is started again, at first soon and then after growing pauses,
and the log, a metric and readyz say so. A task that ended unseen would break every promise while the probe says
"ready".
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog
import uvloop

from sidecar.errors import CannotRunError

# The pause before a task is started again: at first, and at most. One that ran for longer than the second is well.
_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 30.0
# How long a process counts as starting while its store was never reached: then it serves what needs no store.
_STARTING_S: Final = 5.0


class Life:
    """One process's life. `task_ended` is told the name of each long-lived task that ended and should not have."""

    def __init__(self, task_ended: Callable[[str], None] = lambda _name: None) -> None:
        self.is_draining = False
        self._task_ended = task_ended
        self._ends_at = 0.0
        self._began = time.monotonic()
        self._is_started = False
        self._ended: dict[str, str] = {}

    @property
    def ended(self) -> Mapping[str, str]:
        """The long-lived tasks that do not run now, each with the kind of its error; they are started again soon."""
        return self._ended

    def drain(self, within_s: float) -> None:
        """Begin to drain: all is over by then."""
        self.is_draining = True
        self._ends_at = time.monotonic() + within_s

    @property
    def left_s(self) -> float:
        """What is left of the time to drain."""
        return max(0.0, self._ends_at - time.monotonic())

    def is_starting(self, *, is_store_reached: bool) -> bool:
        """Return true until the store was first reached, for five seconds at most."""
        self._is_started = self._is_started or is_store_reached or time.monotonic() - self._began >= _STARTING_S
        return not self._is_started

    def keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], is_over: Callable[[], bool] = lambda: False
    ) -> asyncio.Task[None]:
        """Run `work` until the task that this gives is cancelled; when it ends, `is_over` says whether it should."""
        return asyncio.create_task(self._keep(name, work, is_over), name=name)

    async def _keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], is_over: Callable[[], bool]
    ) -> None:
        pause_s = _PAUSE_S
        while True:
            began = time.monotonic()
            task = asyncio.create_task(work(), name=name)
            try:
                # Not awaited itself: a task that a library cancelled by mistake must not look like this one.
                await asyncio.wait([task])
            finally:
                await ended(task)
            if is_over():
                return
            if time.monotonic() - began > _MAX_PAUSE_S:
                pause_s = _PAUSE_S
            error = None if task.cancelled() else task.exception()
            self._ended[name] = type(error).__name__ if error else "cancelled" if task.cancelled() else "returned"
            structlog.get_logger().error(
                "task_ended", task=name, again_in_s=pause_s, error=self._ended[name], exc_info=error
            )
            self._task_ended(name)
            try:
                await asyncio.sleep(pause_s)
            finally:
                del self._ended[name]
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def exit_code_of(serving: Coroutine[Any, Any, None]) -> int:
    """Run the loop of a process until it has served, and give its exit code: 1 where it could not, or broke."""
    try:
        uvloop.run(serving)
    except (OSError, ValueError, CannotRunError) as error:
        structlog.get_logger().error("cannot_run", error=str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - told by type and place, as Python would not tell it
        structlog.get_logger().critical("crashed", exc_info=error)
        return 1
    return 0
