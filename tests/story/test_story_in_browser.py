"""A person signs up through a real sidecar, in a real Chromium. `make test-browser` runs it."""

import asyncio
import html
import time
from typing import Any
from urllib.parse import parse_qsl

import pytest
from chromium import AXE, DEADLINE_S, Tab, needs_axe, needs_chromium
from fakes import Message, Taken, read_content
from telling import CONFIG, E164, PHONE, SEND, Sidecar, Start

pytestmark = needs_chromium
ROUTE = """
[[routes]]
match = "POST /register"
action = "verify"
to = "form:phone"
code = "form:code"
browser = "page"
"""
ERROR, DELIVERY, SEND_AGAIN = "#enter-error", "#delivery", "#resend"


class Site:
    """The old service: a form at `/`, and whoever reaches `/register` is welcome."""

    def __init__(self, fields: dict[str, str], action: str = "/register") -> None:
        inputs = "".join(f'<input name="{name}" value="{html.escape(value)}">' for name, value in fields.items())
        self.form = f'<!doctype html><form method="post" action="{action}">{inputs}</form>'
        self.sent: list[bytes] = []
        self.cookies: list[bytes] = []

    async def answer(self, taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        body = self.form.encode()
        if request.start_line.startswith(b"POST"):
            self.sent.append(request.content)
            self.cookies += request.values(b"cookie")
            body = b"welcome"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nSet-Cookie: session=s; SameSite=Strict\r\n"
        await taken.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))


async def opened(sidecar: Sidecar, tab: Tab, site: Site, origin: str = "") -> None:
    """Open the site's form, and send it."""
    sidecar.upstream.answer = site.answer
    await tab.visit(f"{origin or sidecar.url}/")
    await tab.run("HTMLFormElement.prototype.submit.call(document.forms[0])")
    await tab.until("document.querySelector('main.card') && document.readyState === 'complete'")


async def asked(tab: Tab) -> None:
    """Ask for a code on the page."""
    await tab.until("document.querySelector('#ask:not([hidden])')")
    await tab.click("#send")
    await tab.until("document.querySelector('#enter:not([hidden])') && document.activeElement.id === 'code'")


def wrong(code: str) -> str:
    return code[:-1] + str((int(code[-1]) + 1) % 10)


def shows(selector: str, text: str) -> str:
    return f"document.querySelector({selector!r}).innerText.includes({text!r})"


async def test_a_form_goes_on_as_it_was_whatever_its_fields_are_named(start: Start, tab: Tab) -> None:
    """Names that hide a form's own members, markup, and our Strict cookies beside the site's."""
    fields = {"phone": PHONE, "append": "1", "submit": "2", "action": "/x", "method": "get", "elements": "3"}
    fields |= {"name": "</script><script>alert(1)</script>", "target": "t", "setAttribute": "4", "body": "5"}
    site = Site(fields)
    sidecar = await start(SEND + ROUTE)
    await opened(sidecar, tab, site)
    await asked(tab)
    await tab.type(await sidecar.vendor.code())
    await tab.until("document.body.innerText === 'welcome'")
    [sent] = site.sent
    assert dict(parse_qsl(sent.decode(), keep_blank_values=True)) == fields
    assert b"session=s" in site.cookies[0]
    assert tab.complaints == []


async def test_a_form_of_another_site_is_stopped(start: Start, tab: Tab) -> None:
    """Nothing of it can be sent on from our page; the person can open the site itself, and do it there."""
    sidecar = await start(SEND + ROUTE)
    site = Site({"phone": PHONE, "mail": "attacker@evil.example"}, f"{sidecar.url}/register")
    await opened(sidecar, tab, site, sidecar.url.replace("127.0.0.1", "localhost"))
    assert "Another website sent this form" in await tab.text("#told")
    assert await tab.run("document.querySelectorAll('form, script').length") == 0
    await tab.click("a.primary")
    await tab.until(f"location.href === '{sidecar.url}/'")
    await tab.run("HTMLFormElement.prototype.submit.call(document.forms[0])")
    await tab.until("document.querySelector('#ask:not([hidden])')")
    assert not site.sent


