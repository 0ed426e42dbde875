"""Buckets in a real store, and their words in HTTP."""

import asyncio
import itertools
from pathlib import Path
from typing import Literal

import pytest

from sidecar.client_key import client_key
from sidecar.config import model
from sidecar.config.units import Rate
from sidecar.errors import LimitState, StoreAwayError
from sidecar.limits.buckets import Bucket, Buckets, Meter, Ruling, rate_limit_fields
from sidecar.store.client import Store
from sidecar.store.names import Names


class Clock:
    """A monotonic clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def a_limit(count: int, period_s: float, burst: int | None = None) -> model.Limit:
    return model.Limit(key="ip", rate=Rate(count, period_s), burst=burst)


def a_bucket(store: Store, name: str, burst: int = 1, *, hashed: str = "h", enforce: bool = True) -> Bucket:
    return Meter.of(name, a_limit(1, 3600.0, burst), store.names, enforce=enforce).bucket(hashed)


async def stored(store: Store, *buckets: Bucket) -> list[bytes | None]:
    held: list[bytes | None] = await store.execute(buckets[0].key, "MGET", *(bucket.key for bucket in buckets))
    return held


async def test_fifty_at_once_get_one(store: Store) -> None:
    """Of 50 concurrent spends on a bucket of burst 1, exactly one is allowed."""
    buckets, ip = Buckets(store), a_bucket(store, "ip")
    rulings = await asyncio.gather(*(buckets.spend([ip]) for _ in range(50)))
    assert sum(ruling.allowed for ruling in rulings) == 1


async def test_spent_all_or_none(store: Store) -> None:
    """One enforcing bucket that refuses leaves every other as it was."""
    buckets = Buckets(store)
    ip, to, total = a_bucket(store, "ip", 5), a_bucket(store, "to"), a_bucket(store, "total", 5)
    assert (await buckets.spend([ip, to, total])).allowed
    before = await stored(store, ip, to, total)
    assert None not in before

    ruling = await buckets.spend([ip, to, total])

    assert not ruling.allowed
    assert ruling.tickets == ()
    assert await stored(store, ip, to, total) == before


async def test_a_refusal_names_who_refused_first_and_how_long(store: Store) -> None:
    """States of all enforcing buckets, the refusing ones first; the longest wait of those that refused."""
    buckets = Buckets(store)
    ip = Meter.of("ip", a_limit(20, 3600.0, 2), store.names).bucket("h")
    to = Meter.of("to", a_limit(1, 60.0), store.names).bucket("h")
    slow = Meter.of("slow", a_limit(1, 3600.0), store.names).bucket("h")
    assert (await buckets.spend([to, slow])).allowed

    ruling = await buckets.spend([ip, slow, to])

    assert [state.name for state in ruling.refused] == ["slow", "to", "ip"]
    _, first, last = ruling.refused
    assert (first.quota, first.window_s, first.remaining) == (1, 60.0, 0)
    assert 0 < first.reset_s <= 60
    assert (last.quota, last.window_s, last.remaining, last.reset_s) == (20, 3600.0, 2, 0)
    assert 60 < ruling.retry_after_s <= 3600


async def test_an_allowed_one_is_told_when_the_next_will_be(store: Store) -> None:
    """After a spend, until every enforcing bucket takes one more; 0 while they do; observing ones do not count."""
    buckets = Buckets(store)
    roomy, watched = a_bucket(store, "roomy", 2), a_bucket(store, "watched", enforce=False)
    assert (await buckets.spend([roomy, watched])).again_in_s == 0
    minute = Meter.of("minute", a_limit(1, 60.0), store.names).bucket("h")
    assert (await buckets.spend([minute])).again_in_s == 60
    assert 3500 < (await buckets.spend([roomy])).again_in_s < 3600


async def test_a_peek_takes_nothing(store: Store) -> None:
    """A peek says what a spend would, any number of times."""
    buckets, ip = Buckets(store), a_bucket(store, "ip")
    for _ in range(3):
        assert await buckets.peek([ip]) == Ruling(allowed=True)
    assert (await buckets.spend([ip])).allowed
    assert not (await buckets.peek([ip])).allowed


async def test_a_refund_restores_exactly(store: Store) -> None:
    """Given back, every bucket's TAT is what it was, to the microsecond; an empty one is forgotten."""
    buckets = Buckets(store)
    ip, to = a_bucket(store, "ip", 3), a_bucket(store, "to", 3)
    assert (await buckets.spend([ip])).allowed
    before = await stored(store, ip, to)
    ruling = await buckets.spend([ip, to])
    assert await stored(store, ip, to) != before

    await buckets.refund(ruling.tickets)

    assert await stored(store, ip, to) == before
    assert before[1] is None


