"""Is this request surely plain, and what does upstream get of it? The story of a request that nobody has to hear.

The law: it passes here only if `gate.handle` would pass it as it is: the same routes, the same API prefix, the same
fields. Whatever is not sure is left to the gate, and so is every refusal. Counted and logged as the gate does.
"""

import time
from collections.abc import Callable
from typing import cast

import structlog
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from sidecar.config.model import Config
from sidecar.errors import Refusal
from sidecar.metrics import Metrics
from sidecar.proxy import client as proxy_client
from sidecar.proxy.forward import Forwarder, Rewritten
from sidecar.proxy.lean import Exchange
from sidecar.routes import Routes


class Plain:
    """The plain requests of one configuration. `owns` says whether a path is the sidecar's own."""

    def __init__(
        self,
        *,
        config: Config,
        routes: Routes,
        owns: Callable[[str], bool],
        forwarder: Forwarder,
        metrics: Metrics,
        new_id: Callable[[], str],
    ) -> None:
        self.in_flight = 0
        self._find = routes.find
        self._owns = owns
        self._forwarder = forwarder
        self._new_id = new_id
        self._trusted = tuple(config.server.trusted_proxies)
        self._identity_field = config.identity.header
        self._forwarded = metrics.requests.labels("pass", "forwarded")
        self._logs = config.server.access_log == "all"

    def exchange(
        self, message: RawRequestMessage, payload: StreamReader, connection: RequestHandler
    ) -> Exchange | None:
        """Make an exchange of a request that surely passes; None leaves it to the gate."""
        raw = message.raw_headers
        if self._owns(message.path):
            return None
        found = self._find(message.method, message.path, raw)
        if found.needs_body_for_override or (found.route is not None and found.route.action != "pass"):
            return None
        try:
            rewritten = self._rewritten(message, connection)
            exchange = self._forwarder.exchange(
                message,
                payload,
                rewritten=rewritten,
                request_id=rewritten.request_id or self._new_id(),
                route=found.route.match if found.route else None,
                ended=self._ended,
            )
        except Refusal:
            return None  # the gate comes to the same, and says it
        if exchange is not None:
            self.in_flight += 1
        return exchange

    def _rewritten(self, message: RawRequestMessage, connection: RequestHandler) -> Rewritten:
        """Rewrite the fields; on one connection mostly those of the request before."""
        owner, last = getattr(connection, "last", (None, None))
        if owner is self and last is not None and last.is_for(message):
            return cast("Rewritten", last)
        peer = connection.peername
        scheme = "https" if connection.ssl_context else "http"
        ip = peer[0] if isinstance(peer, tuple) else ""
        client = proxy_client.name(ip, message.raw_headers, self._trusted, scheme)
        rewritten = self._forwarder.rewritten(message, client, self._identity_field)
        connection.last = self, rewritten  # type: ignore[attr-defined]  # the listener's connections have it
        return rewritten

    def _ended(self, exchange: Exchange, counts: bool) -> None:
        """One exchange is over; it counts unless the gate tells of it, or the client has left, of which nobody does."""
        self.in_flight -= 1
        if not counts:
            return
        self._forwarded.inc()
        if self._logs:
            structlog.get_logger().info(
                "request",
                request_id=exchange.request_id,
                client=exchange.client_ip,
                method=exchange.method,
                route=exchange.route,
                action="pass",
                outcome="forwarded",
                status=exchange.status,
                ms=round((time.perf_counter() - exchange.started) * 1000, 1),
            )
