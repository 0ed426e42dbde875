"""The outbox on a real store: bounded, leased, never lost."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from vendors import SOON_S

from sidecar.delivery.outbox import Entry, Outbox, Unreadable
from sidecar.errors import Refusal, StoreAwayError
from sidecar.store.client import Store

ENTRY = Entry(
    verification_id="ab-1",
    sealed=bytes(range(256)),
    locale="zh-CN",
    tickets=("1000:{x}:bucket", "é"),
    expires_at=1_700_000_000.25,
    request_id="r-1",
)


@pytest.fixture
def outbox(store: Store) -> Outbox:
    return Outbox(store)


async def take(outbox: Outbox, count: int = 10) -> list[str]:
    """Lease what is there; the first call of all may only make the group."""
    return [leased.id for leased in await outbox.lease(count, 0.01) or await outbox.lease(count, 0.01)]


async def age(store: Store, seconds: float) -> None:
    """Make every lease look as if nobody had renewed it for so long."""
    key = store.names.outbox()
    for message_id, consumer, _, _ in await store.execute(key, "XPENDING", key, "couriers", "-", "+", 1000):
        age_ms = int(seconds * 1000)
        await store.execute(key, "XCLAIM", key, "couriers", consumer, 0, message_id, "IDLE", age_ms, "JUSTID")


async def test_message_comes_out_as_it_was_put(outbox: Outbox) -> None:
    await take(outbox)
    message_id = await outbox.put(ENTRY)
    leased = await outbox.lease(1, 0.01)
    assert leased == [ENTRY]
    assert [one.id for one in leased] == [message_id]


async def test_message_is_leased_in_the_step_that_queues_it(store: Store, outbox: Outbox) -> None:
    """Nobody else is offered it, and its lease ends like any other when nobody renews it."""
    await take(outbox)
    leased = await outbox.put_and_lease(ENTRY)
    assert leased is ENTRY
    assert await take(Outbox(store)) == []
    await age(store, 6)
    assert [(one.id, one) for one in await Outbox(store).reclaim(5, 10)] == [(leased.id, ENTRY)]


async def test_the_oldest_is_leased_first_in_the_step_that_queues_another(outbox: Outbox) -> None:
    """Whoever came last does not go before those that wait."""
    await take(outbox)
    old, older = replace(ENTRY, locale="en"), replace(ENTRY, locale="de")
    ids = [await outbox.put(older), await outbox.put(old)]
    leased = [await outbox.put_and_lease(ENTRY) for _ in range(3)]
    assert leased == [older, old, ENTRY]
    assert [one.id for one in leased if one][:2] == ids
    assert len(await take(outbox)) == 2


async def test_nothing_is_leased_of_an_outbox_that_no_courier_has_seen(outbox: Outbox) -> None:
    """The message is queued all the same, and is there when one comes."""
    assert await outbox.put_and_lease(ENTRY) is None
    assert len(await take(outbox)) == 1


async def test_full_outbox_leases_nothing(store: Store) -> None:
    outbox = Outbox(store, max_messages=1)
    await take(outbox)
    await outbox.put(ENTRY)
    with pytest.raises(Refusal, match="outbox_full"):
        await outbox.put_and_lease(ENTRY)
    assert len(await take(outbox)) == 1


async def test_answer_is_written_with_its_message_or_not_at_all(store: Store) -> None:
    small = Outbox(store, max_messages=1)
    for name, is_queued in (("first", True), ("second", False)):
        key = store.names.answered(name)
        with contextlib.nullcontext() if is_queued else pytest.raises(Refusal, match="outbox_full"):
            await small.put(ENTRY, (key, b"its answer", 60_000))
        assert await store.execute(key, "GET", key) == (b"its answer" if is_queued else None)
        assert await store.execute(key, "PTTL", key) <= 60_000


async def test_messages_put_before_any_courier_came_are_not_lost(outbox: Outbox) -> None:
    ids = [await outbox.put(ENTRY) for _ in range(3)]
    assert await take(outbox) == ids


async def test_leased_message_is_leased_once(store: Store, outbox: Outbox) -> None:
    """Two couriers, ten messages: each goes to one of them."""
    other = Outbox(store)
    ids = [await outbox.put(ENTRY) for _ in range(10)]
    mine = await take(outbox, 4)
    theirs = await take(other, 10)
    assert sorted(mine + theirs) == sorted(ids)
    assert len(mine) == 4


async def test_lease_waits_for_a_message(outbox: Outbox) -> None:
    await take(outbox)
    waiting = asyncio.create_task(outbox.lease(1, SOON_S))
    message_id = await outbox.put(ENTRY)
    assert [leased.id for leased in await asyncio.wait_for(waiting, SOON_S)] == [message_id]


async def test_full_outbox_refuses_and_takes_again_when_there_is_room(store: Store) -> None:
    outbox = Outbox(store, max_messages=2)
    await outbox.put(ENTRY)
    await outbox.put(ENTRY)
    with pytest.raises(Refusal) as caught:
        await outbox.put(ENTRY)
    assert (caught.value.code, caught.value.reason) == ("overloaded", "outbox_full")
    assert caught.value.retry_after_s
    taken = await take(outbox)
    with pytest.raises(Refusal):  # a leased message still counts
        await outbox.put(ENTRY)
    await outbox.ack(taken[0])
    await outbox.put(ENTRY)
    assert await outbox.length() == 2


async def test_bound_holds_when_many_put_at_once(store: Store) -> None:
    outbox = Outbox(store, max_messages=5)
    came_to = await asyncio.gather(*(outbox.put(ENTRY) for _ in range(30)), return_exceptions=True)
    assert sum(isinstance(one, str) for one in came_to) == 5
    assert sum(isinstance(one, Refusal) for one in came_to) == 25
    assert await outbox.length() == 5


async def test_lease_that_nobody_renews_is_taken_over(store: Store, outbox: Outbox) -> None:
    message_id = await outbox.put(ENTRY)
    assert await take(outbox) == [message_id]
    other = Outbox(store)
    assert await other.reclaim(5, 10) == [], "it is still fresh"
    await age(store, 6)
    assert [(one.id, one) for one in await other.reclaim(5, 10)] == [(message_id, ENTRY)]


async def test_renewed_lease_stays(store: Store, outbox: Outbox) -> None:
    message_id = await outbox.put(ENTRY)
    await take(outbox)
    await age(store, 6)
    await outbox.renew([message_id])
    assert await Outbox(store).reclaim(5, 10) == []


async def test_reclaim_takes_no_more_than_asked_for_and_leaves_the_rest(store: Store, outbox: Outbox) -> None:
    """Among many fresh leases, the old ones are found."""
    ids = [await outbox.put(ENTRY) for _ in range(300)]
    await take(outbox, 300)
    await age(store, 6)
    await outbox.renew(ids[:290])
    first, second = Outbox(store), Outbox(store)
    assert [one.id for one in await first.reclaim(5, 4)] == ids[290:294]
    assert [one.id for one in await second.reclaim(5, 64)] == ids[294:]


async def test_acked_message_is_gone_for_good(store: Store, outbox: Outbox) -> None:
    """Neither leased again, nor reclaimed, nor brought back by a late renewal or a second ack."""
    message_id = await outbox.put(ENTRY)
    await take(outbox)
    await age(store, 6)
    await outbox.ack(message_id)
    await outbox.renew([message_id])
    await outbox.ack(message_id)
    assert await outbox.length() == 0
    assert await outbox.reclaim(0, 10) == []
    assert await take(outbox) == []


@pytest.mark.parametrize(
    ("fields", "verification_id"),
    [
        (("verification", "ab-1"), "ab-1"),
        (("nonsense", b"\xff"), ""),
        (
            (
                *("verification", "ab-1", "sealed", "x", "locale", "en", "tickets", "{", "expires_at", "1"),
                *("request", "r"),
            ),
            "ab-1",
        ),
        (
            (
                *("verification", "ab-1", "sealed", "x", "locale", "en", "tickets", "7", "expires_at", "1"),
                *("request", "r"),
            ),
            "ab-1",
        ),
        (("verification", b"\xff\xfe", "sealed", "x"), "��"),
    ],
)
async def test_unreadable_message_is_leased_as_such(
    store: Store, outbox: Outbox, fields: tuple[str | bytes, ...], verification_id: str
) -> None:
    """The courier has to get it out of the way, so it must see it."""
    await take(outbox)
    await store.execute(store.names.outbox(), "XADD", store.names.outbox(), "*", *fields)
    [leased] = await outbox.lease(1, 0.01)
    assert leased == Unreadable(leased.id, verification_id)


async def test_outbox_that_was_wiped_goes_on(store: Store, outbox: Outbox) -> None:
    await outbox.put(ENTRY)
    await take(outbox)
    await store.execute(store.names.outbox(), "DEL", store.names.outbox())
    assert await outbox.reclaim(0, 10) == []
    assert await outbox.lease(1, 0.01) == []
    message_id = await outbox.put(replace(ENTRY, locale="en"))
    assert await take(outbox) == [message_id]


async def test_courier_that_leaves_is_forgotten_but_not_its_leases(store: Store, outbox: Outbox) -> None:
    async def couriers() -> int:
        return len(await store.execute(store.names.outbox(), "XINFO", "CONSUMERS", store.names.outbox(), "couriers"))

    idle, busy = Outbox(store), outbox
    message_id = await busy.put(ENTRY)
    await take(busy)
    await take(idle)
    assert await couriers() == 2
    await idle.leave()
    await busy.leave()
    assert await couriers() == 1
    await age(store, 6)
    assert [one.id for one in await idle.reclaim(5, 10)] == [message_id]


async def test_leaving_before_there_is_an_outbox_does_nothing(outbox: Outbox) -> None:
    await outbox.leave()
    assert await outbox.length() == 0


async def test_store_that_is_away_is_told(store: Store) -> None:
    away = Store("redis://127.0.0.1:1", timeout_s=0.5)
    outbox = Outbox(away)
    try:
        for ask in (outbox.put(ENTRY), outbox.lease(1, 0.01), outbox.reclaim(5, 1), outbox.ack("1-1"), outbox.length()):
            with pytest.raises(StoreAwayError):
                await ask
    finally:
        await away.close()
