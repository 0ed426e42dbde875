"""Which of our messages does a vendor speak of? Remembered by both ids: only receipts of ours move anything.

The store has every id hashed with the provider's name, and beside it which verification it was for; no recipient. What
a provider says of a message has at most one last word: what is repeated, or comes after it out of order, is no news.

A receipt may come before the message is known here: before the vendor's own answer, or when that was lost. It is kept
for a while (`early.lua`), seen by the race (`early`), and taken once the message is noted (`note`, `taken`). Noting and
looking in one step, on the one side, and on the other looking, keeping, and looking again, no receipt falls between the
two.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from sidecar.delivery.providers.seam import Receipt, ReceiptState
from sidecar.store.client import Script, Store

_NOTE: Final = Script.load(Path(__file__).with_name("note.lua"))
_MOVE: Final = Script.load(Path(__file__).with_name("receipt.lua"))
_EARLY: Final = Script.load(Path(__file__).with_name("early.lua"))
# Vendors repeat a receipt for minutes, and carriers report for a day; a code lives ten minutes.
_KEPT_S: Final = 86_400
# An early receipt is wanted while its message is under way, and no longer than its code lives. What others send through
# the same account is never wanted: 10,000 of about 100 octets are a megabyte.
_EARLY_MS: Final = 600_000
_MAX_EARLY: Final = 10_000
# What a receipt may follow, "-" being none. Delivered is the last word; a network that gave up may have been too early.
_MAY_FOLLOW: Final[dict[ReceiptState, tuple[str, ...]]] = {
    "enroute": ("-",),
    "unknown": ("-", "enroute"),
    "delivered": ("-", "enroute", "unknown", "expired", "undeliverable", "rejected"),
    "expired": ("-", "enroute", "unknown"),
    "undeliverable": ("-", "enroute", "unknown"),
    "rejected": ("-", "enroute", "unknown"),
}


@dataclass(frozen=True, slots=True)
class Moved:
    """A receipt that is news of one of our messages.

    `segment` is where the provider's breaker is; `after_s` since it had the message; `others`: how many other providers
    may still bring it; `duplicate`: only now is it known that the provider took the message, and another has it, too.
    """

    message_id: str
    verification_id: str
    provider: str
    state: ReceiptState
    vendor_code: str
    segment: str
    after_s: float
    others: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Noted:
    """A message that the store was asked to remember.

    `early`: providers, and the hashed ids under which their receipts of it may have come; `texts`: those receipts, in
    that order.
    """

    message_id: str
    early: Sequence[tuple[str, str]]
    texts: Awaitable[Sequence[bytes | None]]


class Ledger:
    """The messages of one store.

    `hashes` are a text's keyed hashes: under the secret, then under each previous one. `reporting` are the providers
    of which receipts may come (`receipts.may_come`).
    """

    def __init__(self, store: Store, hashes: Callable[[str], Sequence[str]], reporting: Collection[str]) -> None:
        self._store = store
        self._names = store.names
        self._hashes = hashes
        self._reporting = reporting

    def hears(self, providers: Iterable[str]) -> bool:
        """True when a receipt of one of these providers may come; of others nothing need be remembered."""
        return bool(self._reporting) and any(provider in self._reporting for provider in providers)

    async def early(self, provider: str, message_id: str, vendor_id: str | None) -> ReceiptState | None:
        """Tell what a receipt has said of a message that is not noted yet. Raises StoreAwayError."""
        if provider not in self._reporting:
            return None
        came_to = "-"
        ids = self._early_ids(provider, message_id, vendor_id)
        for receipt in _read(await self._store.run(_EARLY, self._early_keys(), ["peek", *ids]), message_id):
            if came_to in _MAY_FOLLOW[receipt.state]:
                came_to = receipt.state
        return None if came_to == "-" else cast("ReceiptState", came_to)

    def note(
        self,
        message_id: str,
        verification_id: str,
        segment: str,
        holders: Mapping[str, str | None],
        took: Collection[str],
    ) -> Noted | None:
        """Remember who has a message, or may have it, each with the id that it gave. The store is asked at once.

        `took`: those of them that surely have it.
        None when no receipt of it may come: then there is nothing to remember.
        """
        if not self.hears(holders):
            return None
        words = [word for provider in holders for word in (provider, segment, int(provider in took))]
        heard = {provider: vendor_id for provider, vendor_id in holders.items() if provider in self._reporting}
        names = [self._names.vendor_id(self._hash(_of(name, given))) for name, given in heard.items() if given]
        early = [
            (provider, one) for provider in heard for one in self._early_ids(provider, message_id, heard[provider])
        ]
        texts = self._store.run(
            _NOTE,
            [self._names.posted(self._hash(message_id)), self._names.early(), *names],
            [message_id, verification_id, _KEPT_S, len(holders), *words, *(hashed for _, hashed in early)],
        )
        return Noted(message_id, early, texts)

    async def taken(self, noted: Noted) -> AsyncIterator[Moved]:
        """Wait until a message is noted, and take what came early of it. Raises StoreAwayError.

        Then it may be noted and taken again: what came is forgotten last, and what was given is no news any more.
        """
        for (provider, hashed), text in zip(noted.early, await noted.texts, strict=True):
            if text is not None:
                for receipt in _read([text], noted.message_id):
                    for moved in await self._moves(provider, receipt, [noted.message_id]) or ():
                        yield moved
                await self._store.run(_EARLY, self._early_keys(), ["take", hashed])

    async def received(self, provider: str, receipt: Receipt) -> Moved | None:
        """Take down a receipt: what it moves; None when it is no news, or of nothing that we know (yet).

        Raises StoreAwayError.
        """
        for is_kept in (False, True):
            found = await self._moves(provider, receipt, await self._ours(provider, receipt))
            if found is not None:
                return found[0] if found else None
            if not is_kept:
                await self._keep(provider, receipt)
        return None

    async def _ours(self, provider: str, receipt: Receipt) -> list[str]:
        """Our ids of the message that it may be of."""
        found = []
        if receipt.provider_message_id:
            for hashed in self._hashes(_of(provider, receipt.provider_message_id)):
                alias = self._names.vendor_id(hashed)
                ours = await self._store.execute(alias, "GET", alias)
                found += [ours.decode()] if ours is not None else []
        return found + ([receipt.client_ref] if receipt.client_ref else [])

    async def _moves(self, provider: str, receipt: Receipt, ours: Sequence[str]) -> list[Moved] | None:
        """What the receipt moves, nothing or one; None when the message is not known."""
        arguments = [provider, receipt.state, *_MAY_FOLLOW[receipt.state]]
        for message_id in ours:
            for hashed in self._hashes(message_id):
                news = await self._store.run(_MOVE, [self._names.posted(hashed)], arguments)
                if news is None:
                    continue
                if not news:
                    return []
                verification_id, segment, after_ms, others, twice = news
                return [
                    Moved(
                        message_id,
                        verification_id.decode(),
                        provider,
                        receipt.state,
                        receipt.vendor_code,
                        segment.decode(),
                        after_ms / 1000,
                        others,
                        bool(twice),
                    )
                ]
        return None

    async def _keep(self, provider: str, receipt: Receipt) -> None:
        ids = self._early_ids(provider, receipt.client_ref, receipt.provider_message_id)
        said = json.dumps([receipt.state, receipt.vendor_code[:64]])
        await self._store.run(_EARLY, self._early_keys(), ["park", _EARLY_MS, _MAX_EARLY, said, *ids])

    def _early_ids(self, provider: str, message_id: str | None, vendor_id: str | None) -> list[str]:
        texts = [_of(provider, one) for one in (vendor_id, message_id) if one]
        return [self._hash(text) for text in texts]

    def _hash(self, text: str) -> str:
        return self._hashes(text)[0]

    def _early_keys(self) -> list[str]:
        return [self._names.early(), self._names.early_times()]


def _read(texts: Sequence[bytes], message_id: str) -> list[Receipt]:
    """The receipts that were kept of a message."""
    said = [json.loads(line) for text in texts for line in text.split(b"\n")]
    return [Receipt("", None, state, vendor_code, message_id) for state, vendor_code in said]


def _of(provider: str, vendor_id: str) -> str:
    return f"{provider}\0{vendor_id}"
