"""When are two names one name to some backend? Pure.

The law: names are compared in the loosest way that any backend compares them, and in no other way. Who decides by a
name that only some backends read so, decides by what the next one does not see.
"""

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

_T = TypeVar("_T")
Fields = Sequence[tuple[bytes, bytes]]

# The words of a member's or a parameter's name, folded, none of them empty.
Words = tuple[str, ...]

# No form is nested deeper, and nobody reads it so: Express stops after 5 brackets, Rack after 32, PHP after 64.
_MAX_WORDS: Final = 8
# What stands between two words: `user[phone]`, `user.phone`, `user['phone']` (Spring).
_BETWEEN: Final = re.compile(r"[\[\].'\"]+")
# A percent sign of a form that escapes nothing: no two readers agree on what it says.
BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_KEPT: Final = 4096
# Names whose meaning is remembered: so many, and none longer than this.
MAX_NAMES: Final = 4096
MAX_NAME: Final = 64

_ALIKE: Final = bytes(
    ord(chr(octet).lower()) if chr(octet) in string.ascii_letters + string.digits else ord("-") for octet in range(256)
)


def alike(name: bytes) -> bytes:
    """Return a field's name with every octet that is no letter or digit as `-`, and its letters in lower case.

    CGI and WSGI (RFC 3875 section 4.1.18) know no difference between `-` and `_`, and some servers make `_` of every
    other octet, too: to them `X.Original_URL` is `X-Original-URL`.
    """
    return _ALIKES[name]


class ByName(dict[bytes, _T]):
    """What a field's name comes to, as `read` has it: remembered, of so many names, and none that is long."""

    def __init__(self, read: Callable[[bytes], _T]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, name: bytes) -> _T:
        found = self._read(name)
        if len(name) <= MAX_NAME:
            if len(self) >= MAX_NAMES:
                self.clear()
            self[name] = found
        return found


_ALIKES: Final = ByName(lambda name: name.translate(_ALIKE))


class Message(tuple[tuple[bytes, bytes], ...]):  # noqa: SLOT001 - it keeps what was found
    """All fields of a message, of which several are asked for: the values of every name are found once."""

    found: dict[bytes, list[bytes]] | None = None  # once somebody has asked
    names_another: bool | None = None  # likewise, what `overrides.may_name_another` says of it

    def find(self) -> dict[bytes, list[bytes]]:
        """Find the values of every name, as `alike` has it."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in self:
            found.setdefault(_ALIKES[name], []).append(value)
        self.found = found
        return found


def values(fields: Fields, name: bytes | str) -> Sequence[bytes]:
    """Return the values of a field in every spelling of its name, in order."""
    wanted = _wanted(name)
    if isinstance(fields, Message):
        return (fields.found or fields.find()).get(wanted, ())
    return [value for key, value in fields if _ALIKES[key] == wanted]


@functools.lru_cache(MAX_NAMES)
def _wanted(name: bytes | str) -> bytes:
    """Return a name that somebody here asks for as `alike` has it: there are few, and none is of a client's making."""
    return alike(name.encode("latin-1", "replace") if isinstance(name, str) else name)


def has_name(names: Iterable[bytes], alike_name: bytes) -> bool:
    """True when one of the names of a message's fields is, in some spelling, the one that `alike` spells so. Quick."""
    return alike_name in map(_ALIKES.__getitem__, names)


class _Folds(dict[int, str]):
    """What each character comes to in a comparison without case: folded once, and as many kept as a page has.

    Character by character, so that the work grows with the text and no faster: normalising a text at once is quadratic
    in its combining marks. What is composed is taken apart, so `é` is alike however it is written. Kelvin sign and long
    s are letters, dotless and dotted i are alike; what nobody sees is nothing.
    """

    def __missing__(self, ordinal: int) -> str:
        char = chr(ordinal)
        if unicodedata.category(char) in {"Cc", "Cf"} and not char.isspace():
            char = ""
        taken_apart = unicodedata.normalize("NFKD", char).upper().casefold()
        fold = unicodedata.normalize("NFKD", taken_apart).replace("\u0307", "")
        if len(self) < _KEPT:
            self[ordinal] = fold
        return fold


_FOLDS: Final = _Folds()


def folded(name: str) -> str:
    """Fold all that some backend's comparison without case folds. Linear in the name's length."""
    return name.lower() if name.isascii() and name.isprintable() else name.translate(_FOLDS)


def words(name: str) -> Words:
    """Return the words of a member's or a parameter's name: `user[phone]`, `User.phone` and `[user]phone` have two.

    Space and `-` join as `_` does, of which PHP makes one. NUL ends a name (C). A name of more words than anybody reads
    is known by its first. Linear in the name's length.
    """
    if name.isascii() and name.isalnum():
        return (name.lower(),)
    parts = _BETWEEN.split(folded(name.partition("\0")[0]))
    found = tuple(word for part in parts if (word := "_".join(part.replace("_", " ").replace("-", " ").split())))
    return found if len(found) <= _MAX_WORDS else found[:1]


def overlap(one: Words, other: Words) -> bool:
    """True when one of two names is, or is in, or holds the other: the words of one are the first words of the other.

    So `user[phone]` is alike to `user` and to `user.phone[0]`, and not to `user.name`. Words count as joined, too, for
    PHP has `phone.number` as `phone_number`.
    """
    if one and other and one[0][0] != other[0][0]:  # most are told apart by their first letter
        return False
    return _begins(one, "_".join(other)) or _begins(other, "_".join(one))


def _begins(name: Words, beginning: str) -> bool:
    length = -1
    for count, word in enumerate(name, 1):
        length += 1 + len(word)
        if length >= len(beginning):
            return length == len(beginning) and "_".join(name[:count]) == beginning
    return False
