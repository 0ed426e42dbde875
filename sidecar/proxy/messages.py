"""Where does a message end, and what does its head say? The one parser of HTTP/1.1, for both ends. Pure.

The law (RFC 9112): what can be read in two ways is refused, so nobody behind us can read it otherwise. A request is
read strictly; an answer as section 2.2, 5.1 and 5.2 let a proxy read an old server's: bare LF, a space before a colon
and folded lines are mended, never passed on. No one else here looks for the end of a message.

Heads come whole, as octets; contents come in pieces, through `feed(octets) -> (piece, rest)`: `piece` is content,
`rest` None while more must come, else what stands behind the message's end. `piece` may be empty either way.
Refusal(malformed_request) says what is wrong with a message; who asked upstream makes `upstream_unavailable` of it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sidecar.errors import Refusal
from sidecar.spelling import ByName, Message

RawFields = Sequence[tuple[bytes, bytes]]
Version = tuple[int, int]
HTTP_1_0: Final = (1, 0)
HTTP_1_1: Final = (1, 1)

CRLF: Final = b"\r\n"
END: Final = b"\r\n\r\n"
# A client's head where the configuration says nothing else: Go's megabyte is a bot's playground, and the 8 KiB of one
# line, nginx's and Node's, is less than the cookies of some honest browsers.
MAX_HEAD: Final = 64 << 10
MAX_FIELDS: Final = 128
# Upstream's: larger than what the common servers write, as a backend may set many cookies.
MAX_ANSWER_LINE: Final = 64 << 10
MAX_ANSWER_HEAD: Final = 256 << 10
# A chunk's size with its extension, all extensions of a message, its trailer section: nobody needs more.
MAX_CHUNK_LINE: Final = 4 << 10
MAX_EXTENSIONS: Final = 16 << 10
MAX_TRAILERS: Final = 16 << 10
# What fits every reader's integer; a longer one could wrap around in another's.
MAX_LENGTH: Final = (1 << 63) - 1
_MAX_DIGITS: Final = len(str(MAX_LENGTH))

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_IS_TOKEN: Final = re.compile(_TOKEN).fullmatch
_VERSIONS: Final = {b"HTTP/1.1": HTTP_1_1, b"HTTP/1.0": HTTP_1_0}
_IS_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
# The octets that a request's target may hold, and a field's value.
_TARGET: Final = bytes({*range(0x21, 0x100)} - {0x7F})
_VALUE: Final = b"\t " + _TARGET
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_ANSWER_LINES: Final = re.compile(rb"(?:" + _TOKEN + rb":[^\0\r\n]*\r\n)*\r\n")
_ANSWER_FIELD: Final = re.compile(rb"(" + _TOKEN + rb")[ \t]*:([^\0\r\n]*)")
_ANSWER_END: Final = re.compile(rb"\n\r?\n")
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_FOLDED_START: Final = re.compile(rb"[^\n]*\n[ \t]")
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\0")
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
# RFC 3986 section 3.2: no userinfo (RFC 9110 section 4.2.4), nothing that ends an authority.
_AUTHORITY: Final = re.compile(
    rb"(?:\[(?:[0-9A-Fa-f:.]+|[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"
    rb"|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)")
# Protocols whose Upgrade is an offer that its sender can do without: RFC 7540 section 3.2 (RFC 9113 has it no more),
# RFC 2817. Java's client makes the first with every first request.
_OFFERS: Final = re.compile(rb"(?i:h2c|HTTP/\d(?:\.\d)?|TLS/\d(?:\.\d)?)")


class Fields:
    """A message's fields, read once: `lines` as they came, without their CR LF, and the `names` in them.

    `said`: by the names of the fields that a proxy itself goes by, in lower case, the values of each one that is there.
    `length` and `chunked` frame its content: neither means that a request has none. `options` is what Connection names,
    in lower case. `upgrade` is the Upgrade field's value, b"" for none.
    `binds_connection`: a credential or a challenge is of a scheme that authenticates the connection, and with it every
    later request on it (RFC 4559 section 6, MS-NTHT section 1).
    """

    __slots__ = ("_raw", "binds_connection", "chunked", "length", "lines", "names", "options", "said", "upgrade")

    def __init__(self, lines: list[bytes]) -> None:
        """Raises Refusal for a line that is no field, and for framing that is none. RFC 9112 section 6.3."""
        self.lines = lines
        self.names: list[bytes] = []
        self.said: dict[bytes, list[bytes]] = {}
        self.length: int | None = None
        self.chunked = False
        self.options = _NO_OPTIONS
        self.upgrade = b""
        self.binds_connection = False
        self._raw: Message | None = None
        names, said = self.names, self.said
        for line in lines:
            name, colon, value = line.partition(b":")
            kind = _KINDS[name]
            if not colon:
                raise _malformed("field", _NO_FIELD)
            names.append(name)
            if not kind:
                continue
            if kind in said:
                said[kind].append(value.strip(b" \t"))
            else:
                said[kind] = [value.strip(b" \t")]
        if not _FRAMING.isdisjoint(said):
            self._frame(said)

    @property
    def raw(self) -> Message:
        """Every field, as a name and a value without the space around it."""
        if self._raw is None:
            values = [line.partition(b":")[2].strip(b" \t") for line in self.lines]
            self._raw = Message(zip(self.names, values, strict=True))
        return self._raw

    def _frame(self, found: dict[bytes, list[bytes]]) -> None:
        """Read what the fields say of the message itself: the values of each that says something."""
        lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
        if lengths:
            if len(lengths) > 1 or codings:
                raise _malformed("content_length", _NO_LENGTH)
            self.length = _LENGTHS[lengths[0]]
        if codings:
            if b",".join(codings).lower() != b"chunked":
                # Another coding would have to be kept or undone; without its name the content is garbage.
                raise _malformed("transfer_encoding", "The one transfer coding known here is chunked.")
            self.chunked = True
        if b"connection" in found:
            self.options = _OPTIONS[b",".join(found[b"connection"])]
        if b"upgrade" in found:
            self.upgrade = b",".join(found[b"upgrade"]).lower()
        if not _AUTHENTICATION.isdisjoint(found):
            said = b",".join([value for kind in _AUTHENTICATION for value in found.get(kind, ())])
            self.binds_connection = _BINDING.search(said) is not None


_AUTHENTICATION: Final = frozenset(
    {b"authorization", b"proxy-authorization", b"www-authenticate", b"proxy-authenticate"}
)
# What says how the message is framed, and what becomes of its connection.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"upgrade"}) | _AUTHENTICATION
# What else is gone by: whom it is for, who asks, and under which id; and how the content is compressed.
_SAID: Final = _FRAMING | {
    *(b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id", b"content-encoding"),
}
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
# As a credential's scheme, or in a list of challenges. Inside a quoted realm it costs a pooled connection, and no more.
_BINDING: Final = re.compile(rb"(?:^|[,\s])(?:ntlm|negotiate|kerberos)(?:[,\s]|$)", re.IGNORECASE)


_NO_FIELD: Final = "A field is a name, a colon and a value on one line, without control octets."


def _said(name: bytes) -> bytes:
    if not _IS_TOKEN(name):
        raise _malformed("field", _NO_FIELD)
    lower = name.lower()
    return lower if lower in _SAID else b""


# The one of these that a name is, in whatever case; b"" for any other.
_KINDS: Final = ByName(_said)
_NO_LENGTH: Final = "Send one Content-Length, or Transfer-Encoding: chunked."


def _read_length(octets: bytes) -> int:
    if not octets.isdigit() or len(octets) > _MAX_DIGITS:
        raise _malformed("content_length", _NO_LENGTH)
    length = int(octets)
    if length > MAX_LENGTH:
        raise _malformed("content_length", "This Content-Length is too large.")
    return length


# What a Content-Length says: most contents are short, so that the same lengths come again and again.
_LENGTHS: Final = ByName(_read_length)


def _read_options(connection: bytes) -> frozenset[bytes]:
    """Read what Connection names. Raises Refusal where it names more than a message can have."""
    if connection.count(b",") >= MAX_FIELDS:
        raise Refusal("head_too_large", "options", f"Name {MAX_FIELDS} fields at most in Connection.")
    return frozenset(option.strip(b" \t").lower() for option in connection.split(b","))


_OPTIONS: Final = ByName(_read_options)
# A method as text; "" for what is no token.
_METHODS: Final = ByName(lambda octets: octets.decode() if _IS_TOKEN(octets) else "")
_NO_LINE: Final = "A request begins with a method, a target and HTTP/1.1, one space between."
# Whether this is the value of a Host field.
_HOSTS: Final = ByName(lambda host: _AUTHORITY.fullmatch(host) is not None)


@dataclass(slots=True, eq=False)  # not frozen: it is made for every request, in half the time
class Request:
    """A request's head.

    `target` is as it came; `origin` is what upstream gets: origin-form, or `*`. `authority` is the host of an
    absolute-form target, which replaces the Host field (RFC 9112 section 3.2.2). `start` is upstream's start-line.
    """

    method: str
    target: bytes
    origin: bytes
    authority: bytes | None
    version: Version
    start: bytes
    fields: Fields
    is_websocket: bool = False

    @property
    def keep_alive(self) -> bool:
        """True when the client's connection may take another request. RFC 9112 section 9.3."""
        return _persists(self.version, self.fields)

    @property
    def has_expectation(self) -> bool:
        return any(name.lower() == b"expect" for name in self.fields.names)

    @property
    def expects_continue(self) -> bool:
        """True when the client sends no content before it is invited to. RFC 9110 section 10.1.1."""
        return self.version >= HTTP_1_1 and any(
            name.lower() == b"expect" and value.lower() == b"100-continue" for name, value in self.fields.raw
        )

    @property
    def has_content(self) -> bool:
        return self.fields.chunked or bool(self.fields.length)


