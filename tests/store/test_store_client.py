"""The client against the real store, and against sockets that misbehave as stores do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from awake import awake
from stores import a_server, greet, numbered, read_command

from sidecar.errors import StoreAwayError
from sidecar.store import connections
from sidecar.store.client import ReplyError, Script, Store
from sidecar.store.faults import Fault


async def until_blocked(store: Store, count: int) -> None:
    """Wait until so many clients wait in the store."""
    async with asyncio.timeout(30):
        while f"blocked_clients:{count}\r\n".encode() not in await store.execute(None, "INFO", "clients"):
            pass  # each look is a round trip


# Asking…


async def test_replies_are_bytes_numbers_and_lists(store: Store) -> None:
    """RESP2 as it is: nothing decoded, nothing turned into mappings."""
    key = store.names.outbox()
    first = await store.execute(key, "XADD", key, "*", "to", "é".encode())
    assert isinstance(first, bytes)
    assert await store.execute(key, "XLEN", key) == 1
    assert await store.execute(key, "XREAD", "STREAMS", key, "0") == [[key.encode(), [[first, [b"to", "é".encode()]]]]]
    assert await store.execute(store.names.current("nobody"), "GET", store.names.current("nobody")) is None


@pytest.mark.parametrize(
    "query",
    [
        "decode_responses=True",
        "protocol=3",
        "retry_on_timeout=1",
        "socket_timeout=0.0001",
        "max_connections=1&timeout=1",
    ],
)
async def test_a_query_in_the_url_changes_no_promise(store: Store, store_url: str, query: str) -> None:
    """redis-py takes any option from the URL, also those of its pools; ours win."""
    other = Store(f"{store_url}?{query}", prefix=store.names.prefix)
    assert await other.execute(None, "CONFIG", "GET", "port") == [b"port", b"0"]
    await other.close()


async def test_a_script_runs_whether_the_store_knows_it_or_not(store: Store, tmp_path: Path) -> None:
    """First by its text, then by its hash, and again after the store forgot it."""
    file = tmp_path / "double.lua"
    file.write_text("return {KEYS[1], ARGV[1] * 2}", encoding="utf-8")
    script = Script.load(file)
    key = store.names.current("x")
    for _ in range(2):
        assert await store.run(script, [key], [21]) == [key.encode(), 42]
    assert await store.execute(None, "SCRIPT", "EXISTS", script.sha1) == [1]
    await store.execute(None, "SCRIPT", "FLUSH")
    assert await store.run(script, [key], ["4"]) == [key.encode(), 8]


async def test_a_script_has_the_constants_that_it_is_given(store: Store, tmp_path: Path) -> None:
    """Each set of them is a script of its own, known to the store or not."""
    file = tmp_path / "many.lua"
    file.write_text("return {KEYS[1], NAME, MOST * ARGV[1]}", encoding="utf-8")
    script, key = Script.load(file), store.names.current("x")
    few, many = script.having(NAME="few", MOST=2), script.having(NAME="many", MOST=10)
    for _ in range(2):
        assert await store.run(few, [key], [4]) == [key.encode(), b"few", 8]
        assert await store.run(many, [key], [4]) == [key.encode(), b"many", 40]
        await store.execute(None, "SCRIPT", "FLUSH")


async def test_observe_is_told_the_seconds_of_every_command(store_url: str, tmp_path: Path) -> None:
    """Of those that failed too; a wait is no command's time."""
    seen: list[float] = []
    store = Store(store_url, observe=seen.append)
    began = time.monotonic()
    await store.execute(None, "PING")
    await store.blocking("nobody:fills:this", "BLPOP", "nobody:fills:this", 0.05, wait_s=1)
    assert len(seen) == 1
    await store.close()
    away = Store(f"unix://{tmp_path}/nobody.sock", observe=seen.append)
    assert not await away.ping()
    assert len(seen) == 2
    assert min(seen) > 0
    assert sum(seen) < time.monotonic() - began
    await away.close()


async def test_ping_tells_whether_it_serves(store: Store) -> None:
    """A living store pongs."""
    assert await store.ping()


