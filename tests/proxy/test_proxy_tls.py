"""How does TLS end here, and begin again towards upstream? Certificates made for the test."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from certificates import LOOPBACK, Authority, serving
from cryptography import x509
from fakes import OK, FakeUpstream, Message, Taken
from proxied import passing

from sidecar.config.model import TlsClient, Upstream
from sidecar.proxy.forward import Forwarder

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_upstream_is_known_by_our_own_authority(authority: Authority) -> None:
    tls = serving(authority.issue("server", LOOPBACK))
    async with (
        FakeUpstream(tls=tls) as upstream,
        passing(upstream.url, tls=TlsClient(ca=authority.cert)) as sidecar,
        sidecar.client() as client,
    ):
        assert (await client.ask()).content == b"ok"
        assert (await client.ask()).content == b"ok"
    assert len(upstream.taken) == 1


async def test_an_upstream_that_nobody_we_know_vouches_for_gets_nothing(authority: Authority) -> None:
    tls = serving(authority.issue("server", LOOPBACK))
    async with FakeUpstream(tls=tls) as upstream, passing(upstream.url) as sidecar, sidecar.client() as client:
        assert (await client.ask()).content == b"upstream_unavailable"
    assert not upstream.requests


@pytest.mark.parametrize(("name", "status"), [("api.internal", 200), ("other.internal", 502)])
async def test_upstream_is_asked_for_and_checked_by_its_server_name(
    authority: Authority, name: str, status: int
) -> None:
    """SNI carries `server_name`, and the certificate must be for it."""
    asked: list[str | None] = []
    tls = serving(authority.issue("server", x509.DNSName("api.internal")))
    tls.sni_callback = lambda _socket, server_name, _context: asked.append(server_name)
    async with (
        FakeUpstream(tls=tls) as upstream,
        passing(upstream.url, tls=TlsClient(ca=authority.cert, server_name=name)) as sidecar,
        sidecar.client() as client,
    ):
        assert (await client.ask()).status == status
    assert asked == [name]


async def test_upstream_that_demands_a_certificate_gets_ours(authority: Authority) -> None:
    tls = serving(authority.issue("server", LOOPBACK), clients_of=authority.cert)
    ours = authority.issue("sidecar")
    with_one = TlsClient(ca=authority.cert, cert=ours.cert, key=ours.key)
    async with FakeUpstream(tls=tls) as upstream:
        async with passing(upstream.url, tls=with_one) as sidecar, sidecar.client() as client:
            assert (await client.ask()).content == b"ok"
        async with passing(upstream.url, tls=TlsClient(ca=authority.cert)) as sidecar, sidecar.client() as client:
            assert (await client.ask()).content == b"upstream_unavailable"


async def test_a_websocket_passes_over_tls_to_upstream(authority: Authority) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await taken.write(await taken.reader.readexactly(5))

    tls = serving(authority.issue("server", LOOPBACK))
    async with (
        FakeUpstream(answer, tls=tls) as upstream,
        passing(upstream.url, tls=TlsClient(ca=authority.cert)) as sidecar,
        sidecar.client() as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.head()).status == 101
        await client.send(b"hello")
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        assert await client.exactly(5) == b"hello"


async def test_a_tls_file_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(OSError, match="No such file"):
        Forwarder(Upstream(url="https://127.0.0.1:1", tls=TlsClient(ca="/nowhere.pem")), print, "X")


# The listener…


def served_and_asking(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What the sidecar listens with, and a client that knows it."""
    return serving(authority.issue("sidecar", LOOPBACK)), ssl.create_default_context(cafile=authority.cert)


