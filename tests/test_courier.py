"""The story of a message, on a real store with real vendors on loopback."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from couriers import TICKETS, Post, post, uncounted
from structlog.testing import capture_logs
from vendors import SOON_S, Vendor, closed_port, vendor

from sidecar import courier as story
from sidecar.config.model import Breaker, CodeRules, Config, Delivery
from sidecar.config.units import Rate
from sidecar.courier import Courier
from sidecar.delivery import send
from sidecar.delivery.breakers import Key
from sidecar.delivery.outbox import Answered, Entry, Leased, Outbox
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, Receipt, ReceiptState
from sidecar.delivery.rates import Rates
from sidecar.errors import StoreAwayError
from sidecar.limits.buckets import Buckets, Meter
from sidecar.limits.sends import Prices, Sends
from sidecar.line import Line
from sidecar.recipient import Recipient, parse
from sidecar.store.client import ReplyError, Store

PHONE = parse("+8613900000001", "sms", "CN")
OTHER = parse("+8613900000002", "sms", "CN")
BUSY = (429, "")  # passes
POOR = (402, '{"error": "balance"}')
BLOCKED = (400, '{"error": "number_blocked"}')
# So long that nobody has waited for it.
NEVER = 600.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty outbox is looked at again sooner than need be, so that draining takes no time."""
    monkeypatch.setattr(story, "_LEASE_WAIT_S", 0.05)
    monkeypatch.setattr(story, "_DUE_EVERY_S", 0.05)
    monkeypatch.setattr(story, "_END_MARGIN_S", 0.05)
    monkeypatch.setattr(send, "_PAUSE_S", 0.05)


@asynccontextmanager
async def delivering(courier: Courier) -> AsyncIterator[Courier]:
    """A courier at work; drained at the end, so everything that it began is over."""
    running = asyncio.create_task(courier.run())
    try:
        async with asyncio.timeout(2 * SOON_S):
            yield courier
    finally:
        await courier.drain(SOON_S)
    await asyncio.wait_for(running, SOON_S)


@asynccontextmanager
async def two(store: Store, *rules: Delivery, **other: Any) -> AsyncIterator[tuple[Vendor, Vendor, Post]]:
    async with (
        vendor() as first,
        vendor() as second,
        post(store, {"first": first.url, "second": second.url}, *rules, **other) as it,
    ):
        yield first, second, it


async def marked(it: Post) -> tuple[str, str]:
    return await asyncio.wait_for(it.marked.get(), SOON_S)


@asynccontextmanager
async def learning(it: Post) -> AsyncIterator[None]:
    """The breakers at work."""
    task = asyncio.create_task(it.breakers.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(is_so: Callable[[], bool]) -> None:
    """What happens in the background has no event of its own: look until it has."""
    async with asyncio.timeout(SOON_S):
        while not is_so():
            await asyncio.sleep(0.005)


# What comes of a message…


async def test_accepted_message_is_sent_with_the_code_that_check_expects(store: Store) -> None:
    async with two(store, code_rules=CodeRules(origin="example.com")) as (first, second, it):
        first.answers(202, '{"id": "v-1"}')
        verification_id = await it.ask(PHONE, locale="de-AT")
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "sent")
        code = it.verifications.code(verification_id, PHONE)
        body = json.loads(first.asked[0].body)
        assert (body["to"], body["code"], body["locale"]) == ("+8613900000001", code, "de-AT")
        assert body["text"] == (
            f"{code} ist Ihr Bestätigungscode. 5 Min. gültig. Geben Sie ihn nicht weiter.\n\n@example.com #{code}"
        )
        assert await it.status(verification_id) == "sent"
        assert await it.outbox.length() == 0
        assert not it.refunded
        assert not second.asked
        assert it.count("sidecar_attempts_total", provider="first", outcome="accepted") == 1


async def test_refused_message_goes_to_the_next_provider(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), switch_after=NEVER)
    async with two(store, rule) as (first, second, it):
        first.answers(*BUSY)
        second.answers(202, "")
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "sent")
        assert (len(first.asked), len(second.asked)) == (1, 1)
        assert it.count("sidecar_attempts_total", provider="first", outcome="rejected") == 1
        assert it.count("sidecar_attempts_total", provider="second", outcome="accepted") == 1


async def test_message_that_all_refuse_is_failed_and_given_back_once(store: Store) -> None:
    async with two(store) as (first, second, it):
        first.answers(*POOR)
        second.answers(*POOR)
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
        assert await it.status(verification_id) == "failed"
        assert it.refunded == [TICKETS]
        assert await it.outbox.length() == 0


@pytest.mark.parametrize("counts_now", [False, True])
async def test_message_that_all_refuse_is_failed_whether_or_not_sends_were_counted_when_it_was_queued(
    store: Store, counts_now: bool
) -> None:
    """A reload may set up [pumping], or take it away, while a message waits: it gets its tickets back all the same."""
    config = Config.model_validate({"upstream": {"url": "http://127.0.0.1:1"}, "pumping": {"mode": "enforce"}})
    async with two(store) as (first, second, it):
        first.answers(*POOR)
        second.answers(*POOR)
        sends = Sends(store, config, Prices({}, ()), str, it.tell) if counts_now else None
        ticket = "" if counts_now else "number 1 20000 CN 0"
        verification_id = await it.ask(PHONE, send_ticket=ticket)
        with capture_logs() as logs:
            async with delivering(it.courier(sends=sends)):
                assert await marked(it) == (verification_id, "failed")
                await until_empty(it)
        assert it.refunded == [TICKETS]
        assert {one["event"] for one in logs} == {"attempt", "message_failed"}
        assert [letter.reason for letter in await it.outbox.dead()] == [
            "first: balance (balance), second: balance (balance)"
        ]


async def test_whoever_is_told_that_it_failed_has_been_given_back_what_it_cost(store: Store) -> None:
    """They may ask again in the same moment, and are not refused for what they did not get."""
    said: list[str | None] = []
    async with two(store) as (first, second, it):
        first.answers(*POOR)
        second.answers(*POOR)
        verification_id = await it.ask(PHONE)

        async def refund(tickets: Sequence[str], once: str) -> None:
            said.append(await it.status(verification_id))

        async with delivering(it.courier(refund=refund)):
            assert await marked(it) == (verification_id, "failed")
    assert said == ["queued"]


async def test_number_at_fault_is_failed_without_asking_anybody_else(store: Store) -> None:
    async with two(store) as (first, second, it):
        first.answers(*BLOCKED)
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
        assert not second.asked
        assert it.refunded == [TICKETS]


async def test_silence_of_all_is_not_a_failure(store: Store) -> None:
    """Somebody may have the message: it is unconfirmed, which is a warning, and nothing is given back."""
    rule = Delivery(providers=("first", "second"), switch_after=0.05, attempt_timeout=0.2)
    async with two(store, rule) as (first, second, it):
        first.hangs()
        second.hangs()
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "unconfirmed")
        assert not it.refunded
        assert await it.outbox.length() == 0
        assert it.count("sidecar_attempts_total", provider="first", outcome="uncertain") == 1


async def test_message_is_done_when_one_accepts_and_the_late_other_is_counted(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), switch_after=0.05, attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, second, it):
        first.hangs(202)
        second.answers(202, "")
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "sent")
            assert it.count("sidecar_delivery_duplicates_total", provider="first") == 0
            first.released.set()
        assert it.count("sidecar_delivery_duplicates_total", provider="first") == 1
        assert it.marked.empty(), "the late answer changes nothing"


async def test_rule_decides_by_country(store: Store) -> None:
    rules = (Delivery(countries=("US",), providers=("first",)), Delivery(providers=("second",)))
    async with two(store, *rules) as (first, second, it):
        first.answers(202, "")
        second.answers(202, "")
        await it.ask(PHONE)
        await it.ask(parse("+14155550100", "sms", "US"))
        async with delivering(it.courier()):
            await marked(it)
            await marked(it)
        assert [json.loads(one.body)["to"] for one in first.asked] == ["+14155550100"]
        assert [json.loads(one.body)["to"] for one in second.asked] == ["+8613900000001"]


async def test_number_that_no_rule_matches_is_failed_and_given_back(store: Store) -> None:
    async with two(store, Delivery(countries=("US",), providers=("first",))) as (first, _, it):
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
        assert it.refunded == [TICKETS]
        assert not first.asked


async def test_address_that_no_provider_carries_is_failed_and_given_back(store: Store) -> None:
    class SmsOnly:
        channels = frozenset({"sms"})

    async with two(store) as (_, _, it):
        verification_id = await it.ask(parse("a@example.com", "email", "CN"))
        async with delivering(it.courier(router=it.router({"first": SmsOnly(), "second": SmsOnly()}))):
            assert await marked(it) == (verification_id, "failed")
        assert it.refunded == [TICKETS]


# What is not sent…


