"""A person solves captchas of every kind on the hosted page, in a real Chromium. `make test-browser` runs it.

The vendors' scripts are stand-ins, which offer what their pages describe, on a host of their own; what they hand out is
verified by the simulated vendors.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from captcha_simulators import ALL, Simulator, TencentSimulator, TurnstileSimulator, YidunSimulator
from captcha_simulators import running as simulated
from chromium import Tab, needs_chromium
from telling import PHONE, Sidecar, Start

pytestmark = needs_chromium

# A button that a person clicks to be handed the next token; what the widget was told; how often it was reset.
COMMON = """
const next = () => window.tokens.shift();
window.resets = 0;
function button(box, solved) {
  const made = document.createElement("button");
  made.type = "button";
  made.id = "solve";
  made.textContent = "I am a person";
  made.onclick = solved;
  (box ?? document.body).append(made);
}
const must = (told, key, value) => { if (told !== value) throw new Error(`${key} is ${told}`); };
"""
# What stands in for each vendor's script.
SCRIPTS = {
    "turnstile": """
window.turnstile = {
  render(box, o) {
    must(o.sitekey, "sitekey", "site");
    must(o.action, "action", "signup");
    window.failing = o["error-callback"];
    button(box, () => o.callback(next()));
    return "widget-1";
  },
  reset(id) { must(id, "id", "widget-1"); window.resets += 1; },
};""",
    "hcaptcha": """
window.hcaptcha = {
  render(box, o) {
    must(o.sitekey, "sitekey", "10000000-simulated");
    button(box, () => o.callback(next()));
    return "widget-1";
  },
  reset(id) { must(id, "id", "widget-1"); window.resets += 1; },
};""",
    "recaptcha": """
must(new URL(document.currentScript.src).searchParams.get("render"), "render", "explicit");
window.grecaptcha = {
  ready: (go) => setTimeout(go),
  render(box, o) {
    must(o.sitekey, "sitekey", "site");
    button(box, () => o.callback(next()));
    return 7;
  },
  reset(id) { must(id, "id", 7); window.resets += 1; },
};""",
    "recaptcha-v3": """
must(new URL(document.currentScript.src).searchParams.get("render"), "render", "site");
window.grecaptcha = {
  ready: (go) => setTimeout(go),
  execute: async (key, { action }) => (must(key, "key", "site"), must(action, "action", "signup"), next()),
};""",
    "recaptcha-enterprise": """
must(new URL(document.currentScript.src).searchParams.get("render"), "render", "6Lsimulated");
window.grecaptcha = { enterprise: {
  ready: (go) => setTimeout(go),
  execute: async (key, { action }) => (must(key, "key", "6Lsimulated"), must(action, "action", "signup"), next()),
} };""",
    "geetest": """
window.initGeetest4 = (o, made) => {
  must(o.captchaId, "captchaId", "647f5ed2simulated");
  let solved, parts;
  made({
    appendTo: (box) => button(box, () => { parts = JSON.parse(next()); solved(); }),
    onSuccess(heard) { solved = heard; return this; },
    onError() { return this; },
    getValidate: () => parts,
    reset: () => (window.resets += 1),
  });
};""",
    "yidun": """
window.initNECaptcha = (o, made, failed) => {
  must(o.captchaId, "captchaId", "a".repeat(32));
  button(o.element, () => o.onVerify(null, { validate: next() }));
  made({ refresh: () => (window.resets += 1) });
};""",
    "tencent": """
window.TencentCaptcha = class {
  constructor(appId, heard) { must(appId, "appId", "2012345678"); this.heard = heard; }
  show() {
    const heard = this.heard;
    button(null, function () {
      this.remove();
      const token = next();
      heard(token === "closed" ? { ret: 2 } : { ret: 0, ...JSON.parse(token) });
    });
  }
};""",
    "aliyun": """