@dataclass(slots=True, eq=False)  # not frozen: it is made for every answer
class Answer:
    """An answer's head."""

    version: Version
    status: int
    reason: bytes
    fields: Fields

    @property
    def keep_alive(self) -> bool:
        """True when upstream's connection may take another request. RFC 9112 section 9.3."""
        return _persists(self.version, self.fields)


# A request's head…


def check_beginning(octets: bytes, known: int = 0, max_head: int = MAX_HEAD) -> None:
    """Look at a head that is not whole yet. Raises Refusal when it never can be. RFC 9112 section 2.2.

    The first `known` octets were looked at before. `max_head` is in octets, for the request line and fields together.
    """
    if _BARE.search(octets, max(0, known - 1)):
        raise _malformed("line_end", "A line ends with CR LF, and nothing else is a CR, LF or NUL.")
    if len(octets) > max_head + 1:  # the octet more is the CR that a read may end with
        raise too_large(max_head)


def without_empty_lines(octets: bytes) -> bytes:
    """Drop what may stand before a request. RFC 9112 section 2.2."""
    found = _EMPTY_LINES.match(octets)
    return octets[found.end() :] if found is not None else octets


def read_fields(block: bytes) -> Fields:
    """Read a request's field lines, each with its CR LF. Raises Refusal. RFC 9112 section 5 and 6."""
    lines = _field_lines(block)
    if len(lines) > MAX_FIELDS:
        _pairs(lines)
        raise Refusal("head_too_large", "fields", f"Send {MAX_FIELDS} fields at most.")
    fields = Fields(lines)
    hosts = fields.said.get(b"host")
    if hosts and (len(hosts) > 1 or not _HOSTS[hosts[0]]):
        raise _malformed("host", "Send one Host field with a host and perhaps a port.")
    return fields