async def test_message_whose_code_has_died_is_not_sent(store: Store) -> None:
    async with two(store) as (first, _, it):
        verification_id = await it.ask(PHONE, dies_at=time.time() - 1)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
        assert not first.asked
        assert await it.outbox.length() == 0


@pytest.mark.parametrize("off_s", [-3600, 3600])
async def test_clock_that_is_wrong_neither_fails_nor_drops_a_message(store: Store, off_s: float) -> None:
    """How long a code lives is the store's to say, which checks it; and asking again may have made it longer."""
    async with two(store) as (first, _, it):
        first.answers(202, "")
        verification_id = await it.ask(PHONE, expires_at=time.time() + off_s)
        dead = await it.ask(OTHER, dies_at=time.time() - 1, expires_at=time.time() + off_s)
        async with delivering(it.courier()):
            assert {await marked(it), await marked(it)} == {(verification_id, "sent"), (dead, "failed")}
        assert len(first.asked) == 1


@pytest.mark.parametrize("name", ["early", "breakers"])
async def test_strange_data_beside_a_message_does_not_make_it_failed(store: Store, name: str) -> None:
    """Early receipts and breakers are looked at around an attempt, which has come to what the vendor said."""
    await store.execute(getattr(store.names, name)(), "SET", getattr(store.names, name)(), "strange")
    async with two(store) as (first, _, it):
        first.answers(202, "")
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "sent")
        assert len(first.asked) == 1


async def test_message_whose_code_was_used_is_not_sent(store: Store) -> None:
    """A repeat in the queue is not worth sending once the first one has done its work."""
    async with two(store) as (first, _, it):
        first.answers(202, "")
        done = await it.ask(PHONE)
        code = it.verifications.code(done, PHONE)
        assert code
        async with await it.verifications.hold_by_id(done, code, uncounted) as hold:
            await hold.exchange()
        pending = await it.ask(OTHER)
        async with delivering(it.courier()):
            assert await marked(it) == (pending, "sent")
        assert [json.loads(one.body)["to"] for one in first.asked] == [OTHER.address]
        assert await it.status(done) == "verified"
        assert await it.outbox.length() == 0


async def test_message_whose_verification_was_withdrawn_is_not_sent(store: Store) -> None:
    async with two(store) as (first, _, it):
        first.answers(202, "")
        gone = await it.ask(PHONE)
        await store.execute(store.names.verification(gone), "DEL", store.names.verification(gone))
        pending = await it.ask(OTHER)
        async with delivering(it.courier()):
            assert await marked(it) == (pending, "sent")
        assert len(first.asked) == 1
        assert await it.outbox.length() == 0


async def test_message_that_cannot_be_read_is_reported_failed_and_holds_up_nobody(store: Store) -> None:
    """A seal of another secret, missing fields, an id of another secret: each is failed, the next one is sent."""
    async with two(store) as (first, _, it):
        first.answers(202, "")
        sealed_otherwise = await it.ask(PHONE, sealed=b"x" * 40)
        await store.execute(store.names.outbox(), "XADD", store.names.outbox(), "*", "verification", "bare")
        foreign = "ab" + "A" * 30
        await it.ask(PHONE, verification_id=foreign)
        pending = await it.ask(OTHER)
        async with delivering(it.courier()):
            came_to = {await marked(it) for _ in range(4)}
        assert came_to == {
            (sealed_otherwise, "failed"),
            ("bare", "failed"),
            (foreign, "failed"),
            (pending, "sent"),
        }
        assert await it.status(sealed_otherwise) == "failed"
        assert await it.outbox.length() == 0


# What is queued here…


async def never(*_: object) -> Any:
    """For what must not be asked."""
    raise AssertionError


class Blind(Outbox):
    """Finds nothing when it is asked for messages: what it leases, it leases as it queues."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.has_looked = asyncio.Event()

    async def lease(self, count: int, wait_s: float) -> list[Leased]:
        if not self.has_looked.is_set():
            assert not await super().lease(count, 0.001), "it makes the outbox's group"
            self.has_looked.set()
        await asyncio.sleep(wait_s)
        return []


async def until_it_looks(it: Post) -> None:
    """Until a courier has seen the outbox: before, there is nobody to lease to."""
    async with asyncio.timeout(SOON_S):
        while not await it.store.execute(it.store.names.outbox(), "EXISTS", it.store.names.outbox()):
            await asyncio.sleep(0.005)


async def test_message_that_is_queued_here_is_sent_with_what_its_request_knew(store: Store) -> None:
    """Neither is its recipient unsealed, nor its verification read, nor the outbox asked for it."""
    async with two(store) as (first, _, it):
        first.answers(202, "")
        outbox = Blind(store)
        courier = it.courier(outbox=outbox, read=never, open_recipient=never)
        async with delivering(courier):
            await outbox.has_looked.wait()
            verification_id = await it.ask(PHONE, courier)
            assert await marked(it) == (verification_id, "sent")
        said = json.loads(first.asked[0].body)
        assert (said["to"], said["code"]) == (PHONE.address, it.verifications.code(verification_id, PHONE))
        assert said["id"].startswith(f"{verification_id}_")
        assert await it.outbox.length() == 0


async def test_message_of_another_that_waited_longer_is_looked_up_and_goes_first(store: Store) -> None:
    """What the request that queued the next one knew is not taken for it, but remembered for that one's own turn."""
    opened: list[Recipient] = []
    async with two(store) as (first, _, it):
        first.answers(202, "")

        def open_recipient(sealed: bytes) -> Recipient:
            opened.append(it.open_recipient(sealed))
            return opened[-1]

        outbox = Blind(store)
        courier = it.courier(outbox=outbox, open_recipient=open_recipient)
        async with delivering(courier):
            await outbox.has_looked.wait()
            older = await it.ask(OTHER)
            newer = await it.ask(PHONE, courier)
            assert await marked(it) == (older, "sent")
            assert await it.status(newer) == "queued"
            last = await it.ask(PHONE, courier)
            assert await marked(it) == (newer, "sent")
            assert last == newer
        assert [json.loads(one.body)["to"] for one in first.asked] == [OTHER.address, PHONE.address]
        assert json.loads(first.asked[0].body)["code"] == it.verifications.code(older, OTHER)
        assert opened == [OTHER]
        assert await it.outbox.length() == 1


async def test_no_more_is_leased_in_queueing_than_can_be_sent_at_once(store: Store) -> None:
    """However many are queued at the same time; the rest is sent when there is room."""
    rule = Delivery(providers=("first",), attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, _, it):
        first.hangs(202)
        courier = it.courier()
        async with delivering(courier):
            await until_it_looks(it)
            numbers = [parse(f"+8613900{n:06}", "sms", "CN") for n in range(story.LEASES + 20)]
            await asyncio.gather(*(it.ask(one, courier) for one in numbers))
            for _ in range(story.LEASES):
                await first.arrival()
            pending = await store.execute(store.names.outbox(), "XPENDING", store.names.outbox(), "couriers")
            assert pending[0] == story.LEASES
            first.released.set()
            for _ in range(20):
                await first.arrival()
        assert await it.outbox.length() == 0
        assert sorted(json.loads(one.body)["to"] for one in first.asked) == [one.address for one in numbers]


async def test_no_more_is_leased_in_queueing_than_a_look_into_the_outbox_leaves_room_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a look may find is as good as leased, until it is known to have found less."""
    monkeypatch.setattr(story, "LEASES", story._AT_ONCE)
    found_all, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Outbox):
        async def lease(self, count: int, wait_s: float) -> list[Leased]:
            found = await super().lease(count, wait_s)
            if found and not go_on.is_set():
                found_all.set()
                await go_on.wait()
            return found

    async with two(store) as (first, _, it):
        first.answers(202, "")
        numbers = [parse(f"+8613900{n:06}", "sms", "CN") for n in range(story.LEASES + 4)]
        for one in numbers[:-4]:
            await it.ask(one)
        courier = it.courier(outbox=Slow(store))
        async with delivering(courier):
            await asyncio.wait_for(found_all.wait(), SOON_S)
            for one in numbers[-4:]:
                await it.ask(one, courier)
            pending = await store.execute(store.names.outbox(), "XPENDING", store.names.outbox(), "couriers")
            assert pending[0] == story.LEASES
            assert not first.asked
            go_on.set()
            for _ in numbers:
                await first.arrival()
        assert await it.outbox.length() == 0


async def test_what_is_queued_while_it_drains_or_before_it_runs_is_left_to_others(store: Store) -> None:
    async with two(store) as (first, _, it):
        first.answers(202, "")
        courier = it.courier()
        one = await it.ask(PHONE, courier)
        async with delivering(courier):
            assert await marked(it) == (one, "sent")
        other = await it.ask(OTHER, courier)
        assert await store.execute(store.names.outbox(), "XPENDING", store.names.outbox(), "couriers") == [
            0,
            None,
            None,
            None,
        ]
        async with delivering(it.courier(outbox=Outbox(store))):
            assert await marked(it) == (other, "sent")


@pytest.mark.parametrize("count", [1, 2])
async def test_message_whose_queueing_ends_after_the_draining_began_is_sent(store: Store, count: int) -> None:
    """It was leased, and its courier does not leave before it is sent: nor where another one's queueing ends before."""
    queued: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    class Slow(Blind):
        async def put_and_lease(self, entry: Entry, answered: Answered | None = None) -> Leased | None:
            leased = await super().put_and_lease(entry, answered)
            queued.put_nowait(goes_on := asyncio.Event())
            await goes_on.wait()
            return leased

    async with two(store) as (first, _, it):
        first.answers(202, "")
        outbox = Slow(store)
        courier = it.courier(outbox=outbox)
        running = asyncio.create_task(courier.run())
        await outbox.has_looked.wait()
        asking = [asyncio.create_task(it.ask(one, courier)) for one in (PHONE, OTHER)[:count]]
        ends = [await asyncio.wait_for(queued.get(), SOON_S) for _ in asking]
        draining = asyncio.create_task(courier.drain(SOON_S))
        sent = set()
        for end in ends:
            over, _ = await asyncio.wait([draining], timeout=0.5)
            assert not over, "it waits for what may have been leased"
            end.set()
            sent.add(await marked(it))
        await asyncio.wait_for(draining, SOON_S)
        await running
        assert sent == {(await one, "sent") for one in asking}
        assert await it.outbox.length() == 0


