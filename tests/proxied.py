"""A sidecar that does nothing but pass, as the front does it: judge, carry, render what was refused."""

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from fakes import RawClient

from sidecar.config.model import TlsClient, Upstream
from sidecar.errors import Refusal
from sidecar.problem import Answer
from sidecar.proxy import client as proxy_client
from sidecar.proxy import fields, listener
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.forward import Forwarder, Listener, Peer
from sidecar.proxy.messages import MAX_HEAD, Request
from sidecar.proxy.proxy_protocol import Acceptor

# Whether a request is relayed by its connection, or decided about once it was read: `engine` in conftest runs on both.
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


class Front:
    """Relays what it may, and makes a case of all else."""

    def __init__(self, running: Passing, forwarder: Forwarder, networks: proxy_client.Trusted, scheme: str) -> None:
        self.running = running
        self.forwarder = forwarder
        self.networks = networks
        self.scheme = scheme
        self.tasks: set[asyncio.Task[None]] = set()

    def judge(self, request: Request, connection: listener.Connection) -> "Exchange | Case":
        running = self.running
        ip = connection.peername[0] if connection.peername else ""
        connection.peer = connection.peer or Peer(ip, self.scheme, self.networks)
        if not running.relays or running.handles(request) or running.extra or running.on_status or running.hears:
            return Case(self, request, connection)
        rewritten = self.forwarder.rewritten(request, connection.peer)
        running.relayed += 1
        request_id = rewritten.request_id or "made-here"
        return self.forwarder.exchange(request, rewritten, request_id=request_id, route=None, ended=self.ended)

    def unreadable(self, request: Request, connection: listener.Connection, refusal: Refusal) -> "Case":
        return Case(self, request, connection, refusal)

    def failed(self, exchange: Exchange, connection: listener.Connection, refusal: Refusal) -> "Case":
        return Case(self, exchange.request, connection, refusal)

    def ended(self, exchange: Exchange, counts: bool) -> None:
        if counts and exchange.status:
            self.running.statuses.append(exchange.status)
            self.running.answers.append(exchange)
        else:
            self.running.cancelled.set()


class Case:
    """A request that is carried once it was read whole."""

    max_content = 64 << 20
    too_large = Refusal("body_too_large", "too_large")

    def __init__(
        self, front: Front, request: Request, connection: listener.Connection, refusal: Refusal | None = None
    ) -> None:
        self.front = front
        self.request = request
        self.connection = connection
        self.refusal = refusal
        self.task: asyncio.Task[None] | None = None

    def begin(self, content: bytes) -> None:
        if self.refusal is not None:
            self.refuse(self.refusal)
            return
        self.task = asyncio.create_task(self.carry(content))
        self.front.tasks.add(self.task)
        self.task.add_done_callback(self.front.tasks.discard)

    def refuse(self, refusal: Refusal) -> None:
        self.front.running.refusals.append(refusal)
        self.connection.write(Answer(refusal.status, (), refusal.code.encode()), "made-here", closes=True)

    def left(self) -> None:
        self.front.running.cancelled.set()
        if self.task is not None:
            self.task.cancel()

    async def carry(self, content: bytes) -> None:
        running, peername = self.front.running, self.connection.peername
        ip = peername[0] if peername else ""
        try:
            async with self.front.forwarder.sent(
                self.request,
                self.connection,
                client=proxy_client.name(ip, self.request.fields.said, self.front.networks, self.front.scheme),
                request_id=fields.request_id(self.request.fields) or "made-here",
                body=content,
                extra=running.extra,
                listener=running.hears,
            ) as sent:
                running.statuses.append(sent.status)
                if running.on_status is not None:
                    await running.on_status(sent.status)
                stays_open = await sent.relay()
        except Refusal as refusal:
            self.refuse(refusal)
            return
        running.answers.append(sent)
        self.connection.carried(stays_open=stays_open)


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
    guarded_s: float = listener.GUARDED_S,
    most_held: int = sys.maxsize,
) -> AsyncIterator[Passing]:
    """Run one in front of the upstream at `url`, on a free port or the unix socket at `path`.

    `heralds` send a PROXY protocol header before all else.
    """
    running = Passing(0, path, relays=RELAYS)
    scheme = "https" if tls_listen else "http"
    networks = proxy_client.Trusted(ip_network(network) for network in trusted)
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

    server = listener.Server(
        Front(running, forwarder, networks, scheme),
        max_head=max_head,
        keep_alive_s=keep_alive_s,
        head_s=head_s,
        send_s=send_s,
        content_s=content_s,
        guarded_s=guarded_s,
        most_held=most_held,
    )
    listening = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listening.bind(path or ("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    running.port = 0 if path else listening.getsockname()[1]
    acceptor = Acceptor(
        [listening], proxy_client.Trusted(ip_network(network) for network in heralds), server, tls=tls_listen
    )
    acceptor.start()
    try:
        yield running
    finally:
        await acceptor.close()
        await server.shutdown(1.0)
        await forwarder.close()
