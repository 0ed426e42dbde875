"""How may a path be read? Pure.

The law: backends cut, decode, fold and resolve a path in different orders, so each step is taken alone, on what every
other one left, until nothing new comes: what any chain of readers may have is there. Nothing is mended, and nothing is
computed without a bound: a path that cannot be read to the end within it has no readings at all (None).
"""

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Final, Literal, NamedTuple

# Folded path segments, none of them empty. Octets that are no UTF-8 stay as lone surrogates.
Reading = tuple[str, ...]

# An ordinary path has one spelling, a Chinese one three, a spiteful one hundreds; each costs some ten microseconds.
_MAX_SPELLINGS: Final = 192
# Octets of all spellings of one path: three of the longest that is read where it has more than one spelling, and some
# five milliseconds.
MAX_OCTETS: Final = 24 << 10
_MAX_PATH: Final = 8 << 10
_MAX_SCRIPTS: Final = 4  # script names in one path: one is usual
# Normalising is quadratic in a run of combining marks (UAX 15 section 13), so no more is normalised at once.
_RUN: Final = re.compile(r"[\0-\x7f]*[^\0-\x7f]{0,128}")

# One reading only: nothing to decode, no dot.
SIMPLE: Final = re.compile(r"(?:/[A-Za-z0-9_-]+)+")
# Nothing to decode or to resolve: dots only inside segments.
LITERAL: Final = re.compile(r"(?:/[A-Za-z0-9_~-]+(?:\.+[A-Za-z0-9_~-]+)*)+/?|/")
# Programs that take the rest of the path as PATH_INFO (RFC 3875 section 4.1.5).
_SCRIPT: Final = re.compile(r"\.(?:php\d?|phtml|asp|aspx|ashx|asmx|cgi|fcgi|pl|py|rb|jsp|cfm)$")
# The file or action that a directory stands for.
_INDEX: Final = re.compile(r"index(?:\.[a-z0-9]+)?|default\.(?:aspx?|html?)")
# `(.:format)` of Rails, suffix patterns of Spring, MultiViews of Apache, extension-less links.
_FORMAT: Final = re.compile(r"(?<=.)\.[^.]+$", re.DOTALL)


class Readings(NamedTuple):
    """All readings of one path: whole, and cut short. `cost` is the octets of its spellings.

    `is_front`: it may be a front controller's, which takes the path that it serves from elsewhere.
    """

    plain: set[Reading]
    shortened: set[Reading]
    is_front: bool
    cost: int


def read(path: str, mounts: Collection[str] = ()) -> Readings | None:
    """Read a path in every way: whole, and cut short (script or PATH_INFO only, no index, no format suffix).

    `mounts` are spellings of where the application may think that it is mounted. None: there are too many readings.
    """
    if not mounts and SIMPLE.fullmatch(path):
        reading = tuple(path[1:].lower().split("/"))
        return Readings({reading}, without_ending(reading), is_front=reading == ("index",), cost=len(path))
    spellings = _spellings(path, mounts)
    if spellings is None:
        return None
    plain = {fold(spelling) for spelling in spellings}
    plain |= {fold(_valid(spelling)) for spelling in spellings if not spelling.isascii()}
    shortened: set[Reading] = set()
    is_front = path.endswith("/")  # a directory, whose index may be one
    for reading in plain:
        scripts = [at for at, segment in enumerate(reading, 1) if "." in segment and _SCRIPT.search(segment)]
        if len(scripts) > _MAX_SCRIPTS:
            return None
        is_front = is_front or bool(scripts) or not reading
        parts = {reading, *(reading[:at] for at in scripts), *(reading[at:] for at in scripts)}
        shortened |= parts
        for part in parts:
            shortened |= without_ending(part)
    is_front = is_front or () in shortened
    return Readings(plain, shortened - plain, is_front, sum(map(len, spellings)))


def without_ending(reading: Reading) -> set[Reading]:
    """Drop what may be left off at the end: an index, a format suffix."""
    if not reading:
        return set()
    if _INDEX.fullmatch(reading[-1]):
        return {reading[:-1]}
    bare = _FORMAT.sub("", reading[-1])
    return {(*reading[:-1], bare)} if bare != reading[-1] else set()


# A spelling is a text of octets (one character each, Latin-1), so that what is no UTF-8 survives until the end.


