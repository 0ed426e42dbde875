"""What does a decision of two buckets cost? Ours beside throttled-py and limits, on one Valkey: `make bench-limits`.

Each runs in turn in a process of its own on core 0 (`rivals/decisions.py`), the store on core 1; 64 decisions at a time.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import rig

NAMES = ("ours", "throttled-py", "limits")
PYTHON = rig.WORK / "limits" / "bin" / "python"  # where the rivals are
COLUMNS = (("decisions/s", "decisions", 0), ("CPU µs", "cpu", 1), ("of the store, µs", "store", 1))


def decided(one: rig.Contestant, path: Path, store_pid: int, seconds: float) -> None:
    """Let one decide for so long, on an empty store, and keep the figures."""
    before = rig.cpu_s(store_pid)
    python = sys.executable if one.name == "ours" else str(PYTHON)
    command = [
        "taskset",
        "-c",
        str(rig.TEST_CORE),
        python,
        str(rig.HERE / "rivals" / "decisions.py"),
        one.name,
        path,
        str(seconds),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(rig.HERE.parent)}
    )
    if done.returncode:
        raise rig.FailedRun(f"{one.name}: {done.stderr.splitlines()[-1]}")
    told = json.loads(done.stdout)
    count = told["decisions"]
    store = (
        (rig.cpu_s(store_pid) - before) * told["seconds"] / (told["seconds"] + 0.5)
    )  # it has warmed up for half a second
    one.note(decisions=count / told["seconds"], cpu=told["cpu_s"] / count * 1e6, store=store / count * 1e6)


def main() -> None:
    parser = rig.arguments(__doc__, seconds=4, runs=5)
    parser.set_defaults(only=",".join(NAMES))
    args = rig.parsed(parser)
    rig.WORK.mkdir(exist_ok=True)
    found = []
    for name in args.only.split(","):
        if name != "ours" and not PYTHON.exists():
            print(f"skipped: {name}: needs a venv in .bench/limits with it, redis[hiredis] and uvloop")
        else:
            found.append(rig.Contestant(name, 0))
    for one in rig.turns(found, args.runs):
        with rig.left_out_if_failed(), ExitStack() as stack:
            decided(one, *rig.store(stack, "limits"), args.seconds)
            print(f"{one.name}: {one.figures['decisions'][-1]:.0f} decisions/s", flush=True)
    print(f"\nmedians of {args.runs} interleaved runs of {args.seconds:g} s, 64 decisions at a time\n")
    print(rig.table(found, COLUMNS))
    by_name = {one.name: one for one in found}
    goals = [
        rig.Goal(f"decisions/s, × {name}", "5", lambda by, name=name: by["ours"].median("decisions") / by[name].median("decisions"), lambda x: x >= 5)
        for name in by_name if name != "ours"
    ]  # fmt: skip
    print(f"\n{rig.goals(found, *goals)}")


if __name__ == "__main__":
    main()
