"""The slider in a real Chromium: by mouse, touch and keys, on the hosted page and on anybody's. `make test-browser`."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import tracks
from chromium import AXE, Tab, needs_axe, needs_chromium
from telling import CONFIG, Sidecar, Start

from sidecar.captcha.slider import Slider

pytestmark = needs_chromium
TABLES = """
[captcha.slider]
kind = "slider"
cost = 10
max_counter = 100
[api]
captcha = "slider"
limits = ["ip", "to"]
[[routes]]
match = "POST /form"
action = "guard"
captcha = "slider"
captcha_token = "form:proof"
"""
FORM = """<!doctype html><html lang="en"><title>t</title><main>
<script type="module" src="/.sidecar/static/slider.js"></script>
<form method="post" action="/form">
<sidecar-slider challenge="/.sidecar/captcha/slider/challenge" name="proof" alternative>
</sidecar-slider><button>Go</button></form></main></html>"""
STRICT = "default-src 'none'; script-src 'self'; connect-src 'self'; form-action 'self'"
INSIDE = "document.querySelector('sidecar-slider').shadowRoot.querySelector"
STATE = "document.querySelector('sidecar-slider')?.state"


def verifier(sidecar: Sidecar) -> Slider:
    found = sidecar.app.gate._admitting._captchas["slider"]
    assert isinstance(found, Slider)
    return found


async def begun(start: Start, tab: Tab, *, form: bool = True) -> Sidecar:
    """A sidecar whose pictures are ready, with the form of somebody's strict page behind it."""
    sidecar = await start(TABLES, config=CONFIG)
    octets = FORM.encode()
    fields = f"Content-Type: text/html\r\nContent-Security-Policy: {STRICT}\r\nContent-Length: {len(octets)}\r\n\r\n"
    sidecar.upstream.answer = f"HTTP/1.1 200 OK\r\n{fields}".encode() + octets
    async with asyncio.timeout(30):
        while verifier(sidecar)._pictures.is_empty:
            await asyncio.sleep(0.02)
    seals: list[str] = []
    sealed = verifier(sidecar)._sealed

    def noted(plain: bytes, purpose: bytes) -> str:
        seals.append(seal := sealed(plain, purpose))
        return seal

    # To know which picture the page shows.
    verifier(sidecar)._sealed = noted  # type: ignore[method-assign]
    sidecar.seals = seals  # type: ignore[attr-defined]
    await tab.visit(f"{sidecar.url}/" if form else f"{sidecar.url}/.sidecar/verify")
    await tab.until(f"{STATE} === 'ready'")
    return sidecar


def wanted(sidecar: Sidecar) -> int:
    """Where the piece of the newest picture belongs."""
    octets = base64.urlsafe_b64decode(sidecar.seals[-1] + "==")  # type: ignore[attr-defined]
    return int.from_bytes(verifier(sidecar)._sealing.decrypt(octets[:12], octets[12:], b"picture")[-2:], "big")


async def box(tab: Tab, selector: str) -> dict[str, float]:
    found: dict[str, float] = await tab.run(
        f"(() => {{ const b = {INSIDE}('{selector}').getBoundingClientRect();"
        " return {x: b.x, y: b.y, width: b.width, height: b.height}; })()"
    )
    return found


async def drag(tab: Tab, grip: str, to: float, points: tracks.Points | None = None) -> None:
    """Take the piece by its handle or by itself, and move it so many pixels of the picture, as a hand does."""
    handle, piece, picture = await box(tab, grip), await box(tab, ".piece"), await box(tab, ".picture")
    track = await box(tab, ".track")
    way = picture["width"] - piece["width"] if grip == ".piece" else track["width"] - handle["width"]
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    scale = way / 304

    async def at(kind: str, left: float, top: float) -> None:
        button = "none" if kind == "mouseMoved" else "left"
        held = 0 if kind == "mouseReleased" else 1
        await tab.call("Input.dispatchMouseEvent", type=kind, x=left, y=top, button=button, buttons=held, clickCount=1)

    await at("mousePressed", x, y)
    before = 0.0
    track_points = points or tracks.hand(to, 7)
    for time, right, down in track_points:
        await asyncio.sleep((time - before) / 1000)
        before = time
        await at("mouseMoved", x + right * scale, y + down * scale)
    await at("mouseReleased", x + track_points[-1][1] * scale, y + track_points[-1][2] * scale)


async def text(tab: Tab, selector: str) -> str:
    return str(await tab.run(f"{INSIDE}('{selector}').textContent"))


@pytest.mark.parametrize("grip", [".handle", ".piece"])
async def test_a_hand_solves_it_and_the_form_has_the_token(tab: Tab, start: Start, grip: str) -> None:
    """Under a strict policy without images or inline styles; upstream sees a proven person."""
    sidecar = await begun(start, tab)
    await drag(tab, grip, wanted(sidecar))
    await tab.until(f"{STATE} === 'verified'")
    assert await text(tab, ".said") == "Checked"
    await tab.run("document.forms[0].submit()")
    await sidecar.upstream.wait_for(lambda: sidecar.upstream.requests[-1].target == b"/form")
    assert sidecar.upstream.requests[-1].value(b"X-Verified-Identity")
    assert tab.complaints == []


