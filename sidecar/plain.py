"""Is this request surely plain, and what does upstream get of it? The story of a request that nobody has to hear.

The law: it passes here only if `gate.handle` would pass it as it is: the same routes, the same API prefix, the same
fields. Whatever is not sure is left to the gate, and so is every refusal. Counted and logged as the gate does.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import structlog

from sidecar.config.model import Config
from sidecar.metrics import Metrics
from sidecar.proxy import client as proxy_client
from sidecar.proxy.forward import Forwarder, Rewritten
from sidecar.proxy.listener import Connection
from sidecar.proxy.messages import Request
from sidecar.proxy.upstream import Exchange
from sidecar.routes import Routes, may_name_another

# Whose look-up is remembered: a longer target is seldom asked for twice.
_MAX_KEPT = 512


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
        self._routes = routes
        self._owns = owns
        self._forwarder = forwarder
        self._new_id = new_id
        self._trusted = tuple(config.server.trusted_proxies)
        self._forwarded = metrics.requests.labels("pass", "forwarded")
        self._logs = config.server.access_log == "all"
        self._kept_passes = functools.lru_cache(4096)(self._passes)

    def exchange(self, request: Request, connection: Connection) -> Exchange | None:
        """Make an exchange of a request that surely passes; None leaves it to the gate."""
        last = connection.last
        if last is None or last.plain is not self or not last.is_for(request):
            last = connection.last = self._remember(request, connection)
        if last.may_name_another:
            passes, route = self._passes(request.method, request.target, request.fields.raw)
        elif len(request.target) > _MAX_KEPT:
            passes, route = self._passes(request.method, request.target)
        else:
            passes, route = self._kept_passes(request.method, request.target)
        if not passes:
            return None
        self.in_flight += 1
        rewritten = last.rewritten
        return self._forwarder.exchange(
            request,
            rewritten,
            request_id=rewritten.request_id or self._new_id(),
            route=route,
            ended=self._ended,
        )

    def _passes(self, method: str, target: bytes, raw: proxy_client.RawFields = ()) -> tuple[bool, str | None]:
        """Return whether the gate would pass it as it is, and the route's name if it has one."""
        if self._owns(target.decode("latin-1")):
            return False, None
        found = self._routes.find(method, target, raw)
        route = found.route
        if found.needs_body_for_override or (route is not None and route.action != "pass"):
            return False, None
        return True, route.match if route else None

    def _remember(self, request: Request, connection: Connection) -> "_Remembered":
        ip = connection.peername[0] if connection.peername else ""
        scheme = "https" if connection.ssl_context else "http"
        client = proxy_client.name(ip, request.fields.raw, self._trusted, scheme)
        return _Remembered(
            self, self._forwarder.rewritten(request, client), request, may_name_another(request.fields.raw)
        )

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


class _Remembered:
    """What a connection's last request came to: mostly the next one has the same fields."""

    __slots__ = ("_authority", "_fields", "_is_websocket", "_version", "may_name_another", "plain", "rewritten")

    def __init__(self, plain: Any, rewritten: Rewritten, request: Request, may_name_another: bool) -> None:
        self.plain = plain
        self.rewritten = rewritten
        self.may_name_another = may_name_another
        self._fields = request.fields
        self._version = request.version
        self._authority = request.authority
        self._is_websocket = request.is_websocket

    def is_for(self, request: Request) -> bool:
        """True when all but its target was judged and rewritten before."""
        return (
            self._fields is request.fields
            and self._version == request.version
            and self._authority == request.authority
            and self._is_websocket == request.is_websocket
        )
