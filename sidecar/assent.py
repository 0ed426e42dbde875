"""Does upstream's answer say yes? Members of its JSON against what a route's `spend_when` wants. Pure.

Law: only what was read whole and for certain is a yes. What is too large, cut off, in a coding that is not known here,
or no JSON, is none, and `why` says so, without a word of the content.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

Scalar = str | int | float | bool

# RFC 9110 section 8.4.1. What upstream shall answer in, where its answer is read; others need more than Python has.
CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate", b"identity"})
# What old backends write their JSON in, though RFC 8259 has UTF-8 alone. Others would find no ASCII where it is.
_CHARSETS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("gbk", "gb2312", "gb18030"), "gb18030"),
    **{name: name for name in ("big5", "shift_jis", "euc-jp", "euc-kr", "iso-8859-1", "windows-1251", "windows-1252")},
}
_CHARSET: Final = re.compile(rb";[ \t]*charset[ \t]*=[ \t]*\"?([A-Za-z0-9_-]+)", re.IGNORECASE)
# zlib's names of the framings: gzip (RFC 1952), zlib (RFC 1950), which HTTP calls deflate, and deflate as some send it.
_GZIP, _ZLIB, _RAW = 31, 15, -15
# Longer numbers are compared as floats: Python would refuse them, or take long to read them.
_MAX_DIGITS: Final = 18


class Assent:
    """One answer as it comes: `begin` with its fields, `take` its content piece by piece, `end` if it came whole."""

    codings = CODINGS

    def __init__(self, wanted: Mapping[str, Scalar], most: int) -> None:
        """`wanted`: the way to a member ("a.b") -> its value. `most` octets are read, before and after decoding."""
        self._wanted = wanted
        self._most = most
        self._came = 0
        self._content = bytearray()
        self._coding: _Coding | None = None
        self._charset = ""
        self.why = "cut_off"

    @property
    def is_yes(self) -> bool:
        return self.why == "yes"

    def begin(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Read how the content is coded."""
        codings = [
            coding.strip(b" \t").lower()
            for name, value in fields
            if name.lower() == b"content-encoding"
            for coding in value.split(b",")
        ]
        codings = [coding for coding in codings if coding not in {b"", b"identity"}]
        if len(codings) > 1 or not CODINGS.issuperset(codings):
            self.why = "coding"
        elif codings:
            self._coding = _Coding(_ZLIB if codings[0] == b"deflate" else _GZIP)
        for name, value in fields:
            if name.lower() == b"content-type" and (found := _CHARSET.search(value)):
                self._charset = _CHARSETS.get(found[1].decode().lower(), "")

    def take(self, octets: bytes) -> bool:
        """Take some of the content. False when it cannot become a yes any more."""
        if self.why != "cut_off":
            return False
        self._came += len(octets)
        try:
            decoded = octets if self._coding is None else self._coding.decode(octets, self._room)
        except zlib.error:
            self.why = "coding"
            return False
        if self._came > self._most or len(decoded) >= self._room:
            self.why = "too_large"
            return False
        self._content += decoded
        return True

    def end(self) -> None:
        """The content is whole: decide."""
        if self.why != "cut_off" or (self._coding is not None and not self._coding.is_whole):
            return
        try:
            content = bytes(self._content)
            text = content.decode(self._charset) if self._charset else content
            document = json.loads(text, parse_int=_integer)
        except (ValueError, RecursionError):
            self.why = "no_json"
            return
        says_so = all(_is(_member(document, way), value) for way, value in self._wanted.items())
        self.why = "yes" if says_so else "no"

    @property
    def _room(self) -> int:
        """One octet more than may come yet, so that too much is seen."""
        return self._most - len(self._content) + 1


class _Coding:
    """A decoder that never makes more than it is asked for."""

    def __init__(self, framing: int) -> None:
        self._framing = framing
        self._begun = b""
        self._decoder = zlib.decompressobj(framing)

    @property
    def is_whole(self) -> bool:
        return self._decoder.eof

    def decode(self, octets: bytes, most: int) -> bytes:
        """Decode up to `most` octets; that many mean that there may be more. Raises zlib.error."""
        decoded = b""
        while octets and len(decoded) < most:
            if self._decoder.eof:
                if self._framing != _GZIP or not octets.startswith(b"\x1f"):
                    break  # padding, as browsers take it
                self._decoder = zlib.decompressobj(_GZIP)  # RFC 1952 section 2.2: members follow each other
            try:
                decoded += self._decoder.decompress(octets, most - len(decoded))
            except zlib.error:
                if self._framing != _ZLIB or decoded or len(self._begun) > 1:
                    raise
                octets, self._framing = self._begun + octets, _RAW
                self._decoder = zlib.decompressobj(_RAW)
                continue
            if self._framing == _ZLIB:
                self._begun = (self._begun + octets)[:2]  # by its second octet a zlib header is known
            octets = self._decoder.unconsumed_tail or self._decoder.unused_data
        return decoded


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _member(document: Any, way: str) -> Any:
    for name in way.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _is(found: Any, wanted: Scalar) -> bool:
    """Compare as JSON does: types count, so that false is not 0 nor "0"; 1 and 1.0 are one number."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return found == wanted
    return isinstance(found, str) and isinstance(wanted, str) and found == wanted
