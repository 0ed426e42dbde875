"""Which of our messages is a vendor's id? Remembered when it is accepted, so that only receipts of ours move anything.

The store has the id hashed with the provider's name, and beside it which verification it was for; no recipient. A
message has at most one last word: what is repeated, or comes after it out of order, moves nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.delivery.providers.seam import ReceiptState
from sidecar.store.client import Script, Store

_MOVE: Final = Script.load(Path(__file__).with_name("receipt.lua"))
# Vendors repeat a receipt for minutes, and carriers report for a day; a code lives ten minutes.
_KEPT_S: Final = 86_400
# What a receipt may follow, "" being none. Delivered is the last word; a network that gave up may have been too early.
_MAY_FOLLOW: Final[dict[ReceiptState, tuple[str, ...]]] = {
    "enroute": ("",),
    "unknown": ("", "enroute"),
    "delivered": ("", "enroute", "unknown", "expired", "undeliverable", "rejected"),
    "expired": ("", "enroute", "unknown"),
    "undeliverable": ("", "enroute", "unknown"),
    "rejected": ("", "enroute", "unknown"),
}


@dataclass(frozen=True, slots=True)
class Posted:
    """A message that a provider accepted. `segment` is where its breaker is; `after_s` since it was accepted."""

    verification_id: str
    provider: str
    segment: str
    after_s: float


class Ledger:
    """The messages of one store. `hashes` are a text's keyed hashes: under the secret, then under each previous one."""

    def __init__(self, store: Store, hashes: Callable[[str], Sequence[str]]) -> None:
        self._store = store
        self._hashes = hashes

    async def posted(self, provider: str, message_id: str, verification_id: str, segment: str) -> None:
        """Remember what a provider accepted. Raises StoreAwayError."""
        key = self._keys(provider, message_id)[0]
        await self._store.run(_MOVE, [key], ["posted", verification_id, segment, _KEPT_S])

    async def received(self, provider: str, message_id: str, state: ReceiptState) -> Posted | None:
        """Take down a receipt: the message that it moves; None when it is not ours, or nothing new."""
        for key in self._keys(provider, message_id):
            found = await self._store.run(_MOVE, [key], ["received", state, *_MAY_FOLLOW[state]])
            if found is not None:
                verification_id, segment, after_ms = found
                return Posted(verification_id.decode(), provider, segment.decode(), after_ms / 1000)
        return None

    def _keys(self, provider: str, message_id: str) -> list[str]:
        return [self._store.names.posted(hashed) for hashed in self._hashes(f"{provider}\0{message_id}")]
