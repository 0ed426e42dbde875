"""Fuzz the proxy path, coverage-guided: `make fuzz-proxy`. Sockets are replaced by lists of octets, nothing else is.

An input is six octets and what is read: which of `STORIES` it plays in, that story's mode, and two places where what
follows is cut into reads. What is held is said in each story. `read_requests` and `read_answer` are a strict reader of
RFC 9112 that shares nothing with the product's, so that the one is measured by the other.
"""

import asyncio
import logging
import os
import re
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import atheris
import structlog

from sidecar.config.model import Upstream
from sidecar.errors import Refusal

sys.path.append(str(Path(__file__).parents[1] / "tests"))
with atheris.instrument_imports(include=["sidecar.proxy"]):
    from proxied import Front, Passing

    from sidecar.proxy import forward, listener, messages
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.proxy_protocol import Source

CRLF = b"\r\n"
# Limits that short inputs reach. What waits may be as long as a head, or a long head would wait for ever.
messages.MAX_HEAD = HEAD = 511
listener.MAX_AHEAD = HEAD + 2
messages.MAX_CHUNK_LINE = CHUNK_LINE = 64
messages.MAX_EXTENSIONS = EXTENSIONS = 96
messages.MAX_TRAILERS = TRAILERS = 160
messages.MAX_FIELDS = 24
messages.MAX_LINE = TRAILERS + 20
messages.MAX_ANSWER_LINE = ANSWER_LINE = 256
messages.MAX_ANSWER_HEAD = 512

