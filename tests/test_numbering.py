"""What the first digits of a Chinese number say, held against libphonenumber's own answers."""

import subprocess
import sys

import pytest

from sidecar import numbering
from sidecar.recipient import OPERATORS, PROVINCES, parse

# Ranges as libphonenumber has them; ported numbers keep their range.
OPERATOR_OF = {
    "+8613900000001": "china-mobile",
    "+8613001234567": "china-unicom",
    "+8618901234567": "china-telecom",
    "+8619212345678": "china-broadnet",
    "+8616212345678": "unknown",  # a virtual operator's
    "+85251234567": "unknown",
}


@pytest.mark.parametrize(("number", "expected"), OPERATOR_OF.items())
def test_operator_is_that_of_the_range(number: str, expected: str) -> None:
    assert numbering.operator(parse(number, "sms", "CN")) == expected


def test_address_has_neither() -> None:
    address = parse("a@example.com", "email", "CN")
    assert (numbering.operator(address), numbering.province(address)) == ("", "")


def test_province_is_that_of_the_block() -> None:
    """As libphonenumber's geocoder says: Jinan, Shandong; Guangzhou, Guangdong; Beijing."""
    told = {number: numbering.province(parse(number, "sms", "CN")) for number in ("+8613000001234", "+8613501012345")}
    assert told == {"+8613000001234": "Shandong", "+8613501012345": "Beijing"}


@pytest.mark.parametrize("number", ["+85251234567", "+14155550100", "+8619999990000"])
def test_province_that_nobody_knows_is_unknown(number: str) -> None:
    assert numbering.province(parse(number, "sms", "CN")) == "unknown"


def test_every_province_has_numbers_and_no_other_name_is_in_the_data() -> None:
    """The words of the configuration are the data's own; a new spelling there would show here."""
    table = numbering._provinces()
    assert set(table) - {0} == set(range(1, len(PROVINCES) + 1))
    assert len(OPERATORS) == 4
    # As the data was in 2026, 331,117 blocks have one; not all blocks are in use.
    assert len(table) - table.count(0) > 300_000


ALONE = """
import sys
from sidecar import numbering
from sidecar.recipient import parse
number = parse("+8613000001234", "sms", "CN")
assert "phonenumbers.carrier" not in sys.modules, "loaded before anybody asked"
assert numbering.province(number) == "Shandong"
assert "phonenumbers.geocoder" not in sys.modules
assert "phonenumbers.geodata" not in sys.modules
resident_kib = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(resident_kib)
"""


def test_provinces_do_not_bring_the_geocoder() -> None:
    """Its 99 MiB would be paid by every process: a process that knows provinces stays far below that."""
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 90 * 1024, told.stdout
