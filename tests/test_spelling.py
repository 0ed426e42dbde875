"""Two spellings of one name, to whoever compares them loosely, are one name to us."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.spelling import MAX_NAME, MAX_NAMES, ByName, alike, folded, overlap, values, words

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


def test_no_more_names_are_remembered_than_so_many() -> None:
    """A client makes up as many as it likes, and as long: all are alike to what they were, and few are kept."""
    read = ByName(bytes.lower)
    for number in range(3 * MAX_NAMES):
        assert read[b"X-%d" % number] == b"x-%d" % number
        assert read[b"X" * (MAX_NAME + 1 + number % 9)].isalpha()
        assert len(read) <= MAX_NAMES
    assert max(map(len, read)) <= MAX_NAME


# Members and parameters…


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("user[phone]", ("user", "phone")),
        ("User.Phone", ("user", "phone")),
        ("[user]phone", ("user", "phone")),
        ("user['phone']", ("user", "phone")),
        (" phone number ", ("phone_number",)),
        ("phone[]", ("phone",)),
        ("phone\0[x]", ("phone",)),
        ("\u212aey", ("key",)),
        ("\uff50hone\uff3b0\uff3d", ("phone", "0")),
        ("pho\u200bne", ("phone",)),
        ("a[b]" * 4, ("a", "b") * 4),
        ("a[b]" * 5, ("a",)),
        ("[].", ()),
        ("", ()),
    ],
)
def test_a_name_is_known_by_its_words(name: str, expected: tuple[str, ...]) -> None:
    assert words(name) == expected


def test_a_name_is_alike_to_what_it_is_in_and_to_what_is_in_it() -> None:
    for other in ("user", "user.phone", "user[phone][0]", "user_phone"):
        assert overlap(words("user[phone]"), words(other))
        assert overlap(words(other), words("user[phone]"))
    for other in ("user[name]", "users", "phone", "user_phone_country", "", "[]"):
        assert not overlap(words("user[phone]"), words(other))
        assert not overlap(words(other), words("user[phone]"))


@given(st.text(max_size=12))
def test_a_fold_knows_no_case(name: str) -> None:
    assert folded(name.lower()) == folded(name.upper()) == folded(name.casefold()) == folded(name)


@given(st.text(), st.text())
def test_words_never_fail_and_a_name_is_alike_to_itself(one: str, other: str) -> None:
    assert overlap(words(one), words(one)) == bool(words(one))
    assert overlap(words(one), words(other)) == overlap(words(other), words(one))