def read_request(line: bytes, fields: Fields) -> Request:
    """Read a request's head. Raises Refusal where two readers might differ, and for TRACE. RFC 9112 section 3."""
    method, target, origin, authority, version, start = _STARTS[line]
    if b"host" not in fields.said and version == HTTP_1_1:
        raise _malformed("host", "Send one Host field with a host and perhaps a port.")
    if fields.chunked and version == HTTP_1_0:
        # RFC 9112 section 6.1: its framing is faulty, even if a length could be found.
        raise _malformed("chunked_1_0", "HTTP/1.0 has no transfer codings.")
    is_websocket = bool(fields.upgrade) and version == HTTP_1_1 and _upgrades(method, fields)
    return Request(method, target, origin, authority, version, start, fields, is_websocket)


def _read_start(line: bytes) -> tuple[str, bytes, bytes, bytes | None, Version, bytes]:
    """Read a request's start-line, as Request has it: method, target, origin, authority, version, start."""
    try:
        octets, target, protocol = line.split(b" ")
    except ValueError:
        raise _malformed("request_line", _NO_LINE) from None
    method, version = _METHODS[octets], _VERSIONS.get(protocol)
    if not method or not target or target.translate(None, _TARGET) or not (version or _IS_VERSION(protocol)):
        raise _malformed("request_line", _NO_LINE)
    if version is None:
        raise _malformed("version", "Speak HTTP/1.1.")
    if method == "CONNECT":
        raise _malformed("connect", "This is no tunnel.")
    if method == "TRACE":
        # RFC 9110 section 9.3.8: it would answer with the fields that upstream alone should see.
        raise Refusal("route_denied", "trace", "TRACE is not served.")
    if target.startswith(b"/") and b"#" not in target:
        origin, authority = target, None
    else:
        origin, authority = _origin_form(method, target)
    start = line + CRLF if origin is target and version is HTTP_1_1 else b"%b %b HTTP/1.1\r\n" % (octets, origin)
    return method, target, origin, authority, version, start


