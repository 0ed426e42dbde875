"""What passes after an upgrade: octets, both ways, to both ends' end."""

import asyncio
import base64
import hashlib

import aiohttp
import pytest
from fakes import DEADLINE_S, UNDER_WAY, FakeUpstream, Message, RawClient, Taken, write_until_stalled
from proxied import Passing, passing

HANDSHAKE = (
    b"GET /ws?a HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


async def switch(client: RawClient) -> Message:
    await client.send(HANDSHAKE)
    return await client.head()


async def echo(taken: Taken, request: Message) -> None:
    """Send back what comes, then end with the client."""
    await taken.write(SWITCHED)
    while octets := await taken.reader.read(1 << 16):
        await taken.write(octets)


async def test_the_handshake_passes_whole(upstream: FakeUpstream) -> None:
    upstream.answer = echo
    async with passing(upstream.url) as sidecar, sidecar.client() as client:
        answer = await switch(client)
    assert answer.raw == (
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Via: 1.1 signup-sidecar\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    got = upstream.requests[0]
    assert got.target == b"/ws?a"
    assert (got.value(b"connection"), got.value(b"upgrade")) == (b"Upgrade", b"websocket")
    assert got.value(b"sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="
    assert got.value(b"sec-websocket-extensions") == b"permessage-deflate"
    assert sidecar.statuses == [101]


async def test_octets_pass_unread_both_ways(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Whatever they are: no frame is looked into."""
    upstream.answer = echo
    octets = b"GET / HTTP/1.1\r\n\r\n\x00\xff" + bytes(range(256))
    async with sidecar.client() as client:
        await switch(client)
        for _ in range(3):
            await client.send(octets)
            assert await client.exactly(len(octets)) == octets


async def test_octets_that_came_with_the_heads_are_not_lost(sidecar: Passing, upstream: FakeUpstream) -> None:
    async def greet(taken: Taken, request: Message) -> None:
        await taken.write(SWITCHED + b"greeting")
        assert await taken.reader.readexactly(5) == b"early"
        await taken.write(b"heard")

    upstream.answer = greet
    async with sidecar.client() as client:
        await client.send(HANDSHAKE + b"early")
        assert (await client.head()).status == 101
        assert await client.exactly(13) == b"greetingheard"


async def test_a_client_that_has_said_all_is_still_answered(sidecar: Passing, upstream: FakeUpstream) -> None:
    """One half closed, the other open; then both."""

    async def answer_at_the_end(taken: Taken, request: Message) -> None:
        await taken.write(SWITCHED)
        said = await taken.reader.read()
        await taken.write(b"you said " + said)

    upstream.answer = answer_at_the_end
    async with sidecar.client() as client:
        await switch(client)
        await client.send(b"all")
        client.writer.write_eof()
        assert await client.rest() == b"you said all"
        await upstream.wait_closed()


async def test_an_upstream_that_has_said_all_still_hears(sidecar: Passing, upstream: FakeUpstream) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def leave_first(taken: Taken, request: Message) -> None:
        await taken.write(SWITCHED + b"bye")
        taken.writer.write_eof()
        heard.set_result(await taken.reader.read())

    upstream.answer = leave_first
    async with sidecar.client() as client:
        await switch(client)
        assert await client.rest() == b"bye"
        await client.send(b"and you")
        client.writer.write_eof()
        assert await asyncio.wait_for(heard, 30) == b"and you"


@pytest.mark.parametrize("is_client", [True, False])
async def test_one_end_lost_takes_the_other_with_it(
    sidecar: Passing, upstream: FakeUpstream, *, is_client: bool
) -> None:
    upstream.answer = echo
    async with sidecar.client() as client:
        await switch(client)
        await client.send(b"x")
        await client.exactly(1)
        if is_client:
            Taken(client.reader, client.writer, 0).reset()
        else:
            upstream.taken[0].reset()
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.exactly(1)
        await upstream.wait_closed()


async def test_a_refused_handshake_is_an_answer_like_any_other(sidecar: Passing, upstream: FakeUpstream) -> None:
    upstream.answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    async with sidecar.client() as client:
        await client.send(HANDSHAKE)
        assert (await client.answer()).content == b"no"
        await upstream.wait_for(lambda: len(upstream.requests) == 1)


async def test_megabytes_pass_and_a_reader_that_stops_stops_the_writer(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    """Back-pressure through the tunnel: what is written while nobody reads stays small, and none of it is lost."""
    upstream.answer = echo
    size = 256 << 20  # more than the kernel holds at four ends: 32 MiB each where it may grow
    async with sidecar.client() as client:
        await switch(client)
        sent, chunk = 0, bytes(1 << 16)
        stalled = False
        while sent < size and not stalled:
            client.writer.write(chunk)
            sent += len(chunk)
            try:
                await asyncio.wait_for(client.writer.drain(), 1)
            except TimeoutError:
                stalled = True
        assert stalled
        assert await client.exactly(sent) == bytes(sent)
        await client.send(b"end")
        assert await client.exactly(3) == b"end"


FRAMES = [
    (b"\x01\x83mask" + b"abc", b"\x01\x03abc"),  # text, to be continued
    (b"\x89\x81mask" + b"p", b"\x89\x01p"),  # a ping between its fragments
    (b"\x8a\x81mask" + b"p", b"\x8a\x01p"),
    (b"\x80\x80mask", b"\x80\x00"),  # its end
    (b"\xc2\xfe\x01\x00mask" + bytes(256), b"\xc2\x7e\x01\x00" + bytes(256)),  # binary, compressed
    (b"\x82\xff" + (1 << 17).to_bytes(8, "big") + b"mask" + bytes(1 << 17), b"\x82\x7f" + (9).to_bytes(8, "big")),
    (b"\x88\x84mask\x62\xc0ok", b"\x88\x04\x0f\xa1ok"),  # a close code of their own
]


async def test_frames_pass_as_they_were_cut_both_ways(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Fragments, control frames between them, every kind of length, close codes: nobody here reads a frame."""

    async def talk(taken: Taken, request: Message) -> None:
        await taken.write(SWITCHED)
        for asked, answered in FRAMES:
            assert await taken.reader.readexactly(len(asked)) == asked
            await taken.write(answered)
        taken.writer.close()

    upstream.answer = talk
    async with sidecar.client() as client:
        await switch(client)
        for asked, answered in FRAMES:
            await client.send(asked)
            assert await client.exactly(len(answered)) == answered
        assert await client.rest() == b""


async def test_an_upstream_that_reads_nothing_stops_the_client(sidecar: Passing, upstream: FakeUpstream) -> None:
    size, go_on = 64 << 20, asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(SWITCHED)
        await go_on.wait()
        assert await taken.reader.readexactly(size) == bytes(size)
        await taken.write(b"all")

    upstream.answer = answer
    async with sidecar.client() as client:
        await switch(client)
        sent = await write_until_stalled(client.writer, size)
        assert sent < UNDER_WAY
        go_on.set()
        client.writer.write(bytes(size - sent))
        assert await client.exactly(3) == b"all"


async def test_a_client_that_reads_nothing_stops_upstream(sidecar: Passing, upstream: FakeUpstream) -> None:
    """And may still speak."""
    size = UNDER_WAY + (16 << 20)
    stalled: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(SWITCHED)
        stalled.set_result(await write_until_stalled(taken.writer, size))
        assert await taken.reader.readexactly(5) == b"hello"
        await taken.write(bytes(size - stalled.result()))

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(HANDSHAKE)
        assert await asyncio.wait_for(stalled, DEADLINE_S) < UNDER_WAY
        await client.send(b"hello")
        assert (await client.head()).status == 101
        assert await client.exactly(size) == bytes(size)


async def test_a_real_client_talks_with_a_real_server(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Ping, text, a close code: the frames that aiohttp's own two ends send each other."""

    async def accept(taken: Taken, request: Message) -> None:
        key = request.value(b"sec-websocket-key") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accepted = base64.b64encode(hashlib.sha1(key).digest())
        await taken.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n\x81\x05hello"
        )
        assert (await taken.reader.readexactly(2))[0] == 0x81  # text, from the client
        await taken.reader.readexactly(4 + 2)
        await taken.write(b"\x88\x04\x0f\xa1ok")  # close, 4001
        await taken.reader.read()

    upstream.answer = accept
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{sidecar.port}/") as socket:
        assert (await socket.receive_str()) == "hello"
        await socket.send_str("hi")
        closed = await socket.receive()
        assert (closed.type, socket.close_code) == (aiohttp.WSMsgType.CLOSE, 4001)


async def test_a_tunnel_outlives_the_read_timeout(upstream: FakeUpstream) -> None:
    """`read_timeout` is upstream's to answer in; a socket may be silent."""
    upstream.answer = echo
    async with passing(upstream.url, read_timeout=1.0) as sidecar, sidecar.client() as client:
        await switch(client)
        quiet = asyncio.create_task(client.exactly(1))
        done, _ = await asyncio.wait([quiet], timeout=1.5)
        assert not done
        await client.send(b"x")
        assert await quiet == b"x"


async def test_a_sidecar_that_stops_ends_its_tunnels(upstream: FakeUpstream) -> None:
    upstream.answer = echo
    async with passing(upstream.url) as sidecar:
        client = await sidecar.client().__aenter__()
        await switch(client)
    await upstream.wait_closed()
    assert await client.rest() == b""
    client.writer.close()
