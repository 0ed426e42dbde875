"""Do nearly all clients come from one address? Then a proxy stands between that nobody named. Pure.

Law: only a sure majority is told, and never of a few requests. What is remembered is one address and a count, however
many clients there are: the majority vote of Boyer and Moore, over one window of requests after another. The count of an
address grows by its own requests alone, and shrinks by each of another; so a count of 180 at the end of 200 requests
means that 180 or more came from that address.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

# Guarded requests of one window: more than a demo or a person at a form makes, and what a small site has in a day.
WINDOW: Final = 200
# What share of them is nearly all. The largest office or carrier gateway is far from it on a site that has clients.
NEARLY_ALL: Final = 0.9
# How soon it is told again.
AGAIN_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Share:
    """Of a window's requests at least this share came from an address. `is_news`: it is to be told."""

    address: str
    share: float
    is_news: bool


class Crowd:
    """The guarded requests of one process."""

    def __init__(self) -> None:
        self._seen = 0
        self._address = ""
        self._count = 0
        self._told_at = -inf

    def saw(self, address: str, now: float) -> Share | None:
        """Count a request at `now`, in seconds that never go back. Says what a window came to, when it has ended."""
        self._seen += 1
        if address == self._address:
            self._count += 1
        elif self._count:
            self._count -= 1
        else:
            self._address, self._count = address, 1
        if self._seen < WINDOW:
            return None
        found = Share(self._address, self._count / WINDOW, is_news=False)
        self._seen = self._count = 0
        if found.share < NEARLY_ALL or now - self._told_at < AGAIN_S:
            return found
        self._told_at = now
        return Share(found.address, found.share, is_news=True)