@pytest.mark.parametrize("url", ["redis+clusters://h:1", "http://h", "h:6379", ""])
def test_other_urls_are_refused(url: str) -> None:
    """What this client cannot speak is a ValueError at once."""
    with pytest.raises(ValueError, match="Redis URL must specify"):
        Store(url)


async def test_what_is_cancelled_before_it_goes_out_is_not_done(store: Store) -> None:
    """And what was asked beside it is, whether or not it is awaited."""
    names = [store.names.current(name) for name in ("cancelled", "left", "awaited")]
    cancelled, _, awaited = (store.execute(name, "SET", name, "x") for name in names)
    cancelled.cancel()
    await awaited
    assert await store.execute(names[0], "MGET", *names) == [None, b"x", b"x"]


# Waiting…


async def test_waiting_outlives_the_time_limit_of_decisions(store: Store, store_url: str) -> None:
    """A BLPOP of 0.3 s ends by itself on a store whose commands get 0.1 s."""
    patient = Store(store_url, prefix=store.names.prefix, timeout_s=0.1)
    nobody = store.names.current("nobody")
    started = time.monotonic()
    assert await patient.blocking(nobody, "BLPOP", nobody, 0.3, wait_s=30) is None
    assert time.monotonic() - started >= 0.3
    await patient.close()


async def test_those_who_wait_hold_up_no_decision(store: Store) -> None:
    """With more waiting than there are connections for decisions, decisions go on, and so does what was awaited."""
    key = store.names.current("queue")
    waiting = [asyncio.create_task(store.blocking(key, "BLPOP", key, 30, wait_s=30)) for _ in range(100)]
    async with asyncio.timeout(30):
        await until_blocked(store, 100)
        await store.execute(key, "RPUSH", key, *range(100))
        assert sorted(int(value) for _, value in await asyncio.gather(*waiting)) == list(range(100))


async def test_who_stops_waiting_takes_nobody_elses_answer(store: Store) -> None:
    """A wait that is cancelled closes its connection; the next one reads its own answer."""
    key = store.names.current("queue")
    waiting = asyncio.create_task(store.blocking(key, "BLPOP", key, 30, wait_s=30))
    await until_blocked(store, 1)
    waiting.cancel()
    await until_blocked(store, 0)
    await store.execute(key, "RPUSH", key, "x")
    assert await store.blocking(key, "LLEN", key, wait_s=0) == 1


