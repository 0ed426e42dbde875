"""Who is believed, and which receipts move a message: on a real store, with a kind that signs nothing."""

import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from sidecar.config.model import Provider
from sidecar.delivery.ledger import Ledger, Posted
from sidecar.delivery.providers.seam import Receipt, ReceiptReply, ReceiptState
from sidecar.delivery.receipts import Receipts, with_ref
from sidecar.errors import Refusal
from sidecar.store.client import Store

TOKEN = "the-secret-end-of-a-path"
VENDOR = "203.0.113.7"


def unsigned() -> ModuleType:
    """A kind as those of China are: JSON in, nothing signed."""
    kind = ModuleType("unsigned")

    def receipts(fields: Mapping[str, str], body: bytes) -> tuple[Receipt, ...]:
        return tuple(Receipt(item["id"], None, item["state"], "W", None) for item in json.loads(body))

    vars(kind).update(receipts=receipts, RECEIPT_REPLY=ReceiptReply(200, {"code": 0}))
    return kind


class Desk:
    """The endpoint of one provider, and what it told of."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.ledger = Ledger(store, lambda text: [f"now-{text}", f"before-{text}"])
        self.moved: list[tuple[str, str]] = []
        self.refs: list[str | None] = []
        provider = Provider.model_validate({"kind": "unsigned", "receipt_token": TOKEN} | settings)
        self._receipts = Receipts({"a": provider}, {"unsigned": unsigned()}, "", self.ledger, self._move)

    async def _move(self, posted: Posted, receipt: Receipt) -> None:
        assert 0 <= posted.after_s < 60
        self.moved.append((posted.verification_id, receipt.state))
        self.refs.append(receipt.client_ref)

    async def take(
        self, *states: ReceiptState, sid: str = "s-1", token: str | None = TOKEN, ip: str = VENDOR, query: str = ""
    ) -> Any:
        body = json.dumps([{"id": sid, "state": state} for state in states]).encode()
        return await self._receipts.take("a", token, query, ip, {}, body)


async def test_receipt_of_ours_is_told_of_and_answered_as_the_vendor_wants(store: Store) -> None:
    desk = Desk(store)
    await desk.ledger.posted("a", "s-1", "v-1", "CN")
    assert await desk.take("delivered") == ReceiptReply(200, {"code": 0})
    assert desk.moved == [("v-1", "delivered")]


async def test_only_news_is_told_of(store: Store) -> None:
    """Enroute after a last word, the same word twice: nothing. Delivered after all: news."""
    desk = Desk(store)
    await desk.ledger.posted("a", "s-1", "v-1", "CN")
    await desk.take("enroute", "enroute", "undeliverable", "enroute", "undeliverable", "expired", "delivered")
    await desk.take("undeliverable", "delivered")
    assert [state for _, state in desk.moved] == ["enroute", "undeliverable", "delivered"]


async def test_id_of_another_provider_is_not_ours(store: Store) -> None:
    desk = Desk(store)
    await desk.ledger.posted("b", "s-1", "v-1", "CN")
    await desk.take("delivered")
    assert not desk.moved


async def test_receipt_is_found_after_the_secret_was_changed(store: Store) -> None:
    desk = Desk(store)
    await Ledger(store, lambda text: [f"before-{text}"]).posted("a", "s-1", "v-1", "CN")
    await desk.take("delivered")
    assert desk.moved == [("v-1", "delivered")]


async def test_address_that_was_made_for_one_message_names_it(store: Store) -> None:
    """What the vendor was told with the message comes back as our own id; without it nothing is made up."""
    desk = Desk(store)
    for sid, query in (("s-1", with_ref("", "v-1_7-0").removeprefix("?")), ("s-2", ""), ("s-3", "ref=")):
        await desk.ledger.posted("a", sid, "v-1", "CN")
        await desk.take("delivered", sid=sid, query=query)
    assert desk.refs == ["v-1_7-0", None, None]


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "ключ"])
async def test_wrong_token_finds_nothing(store: Store, token: str | None) -> None:
    desk = Desk(store)
    with pytest.raises(Refusal, match="not_found"):
        await desk.take("delivered", token=token)


async def test_kind_that_signs_nothing_needs_a_token(store: Store) -> None:
    """Nobody set one: then nobody is believed, not even with none."""
    desk = Desk(store, receipt_token="")
    for token in (None, ""):
        with pytest.raises(Refusal, match="not_found"):
            await desk.take("delivered", token=token)


async def test_where_sources_are_named_others_find_nothing(store: Store) -> None:
    desk = Desk(store, receipt_sources=["203.0.113.0/24", "2001:db8::/32"])
    await desk.ledger.posted("a", "s-1", "v-1", "CN")
    with pytest.raises(Refusal, match="not_found"):
        await desk.take("delivered", ip="198.51.100.1")
    await desk.take("delivered", ip="2001:db8::1")
    assert desk.moved == [("v-1", "delivered")]


async def test_what_is_no_receipt_is_malformed(store: Store) -> None:
    desk = Desk(store)
    with pytest.raises(Refusal, match="malformed_request"):
        await desk._receipts.take("a", TOKEN, "", VENDOR, {}, b"hello")


async def test_store_shows_neither_number_nor_vendor_id(store: Store) -> None:
    """The id is in the key as a hash, and nothing else of the message is there."""
    ledger = Ledger(store, lambda text: ["h"])
    await ledger.posted("a", "s-secret-id", "v-1", "CN")
    stored = dict(zip(*[iter(await store.execute("HGETALL", store.names.posted("h")))] * 2, strict=True))
    assert set(stored) == {b"verification", b"segment", b"at", b"state"}
    assert 0 < await store.execute("TTL", store.names.posted("h")) <= 86_400
