"""sidecar/e164.py: what is told at a glance is what the library says."""

import random
import time

import phonenumbers
import pytest
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneNumberType

from sidecar import e164
from sidecar.recipient import parse

# One number of each type of each country, as digits.
EXAMPLES = [
    f"{number.country_code}{phonenumbers.national_significant_number(number)}"
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    for kind in sorted(PhoneNumberType.values())
    if (number := phonenumbers.example_number_for_type(region, kind)) is not None
]
CODES = sorted(COUNTRY_CODE_TO_REGION_CODE)
SEED = random.SystemRandom().randrange(1 << 32)
# To compile all expressions costs a second; what is searched is searched again by every run, with another seed.
SEARCHED = 5_000


def near_a_number(draw: random.Random) -> str:
    """A number of the data with some digits changed, put in or left out."""
    digits = list(draw.choice(EXAMPLES))
    for _ in range(draw.choice((0, 1, 1, 2, 3, 6))):
        digits[draw.randrange(len(digits))] = draw.choice("0123456789")
    if draw.random() < 0.2:
        digits.insert(draw.randrange(len(digits)), draw.choice("0123456789"))
    if draw.random() < 0.2:
        digits.pop()
    return "".join(digits)


def any_digits(draw: random.Random) -> str:
    code = str(draw.choice(CODES)) if draw.random() < 0.8 else ""
    return code + "".join(draw.choice("0123456789") for _ in range(draw.randrange(1, 16)))


@pytest.mark.parametrize("made", [near_a_number, any_digits])
def test_what_is_told_is_what_the_library_says(made: object) -> None:
    """Of every number that it tells of, the library reads the same digits, region and type; it tells of many."""
    assert callable(made)
    draw = random.Random(SEED)
    told = 0
    for _ in range(SEARCHED):
        digits = made(draw)
        found = e164.region_and_type(digits)
        if found is None:
            continue
        told += 1
        number = phonenumbers.parse(f"+{digits}")
        said = phonenumbers.region_code_for_number(number), phonenumbers.number_type(number)
        national = phonenumbers.national_significant_number(number)
        assert (found, digits) == (said, f"{number.country_code}{national}"), f"seed {SEED}"
    assert told > SEARCHED / 50


def test_most_numbers_are_known_at_a_glance() -> None:
    """Six of seven examples of the data are, and mobile numbers of large countries are."""
    known = [digits for digits in EXAMPLES if e164.region_and_type(digits) is not None]
    assert len(known) > 6 / 7 * len(EXAMPLES)
    for region in ("CN", "DE", "GB", "IN", "US", "FR", "RU", "JP", "ID"):
        example = phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)
        assert example is not None
        digits = f"{example.country_code}{phonenumbers.national_significant_number(example)}"
        assert e164.region_and_type(digits) is not None, region


def test_extra_beginnings_are_heeded_all_the_same() -> None:
    """A number that `extra` calls mobile is mobile, however well the data knows it for another kind."""
    assert parse("+492115684962", "sms", "DE", extra=("+49211",)).number_type == "mobile"
    assert parse("+492115684962", "sms", "DE").number_type == "fixed_line"


def test_it_costs_a_fraction_of_what_the_library_takes() -> None:
    """Reading a number in its E.164 form takes less than half as long as the library's parsing alone."""

    def least_s(work: object) -> float:
        assert callable(work)
        times = []
        for _ in range(7):
            began = time.process_time()
            for _ in range(300):
                work()
            times.append(time.process_time() - began)
        return min(times)

    ours = least_s(lambda: parse("+8613810000000", "sms", "CN"))
    assert ours < least_s(lambda: phonenumbers.parse("+8613810000000")) / 2 + 0.001
