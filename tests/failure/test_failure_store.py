"""docs/failure.md, the store: plain traffic never notices, what is guarded is refused in time, and all of it heals."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from failing import GUARD, Shim, a_valkey, sees_a_store, sees_no_store, told
from fakes import DEADLINE_S
from stores import a_server, a_switch, greet, read_command
from structlog.testing import capture_logs
from telling import MAIN, Sidecar, Start

TABLES = MAIN + GUARD


async def test_away(start: Start, tmp_path: Path) -> None:
    """Killed, and back on its data: what was asked for before is still good, and the next request is served."""
    async with a_valkey(tmp_path / "store") as store:
        sidecar = await start(TABLES, url=store.url)
        assert (await sidecar.send()).status == 202
        code = await sidecar.vendor.code()
        await sees_a_store(sidecar)
        with capture_logs() as lines:
            await store.kill()
            await sees_no_store(sidecar, "no socket .*")
            assert (await sidecar.register(code)).code == "store_unavailable"
            await store.start()
            assert (await sidecar.register(code)).status == 200
            await sees_a_store(sidecar)
        assert [line["reason"].partition(" /")[0] for line in told(lines, "store_away")][:1] in (
            ["no socket"],
            ["closed by"],
        )
        assert len(told(lines, "store_back")) == 1


async def test_slow(start: Start, tmp_path: Path) -> None:
    """Served, by so much later; nobody else waits, and the metric says how slow it is."""
    async with a_valkey(tmp_path / "store") as store, a_switch(store.url) as way:
        sidecar = await start(TABLES, url=way.url)
        await sees_a_store(sidecar)
        way.delay_s = 0.2
        began = time.monotonic()
        assert (await sidecar.ask("POST", "/guarded")).status == 200
        assert time.monotonic() - began >= way.delay_s
        assert (await sidecar.send("13900000003")).status == 202
        took = []
        for _ in range(5):
            began = time.monotonic()
            assert (await sidecar.ask("GET", "/plain")).body == b"ok"
            took.append(time.monotonic() - began)
        assert min(took) < way.delay_s  # each of them would take as long as the store; a busy machine holds up some
        assert (await sidecar.admin("/readyz?needs=store")).status == 200
        slow = await sidecar.metric('sidecar_store_seconds_bucket{le="+Inf"}')
        assert slow - await sidecar.metric('sidecar_store_seconds_bucket{le="0.1"}') >= 2
        way.delay_s = 0.0
        await sees_a_store(sidecar)


async def test_frozen(start: Start, tmp_path: Path) -> None:
    """It takes connections and says nothing: refused when its second is over, and served when it goes on."""
    async with a_valkey(tmp_path / "store") as store:
        sidecar = await start(TABLES, url=store.url)
        await sees_a_store(sidecar)
        with capture_logs() as lines:
            store.send(signal.SIGSTOP)
            await sees_no_store(sidecar, r"no answer within .* s")
            store.send(signal.SIGCONT)
            await sees_a_store(sidecar)
        assert {line["reason"] for line in told(lines, "store_away")} == {"no answer within 1 s"}
        assert told(lines, "store_back")


async def test_restarted_empty(start: Start, tmp_path: Path) -> None:
    """A code is gone with it, and says so; who asks again gets another, and its message is sent."""
    async with a_valkey(tmp_path / "store", "--appendonly", "no") as store:
        sidecar = await start(TABLES, url=store.url)
        assert (await sidecar.send()).status == 202
        code = await sidecar.vendor.code()
        await store.kill()
        await store.start()
        gone = await sidecar.register(code)
        assert (gone.status, gone.code) == (410, "code_expired")
        assert (await sidecar.ask("GET", "/plain")).body == b"ok"
        assert (await sidecar.send()).status == 202
        assert (await sidecar.register(await sidecar.vendor.code(count=2))).status == 200
        await sees_a_store(sidecar)


async def test_restarted_empty_while_a_message_is_sent(start: Start, tmp_path: Path) -> None:
    """The courier goes on: what the vendor took is told, and the next message is sent."""
    async with a_valkey(tmp_path / "store", "--appendonly", "no") as store:
        sidecar = await start(TABLES, url=store.url)
        sidecar.vendor.open.clear()
        assert (await sidecar.send()).status == 202
        await sidecar.vendor.wait_for(lambda: sidecar.vendor.asked == 1)
        await store.kill()
        await store.start()
        with capture_logs() as lines:
            sidecar.vendor.open.set()
            await sidecar.vendor.code()
            assert (await sidecar.send("13900000002")).status == 202
            await sidecar.vendor.code("+8613900000002")
            assert not told(lines, "task_ended")


async def test_failing_over(start: Start, tmp_path: Path) -> None:
    """The primary dies and its replica is promoted: a code that was sent before works, and so does the next message."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(a_valkey(tmp_path / "one"))
        replica = await stack.enter_async_context(a_valkey(tmp_path / "two"))
        way = await stack.enter_async_context(a_switch(primary.url))
        await replica.says("REPLICAOF", "127.0.0.1", str(way.port))
        sidecar = await start(TABLES, url=way.url)
        assert (await sidecar.send()).status == 202
        code = await sidecar.vendor.code()
        await sees_a_store(sidecar)
        await primary.says("SET", "last", "1")
        async with asyncio.timeout(DEADLINE_S):
            while await replica.says("GET", "last") != b"1":  # and with it all that was before
                await asyncio.sleep(0.01)
        await primary.kill()
        await way.close()
        await sees_no_store(sidecar, "(refused|closed by) 127.0.0.1:.*|no answer within .*")
        way.path = replica.url.removeprefix("unix://")
        await sees_no_store(sidecar, "READONLY|MASTERDOWN")
        await replica.says("REPLICAOF", "NO", "ONE")
        # Where the sidecar knew of the replica, it takes nothing that must last for three seconds after it missed it.
        async with asyncio.timeout(DEADLINE_S):
            while (reply := await sidecar.register(code)).status == 503:
                await asyncio.sleep(0.01)
        assert reply.status == 200
        await sees_a_store(sidecar)