# The strict reader…

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])" % TOKEN)
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d) (%b)" % TEXT)
FIELD = re.compile(rb"(%b):[ \t]*(%b?)[ \t]*" % (TOKEN, TEXT))
ANSWER_FIELD = re.compile(rb"(%b):[ \t]*([^\r\n\0]*?)[ \t]*" % TOKEN)  # upstream's control octets pass
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(|[ \t]*;%b)" % TEXT)
# RFC 3986 section 3.2.
HOST = (
    rb"(?:\[(?:[0-9A-Fa-f:.]+|[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"
    rb"|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
ABSOLUTE = re.compile(rb"(?i:https?)://(?=[^/?])(%b)((?:[/?][^#]*)?)" % HOST)


class Cut(Exception):
    """More must come."""


class Bad(Exception):
    """Nothing that comes can make this a message."""


@dataclass
class Message:
    """What was read of one message. `end`: "whole", "cut" or "bad". `is_ours`: the sidecar may write a space more."""

    is_ours: bool = False

    start: tuple[bytes, ...] = ()
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    content: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    interims: int = 0
    end: str = "whole"

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]

    def options(self) -> list[bytes]:
        return [option.strip(b" \t").lower() for option in b",".join(self.all(b"connection")).split(b",")]

    def take_head(self, octets: bytes, line: re.Pattern[bytes], pattern: re.Pattern[bytes]) -> bytes:
        head, end, rest = octets.partition(CRLF + CRLF)
        if not end:
            raise Cut
        start, *lines = head.split(CRLF)
        found = line.fullmatch(start)
        self.start, self.fields = found.groups() if found else (), read_fields(lines, pattern)
        if not found:
            raise Bad("start line", start)
        return rest

    def framing(self) -> str | int | None:
        lengths, codings = self.all(b"content-length"), self.all(b"transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise Bad("framed twice")
        if codings and codings[0].lower() != b"chunked":
            raise Bad("transfer coding")
        if lengths and not re.fullmatch(rb"[0-9]+", lengths[0]):
            raise Bad("length")
        return "chunked" if codings else int(lengths[0]) if lengths else None

    def take_sized(self, octets: bytes, length: int) -> bytes:
        self.content = octets[:length]
        if len(octets) < length:
            raise Cut
        return octets[length:]

    def take_chunks(self, octets: bytes) -> bytes:
        """Take chunks within the product's limits."""
        extensions = 0
        while True:
            line, end, rest = octets.partition(CRLF)
            if len(line) + len(end) > CHUNK_LINE:
                raise Bad("chunk line")
            if not end:
                raise Cut
            found = CHUNK_SIZE.fullmatch(line)
            if not found or int(found[1], 16) >= 1 << 63:
                raise Bad("chunk size", line)
            extensions += len(found[2])
            if extensions > EXTENSIONS:
                raise Bad("extensions")
            size = int(found[1], 16)
            if not size:
                break
            self.content += rest[:size]
            if not CRLF.startswith(rest[size : size + 2]):
                raise Bad("chunk end")
            if len(rest) < size + 2:
                raise Cut
            octets = rest[size + 2 :]
        if rest.startswith(CRLF):
            return rest[2:]
        section, end, behind = rest.partition(CRLF + CRLF)
        if len(section) + len(end) > TRAILERS * (1 + self.is_ours):
            raise Bad("trailers")
        if not end:
            raise Cut
        self.trailers = read_fields(section.split(CRLF), FIELD)
        return behind


def read_fields(lines: list[bytes], pattern: re.Pattern[bytes]) -> list[tuple[bytes, bytes]]:
    found = [pattern.fullmatch(line) for line in lines]
    if not all(found):
        raise Bad("field")
    return [(each[1], each[2]) for each in found if each]


def read_requests(octets: bytes, *, skips: bool) -> list[Message]:
    """Read one end's octets; only the last request may be other than whole. `skips`: empty lines before a request."""
    found: list[Message] = []
    while True:
        while skips and octets.startswith(CRLF):
            octets = octets[2:]
        if not octets:
            return found
        message = Message(is_ours=not skips)
        found.append(message)
        try:
            octets = message.take_head(octets, REQUEST_LINE, FIELD)
            method, target, minor = message.start
            hosts, framing = message.all(b"host"), message.framing()
            if len(hosts) > 1 or (not hosts and minor == b"1") or not re.fullmatch(HOST, b"".join(hosts)):
                raise Bad("host")
            if not re.fullmatch(rb"/[^#]*", target) and not ABSOLUTE.fullmatch(target) and target != b"*":
                raise Bad("target")
            if target == b"*" and method != b"OPTIONS":
                raise Bad("target")
            if framing == "chunked":
                if minor == b"0":
                    raise Bad("chunked in 1.0")
                octets = message.take_chunks(octets)
            else:
                octets = message.take_sized(octets, framing or 0)
        except (Cut, Bad) as error:
            message.end = type(error).__name__.lower()
            return found
        if b"close" in message.options() or (minor == b"0" and b"keep-alive" not in message.options()):
            return found


def read_answer(octets: bytes, method: bytes, *, at_end: bool, is_ours: bool = True) -> tuple[Message, bytes]:
    """Read one answer, and its interim ones; return what follows. `at_end`: its connection ended in good order."""
    message = Message(is_ours)
    try:
        while True:
            octets = message.take_head(octets, STATUS_LINE, ANSWER_FIELD)
            status, framing = int(message.start[1]), message.framing()
            if status >= 200:
                break
            if framing is not None:  # RFC 9110 section 8.6, RFC 9112 section 6.1
                raise Bad("an interim answer has no content")
            message.interims += 1
        if status == 204 or status == 304 or method == b"HEAD":
            pass
        elif framing == "chunked":
            octets = message.take_chunks(octets)
        elif framing is not None:
            octets = message.take_sized(octets, framing)
        else:
            message.content, octets = octets, b""
            if not at_end:
                raise Cut
    except (Cut, Bad) as error:
        message.end = type(error).__name__.lower()
    return message, octets


# What stands for a socket…


class Line(asyncio.Transport):
    """Keeps what is written to it; hands over what is fed to it while it is read. `slow`: full for a while each time."""

    def __init__(self, protocol, *, slow=False, on_write=None):
        super().__init__()
        self.protocol, self.slow, self.on_write = protocol, slow, on_write
        self.octets, self.closed, self.reads, self.due, self.told = b"", False, True, deque(), 0
        self.full = False
        self.stuck = False
        protocol.connection_made(self)

    def feed(self, *pieces):
        self.due += pieces
        while self.due and self.reads and not self.closed:
            self.protocol.data_received(self.due.popleft())

    def write(self, data):
        if not self.closed:
            self.octets += data
            if self.slow and data and not self.full:
                self.full = True
                self.protocol.pause_writing()
                if not self.stuck:
                    LOOP.call_soon(self._resume)
            if self.on_write:
                LOOP.call_soon(self.on_write, self)

    def _resume(self):
        if self.full and not self.closed:
            self.full = False
            self.protocol.resume_writing()

    def lose(self, error=None):
        if not self.closed:
            self.closed = True
            LOOP.call_soon(self.protocol.connection_lost, error)

    close = abort = lose

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True
        LOOP.call_soon(self.feed)

    def is_closing(self):
        return self.closed

    def can_write_eof(self):
        return True

    def write_eof(self):
        pass

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name, default=None):
        return default

    def set_protocol(self, protocol):
        self.protocol = protocol


