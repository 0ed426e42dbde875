"""What of a request may name another method, or another target? Pure.

The law for targets: a field of the client whose value is a path is one more reading of the target (X-Original-URL of
Symfony and IIS, x-invoke-path of Next.js), and one more mount point, to be taken off the target's front (SCRIPT_NAME
of gunicorn, Daphne-Root-Path) and to be put before it. No list says which fields these are, as each server has its
own. A value is a path if it begins with a slash, however that is written, or is a URL with a path; and whatever the
value of a field is whose name says that it is a path (Symfony puts a missing slash in front). A parameter is one if a
front controller may take it for the path that it serves (`rest_route` of WordPress, `s` of ThinkPHP).

Such a request is refused only if a guarded route matches one of these readings. What no server takes for its target
passes whatever it holds: the page that the client comes from (Referer, Origin, HX-Current-URL), what it is and takes
(User-Agent, Accept), and signatures, tokens and hashes, one of 64 of which begins with a slash, for it is Base64. And
in a query the addresses that a log-in sends its client to afterwards, but for the names that a front controller is
known to read.

The law for methods: an override is read wherever some backend reads one, in fields, query and form, under every
spelling of its name; one that cannot be read to the end is every method. Content is looked at whatever its type says,
but for the types that are listed here, which no backend reads as a form.
"""

import json
import re
import string
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from sidecar.errors import Refusal
from sidecar.readings import decoded, octets
from sidecar.spelling import ByName, Fields, Message, alike, values

EVERY: Final = "*"  # as a method: all of them

# Fields…

# Names of fields whose value is a path even without a slash in front, or a method.
_TELLING: Final = re.compile(rb"method|ur[il](?![a-z])|path|script.?name|prefix|mount")
# A line whose value begins as a path does: with a slash, or what is one once it is decoded; or a URL.
_PATH: Final = rb"[\t ]*+(?:[/\\%\x80-\xff]|[A-Za-z][A-Za-z0-9+.-]*+:[/\\%])"
_PATH_LINE: Final = re.compile(rb"[^:]*+:" + _PATH)
_PATH_VALUE: Final = re.compile(_PATH)
# Names of fields whose value no server takes for a target: where the client comes from, what it is, takes and sends;
# and what is Base64.
_NO_TARGETS: Final = frozenset(
    b"referer referrer origin hx-current-url user-agent accept accept-charset accept-encoding accept-language"
    b" content-length".split()
)
_BASE64: Final = re.compile(rb"sign|token|key|hash|hmac|sha|digest|nonce|auth|cookie|cert|secret")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://[^/?#]*)?(?P<path>[^?#]*)", re.DOTALL)
# A slash, a full-width or an overlong one, behind whatever some server takes for a space.
_SLASH: Final = re.compile(
    r"[\0- \x80-\xff]*(?:[/\\]|\xef\xbc[\x8f\xbc]|\xef\xb9\xa8|\xe2\x88[\x95\x96]|\xe2\x81\x84"
    r"|\xc0\xaf|\xc1\x9c|\xe0\x80\xaf|\xe0\x81\x9c|\xf0\x80\x80\xaf|\xf0\x80\x81\x9c)"
)


def is_telling(name: bytes) -> bool:
    """Return true for a field whose name says that it may name another method or target."""
    return _TELLING.search(name.lower()) is not None


def is_no_target(name: bytes) -> bool:
    """Return true for a field whose value no server takes for a target, by the last word of its name. Linear."""
    bare = alike(name).replace(b"md5", b"hash")
    if bare in _NO_TARGETS or bare.endswith((b"-referer", b"-referrer")):
        return True
    if bare[-1:].isdigit():  # X-Signature-256
        bare = bare.rstrip(string.digits.encode()).removesuffix(b"-")
    return _BASE64.search(bare, len(bare.rstrip(string.ascii_lowercase.encode()))) is not None


# Of a field's line, whether its value may be a path. Quick: what slips in by chance is looked at closely.
may_hold_path: Final = _PATH_LINE.match


def may_name_another(fields: Fields) -> bool:
    """Return true when some field may name another method or target; else none but a POST's type decides. Quick."""
    if not isinstance(fields, Message):
        return _may_name_another(fields)
    if fields.names_another is None:
        fields.names_another = _may_name_another(fields)
    return fields.names_another


