"""The admin listener: health, metrics and the public keys. Private: it answers whoever reaches it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from sidecar.api import jwks
from sidecar.errors import StoreAwayError
from sidecar.identity import Signer
from sidecar.metrics import Metrics
from sidecar.problem import Answer, json_answer
from sidecar.store.client import Store

Probe = Callable[[], Awaitable[bool]]


class Admin:
    """The admin listener of one configuration."""

    def __init__(
        self,
        *,
        prefix: str,
        store: Store,
        upstream_reachable: Probe,
        outbox_length: Callable[[], Awaitable[int]],
        is_draining: Callable[[], bool],
        signer: Signer,
        metrics: Metrics,
    ) -> None:
        self._prefix = prefix
        self._store = store
        self._upstream_reachable = upstream_reachable
        self._outbox_length = outbox_length
        self._is_draining = is_draining
        self._signer = signer
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take one request of the admin listener."""
        answer = await self._answer(request.method, request.path)
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.fields))

    async def _answer(self, method: str, path: str) -> Answer:
        if method not in {"GET", "HEAD"}:
            return json_answer(405, {"detail": "GET only"}, [("Allow", "GET, HEAD")])
        if path == "/healthz":
            return json_answer(200, {"status": "ok"})
        if path == "/readyz":
            return await self._ready()
        if path == "/metrics":
            return await self._exposition()
        if path == f"{self._prefix}/jwks.json":
            return jwks(self._signer)
        return json_answer(404, {"detail": "Here are /healthz, /readyz, /metrics"})

    async def _ready(self) -> Answer:
        """Store and upstream reachable, not draining. Says which of them is not."""
        checks = {
            "store": await self._store.ping(),
            "upstream": await self._upstream_reachable(),
            "not_draining": not self._is_draining(),
        }
        ready = all(checks.values())
        return json_answer(200 if ready else 503, {"status": "ready" if ready else "not_ready", **checks})

    async def _exposition(self) -> Answer:
        with suppress(StoreAwayError):  # the last length is better than no metrics at all
            self._metrics.outbox.set(await self._outbox_length())
        return Answer(200, (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),), self._metrics.text())
