"""The tables of `proxy/states.py`: each event in each state, and what becomes of a real exchange in each of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from itertools import product
from typing import Any, get_args

import pytest
from fakes import FakeUpstream, Message, Taken

from sidecar.errors import Refusal
from sidecar.proxy import messages, states
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.pool import Pool
from sidecar.proxy.states import CLIENT, EXCHANGE, UPSTREAM
from sidecar.proxy.upstream import UpstreamConnection

OVER = {"answered", "refused", "cut", "left"}
# What each event means: in which states it may happen, and the state that it leads to.
EXCHANGE_EVENTS: Mapping[str, tuple[Collection[str], str]] = {
    "carry": ({"waiting"}, "carried"),
    "repeat": ({"carried"}, "waiting"),
    "begin": ({"carried", "begun"}, "begun"),
    "hold": ({"carried", "begun"}, "held"),
    "answer": ({"carried", "begun", "held"}, "answering"),
    "end": ({"answering"}, "answered"),
    "refuse": ({"waiting", "carried", "begun", "held"}, "refused"),
    "cut": ({"answering"}, "cut"),
    "leave": ({"waiting", "carried", "begun", "held", "answering"}, "left"),
}
# What may come after the end, and changes nothing.
TOO_LATE = {(state, "leave") for state in OVER} | {("left", "refuse"), ("left", "end")}
UPSTREAM_EVENTS: Mapping[str, tuple[Collection[str], str]] = {
    "open": ({"opening"}, "idle"),
    "carry": ({"idle"}, "active"),
    "end": ({"active"}, "idle"),
    "switch": ({"active"}, "switched"),
    "close": ({"idle", "active", "switched", "closed"}, "closed"),
}
SERVED = {"relaying", "deciding", "discarding"}
CLIENT_EVENTS: Mapping[str, tuple[Collection[str], str]] = {
    "relay": ({"idle"}, "relaying"),
    "collect": ({"idle"}, "collecting"),
    "decide": ({"idle", "collecting", "relaying", "carrying"}, "deciding"),
    "carry": ({"deciding"}, "carrying"),
    "finish": (SERVED, "idle"),
    "discard": (SERVED, "discarding"),
    "close": ({*SERVED, "idle", "closing"}, "closing"),
    "lose": ({*SERVED, "idle", "collecting", "carrying", "closing"}, "lost"),
}
# A decision is carried out to its end though the client has gone.
WITHOUT_CLIENT = {("lost", "carry"), ("lost", "decide")}


@pytest.mark.parametrize(
    ("state", "event"), [*product(get_args(states.ExchangeState), get_args(states.ExchangeEvent))], ids=str
)
def test_an_exchange_moves_so_or_not_at_all(state: states.ExchangeState, event: states.ExchangeEvent) -> None:
    allowed, leads_to = EXCHANGE_EVENTS[event]
    if state in allowed:
        assert EXCHANGE[state][event] == leads_to
    elif (state, event) in TOO_LATE:
        assert EXCHANGE[state][event] == state
    else:
        with pytest.raises(KeyError):
            EXCHANGE[state][event]


@pytest.mark.parametrize(
    ("state", "event"), [*product(get_args(states.UpstreamState), get_args(states.UpstreamEvent))], ids=str
)
def test_upstreams_connection_moves_so_or_not_at_all(state: states.UpstreamState, event: states.UpstreamEvent) -> None:
    allowed, leads_to = UPSTREAM_EVENTS[event]
    if state in allowed:
        assert UPSTREAM[state][event] == leads_to
    else:
        with pytest.raises(KeyError):
            UPSTREAM[state][event]


@pytest.mark.parametrize(
    ("state", "event"), [*product(get_args(states.ClientState), get_args(states.ClientEvent))], ids=str
)
def test_a_clients_connection_moves_so_or_not_at_all(state: states.ClientState, event: states.ClientEvent) -> None:
    allowed, leads_to = CLIENT_EVENTS[event]
    if state in allowed:
        assert CLIENT[state][event] == leads_to
    elif (state, event) in WITHOUT_CLIENT:
        assert CLIENT[state][event] == state
    else:
        with pytest.raises(KeyError):
            CLIENT[state][event]


def paths(table: Mapping[Any, Mapping[Any, Any]], start: str) -> set[tuple[str, ...]]:
    """Every way through a table, without going round."""
    found: set[tuple[str, ...]] = set()
    unfinished: list[tuple[str, ...]] = [(start,)]
    while unfinished:
        path = unfinished.pop()
        found.add(path)
        unfinished += [(*path, state) for state in table[path[-1]].values() if state not in path]
    return found


def test_every_exchange_comes_to_one_end_and_stays_there() -> None:
    """No state is a dead end, and none is out of reach."""
    found = paths(EXCHANGE, "waiting")
    assert {path[-1] for path in found} == set(get_args(states.ExchangeState))
    for path in found:
        assert not OVER & set(path[:-1]), path
        assert path[-1] in OVER or any(longer[: len(path)] == path and longer[-1] in OVER for longer in found), path


def test_an_answer_that_has_begun_is_neither_refused_nor_asked_for_again() -> None:
    """Whatever comes in between, once the client gets the final head."""
    for path in paths(EXCHANGE, "waiting"):
        if "answering" in path:
            assert not {"refused", "waiting", "carried"} & set(path[path.index("answering") :]), path
        if "begun" in path:
            assert not {"waiting", "carried"} & set(path[path.index("begun") :]), path


def test_upstreams_connection_is_closed_once_and_for_all() -> None:
    found = paths(UPSTREAM, "opening")
    assert {path[-1] for path in found} == set(get_args(states.UpstreamState))
    assert all("closed" not in path[:-1] for path in found)


def test_a_clients_connection_serves_one_request_at_a_time() -> None:
    """The next one begins only where it is idle again, none begins once it closes, and no state is out of reach."""
    begins = {state for state, events in CLIENT.items() if {"relay", "collect"} & set(events)}
    assert begins == {"idle"}
    found = paths(CLIENT, "idle")
    assert {path[-1] for path in found} == set(get_args(states.ClientState))
    assert all(set(path[path.index("closing") :]) <= {"closing", "lost"} for path in found if "closing" in path)


# Every state with a real upstream, and what may happen to it there…

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
OPEN_ENDED = b"HTTP/1.1 200 OK\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\n\r\n"
# What upstream has said by then.
SAID = {
    "waiting": b"",
    "carried": b"",
    "begun": EARLY_HINTS,
    "held": HEAD + b"ab",
    "answering": HEAD + b"ab",
    "answering to the end of the connection": OPEN_ENDED + b"ab",
}


class Asking:
    """A client's end that writes down what it is told."""

    writing_paused = False
    transport = None
    bound = None

    def __init__(self) -> None:
        self.protocol = self
        self.octets = b""
        self.has_octets = asyncio.Event()
        self.knows_status = asyncio.Event()
        self.told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def answer(self, octets: bytes) -> None:
        self.octets += octets
        self.has_octets.set()

    def take_content(self, *, now: bool) -> None:
        raise AssertionError("the request has no content")

    def status_received(self, exchange: Exchange) -> None:
        self.knows_status.set()

    def answered(self, exchange: Exchange, *, stays_open: bool) -> None:
        self.told.set_result("answered")

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:
        self.told.set_result(f"refused {refusal.code} {refusal.reason}")

    def broken(self, exchange: Exchange, *, until_close: bool) -> None:
        self.told.set_result("broken")

    def lost(self, exchange: Exchange) -> None:
        raise AssertionError("it is there")

    def take_early(self) -> bytes:
        return b""


