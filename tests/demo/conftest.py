"""The demo's servers over real sockets, run as the demo runs them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from sidecar.demo.ports import HOST


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[web.Application], Awaitable[aiohttp.ClientSession]]]:
    """Start an application on a free port; gives a session whose base URL it is."""
    async with AsyncExitStack() as stack:

        async def start(app: web.Application) -> aiohttp.ClientSession:
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, HOST, 0).start()
            host, port = runner.addresses[0]
            return await stack.enter_async_context(aiohttp.ClientSession(f"http://{host}:{port}"))

        yield start
