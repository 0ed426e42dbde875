"""Who serves a connection of the public listener? It reads a request, and has it relayed or answered.

The law: `messages` is the only reader of what a client sends. Each request that it has read is judged once, by the
`Front`: an exchange is relayed as its octets come, a `Case` gets its content whole, and answers through `write` or
carries an exchange. One request of a connection is served at a time, and what comes behind it waits unread: answers
leave in the order in which the requests came, and no octet is read twice.
"""

import asyncio
import math
import socket
import ssl
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, Final, Protocol, cast

import structlog

from sidecar.errors import Refusal
from sidecar.problem import Answer
from sidecar.proxy import answers, messages
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.messages import (
    CRLF,
    END,
    HTTP_1_1,
    MAX_HEAD,
    Chunked,
    Content,
    Fields,
    Request,
    Sized,
    Unreadable,
    Watched,
)
from sidecar.proxy.proxy_protocol import Source
from sidecar.proxy.states import CLIENT, ClientState
from sidecar.proxy.writes import Writes

# A head that has begun must be whole by then, as nginx's client_header_timeout (60 s) but for people in a hurry.
HEAD_S: Final = 10.0
# A connection between two requests, where the configuration says nothing else, one that brings nothing more of its
# content, one that takes nothing of its answer: nginx's numbers.
KEEP_ALIVE_S: Final = 75.0
CONTENT_S: Final = 60.0
SEND_S: Final = 60.0
# After an answer that came before its request was whole: the rest is read and thrown away, or closing the connection
# would reset it, and the answer be lost on its way. nginx's lingering_timeout and lingering_time.
LINGER_S: Final = 5.0
DISCARD_S: Final = 30.0
TLS_LINGER_S: Final = 1.0
# For connections that were broken off to say so, which they do in the loop's next turns.
ABORT_S: Final = 1.0
# A guarded content is small; a client that takes longer than this over it is not a sign-up form.
GUARDED_S: Final = 20.0
_LOOK_S: Final = 0.5
# Where there is no room for more connections, those make room that have asked for nothing for so long: so many of the
# most that there may be, the oldest connections first, as nginx drains its reusable connections.
_IDLE_S: Final = 1.0
_MAKE_ROOM: Final = 1 / 16
# A connection surely holds less than this (a head, as much again twice, a guarded content, what its client does not
# take): with fewer of them nobody need add up. And what one must hold to be broken off for it.
_MOST_EACH: Final = 1 << 20
_WORTH: Final = 4 << 10
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# What could not be read has no request; it is told like one.
_NO_FIELDS: Final = Fields([])
_UNREADABLE: Final = Request("UNKNOWN", b"/", b"/", None, HTTP_1_1, b"", _NO_FIELDS)
# A connection that is idle remembers no head larger than this.
MAX_REMEMBERED: Final = 4 << 10


class Case(Protocol):
    """A request that is decided about: it is answered by `Connection.write`, or carried by an exchange of its own."""

    @property
    def max_content(self) -> int:
        """How many octets of content are read for it; -1: it is decided without."""

    @property
    def too_large(self) -> Refusal:
        """The refusal of a larger content."""

    def begin(self, content: bytes) -> None:
        """All of its content has come, or none is read."""

    def refuse(self, refusal: Refusal) -> None:
        """Its content will not come: called in place of `begin`."""

    def left(self) -> None:
        """Its client has gone, before it was answered."""


class Front(Protocol):
    """What the product makes of requests."""

    def judge(self, request: Request, connection: "Connection") -> "Exchange | Case":
        """Judge a request by its head: an exchange is relayed at once, a case is decided about."""

    def unreadable(self, request: Request, connection: "Connection", refusal: Refusal) -> Case:
        """Make a case of what is no request; `request` says only what kind of answer its client would like."""

    def failed(self, exchange: Exchange, connection: "Connection", refusal: Refusal) -> Case:
        """Make a case of an exchange that came to nothing: nothing of an answer was sent."""


