"""What is the code of a verification? Derived when it is sent and again when it is checked, never stored. Pure.

A verification id is 24 base64url characters: where its recipient's keys live in a store cluster (4: the start of the
recipient's hash, `store.names.route`), which secret it was made under (4), and 96 random bits.
"""

import hmac
import re
import unicodedata
from typing import Final

from sidecar.secret import FINGERPRINT, Secret, b64url, unb64url

_IS_ID: Final = re.compile(r"[A-Za-z0-9_-]{24}").fullmatch
_TAG: Final = 4
RANDOM: Final = 12

# Longer than any spelling of a code: 8 digits, with more than enough between them. More is not even looked at.
_MAX_TYPED: Final = 64
# What people and their telephones put between digits and around them, beside white space (str.isspace), dashes (Pd) and
# what nobody sees (Cf): minus, dots of several scripts, and the invisible marks that are letters to Unicode.
_BETWEEN: Final = re.compile(
    r"[.\u2212\u00b7\u2022\u2024\u2027\u30fb\u3002\uff0e\uff61"
    r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0]"
)


def read(shown: str | int | None, digits: int) -> str | None:
    """Read a code of so many digits as people type and paste it; None for what cannot be one.

    Decimal digits of any script, of several even: they are compared, and go nowhere. A number, from JSON, has lost its
    leading zeros, and has them back.
    """
    text = str(shown).zfill(digits) if isinstance(shown, int) else _bare(shown)
    return text if text is not None and len(text) == digits and text.isdecimal() else None


def is_blank(shown: str | int | None) -> bool:
    """Tell whether nothing was typed, or nothing but what stands between digits."""
    return not isinstance(shown, int) and _bare(shown) == ""


def _bare(typed: str | None) -> str | None:
    """Leave out what stands between digits, and write these as 0 to 9; None for a text with anything else in it."""
    if typed is None or len(typed) > _MAX_TYPED:
        return None if typed else ""
    if typed.isascii() and typed.isdigit():  # as mostly
        return typed
    found = ""
    for character in typed:
        digit = unicodedata.decimal(character, None)
        if digit is not None:
            found += str(digit)
        elif not (character.isspace() or unicodedata.category(character) in {"Pd", "Cf"} or _BETWEEN.match(character)):
            return None
    return found


def new_id(secret: Secret, recipient_hash: str, random: bytes) -> str:
    """Make a verification id. `random` is RANDOM octets."""
    return recipient_hash[:_TAG] + secret.fingerprint + b64url(random)


def is_ours(secret: Secret, verification_id: str) -> bool:
    """Tell whether an accepted secret made an id, as far as can be told without its record."""
    return secret.code_key(_fingerprint(verification_id)) is not None


def hotp(key: bytes, moving_factor: bytes, digits: int) -> str:
    """HOTP, RFC 4226 section 5.3, its counter any octets: HMAC-SHA-1, dynamic truncation, `digits` decimal digits."""
    mac = hmac.digest(key, moving_factor, "sha1")
    offset = mac[-1] & 0x0F
    number = int.from_bytes(mac[offset : offset + 4]) & 0x7FFFFFFF
    return f"{number % 10**digits:0{digits}}"


def code_of(secret: Secret, verification_id: str, digits: int) -> str | None:
    """The code of a verification; None for an id that no accepted secret made."""
    key = secret.code_key(_fingerprint(verification_id))
    return hotp(key, unb64url(verification_id), digits) if key else None


def token_of(secret: Secret, verification_id: str) -> str | None:
    """The proof that the API hands out for a right code: the id, and a MAC over it. None as `code_of`."""
    key = secret.token_key(_fingerprint(verification_id))
    return f"{verification_id}.{b64url(hmac.digest(key, unb64url(verification_id), 'sha256'))}" if key else None


def id_of_token(secret: Secret, token: str) -> str | None:
    """The verification that a token proves; None for a forged or garbled one."""
    verification_id, dot, _ = token.partition(".")
    expected = token_of(secret, verification_id) if dot and token.isascii() else None
    return verification_id if expected and hmac.compare_digest(expected.encode(), token.encode()) else None


def _fingerprint(verification_id: str) -> str:
    """Which secret an id was made under; "" for what is no id."""
    # In one spelling only, which standard base64 is not: a second one would be a second key in the store.
    return verification_id[_TAG : _TAG + FINGERPRINT] if _IS_ID(verification_id) else ""