async def test_message_whose_queueing_got_no_answer_is_sent_by_whoever_finds_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been leased, and nobody knows: the lease runs out, as that of a courier that was killed."""
    monkeypatch.setattr(story, "_IDLE_S", 0.2)
    monkeypatch.setattr(story, "_RECLAIM_EVERY_S", 0.05)

    class Unheard(Blind):
        async def put_and_lease(self, entry: Entry, answered: Answered | None = None) -> Leased | None:
            assert await super().put_and_lease(entry, answered) is not None
            raise StoreAwayError("EVALSHA", "no answer within 1 s")

    async with two(store) as (first, _, it):
        first.answers(202, "")
        outbox = Unheard(store)
        courier = it.courier(outbox=outbox)
        async with delivering(courier):
            await outbox.has_looked.wait()
            with pytest.raises(StoreAwayError):
                await it.ask(PHONE, courier)
            _, status = await marked(it)
        assert status == "sent"
        assert len(first.asked) == 1
        assert await it.outbox.length() == 0


async def test_store_is_not_asked_to_wake_anybody_while_messages_are_queued_here(store: Store) -> None:
    """A read that blocks would be woken for each of them. What others queue is found all the same, and soon."""
    waits: list[float] = []

    class Noting(Outbox):
        async def lease(self, count: int, wait_s: float) -> list[Leased]:
            waits.append(wait_s)
            return await super().lease(count, wait_s)

    async with two(store) as (first, _, it):
        first.answers(202, "")
        courier = it.courier(outbox=Noting(store))
        async with delivering(courier):
            await until_it_looks(it)
            assert 0.0 not in waits
            mine = await it.ask(PHONE, courier)
            theirs = await it.ask(OTHER)
            assert {await marked(it), await marked(it)} == {(mine, "sent"), (theirs, "sent")}
            await until(lambda: 0.0 in waits)
            await until(lambda: waits[-1] > 0.0)
            later = await it.ask(OTHER)
            assert await marked(it) == (later, "sent")


async def test_recipient_of_a_message_that_waits_is_remembered_for_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not be unsealed, but whether the message is still wanted is looked up."""
    monkeypatch.setattr(story, "_KNOWN", 2)
    opened: list[Recipient] = []
    async with two(store) as (first, _, it):
        first.answers(202, "")

        def open_recipient(sealed: bytes) -> Recipient:
            opened.append(it.open_recipient(sealed))
            return opened[-1]

        courier = it.courier(open_recipient=open_recipient)
        numbers = [parse(f"+861390000010{n}", "sms", "CN") for n in range(4)]
        ids = [await it.ask(one, courier) for one in numbers]
        gone = store.names.verification(ids[3])
        await store.execute(gone, "DEL", gone)
        async with delivering(courier):
            assert {await marked(it) for _ in range(3)} == {(one, "sent") for one in ids[:3]}
            await until_empty(it)
        assert opened == numbers[:2]
        assert sorted(json.loads(one.body)["to"] for one in first.asked) == [one.address for one in numbers[:3]]


async def test_no_turn_of_the_loop_begins_with_many_messages(store: Store) -> None:
    """A burst is begun in its turn in line, over many turns of the loop, so that requests are served between."""
    begun: list[int] = []
    turn = 0

    class Burst(Outbox):
        """Somebody died, and left many messages at once."""

        async def reclaim(self, idle_s: float, count: int) -> list[Leased]:
            return await self.lease(count, 0.01) or await self.lease(count, 0.01)

    async with two(store) as (first, _, it):
        first.answers(202, "")
        for n in range(50):
            await it.ask(parse(f"+8613900{n:06}", "sms", "CN"))

        def open_recipient(sealed: bytes) -> Recipient:
            begun.append(turn)
            return it.open_recipient(sealed)

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            if len(begun) < 50:
                asyncio.get_running_loop().call_soon(next_turn)

        next_turn()
        line = Line(slice_s=0.0, more_s=0.0)
        line.plain = 1
        async with delivering(it.courier(outbox=Burst(store), open_recipient=open_recipient, line=line)):
            for _ in range(50):
                await marked(it)
        assert len(begun) == 50
        assert max(begun.count(one) for one in begun) == 1


# What is told…


async def test_what_a_vendor_repeats_of_a_message_is_not_logged(store: Store) -> None:
    """Its id may be the number, in its own spelling, or the code: stars stand for them."""
    async with two(store) as (first, _, it):

        async def echoes(_: Vendor) -> web.Response:
            said = json.loads(first.asked[-1].body)
            number = said["to"].removeprefix("+86")
            return web.json_response({"id": f"{number}/{said['code']}"})

        first.behave = echoes
        with capture_logs() as logs:
            sent = await it.ask(PHONE)
            async with delivering(it.courier()):
                await marked(it)
        code = it.verifications.code(sent, PHONE)
    assert code
    (attempt,) = [one for one in logs if one["event"] == "attempt"]
    assert attempt["reason"] == "1390*******/******"
    assert code not in repr(logs)
    assert "900000001" not in repr(logs)


async def test_neither_log_nor_store_shows_the_code_or_the_number(store: Store) -> None:
    rule = Delivery(providers=("first", "second", "third"), switch_after=NEVER)
    async with vendor() as first, vendor() as second:
        urls = {"first": closed_port(), "second": first.url, "third": second.url}
        async with post(store, urls, rule) as it:
            first.answers(*BUSY)
            second.answers(202, "")
            sent = await it.ask(PHONE)
            failed = await it.ask(OTHER, sealed=b"x" * 40)
            stored = repr(await store.execute(store.names.outbox(), "XRANGE", store.names.outbox(), "-", "+"))
            with capture_logs() as logs:
                async with delivering(it.courier()):
                    assert {await marked(it), await marked(it)} == {(sent, "sent"), (failed, "failed")}
            code = it.verifications.code(sent, PHONE)
    assert code
    text = repr(logs)
    for shown in (text, stored):
        assert code not in shown
        assert "13900000001" not in shown
    attempts = [one for one in logs if one["event"] == "attempt"]
    assert [(one["provider"], one["outcome"]) for one in attempts] == [
        ("first", "rejected"),
        ("second", "rejected"),
        ("third", "accepted"),
    ]
    assert {(one["to"], one["request_id"]) for one in attempts} == {(PHONE.masked, "r-1")}
    assert attempts[1]["reason"] == "throttled (http_429)"


# What may break…