def octets(text: bytes | str) -> str:
    """Return a text of octets, one character each."""
    if isinstance(text, bytes):
        return text.decode("latin-1")
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _spellings(path: str, mounts: Collection[str]) -> set[str] | None:
    """Take every step that some backend takes, in every order, until nothing new comes. None: out of bounds."""
    if not mounts and LITERAL.fullmatch(path):
        return {path}
    if len(path) > _MAX_PATH:
        return None
    seen = {path}
    todo = [path]
    spent = len(path)
    while todo:
        spelled = todo.pop()
        for spelling in (*_steps(spelled), *_below(spelled, mounts)):
            if spelling not in seen:
                spent += len(spelling)
                if spent > MAX_OCTETS or len(seen) >= _MAX_SPELLINGS:
                    return None
                seen.add(spelling)
                todo.append(spelling)
    return seen


def _below(path: str, mounts: Collection[str]) -> Iterator[str]:
    """Take a mount point off: where it stands in front, or first (gunicorn before its release 22 splits there)."""
    folded = path.lower() if mounts else ""
    for mount in mounts:
        at = folded.find(mount)
        if at >= 0:
            yield path[at + len(mount) :]


def mounts_of(values: Collection[str]) -> tuple[str, ...]:
    """Spell mount points as `read` takes them: without their case, with and without their last slash, and decoded."""
    found: set[str] = set()
    for value in values:
        spelled = value.lower()
        for _ in range(3):
            found |= {spelled, spelled.rstrip("/")}
            spelled = decoded(spelled).lower()
    return tuple(sorted(found - {"", "/"}))


_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY: Final = re.compile(r"/{2,}[^/]*")
_DOTS: Final = re.compile(r"(?:^|/)\.\.?(?:/|$)")
_PARAMETERS: Final = re.compile(r";[^/]*")
# Where a C string ends, where a line does (`$` in a regular expression), where a decoded target is parsed again.
_END: Final = re.compile(r"[\0\r\n?#]")
_CONTROLS: Final = re.compile(r"[\0-\x1f\x7f]+")
# NTFS: `file::$DATA`, `dir:$I30:$INDEX_ALLOCATION`.
_STREAM: Final = re.compile(r":[:$][^/]*")
# What stands for a space: to C, to Java's `trim`, and in Latin-1 to Python's `str.split` and `str.strip` (0x85, 0xA0).
_SPACES: Final = "".join(map(chr, range(0x21))) + "\x85\xa0"
_PADDED: Final = re.compile(r"[\0- .\x85\xa0](?:/|$)|(?:^|/)[\0- \x85\xa0]")
# Segments of a path that a person may have named in another coding than UTF-8.
_MAX_NAMED: Final = 64
_HALF_ESCAPE: Final = re.compile(r"%.?\Z", re.DOTALL)
# Where Python's `http.server` splits a request line that has no other space.
_SPLIT: Final = re.compile(r"[\x85\xa0]")
_OVERLONG: Final = re.compile(
    r"[\xc0\xc1][\x00-\x3f\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf][\x80-\xbf]"
)


def _steps(path: str) -> Iterator[str]:
    """Take each step that applies, alone."""
    if not path.startswith("/"):
        if scheme := _SCHEME.match(path):  # absolute-form, RFC 9112 section 3.2.2
            yield path[scheme.end() :]
        if "/" in path:  # authority-form with a path
            yield path[path.index("/") :]
    if "%" in path:
        yield decoded(path)
        yield decoded(path, but=("/", "\\"))  # split first, decode then
        if half := _HALF_ESCAPE.search(path):  # uWSGI waits for the rest of it
            yield path[: half.start()]
    if not path.isascii():
        yield _OVERLONG.sub(_shortest, path)  # RFC 3629 section 10 forbids it, some decoders do it
        yield _compatible(path)
        if space := _SPLIT.search(path):
            yield path[: space.start()]
    if "\\" in path:
        yield path.replace("\\", "/")
    if ";" in path:
        yield _PARAMETERS.sub("", path)
    if end := _END.search(path):
        yield path[: end.start()]
    if _CONTROLS.search(path):
        yield _CONTROLS.sub("", path)
    if "//" in path:
        yield re.sub("/{2,}", "/", path)
        if path.startswith("//"):  # a network-path reference, RFC 3986 section 4.2
            yield _AUTHORITY.sub("", path, count=1)
    if _DOTS.search(path):
        yield _resolved(path)
    if _PADDED.search(path):
        yield "/".join(map(_trimmed, path.split("/")))
    if ":" in path:
        yield _STREAM.sub("", path)


