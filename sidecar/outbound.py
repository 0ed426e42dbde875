"""How does the sidecar ask a vendor? One HTTP call with one time limit, straight or through a proxy.

It alone knows "never sent" from "no answer". Used by captcha and provider kinds. Never follows redirects, never
retries, never reads more than `MAX_REPLY`. Answers are read by the proxy's own parser, `proxy.messages`.

Life of a call: what its origin (scheme, host and port) needs is worked out once, and kept; the request is written; the
origin's connection that was used last carries it, or a new one (address, TCP, the proxy's tunnel, TLS); its answer is
read; the connection is kept for the next call. Whatever ends a call in another way ends its connection, too.
"""

import asyncio
import base64
import functools
import ipaddress
import math
import re
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, cast
from urllib.parse import unquote, urlsplit

from sidecar.config.proxies import Proxies
from sidecar.errors import Refusal
from sidecar.hosts import Host
from sidecar.proxy.messages import (
    CRLF,
    Answer,
    Chunked,
    Content,
    Fields,
    Sized,
    UntilClose,
    end_of_answer_head,
    read_answer,
)

# The largest documented vendor answer is a few KiB.
MAX_REPLY: Final = 64 << 10
# The head of any is a few KiB, too.
MAX_HEAD: Final = 32 << 10
# A compressed answer of that size may itself be a little larger, and no more than this.
_MAX_COMPRESSED: Final = 2 * MAX_REPLY
# How long an unused connection is kept: shorter than what vendors' load balancers allow (60 s is common), for a request
# that meets their closing has no known outcome.
IDLE_S: Final = 15.0
# Heads of requests that are remembered. Few: those of some kinds hold what is one message's alone.
_HEADS: Final = 64
# How long a name's addresses are believed.
_ADDRESSES_S: Final = 60.0
_PORTS: Final = {"http": 80, "https": 443}
_USER_AGENT: Final = "User-Agent: signup-sidecar\r\n"
# RFC 9110 section 8.6: any other method says how long its content is, even if there is none.
_WITHOUT_CONTENT: Final = frozenset({"GET", "HEAD"})
_NO_TARGET: Final = re.compile(r"[\x00-\x20\x7f]")


@dataclass(slots=True)  # not frozen: it is made for every call
class HttpRequest:
    """A request, its URL already percent-encoded: the octets given here are those that leave."""

    method: str
    url: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def __repr__(self) -> str:  # the fields and the body hold secrets and codes
        return f"HttpRequest({self.method})"


@dataclass(slots=True)  # not frozen: it is made for every call
class HttpReply:
    """An answer. `head`: its fields by lower-case name, or as they came."""

    status: int
    head: Mapping[str, str] | Fields
    body: bytes

    @property
    def fields(self) -> Mapping[str, str]:
        """Its fields by lower-case name; of those that stand twice, the last. Read when asked for, which few are."""
        if isinstance(self.head, Fields):
            self.head = {
                name.decode("latin-1").lower(): value.decode("utf-8", "surrogateescape")
                for name, value in self.head.raw
            }
        return self.head


class NeverSentError(Exception):
    """Surely no octet of the request reached the vendor.

    No address, refused, no TLS, a proxy that would not connect, or the time was up before.
    """


class NoAnswerError(Exception):
    """The request may have been taken, and no whole answer came."""


