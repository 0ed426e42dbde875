"""Who shall get the code? Text in, a `Phone` or an `Email` out; a plain `str` goes no further than this.

Pure: no I/O, no clock. Number facts come from `phonenumbers` (Google's libphonenumber data).
"""

import re
import unicodedata
from collections.abc import Container
from dataclasses import dataclass
from typing import Final, Literal

import phonenumbers
from phonenumbers import PhoneNumberType

from sidecar.errors import Refusal

Channel = Literal["sms", "email"]

# libphonenumber's number types, as `numbers.block_types` names them.
NUMBER_TYPES: Final = {
    PhoneNumberType.FIXED_LINE: "fixed_line",
    PhoneNumberType.MOBILE: "mobile",
    PhoneNumberType.FIXED_LINE_OR_MOBILE: "fixed_line_or_mobile",
    PhoneNumberType.TOLL_FREE: "toll_free",
    PhoneNumberType.PREMIUM_RATE: "premium_rate",
    PhoneNumberType.SHARED_COST: "shared_cost",
    PhoneNumberType.VOIP: "voip",
    PhoneNumberType.PERSONAL_NUMBER: "personal_number",
    PhoneNumberType.PAGER: "pager",
    PhoneNumberType.UAN: "uan",
    PhoneNumberType.VOICEMAIL: "voicemail",
    PhoneNumberType.UNKNOWN: "unknown",
}

# What delivery rules may ask of a number (`numbering.py`); what its digits do not tell is "unknown".
UNKNOWN: Final = "unknown"
OPERATORS: Final = ("china-mobile", "china-unicom", "china-telecom", "china-broadnet")
PROVINCES: Final = (
    "Anhui", "Beijing", "Chongqing", "Fujian", "Gansu", "Guangdong", "Guangxi", "Guizhou", "Hainan", "Hebei",
    "Heilongjiang", "Henan", "Hubei", "Hunan", "Inner Mongolia", "Jiangsu", "Jiangxi", "Jilin", "Liaoning", "Ningxia",
    "Qinghai", "Shaanxi", "Shandong", "Shanghai", "Shanxi", "Sichuan", "Tianjin", "Tibet", "Xinjiang", "Yunnan",
    "Zhejiang",
)  # fmt: skip

# Longest spelling of a number worth reading: 15 digits (E.164) with a generous separator after each.
_MAX_PHONE_CHARS: Final = 64
# A number as people write it: digits of any script, the signs between them that libphonenumber reads, a plus in front.
_PHONE: Final = re.compile(r"[\s(\[]*\+?[\d\s().\[\]/~\u2053\u223c\u2010-\u2015\u2212\u30fc-]*")
# RFC 5321 section 4.5.3.1.3: a path is at most 256 octets, two of them angle brackets.
_MAX_EMAIL_CHARS: Final = 254
# A dot-atom (RFC 5322 section 3.2.3) at a host name of two labels or more: what sign-up forms accept, no quoted forms.
_EMAIL: Final = re.compile(
    r"(?P<local>[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)"
    r"@(?P<domain>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9])"
)


@dataclass(frozen=True, slots=True)
class Phone:
    """A telephone number. `address` is E.164 (ITU-T E.164): `+` and at most 15 digits."""

    address: str
    country: str  # ISO 3166 alpha-2, "001" for global services, "unknown"
    number_type: str  # a value of NUMBER_TYPES
    channel: Channel = "sms"

    @property
    def masked(self) -> str:
        """All that logs and answers may show: the country code's side and the last two digits."""
        return f"{self.address[:4]}{'*' * (len(self.address) - 6)}{self.address[-2:]}"

    @property
    def identity(self) -> str:
        """What every key of the store is made of: one text, however the number was typed."""
        return self.address

    @property
    def prefix(self) -> str:
        """The block of ten thousand numbers that this one is in."""
        return self.address[:-4]

    def __repr__(self) -> str:
        return f"Phone({self.masked})"


@dataclass(frozen=True, slots=True)
class Email:
    """An e-mail address, its domain in lower case."""

    address: str
    country: str = "email"
    number_type: str = "email"
    channel: Channel = "email"

    @property
    def masked(self) -> str:
        local, _, domain = self.address.rpartition("@")
        return f"{local[:1]}***@{domain}"

    @property
    def identity(self) -> str:
        """What every key of the store is made of: one text for a mailbox.

        Next to no mailbox heeds the case of its local part (RFC 5321 section 2.3.11 leaves it to the host), and one
        that had a second identity for each spelling would have a second budget of guesses, too.
        """
        return self.address.lower()

    @property
    def prefix(self) -> str:
        """The domain, which is to addresses what a block is to numbers."""
        return self.address.rpartition("@")[2]

    def __repr__(self) -> str:
        return f"Email({self.masked})"


Recipient = Phone | Email


def parse(
    text: str, channel: Literal["sms", "email", "auto"], default_country: str, known: Container[str] = ()
) -> Recipient:
    """Read a recipient as a person types it; `known` are E.164 numbers taken without asking the number data.

    Raises Refusal(invalid_recipient).
    """
    if channel == "email" or (channel == "auto" and "@" in text):
        return _parse_email(text)
    return _parse_phone(text, default_country, known)


def of_address(address: str, known: Container[str] = ()) -> Recipient:
    """Read back what `.address` gave: an E.164 number or an e-mail address. `known` as in `parse`."""
    return parse(address, "auto", "ZZ", known)


def _parse_phone(text: str, default_country: str, known: Container[str]) -> Phone:
    refusal = Refusal(
        "invalid_recipient",
        "phone_unreadable",
        "Expected a telephone number, with its country code (+8613900000001) or as written at home.",
    )
    if len(text) > _MAX_PHONE_CHARS:
        raise refusal
    # Vanity spellings (1-800-FLOWERS) read as digits in the library; a person typing letters made a mistake.
    # And it looks for a number in any text, so that "one;another" is one to it, and another to a backend.
    visible = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    bare = re.sub(r"(?i)^tel:|(?:;?ext[.=:]?|x)\s*\d{1,7}$", "", visible.strip())
    if not _PHONE.fullmatch(bare):
        raise refusal
    try:
        number = phonenumbers.parse(text, default_country)
    except phonenumbers.NumberParseException:
        raise refusal from None
    address = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if address not in known and not phonenumbers.is_valid_number(number):
        raise refusal
    return Phone(
        address=address,
        country=phonenumbers.region_code_for_number(number) or "unknown",
        number_type=NUMBER_TYPES.get(phonenumbers.number_type(number), "unknown"),
    )


def _parse_email(text: str) -> Email:
    found = _EMAIL.fullmatch(text.strip()) if len(text) <= _MAX_EMAIL_CHARS + 2 else None
    if found is None or len(found["local"]) > 64:
        raise Refusal("invalid_recipient", "email_unreadable", "Expected an e-mail address such as name@example.com.")
    return Email(f"{found['local']}@{found['domain'].lower()}")