# What start-lines come to: short ones are asked for again and again.
_STARTS: Final = ByName(_read_start)


# What a client reads, and in which language: a line each, of a head that is otherwise unreadable.
_WISHES: Final = re.compile(rb"\r\n((?i:Accept|Accept-Language)):[ \t]*+([!-~][ -~]{0,1999})(?=\r\n)")


def wishes(data: bytes) -> Fields:
    """Return what can be read of how a client wants its refusal, whose head as a whole cannot be read."""
    return Fields([b"%b: %b" % found for found in _WISHES.findall(data)])


def _origin_form(method: str, target: bytes) -> tuple[bytes, bytes | None]:
    """Return the target as an origin server reads it, and the authority if it was absolute. RFC 9112 section 3.2."""
    if b"#" in target:
        raise _malformed("target", "A request target has no fragment.")
    if target == b"*" and method == "OPTIONS":
        return target, None
    found = _ABSOLUTE_FORM.fullmatch(target)
    if found is None or not found[1] or _AUTHORITY.fullmatch(found[1]) is None:
        raise _malformed("target_form", "Ask for a path such as /index.html.")
    if method == "OPTIONS" and not found[2]:
        return b"*", found[1]
    return found[2] if found[2].startswith(b"/") else b"/" + found[2], found[1]


def _upgrades(method: str, fields: Fields) -> bool:
    """Return true for a handshake of RFC 6455 section 4.1. Raises Refusal for an Upgrade that cannot be served.

    False is for one that is none (Connection does not name it), or an offer that may be left (RFC 9110 section 7.8).
    """
    if b"upgrade" not in fields.options:
        return False
    protocols = [protocol.strip(b" \t") for protocol in fields.upgrade.split(b",")]
    if protocols == [b"websocket"] and method == "GET" and not fields.length and not fields.chunked:
        return True
    if all(_OFFERS.fullmatch(protocol) for protocol in protocols):
        return False
    raise _malformed("upgrade", "A connection is upgraded to websocket only, by a GET without content.")


