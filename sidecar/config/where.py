"""On which line does a key stand? TOML text in, key path -> line out. Pure.

Law: the text has been accepted by `tomllib`; this scanner finds places and judges nothing. A path is the way through
what `tomllib` returns: names of tables and keys, positions in arrays. Lines count from 1. TOML 1.0.0 (toml.io).
"""

import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

KeyPath = tuple[str | int, ...]

_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# A multi-line text may end in up to two quotes of its own before the closing three.
_TEXT: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:\'{0,2})|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL
)
_SCALAR: Final = re.compile(r"[^,\]}\n#]+")  # a date may hold a space, so a scalar ends at what follows it


def places(text: str) -> dict[KeyPath, int]:
    """Find the line of every table, key and array element of `text`."""
    return _Scanner(text).scan()


def line_of(found: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Tell the line of `path`; of its nearest parent when it is not there; 1 when there is none."""
    while path:
        if path in found:
            return found[path]
        path = path[:-1]
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line_ends = [i for i, c in enumerate(text) if c == "\n"]
        self.found: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}  # of arrays of tables

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            table = self.header() if self.text[self.at] == "[" else self.pair(table)
            self.skip(_BLANK)
        return self.found

    def header(self) -> KeyPath:
        """Read [a.b] or [[a.b]]; a name that is an array of tables on the way means its newest table."""
        line = self.line()
        is_array = self.text.startswith("[[", self.at)
        self.at += 1 + is_array
        *parents, name = self.dotted_key()
        self.at += 1 + is_array
        path: KeyPath = ()
        for parent in parents:
            path = (*path, parent)
            self.found.setdefault(path, line)
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
        path = (*path, name)
        if is_array:
            self.found.setdefault(path, line)
            self.lengths[path] = self.lengths.get(path, 0) + 1
            path = (*path, self.lengths[path] - 1)
        self.found[path] = line  # over what a header below it may have noted
        return path

    def pair(self, table: KeyPath) -> KeyPath:
        """Read `key = value`; gives the table back."""
        line = self.line()
        path = table
        for name in self.dotted_key():
            path = (*path, name)
            self.found.setdefault(path, line)
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)
        return table

    def value(self, path: KeyPath) -> None:
        match self.text[self.at : self.at + 1]:
            case "[":
                self.inside("]", path)
            case "{":
                self.inside("}", path)
            case '"' | "'":
                self.skip(_TEXT)
            case _:
                self.skip(_SCALAR)

    def inside(self, close: str, path: KeyPath) -> None:
        """Read the elements of an array, or the pairs of an inline table."""
        self.at += 1
        index = 0
        self.skip(_BLANK)
        while self.at < len(self.text) and self.text[self.at] != close:
            if close == "}":
                self.pair(path)
            else:
                self.found[(*path, index)] = self.line()
                self.value((*path, index))
                index += 1
            self.skip(_BLANK)
            if self.text.startswith(",", self.at):
                self.at += 1
                self.skip(_BLANK)
        self.at += 1

    def dotted_key(self) -> list[str]:
        names = []
        while True:
            self.skip(_SPACE)
            token = self.skip(_TEXT) or self.skip(_BARE_KEY)
            names.append(tomllib.loads(f"key = {token}")["key"] if token[:1] in {'"', "'"} else token)
            self.skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def line(self) -> int:
        return bisect_left(self.line_ends, self.at) + 1