async def test_courier_outlives_its_connections(store: Store, store_url: str) -> None:
    """The store drops every connection, once while the courier waits for messages."""
    async with two(store) as (first, _, it):
        first.answers(202, "")
        async with delivering(it.courier()):
            await it.ask(PHONE)
            await marked(it)
            killer = Store(store_url)
            with suppress(StoreAwayError):
                await killer.execute(None, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await killer.close()
            pending = await _insisting(lambda: it.ask(OTHER))
            assert await marked(it) == (pending, "sent")
        assert len(first.asked) == 2


async def _insisting(step: Callable[[], Any]) -> Any:
    """Again, when it met one of the connections that were cut."""
    while True:
        with suppress(StoreAwayError):
            return await step()


async def test_sent_message_is_not_sent_again_while_the_store_is_away(store: Store) -> None:
    """What became of it is told as soon as the store is back."""
    async with two(store) as (first, _, it):
        first.answers(202, "")
        tried = 0

        async def mark(verification_id: str, status: Any, reason: str, given_back: bool) -> None:
            nonlocal tried
            tried += 1
            if tried < 4:
                raise StoreAwayError
            await it.verifications.mark(verification_id, status, reason, given_back)
            it.marked.put_nowait((verification_id, status))

        verification_id = await it.ask(PHONE)
        async with delivering(it.courier(mark=mark)):
            assert await marked(it) == (verification_id, "sent")
        assert len(first.asked) == 1
        assert await it.status(verification_id) == "sent"
        assert await it.outbox.length() == 0


async def test_broken_book_keeping_does_not_send_a_message_again(store: Store) -> None:
    async with two(store) as (first, _, it):
        first.answers(202, "")
        tried: asyncio.Queue[str] = asyncio.Queue()

        async def mark(verification_id: str, status: Any, reason: str, given_back: bool) -> None:
            tried.put_nowait(verification_id)
            raise ReplyError("EVALSHA", "WRONGTYPE", "…")

        await it.ask(PHONE)
        async with delivering(it.courier(mark=mark)):
            await asyncio.wait_for(tried.get(), SOON_S)
        assert len(first.asked) == 1
        assert await it.outbox.length() == 0


async def test_no_more_messages_are_taken_than_can_be_sent_at_once(store: Store) -> None:
    """The rest waits in the outbox, where another courier can take it."""
    rule = Delivery(providers=("first",), attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, _, it):
        first.hangs(202)
        for n in range(story.LEASES + 10):
            await it.ask(parse(f"+8613900{n:06}", "sms", "CN"))
        async with delivering(it.courier()):
            for _ in range(story.LEASES):
                await first.arrival()
            pending = await store.execute(store.names.outbox(), "XPENDING", store.names.outbox(), "couriers")
            assert pending[0] == story.LEASES
            assert await it.outbox.length() == story.LEASES + 10
            first.released.set()
            for _ in range(10):
                await first.arrival()
        assert await it.outbox.length() == 0


class Reclaiming(Outbox):
    """Tells each time that it was asked for what others dropped: when, and what it found."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.found: asyncio.Queue[int] = asyncio.Queue()
        self.moments: list[float] = []

    async def reclaim(self, idle_s: float, count: int) -> list[Leased]:
        self.moments.append(time.monotonic())
        found = await super().reclaim(idle_s, count)
        self.found.put_nowait(len(found))
        return found


async def test_message_that_takes_long_stays_with_its_courier(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another courier looks for dropped messages, well after a lease would have run out, and finds none."""
    monkeypatch.setattr(story, "_IDLE_S", 0.5)
    monkeypatch.setattr(story, "_RENEW_EVERY_S", 0.1)
    monkeypatch.setattr(story, "_RECLAIM_EVERY_S", 0.2)
    rule = Delivery(providers=("first",), attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, _, it):
        first.hangs(202)
        await it.ask(PHONE)
        async with delivering(it.courier()):
            await first.arrival()
            other = Reclaiming(store)
            async with delivering(it.courier(outbox=other)):
                looks = [await asyncio.wait_for(other.found.get(), SOON_S) for _ in range(8)]
                first.released.set()
                await marked(it)
        assert looks == [0] * 8
        assert len(first.asked) == 1


async def test_after_the_store_was_away_owners_are_given_time_to_renew(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases that nobody could renew look dropped and are not: no courier takes them over at once."""
    monkeypatch.setattr(story, "_IDLE_S", 1.0)
    monkeypatch.setattr(story, "_RECLAIM_EVERY_S", 0.05)
    async with two(store) as (_, _, it):
        outbox = Reclaiming(store)
        async with delivering(it.courier(outbox=outbox)):
            for _ in range(3):
                await outbox.found.get()
            killer = Store(store_url)
            killed_at = time.monotonic()
            with suppress(StoreAwayError):
                await killer.execute(None, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await killer.close()
            while outbox.moments[-1] < killed_at + 1.0:
                await outbox.found.get()
    gaps = [later - earlier for earlier, later in itertools.pairwise(outbox.moments)]
    assert max(gaps[:2]) < 1.0 <= max(gaps)


async def test_message_of_a_killed_courier_is_sent_within_ten_seconds(store: Store, store_url: str) -> None:
    """SIGKILL in the middle of an attempt: another courier repeats it, under the same id and with the same code."""
    async with two(store) as (first, second, it):
        first.hangs()
        verification_id = await it.ask(PHONE)
        dying = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).parent / "couriers.py"), store_url, store.names.prefix, first.url
        )
        try:
            cut_short = await asyncio.wait_for(first.arrivals.get(), 30)
        finally:
            dying.kill()
            await dying.wait()
        assert await it.status(verification_id) == "queued"
        first.answers(202, "")
        other = Reclaiming(store)
        async with delivering(it.courier(outbox=other)):
            assert await marked(it) == (verification_id, "sent")
        looks = [other.found.get_nowait() for _ in range(other.found.qsize())]
        assert looks.index(1) * story._RECLAIM_EVERY_S + 2 < 10  # of which two are for all that is not waiting
        begun, repeated = (json.loads(one.body) for one in (cut_short, first.asked[1]))
        for one in (begun, repeated):  # the text says how many minutes are left, which may be fewer by now
            assert one["code"] in one.pop("text")
        assert repeated == begun
        assert len(first.asked) + len(second.asked) == 2
        assert await it.outbox.length() == 0


# Stopping…


async def test_drained_courier_ends_what_it_began_and_begins_nothing(store: Store) -> None:
    async with two(store, Delivery(providers=("first",), attempt_timeout=NEVER, deadline=NEVER)) as (first, _, it):
        first.hangs(202)
        begun = await it.ask(PHONE)
        courier = it.courier()
        running = asyncio.create_task(courier.run())
        await first.arrival()
        draining = asyncio.create_task(courier.drain(SOON_S))
        over, _ = await asyncio.wait([draining], timeout=0.5)
        assert not over, "it waits for the attempt under way"
        first.released.set()
        await asyncio.wait_for(draining, SOON_S)
        await running
        late = await it.ask(OTHER)
        assert await it.status(begun) == "sent"
        assert await it.status(late) == "queued"
        assert len(first.asked) == 1
        assert await it.outbox.length() == 1


async def test_drain_that_takes_too_long_leaves_the_message_to_others(store: Store) -> None:
    rule = Delivery(providers=("first",), attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, _, it):
        first.hangs(202)
        verification_id = await it.ask(PHONE)
        courier = it.courier()
        running = asyncio.create_task(courier.run())
        await first.arrival()
        await asyncio.wait_for(courier.drain(0.05), SOON_S)
        assert running.cancelled()
        assert await it.status(verification_id) == "queued"
        assert await it.outbox.length() == 1


async def test_courier_that_is_begun_again_sends_what_it_had_leased(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way when it was broken off, and what waited for its turn: it does not keep them from itself."""
    monkeypatch.setattr(story, "_IDLE_S", 0.2)
    monkeypatch.setattr(story, "_RECLAIM_EVERY_S", 0.05)
    monkeypatch.setattr(story, "_RENEW_EVERY_S", 0.05)

    class Leasing(Outbox):
        has_leased = asyncio.Event()

        async def lease(self, count: int, wait_s: float) -> list[Leased]:
            found = await super().lease(count, wait_s)
            if found and not self.has_leased.is_set():
                self.has_leased.set()
                running.cancel()
            return found

    async with two(store) as (first, _, it):
        first.answers(202, "")
        sent = {(await it.ask(parse(f"+8613900{n:06}", "sms", "CN")), "sent") for n in range(story._AT_ONCE)}
        courier = it.courier(outbox=Leasing(store), line=Line(slice_s=0.0, more_s=0.0))
        running = asyncio.create_task(courier.run())
        await asyncio.wait([running], timeout=SOON_S)
        assert running.cancelled()
        assert not first.asked
        async with delivering(courier):
            assert {await marked(it) for _ in sent} == sent
        assert len(first.asked) == len(sent)
        assert await it.outbox.length() == 0


async def test_courier_that_is_ended_as_a_message_is_queued_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is told at last is to end, though it is told in the same turn that a message waits."""
    monkeypatch.setattr(story, "_DUE_EVERY_S", NEVER)
    monkeypatch.setattr(story, "_LEASE_WAIT_S", NEVER)
    has_looked = asyncio.Event()

    class Idle(Outbox):
        async def lease(self, count: int, wait_s: float) -> list[Leased]:
            has_looked.set()
            return []

    async with two(store) as (_, _, it):
        outbox = store.names.outbox()
        await store.execute(outbox, "XGROUP", "CREATE", outbox, "couriers", "0", "MKSTREAM")
        courier = it.courier(outbox=Idle(store))
        await it.ask(OTHER, courier)  # before it runs: so it is not leased, and it waits for more
        running = asyncio.create_task(courier.run())
        await asyncio.wait_for(has_looked.wait(), SOON_S)
        await it.ask(PHONE, courier)  # leases the one that waited longer, so this one waits
        running.cancel()
        await asyncio.wait([running], timeout=SOON_S)
        assert running.cancelled()
        assert await it.outbox.length() == 2


async def test_message_whose_story_a_library_cancels_by_mistake_is_sent_after_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody works on it then: so its lease is not renewed for ever, and whoever reclaims it sends it."""
    monkeypatch.setattr(story, "_IDLE_S", 0.2)
    monkeypatch.setattr(story, "_RECLAIM_EVERY_S", 0.05)
    monkeypatch.setattr(story, "_RENEW_EVERY_S", 0.05)

    class Mistaken:
        channels = frozenset({"sms"})
        tries = 0

        async def send(self, message: Message, timeout_s: float) -> Outcome:
            self.tries += 1
            if self.tries == 1:
                raise asyncio.CancelledError
            return Accepted("1")

    async with two(store) as (_, _, it):
        mistaken = Mistaken()
        router = it.router(dict.fromkeys(it.urls, mistaken))
        async with delivering(it.courier(router=router)):
            verification_id = await it.ask(PHONE)
            assert await marked(it) == (verification_id, "sent")
        assert mistaken.tries == 2
        assert await it.outbox.length() == 0


async def test_courier_that_never_ran_is_drained_at_once(store: Store) -> None:
    async with two(store) as (_, _, it):
        courier = it.courier()
        await asyncio.wait_for(courier.drain(NEVER), SOON_S)
        await it.ask(PHONE)
        await asyncio.wait_for(courier.run(), SOON_S)
        assert await it.outbox.length() == 1


# Breakers and rates…


async def test_provider_that_keeps_failing_is_no_longer_asked(store: Store) -> None:
    """Once its breaker is open, messages go to the next one at once, and the metric says so."""
    rule = Delivery(providers=("first", "second"), switch_after=NEVER, breaker=Breaker(failures=2, open_for=NEVER))
    async with two(store, rule) as (first, second, it), learning(it):
        first.answers(*BUSY)
        second.answers(202, "")
        async with delivering(it.courier()):
            for n in range(2):
                await it.ask(parse(f"+8613900002{n:03}", "sms", "CN"))
                await marked(it)
            await until(lambda: it.count("sidecar_breaker_state", provider="first") == 2)
            for n in range(5):
                await it.ask(parse(f"+86139000003{n:02}", "sms", "CN"))
                await marked(it)
        assert (len(first.asked), len(second.asked)) == (2, 7)


async def test_breaker_of_one_country_leaves_the_others_alone(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), switch_after=NEVER, breaker=Breaker(failures=1, open_for=NEVER))
    async with two(store, rule) as (first, second, it), learning(it):
        first.answers(*BUSY)
        second.answers(202, "")
        async with delivering(it.courier()):
            await it.ask(PHONE)
            await marked(it)
            await until(lambda: it.count("sidecar_breaker_state", provider="first") == 2)
            await it.ask(parse("+14155550100", "sms", "US"))
            await marked(it)
        assert [json.loads(one.body)["to"] for one in first.asked] == [PHONE.address, "+14155550100"]


async def test_one_probe_finds_out_that_a_provider_is_back(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), switch_after=NEVER, breaker=Breaker(failures=1, open_for=0.01))
    async with two(store, rule) as (first, second, it), learning(it):
        first.answers(*BUSY)
        second.answers(202, "")
        async with delivering(it.courier()):
            await it.ask(PHONE)
            await marked(it)
            await until(lambda: it.count("sidecar_breaker_state", provider="first") == 2)
            first.hangs(202)
            for n in range(3):
                await it.ask(parse(f"+8613900002{n:03}", "sms", "CN"))
            await first.arrival()
            await marked(it)
            await marked(it)
            assert len(first.asked) == 2, "the others do not wait for the probe"
            first.released.set()
            await marked(it)
            await until(lambda: it.count("sidecar_breaker_state", provider="first") == 0)


