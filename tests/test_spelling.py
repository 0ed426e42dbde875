"""Two spellings of one name, to whoever compares them loosely, are one name to us."""

import string

import pytest

from sidecar.spelling import alike, values

TOKENS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters


@pytest.mark.parametrize("separator", [each for each in TOKENS if not each.isalnum()])
def test_every_octet_that_is_no_letter_or_digit_is_alike(separator: str) -> None:
    assert alike(f"X{separator}Original{separator}URL".encode()) == b"x-original-url"


def test_letters_and_digits_stay_what_they_are() -> None:
    """No two names are one that no backend takes for one."""
    bare = {octet for octet in TOKENS.lower() if octet.isalnum()}
    assert len({alike(octet.encode()) for octet in bare}) == len(bare) == 36
    assert alike(b"X--A") != alike(b"X-A") != alike(b"XA")
    assert alike(b"\xe9\xc9") == b"--", "no letter beyond ASCII, whose case a locale might fold"


def test_values_are_found_in_every_spelling_and_in_order() -> None:
    fields = [(b"X-A", b"1"), (b"x.a", b"2"), (b"X-B", b"3"), (b"X_A", b"4")]
    assert values(fields, "X-A") == values(fields, b"x~a") == [b"1", b"2", b"4"]
    assert values(fields, "X-C") == []
