"""Stores that misbehave as stores do, and ways to a real one that do so: on real sockets, in the store's own words."""

import asyncio
import contextlib
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from sidecar.delivery.breakers import Breakers
from sidecar.delivery.sightings import Sightings
from sidecar.life import ended
from sidecar.store.client import Store

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def numbered(talk: Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> Talk:
    """Have `talk` be told which connection it is, from 1 on."""
    numbers = itertools.count(1)
    return lambda reader, writer: talk(next(numbers), reader, writer)


@contextlib.asynccontextmanager
async def a_server(path: Path, talk: Talk) -> AsyncIterator[str]:
    """Serve `talk` on a unix socket; yields the store URL."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix://{path}"
    finally:
        server.close()
        for writer in connections:
            writer.close()
        await server.wait_closed()


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """Read one command as RESP has it: an array of bulk strings."""
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        length = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[bytes]:
    """Answer what a client says of itself when it connects; returns its first real command."""
    while (command := await read_command(reader))[0] in {b"CLIENT", b"COMMAND", b"ROLE"}:
        writer.write(b"+OK\r\n")
    return command


class Switch:
    """An address that leads to a store, as a virtual IP or a name does: those who are connected stay where they are."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.port = 0
        self.delay_s = 0.0  # how much later all octets come that the store sends
        self._copying: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def silence(self) -> None:
        """Lose all that comes on the connections that there are, as a network does that forgot them."""
        for task in self._copying:
            task.cancel()
        await asyncio.gather(*self._copying, return_exceptions=True)

    async def close(self) -> None:
        await self.silence()
        for writer in self._writers:
            with contextlib.suppress(AttributeError):  # asyncio's of 3.11.2 cannot abort TLS that is lost already
                writer.transport.abort()

    async def break_off(self) -> None:
        """Close the connections that there are; new ones are taken."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.transport.abort()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_unix_connection(self.path)
        except OSError:  # nobody is there just now
            writer.transport.abort()
            return
        self._writers += [writer, ours]
        for source, sink in ((reader, ours), (theirs, writer)):
            self._copying.add(asyncio.create_task(self._copy(source, sink, is_late=source is theirs)))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_late: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while octets := await source.read(1 << 16):
                if is_late and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(octets)
        sink.close()


@contextlib.asynccontextmanager
async def a_switch(url: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Switch]:
    """Serve an address on 127.0.0.1 that leads to the store at `url`."""
    switch = Switch(url.removeprefix("unix://"))
    server = await asyncio.start_server(switch.take, "127.0.0.1", 0, ssl=tls)
    switch.port = server.sockets[0].getsockname()[1]
    try:
        yield switch
    finally:
        server.close()
        await switch.close()


@contextlib.asynccontextmanager
async def a_store(url: str, **more: object) -> AsyncIterator[Store]:
    store = Store(url, **more)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def looking(room: Breakers | Sightings) -> AsyncIterator[list[float]]:
    """Have a room look into the store by itself; yields when it did, in seconds of the monotonic clock."""
    looks: list[float] = []
    look = room.look

    async def noted() -> None:
        looks.append(time.monotonic())
        await look()

    room.look = noted  # type: ignore[method-assign]
    task = asyncio.create_task(room.run())
    try:
        yield looks
        assert not task.done()
    finally:
        await ended(task)