async def test_a_mistyped_number_is_corrected_and_the_form_goes_on(start: Start, tab: Tab) -> None:
    """By keyboard alone: the field has the focus, Enter sends."""
    site = Site({"phone": "+86 1390000000", "submit": "Sign up", "name": 'A"n<n>'})
    sidecar = await start(SEND + ROUTE)
    await opened(sidecar, tab, site)
    assert "This does not look like a phone number." in await tab.text("#told")
    assert await tab.run("document.activeElement.id") == "right"
    assert await tab.run("document.activeElement.value") == "+86 1390000000"
    await tab.run("document.activeElement.setSelectionRange(99, 99)")
    await tab.type("1")
    await tab.press("Enter")
    await asked(tab)
    await tab.type(await sidecar.vendor.code())
    await tab.until("document.body.innerText === 'welcome'")
    assert site.sent == [b"submit=Sign+up&name=A%22n%3Cn%3E&phone=%2B86+13900000001"]
    assert tab.complaints == []


async def test_what_was_said_of_a_wrong_code_stays_until_the_next(start: Start, tab: Tab) -> None:
    """Enter on the emptied field takes nothing away; a part of a code is told with the tries that are left."""
    sidecar = await start(SEND + ROUTE)
    await opened(sidecar, tab, Site({"phone": PHONE}))
    await asked(tab)
    code = await sidecar.vendor.code()
    await tab.type(wrong(code))
    said = "That is not the right code. Tries left: 4."
    await tab.until(shows(ERROR, said))
    await tab.press("Enter")
    assert await tab.text(ERROR) == said
    await tab.type("12")
    await tab.press("Enter")
    assert await tab.text(ERROR) == "Enter all 6 digits. Tries left: 4."


async def test_a_dead_code_is_told_as_one_and_a_new_one_works(start: Start, tab: Tab) -> None:
    """No "Tries left: 0", no more tries, and nothing that still says the code is on its way."""
    site = Site({"phone": PHONE})
    sidecar = await start(SEND + ROUTE)
    await opened(sidecar, tab, site)
    await asked(tab)
    code = await sidecar.vendor.code()
    for left in (4, 3, 2, 1):
        await tab.type(code := wrong(code))
        await tab.until(shows(ERROR, f"Tries left: {left}."))
    await tab.type(wrong(code))
    await tab.until(shows(ERROR, "Too many wrong codes. Send a new one."))
    assert await tab.run("document.querySelector('#code').disabled && document.querySelector('#check').disabled")
    assert await tab.text(DELIVERY) == ""
    await tab.until("!document.querySelector('#resend').disabled")
    await tab.click(SEND_AGAIN)
    await tab.until("!document.querySelector('#code').disabled && document.activeElement.id === 'code'")
    assert await tab.text(ERROR) == ""
    await tab.type(await sidecar.vendor.code(count=2))
    await tab.until("document.body.innerText === 'welcome'")


async def test_a_message_that_left_is_told_at_once(start: Start, tab: Tab) -> None:
    """ "Sending your code…" stands only while it is so."""
    sidecar = await start(SEND + ROUTE)
    sidecar.vendor.open.clear()
    await opened(sidecar, tab, Site({"phone": PHONE}))
    await asked(tab)
    await tab.until(shows(DELIVERY, "Sending your code…"))
    began = time.monotonic()
    sidecar.vendor.open.set()
    await tab.until(shows(DELIVERY, "Code sent."))
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (500, "We could not confirm that your code was sent. It may still arrive"),
        (400, "Your code could not be sent. This is not your fault"),
    ],
)
async def test_a_message_that_did_not_surely_leave_is_told_honestly(
    start: Start, tab: Tab, status: int, says: str
) -> None:
    """`unconfirmed` and `failed` each have a sentence of their own, and a way on."""
    sidecar = await start(SEND + ROUTE)
    sidecar.vendor.status = status
    await opened(sidecar, tab, Site({"phone": PHONE}))
    await asked(tab)
    await tab.until(shows(DELIVERY, says))
    await tab.until("!document.querySelector('#resend').disabled")