window.initAliyunCaptcha = (o) => {
  must(window.AliyunCaptchaConfig.prefix, "prefix", "8dksh9");
  must(window.AliyunCaptchaConfig.region, "region", "cn");
  must(o.SceneId, "SceneId", "abc123");
  document.querySelector(o.button).onclick = () => button(document.querySelector(o.element), function () {
    this.remove();
    o.success(next());
  });
  o.getInstance({ refresh: () => (window.resets += 1) });
};""",
}
# What of a table a person's page needs beside what the verifier needs.
FOR_PAGE: dict[str, dict[str, str]] = {
    "turnstile": {"site_key": "site"},
    "recaptcha": {"site_key": "site"},
    "recaptcha-v3": {"site_key": "site"},
    "aliyun": {"prefix": "8dksh9"},
}
# They ask no click of a person.
BY_ITSELF = {"recaptcha-v3", "recaptcha-enterprise"}


@dataclass
class Host:
    """The host of the vendors' scripts: hands out `scripts`, or 404."""

    url: str = ""
    scripts: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.asked.append(name)
        if name not in self.scripts:
            raise web.HTTPNotFound
        return web.Response(text=f"(() => {{{self.scripts[name]}\n}})();", content_type="text/javascript")


@asynccontextmanager
async def hosting() -> AsyncIterator[Host]:
    host = Host()
    app = web.Application()
    app.router.add_get("/{name}.js", host.answer)
    async with TestServer(app) as server:
        host.url = str(server.make_url("/"))
        yield host


def table(name: str, simulator: Simulator, host: Host, captcha: str = "vendor", **more: Any) -> str:
    """[captcha.CAPTCHA] for a simulator, its widget's script from the host."""
    keys = {"kind": simulator.kind, "endpoint": simulator.endpoint, "script": f"{host.url}{name}.js", "timeout": "1s"}
    keys |= simulator.table | FOR_PAGE.get(name, {}) | more
    return f"[captcha.{captcha}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()) + "\n"


def script(name: str, simulator: Simulator, *tokens: str) -> str:
    made = [token if token == "closed" else simulator.token(token) for token in tokens]
    return f"{COMMON}\nwindow.tokens = {json.dumps(made)};\n{SCRIPTS[name]}"


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Callable[..., Any]]:
    """Run simulators and a host of scripts: gives the host."""
    async with AsyncExitStack() as stack:

        async def begin(*simulators: Simulator) -> Host:
            for simulator in simulators:
                await stack.enter_async_context(simulated(simulator))
            return await stack.enter_async_context(hosting())

        yield begin


async def opened(sidecar: Sidecar, tab: Tab, number: str = PHONE) -> None:
    """Open the page and ask for a code."""
    await tab.visit(f"{sidecar.url}/.sidecar/verify")
    await tab.until("document.querySelector('#ask:not([hidden])')")
    await tab.type(number)
    await tab.click("#send")


async def arrived(tab: Tab) -> None:
    await tab.until("document.querySelector('#enter:not([hidden])') && document.activeElement.id === 'code'")


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_person_solves_it_and_solves_another_for_another_message(
    start: Start, tab: Tab, served: Any, name: str
) -> None:
    """Nothing that the page must not run is asked for, and each token is used once."""
    simulator = ALL[name](genuine={"one", "two"})
    host: Host = await served(simulator)
    host.scripts[name] = script(name, simulator, "one", "two")
    sidecar = await start(f'{table(name, simulator, host)}[api]\ncaptcha = "vendor"\nlimits = ["ip"]\n')
    await opened(sidecar, tab)
    if name not in BY_ITSELF:
        await tab.until("document.querySelector('#solve')")
        await tab.click("#solve")
    await arrived(tab)
    await tab.until("!document.getElementById('resend').disabled")
    await tab.click("#resend")
    if name not in BY_ITSELF:
        await tab.until("document.querySelector('#solve') && !document.getElementById('captcha').hidden")
        await tab.click("#solve")
    await sidecar.vendor.wait_for(lambda: len(sidecar.vendor.messages) == 2)
    assert len(simulator.asked) == 2
    assert set(simulator.spent) == {"one", "two"}
    assert tab.complaints == []
    assert {url.split("/")[2] for url in tab.urls if url.startswith("http")} == {
        sidecar.url.split("/")[2],
        host.url.split("/")[2],
    }


LISTED = '[api]\ncaptcha = ["vendor", "altcha"]\nlimits = ["ip"]\n'


async def test_the_next_captcha_is_shown_where_a_script_does_not_load(start: Start, tab: Tab, served: Any) -> None:
    """Blocked, or away: a person need not know, and waits for nobody."""
    simulator = TurnstileSimulator()
    host: Host = await served(simulator)
    sidecar = await start(table("turnstile", simulator, host) + LISTED)
    await opened(sidecar, tab)
    await arrived(tab)
    await sidecar.vendor.wait_for(lambda: len(sidecar.vendor.messages) == 1)
    assert host.asked == ["turnstile"]
    assert simulator.asked == []
    assert tab.complaints == []


