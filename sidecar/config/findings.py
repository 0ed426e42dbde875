"""How is a mistake in the configuration told? Where it stands, what is wrong, what would be right. Pure.

Law: no secret is ever told. What is shown of a value is what stands in the file, so `"${NAME}"` stays `"${NAME}"`;
the values of keys that hold secrets, and passwords in URLs, are not shown at all.
"""

import datetime as dt
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sidecar.config.where import KeyPath, line_of

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# The second is of an address whose "://" is misspelt: the value is wrong, and has a password all the same.
_USERINFO: Final = re.compile(r"(?<=://).*@|(?<!\S)(?!\S*://)[^\s@]*:\S*@", re.DOTALL)
_PASSWORD: Final = re.compile(r"(?<=password=)[^&\s]+")
_SECRET: Final = re.compile(r"secret|password|passwd|token|key|credential")
# Keys that are named like secrets and hold none; numbers.test holds codes.
_NO_SECRET: Final = re.compile(r"(?:limits\.[^.]*\.key|routes\.[^.]*\.captcha_token|(?:server|upstream)\.tls\.key)")
_LONGEST: Final = 60  # as much of a value as a person needs to find it again


class UnfitError(ValueError):
    """A value of the wrong form. `wrong` is said of the value ("is no duration"); `right` is what would be right."""

    def __init__(self, wrong: str, right: str) -> None:
        super().__init__(f"{wrong}; {right}")
        self.wrong = wrong
        self.right = right


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, or one warning. `line` counts from 1; `key` is a path such as `routes[0].to`."""

    file: str
    line: int
    key: str
    wrong: str
    right: str
    level: Literal["mistake", "warning"] = "mistake"

    def __str__(self) -> str:
        level = "warning: " if self.level == "warning" else ""
        return f"{self.file}:{self.line}: {level}{self.key}: {self.wrong}, {self.right}"


class ConfigError(Exception):
    """The configuration is not usable; `problems` are all its mistakes and warnings, in the order of their lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(describe(problems))
        self.problems = problems


def describe(problems: Iterable[Problem]) -> str:
    """Write a line per problem, as `signup-sidecar check` prints them."""
    return "\n".join(str(problem) for problem in problems)


@dataclass(slots=True)
class Findings:
    """The problems found so far in one file. `raw` is its content before `${…}` is put in."""

    file: str
    raw: Mapping[str, Any]
    lines: Mapping[KeyPath, int]
    homes: Mapping[str, str]  # what stands in one place alone -> how to write it there
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    told: set[KeyPath] = field(default_factory=set)

    def tell(self, path: KeyPath, wrong: str, right: str, *because: KeyPath) -> None:
        """Note a problem, unless it only follows from one noted before at `path` or at one of `because`."""
        if any(self.is_told(p) for p in (path, *because)):
            return
        self.told.add(path)
        self.problems.append(Problem(self.file, line_of(self.lines, path), spell(path), wrong, right))

    def warn(self, path: KeyPath, wrong: str, right: str, *because: KeyPath) -> None:
        """Note what works, and is likely not what was meant. `because` as in `tell`."""
        if not any(self.is_told(p) for p in (path, *because)):
            line = line_of(self.lines, path)
            self.warnings.append(Problem(self.file, line, spell(path), wrong, right, "warning"))

    def is_told(self, path: KeyPath) -> bool:
        """Tell whether a problem stands at `path` or above it."""
        return any(path[:n] in self.told for n in range(1, len(path) + 1))

    def shown(self, path: KeyPath) -> str:
        """Show the value at `path`, as it stands in the file; "the value" where it stands nowhere, being a default."""
        value = self.value(path)
        return "the value" if value is None or holds_secret(path) else show(value)

    def value(self, path: KeyPath) -> Any:
        """Give the value at `path` as it stands in the file; None where it stands nowhere. It may be a secret."""
        value: Any = self.raw
        try:
            for part in path:
                value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
        return value

    def sorted(self) -> tuple[Problem, ...]:
        """All mistakes and warnings, in the order of their lines."""
        return tuple(sorted((*self.problems, *self.warnings), key=lambda problem: problem.line))


def spell(path: KeyPath) -> str:
    """Write a path as TOML writes keys, positions in brackets: `numbers.test."+86…"`, `routes[0].to`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else show(part))
    return text


def show(value: Any) -> str:
    """Write a value as TOML does, without the password of a URL, and not at length."""
    match value:
        case str() if "-----BEGIN" in value:
            return "a PEM text"
        case str():
            text = hide_userinfo(value)
            return json.dumps(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…", ensure_ascii=False)
        case bool():
            return "true" if value else "false"
        case int() | float() | dt.date() | dt.time():
            return str(value)[:_LONGEST]
        case list():
            return "a list"
        case _:
            return "a table"


def hide_userinfo(text: str) -> str:
    """Leave user and password out of the URLs in a text, and passwords among their options."""
    return _PASSWORD.sub("***", _USERINFO.sub("***@", text))


def holds_secret(path: KeyPath) -> bool:
    """Tell whether the value at `path` must not be shown: by the names of the keys on the way."""
    # Codes; and an address whose password a mistake in it may put anywhere.
    if path[:2] in {("numbers", "test"), ("outbound", "proxy")}:
        return True
    if _NO_SECRET.fullmatch(".".join(map(str, path))):
        return False
    names = [part for part in path if isinstance(part, str)]
    return bool(names) and _SECRET.search(names[-1].lower()) is not None


def any_of(words: Iterable[str]) -> str:
    """Write words as a choice, each in quotes."""
    *most, last = map(show, words)
    return f"{', '.join(most)} or {last}" if most else last


def one_of(word: str, words: Iterable[str], otherwise: str = "write") -> str:
    """Say which word was meant: the nearest one, else all of them after `otherwise`."""
    known = sorted(words)
    near = [other for other in known if other.lower() == word.lower()] or difflib.get_close_matches(word, known, n=1)
    return f"did you mean {show(near[0])}?" if near else f"{otherwise} {any_of(known)}"