async def test_a_code_that_came_is_taken_after_a_reload_and_in_another_tab(start: Start, tab: Tab) -> None:
    """With a limit in the way of another message: "I have a code" asks for none."""
    site = Site({"phone": PHONE})
    sidecar = await start(SEND + ROUTE, to_rate="1/1h")
    await opened(sidecar, tab, site)
    await asked(tab)
    code = await sidecar.vendor.code()
    await tab.call("Page.reload")
    await tab.until("document.querySelector('#ask:not([hidden])')")
    await opened(sidecar, tab, site)
    await tab.click("#send")
    await tab.until(shows("#ask-error", "Too many requests."))
    await tab.click("#have")
    await tab.until("document.activeElement.id === 'code'")
    assert PHONE in await tab.text("#enter-intro")
    assert await tab.text(DELIVERY) == ""
    await tab.type(wrong(code))
    await tab.until(shows(ERROR, "Tries left: 4."))
    await tab.type(code)
    await tab.until("document.body.innerText === 'welcome'")
    assert site.sent == [f"phone={PHONE}".encode()]
    assert len(sidecar.vendor.messages) == 1


async def test_a_code_from_elsewhere_needs_its_number(start: Start, tab: Tab) -> None:
    """On the page that no form led to."""
    sidecar = await start(SEND + ROUTE)
    assert (await sidecar.send()).status == 202
    await tab.visit(f"{sidecar.url}/.sidecar/verify")
    await tab.click("#have")
    assert await tab.text("#ask-error") == "Enter your phone number."
    await tab.type(E164)
    await tab.click("#have")
    await tab.type(await sidecar.vendor.code())
    await tab.until("document.querySelector('#done:not([hidden])')")


async def test_a_front_end_of_another_origin_reads_what_is_ours(start: Start, tab: Tab) -> None:
    """Preflight, refusal, token and its field, as a script on another origin meets them."""
    front = "http://localhost"
    sidecar = await start(SEND + ROUTE.replace("form:", "json:"))
    origin = sidecar.url.replace("127.0.0.1", "localhost")
    assert origin.startswith(front)
    again = await start(f'[api]\ncors_origins = ["{origin}"]\n' + SEND + ROUTE.replace("form:", "json:"))
    sidecar.upstream.answer = Site({}).answer
    await tab.visit(f"{origin}/")
    script = f"""
        fetch("{again.url}/register", {{
          method: "POST", credentials: "include", body: '{{"phone": "{PHONE}"}}',
          headers: {{"Content-Type": "application/json", "X-Verification-Token": "none"}},
        }}).then(async (reply) => [reply.status, (await reply.json()).code, reply.headers.get("X-Request-Id").length])
    """
    assert await tab.run(script) == [410, "code_expired", 32]


@needs_axe
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("spoken", ["en", "ar"])
async def test_axe_finds_nothing(start: Start, tab: Tab, dark: bool, spoken: str) -> None:
    """On every page and step, in both schemes, in both directions, on a small phone."""
    axe = await asyncio.to_thread(AXE.read_text, "utf-8")
    await tab.look(dark=dark)
    await tab.call("Network.setExtraHTTPHeaders", headers={"Accept-Language": spoken})
    sidecar = await start(SEND + ROUTE + '[[routes]]\nmatch = "GET /closed"\naction = "deny"\n', config=CONFIG)
    findings: dict[str, Any] = {}
    await opened(sidecar, tab, Site({"phone": "123", "name": "Ann"}))
    findings["correct"] = await tab.findings(axe)
    await opened(sidecar, tab, Site({"phone": PHONE}, f"{sidecar.url}/register"), f"http://localhost:{sidecar.port}")
    findings["other site"] = await tab.findings(axe)
    await opened(sidecar, tab, Site({"phone": PHONE}))
    findings["ask"] = await tab.findings(axe)
    await asked(tab)
    await tab.type(wrong(await sidecar.vendor.code()))
    await tab.until("!document.querySelector('#enter-error').hidden")
    findings["wrong"] = await tab.findings(axe)
    await tab.visit(f"{sidecar.url}/closed")
    findings["closed"] = await tab.findings(axe)
    assert {page: found for page, found in findings.items() if found} == {}
    assert await asyncio.wait_for(tab.run("document.documentElement.scrollWidth"), DEADLINE_S) <= 360