class Session:
    """The pooled connections that every call shares. Must be made inside the loop; closed at its block's end.

    `ca` is a PEM file of the authorities to believe; "": the system's. Raises OSError for one that cannot be read.
    `idle_s`: for how many seconds an unused connection is kept.
    """

    def __init__(self, proxies: Proxies, ca: str, idle_s: float = IDLE_S) -> None:
        self.proxies = proxies
        self.idle_s = idle_s
        self.loop = asyncio.get_running_loop()
        self.connections: set[_Connection] = set()
        self.is_closed = False
        self._origins: dict[str, _Origin] = {}
        self._known = functools.lru_cache(_HEADS)(self._origin_and_head)
        self._tls: asyncio.Future[ssl.SSLContext] | None = None
        self.expiring: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._looks_at = math.inf
        self._last_is_gone: asyncio.Future[None] | None = None
        if ca:
            self._tls = self.loop.create_future()
            self._tls.set_result(_tls(ca))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. A call that waits on one has no answer."""
        for timer in (self.expiring, self._looking):
            if timer is not None:
                timer.cancel()
        self.is_closed = True
        for connection in list(self.connections):
            connection.fail("closing")
        if self.connections:
            self._last_is_gone = self.loop.create_future()
            await self._last_is_gone

    def write(self, request: HttpRequest) -> "tuple[_Origin, bytes]":
        """Give what is known of a request's origin, and the request as it is written, with the fields it lacks.

        Raises ValueError for what HTTP cannot carry, and for a URL or a proxy that cannot be called.
        """
        origin, head = self._known(request.method, request.url, request.fields)
        body = request.body
        if body or request.method not in _WITHOUT_CONTENT:
            return origin, b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        return origin, head + CRLF

    def _origin_and_head(self, method: str, url: str, fields: tuple[tuple[str, str], ...]) -> "tuple[_Origin, bytes]":
        end = url.find("/", len("https://"))
        spelt = url[:end] if end > 0 else url
        origin = self._origins.get(spelt)
        if origin is None:
            parts = urlsplit(spelt)
            spelt = f"{parts.scheme}://{parts.netloc}"
            origin = self._origins[spelt] = self._origins.get(spelt) or _Origin(self, spelt)
        return origin, origin.head(method, url, fields)

    async def tls(self) -> ssl.SSLContext:
        """Give what vendors are believed by. The system's authorities take a tenth of a second to read."""
        if self._tls is None:
            self._tls = self.loop.run_in_executor(None, _tls)
        return await asyncio.shield(self._tls)

    def look_at(self, due: float) -> None:
        """Have all calls looked at by then, by the loop's clock. One timer does: mostly the oldest is due first."""
        if due < self._looks_at:
            if self._looking is not None:
                self._looking.cancel()
            self._looks_at, self._looking = due, self.loop.call_at(due, self._look)

    def _look(self) -> None:
        """Give up the calls whose time is over."""
        now, self._looks_at = self.loop.time(), math.inf
        for connection in [one for one in self.connections if one.due <= now]:
            connection.fail("TimeoutError")
        self.look_at(min((one.due for one in self.connections), default=math.inf))

    def expire_later(self) -> None:
        """Close the connections that are not used, each when its time is up."""
        self.expiring = self.loop.call_later(self.idle_s, self._expire)

    def forget(self, connection: "_Connection") -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if self._last_is_gone is not None and not self.connections and not self._last_is_gone.done():
            self._last_is_gone.set_result(None)

    def _expire(self) -> None:
        now = self.loop.time()
        left = [last for origin in self._origins.values() if (last := origin.expire(now)) is not None]
        self.expiring = self.loop.call_at(min(left) + self.idle_s, self._expire) if left else None


def open_session(proxies: Proxies | None = None, ca: str = "", idle_s: float = IDLE_S) -> Session:
    """Make a session, as `Session` has it. No proxies: every call goes straight."""
    return Session(proxies or Proxies("", {}), ca, idle_s)


def _tls(ca: str | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=ca)
    made.set_alpn_protocols(["http/1.1"])
    return made


async def call(session: Session, request: HttpRequest, timeout_s: float) -> HttpReply:
    """Ask once. Raises NeverSentError or NoAnswerError; answers of every status are returned, but a proxy's own 407."""
    now = session.loop.time()
    due = now + timeout_s
    try:
        origin, octets = session.write(request)
        connection = origin.take_idle(now)
        if connection is None:
            async with asyncio.timeout_at(due):
                connection = await origin.connect()
    except (OSError, ValueError) as error:  # ValueError: no address at all, or no proxy
        raise NeverSentError(type(error).__name__) from error
    answered = connection.ask(request.method, octets, due)
    try:
        reply = await answered
    except asyncio.CancelledError:
        connection.give_up(answered)
        raise
    if reply.status == 407 and origin.is_forwarded:
        raise NeverSentError("proxy_407")
    return reply