async def test_what_was_spent_for_one_message_is_given_back_once(store: Store) -> None:
    """However often it is asked for: who gives back may die before it can say that it did."""
    buckets, ip = Buckets(store), a_bucket(store, "ip", 3)
    tickets = [(await buckets.spend([ip])).tickets for _ in range(3)][0]  # noqa: RUF015 - all three are spent
    for _ in range(3):
        await buckets.refund(tickets, "message-1")
    assert (await buckets.spend([ip])).allowed
    assert not (await buckets.spend([ip])).allowed
    await buckets.refund(tickets, "message-2")
    assert (await buckets.spend([ip])).allowed
    assert (
        0
        < await store.execute(store.names.refunded("message-1"), "PTTL", store.names.refunded("message-1"))
        <= 3_600_000
    )


async def test_giving_back_and_spending_are_one_step(store: Store) -> None:
    """What is given back is there for what is spent beside it, whatever the ruling; a full one stays unspent."""
    buckets, ip, to = Buckets(store), a_bucket(store, "ip"), a_bucket(store, "to")
    first = await buckets.spend([ip])
    assert (await buckets.spend([ip, to], giving_back=first.tickets)).allowed
    assert not (await buckets.spend([ip])).allowed

    ruling = await buckets.spend([to], giving_back=[ip.ticket()])

    assert (ruling.allowed, [state.name for state in ruling.refused]) == (False, ["to"])
    assert await stored(store, ip) == [None]


async def test_spending_while_looking_at_others_is_one_step(store: Store) -> None:
    """One that is looked at refuses as if it were spent, and is not; nothing is spent then."""
    buckets, ip, total = Buckets(store), a_bucket(store, "ip"), a_bucket(store, "total", 2)
    watched = a_bucket(store, "watched", enforce=False)
    allowed = await buckets.spend([total], looking_at=[ip, watched])
    assert (allowed.allowed, allowed.tickets, allowed.observed) == (True, (total.ticket(),), ())
    assert await stored(store, ip, watched) == [None, None]
    await buckets.spend([ip, watched])
    before = await stored(store, total)

    refused = await buckets.spend([total], looking_at=[watched, ip])

    assert [state.name for state in refused.refused] == ["ip", "total"]
    assert (refused.observed, refused.tickets) == (("watched",), ())
    assert await stored(store, total) == before


async def test_what_is_looked_at_and_spent_is_spent_once(store: Store) -> None:
    """And enforced if one of its names says so."""
    buckets, ip = Buckets(store), a_bucket(store, "ip")
    ruling = await buckets.spend([a_bucket(store, "ip", enforce=False)], looking_at=[ip])
    assert (ruling.allowed, ruling.tickets) == (True, (ip.ticket(),))
    refused = await buckets.spend([a_bucket(store, "ip", enforce=False)], looking_at=[ip])
    assert [state.name for state in refused.refused] == ["ip"]


# Remembering what is full…


async def test_a_full_bucket_is_known_until_its_moment(store: Store) -> None:
    """With what the store said of it, counted on by our own clock; the moment past, the store is to be asked again."""
    clock = Clock()
    buckets = Buckets(store, clock)
    to = Meter.of("to", a_limit(1, 6.0), store.names).bucket("h")
    slow, roomy = a_bucket(store, "slow"), a_bucket(store, "roomy", 9)
    assert buckets.full([to, slow, roomy]) is None
    await buckets.spend([to, slow, roomy])
    assert buckets.full([to, slow, roomy]) is None, "that it took the last one is no refusal"
    said = await buckets.spend([to, slow, roomy])

    known = buckets.full([roomy, to, slow])

    assert known is not None
    assert not known.allowed
    assert known.retry_after_s == said.retry_after_s
    assert sorted(known.refused, key=str) == sorted(said.refused[:2], key=str)
    assert buckets.full([roomy]) is None
    clock.now += 5.0
    later = buckets.full([to])
    assert later is not None
    assert later.retry_after_s == pytest.approx(said.refused[0].reset_s - 5.0)
    clock.now += 1.0
    assert buckets.full([to]) is None
    assert buckets.full([to, slow]) is not None


async def test_what_another_process_gave_back_is_seen_here(store: Store) -> None:
    """Within ten seconds, however long the store said that the bucket is full."""
    clock = Clock()
    buckets, another = Buckets(store, clock), Buckets(store)
    slow = a_bucket(store, "slow")
    ticket = (await buckets.spend([slow])).tickets
    assert not (await buckets.spend([slow])).allowed
    await another.refund(ticket)
    clock.now += 9.0
    assert buckets.full([slow]) is not None, "the store is not asked by each of a flood"
    clock.now += 1.0
    assert buckets.full([slow]) is None
    assert (await buckets.spend([slow])).allowed


