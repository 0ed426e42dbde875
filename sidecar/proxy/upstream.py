"""How does upstream's answer read, and reach the client? One connection to upstream, and the exchange on it.

The law: what upstream gets is one well-formed message with the client's method, target, fields and content, or nothing;
what the client gets is upstream's answer whole, or a message that is visibly broken. A connection carries one exchange
at a time, and goes back to its pool only after one that ended in good order. What upstream says unasked ends it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from sidecar.errors import Refusal
from sidecar.proxy import answers, messages
from sidecar.proxy.answers import AnswerHead
from sidecar.proxy.exchange import Carrier, Exchange
from sidecar.proxy.messages import HTTP_1_1, Content, UntilClose, Version
from sidecar.proxy.states import EXCHANGE, UPSTREAM, UpstreamState
from sidecar.proxy.websocket import tunnel
from sidecar.proxy.writes import Writes

# Below the five seconds after which Node and uvicorn close an idle connection: a request should not meet their FIN.
IDLE_S: Final = 4.0
# How often every connection's limits are looked at, at most: none is overrun by more.
LOOK_S: Final = 0.5
# The largest head that a connection remembers.
MAX_REMEMBERED: Final = 4 << 10


class Owner(Carrier, Protocol):
    """What a connection needs of its pool. `observe` is told the seconds from each request to its final status."""

    writes: Writes
    observe: Callable[[float], None]

    def add(self, upstream: "UpstreamConnection") -> None:
        """Count a connection that has been made, and look after its limits."""

    def put(self, upstream: "UpstreamConnection") -> None:
        """Take back a connection that may carry the next exchange of any client."""

    def bind(self, upstream: "UpstreamConnection", connection: Any) -> None:
        """Keep a connection for the next request of this client's connection, and for no other."""

    def forget(self, upstream: "UpstreamConnection") -> None:
        """Count a connection no more: it is closed."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to upstream.

    `is_used`: it was idle before, so upstream may have closed it meanwhile. `is_bound`: a client has authenticated
    itself on it, and it serves that client until it is closed. Reading is paused while the client does not take what it
    is answered, and while the exchange is held; writing, while upstream does not take what it is sent. `state` moves as
    `states.UPSTREAM` says.
    """

    __slots__ = (
        "_content",
        "_early_end",
        "_exchange",
        "_is_reading_paused",
        "_is_writing_paused",
        "_last_active",
        "_pool",
        "_remembered",
        "_sent",
        "_tail",
        "is_bound",
        "is_used",
        "state",
        "transport",
    )

    transport: asyncio.Transport  # set once the connection is open

    def __init__(self, pool: Owner) -> None:
        self.state: UpstreamState = "opening"
        self._pool = pool
        self._exchange: Exchange | None = None  # while it is active
        self._content: Content | None = None
        self._tail = b""  # what has come of a head, or behind one that is held
        self.is_used = self.is_bound = self._is_writing_paused = self._is_reading_paused = False
        self._early_end: tuple[Exception | None] | None = None  # how it was lost while its exchange was held
        # The last head and what was made of it: many answers in a row have the same.
        self._remembered: tuple[bytes, tuple[str, Version, bool], AnswerHead] | None = None
        self._last_active = self._sent = 0.0

    def carry(self, exchange: Exchange) -> None:
        """Send the request of an exchange, which the connection then carries until it has ended."""
        self.state = UPSTREAM[self.state]["carry"]
        exchange.state = EXCHANGE[exchange.state]["carry"]
        exchange.upstream = self
        self._exchange = exchange
        self._sent = self._last_active = time.perf_counter()
        self._pool.writes.put(self.transport, exchange.octets)
        client = exchange.client
        assert client is not None
        if client.writing_paused:
            self.pause_reading()  # the client has not taken the answer before this one
        if not exchange.is_sent:
            exchange.octets = b""
            if not self._is_writing_paused:
                client.take_content(now=True)

    def send(self, octets: bytes) -> None:
        """Send more of the request that it carries."""
        if octets:
            self._last_active = time.perf_counter()
            self._pool.writes.put(self.transport, octets)

    def is_open(self) -> bool:
        """True until the connection is closed, or its transport is about to be."""
        return self.state != "closed" and not self.transport.is_closing()

    def drop(self) -> None:
        """Close the connection at once; an exchange on it is told nothing more."""
        self._let_go()
        self.transport.abort()
        self._forget()

    def drop_if_idle(self) -> None:
        """Drop a bound connection whose client has gone, unless an exchange may go on without it, or a tunnel ends."""
        if self.state == "idle":
            self.drop()

    def pause_reading(self) -> None:
        """Read no more: the client does not take what came, or the answer is held."""
        if not self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on: the client takes more. No effect while the answer is held."""
        exchange = self._exchange
        if not self._is_reading_paused or (exchange is not None and exchange.state == "held"):
            return
        self._is_reading_paused = False
        self._last_active = time.perf_counter()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def look(self, now: float) -> None:
        """Close the connection if upstream has been silent, or it idle, for too long at `now` (time.perf_counter)."""
        exchange = self._exchange
        if exchange is None:
            if self.state == "idle" and not self.is_bound and now >= self._last_active + IDLE_S - LOOK_S:
                self.drop()
            return
        if self._is_waited_for(exchange):
            self._last_active = now
            return
        if now < self._last_active + self._pool.read_timeout_s:
            return
        if exchange.state == "answering":
            self.fail("silent")
        else:
            self.drop()
            exchange.refuse(Refusal("upstream_timeout", "read_timeout"))

    def _is_waited_for(self, exchange: Exchange) -> bool:
        """True when it is not upstream that is silent: the answer is held, or the client does not take, or not send."""
        assert exchange.client is not None
        return (
            exchange.state == "held"
            or exchange.client.writing_paused
            or (not exchange.is_sent and not self._is_writing_paused)
        )

    def fail(self, reason: str) -> None:
        """End the connection and its exchange: what upstream sends cannot be read on, for this reason."""
        exchange = self._exchange
        self.drop()
        if exchange is None:
            return
        if exchange.state == "answering":
            exchange.cut(reason)
        else:
            exchange.refuse(Refusal("upstream_unavailable", f"read:{reason}"))

    # What the transport tells…

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.state = UPSTREAM[self.state]["open"]
        self._last_active = time.perf_counter()
        self._pool.add(self)

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        if self._exchange is not None and self._exchange.client is not None and not self._exchange.is_sent:
            self._exchange.client.take_content(now=False)

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._last_active = time.perf_counter()
        if self._exchange is not None and self._exchange.client is not None and not self._exchange.is_sent:
            self._exchange.client.take_content(now=True)

    def data_received(self, data: bytes) -> None:
        self._last_active = time.perf_counter()
        exchange = self._exchange
        if exchange is None:
            self.drop()  # octets that answer no request
        elif exchange.state == "answering":
            self._pass_on(exchange, data, b"")
        elif exchange.state == "held":
            self._tail += data
            self.pause_reading()
        else:
            self._read_head(exchange, self._tail + data if self._tail else data)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self._exchange
        self._forget()
        if exchange is None:
            return
        if exchange.state == "held":
            self._early_end = (exc,)  # the exchange is told once it goes on
        elif exchange.state == "answering":
            if exc is None and isinstance(self._content, UntilClose):
                self._end(exchange, b"", b"", may_pool=False)
            else:
                self.fail("closed" if exc is None else "reset")
        else:
            self._let_go()
            if self.is_used and exchange.may_repeat and exchange.state == "carried":
                # RFC 9112 section 9.3.1: upstream had closed it before the request came.
                exchange.state = EXCHANGE[exchange.state]["repeat"]
                self._pool.carry(exchange)
            else:
                exchange.refuse(Refusal("upstream_unavailable", "read:closed"))

    # The answer…

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        """Read heads until the final one. RFC 9110 section 15.2."""
        asking = exchange.request
        # A client that waits to be invited, and is not, may never send its content: RFC 9110 section 10.1.1.
        keep_alive = asking.keep_alive and (exchange.is_sent or not asking.has_expectation)
        asked = asking.method, asking.version, keep_alive
        remembered = self._remembered
        if remembered is not None and data.startswith(remembered[0]) and remembered[1] == asked:
            self._begin(exchange, remembered[2], data[len(remembered[0]) :])
            return
        interim = b""
        exchange.state = EXCHANGE[exchange.state]["begin"]
        client = exchange.client
        assert client is not None
        try:
            while True:
                end = messages.end_of_answer_head(data)
                if not end:
                    self._tail = data
                    break
                answer = answers.read(data[:end])
                if answer.status >= 200 or answer.status == answers.SWITCHING:
                    head = answers.final(answer, asking, keep_alive=keep_alive)
                    if end <= MAX_REMEMBERED:
                        self._remembered = data[:end], asked, head
                    self._tail = b""
                    if interim:
                        client.answer(interim)
                    self._begin(exchange, head, data[end:])
                    return
                if asking.version == HTTP_1_1:
                    interim += answers.interim(answer)
                data = data[end:]
        except Refusal as refusal:
            self.drop()
            exchange.refuse(
                refusal
                if refusal.code == "upstream_unavailable"
                else Refusal("upstream_unavailable", f"malformed:{refusal.reason}")
            )
            return
        if interim:
            client.answer(interim)

    def _begin(self, exchange: Exchange, head: AnswerHead, rest: bytes) -> None:
        """Answer with the final head and the `rest` that came behind it, or hold them."""
        exchange.head = head
        self._pool.observe(self._last_active - self._sent)
        if exchange.holds_answer:
            exchange.state = EXCHANGE[exchange.state]["hold"]
            self._tail = rest
            if head.length != len(rest):  # one that came whole needs none of the four system calls of pause and resume
                self.pause_reading()
            assert exchange.client is not None
            exchange.client.status_received(exchange)
        else:
            self._answer(exchange, head, rest)

    def go_on_answering(self) -> None:
        """Give the client the answer that was held."""
        exchange, rest = self._exchange, self._tail
        self._tail = b""
        assert exchange is not None
        assert exchange.head is not None
        self._answer(exchange, exchange.head, rest)
        if self._early_end is not None:
            self.connection_lost(*self._early_end)
        elif exchange.client is not None and not exchange.client.writing_paused:
            self.resume_reading()

    def _answer(self, exchange: Exchange, head: AnswerHead, rest: bytes) -> None:
        exchange.state = EXCHANGE[exchange.state]["answer"]
        if head.status == answers.SWITCHING:
            self._switch(exchange, head, rest)
        elif head.length == len(rest) and not head.is_empty:  # most answers come whole
            self._end(exchange, head.octets + rest, b"", may_pool=head.may_pool)
        else:
            self._content = head.content()
            if self._content is None:
                self._end(exchange, head.octets, rest, may_pool=head.may_pool)
            else:
                self._pass_on(exchange, rest, head.octets)

    def _pass_on(self, exchange: Exchange, data: bytes, octets: bytes) -> None:
        """Give the client `octets`, and behind them what `data` holds of the content; end the exchange with that."""
        client, head, content = exchange.client, exchange.head, self._content
        assert client is not None
        assert head is not None
        assert content is not None
        try:
            piece, behind = content.feed(data)
            if head.is_chunked:
                if piece:
                    octets = b"%b%x\r\n%b\r\n" % (octets, len(piece), piece)
                if behind is not None:
                    octets += answers.last_chunk(content.trailers)
            elif piece:
                octets = octets + piece if octets else piece
        except Refusal as refusal:
            if octets:
                client.answer(octets)
            self.fail(refusal.reason)
            return
        if behind is None:
            if octets:
                client.answer(octets)
        else:
            self._end(exchange, octets, behind, may_pool=head.may_pool)

    def _end(self, exchange: Exchange, octets: bytes, behind: bytes, *, may_pool: bool) -> None:
        """End the exchange: `octets` make its answer whole. After any `behind` it the connection is not used again."""
        client, head = exchange.client, exchange.head
        assert client is not None
        assert head is not None
        if head.is_chunked and isinstance(self._content, UntilClose):
            octets += b"0\r\n\r\n"
        self._let_go()
        if octets:
            client.answer(octets)
        self.is_used = True
        self.is_bound = self.is_bound or head.binds_connection or exchange.request.fields.binds_connection
        if may_pool and not behind and exchange.is_sent and self.is_open():
            self.state = UPSTREAM[self.state]["end"]
            self.resume_reading()
            if self.is_bound:
                self._pool.bind(self, client.protocol)
            else:
                self._pool.put(self)
        else:
            self.drop()
        exchange.end(stays_open=head.stays_open)

    def _switch(self, exchange: Exchange, head: AnswerHead, greeting: bytes) -> None:
        """Pass on upstream's 101, and make a tunnel of both connections."""
        client = exchange.client
        assert client is not None
        theirs = client.transport
        if theirs is None or theirs.is_closing() or self.transport.is_closing():
            self.fail("closed")
            return
        self._let_go()
        self.state = UPSTREAM[self.state]["switch"]
        self._pool.writes.flush()
        self._is_reading_paused = False  # the tunnel reads
        tunnel(
            client.protocol,
            self,
            head.octets + greeting,
            client.take_early(),
            lambda: exchange.end(stays_open=False),
        )

    def _let_go(self) -> None:
        """Carry the exchange no longer."""
        if self._exchange is not None:
            self._exchange.upstream = None
        self._exchange = self._content = None
        self._tail = b""

    def _forget(self) -> None:
        """Count the connection for closed, in the pool too."""
        self.state = UPSTREAM[self.state]["close"]
        self._pool.forget(self)
