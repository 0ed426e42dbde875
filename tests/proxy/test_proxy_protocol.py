"""Whose connection is it, by the octets before it? And who may say so."""

import asyncio
import importlib
import re
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, cast

import pytest
from certificates import LOOPBACK, Authority, serving
from fakes import DEADLINE_S, RawClient
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar.proxy.client import Trusted
from sidecar.proxy.proxy_protocol import HEAD, HEADER_S, MOST_HEADERS, SIGNATURE, Acceptor, Source, length, read

LOCAL: Final = 0x20
PROXY: Final = 0x21
TCP4: Final = 0x11
TCP6: Final = 0x21
HTTP: Final = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
V1: Final = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"


def header(command: int, family: int, block: bytes = b"", *, says: int | None = None) -> bytes:
    """Build a header. `says`: the length that it tells, where it is not its own."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if says is None else says) + block


def of(ip: str, port: int, tlvs: bytes = b"") -> bytes:
    """Build the header of a connection from there."""
    address = ip_address(ip).packed
    family = TCP4 if len(address) == 4 else TCP6
    return header(PROXY, family, address + bytes(len(address)) + struct.pack("!HH", port, 443) + tlvs)


# Octets…


@pytest.mark.parametrize(
    ("octets", "source"),
    [
        (of("192.0.2.1", 56324), Source("192.0.2.1", 56324)),
        (of("2001:db8::1", 65535), Source("2001:db8::1", 65535)),
        (of("::ffff:192.0.2.1", 1), Source("192.0.2.1", 1)),
        (of("192.0.2.1", 56324, b"\x04\x00\x03abc"), Source("192.0.2.1", 56324)),
        (of("192.0.2.1", 56324, bytes(65535 - 12)), Source("192.0.2.1", 56324)),
        (of("2001:db8::1", 0, b"\x20\xff\xffno TLV"), Source("2001:db8::1", 0)),  # nobody looks
        (header(PROXY, TCP4, bytes.fromhex("ac130001 ac130003 a652 0050")), Source("172.19.0.1", 42578)),  # HAProxy's
    ],
)
def test_a_header_names_the_source(octets: bytes, source: Source) -> None:
    assert length(octets[:HEAD]) == len(octets)
    assert read(octets) == source


@pytest.mark.parametrize(
    "octets",
    [
        header(LOCAL, 0),
        header(LOCAL, TCP4, ip_address("192.0.2.1").packed + bytes(8)),  # "the family … is ignored"
        header(LOCAL, 0x12),
        header(LOCAL, 0xFF, b"?"),
        header(PROXY, 0),
        header(PROXY, 0, b"\x04\x00\x00"),
        header(PROXY, 0x31, b"/run/client.sock".ljust(108, b"\0") + b"/run/front.sock".ljust(108, b"\0")),
    ],
)
def test_where_a_header_names_nobody_the_peer_counts(octets: bytes) -> None:
    assert length(octets[:HEAD]) == len(octets)
    assert read(octets) is None


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "0 octets came, a header has 16 or more"),
        (of("192.0.2.1", 1)[:15], "15 octets came, a header has 16 or more"),
        (V1, "a header of version 1 (text) came, send one of version 2 (binary)"),
        (HTTP, "no header came, send one of version 2 before all else"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), "no header came, send one of version 2"),  # TLS
        (b"\0" + of("192.0.2.1", 1)[1:], "no header came"),
        (of("192.0.2.1", 1)[:11] + b"\r" + of("192.0.2.1", 1)[12:], "no header came"),
        (header(0x11, TCP4, bytes(12)), "a header of version 1 came, send one of version 2"),
        (header(0x31, TCP4, bytes(12)), "a header of version 3 came, send one of version 2"),
        (header(0x01, 0), "a header of version 0 came"),
        (header(0x22, TCP4, bytes(12)), "the command 2 came, send 1 (PROXY) or 0 (LOCAL)"),
        (header(0x2F, 0), "the command 15 came"),
        (header(PROXY, 0x12, bytes(12)), "a header for datagrams came, send one for TCP"),
        (header(PROXY, 0x22, bytes(36)), "a header for datagrams came"),
        (header(PROXY, 0x32, bytes(216)), "a header for datagrams came"),
        (header(PROXY, 0x41, bytes(99)), "the family 4 with the transport 1 came, send 1 (IPv4) or 2 (IPv6) with 1"),
        (header(PROXY, 0x10, bytes(12)), "the family 1 with the transport 0 came"),
        (header(PROXY, 0x01), "the family 0 with the transport 1 came"),
        (header(PROXY, TCP4, bytes(11)), "11 octets of addresses came, their family has 12"),
        (header(PROXY, TCP6, bytes(12)), "12 octets of addresses came, their family has 36"),
        (header(PROXY, TCP6), "0 octets of addresses came, their family has 36"),
        (header(PROXY, 0x31, bytes(215)), "215 octets of addresses came, their family has 216"),
        (header(PROXY, TCP4, bytes(12), says=13), "28 octets came, the header has 29"),
        (header(PROXY, TCP4, bytes(12), says=65535), "28 octets came, the header has 65551"),
        (of("192.0.2.1", 1) + b"G", "29 octets came, the header has 28"),
    ],
)
def test_anything_else_is_refused_and_told(octets: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(octets)
    assert str(refused.value).startswith(reason)


heads = st.builds(
    lambda command, family, block, says: header(command, family, block, says=says),
    st.one_of(st.sampled_from([LOCAL, PROXY]), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, TCP4, 0x12, TCP6, 0x22, 0x31, 0x32]), st.integers(0, 255)),
    st.binary(max_size=300),
    st.one_of(st.none(), st.integers(0, 65535)),
)


@given(st.one_of(st.binary(max_size=300), heads, st.binary(max_size=40).map(lambda rest: SIGNATURE + rest)))
@example(V1)
def test_any_octets_are_a_source_or_nobody_or_refused(octets: bytes) -> None:
    """Nothing else comes out, and a refusal says the numbers in its own words."""
    try:
        source = read(octets)
    except ValueError as error:
        refusal = str(error)
    else:
        assert len(octets) == length(octets[:HEAD])
        assert source is None or (str(ip_address(source.ip)) == source.ip and 0 <= source.port <= 65535)
        return
    assert re.fullmatch(r"[A-Za-z0-9 ,()]+", refusal)


@given(
    st.ip_addresses(), st.integers(0, 65535), st.one_of(st.binary(max_size=64), st.integers(0, 65535 - 36).map(bytes))
)
def test_what_a_proxy_writes_is_what_is_read(ip: IPv4Address | IPv6Address, port: int, tlvs: bytes) -> None:
    assert read(of(str(ip), port, tlvs)) == Source(str(getattr(ip, "ipv4_mapped", None) or ip), port)


# Sockets…


class _Echo(asyncio.Protocol):
    """Tells the source that it was made with, then says what it hears."""

    def __init__(self, source: Source | None) -> None:
        self.source = source
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.transport.write(told(self.source))

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()

    async def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            async with asyncio.timeout(DEADLINE_S):
                await self.lost.wait()


def told(source: Source | None) -> bytes:
    return f"{source.ip} {source.port}\n".encode() if source else b"nobody\n"


@dataclass(slots=True)
class Accepting:
    """A running acceptor, the protocols that it made and the lines that it logged."""

    acceptor: Acceptor
    address: Any
    protocols: list[_Echo]
    logs: Sequence[Any]

    @property
    def made(self) -> list[Source | None]:
        """The source of each protocol."""
        return [protocol.source for protocol in self.protocols]

    def client(self) -> RawClient:
        return RawClient(path=self.address) if isinstance(self.address, str) else RawClient(self.address[1])

    def refusals(self) -> list[tuple[str, str]]:
        """The reasons and peers of the lines that were logged. There is no other kind."""
        assert {(line["event"], line["log_level"]) for line in self.logs} <= {("proxy_header_refused", "info")}
        return [(line["reason"], line["peer"]) for line in self.logs]


@asynccontextmanager
async def accepting(
    trusted: Sequence[str] = ("127.0.0.0/8",),
    *,
    path: str = "",
    tls: ssl.SSLContext | None = None,
    header_s: float = HEADER_S,
    most_headers: int = MOST_HEADERS,
) -> AsyncIterator[Accepting]:
    """Run one. Whatever reaches the loop's exception handler fails the test."""
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    listening = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listening.bind(path or ("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    protocols: list[_Echo] = []

    def factory(source: Source | None) -> _Echo:
        protocols.append(_Echo(source))
        return protocols[-1]

    with capture_logs() as logs:
        acceptor = Acceptor(
            [listening],
            Trusted(ip_network(network) for network in trusted),
            factory,
            tls=tls,
            header_s=header_s,
            most_headers=most_headers,
        )
        acceptor.start()
        try:
            yield Accepting(acceptor, listening.getsockname(), protocols, logs)
        finally:
            await acceptor.close()
            for protocol in protocols:
                await protocol.end()
    assert unhandled == []


def peer_of(client: RawClient) -> Source:
    ip, port = client.writer.get_extra_info("sockname")
    return Source(ip, port)


async def is_closed(client: RawClient) -> bool:
    """Tell whether nothing comes but the end; a close with octets unread is a reset."""
    with suppress(ConnectionResetError):
        return await client.rest() == b""
    return True


SOURCE: Final = Source("192.0.2.1", 56324)


@pytest.mark.parametrize(
    ("octets", "source"),
    [
        (of("192.0.2.1", 56324), SOURCE),
        (of("2001:db8::1", 1), Source("2001:db8::1", 1)),
        (of("192.0.2.1", 56324, bytes(65000)), SOURCE),
    ],
)
async def test_what_follows_the_header_in_the_same_segment_is_the_clients(octets: bytes, source: Source) -> None:
    async with accepting() as running, running.client() as client:
        await client.send(octets, HTTP)
        assert await client.exactly(len(told(source) + HTTP)) == told(source) + HTTP
        assert running.made == [source]
        assert running.refusals() == []


async def test_a_header_may_come_octet_by_octet() -> None:
    async with accepting() as running, running.client() as client:
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in of("192.0.2.1", 56324, b"\x04\x00\x00"):
            await client.send(bytes([octet]))
            await asyncio.sleep(0)
        await client.send(b"x")
        assert await client.exactly(len(told(SOURCE)) + 1) == told(SOURCE) + b"x"


@pytest.mark.parametrize("octets", [header(LOCAL, 0), header(PROXY, 0, b"tlv")])
async def test_a_proxys_own_connection_is_its_own(octets: bytes) -> None:
    async with accepting() as running, running.client() as client:
        await client.send(octets, HTTP)
        expected = told(peer_of(client)) + HTTP
        assert await client.exactly(len(expected)) == expected


async def test_of_a_stranger_no_header_is_read() -> None:
    """It is the peer itself, and a header of its is content like any other."""
    async with accepting(["10.0.0.0/8"]) as running, running.client() as client:
        await client.send(of("192.0.2.1", 56324), HTTP)
        expected = told(peer_of(client)) + of("192.0.2.1", 56324) + HTTP
        assert await client.exactly(len(expected)) == expected
        assert running.refusals() == []


async def test_a_stranger_need_not_speak_first() -> None:
    async with accepting(["10.0.0.0/8"], header_s=0.01) as running, running.client() as client:
        assert await client.exactly(len(told(peer_of(client)))) == told(peer_of(client))


async def test_a_stranger_that_resets_its_connection_is_still_itself() -> None:
    """Its request is read all the same, and a reset socket cannot name its peer: accepting has named it."""
    async with accepting(["10.0.0.0/8"]) as running:
        with socket.create_connection(running.address) as client:  # blocks: the acceptor sees it when it is over
            name = client.getsockname()
            client.sendall(HTTP)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with running.client() as another:
            assert await another.exactly(len(told(peer_of(another)))) == told(peer_of(another))
            assert running.made == [Source(*name), peer_of(another)]


async def test_who_is_trusted_may_change() -> None:
    async with accepting(["10.0.0.0/8"]) as running:
        running.acceptor.trusted = Trusted([ip_network("127.0.0.1/32")])
        async with running.client() as client:
            await client.send(of("192.0.2.1", 56324))
            assert await client.exactly(len(told(SOURCE))) == told(SOURCE)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (HTTP, "no header came, send one of version 2 before all else"),
        (V1 + HTTP, "a header of version 1 (text) came, send one of version 2 (binary)"),
        (header(PROXY, 0x12, bytes(12)), "a header for datagrams came, send one for TCP"),
    ],
)
async def test_a_trusted_peer_without_its_header_is_closed(octets: bytes, reason: str) -> None:
    async with accepting() as running, running.client() as client:
        await client.send(octets)
        assert await is_closed(client)
        assert running.made == []
        assert running.refusals() == [(reason, "127.0.0.1")]


