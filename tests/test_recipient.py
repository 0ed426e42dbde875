"""sidecar/recipient.py: one person, one recipient, however it is typed."""

import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, Literal

import phonenumbers
import pytest
from awake import cpu_s
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.recipient import Email, Phone, example_of, of_address, parse

VECTORS = json.loads((Path(__file__).parent / "data" / "phone_numbers.json").read_text(encoding="utf-8"))["vectors"]

# Vectors that the library reads, and backends read in more than one way.
NOT_READ = {
    "phone-14": "an extension",
    "phone-18": "letters for digits",
    "phone-23": "digits of two scripts",
}
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
    "\u202a+86 139\u20110000\u20110001\u202c",
    "\u2066１３９\u3000００００\u30fc０００１\u2069",
    "+86 (139) 0000-0001",
    "(+86) 139.0000.0001",
    " 8613900000001",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_is_one_number(text: str) -> None:
    """Buckets key on E.164: spelling a number otherwise gives nobody a second bucket."""
    assert parse(text, "sms", "CN").address == "+8613900000001"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["id"]))
def test_numbers_as_the_number_data_has_them(vector: dict[str, Any]) -> None:
    """A valid number is read to its E.164 form, type and country; an invalid one is refused.

    The vectors tell what the library does. It reads tails, letters and mixed scripts, and we read none of them.
    """
    text, expect = vector["input"]["text"], vector["expect"]
    region = vector["input"]["region"] or "ZZ"
    if expect.get("valid") and vector["id"] not in NOT_READ:
        phone = parse(text, "sms", region)
        assert isinstance(phone, Phone)
        assert phone.address == expect["e164"]
        assert phone.number_type == expect["type"].lower()
    else:
        with pytest.raises(Refusal) as refused:
            parse(text, "sms", region)
        assert refused.value.code == "invalid_recipient"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "1-800-FLOWERS",
        "+1",
        "12",
        "+999123456789",
        "1" * 65,
        "+86139000000011111111",
        "a@b.example",
        "a" * 10**6,
    ],
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
        # Tails.
        "13900000001 x12", "+8613912341380 x0000001", "13900000001 ext. 12", "13900000001#12", "13900000001;ext=12",
        "13900000001;isub=12345", "tel:13900000001;phone-context=+86", "tel:13900000001;phone-context=example.com",
        "13900000001,,12", "13900000001p12", "13900000001w12", "13900000001 доб. 12", "13900000001 int 12",
        "13900000001～12",
        "13900000001~12", "13900000001-", "13900000001.", "13900000001/", "+86 139 0000 0001 (0)", "13900000001 1",
        "13900000001ｘ12", "13900000001 anexo 12", "13900000001\u20130002",
        # Two numbers.
        "13900000001 13900000002", "13900000001/13900000002", "13900000001\n13900000002", "139\t00000001",
        "tel:13900000001tel:13900000002", "+8613900000001+8613900000002", "13900000001\u200b13900000002",
        # Digits that some backends drop, and others keep.
        "139٠٠٠٠٠٠٠١", "1390000000１", "13900000001²", "13900000001①", "1390000000\U000e0031", "1390000000一",
        "〇13900000001",
        "13９00000001", "𝟏𝟑𝟗𝟎𝟎𝟎𝟎𝟎𝟎𝟎1", "13900000001\U0001d7d8",
        # Zeros, minus signs and other beginnings.
        "00013900000001", "0000008613900000001", "-13900000001", "+-8613900000001", "++8613900000001", "0x13900000001",
        "1.3900000001e10", "+0 8613900000001", "*67 13900000001", "17951 13900000001", "12593 13900000001",
        "+13900000001", "+008613900000001", "+2108613900000001",
        "sip:+8613900000001", "tel://+8613900000001", "tel:tel:13900000001", "sms:13900000001", "/13900000001",
    ],
)  # fmt: skip
def test_a_number_in_the_midst_of_something_is_no_number(text: str) -> None:
    """libphonenumber finds it in most of these; a backend that gets the same text may find another."""
    with pytest.raises(Refusal, match="invalid_recipient"):
        parse(text, "sms", "CN")


