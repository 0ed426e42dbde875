"""What does one command to the store cost? CPU time of this process, and what passes in a second.

    .venv/bin/python bench/wire.py            # an embedded store of its own, on uvloop, as the sidecar runs
    .venv/bin/python bench/wire.py --seconds 4

GET, and a decision on two buckets (`Buckets.spend`), by one caller after the other and by 64 at once. The server's own
time is not counted: it is another process. Pin it for figures to compare: `taskset -c 0`.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from sidecar.config import model
from sidecar.limits.buckets import Buckets, Meter
from sidecar.store.client import Store
from sidecar.store.embedded import embedded


async def measured(what: str, do: Callable[[], Awaitable[object]], callers: int, seconds: float) -> None:
    """Have so many callers do it again and again, and print what one cost."""
    done = 0
    until = time.perf_counter() + seconds

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await do()
            done += 1

    await do()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what:24} {callers:3} callers  {cpu / done * 1e6:6.1f} us CPU each  {done / wall:9,.0f}/s", flush=True)


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with embedded(Path(directory)) as url:
            store = Store(url)
            buckets = Buckets(store)
            limit = model.Limit(key="ip", rate="1000000/1s")
            two = [Meter.of(name, limit, store.names).bucket("hash") for name in ("a", "b")]
            key = store.names.current("nobody")
            for callers in (1, 64):
                await measured("GET", lambda: store.execute(key, "GET", key), callers, seconds)
                await measured("spend two buckets", lambda: buckets.spend(two), callers, seconds)
            await store.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=2.0)
    uvloop.run(main(arguments.parse_args().seconds))
