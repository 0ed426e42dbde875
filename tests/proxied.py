"""A sidecar that does nothing but pass, as the gate does it: name the client, forward, render what was refused."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from aiohttp import web
from fakes import RawClient

from sidecar.config.model import TlsClient, Upstream
from sidecar.errors import Refusal
from sidecar.proxy import client as proxy_client
from sidecar.proxy import fields, listener
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.forward import Forwarder, Listener, Peer, asked, continue_100
from sidecar.proxy.messages import MAX_HEAD, RawFields, Request
from sidecar.proxy.proxy_protocol import Acceptor

# Whether a request is relayed by its connection, or by a handler that has read it: `engine` in conftest runs on both.
RELAYS = True


@dataclass(slots=True)
class Passing:
    """A running pass-through."""

    port: int
    path: str = ""
    refusals: list[Refusal] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    observed: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    on_status: Callable[[int], Awaitable[None]] | None = None
    hears: Listener | None = None
    relays: bool = True
    relayed: int = 0
    handles: Callable[[Request], bool] = lambda _request: False
    extra: Sequence[tuple[bytes, bytes]] = ()

    def client(self, tls: ssl.SSLContext | None = None) -> RawClient:
        return RawClient(self.port, path=self.path, tls=tls)


@asynccontextmanager
async def passing(
    url: str,
    *,
    path: str = "",
    tls_listen: ssl.SSLContext | None = None,
    heralds: Sequence[str] = (),
    trusted: Sequence[str] = (),
    tls: TlsClient | None = None,
    read_timeout: float = 5.0,
    connect_timeout: float = 2.0,
    max_connections: int = 0,
    max_head: int = MAX_HEAD,
    keep_alive_s: float = listener.KEEP_ALIVE_S,
    head_s: float = listener.HEAD_S,
    send_s: float = listener.SEND_S,
    content_s: float = listener.CONTENT_S,
) -> AsyncIterator[Passing]:
    """Run one in front of the upstream at `url`, on a free port or the unix socket at `path`.

    `heralds` send a PROXY protocol header before all else.
    """
    running = Passing(0, path, relays=RELAYS)
    scheme = "https" if tls_listen else "http"
    networks = [ip_network(network) for network in trusted]
    forwarder = Forwarder(
        Upstream(
            url=url,
            tls=tls or TlsClient(),
            read_timeout=read_timeout,
            connect_timeout=connect_timeout,
            max_connections=max_connections,
        ),
        running.observed.append,
        "X-Verified-Identity",
        networks,
    )

    def named(connection: Any, raw: RawFields) -> proxy_client.Client:
        ip = connection.peername[0] if connection.peername else ""
        return proxy_client.name(ip, raw, networks, scheme)

    async def on_status(status: int) -> None:
        running.statuses.append(status)
        if running.on_status is not None:
            await running.on_status(status)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        client = named(request.protocol, request.raw_headers)
        try:
            if (failed := listener.handed_back(request)) is not None:
                raise failed[0]
            await continue_100(request)
            body = await request.content.read()
            answer = await forwarder.forward(
                request,
                client=client,
                request_id=fields.request_id(asked(request).fields) or "made-here",
                body=body,
                extra=running.extra,
                on_status=on_status,
                listener=running.hears,
            )
        except Refusal as refusal:
            running.refusals.append(refusal)
            response = web.Response(status=refusal.status, text=refusal.code)
            response.force_close()
            return response
        except asyncio.CancelledError:
            running.cancelled.set()
            raise
        running.answers.append(answer)
        return answer

    def ended(exchange: Exchange, counts: bool) -> None:
        if counts and exchange.status:
            running.statuses.append(exchange.status)
            running.answers.append(exchange)
        else:
            running.cancelled.set()

    def plain(request: Request, connection: listener.Connection) -> Exchange | None:
        if not running.relays or running.handles(request) or running.extra or running.on_status or running.hears:
            return None
        ip = connection.peername[0] if connection.peername else ""
        connection.peer = connection.peer or Peer(ip, scheme, networks)
        rewritten = forwarder.rewritten(request, connection.peer)
        exchange = forwarder.exchange(
            request, rewritten, request_id=rewritten.request_id or "made-here", route=None, ended=ended
        )
        running.relayed += 1
        return exchange

    server = listener.Server(
        handle,
        plain,
        max_head=max_head,
        keep_alive_s=keep_alive_s,
        head_s=head_s,
        send_s=send_s,
        content_s=content_s,
    )
    listening = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listening.bind(path or ("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    running.port = 0 if path else listening.getsockname()[1]
    acceptor = Acceptor([listening], [ip_network(network) for network in heralds], server, tls=tls_listen)
    acceptor.start()
    try:
        yield running
    finally:
        await acceptor.close()
        await server.shutdown(1.0)
        await forwarder.close()
