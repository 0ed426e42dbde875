"""Who serves a connection of the public listener? aiohttp, but plain requests do not get that far.

The law: aiohttp's request parser is the only reader of what a client sends; what it has read is sorted here. A request
that `plain` takes is relayed by `lean`, everything else goes to aiohttp's own queue: one at a time, each when the one
before it is answered. So answers leave in the order in which the requests came, and no octet is read twice.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpProcessingError, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from sidecar.errors import Refusal
from sidecar.proxy import answers
from sidecar.proxy.lean import Exchange

# A head that has begun must be whole by then, as nginx's client_header_timeout (60 s) but for people in a hurry.
HEAD_S: Final = 10.0
# A connection between two requests, and one that takes nothing of its answer: nginx's numbers.
KEEP_ALIVE_S: Final = 75.0
SEND_S: Final = 60.0

Plain = Callable[[RawRequestMessage, StreamReader, RequestHandler], Exchange | None]


class Server(web.Server):
    """aiohttp's server, but `plain` is shown each request first: it makes an exchange of one that surely passes."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        plain: Plain,
        *,
        head_s: float = HEAD_S,
        send_s: float = SEND_S,
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self.plain = plain
        self.head_s = head_s
        self.send_s = send_s

    def __call__(self) -> RequestHandler:
        return _Handler(self, loop=asyncio.get_running_loop(), **self._kwargs)


def handed_back(request: web.BaseRequest) -> tuple[Refusal, float] | None:
    """Return why this request could not be relayed and when it began (time.perf_counter), once; None if it was not."""
    handler = request.protocol
    if not isinstance(handler, _Handler):
        return None
    refusal, handler.refusal = handler.refusal, None
    return refusal


