"""What becomes of a request? Judged once by its head, served in its turn, told of once.

`judge` asks what it is, who asks, and which route that is. One that surely passes becomes an exchange, which its
connection relays as it comes. Every other becomes a `Visit`: its content is collected, it waits in line, and then the
gate or the API decides, which gives an answer, a grant that the gate carries to upstream, or a refusal.

The law: nothing is judged twice, and whatever is not sure to pass is a visit. What is refused at a glance waits once
more, behind all others, whoever asks: a bot has as many connections and addresses as it likes, and nothing is
remembered of them. A refusal is rendered in one place, `_refuse`, and every visit that has ended is told in one place,
`_visit_ended`.
"""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from sidecar import overrides
from sidecar.admitting import as_refusal
from sidecar.api import Api
from sidecar.config.model import Config, Route
from sidecar.crowd import WINDOW, Crowd, Share
from sidecar.errors import OVERLOADED, Refusal, StoreError
from sidecar.events import AddressShareSeen, ClientsShareAddress, RequestEnded, Tell
from sidecar.faces import Faces
from sidecar.gate import Gate, Grant
from sidecar.line import Line, Running
from sidecar.metrics import Metrics
from sidecar.overrides import Upload
from sidecar.problem import Answer
from sidecar.proxy.client import MAX_HOPS, Trusted
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.fields import end_to_end
from sidecar.proxy.forward import Forwarder, Peer
from sidecar.proxy.listener import Connection
from sidecar.proxy.messages import RawFields, Request
from sidecar.routes import Found, Routes
from sidecar.spelling import values
from sidecar.visit import Visit

# Whose look-up is remembered, by the length of its method, its target and its types, and by how many types it has: a
# longer one is seldom asked for twice, and no honest one has more types.
_MAX_KEPT: Final = 512
_MOST_TYPES: Final = 2
# The actions whose stories change something, and those that cost something.
_FINISHED: Final = frozenset({"send", "verify"})
_COSTLY: Final = frozenset({"send", "verify", "guard"})
# Why a content is read that no route asks for, and what lets a larger one through.
_IN_METHOD: Final = (
    " This path is guarded for another method, which a form may name; where upstream takes none from a form, write"
    " method_override = false in [upstream]."
)
_IN_PATH: Final = (
    " A form may name another path here, which is guarded; where forms are larger, raise max_guarded_body in [server]."
)
# Costly decisions that may be under way at once: with captchas and a store that take a second each, some thousands a
# second. What was decided and is carried is none, and neither is who waits for a message's status.
_MOST_UNDER_WAY: Final = 4096
# How many more of an action may wait to begin than of others: who has a code in hand is refused last.
_MOST_WAITING: Final = {"verify": 2.0}
# Of a turn of the loop, for refusing what is too much: as many as come in it while three times as much is offered as
# can be done.
_SHED_S: Final = 0.0004
_ADVICE: Final = (
    "if this is a proxy or load balancer of yours, name it in server.trusted_proxies, and have it send X-Forwarded-For"
    " (or the PROXY protocol: server.proxy_protocol), or its clients share one limit; if it is one client, it can be"
    " refused with: signup-sidecar block add"
)
_FAILED: Final = Answer(500, (("Content-Type", "text/plain; charset=utf-8"),), b"500 Internal Server Error")


