"""The wire to the store: what travels together, whose reply is whose, and what ends a connection."""

import asyncio
import gc
import logging
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from certificates import LOOPBACK, Authority, serving
from stores import a_server, a_store, a_switch, greet, numbered, read_command

from sidecar.errors import StoreAwayError
from sidecar.store import connections
from sidecar.store.client import Script, Store
from sidecar.store.wire import Wire


async def answer_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every command with its last word."""
    word = (await greet(reader, writer))[-1]
    while True:
        writer.write(b"$%d\r\n%b\r\n" % (len(word), word))
        word = (await read_command(reader))[-1]


# What travels together…


async def test_what_is_asked_in_one_turn_travels_in_one_piece(tmp_path: Path) -> None:
    """Three commands arrive in one read, and each has its own reply."""
    pieces: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        writer.write(b":0\r\n")
        while piece := await reader.read(1 << 16):
            pieces.append(piece)
            writer.write(b"".join(b":%d\r\n" % number for number in range(1, piece.count(b"INCR") + 1)))

    async with a_server(tmp_path / "s", talk) as url, a_store(url) as store:
        assert await store.execute("a", "INCR", "a") == 0
        replies = [store.execute(name, "INCR", name) for name in "abc"]
        assert await asyncio.gather(*reversed(replies)) == [3, 2, 1]
    assert len(pieces) == 1


async def test_a_command_is_sent_though_nobody_awaits_it(store: Store) -> None:
    """And one that fails unheard is no error of anybody's."""
    key = store.names.current("x")
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    store.execute(key, "SET", key, "y")
    store.execute(key, "LPUSH", key, "wrong type")
    assert await store.execute(key, "GET", key) == b"y"
    gc.collect()
    assert not unheard


async def test_a_reply_can_be_read_before_it_is_awaited(store: Store) -> None:
    """`read` makes of it what is awaited, also of a script sent by its text; what it raises reaches the caller."""
    key = store.names.current("x")
    script = Script("return redis.call('EXISTS', KEYS[1])", "0" * 40)  # which the store knows by another hash
    assert await store.run(script, [key], [], read=bool) is False
    assert await store.execute(key, "SET", key, "12", read=lambda reply: reply == b"OK") is True
    unreadable = store.execute(key, "GET", key, read=lambda reply: reply.nothing)
    assert await store.execute(key, "GET", key, read=int) == 12
    with pytest.raises(AttributeError):
        await unreadable


@pytest.mark.parametrize("value", ["é", b"\0\r\n$5\r\n", "", 0, -7, 2**70, 0.1, 1e300, "x" * 100_000])
async def test_any_word_arrives_as_it_is(store: Store, value: str | float | bytes) -> None:
    """Text as UTF-8, octets of any kind and length, numbers as Python writes them."""
    key = store.names.current("x")
    await store.execute(key, "SET", key, value)
    assert await store.execute(key, "GET", key) == (value if isinstance(value, bytes) else str(value).encode())


# Whose reply is whose…


async def test_who_is_cancelled_disturbs_nobody(tmp_path: Path) -> None:
    """The replies of those that left are dropped: everybody else gets their own, on the same connection."""
    connected = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        await answer_each(reader, writer)

    async with a_server(tmp_path / "s", talk) as url, a_store(url) as store:
        assert await store.execute(None, "ECHO", "first") == b"first"

        async def ask(number: int) -> int:
            return int(await store.execute(None, "ECHO", number))

        asking = [asyncio.create_task(ask(number)) for number in range(100)]
        await asyncio.sleep(0)  # each has asked…
        for task in asking[::3]:
            task.cancel()
        await asyncio.sleep(0)  # …and it is written
        await asyncio.sleep(0)
        for task in asking[1::3]:
            task.cancel()
        done = await asyncio.gather(*asking, return_exceptions=True)
        assert [one for one in done if not isinstance(one, asyncio.CancelledError)] == list(range(2, 100, 3))
    assert connected == 1


async def test_an_answer_that_nobody_asked_for_ends_its_connection(tmp_path: Path) -> None:
    """Or it would be the next command's."""
    connected = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        mine = b":%d\r\n" % connected
        await greet(reader, writer)
        writer.write(mine + mine)
        await reader.read()

    async with a_server(tmp_path / "s", talk) as url, a_store(url) as store:
        for number in range(1, 5):
            assert await store.execute("x", "INCR", "x") == number


