"""What arrived on the phone? A virtual handset for every number, live in the browser, with the operators' switches.

Law: it shows what the operators deliver and nothing else; it never talks to the sidecar. All in memory.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from string import Template
from typing import Any, Final, Literal, get_args

from aiohttp import web

_PAGE: Final = Template(files(__package__).joinpath("handset.html").read_text(encoding="utf-8"))

# ok    answers at once, and the message arrives
# slow  takes its time to answer, and the message arrives late
# dead  closes the connection without a word
State = Literal["ok", "slow", "dead"]
STATES: Final[tuple[State, ...]] = get_args(State)

# A line now and then, so that a closed tab is noticed.
_KEEP_ALIVE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Text:
    """A text message on a handset. `at` in seconds since the epoch."""

    to: str
    text: str
    operator: str
    at: float


class Handset:
    """All messages, the operators' states, and the pages that are open."""

    def __init__(self, signup_url: str, states: Mapping[str, State]) -> None:
        self.states = dict(states)
        self._signup_url = signup_url
        self._texts: list[Text] = []
        self._pages: set[asyncio.Queue[bytes]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._page),
            web.get("/events", self._events),
            web.get("/messages.json", self._messages),
            web.get("/operators.json", self._operators),
            web.post("/operators/{name}", self._switch),
        ]

    def deliver(self, to: str, text: str, operator: str) -> None:
        message = Text(to, text, operator, time.time())
        self._texts.append(message)
        self._tell(_event("message", asdict(message)))

    async def _page(self, _: web.Request) -> web.Response:
        text = _PAGE.substitute(signup_url=self._signup_url)
        return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: first all that is known, then what happens."""
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await stream.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queue.put_nowait(_event("operators", self.states))
        for message in self._texts:
            queue.put_nowait(_event("message", asdict(message)))
        self._pages.add(queue)
        try:
            with contextlib.suppress(ConnectionError):
                while True:
                    try:
                        event = await asyncio.wait_for(queue.get(), _KEEP_ALIVE_S)
                    except TimeoutError:
                        event = b":\n\n"
                    await stream.write(event)
        finally:
            self._pages.discard(queue)
        return stream

    async def _messages(self, request: web.Request) -> web.Response:
        to = request.query.get("to")
        return web.json_response([asdict(message) for message in self._texts if to in (None, message.to)])

    async def _operators(self, _: web.Request) -> web.Response:
        return web.json_response(self.states)

    async def _switch(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.states:
            raise web.HTTPNotFound(text=f"there is no operator {name}; write a or b\n")
        try:
            # A form from a foreign page cannot have this type.
            document = await request.json() if request.content_type == "application/json" else None
        except ValueError:
            document = None
        state = document.get("state") if isinstance(document, dict) else None
        if state not in STATES:
            raise web.HTTPBadRequest(text='write {"state": "ok"}, "slow" or "dead", as application/json\n')
        self.states[name] = state
        self._tell(_event("operators", self.states))
        return web.json_response(self.states)

    def _tell(self, event: bytes) -> None:
        for queue in self._pages:
            queue.put_nowait(event)


def _event(name: str, document: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()
