"""How does a plain request pass with almost no work? Both ends' protocols write into each other, no task between.

The law: it is `forward`'s, and the same code decides it: heads come from `fields` and `answers`, both ends' messages
are read by aiohttp's parsers and nothing else looks for where one ends. What is not simple is not tried here: only a
request whose content is whole (or absent) when it is taken, and never a HEAD or an Upgrade. When something fails
before an octet was answered, the request goes back to who gave it, with the refusal; later, the answer is broken off.

Back-pressure: the client's full buffer stops the reading from upstream. Held in memory is one read each way.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser, HttpVersion, HttpVersion11, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from sidecar.errors import Refusal
from sidecar.proxy import answers, fields

# Below the five seconds after which Node and uvicorn close an idle connection: a request should not meet their FIN.
IDLE_S: Final = 4.0
# Larger than what the common servers write (8 KiB): a backend may set many cookies.
MAX_FIELD: Final = 64 << 10
# aiohttp's reader must never stop the parser: it is emptied after each read, so one read (256 KiB) is all it holds.
_UNLIMITED: Final = 1 << 30


class Client(Protocol):
    """The end that asked: what an exchange needs of the listener's connection."""

    @property
    def writing_paused(self) -> bool:
        """True while its buffer is full."""

    def answer(self, octets: bytes) -> None:
        """Write to the client."""

    def answered(self, exchange: "Exchange", *, stays_open: bool) -> None:
        """The exchange has ended well."""

    def refused(self, exchange: "Exchange", refusal: Refusal) -> None:
        """Nothing was answered and nothing will be."""

    def broken(self, exchange: "Exchange", *, until_close: bool) -> None:
        """The answer has begun and cannot be ended."""


@dataclass(slots=True)
class Exchange:
    """One request on its way. `octets` is all that upstream gets.

    `ended` is called once, with True if an answer has begun and its client was there to the end of it.
    """

    method: str
    version: HttpVersion
    keep_alive: bool
    octets: bytes
    may_repeat: bool
    pool: "Pool"
    ended: Callable[["Exchange", bool], None]
    request_id: str
    client_ip: str
    route: str | None
    started: float
    message: Any = None
    payload: Any = None
    client: Client | None = None
    upstream: "_Upstream | None" = None
    status: int = 0
    head: answers.AnswerHead | None = None
    has_answer: bool = False
    is_cut: bool = False

    def start(self, client: Client) -> None:
        """Send it on a pooled connection, or on a new one."""
        self.client = client
        self.pool.carry(self)

    def leave(self) -> None:
        """The client has gone: upstream's connection goes with it."""
        self.client = None
        if self.upstream is not None:
            self.upstream.drop()

    def refuse(self, refusal: Refusal) -> None:
        if self.client is not None:
            self.client.refused(self, refusal)

    def cut(self, reason: str) -> None:
        if self.client is not None and self.head is not None:
            self.is_cut = True
            structlog.get_logger().info("answer_cut", status=self.status, reason=reason)
            self.client.broken(self, until_close=self.head.until_close)


