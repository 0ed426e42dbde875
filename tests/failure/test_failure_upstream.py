"""docs/failure.md, upstream: away, slow, breaking off; and no proof is lost by it."""

import asyncio
import time
from contextlib import suppress

from awake import awake
from failing import told
from fakes import OK, FakeUpstream, Message, Taken, free_port, read_content
from structlog.testing import capture_logs
from telling import MAIN, Sidecar, Start


async def proof(sidecar: Sidecar) -> str:
    """A code that works."""
    assert (await sidecar.send()).status == 202
    return await sidecar.vendor.code()


async def test_away(start: Start) -> None:
    """502 at once for plain and guarded alike; the code works when upstream is back, and readyz says which is away."""
    sidecar = await start(MAIN, upstream_port=free_port())  # where nobody else listens while it is away
    code = await proof(sidecar)
    await sidecar.upstream.__aexit__(None, None, None)
    for reply in (await sidecar.ask("GET", "/plain"), await sidecar.register(code)):
        assert (reply.status, reply.code) == (502, "upstream_unavailable")
    assert (await sidecar.send("13900000002")).status == 202, "what needs no upstream is served"
    ready = await sidecar.admin("/readyz")
    assert (ready.status, ready.json["upstream"]["reachable"]) == (200, False)
    assert ready.json["upstream"]["reason"] == f"refused 127.0.0.1:{sidecar.upstream.port}"
    assert (await sidecar.admin("/readyz?needs=upstream")).status == 503
    async with FakeUpstream(port=sidecar.upstream.port):
        assert (await sidecar.ask("GET", "/plain")).body == b"ok"
        assert (await sidecar.register(code)).status == 200
        assert (await sidecar.admin("/readyz?needs=upstream")).status == 200


async def test_slow(start: Start) -> None:
    """504 when `read_timeout` is over, and who asks another path of it is not held up; the code works again."""
    sidecar = await start(MAIN)
    code = await proof(sidecar)

    async def slow(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        if message.target != b"/quick":
            await asyncio.Event().wait()
        await taken.write(OK)

    sidecar.upstream.answer = slow
    began = time.monotonic()
    with awake() as took:
        plain, guarded, quick = await asyncio.gather(
            sidecar.ask("GET", "/plain"), sidecar.register(code), sidecar.ask("GET", "/quick")
        )
        assert took() < 6.0
    assert time.monotonic() - began >= 2.0
    assert quick.body == b"ok"
    for reply in (plain, guarded):
        assert (reply.status, reply.code) == (504, "upstream_timeout")
    sidecar.upstream.answer = OK
    assert (await sidecar.register(code)).status == 200


async def test_resetting(start: Start) -> None:
    """502 before its answer; an answer that breaks off is broken off, and told. A proof that had a yes is spent."""
    sidecar = await start(MAIN)
    code = await proof(sidecar)

    async def reset(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        if message.target == b"/half":
            await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        taken.reset()

    sidecar.upstream.answer = reset
    for reply in (await sidecar.ask("GET", "/plain"), await sidecar.register(code)):
        assert (reply.status, reply.code) == (502, "upstream_unavailable")
    with capture_logs() as lines:
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        writer.write(b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(ConnectionResetError):
            assert len(await reader.read()) < 300
        writer.close()
        assert (await sidecar.ask("GET", "/plain")).status == 502
    assert len(told(lines, "answer_cut")) == 1
    sidecar.upstream.answer = OK
    assert (await sidecar.register(code)).status == 200
    assert (await sidecar.register(code)).code == "code_expired"
