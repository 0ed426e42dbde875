"""docs/failure.md, this machine: its name server, descriptors, disk, clock and memory, around the real command."""

import asyncio
import json
import os
import signal
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from children import PATIENCE_S, Child, Run
from failing import Shim

LIMIT = '[limits.ip]\nkey = "ip"\nrate = "1000/1s"\n'
GUARD = LIMIT + '[[routes]]\nmatch = "POST /guarded"\naction = "guard"\nlimits = ["ip"]\n'


async def ready(child: Child) -> tuple[int, dict[str, dict[str, object]]]:
    """What readyz says."""
    status, body = await child.asked("/readyz", child.admin_port)
    return status, json.loads(body)


async def is_plain_served(child: Child, within_s: float) -> None:
    """Plain traffic is served, and in time."""
    for _ in range(5):
        began = time.monotonic()
        assert (await child.asked("/plain")) == (200, b"ok")
        assert time.monotonic() - began < within_s


# Names…


async def test_a_stores_name_that_hangs(run: Run, shim: Shim) -> None:
    """Refused in a second, again and again; upstream's own name is found meanwhile. Back with the name server."""
    shim.hang.touch()
    child = await run(GUARD, store="redis://store.hangs:1", env=shim.env, host="localhost")
    for _ in range(2):
        guarded, *_ = await asyncio.gather(child.asks("/guarded", {}), is_plain_served(child, 1.0))
        assert guarded == 503
    _, told = await ready(child)
    assert (told["store"]["takes_writes"], told["upstream"]) == (False, {"reachable": True})
    assert (await child.line("store_away"))["reason"] == "no answer within 1 s"
    shim.hang.unlink()

    async def is_looked_up() -> bool:
        return (await ready(child))[1]["store"]["reason"] == "refused store.hangs:1"

    await child.until(is_looked_up)


async def test_upstreams_name_that_hangs(run: Run, shim: Shim) -> None:
    """At the start nobody knows where it is; once it was found, a name server that hangs is not missed."""
    shim.hang.touch()
    child = await run(env=shim.env, host="upstream.hangs")
    assert (await child.asked("/plain"))[0] == 504
    assert (await ready(child))[1]["upstream"] == {"reachable": False, "reason": "no answer within 0.5 s"}
    shim.hang.unlink()

    async def is_found() -> bool:
        return (await child.asked("/plain"))[0] == 200

    await child.until(is_found)
    shim.hang.touch()
    for taken in child.upstream.taken:
        taken.reset()
    await is_plain_served(child, 1.0)


# Descriptors…


async def test_descriptors_that_idle_clients_take(run: Run) -> None:
    """Whoever asks is served, and so are health checks: of connections that ask nothing the oldest make room."""
    child = await run(limits="-n 128")
    async with AsyncExitStack() as stack:
        port = int(child.listen.rpartition(":")[2])
        for _ in range(130):
            end = socket.create_connection(("127.0.0.1", port))
            stack.callback(end.close)
        assert (await child.line("connections_full"))["level"] == "warning"
        await is_plain_served(child, PATIENCE_S)
        assert (await child.asked("/healthz", child.admin_port))[0] == 200
        assert (await ready(child))[0] == 200
    await is_plain_served(child, PATIENCE_S)
    child.process.send_signal(signal.SIGTERM)
    assert await child.ended() == 0
    assert "accept_failed" not in child.log


async def test_descriptors_that_busy_clients_take(run: Run) -> None:
    """More requests at once than descriptors: those that are let in are served, the rest wait, and nothing spins."""
    child = await run(limits="-n 128")
    may = asyncio.Event()

    async def slow(taken: object, message: object) -> None:
        await may.wait()
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]

    child.upstream.answer = slow
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> int:
            async with session.get(child.url + "/slow") as answer:
                await answer.read()
                return answer.status

        asked = [asyncio.create_task(ask()) for _ in range(200)]
        await child.line("connections_full")
        before = _cpu_s(child)
        began = time.monotonic()
        assert (await child.asked("/healthz", child.admin_port))[0] == 200
        while time.monotonic() - began < 0.5:
            assert (await ready(child))[0] == 200
            await asyncio.sleep(0.05)
        assert _cpu_s(child) - before < 0.3, "it spins"
        may.set()
        assert set(await asyncio.gather(*asked)) == {200}


def _cpu_s(child: Child) -> float:
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
