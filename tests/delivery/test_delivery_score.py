"""Who goes first: drawn by weight, or by what was seen."""

import asyncio
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import looking

from sidecar.delivery import sightings as shared
from sidecar.delivery.score import EXPLORE, HALF_LIFE_S, Seen, adaptive, scores, weighted
from sidecar.delivery.sightings import Sightings
from sidecar.store.client import Store

NAMES = ("a", "b", "c")
GOOD = Seen(tried=100, in_time=99, due=100, confirmed=70)
LYING = Seen(tried=100, in_time=99, due=100, confirmed=5)
SLOW = Seen(tried=100, in_time=20, due=20, confirmed=14)


def never() -> float:
    """A draw that explores nothing."""
    return 0.999


def test_nothing_seen_changes_nothing() -> None:
    assert adaptive(NAMES, {}, never) == ["a", "b", "c"]
    assert scores(NAMES, {}) == {"a": 1.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("bad", [LYING, SLOW, Seen(tried=50)])
def test_provider_that_does_worse_goes_behind(bad: Seen) -> None:
    """Silent, slow, or taking messages that do not arrive."""
    assert adaptive(NAMES, {"a": bad, "b": GOOD, "c": GOOD}, never)[0] == "b"


@given(st.builds(Seen, *[st.floats(0, 1000)] * 4))
def test_when_all_do_alike_the_rules_order_stays(seen: Seen) -> None:
    """Also when all are bad: there is nothing to choose between them."""
    assert adaptive(NAMES, dict.fromkeys(NAMES, seen), never) == list(NAMES)


def test_people_who_type_no_code_in_are_nobodys_fault() -> None:
    """Seven in ten confirm, whoever sends: nobody is the worse for it."""
    few = Seen(tried=10, in_time=10, due=10, confirmed=7)
    assert scores(NAMES, {"a": few, "b": GOOD}) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0}, abs=0.05)


def test_trouble_is_forgotten_when_it_is_over() -> None:
    seen = {"a": Seen(tried=50, in_time=0), "b": GOOD, "c": GOOD}
    assert adaptive(NAMES, seen, never)[0] == "b"
    later = {name: one.faded(8 * HALF_LIFE_S) for name, one in seen.items()}
    assert adaptive(NAMES, later, never)[0] == "a"


def test_noise_does_not_undo_the_rules_order() -> None:
    assert adaptive(NAMES, {"a": Seen(tried=100, in_time=97), "b": Seen(tried=100, in_time=99)}, never)[0] == "a"


def test_a_few_messages_find_out_how_the_others_do() -> None:
    draw = random.Random(1).random
    firsts = Counter(adaptive(NAMES, {}, draw)[0] for _ in range(20_000))
    assert firsts["b"] + firsts["c"] == pytest.approx(20_000 * EXPLORE, rel=0.2)
    assert firsts["b"] == pytest.approx(firsts["c"], rel=0.3)


@given(
    st.lists(st.sampled_from("abcdef"), unique=True, max_size=6),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=9),
    st.dictionaries(st.sampled_from("abcdef"), st.builds(Seen, *[st.floats(0, 1e6)] * 4)),
)
def test_every_provider_stays_in_the_order_once(names: list[str], draws: list[float], seen: dict[str, Seen]) -> None:
    def draw() -> float:
        return next(numbers)

    numbers = itertools.cycle(draws)
    assert sorted(adaptive(names, seen, draw)) == sorted(names)
    assert sorted(weighted(names, {"a": 0.1, "b": 7}, draw)) == sorted(names)


def test_weights_are_shares_of_the_first_attempts() -> None:
    draw = random.Random(1).random
    firsts = Counter(weighted(NAMES, {"a": 6, "b": 3}, draw)[0] for _ in range(20_000))
    assert [firsts[name] / 20_000 for name in NAMES] == pytest.approx([0.6, 0.3, 0.1], abs=0.02)


async def test_what_one_worker_saw_another_knows(store: Store) -> None:
    mine, other = Sightings(store), Sightings(store)
    for _ in range(3):
        mine.add("a", "CN", Seen(tried=1, in_time=1))
    mine.add("a", "US", Seen(due=1))
    await mine.look()
    other.add("a", "CN", Seen(tried=1))
    await asyncio.gather(other.look())
    seen = other.of(("a", "b"), "CN")
    assert set(seen) == {"a"}
    # Milliseconds have passed, of a half life of minutes.
    assert (seen["a"].tried, seen["a"].in_time) == pytest.approx((4, 3), rel=0.01)
    assert other.of(("a",), "US")["a"].due == pytest.approx(1, rel=0.01)


async def test_however_much_was_seen_is_told_with_one_look(store: Store) -> None:
    """Thousands of messages of a few providers: nothing waits for a later look, and nothing is lost."""
    sightings = Sightings(store)
    for number in range(6_000):
        sightings.add("ab"[number % 2], "CN", Seen(tried=1, in_time=number % 3 == 0))
    await sightings.look()
    seen = sightings.of(("a", "b"), "CN")
    assert [seen[name].tried for name in "ab"] == pytest.approx([3_000, 3_000], rel=0.01)
    assert [seen[name].in_time for name in "ab"] == pytest.approx([1_000, 1_000], rel=0.01)


async def test_the_store_is_looked_at_twice_a_second(store: Store) -> None:
    """However little was seen: a look that follows the last one at once would keep the loop and the store busy."""
    async with looking(Sightings(store)) as looks, asyncio.timeout(30):
        while len(looks) < 3:
            await asyncio.sleep(0.01)
    assert looks[2] - looks[0] > 1.9 * shared._EVERY_S


async def test_script_fades_as_the_formula_says(store: Store) -> None:
    """What was seen one half life ago counts half."""
    seconds, _ = await store.execute(None, "TIME")
    then_ms = (int(seconds) - int(HALF_LIFE_S)) * 1000
    await store.execute(store.names.seen(), "HSET", store.names.seen(), "a|CN", f"8 4 2 1 {then_ms}")
    sightings = Sightings(store)
    sightings.add("a", "CN", Seen(1, 1, 1, 1))
    await sightings.look()
    seen = sightings.of(("a",), "CN")["a"]
    assert (seen.tried, seen.in_time, seen.due, seen.confirmed) == pytest.approx((5, 3, 2, 1.5), rel=0.01)
