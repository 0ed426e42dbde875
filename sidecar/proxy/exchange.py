"""How does one request reach upstream, and its answer the client? An exchange joins the two connections.

The law: no task stands between. The connection to upstream writes the answer to the client in the callback that it came
in, and the client's connection writes the request's content likewise. A request is never sent twice, but for a safe one
without content on a pooled connection that upstream had closed meanwhile (RFC 9112 section 9.3.1). A client hears one
of three ends of its exchange: it was answered, refused before anything was answered, or broken off later.

This module knows neither end's connection, nor the pool: `ClientEnd`, `UpstreamEnd` and `Carrier` say what it needs of
them. Back-pressure: the end whose buffer is full stops the reading from the other. Held in memory is one read each way.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from sidecar.errors import Refusal
from sidecar.proxy import messages
from sidecar.proxy.answers import AnswerHead
from sidecar.proxy.messages import Request
from sidecar.proxy.states import EXCHANGE, ExchangeState


class ClientEnd(Protocol):
    """The client's connection, or a handler that waits for the answer: what an exchange needs of it."""

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


class UpstreamEnd(Protocol):
    """The connection to upstream: what an exchange needs of it, and the client while its exchange is there."""

    def send(self, octets: bytes) -> None:
        """Send more of the request."""

    def go_on_answering(self) -> None:
        """Answer what was held back until its status was heard."""

    def drop(self) -> None:
        """Close at once; the exchange on it hears no more."""

    def hold(self) -> None:
        """Read no more."""

    def read_on(self) -> None:
        """Read again."""


class Carrier(Protocol):
    """The pool of connections to upstream: what an exchange needs of it."""

    @property
    def read_timeout_s(self) -> float:
        """How long upstream may be silent."""

    def carry(self, exchange: "Exchange") -> None:
        """Send the request as soon as there is a connection for it."""


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
        "head",
        "is_sent",
        "may_repeat",
        "octets",
        "pool",
        "request",
        "request_id",
        "route",
        "started",
        "state",
        "upload",
        "upstream",
        "waits",
        "write_last_chunk",
    )

    def __init__(
        self,
        pool: Carrier,
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
        self.state: ExchangeState = "waiting"
        self.is_sent = True
        self.head: AnswerHead | None = None
        self.client: ClientEnd | None = None  # from `start` until the exchange has ended
        self.upstream: UpstreamEnd | None = None  # while a connection carries it
        self.upload: messages.Upload | None = None

    @property
    def status(self) -> int:
        """The final status; 0 while there is none."""
        return self.head.status if self.head is not None else 0

    @property
    def is_cut(self) -> bool:
        """True when the client did not get the whole answer."""
        return self.state in {"cut", "left"}

    def start(self, client: ClientEnd) -> None:
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
        """Answer the client, after a status that was held. Nothing if upstream has failed meanwhile."""
        if self.upstream is not None:
            self.upstream.go_on_answering()

    def leave(self) -> None:
        """The client has gone: upstream's connection goes with it."""
        self.state = EXCHANGE[self.state]["leave"]
        self.client = None
        if self.upstream is not None:
            self.upstream.drop()

    def refuse(self, refusal: Refusal) -> None:
        """Tell the client that it gets no answer."""
        self.state = EXCHANGE[self.state]["refuse"]
        client, self.client = self.client, None
        if client is not None:
            client.refused(self, refusal)

    def end(self, *, stays_open: bool) -> None:
        """Tell the client that its answer is whole."""
        self.state = EXCHANGE[self.state]["end"]
        client, self.client = self.client, None
        if client is not None:
            client.answered(self, stays_open=stays_open)

    def cut(self, reason: str) -> None:
        """Break off what has begun to be answered."""
        self.state = EXCHANGE[self.state]["cut"]
        client, self.client = self.client, None
        assert client is not None
        assert self.head is not None
        structlog.get_logger().info("answer_cut", status=self.status, reason=reason)
        client.broken(self, until_close=self.head.until_close)