@asynccontextmanager
async def pooled(upstream: FakeUpstream, *, max_connections: int = 0) -> AsyncIterator[Pool]:
    async def connect(factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol]:
        return await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", upstream.port)

    pool = Pool(
        connect,
        connect_timeout_s=5,
        read_timeout_s=30,
        max_connections=max_connections,
        observe=lambda _seconds: None,
    )
    try:
        yield pool
    finally:
        await pool.close()


def exchange(pool: Pool, *, holds_answer: bool = False) -> Exchange:
    fields = messages.read_fields(b"Host: a\r\n")
    request = messages.read_request(b"GET / HTTP/1.1", fields)
    return Exchange(
        pool,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        request,
        may_repeat=True,
        request_id="",
        client_ip="",
        ended=lambda _exchange, _counts: None,
        holds_answer=holds_answer,
    )


async def client_leaves(one: Exchange, _upstream: FakeUpstream) -> None:
    one.leave()


async def upstream_closes(_one: Exchange, upstream: FakeUpstream) -> None:
    upstream.taken[-1].writer.close()


async def upstream_resets(_one: Exchange, upstream: FakeUpstream) -> None:
    upstream.taken[-1].reset()


async def nothing_comes(one: Exchange, _upstream: FakeUpstream) -> None:
    assert isinstance(one.upstream, UpstreamConnection)
    one.upstream.look(time.perf_counter() + one.pool.read_timeout_s)


