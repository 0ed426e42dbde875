"""A primary, its replicas and three Sentinels, each a real server of its own, that know each other from the start."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, Final
from urllib.parse import quote

from children import PATIENCE_S
from fakes import DEADLINE_S, free_port
from stores import read_command

from sidecar.store.address import Address
from sidecar.store.embedded import find_server
from sidecar.store.wire import LostError

NAME: Final = "main"
# Sentinels hurry: after so many milliseconds without an answer a primary counts as down…
DOWN_AFTER_MS: Final = 1000
# …and they look, ask and greet each other more often than by default (10 s, 1 s, 2 s). A greeting goes by four times
# faster than they find out that a replica has been promoted, or they would make it a replica again.
HURRY: Final = ("info-period", "200", "ask-period", "100", "publish-period", "500")


@dataclass
class Server:
    """One server process on a port of this machine."""

    home: Path
    words: tuple[str, ...]
    port: int = field(default_factory=free_port)
    password: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{user}{self.place}"

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self._run()
        async with asyncio.timeout(PATIENCE_S):
            while not await self._answers():
                assert self.is_up, f"{self.home} does not start"
                await asyncio.sleep(0.01)

    def _run(self) -> None:
        # Of no loop: it may outlive the loop of the test that starts it again.
        self.process = subprocess.Popen([find_server(), *self.words], cwd=self.home, stdout=DEVNULL, stderr=DEVNULL)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def kill(self) -> None:
        """At once, as when its machine dies; a frozen one, too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def says(self, *words: str) -> Any:
        """Have it do a command, as its administrator, and give its answer."""
        async with asyncio.timeout(DEADLINE_S):
            wire = await Address(self.url, newest="PING").connect()
            try:
                return await wire.ask(words)[0]
            finally:
                wire.end()

    async def role(self) -> bytes:
        """Give what it takes itself for; nothing when it just closes connections, as it becomes something else."""
        with contextlib.suppress(LostError):
            return bytes((await self.says("ROLE"))[0])
        return b""


