"""Several captchas on a route, tokens that work once, and verifiers that are away."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio
from captcha_simulators import TurnstileSimulator
from captcha_simulators import running as simulated
from telling import PHONE, Sidecar, Start

# Two captchas on a route, in this order, and the first one alone on another.
TWO = """
[captcha.turnstile]
kind = "turnstile"
secret = "0x-simulated-secret"
endpoint = "ENDPOINT"
timeout = "500ms"
[[routes]]
match = "POST /send"
action = "send"
to = "json:phone"
captcha = ["turnstile", "altcha"]
captcha_token = "json:captcha"
[[routes]]
match = "POST /login"
action = "guard"
captcha = "turnstile"
captcha_token = "json:captcha"
"""


@pytest_asyncio.fixture
async def turnstile() -> AsyncIterator[TurnstileSimulator]:
    """A verifier whose `endpoint` is where it listens."""
    simulator = TurnstileSimulator(genuine={f"t{number}" for number in range(100)})
    async with AsyncExitStack() as stack:
        simulator.endpoint = await stack.enter_async_context(simulated(simulator))
        yield simulator


async def two(start: Start, turnstile: TurnstileSimulator, tables: str = TWO, **more: Any) -> Sidecar:
    return await start(tables.replace("ENDPOINT", turnstile.endpoint), **more)


def send(token: Any) -> dict[str, Any]:
    return {"json": {"phone": PHONE, "captcha": token}}


async def test_a_token_says_which_captcha_it_is_of(start: Start, turnstile: TurnstileSimulator) -> None:
    """Without a name it is the first one's; NAME:TOKEN is that one's, and no other verifier sees it."""
    sidecar = await two(start, turnstile)
    assert (await sidecar.ask("POST", "/send", **send("t1"))).status == 202
    assert (await sidecar.ask("POST", "/send", **send("turnstile:t2"))).status == 202
    assert [asked["response"] for asked in turnstile.asked] == ["t1", "t2"]
    assert (await sidecar.ask("POST", "/send", **send(f"altcha:{await sidecar.solved()}"))).status == 202
    assert (await sidecar.ask("POST", "/send", **send("altcha:t3"))).code == "captcha_failed"
    assert len(turnstile.asked) == 2
    for wrong in (await sidecar.solved(), "nobody:t3", "Turnstile:t3"):
        assert (await sidecar.ask("POST", "/send", **send(wrong))).code == "captcha_failed"
    assert (await sidecar.ask("POST", "/login", **send(f"altcha:{await sidecar.solved()}"))).code == "captcha_failed"


async def test_a_refusal_names_the_captchas_that_are_offered(start: Start, turnstile: TurnstileSimulator) -> None:
    """In the order in which the route names them, so that a client knows what to solve, and what next."""
    sidecar = await two(start, turnstile)
    for body in ({"phone": PHONE}, {"phone": PHONE, "captcha": ""}, {"phone": PHONE, "captcha": "altcha:"}):
        reply = await sidecar.ask("POST", "/send", json=body)
        assert (reply.code, reply.json["captchas"]) == ("captcha_required", ["turnstile", "altcha"])
    assert (await sidecar.ask("POST", "/login", json={})).json["captchas"] == ["turnstile"]


async def test_one_token_is_judged_once_however_many_at_once(start: Start, turnstile: TurnstileSimulator) -> None:
    """On whichever route it is shown: it is claimed before the vendor is asked."""
    sidecar = await two(start, turnstile)
    replies = await asyncio.gather(
        *(sidecar.ask("POST", "/send", **send("t1")) for _ in range(5)),
        *(sidecar.ask("POST", "/login", json={"captcha": "t1"}) for _ in range(5)),
    )
    assert Counter(reply.status for reply in replies) in (Counter({202: 1, 403: 9}), Counter({200: 1, 403: 9}))
    assert len(turnstile.asked) == 1


async def test_a_token_that_nobody_judged_may_be_shown_again(start: Start, turnstile: TurnstileSimulator) -> None:
    """The vendor did not answer: who solved it honestly need not solve another one."""
    sidecar = await two(start, turnstile)
    turnstile.silent = True
    assert (await sidecar.ask("POST", "/login", json={"captcha": "t1"})).code == "captcha_unavailable"
    turnstile.silent = False
    assert (await sidecar.ask("POST", "/login", json={"captcha": "t1"})).status == 200
    assert (await sidecar.ask("POST", "/login", json={"captcha": "t1"})).code == "captcha_failed"


async def test_a_used_token_counts_as_a_wrong_one(start: Start, turnstile: TurnstileSimulator) -> None:
    """Ten in a minute, and the eleventh is refused by the captcha's `failures`."""
    sidecar = await two(start, turnstile)
    assert (await sidecar.ask("POST", "/login", json={"captcha": "t1"})).status == 200
    replies = [await sidecar.ask("POST", "/login", json={"captcha": "t1"}) for _ in range(11)]
    assert [reply.code for reply in replies] == ["captcha_failed"] * 10 + ["rate_limited"]
    assert replies[-1].headers["RateLimit-Policy"] == '"captcha.turnstile";q=10;w=60'
    assert len(turnstile.asked) == 1


async def test_the_next_captcha_is_named_where_the_one_before_is_away(
    start: Start, turnstile: TurnstileSimulator
) -> None:
    sidecar = await two(start, turnstile)
    turnstile.silent = True
    reply = await sidecar.ask("POST", "/send", **send("t1"))
    assert (reply.code, reply.json["captchas"]) == ("captcha_unavailable", ["altcha"])
    assert (await sidecar.ask("POST", "/send", **send(f"altcha:{await sidecar.solved()}"))).status == 202
    assert (await sidecar.ask("POST", "/login", json={"captcha": "t1"})).json["captchas"] == ["turnstile"]
