"""The admin listener: health, metrics and the public keys. Private: it answers whoever reaches it.

readyz says yes whenever plain traffic flows, which takes no store: a probe that says no while the store is away takes
every instance out of the load balancer at once. Who wants more asks for it by name.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol
from urllib.parse import parse_qs

import structlog

from sidecar.api import jwks
from sidecar.errors import Refusal, StoreError
from sidecar.keyring import Keyring
from sidecar.life import Life
from sidecar.metrics import Metrics
from sidecar.problem import Answer, json_answer
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.listener import Case, Connection
from sidecar.proxy.messages import Request
from sidecar.store.client import Store

# What readyz can be asked to need.
_NEEDS: Final = ("store", "upstream")
# Less than the second in which a kubelet wants its answer by default.
_PROBE_S: Final = 0.5


class Crew(Protocol):
    """Who serves: one worker in this process, or several processes."""

    async def metrics(self) -> Metrics:
        """What all of them have counted together."""
        ...

    def ended_tasks(self) -> Mapping[str, str]:
        """Their long-lived tasks that do not run now, each with the kind of its error."""
        ...

    def serving(self) -> int:
        """How many of them serve."""
        ...


# Why something is not well; nothing when it is.
Probe = Callable[[], Awaitable[str]]


class Admin:
    """The admin listener of one configuration: what its connections show each request to."""

    def __init__(
        self,
        *,
        prefix: str,
        store: Store,
        why_no_upstream: Probe,
        outbox_length: Callable[[], Awaitable[int]],
        life: Life,
        keyring: Keyring,
        crew: Crew,
        new_id: Callable[[], str],
    ) -> None:
        self._prefix = prefix
        self._store = store
        self._why_no_upstream = why_no_upstream
        self._outbox_length = outbox_length
        self._life = life
        self._keyring = keyring
        self._crew = crew
        self._new_id = new_id
        self._outbox = 0

    def judge(self, request: Request, connection: Connection) -> Case:
        """Answer every request here."""
        path, _, query = request.origin.decode("latin-1").partition("?")
        needs = parse_qs(query).get("needs", [])
        return _Question(connection, self._new_id(), self._answer(request.method, path, needs))

    def unreadable(self, request: Request, connection: Connection, refusal: Refusal) -> Case:  # noqa: ARG002 - the listener's shape
        """Refuse what is no request."""
        return _Question(connection, self._new_id(), _refused(refusal))

    def failed(self, exchange: Exchange, connection: Connection, refusal: Refusal) -> Case:
        """Nothing is relayed here."""
        raise NotImplementedError

    async def _answer(self, method: str, path: str, needs: Sequence[str]) -> Answer:
        if method not in {"GET", "HEAD"}:
            return json_answer(405, {"detail": "GET only"}, [("Allow", "GET, HEAD")])
        if path == "/healthz":
            return json_answer(200, {"status": "ok"})
        if path == "/readyz":
            return await self._ready({name for text in needs for name in text.split(",") if name})
        if path == "/metrics":
            return await self._exposition()
        if path == f"{self._prefix}/jwks.json":
            return jwks(self._keyring)
        return json_answer(404, {"detail": "Here are /healthz, /readyz, /metrics"})

    async def _ready(self, needs: set[str]) -> Answer:
        """200 unless starting or draining, or something of `needs` is not well; and how all of it is, with reasons."""
        if strange := needs - set(_NEEDS):
            return json_answer(
                400, {"detail": f"needs: {', '.join(sorted(strange))}: expected store, upstream or both"}
            )
        store, upstream = await asyncio.gather(_in_time(self._store.why_not), _in_time(self._why_no_upstream))
        if self._life.is_draining:
            status = "draining"
        elif not self._crew.serving() or self._life.is_starting(is_store_reached=self._store.was_reached):
            status = "starting"
        elif ("store" in needs and store) or ("upstream" in needs and upstream):
            status = "not_ready"
        else:
            status = "ready"
        told = {
            "status": status,
            "store": {"takes_writes": not store} | ({"reason": store} if store else {}),
            "upstream": {"reachable": not upstream} | ({"reason": upstream} if upstream else {}),
            "workers": {"serving": self._crew.serving()},
            "ended_tasks": {**self._life.ended, **self._crew.ended_tasks()},
        }
        return json_answer(200 if status == "ready" else 503, told)

    async def _exposition(self) -> Answer:
        metrics = await self._crew.metrics()
        with suppress(StoreError):  # the last length is better than no metrics at all
            self._outbox = await self._outbox_length()
        metrics.outbox.set(self._outbox)
        return Answer(200, (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),), metrics.text())


async def _refused(refusal: Refusal) -> Answer:
    return json_answer(refusal.status, {"detail": refusal.detail})


class _Question:
    """One request of the admin listener; what content it has is not read."""

    max_content = -1
    too_large = Refusal("body_too_large", "admin", "No content is read here.")

    def __init__(self, connection: Connection, request_id: str, answer: Coroutine[None, None, Answer]) -> None:
        self._connection = connection
        self._id = request_id
        self._answer = answer
        self._task: asyncio.Task[None] | None = None

    def begin(self, content: bytes) -> None:  # noqa: ARG002 - the listener's shape
        self._task = asyncio.create_task(self._answered())

    def refuse(self, refusal: Refusal) -> None:
        """No content is waited for, so none can fail to come."""
        raise NotImplementedError

    def left(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _answered(self) -> None:
        try:
            answer = await self._answer
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            structlog.get_logger().error("request_failed", exc_info=error)  # its kind and place, not its text
            answer = json_answer(500, {"detail": "This failed; the log says where."})
        self._connection.write(answer, self._id)


async def _in_time(probe: Probe) -> str:
    try:
        async with asyncio.timeout(_PROBE_S):
            return await probe()
    except TimeoutError:
        return f"no answer within {_PROBE_S:g} s"