async def test_a_wait_goes_out_on_a_connection_that_proves_to_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has died silently since it was used costs a new one, and no wait."""
    monkeypatch.setattr(connections, "TRUST_S", 0.0)

    async def talk(mine: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        writer.write(b":%d\r\n" % mine)
        await reader.read()  # takes everything, says nothing more

    async with a_server(tmp_path / "s", numbered(talk)) as url:
        store = Store(url, timeout_s=1.0)
        assert await store.blocking("x", "LLEN", "x", wait_s=0.1) == 1
        assert await store.blocking("x", "LLEN", "x", wait_s=0.1) == 2
        await store.close()


async def test_closing_ends_a_wait(store: Store, store_url: str) -> None:
    """Who still waits when the store is closed gets StoreAwayError, and nothing hangs."""
    other = Store(store_url)
    waiting = asyncio.create_task(
        other.blocking(store.names.current("nobody"), "BLPOP", store.names.current("nobody"), 30, wait_s=30)
    )
    async with asyncio.timeout(30):
        await until_blocked(store, 1)
        await other.close()
        with pytest.raises(StoreAwayError):
            await waiting


async def test_connections_are_bounded(tmp_path: Path) -> None:
    """A thousand at once share one connection, and all get their answer."""
    connected = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        await greet(reader, writer)
        while True:
            writer.write(b"+PONG\r\n")
            await read_command(reader)

    async with a_server(tmp_path / "s", talk) as url:
        store = Store(url, timeout_s=30)
        assert await asyncio.gather(*(store.execute(None, "PING") for _ in range(1000))) == [b"PONG"] * 1000
        await store.close()
    assert connected == 1


# Away…


async def test_nobody_there_is_away(tmp_path: Path) -> None:
    """No socket, and a socket that nobody listens on, are StoreAwayError."""
    store = Store(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(StoreAwayError):
        await store.execute("x", "GET", "x")
    assert not await store.ping()
    async with a_server(tmp_path / "s", greet):  # type: ignore[arg-type]
        dead = Store(f"unix://{tmp_path}/s")
    with pytest.raises(StoreAwayError):
        await dead.execute("x", "GET", "x")
    await store.close()
    await dead.close()


async def test_a_store_that_hangs_is_away_in_time_and_back_at_once(tmp_path: Path) -> None:
    """No answer within timeout_s is StoreAwayError; the next command goes out on a fresh connection and is answered."""
    connected = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        if connected == 1:
            await reader.read()  # takes everything, says nothing, until the client hangs up
            return
        await greet(reader, writer)
        writer.write(b"$4\r\nmine\r\n")
        await reader.read()

    async with a_server(tmp_path / "s", talk) as url:
        store = Store(url, timeout_s=0.2)
        with awake() as took:
            with pytest.raises(StoreAwayError, match="no answer within"):
                await store.execute("x", "GET", "x")
            assert took() < 3.0
        assert await store.execute("x", "GET", "x") == b"mine"
        await store.close()
    assert connected == 2


async def test_a_late_answer_is_nobodys(tmp_path: Path) -> None:
    """A store that answers after the time limit does not answer the next command with it."""
    late = asyncio.Event()

    async def talk(mine: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        if mine == 1:
            await late.wait()
        writer.write(b":%d\r\n" % mine)
        await reader.read()

    async with a_server(tmp_path / "s", numbered(talk)) as url:
        store = Store(url, timeout_s=0.2)
        with pytest.raises(StoreAwayError):
            await store.execute("x", "INCR", "x")
        late.set()
        assert await store.execute("x", "INCR", "x") == 2
        await store.close()


@pytest.mark.parametrize("how", ["hangs up", "hangs", "away"])
@pytest.mark.parametrize("asking", ["execute", "run", "blocking"])
async def test_nothing_is_ever_sent_twice(tmp_path: Path, how: str, asking: str) -> None:
    """A command that may have been done is not repeated, however the answer was lost."""
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await greet(reader, writer))[0])
        if how == "away":
            writer.write(b"-LOADING it reads its data\r\n")
        if how != "hangs up":
            while True:
                seen.append((await read_command(reader))[0])

    async with a_server(tmp_path / "s", talk) as url:
        store = Store(url, timeout_s=0.3)
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "execute": lambda: store.execute("x", "XADD", "x", "*", "a", "b"),
            "run": lambda: store.run(Script("return 1", "0" * 40), [], []),
            "blocking": lambda: store.blocking("x", "BLPOP", "x", 0.1, wait_s=0.1),
        }
        with pytest.raises(StoreAwayError):
            await asked[asking]()
        await store.close()
    assert len(seen) == 1


async def test_it_comes_back_by_itself(tmp_path: Path) -> None:
    """Connections that died while idle are replaced without a command failing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        while True:
            writer.write(b"+PONG\r\n")
            await read_command(reader)

    store = Store(f"unix://{tmp_path}/s")
    async with a_server(tmp_path / "s", talk):
        await asyncio.gather(*(store.execute(None, "PING") for _ in range(5)))
    assert not await store.ping()
    (tmp_path / "s").unlink(missing_ok=True)
    async with a_server(tmp_path / "s", talk):
        assert await asyncio.gather(*(store.execute(None, "PING") for _ in range(5))) == [b"PONG"] * 5
        await store.close()


AWAY = [
    "LOADING Valkey is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "BUSY Valkey is busy running a script.",
    "CLUSTERDOWN Hash slot not served",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MOVED 3999 127.0.0.1:6381",
    "ASK 3999 127.0.0.1:6381",
    "NOAUTH Authentication required.",
    "NOPERM User default has no permissions to run the 'xadd' command",
    "ERR max number of clients reached",
]


