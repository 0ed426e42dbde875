"""Asking a vendor over real sockets: once, in time, and nothing but a documented yes lets anyone in."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from awake import awake
from captcha_simulators import (
    ALL,
    AssessmentSimulator,
    GeetestSimulator,
    RecaptchaV3Simulator,
    Simulator,
    TencentSimulator,
    TurnstileSimulator,
    YidunSimulator,
    running,
)
from vendors import closed_port

from sidecar import captcha, outbound
from sidecar.captcha.remote import Remote
from sidecar.captcha.seam import AWAY, Verdict
from sidecar.events import CaptchaBreakerMoved, Event


@pytest_asyncio.fixture
async def session() -> AsyncIterator[outbound.Session]:
    async with outbound.open_session() as session:
        yield session


def ask(session: outbound.Session, simulator: Simulator, told: list[Event] | None = None, **more: Any) -> Remote:
    """What asks a simulator, with the table that fits it."""
    kind = captcha.kinds()[simulator.kind]
    table = {"kind": simulator.kind, "endpoint": simulator.endpoint} | simulator.table | more
    tell = (lambda _: None) if told is None else told.append
    return Remote("mine", kind, kind.Settings(**table), session, time.time, lambda: uuid.uuid4().hex, tell)


async def verdict(verifier: Remote, token: str, client_ip: str = "203.0.113.7") -> Verdict:
    """What a token comes to that nobody has claimed."""
    found = verifier.look(token)
    return found if isinstance(found, Verdict) else await verifier.verify(token, client_ip)


EVERY = pytest.mark.parametrize("make", ALL.values(), ids=ALL)
Make = type[Simulator]


@EVERY
async def test_a_genuine_token_passes_and_an_invented_one_does_not(make: Make, session: outbound.Session) -> None:
    simulator = make(genuine={"good"})
    async with running(simulator):
        verifier = ask(session, simulator)
        assert await verdict(verifier, simulator.token("good")) == Verdict("pass")
        assert (await verdict(verifier, simulator.token("invented"))).outcome == "reject"
        assert (await verdict(verifier, simulator.token("good") + "x")).outcome == "reject"


@EVERY
async def test_a_token_works_once(make: Make, session: outbound.Session) -> None:
    simulator = make(genuine={"good"})
    async with running(simulator):
        verifier = ask(session, simulator)
        assert (await verdict(verifier, simulator.token("good"))).outcome == "pass"
        assert (await verdict(verifier, simulator.token("good"))).outcome in {"spent", "reject"}


@EVERY
async def test_a_token_has_one_name_and_another_token_another(make: Make, session: outbound.Session) -> None:
    """By which it is claimed: of parts, however they are spelt."""
    simulator = make(endpoint="http://127.0.0.1:9/")
    verifier = ask(session, simulator)
    known_by = verifier.look(simulator.token("good"))
    assert isinstance(known_by, str)
    assert verifier.look(simulator.token("other")) != known_by
    if simulator.token("good").startswith("{"):
        parts = json.loads(simulator.token("good"))
        spelt = json.dumps(dict(reversed(parts.items())), indent=2)
        assert verifier.look(spelt) == known_by


@pytest.mark.parametrize(
    ("make", "name"),
    [(ALL[kind], "remoteip") for kind in ("turnstile", "hcaptcha", "recaptcha", "recaptcha-v3")]
    + [(AssessmentSimulator, "userIpAddress"), (TencentSimulator, "UserIp")],
)
async def test_a_vendor_that_asks_for_it_is_told_the_clients_address(
    make: Make, name: str, session: outbound.Session
) -> None:
    simulator = make(genuine={"good"})
    async with running(simulator):
        await verdict(ask(session, simulator), simulator.token("good"), "2001:db8::7")
    assert simulator.asked[0][name] == "2001:db8::7"


async def test_turnstiles_lost_answer_is_asked_for_again_with_the_same_key(session: outbound.Session) -> None:
    simulator = TurnstileSimulator(genuine={"good"}, lose=1)
    async with running(simulator):
        assert await verdict(ask(session, simulator), "good") == Verdict("pass")
    first, second = simulator.asked
    assert first == second


async def test_turnstile_is_asked_twice_at_most(session: outbound.Session) -> None:
    simulator = TurnstileSimulator(genuine={"good"}, lose=9)
    async with running(simulator):
        assert await verdict(ask(session, simulator), "good") == Verdict("provider_error", "no_answer")
    assert len(simulator.asked) == 2


@pytest.mark.parametrize("name", sorted(set(ALL) - {"turnstile"}))
async def test_no_others_lost_answer_is_asked_for_again(name: str, session: outbound.Session) -> None:
    """It would come back as a used token, and a person would be called a robot."""
    simulator = ALL[name](genuine={"good"}, lose=1)
    async with running(simulator):
        found = await verdict(ask(session, simulator), simulator.token("good"))
    assert found == Verdict("provider_error", "no_answer")
    assert len(simulator.asked) == 1


async def test_yiduns_user_is_sent_and_signed(session: outbound.Session) -> None:
    simulator = YidunSimulator(genuine={"good"})
    async with running(simulator):
        assert await verdict(ask(session, simulator, user="用户"), "good") == Verdict("pass")
    assert simulator.asked[0]["user"] == "用户"


@EVERY
async def test_our_own_wrong_keys_are_called_so(make: Make, session: outbound.Session) -> None:
    """A wrong signature too: nobody gets in, and the operator is told that it is theirs to mend."""
    simulator = make(genuine={"good"})
    async with running(simulator):
        for wrong in simulator.wrong_tables:
            found = await verdict(ask(session, simulator, **wrong), simulator.token("good"))
            is_unasked = found == Verdict("policy", "captcha_id")  # GeeTest's token says whose it is
            assert found.outcome == "config" or is_unasked, wrong
        assert await verdict(ask(session, simulator), simulator.token("good")) == Verdict("pass")


async def test_a_token_of_another_site_or_action_is_refused(session: outbound.Session) -> None:
    for make in (TurnstileSimulator, RecaptchaV3Simulator, AssessmentSimulator):
        simulator = make(genuine={"good", "other"}, hostname="evil.example")
        async with running(simulator):
            assert await verdict(ask(session, simulator), "good") == Verdict("policy", "hostname")
            simulator.hostname, simulator.action = "signup.example", "login"
            assert await verdict(ask(session, simulator), "other") == Verdict("policy", "action")


@pytest.mark.parametrize("make", [RecaptchaV3Simulator, AssessmentSimulator])
async def test_a_robots_genuine_token_is_refused_by_its_score(make: Any, session: outbound.Session) -> None:
    simulator = make(genuine={"good", "bad"})
    async with running(simulator):
        verifier = ask(session, simulator)
        simulator.score = 0.59
        assert await verdict(verifier, "bad") == Verdict("policy", "score")
        simulator.score = 0.6
        assert await verdict(verifier, "good") == Verdict("pass")


async def test_a_key_of_version_3_is_none_for_version_2(session: outbound.Session) -> None:
    """Whose every genuine token is a yes: a robot's too."""
    simulator = RecaptchaV3Simulator(genuine={"good"})
    async with running(simulator):
        verifier = ask(session, RecaptchaV3Simulator(endpoint=simulator.endpoint, score=None))
        assert await verdict(verifier, "good") == Verdict("config", "score_in_v2")


