"""How does one request reach upstream, and its answer the client? Both ends' connections write into each other.

The law: what upstream gets is one well-formed message with the client's method, target, fields and content, or nothing;
what the client gets is upstream's answer whole, or a message that is visibly broken. No task stands between: an answer
is written to the client from the callback that it came in. A request is never sent twice, but for a safe one without
content on a pooled connection that upstream had closed meanwhile (RFC 9112 section 9.3.1). A connection carries one
exchange at a time, and is pooled only after one that ended in good order. One on which a client authenticates itself
for more than one request (NTLM, Negotiate) is never pooled: it is bound to that client's connection, and ends with it.

Back-pressure: the end whose buffer is full stops the reading from the other. Held in memory is one read each way.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import structlog

from sidecar.errors import Refusal
from sidecar.proxy import answers, messages
from sidecar.proxy.answers import AnswerHead
from sidecar.proxy.messages import HTTP_1_1, Content, Request, UntilClose, Version
from sidecar.proxy.websocket import tunnel
from sidecar.proxy.writes import Writes

# Below the five seconds after which Node and uvicorn close an idle connection: a request should not meet their FIN.
IDLE_S: Final = 4.0
# How often every connection's limits are looked at, at most: none is overrun by more.
LOOK_S: Final = 0.5
# The largest head that a connection remembers.
MAX_REMEMBERED: Final = 4 << 10


class Client(Protocol):
    """The end that asked: what an exchange needs of it."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Its transport; None when it has gone."""

    @property
    def writing_paused(self) -> bool:
        """True while its buffer is full."""

    def answer(self, octets: bytes) -> None:
        """Write to the client."""

    def take_content(self, *, now: bool) -> None:
        """Have it read on, or not, what the request still has to bring."""

    def heard(self, exchange: "Exchange") -> None:
        """The final status is known, and waited for: nothing of it is answered before `exchange.go_on()`."""

    def answered(self, exchange: "Exchange", *, stays_open: bool) -> None:
        """The exchange has ended well."""

    def refused(self, exchange: "Exchange", refusal: Refusal) -> None:
        """Nothing was answered and nothing will be."""

    def broken(self, exchange: "Exchange", *, until_close: bool) -> None:
        """The answer has begun and cannot be ended."""

    def lost(self, exchange: "Exchange") -> None:
        """Its connection has gone."""

    @property
    def protocol(self) -> Any:
        """Who is told what becomes of its transport."""

    def take_early(self) -> bytes:
        """Give what the client sent behind its request: a tunnel's first octets."""


class Exchange:
    """One request on its way, and its answer.

    `octets` is what upstream gets of it so far: the head, and the content as far as it has come; `is_sent` is True when
    that is all. `waits`: the client wants to hear the status before anything is answered. `ended` is called once, with
    False if nothing was answered and the client waits for a refusal; `status` is 0 where the client left before that.
    `upload` looks at the content on its way, if somebody must.
    """

    __slots__ = (
        "client",
        "client_ip",
        "ended",
        "has_answer",
        "head",
        "is_cut",
        "is_sent",
        "may_repeat",
        "octets",
        "pool",
        "request",
        "request_id",
        "route",
        "started",
        "upload",
        "upstream",
        "waits",
        "write_last_chunk",
    )

    def __init__(
        self,
        pool: "Pool",
        octets: bytes,
        request: Request,
        *,
        may_repeat: bool,
        request_id: str,
        client_ip: str,
        ended: "Callable[[Exchange, bool], None]",
        write_last_chunk: Callable[[messages.RawFields], bytes] | None = None,
        route: str | None = None,
        waits: bool = False,
    ) -> None:
        self.pool = pool
        self.octets = octets
        self.request = request
        self.may_repeat = may_repeat
        self.request_id = request_id
        self.client_ip = client_ip
        self.ended = ended
        self.write_last_chunk = write_last_chunk
        self.route = route
        self.waits = waits
        self.started = time.perf_counter()
        self.is_sent = True
        self.has_answer = False
        self.is_cut = False
        self.head: AnswerHead | None = None
        self.client: Client | None = None
        self.upstream: _Upstream | None = None
        self.upload: messages.Upload | None = None

    @property
    def status(self) -> int:
        """The final status; 0 while there is none."""
        return self.head.status if self.head is not None else 0

    def start(self, client: Client) -> None:
        """Send it on a pooled connection, or on a new one."""
        self.client = client
        self.pool.carry(self)

    def frame(self, piece: bytes, trailers: messages.RawFields, *, is_end: bool) -> bytes:
        """Frame a piece of the request's content as upstream gets it."""
        if self.write_last_chunk is None:
            return piece
        octets = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        return octets + self.write_last_chunk(trailers) if is_end else octets

    def send(self, octets: bytes, *, is_end: bool) -> None:
        """Send more of the request."""
        self.is_sent = is_end
        if self.upstream is not None:
            self.upstream.send(octets)
        else:
            self.octets += octets  # it came before its hold

    def go_on(self) -> None:
        """Answer what was heard."""
        self.waits = False
        if self.upstream is not None:
            self.upstream.go_on_answering()

    def leave(self) -> None:
        """The client has gone: upstream's connection goes with it."""
        self.client = None
        if self.upstream is not None:
            self.upstream.drop()

    def refuse(self, refusal: Refusal) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.refused(self, refusal)

    def cut(self, reason: str) -> None:
        """Break off what has begun to be answered."""
        client, self.client = self.client, None
        if client is not None and self.head is not None:
            self.is_cut = True
            structlog.get_logger().info("answer_cut", status=self.status, reason=reason)
            client.broken(self, until_close=self.head.until_close)


