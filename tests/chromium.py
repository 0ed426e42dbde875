"""A real Chromium, driven by its DevTools protocol: what a person would see, click and type."""

import asyncio
import base64
import itertools
import json
import os
import re
import shutil
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
AXE = Path(os.environ.get("AXE_CORE", ".bench/node/node_modules/axe-core/axe.min.js"))
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (npm); AXE_CORE names its axe.min.js")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
DEADLINE_S = 30


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

    async def press(self, key: str) -> None:
        codes = {"Enter": 13, "Tab": 9}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text
            )

    async def click(self, selector: str) -> None:
        await self.run(f"document.querySelector({selector!r}).click()")

    async def text(self, selector: str) -> str:
        """What of an element a person sees."""
        return str(await self.run(f"document.querySelector({selector!r})?.innerText ?? ''"))

    async def visit(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href === {url!r} && document.readyState === 'complete'")

    async def look(self, *, width: int = 360, height: int = 640, dark: bool = False) -> None:
        """Be a device: a small phone, at first."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def picture(self) -> bytes:
        """What is seen now, as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        return base64.b64decode(shot["data"])

    async def findings(self, axe: str) -> list[str]:
        """What axe-core, whose script is given, finds wrong with what is seen now: "rule: element"."""
        await self.run(axe)
        found = await self.run("axe.run().then((results) => results.violations)")
        return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


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


@pytest_asyncio.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browser(tmp_path) as tab:
        yield tab
