"""Where does a process spend its CPU time? A sampler for `--profile`: `python bench/profiled.py OUT ARGUMENTS…`, as signup-sidecar has them.

Every millisecond of CPU time it notes which functions are on the stack, from SIGUSR1 to SIGUSR2; so, unlike cProfile, it
costs the same whatever is called. What C code and the kernel do is told of the Python function that called them.
Writes one line a function: samples in it itself, samples in it and what it called, its name.
"""

import collections
import runpy
import signal
import sys
from pathlib import Path

own, within = collections.Counter(), collections.Counter()
out = Path(sys.argv[1])


def sample(_signal, frame):
    seen = set()
    own[frame.f_code] += 1
    while frame is not None:
        if frame.f_code not in seen:
            seen.add(frame.f_code)
            within[frame.f_code] += 1
        frame = frame.f_back


def begin(*_):
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)


def end(*_):
    signal.setitimer(signal.ITIMER_PROF, 0)
    lines = [f"{own[code]} {count} {name(code)}" for code, count in within.most_common()]
    partial = out.with_suffix(".part")
    partial.write_text("\n".join([f"{own.total()} {own.total()} all", *lines]))
    partial.rename(out)


def name(code):
    parts = Path(code.co_filename).parts
    return f"{'/'.join(parts[-2:])}:{code.co_firstlineno} {code.co_qualname}"


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    del sys.argv[1]
    runpy.run_module("sidecar", run_name="__main__", alter_sys=True)