@dataclass
class Group:
    """Servers under one NAME: the first is the primary at first. Its Sentinels."""

    servers: list[Server]
    sentinels: list[Server]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(one.place for one in self.sentinels)}/{NAME}"

    async def promoted(self, besides: Server) -> Server:
        """Give the server that has been promoted in the place of one that is down, as soon as it takes writes."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for server in self.servers:
                    if server is not besides and server.is_up and await server.role() == b"master":
                        return server
                await asyncio.sleep(0.01)


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.01)


async def is_followed(server: Server, replicas: int) -> bool:
    """Tell whether so many replicas are in step with a primary."""
    with contextlib.suppress(LostError):
        match await server.says("ROLE"):
            case [b"master", _, followers]:
                return bool(sum(offset != b"0" for _, _, offset in followers) == replicas)
    return False


@contextlib.asynccontextmanager
async def some_servers(home: Path, replicas: int, password: str = "") -> AsyncIterator[list[Server]]:
    """Run a primary, which comes first, and its replicas, in step with it."""
    servers: list[Server] = []
    for number in range(1 + replicas):
        server = Server(home / f"server-{number}", (), password=password)
        words = ["--port", str(server.port), "--dir", ".", "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        words += ["--repl-diskless-sync-delay", "0", "--requirepass", password, "--primaryauth", password]
        server.words = (*words, "--replicaof", f"127.0.0.1 {servers[0].port}") if number else tuple(words)
        servers.append(server)
    try:
        await asyncio.gather(*(server.start() for server in servers))
        await until(lambda: is_followed(servers[0], replicas))
        yield servers
    finally:
        await asyncio.gather(*(server.kill() for server in servers))


@contextlib.asynccontextmanager
async def a_group(
    home: Path, replicas: int = 2, password: str = "", sentinel_password: str = ""
) -> AsyncIterator[Group]:
    """Run a primary, its replicas, and three Sentinels that agree on it, two of whom decide."""
    async with some_servers(home, replicas, password) as servers:
        sentinels = [Server(home / f"sentinel-{number}", (), password=sentinel_password) for number in range(3)]
        for number, sentinel in enumerate(sentinels):
            lines = [f"port {sentinel.port}", f"sentinel myid {number + 1:040x}"]
            lines += [f"sentinel monitor {NAME} 127.0.0.1 {servers[0].port} 2"]
            lines += [f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}"]
            lines += [f"sentinel failover-timeout {NAME} 2000"]
            lines += [f"sentinel known-replica {NAME} 127.0.0.1 {server.port}" for server in servers[1:]]
            lines += [
                f"sentinel known-sentinel {NAME} 127.0.0.1 {other.port} {at + 1:040x}"
                for at, other in enumerate(sentinels)
                if at != number
            ]
            if password:
                lines += [f"sentinel auth-pass {NAME} {password}"]
            if sentinel_password:
                lines += [f"requirepass {sentinel_password}", f"sentinel sentinel-pass {sentinel_password}"]
            sentinel.home.mkdir(parents=True)
            (sentinel.home / "sentinel.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
            sentinel.words = ("sentinel.conf", "--sentinel")

        async def agree() -> bool:
            said = [await sentinel.says("SENTINEL", "CKQUORUM", NAME) for sentinel in sentinels]
            return all(isinstance(one, bytes) and one.startswith(b"OK 3 usable") for one in said)

        try:
            await asyncio.gather(*(sentinel.start() for sentinel in sentinels))
            await asyncio.gather(*(sentinel.says("SENTINEL", "DEBUG", *HURRY) for sentinel in sentinels))
            await until(agree)
            yield Group(servers, sentinels)
        finally:
            await asyncio.gather(*(sentinel.kill() for sentinel in sentinels))


@contextlib.asynccontextmanager
async def a_late_link(to: Server, delay_s: float) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """Lead to a server whose octets come so much later. Yields the port, and what loses all that is on its way."""
    writers: list[asyncio.StreamWriter] = []
    copying: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float) -> None:
        while octets := await source.read(65_536):
            loop.call_later(delay_s, sink.write, octets)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", to.port)
        except OSError:  # it is dead, and who copies it asks again and again
            writer.transport.abort()
            return
        writers.append(ours)
        copying.add(asyncio.create_task(copy(reader, ours, 0.0)))
        copying.add(asyncio.create_task(copy(theirs, writer, delay_s)))

    def cut() -> None:
        for writer in writers:
            writer.transport.abort()

    listening = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], cut
    finally:
        listening.close()
        cut()
        await asyncio.gather(*copying, return_exceptions=True)


class FakeSentinel:
    """What may stand where a Sentinel should: on a real socket, in a Sentinel's words, true or not.

    `says` is the place that it calls the primary, with the epoch of its configuration; None: it knows of none. `answer`
    is said in the place of that, whatever it is; while `hangs` it takes connections and says nothing. `epoch` None: it
    says none. `pings` counts those that came.
    """

    def __init__(self, says: tuple[str, int] | None = None, epoch: int | None = 1) -> None:
        self.says = says
        self.epoch = epoch
        self.answer = b""
        self.hangs = False
        self.connections = 0
        self.pings = 0
        self.port = 0
        self._subscribed: list[asyncio.StreamWriter] = []
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def subscribers(self) -> int:
        return len(self._subscribed)

    @property
    def is_left(self) -> bool:
        """True when nobody is connected any more."""
        return all(writer.is_closing() for writer in self._writers)

    def switch(self, to: tuple[str, int]) -> None:
        """Call another place the primary from now on, and tell whoever listens."""
        self.says, self.epoch = to, (self.epoch or 0) + 1
        subscribed, self._subscribed = self._subscribed, []
        for writer in subscribed:
            writer.write(_array(b"message", b"+switch-master", f"{NAME} 127.0.0.1 1 {to[0]} {to[1]}".encode()))

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                command = await read_command(reader)
                if not self.hangs:
                    writer.write(self._reply(command, writer))
        writer.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def _reply(self, command: list[bytes], writer: asyncio.StreamWriter) -> bytes:
        match [word.upper() for word in command[:2]]:
            case [b"SENTINEL", _] if self.answer:
                return self.answer
            case [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME"]:
                return b"*-1\r\n" if self.says is None else _array(self.says[0].encode(), b"%d" % self.says[1])
            case [b"SENTINEL", b"MASTER"]:
                said = () if self.epoch is None else (b"config-epoch", b"%d" % self.epoch)
                return _array(b"name", NAME.encode(), *said)
            case [b"SUBSCRIBE", channel]:
                self._subscribed.append(writer)
                return _array(b"subscribe", channel.lower(), b"1")
            case [b"PING"]:
                self.pings += 1
                return _array(b"pong", b"") if writer in self._subscribed else b"+PONG\r\n"
            case _:
                return b"+OK\r\n"


def _array(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@contextlib.asynccontextmanager
async def fake_sentinels(*fakes: FakeSentinel) -> AsyncIterator[str]:
    """Let them listen; yields the store's URL that names them."""
    async with contextlib.AsyncExitStack() as stack:
        for fake in fakes:
            listening = await asyncio.start_server(fake.talk, "127.0.0.1", 0)
            stack.push_async_callback(listening.wait_closed)
            stack.callback(fake.close)
            stack.callback(listening.close)
            fake.port = listening.sockets[0].getsockname()[1]
        yield f"redis+sentinel://{','.join(fake.place for fake in fakes)}/{NAME}"
