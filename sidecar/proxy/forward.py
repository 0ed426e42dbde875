"""What does upstream get of a request? Its head rewritten, its content as it comes or as it was read.

Two ways lead to `upstream`, with the same octets: `exchange` for a plain request, which its connection relays by
itself, and `sent` for one that was decided about, whose status somebody waits for before its client gets an octet.
"""

import asyncio
import secrets
import ssl
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, Self

import yarl

from sidecar.config.model import TlsClient, Upstream
from sidecar.errors import Refusal
from sidecar.hosts import Host
from sidecar.proxy import fields
from sidecar.proxy.answers import AnswerHead
from sidecar.proxy.client import NOBODY, Client, Trusted, is_trusted_peer, name
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.fields import Kept, Rules
from sidecar.proxy.listener import Connection
from sidecar.proxy.messages import (
    CRLF,
    Chunked,
    Content,
    Fields,
    RawFields,
    Request,
    Sized,
    UntilClose,
    read_answer,
)
from sidecar.proxy.pool import Pool
from sidecar.unreachable import why

# Safe in RFC 9110 section 9.2.1, so that a second try does nothing that the first might have done.
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Stands for the request's id in what is rewritten once: nobody can guess it.
_SOME_ID: Final = secrets.token_hex(16)
# How long an answer is held, once its status is known, for one who listens to its content.
HELD_S: Final = 2.0


def tls_context(tls: TlsClient) -> ssl.SSLContext:
    """Read [upstream.tls]: our own CA instead of the system's, and a certificate of our own. Raises OSError."""
    context = ssl.create_default_context(cafile=tls.ca or None)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    return context


class Listener(Protocol):
    """Who hears what upstream answers."""

    @property
    def codings(self) -> Container[bytes]:
        """The content codings that it can read."""

    def begin(self, fields: RawFields) -> None:
        """The answer has these fields."""

    def take(self, octets: bytes) -> bool:
        """Some of its content has come. False: no more is needed."""

    def end(self) -> None:
        """That was all of it."""


class Peer:
    """Who is at the other end of a client's connection, as long as it lasts and `owner` serves it."""

    __slots__ = ("_client", "_named_by", "_trusted", "fields", "ip", "is_trusted", "kept", "last", "owner", "scheme")

    def __init__(self, ip: str, scheme: str, trusted: Trusted, owner: object = None) -> None:
        self.owner = owner
        self.ip = ip
        self.scheme = scheme
        self.is_trusted = is_trusted_peer(ip, trusted)
        self.last: Rewritten | None = None
        self.fields: Fields | None = None  # of its last request, and what passes of them
        self.kept = Kept([])
        self._trusted = trusted
        self._client: Client | None = None
        self._named_by: Fields | None = None  # the fields by which `_client` was named

    def client(self, head: Fields) -> Client:
        """Name who asks: as before where the fields are, and where nobody but the peer can be meant."""
        before = self._named_by
        if self._client is None or not (
            before is head
            or (not self.is_trusted and before is not None and before.said.get(b"host") == head.said.get(b"host"))
        ):
            self._client = name(self.ip, head.said, self._trusted, self.scheme)
            self._named_by = head
        return self._client


class Rewritten:
    """A request's fields as upstream gets them, to be used again: many requests of a connection have the same.

    `theirs` and `ours` are octets; in between the two of `ours` stands X-Request-Id. All is before it where the client
    has its own, `request_id`.
    """

    __slots__ = ("client", "fields", "likeness", "ours", "request_id", "takes_trailers", "theirs")

    def __init__(
        self,
        request: Request,
        likeness: tuple[Any, ...],
        kept: Kept,
        client: Client,
        ours: tuple[bytes, bytes],
        theirs: bytes,
    ) -> None:
        self.fields = request.fields
        self.likeness = likeness
        self.takes_trailers = kept.takes_trailers
        self.client = client
        self.ours = ours
        self.request_id = kept.request_id
        self.theirs = theirs


