"""Who is measured, where, and how is it told? The processes, their cores and the table that all benches share.

What is under test runs on core 0; the load, upstream, the vendors and the store run on core 1, for every contestant alike.
Loopback only. Linux only: it reads /proc.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE.parent / ".bench"
TEST_CORE, LOAD_CORE = 0, 1
CONTESTANTS = ("ours", "express")
PROFILE = WORK / "ours.profile"


def free_port() -> int:
    """A port that nobody listens on, so that two benches at once do not ask each other's servers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


UPSTREAM, SITEVERIFY, TWILIO = free_port(), free_port(), free_port()

NGINX = """daemon off; worker_processes 1; pid {work}/{name}.pid; error_log {work}/{name}.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_max_body_size 0; client_body_temp_path {work}/{name}.body;
  proxy_temp_path {work}/{name}.proxy; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
  {http}
}}
"""
SERVES = """server {{ listen 127.0.0.1:{port};
  location / {{ default_type application/json; return 200 '{{"id": 1, "name": "a small answer"}}'; }}
  location /big {{ root {work}; }}
}}"""
# Everybody may send as often as `ip_rate` says; the captcha's own limit on wrong tokens is out of the way, for all of the
# load comes from a few addresses.
SIDECAR = """[server]
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
state_dir = "{work}/state-{port}"
{server}trusted_proxies = ["127.0.0.0/8"]
[upstream]
url = "http://127.0.0.1:{upstream}"
[store]
url = "{store}"
[code]
ttl = "10m"
[captcha.turnstile]
kind = "turnstile"
secret = "1x0000000000000000000000000000000AA"
hostname = "www.example.com"
endpoint = "http://127.0.0.1:{siteverify}/turnstile/v0/siteverify"
failures = "1000000/1s"
[limits.ip]
key = "ip"
rate = "{ip_rate}"
[limits.to]
key = "to"
rate = "1/60s"
[providers.twilio]
kind = "twilio"
account_sid = "AC00000000000000000000000000000000"
auth_token = "a secret of the bench"
from = "+15005550006"
endpoint = "http://127.0.0.1:{twilio}"
[[delivery]]
providers = ["twilio"]
[api]
captcha = ""
limits = []
[[routes]]
match = "POST /api/sms"
action = "send"
to = "json:phone"
captcha = "turnstile"
captcha_token = "json:captcha"
limits = ["ip", "to"]
[[routes]]
match = "POST /api/codes"
action = "send"
to = "json:phone"
limits = []
[[routes]]
match = "POST /api/register"
action = "verify"
to = "json:phone"
code = "json:code"
"""


# Processes…


@contextmanager
def running(
    core: int | str, command: list[str], address: int | Path, cwd: Path = WORK
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on one core, or on several ("0,1"), until the block ends. `address` is what it listens on: a port, or a unix socket's path."""
    name = Path(command[0]).name
    family, where = (
        (socket.AF_INET, ("127.0.0.1", address)) if isinstance(address, int) else (socket.AF_UNIX, str(address))
    )
    log_name = WORK / f"{name}-{address if isinstance(address, int) else address.parent.name}.log"
    with log_name.open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=cwd
        )
        try:
            until = time.monotonic() + 20
            while True:
                with suppress(OSError), socket.socket(family) as probe:
                    probe.connect(where)
                    break
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{name} did not start: see {log_name}")
                time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_s(pid: int) -> float:
    """The CPU time that a process and its children have taken, to the nanosecond."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return time.clock_gettime(~pid << 3 | 2) + sum(cpu_s(int(child)) for child in children)  # clock_getcpuclockid(3)


class Spent:
    """What has been spent since this was made: CPU time of a contestant and its store, and of core 1 by all that is ours."""

    def __init__(self, one: "Contestant") -> None:
        self._one, self._began, self._before = one, time.perf_counter(), self._read(one)

    @staticmethod
    def _read(one: "Contestant") -> tuple[float, float, float]:
        store_s = cpu_s(one.store_pid)
        return (
            cpu_s(one.pid),
            store_s,
            store_s + sum(time.process_time() if pid == os.getpid() else cpu_s(pid) for pid in one.load_pids),
        )

    def per(self, count: int) -> dict[str, float]:
        """By the figures' names: µs an operation, and the share of core 1."""
        cpu, store_cpu, load = (now - before for now, before in zip(self._read(self._one), self._before, strict=True))
        share = load / (time.perf_counter() - self._began)
        return {"cpu": cpu / count * 1e6, "store": store_cpu / count * 1e6, "core1": share}


