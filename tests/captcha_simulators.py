"""Verifiers as their vendors' pages describe them: they check what they are sent, and refuse as the vendor does.

Each keeps what it was asked (`asked`), takes a token once, and can be told to lose its answers or to say nothing.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web
from aiohttp.test_utils import TestServer


class Simulator(Protocol):
    """What all of them have."""

    asked: list[dict[str, str]]
    lose: int
    silent: bool
    answer: web.Response | None

    def judge(self, form: dict[str, str]) -> dict[str, Any]: ...


@dataclass
class TurnstileSimulator:
    secret: str = "0x-simulated-secret"
    hostname: str = "signup.example"
    action: str = "signup"
    genuine: set[str] = field(default_factory=set)
    spent: dict[str, str] = field(default_factory=dict)  # token -> the idempotency key that spent it
    asked: list[dict[str, str]] = field(default_factory=list)
    lose: int = 0  # answers to lose after judging
    silent: bool = False
    answer: web.Response | None = None  # instead of any judging
    endpoint: str = ""  # where it listens, for who asks

    def judge(self, form: dict[str, str]) -> dict[str, Any]:
        token, key = form.get("response"), form.get("idempotency_key", "")
        if "secret" not in form:
            return self._no("missing-input-secret")
        if form["secret"] != self.secret:
            return self._no("invalid-input-secret")
        if not token:
            return self._no("missing-input-response")
        try:
            uuid.UUID(key)
        except ValueError:
            return self._no("bad-request")
        if token not in self.genuine:
            return self._no("invalid-input-response")
        if self.spent.setdefault(token, key) != key:
            return self._no("timeout-or-duplicate")
        return {
            "success": True,
            "error-codes": [],
            "challenge_ts": "2026-03-04T05:06:07Z",
            "hostname": self.hostname,
            "action": self.action,
        }

    def _no(self, code: str) -> dict[str, Any]:
        return {"success": False, "error-codes": [code]}


@dataclass
class YidunSimulator:
    captcha_id: str = "a" * 32
    secret_id: str = "b" * 32
    secret_key: str = "simulated-secret-key"
    now: float = 1772600767.0
    genuine: set[str] = field(default_factory=set)
    spent: set[str] = field(default_factory=set)
    nonces: set[str] = field(default_factory=set)
    asked: list[dict[str, str]] = field(default_factory=list)
    lose: int = 0
    silent: bool = False
    answer: web.Response | None = None

    def judge(self, form: dict[str, str]) -> dict[str, Any]:
        wanted = {"captchaId", "validate", "user", "secretId", "version", "timestamp", "nonce", "signature"}
        if set(form) != wanted or not 0 < len(form["nonce"]) <= 32 or form["nonce"] in self.nonces:
            return {"error": 419, "msg": "param error"}
        if form["captchaId"] != self.captcha_id or form["secretId"] != self.secret_id:
            return {"error": 419, "msg": "param error"}
        if form["version"] != "v2":
            return {"error": 421, "msg": "version error"}
        if abs(int(form["timestamp"]) - self.now * 1000) > 60_000:
            return {"error": 419, "msg": "param error"}
        signed = sorted((name, value) for name, value in form.items() if name != "signature")
        digest = hashlib.md5()
        for name, value in signed:
            digest.update(name.encode() + value.encode())
        digest.update(self.secret_key.encode())
        if digest.hexdigest() != form["signature"]:
            return {"error": 415, "msg": "signature error"}
        self.nonces.add(form["nonce"])
        good = form["validate"] in self.genuine - self.spent
        self.spent.add(form["validate"])
        return {
            "result": good,
            "error": 0,
            "msg": "ok",
            "phone": "",
            "extraData": "",
            "captchaType": 2,
            "token": "t",
            "sdkReduce": False,
        }


@asynccontextmanager
async def running(simulator: Simulator) -> AsyncIterator[str]:
    """The simulator on a loopback port: gives its endpoint."""
    end = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.content_type == "application/x-www-form-urlencoded"
        form = {name: str(value) for name, value in (await request.post()).items()}
        simulator.asked.append(form)
        if simulator.silent:
            await end.wait()
        if simulator.answer is not None:
            return simulator.answer
        answer = simulator.judge(form)
        if simulator.lose:
            simulator.lose -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/verify", handle)
    server = TestServer(app)
    await server.start_server()
    try:
        yield str(server.make_url("/verify"))
    finally:
        end.set()
        await server.close()
