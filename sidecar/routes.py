"""Which route is this? Pure.

The law: a route covers every reading of a request that a common backend may have: of its path (what is cut, decoded,
folded, resolved, in which order) and of its method (what an override field turns it into). Backends disagree, so all
readings are computed, each finds its first match in configured order, and then:

1. A target that is letter for letter the path of its first match is that route: the operator has named it.
2. Otherwise a guarding route wins over `pass` and over none, enforced ones over observed ones, and among those the
   strictest: deny > verify > send > guard.
3. It must ask for all that the others would have asked, or never reach upstream (`_covers`). If it does not, no answer
   is safe, as one proof would open another route: `CLOSED`.

It never raises, whatever the octets, and never passes what it could not read to the end within its bounds.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.config.model import Route
from sidecar.spelling import Fields, alike, values

# Folded path segments, none of them empty. Octets that are no UTF-8 stay as lone surrogates.
Reading = tuple[str, ...]

# What is found for a request whose readings contradict each other, or are too many to compute.
CLOSED: Final = Route(match="* /*", action="deny")

_STRICTEST_FIRST: Final = ("deny", "verify", "send", "guard")
# An ordinary path has one spelling, a Chinese one three, a spiteful one hundreds; each costs some ten microseconds.
_MAX_SPELLINGS: Final = 192
_MAX_OCTETS: Final = 48 << 10  # of all spellings together: six of the longest target that the server takes
_MAX_SCRIPTS: Final = 4  # script names in one path: one is usual
_MAX_TARGETS: Final = 4  # one is usual; a front proxy and a front controller may each name another
# Paths whose look-up is remembered, and how long one may be: 2 MiB of them at most.
_KEPT: Final = 2048
_MAX_KEPT: Final = 1024
_EVERY: Final = "*"  # as a method: all of them

# One reading only: nothing to decode, no dot.
_SIMPLE: Final = re.compile(r"(?:/[A-Za-z0-9_-]+)+")
# Nothing to decode or to resolve: dots only inside segments.
_LITERAL: Final = re.compile(r"(?:/[A-Za-z0-9_~-]+(?:\.+[A-Za-z0-9_~-]+)*)+/?|/")
_NAME: Final = re.compile(r"\{[^{}]+\}")
# Programs that take the rest of the path as PATH_INFO (RFC 3875 section 4.1.5).
_SCRIPT: Final = re.compile(r"\.(?:php\d?|phtml|asp|aspx|ashx|asmx|cgi|fcgi|pl|py|rb|jsp|cfm)$")
# The file or action that a directory stands for.
_INDEX: Final = re.compile(r"index(?:\.[a-z0-9]+)?|default\.(?:aspx?|html?)")
# `(.:format)` of Rails, suffix patterns of Spring, MultiViews of Apache, extension-less links.
_FORMAT: Final = re.compile(r"(?<=.)\.[^.]+$", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class _Pattern:
    """One route's `match`, read. `segments` has None for `{name}`; `literal` is the path if it has one spelling."""

    index: int
    route: Route
    method: str
    segments: tuple[str | None, ...]
    subtree: bool
    literal: str

    def takes_method(self, method: str) -> bool:
        return self.method in {_EVERY, method} or (method == "HEAD" and self.method == "GET")

    def takes_path(self, reading: Reading) -> bool:
        if len(reading) < len(self.segments) or (len(reading) > len(self.segments) and not self.subtree):
            return False
        return all(mine in (None, theirs) for mine, theirs in zip(self.segments, reading, strict=False))


@dataclass(frozen=True, slots=True)
class _Target:
    """A request target, looked up.

    `literal` is its path where that is spelled plainly, `named` then the matches of this plain reading alone.
    `hits` are the matches of each reading, in configured order; None: there are too many to compute.
    """

    literal: str
    named: tuple[_Pattern, ...]
    hits: Collection[tuple[_Pattern, ...]] | None


_UNREADABLE: Final = _Target("", (), None)


@dataclass(frozen=True, slots=True)
class Found:
    """The route of a request, None if it passes.

    `needs_body_for_override` is True when a form may yet name a method that makes it another route: read the bounded
    body and ask `Routes.with_body_override`, before anything passes.
    """

    route: Route | None
    needs_body_for_override: bool = False
    targets: tuple[_Target, ...] = field(default=(), repr=False)
    methods: frozenset[str] = field(default=frozenset(), repr=False)