async def test_a_head_that_is_wrong_is_not_waited_for() -> None:
    """Its block may never come."""
    async with accepting() as running, running.client() as client:
        await client.send(header(PROXY, 0x12, says=12))
        assert await is_closed(client)
        assert len(running.refusals()) == 1


@pytest.mark.parametrize("octets", [b"", SIGNATURE, of("192.0.2.1", 56324)[:-1]])
async def test_a_slow_header_is_closed(octets: bytes) -> None:
    async with accepting(header_s=0.1) as running, running.client() as client:
        await client.send(octets)
        assert await is_closed(client)
        assert running.made == []
        assert running.refusals() == [("no whole header came within 0.1 s", "127.0.0.1")]


async def test_the_time_for_a_header_ends_with_it() -> None:
    async with accepting(header_s=1.0) as running, running.client() as client:
        await client.send(of("192.0.2.1", 56324))
        assert await client.exactly(len(told(SOURCE))) == told(SOURCE)
        ended = asyncio.ensure_future(client.rest())
        done, _ = await asyncio.wait([ended], timeout=1.5)
        assert not done
        ended.cancel()


@pytest.mark.parametrize("octets", [b"", SIGNATURE, of("192.0.2.1", 56324)[:-1]])
async def test_a_client_that_leaves_in_its_header_is_let_go(octets: bytes) -> None:
    async with accepting() as running, running.client() as client:
        await client.send(octets)
        client.writer.write_eof()
        assert await is_closed(client)
        assert running.made == []
        assert running.refusals() == [("the connection ended before its header was whole", "127.0.0.1")]


