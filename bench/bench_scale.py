"""What does a request cost as workers and stores grow? `make bench-scale`; docs/scaling.md is worked out of its figures.

One sidecar for each number of workers, all beside one Valkey, and one for each number of primaries (`redis+cluster://`;
and once more with a primary for each part of the store that cannot be parted: "apart"). All workers share core 0, and
all else has core 1: what is compared is CPU time a request, of the sidecar's processes together and of each primary.
Five kinds of guarded requests, each with an address of its own by X-Forwarded-For, and what a connection costs:
none      a send without a captcha: refused
full      a send from an address whose bucket is full: refused before its captcha is looked at
send      a send with a right captcha: accepted, and delivered by the simulated vendor
verify    the code of one that was sent: spent, and forwarded with a JWT
guard     a route with a limit of one bucket: let in, and forwarded
connect   a plain request on a connection of its own
Besides, for each kind what it asks of the store and how many octets and segments each connection carries, what a number
that was sent to holds in the store, and how connections and requests spread over the workers (on all cores, this once).
"""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import load
import redis
import rig
import uvloop
from redis.crc import key_slot

CONNECTIONS = 16  # so few that a machine which others use sheds nothing
SLOTS = 16_384
FULL = 256  # addresses
# With an address that the world calls, vendors are asked for receipts, which is what a fleet does.
SERVER = 'workers = {workers}\npublic_url = "https://www.example.com"\n'
MORE = """[limits.few]
key = "ip"
rate = "1/3600s"
[[routes]]
match = "POST /api/few"
action = "send"
to = "json:phone"
captcha = "turnstile"
captcha_token = "json:captcha"
limits = ["few"]
[[routes]]
match = "POST /api/login"
action = "guard"
limits = ["ip"]
"""
KINDS = ("none", "full", "send", "verify", "guard", "connect")
STATUS = {"none": 403, "full": 429, "send": 202, "verify": 200, "guard": 200, "connect": 200}
# The parts of the store that one cluster slot holds each (`sidecar/store/names.py`); all else spreads by recipient.
PARTS = {"limits": "{sidecar:limits}", "outbox": "{sidecar:outbox}", "receipts": "{sidecar:receipts}"}
# How many requests are looked at one by one, and how many are sent to see what the store then holds.
SAMPLE, FILLED = 400, 10_000


# The store…


class Primaries:
    """Valkey servers on the load's core, as one store: alone, or a cluster whose slots are given out by `owner`."""

    def __init__(self, stack: ExitStack, name: str, count: int, owner: Any = None) -> None:
        from sidecar.store.embedded import find_server, server_arguments

        self.ports = [rig.free_port() for _ in range(count)]
        settings = ["--unixsocket", "", "--bind", "127.0.0.1"]
        if owner is not None:
            settings += ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"]
        self.pids = []
        for port in self.ports:
            home = rig.WORK / f"store-{name}-{port}"
            home.mkdir(parents=True, exist_ok=True)
            for left in home.glob("*"):
                subprocess.run(["rm", "-rf", str(left)], check=True)
            more = ["--port", str(port), *settings]
            if owner is not None:
                more += ["--cluster-port", str(rig.free_port())]
            command = [str(find_server()), *server_arguments(), *more]
            self.pids.append(stack.enter_context(rig.running(rig.LOAD_CORE, command, port, home)).pid)
        self.nodes = [redis.Redis(port=port) for port in self.ports]
        if owner is None:
            self.url = f"redis://127.0.0.1:{self.ports[0]}/0"
            return
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)
        owned = defaultdict(list)
        for slot in range(SLOTS):
            owned[owner(slot)].append(slot)
        for number, node in enumerate(self.nodes):
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.execute_command("CLUSTER", "ADDSLOTS", *owned[number])
            bus = node.config_get("cluster-port")["cluster-port"]
            for other in self.nodes[:number]:
                other.execute_command("CLUSTER", "MEET", "127.0.0.1", self.ports[number], bus)
        until = time.monotonic() + 20
        while any(
            not {b"cluster_state:ok", b"cluster_known_nodes:%d" % count}
            <= set(node.execute_command("CLUSTER", "INFO").split())
            for node in self.nodes
        ):
            if time.monotonic() > until:
                raise RuntimeError(f"the cluster {name} does not form")
            time.sleep(0.1)

    def used(self) -> int:
        """How many octets all of them hold."""
        return sum(int(node.info("memory")["used_memory"]) for node in self.nodes)