@pytest.mark.parametrize(("providers", "asked"), [(("first", "second"), (0, 1)), (("first",), (1, 0))])
async def test_a_probe_that_another_worker_has_is_not_made_twice(
    store: Store, providers: tuple[str, ...], asked: tuple[int, int]
) -> None:
    """Of two workers that see that a provider may be probed, one asks it; the other asks the next, if there is one."""
    rule = Delivery(providers=providers, switch_after=NEVER, breaker=Breaker(failures=1, open_for=0.01))
    async with two(store, rule) as (first, second, it), post(store, it.urls) as other_worker:
        first.answers(202, "")
        second.answers(202, "")
        key = Key("first", "CN")
        it.breakers.record(key, 0, fine=False, failures=1, open_for_s=0.01)
        async with learning(it):
            await until(lambda: it.breakers.of(key).may_be_probed(it.breakers.now_ms()))
        assert await other_worker.breakers.probe(key, NEVER)
        pending = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (pending, "sent")
        assert (len(first.asked), len(second.asked)) == asked


async def test_number_at_fault_opens_no_breaker(store: Store) -> None:
    """Who sends to numbers that do not exist cannot switch a provider off for everybody."""
    rule = Delivery(providers=("first", "second"), breaker=Breaker(failures=1))
    async with two(store, rule) as (first, _, it), learning(it):
        first.answers(*BLOCKED)
        async with delivering(it.courier()):
            for n in range(3):
                await it.ask(parse(f"+8613900002{n:03}", "sms", "CN"))
                await marked(it)
        assert len(first.asked) == 3


async def test_when_every_breaker_is_open_all_are_asked_all_the_same(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), switch_after=NEVER, breaker=Breaker(failures=1, open_for=NEVER))
    async with two(store, rule) as (first, second, it), learning(it):
        first.answers(*POOR)
        second.answers(*POOR)
        async with delivering(it.courier()):
            await it.ask(PHONE)
            await marked(it)
            await until(lambda: it.count("sidecar_breaker_state", provider="second") == 2)
            second.answers(202, "")
            pending = await it.ask(OTHER)
            assert await marked(it) == (pending, "sent")
            await until(lambda: it.count("sidecar_breaker_state", provider="second") == 0)


async def test_message_that_must_wait_for_a_rate_is_sent_when_its_turn_comes(store: Store) -> None:
    """A provider's rate is never exceeded; who cannot go before the deadline comes back, while the code lives."""
    rule = Delivery(providers=("first",), deadline=1.0, switch_after=0.1)
    async with two(store, rule) as (first, _, it):
        first.answers(202, "")
        free_at = 0.0

        async def take(provider: str) -> float:
            nonlocal free_at
            wait_s = max(0.0, free_at - time.monotonic())
            if not wait_s:
                free_at = time.monotonic() + 3.0
            return wait_s

        await it.ask(PHONE)
        await it.ask(OTHER)
        rates = Rates(frozenset({"first"}), take)
        async with delivering(it.courier(router=it.router(rates=rates))):
            assert [status for _, status in (await marked(it), await marked(it))] == ["sent", "sent"]
            await until_empty(it)
        assert len(first.asked) == 2
        assert it.count("sidecar_messages_total", outcome="deferred") >= 1
        assert it.count("sidecar_attempts_total", provider="first", outcome="rejected") == 0, "it was not asked"
        await rates.close()


async def test_provider_whose_rate_is_used_up_is_followed_by_the_next(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), switch_after=0.1, deadline=NEVER, attempt_timeout=NEVER)
    async with two(store, rule) as (first, second, it):
        second.answers(202, "")

        async def take(provider: str) -> float:
            return NEVER

        verification_id = await it.ask(PHONE)
        rates = Rates(frozenset({"first"}), take)
        async with delivering(it.courier(router=it.router(rates=rates))):
            assert await marked(it) == (verification_id, "sent")
        assert (len(first.asked), len(second.asked)) == (0, 1)
        await rates.close()


# Confirming…


async def test_message_that_nobody_confirms_goes_to_the_next_provider_once(store: Store) -> None:
    """The one that takes it then takes what another had: that is counted."""
    rule = Delivery(providers=("first", "second", "third"), switch_after=NEVER, confirm_within=0.2)
    async with vendor() as first, vendor() as second, vendor() as third:
        async with post(store, {"first": first.url, "second": second.url, "third": third.url}, rule) as it:
            for one in (first, second, third):
                one.answers(202, "")
            verification_id = await it.ask(PHONE)
            async with delivering(it.courier()):
                assert await marked(it) == (verification_id, "sent")
                assert await marked(it) == (verification_id, "sent")
                await until_empty(it)
        codes = [json.loads(one.body)["code"] for vendor in (first, second, third) for one in vendor.asked]
        assert codes == [it.verifications.code(verification_id, PHONE)] * 2
        assert (len(first.asked), len(second.asked)) == (1, 1)
        assert it.count("sidecar_delivery_duplicates_total", provider="first") == 0
        assert it.count("sidecar_delivery_duplicates_total", provider="second") == 1


