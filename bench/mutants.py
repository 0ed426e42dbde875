"""Would the tests notice? Changes one place of the program at a time, and runs the tests that run it.

    make mutants [MUTANTS="--count 400 --seed 7"]

Step 1: the suite runs once and says, test by test, which lines it runs. Step 2: of all places where the chosen modules
can be changed so many are drawn, with a seed. Step 3: each change is made in a copy of the tree, and the tests that run
its line are run there, the quick ones first, until one fails. Printed are the changes that no test noticed: each is a
missing test, or changes nothing (docs/testing.md says which).
"""

import argparse
import ast
import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# What decides: the gate, the readings, the proofs, the limits, the way of a message; and the way to the store.
MODULES = (
    "gate.py", "admitting.py", "front.py", "line.py", "turns.py", "admission.py", "intake.py", "routes.py", "spelling.py",
    "courier.py", "verification/*.py", "limits/*.py", "delivery/*.py", "store/*.py",
)  # fmt: skip
# A mutant that hangs is noticed, too: by pytest's own limit for one test, or by this one for all.
TEST_S = 20
LIMIT_S = 180.0

_OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


_tree = ROOT  # a worker's own copy of it
_sound: set[str] = set()  # the tests that it saw pass without a change


@dataclass(frozen=True)
class Mutant:
    """One change: in the file, from a node's first octet to its last."""

    path: str
    line: int
    start: int
    end: int
    new: str
    what: str
    function: range  # the lines of the function that it is in

    @property
    def change(self) -> str:
        """What is changed, whatever line it stands on by now."""
        return f"{self.what} -> {self.new!r}"


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every change that is made to a file: a comparison, a junction, a constant, a step left out."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    octets = text.encode()
    tree = ast.parse(text)
    # A hint decides nothing, nor does it that a dataclass is frozen and has slots; and a bound at the top of a module is a
    # matter of taste within a factor of two.
    hints = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    hints += [decorator for node in ast.walk(tree) for decorator in getattr(node, "decorator_list", ())]
    bounds = [node for node in tree.body if isinstance(node, ast.AnnAssign | ast.Assign)]
    functions = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    left_alone = {id(inner) for node in (*hints, *bounds) if node is not None for inner in ast.walk(node)}

    def change(node: ast.expr | ast.stmt, new: ast.AST | str, what: str) -> Mutant:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        written = new if isinstance(new, str) else f"({ast.unparse(new)})"
        return Mutant(
            str(path.relative_to(ROOT)),
            node.lineno,
            start,
            end,
            written,
            f"{what}: {octets[start:end].decode()!r} in {lines[node.lineno - 1].strip()!r}",
            min((each for each in functions if node.lineno in each), key=len, default=range(0)),
        )

    for node in ast.walk(tree):
        if id(node) in left_alone:
            continue
        match node:
            case ast.Compare(ops=[op]) if type(op) in _OTHER:
                other = ast.Compare(node.left, [_OTHER[type(op)]()], node.comparators)  # type: ignore[list-item]
                yield change(node, other, type(op).__name__)
            case ast.BoolOp():
                yield change(node, ast.BoolOp(_OTHER[type(node.op)](), node.values), "junction")  # type: ignore[arg-type]
            case ast.UnaryOp(op=ast.Not()):
                yield change(node, node.operand, "not")
            case ast.BinOp() if type(node.op) in _OTHER and not isinstance(node.left, ast.Constant | ast.JoinedStr):
                yield change(node, ast.BinOp(node.left, _OTHER[type(node.op)](), node.right), "operator")  # type: ignore[arg-type]
            case ast.Constant(value=bool(value)):
                yield change(node, str(not value), "constant")
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                yield change(node, str(number + 1), "constant")
            case ast.IfExp() | ast.If() | ast.While():
                yield change(node.test, f"(not ({ast.unparse(node.test)}))", "condition")
            case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise() | ast.Delete():
                yield change(node, "pass", "step left out")
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield change(node, "return None", "return")
            case ast.Break() | ast.Continue():
                yield change(node, "pass", "step left out")


