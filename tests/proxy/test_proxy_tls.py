"""How does the sidecar reach an upstream that speaks TLS? Certificates made for the test."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fakes import FakeUpstream, Message, Taken
from proxied import passing

from sidecar.config.model import TlsClient, Upstream
from sidecar.proxy.forward import Forwarder

pytestmark = pytest.mark.usefixtures("engine")

NOW = dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: str
    key: str


class Authority:
    """A CA of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ca {folder.name}")])
        self.cert = self._write("ca", self._name, self._key, [], is_ca=True).cert

    def issue(self, name: str, *alternatives: x509.GeneralName) -> Pair:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(name, subject, ec.generate_private_key(ec.SECP256R1()), list(alternatives), is_ca=False)

    def _write(
        self,
        name: str,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        is_ca: bool,
    ) -> Pair:
        own, issuer = key.public_key(), self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(own)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(hours=1))
            .not_valid_after(NOW + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Pair(str(cert), str(secret))


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def serving(pair: Pair, clients_of: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients_of or None)
    context.load_cert_chain(pair.cert, pair.key)
    if clients_of:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


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