async def test_what_is_no_reply_ends_its_connection(tmp_path: Path) -> None:
    """And all that was asked on it fails at once, saying why."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        writer.write(b":1\r\n!?\r\n")
        await reader.read()

    async with a_server(tmp_path / "s", talk) as url, a_store(url, timeout_s=30) as store:
        done, *lost = (store.execute("x", "INCR", "x") for _ in range(3))
        assert await done == 1
        for reply in lost:
            with pytest.raises(StoreAwayError, match="no Redis protocol at"):
                await reply


async def test_replies_that_came_before_the_end_are_answers(tmp_path: Path) -> None:
    """A store that closes behind more of them than one turn of the loop takes in has done all of that."""
    count = 2000

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        for _ in range(count - 1):
            await read_command(reader)
        writer.write(b"".join(b":%d\r\n" % number for number in range(count)))

    async with a_server(tmp_path / "s", talk) as url, a_store(url) as store:
        replies = [store.execute("x", "INCR", "x") for _ in range(count)]
        assert await asyncio.gather(*replies) == list(range(count))


async def test_a_full_store_says_so_as_it_closes_the_door(tmp_path: Path) -> None:
    """The one error that comes unasked: its words are the reason."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")

    async with a_server(tmp_path / "s", talk) as url, a_store(url) as store:
        assert await store.why_not() == "max number of clients reached"


# A connection's end…


async def test_what_stands_behind_a_lost_answer_is_lost_too_and_nothing_else(tmp_path: Path) -> None:
    """One time-out fails all that its connection carried, once; the next command is done, on a new connection."""
    seen: list[list[bytes]] = []
    holds = True

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal holds
        mine: list[bytes] = []
        seen.append(mine)
        mine.append((await greet(reader, writer))[-1])
        while not holds:
            writer.write(b"+OK\r\n")
            mine.append((await read_command(reader))[-1])
        while True:
            mine.append((await read_command(reader))[-1])

    async with a_server(tmp_path / "s", talk) as url, a_store(url, timeout_s=0.2) as store:
        lost = [store.execute("x", "ECHO", number) for number in range(5)]
        for reply in lost:
            with pytest.raises(StoreAwayError, match=r"no answer within 0\.2 s"):
                await reply
        holds = False
        assert await store.execute("x", "ECHO", "next") == b"OK"
    assert seen == [[b"0", b"1", b"2", b"3", b"4"], [b"next"]]


