"""What is alive inside a process of the sidecar? Python loads this by itself where PYTHONPATH names its folder.

SIGUSR1 has a process write `$SOAK_TOLD/PID.json`: its tasks by the function that each runs, its objects by type (those
made since it was forked), and the modules that it has loaded. `soak.py` compares them from before and after. It takes some 50 ms, so it is asked in quiet alone.
"""

import asyncio
import collections
import gc
import json
import os
import signal
import sys
from pathlib import Path


def tell(*_):
    tasks = collections.Counter()
    try:
        tasks.update(task.get_coro().__qualname__ for task in asyncio.all_tasks(asyncio.get_running_loop()))
    except RuntimeError:  # no loop runs
        pass
    gc.collect()
    objects = collections.Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    path = Path(os.environ["SOAK_TOLD"]) / f"{os.getpid()}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"tasks": tasks, "objects": objects, "modules": sorted(sys.modules)}))
    part.rename(path)


def listen():
    signal.signal(signal.SIGUSR1, tell)


if "SOAK_TOLD" in os.environ:
    listen()
    os.register_at_fork(after_in_child=listen)
