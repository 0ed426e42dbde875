"""Who serves a connection of the public listener? It reads a request, and has it relayed or handled.

The law: `messages` is the only reader of what a client sends; each request that it has read is shown to `plain`, which
makes an exchange of one that surely passes; every other is handed to aiohttp, whose request and response the gate and
the API are written with. One request of a connection is served at a time, what comes behind it waits unread: answers
leave in the order in which the requests came, and no octet is read twice.
"""

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, cast

import structlog
import yarl
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion, RawRequestMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.tcp_helpers import tcp_keepalive
from multidict import CIMultiDict, CIMultiDictProxy

from sidecar.errors import Refusal
from sidecar.proxy import answers, fields, messages
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
# Content that the gate has not read yet; twice as much is held.
_CONTENT_LIMIT: Final = 32 << 10
_LOOK_S: Final = 0.5

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Plain = Callable[[Request, "Connection"], Exchange | None]

# What could not be read has no request; it is told like one.
_NO_FIELDS: Final = Fields([])
_UNREADABLE: Final = Request("UNKNOWN", b"/", b"/", None, HTTP_1_1, b"", _NO_FIELDS)
# A connection that is idle remembers no head larger than this.
MAX_REMEMBERED: Final = 4 << 10


class Relayed(web.StreamResponse):
    """What a handler returns when the answer has gone to the client already."""

    def __init__(self, status: int, *, stays_open: bool, is_cut: bool = False) -> None:
        super().__init__(status=status)
        self.stays_open = stays_open
        self.is_cut = is_cut

    @property
    def prepared(self) -> bool:
        return True


class Server:
    """The connections of one listener: a protocol factory."""

    def __init__(
        self,
        handler: Handler,
        plain: Plain,
        *,
        max_head: int = MAX_HEAD,
        keep_alive_s: float = KEEP_ALIVE_S,
        head_s: float = HEAD_S,
        send_s: float = SEND_S,
        content_s: float = CONTENT_S,
    ) -> None:
        """Must run inside the loop. `max_head` is in octets."""
        self.handler = handler
        self.plain = plain
        self.max_head = max_head
        self.keep_alive_s = keep_alive_s
        self.head_s = head_s
        self.send_s = send_s
        self.content_s = content_s
        self.connections: set[Connection] = set()
        self.is_closing = False
        self.loop = asyncio.get_running_loop()
        self.writes = Writes()
        self._look_s = min(_LOOK_S, keep_alive_s / 4, head_s / 4, send_s / 4, content_s / 4)
        self._looking = self.loop.call_later(self._look_s, self._look)
        self._all_lost: asyncio.Event | None = None

    @property
    def max_ahead(self) -> int:
        """How many octets may wait behind a request that is being served; then nothing more is read. A head fits."""
        return 2 * self.max_head

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
            await self._lost()
        finally:
            self._looking.cancel()

    async def _lost(self) -> None:
        self._all_lost = asyncio.Event()
        if self.connections:
            await self._all_lost.wait()

    def forget(self, connection: "Connection") -> None:
        self.connections.discard(connection)
        if not self.connections and self._all_lost is not None:
            self._all_lost.set()

    def _look(self) -> None:
        """Look at every connection's limits: one timer for all of them."""
        now = self.loop.time()
        for connection in [one for one in self.connections if one.due <= now or one.send_due <= now]:
            connection.look(now)
        self._looking = self.loop.call_later(self._look_s, self._look)


def handed_back(request: web.BaseRequest) -> tuple[Refusal, float | None] | None:
    """Return why this request could not be relayed or read, and when it began (time.perf_counter, None for now), once.

    None if it was not.
    """
    connection = request.protocol
    if not isinstance(connection, Connection):
        return None
    refusal, connection.refusal = connection.refusal, None
    return refusal