def lines_of_tests(folder: Path) -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
    """Run the suite once: which tests run a line, and how many seconds each takes."""
    data, report = folder / "coverage", folder / "report.jsonl"
    plugin = folder / "seconds.py"
    plugin.write_text(
        "import json\n"
        f"file = open({str(report)!r}, 'w')\n"
        "def pytest_runtest_logreport(report):\n"
        "    if report.when == 'call' and report.passed:\n"
        "        print(json.dumps([report.nodeid, report.duration]), file=file, flush=True)\n"
    )
    # A test that fails on the unchanged program says nothing about a changed one: pytest names it, and it is left out.
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "seconds", "--cov=sidecar", "--cov-context=test", "--cov-report="],
        cwd=ROOT,
        env=os.environ | {"COVERAGE_FILE": str(data), "PYTHONPATH": str(folder)},
        check=False,
    )
    seconds = dict(json.loads(line) for line in report.read_text().splitlines())
    found: dict[tuple[str, int], set[str]] = {}
    with sqlite3.connect(data) as database:
        rows = database.execute(
            "select file.path, context.context, line_bits.numbits from line_bits"
            " join file on file.id = line_bits.file_id join context on context.id = line_bits.context_id"
        )
        for path, context, bits in rows:
            test = context.partition("|")[0]
            if test not in seconds:
                continue
            relative = str(Path(path).relative_to(ROOT))
            for octet, byte in enumerate(bits):
                for bit in range(8):
                    if byte >> bit & 1:
                        found.setdefault((relative, octet * 8 + bit), set()).add(test)
    return found, seconds


class First:
    """A plugin of pytest that writes the first test that fails to a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os.write(self.pipe, report.nodeid.encode() + b"\n")


def run(tree: Path, tests: list[str]) -> str | None:
    """Run tests in that copy of the tree, in a child that has the libraries loaded already.

    Returns the first that fails; "" where not even that can be said; None if all pass.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 3
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.chdir(tree)
            os.environ["PYTHONPATH"] = str(tree)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.path.insert(0, str(tree))
            import pytest

            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-o", f"timeout={TEST_S}"]
            code = int(pytest.main([*options, *tests], plugins=[First(writing)]))
        finally:
            os._exit(code)
    os.close(writing)
    until = time.monotonic() + LIMIT_S
    status = 1
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.02)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with_group(child)
    os.set_blocking(reading, False)
    try:
        failed = os.read(reading, 4096).decode().partition("\n")[0]
    except BlockingIOError:  # what the child has left running has the other end
        failed = ""
    os.close(reading)
    return failed if status else None


def with_group(child: int) -> None:
    """End what the child has left running: stores, sidecars."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


def take_tree(trees: "multiprocessing.Queue[Path]") -> None:
    """Give a worker its own copy of the tree."""
    global _tree  # noqa: PLW0603 - a worker is one process, and works in one tree
    _tree = trees.get()
    # Compiled once, here: a child compiles nothing but what is changed, and leaves that nowhere.
    subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cov"],
        cwd=_tree,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        | {"PYTHONPATH": str(_tree)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    if (failed := run(_tree, ["tests/test_routes.py"])) is not None:
        raise SystemExit(f"the tests do not pass without a change: {failed or 'pytest fails'}")


def judged(task: tuple[int, Mutant, list[str]]) -> tuple[int, str]:
    """Say what became of a mutant that these tests are shown, behind its number."""
    number, mutant, tests = task
    file = _tree / mutant.path
    octets = file.read_bytes()
    while tests:
        file.write_bytes(octets[: mutant.start] + mutant.new.encode() + octets[mutant.end :])
        try:
            failed = run(_tree, tests)
        finally:
            file.write_bytes(octets)
        if failed is None:
            return number, "unnoticed"
        # It counts only if the test passes without the change: in this tree, and now.
        if not failed or failed in _sound or run(_tree, [failed]) is None:
            _sound.add(failed)
            return number, "noticed"
        tests = [test for test in tests if test != failed]
    return number, "untested"


def judge(jobs: int, tasks: list[tuple[int, Mutant, list[str]]]) -> list[str]:
    """Run each mutant's tests, so many mutants at a time; what became of each."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        trees = fork.Queue()
        for number in range(jobs):
            tree = Path(folder) / str(number)
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", ".*_cache", "state", ".bench"))
            trees.put(tree)
        outcomes = [""] * len(tasks)
        with fork.Pool(jobs, take_tree, (trees,)) as pool:
            for done, (number, outcome) in enumerate(pool.imap_unordered(judged, tasks), 1):
                print(f"{done:4} {told(tasks[number][1], outcome)}", flush=True)
                outcomes[number] = outcome
        return outcomes


