"""What is asked? A route's selectors read their texts from a bounded body and a request's head. Pure.

The law: never two readings. What one backend would read as another recipient than the next one does (a repeated name,
a name alike by its words, an odd charset, a query beside a body) is refused as `malformed_request`, with what would be
right. It never guesses, never mends, and never says in a refusal what it read.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

from sidecar import json_text
from sidecar.config.model import Route
from sidecar.errors import Refusal
from sidecar.overrides import field_targets, may_name_another
from sidecar.spelling import BROKEN_ESCAPE, Fields, Words, folded, overlap, words
from sidecar.spelling import values as values_of

# Deeper than any form, and far from the recursion limits of common parsers (Jackson's is 1000, .NET's 64).
MAX_DEPTH: Final = 64
# RFC 8259 section 6: beyond it, parsers that keep numbers as IEEE 754 doubles read another number.
_MAX_INTEGER: Final = 2**53 - 1

# Beyond it PHP (max_input_vars) and Express (parameterLimit) drop fields, and others do not. So many names are compared
# at most: of a form, a query, all cookies, or the objects that a selector goes through.
MAX_PAIRS: Final = 1000

# GeeTest's widget gives five, Tencent's up to seven.
_MAX_PARTS: Final = 16

_JSON: Final = re.compile(r"application/(?:[a-z0-9!#$&^_.-]+\+)?json")
_FORM: Final = "application/x-www-form-urlencoded"
# RFC 9110 section 8.3.1, with no parameter but charset; `utf8` is what many libraries write.
_CONTENT_TYPE: Final = re.compile(
    r"(?P<type>[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+)[ \t]*(?:;[ \t]*charset=(?P<quote>\"?)utf-?8(?P=quote)[ \t]*)?;?"
)
# A longer type is read anew each time.
_MAX_KEPT: Final = 64
# Objects whose names were compared are remembered by their names: so many, and none with more names than a form has, or
# more characters in them.
_KEPT: Final = 1024
_MOST_NAMES: Final = 32
_MAX_NAMES: Final = 256
# What a selector may select: a text, a whole number (a bool is none), or nothing.
_SCALARS: Final = frozenset({str, int, type(None)})
_CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")


@dataclass(slots=True)  # not frozen: it is made for every request
class Selected:
    """What a route's selectors name, as raw text: nothing here is parsed or believed yet. Empty texts are None."""

    to: str | None
    captcha_token: str | None
    code: str | int | None
    country: str | None = None

    def __repr__(self) -> str:  # all of it is personal or secret
        return "Selected(…)"


def read(route: Route, request: "Request") -> Selected:
    """Read what a route's selectors name.

    `to` is there whenever the route has a selector for it. `code` and the captcha token are None where none was sent.
    Raises Refusal(malformed_request).
    """
    request.refuse_coding()
    to = code = token = country = None
    if route.to:
        to = request.select(route.to)
        if not (to and to.strip()):
            raise _malformed("no_recipient", f"Expected a recipient as {_told(_selector(route.to))}.")
        request.refuse_elsewhere(route.to)
    if route.captcha and route.captcha_token:
        token = request.token(route.captcha_token)
    if route.code and route.action == "verify":
        code = request.typed(route.code)
        request.refuse_elsewhere(route.code)
    if route.country:
        country = request.select(route.country)
        request.refuse_elsewhere(route.country)
    return Selected(to, token or None, None if code == "" else code, country or None)


def surely_lacks(selector: str | None, body: bytes) -> bool:
    """True for what looks like JSON or a form, and surely has no value where a selector selects: seen at a glance.

    The name that it selects by is not in the body, and nothing in it is escaped.
    """
    source, name = _sought(selector or "")
    if body.find(name) >= 0:  # `in` would take the name for a number first, and fail with an error of its own
        return False
    if source == "json":
        return body[:1] == b"{" and body[-1:] == b"}" and b"\\" not in body
    return source == "form" and b"=" in body and b"%" not in body


@functools.lru_cache(256)
def _sought(selector: str) -> tuple[str, bytes]:
    """Say where a selector selects, and by which name; "" for where a glance does not tell."""
    source, _, name = selector.partition(":")
    if source == "json":
        return source, name.rpartition(".")[2].encode()
    return ("", b"") if " " in name else (source, name.encode())  # a form may have a space as `+`


