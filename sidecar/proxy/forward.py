"""How does a request reach upstream, and its answer the client? Streamed both ways, nothing read, nothing added.

The law: what upstream gets is one well-formed message with the client's method, target, fields and content, or nothing;
what the client gets is upstream's answer whole, or a message that is visibly broken. No octet of either is decoded,
no redirect followed, no cookie kept. A request is never sent twice, but for a safe one without content on a pooled
connection that upstream had closed meanwhile (RFC 9112 section 9.3.1).

aiohttp gives the pool of connections, TLS and the parser of answers; heads are written here, because aiohttp's own
client and server would fold their octets to UTF-8, drop an empty query and add fields. Upstream's connection belongs
to one request at a time and is dropped, not pooled, whenever that request did not end in good order.

`forward` must be cancelled when the client leaves: `web.Server(…, handler_cancellation=True)`.
"""

import asyncio
import secrets
import ssl
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import aiohttp
import structlog
import yarl
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpVersion, HttpVersion11, RawRequestMessage, RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from sidecar.config.model import TlsClient, Upstream
from sidecar.errors import Refusal
from sidecar.proxy import answers, fields, websocket
from sidecar.proxy.client import Client
from sidecar.proxy.lean import IDLE_S, MAX_FIELD, Exchange, Pool

# Safe in RFC 9110 section 9.2.1, so that a second try does nothing that the first might have done.
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Stands for the request's id in what is rewritten once: nobody can guess it.
_SOME_ID: Final = secrets.token_hex(16)
# How often a silent upload is checked for content that could not be parsed, which aiohttp tells nobody.
_CHECK_S: Final = 2.0
# Everything that a connection can come to while upstream's answer is read.
_BROKEN: Final = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError, Refusal)

# How an exchange leaves upstream's connection: to be used again, to be closed once written out, or to be cut off.
_End = Literal["again", "close", "cut"]


def tls_context(tls: TlsClient) -> ssl.SSLContext:
    """Read [upstream.tls]: our own CA instead of the system's, and a certificate of our own. Raises OSError."""
    context = ssl.create_default_context(cafile=tls.ca or None)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    return context