async def pool_closes(one: Exchange, _upstream: FakeUpstream) -> None:
    assert isinstance(one.pool, Pool)
    await one.pool.close()


Event = Callable[[Exchange, FakeUpstream], Awaitable[None]]
CLOSED, CLOSING = "refused upstream_unavailable read:closed", "refused upstream_unavailable read:closing"
# What the client is told; "" for one that has left, and is told nothing.
CASES: list[tuple[str, Event, str]] = [
    ("waiting", client_leaves, ""),
    ("waiting", pool_closes, "refused upstream_unavailable connect:closing"),
    ("carried", client_leaves, ""),
    ("carried", upstream_closes, CLOSED),
    ("carried", upstream_resets, CLOSED),
    ("carried", nothing_comes, "refused upstream_timeout read_timeout"),
    ("carried", pool_closes, CLOSING),
    ("begun", client_leaves, ""),
    ("begun", upstream_closes, CLOSED),
    ("begun", upstream_resets, CLOSED),
    ("begun", nothing_comes, "refused upstream_timeout read_timeout"),
    ("begun", pool_closes, CLOSING),
    ("held", client_leaves, ""),
    ("held", pool_closes, CLOSING),
    ("answering", client_leaves, ""),
    ("answering", upstream_closes, "broken"),
    ("answering", upstream_resets, "broken"),
    ("answering", nothing_comes, "broken"),
    ("answering", pool_closes, "broken"),
    ("answering to the end of the connection", client_leaves, ""),
    ("answering to the end of the connection", upstream_closes, "answered"),
    ("answering to the end of the connection", upstream_resets, "broken"),
    ("answering to the end of the connection", nothing_comes, "broken"),
    ("answering to the end of the connection", pool_closes, "broken"),
]


async def bring_to(name: str, pool: Pool, upstream: FakeUpstream) -> tuple[Exchange, Asking]:
    """Make an exchange and have upstream say so much that it is in that state."""

    async def say(taken: Taken, _request: Message) -> None:
        await taken.write(SAID[name])
        await taken.reader.read()  # nothing more until the connection ends

    upstream.answer = say
    if name == "waiting":
        before = exchange(pool)
        before.start(Asking())
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
    asked = len(upstream.requests)
    one, client = exchange(pool, holds_answer=name == "held"), Asking()
    one.start(client)
    if name == "carried":
        await upstream.wait_for(lambda: len(upstream.requests) > asked)
    elif name == "held":
        await asyncio.wait_for(client.knows_status.wait(), 30)
    elif name != "waiting":
        await asyncio.wait_for(client.has_octets.wait(), 30)
    assert one.state == name.partition(" ")[0]
    return one, client