def _may_name_another(fields: Fields) -> bool:
    for name, value in fields:
        by_value = _BY_VALUE[name]
        if by_value is None or (by_value and _PATH_VALUE.match(value)):
            return True
    return False


def _by_value(name: bytes) -> bool | None:
    """Say whether a field names another target where its value is a path; None where it may whatever its value is."""
    return None if is_telling(name) else not is_no_target(name)


_BY_VALUE: Final = ByName(_by_value)


def field_targets(fields: Fields) -> list[str]:
    """Read the targets that some backend may put in the place of the request's own, or take for its mount point."""
    found: dict[str, None] = {}
    for name, value in fields:
        is_named = is_telling(name)
        if not (is_named or _PATH_VALUE.match(value)):
            continue
        is_method = b"method" in name.lower() and not _PATH_VALUE.match(value)
        if not value.strip() or is_method or is_no_target(name):
            continue
        whole = octets(value.strip())
        for text in {whole, *map(str.strip, whole.split(","))}:  # several fields of a name are one list
            if text and (is_named or _is_path(text)):
                found[text] = None
    return list(found)


def _is_path(text: str) -> bool:
    """Return true for a text that begins with a slash, however that is written, and for a URL with a path."""
    for _ in range(4):
        url = _URL.match(text)
        if _SLASH.match(text) or (url is not None and url["path"].strip("/\\")):
            return True
        text, before = decoded(text), text
        if text == before:
            return False
    return True


def field_methods(fields: Fields) -> set[str]:
    """Read the methods that fields name."""
    methods: set[str] = set()
    for name, value in fields:
        if b"method" in name.lower() and _is_override(name.decode("latin-1")):
            methods |= _named(value.decode("latin-1"))
    return methods


# Names of methods…