async def test_failing_over_while_the_old_primary_lives(start: Start, tmp_path: Path) -> None:
    """It is made a replica, and its address leads elsewhere: one refusal finds that out, and closes its connection."""
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(a_valkey(tmp_path / "one"))
        new = await stack.enter_async_context(a_valkey(tmp_path / "two"))
        way = await stack.enter_async_context(a_switch(old.url))
        sidecar = await start(TABLES, url=way.url)
        await sees_a_store(sidecar)
        way.path = new.url.removeprefix("unix://")
        await old.says("REPLICAOF", "127.0.0.1", "1")
        statuses = [(await sidecar.ask("POST", "/guarded")).status for _ in range(4)]
        assert statuses[1:] == [200, 200, 200]
        await sees_a_store(sidecar)


@pytest.mark.parametrize(
    "said", ["LOADING it reads its data", "MASTERDOWN it has no primary", "CLUSTERDOWN it is down"]
)
async def test_not_yet(start: Start, tmp_path: Path, said: str) -> None:
    """It answers that it cannot serve now; the word is told, and it is asked again with each request."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        while True:
            writer.write(f"-{said}\r\n".encode())
            await read_command(reader)

    async with (
        a_valkey(tmp_path / "store") as store,
        a_server(tmp_path / "not_yet.sock", talk) as not_yet,
        a_switch(not_yet) as way,
    ):
        sidecar = await start(TABLES, url=way.url)
        await until_ready(sidecar)
        await sees_no_store(sidecar, said.partition(" ")[0])
        way.path = store.url.removeprefix("unix://")
        await way.break_off()
        await sees_a_store(sidecar)


async def test_read_only(start: Start, tmp_path: Path) -> None:
    """A replica: what only reads works there, and readyz is not deceived by it."""
    async with a_valkey(tmp_path / "store") as store:
        sidecar = await start(TABLES, url=store.url)
        await sees_a_store(sidecar)
        with capture_logs() as lines:
            await store.says("REPLICAOF", "127.0.0.1", "1")
            await store.says("CONFIG", "SET", "replica-serve-stale-data", "yes")
            await sees_no_store(sidecar, "READONLY")
            await store.says("REPLICAOF", "NO", "ONE")
            await sees_a_store(sidecar)
            async with asyncio.timeout(DEADLINE_S):
                while not told(lines, "store_back"):
                    await asyncio.sleep(0.01)
        assert "READONLY" in {line["reason"] for line in told(lines, "store_away")}
        assert len(told(lines, "store_back")) == 1


async def test_out_of_memory(start: Start, tmp_path: Path) -> None:
    """At its maxmemory, without eviction: what would need more is refused; what is there stays there."""
    async with a_valkey(tmp_path / "store") as store:
        sidecar = await start(TABLES, url=store.url)
        assert (await sidecar.send()).status == 202
        code = await sidecar.vendor.code()
        await sees_a_store(sidecar)
        with capture_logs() as lines:
            await store.says("CONFIG", "SET", "maxmemory", "1")
            await sees_no_store(sidecar, "OOM")
            await store.says("CONFIG", "SET", "maxmemory", "0")
            assert (await sidecar.register(code)).status == 200
            await sees_a_store(sidecar)
        assert {line["reason"] for line in told(lines, "store_away")} == {"OOM"}


async def test_wrong_version(start: Start, tmp_path: Path) -> None:
    """A server without a command that messages are leased by takes none, rather than keep them for ever."""
    async with (
        a_valkey(tmp_path / "old", "--rename-command", "XAUTOCLAIM", "") as old,
        a_valkey(tmp_path / "new") as new,
        a_switch(old.url) as way,
    ):
        with capture_logs() as lines:
            sidecar = await start(TABLES, url=way.url)
            await until_ready(sidecar)
            await sees_no_store(sidecar, r"no XAUTOCLAIM at 127\.0\.0\.1:\d+: it needs Valkey or Redis 7\.0 or newer")
            way.path = new.url.removeprefix("unix://")
            await sees_a_store(sidecar)
        assert "no XAUTOCLAIM" in told(lines, "store_away")[0]["reason"]
        assert not told(lines, "task_ended")


@pytest.mark.parametrize(("password", "word"), [("", "NOAUTH"), ("wrong", "WRONGPASS")])
async def test_wrong_password(start: Start, tmp_path: Path, password: str, word: str) -> None:
    """None, or another: the store's own word is told, and the password itself is nowhere."""
    async with a_valkey(tmp_path / "store", "--requirepass", "right") as store, a_switch(store.url) as way:
        with capture_logs() as lines:
            sidecar = await start(TABLES, url=way.url.replace("//", f"//:{password}@" if password else "//"))
            await until_ready(sidecar)
            await sees_no_store(sidecar, word)
        assert {line["reason"] for line in told(lines, "store_away")} == {word}
        assert not password or password not in str([line["reason"] for line in lines if "reason" in line])


