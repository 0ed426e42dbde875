"""What must outlive its primary: answered once a replica has it; and what is done where none has it in time."""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from awake import awake
from couriers import uncounted
from sentinels import Server, a_late_link, is_followed, some_servers, until
from stores import a_store
from structlog.testing import capture_logs

from sidecar import logs
from sidecar.config.model import CodeRules
from sidecar.delivery.outbox import Entry, Outbox
from sidecar.errors import StoreAwayError
from sidecar.recipient import of_address
from sidecar.secret import Secret
from sidecar.store import connections
from sidecar.store.client import ReplyError, Script, Store
from sidecar.store.faults import UNREPLICATED, Fault
from sidecar.store.trouble import Trouble
from sidecar.verification.verifications import Proof, Verifications

SET = Script(text := "return redis.call('SET', KEYS[1], ARGV[1])", hashlib.sha1(text.encode()).hexdigest())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Server]]:
    """A primary and its replica, well before and after each test."""
    async with some_servers(tmp_path_factory.mktemp("pair"), 1) as servers:
        yield servers


async def last(store: Store, key: str = "x", value: str = "y") -> bytes:
    return bytes(await store.run(SET, [key], [value], lasting=True))


async def lasts(store: Store) -> bool:
    try:
        return await last(store) == b"OK"
    except StoreAwayError:
        return False


async def waits(server: Server) -> int:
    """How often a server was asked to wait for its replicas."""
    said = (await server.says("INFO", "commandstats")).decode()
    return int(said.partition("cmdstat_wait:calls=")[2].partition(",")[0] or 0)


async def test_an_answer_means_that_a_replica_has_it(pair: list[Server]) -> None:
    """In the very moment that it comes: asked of the replica itself."""
    primary, replica = pair
    async with a_store(primary.url) as store:
        for number in range(100):
            assert await last(store, "newest", str(number)) == b"OK"
            assert await replica.says("GET", "newest") == b"%d" % number


async def test_what_is_promised_outlives_its_primary_and_what_can_be_asked_again_waits_for_nobody(
    pair: list[Server],
) -> None:
    """A code, its message, and that a proof is held or used are promised; that one is let go, and a status, are not."""
    phone = of_address("+8613900000001")
    async with a_store(pair[0].url) as store:
        verifications = Verifications(
            store, Secret("s" * 32, (), os.urandom), CodeRules(), {}, os.urandom, 30.0, logs.write
        )
        before = 0

        async def waited() -> bool:
            nonlocal before
            before, was = await waits(pair[0]), before
            return before > was

        await waited()
        issued = await verifications.issue(phone, 0)
        assert await waited()
        await Outbox(store).put(Entry(issued.id, issued.sealed, "en", (), time.time() + 60, "r-1"))
        assert await waited()
        await verifications.mark(issued.id, "sent")
        assert not await waited()
        code = verifications.code(issued.id, phone)
        assert code is not None
        hold = await verifications.hold(phone, Proof("code", code), uncounted)
        assert await waited()
        await hold.release()
        assert not await waited()
        await (await verifications.hold(phone, Proof("code", code), uncounted)).exchange()
        assert await waited()
        token = Proof("token", verifications.token(issued.id))
        assert await (await verifications.hold(phone, token, uncounted)).spend()
        assert await waited()


