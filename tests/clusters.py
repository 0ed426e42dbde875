"""Clusters of real servers, as administrators run them; and nodes on real sockets that say what they are told."""

import asyncio
import contextlib
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from children import PATIENCE_S
from fakes import free_port
from stores import read_command

from sidecar.errors import StoreAwayError
from sidecar.store.client import Store
from sidecar.store.cluster import SLOTS, slot_of
from sidecar.store.embedded import find_server
from sidecar.store.seeds import Place

# How long a node may be silent. A primary that is gone has a successor within some twice as long.
NODE_TIMEOUT_MS: Final = 1000


@dataclass(eq=False)
class Member:
    """One server of a cluster."""

    home: Path
    port: int
    bus: int
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    id: str = ""

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def start(self) -> None:
        """Start it, or start it again as the member that it was."""
        self._spawn()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(StoreAwayError):
                    self.id = (await self.says("CLUSTER", "MYID")).decode()
                    return
                await asyncio.sleep(0.01)

    def _spawn(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", ".", "--save", "", "--appendonly", "no"]
        words += ["--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--repl-diskless-sync-delay", "0"]
        words += ["--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"]
        # Not asyncio's: its processes belong to one loop, and each test has its own.
        self.process = subprocess.Popen(
            [find_server(), *words, *self.options],
            cwd=self.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def says(self, *words: str | int) -> Any:
        """Have it do a command, and give its answer."""
        store = Store(f"redis://{self.place}", timeout_s=PATIENCE_S)
        try:
            return await store.execute(None, str(words[0]), *words[1:])
        finally:
            await store.close()

    async def says_of_cluster(self, name: str) -> str:
        """Give one line of what it says of the cluster, such as "cluster_state"."""
        lines = (await self.says("CLUSTER", "INFO")).decode().split()
        return str(dict(line.split(":", 1) for line in lines)[name])

    async def is_primary(self) -> bool:
        return bool((await self.says("ROLE"))[0] == b"master")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as when its machine dies."""
        if self.process is not None and self.lives:
            self.process.kill()
            self.process.wait()


@dataclass(eq=False)
class Servers:
    """A cluster: `primaries` as it was made, each with its replica in `replicas`, where there are any."""

    primaries: list[Member]
    replicas: list[Member] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(member.place for member in self.primaries)}"

    @property
    def members(self) -> list[Member]:
        return [*self.primaries, *self.replicas]

    async def owner(self, key: str) -> Member:
        """Give who has a key's slot, as the first of its members knows it."""
        slot = slot_of(key)
        knows = next(member for member in self.members if member.lives)
        for first, last, primary, *_ in await knows.says("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(member for member in self.members if member.port == primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    async def has_replica(self, member: Member) -> None:
        """Wait until a replica follows a primary."""
        async with asyncio.timeout(PATIENCE_S):
            while not (await member.says("ROLE"))[2]:
                await asyncio.sleep(0.02)

    async def clear(self) -> None:
        """Have it forget every key."""
        for member in self.members:
            if member.lives and await member.is_primary():
                await member.says("FLUSHALL")

    async def move(self, key: str, to: Member) -> None:
        """Move a key's slot, key by key, as administrators do it."""
        slot = slot_of(key)
        async with self.moving(key, to) as source:
            while keys := await source.says("CLUSTER", "GETKEYSINSLOT", slot, 100):
                await source.says("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)

    async def migrate(self, key: str, to: Member) -> None:
        """Move a key's slot in one step, as Valkey 9 does."""
        slot, source = slot_of(key), await self.owner(key)
        await source.says("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.id)
        async with asyncio.timeout(PATIENCE_S):
            while await self.owner(key) is not to:
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def moving(self, key: str, to: Member) -> AsyncIterator[Member]:
        """Have a key's slot on its way to another node while the block runs, there afterwards; yields the source."""
        slot, source = slot_of(key), await self.owner(key)
        await to.says("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await source.says("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        yield source
        for member in (to, source, *self.members):
            if member.lives and (member is to or await member.is_primary()):
                await member.says("CLUSTER", "SETSLOT", slot, "NODE", to.id)


@contextlib.asynccontextmanager
async def a_cluster(home: Path, *options: str, primaries: int = 3, replicas: int = 0) -> AsyncIterator[Servers]:
    """Run a cluster that serves all slots, each primary with a replica if so many are asked for."""
    ports = free_ports(2 * (primaries + replicas))
    members = [
        Member(home / str(number), ports[2 * number], ports[2 * number + 1], options)
        for number in range(primaries + replicas)
    ]
    cluster = Servers(members[:primaries], members[primaries:])
    try:
        await asyncio.gather(*(member.start() for member in members))
        for number, member in enumerate(members):
            await member.says("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, member in enumerate(cluster.primaries):
            first, last = (SLOTS * at // primaries for at in (number, number + 1))
            await member.says("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for member in members[1:]:
            await members[0].says("CLUSTER", "MEET", "127.0.0.1", member.port, member.bus)
        await until_all_say(members, "cluster_known_nodes", str(len(members)))
        for member, primary in zip(cluster.replicas, cluster.primaries, strict=False):
            await member.says("CLUSTER", "REPLICATE", primary.id)
        await until_all_say(members, "cluster_state", "ok")
        for primary in cluster.primaries[:replicas]:
            await cluster.has_replica(primary)
        yield cluster
    finally:
        for member in members:
            member.kill()


async def until_all_say(members: Sequence[Member], name: str, value: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for member in members:
            while await member.says_of_cluster(name) != value:
                await asyncio.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Find so many ports that nobody listens on."""
    return [free_port() for _ in range(count)]


# Nodes that say what a test has them say…

Answer = bytes | None


class ToldNode:
    """A node on a real socket. `answer` gives a command's reply, as RESP, or None to hang up; untold, it says OK.

    `asked` are the commands that came, without those of a greeting and of maps; `maps` counts the latter.
    """

    def __init__(self) -> None:
        self.answer: Callable[[list[bytes]], Answer | Awaitable[Answer]] = lambda _: b"+OK\r\n"
        self.slots: list[tuple[int, int, str | None, int]] = []
        self.asked: list[list[bytes]] = []
        self.maps = 0
        self.answers_greetings = True
        self.host = "127.0.0.1"
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._talking: set[asyncio.Task[None]] = set()

    @property
    def place(self) -> str:
        return str(Place(self.host, self.port))

    async def listen(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._talk, host, 0, ssl=tls)
        self.host, self.port = self._server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._talking)
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._talking.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                words = await read_command(reader)
                if words[0] in {b"CLIENT", b"COMMAND", b"ROLE"}:
                    writer.write(b"+OK\r\n" * self.answers_greetings)
                    continue
                if words == [b"CLUSTER", b"SLOTS"]:
                    self.maps += 1
                    writer.write(resp([[first, last, [host, port, b"id"]] for first, last, host, port in self.slots]))
                    continue
                self.asked.append(words)
                reply = self.answer(words)
                if isinstance(reply, Awaitable):
                    reply = await reply
                if reply is None:
                    writer.close()
                    return
                writer.write(reply)


@contextlib.asynccontextmanager
async def told_nodes(count: int) -> AsyncIterator[list[ToldNode]]:
    """Run nodes that say of themselves that they share the slots evenly, one after the other, and OK to everything."""
    nodes = [ToldNode() for _ in range(count)]
    try:
        for node in nodes:
            await node.listen()
        for node in nodes:
            node.slots = shares(nodes)
        yield nodes
    finally:
        for node in nodes:
            await node.close()


def shares(nodes: Sequence[ToldNode]) -> list[tuple[int, int, str | None, int]]:
    """Share the slots out among nodes."""
    at = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
    return [(at[i], at[i + 1] - 1, node.host, node.port) for i, node in enumerate(nodes)]


def resp(value: Any) -> bytes:
    """Write a reply as RESP2 has it."""
    match value:
        case int():
            return b":%d\r\n" % value
        case str():
            return resp(value.encode())
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case None:
            return b"$-1\r\n"
        case _:
            return b"*%d\r\n" % len(value) + b"".join(map(resp, value))