class Pool:
    """The connections to one upstream, and the way to new ones."""

    def __init__(
        self,
        connect: Callable[[Callable[[], asyncio.Protocol]], Any],
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        max_connections: int,
        observe: Callable[[float], None],
    ) -> None:
        """Must run inside the loop.

        `connect` makes a connection for a protocol factory; `observe` is told the seconds until each status.
        """
        self.read_timeout_s = read_timeout_s
        self.writes = Writes()
        self.observe = observe
        self.all: set[_Upstream] = set()
        self._idle: list[_Upstream] = []
        self._bound: dict[_Upstream, None] = {}  # idle, and bound to a client's connection; the longest first
        self._connect = connect
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, Exchange]] = deque()
        self._look_s = min(LOOK_S, read_timeout_s / 4)
        self._looking: asyncio.TimerHandle | None = None

    def carry(self, exchange: Exchange) -> None:
        """Send the request on the connection bound to its client, on the one used last, or on a new one."""
        bound = exchange.client.protocol.bound if exchange.client is not None else None
        if bound is not None and bound.is_open():
            self._bound.pop(bound, None)
            bound.carry(exchange)
            return
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if upstream.is_open():
                upstream.carry(exchange)
                return
        if self._max_connections and len(self.all) + len(self._opening) >= self._max_connections:
            # As long as it would wait for upstream itself.
            until = asyncio.get_running_loop().time() + self._connect_timeout_s + self.read_timeout_s
            self._waiting.append((until, exchange))
            if self._bound:
                # Its client authenticates itself anew; without this, clients that are idle could shut all others out.
                next(iter(self._bound)).drop()
            return
        self._begin(self._open(exchange))

    async def reach(self) -> None:
        """Make a connection to upstream and close it. Raises OSError, and ValueError for a name that is none."""
        async with asyncio.timeout(self._connect_timeout_s):
            transport, _ = await self._connect(asyncio.Protocol)
        transport.abort()

    def put(self, upstream: "_Upstream") -> None:
        """Take back a connection that may be used again."""
        while self._waiting:
            _, exchange = self._waiting.popleft()
            if exchange.client is not None:
                upstream.carry(exchange)
                return
        self._idle.append(upstream)

    def bind(self, upstream: "_Upstream", connection: Any) -> None:
        """Keep a connection for the next request of the client's connection."""
        if connection.transport is None:
            upstream.drop()
            return
        connection.bound = upstream
        if self._waiting:
            upstream.drop()
        else:
            self._bound[upstream] = None

    def add(self, upstream: "_Upstream") -> None:
        self.all.add(upstream)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(self._look_s, self._look)

    def forget(self, upstream: "_Upstream") -> None:
        """A connection has gone: whoever waits may have a new one."""
        self.all.discard(upstream)
        self._bound.pop(upstream, None)
        if upstream in self._idle:
            self._idle.remove(upstream)
        self._open_for_waiting()

    async def close(self) -> None:
        """Drop every connection, and wait until they are."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        while self._waiting:
            self._waiting.popleft()[1].refuse(Refusal("upstream_unavailable", "connect:closing"))
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for upstream in list(self.all):
            upstream.fail("closing")

    def _begin(self, opening: Any) -> None:
        task = asyncio.create_task(opening)
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._open_for_waiting()

    def _open_for_waiting(self) -> None:
        while self._waiting and len(self.all) + len(self._opening) < self._max_connections:
            _, exchange = self._waiting.popleft()
            if exchange.client is not None:
                self._begin(self._open(exchange))

    async def _open(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, upstream = await self._connect(lambda: _Upstream(self))
        except asyncio.CancelledError:
            exchange.refuse(Refusal("upstream_unavailable", "connect:closing"))
            raise
        except TimeoutError:
            exchange.refuse(Refusal("upstream_timeout", "connect_timeout"))
        except (OSError, ValueError) as error:  # ValueError: a name that is none
            exchange.refuse(Refusal("upstream_unavailable", f"connect:{type(error).__name__}"))
        else:
            if not upstream.is_open():
                exchange.refuse(Refusal("upstream_unavailable", "connect:closed"))
            elif exchange.client is None:
                upstream.is_used = True  # its client has left meanwhile; upstream may end it before the next comes
                self.put(upstream)
            else:
                upstream.carry(exchange)

    def _look(self) -> None:
        """Look at every connection's limits, and at who has waited too long for one."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for upstream in list(self.all):
            upstream.look(now)
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].client is None):
            self._waiting.popleft()[1].refuse(Refusal("upstream_timeout", "connect_timeout"))
        self._looking = loop.call_later(self._look_s, self._look) if self.all or self._waiting else None


