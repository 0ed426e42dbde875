"""Who is believed, and which receipts move a message: on a real store, with a kind that signs nothing."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import pytest

from sidecar.config.model import Provider
from sidecar.delivery import ledger as ledger_module
from sidecar.delivery.ledger import Ledger, Moved
from sidecar.delivery.providers.seam import Receipt, ReceiptReply, ReceiptState
from sidecar.delivery.receipts import Receipts, may_come, with_ref
from sidecar.errors import Refusal
from sidecar.store.client import Store

TOKEN = "the-secret-end-of-a-path"
VENDOR = "203.0.113.7"


def unsigned() -> ModuleType:
    """A kind as those of China are: JSON in, nothing signed."""
    kind = ModuleType("unsigned")

    def receipts(fields: Mapping[str, str], body: bytes) -> tuple[Receipt, ...]:
        return tuple(Receipt(item["id"], None, item["state"], item["code"], None) for item in json.loads(body))

    vars(kind).update(receipts=receipts, RECEIPT_REPLY=ReceiptReply(200, {"code": 0}))
    return kind


async def noted(
    ledger: Ledger,
    message_id: str,
    verification_id: str,
    holders: Mapping[str, str | None],
    took: Collection[str] = (),
) -> list[Moved]:
    """Note a message of China; what came early of it."""
    asked = ledger.note(message_id, verification_id, "CN", holders, took)
    return [moved async for moved in ledger.taken(asked)] if asked else []


class Desk:
    """The endpoint of one provider, and what it told of."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.ledger = Ledger(store, lambda text: [f"now-{text}", f"before-{text}"], {"a", "b"})
        self.moved: list[tuple[str, str]] = []
        self.others: list[int] = []
        self.codes: list[str] = []
        provider = Provider.model_validate({"kind": "unsigned", "receipt_token": TOKEN} | settings)
        silent = Provider.model_validate({"kind": "silent", "receipt_token": TOKEN})
        kinds = {"unsigned": unsigned(), "silent": ModuleType("silent")}
        self._receipts = Receipts({"a": provider, "silent": silent}, kinds, "", self.ledger, self._move)

    async def posted(
        self, provider: str = "a", sid: str | None = "s-1", message_id: str = "m-1", verification_id: str = "v-1"
    ) -> list[tuple[str, str]]:
        """Note a message; what came early of it."""
        early = await noted(self.ledger, message_id, verification_id, {provider: sid})
        return [(moved.verification_id, moved.state) for moved in early]

    async def _move(self, moved: Moved) -> None:
        assert 0 <= moved.after_s < 60
        self.moved.append((moved.verification_id, moved.state))
        self.others.append(moved.others)
        self.codes.append(moved.vendor_code)

    async def take(
        self,
        *states: ReceiptState,
        sid: str = "s-1",
        token: str | None = TOKEN,
        ip: str = VENDOR,
        query: str = "",
        code: str = "W",
        provider: str = "a",
    ) -> Any:
        body = json.dumps([{"id": sid, "state": state, "code": code} for state in states]).encode()
        return await self._receipts.take(provider, token, query, ip, {}, body)


async def test_receipt_of_ours_is_told_of_and_answered_as_the_vendor_wants(store: Store) -> None:
    desk = Desk(store)
    await desk.posted()
    assert await desk.take("delivered") == ReceiptReply(200, {"code": 0})
    assert desk.moved == [("v-1", "delivered")]


async def test_only_news_is_told_of(store: Store) -> None:
    """Enroute after a last word, the same word twice: nothing. Delivered after all: news."""
    desk = Desk(store)
    await desk.posted()
    await desk.take("enroute", "enroute", "undeliverable", "enroute", "undeliverable", "expired", "delivered")
    await desk.take("undeliverable", "delivered")
    assert [state for _, state in desk.moved] == ["enroute", "undeliverable", "delivered"]
    assert not await store.execute(store.names.early(), "EXISTS", store.names.early()), (
        "what is known is not kept for later"
    )


async def test_id_of_another_provider_is_not_ours(store: Store) -> None:
    desk = Desk(store)
    await desk.posted("b")
    await desk.take("delivered")
    assert not desk.moved


