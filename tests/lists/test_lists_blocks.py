"""What administrators block, in a real store, as one instance sees it: from when, and until when."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import inf

import pytest
from stores import a_store, a_switch

from sidecar import ranges
from sidecar.errors import StoreAwayError
from sidecar.events import BlockBegan, BlockEnded, Event, StoreRefused
from sidecar.life import ended
from sidecar.lists.blocks import MOST, Blocks, Register
from sidecar.lists.rules import Added
from sidecar.lists.targets import Target, read
from sidecar.store.client import Store

DEADLINE_S = 30.0


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Instance:
    """One instance's blocks, on a clock of its own, and what it told."""

    store: Store
    clock: Clock = field(default_factory=Clock)
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blocks = Blocks(self.store, self.told.append, self.clock)

    def refuses(self, ip: str) -> bool:
        addresses = self.blocks.in_force().addresses
        return addresses is not None and addresses.value(ranges.address(ip)) == 1


def target(text: str) -> Target:
    return read(text, lambda _: None, lambda _: ())


async def test_what_one_adds_every_other_refuses_until_its_end(store: Store) -> None:
    """By its own steady clock; and each instance tells when it began and when it ended, once."""
    register, ours, other = Register(store), Instance(store), Instance(store)
    other.clock.now = 5.0
    for one in (ours, other):
        await one.blocks.look()
        assert not one.blocks.in_force()
    assert await register.add(target("203.0.113.0/24"), 60)
    for one in (ours, other):
        await one.blocks.look()
        await one.blocks.look()
        assert one.refuses("203.0.113.200")
        assert not one.refuses("203.0.114.1")
        [began] = one.told
        assert isinstance(began, BlockBegan)
        assert (began.what, began.seconds) == ("203.0.113.0/24", 60)
        one.clock.now += 58
        assert one.refuses("203.0.113.200")
        one.clock.now += 3
        assert not one.refuses("203.0.113.200")
        assert not one.blocks.in_force()
        assert one.told[1:] == [BlockEnded(what="203.0.113.0/24", why="over")]


async def test_ranges_that_meet_end_each_at_its_own_end(store: Store) -> None:
    register, one = Register(store), Instance(store)
    await register.add(target("203.0.113.0/24"), 10)
    await register.add(target("203.0.113.128/25"), 100)
    await register.add(target("203.0.113.255"), 0)
    await one.blocks.look()
    assert all(map(one.refuses, ("203.0.113.1", "203.0.113.129", "203.0.113.255")))
    one.clock.now += 50
    assert [one.refuses(ip) for ip in ("203.0.113.1", "203.0.113.129", "203.0.113.255")] == [False, True, True]
    one.clock.now += 1e9
    assert [one.refuses(ip) for ip in ("203.0.113.129", "203.0.113.255")] == [False, True]


async def test_a_block_that_is_removed_is_none_and_a_longer_one_takes_its_place(store: Store) -> None:
    register, one = Register(store), Instance(store)
    await register.add(target("+8816"), 0)
    await one.blocks.look()
    assert one.blocks.in_force().beginnings
    await register.add(target("+8816"), 100)
    await one.blocks.look()
    assert await register.remove(target("+88 16"))
    assert not await register.remove(target("+8816"))
    await one.blocks.look()
    assert not one.blocks.in_force()
    assert one.told == [
        BlockBegan(what="+8816"),
        BlockBegan(what="+8816", seconds=100),
        BlockEnded(what="+8816", why="removed"),
    ]


async def test_a_whole_number_is_known_by_its_hash_under_any_secret(store: Store) -> None:
    """Neither the store nor what is told has it in clear; removing it works under each secret that is accepted."""
    register, one = Register(store), Instance(store)
    whole = Target(("#new", "#old"), "+861********01", is_whole=True)
    await register.add(Target(("#old",), "+861********01", is_whole=True), 60)
    await one.blocks.look()
    assert one.blocks.in_force() == Added(whole=frozenset({"old"}))
    assert await register.remove(whole)
    await one.blocks.look()
    assert not one.blocks.in_force()


