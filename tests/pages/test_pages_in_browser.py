"""The hosted page in a real browser, its captcha really solved. `make test-browser` runs it."""

import asyncio
import itertools
import json
import re
import secrets
import shutil
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar import language
from sidecar.captcha.altcha import Altcha, Settings
from sidecar.captcha.seam import Verdict
from sidecar.pages import pages

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
DEADLINE_S = 30
TOKEN = "token_ABC-123"


class NavigatedError(Exception):
    """The document that a script was for has gone, or the browser did not understand."""


class Tab:
    """One tab, driven by the DevTools protocol; `complaints` is what the page's console says is wrong."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._session: str | None = None
        self.complaints: list[str] = []
        self.urls: list[str] = []

    async def open(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")

    async def listen(self) -> None:
        async for packet in self._socket:
            message = json.loads(packet.data)
            match message.get("method"):
                case None:
                    self._answers.pop(message["id"]).set_result(message)
                case "Runtime.exceptionThrown":
                    self.complaints.append(message["params"]["exceptionDetails"]["exception"]["description"])
                case "Log.entryAdded" if message["params"]["entry"]["source"] != "network":
                    self.complaints.append(message["params"]["entry"]["text"])
                case "Network.requestWillBeSent":
                    self.urls.append(message["params"]["request"]["url"])

    async def call(self, method: str, **params: Any) -> Any:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": number, "method": method, "params": params}
            | ({"sessionId": self._session} if self._session is not None else {})
        )
        message = await asyncio.wait_for(answer, DEADLINE_S)
        if "error" in message:
            raise NavigatedError(message["error"])
        return message["result"]

    async def run(self, script: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return result["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait for a condition in the page, whichever document it comes to be in."""
        end = time.monotonic() + DEADLINE_S
        while not await self._holds(condition):
            assert time.monotonic() < end, f"{condition}: {await self.run('document.body?.innerText')}"
            await asyncio.sleep(0.02)

    async def _holds(self, condition: str) -> bool:
        try:
            return await self.run(f"Boolean({condition})") is True
        except NavigatedError:
            return False

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "--lang=en", stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    assert process.stderr is not None
    try:
        found = None
        async with asyncio.timeout(DEADLINE_S):
            while found is None:
                line = (await process.stderr.readline()).decode()
                assert line, "Chromium ended"
                found = re.search(r"ws://\S+", line)
        async with aiohttp.ClientSession() as session, session.ws_connect(found[0], max_msg_size=0) as socket:
            tab = Tab(socket)
            listener = asyncio.create_task(tab.listen())
            await tab.open()
            yield tab
            await socket.close()
            await listener
    finally:
        process.terminate()
        await process.communicate()