@pytest.mark.parametrize("prefix", ["trerror_", "terror_"])
async def test_a_ticket_that_the_browser_made_alone_proves_nobody(prefix: str, session: outbound.Session) -> None:
    """Tencent is not even asked, be it that the ticket is let in."""
    ticket = json.dumps({"ticket": f"{prefix}1001_2012345678_1772600767", "randstr": "@abc", "ret": 0})
    simulator = TencentSimulator(genuine={"trerror_1001_2012345678_1772600767"})
    async with running(simulator):
        assert await verdict(ask(session, simulator), ticket) == Verdict("unproven", "trerror_ticket")
        accepting = ask(session, simulator, accept_fallback=True)
        assert await verdict(accepting, ticket) == Verdict("let_in", "trerror_ticket")
    assert simulator.asked == []


async def test_the_token_that_yiduns_script_gives_to_everybody_proves_nobody(session: outbound.Session) -> None:
    simulator = YidunSimulator()
    async with running(simulator):
        assert await verdict(ask(session, simulator), simulator.fallback) == Verdict("unproven", "sdk_reduce")
        accepting = ask(session, simulator, accept_fallback=True)
        assert await verdict(accepting, simulator.fallback) == Verdict("let_in", "sdk_reduce")


async def test_geetests_token_of_another_account_is_refused_unasked(session: outbound.Session) -> None:
    simulator = GeetestSimulator(genuine={"good"})
    async with running(simulator):
        token = json.dumps(simulator.validated("good") | {"captcha_id": "another"})
        assert await verdict(ask(session, simulator), token) == Verdict("policy", "captcha_id")
        token = json.dumps({n: v for n, v in simulator.validated("good").items() if n != "captcha_id"})
        assert simulator.asked == []
        assert await verdict(ask(session, simulator), token) == Verdict("pass")


