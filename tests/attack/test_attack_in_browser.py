"""The hosted page in a real Chromium, as an attacker would have it: in a frame, and with markup in what it is asked."""

import html
from urllib.parse import quote

import pytest
from chromium import Tab, needs_chromium
from fakes import Message, Taken, read_content
from telling import SEND, Start

pytestmark = needs_chromium
PAGE = "/.sidecar/verify"
OWNED = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>"""


async def test_the_page_is_shown_in_nobodys_frame(start: Start, tab: Tab) -> None:
    """Not on another site, where a click could be stolen, nor on the guarded one; by itself it is shown."""
    sidecar = await start(SEND)

    async def framing(taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        frame = f'<!doctype html><iframe src="{sidecar.url}{PAGE}" onload="loaded = true"></iframe>'.encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(frame)
        await taken.write(head + frame)

    sidecar.upstream.answer = framing
    for origin in (sidecar.url, sidecar.url.replace("127.0.0.1", "localhost")):
        await tab.visit(f"{origin}/")
        await tab.until("window.loaded")
        assert await tab.run("document.querySelector('iframe').contentDocument === null")
    await tab.visit(sidecar.url + PAGE)
    await tab.until("document.querySelector('main.card')")


@pytest.mark.parametrize("where", ["?to={}", "?locale={}&lang={}", "?origin={}&return={}", "#{}", "/{}"])
async def test_nothing_that_the_pages_address_says_runs(start: Start, tab: Tab, where: str) -> None:
    """A link with markup in it, to a page of ours, is text at most."""
    sidecar = await start(SEND)
    for text in (OWNED, f'">{OWNED}', html.escape(OWNED), f"javascript:{OWNED}"):
        await tab.visit(sidecar.url + PAGE + where.format(quote(text, safe=""), quote(text, safe="")))
        await tab.until("document.readyState === 'complete'")
        assert await tab.run("document.title") != "owned"
        assert await tab.run("document.querySelectorAll('img').length") == 0
