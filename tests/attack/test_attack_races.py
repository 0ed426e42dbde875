"""The attacker who is quick: a hundred at once on each thing that works once, on two instances. Over real sockets."""

from collections import Counter
from typing import Any

from attackers import at_once, code_of
from telling import E164, PHONE, SEND, VERIFY, Sidecar, Start

V1 = "/.sidecar/v1/verifications"
MANY = 100
GUARD = """
[[routes]]
match = "POST /comment"
action = "guard"
captcha = "altcha"
captcha_token = "json:captcha"
"""


def requests(sidecars: list[Sidecar]) -> int:
    return sum(len(sidecar.upstream.requests) for sidecar in sidecars)


async def test_one_code_is_one_request_upstream(start: Start) -> None:
    """The others are told that it is in use, or spent."""
    sidecars = [await start(), await start()]
    await sidecars[0].send()
    code = await code_of(sidecars, E164)
    found = Counter(reply.status for reply in await at_once(MANY, lambda n: sidecars[n % 2].register(code)))
    assert (found[200], set(found) <= {200, 409, 410}, requests(sidecars)) == (1, True, 1), found


async def test_one_code_is_one_token_and_one_token_one_request(start: Start) -> None:
    """By the API's check, and by the field that shows the token."""
    sidecars = [await start(), await start()]
    sent = await sidecars[0].send()
    code, path = await code_of(sidecars, E164), f"{V1}/{sent.json['id']}/check"
    replies = await at_once(MANY, lambda n: sidecars[n % 2].ask("POST", path, json={"code": code}))
    [token] = [reply.json["token"] for reply in replies if reply.status == 200]
    shown = {"X-Verification-Token": token}
    found = Counter(
        reply.status for reply in await at_once(MANY, lambda n: sidecars[n % 2].register(None, headers=shown))
    )
    assert (found[200], set(found) <= {200, 409, 410}, requests(sidecars)) == (1, True, 1), found


async def test_a_code_and_its_token_are_one_request_together(start: Start) -> None:
    """Whoever has both has one sign-up, not two."""
    sidecars = [await start(), await start()]
    sent = await sidecars[0].send()
    code = await code_of(sidecars, E164)
    checked = await sidecars[0].ask("POST", f"{V1}/{sent.json['id']}/check", json={"code": code})
    shown = {"X-Verification-Token": checked.json["token"]}
    ways: list[dict[str, Any]] = [{"code": code}, {"code": None, "headers": shown}]
    replies = await at_once(MANY, lambda n: sidecars[n // 2 % 2].register(**ways[n % 2]))
    assert [reply.status for reply in replies].count(200) == requests(sidecars) == 1


async def test_one_captcha_token_is_one_message_whatever_it_is_shown_to(start: Start) -> None:
    """At once on both instances: the send route, the API, and a guarded route."""
    sidecars = [await start(SEND + VERIFY + GUARD), await start(SEND + VERIFY + GUARD)]
    token = await sidecars[0].solved()
    ways: list[tuple[str, dict[str, Any]]] = [
        ("/send", {"phone": PHONE, "captcha": token}),
        (V1, {"to": PHONE, "captcha": token}),
        ("/comment", {"text": "hello", "captcha": token}),
    ]
    replies = await at_once(9, lambda n: sidecars[n % 2].ask("POST", ways[n % 3][0], json=ways[n % 3][1]))
    assert Counter(reply.status for reply in replies) == {403: 8, replies_yes(replies): 1}
    assert all(reply.code == "captcha_failed" for reply in replies if reply.status == 403)


def replies_yes(replies: list[Any]) -> int:
    """The one status among answers that is no refusal."""
    [status] = [reply.status for reply in replies if reply.status < 300]
    return int(status)


async def test_one_idempotency_key_is_one_message(start: Start) -> None:
    """Everybody who repeats it gets the first one's answer, or hears that it is still being made."""
    sidecars = [await start(), await start()]
    tokens = [await sidecars[0].solved() for _ in range(40)]
    key = {"Idempotency-Key": "the same"}

    async def ask(n: int) -> Any:
        return await sidecars[n % 2].ask("POST", "/send", json={"phone": PHONE, "captcha": tokens[n]}, headers=key)

    replies = await at_once(40, ask)
    answers = {reply.body for reply in replies if reply.status == 202}
    assert len(answers) == 1, answers
    assert {reply.status for reply in replies} <= {202, 409}
    await code_of(sidecars, E164)
    assert sum(len(sidecar.vendor.messages) for sidecar in sidecars) == 1


async def test_a_bucket_of_three_lets_three_through(start: Start) -> None:
    """A hundred solved captchas for one number, at once on both instances."""
    sidecars = [await start(to_rate="3/1h"), await start(to_rate="3/1h")]
    tokens = [await sidecars[0].solved() for _ in range(MANY)]
    replies = await at_once(
        MANY, lambda n: sidecars[n % 2].ask("POST", "/send", json={"phone": PHONE, "captcha": tokens[n]})
    )
    assert Counter(reply.status for reply in replies) == {202: 3, 429: MANY - 3}