async def test_confirmed_message_is_not_sent_again(store: Store) -> None:
    """By a receipt, or by the code itself."""
    rule = Delivery(providers=("first", "second"), switch_after=NEVER, confirm_within=2.0)
    async with two(store, rule) as (first, second, it):
        first.answers(202, "")
        received, used = await it.ask(PHONE), await it.ask(OTHER)
        async with delivering(it.courier()):
            await marked(it)
            await marked(it)
            await it.verifications.mark(received, "delivered")
            code = it.verifications.code(used, OTHER)
            assert code
            async with await it.verifications.hold_by_id(used, code, uncounted) as hold:
                await hold.exchange()
            await until_empty(it)
        assert (len(first.asked), len(second.asked)) == (2, 0)


async def test_unconfirmed_message_outlives_its_courier(store: Store) -> None:
    """It waits in the store: the courier that sent it may be gone when its time comes."""
    rule = Delivery(providers=("first", "second"), switch_after=NEVER, confirm_within=2.0)
    async with two(store, rule) as (first, second, it):
        first.answers(202, "")
        second.answers(202, "")
        await it.ask(PHONE)
        async with delivering(it.courier()):
            await marked(it)
        assert not second.asked
        async with delivering(it.courier(outbox=Outbox(store))):
            await second.arrival()
            await marked(it)
            await until_empty(it)


async def test_nobody_left_to_ask_leaves_the_status_as_it_is(store: Store) -> None:
    rule = Delivery(providers=("first",), confirm_within=0.1)
    async with two(store, rule) as (first, _, it):
        first.answers(202, "")
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            await marked(it)
            await until_empty(it)
        assert await it.status(verification_id) == "sent"
        assert not it.refunded


async def test_on_silence_wait_leaves_the_next_provider_to_the_receipt(store: Store) -> None:
    """No answer is no failure: only when nobody confirms it does the next one send."""
    rule = Delivery(
        providers=("first", "second"), on_silence="wait", switch_after=0.05, attempt_timeout=1.0, confirm_within=1.0
    )
    async with two(store, rule) as (first, second, it):
        first.hangs()
        second.answers(202, "")
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "unconfirmed")
            assert not second.asked
            await second.arrival()
            await marked(it)


async def until_empty(it: Post) -> None:
    """Until nothing is to be sent, now or later: asked in one step, for messages go from the one to the other."""
    both = "return redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])"
    outbox, later = it.store.names.outbox(), it.store.names.later()
    async with asyncio.timeout(SOON_S):
        while await it.store.execute(outbox, "EVAL", both, 2, outbox, later):
            await asyncio.sleep(0.01)


# Unconfirmed…


@pytest.mark.parametrize("how", ["answers 500", "breaks the line"])
async def test_message_that_nobody_accepted_is_told_and_becomes_a_dead_letter_with_its_code(
    store: Store, how: str
) -> None:
    """A warning, a counter, a status of its own; nothing is given back, for somebody may have it."""
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        first.answers(500, "") if how == "answers 500" else first.resets()
        verification_id = await it.ask(PHONE, dies_at=time.time() + 2.0)
        with capture_logs() as logs:
            async with delivering(it.courier()):
                assert await marked(it) == (verification_id, "unconfirmed")
                assert not await it.outbox.dead(), "its code still lives"
                await until_empty(it)
        assert await it.status(verification_id) == "expired"
        assert len(first.asked) == 1
        assert not it.refunded
        assert it.count("sidecar_messages_total", outcome="unconfirmed") == 1
        told = [(one["event"], one["log_level"]) for one in logs if one["event"] != "attempt"]
        assert told == [("message_unconfirmed", "warning"), ("message_never_confirmed", "warning")]
        [letter] = await it.outbox.dead()
        assert letter.verification_id == verification_id
        assert letter.reason.startswith("unconfirmed: first: ")


@pytest.mark.parametrize("news", ["typed in", "receipt", "withdrawn"])
async def test_unconfirmed_message_that_is_confirmed_after_all_is_no_dead_letter(store: Store, news: str) -> None:
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        first.answers(500, "")
        verification_id = await it.ask(PHONE, dies_at=time.time() + 2.0)
        async with delivering(it.courier()) as courier:
            await marked(it)
            if news == "typed in":
                await type_in(it, verification_id, PHONE)
            elif news == "receipt":
                await report(it, courier, "first", "delivered", ref=message_id(first))
            else:
                await store.execute(
                    store.names.verification(verification_id), "DEL", store.names.verification(verification_id)
                )
            await until_empty(it)
        assert not await it.outbox.dead()


async def test_unconfirmed_message_is_not_forgotten_by_a_kill(store: Store) -> None:
    """It waits in the store for its code's end, and the courier that finds it then is another."""
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        first.answers(500, "")
        await it.ask(PHONE, dies_at=time.time() + 2.0)
        async with delivering(it.courier()):
            await marked(it)
        async with delivering(it.courier(outbox=Outbox(store))):
            await until_empty(it)
        assert len(await it.outbox.dead()) == 1


# Asking again…


async def test_provider_that_refuses_for_now_is_asked_again_within_the_deadline(store: Store) -> None:
    """The same message under the same id; the person waits a moment, and gets it."""
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        answers = iter([(429, ""), (429, ""), (202, "")])
        first.behaves(lambda: next(answers))
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "sent")
            await until_empty(it)
        assert len({one.body for one in first.asked}) == 1
        assert len(first.asked) == 3
        assert it.marked.empty()


async def test_refused_message_waits_in_the_store_and_outlives_its_courier(store: Store) -> None:
    """The status stays queued, nothing is given back, and it goes out under the same id when the provider is back."""
    rule = Delivery(providers=("first",), deadline=0.2)
    async with vendor() as first:
        port = closed_port()
        async with post(store, {"first": port}, rule) as it:
            verification_id = await it.ask(PHONE)
            async with delivering(it.courier()):
                await until(lambda: it.count("sidecar_messages_total", outcome="deferred") >= 2)
            assert await it.status(verification_id) == "queued"
            assert it.marked.empty()
        first.answers(202, "")
        async with post(store, {"first": first.url}) as it:
            async with delivering(it.courier()):
                assert await marked(it) == (verification_id, "sent")
                await until_empty(it)
            assert not it.refunded
            assert json.loads(first.asked[0].body)["id"].startswith(f"{verification_id}_")
        assert not await it.outbox.dead()


async def test_message_that_all_refuse_until_its_code_dies_is_failed_and_given_back_once(store: Store) -> None:
    """With a dead letter that says why, and that cannot be sent any more."""
    async with two(store, Delivery(providers=("first", "second"), deadline=0.2)) as (first, second, it):
        first.answers(*BUSY)
        second.answers(*POOR)
        verification_id = await it.ask(PHONE, dies_at=time.time() + 3.0)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
            await until_empty(it)
        assert it.refunded == [TICKETS]
        assert len(first.asked) > 2
        assert len(second.asked) == 1, "who refused for good is not asked again"
        record = await it.verifications.read(verification_id)
        assert record is not None
        assert (record.status, record.reason) == ("failed", "provider")
        [letter] = await it.outbox.dead()
        assert (
            letter.reason.endswith("first: throttled (http_429), second: balance (balance)") or "first" in letter.reason
        )


async def test_vendor_that_says_when_is_left_alone_until_then(store: Store) -> None:
    """Over the rounds: others are asked meanwhile, and nobody is asked twice at once."""
    async with two(store, Delivery(providers=("first", "second"), deadline=0.2)) as (first, second, it):
        first.answers(429, "", {"Retry-After": "2"})
        second.answers(*BUSY)
        await it.ask(PHONE)
        asked_at: list[float] = []
        async with delivering(it.courier()):
            for _ in range(2):
                await first.arrival()
                asked_at.append(time.monotonic())
        assert asked_at[1] - asked_at[0] >= 2
        assert len(second.asked) > 2


async def test_message_whose_vendor_says_later_than_its_code_lives_is_failed_at_once(store: Store) -> None:
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        first.answers(429, "", {"Retry-After": "3600"})
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
        assert it.refunded == [TICKETS]


async def test_person_who_asked_again_meanwhile_gets_one_message(store: Store) -> None:
    """What all refused is dropped and given back once another message with the same code is sent."""
    async with two(store, Delivery(providers=("first",), deadline=1.0)) as (first, _, it):
        first.answers(429, "", {"Retry-After": "3"})
        await it.ask(PHONE)
        async with delivering(it.courier()):
            await until(lambda: it.count("sidecar_messages_total", outcome="deferred") == 1)
            first.answers(202, "")
            again = await it.ask(PHONE)
            assert await marked(it) == (again, "sent")
            await until_empty(it)
        assert len(first.asked) == 2
        assert it.refunded == [TICKETS]
        assert await it.status(again) == "sent"


async def test_silent_provider_is_not_asked_again_and_the_refusing_one_is(store: Store) -> None:
    """With on_silence = "switch"; the status says meanwhile that somebody may have it."""
    rule = Delivery(providers=("first", "second"), deadline=1.0)
    async with two(store, rule) as (first, second, it):
        first.answers(500, "")
        second.answers(*BUSY)
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "unconfirmed")
            second.answers(202, "")
            assert await marked(it) == (verification_id, "sent")
            await until_empty(it)
        assert len(first.asked) == 1
        assert not await it.outbox.dead()