class _Upstream(asyncio.Protocol):
    """One connection to upstream."""

    __slots__ = (
        "_content",
        "_early_end",
        "_exchange",
        "_heard",
        "_is_full",
        "_is_held",
        "_known",
        "_loop",
        "_pool",
        "_sent",
        "_tail",
        "is_bound",
        "is_used",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._exchange: Exchange | None = None
        self._content: Content | None = None
        self._tail = b""  # what has come of a head, or behind one that is waited for
        self.is_used = self.is_bound = self._is_full = self._is_held = False
        self._early_end: tuple[Exception | None] | None = None
        # The last head and what was made of it: many answers in a row have the same.
        self._known: tuple[bytes, tuple[str, Version, bool], AnswerHead] | None = None
        self._heard = self._sent = 0.0

    def carry(self, exchange: Exchange) -> None:
        """Send a request."""
        assert self.transport is not None
        exchange.upstream = self
        self._exchange = exchange
        self._heard = self._loop.time()
        self._sent = time.perf_counter()
        self._pool.writes.put(self.transport, exchange.octets)
        if exchange.client is not None and exchange.client.writing_paused:
            self.hold()  # it has not taken the answer before this one
        if not exchange.is_sent:
            exchange.octets = b""
            if exchange.client is not None and not self._is_full:
                exchange.client.take_content(now=True)

    def send(self, octets: bytes) -> None:
        """Send more of the request."""
        if octets and self.transport is not None:
            self._heard = self._loop.time()
            self._pool.writes.put(self.transport, octets)

    def is_open(self) -> bool:
        """True while a request may be sent on it."""
        return self.transport is not None and not self.transport.is_closing()

    def drop(self) -> None:
        """Close at once; the exchange on it hears no more."""
        self._let_go()
        if self.transport is not None:
            self.transport.abort()
        self._pool.forget(self)

    def drop_if_idle(self) -> None:
        """The client that it is bound to has gone; a request on it may still have something to be heard for."""
        if self._exchange is None:
            self.drop()

    def hold(self) -> None:
        """Read no more: the client's buffer is full, or the gate has yet to hear the status."""
        if self.transport is not None and not self._is_held and not self.transport.is_closing():
            self._is_held = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """The client has room again."""
        exchange = self._exchange
        if not self._is_held or (exchange is not None and exchange.waits and exchange.head is not None):
            return
        self._is_held = False
        self._heard = self._loop.time()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def look(self, now: float) -> None:
        """End what has been silent for too long."""
        exchange = self._exchange
        if exchange is None:
            if now >= self._heard + IDLE_S - LOOK_S and not self.is_bound:
                self.drop()
            return
        if self._is_waited_for(exchange):
            self._heard = now
            return
        if now < self._heard + self._pool.read_timeout_s:
            return
        if exchange.head is None:
            self.drop()
            exchange.refuse(Refusal("upstream_timeout", "read_timeout"))
        else:
            self.fail("silent")

    def _is_waited_for(self, exchange: Exchange) -> bool:
        """True when upstream has no part in the silence: the client does not take or send, or the gate decides."""
        if exchange.waits and exchange.head is not None:
            return True
        if exchange.client is not None and exchange.client.writing_paused:
            return True
        return not exchange.is_sent and not self._is_full

    def fail(self, reason: str) -> None:
        """What upstream says cannot be read on."""
        exchange = self._exchange
        self.drop()
        if exchange is None:
            return
        if exchange.head is None or exchange.waits:
            exchange.refuse(Refusal("upstream_unavailable", f"read:{reason}"))
        else:
            exchange.cut(reason)

    # What the transport tells…

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._heard = self._loop.time()
        self._pool.add(self)

    def pause_writing(self) -> None:
        self._is_full = True
        if self._exchange is not None and self._exchange.client is not None and not self._exchange.is_sent:
            self._exchange.client.take_content(now=False)

    def resume_writing(self) -> None:
        self._is_full = False
        self._heard = self._loop.time()
        if self._exchange is not None and self._exchange.client is not None and not self._exchange.is_sent:
            self._exchange.client.take_content(now=True)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        exchange = self._exchange
        if exchange is None:
            self.drop()  # nobody asked
        elif exchange.head is None or exchange.waits:
            self._read_head(exchange, self._tail + data if self._tail else data)
        else:
            self._pass_on(exchange, data, b"")

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.waits and exchange.head is not None:
            self._early_end = (exc,)  # told when what came before it is
            return
        self.transport = None
        self._pool.forget(self)
        if exchange is None:
            return
        if exchange.head is None:
            self._let_go()
            if self.is_used and exchange.may_repeat and not exchange.has_answer:
                # RFC 9112 section 9.3.1: upstream had closed it before the request came.
                exchange.upstream = None
                self._pool.carry(exchange)
            else:
                exchange.refuse(Refusal("upstream_unavailable", "read:closed"))
        elif exc is None and isinstance(self._content, UntilClose):
            self._end(exchange, b"", b"", may_pool=False)
        else:
            self.fail("closed" if exc is None else "reset")

    # The answer…

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        """Read heads until the final one. RFC 9110 section 15.2."""
        asking = exchange.request
        # A client that waits to be invited, and is not, may never send its content: RFC 9110 section 10.1.1.
        keep_alive = asking.keep_alive and (exchange.is_sent or not asking.has_expectation)
        asked = asking.method, asking.version, keep_alive
        known = self._known
        if exchange.head is not None:
            self._tail = data  # it is waited for
            return
        if known is not None and data.startswith(known[0]) and known[1] == asked:
            self._begin(exchange, known[2], data[len(known[0]) :])
            return
        interim = b""
        exchange.has_answer = True
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
                        self._known = data[:end], asked, head
                    self._tail = b""
                    if interim and exchange.client is not None:
                        exchange.client.answer(interim)
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
        if interim and exchange.client is not None:
            exchange.client.answer(interim)

    def _begin(self, exchange: Exchange, head: AnswerHead, rest: bytes) -> None:
        """The final head has come, and `rest` behind it."""
        exchange.head = head
        exchange.has_answer = True
        self._pool.observe(time.perf_counter() - self._sent)
        if exchange.waits:
            self._tail = rest
            self.hold()
            if exchange.client is not None:
                exchange.client.heard(exchange)
            else:
                self.drop()
            return
        self._answer(exchange, head, rest)

    def go_on_answering(self) -> None:
        """Answer what was held back until its status was heard."""
        exchange, rest = self._exchange, self._tail
        self._tail = b""
        assert exchange is not None
        assert exchange.head is not None
        if exchange.client is None:
            self.drop()
            return
        self._answer(exchange, exchange.head, rest)
        if self._early_end is not None:
            self.connection_lost(*self._early_end)
        elif exchange.client is not None and not exchange.client.writing_paused:
            self.read_on()

    def _answer(self, exchange: Exchange, head: AnswerHead, rest: bytes) -> None:
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
        """Pass on what has come of the content, behind `octets`; end the exchange with it."""
        client, head, content = exchange.client, exchange.head, self._content
        if client is None or head is None or content is None:
            self.drop()
            return
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
        """The answer is whole with `octets`. What comes `behind` it makes the connection useless, not the answer."""
        client, head = exchange.client, exchange.head
        assert head is not None
        if head.is_chunked and isinstance(self._content, UntilClose):
            octets += b"0\r\n\r\n"
        self._let_go()
        self.is_used = True
        if client is None:
            self.drop()
            return
        if octets:
            client.answer(octets)
        self.is_bound = self.is_bound or head.binds_connection or exchange.request.fields.binds_connection
        if may_pool and not behind and exchange.is_sent and self.is_open():
            self.read_on()
            if self.is_bound:
                self._pool.bind(self, client.protocol)
            else:
                self._pool.put(self)
        else:
            self.drop()
        exchange.client = None
        client.answered(exchange, stays_open=head.stays_open)

    def _switch(self, exchange: Exchange, head: AnswerHead, greeting: bytes) -> None:
        """Pass upstream's 101 on, and everything after it untouched."""
        client, ours = exchange.client, self.transport
        assert client is not None
        theirs = client.transport
        if theirs is None or theirs.is_closing() or ours is None or ours.is_closing():
            self.fail("closed")
            return

        def ended() -> None:
            exchange.client = None
            client.answered(exchange, stays_open=False)

        self._let_go()
        self._pool.writes.flush()
        self._is_held = False  # the tunnel reads
        self._heard = math.inf  # and may be silent
        tunnel(client.protocol, self, head.octets + greeting, client.take_early(), ended)

    def _let_go(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream = None
        self._exchange = self._content = None
        self._tail = b""
