"""Who shall get the code? Text in, a `Phone` or an `Email` out; a plain `str` goes no further than this.

The law: one reading. The same text goes upstream, and a backend that keeps its digits, or the last of them, must hold
the number that was verified. So the digits of a number's text are those of its E.164 form, where the country code or a
trunk prefix may be missing, and nothing stands behind them. An address's domain is the same under both IDNAs.

Pure: no I/O, no clock. Number facts come from `phonenumbers` (Google's libphonenumber data).
"""

import re
import unicodedata
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

import idna
import phonenumbers
from phonenumbers import PhoneMetadata, PhoneNumber, PhoneNumberFormat, PhoneNumberType

from sidecar import e164
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
# What nobody sees, and telephones and address books put around a number: soft hyphen, zero-width and directional marks.
_INVISIBLE: Final = frozenset(
    map(
        chr,
        (0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A), 0xFEFF),
    )
)
# Signs of East Asian keyboards, and dashes that are none to Unicode, as the sign that stands for all of them.
_SIGNS: Final = {"＋": "+", "（": "(", "）": ")", "．": ".", "／": "/", "［": "[", "］": "]", "\u2212": "-", "ー": "-"}  # noqa: RUF001
# A number as people write it: one plus in front at most, signs between the digits, nothing behind the last one.
_PHONE: Final = re.compile(
    r"(?:tel:)?[ (\[]*(?P<plus>\+?)[ (\[]*(?P<digits>[0-9](?:[0-9 ().\[\]/-]*[0-9])?)[)\]]?", re.IGNORECASE
)
_NO_DIGITS: Final = re.compile(r"[^0-9]+")
# How a country stands beside a number; longer texts are none.
_COUNTRY_CODE: Final = re.compile(r"(?:\+|00)?([1-9][0-9]{0,2})")
_COUNTRY_NAME: Final = re.compile(r"[A-Za-z]{2}")
# The longest trunk prefix, such as Hungary's 06; what is longer is a carrier's code.
_MAX_TRUNK: Final = 2
# Numbers that a text message reaches. In some countries nobody can tell the two kinds apart.
_MOBILE: Final = frozenset({"mobile", "fixed_line_or_mobile"})

# RFC 5321 section 4.5.3.1: a local part of 64 octets, a path of 256, two of them angle brackets.
_MAX_LOCAL: Final = 64
_MAX_EMAIL_CHARS: Final = 254
# A dot-atom (RFC 5322 section 3.2.3): what sign-up forms accept, no quoted forms.
_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# A host name of two labels or more, the last of which begins with a letter.
_DOMAIN: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
# Dots to some readers of host names, and letters to others.
_ODD_DOT: Final = re.compile(r"[\u3002\uff0e\uff61]")


@dataclass(slots=True)  # not frozen: it is made for every request
class Phone:
    """A telephone number. `address` is E.164 (ITU-T E.164): `+` and at most 15 digits."""

    address: str
    country: str  # ISO 3166 alpha-2, "001" for global services, "unknown"
    number_type: str  # a value of NUMBER_TYPES
    channel: Channel = "sms"
    masked: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Mask it: all that logs and answers may show is the country code's side and the last two digits."""
        address = self.address
        self.masked = f"{address[:4]}{'*' * (len(address) - 6)}{address[-2:]}"

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
    """An e-mail address, its domain in lower case and ASCII."""

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
    text: str,
    channel: Literal["sms", "email", "auto"],
    default_country: str,
    *,
    country: str | None = None,
    known: Container[str] = (),
    extra: tuple[str, ...] = (),
    example: str = "",
) -> Recipient:
    """Read a recipient as a person types it.

    `country` is what stands beside a number as its country: "44", "+44" or "GB"; without one, `default_country` reads
    national numbers. `known` are E.164 numbers that are taken without asking the number data, `extra` are beginnings of
    numbers that are mobile whatever the data says. `example` is a number to show to whoever typed none; without one it
    is a mobile number of `default_country`.
    Raises Refusal(invalid_recipient).
    """
    if channel == "email" or (channel == "auto" and "@" in text):
        return _parse_email(text)
    phone = None
    if text.startswith("+") and text[1:].isdigit() and text.isascii() and len(text) <= _MAX_PHONE_CHARS and not country:
        phone = _known_at_a_glance(text, extra)
    phone = phone or _parse_phone(text, default_country, country, known, extra)
    if phone is None:
        beside = ' Beside it its own country, such as "44", "+44" or "GB", or none.' if country else ""
        raise Refusal(
            "invalid_recipient",
            "phone_unreadable",
            "Expected a telephone number and nothing else: with its country code,"
            f" such as {example or example_of(default_country)}, or as it is dialled at home.{beside}",
        )
    return phone


