"""What an attacker, or bad luck, would have the sidecar do. Each was seen to happen once."""

import asyncio
import gc
import json
import socket
import ssl
import struct
import tracemalloc
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from certificates import LOOPBACK, Authority, serving
from fakes import OK, UNDER_WAY, FakeUpstream, Message, RawClient, Taken, read_content
from proxied import Passing, passing
from telling import PHONE, Start
from vendors import closed_port

from sidecar.config.model import Upstream
from sidecar.proxy import client as proxy_client
from sidecar.proxy import listener, messages
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.forward import Forwarder, Peer

HOST = b"Host: example.com\r\n"
GET = b"GET /%d HTTP/1.1\r\nHost: example.com\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


# Two readings…


@pytest.mark.parametrize("named", ["Content-Type", "content_type"])
async def test_upstream_reads_the_content_as_it_was_read_here(start: Start, named: str) -> None:
    """What a client names in Connection does not take the content's type away behind the gate, or it is refused.

    RFC 9110 section 7.6.1: no field for all recipients of the content is named there. Rack takes a POST without a type
    for a form, so a verified JSON number would become another one there.
    """
    sidecar = await start()
    assert (await sidecar.send()).status == 202
    code = await sidecar.vendor.code()
    content = json.dumps({"phone": PHONE, "code": code, "x": "&phone=%2B8613900000002&"}).encode()
    async with RawClient(sidecar.port) as client:
        answer = await client.ask(
            "POST", "/register", ["Content-Type: application/json", f"Connection: {named}"], content
        )
    assert answer.status in {200, 400}
    for request in sidecar.upstream.requests:
        assert request.values(b"content-type") == [b"application/json"]


