"""sidecar/verification/codes.py: a code is derived, and says nothing of any other."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.secret import Secret
from sidecar.verification.codes import RANDOM, code_of, hotp, id_of_token, new_id, token_of

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
    assert code_of(Secret("t" * 32, (), os.urandom), verification_id, digits) is None


def test_a_rotated_secret_still_checks_its_own_codes() -> None:
    """A verification that is under way survives the rotation of server.secret."""
    verification_id = new_id(SECRET, SECRET.hash("x"), os.urandom(RANDOM))
    rotated = Secret("t" * 32, ("s" * 32,), os.urandom)
    assert code_of(rotated, verification_id, 6) == code_of(SECRET, verification_id, 6)


@given(st.text(max_size=60))
def test_what_is_no_id_has_no_code(text: str) -> None:
    """Garbage from a URL never becomes a key."""
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