def of_address(address: str) -> Recipient:
    """Read back what `.address` gave: an E.164 number or an e-mail address."""
    return Email(address) if "@" in address else _phone(phonenumbers.parse(address), ())


def load_number_data() -> Iterator[None]:
    """Load the data of every country, some 80 ms and 2 MiB, one with each step, so that nobody has to wait for it."""
    for country in phonenumbers.SUPPORTED_REGIONS:
        PhoneMetadata.metadata_for_region(country, None)
        yield
    for code in phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS:
        PhoneMetadata.metadata_for_nongeo_region(code, None)
        yield


@cache
def example_of(default_country: str, countries: tuple[str, ...] = (), block_types: tuple[str, ...] = ()) -> str:
    """Give a number that is read and served: a mobile one, and of the default country, if these are served at all."""
    served = [default_country, *countries] if not countries or default_country in countries else list(countries)
    examples = [
        number
        for country in served
        for kind in (PhoneNumberType.MOBILE, *NUMBER_TYPES)
        if (number := phonenumbers.example_number_for_type(country, kind)) is not None
    ]
    for number in examples:
        phone = _phone(number, ())
        if phone.number_type not in block_types and (not countries or phone.country in countries):
            break
    else:
        number = examples[0]  # nothing is served
    return phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL)


# Telephone numbers…


def _parse_phone(
    text: str, default_country: str, country: str | None, known: Container[str], extra: tuple[str, ...]
) -> Phone | None:
    """Read a number; None where there is none, or no telling which of two."""
    spelled = _spelled(text)
    told = _country(country) if country and country.strip() else (default_country, None)
    if spelled is None or told is None:
        return None
    has_plus, digits = spelled
    region, code = told
    if has_plus and code is None and (phone := _known_at_a_glance(f"+{digits}", extra)) is not None:
        return phone

    def read(dialled: str) -> Phone | None:
        try:
            # With a plus no region is named: the library would try the number as one of that region, too.
            number = phonenumbers.parse(dialled, None if dialled.startswith("+") else region)
        except phonenumbers.NumberParseException:
            return None
        phone = _phone(number, extra)
        # The library calls a number valid where it knows its type; who knows it otherwise says so.
        is_number = phone.number_type != UNKNOWN or phone.address in known
        fits = code in {None, number.country_code} and _is_spelling(digits, number, region)
        return phone if is_number and fits else None

    if has_plus:
        return read(f"+{digits}")
    # A plus may be missing: left out, or a space by now, as a form's is that was not encoded.
    home = read(digits)
    if home is not None and code is not None:
        return home  # its country stands beside it, so it is not in it, too
    abroad = read(f"+{digits}")
    if home is None or abroad is None or home == abroad:
        return home or abroad
    mobile = [phone for phone in (home, abroad) if phone.number_type in _MOBILE or phone.address in known]
    if len(mobile) == 1:
        return mobile[0]
    # Two mobile ones: people dial at home as they always did, and half of China's numbers are American ones with a plus
    # before them. It is left open only where something says that a plus was lost.
    was_lost = text.startswith(" ") or abroad.address.startswith(f"+{phonenumbers.country_code_for_region(region)}")
    return home if mobile and not was_lost else None


def _known_at_a_glance(address: str, extra: tuple[str, ...]) -> Phone | None:
    """Read a number in its E.164 form, as most are typed; None where the library is to be asked."""
    found = None if address.startswith(extra) else e164.region_and_type(address[1:])
    return None if found is None else Phone(address, found[0], NUMBER_TYPES[found[1]])


def _spelled(text: str) -> tuple[bool, str] | None:
    """Whether a text has a plus, and its digits; None for a text that is no number, or not only one.

    Digits of one script alone: a backend that drops, or keeps, those of another would hold another number.
    """
    if len(text) > _MAX_PHONE_CHARS:
        return None
    if text.isascii():  # as mostly: there is nothing to translate
        found = _PHONE.fullmatch(text.strip())
        return None if found is None else (bool(found["plus"]), _NO_DIGITS.sub("", found["digits"]))
    zeros = set()
    plain = ""
    for character in text.strip():
        digit = unicodedata.decimal(character, None)
        if digit is not None:
            zeros.add(ord(character) - digit)
            plain += str(digit)
        elif unicodedata.category(character) in {"Zs", "Pd"}:
            plain += " " if unicodedata.category(character) == "Zs" else "-"
        elif character not in _INVISIBLE:
            plain += _SIGNS.get(character, character)
    found = _PHONE.fullmatch(plain.strip())
    if found is None or len(zeros) != 1:
        return None
    return bool(found["plus"]), _NO_DIGITS.sub("", found["digits"])