async def test_a_captcha_appears_once_wrong_codes_demand_it_and_the_form_goes_on(start: Start, tab: Tab) -> None:
    """By `captcha_after`: no widget while one types, then one that is solved by itself, and the right code is taken."""
    site = Site({"phone": PHONE})
    sidecar = await start("[api]\ncaptcha_after = 2\n" + SEND + ROUTE)
    await opened(sidecar, tab, site)
    await asked(tab)
    code = await sidecar.vendor.code()
    hidden = "document.querySelector('#captcha').hidden"
    guess = code
    for left in (4, 3):
        await tab.type(guess := wrong(guess))
        await tab.until(shows(ERROR, f"Tries left: {left}."))
        assert await tab.run(hidden)
    await tab.type(wrong(guess))
    await tab.until(shows(ERROR, "Tries left: 2."))
    assert not await tab.run(hidden)
    assert await tab.run("document.querySelector('#captcha-again').contains(document.querySelector('altcha-widget'))")
    await tab.type(code)
    await tab.until("document.body.innerText === 'welcome'")
    assert tab.complaints == []


async def test_the_page_asks_for_a_captcha_only_where_a_limit_demands_one(start: Start, tab: Tab) -> None:
    """The first message is asked for without; for the next one the widget appears, and it is sent."""
    stepping = '[limits.free]\nkey = "to"\nrate = "1/1h"\nmode = "captcha"\n[api]\nlimits = ["free"]\n'
    sidecar = await start(stepping + SEND + ROUTE)
    await opened(sidecar, tab, Site({"phone": PHONE}))
    assert await tab.run("document.querySelector('altcha-widget')") is None
    await asked(tab)
    await sidecar.vendor.code()
    assert not [url for url in tab.urls if url.endswith("/challenge")]
    await tab.until(f"!document.querySelector('{SEND_AGAIN}').disabled")
    await tab.click(SEND_AGAIN)
    await tab.type(await sidecar.vendor.code(count=2))
    await tab.until("document.body.innerText === 'welcome'")
    assert [url for url in tab.urls if url.endswith("/challenge")]
    assert tab.complaints == []


async def test_a_form_whose_codes_were_guessed_wrong_goes_on_by_the_page(start: Start, tab: Tab) -> None:
    """The site's own form cannot show a captcha: the page takes over, and what it hands back is no guess."""
    site = Site({"phone": PHONE, "code": "000000", "name": "Ann"})
    after = 'captcha = "altcha"\ncaptcha_token = "form:captcha"\ncaptcha_after = 1\n'
    sidecar = await start("[api]\ncaptcha_after = 1\n" + SEND + ROUTE + after)
    assert (await sidecar.send()).status == 202
    code = await sidecar.vendor.code()
    for _ in range(2):
        sidecar.upstream.answer = site.answer
        await tab.visit(f"{sidecar.url}/")
        await tab.run("HTMLFormElement.prototype.submit.call(document.forms[0])")
        await tab.until("document.querySelector('main.card') && document.readyState === 'complete'")
    await tab.until("document.querySelector('#ask:not([hidden])')")
    await tab.click("#have")
    await tab.until("document.activeElement.id === 'code'")
    await tab.type(code)
    await tab.until("document.body.innerText === 'welcome'")
    assert site.sent == [f"phone={PHONE}&code=&name=Ann".encode()]
    assert tab.complaints == []
