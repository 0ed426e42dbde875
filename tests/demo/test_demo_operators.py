"""The simulated operators: what they refuse never reaches the handset, and each state is what it says."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sidecar.demo.handset import Handset, State
from sidecar.demo.operators import Accounts, Operators, open_accounts

Serve = Callable[[web.Application], Awaitable[aiohttp.ClientSession]]

TEXT = {"To": "+8613900000001", "Body": "Your code is 123456"}


async def stand(
    serve: Serve, a: State = "ok", b: State = "ok", slow_s: float = 60.0
) -> tuple[aiohttp.ClientSession, Accounts]:
    accounts = open_accounts()
    handset = Handset("http://signup.example/", {"a": a, "b": b})
    app = web.Application()
    app.add_routes([*handset.routes(), *Operators(handset, accounts, slow_s).routes()])
    return await serve(app), accounts


async def twilio(
    client: aiohttp.ClientSession, accounts: Accounts, form: dict[str, str], token: str | None = None
) -> Any:
    key = base64.b64encode(f"{accounts.account_sid}:{token or accounts.auth_token}".encode()).decode()
    path = f"/twilio/2010-04-01/Accounts/{accounts.account_sid}/Messages.json"
    answer = await client.post(path, data=form, headers={"Authorization": f"Basic {key}"})
    return answer.status, await answer.json()


async def webhook(
    client: aiohttp.ClientSession,
    secret: str,
    body: bytes,
    *,
    timestamp: float | None = None,
    extra: str = "",
    message_id: str = "m1",
) -> int:
    at = str(int(time.time() if timestamp is None else timestamp))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"m1.{at}.".encode() + body, hashlib.sha256)
    signature = f"{extra}v1,{base64.b64encode(digest).decode()}"
    fields = {"webhook-id": "m1", "webhook-timestamp": at, "webhook-signature": signature}
    return (await client.post("/webhook", data=body, headers=fields)).status


async def arrived(client: aiohttp.ClientSession) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = await (await client.get("/messages.json")).json()
    return messages


async def test_operator_a_takes_a_message_as_twilio_does(serve: Serve) -> None:
    client, accounts = await stand(serve)
    status, message = await twilio(client, accounts, TEXT | {"From": accounts.sender})
    assert status == 201
    assert message["sid"].startswith("SM")
    assert message["status"] == "queued"
    assert [(m["to"], m["text"], m["operator"]) for m in await arrived(client)] == [(TEXT["To"], TEXT["Body"], "a")]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"To": ""}, 400, 21604),
        ({"To": "13900000001"}, 400, 21211),
        ({"From": "+15005550001"}, 400, 21606),
        ({"Body": ""}, 400, 21602),
    ],
)
async def test_operator_a_refuses_in_twilios_words(
    serve: Serve, change: dict[str, str], status: int, code: int
) -> None:
    client, accounts = await stand(serve)
    got, error = await twilio(client, accounts, TEXT | {"From": accounts.sender} | change)
    assert (got, error["code"], error["status"]) == (status, code, status)
    assert set(error) == {"code", "message", "more_info", "status"}
    assert await arrived(client) == []


async def test_operator_a_refuses_a_wrong_token(serve: Serve) -> None:
    client, accounts = await stand(serve)
    status, error = await twilio(client, accounts, TEXT | {"From": accounts.sender}, token="wrong")
    assert (status, error["code"]) == (401, 20003)
    assert await arrived(client) == []


BODY = json.dumps({"id": "v1", "to": "+8613900000001", "channel": "sms", "locale": "en", "code": "123456",
                   "text": "Your code is 123456"}).encode()  # fmt: skip


async def test_operator_b_takes_a_signed_webhook_also_beside_an_older_signature(serve: Serve) -> None:
    client, accounts = await stand(serve)
    assert await webhook(client, accounts.webhook_secret, BODY) == 202
    assert await webhook(client, accounts.webhook_secret, BODY, extra="v1,b2xk ") == 202
    assert [(m["to"], m["operator"]) for m in await arrived(client)] == [("+8613900000001", "b")] * 2


async def test_operator_b_refuses_a_foreign_stale_or_missing_signature(serve: Serve) -> None:
    client, accounts = await stand(serve)
    secret = accounts.webhook_secret
    assert await webhook(client, "whsec_b3RoZXI=", BODY) == 401
    assert await webhook(client, secret, BODY, timestamp=time.time() - 400) == 401
    assert await webhook(client, secret, BODY, timestamp=time.time() + 400) == 401
    assert (await client.post("/webhook", data=BODY)).status == 401
    assert await arrived(client) == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"to": "+8613900000001"}', b'{"to": "139", "text": "hi"}'])
async def test_operator_b_refuses_what_is_no_message(serve: Serve, body: bytes) -> None:
    client, accounts = await stand(serve)
    assert await webhook(client, accounts.webhook_secret, body) == 400
    assert await arrived(client) == []


async def test_a_dead_operator_closes_the_connection_without_a_word(serve: Serve) -> None:
    client, accounts = await stand(serve, a="dead", b="dead")
    with pytest.raises(aiohttp.ClientConnectionError):
        await twilio(client, accounts, TEXT | {"From": accounts.sender})
    with pytest.raises(aiohttp.ClientConnectionError):
        await webhook(client, accounts.webhook_secret, BODY)
    assert await arrived(client) == []


async def test_a_slow_operators_message_arrives_though_its_caller_gave_up(serve: Serve) -> None:
    client, accounts = await stand(serve, b="slow", slow_s=2.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await webhook(client, accounts.webhook_secret, BODY)
    assert await arrived(client) == []
    async with asyncio.timeout(30), client.get("/events") as stream:
        async for line in stream.content:
            if b"123456" in line:
                break
    assert len(await arrived(client)) == 1