def _field_lines(block: bytes) -> list[bytes]:
    """Split field lines, each with its CR LF. Raises Refusal for any other control octet."""
    lines = block.split(CRLF)
    if lines.pop() or block.translate(None, _VALUE) != CRLF * len(lines):
        raise _malformed("field", _NO_FIELD)
    return lines


def _pairs(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the name and the value of each line. Raises Refusal for one that is no field."""
    parted = [line.partition(b":") for line in lines]
    if not all(colon and _IS_TOKEN(name) for name, colon, _ in parted):
        raise _malformed("field", _NO_FIELD)
    return [(name, value.strip(b" \t")) for name, _, value in parted]


# An answer's head…


def end_of_answer_head(octets: bytes) -> int:
    """Return where the octets behind an answer's head begin, 0 when it is not whole yet. Raises Refusal."""
    found = _ANSWER_END.search(octets, 0, MAX_ANSWER_HEAD)
    if found is not None:
        return found.end()
    if len(octets) >= MAX_ANSWER_HEAD:
        raise _malformed("head_too_large", "An answer's head is longer than any in life.")
    if not octets.startswith(b"HTTP/1."[: len(octets)]):
        raise _malformed("status_line", "An answer begins with HTTP/1.1.")
    return 0


def read_answer(head: bytes) -> Answer:
    """Read an answer's head, up to its empty line. Raises Refusal. RFC 9112 section 4."""
    line, _, block = head.partition(CRLF)
    if _ANSWER_LINES.fullmatch(block) is None:
        line, lines = _mended(head)
    else:
        lines = block[:-4].split(CRLF) if len(block) > 2 else []
    version, status, reason = _STATUSES[line]
    if len(block) > MAX_ANSWER_LINE and max(map(len, lines)) > MAX_ANSWER_LINE:
        raise _malformed("head_too_large", "A line of an answer's head is longer than any in life.")
    return Answer(version, status, reason, Fields(lines))


def _read_status(line: bytes) -> tuple[Version, int, bytes]:
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise _malformed("status_line", "An answer begins with HTTP/1.1 and three digits.")
    return (1, int(found[1])), int(found[2]), found[3] or b""


# What a status line says. There are few.
_STATUSES: Final = ByName(_read_status)


def _mended(head: bytes) -> tuple[bytes, list[bytes]]:
    """Return the status line and the field lines of a head that only a lenient reader takes."""
    if _FOLDED_START.match(head):
        raise _malformed("status_line", "No field is folded onto the status line.")
    # RFC 9112 section 5.2: what was folded is one line with spaces, before it is passed on.
    line, *rest = _FOLD.sub(b" ", head).replace(CRLF, b"\n").rstrip(b"\n").split(b"\n")
    lines = []
    for one in rest:
        pair = _ANSWER_FIELD.fullmatch(one)
        if pair is None:
            raise _malformed("field", "A field is a name, a colon and a value.")
        lines.append(b"%b:%b" % pair.groups())
    return line, lines


# Contents…


class Sized:
    """Content of a known length. RFC 9112 section 6.2."""

    __slots__ = ("left",)
    trailers: RawFields = ()

    def __init__(self, length: int) -> None:
        self.left = length

    def feed(self, octets: bytes) -> tuple[bytes, bytes | None]:
        size = len(octets)
        if size < self.left:
            self.left -= size
            return octets, None
        if size == self.left:
            self.left = 0
            return octets, b""
        end, self.left = self.left, 0
        return octets[:end], octets[end:]


class UntilClose:
    """Content that ends with its connection: of answers only. RFC 9112 section 6.3, rule 8."""

    __slots__ = ()
    trailers: RawFields = ()

    def feed(self, octets: bytes) -> tuple[bytes, bytes | None]:
        return octets, None


@dataclass(slots=True)
class Chunked:
    """Content in chunks. Extensions end here; `trailers` are there at the end. RFC 9112 section 7.1."""

    trailers: RawFields = ()
    _state: str = "size"
    _left: int = 0
    _extensions: int = 0
    _tail: bytes = field(default=b"")
    _known: int = 0  # how much of the tail was looked at

    def feed(self, octets: bytes) -> tuple[bytes, bytes | None]:
        """Raises Refusal where the chunks break their own framing."""
        if self._tail:
            octets, self._tail = self._tail + octets, b""
        pieces: list[bytes] = []
        at = 0
        while True:
            if self._state == "data":
                piece = octets[at : at + self._left] if at or self._left < len(octets) else octets
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = "end"
            if self._state == "end":
                if octets[at : at + 2] != CRLF:
                    if len(octets) - at >= 2 or octets[at:] not in {b"", b"\r"}:
                        raise _malformed("chunk", "A chunk ends with CR LF.")
                    self._tail = octets[at:]
                    break
                at += 2
                self._state = "size"
            if self._state == "size":
                end = octets.find(CRLF, at, at + MAX_CHUNK_LINE)
                if end < 0:
                    self._keep(octets[at:], MAX_CHUNK_LINE)
                    break
                self._left = self._read_size(octets[at:end])
                at, self._known = end + 2, 0
                self._state = "data" if self._left else "trailers"
                continue
            # The last chunk has come, and the trailer section follows: perhaps no more than its empty line.
            if octets.startswith(CRLF, at):
                return b"".join(pieces), octets[at + 2 :]
            end = octets.find(END, at, at + MAX_TRAILERS)
            if end < 0:
                self._keep(octets[at:], MAX_TRAILERS)
                break
            self.trailers = _pairs(_field_lines(octets[at : end + 2]))
            if len(self.trailers) > MAX_FIELDS:
                raise _malformed("trailers", f"A trailer section has {MAX_FIELDS} fields at most.")
            return b"".join(pieces), octets[end + 4 :]
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), None

    def _read_size(self, line: bytes) -> int:
        found = _CHUNK_LINE.fullmatch(line)
        if found is None:
            raise _malformed("chunk_size", "A chunk begins with its size in hexadecimal digits.")
        self._extensions += len(found[2])
        size = int(found[1], 16)
        if size > MAX_LENGTH or self._extensions > MAX_EXTENSIONS:
            raise _malformed("chunk_size", "A chunk's size or the extensions are too large.")
        return size

    def _keep(self, octets: bytes, most: int) -> None:
        if len(octets) >= most or _BARE.search(octets, max(0, self._known - 1)):
            raise _malformed("chunk", "A chunk's line, or the trailer section, does not end.")
        self._tail, self._known = octets, len(octets)