class Server:
    """The connections of one listener: a protocol factory."""

    def __init__(
        self,
        front: Front,
        *,
        max_head: int = MAX_HEAD,
        keep_alive_s: float = KEEP_ALIVE_S,
        head_s: float = HEAD_S,
        send_s: float = SEND_S,
        content_s: float = CONTENT_S,
        guarded_s: float = GUARDED_S,
        most: int = sys.maxsize,
        most_held: int = sys.maxsize,
    ) -> None:
        """Must run inside the loop. `max_head` is in octets.

        `most` connections may be open at once, and hold `most_held` octets together.
        """
        self.front = front
        self.max_head = max_head
        self.keep_alive_s = keep_alive_s
        self.head_s = head_s
        self.send_s = send_s
        self.content_s = content_s
        self.guarded_s = guarded_s
        self.most = most
        self.most_held = most_held
        self.connections: dict[Connection, None] = {}  # the oldest first
        self.is_closing = False
        self.loop = asyncio.get_running_loop()
        self.writes = Writes()
        self._look_s = min(_LOOK_S, *(seconds / 4 for seconds in (keep_alive_s, head_s, send_s, content_s, guarded_s)))
        self._looking = self.loop.call_later(self._look_s, self._look)
        self._all_lost: asyncio.Event | None = None

    @property
    def max_ahead(self) -> int:
        """How many octets may wait behind a request that is being served; then nothing more is read. A head fits."""
        return 2 * self.max_head

    @property
    def is_idle(self) -> bool:
        """True when no client waits for an answer."""
        return all(connection.is_idle for connection in self.connections)

    def room(self, accepting: int) -> int:
        """Say how many more connections there may be beside those being accepted; with none, close some that are idle.

        A client that keeps its connection without a request must not keep others out: HTTP lets either end close it.
        """
        left = self.most - len(self.connections) - accepting
        if left <= 0:
            now = self.loop.time()
            idle = (one for one in self.connections if one.idle_since < now - _IDLE_S)
            for connection in list(islice(idle, max(1, int(self.most * _MAKE_ROOM)))):
                connection.abort()
        return left

    def __call__(self, peer: Source | None) -> "Connection":
        """Make the protocol of a new connection from there; None is this machine, by a unix socket."""
        return Connection(self, peer)

    async def shutdown(self, timeout_s: float) -> None:
        """Close what is idle, let the rest end what it is at, for at most `timeout_s`; then break it off."""
        self.is_closing = True
        for connection in list(self.connections):
            connection.close_when_idle()
        try:
            async with asyncio.timeout(timeout_s):
                await self._lost()
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
            # Without memory, a transport may have died and told nobody: the process ends all the same.
            with suppress(TimeoutError):
                async with asyncio.timeout(ABORT_S):
                    await self._lost()
        finally:
            self._looking.cancel()

    async def _lost(self) -> None:
        self._all_lost = asyncio.Event()
        if self.connections:
            await self._all_lost.wait()

    def forget(self, connection: "Connection") -> None:
        self.connections.pop(connection, None)
        if not self.connections and self._all_lost is not None:
            self._all_lost.set()

    def _look(self) -> None:
        """Look at every connection's limits: one timer for all of them."""
        now = self.loop.time()
        for connection in [one for one in self.connections if one.due <= now or one.send_due <= now]:
            connection.look(now)
        if len(self.connections) * _MOST_EACH > self.most_held:
            self._shed()
        self._looking = self.loop.call_later(self._look_s, self._look)

    def _shed(self) -> None:
        """Break off the oldest connections that hold something, where all together hold too much.

        Each is within its limits; without this, enough of them would have the system kill the process, and with it all.
        """
        held = [(one, one.held) for one in self.connections]
        left = total = sum(octets for _, octets in held)
        shed = 0
        for connection, octets in held:
            if left <= self.most_held:
                break
            if octets >= _WORTH:
                connection.abort()
                left -= octets
                shed += 1
        if shed:
            structlog.get_logger().warning("connections_shed", count=shed, held=total, most=self.most_held)


