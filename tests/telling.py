"""The whole product on real sockets: a sidecar, an upstream that records, a vendor that takes the messages."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import altcha
import pytest_asyncio
from aiohttp import web
from fakes import DEADLINE_S, FakeUpstream

from sidecar.admin import Admin
from sidecar.app import App, administering, running
from sidecar.config.load import load
from sidecar.kinds import kinds
from sidecar.life import Life
from sidecar.metrics import Metrics
from sidecar.proxy import listener
from sidecar.proxy.proxy_protocol import Source
from sidecar.store.client import Store

PHONE = "13900000001"
E164 = "+8613900000001"
OTHER = "13900000002"
TEST_NUMBER = "13800000000"

# What most stories need. A test appends tables of its own.
CONFIG = """
[server]
state_dir = "{state}"
drain = "50ms"
secret = "story-secret-story-secret-story-secret"
[upstream]
url = "{upstream}"
connect_timeout = "5s"
read_timeout = "2s"
[numbers]
test = {{ "+8613800000000" = "246810" }}
[captcha.altcha]
kind = "altcha"
cost = 1
max_counter = 10
[limits.ip]
key = "ip"
rate = "{ip_rate}"
[limits.to]
key = "to"
rate = "{to_rate}"
[providers.hook]
kind = "webhook"
url = "{vendor}/hook"
secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
[[delivery]]
providers = ["hook"]
switch_after = "200ms"
attempt_timeout = "5s"
deadline = "10s"
"""
SEND = """
[[routes]]
match = "POST /send"
action = "send"
to = "json:phone"
captcha = "altcha"
captcha_token = "json:captcha"
limits = ["ip", "to"]
"""
VERIFY = """
[[routes]]
match = "POST /register"
action = "verify"
to = "json:phone"
code = "json:code"
"""
MAIN = SEND + VERIFY


@dataclass
class Reply:
    """An answer, read whole."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The contract's error code."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        document = self.json
        assert document["status"] == self.status
        assert {"type", "title", "detail"} <= set(document)
        return str(document["code"])