def wish(route: Route, request: "Request") -> str:
    """Read what stands where the route says that the language does; "" for nothing, and for what cannot be read."""
    if route.locale:
        with suppress(Refusal):  # a language is a wish: nothing is refused for it
            return request.select(route.locale) or ""
    return ""


def read_json_object(body: bytes, fields: Fields) -> dict[str, Any]:
    """Read a body that must be one JSON object: RFC 8259 in UTF-8, and RFC 7493's rules on names and strings.

    Raises Refusal(malformed_request) for every document that two common parsers would read differently.
    """
    _refuse_coding(fields)
    return _json_document(body, fields)


def form_pairs(raw_target: bytes | str, fields: Fields, body: bytes) -> tuple[tuple[str, str], ...]:
    """Read every field of a form, in order, for showing it again: of the body, or of the query if there is no body.

    Nothing for a request that is no form. Raises Refusal(malformed_request).
    """
    if body or values_of(fields, b"content-type"):
        return tuple(_decoded_pairs(body)) if _content_type(fields) == _FORM else ()
    return tuple(_decoded_pairs(_query(raw_target)))


# Selecting…


class Request:
    """One request under the selectors of one route: what is parsed once stays, and so does why it cannot be."""

    def __init__(self, raw_target: bytes | str, fields: Fields, body: bytes) -> None:
        self._target = raw_target
        self._fields = fields
        self._body = body
        self._parsed: dict[str, Any] | Refusal | None = None
        self._in_queries: set[Words] | None = None

    def refuse_coding(self) -> None:
        """Refuse a body that is compressed: nobody here sees what it holds."""
        if self._body:
            _refuse_coding(self._fields)

    def select(self, selector: str) -> str | None:
        """Read the one value that a selector names, without control characters; None if it is not there."""
        found = _selector(selector)
        return _text(self._value(found), found)

    def token(self, selector: str) -> str | None:
        """Read the captcha token that a selector names, without control characters; None if it is not there.

        Some widgets give an object of texts instead of one (GeeTest's getValidate): in JSON it may stand as it is, and
        is read as its text, `{"name":"value",…}` in the order of the names.
        """
        found = _selector(selector)
        value = self._value(found)
        return token_of_object(value) if isinstance(value, dict) else _text(value, found)

    def typed(self, selector: str) -> str | int | None:
        """Read it as it is: a text pasted with its line end, or JSON's number."""
        found = _selector(selector)
        return _scalar(self._value(found), found)

    def _value(self, selector: "_Selector") -> Any:
        match selector.source:
            case "json":
                return _in_json(self._document, selector)
            case "form":
                return self._form.value(selector.name)
            case "query":
                return self._query.value(selector.name)
            case _:
                return _from_fields(self._fields, selector.name)

    def refuse_elsewhere(self, selector: str) -> None:
        """Refuse a name that backends find in two places, and merge.

        Query and body: Rails, Express, ASP, PHP's $_REQUEST. A form or query and cookies: PHP's $_REQUEST as it is
        without a php.ini.
        """
        found = _selector(selector)
        elsewhere: set[Words] = set()
        if found.source in {"json", "form"}:
            elsewhere = self._words_of_queries
        if found.source in {"query", "form"}:
            elsewhere = elsewhere | self._words_of_cookies
        if found.source == "query" and self._body:
            elsewhere = elsewhere | self._words_of_body
        if elsewhere and any(overlap(found.words, other) for other in elsewhere):
            raise _malformed("two_places", f"Expected {_told(found)}, and the name nowhere else.")

    # What is there, read once…

    @property
    def _document(self) -> dict[str, Any]:
        parsed = self._parsed
        if parsed is None:
            try:
                parsed = _json_document(self._body, self._fields)  # `refuse_coding` looks at its coding
            except Refusal as refusal:
                parsed = refusal
            self._parsed = parsed
        if isinstance(parsed, Refusal):
            raise parsed
        return parsed

    @cached_property
    def _form(self) -> "_Form":
        if _content_type(self._fields) != _FORM:
            raise _malformed("content_type", f"Expected Content-Type: {_FORM}.")
        return _Form(self._body)

    @cached_property
    def _query(self) -> "_Form":
        if may_name_another(self._fields) and any("?" in target for target in field_targets(self._fields)):
            raise _malformed("other_target", "Expected no field that names another target (X-Original-URL).")
        return _Form(_query(self._target))

    @property
    def _words_of_queries(self) -> set[Words]:
        if self._in_queries is None:  # no `cached_property`, which has a lock in Python 3.11
            queries = [_octets(self._target).partition(b"?")[2]]
            if may_name_another(self._fields):
                queries += [target.encode("latin-1").partition(b"?")[2] for target in field_targets(self._fields)]
            joined = b"&".join(queries)  # at once: a head has room for tens of thousands
            self._in_queries = _all_words(joined) if joined else set()
        return self._in_queries

    @cached_property
    def _words_of_cookies(self) -> set[Words]:
        return _all_words(b"&".join(values_of(self._fields, b"cookie")))

    @cached_property
    def _words_of_body(self) -> set[Words]:
        kind = _content_type(self._fields)
        if kind == _FORM:
            return _all_words(self._body)
        if _JSON.fullmatch(kind):
            return {words(name) for name in _few(_json_object(self._body))}
        raise _malformed("content_type", f"Expected no body, a form ({_FORM}) or JSON (application/json).")