async def settled():
    """Wait until nobody has anything to do but to wait."""
    await asyncio.sleep(0)
    while LOOP._ready:
        await asyncio.sleep(0)


def cut(octets: bytes, *places: int) -> list[bytes]:
    ends = sorted({place % (len(octets) + 1) for place in places} - {0, len(octets)})
    return [octets[start:end] for start, end in zip([0, *ends], [*ends, len(octets)], strict=True)]


def forwarder(lines: list[Line], **options) -> forward.Forwarder:
    """Make a way to an upstream whose connections are `lines`."""
    made = forward.Forwarder(UPSTREAM, lambda seconds: None, "X-Verified-Identity")

    async def connect(factory):
        lines.append(Line(factory(), **options))
        return lines[-1], lines[-1].protocol

    made.pool._connect = connect
    return made


async def all_ended(forwarder: forward.Forwarder) -> None:
    await forwarder.close()
    await settled()
    assert not forwarder.pool.all and len(asyncio.all_tasks()) == 1, asyncio.all_tasks()


# What a client sends…

# Fields that the sidecar writes.
OURS = re.compile(
    rb"host|x-forwarded-(for|proto|host)|x-request-id|via|connection|te|upgrade|content-length|transfer-encoding"
)


async def from_client(mode: int, pieces: list[bytes]) -> list[Message]:
    """Hold: each connection to upstream carries the client's requests, whole and in order, and no octet more.

    One whose content never came, or breaks its framing, is cut off there. None is held back from a client that is
    still served, none refused is whole upstream; each has its answer. The `mode`: 1, upstream answers before the
    content came; 2, a handler reads the request and forwards it; 4, all buffers are full at each write; 8, upstream
    closes a connection when a second request comes on it, which is sent again only if nothing can have come of it; 16, the
    client takes nothing before it has sent all; 32, an interim answer comes ahead.
    """
    early, handled, slow, closes = (bool(mode & bit) for bit in (1, 2, 4, 8))
    lines: list[Line] = []

    def answer(line):
        requests = read_requests(line.octets, skips=False)
        if closes and line.told and len(requests) > line.told:
            line.lose()
        while not line.closed and line.told < sum(early or request.end == "whole" for request in requests):
            line.told += 1
            line.feed(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * bool(mode & 32))
            line.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    way = forwarder(lines, slow=slow, on_write=answer)

    running = Passing(0, handles=lambda _request: handled)
    server = listener.Server(Front(running, way, (), "http"))
    server._looking.cancel()
    line = Line(server(Source("203.0.113.9", 0)), slow=slow or bool(mode & 16))
    line.stuck = bool(mode & 16)
    for piece in pieces:
        line.feed(piece)
        await settled()
    assert not line.stuck or line.octets.count(b"HTTP/1.1 200") <= 1, "more is written to a client that takes nothing"
    if line.stuck:
        line.stuck = False
        line._resume()
        await settled()
    assert line.closed or not line.due, "it reads no more"
    sent, is_open = line.octets, not line.closed
    line.lose()
    await settled()
    assert not server.connections

    asked, got = read_requests(b"".join(pieces), skips=True), []
    for line in lines:
        requests = read_requests(line.octets, skips=False)
        if closes:
            again = requests[line.told :] if line is not lines[-1] else []
            assert all(request.start[0] in {b"GET", b"HEAD", b"OPTIONS"} and not request.content for request in again)
            requests = requests[: line.told] if line.told else requests
        assert [request.end for request in requests[:-1]] == ["whole"] * (len(requests) - 1)
        assert requests[-1].end == "whole" or (requests[-1].end == "cut" and line.closed), line.octets
        got += requests
    assert len(got) <= len(asked), (asked, got)
    for ours, theirs in zip(asked, got, strict=False):
        check_passed(ours, theirs)
        assert early or theirs.end == ours.end or ours.end == "bad", (ours, theirs)
    check_answered(sent, asked, got, is_open=is_open)
    await all_ended(way)
    return [request for request in got if request.end == "whole"]