async def continue_100(request: web.BaseRequest) -> None:
    """Invite the content of a request whose client waits for it, before it is read here. RFC 9110 section 10.1.1."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class Forwarder:
    """The way to one upstream. `observe_upstream` is told the seconds until each status line."""

    def __init__(self, upstream: Upstream, observe_upstream: Callable[[float], None]) -> None:
        """Raises OSError for unreadable TLS files."""
        self._upstream = upstream
        self._observe = observe_upstream
        self._path = upstream.url.removeprefix("unix:") if upstream.url.startswith("unix:") else ""
        self._url = yarl.URL("http://localhost" if self._path else upstream.url)
        self._tls = tls_context(upstream.tls) if self._url.scheme == "https" else None
        self._host = self._url.raw_authority.encode()
        self.pool = Pool(
            self._dial,
            connect_timeout_s=upstream.connect_timeout,
            read_timeout_s=upstream.read_timeout,
            observe=observe_upstream,
        )
        self._connector: aiohttp.BaseConnector | None = None
        self._key: aiohttp.ClientRequest | None = None
        self._seen: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def start(self) -> None:
        """Open the pool. Must run inside the loop; connects to nothing."""
        limit = self._upstream.max_connections
        if self._path:
            self._connector = aiohttp.UnixConnector(self._path, limit=limit, keepalive_timeout=IDLE_S)
        else:
            self._connector = aiohttp.TCPConnector(limit=limit, keepalive_timeout=IDLE_S)
        self._connector._factory = lambda: _Connection(asyncio.get_running_loop())  # type: ignore[assignment]  # noqa: SLF001 - the one place where it can be given
        # The connector asks a request where to connect to; this one is never sent.
        self._key = aiohttp.ClientRequest(
            "GET",
            self._url,
            loop=asyncio.get_running_loop(),
            ssl=self._tls or True,
            server_hostname=self._upstream.tls.server_name or None,
        )

    async def close(self) -> None:
        """Drop every connection."""
        await self.pool.close()
        if self._connector is not None:
            await self._connector.close()

    async def is_reachable(self) -> bool:
        """Return true if upstream takes a connection now."""
        try:
            connection = await self._connect()
        except Refusal:
            return False
        connection.release()
        return True

    async def forward(
        self,
        request: web.BaseRequest,
        *,
        client: Client,
        request_id: str,
        identity_header: str,
        body: bytes | None = None,
        extra: Sequence[tuple[bytes, bytes]] = (),
        on_status: Callable[[int], Awaitable[None]] | None = None,
    ) -> web.StreamResponse:
        """Send the request, relay the answer.

        `body` None streams the request's own content; else it is sent as it is. `extra` fields come after all others.
        `on_status` is awaited once, with upstream's final status (101 for a WebSocket), before an octet of it is
        answered. Raises Refusal(malformed_request, upstream_unavailable, upstream_timeout) while nothing of the
        answer is sent; later the answer is cut off and returned all the same, for the log.
        """
        head, octets = self._written(
            request.method,
            request.raw_path,
            request.version,
            request.raw_headers,
            client=client,
            request_id=request_id,
            identity_header=identity_header,
            body=body,
            extra=extra,
        )
        ask = _Ask(request, head, octets, body, on_status)
        while True:
            connection = await self._connect()
            protocol = connection.protocol
            assert protocol is not None
            is_pooled = protocol in self._seen
            self._seen.add(protocol)
            exchange = _Exchange(ask, protocol, self._upstream.read_timeout, self._observe)
            try:
                return await exchange.run()
            except Refusal:
                has_gone = isinstance(protocol.exception(), (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
                if not (is_pooled and has_gone and ask.may_repeat and not exchange.has_answer):
                    raise
            finally:
                if exchange.end == "again":
                    connection.release()
                else:
                    if exchange.end == "cut":
                        protocol.abort()
                    connection.close()

    def rewritten(self, message: RawRequestMessage, client: Client, identity_header: str) -> "Rewritten":
        """Rewrite the fields of a request, once for all that come with the same on one connection. Raises Refusal."""
        head, octets = self._written(
            message.method,
            message.path,
            message.version,
            message.raw_headers,
            client=client,
            request_id=_SOME_ID,
            identity_header=identity_header,
        )
        return Rewritten(
            method=message.method,
            version=message.version,
            raw=message.raw_headers,
            client_ip=client.ip,
            request_id=fields.request_id(message.raw_headers),
            has_authority=head.authority is not None,
            length=head.length,
            octets=octets[octets.index(b"\r\n") :],
        )

    def exchange(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        *,
        rewritten: "Rewritten",
        request_id: str,
        route: str | None,
        ended: Callable[[Exchange, bool], None],
    ) -> Exchange | None:
        """Make the same request ready for `lean`; None if it is none of the simple ones. Raises Refusal.

        Simple: no HEAD, no Upgrade, no expectation, no chunks, content that is whole by now, and no limit on how many
        connections there may be, as there are two pools.
        """
        if self._upstream.max_connections or message.method == "HEAD" or not payload.is_eof():
            return None
        if message.chunked or "Upgrade" in message.headers or "Expect" in message.headers:
            return None
        target = fields.origin_form(message.method, message.path)
        octets = b"%b %b HTTP/1.1%b" % (message.method.encode(), target, rewritten.octets)
        if not rewritten.request_id:
            octets = octets.replace(_SOME_ID.encode(), request_id.encode(), 1)
        if payload is not EMPTY_PAYLOAD:
            octets += payload.read_nowait(-1)
        return Exchange(
            method=message.method,
            version=message.version,
            keep_alive=not message.should_close,
            octets=octets,
            may_repeat=message.method in _SAFE and not rewritten.length,
            pool=self.pool,
            ended=ended,
            request_id=request_id,
            client_ip=rewritten.client_ip,
            route=route,
            started=time.perf_counter(),
        )

    def _written(
        self,
        method: str,
        raw_path: str,
        http_version: HttpVersion,
        raw: fields.RawFields,
        *,
        client: Client,
        request_id: str,
        identity_header: str,
        body: bytes | None = None,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> tuple[fields.Head, bytes]:
        """Return what the head says and the octets of the one that upstream gets. Raises Refusal."""
        version = (http_version.major, http_version.minor)
        head = fields.read_head(method, raw_path, version, raw)
        passed = fields.to_upstream(
            raw,
            client=client,
            request_id=fields.request_id(raw) or request_id,
            identity_header=identity_header,
            head=head,
            version=version,
            body=body,
            host=self._host,
        )
        return head, fields.serialize(b"%s %s HTTP/1.1" % (method.encode(), head.target), [*passed, *extra])

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Make a connection for `lean`. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._path:
            return await loop.create_unix_connection(factory, self._path)
        assert self._url.host is not None
        assert self._url.port is not None
        name = (self._upstream.tls.server_name or self._url.host) if self._tls else None
        return await loop.create_connection(
            factory, self._url.host, self._url.port, ssl=self._tls, server_hostname=name
        )

    async def _connect(self) -> Connection:
        """Take a connection from the pool, or a new one. Raises Refusal."""
        assert self._connector is not None, "start() comes first"
        assert self._key is not None
        connect_s, read_s = self._upstream.connect_timeout, self._upstream.read_timeout
        # With max_connections, a request may have to wait for another's end: as long as it would for upstream itself.
        timeout = aiohttp.ClientTimeout(connect=connect_s + read_s, sock_connect=connect_s)
        try:
            return await self._connector.connect(self._key, traces=[], timeout=timeout)
        except TimeoutError as error:
            raise Refusal("upstream_timeout", "connect_timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Refusal("upstream_unavailable", f"connect:{type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A request's fields as upstream gets them: `octets` is the head from the end of its first line on."""

    method: str
    version: HttpVersion
    raw: fields.RawFields
    client_ip: str
    request_id: str
    has_authority: bool
    length: int | None
    octets: bytes

    def is_for(self, message: RawRequestMessage) -> bool:
        """True when the message has the same fields, so that all but its target was judged and rewritten before."""
        return (
            self.raw == message.raw_headers
            and self.method == message.method
            and self.version == message.version
            and not self.has_authority
            and message.path.startswith("/")
        )


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request that is ready to leave: its head as octets; `body` None streams."""

    request: web.BaseRequest
    head: fields.Head
    octets: bytes
    body: bytes | None
    on_status: Callable[[int], Awaitable[None]] | None

    @property
    def streams(self) -> bool:
        return self.body is None and (self.head.chunked or bool(self.head.length))

    @property
    def may_repeat(self) -> bool:
        """True when sending it again does no harm and needs no octet that is gone."""
        return self.request.method in _SAFE and not self.streams and not self.body


class _Exchange:
    """One request and its answer on one connection; `end` says what the connection is good for afterwards."""

    def __init__(
        self, ask: _Ask, upstream: ResponseHandler, read_timeout_s: float, observe: Callable[[float], None]
    ) -> None:
        self.end: _End = "cut"
        self.has_answer = False
        self._ask = ask
        self._upstream = upstream
        self._read_timeout_s = read_timeout_s
        self._observe = observe

    async def run(self) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        started = loop.time()
        request = self._ask.request
        self._upstream.set_response_params(
            skip_payload=request.method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self._read_timeout_s,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
        )
        upload = loop.create_task(self._send())
        try:
            status, payload = await self._status()
            self._observe(loop.time() - started)
            answer = Answer(status, request)
            if self._ask.on_status is not None:
                await self._ask.on_status(status.code)
            if status.code == answers.SWITCHING:
                await self._switch(answer)
                return answer
            await self._relay(answer, payload)
            if upload.done() and upload.result() and not answer.is_cut and not self._upstream.should_close:
                self.end = "again"
            return answer
        finally:
            upload.cancel()
            await asyncio.wait([upload])

    # Sending the request…

    async def _send(self) -> bool:
        """Write the request. Returns true when it was sent whole; what stops it is told to the reader of the answer."""
        ask = self._ask
        writer = StreamWriter(self._upstream, asyncio.get_running_loop())
        try:
            await writer.write(ask.octets + (ask.body or b""))
            if ask.streams:
                if ask.head.chunked:
                    writer.enable_chunking()
                while piece := await self._next_piece():
                    async with asyncio.timeout(self._read_timeout_s):
                        await writer.write(piece)
                await writer.write_eof()
        except (Refusal, TimeoutError) as error:
            self._upstream.set_exception(error)
            return False
        except OSError as error:
            if self._upstream.is_connected():  # so it was the client that left
                self._upstream.set_exception(error)
            return False  # else upstream has gone, perhaps after an early answer: the reader knows
        self._upstream.start_timeout()
        return True

    async def _next_piece(self) -> bytes:
        """Return the next octets of the client's content, b"" at its end. Raises Refusal(malformed_request)."""
        request = self._ask.request
        while True:
            try:
                async with asyncio.timeout(_CHECK_S):
                    return await request.content.readany()
            except TimeoutError:
                # aiohttp queues a parser's error like a next message, and the content it broke never ends. Nothing else
                # can be queued behind a message whose content is still arriving.
                if request.protocol._messages:  # noqa: SLF001 - nowhere else to be seen
                    raise Refusal("malformed_request", "content", "The content breaks its own framing.") from None

    # Receiving the answer…

    async def _status(self) -> tuple[RawResponseMessage, StreamReader]:
        """Wait for the final status. Raises Refusal."""
        try:
            return await self._final()
        except TimeoutError as error:
            raise Refusal("upstream_timeout", "read_timeout") from error
        except Refusal:
            raise
        except _BROKEN as error:
            raise Refusal("upstream_unavailable", f"read:{type(error).__name__}") from error

    async def _final(self) -> tuple[RawResponseMessage, StreamReader]:
        """Pass interim answers on until the final one comes. RFC 9110 section 15.2."""
        request = self._ask.request
        while True:
            message, payload = await self._upstream.read()
            self.has_answer = True
            if message.code == answers.SWITCHING and not self._ask.head.is_websocket:
                raise Refusal("upstream_unavailable", "unasked_101")
            if message.code == answers.SWITCHING or message.code >= 200:
                return message, payload
            self._upstream.start_timeout()
            if request.version >= HttpVersion11:
                await request.writer.write(answers.head(message, fields.to_client(message.raw_headers)))

    async def _relay(self, answer: "Answer", payload: StreamReader) -> None:
        """Pass the content on as it comes. What breaks on the way breaks the answer too."""
        try:
            await answer.prepare(self._ask.request)
            while piece := await payload.readany():
                await answer.write(piece)
            await answer.write_eof()
        except _BROKEN as error:
            answer.cut()
            structlog.get_logger().info("answer_cut", status=answer.status, reason=type(error).__name__)

    async def _switch(self, answer: "Answer") -> None:
        """Pass upstream's 101 on, and everything after it untouched."""
        try:
            await websocket.tunnel(self._ask.request.protocol, self._upstream, answer.take_head())
            self.end = "close"
        except ConnectionError:
            answer.cut()


