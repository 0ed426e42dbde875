"""What does upstream get of a request? Its head rewritten, its content as it comes or as it was read.

Two ways lead to `upstream`, with the same octets: `exchange` for a plain request, which its connection relays by
itself, and `forward` for one that a handler has decided about, and waits for.
"""

import asyncio
import secrets
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yarl
from aiohttp import web

from sidecar.config.model import TlsClient, Upstream
from sidecar.errors import Refusal
from sidecar.proxy import fields
from sidecar.proxy.client import Client
from sidecar.proxy.listener import Connection, Relayed
from sidecar.proxy.messages import HTTP_1_1, Fields, RawFields, Request, Version
from sidecar.proxy.upstream import Exchange, Pool

# Safe in RFC 9110 section 9.2.1, so that a second try does nothing that the first might have done.
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Stands for the request's id in what is rewritten once: nobody can guess it.
_SOME_ID: Final = secrets.token_hex(16)


def tls_context(tls: TlsClient) -> ssl.SSLContext:
    """Read [upstream.tls]: our own CA instead of the system's, and a certificate of our own. Raises OSError."""
    context = ssl.create_default_context(cafile=tls.ca or None)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    return context


def asked(request: web.BaseRequest) -> Request:
    """Return the request as it was read, of one that the listener gave to its handler."""
    connection: Any = request.protocol
    assert isinstance(connection, Connection)
    return connection.request


async def continue_100(request: web.BaseRequest) -> None:
    """Invite the content of a request whose client waits for it, before it is read here. RFC 9110 section 10.1.1."""
    if request.version >= HTTP_1_1 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@dataclass(frozen=True, slots=True, eq=False)
class Rewritten:
    """A request's fields as upstream gets them: `before` and `after` its X-Request-Id, all before where it has its own.

    Good for every request with the same fields and version on one connection.
    """

    fields: Fields
    version: Version
    client: Client
    request_id: str
    before: bytes
    after: bytes
    write_last_chunk: Callable[[RawFields], bytes] | None