async def test_provider_behind_an_open_breaker_is_asked_when_the_others_have_failed(store: Store) -> None:
    """The breaker keeps it out of the plan, not out of the message's life."""
    rule = Delivery(
        providers=("first", "second"), switch_after=NEVER, deadline=0.5, breaker=Breaker(failures=1, open_for=0.6)
    )
    async with two(store, rule) as (first, second, it), learning(it):
        first.answers(500, "")
        second.answers(202, "")
        async with delivering(it.courier()):
            await it.ask(PHONE)
            await marked(it)
            await until(lambda: it.count("sidecar_breaker_state", provider="first") == 2)
            first.answers(202, "")
            second.answers(*POOR)
            pending = await it.ask(OTHER)
            assert await marked(it) == (pending, "sent")
        assert len(first.asked) == 2


async def test_nobody_waits_in_a_lease_for_a_provider_that_is_known_to_be_broken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one dead provider would hold up the messages of all the others: they come back from the store instead."""
    monkeypatch.setattr(send, "_PAUSE_S", NEVER)
    monkeypatch.setattr(send, "_MAX_PAUSE_S", NEVER)
    rules = (
        Delivery(countries=("US",), providers=("second",)),
        Delivery(providers=("first",), deadline=2 * NEVER, breaker=Breaker(failures=1, open_for=NEVER)),
    )
    async with two(store, *rules) as (first, second, it), learning(it):
        first.answers(*BUSY)
        second.answers(202, "")
        it.breakers.record(Key("first", "CN"), 0, fine=False, failures=1, open_for_s=NEVER)
        await until(lambda: it.count("sidecar_breaker_state", provider="first") == 2)
        async with delivering(it.courier()):
            for n in range(story.LEASES + 5):
                await it.ask(parse(f"+8613900002{n:03}", "sms", "CN"), dies_at=time.time() + 2 * NEVER)
            await it.ask(parse("+14155550100", "sms", "US"))
            await second.arrival()


async def test_kill_between_giving_back_and_burying_gives_nothing_back_twice(store: Store) -> None:
    """Another courier does it all again; the buckets know that it was done."""
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        first.answers(*POOR)
        buckets = Buckets(store)
        bucket = Meter.of_rate("to", Rate(10, 3600.0), store.names).bucket("x")
        for _ in range(3):
            tickets = (await buckets.spend([bucket])).tickets
        await it.ask(PHONE, tickets=tickets)
        buried: asyncio.Queue[str] = asyncio.Queue()

        class Dying(Outbox):
            async def bury(self, message_id: str, reason: str) -> None:
                buried.put_nowait(message_id)
                await asyncio.Event().wait()

        dying = asyncio.create_task(it.courier(outbox=Dying(store), refund=buckets.refund).run())
        await asyncio.wait_for(buried.get(), SOON_S)
        dying.cancel()
        await asyncio.wait([dying])
        [(message, consumer, _, _)] = await store.execute(
            store.names.outbox(), "XPENDING", store.names.outbox(), "couriers", "-", "+", 9
        )
        await store.execute(
            store.names.outbox(),
            "XCLAIM",
            store.names.outbox(),
            "couriers",
            consumer,
            0,
            message,
            "IDLE",
            60_000,
            "JUSTID",
        )
        async with delivering(it.courier(refund=buckets.refund)):
            await until_empty(it)
        assert len(await it.outbox.dead()) == 1
        left = [(await buckets.spend([bucket])).allowed for _ in range(9)]
        assert left == [True] * 8 + [False], "three were spent, and one of them given back"


# Receipts…


async def test_message_that_was_lost_before_its_answer_goes_to_the_next_at_once(store: Store) -> None:
    """Without `confirm_within`, even: the race is still on. The status never says failed."""
    async with two(store, Delivery(providers=("first", "second"), switch_after=NEVER)) as (first, second, it):
        courier = it.courier()

        async def reports_and_answers(self: Vendor) -> web.Response:
            await report(it, courier, "first", "undeliverable", sid="v-1")
            return web.Response(status=202, text='{"id": "v-1"}')

        first.behave = reports_and_answers
        second.answers(202, "")
        verification_id = await it.ask(PHONE)
        async with delivering(courier):
            assert await marked(it) == (verification_id, "sent")
            await until_empty(it)
        assert (len(first.asked), len(second.asked)) == (1, 1)
        assert it.marked.empty()
        assert it.count("sidecar_receipts_total", provider="first", state="undeliverable") == 1
        assert it.count("sidecar_delivery_duplicates_total", provider="second") == 0


async def test_message_that_is_lost_while_its_answer_is_awaited_goes_to_the_next_at_once(store: Store) -> None:
    """By our id: another worker may have taken the receipt."""
    rule = Delivery(providers=("first", "second"), on_silence="wait", attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, second, it):
        first.hangs(202, '{"id": "v-1"}')
        second.answers(202, "")
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            await first.arrival()
            await report(it, it.courier(), "first", "undeliverable", ref=message_id(first))
            assert await marked(it) == (verification_id, "sent")
            first.released.set()
        assert (len(first.asked), len(second.asked)) == (1, 1)
        assert it.marked.empty()
        assert it.count("sidecar_delivery_duplicates_total", provider="first") == 0


async def test_message_that_was_delivered_before_its_answer_is_delivered(store: Store) -> None:
    """By the vendor's id, or by ours with an answer that was lost; nobody else is asked."""
    async with two(store, Delivery(providers=("first", "second"), switch_after=NEVER)) as (first, second, it):
        courier = it.courier()

        async def reports_and_answers(self: Vendor) -> web.Response:
            await report(it, courier, "first", "delivered", sid="v-1")
            return web.Response(status=202, text='{"id": "v-1"}')

        async def reports_and_breaks(self: Vendor) -> None:
            await report(it, courier, "first", "delivered", ref=message_id(self))

        first.behave = reports_and_answers
        async with delivering(courier):
            known = await it.ask(PHONE)
            assert [await marked(it), await marked(it)] == [(known, "sent"), (known, "delivered")]
            first.behave = reports_and_breaks
            lost = await it.ask(OTHER)
            assert [await marked(it), await marked(it)] == [(lost, "sent"), (lost, "delivered")]
        assert not second.asked


async def test_receipt_of_a_lost_answer_tells_that_two_sent_it(store: Store) -> None:
    """The first was cut off and the second took it: a duplicate of the first, counted once."""
    rule = Delivery(providers=("first", "second"), switch_after=0.05, attempt_timeout=1.0)
    async with two(store, rule) as (first, second, it):
        first.hangs()
        second.answers(202, "")
        courier = it.courier()
        verification_id = await it.ask(PHONE)
        async with delivering(courier):
            assert await marked(it) == (verification_id, "sent")
        assert it.count("sidecar_attempts_total", provider="first", outcome="uncertain") == 1
        assert it.count("sidecar_delivery_duplicates_total", provider="first") == 0
        for state in ("enroute", "delivered"):
            await report(it, courier, "first", state, ref=message_id(first))
        assert it.count("sidecar_delivery_duplicates_total", provider="first") == 1
        assert it.count("sidecar_delivery_duplicates_total", provider="second") == 0


async def test_receipt_that_came_before_a_late_answer_is_taken_when_that_comes(store: Store) -> None:
    """By the vendor's id, which only the late answer tells; that two sent it is told, too."""
    rule = Delivery(providers=("first", "second"), switch_after=0.05, attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, second, it):
        first.hangs(202, '{"id": "v-1"}')
        second.answers(202, "")
        courier = it.courier()
        async with delivering(courier):
            verification_id = await it.ask(PHONE)
            assert await marked(it) == (verification_id, "sent")
            await report(it, courier, "first", "delivered", sid="v-1")
            assert it.marked.empty(), "nobody knows yet whose it is"
            first.released.set()
            assert await marked(it) == (verification_id, "delivered")
        assert it.count("sidecar_receipts_total", provider="first", state="delivered") == 1
        assert it.count("sidecar_delivery_duplicates_total", provider="first") == 1


async def test_receipt_that_names_only_our_id_settles_a_lost_answer(store: Store) -> None:
    """Enroute: it has the message. Undeliverable: nobody has, and with nobody left to ask it has failed."""
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        first.answers(500, "")
        courier = it.courier()
        async with delivering(courier):
            verification_id = await it.ask(PHONE)
            await marked(it)
            await report(it, courier, "first", "enroute", ref=message_id(first))
            assert await marked(it) == (verification_id, "sent")
            await report(it, courier, "first", "undeliverable", ref=message_id(first))
            assert await marked(it) == (verification_id, "failed")
            await until_empty(it)
        record = await it.verifications.read(verification_id)
        assert record is not None
        assert record.reason == "provider"
        assert not it.refunded, "the vendor took it, and was paid"
        [letter] = await it.outbox.dead()
        assert letter.verification_id == verification_id