_OCTETS: Final = {
    f"{high}{low}": chr(int(high + low, 16)) for high in "0123456789abcdefABCDEF" for low in "0123456789abcdefABCDEF"
}
_ESCAPE: Final = re.compile(r"%(?=[0-9A-Fa-f]{2}|[uU][0-9A-Fa-f]{4})")


def decoded(text: str, but: Collection[str] = ()) -> str:
    """Percent-decode once (RFC 3986 section 2.1, and the %uXXXX of IIS), what is malformed left as it is."""
    if "%" not in text:
        return text
    first, *parts = _ESCAPE.split(text)
    pieces = [first]
    for part in parts:
        char, length = _OCTETS.get(part[:2]), 2
        if char is None:
            char, length = octets(chr(int(part[1:5], 16))), 5
        pieces.append("%" + part if char in but else char + part[length:])
    return "".join(pieces)


def _shortest(found: re.Match[str]) -> str:
    """Read an overlong form as the character that it stands for."""
    lead, *rest = map(ord, found[0])
    value = lead & (0x1F if len(rest) == 1 else 0x0F if len(rest) == 2 else 0x07)
    for octet in rest:
        value = value << 6 | octet & 0x3F
    return chr(value).encode("utf-8").decode("latin-1")


# What Windows' best fit makes a slash of, and Unicode's compatibility forms do not: division, fraction, set minus. And
# what is white space in Unicode (`trim` of JavaScript, .NET and Go, `strip` of Python), and not by these forms.
_BEST_FIT: Final = {0x2215: "/", 0x2044: "/", 0x2216: "\\"} | dict.fromkeys((0x85, 0x1680, 0x2028, 0x2029), " ")


def _compatible(path: str) -> str:
    """Read full-width and other compatibility characters as the plain ones, and the invisible ones as nothing."""
    text = path.encode("latin-1").decode("utf-8", "surrogateescape").translate(_BEST_FIT)
    text = _normal("NFKC", text)
    text = text.translate({ord(char): None for char in set(text) if unicodedata.category(char) == "Cf"})
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _valid(path: str) -> str:
    """Drop what is no UTF-8, as Bottle does, the last thing before it looks for a route. No segment becomes empty."""
    text = path.encode("latin-1")
    whole = octets(text.decode("utf-8", "ignore"))
    if len(whole) == len(path):
        return path
    has_empty = whole.count("//") > path.count("//") or (whole.endswith("/") and not path.endswith("/"))
    if not has_empty or path.count("/") > _MAX_NAMED:
        return whole
    bare = [segment.decode("utf-8", "ignore") for segment in text.split(b"/")]
    segments = [octets(mine) or theirs for mine, theirs in zip(bare, path.split("/"), strict=True)]
    return "/".join(segments)


def _resolved(path: str) -> str:
    """Remove dot segments, RFC 3986 section 5.2.4; empty segments count, what climbs above the root stays there."""
    out: list[str] = []
    for segment in path.removeprefix("/").split("/"):
        if segment == "..":
            del out[-1:]
        elif segment != ".":
            out.append(segment)
    return "/" + "/".join(out)


def _trimmed(segment: str) -> str:
    """Trim a segment as Windows trims a file's name: spaces and dots at the end; and spaces in front."""
    bare = segment.strip(_SPACES)
    return bare if bare in {".", ".."} else bare.rstrip("." + _SPACES)


def _normal(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Normalise, in a time that grows with the text and no faster."""
    if len(text) <= 128:
        return unicodedata.normalize(form, text)
    return "".join([unicodedata.normalize(form, run) for run in _RUN.findall(text)])


def fold(path: str) -> Reading:
    """Split a spelling into segments, without their case."""
    if path.isascii():
        return tuple(segment for segment in path.lower().split("/") if segment)
    text = path.encode("latin-1").decode("utf-8", "surrogateescape")
    # Dotless and dotted i have their own upper and lower case; the dot that is left over goes.
    text = _normal("NFC", text).upper().casefold().replace("\u0307", "")
    return tuple(segment for segment in text.split("/") if segment)
