"""docs/front-end.md in a real Chromium: its form with ALTCHA, its script from another origin. `make test-browser`."""

import base64
import json
import re

import pytest
from chromium import Tab, needs_chromium
from documents import Snippet, snippets
from fakes import FakeUpstream
from telling import Start

pytestmark = needs_chromium
FORM = '[[routes]]\nmatch = "POST /form"\naction = "guard"\ncaptcha = "altcha"\ncaptcha_token = "form:altcha"\n'
REGISTER = '[[routes]]\nmatch = "POST /api/register"\naction = "verify"\nto = "json:phone"\ncode = "json:code"\n'


def shown(kind: str) -> Snippet:
    return next(one for one in snippets() if (one.document, one.kind) == ("docs/front-end.md", kind))


def page(content: str, fields: str = "") -> bytes:
    octets = f"<!doctype html><title>t</title>{content}".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{fields}Content-Length: {len(octets)}\r\n\r\n"
    return head.encode() + octets


async def test_the_form_solves_its_captcha(tab: Tab, start: Start) -> None:
    """The widget works on the challenge, and its token is in the form's field `altcha`."""
    sidecar = await start(FORM)
    sidecar.upstream.answer = page(shown("html").text.replace("<form>", '<form method="post" action="/form">'))
    await tab.visit(f"{sidecar.url}/")
    await tab.run("document.querySelector('altcha-widget').verify()")
    await tab.until("document.querySelector('input[name=altcha]')?.value")
    await tab.run("document.forms[0].submit()")
    await sidecar.upstream.wait_for(lambda: sidecar.upstream.requests[-1].target == b"/form")
    signed = sidecar.upstream.requests[-1].value(b"X-Verified-Identity").split(b".")[1]
    assert json.loads(base64.urlsafe_b64decode(signed + b"=="))["amr"] == ["captcha"]


@pytest.mark.parametrize("is_allowed", [True, False], ids=["allowed", "stranger"])
async def test_the_script_calls_from_another_origin(tab: Tab, start: Start, *, is_allowed: bool) -> None:
    """Where `cors_origins` names its origin a script registers and reads the refusal; else it is told nothing."""
    async with FakeUpstream() as site:
        origin = f"http://localhost:{site.port}"
        allowed = origin if is_allowed else "https://www.example.com"
        sidecar = await start(f'[api]\ncaptcha = ""\ncors_origins = ["{allowed}"]\n{REGISTER}')
        text = shown("js").text.replace("/.sidecar/client.js", f"{sidecar.url}/.sidecar/client.js")
        text = text.replace("createSidecar()", f'createSidecar({{ prefix: "{sidecar.url}/.sidecar" }})')
        text = re.sub('fetch\\("/', f'fetch("{sidecar.url}/', text).replace("export ", "")
        end = """
        try {
          const token = await verify("+8613800000000", "", async () => "246810");
          try { await register("+8613800000000", token); } catch { document.title = "upstream has no CORS"; }
          const second = await sidecar.check("no-such-id", "123456").catch((error) => error.code);
          document.title += `, ${second}`;
        } catch (error) { document.title = `error ${error.code}`; }
        """
        site.answer = page(f'<script type="module">{text}{end}</script>')
        await tab.visit(f"{origin}/")
        if not is_allowed:
            await tab.until("document.readyState === 'complete'")
            assert await tab.run("document.title") == "t"  # the module itself cannot be read
            assert sidecar.upstream.requests == []
            return
        await tab.until("document.title.includes(',')")
        assert await tab.run("document.title") == "upstream has no CORS, code_expired"
        assert [request.target for request in sidecar.upstream.requests] == [b"/api/register"]
