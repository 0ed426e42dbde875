"""`spend_when`: upstream's answer is a yes only if its JSON says so; the client gets it as it came. Real sockets."""

import asyncio
import functools
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fakes import DEADLINE_S, OK, FakeUpstream, Message, RawClient, Taken, read_content
from structlog.testing import capture_logs
from telling import CONFIG, MAIN, PHONE, Sidecar, Start

ROUTE = MAIN + "spend_when = { json = { code = 0, data.ok = true } }\n"
YES = json.dumps({"code": 0, "msg": "成功" * 20, "data": {"ok": True, "more": list(range(300))}}).encode()
NO = YES.replace(b'"code": 0', b'"code": 1')

Frame = Callable[[bytes], tuple[str, bytes]]


def by_length(content: bytes) -> tuple[str, bytes]:
    return f"Content-Length: {len(content)}\r\n", content


def in_chunks(content: bytes, trailers: bytes = b"X-Trailer: 1\r\n") -> tuple[str, bytes]:
    size = max(100, len(content) // 50)
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    framed = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "Transfer-Encoding: chunked\r\n", framed + b"0\r\n" + trailers + b"\r\n"


def until_close(content: bytes) -> tuple[str, bytes]:
    return "Connection: close\r\n", content


def answering(
    content: bytes, frame: Frame = by_length, *, status: int = 200, coding: str = "", piece: int = 1 << 20
) -> Callable[[Taken, Message], object]:
    """An upstream that writes head and content in pieces of this size."""
    fields, framed = frame(content)
    fields += f"Content-Encoding: {coding}\r\n" if coding else ""
    octets = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{fields}\r\n".encode() + framed

    async def answer(taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        for at in range(0, len(octets), piece):
            await taken.write(octets[at : at + piece])
            await asyncio.sleep(0)
        if frame is until_close:
            taken.writer.close()

    return answer


async def fresh_code(sidecar: Sidecar) -> str:
    count = len(sidecar.vendor.messages) + 1
    assert (await sidecar.send()).status == 202
    return await sidecar.vendor.code(count=count)


async def becomes_of(sidecar: Sidecar, code: str) -> str:
    """What has become of the code: it works again, or does not."""
    sidecar.upstream.answer = answering(YES)  # type: ignore[assignment]
    return {200: "released", 410: "spent", 409: "held"}[(await sidecar.register(code)).status]


@pytest.mark.parametrize(
    ("content", "status", "coding", "expected"),
    [
        (YES, 200, "", "spent"),
        (NO, 200, "", "released"),
        (YES, 201, "", "spent"),
        (YES, 302, "", "spent"),
        (YES, 400, "", "released"),
        (YES, 500, "", "released"),
        (gzip.compress(YES), 200, "gzip", "spent"),
        (gzip.compress(NO), 200, "gzip", "released"),
        (zlib.compress(YES), 200, "deflate", "spent"),
        (YES, 200, "br", "released"),
        (b"<html>Thank you", 200, "", "released"),
        (YES[:-1], 200, "", "released"),
        (b"", 200, "", "released"),
    ],
)
async def test_upstreams_json_spends_or_releases(
    start: Start, content: bytes, status: int, coding: str, expected: str
) -> None:
    """The client gets the very octets, and then the code is spent or free; where they decided the log says why."""
    sidecar = await start(ROUTE)
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = answering(content, status=status, coding=coding)  # type: ignore[assignment]
    with capture_logs() as lines:
        reply = await sidecar.register(code)
    assert ["assent" in line for line in lines if line["event"] == "request"] == [status < 400]
    assert (reply.status, reply.body) == (status, content)
    assert reply.headers.get("Content-Encoding", "") == coding
    assert await becomes_of(sidecar, code) == expected


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("frame", [by_length, in_chunks, until_close])
async def test_an_answer_is_read_however_it_is_framed_and_cut(start: Start, frame: Frame, piece: int) -> None:
    """By its length, in chunks, to the end of the connection; octet by octet and at once."""
    sidecar = await start(ROUTE)
    for content, coding, expected in ((YES, "", "spent"), (NO, "", "released"), (gzip.compress(YES), "gzip", "spent")):
        code = await fresh_code(sidecar)
        sidecar.upstream.answer = answering(content, frame, coding=coding, piece=piece)  # type: ignore[assignment]
        assert (await sidecar.register(code)).body == content
        assert await becomes_of(sidecar, code) == expected


@pytest.mark.parametrize(("status", "field"), [(204, ""), (304, ""), (200, "Content-Length: 0\r\n")])
async def test_an_answer_without_content_is_no_yes(start: Start, status: int, field: str) -> None:
    """204, 304 and nothing at all say nothing."""
    sidecar = await start(ROUTE)
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = f"HTTP/1.1 {status} x\r\n{field}\r\n".encode()
    assert (await sidecar.register(code)).status == status
    assert await becomes_of(sidecar, code) == "released"


@pytest.mark.parametrize("fields", [(), ("Connection: Upgrade", "Upgrade: websocket")])
async def test_head_and_upgrades_are_no_yes(start: Start, fields: tuple[str, ...]) -> None:
    """HEAD has no content to say so; nor has a WebSocket, which opens all the same."""
    routes = ROUTE.replace("POST /register", "GET /register").replace("json:phone", "query:phone")
    sidecar = await start(routes.replace('"json:code"', '"query:code"').replace("query:phone", "json:phone", 1))
    target = f"/register?phone={PHONE}&code={await fresh_code(sidecar)}"

    async def switch(taken: Taken, _: Message) -> None:
        await taken.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")

    async def head(taken: Taken, _: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n")

    sidecar.upstream.answer = switch if fields else head
    for _ in range(2):
        async with RawClient(sidecar.port) as client:
            answer = await client.ask("GET" if fields else "HEAD", target, fields)
            assert answer.status == (101 if fields else 200)


async def test_a_connection_serves_on_after_it_was_held(start: Start) -> None:
    """The client's, and upstream's in the pool: answers come whole and in order, request after request."""
    sidecar = await start(ROUTE)
    in_bare_chunks = functools.partial(in_chunks, trailers=b"")
    async with RawClient(sidecar.port) as client:
        for content, frame in (
            (NO, by_length),
            (b"x" * 300_000, in_bare_chunks),
            (NO, in_bare_chunks),
            (b"y" * 300_000, by_length),
        ):
            code = await fresh_code(sidecar)
            sidecar.upstream.answer = answering(content, frame)  # type: ignore[assignment]
            body = json.dumps({"phone": PHONE, "code": code}).encode()
            answer = await client.ask("POST", "/register", ("Content-Type: application/json",), body)
            assert answer.content == content
            sidecar.upstream.answer = OK
            assert (await client.ask(target="/plain")).content == b"ok"
    assert len(sidecar.upstream.taken) == 1


async def test_a_large_answer_streams_and_is_no_yes(start: Start) -> None:
    """Past max_guarded_body nothing is waited for: the client reads while upstream still writes."""
    go_on = asyncio.Event()
    rest = b'","code": 0,"data": {"ok": true}}'

    async def endless(taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (9 + (5 << 20) + len(rest)))
        await taken.write(b'{"more": "'[:9] + b"x" * (5 << 20))
        await go_on.wait()
        await taken.write(rest)

    sidecar = await start(ROUTE)
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = endless
    async with sidecar.session.post(sidecar.url + "/register", json={"phone": PHONE, "code": code}) as response:
        assert len(await response.content.readexactly(5 << 20)) == 5 << 20
        again = await sidecar.register(code + "x")
        assert again.code == "code_mismatch"
        go_on.set()
        assert (await response.read()).endswith(rest)
    assert await becomes_of(sidecar, code) == "released"


async def test_a_bomb_reaches_its_client_as_it_is(start: Start) -> None:
    """What is decoded here is bounded; what is passed on is not touched."""
    sidecar = await start(ROUTE)
    code = await fresh_code(sidecar)
    bomb = gzip.compress(YES + b" " * (100 << 20), 9)
    sidecar.upstream.answer = answering(bomb, coding="gzip")  # type: ignore[assignment]
    assert (await sidecar.register(code)).body == bomb
    assert await becomes_of(sidecar, code) == "released"


@asynccontextmanager
async def slowly(upstream: FakeUpstream, first: bytes, rest: bytes) -> AsyncIterator[asyncio.Event]:
    """An upstream that writes the rest of its answer when it is told to."""
    go_on = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(first + rest), first))
        await go_on.wait()
        if rest:
            await taken.write(rest)
        else:
            taken.reset()

    upstream.answer = answer
    yield go_on


@pytest.mark.parametrize(("content", "expected"), [(YES, "spent"), (NO, "released")])
async def test_a_slow_answer_goes_on_while_it_is_read(start: Start, content: bytes, expected: str) -> None:
    """Who waits for the whole of it gets the beginning in two seconds, and the code is settled at its end."""
    sidecar = await start(ROUTE, config=CONFIG.replace('read_timeout = "2s"', 'read_timeout = "10s"'))
    code = await fresh_code(sidecar)
    async with slowly(sidecar.upstream, content[:50], content[50:]) as go_on:
        async with sidecar.session.post(sidecar.url + "/register", json={"phone": PHONE, "code": code}) as response:
            async with asyncio.timeout(DEADLINE_S):
                assert await response.content.readexactly(50) == content[:50]
            assert (await sidecar.register(code)).code == "verification_in_use"
            go_on.set()
            assert await response.read() == content[50:]
        assert await becomes_of(sidecar, code) == expected


async def test_an_answer_that_breaks_off_is_no_yes(start: Start) -> None:
    """The client sees it broken, and the code is free: nobody knows what upstream would have said."""
    sidecar = await start(ROUTE)
    code = await fresh_code(sidecar)

    async def broken(taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(YES) + 1, YES))
        taken.reset()

    sidecar.upstream.answer = broken
    async with RawClient(sidecar.port) as client:
        body = json.dumps({"phone": PHONE, "code": code}).encode()
        head = f"POST /register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        await client.send(head.encode(), b"\r\n\r\n", body)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(YES), "one octet is missing"
    assert await becomes_of(sidecar, code) == "released"