_NOTHING: Final = Found(None)


class Routes:
    """The configured routes, in order."""

    def __init__(self, routes: Sequence[Route]) -> None:
        patterns = [_compile(index, route) for index, route in enumerate(routes)]
        self._guards = any(route.action != "pass" for route in routes)
        # What `every method` comes down to: those that some route names, and one that none does.
        self._methods = frozenset({pattern.method for pattern in patterns} | {"OTHER"}) - {_EVERY}
        self._wild = [pattern for pattern in patterns if pattern.subtree or None in pattern.segments]
        self._exact: dict[Reading, list[_Pattern]] = {}
        self._aliases: dict[Reading, list[_Pattern]] = {}
        for pattern in patterns:
            if pattern not in self._wild:
                path = tuple(segment for segment in pattern.segments if segment is not None)
                self._exact.setdefault(path, []).append(pattern)
                for alias in _without_ending(path):
                    self._aliases.setdefault(alias, []).append(pattern)
        self._kept_target = functools.lru_cache(_KEPT)(self._target)

    def find(self, method: str, target: bytes | str, fields: Fields) -> Found:
        """Look a request up. `target` is as it came on the wire, `fields` likewise. Never raises."""
        raw_target = _octets(target)
        names_another = may_name_another(fields)
        if not names_another and self._is_surely_nothing(raw_target.partition("?")[0]):
            return _NOTHING
        methods = {method.upper()}
        raws = {raw_target}
        if names_another:
            methods |= _field_methods(fields)
            raws |= set(other_targets(fields))
        targets: list[_Target] = []
        for raw in raws if len(raws) <= _MAX_TARGETS else ():
            path, _, query = raw.partition("?")
            if query:
                methods |= _form_methods(query)
            targets += self._look_up(path, query)
        if len(raws) > _MAX_TARGETS:
            targets = [_UNREADABLE]
        return self._found(tuple(targets), frozenset(methods), method.upper() == "POST", _is_coded(fields))

    def with_body_override(self, found: Found, body: bytes, content_type: bytes | str) -> Found:
        """Look again, now that the body that `found` asked for is here. Never raises."""
        methods = found.methods | _body_methods(body, _octets(content_type))
        return self._found(found.targets, methods, may_be_form=False, is_coded=False)

    def _found(self, targets: tuple[_Target, ...], methods: frozenset[str], may_be_form: bool, is_coded: bool) -> Found:
        if not targets:
            return _NOTHING
        route = self._decide(targets, methods)
        if may_be_form:
            # Only POST bodies override (Rack, Symfony, Laravel, Spring, Express and ASP.NET Core agree).
            strictest = self._decide(targets, methods | {_EVERY})
            if strictest is not None and strictest.action != "pass" and strictest is not route:
                # A compressed body hides its override from us, and from few backends.
                return Found(strictest) if is_coded else Found(route, True, targets, methods)
        return Found(route, False, targets, methods)

    # Looking a target up…

    def _is_surely_nothing(self, path: str) -> bool:
        """True for a path with one reading only, which no route has: most are, and it is quickly seen."""
        if not _SIMPLE.fullmatch(path):
            return False
        reading = tuple(path[1:].lower().split("/"))
        if reading in self._exact or reading in self._aliases or reading[-1] == "index":
            return False
        return not any(pattern.takes_path(reading) for pattern in self._wild)

    def _look_up(self, path: str, query: str) -> list[_Target]:
        """Find what a target may match, itself and what its query may name; nothing for what matches nothing."""
        target, is_front = self._target(path) if len(path) > _MAX_KEPT else self._kept_target(path)
        targets = [target] if target else []
        if query and is_front:
            inner = {value for name, value in _pairs(query) if name.lower() in _PATH_PARAMETERS}
            if len(inner) >= _MAX_TARGETS:
                return [_UNREADABLE]
            for value in inner:
                targets += self._look_up(value, "")
        return targets

    def _target(self, path: str) -> tuple[_Target | None, bool]:
        """Look a path up: what it may match, if anything, and whether it may be a front controller's."""
        if _SIMPLE.fullmatch(path):
            reading = tuple(path[1:].lower().split("/"))
            plain, shortened = {reading}, _without_ending(reading)
        elif (readings := _readings(path)) is not None:
            plain, shortened = readings
        else:
            return _UNREADABLE, False
        hits = {self._matches(reading, self._aliases.get(reading, ())) for reading in plain}
        hits |= {self._matches(reading) for reading in shortened}
        hits.discard(())
        is_front = any(not reading or any(map(_SCRIPT.search, reading)) for reading in plain | shortened)
        if not hits:
            return None, is_front
        literal = path if _LITERAL.fullmatch(path) else ""
        return _Target(literal, self._matches(_fold(path)) if literal else (), hits), is_front

    def _matches(self, reading: Reading, aliased: Iterable[_Pattern] = ()) -> tuple[_Pattern, ...]:
        found = [*self._exact.get(reading, ()), *aliased]
        found += [pattern for pattern in self._wild if pattern.takes_path(reading)]
        return tuple(sorted(found, key=lambda pattern: pattern.index)) if len(found) > 1 else tuple(found)

    # Deciding…

    def _decide(self, targets: Iterable[_Target], methods: Collection[str]) -> Route | None:
        if not self._guards:
            methods = [method for method in methods if method != _EVERY]
        elif _EVERY in methods:
            methods = self._methods | (frozenset(methods) - {_EVERY})
        firsts: dict[int, Route] = {}
        for target in targets:
            for method in methods:
                named = _first(target.named, method)
                if named is not None and named.literal and named.literal == target.literal:
                    firsts[named.index] = named.route
                    continue
                if target.hits is None:
                    return CLOSED if self._guards else None
                for hits in target.hits:
                    first = _first(hits, method)
                    if first is not None:
                        firsts[first.index] = first.route
        guarding = [index for index, route in firsts.items() if route.action != "pass"]
        if not guarding:
            return firsts[min(firsts)] if firsts else None
        chosen = firsts[min(guarding, key=lambda index: (*_strictness(firsts[index]), index))]
        return chosen if all(_covers(chosen, firsts[index]) for index in guarding) else CLOSED