async def test_headers_awaited_at_once_are_bounded() -> None:
    """Beyond the bound nobody is accepted until one is done, and then the next is."""
    async with accepting(most_headers=1) as running, running.client() as first:
        await first.send(SIGNATURE)
        async with running.client() as second:
            await second.send(of("192.0.2.1", 56324))
            answer = asyncio.ensure_future(second.exactly(len(told(SOURCE))))
            done, _ = await asyncio.wait([answer], timeout=0.2)
            assert not done
            await first.send(of("192.0.2.2", 1)[len(SIGNATURE) :])
            assert await answer == told(SOURCE)
        assert running.made == [Source("192.0.2.2", 1), SOURCE]


async def test_many_connections_at_once_are_all_taken() -> None:
    async with accepting(most_headers=8) as running:

        async def ask(port: int) -> bytes:
            async with running.client() as client:
                await client.send(of("192.0.2.1", port), b"x")
                return await client.exactly(len(told(Source("192.0.2.1", port))) + 1)

        answers = await asyncio.gather(*(ask(port) for port in range(200)))
        assert answers == [told(Source("192.0.2.1", port)) + b"x" for port in range(200)]


async def test_a_machine_out_of_file_descriptors_accepts_when_it_has_some() -> None:
    """It says so once, and does not spin."""
    importlib.import_module("encodings.idna")  # which no file can be opened for later
    loop = asyncio.get_running_loop()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with accepting(["10.0.0.0/8"]) as running:
        with socket.socket() as client:
            client.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                await loop.sock_connect(client, running.address)
                answer = asyncio.ensure_future(loop.sock_recv(client, 100))
                async with asyncio.timeout(DEADLINE_S):
                    while not running.logs:
                        await asyncio.sleep(0.01)
                await asyncio.wait([answer], timeout=0.2)
                assert [(line["event"], line["reason"]) for line in running.logs] == [
                    ("accept_failed", "Too many open files")
                ]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with asyncio.timeout(DEADLINE_S):
                assert await answer == told(Source(*client.getsockname()))
        assert len(running.logs) == 1


