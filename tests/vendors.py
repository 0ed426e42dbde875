"""A vendor on loopback that does what a test tells it to: answers, keeps silent, breaks the line."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from aiohttp import web
from fakes import free_port

# For what must happen at once, on a busy machine.
SOON_S = 30.0


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    target: str  # path and query, as they came
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Vendor:
    """What it was asked, and what it does next. `behave` makes the answer; None breaks the line."""

    url: str = ""
    behave: Callable[["Vendor"], Awaitable[web.Response | None]] = field(default=lambda _: _answer(500, ""))
    asked: list[Asked] = field(default_factory=list)
    # One for each request that came; a test takes them.
    arrivals: asyncio.Queue[Asked] = field(default_factory=asyncio.Queue)
    # Ends every silence.
    released: asyncio.Event = field(default_factory=asyncio.Event)
    # One for each request whose connection went away before it was answered.
    deserted: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    def answers(self, status: int, body: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.behave = lambda _: _answer(status, body, headers)

    def behaves(self, answer: Callable[[], tuple[int, str]]) -> None:
        """Answer each time what it is told then."""
        self.behave = lambda _: _answer(*answer())

    def hangs(self, status: int = 500, body: str = "") -> None:
        """Keep silent until released, and answer then."""

        async def silent(self: Vendor) -> web.Response:
            await self.released.wait()
            return await _answer(status, body)

        self.behave = silent

    def resets(self) -> None:
        """Take the whole request, and break the line."""
        self.behave = lambda _: _nothing()

    async def arrival(self) -> Asked:
        return await asyncio.wait_for(self.arrivals.get(), SOON_S)


async def _answer(status: int, body: str, headers: Mapping[str, str] = MappingProxyType({})) -> web.Response:
    return web.Response(status=status, text=body, content_type="application/json", headers=headers)


async def _nothing() -> None:
    return None


@asynccontextmanager
async def vendor() -> AsyncIterator[Vendor]:
    """Yield a vendor that listens on loopback."""
    it = Vendor()

    async def handle(request: web.BaseRequest) -> web.Response:
        asked = Asked(
            request.method, request.path, request.raw_path, list(request.headers.items()), await request.read()
        )
        it.asked.append(asked)
        it.arrivals.put_nowait(asked)
        try:
            answer = await it.behave(it)
        except asyncio.CancelledError:
            it.deserted.put_nowait(None)
            raise
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer

    runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    host, port = runner.addresses[0][:2]
    it.url = f"http://{host}:{port}"
    try:
        yield it
    finally:
        it.released.set()
        await runner.cleanup()


def closed_port() -> str:
    """The URL of a port of ours that nobody listens on."""
    return f"http://127.0.0.1:{free_port()}"
