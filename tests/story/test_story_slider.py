"""The slider over sockets: work, picture, track, token, message; each once, and a wrong one counted."""

import asyncio
import base64
import json
import os
import signal
from collections import deque
from typing import Any

import altcha
import pytest
import tracks
from children import PATIENCE_S
from failing import told
from structlog.testing import capture_logs
from telling import CONFIG, PHONE, Sidecar, Start

from sidecar.captcha import slider_maker
from sidecar.captcha.slider import Slider

ROUTE = """
[captcha.slider]
kind = "slider"
cost = 2
max_counter = 20
failures = "FAILURES"
[[routes]]
match = "POST /send"
action = "send"
to = "json:phone"
captcha = ["slider", "altcha"]
captcha_token = "json:captcha"
[[routes]]
match = "POST /login"
action = "guard"
captcha = "slider"
captcha_token = "json:captcha"
"""
WHERE = "/.sidecar/captcha/slider/challenge"


async def begun(start: Start, failures: str = "50/1h", **more: Any) -> Sidecar:
    sidecar = await start(ROUTE.replace("FAILURES", failures), **more)
    verifier = sidecar.app.gate._admitting._captchas["slider"]
    assert isinstance(verifier, Slider)
    async with asyncio.timeout(30):
        while verifier._pictures.is_empty:
            await asyncio.sleep(0.02)
    return sidecar


async def work(sidecar: Sidecar) -> str:
    told = await sidecar.ask("GET", WHERE)
    challenge = altcha.Challenge.from_dict(told.json["work"])
    solution = altcha.solve_challenge(challenge)
    assert solution is not None
    return altcha.Payload(challenge, solution).to_base64()


async def picture(sidecar: Sidecar) -> dict[str, Any]:
    """A picture: asked for again, as the widget does, while none is ready."""
    shown = {"json": {"work": await work(sidecar)}}
    while (told := await sidecar.ask("POST", WHERE, **shown)).status == 503:
        await asyncio.sleep(0.02)
    assert told.status == 200, told
    picture: dict[str, Any] = told.json
    return picture


def place(sidecar: Sidecar, told: dict[str, Any]) -> int:
    """Where the piece belongs: the seal is opened with the server's own key."""
    verifier = sidecar.app.gate._admitting._captchas["slider"]
    assert isinstance(verifier, Slider)
    octets = base64.urlsafe_b64decode(told["picture"] + "==")
    return int.from_bytes(verifier._sealing.decrypt(octets[:12], octets[12:], b"picture")[-2:], "big")


def moved(told: dict[str, Any], to: float) -> dict[str, Any]:
    return {"json": {"picture": told["picture"], "by": "mouse", "points": tracks.hand(to, 5)}}


async def token(sidecar: Sidecar) -> str:
    told = await picture(sidecar)
    solved = await sidecar.ask("POST", WHERE, **moved(told, place(sidecar, told)))
    assert solved.status == 200, solved
    return str(solved.json["token"])


def send(shown: str) -> dict[str, Any]:
    return {"json": {"phone": PHONE, "captcha": shown}}


async def test_who_solves_it_is_sent_a_message_once(start: Start) -> None:
    sidecar = await begun(start)
    shown = await token(sidecar)
    assert (await sidecar.ask("POST", "/send", **send(shown))).status == 202
    assert (await sidecar.ask("POST", "/send", **send(shown))).code == "captcha_failed"
    assert (await sidecar.ask("POST", "/send", **send(f"slider:{await token(sidecar)}"))).status == 202


async def test_who_cannot_see_it_solves_the_other(start: Start) -> None:
    sidecar = await begun(start)
    assert (await sidecar.ask("POST", "/send", **send(f"altcha:{await sidecar.solved()}"))).status == 202


async def test_the_challenge_speaks_the_language_of_who_asks(start: Start) -> None:
    sidecar = await begun(start)
    told = (await sidecar.ask("GET", WHERE, headers={"Accept-Language": "ar"})).json
    assert (told["language"], told["direction"]) == ("ar", "rtl")
    assert told["text"]["cannot_see"] == "لا أستطيع رؤية الصورة"
    assert set(told) == {"work", "language", "direction", "text"}


async def test_of_forty_at_once_with_one_work_one_has_a_picture(start: Start) -> None:
    sidecar = await begun(start)
    shown = {"json": {"work": await work(sidecar)}}
    answers = await asyncio.gather(*(sidecar.ask("POST", WHERE, **shown) for _ in range(40)))
    assert [answer.status for answer in answers].count(200) == 1
    assert {answer.code for answer in answers if answer.status != 200} == {"captcha_failed"}


