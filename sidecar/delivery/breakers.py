"""Which providers does somebody know to be broken? Every worker's breakers, as one worker sees them.

The store has them and moves them (`breaker.lua`); each worker reads them twice a second in the background and tells
its results there, so a breaker that one worker opened is honoured by all within a second, and asking costs a look into
a dictionary. What may move a breaker is told at once, and that all is well with the next look. Only the one message
that probes waits for the store. While the store is away the last picture stays.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.breaker import LONGEST_MS, STATES, WINDOW, Breaker, of_text
from sidecar.errors import StoreAwayError, StoreError
from sidecar.events import BreakerMoved, BreakerSeen, StoreRefused, Tell
from sidecar.store.client import ReplyError, Script, Store

_BREAKER: Final = Script.load(Path(__file__).with_name("breaker.lua"))
# Half of the second in which all workers must know.
_REFRESH_S: Final = 0.5
# Results told in one go, and results kept while the store is slow: the oldest news matters least.
_BATCH: Final = 200
_KEPT: Final = 5_000
_CLOSED: Final = Breaker()


class Key(NamedTuple):
    """What breaks alone."""

    provider: str
    segment: str

    @property
    def field(self) -> str:
        """Its name in the store's hashes."""
        return f"{self.provider}|{self.segment}"


class Breakers:
    """The breakers of one store. Every provider's worst state is told at each look, and each move that is seen.

    `longest_ms`: none of them is open for longer, and no probe under way.
    """

    def __init__(self, store: Store, providers: Mapping[str, object], tell: Tell, longest_ms: int = LONGEST_MS) -> None:
        self._store = store
        self._longest_ms = longest_ms
        self._key = store.names.breakers()
        self._providers = tuple(providers)
        self._say = tell
        self._seen: dict[Key, Breaker] = {}
        # The store's clock less ours, milliseconds.
        self._ahead_ms = 0.0
        self._results: deque[tuple[str, int, int, int, int]] = deque(maxlen=_KEPT)
        # How many results of a field in one generation stand last among these, all of them fine.
        self._fine: dict[tuple[Key, int], int] = {}
        # There are results that should not wait for the next look.
        self._news = asyncio.Event()

    def of(self, key: Key) -> Breaker:
        """The breaker as last seen."""
        return self._seen.get(key, _CLOSED)

    def may_be_probed(self, breaker: Breaker) -> bool:
        """True when one attempt may find out now whether the provider is back."""
        return breaker.may_be_probed(self.now_ms(), self._longest_ms)

    def now_ms(self) -> int:
        """The store's time, by our clock."""
        return int(time.monotonic() * 1000 + self._ahead_ms)

    async def probe(self, key: Key, lease_s: float) -> Breaker | None:
        """Claim the one probe, which has `lease_s` seconds to come back; None when it is not to be had."""
        words: list[str | int] = ["probe", key.field, int(lease_s * 1000), self._longest_ms]
        try:
            now, won, text = await self._store.run(_BREAKER, [self._key], words)
        except StoreError:
            return None
        breaker = self._saw(now, key.field, text)
        return breaker if won else None

    def record(self, key: Key, generation: int, *, fine: bool, failures: int, open_for_s: float) -> None:
        """Count a result, some time soon. More fine ones in a row than a breaker looks back on say nothing new."""
        breaker = (key, generation)
        fine_ones = self._fine[breaker] = self._fine.get(breaker, 0) + 1 if fine else 0
        if fine_ones > WINDOW:
            return
        self._results.append((key.field, generation, int(fine), failures, int(open_for_s * 1000)))
        if not fine or self.of(key).state != "closed" or len(self._results) >= _BATCH:
            self._news.set()

    async def run(self) -> None:
        """Tell and look until cancelled."""
        clock = time.monotonic
        look_at = clock()
        refused = ""  # what the store said last in place of the breakers
        while True:
            try:
                self._news.clear()
                while self._results:
                    await self._tell()
                if clock() >= look_at:
                    look_at = clock() + _REFRESH_S
                    await self.look()
                    refused = ""
                async with asyncio.timeout(look_at - clock()):
                    await self._news.wait()
            except TimeoutError:
                continue
            except StoreAwayError:  # which the store itself tells
                await asyncio.sleep(_REFRESH_S)
            except ReplyError as error:  # strange data, a right that is missing: it is looked for all the same
                if error.code != refused:
                    self._say(StoreRefused(reason=error.code))
                refused = error.code
                await asyncio.sleep(_REFRESH_S)

    async def look(self) -> None:
        """See what the store has. Raises StoreAwayError."""
        now, *flat = await self._store.run(_BREAKER, [self._key], ["read"])
        self._seen.clear()
        for field, text in zip(flat[::2], flat[1::2], strict=True):
            self._saw(now, field.decode(), text)
        for provider in self._providers:
            self._tell_worst(provider)

    async def _tell(self) -> None:
        results = [self._results.popleft() for _ in range(min(_BATCH, len(self._results)))]
        self._fine.clear()
        arguments: list[str | int] = [word for result in results for word in result]
        now, *texts = await self._store.run(_BREAKER, [self._key], ["record", *arguments])
        for result, text in zip(results, texts, strict=True):
            self._saw(now, result[0], text)

    def _saw(self, now_ms: int, field: str, text: bytes) -> Breaker:
        self._ahead_ms = now_ms - time.monotonic() * 1000
        provider, _, segment = field.rpartition("|")
        key, breaker = Key(provider, segment), of_text(text.decode())
        before = self._seen.get(key)
        self._seen[key] = breaker
        if before is not None and before.state != breaker.state:
            self._say(BreakerMoved(provider=provider, segment=segment, state=breaker.state, was=before.state))
            self._tell_worst(provider)
        return breaker

    def _tell_worst(self, provider: str) -> None:
        states = [STATES[breaker.state] for key, breaker in self._seen.items() if key.provider == provider]
        self._say(BreakerSeen(provider=provider, state=max(states, default=0)))