class Answer(web.StreamResponse):
    """Upstream's answer on its way to the client, framed anew: its head leaves as the octets that came."""

    def __init__(self, message: RawResponseMessage, request: web.BaseRequest) -> None:
        """Raises Refusal(upstream_unavailable) where the message cannot be framed anew for certain."""
        super().__init__(status=message.code)
        self.is_cut = False
        self._request = request
        self._is_sent = self._is_ended = False
        # After an Upgrade that is no WebSocket's, aiohttp's parser has lost what followed in the same segment.
        is_odd = any(key.lower() == b"upgrade" for key, _ in request.raw_headers)
        keep_alive = bool(request.keep_alive) and not is_odd
        self._head = answers.read(message, request.method, request.version, keep_alive=keep_alive)
        self._stays_open = self._head.stays_open

    @property
    def prepared(self) -> bool:
        return self._is_sent

    @property
    def keep_alive(self) -> bool:
        return self._stays_open

    def force_close(self) -> None:
        self._stays_open = False

    def take_head(self) -> bytes:
        """Give the head to who sends the rest himself; the connection is of no more use to aiohttp."""
        self._is_sent = self._is_ended = True
        self._stays_open = False
        return self._head.octets

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head, once."""
        if self._is_sent:
            return None
        self._is_sent = True
        await request.writer.write(self._head.octets)
        if self._head.is_chunked:
            request.writer.enable_chunking()
        return request.writer

    async def write(self, data: Any) -> None:
        if not self._head.is_empty:
            await self._request.writer.write(data)

    async def write_eof(self, data: bytes = b"") -> None:
        """End the message, once. aiohttp calls it last of all, so an answer that is cut is broken off here."""
        if self._is_ended:
            return
        self._is_ended = True
        if self.is_cut:
            self._break_off()
        else:
            await self._request.writer.write_eof(data)

    def cut(self) -> None:
        """Have the message broken off instead of ended, so that the client cannot take it for whole."""
        self.is_cut = self._is_sent = True
        self._is_ended = self._stays_open = False

    def _break_off(self) -> None:
        transport = self._request.transport
        if transport is None:
            return
        answers.break_off(transport, until_close=self._head.until_close)
        self._request.protocol.force_close()


class _Connection(ResponseHandler):
    """aiohttp's, but what breaks the connection breaks the content that is being read from it.

    Left alone, it ends content without a length cleanly on a reset, and never ends chunked content that is malformed.
    """

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        payload = self._payload
        super().set_exception(exc, *cause)
        if payload is not None and not payload.is_eof():
            payload.set_exception(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(aiohttp.ClientPayloadError("the connection was reset"))
        super().connection_lost(exc)
