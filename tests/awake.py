"""How long did it take, of the time that this machine had for us? What bounds a time from above measures by it.

A shared machine stands still for half a second now and then, or gives others its turns; no bound of a test speaks of
that. So a thread looks at the clock all the time, and of the time between two looks only so much counts as they lie
apart while it runs as it should. What waits too long, or holds up the loop, is seen as well as by the wall clock.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_LOOK_S: Final = 0.005
_MOST_S: Final = 4 * _LOOK_S


@contextmanager
def awake() -> Iterator[Callable[[], float]]:
    """Yield a clock that starts at 0: the seconds since then in which the machine was there for us."""
    counted_s = 0.0
    over = threading.Event()

    def look() -> None:
        nonlocal counted_s
        before = time.monotonic()
        while not over.wait(_LOOK_S):
            now = time.monotonic()
            counted_s += min(now - before, _MOST_S)
            before = now

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield lambda: counted_s
    finally:
        over.set()
        looking.join()


def cpu_s(does: Callable[[], object]) -> float:
    """Give the CPU time that something costs, without what the garbage of all the tests before costs."""
    gc.disable()
    try:
        began = time.thread_time()
        does()
        return time.thread_time() - began
    finally:
        gc.enable()
