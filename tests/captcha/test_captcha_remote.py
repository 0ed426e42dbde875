"""Asking a vendor over real sockets: once, in time, and nothing but a documented yes lets anyone in."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from captcha_simulators import Simulator, TurnstileSimulator, YidunSimulator, running

from sidecar import outbound
from sidecar.captcha import turnstile, yidun
from sidecar.captcha.remote import Remote
from sidecar.captcha.seam import Verdict

NOW = 1772600767.0


@pytest_asyncio.fixture
async def session() -> AsyncIterator[outbound.Session]:
    async with outbound.open_session() as session:
        yield session


def ask_turnstile(session: outbound.Session, endpoint: str, **more: Any) -> Remote:
    table = {"secret": "0x-simulated-secret", "hostname": "signup.example", "action": "signup", **more}
    settings = turnstile.Settings(kind="turnstile", endpoint=endpoint, **table)
    return Remote(turnstile, settings, session, lambda: NOW, lambda: uuid.uuid4().hex)


def ask_yidun(session: outbound.Session, endpoint: str, **more: Any) -> Remote:
    table = {"captcha_id": "a" * 32, "secret_id": "b" * 32, "secret_key": "simulated-secret-key", **more}
    settings = yidun.Settings(kind="yidun", endpoint=endpoint, **table)
    return Remote(yidun, settings, session, lambda: NOW, lambda: uuid.uuid4().hex)


BOTH = pytest.mark.parametrize(
    ("make", "ask"), [(TurnstileSimulator, ask_turnstile), (YidunSimulator, ask_yidun)], ids=["turnstile", "yidun"]
)
Make = Callable[..., Any]
Ask = Callable[..., Remote]


@BOTH
async def test_a_genuine_token_passes_and_an_invented_one_does_not(
    make: Make, ask: Ask, session: outbound.Session
) -> None:
    async with running(make(genuine={"good"})) as endpoint:
        assert await ask(session, endpoint).verify("good", "203.0.113.7") == Verdict("pass")
        assert (await ask(session, endpoint).verify("invented", "203.0.113.7")).outcome == "reject"


@BOTH
async def test_a_token_works_once(make: Make, ask: Ask, session: outbound.Session) -> None:
    async with running(make(genuine={"good"})) as endpoint:
        assert (await ask(session, endpoint).verify("good", "")).outcome == "pass"
        assert (await ask(session, endpoint).verify("good", "")).outcome in {"spent", "reject"}


async def test_turnstile_is_told_the_clients_address(session: outbound.Session) -> None:
    simulator = TurnstileSimulator(genuine={"good"})
    async with running(simulator) as endpoint:
        await ask_turnstile(session, endpoint).verify("good", "2001:db8::7")
    assert simulator.asked[0]["remoteip"] == "2001:db8::7"


async def test_turnstiles_lost_answer_is_asked_for_again_with_the_same_key(session: outbound.Session) -> None:
    simulator = TurnstileSimulator(genuine={"good"}, lose=1)
    async with running(simulator) as endpoint:
        assert await ask_turnstile(session, endpoint).verify("good", "") == Verdict("pass")
    first, second = simulator.asked
    assert first == second


async def test_turnstile_is_asked_twice_at_most(session: outbound.Session) -> None:
    simulator = TurnstileSimulator(genuine={"good"}, lose=9)
    async with running(simulator) as endpoint:
        assert await ask_turnstile(session, endpoint).verify("good", "") == Verdict("provider_error", "no_answer")
    assert len(simulator.asked) == 2


async def test_yiduns_lost_answer_is_not_asked_for_again(session: outbound.Session) -> None:
    """It would come back as a used token, and a person would be called a robot."""
    simulator = YidunSimulator(genuine={"good"}, lose=1)
    async with running(simulator) as endpoint:
        assert await ask_yidun(session, endpoint).verify("good", "") == Verdict("provider_error", "no_answer")
    assert len(simulator.asked) == 1


async def test_yiduns_user_is_sent_and_signed(session: outbound.Session) -> None:
    simulator = YidunSimulator(genuine={"good"})
    async with running(simulator) as endpoint:
        assert await ask_yidun(session, endpoint, user="用户").verify("good", "") == Verdict("pass")
    assert simulator.asked[0]["user"] == "用户"


@pytest.mark.parametrize(
    ("make", "ask", "wrong"),
    [
        (TurnstileSimulator, ask_turnstile, {"secret": "another"}),
        (YidunSimulator, ask_yidun, {"secret_key": "another"}),
        (YidunSimulator, ask_yidun, {"captcha_id": "another"}),
    ],
)
async def test_our_own_wrong_keys_are_called_so(
    make: Make, ask: Ask, wrong: dict[str, str], session: outbound.Session
) -> None:
    async with running(make(genuine={"good"})) as endpoint:
        assert (await ask(session, endpoint, **wrong).verify("good", "")).outcome == "config"


async def test_a_token_of_another_site_or_action_is_refused(session: outbound.Session) -> None:
    async with running(TurnstileSimulator(genuine={"good"}, hostname="evil.example")) as endpoint:
        assert await ask_turnstile(session, endpoint).verify("good", "") == Verdict("policy", "hostname")
    async with running(TurnstileSimulator(genuine={"good"}, action="login")) as endpoint:
        assert await ask_turnstile(session, endpoint).verify("good", "") == Verdict("policy", "action")


@BOTH
async def test_a_silent_verifier_is_given_up_in_time(make: Make, ask: Ask, session: outbound.Session) -> None:
    simulator: Simulator = make(genuine={"good"}, silent=True)
    async with running(simulator) as endpoint:
        started = time.monotonic()
        verdict = await ask(session, endpoint, timeout=0.3).verify("good", "")
        took = time.monotonic() - started
    assert verdict == Verdict("provider_error", "no_answer")
    assert 0.3 <= took < 2
    assert len(simulator.asked) == 1


@BOTH
async def test_a_verifier_that_is_not_there_is_a_provider_error(
    make: Make, ask: Ask, session: outbound.Session, unused_tcp_port: int
) -> None:
    verdict = await ask(session, f"http://127.0.0.1:{unused_tcp_port}/verify").verify("good", "")
    assert verdict == Verdict("provider_error", "never_sent")


# What both vendors would call a pass, but for its end.
YES = b'{"success": true, "hostname": "signup.example", "action": "signup", "result": true, "error": 0'


@BOTH
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, YES + b"}"),
        (302, YES + b"}"),
        (200, b"<html>"),
        (200, b""),
        (200, YES + b', "x": "' + b"a" * (1 << 17) + b'"}'),
    ],
    ids=["500", "redirect", "html", "empty", "huge"],
)
async def test_an_undocumented_answer_is_a_provider_error(
    make: Make, ask: Ask, status: int, body: bytes, session: outbound.Session
) -> None:
    simulator: Simulator = make()
    async with running(simulator) as endpoint:
        simulator.answer = web.Response(body=YES + b"}")
        assert await ask(session, endpoint).verify("good", "") == Verdict("pass")
        simulator.answer = web.Response(status=status, body=body, headers={"Location": endpoint})
        assert (await ask(session, endpoint).verify("good", "")).outcome == "provider_error"


@BOTH
@pytest.mark.parametrize("token", ["", "x" * 5000], ids=["empty", "long"])
async def test_a_token_that_no_vendor_makes_is_refused_unasked(
    make: Make, ask: Ask, token: str, session: outbound.Session
) -> None:
    simulator: Simulator = make(genuine={token})
    async with running(simulator) as endpoint:
        found = ask(session, endpoint).look(token)
    assert isinstance(found, Verdict)
    assert found.outcome == "reject"
    assert simulator.asked == []


async def test_many_at_once_share_the_session_and_each_gets_its_own_verdict(session: outbound.Session) -> None:
    async with running(TurnstileSimulator(genuine={f"t{n}" for n in range(0, 40, 2)})) as endpoint:
        verifier = ask_turnstile(session, endpoint)
        verdicts = await asyncio.gather(*(verifier.verify(f"t{n}", "") for n in range(40)))
    assert [verdict.outcome for verdict in verdicts] == ["pass", "reject"] * 20