_ANOTHER: Final = re.compile(rb"method|ur[il]")


def may_name_another(fields: Fields) -> bool:
    """True when some field may name another method or target; without one, the answer depends on no field but a POST's.

    Twice quicker than looking at each name; what slips in by chance is looked at closely.
    """
    return _ANOTHER.search(b"\n".join([name for name, _ in fields]).lower()) is not None


def other_targets(fields: Fields) -> list[str]:
    """Read the targets that some backends put in the place of the request's own.

    X-Original-URL and X-Rewrite-URL: Symfony, Zend, IIS URL Rewrite; the others: what front proxies tell backends.
    """
    return [_octets(value.strip()) for name, value in fields if alike(name) in _TARGET_FIELDS]


_TARGET_FIELDS: Final = frozenset(
    {
        b"x-original-url",
        b"x-original-uri",
        b"x-rewrite-url",
        b"x-rewrite-uri",
        b"x-override-url",
        b"x-forwarded-uri",
        b"x-forwarded-url",
    }
)


def _first(patterns: Iterable[_Pattern], method: str) -> _Pattern | None:
    for pattern in patterns:
        if pattern.takes_method(method):
            return pattern
    return None


def _strictness(route: Route) -> tuple[bool, int]:
    return route.mode != "enforce", _STRICTEST_FIRST.index(route.action)


def _covers(chosen: Route, other: Route) -> bool:
    """True when nothing that `other` would keep from upstream gets there by way of `chosen`."""
    if chosen is other or chosen.action == "send" or (chosen.action == "deny" and chosen.mode == "enforce"):
        return True  # the latter two never reach upstream
    if other.action == "send":
        return False
    if other.mode == "observe":
        return True
    if other.captcha not in {"", chosen.captcha} or not set(other.limits) <= set(chosen.limits):
        return False
    asked = (other.to, other.code, other.channel)
    return other.action != "verify" or (chosen.action == "verify" and asked == (chosen.to, chosen.code, chosen.channel))


def _compile(index: int, route: Route) -> _Pattern:
    method, _, path = route.match.partition(" ")
    subtree = path.endswith("/*")
    path = path[:-2] if subtree else path
    segments: list[str | None] = []
    for segment in path.split("/"):
        segments += [None] if _NAME.fullmatch(segment) else _fold(_decoded(_octets(segment)))
    literal = path if not subtree and None not in segments and _LITERAL.fullmatch(path) else ""
    return _Pattern(index, route, method.upper(), tuple(segments), subtree, literal)