def told(mutant: Mutant, outcome: str) -> str:
    return f"{outcome:9} {mutant.path}:{mutant.line} {mutant.change}"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=400)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options.add_argument(
        "--seconds", type=float, default=90.0, help="of the tests that one mutant is shown, by the time they took"
    )
    options.add_argument("--only", default="", help="paths that contain this")
    options.add_argument("--again", default="", metavar="FILE", help="a report: only what it has as not noticed")
    options.add_argument(
        "--show", default=[], nargs="*", metavar="TEST", help="newer than step 1: shown to each mutant"
    )
    options.add_argument(
        "--lines", default="", metavar="FOLDER", help="where step 1 is kept, and taken from if it is there"
    )
    given = options.parse_args()

    # What the tests import is imported once; the program itself is not, or every child had the unchanged one.
    import aiohttp, altcha, cryptography, phonenumbers, prometheus_client, pydantic, redis, structlog, twilio.rest  # noqa: E401, F401

    assert not [name for name in sys.modules if name.startswith("sidecar")]
    # Two changes within a second, of one length, would share a compiled file.
    sys.dont_write_bytecode = True
    folder = Path(given.lines or tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    kept = folder / "lines.json"
    if kept.exists():
        raw = json.loads(kept.read_text())
        lines = {(path, line): set(tests) for path, line, tests in raw["lines"]}
        seconds = raw["seconds"]
    else:
        lines, seconds = lines_of_tests(folder)
        entries = [[path, line, sorted(tests)] for (path, line), tests in lines.items()]
        kept.write_text(json.dumps({"lines": entries, "seconds": seconds}))

    of_file: dict[str, set[str]] = {}
    for (path, _), tests in lines.items():
        of_file.setdefault(path, set()).update(tests)

    def show(mutant: Mutant) -> list[str]:
        shown, total = [], 0.0
        # Coverage has no test of a line that runs at import (a default), or only in a child process (an end), and loses
        # some in coroutines: then the function's tests are shown, or the whole file's.
        tests = lines.get((mutant.path, mutant.line), set())
        tests = tests or set().union(*(lines.get((mutant.path, line), ()) for line in mutant.function))
        tests = tests or of_file.get(mutant.path, set())
        for test in sorted(tests, key=lambda test: seconds[test]):
            total += seconds[test]
            if total > given.seconds:
                break
            shown.append(test)
        return [*given.show, *shown]

    files = sorted({file for pattern in MODULES for file in (ROOT / "sidecar").glob(pattern)})
    every = [mutant for file in files for mutant in mutants_of(file)]
    drawn = random.Random(given.seed).sample(every, min(given.count, len(every)))
    if given.again:  # the program may have changed since: not what would be drawn now, but the same changes
        before = [
            line.split(maxsplit=2) for line in Path(given.again).read_text().splitlines() if line.startswith("  un")
        ]
        missed = {(place.partition(":")[0], change) for _, place, change in before}
        drawn = [mutant for mutant in every if (mutant.path, mutant.change) in missed]
    drawn = [mutant for mutant in drawn if given.only in mutant.path]
    tasks = [(number, mutant, show(mutant)) for number, mutant in enumerate(drawn)]
    lines.clear()  # each test is run in a fork of this process, which shall be small
    gc.freeze()
    outcomes = judge(given.jobs, tasks)
    counts = ", ".join(f"{outcomes.count(word)} {word}" for word in ("noticed", "unnoticed", "untested"))
    print(f"\n{len(every)} places, {len(drawn)} drawn with seed {given.seed}: {counts}")
    print(f"score {100 * outcomes.count('noticed') / max(1, len(outcomes)):.1f} %")
    for mutant, outcome in zip(drawn, outcomes, strict=True):
        if outcome != "noticed":
            print(f"  {told(mutant, outcome)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