# The way to a vendor…


class _Origin:
    """A scheme, a host and a port: how a request for it is written, how it is reached, and its unused connections.

    `spelt` is a URL without its path. `is_forwarded`: a proxy reads the requests themselves (http), and no CONNECT
    before them. Raises ValueError for an address that is none, or a proxy that cannot be called.
    """

    def __init__(self, session: Session, spelt: str) -> None:
        parts = urlsplit(spelt)
        if parts.scheme not in _PORTS or parts.port == 0:
            raise ValueError("neither http nor https, or no port")
        host, port = _host(parts.hostname or ""), parts.port or _PORTS[parts.scheme]
        bracketed = f"[{host}]" if ":" in host else host
        authority = bracketed if port == _PORTS[parts.scheme] else f"{bracketed}:{port}"
        proxy = session.proxies.of(spelt)
        to_proxy = f"Proxy-Authorization: {proxy.authorization}\r\n" if proxy and proxy.authorization else ""
        self._session = session
        self._is_secure = parts.scheme == "https"
        self.is_forwarded = proxy is not None and not self._is_secure
        # RFC 6066 section 3: a name without its last dot.
        self._name = host.rstrip(".")
        self._skipped = len(spelt)
        self._before_target = f"{parts.scheme}://{authority}" if self.is_forwarded else ""
        self._adds = {"host": f"Host: {authority}\r\n", "accept": "Accept: */*\r\n", "user-agent": _USER_AGENT}
        if parts.username is not None:
            userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"  # RFC 7617
            self._adds["authorization"] = f"Authorization: Basic {base64.b64encode(userinfo.encode()).decode()}\r\n"
        if self.is_forwarded and to_proxy:
            self._adds["proxy-authorization"] = to_proxy
        self._tunnel = b""
        if proxy is not None and self._is_secure:
            asked = f"{bracketed}:{port}"
            self._tunnel = f"CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n{to_proxy}\r\n".encode()
        if proxy is not None:
            peer = urlsplit(proxy.url)
            host, port = _host(peer.hostname or ""), peer.port or _PORTS["http"]
        self._peer = Host(host, port, _ADDRESSES_S)
        self._idle: list[tuple[float, _Connection]] = []  # since when; the one used last comes last

    def head(self, method: str, url: str, fields: tuple[tuple[str, str], ...]) -> bytes:
        """Write a head up to its content's length. Many kinds have the same for each message."""
        given = {name.lower() for name, _ in fields}
        added = "".join([line for name, line in self._adds.items() if name not in given])
        target = url[self._skipped :].partition("#")[0]
        if not target.startswith("/"):
            target = f"/{target}"
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
        if _NO_TARGET.search(target) or not lines.count("\r") == lines.count("\n") == len(fields) or "\0" in lines:
            raise ValueError("an octet that HTTP cannot carry there")
        return f"{method} {self._before_target}{target} HTTP/1.1\r\n{added}{lines}".encode()

    def take_idle(self, now: float) -> "_Connection | None":
        """Give the connection used last, if it is still open."""
        idle = self._idle
        while idle:
            since, connection = idle.pop()
            if connection.is_open() and now - since < self._session.idle_s:
                return connection
            connection.drop()
        return None

    def keep(self, connection: "_Connection") -> None:
        """Take back a connection that may be used again."""
        self._idle.append((self._session.loop.time(), connection))
        if self._session.expiring is None:
            self._session.expire_later()

    def expire(self, now: float) -> float | None:
        """Close what was not used for too long, and say since when the rest was not; None: there is none left."""
        idle = self._idle
        while idle and (idle[0][0] + self._session.idle_s <= now or not idle[0][1].is_open()):
            idle.pop(0)[1].drop()
        return idle[0][0] if idle else None

    async def connect(self) -> "_Connection":
        """Open a connection. Raises OSError, ValueError, or NeverSentError for a proxy that refuses."""
        session, loop = self._session, self._session.loop
        if session.is_closed:
            raise ConnectionError("the session is closed")
        tls = await session.tls() if self._is_secure else None
        sock = await self._peer.connect()
        connection = _Connection(session, self)
        try:
            if self._tunnel or tls is None:
                await loop.create_connection(lambda: connection, sock=sock)
                if tls is not None:
                    await self._open_tunnel(connection, tls)
            else:
                await loop.create_connection(lambda: connection, sock=sock, ssl=tls, server_hostname=self._name)
        except BaseException:
            connection.drop()
            session.forget(connection)
            raise
        if session.is_closed:  # meanwhile
            connection.drop()
        if not connection.is_open():
            raise ConnectionResetError("closed at once")
        return connection

    async def _open_tunnel(self, connection: "_Connection", tls: ssl.SSLContext) -> None:
        """Have the proxy connect, and speak TLS with the vendor through it. RFC 9110 section 9.3.6."""
        try:
            reply = await connection.ask("CONNECT", self._tunnel, math.inf)
        except NoAnswerError as error:  # nothing of the request was sent
            raise NeverSentError(f"proxy_{error}") from None
        if not 200 <= reply.status <= 299:
            raise NeverSentError(f"proxy_{reply.status}")
        raw = connection.transport
        if raw is None or raw.is_closing():
            raise ConnectionResetError("closed before TLS")
        loop = self._session.loop
        secured = await loop.start_tls(raw, connection, tls, server_hostname=self._name)
        if secured is None:
            raise ConnectionResetError("closed in TLS")
        connection.transport = secured


