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
    """What an exchange needs of the end that asked: the client's connection, or what decides about its request."""

    @property
    def protocol(self) -> Any:
        """The client's connection itself: a tunnel takes its transport over, and `bound` is upstream's one for it."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport of the client's connection; None once that is lost."""

    @property
    def writing_paused(self) -> bool:
        """True while the client does not take what was written to it."""

    def answer(self, octets: bytes) -> None:
        """Write octets of the answer to the client."""

    def take_content(self, *, now: bool) -> None:
        """Read on what the request still has to bring, or pause that."""

    def take_early(self) -> bytes:
        """Hand over what the client sent behind its request, which belongs to a tunnel; no more requests are read."""

    # What becomes of the exchange…

    def status_received(self, exchange: "Exchange") -> None:
        """Upstream's final status is known, and the answer is held: the client gets none of it before `go_on`."""

    def answered(self, exchange: "Exchange", *, stays_open: bool) -> None:
        """The answer is whole. `stays_open`: the client's connection may bring another request."""

    def refused(self, exchange: "Exchange", refusal: Refusal) -> None:
        """Upstream gives no final answer, for this reason."""

    def broken(self, exchange: "Exchange", *, until_close: bool) -> None:
        """The answer has begun and cannot be ended. `until_close`: the client takes it to end with the connection."""

    def lost(self, exchange: "Exchange") -> None:
        """The client's connection is lost, and the exchange is not over: called by that connection."""


class UpstreamEnd(Protocol):
    """What the connection to upstream lets an exchange, and the client's connection, do to it."""

    def send(self, octets: bytes) -> None:
        """Send more of the request."""

    def go_on_answering(self) -> None:
        """Give the client the answer that was held."""

    def drop(self) -> None:
        """Close the connection at once; the exchange on it is told nothing more."""

    def pause_reading(self) -> None:
        """Read no more of the answer: the client does not take it."""

    def resume_reading(self) -> None:
        """Read on, unless the answer is held."""


class Carrier(Protocol):
    """What an exchange needs of the pool of connections to upstream."""

    @property
    def read_timeout_s(self) -> float:
        """How long upstream may be silent."""

    def carry(self, exchange: "Exchange") -> None:
        """Send the request as soon as there is a connection for it."""


class Exchange:
    """One request on its way, and its answer.

    `octets`: the head as upstream gets it, and the content that has come before a connection carries it. `is_sent`: no
    more of the content will come. `may_repeat`: the request may be sent a second time. `holds_answer`: at upstream's
    final status the answer is held until `go_on`. `ended(exchange, counts)` is called once, by the client's connection
    when the exchange is over; `counts` is False where a refusal is yet to be answered and told of. `upload` looks at
    the content on its way, where a form may name another path. `state` moves as `states.EXCHANGE` says.
    """

    __slots__ = (
        "client",
        "client_ip",
        "ended",
        "head",
        "holds_answer",
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
        holds_answer: bool = False,
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
        self.holds_answer = holds_answer
        self.started = time.perf_counter()
        self.state: ExchangeState = "waiting"
        self.is_sent = True
        self.head: AnswerHead | None = None
        self.client: ClientEnd | None = None  # from `start` until the exchange has ended
        self.upstream: UpstreamEnd | None = None  # while a connection carries it
        self.upload: messages.Upload | None = None

    @property
    def status(self) -> int:
        """Upstream's final status; 0 while there is none."""
        return self.head.status if self.head is not None else 0

    @property
    def is_cut(self) -> bool:
        """True when the client did not get the whole answer."""
        return self.state in {"cut", "left"}

    def start(self, client: ClientEnd) -> None:
        """Have the request carried to upstream, and its answer to this client. Called once."""
        self.client = client
        self.pool.carry(self)

    def frame(self, piece: bytes, trailers: messages.RawFields, *, is_end: bool) -> bytes:
        """Return a piece of the request's content as upstream gets it: in chunks, if it came in chunks."""
        if self.write_last_chunk is None:
            return piece
        octets = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        return octets + self.write_last_chunk(trailers) if is_end else octets

    def send(self, octets: bytes, *, is_end: bool) -> None:
        """Send more of the request; `is_end` with its last octets."""
        self.is_sent = is_end
        if self.upstream is not None:
            self.upstream.send(octets)
        else:
            self.octets += octets  # no connection carries it yet

    def go_on(self) -> None:
        """Give the client the answer that was held. Does nothing if upstream has failed meanwhile."""
        if self.upstream is not None:
            self.upstream.go_on_answering()

    def leave(self) -> None:
        """Give up an exchange whose client has gone: upstream's connection is dropped. No effect once it is over."""
        self.state = EXCHANGE[self.state]["leave"]
        self.client = None
        if self.upstream is not None:
            self.upstream.drop()

    def refuse(self, refusal: Refusal) -> None:
        """Tell the client that upstream gives no answer; nobody, if it has gone."""
        self.state = EXCHANGE[self.state]["refuse"]
        client, self.client = self.client, None
        if client is not None:
            client.refused(self, refusal)

    def end(self, *, stays_open: bool) -> None:
        """Tell the client that its answer is whole; nobody, if it has gone."""
        self.state = EXCHANGE[self.state]["end"]
        client, self.client = self.client, None
        if client is not None:
            client.answered(self, stays_open=stays_open)

    def cut(self, reason: str) -> None:
        """Tell the client that its answer is broken off, and log why."""
        self.state = EXCHANGE[self.state]["cut"]
        client, self.client = self.client, None
        assert client is not None
        assert self.head is not None
        structlog.get_logger().info("answer_cut", status=self.status, reason=reason)
        client.broken(self, until_close=self.head.until_close)