async def test_receipt_is_found_after_the_secret_was_changed(store: Store) -> None:
    desk = Desk(store)
    before = Ledger(store, lambda text: [f"before-{text}"], {"a"})
    await noted(before, "m-1", "v-1", {"a": "s-1"})
    await desk.take("delivered")
    assert desk.moved == [("v-1", "delivered")]


async def test_address_that_was_made_for_one_message_names_it(store: Store) -> None:
    """The receipt need not: its vendor may not give our id back, and its own is known only from an answer."""
    desk = Desk(store)
    await desk.posted(sid=None, message_id="v-1_7-0")
    address = with_ref("https://www.example.com/receipts/a", "v-1_7-0")
    await desk.take("enroute", query="")
    assert not desk.moved
    await desk.take("delivered", sid="s-9", query=address.partition("?")[2])
    assert desk.moved == [("v-1", "delivered")]


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "ключ"])
async def test_wrong_token_finds_nothing(store: Store, token: str | None) -> None:
    desk = Desk(store)
    with pytest.raises(Refusal, match="not_found"):
        await desk.take("delivered", token=token)


@pytest.mark.parametrize("provider", ["nobody", "silent", ""])
async def test_who_reports_nothing_is_as_if_not_there(store: Store, provider: str) -> None:
    """A provider that is not configured, and one whose vendor sends no receipts."""
    with pytest.raises(Refusal, match="not_found"):
        await Desk(store).take("delivered", provider=provider)


async def test_kind_that_signs_nothing_needs_a_token(store: Store) -> None:
    """Nobody set one: then nobody is believed, not even with none."""
    desk = Desk(store, receipt_token="")
    for token in (None, ""):
        with pytest.raises(Refusal, match="not_found"):
            await desk.take("delivered", token=token)


@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("url", ["", "https://www.example.com/receipts"])
@pytest.mark.parametrize("token", ["", TOKEN])
async def test_a_receipt_may_come_where_one_would_be_believed(
    store: Store, url: str, token: str, *, signs: bool
) -> None:
    """And where none would be, nothing is remembered for it."""
    kind = unsigned()
    if signs:
        vars(kind).update(receipt_signature_ok=lambda *_: True)
    settings = Provider.model_validate({"kind": "unsigned", "receipt_token": token})
    desk = Desk(store)
    receipts = Receipts({"a": settings}, {"unsigned": kind}, url, desk.ledger, desk._move)
    with contextlib.nullcontext() if may_come(url, settings, kind) else pytest.raises(Refusal, match="not_found"):
        await receipts.take("a", token or None, "", VENDOR, {}, b"[]")
    assert not may_come(url, settings, ModuleType("silent"))


async def test_of_whom_no_receipt_may_come_nothing_is_remembered(store: Store) -> None:
    ledger = Ledger(store, lambda text: [text], {"a"})
    assert ledger.hears(["b", "a"])
    assert not ledger.hears(["b"])
    assert await ledger.early("b", "m-1", "s-1") is None
    assert await noted(ledger, "m-1", "v-1", {"b": "s-1"}) == []
    assert not await store.execute(None, "KEYS", f"*{store.names.prefix}*")


async def test_where_sources_are_named_others_find_nothing(store: Store) -> None:
    desk = Desk(store, receipt_sources=["203.0.113.0/24", "2001:db8::/32"])
    await desk.posted()
    with pytest.raises(Refusal, match="not_found"):
        await desk.take("delivered", ip="198.51.100.1")
    await desk.take("delivered", ip="2001:db8::1")
    assert desk.moved == [("v-1", "delivered")]


async def test_what_is_no_receipt_is_malformed(store: Store) -> None:
    desk = Desk(store)
    with pytest.raises(Refusal, match="malformed_request"):
        await desk._receipts.take("a", TOKEN, "", VENDOR, {}, b"hello")


async def test_number_in_a_vendors_text_is_told_to_nobody(store: Store) -> None:
    """Not to the log, by way of what is told, and not to the store, where an early receipt waits."""
    desk = Desk(store)
    await desk.take("undeliverable", code="user 13912345678 absent, 300040")
    assert "13912345678" not in repr(await store.execute(store.names.early(), "HGETALL", store.names.early()))
    await desk.posted()
    await desk.take("delivered", code="8613912345678")
    assert desk.codes == ["*"]


