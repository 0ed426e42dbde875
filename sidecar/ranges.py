"""Which of many ranges is an address in? Sorted arrays, searched by halves. Pure.

Law: ranges may come in any order, and may lie in each other. Of those that have an address the one that begins last
says its value, and of those that begin alike the narrowest: what is said of a network within another goes before what
is said of the other. Half a million ranges cost a look-up as much as a hundred do (bench/README.md).

Values are whole numbers from 1 to 2^32-1 (a number of an autonomous system, or just 1); 0 is an address in no range.
"""

import functools
import heapq
import ipaddress
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import Final, Literal, NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Version = Literal[4, 6]

# IPv4 in IPv6, ::ffff:192.0.2.1 (RFC 4291 section 2.5.5.2).
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
# As many are sorted at once: in C, which lets no other thread run meanwhile. Less than a millisecond.
_RUN: Final = 512
# Ranges between two pauses, which are less than a millisecond of work.
_BETWEEN_PAUSES: Final = 512


class Address(NamedTuple):
    """An address as a number. `version`: of the Internet Protocol."""

    version: Version
    number: int


@functools.lru_cache(4096)
def address(ip: str) -> Address:
    """Read an address as `proxy.client` spells it: IPv4 never as IPv6. Raises ValueError for no address."""
    if ":" not in ip:
        a, b, c, d = ip.split(".")
        return Address(4, int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d))
    return Address(6, int(ipaddress.IPv6Address(ip)))


class Ranges:
    """The ranges, made once: the places where the value changes, and what it is from there on."""

    __slots__ = ("_starts", "_values")

    def __init__(self, starts: dict[Version, Sequence[int]], values: dict[Version, Sequence[int]]) -> None:
        """`starts[v]` are the places of IPv4 or IPv6, sorted and from 0 on; `values[v]` are the values from there."""
        self._starts = starts
        self._values = values

    def value(self, at: Address) -> int:
        """The value of an address; 0 when no range has it."""
        version, number = at
        return self._values[version][bisect_right(self._starts[version], number) - 1]


class Rows:
    """Ranges as they are read, in any order."""

    def __init__(self) -> None:
        self._families: dict[Version, _Family] = {4: _Family(32), 6: _Family(128)}

    def __len__(self) -> int:
        return sum(len(family.first) for family in self._families.values())

    def add(self, version: Version, first: int, last: int, value: int) -> None:
        """Add a range, both ends included."""
        self._families[version].add(first, last, value)

    def ranges(self, pause: Callable[[], None] = lambda: None) -> Ranges:
        """Make them searchable. `pause` is called every few milliseconds: a thread lets others run in it."""
        starts: dict[Version, Sequence[int]] = {}
        values: dict[Version, Sequence[int]] = {}
        for version, family in self._families.items():
            starts[version], values[version] = family.flattened(pause)
        return Ranges(starts, values)


class _Family:
    """The ranges of IPv4 (32 bits, in arrays of 4 octets each), or of IPv6."""

    def __init__(self, bits: int) -> None:
        self._last_of_all = (1 << bits) - 1
        self._make: Callable[[], MutableSequence[int]] = list if bits > 32 else lambda: array("I")
        self.first: MutableSequence[int] = self._make()
        self.last: MutableSequence[int] = self._make()
        self.value = array("I")
        self._is_sorted = True

    def add(self, first: int, last: int, value: int) -> None:
        if self._is_sorted and self.first:
            before = self.first[-1]
            self._is_sorted = before < first or (before == first and last <= self.last[-1])
        self.first.append(first)
        self.last.append(last)
        self.value.append(value)

    def flattened(self, pause: Callable[[], None]) -> tuple[Sequence[int], Sequence[int]]:
        """Where the value changes, and to what."""
        starts, values = self._make(), array("I", [0])
        starts.append(0)

        def put(start: int, value: int) -> None:
            if starts[-1] == start:
                values[-1] = value
            elif values[-1] != value:
                starts.append(start)
                values.append(value)

        # The ranges that have what is looked at, the widest first: (last, value).
        around: list[tuple[int, int]] = []

        def end_before(place: int) -> None:
            while around and around[-1][0] < place:
                last, _ = around.pop()
                while around and around[-1][0] <= last:  # it begins earlier and ends earlier: it only overlaps
                    around.pop()
                if last < self._last_of_all:
                    put(last + 1, around[-1][1] if around else 0)

        for count, at in enumerate(self._order(pause)):
            if count % _BETWEEN_PAUSES == 0:
                pause()
            end_before(self.first[at])
            put(self.first[at], self.value[at])
            around.append((self.last[at], self.value[at]))
        end_before(self._last_of_all + 1)
        return starts, values

    def _order(self, pause: Callable[[], None]) -> Iterable[int]:
        """The ranges by where they begin, and of those that begin alike the widest first; else as they came."""
        count = len(self.first)
        if self._is_sorted:
            return range(count)

        def key(at: int) -> tuple[int, int]:
            return self.first[at], -self.last[at]

        runs = []
        for start in range(0, count, _RUN):
            pause()
            runs.append(sorted(range(start, min(start + _RUN, count)), key=key))
        return heapq.merge(*runs, key=key)


def of_networks(networks: Iterable[Network]) -> Ranges:
    """Make the ranges that have the addresses of any of these networks; their value is 1."""
    rows = Rows()
    for network in networks:
        version, first, last = ends(network)
        rows.add(version, first, last, 1)
    return rows.ranges()


def ends(network: Network) -> tuple[Version, int, int]:
    """The first and the last address of a network; IPv4 written as IPv6 is IPv4, as that of a client is."""
    first, last = int(network.network_address), int(network.broadcast_address)
    if isinstance(network, ipaddress.IPv4Network):
        return 4, first, last
    if network.subnet_of(_MAPPED):
        base = int(_MAPPED.network_address)
        return 4, first - base, last - base
    return 6, first, last