def check_passed(asked: Message, got: Message) -> None:
    assert got.start[0] == asked.start[0] and got.start[2] == b"1", got
    found = ABSOLUTE.fullmatch(asked.start[1])
    target = found[2] if found else asked.start[1]
    if not target.startswith((b"/", b"*")):
        target = b"*" if asked.start[0] == b"OPTIONS" and not target else b"/" + target
    assert got.start[1] == target, (asked, got)
    assert got.all(b"host") == ([found[1]] if found else asked.all(b"host") or [b"127.0.0.1:1"]), (asked, got)
    assert got.all(b"x-forwarded-host") in ([], got.all(b"host")), got
    assert got.all(b"x-forwarded-for") == [b"203.0.113.9"], got
    if got.end == "whole":
        assert asked.end == "whole" and got.content == asked.content, (asked, got)
    assert asked.content.startswith(got.content), (asked, got)
    for key, _ in got.fields + got.trailers:
        alike = re.sub(rb"[^0-9a-z]", b"-", key.lower())  # as a CGI backend reads it
        assert alike != b"x-verified-identity" and (alike == key.lower() or not OURS.fullmatch(alike)), got
    assert all(OURS.fullmatch(key.lower()) for key, _ in set(got.fields) - set(asked.fields)), (asked, got)
    assert b"".join(got.all(b"connection")).lower() in {b"", b"te", b"upgrade"}, got
    assert set(got.trailers) <= set(asked.trailers), (asked, got)
    assert not any(OURS.fullmatch(key.lower()) for key, _ in got.trailers), got


def check_answered(octets: bytes, asked: list[Message], got: list[Message], *, is_open: bool) -> None:
    """Each request has its whole answer, and who is not told to go is still served."""
    number, goes_on = 0, True
    while octets:
        assert goes_on, octets
        # What is no request may have been meant for a HEAD: its refusal then has no content.
        unread = b"HEAD" if octets.endswith(CRLF + CRLF) else b""
        method = asked[number].start[0] if number < len(asked) and asked[number].start else unread
        message, octets = read_answer(octets, method, at_end=False)
        if message.start[1:2] == (b"100",) and not octets and asked[number].end != "whole":
            return  # it is invited to go on
        assert message.end == "whole", message
        assert message.start[1] != b"500", "a handler failed"
        number += 1
        goes_on = message.start[1] == b"200" and b"close" not in message.options()
    if goes_on:
        whole = sum(request.end == "whole" for request in asked)
        # What is bad in a content whose answer came early has nobody to be told to.
        assert is_open or asked[-1].end != "whole", asked
        assert number >= whole and len(got) >= whole, (number, asked, got)


# What upstream answers…