class Upload(Protocol):
    """Who looks at content on its way."""

    def take(self, octets: bytes, *, is_end: bool) -> bytes:
        """Return what may pass of it now. Raises Refusal where nothing more may."""


class Watched:
    """Content of a known length that somebody looks at before it passes."""

    __slots__ = ("_content", "_upload")
    trailers: RawFields = ()

    def __init__(self, length: int, upload: Upload) -> None:
        self._content = Sized(length)
        self._upload = upload

    def feed(self, octets: bytes) -> tuple[bytes, bytes | None]:
        """Raises Refusal where it may not pass."""
        piece, behind = self._content.feed(octets)
        return self._upload.take(piece, is_end=behind is not None), behind


class Unreadable:
    """What comes behind something malformed: nobody can say what it is, or where it ends."""

    __slots__ = ()
    trailers: RawFields = ()

    def feed(self, _octets: bytes) -> tuple[bytes, bytes | None]:
        return b"", None


Content = Sized | Chunked | UntilClose | Watched | Unreadable


def _persists(version: Version, fields: Fields) -> bool:
    if b"close" in fields.options:
        return False
    return version == HTTP_1_1 or (b"keep-alive" in fields.options and not fields.chunked)


def _malformed(reason: str, detail: str) -> Refusal:
    return Refusal("malformed_request", reason, detail)


def too_large(max_head: int) -> Refusal:
    """Return the refusal of a head that is longer than `max_head` octets."""
    return Refusal(
        "head_too_large", "octets", f"Send {max_head} octets of request line and fields at most, cookies included."
    )
