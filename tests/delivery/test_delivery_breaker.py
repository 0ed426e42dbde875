"""A breaker's moves, and that the store's script makes the same."""

import asyncio
import re
from pathlib import Path

import pytest
from awake import awake
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stores import looking
from structlog.testing import capture_logs

from sidecar import breaker as law
from sidecar import delivery
from sidecar.breaker import NEXT, Breaker, of_text
from sidecar.delivery import breakers as shared
from sidecar.delivery.breakers import Breakers, Key
from sidecar.events import BreakerSeen, Event, StoreRefused, told_to
from sidecar.life import ended
from sidecar.logs import EventLog
from sidecar.store.client import Script, Store

SCRIPT = Script.load(Path(delivery.__file__).with_name("breaker.lua"))
OPEN_FOR_MS = 10_000
LEASE_MS = 3_000


def after(results: str, failures: int = 5, before: Breaker | None = None) -> Breaker:
    """A breaker after these results ("1" fine, "0" failed), each of the generation that it had."""
    breaker = before or Breaker()
    for result in results:
        breaker = law.record(
            breaker, breaker.generation, fine=result == "1", failures=failures, open_for_ms=OPEN_FOR_MS, now_ms=0
        )
    return breaker


def test_opens_after_so_many_failures_in_a_row() -> None:
    assert after("0000").state == "closed"
    assert after("00000") == Breaker("open", 1, until_ms=OPEN_FOR_MS)
    assert after("000010000").state == "closed"


def test_opens_when_half_of_the_last_twenty_failed() -> None:
    assert after("10" * 9 + "1").state == "closed"
    assert after("10" * 10).state == "open"
    assert after("110" * 10).state == "closed"


def test_result_of_an_older_generation_counts_for_nothing() -> None:
    """What was started before the breaker opened says nothing about the provider now."""
    opened = after("00000")
    late = law.record(opened, 0, fine=True, failures=5, open_for_ms=OPEN_FOR_MS, now_ms=1)
    assert late is opened


def test_one_probe_at_a_time_decides() -> None:
    opened = after("00000")
    assert law.probe(opened, LEASE_MS, OPEN_FOR_MS - 1) is None
    probing = law.probe(opened, LEASE_MS, OPEN_FOR_MS)
    assert probing == Breaker("half_open", 2, until_ms=OPEN_FOR_MS + LEASE_MS)
    assert law.probe(probing, LEASE_MS, OPEN_FOR_MS + 1) is None
    assert after("1", before=probing) == Breaker("closed", 3)
    assert after("0", before=probing) == Breaker("open", 3, until_ms=OPEN_FOR_MS)


def test_probe_that_never_comes_back_is_followed_by_another() -> None:
    probing = law.probe(after("00000"), LEASE_MS, OPEN_FOR_MS)
    assert probing
    again = law.probe(probing, LEASE_MS, OPEN_FOR_MS + LEASE_MS)
    assert again
    assert (again.state, again.generation) == ("half_open", 3)


def test_attempt_for_want_of_any_other_closes_but_does_not_keep_open() -> None:
    opened = after("00000")
    assert after("1", before=opened) == Breaker("closed", 2)
    assert after("000", before=opened) == opened


