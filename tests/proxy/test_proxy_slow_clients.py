"""Who takes an answer slowly is served to its end, and who takes nothing is cut off. Each was seen to go wrong once."""

import asyncio
import math
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import LOOPBACK, Authority, serving
from fakes import DEADLINE_S, FakeUpstream, Message, RawClient, Taken, write_until_stalled
from proxied import passing
from structlog.testing import capture_logs

from sidecar.proxy import listener
from sidecar.proxy.writes import Writes

# One read of uvloop's (256,000 octets), what a transport holds before it says that it is full, and as much again.
ONE_READ_AND_A_BUFFER = 640_000


class Taking(asyncio.Transport):
    """A transport that counts what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.taken += len(data)

    def is_closing(self) -> bool:
        return False


async def test_what_waits_to_be_written_is_one_read_at_most() -> None:
    """A transport that is full can only say so when it is written to, and uvloop reads up to 32 times in one turn."""
    transport, writes, put = Taking(), Writes(), 0
    for _ in range(32):
        writes.put(transport, bytes(256_000))
        put += 256_000
        assert put - transport.taken <= ONE_READ_AND_A_BUFFER


def small(transport: asyncio.Transport) -> None:
    """Have the system hold little for the client, in place of keep-alive probes."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


async def connected(port: int) -> socket.socket:
    """Connect a client for which the system holds little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


class Watched:
    """The one connection of a listener: when it was closed, and when it was lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closing, self.lost = asyncio.Event(), asyncio.Event()
        self.connection: Any = None
        close, made, lost = (
            listener.Connection._close,
            listener.Connection.connection_made,
            listener.Connection.connection_lost,
        )

        def connection_made(connection: listener.Connection, transport: asyncio.BaseTransport) -> None:
            self.connection = connection
            made(connection, transport)

        def closes(connection: listener.Connection) -> None:
            close(connection)
            self.closing.set()

        def connection_lost(connection: listener.Connection, exc: BaseException | None) -> None:
            lost(connection, exc)
            self.lost.set()

        monkeypatch.setattr(listener, "tcp_keepalive", small)
        monkeypatch.setattr(listener.Connection, "connection_made", connection_made)
        monkeypatch.setattr(listener.Connection, "connection_lost", connection_lost)
        monkeypatch.setattr(listener.Connection, "_close", closes)


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes something between two looks is not cut off, also when the connection is about to close."""
    size = 600_000
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    watched = Watched(monkeypatch)
    loop = asyncio.get_running_loop()
    async with passing(upstream.url) as sidecar:
        with await connected(sidecar.port) as client:
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            octets = b""
            while not watched.closing.is_set():
                octets += await loop.sock_recv(client, 4096)
            connection = watched.connection
            left = connection.transport.get_write_buffer_size()
            while piece := await loop.sock_recv(client, 4096):
                octets += piece
                if not watched.lost.is_set() and connection.transport.get_write_buffer_size() < left:
                    left = connection.transport.get_write_buffer_size()
                    connection.look(connection.due)  # as if SEND_S had gone by
    assert len(octets.partition(b"\r\n\r\n")[2]) == size


async def test_a_client_that_takes_something_between_two_looks_is_served_on(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly it takes what has come of an answer that has yet to end."""
    size, looks = 600_000, 0
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    watched = Watched(monkeypatch)
    loop = asyncio.get_running_loop()
    async with passing(upstream.url) as sidecar:
        with await connected(sidecar.port) as client:
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            octets = b""
            while len(octets.partition(b"\r\n\r\n")[2]) < size:
                octets += await loop.sock_recv(client, 4096)
                connection = watched.connection
                if connection.send_due < math.inf and connection.transport.get_write_buffer_size() < connection._left:
                    looks += 1
                    connection.look(connection.send_due)  # as if SEND_S had gone by
    assert looks