@pytest.mark.parametrize("make", [GeetestSimulator, TencentSimulator])
@pytest.mark.parametrize("value", [None, "", True, 1.5, {}, ["x"], "\ud800"])
async def test_a_part_that_is_no_text_is_refused_unasked(make: Make, value: Any, session: outbound.Session) -> None:
    simulator = make(genuine={"good"})
    async with running(simulator):
        parts = json.loads(simulator.token("good"))
        for name in set(parts) & {"lot_number", "captcha_output", "pass_token", "gen_time", "ticket", "randstr"}:
            for changed in (parts | {name: value}, {other: text for other, text in parts.items() if other != name}):
                found = await verdict(ask(session, simulator), json.dumps(changed))
                assert found == Verdict("reject", "unreadable"), name
        for text in ("good", "[]", '"good"', "1", "{", "[" * 4000, "9" * 4000):
            assert (await verdict(ask(session, simulator), text)).outcome == "reject"
    assert simulator.asked == []


@EVERY
async def test_a_silent_verifier_is_given_up_in_time(make: Make, session: outbound.Session) -> None:
    simulator = make(genuine={"good"}, silent=True)
    async with running(simulator):
        started = time.monotonic()
        with awake() as took:
            found = await verdict(ask(session, simulator, timeout=0.3), simulator.token("good"))
            assert took() < 2
        assert time.monotonic() - started >= 0.3
    assert found == Verdict("provider_error", "no_answer")
    assert len(simulator.asked) == 1


@EVERY
async def test_a_verifier_that_is_not_there_is_a_provider_error(make: Make, session: outbound.Session) -> None:
    simulator = make(endpoint=f"{closed_port()}/verify")
    found = await verdict(ask(session, simulator), simulator.token("good"))
    assert found == Verdict("provider_error", "never_sent")


@EVERY
@pytest.mark.parametrize(
    ("status", "end"),
    [(500, b"}"), (302, b"}"), (200, b"<html>"), (200, b""), (200, b', "x": "' + b"a" * (1 << 17) + b'"}')],
    ids=["500", "redirect", "html", "empty", "huge"],
)
async def test_an_undocumented_answer_is_a_provider_error(
    make: Make, status: int, end: bytes, session: outbound.Session
) -> None:
    """A pass with another status or end is none."""
    simulator = make()
    token = simulator.token("good")
    async with running(simulator):
        simulator.answer = web.Response(body=simulator.yes + b"}")
        assert await verdict(ask(session, simulator), token) == Verdict("pass")
        simulator.answer = web.Response(
            status=status, body=simulator.yes + end if end else b"", headers={"Location": simulator.endpoint}
        )
        assert (await verdict(ask(session, simulator), token)).outcome == "provider_error"


@EVERY
@pytest.mark.parametrize("token", ["", "x" * 20_000], ids=["empty", "long"])
async def test_a_token_that_no_vendor_makes_is_refused_unasked(
    make: Make, token: str, session: outbound.Session
) -> None:
    simulator = make(genuine={token})
    async with running(simulator):
        found = ask(session, simulator).look(token)
    assert isinstance(found, Verdict)
    assert found.outcome == "reject"
    assert simulator.asked == []


# The breaker…


async def broken(verifier: Remote, simulator: Simulator) -> None:
    """Have five calls of as many sites go wrong."""
    for number in range(5):
        assert not verifier.is_away
        found = await verdict(verifier, simulator.token("good"), f"203.0.{number}.7")
        assert found.outcome == "provider_error"