@pytest.mark.parametrize("word", AWAY)
async def test_a_store_that_cannot_serve_is_away(tmp_path: Path, word: str) -> None:
    """What a store says when it is there and still no use."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        while True:
            writer.write(f"-{word}\r\n".encode())
            await read_command(reader)

    async with a_server(tmp_path / "s", talk) as url:
        store = Store(url)
        with pytest.raises(StoreAwayError):
            await store.execute("x", "XADD", "x", "*", "a", "b")
        assert not await store.ping()
        await store.close()


async def test_a_full_store_is_away(store: Store) -> None:
    """The real words of a store at its maxmemory, to a command and from inside a script."""
    script = "return redis.call('SET', KEYS[1], 'y')"
    await store.execute(None, "CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreAwayError, match="OOM"):
            await store.execute(store.names.current("x"), "SET", store.names.current("x"), "y")
        with pytest.raises(StoreAwayError, match="OOM"):
            await store.execute(store.names.current("x"), "EVAL", script, 1, store.names.current("x"))
    finally:
        await store.execute(None, "CONFIG", "SET", "maxmemory", 0)


async def test_a_right_that_is_missing_is_a_store_away_inside_a_script_too(store: Store, store_url: str) -> None:
    """NOPERM, by its own word or by what the store says where a script may not do a command."""
    user = store.names.prefix
    await store.execute(None, "ACL", "SETUSER", user, "on", ">pw", "~*", "+@all", "-set")
    limited = Store(store_url.replace("unix://", f"unix://{user}:pw@"))
    try:
        commands: list[tuple[str | int, ...]] = [("a", 1), ("return redis.call('SET', KEYS[1], 1)", 1, "a")]
        for verb, args in zip(("SET", "EVAL"), commands, strict=True):
            with pytest.raises(StoreAwayError) as away:
                await limited.execute("a", verb, *args)
            assert away.value.reason == "NOPERM"
    finally:
        await limited.close()
        await store.execute(None, "ACL", "DELUSER", user)


@pytest.mark.parametrize(
    "said",
    [
        "The user executing the script can't run this command or subcommand script: 0a9f, on @user_script:1.",
        "ACL failure in script: User car has no permissions to run the 'set' command script: on @user_script:1.",
    ],
)
def test_redis_and_valkey_say_in_two_ways_that_a_script_lacks_a_right(said: str) -> None:
    """Redis 7.0 and Valkey 9, as they said it."""
    assert Fault.read(f"ERR {said}").code == "NOPERM"


async def test_a_wrong_command_is_no_store_away(store: Store) -> None:
    """An answer that the command is wrong is ReplyError with the store's first word."""
    key = store.names.outbox()
    await store.execute(key, "XGROUP", "CREATE", key, "couriers", "0", "MKSTREAM")
    with pytest.raises(ReplyError) as again:
        await store.execute(key, "XGROUP", "CREATE", key, "couriers", "0", "MKSTREAM")
    assert again.value.code == "BUSYGROUP"
    with pytest.raises(ReplyError) as wrong:
        await store.execute(key, "GET", key)
    assert wrong.value.code == "WRONGTYPE"
    with pytest.raises(ReplyError) as broken:
        await store.execute(None, "EVAL", "return nothing.at_all", 0)
    assert broken.value.code == "ERR"


async def test_no_error_tells_a_secret(store: Store, store_url: str) -> None:
    """Neither the password nor what a command carried is in an exception."""
    with pytest.raises(ReplyError) as unknown:
        await store.execute(None, "NOSUCH", "+8613900000001")
    assert "13900000001" not in str(unknown.value)
    assert "NOSUCH" in str(unknown.value)
    guarded = Store(f"{store_url}?password=hunter2")
    with pytest.raises(StoreAwayError) as refused:
        await guarded.execute(None, "PING")
    cause: BaseException | None = refused.value
    while cause is not None:
        assert "hunter2" not in f"{cause!r}{cause}"
        cause = cause.__cause__
    assert "hunter2" not in repr(guarded)
    await guarded.close()
