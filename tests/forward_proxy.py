"""A forward proxy on loopback, of sockets: CONNECT, and requests in absolute form. It tells what it was asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fakes import Message, read_content, read_head

SILENCE = b"silence"
BREAK = b"break"


@dataclass
class ForwardProxy:
    """`says` is its answer to whatever it is asked, or SILENCE, or BREAK; None: it does what it is asked for.

    `leads_to` is the port of this machine that every name stands for; `greets` is what it says once a tunnel is open.
    """

    port: int = 0
    leads_to: int = 0
    says: bytes | None = None
    greets: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    asked: list[Message] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[bytes]:
        """The start lines of all that it was asked."""
        return [message.start_line for message in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            message = await read_head(reader)
            self.asked.append(message)
            if self.says == SILENCE:
                await self.released.wait()
            elif self.says == BREAK:
                writer.transport.abort()
            elif self.says is not None:
                await read_content(reader, message)
                writer.write(self.says)
                await writer.drain()
            else:
                await self._forward(reader, writer, message)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: Message) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.leads_to)
        if message.start_line.startswith(b"CONNECT "):
            writer.write(self.greets)
        else:
            back.write(message.raw)
        onwards = asyncio.create_task(_pump(reader, back))
        self.tasks.add(onwards)
        await _pump(there, writer)
        onwards.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while octets := await reader.read(1 << 16):
            writer.write(octets)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def forward_proxy(leads_to: str | int = 0) -> AsyncIterator[ForwardProxy]:
    """Yield a proxy that listens on loopback; whatever it is asked for leads to this URL or port of this machine."""
    it = ForwardProxy(leads_to=int(str(leads_to).rpartition(":")[2]))
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        it.released.set()
        server.close()
        for task in it.tasks:
            task.cancel()
        await asyncio.gather(*it.tasks, return_exceptions=True)