async def test_a_password_that_is_rotated(start: Start, tmp_path: Path) -> None:
    """Connections that are in stay in; once they break, it is as with a wrong password, until both are the same."""
    async with a_valkey(tmp_path / "store", "--requirepass", "old") as store, a_switch(store.url) as way:
        sidecar = await start(TABLES, url=way.url.replace("//", "//:old@"))
        await sees_a_store(sidecar)
        await store.says("CONFIG", "SET", "requirepass", "new", password="old")
        await sees_a_store(sidecar)
        await way.break_off()
        await sees_no_store(sidecar, "WRONGPASS")
        await store.says("CONFIG", "SET", "requirepass", "old", password="new")
        await sees_a_store(sidecar)


async def until_ready(sidecar: Sidecar) -> None:
    """Wait until it no longer starts: without a store that takes five seconds."""
    sidecar.app.life._began -= 5.0
    async with asyncio.timeout(DEADLINE_S):
        while (await sidecar.admin("/readyz")).status != 200:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("seconds", [3600, 86_400])
async def test_its_clock_jumps_forwards(start: Start, tmp_path: Path, shim: Shim, seconds: int) -> None:
    """Codes have expired and buckets are empty, as if so much time had gone by; all goes on from there."""
    async with a_valkey(tmp_path / "store", env=shim.env) as store:
        sidecar = await start(TABLES, url=store.url, to_rate="1/30m")
        assert (await sidecar.send()).status == 202
        code = await sidecar.vendor.code()
        assert (await sidecar.send()).code == "rate_limited"
        shim.jump(seconds)
        assert (await sidecar.register(code)).code == "code_expired"
        assert (await sidecar.send()).status == 202
        assert (await sidecar.register(await sidecar.vendor.code(count=2))).status == 200
        await sees_a_store(sidecar)


@pytest.mark.parametrize("seconds", [3600, 86_400])
async def test_its_clock_jumps_backwards(start: Start, tmp_path: Path, shim: Shim, seconds: int) -> None:
    """Nobody waits longer than a limit says, codes work, and a message that was put aside comes back."""
    async with a_valkey(tmp_path / "store", env=shim.env) as store:
        shim.jump(seconds)
        sidecar = await start(TABLES, url=store.url, to_rate="1/30m")
        sidecar.vendor.status = 429
        assert (await sidecar.send()).status == 202
        await sidecar.vendor.wait_for(lambda: sidecar.vendor.asked >= 1)
        while not await store.says("ZCARD", "{sidecar:outbox}:later"):
            await asyncio.sleep(0.01)
        sidecar.vendor.status = 202
        shim.jump(0)
        code = await sidecar.vendor.code()
        refused = await sidecar.send()
        assert (refused.code, int(refused.headers["Retry-After"]) <= 1800) == ("rate_limited", True)
        assert (await sidecar.register(code)).status == 200
        assert (await sidecar.send("13900000003")).status == 202
        assert (await sidecar.register(await sidecar.vendor.code("+8613900000003"), "13900000003")).status == 200
        await sees_a_store(sidecar)