async def test_the_next_captcha_is_shown_where_a_widget_fails(start: Start, tab: Tab, served: Any) -> None:
    simulator = TurnstileSimulator(genuine={"one"})
    host: Host = await served(simulator)
    host.scripts["turnstile"] = script("turnstile", simulator, "one")
    sidecar = await start(table("turnstile", simulator, host) + LISTED)
    await opened(sidecar, tab)
    await tab.until("window.failing")
    await tab.run("window.failing('110200')")
    await arrived(tab)
    assert simulator.asked == []


@pytest.mark.parametrize("name", ["turnstile", "geetest", "tencent"])
async def test_the_next_captcha_is_asked_where_the_verifier_is_away(
    start: Start, tab: Tab, served: Any, name: str
) -> None:
    """The person solved the first; the page goes on with the second by itself, and the message is sent once."""
    simulator = ALL[name](genuine={"one"})
    simulator.answer = web.Response(status=503)
    host: Host = await served(simulator)
    host.scripts[name] = script(name, simulator, "one")
    sidecar = await start(table(name, simulator, host) + LISTED)
    await opened(sidecar, tab)
    await tab.until("document.querySelector('#solve')")
    await tab.click("#solve")
    await arrived(tab)
    await sidecar.vendor.wait_for(lambda: len(sidecar.vendor.messages) == 1)
    assert len(simulator.asked) == 1
    assert tab.complaints == []


async def test_a_ticket_that_the_widget_made_alone_leads_to_the_next_captcha(
    start: Start, tab: Tab, served: Any
) -> None:
    """What a browser does whose vendor is away: it need not be trusted to let a person in."""
    simulator = TencentSimulator()
    host: Host = await served(simulator)
    host.scripts["tencent"] = script("tencent", simulator, "trerror_1001_2012345678_1772600767")
    sidecar = await start(table("tencent", simulator, host) + LISTED)
    await opened(sidecar, tab)
    await tab.until("document.querySelector('#solve')")
    await tab.click("#solve")
    await arrived(tab)
    assert simulator.asked == []


async def test_where_all_are_away_it_is_said_and_may_be_tried_again(start: Start, tab: Tab, served: Any) -> None:
    one, other = TurnstileSimulator(genuine={"one", "two"}), YidunSimulator(genuine={"three", "four"})
    one.answer = other.answer = web.Response(status=503)
    host: Host = await served(one, other)
    host.scripts["turnstile"] = script("turnstile", one, "one", "two")
    host.scripts["yidun"] = script("yidun", other, "three", "four")
    sidecar = await start(
        table("turnstile", one, host)
        + table("yidun", other, host, "second")
        + '[api]\ncaptcha = ["vendor", "second"]\nlimits = ["ip"]\n'
    )
    await opened(sidecar, tab)
    error = "document.getElementById('ask-error').textContent"
    await tab.until("document.querySelector('#solve')")
    await tab.run("document.querySelector('#solve').id = 'solved'")
    await tab.click("#solved")
    await tab.until("document.querySelector('#solve')")
    await tab.click("#solve")
    await tab.until(f"{error}.startsWith('The security check is not available right now.')")
    assert (len(one.asked), len(other.asked)) == (1, 1)
    assert not sidecar.vendor.messages


async def test_a_person_who_closes_it_is_told_to_solve_it(start: Start, tab: Tab, served: Any) -> None:
    """And may do so then."""
    simulator = TencentSimulator(genuine={"one"})
    host: Host = await served(simulator)
    host.scripts["tencent"] = script("tencent", simulator, "closed", "one")
    sidecar = await start(table("tencent", simulator, host) + '[api]\ncaptcha = "vendor"\nlimits = ["ip"]\n')
    await opened(sidecar, tab)
    await tab.until("document.querySelector('#solve')")
    await tab.click("#solve")
    await tab.until("document.getElementById('ask-error').textContent === 'Complete the security check first.'")
    await tab.click("#send")
    await tab.until("document.querySelector('#solve')")
    await tab.click("#solve")
    await arrived(tab)