class Moves(RuleBasedStateMachine):
    """Any results and probes, in any order, on a clock that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now_ms = 0
        self.probes = 0

    @rule(passed_ms=st.integers(0, 2 * OPEN_FOR_MS))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule(fine=st.booleans(), age=st.integers(0, 2), failures=st.integers(1, 6))
    def a_result_comes(self, fine: bool, age: int, failures: int) -> None:
        before = self.breaker
        generation = before.generation - age
        self.breaker = law.record(
            before, generation, fine=fine, failures=failures, open_for_ms=OPEN_FOR_MS, now_ms=self.now_ms
        )
        if age:
            assert self.breaker is before
        elif fine:
            assert self.breaker.state == "closed" or before.state == "closed"

    @precondition(lambda self: self.breaker.state != "closed")
    @rule()
    def two_ask_to_probe(self) -> None:
        first = law.probe(self.breaker, LEASE_MS, self.now_ms)
        assert (first is not None) == (self.now_ms >= self.breaker.until_ms)
        self.breaker = first or self.breaker
        assert law.probe(self.breaker, LEASE_MS, self.now_ms) is None

    @invariant()
    def it_is_asked_or_will_be(self) -> None:
        """No breaker stays open for ever, and a closed one is not about to open."""
        if self.breaker.state == "closed":
            assert self.breaker.run < 6
            assert not self.breaker.until_ms
        else:
            assert self.breaker.until_ms <= self.now_ms + OPEN_FOR_MS
            assert (self.breaker.run, self.breaker.window) == (0, "")

    @invariant()
    def it_reads_back(self) -> None:
        assert of_text(self.breaker.text) == self.breaker


TestMoves = Moves.TestCase


def test_table_has_every_move_that_there_is() -> None:
    assert {state for state, _ in NEXT} == {"closed", "open", "half_open"}
    assert set(NEXT.values()) == {"closed", "open", "half_open"}


@pytest.mark.parametrize("text", ["", "ajar 0 0 - 0", "open 1 0 -", "open x 0 - 0"])
def test_text_that_is_no_breaker_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        of_text(text)


# In the store…


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0, 0, 0, 0, 1])), min_size=1, max_size=40), st.integers(1, 30)
)
def test_script_moves_as_the_table_says(store_url: str, results: list[tuple[bool, int]], failures: int) -> None:
    """The same results, one by one: the same states, generations, runs and windows."""

    async def both() -> None:
        store = Store(store_url, prefix="breaker-law")
        key = store.names.breakers()
        await store.execute(key, "DEL", key)
        mine = Breaker()
        try:
            for fine, age in results:
                generation = mine.generation - age
                words: list[str | int] = ["record", "a|CN", generation, int(fine), failures, OPEN_FOR_MS]
                now, text = await store.run(SCRIPT, [key], words)
                mine = law.record(mine, generation, fine=fine, failures=failures, open_for_ms=OPEN_FOR_MS, now_ms=now)
                assert of_text(text.decode()) == mine
        finally:
            await store.close()

    asyncio.run(both())


async def test_script_gives_the_probe_to_one(store: Store) -> None:
    breakers = [Breakers(store, {"a": None}, lambda *_: None) for _ in range(5)]
    key = Key("a", "CN")
    await store.run(SCRIPT, [store.names.breakers()], ["record", key.field, 0, 0, 1, 0])
    won = [one for one in await asyncio.gather(*(one.probe(key, 60) for one in breakers)) if one]
    assert [one.state for one in won] == ["half_open"]


async def test_each_breaker_of_the_store_is_seen_as_it_is(store: Store) -> None:
    """One look brings all of them, whoever moved them, each under its own name."""
    states = {Key("a", "CN"): "open", Key("a", "US"): "closed", Key("b", "CN"): "closed", Key("b", "US"): "open"}
    for key, state in states.items():
        failures = 1 if state == "open" else 5
        await store.run(SCRIPT, [store.names.breakers()], ["record", key.field, 0, 0, failures, 60_000])
    breakers = Breakers(store, {"a": None, "b": None}, lambda *_: None)
    await breakers.look()
    assert {key: breakers.of(key).state for key in states} == states
    assert {breakers.of(key).run for key in states if states[key] == "closed"} == {1}
    await store.execute(store.names.breakers(), "DEL", store.names.breakers())
    await breakers.look()
    assert {breakers.of(key).state for key in states} == {"closed"}, "what the store has no more is over"


async def test_a_breaker_that_moves_is_logged_once(store: Store) -> None:
    """The line says where it was; a result that moves nothing has none."""
    key = Key("a", "CN")
    told: list[Event] = []
    breakers = Breakers(
        store, {"a": None}, told_to(lambda _: told.append, EventLog("all", asyncio.get_running_loop().call_later).hears)
    )
    task = asyncio.create_task(breakers.run())
    with capture_logs() as lines:
        async with asyncio.timeout(30):
            for run in (1, 2):
                breakers.record(key, 0, fine=False, failures=3, open_for_s=60)
                while breakers.of(key).run != run:
                    await asyncio.sleep(0)
            assert not lines
            breakers.record(key, 0, fine=False, failures=3, open_for_s=60)
            while breakers.of(key).state != "open":
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert [(line["event"], line["was"], line["state"]) for line in lines] == [("breaker", "closed", "open")]
    assert told[-1] == BreakerSeen(provider="a", state=2)


async def test_that_all_is_well_is_told_with_the_next_look_and_before_any_failure(store: Store) -> None:
    """Hundreds of messages in one step, in their order: what is fine ends a run of failures."""
    key = Key("a", "CN")
    breakers = Breakers(store, {"a": None}, lambda *_: None)
    task = asyncio.create_task(breakers.run())
    try:
        async with asyncio.timeout(30):
            for results in ("0" * 4 + "1", "1" * 30, "0" * 4 + "1" * 2, "1" * 500 + "0"):
                for fine in results:
                    breakers.record(key, 0, fine=fine == "1", failures=5, open_for_s=60)
                while not breakers.of(key).window.endswith(results[-20:]):
                    await asyncio.sleep(0)
        assert breakers.of(key).state == "closed"
        assert breakers.of(key).run == 1
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_fine_result_is_told_again_after_many_and_ends_another_workers_run_of_failures(store: Store) -> None:
    """However many have been told before: what all is well with here is not for ever known there."""
    key = Key("a", "CN")
    mine, other = (Breakers(store, {"a": None}, lambda *_: None) for _ in range(2))
    tasks = [asyncio.create_task(one.run()) for one in (mine, other)]
    try:
        async with asyncio.timeout(30):
            for _ in range(50):
                mine.record(key, 0, fine=True, failures=5, open_for_s=60)
            while not mine.of(key).window.endswith("1" * law.WINDOW):
                await asyncio.sleep(0)
            for _ in range(4):
                other.record(key, 0, fine=False, failures=5, open_for_s=60)
            while other.of(key).run != 4:
                await asyncio.sleep(0)
            mine.record(key, 0, fine=True, failures=5, open_for_s=60)
            while other.of(key).run:
                await asyncio.sleep(0)
            other.record(key, 0, fine=False, failures=5, open_for_s=60)
            while not other.of(key).run:
                await asyncio.sleep(0)
        assert other.of(key).state == "closed"
    finally:
        await ended(*tasks)


async def test_failures_are_told_at_once(store: Store) -> None:
    """One after the other, each when the one before it is known, and there was no look between most of them."""
    key = Key("a", "CN")
    breakers = Breakers(store, {"a": None}, lambda *_: None)
    async with looking(breakers) as looks, asyncio.timeout(30):
        for run in range(1, 20):
            breakers.record(key, 0, fine=False, failures=20, open_for_s=60)
            while breakers.of(key).run != run:
                await asyncio.sleep(0)
        assert len(looks) < 10


async def written(store: Store) -> int:
    """How many hash fields the store has written in its life: one for each result that it is told."""
    said = await store.execute(None, "INFO", "commandstats")
    return sum(map(int, re.findall(rb"cmdstat_hset:calls=([0-9]+)", said)))


@pytest.mark.parametrize(
    "results", ["1" * 19 + "0" * 4, "1" * 300 + "0" * 4, "0" * 3 + "1" * 21 + "0" * 4, "01" * 4 + "1" * 40]
)
async def test_fine_results_that_are_not_told_would_have_changed_nothing(store: Store, results: str) -> None:
    """The store's breaker is what the table makes of all results, and no more than a window of fine ones is told."""
    key = Key("a", "CN")
    breakers = Breakers(store, {"a": None}, lambda *_: None)
    for fine in results:
        breakers.record(key, 0, fine=fine == "1", failures=5, open_for_s=60)
    before = await written(store)
    task = asyncio.create_task(breakers.run())
    try:
        async with asyncio.timeout(30):
            while breakers.of(key) != after(results):
                await asyncio.sleep(0)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert await written(store) - before < 60