def _text(value: Any, selector: "_Selector") -> str | None:
    """Take a value for a text, which must have no control characters, or for nothing."""
    if type(value) is not str:
        number = _scalar(value, selector)
        return None if number is None else str(number)
    if not value.isprintable() and _CONTROL.search(value):
        raise _malformed("control_character", f"Expected {_told(selector)} without control characters.")
    return value


def _told(selector: "_Selector") -> str:
    places = {"json": "in the JSON object", "form": "in the form", "query": "in the query"}
    return f"`{selector.name}` once {places.get(selector.source, 'as a field')}"


def _malformed(reason: str, detail: str) -> Refusal:
    return Refusal("malformed_request", reason, detail)


# The head…


def _content_type(fields: Fields) -> str:
    """The media type, in lower case, if it is said once and in UTF-8."""
    values = values_of(fields, b"content-type")
    found = None
    if len(values) == 1:
        found = (_media_type if len(values[0]) <= _MAX_KEPT else _media_type.__wrapped__)(values[0])
    if found is None:
        if len(values) == 1 and values[0].strip(b" \t").lower().startswith(b"multipart/"):
            raise _malformed(
                "multipart", f"Expected no multipart form: it is not read in this version; send it as {_FORM}."
            )
        raise _malformed("content_type", "Expected one Content-Type field, with no parameter but charset=utf-8.")
    return found


@functools.lru_cache(256)
def _media_type(value: bytes) -> str | None:
    """Read a media type; None for one that is not read here, and for multipart ones."""
    found = _CONTENT_TYPE.fullmatch(value.strip(b" \t").lower().decode("latin-1"))
    return None if found is None or found["type"].startswith("multipart/") else found["type"]


def _refuse_coding(fields: Fields) -> None:
    for value in values_of(fields, b"content-encoding"):
        if value.strip().lower() not in {b"", b"identity"}:
            raise _malformed("content_encoding", "Expected a body without Content-Encoding.")


def _from_fields(fields: Fields, name: str) -> str | None:
    values = values_of(fields, name)
    if not values:
        return None
    if len(values) > 1:
        raise _malformed("repeated_field", f"Expected the field {name} once.")
    value = values[0].strip(b" \t")
    if not re.fullmatch(rb"[\x20-\x7e]*", value):
        raise _malformed("field_value", f"Expected the field {name} in visible ASCII.")
    return value.decode("ascii")


# JSON…