# All readings of a path…
#
# A spelling is a text of octets (one character each, Latin-1), so that what is no UTF-8 survives until the end.


def _octets(text: bytes | str) -> str:
    if isinstance(text, bytes):
        return text.decode("latin-1")
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _readings(path: str) -> tuple[set[Reading], set[Reading]] | None:
    """Read a path in every way: whole, and cut short (script or PATH_INFO only, no index, no format suffix).

    None when that would take too long.
    """
    spellings = _spellings(path)
    if spellings is None:
        return None
    plain = {_fold(spelling) for spelling in spellings}
    shortened: set[Reading] = set()
    for reading in plain:
        scripts = [at for at, segment in enumerate(reading, 1) if _SCRIPT.search(segment)]
        if len(scripts) > _MAX_SCRIPTS:
            return None
        parts = {reading, *(reading[:at] for at in scripts), *(reading[at:] for at in scripts)}
        shortened |= parts
        for part in parts:
            shortened |= _without_ending(part)
    return plain, shortened - plain


def _without_ending(reading: Reading) -> set[Reading]:
    """Drop what may be left off at the end: an index, a format suffix."""
    if not reading:
        return set()
    if _INDEX.fullmatch(reading[-1]):
        return {reading[:-1]}
    bare = _FORMAT.sub("", reading[-1])
    return {(*reading[:-1], bare)} if bare != reading[-1] else set()


def _spellings(path: str) -> set[str] | None:
    """Take every step that some backend takes, in every order, until nothing new comes. None: out of bounds."""
    seen = {path}
    todo = [path]
    spent = len(path)
    while todo:
        for spelling in _steps(todo.pop()):
            if spelling not in seen:
                spent += len(spelling)
                if spent > _MAX_OCTETS or len(seen) >= _MAX_SPELLINGS:
                    return None
                seen.add(spelling)
                todo.append(spelling)
    return seen


_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY: Final = re.compile(r"/{2,}[^/]*")
_DOTS: Final = re.compile(r"(?:^|/)\.\.?(?:/|$)")
_PARAMETERS: Final = re.compile(r";[^/]*")
# Where a C string ends, where a line does (`$` in a regular expression), where a decoded target is parsed again.
_END: Final = re.compile(r"[\0\r\n?#]")
_CONTROLS: Final = re.compile(r"[\0-\x1f\x7f]+")
# NTFS: `file::$DATA`, `dir:$I30:$INDEX_ALLOCATION`.
_STREAM: Final = re.compile(r":[:$][^/]*")
_PADDED: Final = re.compile(r"[\0- .](?:/|$)|(?:^|/)[\0- ]")
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
        yield _decoded(path)
        yield _decoded(path, but=("/", "\\"))  # split first, decode then
    if not path.isascii():
        yield _OVERLONG.sub(_shortest, path)  # RFC 3629 section 10 forbids it, some decoders do it
        yield _compatible(path)
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


_ESCAPE: Final = re.compile(r"%(?:u([0-9A-Fa-f]{4})|([0-9A-Fa-f]{2}))", re.IGNORECASE)


def _decoded(text: str, but: Collection[str] = ()) -> str:
    """Percent-decode once (RFC 3986 section 2.1, and the %uXXXX of IIS), what is malformed left as it is."""

    def octets(found: re.Match[str]) -> str:
        wide, narrow = found.groups()
        char = chr(int(narrow, 16)) if narrow else chr(int(wide, 16)).encode("utf-8", "surrogatepass").decode("latin-1")
        return found[0] if char in but else char

    return _ESCAPE.sub(octets, text)


def _shortest(found: re.Match[str]) -> str:
    """Read an overlong form as the character that it stands for."""
    lead, *rest = map(ord, found[0])
    value = lead & (0x1F if len(rest) == 1 else 0x0F if len(rest) == 2 else 0x07)
    for octet in rest:
        value = value << 6 | octet & 0x3F
    return chr(value).encode("utf-8").decode("latin-1")


# What Windows' best fit makes a slash of, and Unicode's compatibility forms do not: division, fraction, set minus.
_BEST_FIT: Final = {0x2215: "/", 0x2044: "/", 0x2216: "\\"}