class Front:
    """The front of one configuration: what its listener shows each request to."""

    def __init__(
        self,
        *,
        config: Config,
        routes: Routes,
        gate: Gate,
        api: Api,
        faces: Faces,
        forwarder: Forwarder,
        tell: Tell,
        metrics: Metrics,
        line: Line,
        quick_id: Callable[[], str],
    ) -> None:
        """`quick_id` makes ids of requests: no secrets, only another one each time."""
        self.in_flight = 0
        self._routes = routes
        self._gate = gate
        self._api = api
        self._faces = faces
        self._forwarder = forwarder
        self._tell = tell
        self._count = metrics.requests.inc
        self._quick_id = quick_id
        self._line = line
        self._shedding = Line(slice_s=_SHED_S)  # what is refused because the other is behind
        self._running = Running()
        self._under_way = 0  # costly decisions that have not come to anything yet
        self._trusted = Trusted(config.server.trusted_proxies)
        self._answers_preflights = bool(config.api.cors_origins)
        self._crowd = Crowd()
        self._has_warned = False  # once per configuration is enough: anybody may send the field
        self._max_content = config.server.max_guarded_body
        self._logs_plain = config.server.access_log == "all"
        self._kept_look_up = functools.lru_cache(4096)(self._look_up)

    # Judging…

    def judge(self, request: Request, connection: Connection) -> Exchange | Visit:
        """Make an exchange of a request that surely passes, and of any other a visit."""
        peer = connection.peer
        if peer is None or peer.owner is not self:
            peer = self._meet(request, connection)
        if self._answers_preflights and (preflighted := self._preflighted(request)) is not None:
            return self._visit(request, connection, "preflight", preflighted)
        found = self._found(request, peer)
        if found is None:
            return self._visit(request, connection, "api", None)
        if found.passes:
            return self._exchange(request, peer, found)
        if found.naming and (upload := self._upload(request, found)) is not None:
            exchange = self._exchange(request, peer, found)
            exchange.upload = upload
            return exchange
        if found.needs_body_for_override:
            # A form may name another method inside, or another path: it is read before anything is decided.
            visit = self._visit(request, connection, "override", None)
            visit.why_read = _IN_PATH if found.may_name_path else _IN_METHOD
            return visit
        assert found.route is not None
        return self._visit(request, connection, found.route.action, found.route)

    def unreadable(self, request: Request, connection: Connection, refusal: Refusal) -> Visit:
        """Make a visit of what could not be read."""
        return self._refused(request, connection, "unreadable", refusal)

    def failed(self, exchange: Exchange, connection: Connection, refusal: Refusal) -> Visit:
        """Make a visit of an exchange that came to nothing."""
        visit = self._refused(exchange.request, connection, "pass", refusal)
        visit.started = exchange.started
        return visit

    def _found(self, request: Request, peer: Peer) -> Found | None:
        """Look a request up by its head: remembered where its method, its target and a POST's type decide alone."""
        method, target = request.method, request.target
        if request.origin is not target and self._api.owns(request.origin.decode("latin-1")):
            return None  # asked for in absolute-form, RFC 9112 section 3.2.2
        kept = self._forwarder.kept(request, peer)
        if kept.may_name_another:
            return self._look_up(method, target, end_to_end(request.fields))
        types = kept.types if method.upper() == "POST" else ()
        is_kept = len(method) + len(target) + kept.type_octets <= _MAX_KEPT and len(types) <= _MOST_TYPES
        return (self._kept_look_up if is_kept else self._look_up)(method, target, types)

    def _look_up(self, method: str, target: bytes, raw: RawFields = ()) -> Found | None:
        """Look a request up; None for the sidecar's own API."""
        if self._api.owns(target.decode("latin-1")):
            return None
        return self._routes.find(method, target, raw)

    def _exchange(self, request: Request, peer: Peer, found: Found) -> Exchange:
        rewritten = self._forwarder.rewritten(request, peer)
        exchange = self._forwarder.exchange(
            request,
            rewritten,
            request_id=rewritten.request_id or self._quick_id(),
            route=found.route.match if found.route is not None else None,
            ended=self._exchange_ended,
        )
        self.in_flight += 1
        self._line.plain += 1
        self._shedding.plain += 1
        return exchange

    def _upload(self, request: Request, found: Found) -> Upload | None:
        """Return who looks at a form that is too large to be read, if it may stream."""
        length = request.fields.length or 0
        if request.method.upper() != "POST" or length <= self._max_content:
            return None
        names = ", ".join(sorted(found.naming))
        said = (
            f"A form of more than {self._max_content} bytes has no field here that names a path ({names}), for that"
            " path may be guarded; where such forms are larger, raise max_guarded_body in [server]."
        )
        raw = end_to_end(request.fields)
        return overrides.upload(raw, found.naming, Refusal("body_too_large", "names_path", said))

    def _preflighted(self, request: Request) -> Route | None:
        """The guarded route that a CORS preflight of an allowed origin asks about, if it does.

        Upstream may know nothing of that origin, nor of X-Verification-Token; what it answers to the request itself is
        its own.
        """
        if request.method != "OPTIONS":
            return None
        raw = end_to_end(request.fields)
        methods = values(raw, "Access-Control-Request-Method")
        if not methods or not methods[0] or not self._faces.allowed_origin(values(raw, "Origin")):
            return None
        found = self._look_up(methods[0].decode("latin-1"), request.target, raw)
        return found.route if found is not None and not found.passes else None

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

    def _visit(self, request: Request, connection: Connection, action: str, route: Route | None) -> Visit:
        """Make a visit, and say how much of its content is read."""
        peer = connection.peer
        visit = Visit(
            self,
            request,
            connection,
            peer.client(request.fields),
            self._forwarder.kept(request, peer).request_id or self._quick_id(),
            time.perf_counter(),
            action,
            route,
        )
        is_api = action == "api"
        may_change = action in _COSTLY or (is_api and request.method == "POST")
        # Not a vendor's receipts, all of which come from a few addresses.
        if may_change and not (is_api and self._api.is_open(visit)):
            share = self._crowd.saw(visit.client.ip, visit.started)
            if share is not None:
                self._tell_of_crowd(share, visit)
        # Who asks for one challenge after the other solves none of them.
        is_challenge = is_api and self._api.is_challenge(visit)
        visit.waits_behind = connection.was_refused or (is_challenge and connection.was_challenged)
        connection.was_challenged = is_challenge
        is_read = may_change or action == "override"
        visit.is_costly = is_read or is_challenge
        if (may_change or is_challenge) and (
            self._under_way >= _MOST_UNDER_WAY
            or self._line.is_behind(was_refused=visit.waits_behind, most=_MOST_WAITING.get(action, 1.0))
        ):
            visit.refusal = OVERLOADED  # before anything is read
        elif is_read:
            visit.max_content = self._max_content
        self.in_flight += 1
        return visit

    def _tell_of_crowd(self, share: Share, visit: Visit) -> None:
        """Tell how many of the last guarded requests came from one address, and what to do when nearly all did."""
        self._tell(AddressShareSeen(share=share.share))
        if not share.is_news:
            return
        # More was said of where it comes from than anybody believes: by the same address, as likely as nearly all are.
        hops = len([entry for text in visit.all("X-Forwarded-For") for entry in text.split(",", MAX_HOPS)])
        believed = len(visit.client.chain) - 1
        forwarded = visit.client.ip == share.address and hops > believed
        self._tell(
            ClientsShareAddress(
                address=share.address,
                share=share.share,
                requests=WINDOW,
                forwarded_for=forwarded,
                advice=_ADVICE,
            )
        )

    def _refused(self, request: Request, connection: Connection, action: str, refusal: Refusal) -> Visit:
        if connection.peer is None or connection.peer.owner is not self:
            self._meet(request, connection)
        visit = self._visit(request, connection, action, None)
        visit.refusal = refusal
        return visit

    # Serving in turn…

    def begin(self, visit: Visit, content: bytes) -> None:
        """Have a visit decided when its turn comes: all of its content has come that is read."""
        if visit.refusal is OVERLOADED:
            # As cheaply as can be, for what it takes is taken from those that were let in; and in a slice of its own,
            # so that neither they nor plain traffic wait for hundreds of these.
            self._shedding.put(functools.partial(self._serve, visit, content))
            return
        self._line.put(functools.partial(self._serve, visit, content), was_refused=visit.waits_behind)

    def refuse(self, visit: Visit, refusal: Refusal) -> None:
        """Refuse a visit whose content will not come."""
        visit.refusal = refusal
        self.begin(visit, b"")

    def left(self, visit: Visit) -> None:
        """Its client has gone: what has not begun is not, and what changes nothing is broken off."""
        if visit.stop is not None:
            must_finish = visit.action in _FINISHED or (visit.action == "api" and visit.method == "POST")
            if not must_finish:
                visit.stop()
        elif not visit.is_over:
            self._visit_ended(visit, "left")

    def _serve(self, visit: Visit, content: bytes) -> None:
        """Decide at once what can be decided without waiting; the rest step by step, each in its turn."""
        if visit.is_over:
            return  # its client has left
        try:
            decision = visit.refusal or self._decide(visit, content)
            if isinstance(decision, Refusal):
                if decision.status < 500 and not visit.waits_behind:
                    # Its connection was not refused before: a bot's may be a new one each time. It waits without its
                    # content, which is no use any more, and is not counted among what connections hold.
                    visit.refusal, visit.waits_behind = decision, True
                    self._line.put(functools.partial(self._serve, visit, b""), was_refused=True)
                    return
                self._refuse(visit, decision)
            elif isinstance(decision, Answer):
                self._answer(visit, decision)
            else:
                steps = self._line.begin(self._run(visit, decision), self._running, was_refused=visit.waits_behind)
                if steps is not None:
                    visit.stop = steps.cancel
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            self._fail(visit, error)

    def _decide(self, visit: Visit, content: bytes) -> Refusal | Answer | Coroutine[Any, Any, Grant | Answer]:
        """Refuse or answer a visit without waiting, or give the coroutine that decides about it."""
        try:
            if visit.action == "override":
                self._judge_again(visit, content)
            match visit.action:
                case "preflight":
                    visit.log["outcome"] = "answered"
                    return self._faces.preflight(visit)
                case "api":
                    return self._api.refused_at_once(visit) or self._api.decide(visit, content)
                case _:
                    at_once = self._gate.refused_at_once(visit, content)
                    return at_once or self._gate.decide(visit, self._gate.read(visit, content))
        except Refusal as refusal:
            return refusal

    def _judge_again(self, visit: Visit, content: bytes) -> None:
        """Find the route of a request whose form may have named another method, or another path."""
        found = self._routes.find(visit.method, visit.request.target, visit.raw)
        found = self._routes.with_body_override(found, content, b", ".join(values(visit.raw, "Content-Type")))
        visit.route = found.route
        visit.action = found.route.action if found.route is not None else "pass"

    async def _run(self, visit: Visit, deciding: Coroutine[Any, Any, Grant | Answer]) -> None:
        """Run a decision to its end, and what it comes to."""
        costs = int(visit.is_costly)  # until it is decided
        self._under_way += costs
        try:
            try:
                try:
                    decided = await deciding
                finally:
                    self._under_way -= costs
                if isinstance(decided, Grant):
                    visit.connection.was_refused = False
                    stays_open = await self._gate.carry(visit, decided)
                    self._visit_ended(visit, visit.log.pop("outcome", "forwarded"))
                    visit.connection.carried(stays_open=stays_open)
                else:
                    self._answer(visit, decided)
            except (Refusal, StoreError) as error:
                self._refuse(visit, as_refusal(error, self._tell))
        except asyncio.CancelledError:
            visit.log.pop("outcome", None)
            self._visit_ended(visit, "forwarded" if visit.status else "left")
            raise
        except Exception as error:  # noqa: BLE001 - as in _serve
            self._fail(visit, error)

    async def drain(self, timeout_s: float) -> None:
        """Wait for what clients began and did not wait for, at most `timeout_s` seconds."""
        until = asyncio.get_running_loop().time() + timeout_s
        await self._running.drain(timeout_s)
        await self._gate.drain(max(0.0, until - asyncio.get_running_loop().time()))

    # Answering and telling…

    def _answer(self, visit: Visit, answer: Answer) -> None:
        visit.status = answer.status
        visit.connection.was_refused = False
        self._visit_ended(visit, visit.log.pop("outcome", "answered"))
        visit.connection.write(self._faces.dressed(visit, answer), visit.request_id)

    def _refuse(self, visit: Visit, refusal: Refusal) -> None:
        """Render a refusal, and tell of it."""
        visit.log.pop("outcome", None)
        visit.log |= {"code": refusal.code, "reason": refusal.reason}
        answer = self._faces.refusal(visit, refusal)
        visit.status = answer.status
        if refusal.status < 500:  # else it was not its fault, and it waits where it did
            visit.connection.was_refused = True
        self._visit_ended(visit, "refused")
        visit.connection.write(self._faces.dressed(visit, answer), visit.request_id)

    def _fail(self, visit: Visit, error: Exception) -> None:
        structlog.get_logger().error("request_failed", exc_info=error)  # its kind and place, not its text
        if visit.is_over:  # nobody can say how much of an answer has left
            visit.connection.abort()
            return
        visit.log.pop("outcome", None)
        visit.status = 500
        self._visit_ended(visit, "failed")
        visit.connection.write(_FAILED, visit.request_id, closes=True)

    def _visit_ended(self, visit: Visit, outcome: str) -> None:
        """Tell of a visit that has ended, once."""
        if visit.is_over:
            return
        visit.is_over = True
        self.in_flight -= 1
        self._tell(
            RequestEnded(
                request_id=visit.request_id,
                client=visit.client.ip,
                method=visit.request.method,
                route=visit.route.match if visit.route else None,
                action=visit.action,
                outcome=outcome,
                status=visit.status,
                ms=(time.perf_counter() - visit.started) * 1000,
                **visit.log,
            )
        )

    def _exchange_ended(self, exchange: Exchange, counts: bool) -> None:
        """Tell of a plain exchange that is over, unless it was refused: `failed` makes a visit of that."""
        self.in_flight -= 1
        self._line.plain -= 1
        self._shedding.plain -= 1
        if not counts:
            return
        outcome = "forwarded" if exchange.status else "left"
        if not self._logs_plain:  # an event that makes no line would be a microsecond for a number
            self._count("pass", outcome)
            return
        self._tell(
            RequestEnded(
                request_id=exchange.request_id,
                client=exchange.client_ip,
                method=exchange.request.method,
                route=exchange.route,
                action="pass",
                outcome=outcome,
                status=exchange.status or None,
                ms=(time.perf_counter() - exchange.started) * 1000,
            )
        )