async def test_store_shows_neither_number_nor_vendor_id(store: Store) -> None:
    """The ids are in the keys as hashes, and nothing else of the message is there."""
    ledger = Ledger(store, lambda text: [hashlib.sha256(text.encode()).hexdigest()], {"a"})
    await ledger.received("a", Receipt("s-secret-id", "8613900000001", "enroute", "W", "m-secret"))
    kept = [repr(await store.execute(store.names.early(), "HGETALL", store.names.early()))]
    await noted(ledger, "m-secret", "v-1", {"a": "s-secret-id"})
    posted = store.names.posted(hashlib.sha256(b"m-secret").hexdigest())
    kept.append(repr(await store.execute(posted, "HGETALL", posted)))
    assert not [text for text in kept if "s-secret-id" in text or "8613900000001" in text or "m-secret" in text]
    alias = store.names.vendor_id(hashlib.sha256(b"a\0s-secret-id").hexdigest())
    for key in (posted, alias):
        assert 0 < await store.execute(key, "TTL", key) <= 86_400


# Receipts that come early, or name only our id…


async def test_receipt_before_the_answer_is_taken_when_the_message_is_known(store: Store) -> None:
    """Whatever it named: the vendor's id, ours, or both. Once."""
    desk = Desk(store)
    for sid, query in (("s-1", ""), ("", "ref=m-2"), ("s-3", "ref=m-3")):
        await desk.take("enroute", "undeliverable", "enroute", sid=sid, query=query)
    assert not desk.moved
    assert await desk.posted() == [("v-1", "enroute"), ("v-1", "undeliverable")]
    assert await desk.posted(message_id="m-2", sid=None) == [("v-1", "enroute"), ("v-1", "undeliverable")]
    assert await desk.posted(message_id="m-3", sid="s-3") == [("v-1", "enroute"), ("v-1", "undeliverable")]
    assert await desk.posted() == []
    assert await store.execute(store.names.early_times(), "ZCARD", store.names.early_times()) == 0


async def test_race_sees_what_came_early_and_takes_it_away_from_nobody(store: Store) -> None:
    desk = Desk(store)
    assert await desk.ledger.early("a", "m-1", "s-1") is None
    await desk.take("undeliverable", "enroute")
    assert await desk.ledger.early("a", "m-1", "s-1") == "undeliverable"
    assert await desk.ledger.early("a", "m-1", None) is None
    assert await desk.ledger.early("b", "m-1", "s-1") is None
    assert await desk.posted() == [("v-1", "undeliverable")]


async def test_receipt_that_names_only_our_id_moves_the_message_whose_answer_was_lost(store: Store) -> None:
    desk = Desk(store)
    await desk.posted(sid=None)
    await desk.take("delivered", sid="never-heard-of", query="ref=m-1")
    await desk.take("delivered", sid="never-heard-of", query="ref=m-1")
    assert desk.moved == [("v-1", "delivered")]


@pytest.mark.parametrize(("provider", "query"), [("b", "ref=m-1"), ("a", "ref=m-2"), ("a", "ref="), ("a", "")])
async def test_our_id_moves_nothing_of_a_provider_without_the_message(store: Store, provider: str, query: str) -> None:
    """Another provider's message, one that we never sent, and no id at all."""
    desk = Desk(store)
    await desk.posted(provider, sid=None)
    await desk.take("delivered", sid="", query=query)
    assert not desk.moved


async def test_loss_says_how_many_others_may_still_bring_the_message(store: Store) -> None:
    """Also those whose vendors report nothing."""
    desk = Desk(store)
    await noted(desk.ledger, "m-1", "v-1", {"a": "s-1", "b": None, "silent": None})
    await desk.take("undeliverable")
    assert desk.others == [2]
    await desk.ledger.received("b", Receipt("", None, "expired", "W", "m-1"))
    await desk.take("delivered")
    assert desk.others == [2, 1]


