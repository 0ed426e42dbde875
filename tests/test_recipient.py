"""sidecar/recipient.py: one person, one recipient, however it is typed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.recipient import Email, Phone, of_address, parse

VECTORS = json.loads((Path(__file__).parent / "data" / "phone_numbers.json").read_text(encoding="utf-8"))["vectors"]

SPELLINGS = [
    "139 0000 0001",
    "0139-0000-0001",
    "008613900000001",
    "8613900000001",
    "+86 (0)139 0000 0001",
    "tel:+86-139-0000-0001",
    "１３９０００００００１",
    "١٣٩٠٠٠٠٠٠٠١",
    "13900000001\u200b",
    "13900000001x12",
    "13900000001 ext. 12",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_is_one_number(text: str) -> None:
    """Buckets key on E.164: spelling a number otherwise gives nobody a second bucket."""
    assert parse(text, "sms", "CN").address == "+8613900000001"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["id"]))
def test_numbers_as_the_number_data_has_them(vector: dict[str, dict[str, str]]) -> None:
    """A valid number is read to its E.164 form, type and country; an invalid one is refused."""
    text, expect = vector["input"]["text"], vector["expect"]
    region = vector["input"]["region"] or "ZZ"
    if expect.get("valid") and not any(c.isalpha() for c in text.removeprefix("tel:").rstrip("0123456789").rstrip("x")):
        phone = parse(text, "sms", region)
        assert isinstance(phone, Phone)
        assert phone.address == expect["e164"]
        assert phone.number_type == expect["type"].lower()
    else:
        with pytest.raises(Refusal) as refused:
            parse(text, "sms", region)
        assert refused.value.code == "invalid_recipient"


@pytest.mark.parametrize(
    "text", ["", "abc", "1-800-FLOWERS", "+1", "12", "+999123456789", "1" * 65, "+86139000000011111111", "a@b.example"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    """Bad input says what would be right, and never repeats itself into a log."""
    with pytest.raises(Refusal, match="invalid_recipient") as refused:
        parse(text, "sms", "CN")
    assert "country code" in refused.value.detail
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "13900000001;13911111111", "13900000001&to=13911111111", "13900000001'--", "'13900000001", "*13900000001",
        "$13900000001",
        "13900000001}", "13900000001<", "13900000001*", '"13900000001"', "13900000001,", "+86+13900000001",
    ],
)  # fmt: skip
def test_a_number_in_the_midst_of_something_is_no_number(text: str) -> None:
    """libphonenumber finds it there; a backend that gets the same text may find another."""
    with pytest.raises(Refusal, match="invalid_recipient"):
        parse(text, "sms", "CN")


def test_a_test_number_need_not_be_valid() -> None:
    """`numbers.test` names it, so the number data is not asked."""
    with pytest.raises(Refusal):
        parse("+15555550100", "sms", "CN")
    assert parse("+1 555 555 0100", "sms", "CN", {"+15555550100"}).address == "+15555550100"


@pytest.mark.parametrize(
    ("text", "address"),
    [("a@B.Example", "a@b.example"), (" First.Last+tag@mail.example.com ", "First.Last+tag@mail.example.com")],
)
def test_addresses(text: str, address: str) -> None:
    """The domain is folded, the local part is its owner's."""
    assert parse(text, "email", "CN") == Email(address)
    assert parse(text, "auto", "CN") == Email(address)


@pytest.mark.parametrize(
    "text",
    ["a@b", "a b@c.example", "a@-b.example", "a@b..example", "@b.example", "a@b.example\nBcc: c@d.example",
     "a.@b.example", ".a@b.example", "a@b.example,c@d.example", "x" * 65 + "@b.example", "a@" + "b" * 250 + ".example"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """Nothing that could be two addresses, or a mail header, is one address."""
    with pytest.raises(Refusal, match="invalid_recipient"):
        parse(text, "email", "CN")


def test_masks_and_reprs_hide_the_recipient() -> None:
    """Logs see the ends only."""
    phone, email = parse("13912345678", "sms", "CN"), parse("someone@mail.example", "email", "CN")
    for shown in (phone.masked, repr(phone), str(phone)):
        assert "912345" not in shown
    for shown in (email.masked, repr(email), str(email)):
        assert "someone" not in shown


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a Refusal comes out of bad input, and what comes out otherwise reads back as itself."""
    try:
        recipient = parse(text, "auto", "CN")
    except Refusal:
        return
    assert of_address(recipient.address) == recipient
