"""How does the sidecar reach an upstream that speaks TLS? Certificates made for the test."""

from pathlib import Path

import pytest
from certificates import LOOPBACK, Authority, serving
from cryptography import x509
from fakes import FakeUpstream, Message, Taken
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
