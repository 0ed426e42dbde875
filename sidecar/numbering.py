"""Whose network and which province is a Chinese mobile number of? What the number's first digits say, and no more.

Both are hints. A range tells whom it was given to first: China ports numbers between operators, and people move between
provinces with theirs. What the data does not know is "unknown". Loaded only where a rule asks. The provinces are
read out of libphonenumber's data one file at a time into one octet per block of ten thousand numbers: measured with
phonenumbers 9.0, 0.4 s and 11 MiB in a process (19 MiB while it reads), where importing the geocoder takes 99 MiB.
The operators' data is 11 MiB.
"""

import functools
import importlib.machinery
import importlib.util
import re
from pathlib import Path
from typing import Final

import phonenumbers

from sidecar.recipient import PROVINCES, UNKNOWN, Recipient

_OPERATORS: Final = {
    "China Mobile": "china-mobile",
    "China Unicom": "china-unicom",
    "China Telecom": "china-telecom",
    "China Broadnet": "china-broadnet",
}
# A mobile number of China: 1, then 3 to 9; its first seven digits are its block.
_FIRST: Final = 1_300_000
_BLOCKS: Final = 700_000
_IN_FILE: Final = re.compile(rb"'861[3-9]")
_PREFIX: Final = re.compile(r"86(1[3-9][0-9]{0,5})")


def operator(recipient: Recipient) -> str:
    """One of `recipient.OPERATORS`, or "unknown"; "" for what is no telephone number."""
    if recipient.channel != "sms":
        return ""
    if recipient.country != "CN":
        return UNKNOWN
    from phonenumbers import carrier  # noqa: PLC0415 - 11 MiB, for those who ask

    return _OPERATORS.get(carrier.name_for_number(phonenumbers.parse(recipient.address), "en"), UNKNOWN)


def province(recipient: Recipient) -> str:
    """One of `recipient.PROVINCES`, or "unknown"; "" for what is no telephone number."""
    if recipient.channel != "sms":
        return ""
    block = recipient.address.removeprefix("+86")[:7]
    if recipient.country != "CN" or not block.isdecimal() or not 0 <= int(block) - _FIRST < _BLOCKS:
        return UNKNOWN
    number = _provinces()[int(block) - _FIRST]
    return PROVINCES[number - 1] if number else UNKNOWN


@functools.cache
def _provinces() -> bytes:
    """The province of every block: its place in PROVINCES, from 1 on; 0 for none. Takes about 0.4 s once."""
    known = {name: number for number, name in enumerate(PROVINCES, 1)}
    table = bytearray(_BLOCKS)
    # A shorter prefix stands for all blocks below it that have none of their own, so the short ones go first.
    found: list[tuple[int, int, int]] = []
    for file in sorted((Path(phonenumbers.__file__).parent / "geodata").glob("data*.py")):
        if not _IN_FILE.search(file.read_bytes()):
            continue
        for prefix, names in _data(file).items():
            digits = _PREFIX.fullmatch(prefix)
            if digits is not None:
                width = 10 ** (7 - len(digits[1]))
                # "Jinan, Shandong"; a municipality stands alone.
                number = known.get(names.get("en", "").rpartition(", ")[2], 0)
                found.append((-width, int(digits[1]) * width - _FIRST, number))
    for width, first, number in sorted(found):
        table[first : first - width] = bytes([number]) * -width
    return bytes(table)


def _data(file: Path) -> dict[str, dict[str, str]]:
    """Run one data file alone: as part of its package it would bring all the others."""
    loader = importlib.machinery.SourceFileLoader(f"phonenumbers.geodata.{file.stem}", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    if spec is None:
        raise ImportError(f"{file} is no module")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    data: dict[str, dict[str, str]] = module.data
    return data