async def test_breaker_that_one_worker_opens_is_honoured_by_another(store: Store) -> None:
    """Within a second, without a message of its own having failed."""
    told: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    key = Key("a", "CN/china-mobile")
    mine = Breakers(store, {"a": None}, lambda *_: None)

    def tell(event: Event) -> None:
        if isinstance(event, BreakerSeen):
            told.put_nowait((event.provider, event.state))

    other = Breakers(store, {"a": None, "b": None}, tell)
    tasks = [asyncio.create_task(one.run()) for one in (mine, other)]
    try:
        async with asyncio.timeout(30):
            assert {await told.get(), await told.get()} == {("a", 0), ("b", 0)}
            for _ in range(5):
                mine.record(key, 0, fine=False, failures=5, open_for_s=60)
            with awake() as took:
                while await told.get() != ("a", 2):
                    pass
                assert took() < 1.0
        assert other.of(key).state == "open"
        assert other.of(Key("a", "US")).state == "closed"
        assert not other.of(key).may_be_probed(other.now_ms())
        assert other.of(key).may_be_probed(other.now_ms() + 61_000)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_the_store_is_looked_at_twice_a_second(store: Store) -> None:
    """However little there is to tell: a look that is never put off would keep the loop and the store busy."""
    async with looking(Breakers(store, {"a": None}, lambda *_: None)) as looks, asyncio.timeout(30):
        while len(looks) < 3:
            await asyncio.sleep(0.01)
    assert looks[2] - looks[0] > 1.9 * shared._REFRESH_S


