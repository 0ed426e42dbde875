"""load.lua against load.py, on a real store: who makes it dear for whom, and what is forgotten."""

import hashlib
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.config.units import Rate
from sidecar.errors import StoreAwayError
from sidecar.limits.load import Counts, Load, Usual
from sidecar.store.client import Store

USUAL = (Rate(10, 600.0), Rate(100, 600.0), Rate(1000, 600.0))
HOME, NEIGHBOUR, ELSEWHERE = "192.0.2.7", "192.0.2.8", "198.51.100.1"


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:22]


def load(store: Store, usual: tuple[Rate, Rate, Rate] = USUAL, name: str = "altcha") -> Load:
    return Load(store, hashed, name, usual)


async def looked(one: Load, ip: str) -> tuple[float, ...]:
    """What an address has come to, rounded, with nothing counted: own, site, all."""
    return tuple(round(share, 3) for share in await one.count(ip, given=0, solved=0))


# A minute at least: what fades while a test's machine stands still is next to nothing then.
some_usual = st.builds(
    Usual, *[st.builds(Rate, st.integers(1, 50), st.floats(60, 10_000).map(lambda s: round(s, 2))) for _ in range(3)]
)
some_steps = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.floats(0, 2000)), max_size=12)


@given(some_usual, some_steps)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_the_script_counts_as_the_formula_does(
    store: Store, usual: Usual, steps: list[tuple[int, int, float]]
) -> None:
    """Whatever is counted, however long after; time passes by moving back what the store remembers."""
    name = hashed(repr((usual, steps)))
    one = load(store, (usual.own, usual.site, usual.in_all), name)
    keys = [
        store.names.load(name, one.asker(HOME)),
        store.names.load(name, hashed(f"{name} 192.0.2.0/24")),
        store.names.load(name, ""),
    ]
    expected = Counts()
    await store.execute(keys[0], "DEL", *keys)
    for given_, solved, past_s in steps:
        for key, text in zip(keys, await store.execute(keys[0], "MGET", *keys), strict=True):
            if text is not None:
                count, at = text.split()
                moved = f"{count.decode()} {int(at) - int(past_s * 1e6)}"
                await store.execute(key, "SET", key, moved, "KEEPTTL")
        expected = expected.after(past_s, usual, given=given_, solved=solved)
        told = await one.count(HOME, given=given_, solved=solved)
        # The test itself takes time, which fades a count, too; what the store forgets was next to nothing.
        counts = [share * rate.count for share, rate in zip(told, (usual.own, usual.site, usual.in_all), strict=True)]
        assert counts == pytest.approx([expected.own, expected.site, expected.in_all], rel=0.2, abs=0.06)
        expected = Counts(*counts)


async def test_what_an_address_asks_for_is_dear_for_itself_alone(store: Store) -> None:
    """A thousand challenges at once that nobody solves: its own count, half of its site's usual, nothing of all."""
    one = load(store)
    for _ in range(1000):
        await one.count(HOME, given=1, solved=0)
    own, site, in_all = await looked(one, HOME)
    assert own > 90
    assert site == pytest.approx(0.1 + 0.1 * math.log(1000 / 10), rel=0.05)
    assert in_all == 0
    assert (await looked(one, NEIGHBOUR))[0] == 0
    assert await looked(one, ELSEWHERE) == (0, 0, 0)


async def test_a_busy_address_adds_the_usual_to_its_site_and_no_more(store: Store) -> None:
    """At whatever steady rate: fifty times the usual for hours is one usual address more."""
    usual = Usual(*USUAL)
    for times in (2, 50):
        counts = Counts()
        for _ in range(60 * times):
            counts = counts.after(60 / times, usual, given=1, solved=0)
        assert counts.own == pytest.approx(10 * times, rel=0.1)
        assert counts.site == pytest.approx(10, rel=0.3)


async def test_a_site_of_many_addresses_is_one_site(store: Store) -> None:
    """An IPv6 /48 cannot ask for the usual from each of its /64s, nor an IPv4 /24 from each address."""
    one = load(store)
    for n in range(300):
        await one.count(f"2001:db8:7:{n:x}::1", given=1, solved=0)
        await one.count(f"203.0.113.{n % 256}", given=1, solved=0)
    assert (await looked(one, "2001:db8:7:ffff::1"))[1] == pytest.approx(3, rel=0.1)
    assert (await looked(one, "203.0.113.255"))[1] == pytest.approx(3, rel=0.1)
    assert (await looked(one, "2001:db8:8::1"))[1] == 0


async def test_what_is_solved_anywhere_counts_for_all(store: Store) -> None:
    """By any instance, and for one captcha alone."""
    first, second, other = load(store), load(store), load(store, name="other")
    for n in range(50):
        await first.count(f"198.51.100.{n}", given=0, solved=1)
        await second.count(f"203.0.113.{n}", given=0, solved=1)
    assert (await looked(second, HOME))[2] == pytest.approx(0.1, rel=0.1)
    assert await looked(other, HOME) == (0, 0, 0)


async def test_what_is_counted_is_forgotten_in_time_and_names_nobody(store: Store) -> None:
    """So many keys as there were askers lately, each for some periods; no address is in the store."""
    await load(store).count(HOME, given=1, solved=1)
    keys = [key.decode() for key in await store.execute(None, "KEYS", f"*{store.names.prefix}*")]
    assert len(keys) == 3
    assert not [key for key in keys if "192.0.2" in key]
    for key in keys:
        assert 600_000 < await store.execute(key, "PTTL", key) <= 4 * 600_000


async def test_looking_writes_nothing(store: Store) -> None:
    await load(store).count(HOME, given=0, solved=0)
    assert await store.execute(None, "KEYS", f"*{store.names.prefix}*") == []


async def test_a_store_that_is_away_counts_nothing_and_says_so() -> None:
    away = Store("unix:///nowhere/at/all.sock")
    with pytest.raises(StoreAwayError):
        await load(away).count(HOME, given=1, solved=0)
    await away.close()
