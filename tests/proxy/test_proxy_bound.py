"""Whose is upstream's connection, once a client has authenticated itself on it? RFC 4559, MS-NTHT."""

import asyncio

import pytest
from fakes import FakeUpstream, Message, RawClient, Taken
from proxied import Passing, passing

pytestmark = pytest.mark.usefixtures("engine")

EMPTY = b"HTTP/1.1 %s\r\n%sContent-Length: 0\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n"


async def talk(client: RawClient, octets: bytes) -> Message:
    await client.send(octets)
    return await client.answer()


def knows_its_connections(upstream: FakeUpstream) -> None:
    """Answer as IIS does: the first request of a connection is asked who it is, the second is believed for good."""

    async def answer(taken: Taken, request: Message) -> None:
        for credential in request.values(b"authorization"):
            names[taken.number] = credential.split()[1]
        if taken.number in names:
            name = names[taken.number]
            await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
        else:
            await taken.write(EMPTY % (b"401 Unauthorized", b"WWW-Authenticate: Negotiate, NTLM\r\n"))

    names: dict[int, bytes] = {}
    upstream.answer = answer


@pytest.mark.parametrize("scheme", [b"NTLM", b"Negotiate", b"nEgOtIaTe"])
async def test_nobody_is_answered_as_the_client_before(sidecar: Passing, upstream: FakeUpstream, scheme: bytes) -> None:
    """Upstream takes whoever comes on an authenticated connection for its first client, so nobody else comes on it."""
    knows_its_connections(upstream)
    async with sidecar.client() as alice, sidecar.client() as mallory:
        assert (await talk(alice, GET % b"")).status == 401
        assert (await talk(alice, GET % (b"Authorization: %s alice\r\n" % scheme))).content == b"alice"
        assert (await talk(alice, GET % b"")).content == b"alice"
        assert (await talk(mallory, GET % b"")).status == 401
        assert (await talk(mallory, GET % (b"Authorization: %s mallory\r\n" % scheme))).content == b"mallory"
        assert (await talk(alice, GET % b"")).content == b"alice"
    await upstream.wait_closed()
    async with sidecar.client() as third:
        assert (await talk(third, GET % b"")).status == 401
    assert len(upstream.taken) == 3


@pytest.mark.parametrize(
    ("asks", "answers"),
    [
        (b"", b'WWW-Authenticate: Basic realm="a", NTLM\r\n'),
        (b"", b"WWW-Authenticate: Basic realm=a\r\nwww-authenticate: Negotiate abc=\r\n"),
        (b"", b"Proxy-Authenticate: Kerberos\r\n"),
        (b"Authorization: NTLM abc\r\n", b""),
        (b"Proxy-Authorization: negotiate abc\r\n", b""),
    ],
)
async def test_a_challenge_or_a_credential_binds(
    sidecar: Passing, upstream: FakeUpstream, asks: bytes, answers: bytes
) -> None:
    """In a list, in any case, of either kind: from then on the connection serves one client."""

    numbers: list[int] = []

    async def answer(taken: Taken, _request: Message) -> None:
        numbers.append(taken.number)
        await taken.write(EMPTY % (b"200 OK", answers))

    upstream.answer = answer
    async with sidecar.client() as one, sidecar.client() as other:
        await talk(one, GET % asks)
        await talk(other, GET % b"")
        await talk(one, GET % b"")
    assert numbers == [0, 1, 0]


@pytest.mark.parametrize("credential", [b"Basic TlRMTTpx", b"Bearer ntlm.negotiate", b"Digest a=b", b"NTLMX abc"])
async def test_what_authenticates_a_request_binds_nothing(
    sidecar: Passing, upstream: FakeUpstream, credential: bytes
) -> None:
    """A password or a token comes with each request, and the connection goes back to the pool."""
    async with sidecar.client() as one, sidecar.client() as other:
        await talk(one, GET % (b"Authorization: %s\r\n" % credential))
        await talk(other, GET % b"")
    assert len(upstream.taken) == 1


async def test_bound_connections_that_are_idle_do_not_shut_others_out(upstream: FakeUpstream) -> None:
    """With `max_connections` one of them is given up, and its client authenticates itself anew."""
    knows_its_connections(upstream)
    async with passing(upstream.url, max_connections=1) as sidecar, sidecar.client() as one, sidecar.client() as other:
        assert (await talk(one, GET % b"Authorization: NTLM one\r\n")).content == b"one"
        async with asyncio.timeout(30):
            assert (await talk(other, GET % b"")).status == 401
            assert (await talk(one, GET % b"")).status == 401


async def test_a_bound_connection_that_upstream_closes_is_replaced(sidecar: Passing, upstream: FakeUpstream) -> None:
    """The next request goes on a new one, where nobody is authenticated yet."""
    knows_its_connections(upstream)
    async with sidecar.client() as client:
        assert (await talk(client, GET % b"Authorization: NTLM one\r\n")).content == b"one"
        upstream.taken[0].reset()
        await upstream.wait_closed()
        assert (await talk(client, GET % b"")).status == 401