async def test_lost_message_goes_on_without_having_failed(store: Store) -> None:
    """Its one more try is due now, and no duplicate; the status says failed only when nobody is left."""
    rule = Delivery(providers=("first", "second"), switch_after=NEVER, confirm_within=60.0)
    async with two(store, rule) as (first, second, it):
        first.answers(202, '{"id": "v-1"}')
        second.answers(202, "")
        courier = it.courier()
        async with delivering(courier):
            one = await it.ask(PHONE)
            await marked(it)
            await until_noted(it, first)
            await report(it, courier, "first", "undeliverable", sid="v-1")
            assert await marked(it) == (one, "sent")
            first.answers(202, '{"id": "v-2"}')
            second.answers(*POOR)
            other = await it.ask(OTHER)
            await marked(it)
            await until_noted(it, first)
            await report(it, courier, "first", "expired", sid="v-2")
            assert await marked(it) == (other, "failed")
            assert it.marked.empty()
        assert len(second.asked) == 2
        assert it.count("sidecar_delivery_duplicates_total", provider="second") == 0


async def test_loss_by_one_is_no_failure_while_another_may_bring_it(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), switch_after=0.05, attempt_timeout=NEVER, deadline=NEVER)
    async with two(store, rule) as (first, second, it):
        first.hangs(202, '{"id": "v-1"}')
        second.answers(202, "")
        courier = it.courier()
        async with delivering(courier):
            verification_id = await it.ask(PHONE)
            await marked(it)
            first.released.set()
            await until_noted(it, first)
            await report(it, courier, "first", "undeliverable", sid="v-1")
        assert it.marked.empty()
        assert await it.status(verification_id) == "sent"


def message_id(it: Vendor) -> str:
    """Our id of the last message that a vendor was asked to send."""
    return str(json.loads(it.asked[-1].body)["id"])


async def report(
    it: Post, courier: Courier, provider: str, state: ReceiptState, *, sid: str = "", ref: str | None = None
) -> None:
    """A receipt, as the endpoint takes it."""
    moved = await it.ledger.received(provider, Receipt(sid, None, state, "W", ref))
    if moved is not None:
        await courier.received(moved)


async def until_noted(it: Post, vendor: Vendor) -> None:
    """Until receipts of the vendor's last message find it."""
    alias = it.store.names.vendor_id(it.secret.hashes(f"first\0v-{len(vendor.asked)}")[0])
    async with asyncio.timeout(SOON_S):
        while not await it.store.execute(alias, "EXISTS", alias):
            await asyncio.sleep(0.005)


async def type_in(it: Post, verification_id: str, recipient: Recipient) -> None:
    """The person types the code in."""
    code = it.verifications.code(verification_id, recipient)
    assert code
    async with await it.verifications.hold_by_id(verification_id, code, uncounted) as hold:
        await hold.exchange()


# Dead letters…


async def test_refused_message_is_a_dead_letter_that_can_be_sent_after_all(store: Store) -> None:
    """Its tickets were given back once, and are not given back again."""
    async with two(store, Delivery(providers=("first",))) as (first, _, it):
        first.answers(*POOR)
        verification_id = await it.ask(PHONE)
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
            await until_empty(it)
        [letter] = await it.outbox.dead()
        assert (letter.verification_id, letter.reason) == (verification_id, "first: balance (balance)")
        assert abs(letter.died_at - time.time()) < 60
        assert await it.outbox.redrive(letter.id, time.time()) == "queued"
        assert await it.outbox.redrive(letter.id, time.time()) == "missing"
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "failed")
            await until_empty(it)
        assert it.refunded == [TICKETS]
        [again] = await it.outbox.dead()
        first.answers(202, "")
        assert await it.outbox.redrive(again.id, time.time()) == "queued"
        async with delivering(it.courier()):
            assert await marked(it) == (verification_id, "sent")
        assert not await it.outbox.dead()


async def test_message_that_cannot_be_read_is_a_dead_letter_that_can_be_dropped(store: Store) -> None:
    async with two(store) as (_, _, it):
        await it.ask(PHONE, sealed=b"x" * 40)
        async with delivering(it.courier()):
            await marked(it)
            await until_empty(it)
        [letter] = await it.outbox.dead()
        assert letter.reason.startswith("unreadable: ValueError at secret.py:")
        assert await it.outbox.drop(letter.id)
        assert not await it.outbox.drop(letter.id)
        assert not await it.outbox.dead()


async def test_message_that_was_sent_is_no_dead_letter_and_one_that_came_too_late_is(store: Store) -> None:
    """Sending that again is of no use to anybody: it stays where it is, and says why."""
    async with two(store) as (first, _, it):
        first.answers(202, "")
        await it.ask(PHONE)
        late = await it.ask(OTHER, dies_at=time.time() - 1)
        async with delivering(it.courier()):
            await marked(it)
            await marked(it)
            await until_empty(it)
        [letter] = await it.outbox.dead()
        assert (letter.verification_id, letter.reason) == (late, "the code has expired")
        assert it.refunded == [TICKETS]
        assert await it.outbox.redrive(letter.id, time.time()) == "expired"
        assert await it.outbox.length() == 0
        assert [one.id for one in await it.outbox.dead()] == [letter.id]


# Learning…


async def test_adaptive_leaves_a_provider_whose_messages_are_never_confirmed(store: Store) -> None:
    """It accepts everything and sends nothing: only the codes that nobody types in tell."""
    rule = Delivery(providers=("first", "second"), strategy="adaptive", switch_after=NEVER, confirm_within=0.05)
    async with two(store, rule) as (first, second, it):
        first.answers(202, "")
        second.answers(202, "")
        learning = asyncio.create_task(it.sightings.run())

        async with delivering(it.courier()):
            for n in range(40):
                recipient = parse(f"+86139000004{n:02}", "sms", "CN")
                verification_id = await it.ask(recipient)
                code = it.verifications.code(verification_id, recipient)
                async with asyncio.timeout(SOON_S):
                    while code not in {json.loads(one.body)["code"] for one in second.asked}:
                        await asyncio.sleep(0.01)
                await type_in(it, verification_id, recipient)
                asked_first = len(first.asked)
                if n > 5 and asked_first < n:
                    break
            assert asked_first < 40, "it still asks the one that sends nothing first"
        learning.cancel()
        await asyncio.wait([learning])


async def test_adaptive_counts_what_was_taken_and_what_failed_and_no_wrong_number(store: Store) -> None:
    """Who types numbers that do not exist changes nobody's place."""
    rule = Delivery(
        providers=("first", "second"), strategy="adaptive", switch_after=NEVER, breaker=Breaker(failures=100)
    )
    async with two(store, rule) as (first, second, it):
        first.answers(*POOR)
        second.answers(202, "")
        async with delivering(it.courier()):
            for n in range(3):
                await it.ask(parse(f"+8613900002{n:03}", "sms", "CN"))
                await marked(it)
            first.answers(*BLOCKED)
            await it.ask(PHONE)
            await marked(it)
        await it.sightings.look()
        seen = it.sightings.of(("first", "second"), "CN")
        assert (seen["first"].tried, seen["first"].in_time) == pytest.approx((3, 0), rel=0.01)
        assert (seen["second"].tried, seen["second"].in_time) == pytest.approx((3, 3), rel=0.01)


async def test_weighted_begins_with_whom_the_draw_says(store: Store) -> None:
    rule = Delivery(providers=("first", "second"), strategy="weighted", weights={"second": 3})
    async with two(store, rule, draws=iter([0.2, 0.0, 0.3, 0.0])) as (first, second, it):
        first.answers(202, "")
        second.answers(202, "")
        async with delivering(it.courier()):
            await it.ask(PHONE)
            await marked(it)
            assert (len(first.asked), len(second.asked)) == (1, 0)
            await it.ask(OTHER)
            await marked(it)
            assert (len(first.asked), len(second.asked)) == (1, 1)


# Operators…


async def test_rule_and_breaker_know_the_operator(store: Store) -> None:
    """China Unicom's numbers break alone; what nobody knows has a rule of its own."""
    rules = (
        Delivery(operators=("unknown",), providers=("second",)),
        Delivery(providers=("first", "second"), switch_after=NEVER, breaker=Breaker(failures=1, open_for=NEVER)),
    )
    unicom, mobile, virtual = (parse(number, "sms", "CN") for number in ("13001234567", "13900000001", "16212345678"))
    async with two(store, *rules) as (first, second, it), learning(it):
        first.answers(*BUSY)
        second.answers(202, "")
        async with delivering(it.courier()):
            await it.ask(unicom)
            await marked(it)
            await until(lambda: it.count("sidecar_breaker_state", provider="first") == 2)
            first.answers(202, "")
            for recipient in (unicom, mobile, virtual):
                await it.ask(recipient)
                await marked(it)
        assert [json.loads(one.body)["to"] for one in first.asked] == [unicom.address, mobile.address]
        assert [json.loads(one.body)["to"] for one in second.asked] == [unicom.address, unicom.address, virtual.address]