async def test_a_busy_connection_that_fell_silent_takes_no_more_commands(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its oldest command is its PING: what is asked after 0.3 s waits, and is done on a new connection."""
    monkeypatch.setattr(connections, "TRUST_S", 60.0)
    async with a_switch(store_url) as switch, a_store(switch.url) as silent:
        key = store.names.current("busy")
        await silent.execute(None, "PING")
        await switch.silence()
        lost = silent.execute(key, "INCR", key)
        await store.blocking(key, "BLPOP", store.names.current("nobody"), 0.4, wait_s=1)
        assert await asyncio.gather(*(silent.execute(key, "INCR", key) for _ in range(10))) == list(range(1, 11))
        with pytest.raises(StoreAwayError):
            await lost


async def test_what_is_written_before_a_renewal_still_has_its_answer(tmp_path: Path) -> None:
    """A connection that leads to the wrong store is closed once all it carried is answered; another takes over."""
    go_on = asyncio.Event()

    async def talk(mine: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        if mine == 1:
            await read_command(reader)
            writer.write(b"-READONLY You can't write against a read only replica.\r\n")
            await go_on.wait()
        writer.write(b":%d\r\n" % mine)
        await reader.read()
        if mine == 1:
            closed.set()

    closed = asyncio.Event()
    async with a_server(tmp_path / "s", numbered(talk)) as url, a_store(url) as store:
        refused, read = store.execute("x", "INCR", "x"), store.execute("x", "GET", "x")
        with pytest.raises(StoreAwayError, match="READONLY"):
            await refused
        assert await store.execute("x", "INCR", "x") == 2
        assert not read.done()
        go_on.set()
        assert await read == 1
        async with asyncio.timeout(30):
            await closed.wait()


async def test_a_connection_that_was_begun_before_a_renewal_is_not_used(tmp_path: Path) -> None:
    """It leads to what was the store before: another one is made, and nothing is asked on the first."""
    connecting, is_refused = asyncio.Event(), asyncio.Event()
    connected = 0
    asked: list[tuple[int, bytes]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        mine = connected
        if mine == 2:
            await read_command(reader)
            connecting.set()
            await is_refused.wait()
            writer.write(b"+OK\r\n")
        asked.append((mine, (await greet(reader, writer))[0]))
        if mine == 1:
            await connecting.wait()
            writer.write(b"-READONLY You can't write against a read only replica.\r\n")
        else:
            writer.write(b":%d\r\n" % mine)
        await reader.read()

    async with a_server(tmp_path / "s", talk) as url, a_store(url) as store:
        waiting = asyncio.create_task(store.blocking("x", "BLPOP", "x", 1, wait_s=1))
        while not asked:
            await asyncio.sleep(0)
        decision = store.execute("x", "INCR", "x")
        with pytest.raises(StoreAwayError, match="READONLY"):
            await waiting
        is_refused.set()
        assert await decision == 3
    assert asked == [(1, b"BLPOP"), (3, b"INCR")]


async def test_who_comes_while_a_connection_hangs_that_is_being_made_has_another_try(tmp_path: Path) -> None:
    """The time of who came first is over with it; what was asked meanwhile is done on the next one, asked by nobody."""
    connected = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        if connected > 1:
            await greet(reader, writer)
            writer.write(b"+OK\r\n")
        await reader.read()

    async with a_server(tmp_path / "s", talk) as url, a_store(url) as store:
        first = store.execute("x", "ECHO", 1)
        await asyncio.wait([first], timeout=0.9)
        assert await store.execute("x", "ECHO", 2) == b"OK"
        with pytest.raises(StoreAwayError, match="no answer within 1 s"):
            await first
    assert connected == 2


async def test_closing_fails_what_is_under_way_and_is_no_end(store_url: str) -> None:
    """Written, waiting for its turn or for a connection: each is told; a command after that connects anew."""
    async with a_store(store_url) as store:
        unsent = store.execute("nobody", "GET", "nobody")
        await store.close()
        connecting = store.execute("nobody", "GET", "nobody")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.close()
        for reply in (unsent, connecting):
            with pytest.raises(StoreAwayError, match="closed by"):
                await reply
        assert await store.execute("nobody", "GET", "nobody") is None


# What is bounded…


async def test_more_than_can_wait_is_refused_at_once(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait already are done."""
    monkeypatch.setattr(connections, "_MOST_UNSENT", 3)
    async with a_store(store_url, timeout_s=30) as store:
        replies = [store.execute(None, "ECHO", number) for number in range(5)]
        for reply in replies[3:]:
            assert reply.done()
            with pytest.raises(StoreAwayError, match="too many commands wait for it"):
                await reply
        assert await asyncio.gather(*replies[:3]) == [b"0", b"1", b"2"]


async def test_no_more_is_written_than_a_store_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While so many are unanswered, others wait for their turn, and have it when answers come."""
    monkeypatch.setattr(connections, "_MOST_WRITTEN", 4)
    unanswered: list[bytes] = []
    is_silent = False
    writers: list[asyncio.StreamWriter] = []

    def answer(word: bytes) -> None:
        writers[0].write(b"$%d\r\n%b\r\n" % (len(word), word))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        word = (await greet(reader, writer))[-1]
        while True:
            if is_silent:
                unanswered.append(word)
            else:
                answer(word)
            word = (await read_command(reader))[-1]

    async with a_server(tmp_path / "s", talk) as url, a_store(url, timeout_s=10) as store:
        await store.execute(None, "ECHO", "first")
        is_silent = True
        replies = []
        for number in range(40):
            replies.append(store.execute(None, "ECHO", number))
            for _ in range(5):  # turns of the loop, in which all is read that is written
                await asyncio.sleep(0)
        assert unanswered == [b"0", b"1", b"2", b"3"]
        is_silent = False
        for word in unanswered:
            answer(word)
        assert await asyncio.gather(*replies) == [str(number).encode() for number in range(40)]


async def test_deadlines_cost_one_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many commands wait for their answers, on however many connections that died: no timer of their own."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    connected = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        if connected <= 3:
            await greet(reader, writer)
            await reader.read()  # takes everything, says nothing
        else:
            await answer_each(reader, writer)

    def call_later(delay: float, callback: Callable[..., object], *args: Any, **more: Any) -> asyncio.TimerHandle:
        timer = type(loop).call_later(loop, delay, callback, *args, **more)
        if getattr(callback, "__self__", None) is store._nodes.node(None).deciding:
            timers.append(timer)
        return timer

    async with a_server(tmp_path / "s", talk) as url, a_store(url, timeout_s=0.1) as store:
        monkeypatch.setattr(loop, "call_later", call_later)
        expected = [str(number).encode() for number in range(1000)]
        replies: list[Any] = []
        while replies != expected:  # a busy machine may be too slow for the time limit on the fourth connection too
            asked = [store.execute(None, "ECHO", number) for number in range(1000)]
            replies = await asyncio.gather(*asked, return_exceptions=True)
        assert connected >= 4
        now = loop.time()
        assert len([timer for timer in timers if not timer.cancelled() and timer.when() > now]) <= 1
        assert len(timers) <= 4 * connected


# Being let in…


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_store_behind_tls(
    store_url: str, tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None], caplog: pytest.LogCaptureFixture
) -> None:
    """rediss://, on either loop; with an authority that nobody knows it is away, and says why."""
    (tmp_path / "theirs").mkdir()
    ours, theirs = Authority(tmp_path), Authority(tmp_path / "theirs")
    pair = ours.issue("store", LOOPBACK)

    async def story() -> None:
        async with a_switch(store_url, serving(pair)) as switch:
            tls = f"rediss://127.0.0.1:{switch.port}/0"
            async with a_store(f"{tls}?ssl_ca_certs={ours.cert}", prefix="tls") as store:
                key = store.names.current("tls")
                replies = [store.execute(None, "ECHO", number, read=int) for number in range(100)]
                assert await asyncio.gather(*replies) == list(range(100))
                assert await store.blocking(key, "BLPOP", key, 0.01, wait_s=1) is None
                large = b"x" * 1_000_000
                await store.execute(key, "SET", key, large)
                assert await store.execute(key, "GETDEL", key) == large
            async with a_store(f"{tls}?ssl_ca_certs={theirs.cert}") as store:
                with caplog.at_level(logging.CRITICAL, "asyncio"), pytest.raises(StoreAwayError, match="TLS with 127"):
                    await store.execute(None, "PING")

    run(story())


@pytest.mark.parametrize("said", [b"", b"-ERR max number of clients reached\r\n"])
async def test_a_store_behind_tls_that_closes_as_it_lets_in_is_away(tmp_path: Path, said: bytes) -> None:
    """What comes in one piece with the end of the handshake ends the connection before anything is asked on it."""
    authority = Authority(tmp_path)
    tls = serving(authority.issue("store", LOOPBACK))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # whose handshake the server ends

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with a_store(f"rediss://{place}?ssl_ca_certs={authority.cert}") as store:
        assert await store.why_not() == f"closed by {place}"
        with pytest.raises(StoreAwayError, match=f"closed by {place}"):
            await store.blocking("x", "BLPOP", "x", 1, wait_s=1)
    server.close()


async def test_who_asks_and_which_database_are_said_first(store: Store, store_url: str) -> None:
    """A user with a password, a database, a name; CLIENT LIST knows us."""
    user = store.names.prefix
    await store.execute(None, "ACL", "SETUSER", user, "on", ">pw", "~*", "+@all")
    try:
        url = store_url.replace("unix://", f"unix://{user}:pw@")
        async with a_store(f"{url}?db=3&client_name=here") as other:
            said = dict(pair.split(b"=", 1) for pair in (await other.execute(None, "CLIENT", "INFO")).split())
            assert (said[b"db"], said[b"user"], said[b"name"]) == (b"3", user.encode(), b"here")
            assert said[b"lib-name"] == b"signup-sidecar"
            assert await other.blocking("nobody", "LLEN", "nobody", wait_s=0) == 0
        async with a_store(f"{store_url}?username={user}&password=wrong") as other:
            assert await other.why_not() == "WRONGPASS"
    finally:
        await store.execute(None, "ACL", "DELUSER", user)


@pytest.mark.parametrize(
    ("said", "role", "replicas"),
    [
        ([b"master", 7, [[b"one", b"1", b"0"], [b"two", b"2", b"7"], 5, None, b"three"]], "master", 1),
        ([b"master", [[b"one", b"1", b"online"]]], "master", 0),
        ([b"slave", b"one", 1, b"connected", 7], "slave", 0),
        ([b"\xff"], "\N{REPLACEMENT CHARACTER}", 0),
        (b"OK", "", 0),
        (None, "", 0),
        ([], "", 0),
    ],
)
def test_what_a_server_may_say_of_itself(said: object, role: str, replicas: int) -> None:
    """A proxy or a cousin of Valkey says it in ways of its own: only what is a replica that follows counts as one."""
    wire = Wire("here")
    wire.take_role(said)
    assert (wire.role, wire.replicas) == (role, replicas)


async def test_a_user_who_may_not_introduce_itself_is_let_in(store: Store, store_url: str) -> None:
    """CLIENT SETINFO is a courtesy: a right that is missing there takes nothing away."""
    user = store.names.prefix
    await store.execute(None, "ACL", "SETUSER", user, "on", ">pw", "~*", "+ping")
    try:
        async with a_store(store_url.replace("unix://", f"unix://{user}:pw@")) as other:
            assert await other.ping()
    finally:
        await store.execute(None, "ACL", "DELUSER", user)


@pytest.mark.parametrize("query", ["nothing=known", "ssl_cert_reqs=maybe"])
def test_an_option_that_cannot_be_is_refused_with_the_url(query: str) -> None:
    """Before anything is asked, and not as a fault of the first request."""
    with pytest.raises(ValueError, match="an option that cannot be"):
        Store(f"rediss://h:1?{query}")


def test_tls_files_that_are_missing_are_told_with_the_url() -> None:
    with pytest.raises(FileNotFoundError):
        Store("rediss://h:1?ssl_ca_certs=/nowhere.pem")
