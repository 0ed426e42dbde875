"""sidecar/secret.py: one key per purpose, and a rotation that nobody notices."""

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.secret import Secret, b64url, unb64url

OLD, NEW = "o" * 32, "n" * 32


def test_keys_of_different_purposes_have_nothing_in_common() -> None:
    """No two purposes share a key."""
    secret = Secret(NEW, (), os.urandom)
    keys = [
        secret.captcha_key,
        secret.code_key(secret.fingerprint),
        secret.token_key(secret.fingerprint),
    ]
    assert all(a != b for a, b in itertools.combinations(keys, 2))


def test_hashes_depend_on_the_secret_and_hide_the_value() -> None:
    """Who reads the store cannot test a guessed number without the secret."""
    assert Secret(OLD, (), os.urandom).hash("+8613900000001") != Secret(NEW, (), os.urandom).hash("+8613900000001")
    assert len(Secret(NEW, (), os.urandom).hash("+8613900000001")) == 22


def test_a_previous_secret_is_still_read_and_no_longer_written() -> None:
    """What was sealed, hashed and fingerprinted before a rotation is understood after it."""
    before, after = Secret(OLD, (), os.urandom), Secret(NEW, (OLD,), os.urandom)
    assert after.open(before.seal("+8613900000001")) == "+8613900000001"
    assert after.hashes("x") == (Secret(NEW, (), os.urandom).hash("x"), before.hash("x"))
    assert after.code_key(before.fingerprint) == before.code_key(before.fingerprint) is not None
    with pytest.raises(ValueError, match="accepted secret"):
        before.open(after.seal("+8613900000001"))
    assert before.code_key(after.fingerprint) is None


def test_a_sealed_text_that_was_touched_does_not_open() -> None:
    """Every flipped bit is noticed."""
    secret = Secret(NEW, (), os.urandom)
    sealed = bytearray(secret.seal("+8613900000001"))
    for position in range(len(sealed)):
        sealed[position] ^= 1
        with pytest.raises(ValueError, match="accepted secret"):
            secret.open(bytes(sealed))
        sealed[position] ^= 1
    assert secret.open(bytes(sealed)) == "+8613900000001"


def test_an_empty_secret_is_refused() -> None:
    """No secret is no secret."""
    with pytest.raises(ValueError, match="empty"):
        Secret("", (), os.urandom)


@given(st.binary(max_size=64))
def test_b64url_and_back(data: bytes) -> None:
    """What is written is read."""
    assert unb64url(b64url(data)) == data
