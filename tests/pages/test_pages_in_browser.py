"""The hosted page in a real browser, its captcha really solved. `make test-browser` runs it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from chromium import DEADLINE_S, Tab, needs_chromium
from fakes import Calm

from sidecar import language
from sidecar.captcha.altcha import Altcha, Settings
from sidecar.captcha.seam import Verdict
from sidecar.pages import pages

pytestmark = needs_chromium
TOKEN = "token_ABC-123"


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
        settings = Settings(kind="altcha", cost=10, max_counter=100)
        self.captcha = Altcha(settings, secrets.token_bytes(32), time.time, secrets.randbelow, Calm())

    def page(self, request: web.Request, to: str, resume: pages.Resume | None) -> web.Response:
        page = pages.hosted_page(
            prefix="/.sidecar",
            captchas=[pages.Captcha("altcha", "altcha")],
            to=to,
            resume=resume,
            code_length=6,
            locale=language.read(request.headers.get("Accept-Language", "")),
            nonce=secrets.token_urlsafe(),
            example="+86 131 2345 6789",
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
        return web.json_response(self.captcha.challenge(await self.captcha.due("127.0.0.1")))

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
        token_id = self.captcha.look(ask.pop("captcha"))
        is_fresh = token_id not in self.spent
        self.spent |= {token_id} if isinstance(token_id, str) else set()
        wrong = Verdict("spent", "used")
        self.verdicts.append(token_id if isinstance(token_id, Verdict) else Verdict("pass") if is_fresh else wrong)
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


async def send(tab: Tab) -> None:
    await tab.until("document.querySelector('#ask:not([hidden])')")
    await tab.run("document.getElementById('send').click()")
    await tab.until("document.querySelector('#enter:not([hidden])') && document.activeElement.id === 'code'")


async def test_a_held_back_form_goes_on_as_it_was(sidecar: Sidecar, tab: Tab) -> None:
    """Captcha, code, then the browser's own request again: its fields, its Origin, and the proof in a cookie."""
    await tab.visit(f"{sidecar.origin}/")
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
    await tab.visit(f"{sidecar.origin}/")
    await tab.run("HTMLFormElement.prototype.submit.call(document.forms[0])")
    await send(tab)
    await tab.type("123456")
    await tab.until(f"location.href === {sidecar.redirect!r}")
    assert tab.complaints == []


async def test_a_number_is_asked_for_and_the_opener_is_told(sidecar: Sidecar, tab: Tab) -> None:
    """What can go wrong on the way is said, and can be mended on the page."""
    await tab.visit(f"{sidecar.origin}/.sidecar/verify")
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