class Forwarder:
    """The way to one upstream. `observe_upstream` is told the seconds until each status line."""

    def __init__(
        self,
        upstream: Upstream,
        observe_upstream: Callable[[float], None],
        identity_header: str,
        trusted: Trusted = NOBODY,
    ) -> None:
        """Raises OSError for unreadable TLS files."""
        self._upstream = upstream
        self._rules = Rules(identity_header)
        self._trusted = trusted
        self._path = upstream.url.removeprefix("unix:") if upstream.url.startswith("unix:") else ""
        self._url = yarl.URL("http://localhost" if self._path else upstream.url)
        self._tls = tls_context(upstream.tls) if self._url.scheme == "https" else None
        self._host = self._url.raw_authority.encode()
        self._peer = Host(self._url.host or "", self._url.port or 0)
        self.pool = Pool(
            self._dial,
            connect_timeout_s=upstream.connect_timeout,
            read_timeout_s=upstream.read_timeout,
            max_connections=upstream.max_connections,
            observe=observe_upstream,
        )

    async def close(self) -> None:
        """Drop every connection."""
        await self.pool.close()

    async def why_not(self) -> str:
        """Say why upstream takes no connection now; nothing when it does."""
        place = self._path or self._url.raw_authority
        try:
            await self.pool.reach()
        except OSError as error:
            return why(error, place)
        except ValueError:
            return f"no address of {place}"
        return ""

    def kept(self, request: Request, peer: Peer) -> Kept:
        """Return what passes of a request's fields while its content is not read, as before where they are the same."""
        if peer.fields is not request.fields:
            peer.kept = self._rules.keep(request, trusted_peer=peer.is_trusted)
            peer.fields = request.fields
        return peer.kept

    def rewritten(self, request: Request, peer: Peer) -> Rewritten:
        """Rewrite the fields of a plain request, or find that the last one's were the same."""
        last = peer.last
        # What of a request, beside its fields, decides how they are rewritten.
        likeness = request.version, request.authority, request.is_websocket
        if last is not None and last.fields is request.fields and last.likeness == likeness:
            return last
        kept, client = self.kept(request, peer), peer.client(request.fields)
        if (
            last is not None
            and last.client is client
            and not kept.request_id
            and not last.request_id
            and last.likeness == likeness
            and last.takes_trailers == kept.takes_trailers
        ):
            ours = last.ours
        else:
            octets = self._ours(request, client, kept.request_id or _SOME_ID, kept)
            before, _, after = (octets, b"", b"") if kept.request_id else octets.partition(_SOME_ID.encode())
            ours = before, after
        theirs = fields.theirs(request, kept, None, self._host)
        peer.last = Rewritten(request, likeness, kept, client, ours, theirs)
        return peer.last

    def exchange(
        self,
        request: Request,
        rewritten: Rewritten,
        *,
        request_id: str,
        route: str | None,
        ended: Callable[[Exchange, bool], None],
    ) -> Exchange:
        """Make a plain request ready to be relayed; its content is to be added. `request_id` is for one without."""
        before, after = rewritten.ours
        made = b"" if rewritten.request_id else request_id.encode()
        octets = b"".join((request.start, rewritten.theirs, before, made, after))
        return Exchange(
            self.pool,
            octets,
            request,
            may_repeat=request.method in _SAFE and not request.has_content,
            request_id=rewritten.request_id or request_id,
            client_ip=rewritten.client.ip,
            ended=ended,
            write_last_chunk=self._last_chunk if request.fields.chunked else None,
            route=route,
        )

    def sent(
        self,
        request: Request,
        connection: Connection,
        *,
        client: Client,
        request_id: str,
        body: bytes,
        extra: Sequence[tuple[bytes, bytes]] = (),
        listener: Listener | None = None,
    ) -> "Sent":
        """Make a request ready that was decided about, with its whole content; its connection waits for the answer.

        `extra` fields come after all others. A `listener` hears the content of a 2xx or 3xx before the client does: the
        answer is held for it, but for HELD_S at most, and then goes on while it still listens.
        """
        kept = self.kept(request, connection.peer)
        if listener is not None:
            kept = replace(kept, lines=fields.accepting(kept.lines, listener.codings))
        theirs = fields.theirs(request, kept, body, self._host)
        exchange = Exchange(
            self.pool,
            request.start + theirs + self._ours(request, client, request_id, kept, extra) + body,
            request,
            may_repeat=request.method in _SAFE and not body,
            request_id=request_id,
            client_ip=client.ip,
            ended=lambda _exchange, _counts: None,
            holds_answer=True,
        )
        return Sent(exchange, connection, listener)

    def _ours(
        self,
        request: Request,
        client: Client,
        request_id: str,
        kept: Kept,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """Write what we say of a request, and the end of its head."""
        said = fields.ours(request, client, request_id, takes_trailers=kept.takes_trailers)
        return fields.serialize([*said, *extra]) + CRLF

    def _last_chunk(self, trailers: RawFields) -> bytes:
        """Write the end of content in chunks, for upstream."""
        return b"0\r\n%b\r\n" % fields.serialize(self._rules.trailers(trailers))

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Make a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._path:
            return await loop.create_unix_connection(factory, self._path)
        name = (self._upstream.tls.server_name or self._url.host) if self._tls else None
        return await loop.create_connection(
            factory, sock=await self._peer.connect(), ssl=self._tls, server_hostname=name
        )


class _Ear:
    """What hears an answer's content in the octets that its client gets."""

    def __init__(self, head: AnswerHead, listener: Listener) -> None:
        self._listener = listener
        self._left_of_head = len(head.octets)
        self._content: Content | None = None
        self._heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        listener.begin(read_answer(head.octets).fields.raw)
        if head.is_chunked:
            self._content = Chunked()
        elif not head.is_empty and head.length != 0:
            self._content = UntilClose() if head.length is None else Sized(head.length)

    @property
    def has_heard(self) -> bool:
        """True when it needs no more."""
        return self._heard.done()

    async def heard_within(self, seconds: float) -> bool:
        """Wait until it needs no more, or the time is over; says which."""
        await asyncio.wait([self._heard], timeout=seconds)
        return self.has_heard

    def take(self, octets: bytes) -> None:
        head, self._left_of_head = self._left_of_head, max(0, self._left_of_head - len(octets))
        octets = octets[head:]
        if not octets or self._content is None or self.has_heard:
            return
        piece, behind = self._content.feed(octets)
        if piece and not self._listener.take(piece):
            self._heard.set_result(None)
        elif behind is not None:
            self._content = None
            self.end(is_whole=True)

    def end(self, *, is_whole: bool) -> None:
        """The answer has ended."""
        if self.has_heard:
            return
        if is_whole:
            self._listener.end()
        self._heard.set_result(None)


class Sent:
    """A request that was decided about, on its way: entering waits for upstream's final `status`.

    `relay` then gives the client the answer. Leaving without it drops upstream's connection. Raises
    Refusal(upstream_unavailable, upstream_timeout) while nothing of the answer is sent; later it is cut off, `is_cut`.
    """

    __slots__ = ("_broken_off", "_connection", "_ear", "_ended", "_exchange", "_held", "_listener", "_status")

    def __init__(self, exchange: Exchange, connection: Connection, listener: Listener | None) -> None:
        loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._connection = connection
        self._listener = listener
        self._status: asyncio.Future[int] = loop.create_future()
        self._ended: asyncio.Future[bool] = loop.create_future()
        self._ear: _Ear | None = None
        # While the answer is held: what has come of it, and how it was broken off.
        self._held: list[bytes] | None = None
        self._broken_off: bool | None = None

    @property
    def status(self) -> int:
        """The final status: 101 for a WebSocket."""
        return self._exchange.status

    @property
    def is_cut(self) -> bool:
        """True when the client did not get the whole answer."""
        return self.transport is None or self._exchange.is_cut

    async def __aenter__(self) -> Self:
        self._connection.relay(self._exchange)
        try:
            self._exchange.start(self)
            status = await self._status
            if self._listener is not None and 200 <= status < 400:
                await self._listen(self._exchange, self._listener)
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def relay(self) -> bool:
        """Give the client the answer; says whether its connection may take another request."""
        if self._ear is None:
            if self.transport is not None:
                self._exchange.go_on()
        else:
            self._ear = None
            self._let_go(self._exchange)
        if self.transport is None:  # the client has left
            return False
        return await self._ended

    def _leave(self) -> None:
        self._exchange.leave()
        self._connection.relayed()
        for heard in (self._status, self._ended):
            if not heard.cancel() and not heard.cancelled():
                heard.exception()  # known, or nobody waits for it any more

    async def _listen(self, exchange: Exchange, listener: Listener) -> None:
        """Have the content heard, the answer held for it; past HELD_S the client gets it while it is heard."""
        assert exchange.head is not None
        self._ear = _Ear(exchange.head, listener)
        self._held = []
        exchange.go_on()
        if self._ended.done():
            self._ear.end(is_whole=False)  # refused before it began; one that came whole has been heard by now
        if not await self._ear.heard_within(HELD_S):
            self._let_go(exchange)
            await self._ear.heard_within(exchange.pool.read_timeout_s)

    def _let_go(self, exchange: Exchange) -> None:
        """Give the client what was held, and all that follows as it comes."""
        held, self._held = self._held or [], None
        for octets in held:
            self._connection.answer(octets)
        if self._broken_off is not None:
            self._connection.break_off(until_close=self._broken_off)
        elif exchange.upstream is not None and not self.writing_paused:
            exchange.upstream.resume_reading()

    # What the exchange tells…

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._connection.transport

    @property
    def protocol(self) -> Connection:
        return self._connection

    @property
    def writing_paused(self) -> bool:
        """True also while the answer is held though all that is wanted of it has been heard."""
        if self._held is not None and self._ear is not None and self._ear.has_heard:
            return True
        return self.transport is not None and self._connection.writing_paused

    def answer(self, octets: bytes) -> None:
        if self._ear is not None:
            self._ear.take(octets)
        if self._held is None:
            self._connection.answer(octets)
            return
        self._held.append(octets)
        if self.writing_paused and self._exchange.upstream is not None:
            self._exchange.upstream.pause_reading()

    def take_content(self, *, now: bool) -> None:
        """Nothing: the content was sent with the head."""

    def status_received(self, exchange: Exchange) -> None:
        if not self._status.done():
            self._status.set_result(exchange.status)

    def answered(self, exchange: Exchange, *, stays_open: bool) -> None:
        if self._ear is not None:
            self._ear.end(is_whole=not exchange.is_cut)
        if not self._ended.done():
            self._ended.set_result(stays_open)

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:  # noqa: ARG002 - as the listener's
        if self._ear is not None:
            self._ear.end(is_whole=False)
        waited_for = self._ended if self._status.done() else self._status
        if not waited_for.done():
            waited_for.set_exception(refusal)

    def broken(self, exchange: Exchange, *, until_close: bool) -> None:
        self.answered(exchange, stays_open=False)  # first: the loss of the connection cancels who waits for it
        if self._held is not None:
            self._broken_off = until_close
            return
        self._connection.break_off(until_close=until_close)

    def lost(self, exchange: Exchange) -> None:
        """The client has gone. What was not yet heard of upstream is, as the handler may have something to settle."""
        if exchange.state == "answering" and self._ear is None:
            exchange.leave()
            self.answered(exchange, stays_open=False)

    def take_early(self) -> bytes:
        return self._connection.take_early()
