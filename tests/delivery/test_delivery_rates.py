"""Who waits for whom, on a clock of the loop's own."""

import asyncio

from awake import awake

from sidecar.config.units import Rate
from sidecar.delivery.rates import Rates
from sidecar.errors import StoreAwayError
from sidecar.limits.buckets import Buckets, Meter
from sidecar.store.client import Store


class Account:
    """One send in every `interval_s`, on the loop's clock."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.free_at = 0.0
        self.taken: list[float] = []

    async def take(self, provider: str) -> float:
        now = asyncio.get_running_loop().time()
        if now < self.free_at:
            return self.free_at - now
        self.free_at = now + self.interval_s
        self.taken.append(now)
        return 0.0


async def test_provider_without_a_rate_has_no_line() -> None:
    async def never(provider: str) -> float:
        raise AssertionError

    assert await Rates(frozenset({"other"}), never).turn("a", 0.0, 0.0)


async def test_who_must_be_there_first_goes_first() -> None:
    account = Account(0.02)
    rates = Rates(frozenset({"a"}), account.take)
    now = asyncio.get_running_loop().time()
    account.free_at = now + 0.02
    order: list[int] = []

    async def wait(number: int, deadline_s: float) -> None:
        assert await rates.turn("a", now + deadline_s, 10)
        order.append(number)

    await asyncio.gather(wait(1, 9), wait(2, 7), wait(3, 8))
    assert order == [2, 3, 1]


async def test_who_cannot_be_there_in_time_is_told_at_once_and_takes_nothing() -> None:
    account = Account(60)
    rates = Rates(frozenset({"a"}), account.take)
    until = asyncio.get_running_loop().time() + 5
    with awake() as took:
        assert await rates.turn("a", until, 5)
        assert not await rates.turn("a", until, 5)
        assert took() < 2
    assert len(account.taken) == 1
    await rates.close()


async def test_who_loses_patience_leaves_the_line_to_others() -> None:
    account = Account(0.1)
    rates = Rates(frozenset({"a"}), account.take)
    now = asyncio.get_running_loop().time()
    account.free_at = now + 0.1
    impatient, patient = await asyncio.gather(rates.turn("a", now + 5, 0.01), rates.turn("a", now + 9, 9))
    assert (impatient, patient) == (False, True)
    assert len(account.taken) == 1


async def test_what_is_closed_asks_for_no_more_turns() -> None:
    """Neither the line that somebody stood in nor the one that nobody ever did has work of its own left."""
    account = Account(60)
    rates = Rates(frozenset({"a", "b"}), account.take)
    now = asyncio.get_running_loop().time()
    assert await rates.turn("a", now + 600, 600)
    waiting = asyncio.create_task(rates.turn("a", now + 600, 600))
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 3
    await rates.close()
    assert asyncio.all_tasks() == {asyncio.current_task(), waiting}
    waiting.cancel()


async def test_nobody_goes_while_the_store_is_away() -> None:
    """A rate that cannot be counted is not taken for free."""

    async def away(provider: str) -> float:
        raise StoreAwayError

    now = asyncio.get_running_loop().time()
    rates = Rates(frozenset({"a"}), away)
    assert not await rates.turn("a", now + 0.05, 1)
    await rates.close()


async def test_two_workers_together_keep_the_rate(store: Store) -> None:
    """Twenty a second, by the store's clock: eleven sends take half a second, however many send."""
    bucket = Meter.of_rate("provider", Rate(20, 1.0), store.names, burst=1).bucket("a")

    async def take(provider: str) -> float:
        ruling = await Buckets(store).spend([bucket])
        return 0.0 if ruling.allowed else ruling.retry_after_s

    clock = asyncio.get_running_loop().time
    workers = [Rates(frozenset({"a"}), take) for _ in range(2)]
    started = clock()
    turns = await asyncio.gather(*(workers[i % 2].turn("a", started + 10, 10) for i in range(11)))
    assert all(turns)
    assert clock() - started >= 0.5