@dataclass
class Sidecar:
    """The API as the page meets it, around the real page and the real captcha; upstream's form behind it."""

    origin: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    started: list[dict[str, Any]] = field(default_factory=list)
    status: str = "sent"
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: asyncio.Future[web.Request] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    captcha: Altcha = field(init=False)
    spent: set[str] = field(default_factory=set)
    attempts_left: int = 5
    redirect: str = ""

    def __post_init__(self) -> None:
        async def spend_once(name: str, ttl_s: float) -> bool:
            fresh = name not in self.spent
            self.spent.add(name)
            return fresh

        settings = Settings(kind="altcha", cost=10, max_counter=100)
        self.captcha = Altcha(settings, secrets.token_bytes(32), time.time, secrets.randbelow, spend_once)

    def page(self, request: web.Request, to: str, resume: pages.Resume | None) -> web.Response:
        page = pages.hosted_page(
            prefix="/.sidecar",
            captcha=pages.Captcha("altcha", "altcha"),
            to=to,
            resume=resume,
            code_length=6,
            locale=language.read(request.headers.get("Accept-Language", "")),
            nonce=secrets.token_urlsafe(),
        )
        return self.plain(page)

    @staticmethod
    def plain(page: pages.Page) -> web.Response:
        return web.Response(
            status=page.status, body=page.body, headers={"Content-Type": page.content_type, **dict(page.fields)}
        )

    async def form(self, request: web.Request) -> web.Response:
        return web.Response(
            content_type="text/html",
            text='<form method="post" action="/register?plan=1"><input name="phone" value="+8613900000001">'
            '<input name="submit" value="a&amp;b &lt;c&gt; é 中"><textarea name="note">one\ntwo</textarea>'
            '<input name="n" value="1"><input name="n" value="2"><input name="action" value="/x">'
            '<input name="append" value="1"><input name="elements" value="2"><input name="setAttribute" value="3">'
            '<input name="method" value="get"><input name="target" value="t"><input name="hidden" value=""></form>',
        )

    async def register(self, request: web.Request) -> web.Response:
        pairs = tuple((name, str(value)) for name, value in (await request.post()).items())
        if "sidecar-verification" not in request.cookies:
            return self.page(request, "+8613900000001", pages.Resume("POST", pairs))
        self.resumed.set_result(request)
        if self.redirect:
            raise web.HTTPSeeOther(self.redirect)
        return web.Response(text="welcome")

    async def verify(self, request: web.Request) -> web.Response:
        return self.page(request, "", None)

    async def static(self, request: web.Request) -> web.Response:
        page = pages.static_file(request.match_info["name"])
        assert page is not None
        return self.plain(page)

    async def challenge(self, request: web.Request) -> web.Response:
        return web.json_response(self.captcha.challenge())

    def told(self) -> dict[str, Any]:
        return {
            "id": "v1",
            "to": "+861***01",
            "channel": "sms",
            "status": self.status,
            "expires_in": 300,
            "resend_in": 1,
        }

    async def start(self, request: web.Request) -> web.Response:
        ask = await request.json()
        self.started.append(ask)
        self.verdicts.append(await self.captcha.verify(ask.pop("captcha"), ""))
        if ask["to"] == "1":
            return web.json_response({"code": "invalid_recipient"}, status=422, content_type="application/problem+json")
        return web.json_response(self.told(), status=202)

    async def look(self, request: web.Request) -> web.Response:
        assert request.headers["Prefer"] == f'wait=5, status="{self.status}"'
        await self.moved.wait()
        return web.json_response(self.told())

    async def check(self, request: web.Request) -> web.Response:
        if await request.json() == {"code": "123456"}:
            return web.json_response({"status": "verified", "token": TOKEN})
        self.attempts_left -= 1
        return web.json_response(
            {"code": "code_mismatch", "attempts_left": self.attempts_left},
            status=422,
            content_type="application/problem+json",
        )


@pytest_asyncio.fixture
async def sidecar() -> AsyncIterator[Sidecar]:
    sidecar = Sidecar()
    app = web.Application()
    app.add_routes(
        [
            web.get("/", sidecar.form),
            web.post("/register", sidecar.register),
            web.get("/.sidecar/verify", sidecar.verify),
            web.get("/.sidecar/{name:client.js}", sidecar.static),
            web.get("/.sidecar/static/{name}", sidecar.static),
            web.get("/.sidecar/captcha/altcha/challenge", sidecar.challenge),
            web.post("/.sidecar/v1/verifications", sidecar.start),
            web.get("/.sidecar/v1/verifications/v1", sidecar.look),
            web.post("/.sidecar/v1/verifications/v1/check", sidecar.check),
        ]
    )
    async with TestServer(app) as server:
        sidecar.origin = f"http://localhost:{server.port}"
        yield sidecar
        sidecar.moved.set()


@pytest_asyncio.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browser(tmp_path) as tab:
        yield tab


async def visit(tab: Tab, url: str) -> None:
    await tab.call("Page.navigate", url=url)
    await tab.until(f"location.href === {url!r} && document.readyState === 'complete'")


async def send(tab: Tab) -> None:
    await tab.until("document.querySelector('#ask:not([hidden])')")
    await tab.run("document.getElementById('send').click()")
    await tab.until("document.querySelector('#enter:not([hidden])') && document.activeElement.id === 'code'")