async def test_only_enforcing_buckets_are_known_to_be_full(store: Store) -> None:
    """One that observes refuses nobody: not by what is remembered either, under whichever name it came to be known."""
    buckets, watched, ip = Buckets(store), a_bucket(store, "ip", enforce=False), a_bucket(store, "ip")
    for _ in range(2):
        await buckets.spend([watched])
    assert buckets.full([ip]) is None
    assert not (await buckets.peek([ip])).allowed
    assert buckets.full([ip]) is not None
    assert buckets.full([watched]) is None


async def test_what_is_given_back_here_is_no_longer_full(store: Store) -> None:
    """By a refund, by one of a message, and beside a spend."""
    buckets, ip, other = Buckets(store), a_bucket(store, "ip"), a_bucket(store, "other")
    for refund in (
        lambda: buckets.refund([ip.ticket()]),
        lambda: buckets.refund([ip.ticket()], "message"),
        lambda: buckets.spend([other], giving_back=[ip.ticket()]),
    ):
        await buckets.spend([ip])
        await buckets.spend([ip])
        assert buckets.full([ip]) is not None
        await refund()
        assert buckets.full([ip]) is None
        assert (await buckets.peek([ip])).allowed


async def test_a_full_bucket_is_never_known_for_longer_than_the_store_says(store: Store) -> None:
    """Once it allows, by its own clock, the bucket is not known to be full."""
    buckets, another = Buckets(store), Buckets(store)
    short = Meter.of("short", a_limit(1, 0.05), store.names).bucket("h")
    await buckets.spend([short])
    assert not (await buckets.spend([short])).allowed
    assert buckets.full([short]) is not None
    while not (await another.peek([short])).allowed:
        pass  # each look is a round trip
    assert buckets.full([short]) is None


async def test_the_memory_of_full_buckets_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest news goes first."""
    monkeypatch.setattr("sidecar.limits.buckets._MOST_FULL", 2)
    buckets = Buckets(store)
    a, b, c = (a_bucket(store, "ip", hashed=hashed) for hashed in "abc")
    for bucket in (a, b, a, c):
        await buckets.spend([bucket])
        await buckets.spend([bucket])
    assert [buckets.full([bucket]) is not None for bucket in (a, b, c)] == [True, False, True]


# Tickets, observing, names…


async def test_a_ticket_is_enough_to_give_one_back(store: Store) -> None:
    """A bucket's own ticket, carried as text, frees it for exactly one more; the same twice for two."""
    buckets, ip = Buckets(store), a_bucket(store, "ip", 2)
    for _ in range(2):
        assert (await buckets.spend([ip])).allowed
    await buckets.refund([ip.ticket()])
    assert (await buckets.spend([ip])).allowed
    assert not (await buckets.spend([ip])).allowed
    await buckets.refund([ip.ticket(), ip.ticket()])
    for _ in range(2):
        assert (await buckets.spend([ip])).allowed
    assert not (await buckets.spend([ip])).allowed


async def test_an_observing_bucket_never_refuses(store: Store) -> None:
    """Over its limit it is named and not spent; what enforces beside it goes on as if it were not there."""
    buckets = Buckets(store)
    watched, ip = a_bucket(store, "watched", enforce=False), a_bucket(store, "ip", 3)
    first = await buckets.spend([watched, ip])
    assert (first.allowed, first.observed, len(first.tickets)) == (True, (), 2)
    before = await stored(store, watched)

    second = await buckets.spend([watched, ip])

    assert (second.allowed, second.observed, second.tickets) == (True, ("watched",), (ip.ticket(),))
    assert await stored(store, watched) == before


async def test_an_observing_bucket_is_not_spent_by_a_refused_request(store: Store) -> None:
    """It counts what would have gone through."""
    buckets = Buckets(store)
    watched, ip = a_bucket(store, "watched", enforce=False), a_bucket(store, "ip")
    assert (await buckets.spend([ip])).allowed
    assert not (await buckets.spend([watched, ip])).allowed
    assert await stored(store, watched) == [None]


async def test_the_same_bucket_named_twice_counts_once(store: Store) -> None:
    """And it is enforced if one of its names says so."""
    buckets, ip = Buckets(store), a_bucket(store, "ip")
    watched = a_bucket(store, "ip", enforce=False)
    ruling = await buckets.spend([watched, ip, ip])
    assert (ruling.allowed, len(ruling.tickets)) == (True, 1)
    assert not (await buckets.spend([watched, ip])).allowed