# Unix sockets…


async def test_a_unix_peer_is_trusted_where_this_machine_is(tmp_path: Path) -> None:
    async with accepting(["127.0.0.1/32"], path=str(tmp_path / "s")) as running:
        async with running.client() as client:
            await client.send(of("192.0.2.1", 56324), b"x")
            assert await client.exactly(len(told(SOURCE)) + 1) == told(SOURCE) + b"x"
        async with running.client() as client:
            await client.send(header(LOCAL, 0), b"x")
            assert await client.exactly(len(told(None)) + 1) == told(None) + b"x"
        async with running.client() as client:
            await client.send(HTTP)
            assert await is_closed(client)
        assert running.refusals() == [("no header came, send one of version 2 before all else", "")]


async def test_a_unix_peer_is_a_stranger_elsewhere(tmp_path: Path) -> None:
    async with accepting(["10.0.0.0/8"], path=str(tmp_path / "s")) as running, running.client() as client:
        await client.send(b"x")
        assert await client.exactly(len(told(None)) + 1) == told(None) + b"x"


# TLS…


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class _Tls:
    """A TLS client on a RawClient's octets, so that the test says what leaves in one segment."""

    def __init__(self, client: RawClient, authority: Authority) -> None:
        self._client = client
        self._from, self._to = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=authority.cert)
        self._tls = context.wrap_bio(self._from, self._to, server_hostname="127.0.0.1")

    def hello(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._to.read()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._pass()
            else:
                return

    async def send(self, octets: bytes) -> None:
        self._tls.write(octets)
        await self._client.send(self._to.read())

    async def exactly(self, count: int) -> bytes:
        octets = b""
        while len(octets) < count:
            try:
                octets += self._tls.read(count - len(octets))
            except ssl.SSLWantReadError:
                await self._pass()
        return octets

    async def _pass(self) -> None:
        await self._client.send(self._to.read())
        async with asyncio.timeout(DEADLINE_S):
            octets = await self._client.reader.read(1 << 16)
        assert octets, "the connection ended"
        self._from.write(octets)


@pytest.mark.parametrize("trusted", ["127.0.0.0/8", "10.0.0.0/8"])
async def test_tls_starts_where_the_header_ends(authority: Authority, trusted: str) -> None:
    """With its first octets in the header's segment; and for a stranger at once."""
    tls = serving(authority.issue("server", LOOPBACK))
    async with accepting([trusted], tls=tls) as running, running.client() as client:
        is_trusted = trusted.startswith("127.")
        source = SOURCE if is_trusted else peer_of(client)
        inner = _Tls(client, authority)
        await client.send(of(SOURCE.ip, SOURCE.port) if is_trusted else b"", inner.hello())
        await inner.shake_hands()
        await inner.send(HTTP)
        assert await inner.exactly(len(told(source) + HTTP)) == told(source) + HTTP
        assert running.made == [source]


async def test_a_header_inside_tls_is_too_late(authority: Authority) -> None:
    tls = serving(authority.issue("server", LOOPBACK))
    async with accepting(tls=tls) as running, running.client() as client:
        await client.send(_Tls(client, authority).hello())
        assert await is_closed(client)
        assert running.refusals() == [("no header came, send one of version 2 before all else", "127.0.0.1")]


@pytest.mark.parametrize("octets", [b"", HTTP, b"\x16\x03\x01"])
@pytest.mark.parametrize("trusted", ["127.0.0.0/8", "10.0.0.0/8"])
async def test_a_handshake_that_fails_troubles_nobody(authority: Authority, trusted: str, octets: bytes) -> None:
    tls = serving(authority.issue("server", LOOPBACK))
    async with accepting([trusted], tls=tls) as running:
        async with running.client() as client:
            await client.send(of("192.0.2.1", 56324) if trusted.startswith("127.") else b"", octets)
            client.writer.write_eof()
            with suppress(ConnectionResetError):
                assert told(SOURCE) not in await client.rest()  # an alert may come
        async with running.client() as client:
            inner = _Tls(client, authority)
            await client.send(of("192.0.2.1", 56324) if trusted.startswith("127.") else b"", inner.hello())
            await inner.shake_hands()
        assert running.refusals() == []


# Closing…


async def test_a_closed_acceptor_drops_headers_and_keeps_connections() -> None:
    async with accepting() as running, running.client() as served, running.client() as waiting:
        await served.send(of("192.0.2.1", 56324))
        assert await served.exactly(len(told(SOURCE))) == told(SOURCE)
        await waiting.send(SIGNATURE)
        await running.acceptor.close()
        assert await is_closed(waiting)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*running.address)
        await served.send(b"still here")
        assert await served.exactly(10) == b"still here"
        assert running.made == [SOURCE]
        assert running.refusals() == []


async def test_a_closed_acceptor_leaves_no_connection_that_it_has_only_just_accepted() -> None:
    loop = asyncio.get_running_loop()
    async with accepting() as running:
        with socket.create_connection(running.address) as client:
            client.setblocking(False)
            while not running.acceptor._tasks:
                await asyncio.sleep(0)
            await running.acceptor.close()
            async with asyncio.timeout(DEADLINE_S):
                assert await loop.sock_recv(client, 1) == b""
        assert running.made == []


async def test_a_closed_acceptor_drops_handshakes(authority: Authority) -> None:
    tls = serving(authority.issue("server", LOOPBACK))
    async with accepting(tls=tls) as running, running.client() as client:
        await client.send(of("192.0.2.1", 56324))
        while not running.made:
            await asyncio.sleep(0)
        await running.acceptor.close()
        assert await is_closed(client)


async def test_closing_twice_is_closing() -> None:
    async with accepting() as running:
        await running.acceptor.close()
        await running.acceptor.close()