async def test_a_breaker_that_was_open_as_the_stores_clock_was_set_back_is_probed(store: Store) -> None:
    """What is to wait for longer than any breaker waits, waits no longer; one that is not yet due does."""
    breakers = Breakers(store, {"a": None}, lambda *_: None, 10_000)
    key, far = Key("a", "CN"), Key("a", "US")
    now_ms = int((await store.execute(None, "TIME"))[0]) * 1000
    name = store.names.breakers()
    for of, until_ms in ((key, now_ms + 9_000), (far, now_ms + 3_600_000)):
        await store.execute(name, "HSET", name, of.field, Breaker("open", 1, until_ms=until_ms).text)
    await breakers.look()
    assert not breakers.may_be_probed(breakers.of(key))
    assert await breakers.probe(key, 3) is None
    assert breakers.may_be_probed(breakers.of(far))
    probing = await breakers.probe(far, 3)
    assert probing is not None
    assert probing.state == "half_open"
    assert await breakers.probe(far, 3) is None


async def test_the_breakers_are_looked_at_through_an_answer_that_nobody_can_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strange data under their name is told once, however often it is seen, and does not end the task."""
    told: list[Event] = []
    monkeypatch.setattr(shared, "_REFRESH_S", 0.05)
    name = store.names.breakers()
    await store.execute(name, "SET", name, "strange")
    breakers = Breakers(store, {"a": None}, told.append)
    async with looking(breakers) as looks, asyncio.timeout(30):
        while len(looks) < 5:
            await asyncio.sleep(0.01)
        assert told == [StoreRefused(reason="WRONGTYPE")]
        await store.execute(name, "DEL", name)
        await store.execute(name, "HSET", name, "a|CN", Breaker("open", 1, until_ms=2**52).text)
        while breakers.of(Key("a", "CN")).state != "open":
            await asyncio.sleep(0.01)