def _compatible(path: str) -> str:
    """Read full-width and other compatibility characters as the plain ones, and the invisible ones as nothing."""
    text = path.encode("latin-1").decode("utf-8", "surrogateescape").translate(_BEST_FIT)
    text = unicodedata.normalize("NFKC", text)
    text = text.translate({ord(char): None for char in set(text) if unicodedata.category(char) == "Cf"})
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


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
    bare = segment.strip(" \t\r\n\v\f\0")
    return bare if bare in {".", ".."} else bare.rstrip(". \t\r\n\v\f\0")


def _fold(path: str) -> Reading:
    """Split a spelling into segments, without their case."""
    if path.isascii():
        return tuple(segment for segment in path.lower().split("/") if segment)
    text = path.encode("latin-1").decode("utf-8", "surrogateescape")
    # Dotless and dotted i have their own upper and lower case; the dot that is left over goes.
    text = unicodedata.normalize("NFC", text).upper().casefold().replace("\u0307", "")
    return tuple(segment for segment in text.split("/") if segment)


# Front controllers that take the path from the query: ThinkPHP, Yii, Drupal, Phalcon, OpenCart, CakePHP.
_PATH_PARAMETERS: Final = frozenset({"s", "r", "q", "_url", "route", "url"})


# The methods that a request may be read to have…

# Symfony, Laravel, Rack, Express, Spring, ASP.NET Core and the Google APIs, with every separator made `_`.
_OVERRIDES: Final = frozenset(
    {
        "http_method",
        "http_method_override",
        "method_override",
        "x_http_method",
        "x_http_method_override",
        "x_method",
        "x_method_override",
    }
)


def _is_override(name: str) -> bool:
    bare = re.sub(r"[^a-z0-9]+", "_", name.partition("\0")[0].lower()).rstrip("_")
    return bare == "_method" or bare.lstrip("_") in _OVERRIDES


def _named(value: str) -> set[str]:
    """The methods that an override's value names; every method if that is not plain to see."""
    words = re.split(r"[\s,]+", value.strip().upper())
    if words == [""]:
        return set()
    return set(words) if all(re.fullmatch("[A-Z]+", word) for word in words) else {_EVERY}


def _field_methods(fields: Fields) -> set[str]:
    methods: set[str] = set()
    for name, value in fields:
        if b"method" in name.lower() and _is_override(name.decode("latin-1")):
            methods |= _named(value.decode("latin-1"))
    return methods


def _pairs(form: str) -> Iterator[tuple[str, str]]:
    """Read a form leniently, split at `&` and at `;`, whichever the backend takes."""
    for pair in {*form.split("&"), *re.split("[&;]", form)}:
        name, _, value = pair.replace("+", " ").partition("=")
        yield _decoded(name), _decoded(value)


def _form_methods(form: str) -> set[str]:
    if "method" not in _decoded(form).lower():
        return set()
    return {method for name, value in _pairs(form) if _is_override(name) for method in _named(value)}


def _is_coded(fields: Fields) -> bool:
    return any(value.strip().lower() not in {b"", b"identity"} for value in values(fields, b"content-encoding"))


_CHARSET: Final = re.compile(r"charset[\s\"'*=]*([^\s\"';,]*)")
_PART: Final = re.compile(r"name\*|=\?|(?<![a-z0-9])_method|method.override|http.method")


def _body_methods(body: bytes, content_type: str) -> set[str]:
    """The methods that a body names, whatever its type says: the backend may not look at that either."""
    kind = content_type.lower()
    charsets = set(_CHARSET.findall(kind))
    if charsets - {"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1"} or body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return {_EVERY}  # it may say anything
    text = body.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    if "multipart" in kind or text.lstrip().startswith("--"):
        return {_EVERY} if _PART.search(text.lower()) else set()
    methods = _form_methods(text)
    if "json" in kind or text.lstrip().startswith("{"):
        methods |= _json_methods(text)
    return methods


def _json_methods(text: str) -> set[str]:
    """The methods that the top level of a JSON document names: Laravel and Express read them there, too."""
    if "method" not in text.lower() and "\\u" not in text:
        return set()
    try:
        members = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return {_EVERY}  # a laxer parser may read it
    if not text.lstrip().startswith("{"):
        return set()
    return {method for name, value in members if _is_override(name) for method in _json_named(value)}


def _json_named(value: Any) -> set[str]:
    if value is None:
        return set()
    return _named(value) if isinstance(value, str) else {_EVERY}