@pytest.mark.parametrize("word", ["enroute", "delivered"])
async def test_that_two_have_a_message_is_told_once_by_whatever_tells_it_first(
    store: Store, word: ReceiptState
) -> None:
    """A receipt of one whose answer was lost; not of one that is known to have it, that lost it, or that is alone."""
    ledger = Desk(store).ledger

    async def told(provider: str, state: ReceiptState, message_id: str) -> bool | None:
        moved = await ledger.received(provider, Receipt("", None, state, "W", message_id))
        return moved.duplicate if moved else None

    await noted(ledger, "silent-and-b", "v-1", {"a": None, "b": "s-1"}, {"b"})
    assert [await told("b", "delivered", "silent-and-b"), await told("a", word, "silent-and-b")] == [False, True]
    assert await told("a", word, "silent-and-b") is None
    assert await told("a", "delivered", "silent-and-b") in {None, False}
    await noted(ledger, "both-silent", "v-2", {"a": None, "b": None})
    assert [await told("a", word, "both-silent"), await told("b", word, "both-silent")] == [False, True]
    await noted(ledger, "b-lost-it", "v-3", {"a": None, "b": "s-3"}, {"b"})
    assert [await told("b", "undeliverable", "b-lost-it"), await told("a", word, "b-lost-it")] == [False, False]
    await noted(ledger, "counted-by-the-race", "v-4", {"a": "s-4", "b": "s-5"}, {"a", "b"})
    assert [await told("a", word, "counted-by-the-race"), await told("b", word, "counted-by-the-race")] == [False] * 2
    await noted(ledger, "alone", "v-5", {"a": None})
    assert await told("a", word, "alone") is False


async def test_receipts_of_others_messages_are_kept_in_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that others use too: the newest are kept, and each only for a while."""
    monkeypatch.setattr(ledger_module, "_MAX_EARLY", 5)
    desk = Desk(store)
    for n in range(20):
        await desk.take("enroute", sid=f"theirs-{n}")
    assert await store.execute(store.names.early(), "HLEN", store.names.early()) == 5
    assert await store.execute(store.names.early_times(), "ZCARD", store.names.early_times()) == 5
    assert await desk.posted(sid="theirs-19") == [("v-1", "enroute")]
    assert await desk.posted(sid="theirs-3", message_id="m-2") == []
    assert 0 < await store.execute(store.names.early(), "PTTL", store.names.early()) <= 600_000
    await store.execute(store.names.early_times(), "ZADD", store.names.early_times(), 1, "now-a\0theirs-18")
    await desk.take("enroute", sid="theirs-20")
    assert await desk.posted(sid="theirs-18", message_id="m-3") == []


async def test_vendor_that_repeats_itself_takes_no_more_room(store: Store) -> None:
    desk = Desk(store)
    for _ in range(50):
        await desk.take("enroute")
    [text] = await store.execute(store.names.early(), "HVALS", store.names.early())
    assert text.count(b"enroute") == 1


async def test_no_receipt_falls_between_noting_and_keeping(store: Store) -> None:
    """Whichever is faster, by however many of the store's answers, the receipt moves the message, once."""
    key = store.names.early()

    async def posted_after(answers: int, desk: Desk) -> list[tuple[str, str]]:
        for _ in range(answers):
            await store.execute(key, "EXISTS", key)
        return await desk.posted(sid=f"s-{answers}", message_id=f"m-{answers}")

    for n in range(20):
        desk = Desk(store)
        early, _ = await asyncio.gather(posted_after(n, desk), desk.take("delivered", sid=f"s-{n}"))
        assert early + desk.moved == [("v-1", "delivered")]


async def test_message_of_a_vendor_that_reports_nothing_is_not_noted(store: Store) -> None:
    desk = Desk(store)
    assert await desk.posted("silent") == []
    assert not await store.execute(store.names.posted("now-m-1"), "EXISTS", store.names.posted("now-m-1"))
    await noted(desk.ledger, "m-2", "v-2", {"silent": "s-2", "a": "s-3"})
    assert len(await store.execute(None, "KEYS", store.names.vendor_id("*"))) == 1, (
        "only who reports is found by its own id"
    )