def test_a_test_number_need_not_be_valid() -> None:
    """`numbers.test` names it, so the number data is not asked."""
    with pytest.raises(Refusal):
        parse("+15555550100", "sms", "CN")
    assert parse("+1 555 555 0100", "sms", "CN", known={"+15555550100"}).address == "+15555550100"


@pytest.mark.parametrize(
    "text",
    [
        "139" + " " * 60 + "00000001", "1" * 10**6, " " * 10**6, "\u200b" * 10**6, "+" + "(" * 10**6,
        "1 " * 10**5 + "x",
        "a@" + "e" + "\u0301\u0316" * 10**5 + ".example", "a@" + "e" + "\u0301\u0316" * 60 + ".example",
        "a" * 10**6 + "@b.example", "a@" + "b." * 10**5 + "example", "@" * 10**6, "a." * 10**5 + "@b.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("channel", ["sms", "auto"])
def test_what_is_too_long_is_refused_before_it_costs_anything(text: str, channel: Literal["sms", "auto"]) -> None:
    """Whoever waits beside it does not notice: a bystander may wait 50 ms, for all that others send."""

    def is_refused() -> None:
        with pytest.raises(Refusal, match="invalid_recipient"):
            parse(text, channel, "CN")

    assert cpu_s(is_refused) < 0.05


@pytest.mark.parametrize(
    ("text", "country", "address"),
    [
        # As it is dialled at home, a stranger's landline.
        ("4915123456789", "DE", "+4915123456789"),
        ("+4915123456789", "DE", "+4915123456789"),
        ("8613900000001", "DE", "+8613900000001"),
        # A form's plus that was not encoded.
        (" 8613900000001", "CN", "+8613900000001"),
        (" 8613900000001", "US", "+8613900000001"),
        (" 4915123456789", "CN", "+4915123456789"),
        ("8613900000001", "US", "+8613900000001"),
        # Numbers at home that are others' with a plus: Ohio's, New York's.
        ("13802138000", "CN", "+8613802138000"),
        ("13472130000", "CN", "+8613472130000"),
        # Numbers at home alone.
        ("015123456789", "DE", "+4915123456789"),
        ("2015550123", "US", "+12015550123"),
        ("8 (912) 345-67-89", "RU", "+79123456789"),
        ("06 20 123 4567", "HU", "+36201234567"),
        ("80294911911", "BY", "+375294911911"),
        ("011 86 139 0000 0001", "US", "+8613900000001"),
        # A zero that belongs to the number.
        ("+39 06 698 12345", "IT", "+390669812345"),
        ("0669812345", "IT", "+390669812345"),
    ],
)
def test_a_number_without_its_plus(text: str, country: str, address: str) -> None:
    """Of two numbers that it could be the only mobile one is taken; what people dial at home stays what it was."""
    assert parse(text, "sms", country).address == address


@pytest.mark.parametrize(
    ("text", "country"),
    [
        (" 13802138000", "CN"),  # one of Ohio's whose plus was lost, or one of China's
        ("442079460018", "DE"),  # a landline in London, or one in Germany
        ("011 15-2345-6789", "AR"),  # dialled so at home, and other digits than E.164's +54 9 11 2345 6789
    ],
)
def test_no_number_is_guessed(text: str, country: str) -> None:
    """Where both are mobile, or neither is, it is neither."""
    with pytest.raises(Refusal, match="invalid_recipient"):
        parse(text, "sms", country)


@pytest.mark.parametrize("country", ["44", "+44", "0044", "GB", "gb", " 44", " GB "])
@pytest.mark.parametrize("text", ["7400123456", "07400 123456", "+44 7400 123456", "447400123456"])
def test_a_country_stands_beside_a_number(text: str, country: str) -> None:
    """As a code or as a name; a number may have it, too."""
    assert parse(text, "sms", "CN", country=country).address == "+447400123456"


def test_a_country_that_is_not_there_is_the_default() -> None:
    for nothing in (None, "", "  "):
        assert parse("13900000001", "sms", "CN", country=nothing).address == "+8613900000001"


@pytest.mark.parametrize(
    ("text", "country"),
    [
        ("+8613900000001", "44"), ("8613900000001", "44"), ("13900000001", "GB"), ("+447400123456", "CN"),
        ("13900000001", "999"), ("13900000001", "0"), ("13900000001", "XX"), ("13900000001", "UK"),
        ("13900000001", "86 "  + "0" * 10**6), ("13900000001", "8６"), ("13900000001", "CHN"), ("13900000001", "ＣＮ"),
        ("13900000001", "+86,44"), ("13900000001", "+"), ("+8613900000001", "001"),
    ],
)  # fmt: skip
def test_a_country_that_nobody_knows_or_that_is_not_the_numbers(text: str, country: str) -> None:
    """Refused, and told how a country is written; who wrote none beside their number is told of none."""
    with pytest.raises(Refusal, match="invalid_recipient") as refused:
        parse(text, "sms", "CN", country=country)
    assert '"GB"' in refused.value.detail
    with pytest.raises(Refusal) as refused:
        parse("1", "sms", "CN")
    assert '"GB"' not in refused.value.detail


def test_a_country_beside_a_number_is_not_in_it() -> None:
    """A backend puts the two together: 49 and 4915123456789 are a landline's, and not the mobile that is in there."""
    assert parse("4915123456789", "sms", "CN", country="49").address == "+494915123456789"


def test_numbers_that_the_data_does_not_know_yet() -> None:
    """`numbers.extra`: mobile, of their country, and as long as its mobile numbers are."""
    for text in ("+8614912345678", "14912345678"):
        phone = parse(text, "sms", "CN", extra=("+86149",))
        assert (phone.country, phone.number_type) == ("CN", "mobile")
    unknown = "+8612012345678"
    with pytest.raises(Refusal):
        parse(unknown, "sms", "CN")
    found = parse(unknown, "sms", "CN", extra=("+86120",))
    assert (found.address, found.country, found.number_type) == (unknown, "CN", "mobile")
    with pytest.raises(Refusal):
        parse("+861201234567", "sms", "CN", extra=("+86120",))


@pytest.mark.parametrize("country", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_the_example_is_one_of_the_country_and_is_read(country: str) -> None:
    """In every country, and it is what a refusal shows."""
    example = example_of(country)
    phone = parse(example, "sms", country)
    assert isinstance(phone, Phone)
    assert phonenumbers.country_code_for_region(phone.country) == phonenumbers.country_code_for_region(country)
    with pytest.raises(Refusal) as refused:
        parse("?", "sms", country)
    assert example in refused.value.detail


def test_the_example_is_served() -> None:
    """Where the default country is not, it is one that is; where mobile numbers are not, one of another type."""
    assert parse(example_of("CN", ("DE", "US")), "sms", "CN").country == "DE"
    assert parse(example_of("CN", ("DE", "CN")), "sms", "CN").country == "CN"
    assert parse(example_of("CN", (), ("mobile",)), "sms", "CN").number_type != "mobile"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a@B.Example", "a@b.example"),
        (" First.Last+tag@mail.example.com ", "First.Last+tag@mail.example.com"),
        ("user@bücher.example", "user@xn--bcher-kva.example"),
        ("user@BÜCHER.Example", "user@xn--bcher-kva.example"),
        ("user@bu\u0308cher.example", "user@xn--bcher-kva.example"),
        ("user@XN--Bcher-KVA.example", "user@xn--bcher-kva.example"),
        ("user@例え.テスト", "user@xn--r8jz45g.xn--zckzah"),
        ("user@почта.рф", "user@xn--80a1acny.xn--p1ai"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    """The domain is folded and in ASCII, the local part is its owner's."""
    assert parse(text, "email", "CN") == Email(address)
    assert parse(text, "auto", "CN") == Email(address)


@pytest.mark.parametrize(
    "text",
    ["a@b", "a b@c.example", "a@-b.example", "a@b..example", "@b.example", "a@b.example\nBcc: c@d.example",
     "a.@b.example", ".a@b.example", "a@b.example,c@d.example", "x" * 65 + "@b.example",
     "a@" + "b" * 250 + ".example",
     "a@b.example.", "a@b.example..", "ü@b.example", "a@ü@b.example", "a＠b.example", "ａ@b.example",
     "a\u200b@b.example",
     "a@faß.example", "a@gıthub.example", "a@βόλος.example", "a@b\u200dc.example", "a@b\u200bc.example",
     "a@b\u00adc.example", "a@b。example",
     "a@ｂ.example", "a@☃.example", "a@-ü.example", "a@xn--ü.example", "a@" + "ü" * 200 + ".example",
     "a@" + "ü" * 10**6,
     "a@b.example\u202e", "a@[127.0.0.1]", "a@127.0.0.1", "a@b.1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """Nothing that could be two addresses, or a mail header, is one address."""
    with pytest.raises(Refusal, match="invalid_recipient"):
        parse(text, "email", "CN")


@pytest.mark.parametrize("text", ["ü@b.example", "ａ@b.example", "用户@例え.テスト"])
def test_a_local_part_that_is_not_ascii_is_told(text: str) -> None:
    """It could be a mailbox, and not one that we serve."""
    with pytest.raises(Refusal) as refused:
        parse(text, "email", "CN")
    assert "ASCII" in refused.value.detail


@pytest.mark.parametrize("text", ["foo@b.example", "FOO@b.example", "Foo@B.EXAMPLE", " fOO@b.example "])
def test_a_mailbox_has_one_identity(text: str) -> None:
    """However its case is; the message goes to the address as it was typed."""
    email = parse(text, "email", "CN")
    assert email.identity == "foo@b.example"
    assert email.address.partition("@")[0] == text.strip().partition("@")[0]


def test_masks_and_reprs_hide_the_recipient() -> None:
    """Logs see the ends only."""
    phone, email = parse("13912345678", "sms", "CN"), parse("someone@mail.example", "email", "CN")
    for shown in (phone.masked, repr(phone), str(phone)):
        assert "912345" not in shown
    for shown in (email.masked, repr(email), str(email)):
        assert "someone" not in shown


# What people, attackers and other people's keyboards put into a number.
PIECES = st.sampled_from(
    [*"0123456789", *"٠١٢٣", *"０１２", *" +-().[]/~,;#*xpw", "00", "011", "86", "+86", "49", "139", "15123456789",
     "13900000001",
     "tel:", ";ext=", "\u200b", "\u202e", "\u00a0", "\u3000", "＋", "²", "①", "\U000e0031", "e", "@b.example",
     "\n", "(0)"]
)  # fmt: skip
COUNTRIES = st.sampled_from(["CN", "DE", "US", "GB", "IT", "RU", "AR", "BR", "HU", "IN", "JP"])


def ascii_digits(text: str) -> str:
    """Every decimal digit in a text, as a backend that knows all scripts keeps them."""
    return "".join(str(unicodedata.decimal(c)) for c in text if unicodedata.decimal(c, None) is not None)


def holds_the_law(text: str, country: str) -> None:
    try:
        recipient = parse(text, "auto", country)
    except Refusal:
        return
    assert of_address(recipient.address) == recipient
    if isinstance(recipient, Email):
        assert text.strip().partition("@")[0] == recipient.address.partition("@")[0]
        return
    number = phonenumbers.parse(recipient.address)
    national = phonenumbers.national_significant_number(number)
    digits = ascii_digits(text)
    assert digits.endswith(national), "whoever keeps the last digits holds the number"
    before = digits.removesuffix(national)
    assert re.fullmatch(rf"(?:{DIALLED[country]})?(?:{number.country_code})?\d{{0,2}}", before)
    kept = re.sub(r"[^0-9]", "", text)
    assert kept in {"", digits}, "whoever knows ASCII's digits alone holds all of them, or none"


# The way abroad from each.
DIALLED = dict.fromkeys(["CN", "DE", "GB", "IT", "AR", "HU", "IN"], "00") | {
    "US": "011", "RU": "8?10", "JP": "010", "BR": r"00(?:1[245]|2[1-35]|31|4[13]|[56]5|99)",
}  # fmt: skip


@given(st.text(max_size=40) | st.lists(PIECES, max_size=14).map("".join), COUNTRIES)
@settings(max_examples=600, deadline=None)  # the number data of a country is read when it is first asked
def test_any_text_is_read_by_the_law_or_refused(text: str, country: str) -> None:
    """Nothing but a Refusal comes out of bad input; what comes out otherwise has the text's digits, and reads back."""
    holds_the_law(text, country)


@given(
    st.sampled_from(["+8613900000001", "+4915123456789", "+12015550123", "+447400123456", "+79123456789"]),
    st.sampled_from(["", "+", "＋", "00", "(+", "tel:+", " ", "0 at home", " at home"]),
    st.lists(
        st.sampled_from(["", "", " ", "-", ".", "\u00a0", "\u200b", "\u2011", "\u202c"]), min_size=20, max_size=20
    ),
    st.sampled_from("0０٠۰०"),
)
@settings(max_examples=400, deadline=None)
def test_every_spelling_of_a_number_has_one_identity(address: str, front: str, signs: list[str], zero: str) -> None:
    """Digits of any script, any signs between them, with a plus or without: that number, or none."""
    number = phonenumbers.parse(address)
    country = str(phonenumbers.region_code_for_number(number))
    before, _, home = front.partition(" at")
    digits = before.lstrip("+＋(tel: ") + (str(number.national_number) if home else address[1:])
    text = "".join(chr(ord(zero) + int(digit)) + sign for digit, sign in zip(digits, signs, strict=False))
    text = before.rstrip("0") + text.rstrip(" -.\u00a0\u2011\u200b\u202c")
    holds_the_law(text, country)
    try:
        assert parse(text, "sms", country).identity == address
    except Refusal:
        assert digits[0] == "0"
        assert country in {"US", "RU"}, "they dial no such thing"


@given(
    st.from_regex(r"[A-Za-z0-9.+_-]{1,10}@[A-Za-z0-9üÜäßçñ例え.-]{1,12}\.(?:example|рф|テスト)", fullmatch=True),
    st.data(),
)
def test_every_case_of_an_address_has_one_identity(text: str, data: st.DataObject) -> None:
    """Case, and how an accent is composed, make no second mailbox."""
    other = "".join(data.draw(st.sampled_from([c, c.upper(), c.lower()])) for c in text)
    other = data.draw(st.sampled_from([other, f" {other} ", unicodedata.normalize("NFD", other)]))
    try:
        one = parse(text, "email", "CN")
    except Refusal:
        return
    assert parse(other, "email", "CN").identity == one.identity


def test_the_first_number_loads_nothing_after_the_start() -> None:
    """In a process of its own: what this one has loaded, other tests have."""
    told = """
import sys
from sidecar.recipient import load_number_data, parse
list(load_number_data())
before = set(sys.modules)
parse("13800000000", "sms", "CN")
parse("+4915123456789", "sms", "CN")
parse("+80012345678", "sms", "CN")
print(sorted(set(sys.modules) - before))
"""
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"
