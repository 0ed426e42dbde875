"""A sidecar that does nothing but pass, as the gate does it: name the client, forward, render what was refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from fakes import RawClient

from sidecar.config.model import TlsClient, Upstream
from sidecar.errors import Refusal
from sidecar.proxy import client as proxy_client
from sidecar.proxy import listener
from sidecar.proxy.forward import Forwarder, continue_100
from sidecar.proxy.lean import Exchange

# Whether simple requests take the short way: `engine` in conftest runs every test on both.
LEAN = True


@dataclass(slots=True)
class Passing:
    """A running pass-through."""

    port: int
    refusals: list[Refusal] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    observed: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    on_status: Callable[[int], Awaitable[None]] | None = None
    guarded: bool = False
    lean: bool = True
    leanly: int = 0
    extra: Sequence[tuple[bytes, bytes]] = ()

    def client(self) -> RawClient:
        return RawClient(self.port)


@asynccontextmanager
async def passing(
    url: str,
    *,
    trusted: Sequence[str] = (),
    tls: TlsClient | None = None,
    read_timeout: float = 5.0,
    connect_timeout: float = 2.0,
    max_connections: int = 0,
    head_s: float = listener.HEAD_S,
    send_s: float = listener.SEND_S,
) -> AsyncIterator[Passing]:
    """Run one in front of the upstream at `url`."""
    running = Passing(0, lean=LEAN)
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
    )

    async def on_status(status: int) -> None:
        running.statuses.append(status)
        if running.on_status is not None:
            await running.on_status(status)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        client = proxy_client.name(
            request.transport.get_extra_info("peername")[0], request.raw_headers, networks, "http"
        )
        body = None
        try:
            if (failed := listener.handed_back(request)) is not None:
                raise failed[0]
            if running.guarded:
                await continue_100(request)
                body = await request.content.read()
            answer = await forwarder.forward(
                request,
                client=client,
                request_id="made-here",
                identity_header="X-Verified-Identity",
                body=body,
                extra=running.extra,
                on_status=on_status,
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
        if counts:
            running.statuses.append(exchange.status)
            running.answers.append(exchange)
        else:
            running.cancelled.set()

    def plain(message: RawRequestMessage, payload: StreamReader, connection: RequestHandler) -> Exchange | None:
        assert isinstance(connection.peername, tuple)
        if not running.lean or running.guarded or running.extra or running.on_status:
            return None
        try:
            owner, last = connection.last  # type: ignore[attr-defined]  # as sidecar.plain does it
            if owner is not running or not last.is_for(message):
                client = proxy_client.name(connection.peername[0], message.raw_headers, networks, "http")
                last = forwarder.rewritten(message, client, "X-Verified-Identity")
                connection.last = running, last  # type: ignore[attr-defined]
            exchange = forwarder.exchange(
                message,
                payload,
                rewritten=last,
                request_id=last.request_id or "made-here",
                route=None,
                ended=ended,
            )
        except Refusal:
            return None
        running.leanly += exchange is not None
        return exchange

    server = listener.Server(handle, plain, head_s=head_s, send_s=send_s)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    running.port = listening.sockets[0].getsockname()[1]
    await forwarder.start()
    try:
        yield running
    finally:
        listening.close()
        await server.shutdown(1.0)
        await forwarder.close()