def _host(name: str) -> str:
    """Spell a host as DNS has it. Raises ValueError for what is none, and for half an address, such as 127.1."""
    host = name if name.isascii() else name.encode("idna").decode()
    if not host or _NO_TARGET.search(host):
        raise ValueError("no host")
    if ":" in host or re.fullmatch(r"[0-9.]+", host):
        ipaddress.ip_address(host)
    return host


# A connection…


class _Connection(asyncio.Protocol):
    """One connection to an origin: one request at a time, and its answer."""

    __slots__ = (
        "_answer", "_content", "_method", "_origin", "_pieces", "_reply", "_room", "_session", "_tail", "due",
        "transport",
    )  # fmt: skip

    def __init__(self, session: Session, origin: _Origin) -> None:
        self.transport: asyncio.Transport | None = None
        self.due = math.inf  # when the answer must have come, by the loop's clock; infinity where none is waited for
        self._session = session
        self._origin = origin
        self._method = ""
        self._reply: asyncio.Future[HttpReply] | None = None
        self._answer: Answer | None = None
        self._content: Content | None = None
        self._pieces: list[bytes] = []
        self._room = 0  # how many octets of content may still come
        self._tail = b""  # of a head that is not whole

    def is_open(self) -> bool:
        """True while a request may be sent on it."""
        return self.transport is not None and not self.transport.is_closing()

    def ask(self, method: str, octets: bytes, due: float) -> asyncio.Future[HttpReply]:
        """Send a request. The answer to come raises NoAnswerError where it does not by then."""
        assert self.transport is not None
        self._method, self.due = method, due
        self._session.look_at(due)
        self._reply = reply = self._session.loop.create_future()
        self.transport.write(octets)
        return reply

    def drop(self) -> None:
        """Close at once; whoever asked is not told."""
        self._reply, self.due = None, math.inf
        if self.transport is not None:
            self.transport.abort()

    def fail(self, reason: str) -> None:
        """The answer will not come, or cannot be read."""
        reply = self._reply
        self.drop()
        if reply is not None and not reply.done():
            reply.set_exception(NoAnswerError(reason))

    def give_up(self, reply: asyncio.Future[HttpReply]) -> None:
        """Nobody waits for this answer any longer. Once it has come, the connection may be another call's."""
        if self._reply is reply:
            self.drop()

    # What the transport tells…

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._session.connections.add(self)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None or reply.done():
            self.drop()  # nobody asked
            return
        try:
            if self._content is None:
                data = self._read_heads(self._tail + data if self._tail else data)
                if self._content is None:
                    self._tail = data
                    return
            piece, behind = self._content.feed(data)
        except Refusal as refusal:
            self.fail(f"malformed:{refusal.reason}")
            return
        self._room -= len(piece)
        if self._room < 0:
            self.fail("the answer is larger than any documented one")
            return
        if piece:
            self._pieces.append(piece)
        if behind is not None:
            self._end(reply, is_all=not behind)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._session.forget(self)
        reply = self._reply
        if reply is not None and not reply.done() and exc is None and isinstance(self._content, UntilClose):
            self._end(reply, is_all=False)
        else:
            self.fail("closed" if exc is None else type(exc).__name__)

    # The answer…

    def _read_heads(self, data: bytes) -> bytes:
        """Read heads until the final one, and return the octets behind it. Raises Refusal. RFC 9110 section 15.2."""
        while end := end_of_answer_head(data):
            if end > MAX_HEAD:
                break
            answer, data = read_answer(data[:end]), data[end:]
            if answer.status >= 200:
                self._answer, self._content = answer, _content(self._method, answer)
                self._room = _MAX_COMPRESSED if _coding(answer.fields) else MAX_REPLY
                self._tail = b""
                return data
            if answer.status == 101:
                raise Refusal("malformed_request", "unasked_101")
        if len(data) > MAX_HEAD:
            raise Refusal("malformed_request", "head_too_large")
        return data

    def _end(self, reply: "asyncio.Future[HttpReply]", *, is_all: bool) -> None:
        """The answer is whole. `is_all`: the connection is open, and nothing came behind it; else it is of no use."""
        answer, body = self._answer, b"".join(self._pieces)
        assert answer is not None
        self._reply = self._answer = self._content = None
        self._pieces, self.due = [], math.inf
        if self._method == "CONNECT":  # for the tunnel, whatever the proxy says of its connection
            if not is_all:
                self.drop()
        elif is_all and answer.keep_alive:
            self._origin.keep(self)
        else:
            self.drop()
        if body and (coding := _coding(answer.fields)):
            try:
                body = _decoded(body, coding)
            except (ValueError, zlib.error):
                reply.set_exception(NoAnswerError("malformed:content_encoding"))
                return
        reply.set_result(HttpReply(answer.status, answer.fields, body))