def evenly(count: int) -> Any:
    """Ranges of slots of equal size."""
    return lambda slot: slot * count // SLOTS


def apart(slot: int, alone: tuple[int, ...] = tuple(key_slot(tag.encode()) for tag in PARTS.values())) -> int:
    """Each part that cannot be parted on a primary of its own, and all else on the last."""
    return alone.index(slot) if slot in alone else len(alone)


# What is asked…


def addresses(network: int, count: int) -> Iterator[str]:
    """So many addresses in turn, as a field."""
    every = [f"X-Forwarded-For: {network}.{n // 65536 % 256}.{n // 256 % 256}.{n % 256}" for n in range(count)]
    return itertools.cycle(every)


PEOPLE, FULL_ONES = addresses(10, 65_536), addresses(11, FULL)


def asked(kind: str) -> Iterator[bytes]:
    """Requests of a kind without end; those of "verify" need codes, see `prepared`."""
    while True:
        if kind == "connect":
            yield load.get("/api/items/1", "Connection: close", next(PEOPLE))
            continue
        if kind == "guard":
            yield load.post("/api/login", b'{"name":"somebody","password":"a long one"}', next(PEOPLE))
            continue
        number = next(load.numbers)
        token = "" if kind == "none" else f',"captcha":"good-{number[-8:]}"'
        path, who = ("/api/few", next(FULL_ONES)) if kind == "full" else ("/api/sms", next(PEOPLE))
        yield load.post(path, f'{{"phone":"{number}"{token}}}'.encode(), who)


async def prepared(one: rig.Contestant, kind: str, count: int) -> Iterator[bytes]:
    """Requests of a kind: so many, whose codes are sent first, where they are to be verified; else without end."""
    await load.told(rig.TWILIO, "reset")
    if kind == "full":  # a worker that has not met an address for a while asks the store
        await load.closed(one.port, itertools.islice(asked(kind), 8 * FULL), CONNECTIONS)
    if kind != "verify":
        return asked(kind)
    requests = (
        load.post("/api/codes", f'{{"phone":"{number}"}}'.encode(), who) for number, who in zip(load.numbers, PEOPLE)
    )
    answers = await load.closed(one.port, itertools.islice(requests, count), 16)
    if answers.count(202) != count:
        raise rig.FailedRun(f"{one.name}: {answers.told()}")
    await load.arrived(rig.TWILIO, count)
    codes = await load.told(rig.TWILIO, "codes")
    return iter(
        [
            load.post("/api/register", f'{{"phone":"{to}","code":"{code}"}}'.encode(), next(PEOPLE))
            for to, code in codes.items()
        ]
    )


async def done(
    one: rig.Contestant, kind: str, requests: Iterator[bytes], connections: int, seconds: float
) -> load.Answers:
    """Ask, and wait for the last message where some are sent. Raises FailedRun where an answer is another."""
    answers = await load.closed(one.port, requests, connections, seconds)
    if answers.count(STATUS[kind]) != answers.count():
        raise rig.FailedRun(f"{one.name}, {kind}: {answers.told()}")
    if kind == "send":
        vendor = await load.arrived(rig.TWILIO, answers.count())
        if vendor["numbers"] != answers.count():
            raise rig.FailedRun(f"{one.name}: {answers.count()} accepted, {vendor['numbers']} numbers")
        await asyncio.sleep(0.1)  # what is noted of the last ones
    return answers


async def measured(one: rig.Contestant, stores: Primaries, kind: str, seconds: float, codes: int) -> None:
    """One run of a kind: CPU µs a request, of the sidecar and of each primary."""
    requests = await prepared(one, kind, codes)
    before = [rig.cpu_s(pid) for pid in (one.pid, *stores.pids)]
    answers = await done(one, kind, requests, CONNECTIONS, seconds)
    cpu, *parts = ((rig.cpu_s(pid) - was) / answers.count() * 1e6 for pid, was in zip((one.pid, *stores.pids), before))
    figures = {f"{kind} cpu": cpu, f"{kind} rate": answers.per_s(), f"{kind} store": sum(parts)}
    one.note(**figures, **{f"{kind} store {number}": part for number, part in enumerate(parts)})


# One by one…


def carried(port: int) -> list[int]:
    """Octets and segments of all connections to a port, in and out, as their server's end has counted them."""
    told = subprocess.run(
        ["ss", "-tinH", "state", "established", f"sport = :{port}"], capture_output=True, text=True, check=True
    ).stdout
    return [
        sum(map(int, re.findall(rf"\b{name}:(\d+)", told)))
        for name in ("bytes_received", "bytes_sent", "segs_in", "segs_out")
    ]


