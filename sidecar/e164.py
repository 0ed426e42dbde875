"""What does the number data know of an E.164 number? Where that is certain at a glance; where it is not, nothing. Pure.

`phonenumbers` tries a number by up to a dozen expressions, one after the other, and makes several objects of it. Here
those of one calling code and length are one expression, made of the library's own data and kept.

The law: what is said here is what the library says, held by a property test. Whatever it might read otherwise than
digit by digit (a trunk prefix or a carrier's code to strip, zeros that begin a number, a region that only later digits
tell) is left to it.
"""

import functools
import re
from typing import Final, NamedTuple

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberType
from phonenumbers.phonemetadata import PhoneNumberDesc

# The library's order: the first that fits is a number's type.
_TYPES: Final = (
    ("premium_rate", PhoneNumberType.PREMIUM_RATE),
    ("toll_free", PhoneNumberType.TOLL_FREE),
    ("shared_cost", PhoneNumberType.SHARED_COST),
    ("voip", PhoneNumberType.VOIP),
    ("personal_number", PhoneNumberType.PERSONAL_NUMBER),
    ("pager", PhoneNumberType.PAGER),
    ("uan", PhoneNumberType.UAN),
    ("voicemail", PhoneNumberType.VOICEMAIL),
)
# Expressions that are kept, each of a calling code and a length: there are some 480, of a few KiB. To make one takes up
# to 8 ms (India's), twice what the library takes for the first number of the same country.
_KEPT: Final = 512
_MAX_CODE: Final = 3
# Beginnings of three digits, each with a length, whose expression is remembered: a few for each calling code in use.
_KEPT_BEGINNINGS: Final = 2048


class _Numbers(NamedTuple):
    """The numbers of one calling code and length, and the types that the groups of their expression stand for."""

    expression: re.Pattern[str]
    types: tuple[int, ...]


def region_and_type(digits: str) -> tuple[str, int] | None:
    """Say where an E.164 number is from, and its type, as the library does; None where only the library can tell.

    `digits` are ASCII digits without a plus, the calling code first.
    """
    known = _of_beginning(digits[:_MAX_CODE], len(digits))
    if known is None:
        return None
    region, numbers, code_digits = known
    found = numbers.expression.fullmatch(digits, code_digits)
    return None if found is None else (region, numbers.types[found.lastindex or 0])


@functools.lru_cache(_KEPT_BEGINNINGS)
def _of_beginning(beginning: str, length: int) -> tuple[str, _Numbers, int] | None:
    """The region, the numbers, and the digits of the calling code, of what begins so and has `length` digits in all."""
    for digits in range(1, _MAX_CODE + 1 if beginning[0] != "0" else 0):
        regions = COUNTRY_CODE_TO_REGION_CODE.get(int(beginning[:digits]))
        if regions is not None:
            numbers = _numbers(regions[0], length - digits)
            return None if numbers is None else (regions[0], numbers, digits)
    return None


@functools.lru_cache(_KEPT)
def _numbers(region: str, length: int) -> _Numbers | None:
    """Make one expression of a region's numbers of a length; None where there are none, or the data is of another kind.

    `region` is the main one of its calling code: what it has is never another's.
    """
    data = PhoneMetadata.metadata_for_region(region)
    if data is None:
        return None
    general = _pattern(data.general_desc, length)
    found = [(_pattern(getattr(data, name), length), kind) for name, kind in _TYPES]
    fixed, mobile = _pattern(data.fixed_line, length), _pattern(data.mobile, length)
    if data.same_mobile_and_fixed_line_pattern:
        found.append((fixed, PhoneNumberType.FIXED_LINE_OR_MOBILE))
    else:
        both = rf"(?={mobile}\Z){fixed}" if fixed and mobile else ""
        found += [(both, PhoneNumberType.FIXED_LINE_OR_MOBILE), (fixed, PhoneNumberType.FIXED_LINE)]
        found.append((mobile, PhoneNumberType.MOBILE))
    found = [(pattern, kind) for pattern, kind in found if pattern]
    # Not what the library would strip from a number's beginning, and what tells this region from others of its code.
    beginning = f"(?!0|{data.national_prefix_for_parsing or '0'})(?={data.leading_digits or ''})"
    unused = re.compile(beginning).groups
    expression = re.compile(rf"{beginning}(?={general}\Z)(?:{'|'.join(f'({pattern})' for pattern, _ in found)})")
    if not general or expression.groups != unused + len(found):  # else a group would stand for another type
        return None
    return _Numbers(expression, (*[PhoneNumberType.UNKNOWN] * (unused + 1), *(kind for _, kind in found)))


def _pattern(kind: PhoneNumberDesc | None, length: int) -> str:
    """The expression of one kind of numbers, where there are some of this length; else ""."""
    if kind is None or (kind.possible_length and length not in kind.possible_length):
        return ""
    return f"(?:{kind.national_number_pattern})" if kind.national_number_pattern else ""
