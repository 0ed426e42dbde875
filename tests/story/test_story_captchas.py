"""Several captchas on a route, tokens that work once, and verifiers that are away."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from captcha_simulators import ALL, Simulator, TencentSimulator, TurnstileSimulator
from captcha_simulators import running as simulated
from telling import CONFIG, PHONE, Sidecar, Start

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
    """A verifier, running."""
    simulator = TurnstileSimulator(genuine={f"t{number}" for number in range(100)})
    async with simulated(simulator):
        yield simulator


def guarded(simulator: Simulator, **more: Any) -> str:
    """A table for a simulator, and a route that it guards alone."""
    table = {"kind": simulator.kind, "endpoint": simulator.endpoint} | simulator.table | more
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    return f"""
[captcha.mine]
{keys}
[[routes]]
match = "POST /login"
action = "guard"
captcha = "mine"
captcha_token = "json:captcha"
[[routes]]
match = "POST /form"
action = "guard"
captcha = "mine"
captcha_token = "form:captcha"
"""


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
    for wrong in ("nobody:t3", "Turnstile:t3"):
        assert (await sidecar.ask("POST", "/send", **send(wrong))).code == "captcha_failed"
    assert (await sidecar.ask("POST", "/login", **send(f"altcha:{await sidecar.solved()}"))).code == "captcha_failed"


async def test_a_built_in_captcha_knows_its_own_token(start: Start, turnstile: TurnstileSimulator) -> None:
    """It need not be named, whether the vendor answers or not, and no vendor is shown it."""
    sidecar = await two(start, turnstile)
    token = await sidecar.solved()
    assert (await sidecar.ask("POST", "/send", **send(token))).status == 202
    turnstile.silent = True
    assert (await sidecar.ask("POST", "/send", **send(await sidecar.solved()))).status == 202
    assert turnstile.asked == []
    turnstile.silent = False
    assert (await sidecar.ask("POST", "/send", **send(token))).code == "captcha_failed"
    assert (await sidecar.ask("POST", "/login", json={"captcha": await sidecar.solved()})).code == "captcha_failed"
    assert len(turnstile.asked) == 1


async def test_the_next_verifier_judges_a_token_that_names_none_where_the_first_judges_none(
    start: Start, turnstile: TurnstileSimulator
) -> None:
    """Its yes counts, once; its no leaves the question open, so that the client is told of the other captchas."""
    other = TurnstileSimulator(genuine={"t1", "t2"})
    async with simulated(other):
        second = TWO.split("[[routes]]", maxsplit=1)[0].replace("[captcha.turnstile]", "[captcha.second]")
        listed = TWO.replace('["turnstile", "altcha"]', '["turnstile", "second", "altcha"]')
        sidecar = await two(start, turnstile, second.replace("ENDPOINT", other.endpoint) + listed)
        assert (await sidecar.ask("POST", "/send", **send("t3"))).status == 202
        assert other.asked == []
        turnstile.silent = True
        assert (await sidecar.ask("POST", "/send", **send("t1"))).status == 202
        assert (await sidecar.ask("POST", "/send", **send("turnstile:t2"))).code == "captcha_unavailable"
        assert [asked["response"] for asked in other.asked] == ["t1"]
        refused = await sidecar.ask("POST", "/send", **send("t99"))
        assert (refused.code, refused.json["captchas"]) == ("captcha_unavailable", ["second", "altcha"])
        assert (await sidecar.ask("POST", "/send", **send("t1"))).code == "captcha_failed"


async def test_a_refusal_names_the_captchas_that_are_offered(start: Start, turnstile: TurnstileSimulator) -> None:
    """In the order in which the route names them, so that a client knows what to solve, and what next."""
    sidecar = await two(start, turnstile)
    for body in ({"phone": PHONE}, {"phone": PHONE, "captcha": ""}, {"phone": PHONE, "captcha": "altcha:"}):
        reply = await sidecar.ask("POST", "/send", json=body)
        assert (reply.code, reply.json["captchas"]) == ("captcha_required", ["turnstile", "altcha"])
    assert (await sidecar.ask("POST", "/login", json={})).json["captchas"] == ["turnstile"]


async def test_wrong_tokens_of_one_captcha_leave_the_others(start: Start, turnstile: TurnstileSimulator) -> None:
    """Who has shown too many of one, as everybody behind its address, is let in by another."""
    tables = TWO.replace("[captcha.turnstile]", '[captcha.turnstile]\nfailures = "1/1h"')
    sidecar = await two(start, turnstile, tables.replace('captcha_token = "', 'limits = ["ip"]\ncaptcha_token = "'))
    assert (await sidecar.ask("POST", "/login", json={"captcha": "wrong"})).code == "captcha_failed"
    for path in ("/send", "/login") * 2:
        reply = await sidecar.ask("POST", path, **send("turnstile:t1"))
        assert reply.code == "rate_limited"
    assert (await sidecar.ask("POST", "/send", **send(f"altcha:{await sidecar.solved()}"))).status == 202


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


async def test_a_verifier_that_is_away_is_not_waited_for_by_everybody(
    start: Start, turnstile: TurnstileSimulator
) -> None:
    """Five calls open its breaker: from then on it is refused at once, and the next one is what is offered."""
    trusting = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
    sidecar = await two(start, turnstile, config=trusting)
    turnstile.answer = web.Response(status=503)
    for number in range(5):
        site = {"X-Forwarded-For": f"203.0.{number}.7"}
        reply = await sidecar.ask("POST", "/send", headers=site, **send(f"t{number}"))
        assert reply.code == "captcha_unavailable"
    asked = len(turnstile.asked)
    for _ in range(20):
        reply = await sidecar.ask("POST", "/send", **send("t9"))
        assert (reply.code, reply.json["captchas"]) == ("captcha_unavailable", ["altcha"])
    assert (await sidecar.ask("POST", "/send", json={"phone": PHONE})).json["captchas"] == ["altcha"]
    assert (await sidecar.ask("POST", "/login", json={})).json["captchas"] == ["turnstile"]
    assert len(turnstile.asked) == asked
    assert await sidecar.metric('sidecar_captcha_breaker_state{captcha="turnstile"}') == 2
    assert await sidecar.metric('sidecar_captcha_tokens_total{captcha="turnstile",outcome="provider_error"}') == 25


async def test_wrong_keys_are_no_way_to_ask_the_vendor_for_ever(start: Start, turnstile: TurnstileSimulator) -> None:
    """A vendor may call our mistake what a token made it say, so each such answer stays counted."""
    sidecar = await two(start, turnstile)
    turnstile.secret = "0x-another"
    replies = [await sidecar.ask("POST", "/login", json={"captcha": "t1"}) for _ in range(11)]
    assert [reply.code for reply in replies] == ["captcha_unavailable"] * 10 + ["rate_limited"]
    assert len(turnstile.asked) == 10


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
async def test_every_kind_guards_a_route(start: Start, make: type[Simulator]) -> None:
    """Its token in JSON, as a text and, of several parts, as it is; and in a form; each once."""
    simulator = make(genuine={"json", "form", "object"})
    async with simulated(simulator):
        sidecar = await start(guarded(simulator))
        assert (await sidecar.ask("POST", "/login", json={"captcha": simulator.token("json")})).status == 200
        assert (await sidecar.ask("POST", "/form", data={"captcha": simulator.token("form")})).status == 200
        if simulator.token("object").startswith("{"):
            parts = json.loads(simulator.token("object"))
            assert (await sidecar.ask("POST", "/login", json={"captcha": parts})).status == 200
            spelt = json.dumps(dict(reversed(parts.items())), separators=(" , ", " : "))
            assert (await sidecar.ask("POST", "/login", json={"captcha": spelt})).code == "captcha_failed"
        before = len(simulator.asked)
        assert (await sidecar.ask("POST", "/form", data={"captcha": simulator.token("json")})).code == "captcha_failed"
        assert len(simulator.asked) == before
        assert (await sidecar.ask("POST", "/login", json={"captcha": simulator.token("no")})).code == "captcha_failed"
        assert (await sidecar.ask("POST", "/login", json={})).code == "captcha_required"
        assert len(sidecar.upstream.requests) == before


async def test_a_ticket_that_the_browser_made_alone_lets_nobody_in(start: Start) -> None:
    """It is refused as captcha_unavailable, so that a client tries the next captcha, and counts as a wrong token."""
    simulator = TencentSimulator()
    forged = {"ticket": "trerror_1001_2012345678_1772600767", "randstr": "@abc", "ret": 0}
    async with simulated(simulator):
        sidecar = await start(guarded(simulator))
        replies = [await sidecar.ask("POST", "/login", json={"captcha": forged}) for _ in range(11)]
        assert [reply.code for reply in replies] == ["captcha_unavailable"] * 10 + ["rate_limited"]
        assert not sidecar.upstream.requests
        assert await sidecar.metric('sidecar_captcha_tokens_total{captcha="mine",outcome="unproven"}') == 10
    assert not simulator.asked


async def test_such_a_ticket_proves_nobody_where_it_is_accepted(start: Start) -> None:
    """Who is let in by it has no identity, and no more of it than wrong tokens a minute."""
    simulator = TencentSimulator()
    forged = {"ticket": "trerror_1001_2012345678_1772600767", "randstr": "@abc", "ret": 0}
    async with simulated(simulator):
        sidecar = await start(guarded(simulator, accept_fallback=True))
        replies = [await sidecar.ask("POST", "/login", json={"captcha": forged}) for _ in range(11)]
    assert [reply.status for reply in replies] == [200] * 10 + [429]
    assert not any(request.values(b"x-verified-identity") for request in sidecar.upstream.requests)