def _is_spelling(digits: str, number: PhoneNumber, region: str) -> bool:
    """Tell whether these are a number's digits: all of E.164, or without country code, and maybe with what is dialled.

    That is a trunk prefix (0139…, +49 (0)151…), or `region`'s way abroad before the country code (00 49 151…).
    """
    national = phonenumbers.national_significant_number(number)
    if not digits.endswith(national):
        return False
    before = digits.removesuffix(national)
    code = str(number.country_code)
    if before == code or _is_trunk(before, number):
        return True
    return any(
        _is_way_abroad(before[:at], region) and _is_trunk(before[at + len(code) :], number)
        for at in range(len(before))
        if before.startswith(code, at)
    )


def _is_trunk(before: str, number: PhoneNumber) -> bool:
    """Tell whether that is nothing, or what is dialled at home before a national number; never a carrier's code."""
    if not before or len(before) > _MAX_TRUNK:
        return not before
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(number.country_code or 0, _main_region(number))
    pattern = metadata.national_prefix_for_parsing if metadata else None
    return pattern is not None and bool(re.fullmatch(pattern, before))


def _is_way_abroad(before: str, region: str) -> bool:
    metadata = PhoneMetadata.metadata_for_region(region) if before else None
    return not before or bool(metadata and re.fullmatch(metadata.international_prefix or "", before))


def _main_region(number: PhoneNumber) -> str:
    return phonenumbers.region_code_for_country_code(number.country_code or 0)


def _country(text: str) -> tuple[str, int] | None:
    """Read what stands beside a number as its country: the region that reads national numbers, and its code."""
    plain = text.strip()
    if found := _COUNTRY_CODE.fullmatch(plain):
        code = int(found[1])
        region = phonenumbers.region_code_for_country_code(code)
        return None if region == phonenumbers.UNKNOWN_REGION else (region, code)
    region = plain.upper()
    if _COUNTRY_NAME.fullmatch(plain) and region in phonenumbers.SUPPORTED_REGIONS:
        return region, phonenumbers.country_code_for_region(region)
    return None


def _phone(number: PhoneNumber, extra: Sequence[str]) -> Phone:
    """Say what the number data knows of a number; one as `extra` has it, and as long as mobile ones are, is mobile."""
    region = phonenumbers.region_code_for_number(number) or _main_region(number)
    address = f"+{number.country_code}{phonenumbers.national_significant_number(number)}"
    is_extra = address.startswith(tuple(extra)) and phonenumbers.is_possible_number_for_type(
        number, PhoneNumberType.MOBILE
    )
    return Phone(
        address=address,
        country="unknown" if region == phonenumbers.UNKNOWN_REGION else region,
        number_type="mobile" if is_extra else NUMBER_TYPES[phonenumbers.number_type(number)],
    )


# E-mail addresses…


def _parse_email(text: str) -> Email:
    local, _, domain = text.strip().rpartition("@")
    if len(text) > _MAX_EMAIL_CHARS + 2 or not local or not domain:
        raise _no_email("Expected an e-mail address such as name@example.com.")
    if not local.isascii():
        raise _no_email("Expected ASCII letters, digits and signs alone before the @: others are not served.")
    domain = _ascii_domain(domain)
    address = f"{local}@{domain}"
    if len(local) > _MAX_LOCAL or len(address) > _MAX_EMAIL_CHARS or not _LOCAL.fullmatch(local):
        raise _no_email("Expected an e-mail address such as name@example.com.")
    return Email(address)


def _ascii_domain(domain: str) -> str:
    """Write a host name in lower case, its labels in ASCII (RFC 5891).

    Only where no backend reads another name. To the IDNA of 2003, `faß.de` is `fass.de`; to those
    that compare in upper case, `github.com` is also what has a dotless i (U+0131) in it (CVE-2019-19844).
    Raises Refusal(invalid_recipient).
    """
    if not domain.isascii():
        name = unicodedata.normalize("NFC", domain.lower())
        try:
            domain = idna.encode(name).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise _no_email("Expected an e-mail address whose domain is one that there can be.") from None
        is_one = _idna_2003(name) in {None, domain} and unicodedata.normalize("NFC", name.upper().lower()) == name
        if _ODD_DOT.search(name) or not is_one:
            raise _no_email("Expected a domain that all programs read alike; write it in its ASCII form (xn--…).")
    domain = domain.lower()
    if not _DOMAIN.fullmatch(domain):
        raise _no_email("Expected an e-mail address such as name@example.com.")
    return domain


def _idna_2003(name: str) -> str | None:
    """What the IDNA of 2003 (RFC 3490) makes of a name; None where it knows no such name."""
    try:
        return name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None


def _no_email(detail: str) -> Refusal:
    return Refusal("invalid_recipient", "email_unreadable", detail)