async def test_no_more_than_so_many_and_those_that_are_over_take_no_room(store: Store) -> None:
    register = Register(store)
    await register.add(target("10.255.0.0/16"), 0.001)
    for number in range(MOST):
        assert await register.add(target(f"10.{number >> 8}.{number & 255}.0/24"), 60)
    _, blocks = await register.read()
    assert blocks is not None
    assert len(blocks) == MOST
    assert not await register.add(target("192.0.2.0/24"), 60)
    assert await store.execute(store.names.blocks(), "HLEN", store.names.blocks()) == MOST + 1  # and the version
    assert await register.add(target("10.0.0.0/24"), 120)
    assert await register.remove(target("10.0.1.0/24"))
    assert await register.add(target("192.0.2.0/24"), 0)
    _, blocks = await register.read()
    assert blocks is not None
    assert (len(blocks), blocks[-1].shown, blocks[-1].left_s, blocks[-2].left) == (MOST, "192.0.2.0/24", inf, 120)


async def test_while_the_store_is_away_what_is_known_stays_until_its_end(store: Store, store_url: str) -> None:
    """A store that is gone lets nobody in whom it had blocked, and keeps nobody out for longer."""
    async with AsyncExitStack() as stack:
        async with a_switch(store_url) as way:
            far = await stack.enter_async_context(a_store(way.url, prefix=store.names.prefix, timeout_s=0.3))
            one = Instance(far)
            await Register(store).add(target("203.0.113.0/24"), 60)
            await one.blocks.look()
        await Register(store).remove(target("203.0.113.0/24"))
        for _ in range(3):
            with pytest.raises(StoreAwayError):
                await one.blocks.look()
            assert one.refuses("203.0.113.1")
        one.clock.now += 61
        assert not one.refuses("203.0.113.1")
        assert one.told[1:] == [BlockEnded(what="203.0.113.0/24", why="over")]


async def test_looking_goes_on_through_a_store_that_is_away_for_a_while(store: Store, store_url: str) -> None:
    """The task that looks, on the real clock: what was added meanwhile is in force once it is back, within a second."""
    async with a_switch(store_url) as way, a_store(way.url, prefix=store.names.prefix, timeout_s=0.2) as far:
        told: list[Event] = []
        blocks = Blocks(far, told.append)
        looking = asyncio.create_task(blocks.run())
        try:
            await Register(store).add(target("203.0.113.0/24"), 60)
            await until(lambda: bool(told))
            await way.silence()
            await Register(store).add(target("198.51.100.0/24"), 60)
            await until(lambda: len(told) > 1)
            assert [event.what for event in told if isinstance(event, BlockBegan)] == [
                "203.0.113.0/24",
                "198.51.100.0/24",
            ]
        finally:
            await ended(looking)


async def test_looking_goes_on_through_an_answer_that_nobody_can_read(store: Store) -> None:
    """Strange data under its name is told once, and does not end the task: once it is gone, blocks are seen again."""
    told: list[Event] = []
    key = store.names.blocks()
    await store.execute(key, "SET", key, "strange")
    blocks = Blocks(store, told.append)
    looking = asyncio.create_task(blocks.run())
    try:
        await until(lambda: bool(told))
        assert told == [StoreRefused(reason="WRONGTYPE")]
        await store.execute(key, "DEL", key)
        await Register(store).add(target("203.0.113.0/24"), 60)
        await until(lambda: len(told) > 1)
        assert told[1:] == [BlockBegan(what="203.0.113.0/24", seconds=60)]
        assert not looking.done()
    finally:
        await ended(looking)


async def test_an_unchanged_list_is_one_short_command(store: Store) -> None:
    """Of a thousand blocks nothing travels twice."""
    register, one = Register(store), Instance(store)
    for number in range(50):
        await register.add(target(f"10.0.{number}.0/24"), 60)
    await one.blocks.look()
    replies = []
    run = store.run
    store.run = lambda *a, **k: replies.append(run(*a, **k)) or replies[-1]  # type: ignore[method-assign,func-returns-value]
    await one.blocks.look()
    assert [len(await reply) for reply in replies] == [2]


async def test_a_store_that_was_emptied_blocks_nobody(store: Store) -> None:
    """What it says is the truth, also when it has forgotten."""
    register, one = Register(store), Instance(store)
    await register.add(target("203.0.113.0/24"), 60)
    await one.blocks.look()
    await store.execute(store.names.blocks(), "DEL", store.names.blocks())
    await one.blocks.look()
    assert not one.blocks.in_force()
    assert one.told[1:] == [BlockEnded(what="203.0.113.0/24", why="removed")]


async def test_what_a_later_version_blocks_is_passed_over(store: Store) -> None:
    """Instances are replaced one after another; what one of them cannot read must not stop its looking."""
    register, one = Register(store), Instance(store)
    await register.add(Target(("@agent:curl/",), "curl/"), 60)
    await register.add(target("203.0.113.0/24"), 60)
    await one.blocks.look()
    assert one.refuses("203.0.113.1")


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.02)
