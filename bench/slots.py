"""What does one slot of a cluster carry? `make bench-slots`: the store's CPU time for each step, and what passes.

All keys of one tag are on one primary, so a deployment ends where a core of that primary does. The sidecar's own rooms
ask a store, which is alone on core 1, from core 0: one by one, and 64 at a time. The store is a cluster's node, on TCP,
and writes its append-only file. That a store which is busy without a pause does as many as its CPU time says is seen by
sending it decisions on two buckets again, as octets that are ready, as fast as it takes them.
"""

import argparse
import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import rig
import uvloop

from sidecar.config import model
from sidecar.config.units import Rate
from sidecar.delivery.ledger import Ledger
from sidecar.delivery.outbox import Entry, Outbox
from sidecar.delivery.providers.seam import Receipt
from sidecar.limits.buckets import Buckets, Meter
from sidecar.limits.load import Load
from sidecar.limits.sends import Prices, Sends
from sidecar.recipient import parse
from sidecar.store import client
from sidecar.store.client import Store
from sidecar.store.embedded import find_server

COUNT = 2_000
DEPTH = 64


def hashed(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:22]


@contextmanager
def node(home: Path) -> Iterator[tuple[int, int]]:
    """Run a cluster of one node on core 1; yields its port and its process."""
    port, bus = rig.free_port(), rig.free_port()
    words = ["--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus), "--dir", str(home)]
    words += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--bind", "127.0.0.1"]
    command = ["taskset", "-c", str(rig.LOAD_CORE), str(find_server()), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def steps(store: Store) -> dict[str, Callable[[int], Awaitable[Any]]]:
    """The steps, each done for a number that tells one request from the other."""
    names = store.names
    often = Rate(1_000_000, 1.0)
    meters = [Meter.of_rate(name, often, names) for name in ("ip", "ip_prefix", "to", "to_prefix")]
    buckets, outbox, now = Buckets(store), Outbox(store, max_messages=10**9), time.time()
    ledger = Ledger(store, lambda text: (hashed(text),), {"hook"})
    config = model.Config.model_validate(
        {"pumping": {"mode": "observe", "unverified": "1000000/1d", "countries_per_ip": 200}}
    )
    sends = Sends(store, config, Prices({}, ()), hashed, lambda _: None)
    load = Load(store, hashed, "altcha", (often, often, often))
    route = model.Route(match="POST /send", action="send", to="json:phone", limits=[])

    def ip(number: int) -> str:
        return f"203.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def decide(count: int) -> Callable[[int], Awaitable[Any]]:
        return lambda number: buckets.spend([meter.bucket(hashed(number)) for meter in meters[:count]])

    async def judge(number: int) -> None:
        recipient = parse(f"139{number:08}", "sms", "CN")
        sending = sends.sending(recipient, ip(number), route)
        assert sending is not None
        await sends.judge(sending, to="", client="", request_id="")

    async def queue(number: int) -> None:
        entry = Entry(hashed(number), b"s" * 60, "zh", (f"1:{hashed(number)}",) * 3, now + 300, hashed(number))
        leased = await outbox.put_and_lease(entry)
        if leased is not None:
            await outbox.ack(leased.id)

    async def note(number: int) -> None:
        noted = ledger.note(str(number), hashed(number), "CN", {"hook": hashed(-number)}, ("hook",))
        assert noted is not None
        await noted.texts
        await ledger.received("hook", Receipt(hashed(-number), None, "delivered", "", None))

    return {
        "limits: a decision on one bucket": decide(1),
        "limits: on two": decide(2),
        "limits: on four": decide(4),
        "limits: a challenge counted": lambda number: load.count(ip(number), given=1, solved=0),
        "sends: a send judged": judge,
        "outbox: a message queued, leased and acked": queue,
        "receipts: a message noted, its receipt taken": note,
    }


async def taken(store: Store, pid: int, step: Callable[[int], Awaitable[Any]], depth: int) -> float:
    """Take a step COUNT times, so many at once: gives the store's CPU seconds."""
    for key in ("a", "b", "c"):
        await store.execute(key, "FLUSHALL")
    await Outbox(store).lease(1, 0.0)  # makes the group
    numbers = iter(range(COUNT))

    async def some() -> None:
        for number in numbers:
            await step(number)

    before = rig.cpu_s(pid)
    await asyncio.gather(*(some() for _ in range(depth)))
    return rig.cpu_s(pid) - before


def sent_again(port: int, octets: list[bytes]) -> float:
    """Send ready octets as fast as the store takes them: gives how many commands a second it did."""
    with socket.create_connection(("127.0.0.1", port)) as wire:
        reader, began = hiredis.Reader(notEnoughData=...), time.perf_counter()
        for first in range(0, len(octets), 8 * DEPTH):
            chunk = octets[first : first + 8 * DEPTH]
            wire.sendall(b"".join(chunk))
            waiting = len(chunk)
            while waiting:
                reader.feed(wire.recv(1 << 16))
                while (reply := reader.gets()) is not ...:
                    waiting -= 1
                    if isinstance(reply, hiredis.ReplyError):
                        raise rig.FailedRun(str(reply))
        return len(octets) / (time.perf_counter() - began)


async def measured(port: int, pid: int, runs: int) -> None:
    """Print what each step costs."""
    store = Store(f"redis://127.0.0.1:{port}", timeout_s=5.0)
    async with asyncio.timeout(10):
        while not await store.ping():
            await asyncio.sleep(0.05)
        await store.execute(None, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while await store.why_not():
            await asyncio.sleep(0.05)
    print(f"the store's CPU µs for each, the least of {runs} runs of {COUNT:,}\n")
    print(f"| | one by one | {DEPTH} at a time | so a core carries, a second |\n|---|---|---|---|")
    for what, step in steps(store).items():
        await taken(store, pid, step, DEPTH)
        costs = [[await taken(store, pid, step, depth) for _ in range(runs)] for depth in (1, DEPTH)]
        one, many = (min(each) / COUNT for each in costs)
        print(f"| {what} | {one * 1e6:.1f} | {many * 1e6:.1f} | {1 / one:,.0f} to {1 / many:,.0f} |", flush=True)
    kept: list[bytes] = []
    pack, client.pack = client.pack, lambda words: kept.append(pack(words)) or kept[-1]  # type: ignore[misc,func-returns-value]
    await taken(store, pid, steps(store)["limits: on two"], DEPTH)
    await store.close()
    octets = [one for one in kept if b"EVALSHA" in one]
    before = rig.cpu_s(pid)
    carried = max(sent_again(port, octets) for _ in range(runs))
    cpu = (rig.cpu_s(pid) - before) / runs / len(octets)
    print(f"\ndecisions on two buckets, as fast as it takes them: {carried:,.0f} a second, {cpu * 1e6:.1f} µs each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    os.sched_setaffinity(0, {rig.TEST_CORE})
    home = Path(tempfile.mkdtemp())
    try:
        with node(home) as (port, pid):
            uvloop.run(measured(port, pid, runs))
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
