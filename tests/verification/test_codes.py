"""sidecar/verification/codes.py: a code is derived, and says nothing of any other."""

import os

import pytest
from awake import cpu_s
from hypothesis import given
from hypothesis import strategies as st

from sidecar.secret import Secret
from sidecar.verification.codes import RANDOM, code_of, hotp, id_of_token, is_blank, is_ours, new_id, read, token_of

SECRET = Secret("s" * 32, (), os.urandom)
# RFC 4226 appendix D: secret "12345678901234567890", counters 0 to 9.
RFC_4226 = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]


@pytest.mark.parametrize(("counter", "expected"), list(enumerate(RFC_4226)))
def test_hotp_as_the_rfc_has_it(counter: int, expected: str) -> None:
    """RFC 4226 appendix D, to the digit."""
    assert hotp(b"12345678901234567890", counter.to_bytes(8), 6) == expected


@given(st.binary(min_size=RANDOM, max_size=RANDOM), st.integers(4, 8))
def test_the_code_is_a_function_of_id_and_secret(random: bytes, digits: int) -> None:
    """The same code when it is sent and when it is checked; another under another secret is not even tried."""
    verification_id = new_id(SECRET, SECRET.hash("+8613900000001"), random)
    code = code_of(SECRET, verification_id, digits)
    assert code is not None
    assert len(code) == digits
    assert code.isdecimal()
    assert code == code_of(SECRET, verification_id, digits)
    assert is_ours(SECRET, verification_id)
    another = Secret("t" * 32, (), os.urandom)
    assert code_of(another, verification_id, digits) is None
    assert not is_ours(another, verification_id)


def test_a_rotated_secret_still_checks_its_own_codes() -> None:
    """A verification that is under way survives the rotation of server.secret."""
    verification_id = new_id(SECRET, SECRET.hash("x"), os.urandom(RANDOM))
    rotated = Secret("t" * 32, ("s" * 32,), os.urandom)
    assert code_of(rotated, verification_id, 6) == code_of(SECRET, verification_id, 6)


@given(st.text(max_size=60))
def test_what_is_no_id_has_no_code(text: str) -> None:
    """Garbage from a URL never becomes a key."""
    assert not is_ours(SECRET, text)
    assert code_of(SECRET, text, 6) is None
    assert token_of(SECRET, text) is None
    assert id_of_token(SECRET, text) is None


def test_a_token_is_one_text_only() -> None:
    """A token with any character changed proves nothing; nor does one for another id."""
    one, two = (new_id(SECRET, SECRET.hash("x"), os.urandom(RANDOM)) for _ in range(2))
    token, other = token_of(SECRET, one), token_of(SECRET, two)
    assert token is not None
    assert other is not None
    assert id_of_token(SECRET, token) == one
    for position, character in enumerate(token):
        changed = token[:position] + ("A" if character != "A" else "B") + token[position + 1 :]
        assert id_of_token(SECRET, changed) is None
    assert id_of_token(SECRET, f"{one}.{other.partition('.')[2]}") is None


@given(st.text(min_size=1, max_size=60))
def test_what_follows_an_id_is_no_token(text: str) -> None:
    """Octets that are no UTF-8 reach us as surrogates; they prove nothing, and break nothing."""
    verification_id = new_id(SECRET, SECRET.hash("x"), os.urandom(RANDOM))
    for garbage in (text, "\udcff"):
        assert id_of_token(SECRET, f"{verification_id}.{garbage}") is None


@pytest.mark.parametrize(
    "shown",
    [
        "012345",
        12345,
        " 012 345 ",
        "012-345",
        "0\u20111\u20132\u20143\u22124\u301c5",
        "012.345",
        "0\u00b71\u30fb2\u30023\uff0e4\u20225",
        "\u200e012345\u200f",
        "\u202a012\u200b345\u202c\ufeff",
        "012\u00ad345\u2060",
        "012345\r\n",
        "\t012\u00a0345\u3000\u2028",
        "0\ufe0f12345\ufe0e",
        "0\u034f12\u31643\uffa0\u280045",
        "\uff10\uff11\uff12\uff13\uff14\uff15",
        "\u0660\u0661\u0662\u0663\u0664\u0665",
        "\u06f0\u06f1\u06f2\u06f3\u06f4\u06f5",
        "\u0966\u0967\u0968\u0969\u096a\u096b",
        "\U0001d7ce\U0001d7d9\U0001d7e4345",
        "\u0660" + "1\u06f2\uff13\u096a" + "5",
    ],
)
def test_a_code_is_read_as_people_type_it(shown: str | int) -> None:
    """Digits of any script, with spaces, dashes, dots and what nobody sees; a number has its zeros back."""
    assert read(shown, 6) == "012345"
    assert not is_blank(shown)


@pytest.mark.parametrize(
    "shown",
    [
        "12345",
        "0123456",
        "O12345",
        "012345x",
        "0x1234",
        "1e5000",
        "+12345",
        "\u2460\u2461\u2462\u2463\u2464\u2465",
        "\u00b9\u00b2\u00b3\u00b9\u00b2\u00b3",
        "\u4e00\u4e8c\u4e09\u56db\u4e94\u516d",
        "012345\0",
        "01234\ud835",
        "012345 012345",
        -12345,
        1234567,
        2**53,
        "0" * 60_000,
        "1\u0301" * 6,
    ],
)
def test_what_cannot_be_a_code_is_none(shown: str | int) -> None:
    """Another length, letters, signs, numbers that are no decimal digits."""
    assert read(shown, 6) is None
    assert not is_blank(shown)


@pytest.mark.parametrize("shown", [None, "", "   ", "\u200b", " - . - ", "\ufeff\n"])
def test_nothing_is_nothing(shown: str | None) -> None:
    """Who typed nothing is asked for a code, and not told that it is wrong; zero is something."""
    assert is_blank(shown)
    assert read(shown, 6) is None
    assert not is_blank(0)
    assert read(0, 6) == "000000"


@given(st.text(max_size=80) | st.integers(), st.integers(4, 8))
def test_what_is_read_is_a_code_in_ascii(shown: str | int, digits: int) -> None:
    """Whatever was typed: so many digits from 0 to 9, which are read as themselves, or nothing."""
    code = read(shown, digits)
    assert code is None or (len(code) == digits and code.isascii() and code.isdecimal() and read(code, digits) == code)


@pytest.mark.parametrize("piece", ["1", " ", "\u0301\u0316", "\u200b", "\U0001d7ce"])
def test_a_long_code_costs_nothing(piece: str) -> None:
    """Sixty thousand characters are not looked at."""
    code, found = piece * 60_000, []
    assert cpu_s(lambda: found.extend([read(code, 6), is_blank(code)])) < 0.01
    assert found == [None, False]
