"""Who listens to an answer hears all of its content; the client gets it as it came."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from fakes import DEADLINE_S, UNDER_WAY, FakeUpstream, Message, Taken, read_content, write_until_stalled
from proxied import passing


@dataclass
class Ear:
    """Hears up to `most` octets."""

    most: int = 1 << 30
    codings: frozenset[bytes] = frozenset()
    fields: Sequence[tuple[bytes, bytes]] = ()
    content: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self.fields = fields
        self.has_begun.set()

    def take(self, octets: bytes) -> bool:
        self.content += octets
        return len(self.content) < self.most

    def end(self) -> None:
        self.is_whole = True


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nh\r\n4;x=y\r\nello\r\n0\r\n\r\n",
        b"\r\nhello",
        b"Content-Length: 0\r\n\r\n",
    ],
)
async def test_the_content_is_heard_in_any_framing(version: str, answer: bytes) -> None:
    """As upstream frames it and as the client gets it, an interim answer before it left out."""

    async def answering(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await taken.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\n" + answer)
        taken.writer.close()

    ear = Ear()
    async with FakeUpstream(answering) as upstream, passing(upstream.url) as sidecar, sidecar.client() as client:
        sidecar.hears = ear
        await client.send(f"GET / {version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        octets = await client.rest()
    expected = b"" if b"Content-Length: 0" in answer else b"hello"
    assert (bytes(ear.content), ear.is_whole) == (expected, True)
    assert (b"X-A", b"1") in ear.fields
    assert (octets.count(b"103 Early Hints"), octets.count(b"200 OK")) == (int(version == "HTTP/1.1"), 1)


async def test_nothing_piles_up_while_the_handler_settles() -> None:
    """Once it needs no more of the content, upstream waits until the client may have it; then all of it arrives."""
    size = UNDER_WAY + (16 << 20)
    ear, settled, stalled = Ear(most=1000), asyncio.Event(), asyncio.get_running_loop().create_future()

    async def endless(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await ear.has_begun.wait()
        sent = await write_until_stalled(taken.writer, size)
        stalled.set_result(sent)
        await taken.write(bytes(size - sent))

    async def settle(_: int) -> None:
        await settled.wait()

    async with FakeUpstream(endless) as upstream, passing(upstream.url) as sidecar, sidecar.client() as client:
        sidecar.hears, sidecar.on_status = ear, settle
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert await stalled < UNDER_WAY
        settled.set()
        assert len((await client.answer()).content) == size
    assert len(ear.content) < 1 << 20
