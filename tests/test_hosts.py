"""sidecar/hosts.py: a name server that is slow or away costs nobody who need not ask it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fakes import DEADLINE_S, FakeUpstream

from sidecar import hosts
from sidecar.hosts import Host


class NameServer:
    """A name server in the place of the system's: what it knows, and whether it answers."""

    def __init__(self) -> None:
        self.known: dict[str, str | OSError] = {}
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()

    def look_up(self, name: str, port: int) -> list[tuple[object, ...]]:
        self.asked.append(name)
        if name.startswith("slow."):
            assert self.answers.wait(DEADLINE_S)
        found = self.known.get(name, socket.gaierror(socket.EAI_NONAME, "no such host"))
        if isinstance(found, OSError):
            raise found
        return list(socket.getaddrinfo(found, port, type=socket.SOCK_STREAM))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    server = NameServer()
    monkeypatch.setattr(hosts, "look_up", server.look_up)
    return server


@asynccontextmanager
async def connected(host: Host) -> AsyncIterator[str]:
    """Connect, and say to which address that led."""
    with await host.connect() as made:
        yield str(made.getpeername()[0])


async def reach(host: Host) -> str:
    async with asyncio.timeout(DEADLINE_S), connected(host) as address:
        return address


async def is_reached(host: Host) -> bool:
    try:
        return bool(await reach(host))
    except socket.gaierror:
        return False


async def test_a_name_that_hangs_holds_up_no_other(server: NameServer) -> None:
    """More of them than any pool of threads has."""
    server.answers.clear()
    async with FakeUpstream() as upstream:
        server.known["quick.example"] = "127.0.0.1"
        hanging = [asyncio.create_task(Host(f"slow.{n}.example", upstream.port).connect()) for n in range(40)]
        while len(server.asked) < len(hanging):
            await asyncio.sleep(0)
        assert await reach(Host("quick.example", upstream.port)) == "127.0.0.1"
        assert not any(task.done() for task in hanging)
        server.answers.set()
        assert {type(error) for error in await asyncio.gather(*hanging, return_exceptions=True)} == {socket.gaierror}


async def test_who_asks_while_a_name_is_looked_up_waits_for_the_same(server: NameServer) -> None:
    """Also where the first has left: a hanging name has one thread, however often it is asked for."""
    server.answers.clear()
    async with FakeUpstream() as upstream:
        host = Host("slow.example", upstream.port)
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(host.connect(), 0.001)
        patient = asyncio.create_task(reach(host))
        server.known["slow.example"] = "127.0.0.1"
        server.answers.set()
        assert await patient == "127.0.0.1"
        assert server.asked == ["slow.example"]


@pytest.mark.parametrize("way", ["hangs", "cannot say"])
async def test_what_was_found_before_is_used_while_nobody_can_say_better(server: NameServer, way: str) -> None:
    """RFC 8767. When the name server is back, what it says counts."""
    server.known["slow.example"] = "127.0.0.1"
    async with FakeUpstream() as upstream:
        host = Host("slow.example", upstream.port, believed_s=0.0)
        assert await reach(host) == "127.0.0.1"
        if way == "hangs":
            server.answers.clear()
        else:
            server.known["slow.example"] = socket.gaierror(socket.EAI_AGAIN, "no answer")
        for _ in range(3):
            assert await reach(host) == "127.0.0.1"
        assert len(server.asked) == 2
        server.known["slow.example"] = socket.gaierror(socket.EAI_NONAME, "no such host")
        server.answers.set()
        async with asyncio.timeout(DEADLINE_S):
            while await is_reached(host):
                await asyncio.sleep(0.01)


async def test_a_host_that_is_no_more_is_not_connected_to(server: NameServer) -> None:
    """Its address may be another's by now."""
    server.known["gone.example"] = "127.0.0.1"
    async with FakeUpstream() as upstream:
        host = Host("gone.example", upstream.port, believed_s=0.0)
        await reach(host)
        del server.known["gone.example"]
        for _ in range(2):
            with pytest.raises(socket.gaierror):
                await reach(host)
        server.known["gone.example"] = "127.0.0.1"
        assert await reach(host) == "127.0.0.1"


async def test_a_host_that_does_not_answer_where_it_was_is_looked_up_again(server: NameServer) -> None:
    """However long its addresses are believed."""
    server.known["moved.example"] = "127.0.0.2"  # where nobody listens
    async with FakeUpstream() as upstream:
        host = Host("moved.example", upstream.port, believed_s=3600.0)
        with pytest.raises(ConnectionRefusedError):
            await reach(host)
        server.known["moved.example"] = "127.0.0.1"
        assert [await reach(host) for _ in range(3)] == ["127.0.0.1"] * 3
        assert len(server.asked) == 2


async def test_an_address_is_looked_up_nowhere(server: NameServer) -> None:
    async with FakeUpstream() as upstream:
        assert await reach(Host("127.0.0.1", upstream.port)) == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        await reach(Host("127.0.0.1", upstream.port))
    assert not server.asked


async def test_a_machine_without_threads_to_spare_says_so(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a name server that does not answer, which passes."""
    monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start")))
    with pytest.raises(socket.gaierror):
        await reach(Host("quick.example", 1))
    assert not server.asked