class Connection(BaseProtocol):
    """One connection of a client: what aiohttp's requests know as their protocol."""

    __slots__ = (
        "_block",
        "_closes",
        "_content",
        "_exchange",
        "_fields",
        "_is_held",
        "_is_reading",
        "_known",
        "_left",
        "_payload",
        "_server",
        "_tail",
        "_task",
        "bound",
        "due",
        "peer",
        "peername",
        "refusal",
        "request",
        "send_due",
        "sockname",
        "ssl_context",
    )

    def __init__(self, server: Server, peer: Source | None) -> None:
        super().__init__(server.loop)
        self._server = server
        self.peername = (peer.ip, peer.port) if peer is not None else None
        self.due = math.inf  # loop.time() when the client must have done what it is waited for
        self.send_due = math.inf  # likewise, must have taken something
        self.peer: Any = None  # `plain`'s own memory of this connection
        self.bound: Any = None  # upstream's connection that serves this one alone, as its client is authenticated there
        self.refusal: tuple[Refusal, float | None] | None = None
        self.sockname: tuple[Any, ...] | None = None
        self.ssl_context: ssl.SSLContext | None = None
        self._tail = b""  # what has come and is not read yet
        self._known = 0  # how much of it was looked at
        self._block: bytes | None = None
        self._fields = _NO_FIELDS
        self.request = _UNREADABLE  # the one being served, or the last
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._content: Content | None = None  # what the request being served has still to bring
        self._payload: StreamReader | None = None
        self._is_held = False
        self._is_reading = True
        self._closes = False
        self._left = 0

    # Reading a request…

    def data_received(self, data: bytes) -> None:
        if self._content is not None:
            self._take(self._content, data)
        elif self._exchange is not None or self._task is not None or self._paused:
            self._keep(data)  # until what is before it is answered, and its answer taken
        elif not self._closes:  # else nothing more is asked here
            self._begin(self._tail + data if self._tail else data)

    def _begin(self, data: bytes) -> None:
        """Read a head, and have its request served."""
        if data.startswith(CRLF):
            data = messages.without_empty_lines(data)
        end = data.find(END, max(0, self._known - 3))
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
            request = messages.read_request(data[:cut], self._fields)
            if not request.has_content:
                self._serve(request, None, b"", data[end + 4 :])
                return
            content = Chunked() if request.fields.chunked else Sized(request.fields.length or 0)
            piece, behind = content.feed(data[end + 4 :])
        except Refusal as refusal:
            self._cannot_read(refusal, data)
            return
        self._serve(request, content, piece, behind)

    def _wait_for_more(self, data: bytes) -> None:
        """A part of a head came. Raises Refusal if it can never be whole."""
        messages.check_beginning(data, self._known, self._server.max_head)
        if data and not self._tail:
            self.due = self._loop.time() + self._server.head_s
        self._tail, self._known = data, len(data)

    def _cannot_read(self, refusal: Refusal, data: bytes) -> None:
        """What came is no request, and nobody can say where the next one would begin."""
        self._closes = True
        self._tail = b""
        self.refusal = refusal, None
        self.request = replace(_UNREADABLE, fields=messages.wishes(data))
        self._handle(Unreadable(), b"", None)

    def _serve(self, request: Request, content: Content | None, piece: bytes, behind: bytes | None) -> None:
        """Have a request relayed, or handled. `piece` has come of its content; None is `behind` if more must come."""
        self.due = math.inf
        self.request = request
        if behind:
            self._keep(behind)
        exchange = self._server.plain(request, self)
        if exchange is None:
            self._handle(content, piece, behind)
            return
        self._exchange = exchange
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
        exchange.start(self)

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
        if self._exchange is not None:
            if not is_end:
                self.due = self._loop.time() + self._server.content_s
            self._exchange.send(self._exchange.frame(piece, content.trailers, is_end=is_end), is_end=is_end)
        elif self._payload is not None:
            self._payload.feed_data(piece)
            if is_end:
                self._payload.feed_eof()
        if behind:
            self._keep(behind)
        if is_end and self._exchange is None and self._task is None:
            self._go_on()  # its answer came early, and the rest of it was thrown away

    def _break(self, refusal: Refusal) -> None:
        """The content breaks its own framing, or does not come."""
        exchange, payload = self._exchange, self._payload
        self._content = Unreadable()  # so that it is not taken for whole
        self._closes = True
        self._tail = b""
        self.due = math.inf
        if exchange is not None:
            exchange.leave()
            if exchange.head is None:
                self.refused(exchange, refusal)
            else:
                exchange.is_cut = True
                self.broken(exchange, until_close=exchange.head.until_close)
        elif payload is not None:
            payload.set_exception(refusal)
        else:
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

    def pause_reading(self) -> None:
        """Aiohttp's content is full."""
        self._is_held = True
        self._update_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: ARG002 - aiohttp's signature
        """Aiohttp's content has room."""
        self._is_held = False
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

    # Having it handled by aiohttp's request and response…

    def _handle(self, content: Content | None, piece: bytes, behind: bytes | None) -> None:
        request, payload = self.request, EMPTY_PAYLOAD
        if content is not None:
            payload = StreamReader(self, _CONTENT_LIMIT, loop=self._loop)
            payload.feed_data(piece)
            if behind is None:
                self._content, self._payload = content, payload
            else:
                payload.feed_eof()
        path = request.origin.decode("utf-8", "surrogateescape")
        raw = tuple(fields.end_to_end(request.fields))
        headers = CIMultiDict((name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in raw)
        message = RawRequestMessage(
            method=request.method,
            path=request.target.decode("utf-8", "surrogateescape"),
            version=HttpVersion(*request.version),
            headers=CIMultiDictProxy(headers),
            raw_headers=raw,
            should_close=self._closes or not request.keep_alive,
            compression=None,
            upgrade=request.is_websocket,
            chunked=request.fields.chunked,
            url=yarl.URL.build(path=path.partition("?")[0], query_string=path.partition("?")[2], encoded=True),
        )
        self._task = self._loop.create_task(self._handled(message, payload))

    async def _handled(self, message: RawRequestMessage, payload: StreamReader) -> None:
        task = asyncio.current_task()
        assert task is not None
        writer = StreamWriter(self, self._loop)
        request = web.BaseRequest(message, payload, self, writer, task, self._loop)  # type: ignore[arg-type]
        stays_open = False
        self._server.writes.flush()  # aiohttp writes past it
        try:
            response = await self._answered_by_handler(request)
            if isinstance(response, Relayed):
                stays_open = response.stays_open
            else:
                await response.prepare(request)
                await response.write_eof()
                stays_open = bool(response.keep_alive)
        except ConnectionError:
            pass  # the client has left
        finally:
            self._task = None
            self._done(stays_open=stays_open)

    async def _answered_by_handler(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._server.handler(request)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the connection ends
            structlog.get_logger().error("request_failed", exc_info=error)  # its kind and place, not its text
            response = web.Response(status=500, text="500 Internal Server Error")
            response.force_close()
            return response

    # What an exchange tells…

    @property
    def protocol(self) -> "Connection":
        """Who is told what becomes of the transport."""
        return self

    def relay(self, exchange: Exchange) -> None:
        """An exchange that a handler has made: the fullness of this end holds it."""
        self._exchange = exchange

    def answer(self, octets: bytes) -> None:
        if self.transport is not None:
            self._server.writes.put(self.transport, octets)

    def heard(self, exchange: Exchange) -> None:
        """Nobody waits for a plain one's status."""
        exchange.go_on()

    def answered(self, exchange: Exchange, *, stays_open: bool) -> None:
        self._exchange = None
        exchange.ended(exchange, True)
        self._done(stays_open=stays_open)

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:
        self._exchange = None
        exchange.ended(exchange, False)
        self.refusal = refusal, exchange.started
        self._handle(self._content, b"", None if self._content is not None else b"")
        self.take_content(now=True)

    def broken(self, exchange: Exchange, *, until_close: bool) -> None:
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

    def relayed(self) -> None:
        """What a handler relayed has ended."""
        self._exchange = None

    def _done(self, *, stays_open: bool) -> None:
        if self.transport is None:
            return
        self._payload = None
        self._closes = self._closes or not stays_open or self._server.is_closing
        if self._content is not None:
            self.take_content(now=True)  # to throw it away
            self.due = self._loop.time() + DISCARD_S
        if not self._closes:
            if self._content is None:
                self._go_on()
        elif self._content is None:
            self._close()
        elif self.transport.can_write_eof():
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
        if self._block is not None and len(self._block) > MAX_REMEMBERED:
            self._block, self._fields, self.request, self.peer = None, _NO_FIELDS, _UNREADABLE, None
        if self._tail and not self._paused:
            octets, self._tail = self._tail, b""
            self._begin(octets)
        if not self._is_reading:
            self._update_reading()

    def close_when_idle(self) -> None:
        """Take no more requests."""
        if self._exchange is None and self._task is None and self._content is None:
            self._close()
        self._closes = True

    def _close(self) -> None:
        """Close once all is written; who does not take it is cut off."""
        if self.transport is not None:
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
        super().connection_made(transport)
        tcp_keepalive(cast("asyncio.Transport", transport))
        self.sockname = transport.get_extra_info("sockname")
        self.ssl_context = transport.get_extra_info("sslcontext")
        self.due = self._loop.time() + self._server.keep_alive_s
        self._server.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.forget(self)
        exchange, self._exchange = self._exchange, None
        super().connection_lost(exc)
        if exchange is not None and exchange.client is not None:
            exchange.client.lost(exchange)
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(ConnectionResetError("the client has left"))
        if self._task is not None:
            self._task.cancel()
        if self.bound is not None:
            self.bound.drop_if_idle()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.hold()
        if self.transport is not None:
            self._left = self.transport.get_write_buffer_size()
            self.send_due = self._loop.time() + self._server.send_s

    def resume_writing(self) -> None:
        super().resume_writing()
        self.send_due = math.inf
        if self._exchange is not None:
            if self._exchange.upstream is not None:
                self._exchange.upstream.read_on()
        elif self._task is None and self._content is None and self._tail:
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
        elif self._exchange is not None and self._content is not None:
            self._break(Refusal("malformed_request", "content_too_slow", "The content of the request did not come."))
        elif self._paused and self._task is None and self._content is None:
            # Not idle: it takes its answer still, and `send_due` looks at that.
            self.due = now + self._server.keep_alive_s
        else:
            self._close()


def _unwritten(transport: asyncio.Transport) -> int:
    """Return how many octets wait for a client to take them; asyncio's own TLS, once it closes, knows no more."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:
        return 0