def commands(node: redis.Redis, lines: list[tuple[bool, str]], begun: threading.Event) -> None:
    """Write down what a store is asked until it is told "that is all": whether by a script, and the command."""
    with node.monitor() as monitor:
        begun.set()
        for command in monitor.listen():
            if "that is all" in command["command"]:
                return
            lines.append((command["client_type"] == "lua", command["command"]))


async def anatomy(one: rig.Contestant, stores: Primaries, kind: str) -> dict[str, Any]:
    """What one request of a kind asks of the store, and what every connection carries for it."""
    legs = {"upstream": rig.UPSTREAM, "captcha": rig.SITEVERIFY, "sms": rig.TWILIO, "store": stores.ports[0]}
    await done(one, kind, itertools.islice(await prepared(one, kind, 16), 16), 8, 60)  # so that all is connected
    requests = itertools.islice(await prepared(one, kind, SAMPLE), SAMPLE)
    before = {leg: carried(port) for leg, port in legs.items()}
    answers = await done(one, kind, requests, 8, 60)
    after = {leg: carried(port) for leg, port in legs.items()}
    told: dict[str, Any] = {
        leg: dict(
            zip(
                ("in", "out", "segments_in", "segments_out"),
                (round((b - a) / SAMPLE, 2) for a, b in zip(before[leg], after[leg])),
            )
        )
        for leg in legs
    }  # as the server's end sees it
    told["client"] = {
        "in": answers.octets[0] / SAMPLE,
        "out": answers.octets[1] / SAMPLE,
        "segments_in": 2,
        "segments_out": 1,
    }
    requests = itertools.islice(await prepared(one, kind, SAMPLE), SAMPLE)
    lines: list[tuple[bool, str]] = []
    begun = threading.Event()
    thread = threading.Thread(target=commands, args=(stores.nodes[0], lines, begun))
    thread.start()
    await asyncio.to_thread(begun.wait)
    await done(one, kind, requests, 8, 60)
    redis.Redis(port=stores.ports[0]).execute_command("ECHO", "that is all")
    await asyncio.to_thread(thread.join)
    by_part = Counter(part_of(command) for is_inner, command in lines if not is_inner)
    told["commands"] = {part: round(count / SAMPLE, 2) for part, count in by_part.items() if count / SAMPLE >= 0.05}
    told["within_scripts"] = round(sum(is_inner for is_inner, _ in lines) / SAMPLE, 2)
    return told


def part_of(command: str) -> str:
    """Which part of the store a command is about."""
    for part, tag in PARTS.items():
        if tag in command:
            return part
    return "recipients" if re.search(r"\{sidecar:..\}", command) else "else"


# What is held…


async def filled(one: rig.Contestant, stores: Primaries) -> dict[str, Any]:
    """What so many numbers that were sent to hold in the store: together, and by the kind of key."""
    (node,) = stores.nodes
    node.execute_command("FLUSHALL")
    before = stores.used()
    requests = itertools.islice(asked("send"), FILLED)
    await load.told(rig.TWILIO, "reset")
    await done(one, "send", requests, 16, 600)
    held = stores.used() - before
    kinds: dict[str, list[int]] = defaultdict(list)
    count: Counter[str] = Counter()
    for number, key in enumerate(node.scan_iter(count=1000)):
        name = re.sub(r"^\{?sidecar:(?:(limits|outbox|receipts)|[^:}]*)\}?:?", "", key.decode()).split(":")
        kind = ":".join(name[:2]) if name[0] == "bucket" else name[0]
        count[kind] += 1
        if number % 20 == 0:
            kinds[kind].append(node.memory_usage(key))
    told = {
        kind: {"keys": count[kind] / FILLED, "octets": round(sum(sizes) / len(sizes))}
        for kind, sizes in kinds.items()
        if count[kind] > FILLED // 100
    }
    return {"used": held / FILLED, "kinds": told}


# Who gets what…


def owners(port: int) -> dict[int, int]:
    """Which process has each connection to a port: by the client's end's port."""
    told = subprocess.run(
        ["ss", "-tnpH", "state", "established", f"sport = :{port}"], capture_output=True, text=True, check=True
    ).stdout
    return {int(peer): int(pid) for peer, pid in re.findall(r":(\d+)\s+users:\(\(\"[^\"]*\",pid=(\d+)", told)}


