"""docs/failure.md, this machine: its name server, descriptors, disk, clock and memory, around the real command."""

import asyncio
import json
import os
import resource
import signal
import socket
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import jwt
from awake import awake
from children import PATIENCE_S, Child, Run
from failing import Shim
from fakes import Message, RawClient, Taken, read_content

LIMIT = '[limits.ip]\nkey = "ip"\nrate = "1000/1s"\n'
SEND = '[[routes]]\nmatch = "POST /send"\naction = "send"\nto = "json:phone"\nlimits = ["ip"]\n'
VERIFY = '[[routes]]\nmatch = "POST /register"\naction = "verify"\nto = "json:phone"\ncode = "json:code"\n'
TEST = {"phone": "+8613800000000", "code": "246810"}
GUARD = LIMIT + '[[routes]]\nmatch = "POST /guarded"\naction = "guard"\nlimits = ["ip"]\n'


async def ready(child: Child) -> tuple[int, dict[str, dict[str, object]]]:
    """What readyz says."""
    status, body = await child.asked("/readyz", child.admin_port)
    return status, json.loads(body)


async def is_plain_served(child: Child, within_s: float) -> None:
    """Plain traffic is served, and in time."""
    for _ in range(5):
        with awake() as took:
            assert (await child.asked("/plain")) == (200, b"ok")
            assert took() < within_s


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


# Memory…


async def test_memory_that_one_connection_can_take(run: Run) -> None:
    """Whatever it sends, or does not take, it holds some hundred KiB: a head without an end, content that is too large,
    requests behind one that waits, an answer that it does not read.
    """
    child = await run(GUARD)
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"

    async def pours(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        if message.target == b"/endless":
            await taken.write(endless)
            while True:
                await taken.write(bytes(1 << 16))
        await asyncio.Event().wait()

    child.upstream.answer = pours
    plain = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
    begun = [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        b"POST /guarded HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n",
        b"POST /guarded HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + bytes(0xFFFF),
        plain % b"waits",
        plain % b"endless",
    ]
    before = _resident(child)
    count = 20
    async with AsyncExitStack() as stack:
        pouring = []
        for octets in begun * count:
            client = await stack.enter_async_context(RawClient(int(child.listen.rpartition(":")[2])))
            client.writer.write(octets)
            pouring.append(asyncio.create_task(_pour(client, 2 << 20)))
        await asyncio.wait(pouring, timeout=2.0)
        assert _resident(child) - before < count * len(begun) * (512 << 10)
        for task in pouring:
            task.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)
    assert (await child.asked("/healthz", child.admin_port))[0] == 200


async def _pour(client: RawClient, octets: int) -> None:
    """Send so much, as fast as it is taken, and read nothing."""
    with suppress(ConnectionError):
        for _ in range(octets >> 16):
            client.writer.write(bytes(1 << 16))
            await client.writer.drain()


def _resident(child: Child) -> int:
    """Octets of memory that it has."""
    return int(Path(f"/proc/{child.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The disk…


async def test_a_full_disk_under_the_embedded_store(run: Run, tmp_path: Path) -> None:
    """The store refuses to write what it cannot keep, and says why; with room again it goes on, and nothing is lost."""
    child = await run(GUARD + VERIFY, store="embedded")
    assert await child.asks("/.sidecar/v1/verifications", {"to": TEST["phone"]}) == 202
    (store,) = _children(child)
    written = sum(file.stat().st_size for file in (tmp_path / "state" / "store" / "appendonlydir").glob("*.incr.aof"))
    resource.prlimit(store, resource.RLIMIT_FSIZE, (written, resource.RLIM_INFINITY))

    async def is_refused() -> bool:
        return await child.asks("/guarded", {}) == 503

    await child.until(is_refused)
    await is_plain_served(child, PATIENCE_S)
    _, told = await ready(child)
    assert told["store"] == {"takes_writes": False, "reason": "MISCONF"}
    assert (await child.line("store_away"))["reason"] == "MISCONF"
    resource.prlimit(store, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    async def is_served() -> bool:
        return await child.asks("/register", TEST) == 200

    await child.until(is_served)
    await child.line("store_back")


async def test_a_full_disk_at_the_first_start(run: Run) -> None:
    """It does not start without the secret that it could not keep, and says what it could not write."""
    child = await run(GUARD, serves=False, limits="-f 0", secret='""')
    assert await child.ended() == 1
    last = json.loads(child.log.splitlines()[-1])
    assert (last["event"], last["error"]) == ("cannot_run", "[Errno 27] File too large")


def _children(child: Child) -> list[int]:
    """The process ids of its own children."""
    pid = child.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# The clock…


async def test_this_machines_clock_jumps(run: Run, shim: Shim) -> None:
    """Codes, limits and messages go by the store's; what is signed goes by ours, with the key that upstream knows."""
    child = await run(LIMIT + SEND + VERIFY, env=shim.env)
    for seconds in (3600, 86_400, -3600, -86_400):
        assert await child.asks("/send", TEST) == 202
        shim.jump(seconds)
        assert await child.asks("/register", TEST) == 200
        signed = child.upstream.requests[-1].value(b"x-verified-identity").decode()
        issued = jwt.decode(signed, options={"verify_signature": False})["iat"]
        assert abs(issued - time.time() - seconds) < PATIENCE_S
        await child.reload("reloaded")  # it looks at the store's clock then, and every five seconds
        line = [line for line in child.lines if line["event"] == "clocks_differ"][-1]
        assert abs(line["ahead_s"] - seconds) <= 1
    shim.jump(0)
    await child.line("clocks_agree")
    tokens = [one.value(b"x-verified-identity").decode() for one in child.upstream.requests]
    assert len({jwt.get_unverified_header(token)["kid"] for token in tokens}) == 1
