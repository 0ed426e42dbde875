"""The two ends of a proxied connection, on real sockets, octet by octet: an upstream that records, a scripted client.

Neither understands more HTTP than where a message ends, so neither can hide what really passed.
"""

import asyncio
import fcntl
import os
import random
import socket
import ssl
import struct
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# Every wait in here ends by then, with TimeoutError: a hung test is a failed test.
DEADLINE_S: Final = 30.0

# Below the ports that the system gives to whoever asks for any: nobody is given one of these.
_PORTS: Final = iter(random.sample(range(10_000, 20_000), 10_000))
# One octet for each port: who holds the lock on it has the port, of all processes that run tests, until it ends.
_CLAIMS: Final = (Path(tempfile.gettempdir()) / f"sidecar-test-ports-{os.getuid()}").open("ab")


def free_port() -> int:
    """A port that nobody listens on, and that no other process of tests is given while this one runs.

    Whoever is to listen there may start a second later: a port that is only free now could be another test's by then.
    """
    for port in _PORTS:
        with suppress(OSError):
            fcntl.lockf(_CLAIMS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.create_server(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def _kernel_buffers(fallback: int = 6 << 20) -> int:
    """The most octets that the kernel's two buffers of one way of one connection may grow to."""
    most = 0
    for name in ("tcp_wmem", "tcp_rmem"):
        try:
            most += int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2])
        except OSError:
            most += fallback
    return most


# The most that may be under way between two ends with a sidecar between them: what the kernel buffers, and ours.
UNDER_WAY: Final = 2 * _kernel_buffers() + (1 << 20)

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(slots=True)
class Message:
    """A message as it arrived. `content` is decoded from its framing, `raw` is not."""

    start_line: bytes
    fields: list[tuple[bytes, bytes]]
    content: bytes = b""
    raw: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a field, in order; names compared without case."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def value(self, name: bytes) -> bytes:
        """The one value of a field. Raises AssertionError if there is none or more."""
        values = self.values(name)
        assert len(values) == 1, (name, values)
        return values[0]

    @property
    def status(self) -> int:
        return int(self.start_line.split(b" ")[1])

    @property
    def target(self) -> bytes:
        return self.start_line.split(b" ")[1]


async def read_head(reader: asyncio.StreamReader) -> Message:
    """Read up to the empty line. Raises IncompleteReadError if the connection ends before."""
    raw = await reader.readuntil(b"\r\n\r\n")
    start_line, *lines = raw[:-4].split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return Message(start_line, [(key, value.strip(b" \t")) for key, _, value in pairs], raw=raw)


async def read_content(reader: asyncio.StreamReader, message: Message, *, until_close: bool = False) -> Message:
    """Read what the head announces, into the message. `until_close`: an answer with no length ends with the stream."""
    if message.values(b"transfer-encoding"):
        assert message.value(b"transfer-encoding") == b"chunked"
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            chunk = await reader.readexactly(size + 2)
            message.raw += line + chunk
            assert chunk.endswith(b"\r\n")
            if not size:
                break
            message.content += chunk[:-2]
    elif message.values(b"content-length"):
        message.content = await reader.readexactly(int(message.value(b"content-length")))
        message.raw += message.content
    elif until_close:
        message.content = await reader.read()
        message.raw += message.content
    return message


async def write_until_stalled(writer: asyncio.StreamWriter, size: int) -> int:
    """Write up to `size` octets until nobody takes any for a second; return how many were written."""
    sent = 0
    while sent < size:
        writer.write(bytes(1 << 16))
        sent += 1 << 16
        try:
            await asyncio.wait_for(writer.drain(), 1)
        except TimeoutError:
            return sent
    return sent