async def test_of_forty_places_at_once_one_is_judged(start: Start) -> None:
    """All show the right place, and one is judged: so nobody tries one place after another, nor all at once."""
    sidecar = await begun(start)
    told = await picture(sidecar)
    right = moved(told, place(sidecar, told))
    answers = await asyncio.gather(*(sidecar.ask("POST", WHERE, **right) for _ in range(40)))
    assert [answer.status for answer in answers].count(200) == 1
    wrong = await picture(sidecar)
    assert (await sidecar.ask("POST", WHERE, **moved(wrong, place(sidecar, wrong) + 90))).code == "captcha_failed"
    assert (await sidecar.ask("POST", WHERE, **moved(wrong, place(sidecar, wrong)))).code == "captcha_failed"


async def test_wrong_places_are_counted_and_right_ones_cost_nothing(start: Start) -> None:
    sidecar = await begun(start, "3/1h")
    for _ in range(4):
        assert await token(sidecar)
    for _ in range(3):
        told = await picture(sidecar)
        assert (await sidecar.ask("POST", WHERE, **moved(told, place(sidecar, told) + 90))).code == "captcha_failed"
    refused = await sidecar.ask("POST", WHERE, json={"work": await work(sidecar)})
    assert (refused.status, refused.code) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0


async def test_a_token_is_bound_to_its_asker(start: Start) -> None:
    trusting = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.1/32"]')
    sidecar = await begun(start, config=trusting)
    shown = await token(sidecar)
    far = {"headers": {"X-Forwarded-For": "198.51.100.9"}}
    assert (await sidecar.ask("POST", "/login", json={"captcha": shown}, **far)).code == "captcha_failed"


@pytest.mark.parametrize(
    "shown", [{}, {"work": 1}, {"work": "x"}, {"picture": "x", "by": "mouse", "points": []}, {"x": 1}]
)
async def test_what_is_no_step_is_refused(start: Start, shown: dict[str, Any]) -> None:
    sidecar = await begun(start)
    assert (await sidecar.ask("POST", WHERE, json=shown)).code == "captcha_failed"
    nested = {"data": b'{"work":' + b"[" * 30_000, "headers": {"Content-Type": "application/json"}}
    assert (await sidecar.ask("POST", WHERE, **nested)).code == "malformed_request"
    assert (await sidecar.ask("POST", "/.sidecar/captcha/altcha/challenge", json=shown)).code == "not_found"


async def test_without_pictures_work_is_not_spent(start: Start) -> None:
    """A flood that empties the pool costs nobody their work: it is shown again in a moment."""
    sidecar = await begun(start)
    verifier = sidecar.app.gate._admitting._captchas["slider"]
    assert isinstance(verifier, Slider)
    shown = await work(sidecar)
    pool = verifier._pictures
    kept, pool._ready = pool._ready, deque(maxlen=0)  # what the maker brings meanwhile is lost
    refused = await sidecar.ask("POST", WHERE, json={"work": shown})
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "captcha_unavailable", "1")
    pool._ready = kept
    assert (await sidecar.ask("POST", WHERE, json={"work": shown})).status == 200


async def test_nothing_secret_is_logged(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar = await begun(start)
    shown = await token(sidecar)
    await sidecar.ask("POST", "/send", **send(shown))
    await sidecar.ask("POST", "/send", **send(shown))
    logged = capsys.readouterr()
    assert shown not in logged.out + logged.err
    assert json.dumps(shown) not in logged.out


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
async def test_a_maker_that_dies_or_hangs_is_begun_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, blow: signal.Signals
) -> None:
    """Once what is ready is used up it is captcha_unavailable at once; plain traffic passes; pictures come again."""
    sidecar = await begun(start)
    verifier = sidecar.app.gate._admitting._captchas["slider"]
    assert isinstance(verifier, Slider)
    pool = verifier._pictures
    first = pool.child
    assert first is not None
    shown = {"json": {"work": await work(sidecar)}}
    async with asyncio.timeout(PATIENCE_S):
        while len(pool._ready) < slider_maker.MOST_READY:  # so that it is asked for nothing
            await asyncio.sleep(0.02)
    with capture_logs() as lines:
        os.kill(first.pid, blow)
        with monkeypatch.context() as impatient:  # with that one only: on a busy machine a start takes longer
            impatient.setattr(slider_maker, "_HANGS_S", 1.0)
            async with asyncio.timeout(PATIENCE_S):
                while not told(lines, "task_ended"):
                    while pool.take():
                        pass
                    reply = await sidecar.ask("POST", WHERE, **shown)
                    assert (await sidecar.ask("GET", "/plain")).body == b"ok"
                    if reply.status == 200:  # a picture that was drawn before was on its way still
                        shown = {"json": {"work": await work(sidecar)}}
                        continue
                    assert (reply.status, reply.code) == (503, "captcha_unavailable")
        async with asyncio.timeout(PATIENCE_S):
            while verifier._pictures.is_empty:
                await asyncio.sleep(0.02)
        assert (await picture(sidecar))["picture"]
    assert pool.child is not first
    line = told(lines, "task_ended")[0]
    assert line["task"] == "captcha.slider"
    assert line["error"] == {signal.SIGKILL: "IncompleteReadError", signal.SIGSTOP: "TimeoutError"}[blow]