async def test_different_values_have_different_buckets(store: Store) -> None:
    """One client's spending is no other's."""
    buckets = Buckets(store)
    assert (await buckets.spend([a_bucket(store, "ip", hashed="a")])).allowed
    assert (await buckets.spend([a_bucket(store, "ip", hashed="b")])).allowed
    assert not (await buckets.spend([a_bucket(store, "ip", hashed="a")])).allowed


async def test_a_bucket_is_forgotten_when_it_is_empty(store: Store) -> None:
    """Its key lives as long as it has something in it, after a spend and after a refund."""
    buckets, ip = Buckets(store), a_bucket(store, "ip", 2)
    await buckets.spend([ip])
    assert 3_590_000 < await store.execute(ip.key, "PTTL", ip.key) <= 3_600_001
    await buckets.spend([ip])
    assert 7_190_000 < await store.execute(ip.key, "PTTL", ip.key) <= 7_200_001
    await buckets.refund([ip.ticket()])
    assert 3_590_000 < await store.execute(ip.key, "PTTL", ip.key) <= 3_600_001


async def test_it_is_allowed_again_when_told(store: Store) -> None:
    """A short bucket refuses, and after its retry_after_s, by the store's own clock, allows."""
    buckets = Buckets(store)
    short = Meter.of("short", a_limit(1, 0.05), store.names).bucket("h")
    assert (await buckets.spend([short])).allowed
    ruling = await buckets.spend([short])
    assert not ruling.allowed
    # The store itself waits: BLPOP on a key that nobody fills.
    await store.blocking(
        f"{store.names.prefix}:nobody", "BLPOP", f"{store.names.prefix}:nobody", ruling.retry_after_s + 0.01, wait_s=1
    )
    assert (await buckets.spend([short])).allowed


async def test_nothing_to_ask_asks_nobody(tmp_path: Path) -> None:
    """Without buckets a request is allowed and a refund done, store or no store; with one, no store is no answer."""
    away = Store(f"unix://{tmp_path}/nobody.sock")
    buckets = Buckets(away)
    assert await buckets.spend([]) == Ruling(allowed=True)
    await buckets.refund(())
    await buckets.refund((), "message")
    with pytest.raises(StoreAwayError):
        await buckets.spend([a_bucket(away, "ip")])
    with pytest.raises(StoreAwayError):
        await buckets.refund([a_bucket(away, "ip").ticket()])
    await away.close()


@pytest.mark.parametrize(
    ("mode", "route_enforces", "enforces"),
    [
        ("enforce", True, True),
        ("enforce", False, False),
        ("observe", True, False),
        ("observe", False, False),
        ("captcha", True, False),
        ("captcha", False, False),
    ],
)
def test_only_limit_and_route_together_enforce(
    mode: Literal["enforce", "observe", "captcha"], route_enforces: bool, enforces: bool
) -> None:
    """Either one in observe mode makes an observing bucket."""
    limit = model.Limit(key="ip", rate=Rate(20, 3600.0), mode=mode)
    bucket = Meter.of("ip", limit, Names("test"), enforce=route_enforces).bucket("h")
    assert bucket.meter.enforce is enforces
    assert bucket.meter.demands is (mode == "captcha"), "an observed route notes what would be demanded"
    assert bucket.meter.limit.burst == 20


def demanding(store: Store, name: str, burst: int) -> Bucket:
    """A bucket that demands a captcha when it is full; its key is that of `a_bucket`."""
    return Meter.of_rate(name, Rate(1, 3600.0), store.names, burst=burst, demands=True).bucket("h")


async def test_a_full_bucket_that_demands_a_captcha_refuses_until_one_is_solved(store: Store) -> None:
    """Nothing is spent meanwhile, of no bucket; once it is solved, it is taken from where there is room."""
    buckets, ip, free = Buckets(store), a_bucket(store, "ip", 5), demanding(store, "free", 2)
    for _ in range(2):
        ruling = await buckets.spend([ip, free])
        assert (ruling.allowed, ruling.demanded, len(ruling.tickets)) == (True, (), 2)
    before = await stored(store, ip, free)

    ruling = await buckets.spend([ip, free])
    assert (ruling.allowed, ruling.demanded, ruling.refused, ruling.tickets) == (False, ("free",), (), ())
    assert await stored(store, ip, free) == before
    assert buckets.full([free]) is None, "that it is full is no refusal"

    ruling = await buckets.spend([ip, free], is_solved=True)
    assert (ruling.allowed, ruling.demanded, ruling.observed) == (True, (), ())
    assert ruling.tickets == (ip.ticket(),)


