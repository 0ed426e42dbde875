"""A flood pays more for each challenge than a person does. Over real sockets, by addresses in X-Forwarded-For."""

import base64
import json
from typing import Any

import altcha
from telling import CONFIG, OTHER, PHONE, SEND, Sidecar, Start

TRUSTING = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
ORDINARY = 10


async def challenge(sidecar: Sidecar, ip: str) -> dict[str, Any]:
    reply = await sidecar.ask("GET", "/.sidecar/captcha/altcha/challenge", headers={"X-Forwarded-For": ip})
    assert reply.status == 200
    return dict(reply.json)


def solve(given: dict[str, Any]) -> str:
    solution = altcha.solve_challenge(altcha.Challenge.from_dict(given))
    assert solution is not None
    payload = {"challenge": given, "solution": solution.to_dict()}
    return base64.b64encode(json.dumps(payload).encode()).decode()


def most(given: dict[str, Any]) -> int:
    return int(given["parameters"]["data"]["most"])


async def test_who_floods_pays_and_who_does_not_does_not(start: Start) -> None:
    """On two instances; what was paid for works, from its own address and from one that is not dear."""
    first, second = await start(SEND, config=TRUSTING), await start(SEND, config=TRUSTING)
    for n in range(90):
        last = await challenge((first, second)[n % 2], "192.0.2.1")
    assert ORDINARY * 2.5 < most(last) <= ORDINARY * 3 + 1
    calm = await challenge(first, "198.51.100.1")
    assert most(calm) == ORDINARY
    for given, ip, phone in ((last, "192.0.2.1", PHONE), (calm, "203.0.113.9", OTHER)):
        body = {"phone": phone, "captcha": solve(given)}
        assert (await first.ask("POST", "/send", json=body, headers={"X-Forwarded-For": ip})).status == 202


async def test_cheap_challenges_are_not_carried_to_a_dear_address(start: Start) -> None:
    """It is a wrong token there, as any other, and is used up by it."""
    sidecar = await start(SEND, config=TRUSTING)
    for _ in range(90):
        await challenge(sidecar, "192.0.2.1")
    body = {"phone": PHONE, "captcha": solve(await challenge(sidecar, "198.51.100.1"))}
    for ip in ("192.0.2.1", "198.51.100.1"):
        refused = await sidecar.ask("POST", "/send", json=body, headers={"X-Forwarded-For": ip})
        assert (refused.status, refused.code) == (403, "captcha_failed")


async def test_no_challenge_is_an_error_while_the_store_is_away(start: Start) -> None:
    """It is the ordinary work; a send cannot be decided then, and says so."""
    sidecar = await start(SEND, url="unix:///nowhere/at/all.sock")
    given = await challenge(sidecar, "192.0.2.1")
    assert most(given) == ORDINARY
    refused = await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": solve(given)})
    assert refused.code == "store_unavailable"