async def test_a_wrong_place_brings_another_picture_and_says_so(tab: Tab, start: Start) -> None:
    sidecar = await begun(start, tab)
    await drag(tab, ".handle", wanted(sidecar) - 40)
    await tab.until(f"{STATE} === 'ready' && {INSIDE}('.said').textContent.startsWith('That was not the place')")
    assert len(sidecar.seals) == 2  # type: ignore[attr-defined]
    await drag(tab, ".handle", wanted(sidecar))
    await tab.until(f"{STATE} === 'verified'")


async def test_keys_alone_solve_it(tab: Tab, start: Start) -> None:
    """Tab to it, arrows to the place, Enter: and what a screen reader is told moves along."""
    sidecar = await begun(start, tab)
    await tab.press("Tab")
    assert (
        await tab.run("document.querySelector('sidecar-slider').shadowRoot.activeElement?.getAttribute('role')")
        == "slider"
    )

    async def key(name: str, modifiers: int = 0) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            await tab.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, modifiers=modifiers)
        await asyncio.sleep(0.1)  # nobody presses three keys, and sees where the piece is, in less than 0.3 s

    pages, rest = divmod(wanted(sidecar), 24)
    for name, count, modifiers in (("PageUp", pages, 0), ("ArrowRight", rest // 4, 0), ("ArrowRight", rest % 4, 8)):
        for _ in range(count):
            await key(name, modifiers)
    percent = await tab.run(f"{INSIDE}('.handle').getAttribute('aria-valuenow')")
    assert abs(int(percent) - 100 * wanted(sidecar) / 304) <= 1
    assert await tab.run(f"{INSIDE}('.handle').getAttribute('aria-valuetext')") == f"{percent} % of the way"
    await tab.press("Enter")
    await tab.until(f"{STATE} === 'verified'")
    assert tab.complaints == []


async def test_a_finger_solves_it_on_a_phone(tab: Tab, start: Start) -> None:
    await tab.look(width=360, height=700)
    await tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    sidecar = await begun(start, tab)
    handle, track = await box(tab, ".handle"), await box(tab, ".track")
    scale = (track["width"] - handle["width"]) / 304
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    before = 0.0
    await tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    for time, right, down in tracks.hand(wanted(sidecar), 9):
        await asyncio.sleep((time - before) / 1000)
        before = time
        await tab.call(
            "Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x + right * scale, "y": y + down * scale}]
        )
    await tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    await tab.until(f"{STATE} === 'verified'")


async def test_a_script_that_moves_it_evenly_is_refused(tab: Tab, start: Start) -> None:
    sidecar = await begun(start, tab)
    await drag(tab, ".handle", 0, tracks.even(wanted(sidecar)))
    await tab.until(f"{STATE} !== 'ready' && {STATE} !== 'checking'")
    assert await tab.run(STATE) == "loading"


async def test_who_cannot_see_it_says_so_by_a_button(tab: Tab, start: Start) -> None:
    """The page hears of it, and shows another captcha."""
    await begun(start, tab)
    await tab.run("addEventListener('switch', () => (window.switched = true))")
    for _ in range(3):
        await tab.press("Tab")
    focused = "document.querySelector('sidecar-slider').shadowRoot.activeElement.textContent"
    assert await tab.run(focused) == "I can’t see the picture"
    await tab.press("Enter")
    await tab.until("window.switched === true")


async def test_the_hosted_page_sends_with_it(tab: Tab, start: Start) -> None:
    """Unsolved, the page says so and leads there; solved, the code is sent."""
    sidecar = await begun(start, tab, form=False)
    await tab.run("document.getElementById('to').value = '13900000001'")
    await tab.run("document.getElementById('send').click()")
    await tab.until("document.getElementById('ask-error').textContent === 'Complete the security check first.'")
    assert await tab.run("document.activeElement.localName") == "sidecar-slider"
    await drag(tab, ".handle", wanted(sidecar))
    await tab.until(f"{STATE} === 'verified'")
    await tab.run("document.getElementById('send').click()")
    await tab.until("document.querySelector('#enter:not([hidden])')")
    await sidecar.vendor.code()
    assert tab.complaints == []


LOOKS: list[tuple[str, dict[str, Any], str]] = [
    ("phone-light", {"width": 360, "height": 760}, "en"),
    ("phone-dark", {"width": 320, "height": 760, "dark": True}, "de"),
    ("desktop-light", {"width": 1100, "height": 800}, "ar"),
    ("desktop-dark", {"width": 1100, "height": 800, "dark": True}, "zh"),
]


@needs_axe
@pytest.mark.parametrize(("name", "look", "spoken"), LOOKS, ids=[look[0] for look in LOOKS])
async def test_it_fits_and_is_accessible(
    tab: Tab, start: Start, tmp_path: Path, name: str, look: dict[str, Any], spoken: str
) -> None:
    """In both schemes, on a phone and a desk, in a language that reads from the right: nothing overflows."""
    await tab.call("Network.setExtraHTTPHeaders", headers={"Accept-Language": spoken})
    await tab.look(**look)
    await begun(start, tab, form=False)
    (tmp_path / f"{name}.png").write_bytes(await tab.picture())
    assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert await tab.findings(AXE.read_text("utf-8")) == []
