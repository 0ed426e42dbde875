"""How much is asked for just now? By one address, by its site, by all: counts in the store that fade.

A bucket says whether something may happen; this says how often it happens, so that work can be priced by it. A count
fades to 1/e in its period, so where something comes at a steady rate, the count comes to what a period brings. All
instances count in the store, by the store's clock, so that they agree and none forgets by starting again.

What costs nothing to ask for counts against whoever asks, and against a site about as much as is usual of each of its
addresses: else one address could make it dear for everybody. Against all counts only what somebody has worked for.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.client_key import client_key
from sidecar.config.units import Rate
from sidecar.store.client import Script, Store

_LOAD: Final = Script.load(Path(__file__).with_name("load.lua"))


@dataclass(frozen=True, slots=True)
class Usual:
    """How much is usual, and over which period it is counted: of one asker, of its site, of all."""

    own: Rate
    site: Rate
    in_all: Rate


@dataclass(frozen=True, slots=True)
class Counts:
    """What one asker, its site and all have lately come to."""

    own: float = 0.0
    site: float = 0.0
    in_all: float = 0.0

    def after(self, past_s: float, usual: Usual, *, given: int, solved: int) -> "Counts":
        """Count so many more, `past_s` seconds later."""
        past_s = max(0.0, past_s)
        own = self.own * math.exp(-past_s / usual.own.period_s) + given
        # At a steady rate, an address over the usual adds just the usual.
        site = self.site * math.exp(-past_s / usual.site.period_s) + given * min(1.0, usual.own.count / max(own, 1.0))
        return Counts(own, site, self.in_all * math.exp(-past_s / usual.in_all.period_s) + solved)

    def shares(self, usual: Usual) -> tuple[float, float, float]:
        """Tell how many times the usual each of them is."""
        return self.own / usual.own.count, self.site / usual.site.count, self.in_all / usual.in_all.count


class Load:
    """What is asked of one thing, `name`, by whom. `hashed`: with a key; no address is in the store."""

    def __init__(self, store: Store, hashed: Callable[[str], str], name: str, usual: tuple[Rate, Rate, Rate]) -> None:
        self._store = store
        self._hashed = hashed
        self._name = name
        self._usual = Usual(*usual)
        self._periods_ms = [int(rate.period_s * 1000) for rate in usual]

    def asker(self, ip: str) -> str:
        """Name an address, hashed."""
        return self._hashed(f"{self._name} {client_key('ip', ip)}")

    def site(self, ip: str) -> str:
        """Name the site of an address, hashed: IPv4's /24, IPv6's /48."""
        return self._hashed(f"{self._name} {client_key('ip_prefix', ip)}")

    def count(self, ip: str, *, given: int, solved: int) -> Awaitable[tuple[float, float, float]]:
        """Count what an address is given and has solved; tell how many times the usual each count is then.

        Its own, its site's and all's. Asked at once, whether or not it is awaited. Raises StoreError.
        """
        names = self._store.names
        keys = [
            names.load(self._name, self.asker(ip)),
            names.load(self._name, self.site(ip)),
            names.load(self._name, ""),
        ]
        args = [*self._periods_ms, given, solved, self._usual.own.count]
        return self._store.run(_LOAD, keys, args, read=self._shares)

    def _shares(self, counts: list[int]) -> tuple[float, float, float]:
        return Counts(*(count / 1000 for count in counts)).shares(self._usual)