async def spread(port: int, connections: int, seconds: float) -> tuple[list[int], list[int]]:
    """Open so many connections at once and ask on all of them: the connections and the requests of each worker."""
    owned: dict[int, int] = {}

    def begins() -> None:
        until = time.monotonic() + 10
        while len(owned) < connections and time.monotonic() < until:  # some are still in the queue
            time.sleep(0.05)
            owned.update(owners(port))

    plain = (load.get(f"/api/items/{n}", next(PEOPLE)) for n in itertools.count())
    answers = await load.closed(port, plain, connections, seconds, begins)
    held, served = Counter(owned.values()), Counter()
    for client, count in answers.by_port.items():
        served[owned.get(client, 0)] += count
    return sorted(held.values()), sorted(served.values())


# Together…


def sidecar(
    stack: ExitStack, name: str, url: str, workers: int, cores: int | str = rig.TEST_CORE
) -> rig.Contestant | None:
    """Run a sidecar on a store; None where it cannot, which is said."""
    port = rig.free_port()
    command = rig.sidecar_command(
        rig.HERE.parent,
        sys.executable,
        port,
        url,
        "1000000/1s",
        is_profiled=False,
        more=MORE,
        server=SERVER.format(workers=workers),
    )
    checking = [*command[:-2], "check", command[-1]]
    checked = subprocess.run(checking, capture_output=True, text=True, check=False)
    if checked.returncode:
        print(f"skipped: {name}: {checked.stdout.strip()} {checked.stderr.strip()}", flush=True)
        return None
    one = rig.Contestant(name, port)
    one.pid = stack.enter_context(rig.running(cores, command, port)).pid
    until = time.monotonic() + 30
    while '"event": "listening"' not in (rig.WORK / f"env-{port}.log").read_text():  # every worker serves
        if time.monotonic() > until:
            raise RuntimeError(f"{name} does not start: see {rig.WORK}/env-{port}.log")
        time.sleep(0.1)
    return one


def least(one: rig.Contestant, stores: Primaries) -> dict[str, Any]:
    """Of each kind, the run of which the CPU time was the least: others disturbed it least."""
    told = {}
    for kind in KINDS:
        if cpus := one.figures[f"{kind} cpu"]:
            best = min(range(len(cpus)), key=cpus.__getitem__)
            told[kind] = {
                "cpu_us": round(cpus[best], 1),
                "store_us": [
                    round(one.figures[f"{kind} store {number}"][best], 1) for number in range(len(stores.pids))
                ],
                "per_s": round(one.figures[f"{kind} rate"][best]),
            }
    return told


