"""A store that moves, falls silent, fills up or goes away: what it costs, and what the log says of it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from fakes import free_port
from stores import a_store, a_switch
from structlog.testing import capture_logs

from sidecar import logs
from sidecar.errors import StoreAwayError
from sidecar.store import connections
from sidecar.store.client import Store
from sidecar.store.embedded import embedded
from sidecar.store.trouble import AGAIN_S, Trouble


async def fill(store: Store, count: int) -> None:
    """Have the connection of decisions and so many of those that wait, all idle."""
    waits = (store.blocking("nobody", "LLEN", "nobody", wait_s=0) for _ in range(count))
    await asyncio.gather(store.execute(None, "PING"), *waits)


async def connected(admin: Store) -> int:
    """How many clients a store has beside the one that asks."""
    lines = (await admin.execute(None, "CLIENT", "LIST", "TYPE", "normal")).decode().splitlines()
    return len(lines) - 1


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.01)


async def make_replica(store: Store, of_port: int = 1) -> None:
    await store.execute(None, "CONFIG", "SET", "replica-serve-stale-data", "yes")
    await store.execute(None, "REPLICAOF", "127.0.0.1", of_port)


# What it costs…


async def test_after_a_failover_no_connection_stays_with_the_old_primary(tmp_path: Path) -> None:
    """One READONLY closes its own connection and every idle one; the next command goes to the new primary."""
    async with embedded(tmp_path / "old") as old_url, embedded(tmp_path / "new") as new_url:
        async with a_switch(old_url) as switch, a_store(switch.url) as store, a_store(old_url) as old:
            await fill(store, 20)
            assert await connected(old) == 21
            await make_replica(old)
            switch.path = new_url.removeprefix("unix://")
            with pytest.raises(StoreAwayError) as away:
                await store.execute("x", "SET", "x", "y")
            assert away.value.reason == "READONLY"

            async def is_left() -> bool:
                return await connected(old) == 0

            await until(is_left)
            await asyncio.gather(*(store.execute(f"x{number}", "SET", f"x{number}", "y") for number in range(20)))
        async with a_store(new_url) as new:
            assert await new.execute("x19", "GET", "x19") == b"y"


async def test_who_waits_while_the_store_becomes_a_replica_is_told_that_it_is_away(tmp_path: Path) -> None:
    """A wait that the store breaks off is no error of the command's."""
    async with embedded(tmp_path) as url, a_store(url) as store:
        waiting = asyncio.create_task(store.blocking("nobody", "BLPOP", "nobody", 30, wait_s=30))

        async def waits() -> bool:
            return b"blocked_clients:1\r\n" in await store.execute(None, "INFO", "clients")

        await until(waits)
        await make_replica(store)
        with pytest.raises(StoreAwayError, match="UNBLOCKED"):
            await waiting