@dataclass(slots=True)
class Taken:
    """One connection that upstream took: what a handler reads from and writes to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def write(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection without a clean end: with no time to linger, a close is a reset."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Handler = Callable[[Taken, Message], Awaitable[None]]


@dataclass(slots=True)
class FakeUpstream:
    """A backend that records each request's octets and answers with `answer`.

    `answer` is octets, or a coroutine function of the connection and the request's head: it reads the content itself.
    Where `path` is given it listens on that unix socket, else on 127.0.0.1:`port`.
    """

    answer: bytes | Handler = OK
    path: str = ""
    tls: ssl.SSLContext | None = None
    requests: list[Message] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _open: int = 0

    @property
    def url(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        if self.path:
            self._server = await asyncio.start_unix_server(self._take, self.path, ssl=self.tls)
        else:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port, ssl=self.tls)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        for taken in self.taken:
            with suppress(AttributeError):  # what Python before 3.11.3 says of a TLS connection that is over
                taken.writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until something about the recorded requests is so. Raises TimeoutError past the deadline."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(is_so)

    async def wait_closed(self) -> None:
        """Wait until no connection is open."""
        await self.wait_for(lambda: not self._open)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken = Taken(reader, writer, len(self.taken))
        self.taken.append(taken)
        # A task of our own: the one that start_server makes would log what a test wants to happen.
        task = asyncio.create_task(self._serve(taken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, taken: Taken) -> None:
        await self._count(1)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    request = await read_head(taken.reader)
                    if isinstance(self.answer, bytes):
                        await read_content(taken.reader, request)
                        await self._record(request)
                        await taken.write(self.answer)
                    else:
                        await self._record(request)
                        await self.answer(taken, request)
        finally:
            taken.writer.close()
            await self._count(-1)

    async def _record(self, request: Message) -> None:
        self.requests.append(request)
        async with self._changed:
            self._changed.notify_all()

    async def _count(self, change: int) -> None:
        self._open += change
        async with self._changed:
            self._changed.notify_all()


@dataclass(slots=True)
class RawClient:
    """A client that says what the test writes, and hands back what comes."""

    port: int = 0
    path: str = ""
    tls: ssl.SSLContext | None = None
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        if self.path:
            self._reader, self._writer = await asyncio.open_unix_connection(self.path, ssl=self.tls)
        else:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                await self.writer.wait_closed()

    @property
    def reader(self) -> asyncio.StreamReader:
        assert self._reader is not None
        return self._reader

    @property
    def writer(self) -> asyncio.StreamWriter:
        assert self._writer is not None
        return self._writer

    async def send(self, *octets: bytes) -> None:
        async with asyncio.timeout(DEADLINE_S):
            self.writer.write(b"".join(octets))
            await self.writer.drain()

    async def head(self) -> Message:
        async with asyncio.timeout(DEADLINE_S):
            return await read_head(self.reader)

    async def answer(self, *, to_head: bool = False) -> Message:
        """Read one answer; `to_head`: it has no content, whatever its length field says."""
        async with asyncio.timeout(DEADLINE_S):
            message = await read_head(self.reader)
            if to_head or message.status in {204, 304} or message.status < 200:
                return message
            return await read_content(self.reader, message, until_close=True)

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Read to the end of the stream. Raises ConnectionResetError where it was broken off."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    async def ask(
        self, method: str = "GET", target: str = "/", fields: Sequence[str] = (), content: bytes = b""
    ) -> Message:
        """Send a plain request and read its answer."""
        lines = [f"{method} {target} HTTP/1.1", "Host: example.com", *fields]
        if content:
            lines.append(f"Content-Length: {len(content)}")
        await self.send("\r\n".join([*lines, "", ""]).encode(), content)
        return await self.answer(to_head=method == "HEAD")


class Calm:
    """The load of a built-in captcha that nobody else asks for."""

    def asker(self, ip: str) -> str:
        return f"hash of {ip}"

    def site(self, ip: str) -> str:
        """IPv4's /24."""
        return f"hash of {ip.rpartition('.')[0]}"

    def count(self, ip: str, *, given: int, solved: int) -> "asyncio.Future[tuple[float, float, float]]":
        """Nothing is usual, and less than that is asked."""
        counted = asyncio.get_running_loop().create_future()
        counted.set_result((0.1, 0.01, 0.001))
        return counted