class Forwarder:
    """The way to one upstream. `observe_upstream` is told the seconds until each status line."""

    def __init__(self, upstream: Upstream, observe_upstream: Callable[[float], None], identity_header: str) -> None:
        """Raises OSError for unreadable TLS files."""
        self._upstream = upstream
        self._identity_header = identity_header
        self._path = upstream.url.removeprefix("unix:") if upstream.url.startswith("unix:") else ""
        self._url = yarl.URL("http://localhost" if self._path else upstream.url)
        self._tls = tls_context(upstream.tls) if self._url.scheme == "https" else None
        self._host = self._url.raw_authority.encode()
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

    async def is_reachable(self) -> bool:
        """Return true if upstream takes a connection now."""
        return await self.pool.is_reachable()

    def rewritten(self, request: Request, client: Client) -> Rewritten:
        """Rewrite the fields of a plain request."""
        own_id = fields.request_id(request.fields.raw)
        passed = self._passed(request, client, own_id or _SOME_ID, None)
        before, _, after = (passed, b"", b"") if own_id else passed.partition(_SOME_ID.encode())
        return Rewritten(
            request.fields,
            request.version,
            client,
            own_id,
            before,
            after,
            self._last_chunk if request.fields.chunked else None,
        )

    def exchange(
        self,
        request: Request,
        rewritten: Rewritten,
        *,
        request_id: str,
        route: str | None,
        ended: Callable[[Exchange, bool], None],
    ) -> Exchange:
        """Make a plain request ready to be relayed; its content is to be added."""
        octets = rewritten.before
        if not rewritten.request_id:
            octets = b"%b%b%b" % (octets, request_id.encode(), rewritten.after)
        return Exchange(
            self.pool,
            request.start + octets,
            method=request.method,
            version=request.version,
            keep_alive=request.keep_alive,
            may_repeat=request.method in _SAFE and not request.has_content,
            is_websocket=request.is_websocket,
            request_id=request_id,
            client_ip=rewritten.client.ip,
            ended=ended,
            write_last_chunk=rewritten.write_last_chunk,
            route=route,
        )

    async def forward(
        self,
        request: web.BaseRequest,
        *,
        client: Client,
        request_id: str,
        body: bytes,
        extra: Sequence[tuple[bytes, bytes]] = (),
        on_status: Callable[[int], Awaitable[None]] | None = None,
    ) -> web.StreamResponse:
        """Send the request with a content that was read, relay the answer.

        `extra` fields come after all others. `on_status` is awaited once, with upstream's final status (101 for a
        WebSocket), before an octet of it is answered. Raises Refusal(upstream_unavailable, upstream_timeout) while
        nothing of the answer is sent; later the answer is cut off and returned all the same, for the log. Cancelled,
        it drops upstream's connection.
        """
        asking = asked(request)
        octets = asking.start + self._passed(asking, client, request_id, body, extra) + body
        exchange = Exchange(
            self.pool,
            octets,
            method=asking.method,
            version=asking.version,
            keep_alive=asking.keep_alive,
            may_repeat=asking.method in _SAFE and not body,
            is_websocket=asking.is_websocket,
            request_id=request_id,
            client_ip=client.ip,
            ended=lambda _exchange, _counts: None,
            waits=True,
        )
        connection: Any = request.protocol
        return await _Waiting(connection).relay(exchange, on_status)

    def _passed(
        self,
        request: Request,
        client: Client,
        request_id: str,
        body: bytes | None,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """Return the field lines that upstream gets."""
        passed = fields.to_upstream(
            request,
            client=client,
            request_id=request_id,
            identity_header=self._identity_header,
            body=body,
            host=self._host,
        )
        return fields.serialize([*passed, *extra])

    def _last_chunk(self, trailers: RawFields) -> bytes:
        """Write the end of content in chunks, for upstream."""
        passed = fields.trailers_to_upstream(trailers, identity_header=self._identity_header)
        return b"0\r\n" + fields.serialize(passed)

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Make a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._path:
            return await loop.create_unix_connection(factory, self._path)
        assert self._url.host is not None
        assert self._url.port is not None
        name = (self._upstream.tls.server_name or self._url.host) if self._tls else None
        return await loop.create_connection(
            factory, self._url.host, self._url.port, ssl=self._tls, server_hostname=name
        )


class _Waiting:
    """The client of an exchange that a handler waits for: its connection, and what the handler wants to hear."""

    def __init__(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._connection = connection
        self._status: asyncio.Future[int] = loop.create_future()
        self._ended: asyncio.Future[bool] = loop.create_future()

    async def relay(self, exchange: Exchange, on_status: Callable[[int], Awaitable[None]] | None) -> web.StreamResponse:
        self._connection.relay(exchange)
        try:
            exchange.start(self)
            status = await self._status
            if on_status is not None:
                await on_status(status)
            if self.transport is None:  # the client has left
                return Relayed(status, stays_open=False, is_cut=True)
            exchange.go_on()
            stays_open = await self._ended
            return Relayed(status, stays_open=stays_open, is_cut=exchange.is_cut)
        finally:
            exchange.leave()
            self._connection.relayed()

    # What the exchange tells…

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._connection.transport

    @property
    def protocol(self) -> Connection:
        return self._connection

    @property
    def writing_paused(self) -> bool:
        return self.transport is not None and self._connection.writing_paused

    def answer(self, octets: bytes) -> None:
        self._connection.answer(octets)

    def take_content(self, *, now: bool) -> None:
        """Nothing: the content was sent with the head."""

    def heard(self, exchange: Exchange) -> None:
        if not self._status.done():
            self._status.set_result(exchange.status)

    def answered(self, exchange: Exchange, *, stays_open: bool) -> None:  # noqa: ARG002 - as the listener's
        if not self._ended.done():
            self._ended.set_result(stays_open)

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:  # noqa: ARG002 - as above
        waited_for = self._ended if self._status.done() else self._status
        if not waited_for.done():
            waited_for.set_exception(refusal)

    def broken(self, exchange: Exchange, *, until_close: bool) -> None:
        self.answered(exchange, stays_open=False)  # first: the loss of the connection cancels who waits for it
        self._connection.break_off(until_close=until_close)

    def lost(self, exchange: Exchange) -> None:
        """The client has gone. What was not yet heard of upstream is, as the handler may have something to settle."""
        if not exchange.waits:
            exchange.is_cut = True
            exchange.leave()
            self.answered(exchange, stays_open=False)

    def take_early(self) -> bytes:
        return self._connection.take_early()