def _json_document(body: bytes, fields: Fields) -> dict[str, Any]:
    kind = _content_type(fields)
    if kind != "application/json" and not _JSON.fullmatch(kind):
        raise _malformed("content_type", "Expected Content-Type: application/json.")
    return _json_object(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # A byte order mark is refused by the parser; other encodings of Unicode are no UTF-8, or hold NUL.
        document = json_text.document(body.decode("utf-8"), _JSON_READER)
        if not isinstance(document, dict):
            raise _malformed("json_top_level", "Expected a JSON object at the top.")
        # UTF-8 has no surrogates; what is deep has many brackets.
        if body.find(b"\\u") >= 0 or body.count(b"[") + body.count(b"{") >= MAX_DEPTH:
            _walk(document)
    except Refusal:
        raise
    except (ValueError, RecursionError):
        raise _no_json() from None
    return document


def _no_json() -> Refusal:
    return _malformed("json", "Expected one JSON object in UTF-8 without byte order mark (RFC 8259).")


def _integer(text: str) -> int | float:
    """Keep as a float what parsers read differently: it may stand where nobody looks, and is no text for a selector."""
    if text == "-0" or len(text) > len(str(-_MAX_INTEGER)) or abs(int(text)) > _MAX_INTEGER:
        return float(text)
    return int(text)


def _no_constant(_: str) -> Any:
    raise _malformed("json_number", "Expected numbers as RFC 8259 has them: no NaN, no Infinity.")


class _Members(dict[str, Any]):
    """An object's members. `names`: theirs, where they are few and short enough to remember how they compare.

    Where they are not, `words` are those of each name, which is taken apart once, however many selectors ask.
    """

    __slots__ = ("names", "words")
    names: tuple[str, ...] | None
    words: "_KnownWords"


def _members(pairs: list[tuple[str, Any]]) -> _Members:
    """Refuse names that some parser takes for the same: Go and ASP.NET ignore case, C ends a name at NUL."""
    members = _Members(pairs)
    names = tuple(members)
    if len(names) <= _MOST_NAMES and len("".join(names)) <= _MAX_NAMES:
        members.names, differ = names, _differ(names)
    else:
        members.names, members.words, differ = None, _KnownWords(), _differ.__wrapped__(names)
    if len(names) != len(pairs) or not differ:
        raise _malformed("json_duplicate", "Expected each name once in a JSON object, in one case only.")
    return members


@functools.lru_cache(_KEPT)
def _differ(names: tuple[str, ...]) -> bool:
    """True where no two names are one without case. Raises Refusal(malformed_request) where one holds NUL."""
    differ = len({folded(name) for name in names}) == len(names)
    if differ and any("\0" in name for name in names):
        raise _malformed("json_name", "Expected names without NUL in a JSON object.")
    return differ


_JSON_READER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant, parse_int=_integer)


def _walk(document: dict[str, Any]) -> None:
    """Refuse what is nested too deeply, and surrogates that are no pair (RFC 7493 section 2.1)."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            below += [*container, *container.values()] if isinstance(container, dict) else container
        for text in below:
            if isinstance(text, str):
                text.encode("utf-8")  # a UnicodeEncodeError is a ValueError
        level = [value for value in below if isinstance(value, dict | list)]
        if not level:
            return
    raise _malformed("json_depth", f"Expected JSON at most {MAX_DEPTH} levels deep.")


@dataclass(frozen=True, slots=True)
class _Selector:
    """A selector of a route, taken apart: `ways` are the names to go down by, each with its words and the rest's."""

    source: str
    name: str
    words: Words
    ways: tuple[tuple[str, Words], ...]


@functools.lru_cache(256)  # the configuration has few
def _selector(text: str) -> _Selector:
    source, _, name = text.partition(":")
    names = name.split(".")
    # Laravel and lodash look for a member `user.phone` first, Rails takes `[phone]` for `phone`.
    ways = tuple((one, words(".".join(names[depth:]))) for depth, one in enumerate(names))
    return _Selector(source, name, words(name), ways)


_wanted = functools.lru_cache(256)(words)  # of names that the configuration has


class _KnownWords(dict[str, Words]):
    """The words of each name that was asked for."""

    def __missing__(self, name: str) -> Words:
        self[name] = words(name)
        return self[name]


def token_of_object(value: dict[str, Any]) -> str:
    """Write a captcha token of several parts as one text: a JSON object of texts, ordered by name.

    Raises Refusal(malformed_request) for parts that are neither texts nor whole numbers.
    """
    parts = {name: part for name, part in value.items() if part is not None}
    if len(parts) > _MAX_PARTS or any(type(part) not in {str, int} for part in parts.values()):
        raise _malformed("captcha_token", "Expected a captcha token as a text, or as an object of a few texts.")
    return json.dumps({name: str(part) for name, part in sorted(parts.items())}, separators=(",", ":"))


def _scalar(value: Any, selector: _Selector) -> str | int | None:
    """Take a value for a text or a number, or for nothing."""
    if type(value) in _SCALARS:
        return cast("str | int | None", value)
    raise _malformed("json_value", f"Expected `{selector.name}` as a string, or as a whole number up to 2**53 - 1.")