async def test_connections_that_fell_silent_while_idle_cost_nothing_but_time(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PING finds out before anything is sent: every command is done, and done once."""
    monkeypatch.setattr(connections, "TRUST_S", 0.0)
    async with a_switch(store_url) as switch, a_store(switch.url) as store:
        key = store.names.current("silent")
        await fill(store, 20)
        await switch.silence()
        decisions = (store.execute(key, "INCR", key) for _ in range(40))
        await asyncio.gather(*decisions, *(store.blocking(key, "INCR", key, wait_s=0) for _ in range(40)))
        assert await store.execute(key, "GET", key) == b"80"
        await store.execute(key, "DEL", key)


async def test_one_silent_connection_casts_doubt_on_all_that_were_idle_then(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that found out may have been done, so it is refused; those after it are done, though all were so."""
    monkeypatch.setattr(connections, "TRUST_S", 60.0)
    async with a_switch(store_url) as switch, a_store(switch.url) as store:
        await fill(store, 20)
        await switch.silence()
        with pytest.raises(StoreAwayError, match="no answer within 1 s"):
            await store.execute("x", "GET", "x")
        for _ in range(20):
            assert await store.execute(None, "PING") == b"PONG"
            assert await store.blocking("nobody", "LLEN", "nobody", wait_s=0) == 0


async def test_connections_that_the_store_closed_cost_nothing(store_url: str) -> None:
    """CLIENT KILL of every connection, and a server that restarted, lose no command."""
    async with a_store(store_url) as store, a_store(store_url) as admin:
        await fill(store, 20)
        await admin.execute(None, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        waits = (store.blocking("nobody", "LLEN", "nobody", wait_s=0) for _ in range(40))
        await asyncio.gather(*(store.execute(None, "PING") for _ in range(40)), *waits)


async def test_a_pause_is_a_time_out_and_over_when_it_is_over(tmp_path: Path) -> None:
    """CLIENT PAUSE: refused in time, then served by connections that prove themselves."""
    async with embedded(tmp_path) as url, a_store(url, timeout_s=0.2) as store, a_store(url, timeout_s=10) as admin:

        async def is_filled() -> bool:  # on a busy machine 0.2 s may be over before
            with suppress(StoreAwayError):
                await fill(store, 5)
                return True
            return False

        await until(is_filled)
        await admin.execute(None, "CLIENT", "PAUSE", 2000, "ALL")
        with pytest.raises(StoreAwayError, match=r"no answer within 0\.2 s"):
            await store.execute("x", "SET", "x", "y")

        async def is_back() -> bool:
            return not await store.why_not()

        await until(is_back)


# Why it is away…


@pytest.mark.parametrize("word", ["p#a/s?s[w]o@r:d%&+ ü", "#", "[", "/?"])
async def test_any_password_works_percent_encoded(tmp_path: Path, word: str) -> None:
    """And a wrong one, a missing one and a changed one are said in the store's own word."""
    async with embedded(tmp_path) as url, a_store(url) as admin:
        await admin.execute(None, "CONFIG", "SET", "requirepass", word)
        place = url.removeprefix("unix://")
        async with a_store(f"unix://:{quote(word, safe='')}@{place}") as store:
            assert await store.execute(None, "PING") == b"PONG"
            await admin.execute(None, "CONFIG", "SET", "requirepass", "another")
            await admin.execute(None, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

            async def is_told() -> bool:
                return await store.why_not() == "WRONGPASS"

            await until(is_told)
        async with a_store(url) as store:
            assert await store.why_not() == "NOAUTH"
        await admin.execute(None, "CONFIG", "SET", "requirepass", "")


async def test_a_store_that_takes_no_writes_says_why(tmp_path: Path) -> None:
    """Full, a replica, one with too few replicas: in the store's own word; and nothing when it takes them."""
    async with embedded(tmp_path) as url, a_store(url) as store:
        assert await store.why_not() == ""
        await store.execute(None, "CONFIG", "SET", "maxmemory", 1)
        assert await store.why_not() == "OOM"
        await store.execute(None, "CONFIG", "SET", "maxmemory", 0)
        await store.execute(None, "CONFIG", "SET", "min-replicas-to-write", 1)
        assert await store.why_not() == "NOREPLICAS"
        await store.execute(None, "CONFIG", "SET", "min-replicas-to-write", 0)
        await make_replica(store)
        assert await store.why_not() == "READONLY"
        await store.execute(None, "REPLICAOF", "NO", "ONE")
        assert await store.why_not() == ""


async def test_a_store_that_cannot_be_reached_says_where(tmp_path: Path) -> None:
    """Refused, no socket, no address, no such database, a server that hangs up: one reason each, with the place."""
    port = free_port()
    reasons = {
        f"redis://user:hunter2@127.0.0.1:{port}": f"refused 127.0.0.1:{port}",
        f"redis://localhost:{port}": f"refused localhost:{port}",
        f"redis://[::1]:{port}": f"refused [::1]:{port}",
        f"unix://{tmp_path}/nobody.sock": f"no socket {tmp_path}/nobody.sock",
        "redis://nobody.invalid:6379": "no address of nobody.invalid:6379",
        "redis://no..name:6379": "no address of no..name:6379",
        "redis+cluster://no..name:6379": "no address of no..name:6379",
        "redis+sentinel://no..name:26379/primary": "no Sentinel answers: no address of no..name:26379",
        "redis://[fe80::1%25nowhere]:6379": "no address of [fe80::1%nowhere]:6379",
    }
    for url, reason in reasons.items():
        async with a_store(url) as store:
            with pytest.raises(StoreAwayError) as away:
                await store.execute(None, "PING")
            assert away.value.reason == reason

    for answer, reason in ((b"", "closed by "), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Redis protocol at ")):

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        place = "127.0.0.1:{}".format(*server.sockets[0].getsockname()[1:])
        async with a_store(f"redis://{place}") as store:
            assert await store.why_not() == reason + place
        server.close()
    async with embedded(tmp_path) as url, a_store(f"{url}?db=99") as store:
        assert await store.why_not() == f"no database 99 at {url.removeprefix('unix://')}"


# What the log says…


async def test_an_outage_is_told_once_and_its_end_too(tmp_path: Path) -> None:
    """However many commands fail; of a full store the end is the first write, and not the first answer."""
    async with embedded(tmp_path) as url, a_store(url, trouble=Trouble(logs.write)) as store:
        with capture_logs() as lines:
            await store.execute(None, "CONFIG", "SET", "maxmemory", 1)
            for _ in range(100):
                assert await store.why_not() == "OOM"
                await store.execute("x", "GET", "x")
            await store.execute(None, "CONFIG", "SET", "maxmemory", 0)
            assert [(line["event"], line.get("reason")) for line in lines] == [("store_away", "OOM")]
            await store.execute("x", "SET", "x", "y")
        assert [line["event"] for line in lines] == ["store_away", "store_back"]
        assert lines[1]["failures"] == 100


def test_each_reason_is_told_at_once_and_then_seldom() -> None:
    """Two that alternate do not take turns at the log; a store that comes and goes is one pair of lines."""
    trouble, began = Trouble(logs.write), 1000.0
    with capture_logs() as lines:
        for tenth in range(100):
            trouble.failed(("refused a:1", "no answer within 1 s")[tenth % 2], "GET", began + tenth / 10)
        assert len(lines) == 2
        trouble.failed("refused a:1", "GET", began + AGAIN_S)
        assert len(lines) == 3
        assert (lines[2]["failures"], lines[2]["seconds"]) == (101, AGAIN_S)
    trouble.did("GET", began + AGAIN_S)
    with capture_logs() as lines:
        for tenth in range(50):
            trouble.failed("refused a:1", "GET", began + AGAIN_S + tenth / 10)
            trouble.did("GET", began + AGAIN_S + tenth / 10)
        assert not lines
        trouble.failed("refused a:1", "GET", began + 3 * AGAIN_S)
        trouble.did("GET", began + 3 * AGAIN_S)
        assert [line["event"] for line in lines] == ["store_away", "store_back"]