async def test_a_held_back_form_goes_on_as_it_was(sidecar: Sidecar, tab: Tab) -> None:
    """Captcha, code, then the browser's own request again: its fields, its Origin, and the proof in a cookie."""
    await visit(tab, f"{sidecar.origin}/")
    await tab.run("HTMLFormElement.prototype.submit.call(document.forms[0])")
    await send(tab)
    assert sidecar.started == [{"to": "+8613900000001", "locale": "en"}]
    assert sidecar.verdicts == [Verdict("pass")]
    await tab.type("123 456")
    request = await asyncio.wait_for(sidecar.resumed, DEADLINE_S)
    assert request.path_qs == "/register?plan=1"
    assert request.content_type == "application/x-www-form-urlencoded"
    assert request.cookies == {"sidecar-verification": TOKEN}
    assert request.headers["Origin"] == sidecar.origin
    assert list((await request.post()).items()) == [
        ("phone", "+8613900000001"),
        ("submit", "a&b <c> é 中"),
        ("note", "one\r\ntwo"),
        ("n", "1"),
        ("n", "2"),
        ("action", "/x"),
        ("append", "1"),
        ("elements", "2"),
        ("setAttribute", "3"),
        ("method", "get"),
        ("target", "t"),
        ("hidden", ""),
    ]
    await tab.until("document.body.innerText === 'welcome'")
    assert tab.complaints == []
    assert {url.split("/")[2] for url in tab.urls if url.startswith("http")} == {sidecar.origin.split("/")[2]}


async def test_upstream_may_send_the_browser_to_another_origin(sidecar: Sidecar, tab: Tab) -> None:
    sidecar.redirect = sidecar.origin.replace("localhost", "127.0.0.1") + "/.sidecar/verify"
    await visit(tab, f"{sidecar.origin}/")
    await tab.run("HTMLFormElement.prototype.submit.call(document.forms[0])")
    await send(tab)
    await tab.type("123456")
    await tab.until(f"location.href === {sidecar.redirect!r}")
    assert tab.complaints == []


async def test_a_number_is_asked_for_and_the_opener_is_told(sidecar: Sidecar, tab: Tab) -> None:
    """What can go wrong on the way is said, and can be mended on the page."""
    await visit(tab, f"{sidecar.origin}/.sidecar/verify")
    error = "document.getElementById('ask-error').textContent"
    await tab.run("document.getElementById('send').click()")
    assert await tab.run(error) == "Enter your phone number."
    await tab.type("1")
    await tab.run("document.getElementById('send').click()")
    await tab.until(f"{error}.startsWith('This does not look like a phone number.')")
    assert await tab.run("document.activeElement.id") == "to"
    await tab.type("3900000001")
    await send(tab)
    assert [ask["to"] for ask in sidecar.started] == ["1", "13900000001"]
    assert sidecar.verdicts == [Verdict("pass"), Verdict("pass")]
    await tab.until("document.getElementById('delivery').textContent.startsWith('Code sent.')")
    sidecar.status = "delivered"
    sidecar.moved.set()
    await tab.until("document.getElementById('delivery').textContent === 'The code has arrived on your phone.'")
    await tab.type("999999")
    await tab.until("!document.getElementById('enter-error').hidden")
    assert await tab.run("document.getElementById('enter-error').textContent") == (
        "That is not the right code. Tries left: 4."
    )
    await tab.until("!document.getElementById('resend').disabled")
    await tab.run("document.getElementById('resend').click()")
    await tab.until("document.getElementById('resend').textContent.startsWith('Send again in')")
    assert sidecar.verdicts == [Verdict("pass")] * 3
    await tab.run("window.opener = {postMessage: (...told) => (window.told = told)}")
    await tab.type("١٢٣٤٥٦")
    await tab.until("document.querySelector('#done:not([hidden])')")
    assert await tab.run("window.told") == [{"type": "sidecar:verified", "id": "v1", "token": TOKEN}, sidecar.origin]
    assert tab.complaints == []
