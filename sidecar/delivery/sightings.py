"""What have all workers seen of each provider? Told to the store in the background, and read back with the others'.

A message never waits for it. While the store is away, what was read last stays, and what is seen meanwhile is lost.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from sidecar.delivery.score import HALF_LIFE_S, Seen
from sidecar.errors import StoreAwayError
from sidecar.store.client import Script, Store

_SEEN: Final = Script.load(Path(__file__).with_name("seen.lua"))
_EVERY_S: Final = 0.5
# Of so many providers and segments sightings are told in one go, and kept while the store is slow.
_BATCH: Final = 200
_KEPT: Final = 5_000


class Sightings:
    """What was seen in one store, by provider and segment."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.names.seen()
        self._told: dict[str, Seen] = {}
        # Provider and segment -> what was seen, and when, in the store's milliseconds.
        self._read: dict[str, tuple[Seen, int]] = {}
        self._ahead_ms = 0.0

    def of(self, names: tuple[str, ...], segment: str) -> Mapping[str, Seen]:
        """What was seen of these providers there, faded until now."""
        now_ms = time.monotonic() * 1000 + self._ahead_ms
        found = {name: self._read.get(f"{name}|{segment}") for name in names}
        return {name: one[0].faded((now_ms - one[1]) / 1000) for name, one in found.items() if one is not None}

    def add(self, provider: str, segment: str, seen: Seen) -> None:
        """Tell of it, some time soon."""
        field = f"{provider}|{segment}"
        before = self._told.get(field)
        if before is not None:
            self._told[field] = before.plus(seen)
        elif len(self._told) < _KEPT:
            self._told[field] = seen

    async def run(self) -> None:
        """Tell and read until cancelled."""
        while True:
            with suppress(StoreAwayError):  # which the store itself tells
                await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Tell what was seen here, and read what was seen everywhere. Raises StoreAwayError."""
        arguments: list[str | int] = [repr(HALF_LIFE_S)]
        for field in tuple(self._told)[:_BATCH]:
            seen = self._told.pop(field)
            arguments += (field, repr(seen.tried), repr(seen.in_time), repr(seen.due), repr(seen.confirmed))
        now_ms, *flat = await self._store.run(_SEEN, [self._key], arguments)
        self._ahead_ms = now_ms - time.monotonic() * 1000
        for field, text in zip(flat[::2], flat[1::2], strict=True):
            *counts, at_ms = text.split(b" ")
            self._read[field.decode()] = (Seen(*map(float, counts)), int(at_ms))
