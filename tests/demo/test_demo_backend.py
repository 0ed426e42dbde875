"""The legacy backend: an ordinary application, alone."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sidecar.demo.backend import Library

Serve = Callable[[web.Application], Awaitable[aiohttp.ClientSession]]


async def test_a_form_gets_the_welcome_page_and_a_member(serve: Serve) -> None:
    library = Library()
    client = await serve(library.app())
    answer = await client.post("/register", data={"name": "Ada", "phone": "139 0000 0001"})
    page = await answer.text()
    assert answer.status == 200
    assert answer.content_type == "text/html"
    assert "Welcome, Ada" in page
    assert library.members["ada"].card in page
    assert library.members["ada"].phone == "139 0000 0001"


@pytest.mark.parametrize("path", ["/register", "/api/register"])
async def test_json_gets_code_0_and_a_card(serve: Serve, path: str) -> None:
    library = Library()
    client = await serve(library.app())
    answer = await client.post(path, json={"name": "Ada", "phone": "13900000001", "code": "ignored"})
    assert answer.status == 200
    assert await answer.json() == {"code": 0, "msg": "welcome", "card": library.members["ada"].card}


async def test_a_taken_name_is_refused_with_409_in_the_shape_that_was_asked_in(serve: Serve) -> None:
    client = await serve(Library().app())
    person = {"name": "ADA", "phone": "13900000001"}
    await client.post("/api/register", json=person | {"name": "ada"})
    as_json = await client.post("/api/register", json=person)
    as_form = await client.post("/register", data=person)
    assert (as_json.status, (await as_json.json())["code"]) == (409, 409)
    assert as_form.status == 409
    page = await as_form.text()
    assert "ADA has a card already" in page
    assert 'value="13900000001"' in page, "what was typed is still there"


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"name": 1, "phone": 2}', b'{"name": "Ada"}'])
async def test_what_cannot_be_read_is_400_and_no_member(serve: Serve, body: bytes) -> None:
    library = Library()
    client = await serve(library.app())
    answer = await client.post("/api/register", data=body, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert len(library.members) == 1, "only the librarian"


async def test_names_are_text_on_every_page(serve: Serve) -> None:
    client = await serve(Library().app())
    name = "<script>alert(1)</script>"
    welcome = await client.post("/register", data={"name": name, "phone": "1"}, headers={"X-Note": name})
    pages = [await welcome.text()] + [await (await client.get(path)).text() for path in ("/members", "/journal")]
    for page in pages:
        assert name not in page
        assert "&lt;script&gt;" in page


async def test_the_old_code_sender_is_switched_off(serve: Serve) -> None:
    client = await serve(Library().app())
    answer = await client.post("/api/sms/code", json={"phone": "13900000001"})
    assert answer.status == 503


async def test_the_journal_tells_every_request_with_its_fields_but_no_body_and_not_itself(serve: Serve) -> None:
    client = await serve(Library().app())
    await client.post("/api/register", json={"name": "Ada", "phone": "13900000001"}, headers={"X-Any": "one"})
    await client.get("/nowhere")
    await client.get("/journal")
    text = await (await client.get("/journal.json")).text()
    journal: list[dict[str, Any]] = json.loads(text)
    assert [(seen["method"], seen["path"], seen["status"]) for seen in journal] == [
        ("POST", "/api/register", 200),
        ("GET", "/nowhere", 404),
    ]
    assert ["X-Any", "one"] in journal[0]["fields"]
    assert "13900000001" not in text


async def test_the_journal_shows_what_a_signed_token_says(serve: Serve) -> None:
    client = await serve(Library().app())
    parts = [
        base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in ({"kid": "k"}, {"sub": "+1"})
    ]
    await client.get("/", headers={"X-Verified-Identity": ".".join([*parts, "c2ln"]), "X-Odd": "eyJ.not.base64!"})
    page = await (await client.get("/journal")).text()
    assert "&quot;sub&quot;: &quot;+1&quot;" in page
    assert "eyJ.not.base64!" in page
