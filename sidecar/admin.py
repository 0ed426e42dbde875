"""The admin listener: health, metrics and the public keys. Private: it answers whoever reaches it.

readyz says yes whenever plain traffic flows, which takes no store: a probe that says no while the store is away takes
every instance out of the load balancer at once. Who wants more asks for it by name.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web

from sidecar.api import jwks
from sidecar.errors import StoreError
from sidecar.identity import Signer
from sidecar.life import Life
from sidecar.metrics import Metrics
from sidecar.problem import Answer, json_answer
from sidecar.store.client import Store

# What readyz can be asked to need.
_NEEDS: Final = ("store", "upstream")
# Less than the second in which a kubelet wants its answer by default.
_PROBE_S: Final = 0.5

# Why something is not well; nothing when it is.
Probe = Callable[[], Awaitable[str]]


class Admin:
    """The admin listener of one configuration."""

    def __init__(
        self,
        *,
        prefix: str,
        store: Store,
        why_no_upstream: Probe,
        outbox_length: Callable[[], Awaitable[int]],
        life: Life,
        signer: Signer,
        metrics: Metrics,
    ) -> None:
        self._prefix = prefix
        self._store = store
        self._why_no_upstream = why_no_upstream
        self._outbox_length = outbox_length
        self._life = life
        self._signer = signer
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take one request of the admin listener."""
        answer = await self._answer(request.method, request.path, request.query.getall("needs", []))
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.fields))

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
            return jwks(self._signer)
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
        elif self._life.is_starting(is_store_reached=self._store.was_reached):
            status = "starting"
        elif ("store" in needs and store) or ("upstream" in needs and upstream):
            status = "not_ready"
        else:
            status = "ready"
        told = {
            "status": status,
            "store": {"takes_writes": not store} | ({"reason": store} if store else {}),
            "upstream": {"reachable": not upstream} | ({"reason": upstream} if upstream else {}),
            "ended_tasks": dict(self._life.ended),
        }
        return json_answer(200 if status == "ready" else 503, told)

    async def _exposition(self) -> Answer:
        with suppress(StoreError):  # the last length is better than no metrics at all
            self._metrics.outbox.set(await self._outbox_length())
        return Answer(200, (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),), self._metrics.text())


async def _in_time(probe: Probe) -> str:
    try:
        async with asyncio.timeout(_PROBE_S):
            return await probe()
    except TimeoutError:
        return f"no answer within {_PROBE_S:g} s"