def _content(method: str, answer: Answer) -> Content:
    """Say where an answer's content ends. RFC 9112 section 6.3."""
    fields = answer.fields
    if method in {"HEAD", "CONNECT"} or answer.status in {204, 304}:
        return Sized(0)
    if fields.chunked:
        return Chunked()
    return UntilClose() if fields.length is None else Sized(fields.length)


def _coding(fields: Fields) -> bytes:
    """Return how the content is compressed, in lower case; b"" where it is not. RFC 9110 section 8.4."""
    return b",".join(fields.said.get(b"content-encoding", ())).lower()


def _decoded(body: bytes, coding: bytes) -> bytes:
    """Undo gzip and deflate, as far as there is of it. RFC 9110 section 8.4.1.

    Raises zlib.error for what was not compressed so, ValueError for other codings and past MAX_REPLY.
    """
    if coding in {b"gzip", b"x-gzip"}:
        window = 16 + zlib.MAX_WBITS
    elif coding == b"deflate":  # many servers leave out the zlib format's two octets, which begin with 8 in four bits
        window = zlib.MAX_WBITS if body[0] & 0xF == 8 else -zlib.MAX_WBITS
    elif coding == b"identity":
        return body
    else:
        raise ValueError("a coding that nobody asked for")
    decoded = zlib.decompressobj(window).decompress(body, MAX_REPLY + 1)
    if len(decoded) > MAX_REPLY:
        raise ValueError("larger than any documented one")
    return decoded