# Symfony, Laravel, Rack, Express, Spring, ASP.NET Core, the Google APIs, Plack and Catalyst, with every separator
# made `_`.
_OVERRIDES: Final = frozenset(
    {
        "http_method",
        "httpmethod",
        "http_method_override",
        "method_override",
        "x_http_method",
        "x_http_method_override",
        "x_method",
        "x_method_override",
        "x_tunneled_method",
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
    return set(words) if all(re.fullmatch("[A-Z]+", word) for word in words) else {EVERY}


# Queries and forms…

# More pairs than anybody sends, twice what PHP (max_input_vars) and Express (parameterLimit) read.
_MAX_PAIRS: Final = 2000
# Parameters that front controllers take the path from, without a slash in front as well: ThinkPHP, Yii, Drupal,
# Phalcon, OpenCart, CakePHP, WHMCS, vBulletin, Kohana, and PATH_INFO by its own name.
_PATH_PARAMETERS: Final = frozenset(
    {"s", "r", "q", "url", "route", "rp", "routestring", "kohana_uri", "path_info", "pathinfo"}
)
# Those whose path stands under a name in a pretty address: `rest_route=/x` of WordPress is `/wp-json/x`, `title=x` of
# MediaWiki is `/wiki/x`.
UNDER: Final = {"rest_route": "wp-json", "title": "wiki"}
# Parameters whose values are the parts of a path, in this order: ThinkPHP, CodeIgniter, Zend and their likes.
_PARTS: Final = (
    ("m", "c", "a"),
    ("d", "c", "m"),
    ("g", "m", "a"),
    ("module", "controller", "action"),
    ("app", "mod", "act"),
)
_PART_NAMES: Final = frozenset(name for names in _PARTS for name in names)
# Where a client is sent afterwards, by the names that are in use: a path of this site, and not what is served now.
_NEXT: Final = re.compile(r"(?:\w*_)?(?:next|return|redir|back|continue|dest|goto|from|ref|callback|success|cancel)\w*")
_MAX_NAME: Final = 64
# No possessive group here: the regular expressions of CPython 3.11.2, Debian's, then miss what they should match.
_MAY_NAME_PATH: Final = re.compile(
    rf"(?:^|[&;])(?:[^=&;%+.\[ ]*[%+.\[ ][^=&;]*|_?(?:{'|'.join(sorted(_PATH_PARAMETERS | UNDER.keys()))}))=",
    re.IGNORECASE,
)


def may_name_path(query: str) -> bool:
    """Return true when a query may hold a path for a front controller that hides behind any target. Quick."""
    return _MAY_NAME_PATH.search(query) is not None


def form_methods(form: str) -> set[str]:
    """Read the methods that a query or form names."""
    if "method" not in decoded(form).lower():
        return set()
    pairs = _pairs(form, lambda name: "%" in name or "method" in name.lower())
    if pairs is None:
        return {EVERY}
    return {method for name, value in pairs if _is_override(name) for method in _named(value)}


def query_targets(query: str, *, is_front: bool) -> list[tuple[str, str]] | None:
    """Read the paths that a query names, each with its parameter ("" for none). None: there are too many pairs.

    `is_front`: the target may be a front controller's own, so every parameter whose value is a path is read, and every
    name that is one. Elsewhere those alone that a rewritten address hands on: `/any/page?s=/x` is `/index.php?s=/x`.
    """
    pairs = _pairs(query, lambda name: is_front or "%" in name or _parameter(name) in NAMING)
    if pairs is None:
        return None
    found = _named_paths(pairs)
    for raw_name, value in pairs if is_front else ():
        name = _parameter(raw_name)
        if _SLASH.match(value) and not (len(name) <= _MAX_NAME and _NEXT.fullmatch(name)):
            found.append((name, value))
        elif raw_name and not value:  # CodeIgniter: `/?/controller/method`; XenForo: `/?register/`
            found.append(("", raw_name))
    if is_front:
        parts = {name: value for raw_name, value in pairs if value and (name := _parameter(raw_name)) in _PART_NAMES}
        for names in _PARTS if len(parts) > 1 else ():
            if len(there := [parts[name] for name in names if name in parts]) > 1:
                found.append(("", "/" + "/".join(there)))
    return list(dict.fromkeys(found))


_PAGE: Final = re.compile(r"https?://", re.IGNORECASE)
# The parameters that front controllers are known to take the path from.
NAMING: Final = _PATH_PARAMETERS | UNDER.keys()


def _named_paths(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the values of the parameters that front controllers are known to take the path from.

    None takes the URL of a page, which `url` of analytics and of links for sharing is.
    """
    found = [(_parameter(name), value) for name, value in pairs if value.strip("/\\ ") and not _PAGE.match(value)]
    return [(name, value) for name, value in dict.fromkeys(found) if name in NAMING]


def _parameter(name: str) -> str:
    """Fold a parameter's name as PHP does, and its case; "" for an array's, as no path is one."""
    name = name.partition("\0")[0].strip().lower()
    bracket = name.find("[")
    if bracket >= 0 and "]" in name[bracket:]:
        return ""
    return re.sub(r"[\s.\[]", "_", name).lstrip("_")


def _pairs(form: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, str]] | None:
    """Read a form leniently, split at `&` and at `;`, whichever the backend takes. None: there are too many pairs."""
    if form.count("&") + form.count(";") > _MAX_PAIRS:
        return None
    found = []
    for pair in dict.fromkeys([*form.split("&"), *(re.split("[&;]", form) if ";" in form else ())]):
        name, _, value = pair.replace("+", " ").partition("=")
        if is_wanted(name):
            found.append((decoded(name), decoded(value)))
    return found


# Bodies…

_CHARSET: Final = re.compile(r"charset[\s\"'*=]*([^\s\"';,]*)")
_PLAIN_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1"})
# Types that no backend reads as a form: files, sent as they are. No parameter of theirs may say otherwise.
_NO_FORM: Final = re.compile(
    r"(?:(?:image|audio|video|font|model)/[a-z0-9.+-]+|application/(?:octet-stream|pdf|zip|gzip|zstd|x-tar|x-gzip|"
    r"x-7z-compressed|x-bzip2?|x-xz|wasm|epub\+zip|vnd\.(?:ms|openxmlformats|oasis)[a-z0-9.+-]*|x-protobuf|protobuf|grpc"
    r"(?:\+proto)?))[\t ]*(?:;(?!.*(?:form|multipart|json|text)).*)?"
)


def is_no_form(fields: Fields) -> bool:
    """Return true when a body is of a type that no backend reads as a form: files, sent as they are.

    The type stands under its own name: to most backends `Content.Type` says nothing, and Rack reads a body of which
    nobody says the type as a form.
    """
    kinds = values(fields, b"content-type")
    is_named = any(name.lower() == b"content-type" for name, _ in fields)
    return is_named and all(_NO_FORM.fullmatch(octets(kind).strip(" \t").lower()) for kind in kinds)


def is_form(fields: Fields) -> bool:
    """Return true when PHP would read a body as a form."""
    kinds = b",".join(values(fields, b"content-type")).lower()
    return b"form" in kinds or b"multipart" in kinds


def is_coded(fields: Fields) -> bool:
    """Return true when a body is compressed, so that nobody here sees what it holds."""
    return any(value.strip().lower() not in {b"", b"identity"} for value in values(fields, b"content-encoding"))


def body_methods(body: bytes, content_type: str) -> set[str]:
    """Read the methods that a body names, whatever its type says: the backend may not look at that either."""
    kind = content_type.lower()
    if set(_CHARSET.findall(kind)) - _PLAIN_CHARSETS or body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return {EVERY}  # it may say anything
    text = octets(body.removeprefix(b"\xef\xbb\xbf"))
    methods = form_methods(text)
    if "json" in kind or text.lstrip().startswith("{"):
        methods |= _json_methods(text)
    if "multipart" in kind or text.lstrip().startswith("--"):
        for name, value in _parts(text, content_type):
            if name is None:
                return {EVERY}
            if "method" in name.lower() and _is_override(name):
                methods |= _named(value)
    return methods


def body_targets(body: bytes, content_type: str) -> list[tuple[str, str]] | None:
    """Read the paths that a form names in its body, each with its parameter. None: that cannot be told."""
    text = octets(body)
    pairs: list[tuple[str, str]] = []
    if "multipart" not in content_type.lower():
        found = _pairs(text, lambda name: "%" in name or _parameter(name) in NAMING)
        return None if found is None else _named_paths(found)
    for name, value in _parts(text, content_type):
        if name is None:
            return None
        pairs.append((name, value))
    return _named_paths(pairs)


def _json_methods(text: str) -> set[str]:
    """The methods that the top level of a JSON document names: Laravel and Express read them there, too."""
    if "method" not in text.lower() and "\\u" not in text:
        return set()
    try:
        members = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return {EVERY}  # a laxer parser may read it
    if not text.lstrip().startswith("{"):
        return set()
    return {
        method
        for name, value in members
        if "method" in name.lower() and _is_override(name)
        for method in _json_named(value)
    }


def _json_named(value: Any) -> set[str]:
    if value is None:
        return set()
    return _named(value) if isinstance(value, str) else {EVERY}


# Multipart…
#
# RFC 7578. Where a part begins, parsers agree on for a plain boundary, and on little else of a part's head: so whatever
# may be a name there is one, in whatever field, in quotes of either kind or none, folded or not.

_BOUNDARY: Final = re.compile(
    r"multipart/[a-z0-9.+-]+[\t ]*;[\t ]*(?:charset=\"?utf-?8\"?[\t ]*;[\t ]*)?boundary=(?P<quote>\"?)"
    r"(?P<boundary>[a-z0-9'()+_./:=?-]+)(?P=quote)[\t ]*(?:;[\t ]*charset=\"?utf-?8\"?[\t ]*)?;?",
    re.IGNORECASE,
)
_MAX_PARTS: Final = 1000
_EMPTY_LINE: Final = re.compile(r"\r?\n\r?\n")
# How the names of parts are told in RFC 8187 and RFC 2231, and a part that holds parts.
_HIDDEN_NAME: Final = re.compile(r"(?<![a-z0-9])name[ \t\r\n]*\*|multipart/", re.IGNORECASE)
# Rack takes Content-ID for the name of a part that has none. What stands in quotes is looked at once more.
_PART_NAME: Final = re.compile(
    r"(?:(?<![a-z0-9])name[ \t\r\n]*=[ \t\r\n]*|content-id[ \t]*:[ \t\r\n<]*)"
    r"(?=\"(?P<double>(?:[^\"\\]|\\.){0,200})|'(?P<single>(?:[^'\\]|\\.){0,200})|(?P<bare>[^;\r\n>]{0,200}))",
    re.IGNORECASE | re.DOTALL,
)
_MAX_PART_NAME: Final = 200
_MAX_BOUNDARY: Final = 200  # RFC 2046 section 5.1.1 has 70


def _parts(text: str, content_type: str) -> Iterator[tuple[str | None, str]]:
    """Read the names and the value of each part; a name of None where some parser may read any name.

    Where no type names a boundary, two hyphens are one: a backend may go by the body's first line.
    """
    found = _BOUNDARY.fullmatch(content_type.strip(" \t"))
    if found is None and "boundary" in content_type.lower():
        yield None, ""  # several boundaries, or one that parsers read differently
        return
    parts = text.split("--" + (found["boundary"] if found is not None else ""))
    names = 0
    for part in parts if len(parts) <= _MAX_PARTS else ():
        head, _, value = part.partition("\r\n\r\n")
        end = _EMPTY_LINE.search(part)  # PHP and others end lines with LF alone, too
        values_of_it = {value.strip(), part[end.end() :].strip() if end else ""}
        if _HIDDEN_NAME.search(head):
            break
        if "transfer-encoding" in head.lower():
            values_of_it = {"?"}  # encoded, perhaps
        for spellings in _names(head):
            names += 1
            if spellings is None or names > _MAX_PARTS:
                yield None, ""
                return
            for each in spellings:
                yield from ((each, value) for value in values_of_it)
    else:
        if len(parts) <= _MAX_PARTS:
            return
    yield None, ""


def _names(head: str) -> Iterator[set[str] | None]:
    """Read whatever may be a part's name in its head, each in all its spellings; None for one that hides."""
    for name in _PART_NAME.finditer(head):
        spelled = name["double"] or name["single"] or name["bare"] or ""
        # "=?" begins an encoded word of RFC 2047, as Java and .NET write them.
        if "=?" in spelled or len(spelled) >= _MAX_PART_NAME:
            yield None
            return
        # Escaped in either way; and PHP ends a name with its line, others an odd one at the next parameter.
        plain = spelled.replace("\\", "")
        line = re.split("[\r\n]", plain, maxsplit=1)[0]
        yield {spelled, plain, decoded(spelled), line, plain.partition(";")[0]}


class Upload:
    """A multipart form that is too large to be read before it passes. It streams, as long as no part has such a name.

    What it gives out holds no part of which the name is not known: a head is held back until it is whole. Held are
    MAX_PART_HEAD octets at most. Parts begin wherever the boundary stands, as in `_parts`.
    """

    MAX_PART_HEAD: Final = 4 << 10

    def __init__(self, boundary: str, names: frozenset[str], refusal: Refusal) -> None:
        self._mark = f"--{boundary}".encode("latin-1")
        self._names = names
        self._refusal = refusal
        self._held = b""
        self._parts = 0

    def take(self, octets: bytes, *, is_end: bool) -> bytes:
        """Return what may pass of the form now. Raises the refusal where nothing more may."""
        octets = self._held + octets
        at = octets.find(self._mark)
        while at >= 0:
            behind = at + len(self._mark)
            end, following = octets.find(b"\r\n\r\n", behind), octets.find(self._mark, behind)
            ends = [each for each in (end, following, len(octets) if is_end else -1) if each >= 0]
            if not ends:
                break
            self._parts += 1
            if self._parts > _MAX_PARTS or not self._is_harmless(octets[behind : min(ends)]):
                raise self._refusal
            at = octets.find(self._mark, behind)
        if at < 0 and not is_end:  # the beginning of a boundary may have come
            at = max(0, len(octets) - len(self._mark) + 1)
        self._held = octets[at:] if not is_end else b""
        if len(self._held) > len(self._mark) + self.MAX_PART_HEAD + 4:
            raise self._refusal
        return octets[: len(octets) - len(self._held)]

    def _is_harmless(self, head: bytes) -> bool:
        text = octets(head)
        if len(text) > self.MAX_PART_HEAD or _HIDDEN_NAME.search(text):
            return False
        return all(
            spellings is not None and self._names.isdisjoint(map(_parameter, spellings)) for spellings in _names(text)
        )


def upload(fields: Fields, names: frozenset[str], refusal: Refusal) -> Upload | None:
    """Read an upload's type. None if it is no multipart form, or one whose parts parsers may find elsewhere."""
    types = values(fields, b"content-type")
    found = _BOUNDARY.fullmatch(octets(types[0]).strip(" \t")) if len(types) == 1 else None
    if found is None or len(found["boundary"]) > _MAX_BOUNDARY:
        return None
    return Upload(found["boundary"], names, refusal)
