"""Which language does a person read? One reading of it for the message, the page and a vendor's templates. Pure.

Law: a language is a wish. What cannot be read of one is left out, and nothing is refused for it.

A `locale` is what `read` makes: the languages that a person takes, the best first, then those that they do not take,
written as Accept-Language has them ("de-AT,en,fr;q=0"). `choose` finds the first of them that there is a text in.
"""

import functools
import operator
import re
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Final

# What is spoken where nothing fits.
DEFAULT: Final = "en"

# What is read of one wish. Browsers send a dozen languages at most, and RFC 5646 section 4.4.1 knows no longer tags.
_MAX_CHARS: Final = 500
_MAX_RANGES: Final = 20
_MAX_TAG: Final = 35
# Browsers of a language send the same few wishes: what so many of them mean is remembered. They name nobody.
_REMEMBERED: Final = 512

# So much of a wish: what is behind is not read, nor remembered.
_beginning = operator.itemgetter(slice(_MAX_CHARS + 1))

# An entry of Accept-Language (RFC 9110 section 12.5.4), also as POSIX and Java write one: zh_CN.UTF-8, de_DE@euro.
_ENTRY: Final = re.compile(
    r"(?P<tag>[A-Za-z]{1,8}(?:[-_][A-Za-z0-9]{1,8})*)(?:[.@][A-Za-z0-9.@_-]*)?"
    r"(?:[ \t]*;[ \t]*[qQ]=(?P<weight>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)
# Regions that say their script without writing it, and what Java called Indonesian until 17.
_MEANS: Final = MappingProxyType({"zh-TW": "zh-Hant", "zh-HK": "zh-Hant", "zh-MO": "zh-Hant", "in": "id"})


def read(*wishes: str) -> str:
    """Read the languages that a person takes, as a `locale`; "" for none.

    Each wish is a tag (BCP 47) or a list of them with weights, as Accept-Language has it; the first wish goes first.
    """
    return _read(tuple(map(_beginning, wishes)))


@functools.lru_cache(_REMEMBERED)
def _read(wishes: tuple[str, ...]) -> str:
    wanted: dict[str, None] = {}
    unwanted: dict[str, None] = {}
    for wish in wishes:
        takes, refuses = _ranges(wish)
        wanted |= dict.fromkeys(takes)
        unwanted |= dict.fromkeys(refuses)
    both = [*wanted, *(f"{tag};q=0" for tag in unwanted if tag not in wanted)]
    return ",".join(both[:_MAX_RANGES])


@functools.lru_cache(1024)
def first(locale: str) -> str:
    """Name the language that a person takes best, which need not be one that we have."""
    takes, _ = _ranges(locale)
    return takes[0] if takes else DEFAULT


def choose(locale: str, there: Iterable[str]) -> str | None:
    """Choose among the tags that are there: RFC 4647 section 3.4, and another region's text before another language.

    What a person does not take is not taken either where a longer tag is shortened to it.
    """
    return _choose(locale, tuple(there))


@functools.lru_cache(_REMEMBERED)
def _choose(locale: str, tags: tuple[str, ...]) -> str | None:
    by_tag = {spelled(tag): tag for tag in reversed(tags)}
    by_language = {spelled(tag).partition("-")[0]: tag for tag in reversed(tags)}
    takes, refuses = _ranges(locale)
    for tag in takes:
        for shorter in _shortened(tag):
            if shorter not in refuses:
                found = by_tag.get(shorter) or by_language.get(shorter)  # only a language alone is in the latter
                if found is not None:
                    return found
    return None


def spelled(tag: str) -> str:
    """Spell a tag as RFC 5646 section 2.1.1 recommends: zh-Hant-TW."""
    subtags = tag.replace("_", "-").lower().split("-")
    for position, subtag in enumerate(subtags[1:], 1):
        if len(subtags[position - 1]) == 1:
            break  # what follows is an extension, or private
        if len(subtag) == 2:
            subtags[position] = subtag.upper()
        elif len(subtag) == 4:
            subtags[position] = subtag.title()
    return "-".join(subtags)


@functools.lru_cache(_REMEMBERED)
def _ranges(wish: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tags that a wish takes, the best first, and those that it does not take. A `*` is what we choose anyway."""
    if len(wish) > _MAX_CHARS:
        wish = wish[:_MAX_CHARS].rpartition(",")[0]
    weighted: list[tuple[float, str]] = []
    for entry in wish.split(",")[:_MAX_RANGES]:
        match = _ENTRY.fullmatch(entry.strip(" \t"))
        if match is not None and len(match["tag"]) <= _MAX_TAG:
            weighted.append((float(match["weight"] or 1), spelled(match["tag"])))
    weighted.sort(key=lambda one: -one[0])  # stable: the first of equals stays the first
    takes = tuple(tag for weight, tag in weighted if weight)
    return takes, tuple(tag for weight, tag in weighted if not weight)


def _shortened(tag: str) -> Iterator[str]:
    """Cut subtags from the end, and with each the single letter that introduced it. RFC 4647 section 3.4."""
    subtags = tag.split("-")
    while subtags:
        shorter = "-".join(subtags)
        yield shorter
        if shorter in _MEANS:
            yield _MEANS[shorter]
        subtags.pop()
        while subtags and len(subtags[-1]) == 1:
            subtags.pop()