class _Handler(RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_exchange",
        "_head_timer",
        "_held",
        "_left",
        "_send_timer",
        "_server",
        "_waits",
        "last",
        "last_content",
        "refusal",
    )

    def __init__(self, server: Server, **kwargs: Any) -> None:
        self._held: deque[tuple[Any, StreamReader]] = deque()
        self._waits: asyncio.Future[None] | None = None
        super().__init__(server, **kwargs)
        self._server = server
        self._parser: Any = _Sieve(self._parser, self)
        self._exchange: Exchange | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._left = 0
        self.last: tuple[object, object] = (None, None)  # `plain`'s own memory of this connection
        self.last_content: StreamReader = EMPTY_PAYLOAD
        self.refusal: tuple[Refusal, float] | None = None

    # Sorting what came…

    def sift(self, messages: Sequence[tuple[Any, StreamReader]]) -> Sequence[tuple[Any, StreamReader]]:
        """Take what can be relayed now; hold what must wait for it; return what is aiohttp's."""
        self.last_content = messages[-1][1]
        self._stop_head_timer()
        if self._is_lean_busy() or not self._is_idle():
            self._hold(messages)
            return ()
        if not self._takes(*messages[0]):
            self._hold(messages[1:])
            return messages[:1]
        self._hold(messages[1:])
        return ()

    def failed(self, error: HttpProcessingError) -> None:
        """What came cannot be read: aiohttp answers so, after whatever waits before it. Raises the same."""
        if not self._is_lean_busy():
            raise error
        self._hold([(_ErrInfo(status=400, exc=error, message=error.message), EMPTY_PAYLOAD)])

    def unfinished(self) -> None:
        """A part of a head came."""
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._server.head_s, self.force_close)

    def _is_lean_busy(self) -> bool:
        return self._exchange is not None or bool(self._held)

    def _is_idle(self) -> bool:
        """True when aiohttp waits for a request, and the client for nothing."""
        waiter = self._waits
        return waiter is not None and not waiter.done() and not self._messages and not self._paused

    def _hold(self, messages: Sequence[tuple[Any, StreamReader]]) -> None:
        """Keep what waits its turn, and read no more than so many."""
        self._held.extend(messages)
        if self._is_full() and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _is_full(self) -> bool:
        """True when the parser may have stopped: it counts the one that was taken from it in the same read too."""
        return len(self._held) + len(self._messages) >= self._max_msg_queue_size - 1

    def _takes(self, message: Any, payload: StreamReader) -> bool:
        if self.transport is None or isinstance(message, _ErrInfo):
            return False
        exchange = self._server.plain(message, payload, self)
        if exchange is None:
            return False
        self._parser.message_consumed()
        self._server.requests_count += 1
        exchange.message, exchange.payload = message, payload
        self._exchange = exchange
        self._request_in_progress = True  # so that a drain waits for it
        exchange.start(self)
        return True

    def _next(self) -> None:
        """Go on with what was held: the first of it, or more where that is over at once."""
        while self._held and self._exchange is None and self._is_idle() and not self._force_close:
            first = self._held.popleft()
            if not self._takes(*first):
                self._give(*first)
        if self._buffer_paused and not self._held and not self._force_close:
            self._resume_reading_if_drained()

    def _resume_reading_if_drained(self) -> None:
        """As aiohttp's, but what is held here counts too: the parser keeps, unread, what comes behind it."""
        if self._held or len(self._message_tail) >= self._read_bufsize:
            return
        if not self._upgraded:
            self.data_received(b"")
            if self._is_full():
                return
        self._resume_reading_for_buffer()

    @property
    def _waiter(self) -> asyncio.Future[None] | None:
        """What aiohttp waits on for a message: set anew each time that it has done with one."""
        return self._waits

    @_waiter.setter
    def _waiter(self, waiter: asyncio.Future[None] | None) -> None:
        self._waits = waiter
        if waiter is not None and self._held:
            self._loop.call_soon(self._next)

    def _give(self, message: Any, payload: StreamReader) -> None:
        """Hand a message to aiohttp."""
        self._messages.append((message, payload))
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    # What an exchange tells…

    def answer(self, octets: bytes) -> None:
        if self.transport is not None:
            self.transport.write(octets)

    def answered(self, exchange: Exchange, *, stays_open: bool) -> None:
        self._done(exchange, counts=True)
        if stays_open:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            self._next()
        else:
            self.force_close()

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:
        self._done(exchange, counts=False)
        self.refusal = refusal, exchange.started
        self._give(exchange.message, exchange.payload)

    def broken(self, exchange: Exchange, *, until_close: bool) -> None:
        self._done(exchange, counts=True)
        if self.transport is not None:
            answers.break_off(self.transport, until_close=until_close)
        self.force_close()

    def _done(self, exchange: Exchange, *, counts: bool) -> None:
        exchange.ended(exchange, counts)
        self._exchange = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    # What the transport tells…

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        self._stop_send_timer()
        self._held.clear()
        exchange = self._exchange
        if exchange is not None:
            self._done(exchange, counts=False)
            exchange.leave()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.hold()
        if self.transport is not None:
            self._left = self.transport.get_write_buffer_size()
            self._send_timer = self._loop.call_later(self._server.send_s, self._look_at_client)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_send_timer()
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.go_on()
        elif self._exchange is None and self._held:
            self._next()

    def _look_at_client(self) -> None:
        """Cut off a client that has taken nothing since the last look."""
        if self.transport is None:
            return
        left = self.transport.get_write_buffer_size()
        if left >= self._left:
            self.transport.abort()
            return
        self._left = left
        self._send_timer = self._loop.call_later(self._server.send_s, self._look_at_client)

    def _process_keepalive(self) -> None:
        if self._exchange is not None:  # aiohttp takes the connection for idle
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None


class _Sieve:
    """aiohttp's request parser, with what it has read shown to the handler first."""

    __slots__ = ("_handler", "_parser", "message_consumed", "pause_reading", "set_upgraded")

    def __init__(self, parser: Any, handler: _Handler) -> None:
        self._parser = parser
        self._handler = handler
        self.message_consumed = parser.message_consumed
        self.pause_reading = parser.pause_reading
        self.set_upgraded = parser.set_upgraded

    def feed_data(self, data: bytes) -> tuple[Sequence[tuple[Any, StreamReader]], bool, bytes]:
        handler = self._handler
        try:
            messages, upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError as error:
            handler.failed(error)
            return (), False, b""
        if messages:
            return handler.sift(messages), upgraded, tail
        if data and not upgraded and handler.last_content.is_eof():
            handler.unfinished()
        return messages, upgraded, tail

    def feed_eof(self) -> Any:
        return self._parser.feed_eof()