async def test_a_client_that_ends_its_side_and_takes_nothing_is_cut_off_too(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transport closes by itself, before the answer has ended, and is waited for no longer than any other."""
    go_on = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40002\r\n\r\n" + bytes(40_000))
        await go_on.wait()
        await taken.write(b"ok")

    upstream.answer = answer
    watched = Watched(monkeypatch)
    loop = asyncio.get_running_loop()
    async with passing(upstream.url, send_s=0.2) as sidecar:
        with await connected(sidecar.port) as client:
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await loop.sock_recv(client, 1)
            client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(30):
                while not watched.connection.transport.is_closing():
                    await asyncio.sleep(0)
            go_on.set()
            await asyncio.wait_for(watched.lost.wait(), 30)


async def test_nothing_more_is_asked_for_a_client_that_has_ended_its_side(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it pipelined before that waits behind an answer that it does not take, and never reaches upstream."""
    go_on = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40002\r\n\r\n" + bytes(40_000))
        await go_on.wait()
        await taken.write(b"ok")

    upstream.answer = answer
    watched = Watched(monkeypatch)
    loop = asyncio.get_running_loop()
    async with passing(upstream.url, send_s=0.2) as sidecar:
        with await connected(sidecar.port) as client:
            await loop.sock_sendall(client, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
            await loop.sock_recv(client, 1)
            client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(30):
                while not watched.connection.transport.is_closing():
                    await asyncio.sleep(0)
            go_on.set()
            await asyncio.wait_for(watched.lost.wait(), 30)
    assert [request.target for request in upstream.requests] == [b"/1"]


async def test_an_answer_is_held_though_the_one_before_it_filled_the_client_up(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's buffer was full before upstream was connected, and nobody says so a second time."""
    most, go_on = 16 << 20, asyncio.Event()
    written: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def answer(taken: Taken, request: Message) -> None:
        if request.target == b"/1":
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 90000\r\n\r\n"
            await taken.write(head + bytes(60_000))
            await go_on.wait()
            await taken.write(bytes(30_000))
        else:
            await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % most)
            written.set_result(await write_until_stalled(taken.writer, most))

    upstream.answer = answer
    watched = Watched(monkeypatch)
    loop = asyncio.get_running_loop()
    async with passing(upstream.url) as sidecar:
        with await connected(sidecar.port) as client:
            await loop.sock_sendall(client, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(30):
                while watched.connection is None or watched.connection.transport.get_write_buffer_size() < 40_000:
                    await asyncio.sleep(0)
            go_on.set()
            assert await asyncio.wait_for(written, 30) < most


async def test_the_end_of_an_answer_over_tls_has_as_much_time_as_without(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The loop's own limit for TLS to end (30 s, whatever is taken meanwhile) cuts no answer off."""
    size = 450_000  # the client holds 256 KiB of it
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 0.1)  # uvloop has its own, out of reach
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    watched = Watched(monkeypatch)
    authority = Authority(tmp_path)
    context = ssl.create_default_context(cafile=authority.cert)
    async with passing(upstream.url, tls_listen=serving(authority.issue("server", LOOPBACK))) as sidecar:
        reader, writer = await asyncio.open_connection(
            sock=await connected(sidecar.port), ssl=context, server_hostname="127.0.0.1"
        )
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads too
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await asyncio.wait_for(watched.closing.wait(), 30)
        with suppress(TimeoutError):
            await asyncio.wait_for(watched.lost.wait(), 0.5)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        octets = await asyncio.wait_for(reader.read(), 30)
        writer.close()
    assert len(octets.partition(b"\r\n\r\n")[2]) == size


async def test_a_client_that_takes_its_answer_still_is_not_idle(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it asked next waits behind that answer, and is not sent to upstream for an answer that nobody gets."""
    size = 110_000
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    watched = Watched(monkeypatch)
    loop = asyncio.get_running_loop()
    async with passing(upstream.url) as sidecar:
        with await connected(sidecar.port) as client:
            await loop.sock_sendall(client, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(30):
                while not sidecar.answers:
                    await asyncio.sleep(0)
                await loop.sock_sendall(client, b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                while not watched.connection._tail:
                    await asyncio.sleep(0)
                watched.connection.send_due += 2 * listener.KEEP_ALIVE_S  # it takes enough
                watched.connection.look(watched.connection.due)
                octets = b""
                while piece := await loop.sock_recv(client, 65536):
                    octets += piece
    assert octets.count(b"HTTP/1.1 200") == len(upstream.requests) == 2


async def test_clients_that_hold_too_much_together_make_way() -> None:
    """Half a head each, within every limit of its own: the oldest are broken off, and who comes is served."""
    many, most, each = 60, 1 << 20, 60_000
    async with FakeUpstream() as upstream, passing(upstream.url, most_held=most, content_s=0.4) as sidecar:
        with capture_logs() as lines:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(sidecar.client()) for _ in range(many)]
                for client in clients:
                    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x" * each)
                ended = [asyncio.create_task(_is_ended(client)) for client in clients[: many - most // each]]
                async with asyncio.timeout(DEADLINE_S):
                    assert all(await asyncio.gather(*ended))
                newest = clients[-1]
                await newest.send(b"\r\n\r\n")
                assert (await newest.answer()).status == 200
                async with sidecar.client() as client:
                    assert (await client.ask()).status == 200
        shed = [line for line in lines if line["event"] == "connections_shed"]
        assert many - most // each <= sum(line["count"] for line in shed) < many


async def _is_ended(client: RawClient) -> bool:
    with suppress(ConnectionError):
        return await client.reader.read() == b""
    return True
