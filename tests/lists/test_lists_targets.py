"""What an administrator may type, and what is stored and shown of it."""

from collections.abc import Sequence
from contextlib import suppress

import pytest

from sidecar import ranges
from sidecar.config.findings import UnfitError
from sidecar.config.model import Listed
from sidecar.config.units import FROM_TOML
from sidecar.errors import Refusal
from sidecar.lists.targets import Target, of_field, read
from sidecar.recipient import Recipient, parse


def recipient(text: str) -> Recipient | None:
    with suppress(Refusal):
        return parse(text, "sms", "CN")
    return None


def hashes(value: str) -> Sequence[str]:
    return (f"hash-of-{len(value)}", "older")


def typed(text: str) -> Target:
    return read(text, recipient, hashes)


@pytest.mark.parametrize(
    ("text", "field", "shown"),
    [
        ("203.0.113.0/24", "203.0.113.0/24", "203.0.113.0/24"),
        (" 203.0.113.7 ", "203.0.113.7/32", "203.0.113.7"),
        ("2001:DB8::/32", "2001:db8::/32", "2001:db8::/32"),
        ("::ffff:203.0.113.7", "203.0.113.7/32", "203.0.113.7"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24", "203.0.113.0/24"),
        ("+8816", "+8816", "+8816"),
        ("+86 139-0000", "+861390000", "+861390000"),
        ("+1", "+1", "+1"),
    ],
)
def test_a_range_or_a_beginning_stands_in_the_store_in_one_spelling(text: str, field: str, shown: str) -> None:
    target = typed(text)
    assert (target.fields, target.shown) == ((field,), shown)
    assert of_field(field) == (ranges.ends(target.network) if target.network else None)
    assert typed(field).fields == (field,)


@pytest.mark.parametrize("text", ["+8613900000001", "+86 139 0000 0001", "+1 (415) 555-2671", "+4915112345678"])
def test_a_whole_number_is_stored_hashed_and_shown_masked(text: str) -> None:
    target = typed(text)
    assert all(field.startswith("#") for field in target.fields)
    assert len(target.fields) == 2
    digits = "".join(c for c in text if c.isdigit())
    for told in (*target.fields, target.shown, target.told, repr(target)):
        assert digits[4:9] not in told


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("203.0.113.7/24", '"203.0.113.0/24"'),
        ("2001:db8::1/32", '"2001:db8::/32"'),
        ("203.0.113.0/33", "write a CIDR"),
        ("8613900000001", '"+86139"'),
        ("13900000001", '"+86139"'),
        ("curl/8", "203.0.113.0/24"),
        ("someone@example.com", "203.0.113.0/24"),
        ("", "203.0.113.0/24"),
        ("+", "+8816"),
        ("+0123", "+8816"),
        ("+8613900000001234", "write less of it"),
        ("+86139x", "+8816"),
        ("010.0.0.1", "203.0.113.0/24"),
    ],
)
def test_what_is_neither_is_refused_with_what_would_be_right(text: str, right: str) -> None:
    with pytest.raises(UnfitError) as refused:
        typed(text)
    assert right in refused.value.right


def test_who_blocks_is_told_what_they_might_not_expect() -> None:
    allow = [Listed.model_validate({"cidr": ["203.0.113.7"], "prefix": ["+88161"]}, context=FROM_TOML)]
    for text in ("203.0.113.0/24", "203.0.113.7", "+8816", "+881612"):
        assert "[[allow]]" in " ".join(typed(text).notes(allow)), text
        assert not typed(text).notes([])
    for text in ("203.0.114.0/24", "+8817"):
        assert not typed(text).notes(allow)
    assert "2001:db8:0:1::/64" in typed("2001:db8:0:1::7").notes([])[0]