class Pool:
    """The connections to one upstream that nobody uses now, and the way to new ones."""

    def __init__(
        self,
        connect: Callable[[Callable[[], asyncio.Protocol]], Any],
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        observe: Callable[[float], None],
    ) -> None:
        """`connect` makes a connection for a protocol factory; `observe` is told the seconds until each status."""
        self.read_timeout_s = read_timeout_s
        self.observe = observe
        self.all: set[_Upstream] = set()
        self._idle: list[_Upstream] = []
        self._connect = connect
        self._connect_timeout_s = connect_timeout_s
        self._opening: set[asyncio.Task[None]] = set()

    def carry(self, exchange: Exchange) -> None:
        """Send the request on the connection used last; a new one is opened where there is none."""
        while self._idle:
            upstream = self._idle.pop()
            if upstream.is_open():
                upstream.carry(exchange)
                return
        task = asyncio.create_task(self._open(exchange))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def put(self, upstream: "_Upstream") -> None:
        self._idle.append(upstream)

    def forget(self, upstream: "_Upstream") -> None:
        self.all.discard(upstream)
        if upstream in self._idle:
            self._idle.remove(upstream)

    async def close(self) -> None:
        """Drop every connection, and wait until they are."""
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for upstream in list(self.all):
            upstream.fail("closing")

    async def _open(self, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, upstream = await self._connect(lambda: _Upstream(loop, self))
        except asyncio.CancelledError:
            exchange.refuse(Refusal("upstream_unavailable", "connect:closing"))
            raise
        except TimeoutError:
            exchange.refuse(Refusal("upstream_timeout", "connect_timeout"))
        except (OSError, ssl.SSLError) as error:
            exchange.refuse(Refusal("upstream_unavailable", f"connect:{type(error).__name__}"))
        else:
            if exchange.client is None:
                upstream.drop()  # its client has left meanwhile
            elif not upstream.is_open():
                exchange.refuse(Refusal("upstream_unavailable", "connect:closed"))
            else:
                upstream.carry(exchange)


class _Upstream(BaseProtocol):
    """One connection to upstream: one exchange at a time, and pooled only after one that ended in good order."""

    __slots__ = ("_answer", "_content", "_exchange", "_heard", "_last", "_pool", "_sent", "_timer", "_used")

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        parser = HttpResponseParser(
            self,
            loop,
            _UNLIMITED,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
            read_until_eof=True,
            auto_decompress=False,
        )
        super().__init__(loop, parser)
        self._pool = pool
        self._exchange: Exchange | None = None
        self._answer: RawResponseMessage | None = None
        self._content: StreamReader | None = None
        self._used = False
        # The last head and what was made of it: many answers in a row have the same.
        self._last: tuple[Any, answers.AnswerHead] | None = None
        self._heard = self._sent = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def carry(self, exchange: Exchange) -> None:
        """Send a request."""
        assert self.transport is not None
        exchange.upstream = self
        self._exchange = exchange
        self._heard = self._loop.time()
        self._sent = time.perf_counter()
        if self._timer is None:
            self._timer = self._loop.call_at(self._due(), self._tick)
        self.transport.write(exchange.octets)

    def is_open(self) -> bool:
        """True while a request may be sent on it."""
        return self.transport is not None and not self.transport.is_closing()

    def drop(self) -> None:
        """Close at once; the exchange on it hears no more."""
        self._let_go()
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()

    def hold(self) -> None:
        """The client's buffer is full: read no more."""
        if self.is_open():
            self._pause_transport_reading()

    def go_on(self) -> None:
        """The client has room again."""
        if self.is_open():
            self._heard = self._loop.time()
            self._resume_transport_reading()

    def pause_reading(self) -> None:
        """Nothing: aiohttp's reader is emptied after each read, and `hold` rules."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """As `pause_reading`."""

    # What the transport tells…

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.all.add(self)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        exchange = self._exchange
        if exchange is None:
            self.drop()  # nobody asked
            return
        assert self._parser is not None
        try:
            messages, _, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self.fail(type(error).__name__)
            return
        octets = b""
        is_over = False  # what comes after the end makes the connection useless, not the answer
        for message, payload in messages:
            if self._answer is not None:
                is_over = True
                break
            exchange.has_answer = True
            try:
                octets += self._read(exchange, message, payload)
            except Refusal as refusal:
                self.drop()
                exchange.refuse(refusal)
                return
        self._pass_on(exchange, octets, is_over=is_over)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._pool.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchange = self._exchange
        if exchange is None:
            return
        if self._answer is None:
            self._let_go()
            if self._used and exchange.may_repeat and not exchange.has_answer:
                # RFC 9112 section 9.3.1: upstream had closed it before the request came.
                exchange.upstream = None
                self._pool.carry(exchange)
            else:
                exchange.refuse(Refusal("upstream_unavailable", "read:closed"))
            return
        if exc is None:
            try:
                assert self._parser is not None
                self._parser.feed_eof()  # the end of content that has no length
            except HttpProcessingError:
                self.fail("closed")
                return
            self._pass_on(exchange, b"", is_over=True)
            if self._exchange is not None:
                self.fail("closed")
        else:
            self.fail("reset")

    # The answer…

    def _read(self, exchange: Exchange, message: RawResponseMessage, payload: StreamReader) -> bytes:
        """Read one head of upstream's; return what the client gets of it. Raises Refusal. RFC 9110 section 15.2."""
        if message.code == answers.SWITCHING:
            raise Refusal("upstream_unavailable", "unasked_101")
        if message.code < 200:
            if exchange.version < HttpVersion11:
                return b""
            return answers.head(message, fields.to_client(message.raw_headers))
        asked = (
            exchange.method,
            exchange.version,
            exchange.keep_alive,
            message.code,
            message.reason,
            message.raw_headers,
        )
        if self._last is None or self._last[0] != asked:
            head = answers.read(message, exchange.method, exchange.version, keep_alive=exchange.keep_alive)
            self._last = asked, head
        exchange.head = self._last[1]
        exchange.status = message.code
        self._answer, self._content = message, payload
        self._pool.observe(time.perf_counter() - self._sent)
        return exchange.head.octets

    def _pass_on(self, exchange: Exchange, octets: bytes, *, is_over: bool) -> None:
        """Pass on what has come of the content; end the exchange with it."""
        client, head = exchange.client, exchange.head
        if client is None:
            self.drop()
            return
        if head is None or self._content is None or self._answer is None:
            if octets:
                client.answer(octets)
            return
        piece = b"" if head.is_empty else self._content.read_nowait(-1)
        is_end = self._content.is_eof()
        if head.is_chunked:
            if piece:
                octets += b"%x\r\n%b\r\n" % (len(piece), piece)
            if is_end:
                octets += b"0\r\n\r\n"
        elif piece:
            octets = octets + piece if octets else piece
        if octets:
            client.answer(octets)
        if not is_end:
            return
        may_stay = not self._answer.should_close and not is_over
        self._let_go()
        self._used = True
        if may_stay and self.is_open():
            if client.writing_paused:
                self.go_on()
            self._pool.put(self)
        else:
            self.drop()
        client.answered(exchange, stays_open=head.stays_open)

    def fail(self, reason: str) -> None:
        """What upstream says cannot be read on."""
        exchange = self._exchange
        self.drop()
        if exchange is None:
            return
        if exchange.head is None:
            exchange.refuse(Refusal("upstream_unavailable", f"read:{reason}"))
        else:
            exchange.cut(reason)

    def _let_go(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream = None
        self._exchange = self._answer = self._content = None

    # Silence…

    def _due(self) -> float:
        """When to look again: never later than either limit from now, so that neither is overrun."""
        return self._loop.time() + min(IDLE_S, self._pool.read_timeout_s)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        exchange = self._exchange
        if exchange is not None and exchange.client is not None and exchange.client.writing_paused:
            self._heard = now  # it is we who do not read
        limit_s = IDLE_S if exchange is None else self._pool.read_timeout_s
        until = self._heard + limit_s
        if now < until:
            self._timer = self._loop.call_at(min(until, self._due()), self._tick)
        elif exchange is None:
            self.drop()
        elif exchange.head is None:
            self.drop()
            exchange.refuse(Refusal("upstream_timeout", "read_timeout"))
        else:
            self.fail("silent")