@pytest.mark.parametrize(("wait", "away_s"), [(1, 0.05), (0, 0.3)])
async def test_a_machine_that_dies_with_what_was_on_its_way(
    tmp_path: Path, wait: int, away_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was answered is missing at a replica that is away; without waiting, what was answered last is."""
    monkeypatch.setattr(connections, "REPLICATED_S", 5.0)
    push = Script(text := "return redis.call('RPUSH', KEYS[1], ARGV[1])", hashlib.sha1(text.encode()).hexdigest())
    async with (
        some_servers(tmp_path / "near", 0) as (primary,),
        some_servers(tmp_path / "far", 0) as (replica,),
        a_late_link(primary, away_s) as (port, cut),
        a_store(f"{primary.url}?wait_replicas={wait}", timeout_s=10.0) as store,
    ):
        await replica.says("REPLICAOF", "127.0.0.1", str(port))
        await until(lambda: is_followed(primary, 1))
        answered = []
        until_s = time.monotonic() + 0.5
        while time.monotonic() < until_s:
            answered.append(await store.run(push, ["pushed"], ["x"], lasting=True))
        cut()
        await primary.kill()
        missing = answered[-1] - await replica.says("LLEN", "pushed")
        print(f"\n{missing} of {len(answered)} answered are missing")  # noqa: T201 - shown with -s
        assert (missing > 0) == (wait == 0)


async def test_a_replica_that_hangs_holds_up_only_what_waits_for_it(pair: list[Server]) -> None:
    """Decisions go on; what was to last is refused in time, and told; as soon as the replica goes on, so does that."""
    primary, replica = pair
    async with a_store(primary.url, trouble=Trouble(logs.write)) as store:
        assert await last(store) == b"OK"
        with capture_logs() as lines, awake() as clock:
            replica.send(signal.SIGSTOP)
            began = time.monotonic()
            lasting = asyncio.gather(*(last(store) for _ in range(10)), return_exceptions=True)
            took = []
            while not lasting.done():
                asked = clock()
                assert await store.execute("z", "SET", "z", "y") == b"OK"
                took.append(clock() - asked)
                await asyncio.sleep(0.01)
            errors = await lasting
            assert {str(error) for error in errors} == {f"EVALSHA: {UNREPLICATED}"}
            assert time.monotonic() - began >= connections.REPLICATED_S
            assert clock() < 3.0
            assert sorted(took)[len(took) // 2] < connections.REPLICATED_S / 4
            assert await store.why_not() == UNREPLICATED
            replica.send(signal.SIGCONT)
            await until(lambda: lasts(store))
        assert [line["event"] for line in lines] == ["store_away", "store_back"]
        assert lines[0]["reason"] == UNREPLICATED


async def test_replicas_that_are_silent_for_long_are_gone(pair: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the primary never drops them: refused for a while, then stored alone, which is told, until they answer;
    who must have a replica stays refused."""
    primary, replica = pair
    monkeypatch.setattr(connections, "SILENT_S", 1.0)
    async with (
        a_store(primary.url, trouble=Trouble(logs.write)) as store,
        a_store(f"{primary.url}?wait_replicas=1") as strict,
    ):
        assert await last(store) == await last(strict) == b"OK"
        with capture_logs() as lines:
            replica.send(signal.SIGSTOP)
            silent_at = time.monotonic()
            await until(lambda: lasts(store))
            assert time.monotonic() - silent_at > 1.0
            many = []
            for _ in range(50):
                many.append(asyncio.create_task(lasts(store)))
                await asyncio.sleep(0.02)
            assert all(await asyncio.gather(*many))
            assert not await lasts(strict)
            assert (await primary.says("ROLE"))[2]
            replica.send(signal.SIGCONT)
            await until(lambda: lasts(strict))
            assert await lasts(store)
        told = [(line["event"], line.get("reason")) for line in lines]
        assert told == [
            ("store_away", UNREPLICATED),
            ("store_back", None),
            ("store_alone", "silent replicas"),
            ("store_replicated", None),
        ]


def test_silence_is_as_long_as_it_was_asked_for() -> None:
    """A minute of failures with nothing in time between them; not two failures with an idle night between them."""
    following = connections.Following()
    following.replicas = 1

    def waited(now: float, *, is_replicated: bool = False) -> bool:
        following.waited(is_replicated=is_replicated, now=now)
        return following.is_silent

    assert [waited(now) for now in (1000.0, 1030.0, 1059.9, 1060.0, 1600.0)] == [False, False, False, True, True]
    assert not waited(1601.0, is_replicated=True)
    assert [waited(now) for now in (1602.0, 1661.0, 1662.0)] == [False, False, True]
    assert [waited(now) for now in (40_000.0, 40_059.0, 40_060.0)] == [False, False, True]
    following.replicas = 0
    assert not waited(40_061.0)


async def test_a_replica_that_dies_is_waited_for_once_and_missed_for_three_seconds(
    pair: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have become the primary. Then the primary goes on alone, and says so, until the replica is back. However
    often it is asked meanwhile whether a replica has come."""
    primary, replica = pair
    monkeypatch.setattr(connections, "DESERTED_S", 1.0)
    monkeypatch.setattr(connections, "_LOOK_S", 0.1)
    async with a_store(primary.url, trouble=Trouble(logs.write)) as store:
        assert await last(store) == b"OK"
        with capture_logs() as lines:
            await replica.kill()
            died_at = time.monotonic()
            await until(lambda: lasts(store))
            assert time.monotonic() - died_at > 1.0
            waited = await waits(primary)
            took = []
            for _ in range(9):
                with awake() as clock:
                    assert await last(store) == b"OK"
                    took.append(clock())
            assert min(took) < connections.REPLICATED_S
            assert await waits(primary) == waited
            await replica.start()
            await until(lambda: is_followed(primary, 1))

            async def waits_again() -> bool:
                return await last(store) == b"OK" and await waits(primary) > waited

            await until(waits_again)
        told = [line for line in lines if line["event"] in {"store_alone", "store_replicated"}]
        assert [line["event"] for line in told] == ["store_alone", "store_replicated"]
        assert told[1]["alone"] >= 10
        async with a_store(primary.url) as newcomer:
            assert await last(newcomer) == b"OK"


async def test_a_replica_that_comes_back_has_not_become_the_primary(
    pair: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody waits for longer to see whether it has."""
    primary, replica = pair
    monkeypatch.setattr(connections, "DESERTED_S", 600.0)
    monkeypatch.setattr(connections, "_LOOK_S", 0.1)
    async with a_store(primary.url) as store:
        assert await last(store) == b"OK"
        await replica.says("REPLICAOF", "NO", "ONE")
        with pytest.raises(StoreAwayError, match=UNREPLICATED):
            await last(store)
        await replica.says("REPLICAOF", "127.0.0.1", str(primary.port))
        await until(lambda: lasts(store))


async def test_one_of_two_replicas_that_leaves_may_be_the_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one's answers count for nothing until it is clear that it has not become the primary."""
    monkeypatch.setattr(connections, "DESERTED_S", 1.0)
    async with some_servers(tmp_path, 2) as (primary, one, _), a_store(primary.url) as store:
        await until(lambda: is_followed(primary, 2))
        assert await last(store) == b"OK"
        await one.says("REPLICAOF", "NO", "ONE")
        left_at = time.monotonic()
        await until(lambda: is_followed(primary, 1))
        with pytest.raises(StoreAwayError, match=UNREPLICATED):
            await last(store)
        assert await store.execute("z", "SET", "z", "y") == b"OK"
        await until(lambda: lasts(store))
        assert time.monotonic() - left_at > 1.0
        await one.says("REPLICAOF", "127.0.0.1", str(primary.port))
        await until(lambda: is_followed(primary, 2))
        assert await last(store) == b"OK"


async def test_who_never_had_a_replica_pays_nothing(store_url: str, store: Store) -> None:
    """No WAIT, one connection for all, nothing told; and nobody waits for replicas that are not asked for."""
    async with a_store(f"{store_url}?client_name=lonely", trouble=Trouble(logs.write)) as lonely:
        with capture_logs() as lines:
            assert await lonely.execute(None, "PING") == b"PONG"
            for _ in range(10):
                assert await last(lonely, store.names.current("x")) == b"OK"
            clients = (await store.execute(None, "CLIENT", "LIST")).decode()
            assert clients.count("name=lonely ") == 1
        assert not lines
    said = (await store.execute(None, "INFO", "commandstats")).decode()
    assert "cmdstat_wait:" not in said


async def test_how_many_replicas_is_the_operators_choice(pair: list[Server]) -> None:
    """More than there are: refused; none: not waited for; what is no number is said at once."""
    primary, _ = pair
    async with a_store(f"{primary.url}?wait_replicas=2") as store:
        with pytest.raises(StoreAwayError, match=UNREPLICATED):
            await last(store)
        assert await store.why_not() == UNREPLICATED
        assert await store.execute("x", "SET", "x", "y") == b"OK"
    waited = await waits(primary)
    async with a_store(f"{primary.url}?wait_replicas=0&client_name=quick") as store:
        for _ in range(10):
            assert await last(store) == b"OK"
        assert b" name=quick " in await store.execute(None, "CLIENT", "INFO")
    assert await waits(primary) == waited
    for wrong in ("-1", "10", "", "one", "1&wait_replicas=2"):
        with pytest.raises(ValueError, match="wait_replicas"):
            Store(f"{primary.url}?wait_replicas={wrong}")


async def test_a_store_that_does_not_wait_for_us_is_told_and_serves(pair: list[Server]) -> None:
    """WAIT denied, as by a user's rights or a vendor's proxy: stored alone, which is told, until it is allowed; who
    must have a replica is refused, and told why."""
    primary, _ = pair
    await primary.says("ACL", "SETUSER", "bare", "on", ">pw", "~*", "+@all", "-wait")
    url = primary.url.replace("://", "://bare:pw@")
    async with a_store(url, trouble=Trouble(logs.write)) as store:
        with capture_logs() as lines:
            for _ in range(3):
                assert await last(store) == b"OK"
            assert await store.why_not() == ""
            await primary.says("ACL", "SETUSER", "bare", "+wait")
            assert await last(store) == b"OK"
        assert [(line["event"], line.get("reason")) for line in lines] == [
            ("store_alone", "WAIT: NOPERM"),
            ("store_replicated", None),
        ]
        assert lines[1]["alone"] == 4
    await primary.says("ACL", "SETUSER", "bare", "-wait")
    async with a_store(f"{url}?wait_replicas=1", trouble=Trouble(logs.write)) as store:
        with capture_logs() as lines:
            with pytest.raises(StoreAwayError, match=f"{UNREPLICATED}: WAIT: NOPERM"):
                await last(store)
            assert await store.execute("x", "GET", "x") == b"y"
            assert await store.why_not() == f"{UNREPLICATED}: WAIT: NOPERM"
            await primary.says("ACL", "SETUSER", "bare", "+wait")
            assert await last(store) == b"OK"
        assert [line["event"] for line in lines] == ["store_away", "store_back"]


@pytest.mark.parametrize(
    ("said", "is_denied"),
    [
        ("NOPERM User bare has no permissions to run the 'wait' command", True),
        ("ERR unknown command 'WAIT', with args beginning with: '1' '400' ", True),
        ("ERR WAIT cannot be used with replica instances. Please also note", False),
        ("ERR max number of clients reached", False),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", False),
        ("BUSY Valkey is busy running a script.", False),
        ("LOADING Valkey is loading the dataset in memory", False),
        ("NOAUTH Authentication required.", False),
    ],
)
def test_what_says_that_a_command_is_not_for_us(said: str, is_denied: bool) -> None:
    """And what says that it was not done now: then nobody knows who has what was written."""
    assert Fault.read(said).is_denied is is_denied


async def test_each_has_its_own_answer(pair: list[Server]) -> None:
    """Of many that share one WAIT, some are wrong and some are given up: the others are answered as if alone."""
    primary, _ = pair
    async with a_store(primary.url) as store:
        await store.execute("list", "RPUSH", "list", "x")
        push = Script(text := "return redis.call('INCRBY', KEYS[1], ARGV[1])", hashlib.sha1(text.encode()).hexdigest())
        await store.execute("sum", "SET", "sum", "0")
        asked = [store.run(push, ["list" if n % 5 == 3 else "sum"], [1], lasting=True) for n in range(50)]
        for given_up in asked[::7]:
            given_up.cancel()
        said = await asyncio.gather(*asked, return_exceptions=True)
        for number, one in enumerate(said):
            if number % 7 == 0:
                assert isinstance(one, asyncio.CancelledError)
            elif number % 5 == 3:
                assert isinstance(one, ReplyError)
                assert one.code == "WRONGTYPE"
        sums = [one for one in said if isinstance(one, int)]
        assert sums == list(range(1, 1 + len(sums)))
        assert len(sums) == sum(n % 7 != 0 and n % 5 != 3 for n in range(50))
        await store.execute("list", "DEL", "list", "sum")


async def test_a_primary_that_is_made_a_replica_answers_for_nothing(tmp_path: Path) -> None:
    """What waits for its replicas just then is away, and not a command that was wrong: it may have been done."""
    async with some_servers(tmp_path, 1) as (primary, replica), a_store(primary.url) as store:
        assert await last(store) == b"OK"
        replica.send(signal.SIGSTOP)
        lasting = asyncio.create_task(last(store))

        async def is_waiting() -> bool:
            return b"blocked_clients:1\r\n" in await primary.says("INFO", "clients")

        await until(is_waiting)
        await primary.says("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreAwayError, match=r"UNBLOCKED|closed by"):
            await lasting