async def test_the_host_that_upstream_is_told_is_the_one_that_was_asked_for(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    """X-Forwarded-Host is ours alone: no client has it say another host than Host does."""
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: good.example,evil.example\r\n\r\n")
        await client.answer()
    for request in upstream.requests:  # or it was refused
        assert request.value(b"x-forwarded-host") == request.value(b"host")


# Waiting for ever…


@pytest.mark.usefixtures("engine")
async def test_whoever_waits_for_a_connection_hears_that_there_is_none() -> None:
    """The attempt that failed gives its place to the next: nobody waits for a connection that nobody opens."""
    async with (
        passing(closed_port(), max_connections=1) as sidecar,
        sidecar.client() as one,
        sidecar.client() as two,
        sidecar.client() as three,
    ):
        for client in (one, two, three):
            await client.send(GET % 1)
        answers = await asyncio.gather(one.answer(), two.answer(), three.answer())
    assert [answer.status for answer in answers] == [502, 502, 502]


async def test_a_client_that_takes_nothing_of_a_small_answer_is_cut_off_too(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is closed is closed in time, also when less is left to write than stops the reading."""
    upstream.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000)
    lost = asyncio.Event()
    ends = listener.Connection.connection_lost

    def small(transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def connection_lost(connection: listener.Connection, exc: BaseException | None) -> None:
        ends(connection, exc)
        lost.set()

    monkeypatch.setattr(listener, "tcp_keepalive", small)
    monkeypatch.setattr(listener.Connection, "connection_lost", connection_lost)
    for name in ("KEEP_ALIVE_S", "LINGER_S", "DISCARD_S"):
        monkeypatch.setattr(listener, name, 0.2)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    with client:
        async with passing(upstream.url, send_s=0.2) as sidecar:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", sidecar.port))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await asyncio.wait_for(lost.wait(), 30)


# Memory and time…


@pytest.mark.usefixtures("engine")
async def test_a_client_that_asks_on_and_takes_nothing_is_heard_no_more(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    """Back-pressure also from one request to the next: the answers that nobody takes are not piled up here."""
    size = 200_000
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    most = UNDER_WAY // size
    async with sidecar.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads too
        for number in range(most):
            await client.send(GET % number)
            try:
                await asyncio.wait_for(upstream.wait_for(lambda number=number: len(upstream.requests) > number), 1)  # type: ignore[misc]
            except TimeoutError:
                break
        assert len(upstream.requests) < most


@pytest.mark.usefixtures("engine")
async def test_an_answer_that_begins_while_the_last_one_is_not_taken_is_held_back(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    """Fullness that began with one answer holds for the next."""
    size = UNDER_WAY + (16 << 20)
    written = 0

    async def answer(taken: Taken, request: Message) -> None:
        nonlocal written
        if request.target != b"/1000":
            await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000))
            return
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            await asyncio.wait_for(taken.write(bytes(1 << 16)), 1)
            written += 1 << 16

    upstream.answer = answer
    async with sidecar.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads too
        stalls = 0
        for number in range(60):
            await client.send(GET % number)
            if stalls == 5:  # upstream hears no more of them, so there is nothing to wait for
                continue
            try:
                await asyncio.wait_for(upstream.wait_for(lambda number=number: len(upstream.requests) > number), 0.2)  # type: ignore[misc]
            except TimeoutError:
                stalls += 1
        await client.send(GET % 1000)
        before = -1
        while before < written:  # until nothing more has come for a second
            before = written
            with suppress(TimeoutError):
                await asyncio.wait_for(upstream.wait_for(lambda: written >= size), 1)
        assert written < UNDER_WAY


async def test_a_flood_of_empty_lines_before_a_request_is_skipped(sidecar: Passing) -> None:
    async with sidecar.client() as client:
        await client.send(b"\r\n" * (1 << 20), GET % 1)
        assert (await client.answer()).status == 200


# Answers lost…


async def test_a_refusal_of_a_head_request_that_cannot_be_read_has_no_content(sidecar: Passing) -> None:
    """RFC 9110 section 9.3.2: what came behind the head would be taken for another answer."""
    async with sidecar.client() as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost : a\r\n\r\n")
        answer = await client.answer(to_head=True)
        assert answer.status == 400
        assert int(answer.value(b"content-length"))
        assert await client.rest() == b""


async def test_a_refusal_of_broken_content_is_no_reset(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Chunks that break their framing are refused with 400, and what still comes is taken: no reset overtakes it."""
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await upstream.wait_for(lambda: len(upstream.taken) == 1)
        await client.send(b"Z\r\n")
        assert (await client.answer()).status == 400
        for _ in range(200):
            await client.send(b"Z\r\n")
            await asyncio.sleep(0)


async def test_a_websocket_that_a_handler_let_through_is_told_of(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Its line in the log and its count come when it has ended, whichever end it was."""
    sidecar.handles = lambda _request: True

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(SWITCHED + b"bye")

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(HANDSHAKE)
        assert (await client.head()).status == 101
        assert await client.exactly(3) == b"bye"
        taken = upstream.taken[0]
        taken.writer.close()
        assert await client.rest() == b""
    async with asyncio.timeout(30):
        while not sidecar.answers and not sidecar.cancelled.is_set():
            await asyncio.sleep(0)
    assert not sidecar.cancelled.is_set()
    assert [answer.status for answer in sidecar.answers] == [101]


async def test_a_request_that_expects_an_invitation_and_gets_an_answer_ends_its_connection(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    """RFC 9110 section 10.1.1: its content may never come. What comes next is no content of it, so nothing is read."""

    async def answer(taken: Taken, request: Message) -> None:
        if request.values(b"expect"):
            await taken.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        else:
            await read_content(taken.reader, request)
            await taken.write(OK)

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        first = await client.answer()
        assert first.status == 401
        assert first.values(b"connection") == [b"close"]


async def test_a_safe_request_is_sent_again_when_an_unused_connection_has_gone(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose own client left before it was there is one of the pool like any other."""
    dial, dialled, go_on = Forwarder._dial, asyncio.Event(), asyncio.Event()

    async def slow(forwarder: Forwarder, factory: Any) -> Any:
        dialled.set()
        await go_on.wait()
        return await dial(forwarder, factory)

    async def answer(taken: Taken, request: Message) -> None:
        if taken.number == 0:
            taken.reset()
        else:
            await taken.write(OK)

    monkeypatch.setattr(Forwarder, "_dial", slow)
    upstream.answer = answer
    async with passing(upstream.url) as sidecar:
        async with sidecar.client() as client:
            await client.send(GET % 1)
            await asyncio.wait_for(dialled.wait(), 30)
        await asyncio.wait_for(sidecar.cancelled.wait(), 30)
        go_on.set()
        await upstream.wait_for(lambda: len(upstream.taken) == 1)
        async with sidecar.client() as client:
            assert (await client.ask()).content == b"ok"
    assert len(upstream.taken) == 2


async def test_a_connection_that_is_idle_holds_no_large_head(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Ten thousand of them would hold gigabytes: what is remembered of the last request is small, or forgotten."""
    count, size = 20, 0
    tracemalloc.start()
    try:
        async with AsyncExitStack() as stack:
            for number in range(count):
                client = await stack.enter_async_context(sidecar.client())
                fields = "".join(f"X-{number}-{part}: {'x' * 500}\r\n" for part in range(115)).encode()
                await client.send(b"GET / HTTP/1.1\r\n" + HOST + fields + b"\r\n")
                assert (await client.answer()).content == b"ok"
                upstream.requests.clear()
                sidecar.answers.clear()
                if number == 0:
                    gc.collect()
                    size = tracemalloc.get_traced_memory()[0]
            gc.collect()
            each = (tracemalloc.get_traced_memory()[0] - size) / (count - 1)
    finally:
        tracemalloc.stop()
    assert each < 64 << 10


def test_a_long_walk_through_forwarded_addresses_ends() -> None:
    """Whoever names only proxies that are trusted here has thousands of them looked at for one request."""
    said = {b"x-forwarded-for": [b",".join([b"10.0.0.1"] * 900)] * 7}
    named = proxy_client.name("10.0.0.2", said, proxy_client.Trusted([ip_network("10.0.0.0/8")]), "http")
    assert len(named.chain) == proxy_client.MAX_HOPS + 1


async def test_a_client_that_leaves_as_its_websocket_opens_takes_upstream_with_it(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Over TLS too, where a loss that is known and not yet told goes to whoever the protocol was when it came."""
    authority = Authority(tmp_path)
    loop = asyncio.get_running_loop()
    forwarder = Forwarder(Upstream(url=upstream.url), lambda _: None, "X-Verified-Identity", proxy_client.Trusted())
    context = ssl.create_default_context(cafile=authority.cert)
    turns = 0

    class Front:
        def judge(self, request: messages.Request, connection: listener.Connection) -> Exchange:
            rewritten = forwarder.rewritten(request, Peer("127.0.0.1", "https", proxy_client.Trusted()))
            ended: Any = lambda _exchange, _counts: None  # noqa: E731
            return forwarder.exchange(request, rewritten, request_id="x", route=None, ended=ended)

    def connect() -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")

    async def answer(taken: Taken, request: Message) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        await taken.write(SWITCHED)
        await taken.reader.read()

    upstream.answer = answer
    server = listener.Server(Front())  # type: ignore[arg-type]
    tls = serving(authority.issue("server", LOOPBACK))
    listening = await loop.create_server(partial(server, None), "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    try:
        for turns in range(8):
            client = await loop.run_in_executor(None, connect)
            client.sendall(HANDSHAKE)
            await upstream.wait_for(lambda count=turns + 1: len(upstream.requests) == count)  # type: ignore[misc]
            await upstream.wait_closed()
    finally:
        listening.close()
        await server.shutdown(1.0)
        await forwarder.close()