async def main() -> None:
    parser = rig.arguments(__doc__, seconds=1, runs=5)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of requests, separated by commas")
    parser.add_argument("--codes", type=int, default=1000, help="to verify in one run")
    parser.add_argument("--workers", default="1,2,4", help="how many, separated by commas")
    parser.add_argument("--primaries", default="2,3,apart", help="of clusters, separated by commas; none for none")
    parser.add_argument("--parts", default="cost,anatomy,memory,spread", help="what is measured, separated by commas")
    parser.add_argument("--out", type=Path, default=rig.WORK / "scale.json", help="where the figures are written")
    args = rig.parsed(parser)
    rig.WORK.mkdir(exist_ok=True)
    (rig.WORK / ".gitignore").write_text("*\n")
    parts = args.parts.split(",")
    cores = ",".join(map(str, range(os.cpu_count() or 1)))
    told: dict[str, Any] = {"cost": {}, "anatomy": {}, "memory": {}, "spread": {}}
    with ExitStack() as stack:
        upstream = rig.nginx_command("upstream", rig.UPSTREAM, rig.SERVES.format(port=rig.UPSTREAM, work=rig.WORK))
        vendors = [sys.executable, str(rig.HERE / "vendors.py"), str(rig.SITEVERIFY), str(rig.TWILIO)]
        for command, port in ((upstream, rig.UPSTREAM), (vendors, rig.TWILIO)):
            stack.enter_context(rig.running(rig.LOAD_CORE, command, port))
        found: dict[str, tuple[rig.Contestant, Primaries]] = {}
        wanted = [(f"{w} worker{'s' * (w > 1)}", w, 1, None) for w in map(int, filter(None, args.workers.split(",")))]
        for count in filter(None, args.primaries.split(",")):
            many = len(PARTS) + 1 if count == "apart" else int(count)
            wanted.append(
                (
                    f"apart" if count == "apart" else f"{count} primaries",
                    1,
                    many,
                    apart if count == "apart" else evenly(many),
                )
            )
        for name, workers, many, owner in wanted:
            stores = Primaries(stack, name.replace(" ", "-"), many, owner)
            if (one := sidecar(stack, name, stores.url, workers)) is not None:
                found[name] = one, stores
        for one, stores in found.values():
            requests = itertools.islice(asked("full"), 2 * FULL)  # the buckets that are to be full
            await load.closed(one.port, requests, 8)
            with rig.left_out_if_failed():
                for kind in KINDS:
                    await measured(one, stores, kind, 0.3, 100)
            one.figures.clear()
        if "cost" in parts:
            for turn in rig.turns([one for one, _ in found.values()], args.runs):
                for kind in args.kinds.split(","):
                    with rig.left_out_if_failed():
                        await measured(*found[turn.name], kind, args.seconds, args.codes)
                print(
                    turn.name,
                    *(
                        f"{kind} {turn.figures[f'{kind} cpu'][-1]:.0f} µs"
                        for kind in KINDS
                        if turn.figures[f"{kind} cpu"]
                    ),
                    flush=True,
                )
                told["cost"] = {name: least(*both) for name, both in found.items()}
                args.out.write_text(json.dumps(told, indent=1) + "\n")  # in case that the rest is cut short
        first, store = next(iter(found.values()))
        if "anatomy" in parts:
            for kind in KINDS[:-1]:
                with rig.left_out_if_failed():
                    told["anatomy"][kind] = await anatomy(first, store, kind)
        if "memory" in parts:
            with rig.left_out_if_failed():
                told["memory"] = await filled(first, store)
    if "spread" in parts:
        told["spread"] = await spreading(args, cores)
    told["machine"] = {
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "day": time.strftime("%Y-%m-%d"),
    }
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    tell(told)
    print(f"\nwritten: {args.out}; python bench/scaling.py {args.out} works out of it what a fleet takes")


async def spreading(args: Any, cores: str) -> dict[str, Any]:
    """How connections and requests spread over 2 and 4 workers that have all cores."""
    os.sched_setaffinity(0, set(range(os.cpu_count() or 1)))
    told = {}
    with ExitStack() as stack:
        upstream = rig.nginx_command("upstream", rig.UPSTREAM, rig.SERVES.format(port=rig.UPSTREAM, work=rig.WORK))
        stack.enter_context(rig.running(cores, upstream, rig.UPSTREAM))
        for workers in (2, 4):
            stores = Primaries(stack, f"spread-{workers}", 1)
            one = sidecar(stack, f"{workers} workers, all cores", stores.url, workers, cores)
            for connections in (64, 1_000):
                async with asyncio.timeout(60 * args.runs):
                    runs = [await spread(one.port, connections, args.seconds) for _ in range(args.runs)]
                told[f"{workers} workers, {connections} connections"] = [
                    {"connections": held, "requests": served} for held, served in runs
                ]
    return told


def tell(told: dict[str, Any]) -> None:
    """Print it for people."""
    if told["cost"]:
        print(
            "\nCPU µs a request, the least of all runs: of the sidecar's processes + of the store (of each primary)\n"
        )
        print("| | " + " | ".join(KINDS) + " |\n" + "|---" * (len(KINDS) + 1) + "|")
        for name, kinds in told["cost"].items():
            cells = []
            for kind in KINDS:
                if kind not in kinds:
                    cells.append("–")
                    continue
                each = kinds[kind]["store_us"]
                by = f" ({', '.join(f'{part:.0f}' for part in each)})" if len(each) > 1 else ""
                cells.append(f"{kinds[kind]['cpu_us']:.0f} + {sum(each):.0f}{by}")
            print(f"| {name} | {' | '.join(cells)} |")
    for kind, legs in told["anatomy"].items():
        print(f"\n{kind}: commands {legs['commands']}, {legs['within_scripts']} more within scripts")
        for leg in ("client", "upstream", "captcha", "sms", "store"):
            print(f"  {leg}: {legs[leg]}")
    if told["memory"]:
        print(f"\nThe store holds {told['memory']['used']:.0f} octets for a number: {told['memory']['kinds']}")
    for what, runs in told["spread"].items():
        for run in runs:
            print(f"{what}: connections {run['connections']}, requests {run['requests']}")


if __name__ == "__main__":
    uvloop.run(main())