async def test_a_request_over_tls_passes_octet_for_octet(authority: Authority, upstream: FakeUpstream) -> None:
    """With a length and in chunks, one behind the other on one connection; upstream hears that it was https."""
    served, asking = served_and_asking(authority)
    octets = b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 300
    async with passing(upstream.url, tls_listen=served) as sidecar, sidecar.client(asking) as client:
        await client.send(
            b"POST /a?b HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n" % len(octets) + octets,
            b"POST /c HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(octets), octets),
        )
        passed = OK.replace(b"\r\n\r\n", b"\r\nVia: 1.1 signup-sidecar\r\n\r\n")
        assert [(await client.answer()).raw for _ in range(2)] == [passed, passed]
    first, second = upstream.requests
    assert first.raw == (
        b"POST /a?b HTTP/1.1\r\nHost: example.com\r\nContent-Length: 76818\r\nX-Forwarded-For: 127.0.0.1\r\n"
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: example.com\r\nX-Request-Id: made-here\r\n"
        b"Via: 1.1 signup-sidecar\r\n\r\n" + octets
    )
    assert second.content == octets


async def test_what_is_malformed_over_tls_is_refused(authority: Authority, upstream: FakeUpstream) -> None:
    served, asking = served_and_asking(authority)
    async with passing(upstream.url, tls_listen=served) as sidecar, sidecar.client(asking) as client:
        await client.send(b"GET / HTTP/1.1\nHost: a\n\n")
        refused = await client.answer()
        assert (refused.status, refused.value(b"connection")) == (400, b"close")
    assert not upstream.requests


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("answered", [b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"\r\nabc"])
async def test_an_answer_that_breaks_is_no_whole_one_over_tls(
    authority: Authority, upstream: FakeUpstream, version: bytes, answered: bytes
) -> None:
    """A reset where only the end could tell."""
    served, asking = served_and_asking(authority)
    seen = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\n" + answered)
        await seen.wait()
        taken.reset()

    upstream.answer = answer
    async with passing(upstream.url, tls_listen=served) as sidecar, sidecar.client(asking) as client:
        await client.send(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n")
        head = await client.head()
        is_chunked = bool(head.values(b"transfer-encoding"))
        await client.exactly(8 if is_chunked else 3)
        seen.set()
        if is_chunked:
            with suppress(OSError):
                assert await client.rest() == b""
        else:
            with pytest.raises(ConnectionResetError):
                await client.rest()


@pytest.mark.parametrize("octets", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_a_client_that_breaks_off_its_handshake_troubles_nobody(
    authority: Authority, upstream: FakeUpstream, octets: bytes
) -> None:
    served, asking = served_and_asking(authority)
    async with passing(upstream.url, tls_listen=served) as sidecar:
        async with sidecar.client() as client:
            await client.send(octets)
            Taken(client.reader, client.writer, 0).reset()
        async with sidecar.client(asking) as client:
            assert (await client.ask()).content == b"ok"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("leaves_first", ["client", "upstream"])
async def test_a_websocket_over_tls_on_both_ends_passes_and_closes(authority: Authority, leaves_first: str) -> None:
    """Octets both ways, early ones too; and whoever leaves, the other end hears of it, with all that was said."""
    served, asking = served_and_asking(authority)
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    octets = bytes(range(256)) * 1000

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
        await taken.write(await taken.reader.readexactly(len(octets)))
        if leaves_first == "upstream":
            await taken.write(b"\x88\x02\x03\xe8")
            taken.writer.close()
        heard.set_result(await taken.reader.read())

    async with (
        FakeUpstream(answer, tls=serving(authority.issue("server", LOOPBACK))) as upstream,
        passing(upstream.url, tls=TlsClient(ca=authority.cert), tls_listen=served) as sidecar,
        sidecar.client(asking) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", octets)
        assert (await client.head()).status == 101
        assert await client.exactly(2 + len(octets)) == b"hi" + octets
        if leaves_first == "upstream":
            assert await client.rest() == b"\x88\x02\x03\xe8"
        else:
            await client.send(b"\x88\x82mask\x6e\x89")
            client.writer.close()
            assert await asyncio.wait_for(heard, 30) == b"\x88\x82mask\x6e\x89"
        await upstream.wait_closed()
