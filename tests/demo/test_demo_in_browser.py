"""The demo's pages in a real Chromium, under axe-core. `make test-browser` runs it."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from chromium import AXE, Tab, needs_axe, needs_chromium

from sidecar.demo.backend import Library
from sidecar.demo.handset import Handset

pytestmark = [*needs_chromium, needs_axe]
Serve = Callable[[web.Application], Awaitable[aiohttp.ClientSession]]


def home(client: aiohttp.ClientSession) -> str:
    """Where a session's server is."""
    return f"{str(client._base_url).rstrip('/')}/"


@pytest.mark.parametrize("width", [360, 1200])
async def test_axe_finds_nothing(serve: Serve, tab: Tab, width: int) -> None:
    """The handset, empty and full, and the library's pages; on a small phone and on a desk."""
    axe = await asyncio.to_thread(AXE.read_text, "utf-8")
    await tab.look(width=width)
    handset = Handset("http://signup.example/", {"a": "ok", "b": "dead"})
    app = web.Application()
    app.add_routes(handset.routes())
    phone, library = await serve(app), await serve(Library().app())
    await tab.visit(home(phone))
    await tab.until("document.querySelector('button[aria-pressed=true]')")
    assert await tab.findings(axe) == []
    for number in range(20):
        handset.deliver("+8613900000001", f"{123456 + number} is your code.", "a")
    await tab.until("document.querySelectorAll('button.code').length === 20")
    assert await tab.findings(axe) == []
    for path in ("", "members", "journal"):
        await tab.visit(home(library) + path)
        assert await tab.findings(axe) == [], path


async def test_a_code_is_copied_by_keyboard_too(serve: Serve, tab: Tab) -> None:
    """It is a button: Tab reaches it."""
    handset = Handset("http://signup.example/", {"a": "ok", "b": "ok"})
    app = web.Application()
    app.add_routes(handset.routes())
    handset.deliver("+8613900000001", "246810 is your code.", "a")
    await tab.visit(home(await serve(app)))
    await tab.until("document.querySelector('button.code')")
    for _ in range(3):
        await tab.press("Tab")
    assert await tab.run("document.activeElement.textContent") == "246810"