async def test_a_demand_is_known_without_the_store_until_there_is_room(store: Store) -> None:
    """Of that meter alone; another one, which sees more room in the bucket, refuses nobody by it."""
    clock = Clock()
    buckets, whole, part = Buckets(store, clock), a_bucket(store, "guesses", 5), demanding(store, "guesses", 1)
    taken = await buckets.spend([part])
    assert buckets.demanding([part]) == ()
    assert (await buckets.spend([part])).demanded == ("guesses",)
    assert buckets.demanding([part, whole]) == ("guesses",)
    assert buckets.full([whole, part]) is None
    clock.now = 10.0
    assert buckets.demanding([part]) == (), "another process may have given back"
    await buckets.spend([part])
    assert buckets.demanding([part]) == ("guesses",)
    await buckets.refund(taken.tickets)
    assert buckets.demanding([part]) == ()
    assert (await buckets.spend([part])).allowed


async def test_a_refusal_goes_before_a_demand(store: Store) -> None:
    """Of what refuses and what demands, the states tell only of what refuses, and the wait is for that."""
    buckets, ip, free = Buckets(store), a_bucket(store, "ip", 1), demanding(store, "free", 1)
    assert (await buckets.spend([ip, free])).allowed
    ruling = await buckets.spend([free, ip])
    assert [state.name for state in ruling.refused] == ["ip"]
    assert (ruling.demanded, ruling.allowed) == (("free",), False)
    assert 0 < ruling.retry_after_s <= 3600


async def test_a_part_of_a_bucket_demands_before_the_whole_refuses(store: Store) -> None:
    """One bucket under two meters: three of five are free, the others need a captcha, and none of them is lost."""
    buckets, whole, part = Buckets(store), a_bucket(store, "guesses", 5), demanding(store, "guesses", 3)
    assert whole.key == part.key
    rulings = await asyncio.gather(*(buckets.spend([part]) for _ in range(20)))
    assert sum(ruling.allowed for ruling in rulings) == 3
    assert {ruling.demanded for ruling in rulings if not ruling.allowed} == {("guesses",)}
    assert [(await buckets.spend([whole])).allowed for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    "names", [names for count in (2, 3) for names in itertools.permutations(("enforce", "demand", "observe"), count)]
)
async def test_a_bucket_of_several_names_does_as_the_strictest_of_them_says(
    store: Store, names: tuple[str, ...]
) -> None:
    """In whatever order they come: one that enforces, then one that demands a captcha, then one that observes."""
    buckets = Buckets(store)
    named = {
        "enforce": a_bucket(store, "ip"),
        "demand": demanding(store, "ip", 1),
        "observe": a_bucket(store, "ip", enforce=False),
    }
    assert (await buckets.spend([named["enforce"]])).allowed
    ruling = await buckets.spend([named[name] for name in names])
    strictest = next(name for name in named if name in names)
    assert ruling.allowed is (strictest == "observe")
    assert [state.name for state in ruling.refused] == ["ip"] * (strictest == "enforce")
    assert ruling.demanded == ("ip",) * (strictest == "demand")
    assert ruling.observed == ("ip",) * (strictest == "observe")


# Words in HTTP…


def test_fields_as_the_draft_writes_them() -> None:
    """RateLimit-Policy and RateLimit of draft 10, integers rounded up, names as structured-field strings."""
    states = [LimitState("ip", 1, 60.0, 0, 59.2), LimitState('a "b" \\ 每\n', 20, 0.5, 7, 0.0)]
    assert rate_limit_fields(states) == [
        ("RateLimit-Policy", '"ip";q=1;w=60, "a \\"b\\" \\\\ ??";q=20;w=1'),
        ("RateLimit", '"ip";r=0;t=60, "a \\"b\\" \\\\ ??";r=7;t=0'),
    ]
    assert rate_limit_fields([]) == []


@pytest.mark.parametrize(
    ("ip", "customer", "site"),
    [
        ("192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/48"),
    ],
)
def test_whom_an_address_stands_for(ip: str, customer: str, site: str) -> None:
    """IPv4 counts whole and by /24, IPv6 by /64 and /48, IPv4 in IPv6 as IPv4."""
    assert client_key("ip", ip) == customer
    assert client_key("ip_prefix", ip) == site


def test_no_address_is_an_error() -> None:
    """What is no address is nobody's bucket."""
    with pytest.raises(ValueError, match="does not appear to be"):
        client_key("ip", "unix:")
