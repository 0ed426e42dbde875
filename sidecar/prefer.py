"""What does a client prefer? The field `Prefer` (RFC 7240), in one reading. Pure.

A preference may be ignored, so a field that cannot be read, or is longer than any honest one, is as none at all.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

# All lines of the field together: the preferences that are registered fit ten times over.
_MAX_LENGTH: Final = 1_000
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

# RFC 7240 section 2, on RFC 9110's token and quoted-string. Repeats of one character are possessive ("*+"): a field
# that does not match is given up at once, however its spaces could be split. No group is: CPython 3.11.2, Debian's,
# then reads what it should not.
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105 - a grammar's word
_QUOTED: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*"'
_OWS: Final = r"[ \t]*+"
_IS: Final = rf"{_OWS}={_OWS}"
_WORD: Final = rf"(?:{_TOKEN}|{_QUOTED})"
_PARAMETERS: Final = rf"(?:{_OWS};{_OWS}(?:{_TOKEN}(?:{_IS}{_WORD})?)?)*"
_PREFERENCE: Final = re.compile(rf"[ \t,]*+({_TOKEN})(?:{_IS}({_WORD}))?{_PARAMETERS}{_OWS}(?:,|$)")


def read(lines: Sequence[str]) -> Mapping[str, str]:
    """Read the preferences by their lower-case names, each with its value, "" for none; parameters are left out.

    `lines` are the values of all `Prefer` fields, in their order. The first of a name counts (section 2).
    """
    text = ",".join(lines).strip(" \t,")  # RFC 9110 section 5.6.1: empty elements are none
    if len(text) > _MAX_LENGTH:
        return _NONE
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        preference = _PREFERENCE.match(text, at)
        if preference is None:
            return _NONE
        name, word = preference.groups()
        found.setdefault(name.lower(), _unquoted(word or ""))
        at = preference.end()
    return found


def wait_s(preferences: Mapping[str, str], most_s: int) -> int:
    """Seconds that the client would wait (section 4.3), at most `most_s`; 0 when it names none that can be read."""
    value = preferences.get("wait", "")
    return min(most_s, int(value)) if value.isascii() and value.isdigit() else 0


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word