def _in_json(document: dict[str, Any], selector: _Selector) -> Any:
    """Go down by a selector's names; None for what is not there, or is null."""
    value: Any = document
    for name, wanted in selector.ways:
        if not isinstance(value, _Members):
            raise _malformed("json_value", f"Expected `{selector.name}` as nested objects.")
        if name in value:
            if value.names is not None:
                is_alone = _is_alone(value.names, name, wanted)
            else:
                is_alone = not any(other != name and overlap(wanted, value.words[other]) for other in _few(value))
            if not is_alone:
                said = f"Expected `{selector.name}` as nested objects only, and no other name alike."
                raise _malformed("two_places", said)
        value = value.get(name)
        if value is None:
            return None
    return value


@functools.lru_cache(_KEPT)
def _is_alone(names: tuple[str, ...], name: str, wanted: Words) -> bool:
    """True where no other name of an object is alike to the one that is selected."""
    return not any(other != name and overlap(wanted, words(other)) for other in names)


def _few(members: dict[str, Any]) -> Iterable[str]:
    if len(members) > MAX_PAIRS:
        raise _malformed("json_size", f"Expected {MAX_PAIRS} members at most in an object that is read here.")
    return members


# Forms and queries…


def _octets(target: bytes | str) -> bytes:
    if isinstance(target, bytes):
        return target
    try:
        return target.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return target.encode("utf-8", "surrogatepass")


def _query(raw_target: bytes | str) -> bytes:
    target = _octets(raw_target)
    if b"#" in target:
        raise _malformed("fragment", "Expected a request target without fragment.")
    return target.partition(b"?")[2]


class _Form:
    """A form or a query, decoded once: its pairs split at `&`, and those of one that is split at `;`, too."""

    def __init__(self, form: bytes) -> None:
        self._pairs = _read_pairs(form)
        self._split = _read_pairs(form.replace(b";", b"&")) if b";" in form else self._pairs

    def value(self, name: str) -> str | None:
        """Read the one value of a name, if no other spelling of the name is there."""
        wanted = _wanted(name)
        spelled = [(other, value) for other, theirs, value in self._pairs if overlap(wanted, theirs)]
        if spelled != [(other, value) for other, theirs, value in self._split if overlap(wanted, theirs)]:
            raise _malformed("semicolon", f"Expected `{name}` in a form separated by `&`, with `;` as %3B.")
        if not spelled:
            return None
        if len(spelled) > 1 or spelled[0][0] != name:
            raise _malformed("form_duplicate", f"Expected `{name}` once, spelled like this.")
        return spelled[0][1]


def _read_pairs(form: bytes) -> list[tuple[str, Words, str]]:
    return [(name, words(name), value) for name, value in _decoded_pairs(form)]


_WIDE_ESCAPE: Final = re.compile(rb"%[uU]([0-9A-Fa-f]{4})")


def _split(form: bytes, separator: bytes) -> list[bytes]:
    pairs = [pair for pair in re.split(separator, form) if pair]
    if len(pairs) > MAX_PAIRS:
        raise _malformed("form_size", f"Expected {MAX_PAIRS} fields in a form at most.")
    return pairs


def _decoded_pairs(form: bytes) -> Iterator[tuple[str, str]]:
    """Decode application/x-www-form-urlencoded (WHATWG URL section 5.1), strictly."""
    for pair in _split(form, rb"&"):
        name, _, value = pair.partition(b"=")
        yield _decoded(name), _decoded(value)


def _decoded(text: bytes) -> str:
    if BROKEN_ESCAPE.search(text):
        raise _malformed("percent_encoding", "Expected `%` only before two hexadecimal digits.")
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("form_encoding", "Expected a form in percent-encoded UTF-8.") from None


def _all_words(form: bytes) -> set[Words]:
    """The words of every name that some parser may find in a form, decoded as leniently as any."""
    return {words(_lenient(pair.partition(b"=")[0])) for pair in {*_split(form, rb"&"), *_split(form, rb"[&;]")}}


def _lenient(name: bytes) -> str:
    wide = _WIDE_ESCAPE.sub(lambda m: chr(int(m[1], 16)).encode("utf-8", "replace"), name.replace(b"+", b" "))
    return unquote_to_bytes(wide).decode("utf-8", "replace")