class Connection(asyncio.Protocol):
    """One connection of a client. `state` moves as `states.CLIENT` says."""

    __slots__ = (
        "_block",
        "_case",
        "_closes",
        "_collected",
        "_content",
        "_exchange",
        "_fields",
        "_is_going_on",
        "_is_held",
        "_is_reading",
        "_known",
        "_left",
        "_loop",
        "_server",
        "_tail",
        "bound",
        "due",
        "peer",
        "peername",
        "request",
        "send_due",
        "ssl_context",
        "state",
        "transport",
        "was_challenged",
        "was_refused",
        "writing_paused",
    )

    def __init__(self, server: Server, peer: Source | None) -> None:
        self._loop = server.loop
        self._server = server
        self.state: ClientState = "idle"
        self.transport: asyncio.Transport | None = None
        self.writing_paused = False
        self.peername = (peer.ip, peer.port) if peer is not None else None
        self.due = math.inf  # loop.time() when the client must have done what it is waited for
        self.send_due = math.inf  # likewise, must have taken something
        self.peer: Any = None  # the front's own memory of this connection
        self.was_refused = False  # the front's: the last case of this connection was refused, by its own fault
        self.was_challenged = False  # the front's: it was a challenge of a built-in captcha
        self.bound: Any = None  # upstream's connection that serves this one alone, as its client is authenticated there
        self.ssl_context: ssl.SSLContext | None = None
        self._tail = b""  # what has come and is not read yet
        self._known = 0  # so much of it was looked at, and no head ends before there
        self._block = b""  # the field lines of the last head, and what they say
        self._fields = _NO_FIELDS
        self.request = _UNREADABLE  # the one being served, or the last
        self._exchange: Exchange | None = None  # while relaying or carrying
        self._case: Case | None = None  # while collecting, deciding or carrying
        self._content: Content | None = None  # what the request being served has still to bring
        self._collected = bytearray()  # what has come of it, while collecting
        self._is_going_on = False
        self._is_held = False
        self._is_reading = True
        self._closes = False
        self._left = 0

    # Reading a request…

    def data_received(self, data: bytes) -> None:
        if self._content is not None:
            self._take(self._content, data)
        elif self.state == "idle" and not self.writing_paused:
            if not self._closes:  # else nothing more is asked here
                self._begin(self._tail + data if self._tail else data)
        elif self.state != "closing":
            self._keep(data)  # until what is before it is answered, and its answer taken

    def _begin(self, data: bytes) -> None:
        """Read a head, and have its request served."""
        if data.startswith(CRLF):
            data = messages.without_empty_lines(data)
        end = data.find(END, self._known)
        try:
            if end < 0:
                self._wait_for_more(data)
                return
            self._tail, self._known = b"", 0
            cut = data.find(CRLF)
            block = data[cut + 2 : end + 2]
            if end + 2 > self._server.max_head:
                raise messages.too_large(self._server.max_head)
            if block != self._block:
                self._fields = messages.read_fields(block)
                self._block = block
            fields = self._fields
            request = messages.read_request(data[:cut], fields)
            content: Content | None = None
            rest, length = data[end + 4 :], fields.length or 0
            if fields.chunked:
                content = Chunked()
                piece, behind = content.feed(rest)
            elif length <= len(rest):
                piece, behind = rest[:length], rest[length:]
            else:
                content = Sized(length)
                piece, behind = content.feed(rest)
        except Refusal as refusal:
            self._cannot_read(refusal, data)
            return
        self._serve(request, content, piece, behind)

    def _wait_for_more(self, data: bytes) -> None:
        """A part of a head came. Raises Refusal if it can never be whole."""
        messages.check_beginning(data, self._known, self._server.max_head)
        if data and not self._tail:
            self.due = self._loop.time() + self._server.head_s
        self._tail, self._known = data, max(0, len(data) - len(END) + 1)

    def _cannot_read(self, refusal: Refusal, data: bytes) -> None:
        """What came is no request, and nobody can say where the next one would begin."""
        self._closes = True
        self._tail = b""
        self.due = math.inf
        # RFC 9110 section 9.3.2: no answer to HEAD has content, not even this refusal.
        method = "HEAD" if data.startswith(b"HEAD ") else _UNREADABLE.method
        self.request = replace(_UNREADABLE, method=method, fields=messages.wishes(data))
        self._content = Unreadable()
        self._decide(self._server.front.unreadable(self.request, self, refusal))

    def _serve(self, request: Request, content: Content | None, piece: bytes, behind: bytes | None) -> None:
        """Have a request relayed, or decided about. `piece` has come of its content; None is `behind` if more must.

        `content` reads what is still to come; None where all has come whose length the head tells.
        """
        self.due = math.inf
        self.request = request
        if behind:
            self._keep(behind)
        judged = self._server.front.judge(request, self)
        if not isinstance(judged, Exchange):
            self._collect(judged, None if behind is not None else content, piece)
            return
        self.state = CLIENT[self.state]["relay"]
        self._exchange = exchange = judged
        if exchange.upload is not None:
            self._content = watched = Watched(request.fields.length or 0, exchange.upload)
            exchange.is_sent = False
            self.take_content(now=False)
            exchange.start(self)
            self._take(watched, piece)
            return
        if content is not None:
            exchange.octets += exchange.frame(piece, content.trailers, is_end=behind is not None)
            if behind is None:
                exchange.is_sent = False
                self._content = content
                self.take_content(now=False)  # until there is a connection that takes it
        elif piece:
            exchange.octets += piece
        exchange.start(self)

    def _collect(self, case: Case, content: Content | None, piece: bytes) -> None:
        """Wait for a case's content, as much as it wants; invite it where its client waits for that.

        `piece` has come of it; None is `content` where that is all.
        """
        self._case = case
        self._content = content
        most = case.max_content
        if content is None and len(piece) <= most:
            self.state = CLIENT[self.state]["decide"]
            case.begin(piece)
        elif most < 0:
            self.state = CLIENT[self.state]["decide"]
            case.begin(b"")
        elif len(piece) > most or (self.request.fields.length or 0) > most:
            self.state = CLIENT[self.state]["decide"]
            case.refuse(case.too_large)
        else:
            self.state = CLIENT[self.state]["collect"]
            self._collected = bytearray(piece)
            self.due = self._loop.time() + self._server.guarded_s
            if self.request.expects_continue:
                self.answer(_CONTINUE)

    def _decide(self, case: Case) -> None:
        """Have a case decided about without content."""
        self.state = CLIENT[self.state]["decide"]
        self._case = case
        case.begin(b"")

    def _take(self, content: Content, data: bytes) -> None:
        """Hand on what came of a request's content."""
        try:
            piece, behind = content.feed(data)
        except Refusal as refusal:
            self._break(refusal)
            return
        is_end = behind is not None
        if is_end:
            self._content = None
            self.due = math.inf
        if self.state == "relaying":
            assert self._exchange is not None
            if not is_end:
                self.due = self._loop.time() + self._server.content_s
            self._exchange.send(self._exchange.frame(piece, content.trailers, is_end=is_end), is_end=is_end)
        if behind:
            self._keep(behind)
        if self.state == "collecting":
            assert self._case is not None
            self._collected += piece
            if len(self._collected) > self._case.max_content:
                self._refuse_content(self._case.too_large)
            elif is_end:
                self._case.begin(self._stop_collecting())
        elif is_end and self.state == "discarding":
            self.state = CLIENT[self.state]["finish"]
            self._go_on()

    def _stop_collecting(self) -> bytes:
        """Return what has come of the content; the case is then decided about."""
        self.state = CLIENT[self.state]["decide"]
        collected, self._collected = bytes(self._collected), bytearray()
        self.due = math.inf
        return collected

    def _refuse_content(self, refusal: Refusal) -> None:
        """Collect no more of the content, for this reason."""
        self._stop_collecting()
        assert self._case is not None
        self._case.refuse(refusal)

    def _break(self, refusal: Refusal) -> None:
        """The content breaks its own framing, or does not come."""
        self._content = Unreadable()  # so that it is not taken for whole
        self._closes = True
        self._tail = b""
        self.due = math.inf
        if self.state == "relaying":
            exchange = self._exchange
            assert exchange is not None
            exchange.leave()
            if exchange.head is None:
                self.refused(exchange, refusal)
            else:
                self.broken(exchange, until_close=exchange.head.until_close)
        elif self.state == "collecting":
            self._refuse_content(refusal)
        elif self.state == "discarding":
            self._done(stays_open=False)

    def _keep(self, octets: bytes) -> None:
        """Keep what waits its turn, and read no more than so much of it."""
        self._tail = self._tail + octets if self._tail else octets
        if len(self._tail) >= self._server.max_ahead:
            self._update_reading()

    def take_content(self, *, now: bool) -> None:
        """Read on, or not, what the request being served has still to bring."""
        self._is_held = not now
        self.due = self._loop.time() + self._server.content_s if now and self._exchange is not None else math.inf
        self._update_reading()

    def _update_reading(self) -> None:
        wants = not self._is_held and len(self._tail) < self._server.max_ahead
        if wants == self._is_reading or self.transport is None or self.transport.is_closing():
            return
        self._is_reading = wants
        if wants:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # Answering a case…

    def write(self, answer: Answer, request_id: str, *, closes: bool = False) -> None:
        """Answer the case that is being decided; what has not come of its content ends the connection."""
        if self.transport is None:
            return
        request = self.request
        stays_open = (
            not (closes or self._closes or self._server.is_closing) and self._content is None and request.keep_alive
        )
        self._server.writes.put(self.transport, answers.own(answer, request, request_id, stays_open=stays_open))
        self._done(stays_open=stays_open)

    def relay(self, exchange: Exchange) -> None:
        """Carry an exchange that the case has come to: upstream is read as fast as this client takes the answer."""
        self.state = CLIENT[self.state]["carry"]
        self._exchange = exchange

    def relayed(self) -> None:
        """The exchange that the case came to has ended; its case may still be answered."""
        self.state = CLIENT[self.state]["decide"]
        self._exchange = None

    def carried(self, *, stays_open: bool) -> None:
        """The exchange that a case came to has answered for it."""
        self._done(stays_open=stays_open)

    # What an exchange tells…

    @property
    def protocol(self) -> "Connection":
        """Who is told what becomes of the transport."""
        return self

    def answer(self, octets: bytes) -> None:
        if self.transport is not None:
            self._server.writes.put(self.transport, octets)

    def status_received(self, exchange: Exchange) -> None:
        """Upstream's final status has arrived; a plain exchange answers at once."""
        exchange.go_on()

    def answered(self, exchange: Exchange, *, stays_open: bool) -> None:
        self._exchange = None
        exchange.ended(exchange, True)
        self._done(stays_open=stays_open)

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:
        self._exchange = None
        exchange.ended(exchange, False)
        if self._content is not None:
            self.take_content(now=True)
        self._decide(self._server.front.failed(exchange, self, refusal))

    def broken(self, exchange: Exchange, *, until_close: bool) -> None:
        self.state = CLIENT[self.state]["close"]
        self._exchange = None
        exchange.ended(exchange, True)
        self.break_off(until_close=until_close)

    def break_off(self, *, until_close: bool) -> None:
        if self.transport is not None:
            self._server.writes.flush()
            answers.break_off(self.transport, until_close=until_close)

    def lost(self, exchange: Exchange) -> None:
        """The client has gone: upstream's end goes with it."""
        exchange.ended(exchange, True)
        exchange.leave()

    def take_early(self) -> bytes:
        """Give what came behind an upgrade; this connection reads no more requests."""
        self._closes = True
        self._server.writes.flush()
        octets, self._tail = self._tail, b""
        return octets

    # After an answer…

    def _done(self, *, stays_open: bool) -> None:
        """The request is answered: discard what it has still to bring, and go on with the next, or close."""
        self._case = None
        if self.transport is None:
            return
        self._closes = self._closes or not stays_open or self._server.is_closing
        if self._content is None:
            if self._closes:
                self._close()
            else:
                self.state = CLIENT[self.state]["finish"]
                self._go_on()
            return
        self.state = CLIENT[self.state]["discard"]
        self.take_content(now=True)
        self.due = self._loop.time() + DISCARD_S
        if not self._closes:
            return
        if self.transport.can_write_eof():
            self._server.writes.flush()
            self.transport.write_eof()
            self.due = self._loop.time() + (LINGER_S if isinstance(self._content, Unreadable) else DISCARD_S)
        else:
            self.due = self._loop.time() + TLS_LINGER_S  # TLS knows no half-closed stream: the client waits for ours

    def _go_on(self) -> None:
        """Take the next request."""
        if self._closes or self.transport is None or self.transport.is_closing():
            self._close()
            return
        self.due = self._loop.time() + self._server.keep_alive_s
        if len(self._block) > MAX_REMEMBERED:
            self._block, self._fields, self.request, self.peer = b"", _NO_FIELDS, _UNREADABLE, None
        if not self._tail and self._is_reading:
            return  # as mostly: the next one comes when it comes
        if self._is_going_on:
            # Answered at once: the next one has the next turn of the loop, or who sends many would keep it to himself.
            self._loop.call_soon(self._begin_next)
            return
        self._is_going_on = True
        self._begin_next()
        self._is_going_on = False

    def _begin_next(self) -> None:
        """Read a request of what has waited, if it is its turn."""
        if self._tail and self._may_begin:
            octets, self._tail = self._tail, b""
            self._begin(octets)
        if not self._is_reading:
            self._update_reading()

    @property
    def _may_begin(self) -> bool:
        """True when the next request may be read: none is served, and the client takes what it was answered."""
        return self.state == "idle" and not (self.writing_paused or self._closes)

    @property
    def is_idle(self) -> bool:
        """True when no request is being served here, nor the rest of one discarded."""
        return self.state in {"idle", "closing"}

    @property
    def held(self) -> int:
        """How many octets it keeps in memory: what came and is not served yet, and what its client does not take."""
        unwritten = _unwritten(self.transport) if self.transport is not None else 0
        return len(self._tail) + len(self._collected) + unwritten

    @property
    def idle_since(self) -> float:
        """Since when, by the loop's clock, it has neither brought a request nor had one answered; infinity: it has."""
        if self.state != "idle" or self._tail or self.writing_paused or self.transport is None:
            return math.inf
        return math.inf if _unwritten(self.transport) else self.due - self._server.keep_alive_s

    def close_when_idle(self) -> None:
        """Take no more requests."""
        if self.is_idle:
            self._close()
        self._closes = True

    def _close(self) -> None:
        """Close once all is written; who does not take it is cut off."""
        if self.transport is not None:
            self.state = CLIENT[self.state]["close"]
            # Also when the transport closes already, as the client has ended its side: nobody else waits for it.
            self.due, self.send_due = self._loop.time() + self._server.send_s, math.inf
            self._server.writes.flush()
            self._left = _unwritten(self.transport)
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # What the transport tells…

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        tcp_keepalive(self.transport)
        self.ssl_context = transport.get_extra_info("sslcontext")
        self.due = self._loop.time() + self._server.keep_alive_s
        self._server.connections[self] = None

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._server.forget(self)
        self.state = CLIENT[self.state]["lose"]
        self.transport = None
        exchange, self._exchange = self._exchange, None
        case, self._case = self._case, None
        if exchange is not None and exchange.client is not None:
            exchange.client.lost(exchange)
        if case is not None:
            case.left()
        if self.bound is not None:
            self.bound.drop_if_idle()

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.pause_reading()
        if self.transport is not None:
            self._left = self.transport.get_write_buffer_size()
            self.send_due = self._loop.time() + self._server.send_s

    def resume_writing(self) -> None:
        self.writing_paused = False
        self.send_due = math.inf
        if self._exchange is not None:
            if self._exchange.upstream is not None:
                self._exchange.upstream.resume_reading()
        elif self.state == "idle" and self._tail:
            self._go_on()

    def look(self, now: float) -> None:
        """End what has been waited for too long."""
        if self.transport is None:
            return
        if now >= self.send_due:
            left = _unwritten(self.transport)
            if left >= self._left:
                self.transport.abort()  # it has taken nothing since the last look
                return
            self._left = left
            self.send_due = now + self._server.send_s
        if now < self.due:
            return
        self.due = math.inf
        if self.transport.is_closing():
            left = _unwritten(self.transport)
            if left < self._left:  # it takes what is left, if slowly
                self._left, self.due = left, now + self._server.send_s
            else:
                self.transport.abort()
        elif self.state == "relaying":
            self._break(Refusal("malformed_request", "content_too_slow", "The content of the request did not come."))
        elif self.state == "collecting":
            said = f"The body must arrive within {self._server.guarded_s:g} s."
            self._refuse_content(Refusal("malformed_request", "body_too_slow", said))
        elif self.state == "idle" and self.writing_paused:
            # Not idle: it takes its answer still, and `send_due` looks at that.
            self.due = now + self._server.keep_alive_s
        else:
            self._close()


def tcp_keepalive(transport: asyncio.Transport) -> None:
    """Have the system find out in time that a client has vanished."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _unwritten(transport: asyncio.Transport) -> int:
    """Return how many octets wait for a client to take them; asyncio's own TLS, once it closes, knows no more."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:
        return 0
