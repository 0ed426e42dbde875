"""What does an administrator want to block? What was typed in, its name in the store out. Pure.

Law: nobody's whole number is stored, or shown, in clear. A text that could be a recipient is a whole number, and its
name is a keyed hash; any other is the beginning of numbers, of eleven digits at most, and stands in clear. What is read
here is what blocks: a text that two could read differently is refused, with what would be right.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar import ranges
from sidecar.config.findings import UnfitError
from sidecar.config.model import Listed
from sidecar.config.units import read_network
from sidecar.ranges import Network, Version
from sidecar.recipient import Recipient

# In China eleven digits leave a hundred numbers open, in North America, where they are all, none: those are whole.
MOST_CLEAR: Final = 11
_BEGINNING: Final = re.compile(r"\+[1-9][0-9]{0,10}")
_DIGITS: Final = re.compile(r"\+?[0-9]+")
# Ranges that are remembered: reading each anew takes 6 µs, and all are put together again when one changes.
_KEPT: Final = 2048
# A home or a phone gets an IPv6 network of this length.
_CUSTOMER_V6: Final = 64
# What people write between digits.
_SIGNS: Final = re.compile(r"[\s().-]")
_RIGHT: Final = 'write an address range such as "203.0.113.0/24", or the beginning of numbers such as "+8816"'


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to block.

    `fields` are its names in the store: one, or a hash under each accepted secret, the newest first. `shown` is how it
    is told, a whole number masked. `network`: None for numbers.
    """

    fields: tuple[str, ...]
    shown: str
    network: Network | None = None
    is_whole: bool = False

    @property
    def told(self) -> str:
        """What it is, as the beginning of a sentence."""
        if self.network is not None:
            return self.shown
        return f"the number {self.shown}" if self.is_whole else f"every number that begins with {self.shown}"

    def notes(self, allow: Sequence[Listed]) -> list[str]:
        """What who blocks it might not expect, as sentences. `allow`: the tables of [[allow]]."""
        said = []
        mine = self.network
        if mine is not None:
            if any(one.version == mine.version and one.overlaps(mine) for table in allow for one in table.cidr):
                said.append("an [[allow]] of the configuration has addresses in there, and goes before a block.")
            if isinstance(mine, ipaddress.IPv6Network) and mine.prefixlen > _CUSTOMER_V6:
                whole = mine.supernet(new_prefix=_CUSTOMER_V6)
                said.append(f"whoever has an IPv6 address mostly has all of its /{_CUSTOMER_V6}: {whole}.")
        elif any(_overlap(self.fields[0], prefix) for table in allow for prefix in table.prefix):
            said.append("an [[allow]] of the configuration has such numbers, and goes before a block.")
        return said


def read(text: str, recipient: Callable[[str], Recipient | None], hashes: Callable[[str], Sequence[str]]) -> Target:
    """Read what was typed. `recipient` is who would be sent to, None for nobody. Raises UnfitError."""
    text = text.strip()
    digits = _SIGNS.sub("", text)
    if text.startswith("+") and _DIGITS.fullmatch(digits):
        return _number(digits, recipient, hashes)
    if _DIGITS.fullmatch(text):
        raise UnfitError(
            "is neither an address nor a number with its country code",
            'write "+" and the country code first for numbers, such as "+86139"',
        )
    try:
        network = read_network(text)
    except UnfitError as error:
        raise (
            error if re.search(r"[.:].*/", text) else UnfitError("is no address, and no beginning of numbers", _RIGHT)
        ) from None
    version, first, last = ranges.ends(network)
    if version != network.version:  # IPv4 written as IPv6
        network = next(ipaddress.summarize_address_range(ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)))
    return Target((str(network),), _spelled(network), network)


@functools.lru_cache(_KEPT)
def of_field(field: str) -> tuple[Version, int, int] | None:
    """The range that a name in the store is; None where it is of numbers, or of what a later version blocks."""
    try:
        return ranges.ends(ipaddress.ip_network(field))
    except ValueError:
        return None


def _number(
    digits: str, recipient: Callable[[str], Recipient | None], hashes: Callable[[str], Sequence[str]]
) -> Target:
    whole = recipient(digits)
    if whole is not None and whole.address == digits:
        return Target(tuple(f"#{hashed}" for hashed in hashes(whole.identity)), whole.masked, is_whole=True)
    if digits[1] == "0":
        raise UnfitError("begins with no country code", _RIGHT)
    if not _BEGINNING.fullmatch(digits):
        raise UnfitError(
            f"is neither a whole number nor the beginning of numbers, which has {MOST_CLEAR} digits at most",
            f'write less of it, such as "{digits[:8]}"',
        )
    return Target((digits,), digits)


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _spelled(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)