class Asking:
    """The client's end of an exchange."""

    writing_paused = False
    transport = None
    bound = None

    @property
    def protocol(self):
        return self

    def __init__(self):
        self.octets, self.end, self.until_close = b"", "", False

    def take_content(self, *, now):
        pass

    def status_received(self, exchange):
        exchange.go_on()

    def answer(self, octets):
        assert not self.end
        self.octets += octets

    def _ended(self, end, until_close=False):
        assert not self.end
        self.end, self.until_close = end, until_close

    def answered(self, exchange, *, stays_open):
        self._ended("whole", exchange.head.until_close)
        assert not (exchange.head.until_close and stays_open)

    def refused(self, exchange, refusal):
        assert refusal.code == "upstream_unavailable"
        self._ended("refused")

    def broken(self, exchange, *, until_close):
        self._ended("broken", until_close)

    def lost(self, exchange):
        raise AssertionError


async def from_upstream(mode: int, pieces: list[bytes]) -> list[object]:
    """Hold: an exchange ends once, or is open. Ended well, it is one well-formed answer, and upstream's own if that is.

    One that broke does not read as whole. The same answer to another request on the same connection reads the same. The
    `mode`: what is asked, whether its answer is waited for, and how the connection ends.
    """
    method = (b"GET", b"HEAD", b"POST", b"GET")[mode & 3]
    version = (1, 0) if mode & 4 else (1, 1)
    end = ("open", "closed", "reset", "closed")[mode >> 3 & 3]
    lines: list[Line] = []
    way = forwarder(lines)
    told = []
    while len(told) < 2:
        asking = Asking()
        option = b"Connection: keep-alive" if mode & 32 else b"Connection: close"
        asked = messages.Request(method.decode(), b"/", b"/", None, version, b"", messages.Fields([option]))
        exchange = Exchange(
            way.pool, b"x", asked, may_repeat=False, request_id="x", client_ip="x",
            ended=lambda exchange, counts: None, holds_answer=bool(mode & 64),
        )  # fmt: skip
        exchange.start(asking)
        await settled()
        for piece in pieces:
            lines[0].feed(piece)
            await settled()
        is_pooled = bool(way.pool._idle)
        if not is_pooled and end != "open":
            lines[0].lose(ConnectionResetError() if end == "reset" else None)
            await settled()
        told.append(check_relayed(asking, b"".join(pieces), method, version, end, is_pooled=is_pooled))
        if not is_pooled:
            break
    assert len(told) == 1 or told[0] == told[1], told
    await all_ended(way)
    assert asking.end
    return told[0]


def check_relayed(asking: Asking, octets: bytes, method: bytes, version, end: str, *, is_pooled: bool) -> list[object]:
    got, rest = read_answer(asking.octets, method, at_end=asking.end == "whole" and asking.until_close)
    theirs, behind = read_answer(octets, method, at_end=end == "closed", is_ours=False)
    assert version == (1, 1) or not (got.interims or got.all(b"transfer-encoding")), got
    assert theirs.end != "whole" or not (is_pooled and behind), theirs
    if asking.end == "whole":
        assert got.end == "whole" and not rest and got.start[0] == b"1", asking.octets
        assert got.start[1] != b"204" or not got.all(b"content-length"), got
        if theirs.end == "whole":
            assert (got.start[1:], got.content) == (theirs.start[1:], theirs.content), (got, theirs)
            assert set(got.trailers) <= set(theirs.trailers), (got, theirs)
        assert theirs.end != "cut" or not theirs.start or theirs.start[1] < b"200", (got, theirs)
        return [asking.end, asking.until_close, got.start, got.fields, got.content, got.trailers]
    # An interim answer may have gone ahead; what is whole was refused for its length, for naming too many fields in
    # Connection, or as nobody asked for a 101.
    assert got.end == "cut" and (asking.end or end == "open"), (asking.end, asking.octets)
    assert asking.end != "refused" or not got.start or got.start[1] < b"200", got
    is_refused = len(octets) > ANSWER_LINE or octets.count(b",") >= messages.MAX_FIELDS or b"HTTP/1.1 101" in octets
    assert theirs.end != "whole" or is_refused, (asking.end, theirs)
    return [asking.end, asking.until_close]


