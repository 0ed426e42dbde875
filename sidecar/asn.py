"""Whose network is an address in? A CSV file of ranges and autonomous systems (RFC 1930) in, `Ranges` out.

Two forms are read, with commas or tabs, quotes or none, and whatever columns follow; IPv4 and IPv6 may be mixed:

- `1.0.0.0,1.0.0.255,13335,…`: first and last address, and the number, as iptoasn.com and db-ip.com have it;
- `1.0.0.0/24,13335,…`: a network and the number, as GeoLite2-ASN-Blocks has it.

A first line of names, empty lines and those that begin with "#" are passed over, and so is a range of number 0 or none:
nobody announces it. Law: a file is read whole or not at all. What was read last of each file is remembered, so that one
that has not changed is not read again.
"""

import os
import re
import stat
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_pton
from typing import BinaryIO, Final, NamedTuple

from sidecar.ranges import Ranges, Rows, Version

# Twice what the whole Internet has, and some 100 MB while they are read.
MOST_RANGES: Final = 2_000_000
_MOST_OCTETS: Final = 512 << 20
# Of one line; descriptions come last, and are not looked at.
_LONGEST: Final = 4096
_MOST_ASN: Final = (1 << 32) - 1
# Lines between two pauses, less than a millisecond of work, and how long others may run in one: an event loop that
# waits for the interpreter gets it then, and not first after the five milliseconds for which CPython lets a thread go
# on.
_BETWEEN_PAUSES: Final = 256
_PAUSE_S: Final = 0.0005
# Files whose ranges are remembered: those of a configuration and of the one before it.
_MOST_FILES: Final = 4
# What some editors put first.
_MARK: Final = "\ufeff"
# No name of a column has one of these, and every address has.
_PLACE: Final = re.compile(r"[0-9:]")
_RIGHT: Final = 'write "1.0.0.0,1.0.0.255,13335" or "1.0.0.0/24,13335" on each line'


class AsnFileError(ValueError):
    """A file that is no table of networks. `line` counts from 1; 0 is the file as a whole."""

    def __init__(self, line: int, wrong: str, right: str) -> None:
        super().__init__(f"line {line}: {wrong}, {right}" if line else f"{wrong}, {right}")
        self.line = line
        self.wrong = wrong
        self.right = right


class Stamp(NamedTuple):
    """What changes with a file's content."""

    device: int
    inode: int
    octets: int
    changed_ns: int


_known: dict[str, tuple[Stamp, Ranges]] = {}


def stamp(path: str) -> Stamp:
    """Look whether a file has changed. Raises OSError."""
    return _stamp(Path(path).stat())


def load(path: str) -> tuple[Stamp, Ranges]:
    """Read a file, unless it is the one that was read last. Takes seconds, so call it in a thread.

    Raises AsnFileError, OSError.
    """
    with Path(path).open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise AsnFileError(0, "is no file", "name a CSV file")
        now = _stamp(found)
        if path in _known and _known[path][0] == now:
            return _known[path]
        if found.st_size > _MOST_OCTETS:
            raise AsnFileError(0, f"is larger than {_MOST_OCTETS >> 20} MiB", "leave out what is not a range")
        ranges = read(_lines(file))
    _known.pop(path, None)
    _known[path] = now, ranges
    while len(_known) > _MOST_FILES:
        _known.pop(next(iter(_known)), None)
    return now, ranges


def read(lines: Iterable[bytes]) -> Ranges:
    """Read the lines of a file. Raises AsnFileError."""
    rows = Rows()
    for number, line in enumerate(lines, 1):
        if number % _BETWEEN_PAUSES == 0:
            _pause()
        if len(line) > _LONGEST:
            raise AsnFileError(number, f"is longer than {_LONGEST} octets", _RIGHT)
        text = line.decode("utf-8", "replace").strip().lstrip(_MARK)
        if not text or text[0] == "#":
            continue
        try:
            row = _row(text)
        except ValueError as error:
            if number == 1 and not _PLACE.search(text.partition(",")[0].partition("\t")[0]):
                continue  # the columns' names
            raise AsnFileError(number, str(error), _RIGHT) from None
        if row is not None:
            rows.add(*row)
            if len(rows) > MOST_RANGES:
                raise AsnFileError(number, f"is past {MOST_RANGES:,} ranges", "leave out networks that no rule names")
    if not len(rows):
        raise AsnFileError(0, "has no range in it", _RIGHT)
    return rows.ranges(_pause)


def _lines(file: BinaryIO) -> Iterable[bytes]:
    for _ in count():
        line = file.readline(_LONGEST + 1)
        if not line:
            return
        yield line


def _row(text: str) -> tuple[Version, int, int, int] | None:
    """Read one line: version, first, last, number. None for a range that nobody announces. Raises ValueError."""
    cells = text.split("\t" if "\t" in text else ",", 3)
    if '"' in text:
        cells = [cell.strip().strip('"') for cell in cells]
    start, slash, bits = cells[0].strip().partition("/")
    version, first = _address(start)
    if slash:
        width = 32 if version == 4 else 128
        if not (bits.isascii() and bits.isdigit() and len(bits) <= 3) or int(bits) > width:
            raise ValueError(f'"{cells[0]}" is no network')
        size = 1 << (width - int(bits))
        if first & (size - 1):
            raise ValueError(f'"{cells[0]}" is an address inside a network')
        last, named = first + size - 1, cells[1:2]
    else:
        if len(cells) < 2:
            raise ValueError(f'"{cells[0]}" has neither an end nor a length')
        other, last = _address(cells[1].strip())
        if other != version or last < first:
            raise ValueError(f'"{cells[1]}" is no end of a range from "{cells[0]}" on')
        named = cells[2:3]
    if not named:
        raise ValueError("has no number of a network")
    number = named[0].strip().removeprefix("AS")
    if not number:
        return None
    if not (number.isascii() and number.isdigit()) or len(number) > 10 or int(number) > _MOST_ASN:
        raise ValueError(f'"{named[0][:20]}" is no number of an autonomous system')
    return (version, first, last, int(number)) if int(number) else None


def _address(text: str) -> tuple[Version, int]:
    try:
        if ":" in text:
            return 6, int.from_bytes(inet_pton(AF_INET6, text), "big")
        return 4, int.from_bytes(inet_pton(AF_INET, text), "big")
    except (OSError, ValueError):
        raise ValueError(f'"{text[:45]}" is no address') from None


def _pause() -> None:
    time.sleep(_PAUSE_S)


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
