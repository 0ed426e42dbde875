"""What does the sidecar stand in front of? Pinewood Library's sign-up: a small, ordinary web application.

Law: it has never heard of the sidecar. It imports nothing of it, reads no identity field, and would work just the same
alone. All that it knows is in memory.
"""

import base64
import binascii
import html
import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from string import Template
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

_PAGE: Final = Template(files(__package__).joinpath("backend.html").read_text(encoding="utf-8"))
_BOOKS: Final = files(__package__).joinpath("books.svg").read_text(encoding="utf-8")

# Enough to look back at an afternoon of clicking.
_JOURNAL_LINES: Final = 200


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    phone: str  # as typed
    card: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as this server got it, its body left out. `at` in seconds since the epoch."""

    at: float
    method: str
    path: str
    status: int
    fields: tuple[tuple[str, str], ...]


class Library:
    """One library: its members, and the journal of what reached this server."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.journal: deque[Seen] = deque(maxlen=_JOURNAL_LINES)
        self._enrol("Marian Pinewood", "139 0000 0000")

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._write_journal])
        app.add_routes(
            [
                web.get("/", self._front_page),
                web.post("/register", self._register),
                web.post("/api/register", self._register),
                web.post("/api/sms/code", self._send_code),
                web.get("/members", self._members_page),
                web.get("/journal", self._journal_page),
                web.get("/journal.json", self._journal_json),
            ]
        )
        return app

    @web.middleware
    async def _write_journal(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 500
        try:
            answer = await handler(request)
            status = answer.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            if not request.path.startswith(("/journal", "/favicon")):  # looking must not change what is looked at
                fields = tuple(request.headers.items())
                self.journal.append(Seen(time.time(), request.method, request.path, status, fields))
        return answer

    async def _front_page(self, _: web.Request) -> web.Response:
        return _page("Get your library card", _FORM.substitute(books=_BOOKS, notice="", name="", phone=""))

    async def _register(self, request: web.Request) -> web.Response:
        """Enrol a member: a form gets a page, JSON gets `{"code": 0, …}`; the code is 0 or the status."""
        as_json = request.content_type == "application/json"
        fields = await _read(request)
        name, phone = fields.get("name", "").strip(), fields.get("phone", "").strip()
        if not name or not phone:
            status, text = 400, "We need your name and your telephone number."
        elif name.casefold() in self.members:
            status, text = 409, f"{name} has a card already. Please choose another name."
        else:
            member = self._enrol(name, phone)
            if as_json:
                return _json({"code": 0, "msg": "welcome", "card": member.card})
            return _page(f"Welcome, {name}", _WELCOME.substitute(name=html.escape(name), card=member.card))
        if as_json:
            return _json({"code": status, "msg": text}, status)
        notice = f'<p class="notice" role="alert">{html.escape(text)}</p>'
        form = _FORM.substitute(books=_BOOKS, notice=notice, name=html.escape(name), phone=html.escape(phone))
        return _page("Get your library card", form, status)

    async def _send_code(self, _: web.Request) -> web.Response:
        """The old sender of codes, long switched off."""
        return _json({"code": 503, "msg": "the code sender is switched off"}, 503)

    async def _members_page(self, _: web.Request) -> web.Response:
        rows = "".join(
            f"<tr><td>{html.escape(m.name)}</td><td>{html.escape(_masked(m.phone))}</td><td>{m.card}</td></tr>"
            for m in reversed(self.members.values())
        )
        head = "<tr><th>Name</th><th>Telephone</th><th>Card</th></tr>"
        return _page("Members", f"<h1>Members</h1><table><thead>{head}</thead><tbody>{rows}</tbody></table>")

    async def _journal_page(self, _: web.Request) -> web.Response:
        entries = "".join(_entry(seen) for seen in reversed(self.journal)) or "<p>Nothing yet.</p>"
        return _page("What reached this server", f"<h1>What reached this server</h1>{entries}")

    async def _journal_json(self, _: web.Request) -> web.Response:
        return _json([asdict(seen) for seen in self.journal])

    def _enrol(self, name: str, phone: str) -> Member:
        member = Member(name, phone, f"PL 2041 {len(self.members) + 1:04d}")
        self.members[name.casefold()] = member
        return member


async def _read(request: web.Request) -> Mapping[str, str]:
    """The text fields of a form or of a JSON object; what cannot be read is an empty form."""
    if request.content_type != "application/json":
        return {k: v for k, v in (await request.post()).items() if isinstance(v, str)}
    try:
        document = await request.json()
    except ValueError:
        return {}
    return {k: v for k, v in document.items() if isinstance(v, str)} if isinstance(document, dict) else {}


def _json(document: Any, status: int = 200) -> web.Response:
    return web.json_response(document, status=status)


def _page(title: str, main: str, status: int = 200) -> web.Response:
    text = _PAGE.substitute(title=html.escape(title), main=main)
    return web.Response(text=text, content_type="text/html", status=status, headers={"Cache-Control": "no-store"})


def _masked(phone: str) -> str:
    return f"••• {phone[-4:]}"


def _entry(seen: Seen) -> str:
    rows = "".join(f"<dt>{html.escape(k)}</dt><dd>{_shown(v)}</dd>" for k, v in seen.fields)
    at = time.strftime("%H:%M:%S", time.localtime(seen.at))
    what = f"<b>{html.escape(seen.method)}</b> {html.escape(seen.path)}"
    is_open = " open" if seen.method == "POST" else ""
    return (
        f"<details{is_open}><summary><time>{at}</time> {what} <i>{seen.status}</i></summary><dl>{rows}</dl></details>"
    )


def _shown(value: str) -> str:
    """A field's value; under a signed token (RFC 7519) its two readable parts, as request inspectors have it."""
    text = html.escape(value)
    parts = value.split(".")
    if len(parts) != 3 or not value.startswith("eyJ"):
        return text
    try:
        opened = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in parts[:2]]
    except (ValueError, binascii.Error):
        return text
    pretty = "\n".join(json.dumps(part, indent=2, ensure_ascii=False) for part in opened)
    return f"<code>{text}</code><pre>{html.escape(pretty)}</pre>"


_FORM: Final = Template("""<div class="hero"><section><h1>Get your library card</h1>
<p class="lead">Eleven thousand books, a reading garden and good lamps. The card is free, and it takes a minute.</p>
<form method="post" action="/register">
$notice<label>Your name<input name="name" value="$name" autocomplete="name" required maxlength="80"></label>
<label>Telephone<input name="phone" value="$phone" type="tel" autocomplete="tel" placeholder="139 0000 0001" required
 maxlength="40"></label>
<button>Get my card</button>
</form></section>
$books</div>""")

_WELCOME: Final = Template("""<h1>Welcome, $name</h1>
<p class="lead">Your card is ready at the desk. Come in, warm up, take a book home.</p>
<div class="card"><span>Pinewood Library</span><b>$card</b><span>$name</span></div>
<p><a href="/">Another card</a></p>""")