# Chunks alone…


async def chunks(mode: int, pieces: list[bytes]) -> list[object]:
    """Hold: a decoder that was written apart reads the same of it. It may wait where ours refuses already."""
    ours, content, behind = messages.Chunked(), b"", None
    theirs, end = Message(), "whole"
    try:
        rest = theirs.take_chunks(b"".join(pieces))
    except (Cut, Bad) as error:
        theirs.end = type(error).__name__.lower()
    try:
        for piece in pieces:
            if behind is not None:
                behind += piece
                continue
            octets, behind = ours.feed(piece)
            content += octets
        end = "cut" if behind is None else "whole"
    except Refusal as refusal:
        assert refusal.code == "malformed_request"
        end = "bad"
    assert end == theirs.end or (end, theirs.end) == ("bad", "cut"), (end, theirs)
    if end == "whole":
        assert (content, list(ours.trailers), behind) == (theirs.content, theirs.trailers, rest), (ours, theirs)
    assert theirs.content.startswith(content), (content, theirs)
    return [end]


STORIES = (from_client, from_upstream, chunks)


def once(data: bytes) -> None:
    if len(data) < 7:
        return
    story, mode, octets = STORIES[data[0] % len(STORIES)], data[1], data[6:]
    places = int.from_bytes(data[2:4]), int.from_bytes(data[4:6])
    told = [LOOP.run_until_complete(story(mode, cut(octets, *places)))]
    # Where the reads are cut says nothing. But then upstream's early answers come elsewhere.
    if len(cut(octets, *places)) > 1 and not (story is from_client and mode & 1):
        told.append(LOOP.run_until_complete(story(mode, [octets])))
    assert told[0] == told[-1], told
    assert not RAISED, RAISED


RAISED: list[object] = []
LOOP = asyncio.new_event_loop()
LOOP.set_exception_handler(lambda loop, context: RAISED.append(context.get("exception") or context))
UPSTREAM = Upstream(url="http://127.0.0.1:1")
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
logging.disable(logging.CRITICAL)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST, CHUNKED = b"POST /a HTTP/1.1\r\nHost: a\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
SEEDS = [
    (0, 0, b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n"),
    (0, 0, POST + b"Content-Length: 3\r\n\r\nabc" + GET),
    (0, 4, POST + CHUNKED + b"3;x=y\r\nabc\r\n0\r\nT: 1\r\nX.Verified_Identity: f\r\n\r\n" + POST + b"\r\n"),
    (0, 1, POST + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n\r\nGET http://b/ HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"),
    (0, 0, POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + GET),
    (0, 0, POST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n" + GET),
    (0, 0, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + GET),
    (0, 6, POST + CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n"),
    (0, 2, b"GET http://b/ HTTP/1.0\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nx_verified-identity: f\r\n\r\n"),
    (0, 0, b"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
    (0, 8, GET + GET + POST + b"Content-Length: 1\r\n\r\nab"),
    (0, 0, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    (1, 32, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
    (1, 96, b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"),
    (1, 12, b"HTTP/1.0 200 OK\nConnection : close\n\nabc"),
    (1, 33, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nConnection: a\r\nA: b\r\n c\r\n\r\n"),
    (1, 18, b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nabc"),
    (2, 0, b"3;x=y\r\nabc\r\n0a \t;z\r\n0123456789\r\n0\r\nT: 1\r\n\r\nbehind"),
    (2, 0, b"1\r\na\r\n000\r\n\r\n"),
]

if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if os.path.isdir(argument)]
    for number, (story, mode, octets) in enumerate(SEEDS):
        seed = bytes((story, mode, 0, len(octets) // 3, 0, len(octets) // 2)) + octets
        once(seed)
        if folders:
            with open(f"{folders[0]}/seed{number}", "wb") as file:
                file.write(seed)
    atheris.Setup(sys.argv, once)
    atheris.Fuzz()