@pytest.mark.parametrize(("content", "expected"), [(YES, "spent"), (NO, "released")])
async def test_the_content_decides_when_the_client_has_left(start: Start, content: bytes, expected: str) -> None:
    """Who leaves in the middle of the answer has no second account for one code."""
    sidecar = await start(ROUTE)
    code = await fresh_code(sidecar)
    async with slowly(sidecar.upstream, content[:50], content[50:]) as go_on:
        leaving = asyncio.create_task(sidecar.register(code))
        await sidecar.upstream.wait_for(lambda: len(sidecar.upstream.requests) == 1)
        leaving.cancel()
        async with asyncio.timeout(DEADLINE_S):
            while not sidecar.listening.is_idle:
                await asyncio.sleep(0)
            assert (await sidecar.register(code)).code == "verification_in_use"
            go_on.set()
            while (found := await becomes_of(sidecar, code)) == "held":
                pass
        assert found == expected


async def test_upstream_is_asked_for_what_can_be_read(start: Start) -> None:
    """A browser takes Brotli, which nobody here can read: upstream hears of the other codings."""
    sidecar = await start(ROUTE)
    for asked, told in (
        ("gzip, deflate, br, zstd", b"gzip, deflate"),
        ("br;q=1.0, GZIP;q=0.5, *;q=0.1", b"GZIP;q=0.5"),
        ("br", b"identity"),
        ("*", b"identity"),
        ("identity", b"identity"),
    ):
        code = await fresh_code(sidecar)
        sidecar.upstream.answer = answering(YES)  # type: ignore[assignment]
        assert (await sidecar.register(code, headers={"Accept-Encoding": asked})).status == 200
        assert sidecar.upstream.requests[-1].value(b"accept-encoding") == told


async def test_observed_and_elsewhere_nothing_is_held(start: Start) -> None:
    """Without a proof there is nothing to settle: the answer streams, and upstream hears all codings."""
    sidecar = await start(ROUTE + 'mode = "observe"\n')
    assert (await sidecar.register(None, headers={"Accept-Encoding": "br"})).status == 200
    assert sidecar.upstream.requests[-1].value(b"accept-encoding") == b"br"