@pytest.mark.parametrize(("state", "event", "told"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
async def test_what_the_client_is_told(upstream: FakeUpstream, state: str, event: Event, told: str) -> None:
    """Once, and by what of the answer it has: refused before the final head, broken off behind it."""
    async with pooled(upstream, max_connections=int(state == "waiting")) as pool:
        one, client = await bring_to(state, pool, upstream)
        await event(one, upstream)
        if told:
            assert await asyncio.wait_for(client.told, 30) == told
        else:
            await pool.close()
            assert not client.told.done()
            assert one.state == "left"
        await upstream.wait_closed()
        assert not pool.all
        assert one.client is None
        assert one.upstream is None
        over = one.state
        one.leave()
        assert one.state == over


async def test_one_in_line_is_carried_when_the_connection_before_it_is_lost(upstream: FakeUpstream) -> None:
    async with pooled(upstream, max_connections=1) as pool:
        one, _ = await bring_to("waiting", pool, upstream)
        await upstream_closes(one, upstream)
        await upstream.wait_for(lambda: len(upstream.requests) == 2)
        assert one.state == "carried"


@pytest.mark.parametrize("event", [upstream_closes, upstream_resets])
async def test_a_request_is_sent_again_only_if_nothing_was_said_to_it(upstream: FakeUpstream, event: Event) -> None:
    """On a connection that upstream may have closed meanwhile: again when it said nothing, never behind an octet."""
    async with pooled(upstream) as pool:
        for state in ("carried", "begun"):
            upstream.answer = HEAD + b"abcd"
            first = Asking()
            exchange(pool).start(first)
            assert await asyncio.wait_for(first.told, 30) == "answered"
            connection, asked = upstream.taken[-1].number, len(upstream.requests)

            async def say(taken: Taken, _request: Message, *, said: bytes = SAID[state]) -> None:
                await taken.write(said)
                await taken.reader.read()

            upstream.answer = say
            one, client = exchange(pool), Asking()
            one.start(client)
            await upstream.wait_for(lambda asked=asked: len(upstream.requests) > asked)  # type: ignore[misc]
            assert upstream.taken[-1].number == connection
            if state == "begun":
                await asyncio.wait_for(client.has_octets.wait(), 30)
            await event(one, upstream)
            if state == "begun":
                assert await asyncio.wait_for(client.told, 30) == CLOSED
                assert len(upstream.requests) == asked + 1
            else:
                await upstream.wait_for(lambda asked=asked: len(upstream.requests) > asked + 1)  # type: ignore[misc]
                assert upstream.taken[-1].number == connection + 1
                assert one.state == "carried"
                one.leave()


@pytest.mark.parametrize("event", [upstream_closes, upstream_resets])
@pytest.mark.parametrize(("rest", "told"), [(b"cd", "answered"), (b"", "broken")])
async def test_a_held_answer_is_told_as_far_as_it_came(
    upstream: FakeUpstream, event: Event, rest: bytes, told: str
) -> None:
    """That upstream's connection ends meanwhile is told behind it, and the connection is never used again."""

    async def say(taken: Taken, _request: Message) -> None:
        await taken.write(HEAD + b"ab" + rest)
        await taken.reader.read()

    async with pooled(upstream) as pool:
        upstream.answer = say
        one, client = exchange(pool, holds_answer=True), Asking()
        one.start(client)
        await asyncio.wait_for(client.knows_status.wait(), 30)
        await nothing_comes(one, upstream)
        assert one.state == "held"
        await event(one, upstream)
        await upstream.wait_closed()
        assert not client.octets
        one.go_on()
        assert client.octets.endswith(b"ab" + rest)
        if told == "broken":
            await asyncio.wait_for(client.told, 30)
        assert client.told.result() == told


async def test_what_comes_behind_a_held_answer_is_not_read_on(upstream: FakeUpstream) -> None:
    """One that came whole is held while upstream may say more: that is read once, and the connection not used again."""
    more = asyncio.Event()

    async def say(taken: Taken, _request: Message) -> None:
        await taken.write(HEAD + b"abcd")
        await more.wait()
        await taken.write(b"behind it")
        await taken.reader.read()

    async with pooled(upstream) as pool:
        upstream.answer = say
        one, client = exchange(pool, holds_answer=True), Asking()
        one.start(client)
        await asyncio.wait_for(client.knows_status.wait(), 30)
        connection = one.upstream
        assert isinstance(connection, UpstreamConnection)
        assert connection.transport.is_reading()
        more.set()
        async with asyncio.timeout(30):
            while connection.transport.is_reading():
                await asyncio.sleep(0)
        one.go_on()
        assert client.octets.endswith(b"\r\n\r\nabcd")
        assert client.told.result() == "answered"
        assert not connection.is_open()


async def test_a_connection_carries_one_exchange_at_a_time(upstream: FakeUpstream) -> None:
    async with pooled(upstream) as pool:
        one, _ = await bring_to("carried", pool, upstream)
        connection, other = one.upstream, exchange(pool)
        assert isinstance(connection, UpstreamConnection)
        other.client = Asking()
        with pytest.raises(KeyError, match="carry"):
            connection.carry(other)
        assert (one.state, other.state) == ("carried", "waiting")
