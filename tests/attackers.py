"""What every attack needs: many at once, a wrong code, and what either of several instances' vendors was given."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from fakes import DEADLINE_S
from telling import Reply, Sidecar


async def at_once(count: int, ask: Callable[[int], Awaitable[Reply]]) -> list[Reply]:
    """Ask `count` times at once; `ask` is given which one it is."""
    return await asyncio.gather(*(ask(n) for n in range(count)))


def wrong(code: str) -> str:
    """Another code of the same length."""
    return code[:-1] + str((int(code[-1]) + 1) % 10)


async def code_of(sidecars: Sequence[Sidecar], to: str) -> str:
    """The code of the newest message to a number, whichever instance's vendor took it: all share one outbox."""
    waiting = [asyncio.create_task(sidecar.vendor.code(to)) for sidecar in sidecars]
    done, left = await asyncio.wait(waiting, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.wait(waiting)
    return next(iter(done)).result()
