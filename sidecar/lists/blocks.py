"""What have administrators blocked for now? Kept in the store, and seen by every instance within a second.

Each instance asks twice a second whether anything has changed (`blocks.lua`), and reads all of it only then. While the
store is away, what was read last stays in force, each block until its own end: an end is counted by this machine's
steady clock, so neither a store that is away nor a clock that is set moves it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from sidecar.errors import StoreAwayError
from sidecar.events import BlockBegan, BlockEnded, StoreRefused, Tell
from sidecar.lists.rules import NOTHING_ADDED, Added, Beginnings
from sidecar.lists.targets import Target, of_field
from sidecar.ranges import Rows
from sidecar.store.client import ReplyError, Script, Store

_BLOCKS: Final = Script.load(Path(__file__).with_name("blocks.lua"))
# Half of the second in which all instances must know.
_LOOK_EVERY_S: Final = 0.5
# What is meant for good belongs into [[block]].
MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Block:
    """One block. `left_s`: until its end, infinite where it has none; `shown`: how it is told."""

    field: str
    shown: str
    left_s: float

    @property
    def left(self) -> int | None:
        """Whole seconds until its end; None where it has none."""
        return None if self.left_s == inf else max(0, round(self.left_s))


class Register:
    """The blocks of one store, for who adds and removes them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.names.blocks()

    async def add(self, target: Target, for_s: float) -> bool:
        """Block a target, `for_s` seconds or for good (0). False: there are as many as may be."""
        field = target.fields[0]
        words: list[str | int] = ["add", field, int(for_s * 1000), target.shown, MOST]
        _, until = await self._store.run(_BLOCKS, [self._key], words)
        return bool(until >= 0)

    async def remove(self, target: Target) -> bool:
        """Block a target no longer. False: it was not blocked."""
        _, count = await self._store.run(_BLOCKS, [self._key], ["remove", *target.fields])
        return bool(count)

    async def read(self, seen: str = "-") -> tuple[str, list[Block] | None]:
        """The version of the blocks, and those in force, which end first first; None while the version is `seen`."""
        now_ms, version, *flat = await self._store.run(_BLOCKS, [self._key], ["read", seen])
        if version.decode() == seen:
            return seen, None
        blocks = []
        for field, text in zip(flat[::2], flat[1::2], strict=True):
            until_ms, _, shown = text.decode().partition(" ")
            left_s = (int(until_ms) - now_ms) / 1000 if int(until_ms) else inf
            if left_s > 0:
                blocks.append(Block(field.decode(), shown, left_s))
        return version.decode(), sorted(blocks, key=lambda block: block.left_s)


class Blocks:
    """What is in force here. `clock` is in seconds, and never goes back."""

    def __init__(self, store: Store, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._register = Register(store)
        self._tell = tell
        self._clock = clock
        self._version = "-"
        # Field -> the block, and when it ends by our clock.
        self._known: dict[str, tuple[Block, float]] = {}
        self._added = NOTHING_ADDED
        self._next_end = inf
        self._refused = ""  # what the store said last in place of the blocks

    def in_force(self) -> Added:
        """What is blocked now."""
        if self._added is NOTHING_ADDED:
            return NOTHING_ADDED
        if self._next_end <= self._clock():
            self._drop_ended()
        return self._added

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.in_force()
            try:
                await self.look()
                self._refused = ""
            except StoreAwayError:
                continue  # which the store itself tells
            except ReplyError as error:  # strange data, a right that is missing: it is looked for all the same
                if error.code != self._refused:
                    self._tell(StoreRefused(reason=error.code))
                self._refused = error.code

    async def look(self) -> None:
        """See what the store has. Raises StoreAwayError."""
        asked_at = self._clock()
        self._version, blocks = await self._register.read(self._version)
        if blocks is None:
            return
        self._drop_ended()
        now = {block.field: (block, asked_at + block.left_s) for block in blocks}
        before, self._known = self._known, now
        self._made_anew()
        for field, (block, _) in before.items():
            if field not in now:
                self._tell(BlockEnded(what=block.shown, why="removed"))
        for field, (block, ends_at) in now.items():
            # The same end is read a little earlier or later each time.
            if field not in before or not _is_near(before[field][1], ends_at):
                self._tell(BlockBegan(what=block.shown, seconds=block.left))

    def _drop_ended(self) -> None:
        now = self._clock()
        ended = [block for block, ends_at in self._known.values() if ends_at <= now]
        if not ended:
            return
        self._known = {field: known for field, known in self._known.items() if known[1] > now}
        self._made_anew()
        for block in ended:
            self._tell(BlockEnded(what=block.shown, why="over"))

    def _made_anew(self) -> None:
        """Make what is looked up of what is known."""
        self._next_end = min((ends_at for _, ends_at in self._known.values()), default=inf)
        rows = Rows()
        for field in self._known:
            if (found := of_field(field)) is not None:
                rows.add(*found, 1)
        beginnings = [field for field in self._known if field.startswith("+")]
        added = Added(
            rows.ranges() if len(rows) else None,
            Beginnings(beginnings) if beginnings else None,
            frozenset(field[1:] for field in self._known if field.startswith("#")),
        )
        self._added = added or NOTHING_ADDED


def _is_near(one: float, other: float) -> bool:
    return one == other or abs(one - other) < _LOOK_EVERY_S