@EVERY
async def test_a_vendor_that_is_away_is_not_asked_by_everybody(
    make: Make, session: outbound.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five calls without an answer open the breaker for ten seconds; then one call finds out, and closes it."""
    now_ms = 1_000_000
    monkeypatch.setattr("sidecar.captcha.remote._now_ms", lambda: now_ms)
    told: list[Event] = []
    simulator = make(genuine={"good"})
    token = simulator.token("good")
    async with running(simulator):
        simulator.answer = web.Response(status=503)
        verifier = ask(session, simulator, told)
        await broken(verifier, simulator)
        simulator.answer = None
        asked = len(simulator.asked)
        now_ms += 9_999
        assert verifier.is_away
        assert await verdict(verifier, token) == AWAY
        assert len(simulator.asked) == asked
        now_ms += 1
        assert not verifier.is_away
        probe, second = await asyncio.gather(verdict(verifier, token), verdict(verifier, simulator.token("other")))
        assert (probe, second) == (Verdict("pass"), AWAY)
        assert not verifier.is_away
    moves = [(event.was, event.state) for event in told if isinstance(event, CaptchaBreakerMoved)]
    assert moves == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


async def test_half_of_the_last_twenty_calls_open_the_breaker_too(session: outbound.Session) -> None:
    """A vendor that answers every other call is not waited for; what went well before counts for nothing."""
    simulator = TurnstileSimulator(genuine={f"t{number}" for number in range(60)})
    async with running(simulator):
        verifier = ask(session, simulator)
        for number in range(30):
            assert await verdict(verifier, f"t{number}") == Verdict("pass")
        for number in range(30, 50):
            assert not verifier.is_away
            simulator.answer = web.Response(status=503) if number % 2 == 0 else None
            await verdict(verifier, f"t{number}")
        assert verifier.is_away


@pytest.mark.parametrize("answer", [web.Response(status=500), web.Response(body=b"nonsense")], ids=["500", "nonsense"])
async def test_one_sites_tokens_take_the_captcha_away_from_nobody(
    answer: web.Response, session: outbound.Session
) -> None:
    """A vendor may fail at that token alone, again and again; where it fails at those of three sites, it is away."""
    simulator = TurnstileSimulator(genuine={"good", "better"})
    async with running(simulator):
        verifier = ask(session, simulator)
        for number in range(30):
            simulator.answer = answer
            found = await verdict(verifier, f"t{number}", f"203.0.113.{number}")
            assert found.outcome == "provider_error"
            assert not verifier.is_away
            assert not verifier.is_away_for_all
        for number in range(2):
            assert not verifier.is_away_for_all
            await verdict(verifier, f"u{number}", f"2001:db8:{number}::1")
        assert verifier.is_away_for_all
        simulator.answer = None
        assert await verdict(verifier, "good") == Verdict("pass")
        assert not verifier.is_away_for_all


async def test_silence_is_no_tokens_doing_for_who_must_wait_and_is_for_who_would_be_let_in(
    session: outbound.Session,
) -> None:
    """Whoever's they are, five tokens that are not answered keep the others from waiting; they let nobody in."""
    simulator = TurnstileSimulator(genuine={"good"}, silent=True)
    async with running(simulator):
        verifier = ask(session, simulator, timeout=0.2)
        for number in range(5):
            assert not verifier.is_away
            assert (await verdict(verifier, f"t{number}")).reason == "no_answer"
        assert verifier.is_away
        assert not verifier.is_away_for_all


async def test_a_vendor_that_cannot_be_reached_is_away_for_all_at_once(session: outbound.Session) -> None:
    """No token can do that. Once it is reached again, one that it fails at lets nobody in."""
    simulator = TurnstileSimulator(genuine={"good"})
    async with running(simulator):
        verifier = ask(session, simulator)
        there = verifier._settings
        verifier._settings = there.model_copy(update={"endpoint": "http://127.0.0.1:9/"})
        assert (await verdict(verifier, "t1")).reason == "never_sent"
        assert verifier.is_away_for_all
        verifier._settings = there
        simulator.answer = web.Response(status=500)
        assert (await verdict(verifier, "t2")).reason == "http_500"
        assert not verifier.is_away_for_all


async def test_a_probe_that_fails_keeps_the_breaker_open(
    session: outbound.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = 1_000_000
    monkeypatch.setattr("sidecar.captcha.remote._now_ms", lambda: now_ms)
    simulator = TurnstileSimulator(genuine={"good"})
    async with running(simulator):
        simulator.answer = web.Response(status=503)
        verifier = ask(session, simulator)
        await broken(verifier, simulator)
        now_ms += 10_000
        assert (await verdict(verifier, "good")).reason == "http_503"
        assert verifier.is_away
        # One that never came back, for its client left, keeps the others off no longer than it may take.
        now_ms += 10_000
        simulator.answer, simulator.silent = None, True
        left = asyncio.create_task(verdict(verifier, "good"))
        while len(simulator.asked) < 7:
            await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert verifier.is_away
        now_ms += 3_000
        simulator.silent = False
        assert await verdict(verifier, "good") == Verdict("pass")


@EVERY
async def test_refusals_are_answers_and_open_no_breaker(make: Make, session: outbound.Session) -> None:
    """Nobody takes a captcha away from others by wrong tokens, nor by what a vendor calls our mistake."""
    simulator = make(genuine={"good"})
    async with running(simulator):
        verifier = ask(session, simulator)
        for _ in range(12):
            assert (await verdict(verifier, simulator.token("invented"))).outcome == "reject"
        simulator.answer = web.Response(status=400, body=b"{}")
        for _ in range(12):
            assert (await verdict(verifier, simulator.token("invented"))).outcome == "provider_error"
        simulator.answer = None
        assert await verdict(verifier, simulator.token("good")) == Verdict("pass")


async def test_many_at_once_share_the_session_and_each_gets_its_own_verdict(session: outbound.Session) -> None:
    simulator = TurnstileSimulator(genuine={f"t{n}" for n in range(0, 40, 2)})
    async with running(simulator):
        verifier = ask(session, simulator)
        verdicts = await asyncio.gather(*(verifier.verify(f"t{n}", "") for n in range(40)))
    assert [verdict.outcome for verdict in verdicts] == ["pass", "reject"] * 20
