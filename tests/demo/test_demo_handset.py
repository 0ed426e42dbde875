"""The handset page: live, and the operators' switches."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sidecar.demo.handset import Handset

Serve = Callable[[web.Application], Awaitable[aiohttp.ClientSession]]


async def stand(serve: Serve) -> tuple[aiohttp.ClientSession, Handset]:
    handset = Handset("http://signup.example/", {"a": "ok", "b": "ok"})
    app = web.Application()
    app.add_routes(handset.routes())
    return await serve(app), handset


async def events(stream: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in stream.content:
        if line.startswith(b"event: "):
            name = line.decode().removeprefix("event: ").strip()
        if line.startswith(b"data: "):
            yield name, json.loads(line.removeprefix(b"data: "))


async def test_a_page_gets_what_is_known_first_and_then_what_happens(serve: Serve) -> None:
    client, handset = await stand(serve)
    handset.deliver("+8613900000001", "before", "a")
    async with asyncio.timeout(30), client.get("/events") as stream:
        told = events(stream)
        assert await anext(told) == ("operators", {"a": "ok", "b": "ok"})
        assert (await anext(told))[1]["text"] == "before"
        handset.deliver("+14155550100", "live", "b")
        name, message = await anext(told)
        assert (name, message["to"], message["text"], message["operator"]) == ("message", "+14155550100", "live", "b")
        await client.post("/operators/b", json={"state": "dead"})
        assert await anext(told) == ("operators", {"a": "ok", "b": "dead"})


async def test_messages_are_listed_all_or_of_one_number(serve: Serve) -> None:
    client, handset = await stand(serve)
    handset.deliver("+8613900000001", "one", "a")
    handset.deliver("+14155550100", "two", "b")
    every = await (await client.get("/messages.json")).json()
    one = await (await client.get("/messages.json", params={"to": "+14155550100"})).json()
    assert [m["text"] for m in every] == ["one", "two"]
    assert [m["text"] for m in one] == ["two"]


@pytest.mark.parametrize("state", ["ok", "slow", "dead"])
async def test_a_switch_sets_the_state(serve: Serve, state: str) -> None:
    client, _ = await stand(serve)
    await client.post("/operators/a", json={"state": "slow"})
    answer = await client.post("/operators/a", json={"state": state})
    assert await answer.json() == {"a": state, "b": "ok"}
    assert await (await client.get("/operators.json")).json() == {"a": state, "b": "ok"}


async def test_a_switch_refuses_other_words_other_types_and_other_operators(serve: Serve) -> None:
    client, handset = await stand(serve)
    assert (await client.post("/operators/a", json={"state": "gone"})).status == 400
    assert (await client.post("/operators/a", json={"state": ["ok"]})).status == 400
    assert (await client.post("/operators/a", json=[])).status == 400
    assert (await client.post("/operators/a", data='{"state": "dead"}')).status == 400, "a foreign page can send this"
    assert (await client.post("/operators/c", json={"state": "ok"})).status == 404
    assert handset.states == {"a": "ok", "b": "ok"}


async def test_the_page_links_to_the_sign_up_page(serve: Serve) -> None:
    client, _ = await stand(serve)
    page = await (await client.get("/")).text()
    assert 'href="http://signup.example/"' in page
    assert "${name}" in page, "the script's own placeholders survive ours"
