"""Is this request surely plain, and what does upstream get of it? The story of a request that nobody has to hear.

The law: it passes here only if `gate.handle` would pass it as it is: the same routes, the same API prefix, the same
fields. Whatever is not sure is left to the gate, and so is every refusal. Counted and logged as the gate does.
"""

import functools
import time
from collections.abc import Callable

import structlog

from sidecar import overrides
from sidecar.config.model import Config
from sidecar.errors import Refusal
from sidecar.metrics import Metrics
from sidecar.overrides import Upload
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.fields import end_to_end
from sidecar.proxy.forward import Forwarder, Peer
from sidecar.proxy.listener import Connection
from sidecar.proxy.messages import RawFields, Request
from sidecar.routes import Routes
from sidecar.spelling import values

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
        self._outcomes = {outcome: metrics.requests.labels("pass", outcome) for outcome in ("forwarded", "left")}
        self._answers_preflights = bool(config.api.cors_origins)
        self._has_warned = False  # once per configuration is enough: anybody may send the field
        self._max_read = config.server.max_guarded_body
        self._logs = config.server.access_log == "all"
        self._kept_passes = functools.lru_cache(4096)(self._passes)

    def exchange(self, request: Request, connection: Connection) -> Exchange | None:
        """Make an exchange of a request that surely passes; None leaves it to the gate."""
        if self._answers_preflights and _is_preflight(request):
            return None
        peer = connection.peer
        if peer is None or peer.owner is not self:
            peer = self._meet(request, connection)
        rewritten = self._forwarder.rewritten(request, peer)
        if rewritten.kept.may_name_another or request.method.upper() == "POST":  # whose type may decide
            passes, route = self._passes(request.method, request.target, end_to_end(request.fields))
        elif len(request.target) > _MAX_KEPT:
            passes, route = self._passes(request.method, request.target)
        else:
            passes, route = self._kept_passes(request.method, request.target)
        upload = None
        if not passes:
            upload, route = self._upload(request)
            if upload is None:
                return None
        self.in_flight += 1
        exchange = self._forwarder.exchange(
            request,
            rewritten,
            request_id=rewritten.request_id or self._new_id(),
            route=route,
            ended=self._ended,
        )
        if upload is not None:
            exchange.upload = upload
        return exchange

    def _upload(self, request: Request) -> tuple[Upload | None, str | None]:
        """Return who looks at a form that is too large to be read, if it may stream, and the route's name."""
        length = request.fields.length or 0
        if request.method.upper() != "POST" or length <= self._max_read or self._owns(request.target.decode("latin-1")):
            return None, None
        raw = end_to_end(request.fields)
        found = self._routes.find(request.method, request.target, raw)
        if not found.naming:
            return None, None
        names = ", ".join(sorted(found.naming))
        said = (
            f"A form of more than {self._max_read} bytes has no field here that names a path ({names}), for that path"
            " may be guarded; where such forms are larger, raise max_guarded_body in [server]."
        )
        upload = overrides.upload(raw, found.naming, Refusal("body_too_large", "names_path", said))
        return upload, found.route.match if found.route else None

    def _passes(self, method: str, target: bytes, raw: RawFields = ()) -> tuple[bool, str | None]:
        """Return whether the gate would pass it as it is, and the route's name if it has one."""
        if self._owns(target.decode("latin-1")):
            return False, None
        found = self._routes.find(method, target, raw)
        route = found.route
        if found.needs_body_for_override or (route is not None and route.action != "pass"):
            return False, None
        return True, route.match if route else None

    def _meet(self, request: Request, connection: Connection) -> Peer:
        """Name the other end of a connection, for as long as this configuration serves it."""
        ip = connection.peername[0] if connection.peername else ""
        scheme = "https" if connection.ssl_context else "http"
        peer = connection.peer = Peer(ip, scheme, self._trusted, self)
        if not peer.is_trusted and not self._has_warned and values(request.fields.raw, "X-Forwarded-For"):
            self._has_warned = True
            structlog.get_logger().warning(
                "forwarded_for_ignored",
                peer=ip or "127.0.0.1 (a unix socket)",
                advice="if this is your load balancer, name it in server.trusted_proxies: its clients count as one now",
            )
        return peer

    def _ended(self, exchange: Exchange, counts: bool) -> None:
        """Count and log an exchange that is over, unless it was refused: the gate tells of a refusal."""
        self.in_flight -= 1
        if not counts:
            return
        outcome = "forwarded" if exchange.status else "left"
        self._outcomes[outcome].inc()
        if self._logs:
            structlog.get_logger().info(
                "request",
                request_id=exchange.request_id,
                client=exchange.client_ip,
                method=exchange.request.method,
                route=exchange.route,
                action="pass",
                outcome=outcome,
                status=exchange.status or None,
                ms=round((time.perf_counter() - exchange.started) * 1000, 1),
            )


def _is_preflight(request: Request) -> bool:
    """True for a CORS preflight, which the gate may answer. Fetch standard, CORS-preflight request."""
    return request.method == "OPTIONS" and bool(values(request.fields.raw, "Access-Control-Request-Method"))
