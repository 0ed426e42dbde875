"""Whose turn it is to take a connection."""

import asyncio
import os
import socket
from contextlib import ExitStack

import pytest

from sidecar.proxy.client import Trusted
from sidecar.proxy.proxy_protocol import Acceptor
from sidecar.turns import Turns


def test_whoever_has_the_fewest_takes_the_next() -> None:
    """And those that have as few; a worker that does not take connections yet is waited for by nobody."""
    turns = Turns(3)
    first = turns.next()
    turns.made(1)
    second = turns.next()
    turns.made(2)
    assert first.is_mine(5)
    assert second.is_mine(4)
    assert second.is_mine(5)
    assert not second.is_mine(6)
    assert first.is_mine(6)


@pytest.mark.parametrize("how", ["leaves", "is killed"])
def test_nobody_waits_for_one_that_takes_none(how: str) -> None:
    """Neither for one that drains nor for one that has ended."""
    turns = Turns(2)
    one = turns.next()
    turns.made(1)
    other = turns.next()
    turns.made(2)
    one.is_mine(0)
    assert not other.is_mine(9)
    if how == "leaves":
        one.leave()
    else:
        turns.ended(1)
    assert other.is_mine(9)


def test_a_replaced_worker_has_a_place_again() -> None:
    """However often workers end, so many count as there are."""
    turns = Turns(2)
    stays = turns.next()
    turns.made(1)
    for pid in range(2, 20):
        turn = turns.next()
        turns.made(pid)
        assert turn.is_mine(0)
        assert not stays.is_mine(1)  # the one in its place is seen
        keeps = turns.next()
        assert keeps.is_mine(3)  # there is none left, or nobody is known by it: it may always
        turns.ended(pid)
        assert stays.is_mine(1)


def test_what_one_process_says_the_others_see() -> None:
    """Forks have one memory of it."""
    turns = Turns(2)
    theirs = turns.next()
    reading, writing = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reading)
        if (pid := os.fork()) == 0:
            theirs.is_mine(7)
            os.write(writing, b".")
            os._exit(0)
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.close, writing)
        turns.made(pid)
        assert os.read(reading, 1) == b"."
    ours = turns.next()
    assert ours.is_mine(7)
    assert not ours.is_mine(8)


async def test_who_has_more_takes_what_nobody_else_took() -> None:
    """It lets others go first for a moment, takes nothing that they took, and leaves nothing in the queue."""
    loop = asyncio.get_running_loop()
    ours: list[asyncio.BaseTransport] = []
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.setblocking(False)
        theirs: list[socket.socket] = []
        wants = False

        class Came(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                ours.append(transport)

        def is_my_turn(_accepting: int) -> bool:
            if wants:
                theirs.append(stack.enter_context(listening.accept()[0]))
            return False

        acceptor = Acceptor([listening], Trusted(()), lambda _: Came(), is_my_turn=is_my_turn, in_a_row=1)
        acceptor.start()
        for number in range(10):
            wants = number % 2 == 0
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            await loop.sock_connect(client, listening.getsockname())
            async with asyncio.timeout(30):
                while len(ours) + len(theirs) <= number:
                    await asyncio.sleep(0)
        await acceptor.close()
        for transport in ours:
            transport.close()
    assert (len(ours), len(theirs)) == (5, 5)


async def test_one_that_hangs_holds_up_nobody() -> None:
    """Where who has the fewest takes none, the others take one once they have waited for it, and then ever more."""
    came: list[asyncio.BaseTransport] = []
    accepted = 0
    taken: list[int] = []

    class Came(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            came.append(transport)

    def room(_: int) -> int:  # asked before each is accepted
        nonlocal accepted
        accepted += 1
        return 1

    def is_my_turn(_: int) -> bool:
        taken.append(accepted)
        return False

    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.setblocking(False)
        for _ in range(20):
            stack.enter_context(socket.create_connection(listening.getsockname()))
        acceptor = Acceptor([listening], Trusted(()), lambda _: Came(), room=room, is_my_turn=is_my_turn, in_a_row=1)
        acceptor.start()
        async with asyncio.timeout(30):
            while len(came) < 20:
                await asyncio.sleep(0)
        await acceptor.close()
        for transport in came:
            transport.close()
    assert taken == [0, 1, 3, 7, 15]