def nginx_command(name: str, port: int, http: str) -> list[str]:
    """Write nginx's configuration; return its command."""
    path = WORK / f"{name}-{port}.conf"
    path.write_text(NGINX.format(work=WORK, name=f"{name}-{port}", http=http))
    return [shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx", "-c", str(path)]


def store(stack: ExitStack, name: str) -> tuple[Path, int]:
    """Start an empty store on the load's core, set up as the embedded one is; return its socket and its process."""
    from sidecar.store.embedded import (  # here, so that others can import this file
        find_server,
        server_arguments,
    )

    home = WORK / f"store-{name}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    path = home / "valkey.sock"
    command = [str(find_server()), *server_arguments()]
    return path, stack.enter_context(running(LOAD_CORE, command, path, home)).pid


# Contestants…


@dataclass
class Contestant:
    """One whose work is measured. `figures`: what each run came to, by the figure's name; the table gives medians."""

    name: str
    port: int
    pid: int = 0
    store_pid: int = 0
    load_pids: tuple[int, ...] = ()
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def note(self, **figures: float) -> None:
        """Keep what a run came to."""
        for name, value in figures.items():
            self.figures[name].append(value)

    def median(self, figure: str) -> float:
        """The median of all runs; NaN where there was none."""
        return statistics.median(self.figures[figure]) if self.figures[figure] else float("nan")


def sidecar_command(
    source: Path, python: str, port: int, store_url: str, ip_rate: str, is_profiled: bool, more: str, server: str = ""
) -> list[str]:
    """Write a sidecar's configuration, `server` at the end of its first table, `more` at its own; return its command."""
    path = WORK / f"guarded-{port}.toml"
    shutil.rmtree(WORK / f"state-{port}", ignore_errors=True)
    path.write_text(
        SIDECAR.format(
            **dict(port=port, admin=free_port(), work=WORK, store=store_url, ip_rate=ip_rate),
            server=server,
            **dict(upstream=UPSTREAM, siteverify=SITEVERIFY, twilio=TWILIO),
        )
        + more
    )
    how = [str(HERE / "profiled.py"), str(PROFILE)] if is_profiled else ["-m", "sidecar"]
    return ["env", f"PYTHONPATH={source}", python, *how, "run", str(path)]


def _express(port: int, store_path: Path, ip_rate: str) -> list[str]:
    script = WORK / "node" / "express.mjs"  # Node looks for packages beside the script
    script.write_text((HERE / "rivals" / "express.mjs").read_text())
    count, seconds = ip_rate.removesuffix("s").split("/")
    addresses = [f"http://127.0.0.1:{port}" for port in (UPSTREAM, SITEVERIFY, TWILIO)]
    return ["env", "NODE_ENV=production", "node", str(script), str(port), str(store_path), count, seconds, *addresses]


def wanted(args: argparse.Namespace) -> dict[str, tuple[Path, str] | None]:
    """Who is measured: of each sidecar, the directory of its source and its Python; of Express, None."""
    found = {"ours": (HERE.parent, sys.executable), "express": None}
    found = {name: found[name] for name in filter(None, args.only.split(","))}
    for name, _, where in (one.partition("=") for one in args.beside):
        source, _, python = where.partition("@")
        found[name] = Path(source or HERE.parent).resolve(), os.path.abspath(python or sys.executable)
    return found


def missing() -> str:
    """Why Express cannot run here; "" when it can."""
    packages = ("express", "rate-limiter-flexible", "ioredis", "undici", "jose")
    have = shutil.which("node") and all((WORK / "node" / "node_modules" / package).exists() for package in packages)
    return "" if have else f"needs node, and npm install {' '.join(packages)} in .bench/node"


@contextmanager
def guarded(args: argparse.Namespace, ip_rate: str = "1000000/1s", more: str = "") -> Iterator[list[Contestant]]:
    """Run upstream, the vendors and the wanted contestants, each with a store of its own, until the block ends.

    `more`: tables that each sidecar's configuration has besides.
    """
    WORK.mkdir(exist_ok=True)
    (WORK / ".gitignore").write_text("*\n")
    (WORK / "node").mkdir(exist_ok=True)
    with ExitStack() as stack:
        upstream = nginx_command("upstream", UPSTREAM, SERVES.format(port=UPSTREAM, work=WORK))
        vendors = [sys.executable, str(HERE / "vendors.py"), str(SITEVERIFY), str(TWILIO)]
        servers = [(upstream, UPSTREAM), (vendors, TWILIO)]
        pids = [stack.enter_context(running(LOAD_CORE, command, port)).pid for command, port in servers]
        found = []
        for name, source in wanted(args).items():
            if source is None and (reason := missing()):
                print(f"skipped: {name}: {reason}")
                continue
            one = Contestant(name, free_port(), load_pids=(os.getpid(), *pids))
            path, one.store_pid = store(stack, name)
            if source is None:
                command = _express(one.port, path, ip_rate)
            else:
                command = sidecar_command(*source, one.port, f"unix://{path}", ip_rate, args.profile, more)
            one.pid = stack.enter_context(running(TEST_CORE, command, one.port)).pid
            found.append(one)
        yield found


# Telling…


def arguments(description: str, seconds: float, runs: int) -> argparse.ArgumentParser:
    """What every bench can be told, with its defaults."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=seconds, help="of one measurement")
    parser.add_argument("--runs", type=int, default=runs, help="interleaved; the table gives medians")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="names, separated by commas: ours, express")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="NAME=DIR@PYTHON",
        help="another checkout of the sidecar (or, without DIR, this one), too, and by another Python where one is named",
    )
    parser.add_argument("--profile", action="store_true", help="run ours alone, and print where its CPU time goes")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, and pin this process, which is the load, to its core. Ends where a tool is missing."""
    args = parser.parse_args()
    if args.profile:
        args.only = "ours"
    for tool in ("nginx", "taskset"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin"):
            sys.exit(f"skipped: no {tool} on PATH")
    if (os.cpu_count() or 1) < 2:
        sys.exit("skipped: needs two cores, one of them for what is measured")
    os.sched_setaffinity(0, {LOAD_CORE})
    return args


class FailedRun(Exception):
    """Not every answer was as it must be, so that the run's figures mean nothing. The text says which were not."""


@contextmanager
def left_out_if_failed() -> Iterator[None]:
    """Say which run failed, and go on with the others."""
    try:
        yield
    except FailedRun as failed:
        print(f"left out: {failed}", flush=True)


def turns(found: Sequence[Contestant], runs: int) -> Iterator[Contestant]:
    """Everybody in every run, and nobody always first."""
    for number in range(runs):
        at = number % len(found)
        yield from (*found[at:], *found[:at])


def table(found: Sequence[Contestant], columns: Sequence[tuple[str, str, int]]) -> str:
    """Medians, one row a contestant. A column: its title, the figure's name, its decimals."""
    rows = ["| | " + " | ".join(title for title, _, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for one in found:
        cells = [f"{one.median(figure):.{digits}f}" for _, figure, digits in columns]
        rows.append(f"| {one.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


@dataclass
class Goal:
    """What is asked of us. `measured` is worked out of ours, and of a rival where it names one."""

    what: str
    asked: str
    measured: Callable[[dict[str, Contestant]], float]
    is_met: Callable[[float], bool]


def ratio(figure: str) -> Callable[[dict[str, Contestant]], float]:
    """Our median of a figure to Express's."""
    return lambda by_name: by_name["ours"].median(figure) / by_name["express"].median(figure)


def goals(found: Sequence[Contestant], *asked: Goal) -> str:
    """A table of goals; those without their rival are left out."""
    by_name, rows = {one.name: one for one in found}, ["| goal | asked | measured | met |", "|---|---|---|---|"]
    for goal in asked:
        with suppress(KeyError):
            measured = goal.measured(by_name)
            rows.append(f"| {goal.what} | {goal.asked} | {measured:.4g} | {'yes' if goal.is_met(measured) else 'no'} |")
    return "\n".join(rows)


@contextmanager
def profiled(one: Contestant, is_wanted: bool, count: Callable[[], int]) -> Iterator[None]:
    """Where does our process spend the CPU time of this block? Printed per operation; `count` says how many there were."""
    if not is_wanted:
        yield
        return
    PROFILE.unlink(missing_ok=True)
    cpu = cpu_s(one.pid)
    os.kill(one.pid, signal.SIGUSR1)
    yield
    os.kill(one.pid, signal.SIGUSR2)
    spent_us = (cpu_s(one.pid) - cpu) / count() * 1e6
    until = time.monotonic() + 10
    while not PROFILE.exists() and time.monotonic() < until:
        time.sleep(0.05)
    functions = [
        (int(own), int(within), name)
        for own, within, name in (line.split(" ", 2) for line in PROFILE.read_text().splitlines())
    ]
    samples = max(1, functions[0][0])
    print(f"\n{spent_us:.0f} µs of CPU time an operation, of it in a function itself, and with what it called:\n")
    for order in (0, 1):
        for row in sorted(functions[1:], key=lambda row: -row[order])[:40]:
            print(f"{row[0] / samples * spent_us:8.1f} {row[1] / samples * spent_us:8.1f}  {row[2]}")
        print()