@dataclass
class Vendor:
    """A webhook receiver: takes messages, or answers `status`; holds its answer while `open` is not set."""

    status: int = 202
    error: str = ""  # the word with a refusal
    messages: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.BaseRequest) -> web.Response:
        message = json.loads(await request.read())
        self.asked += 1
        async with self.changed:
            self.changed.notify_all()
        await self.open.wait()
        if self.status < 300:
            self.messages.append(message)
        async with self.changed:
            self.changed.notify_all()
        return web.json_response({"error": self.error} if self.error else {}, status=self.status)

    async def wait_for(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self.changed:
            await self.changed.wait_for(is_so)

    async def code(self, to: str = E164, count: int = 1) -> str:
        """The code of the newest message to a number, once `count` have come."""

        def mine() -> list[dict[str, Any]]:
            return [message for message in self.messages if message["to"] == to]

        await self.wait_for(lambda: len(mine()) >= count)
        return str(mine()[-1]["code"])


class Alone:
    """Who serves in a test: this process."""

    def __init__(self, metrics: Metrics, life: Life) -> None:
        self._metrics = metrics
        self._life = life

    async def metrics(self) -> Metrics:
        return self._metrics

    def ended_tasks(self) -> dict[str, str]:
        return dict(self._life.ended)

    def serving(self) -> int:
        return 1


@dataclass
class Sidecar:
    """A running sidecar and everything around it."""

    app: App
    admin_front: Admin
    metrics: Metrics
    listening: listener.Server
    port: int
    admin_port: int
    upstream: FakeUpstream
    vendor: Vendor
    session: aiohttp.ClientSession
    store: Store

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, method: str, path: str, **more: Any) -> Reply:
        async with self.session.request(method, self.url + path, allow_redirects=False, **more) as response:
            return Reply(response.status, response.headers, await response.read())

    async def admin(self, path: str) -> Reply:
        async with self.session.get(f"http://127.0.0.1:{self.admin_port}{path}") as response:
            return Reply(response.status, response.headers, await response.read())

    async def solved(self) -> str:
        """A fresh captcha token, honestly worked for."""
        challenge = (await self.ask("GET", "/.sidecar/captcha/altcha/challenge")).json
        solution = altcha.solve_challenge(altcha.Challenge.from_dict(challenge))
        assert solution is not None
        payload = {"challenge": challenge, "solution": solution.to_dict()}
        return base64.b64encode(json.dumps(payload).encode()).decode()

    async def send(self, phone: str | float = PHONE, headers: dict[str, str] | None = None, **more: Any) -> Reply:
        """Ask the `send` route for a code, with a solved captcha."""
        body = {"phone": phone, "captcha": await self.solved()} | more
        return await self.ask("POST", "/send", json=body, headers=headers)

    async def register(self, code: str | None, phone: str | float = PHONE, **more: Any) -> Reply:
        """Ask the `verify` route."""
        body = {"phone": phone} | ({} if code is None else {"code": code})
        return await self.ask("POST", "/register", json=body, **more)

    async def metric(self, line: str) -> float:
        """The value of a metric, named with its labels as the exposition has it."""
        text = (await self.admin("/metrics")).body.decode()
        found = [entry.rpartition(" ")[2] for entry in text.splitlines() if entry.rpartition(" ")[0] == line]
        return float(found[0]) if found else 0.0

    async def counts(self, line: str, count: float) -> None:
        """Wait until a metric has come to a value. Raises TimeoutError."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.metric(line) != count:
                pass  # each look is a round trip, in which the sidecar goes on


Start = Callable[..., Awaitable[Sidecar]]


@pytest_asyncio.fixture
async def start(tmp_path: Path, store_url: str) -> AsyncIterator[Start]:
    """Start a sidecar whose routes and further tables are the given TOML text."""
    async with AsyncExitStack() as stack:
        store = Store(store_url)
        await store.execute(None, "FLUSHALL")
        stack.push_async_callback(store.close)

        async def begin(
            tables: str = MAIN,
            *,
            ip_rate: str = "1000/1s",
            to_rate: str = "1000/1s",
            config: str = CONFIG,
            url: str = store_url,
            upstream_port: int = 0,
        ) -> Sidecar:
            upstream = await stack.enter_async_context(FakeUpstream(port=upstream_port))
            vendor = Vendor()
            vendor.open.set()
            vendor_port = await _serve(stack, vendor.take)
            text = config.format(
                state=tmp_path / "state",
                upstream=upstream.url,
                vendor=f"http://127.0.0.1:{vendor_port}",
                ip_rate=ip_rate,
                to_rate=to_rate,
            )
            path = tmp_path / "sidecar.toml"
            path.write_text(text + tables, encoding="utf-8")
            config_read, metrics = load(path, {}, kinds()), Metrics()
            app = await stack.enter_async_context(running(config_read, url, metrics))
            crew = Alone(metrics, app.life)
            admin = await stack.enter_async_context(administering(config_read, url, app.life, crew))
            port, listening = await serve_public(stack, app)
            admin_port, _ = await serve(stack, admin)
            session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
            return Sidecar(app, admin, metrics, listening, port, admin_port, upstream, vendor, session, store)

        yield begin


async def _serve(stack: AsyncExitStack, handler: Callable[[Any], Awaitable[web.StreamResponse]]) -> int:
    server = web.Server(handler, access_log=None, auto_decompress=False, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return int(runner.addresses[0][1])


async def serve_public(stack: AsyncExitStack, app: App) -> tuple[int, listener.Server]:
    return await serve(stack, app.front)


async def serve(stack: AsyncExitStack, front: listener.Front) -> tuple[int, listener.Server]:
    server = listener.Server(front)
    listening = await asyncio.get_running_loop().create_server(partial(server, Source("127.0.0.1", 0)), "127.0.0.1", 0)
    stack.push_async_callback(server.shutdown, 0.5)
    stack.callback(listening.close)
    return int(listening.sockets[0].getsockname()[1]), server
