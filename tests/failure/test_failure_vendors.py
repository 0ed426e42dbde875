"""docs/failure.md, the vendors: a captcha's verifier, and providers, that are away, slow, or say what is not so."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from awake import awake
from failing import told
from fakes import DEADLINE_S, OK, FakeUpstream, Message, Taken, read_content
from structlog.testing import capture_logs
from telling import CONFIG, SEND, VERIFY, Reply, Sidecar, Start
from vendors import closed_port

Answer = bytes | Callable[[Taken, Message], Awaitable[None]]
HEAD = CONFIG.split("[providers.hook]")[0]
TURNSTILE = """
[captcha.turnstile]
kind = "turnstile"
secret = "0x-secret"
hostname = "signup.example"
endpoint = "{url}/siteverify"
timeout = "1s"
on_failure = "{on_failure}"
[[routes]]
match = "POST /login"
action = "guard"
captcha = "turnstile"
captcha_token = "json:captcha"
"""
PROVIDERS = """
[providers.tencent]
kind = "tencent"
secret_id = "AKID"
secret_key = "key"
app_id = "1400000000"
sign_name = "示例"
template = "1110"
endpoint = "{url}"
[providers.hook]
kind = "webhook"
url = "{{vendor}}/hook"
secret = "s"
[[delivery]]
providers = {order}
switch_after = "200ms"
attempt_timeout = "2s"
deadline = "5s"
"""


def says(document: object, status: int = 200) -> bytes:
    """An answer with this JSON."""
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


async def silence(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await asyncio.Event().wait()


async def reset(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    taken.reset()


async def half(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"success": true')
    taken.reset()


# A verifier…

# What it answers -> the refusal, and the reason that the operator is told.
LIES: list[tuple[Answer, str, str]] = [
    (silence, "captcha_unavailable", "no_answer"),
    (reset, "captcha_unavailable", "no_answer"),
    (half, "captcha_unavailable", "no_answer"),
    (b"garbage\r\n\r\n", "captcha_unavailable", "no_answer"),
    (says({}, 500), "captcha_unavailable", "http_500"),
    (says({"success": True, "hostname": "signup.example"}, 503), "captcha_unavailable", "http_503"),
    (OK, "captcha_unavailable", "not_json"),
    (says(["success"]), "captcha_unavailable", "not_json"),
    (says({"success": "true", "hostname": "signup.example"}), "captcha_unavailable", "no_verdict"),
    (says({"success": 1, "hostname": "signup.example"}), "captcha_unavailable", "no_verdict"),
    (says({"success": True}), "captcha_failed", "policy: hostname"),
    (says({"success": True, "hostname": "evil.example"}), "captcha_failed", "policy: hostname"),
    (says({"success": False, "error-codes": ["a new word"]}), "captcha_failed", "reject: unknown_code"),
]


async def is_plain_served(sidecar: Sidecar) -> None:
    with awake() as took:
        assert (await sidecar.ask("GET", "/plain")).body == b"ok"
        assert took() < 1.0


async def test_a_verifier_that_is_away_slow_or_lies(start: Start) -> None:
    """Nobody is let in by anything but its documented yes for our host; each refusal comes in time, and says why."""
    async with FakeUpstream() as verifier:
        sidecar = await start(TURNSTILE.format(url=verifier.url, on_failure="deny"))
        for number, (answer, code, reason) in enumerate(LIES):
            verifier.answer = answer
            with capture_logs() as lines, awake() as took:
                reply, _ = await asyncio.gather(
                    sidecar.ask("POST", "/login", json={"captcha": f"t{number}"}), is_plain_served(sidecar)
                )
                assert took() < 2.0
            assert (reply.code, reply.status) == (code, 503 if code == "captcha_unavailable" else 403), answer
            (line,) = told(lines, "request")[-1:] if code == "captcha_failed" else told(lines, "captcha_broken")
            assert line["reason"] == reason, answer
            if number % 3 == 2:  # five in a row would open its breaker
                verifier.answer = says({"success": True, "hostname": "signup.example"})
                assert (await sidecar.ask("POST", "/login", json={"captcha": f"good{number}"})).status == 200


async def test_a_verifier_that_is_away_where_it_may_be(start: Start) -> None:
    """`on_failure = "allow"` lets in, unproven, once it fails at the tokens of three sites; a lie of a yes lets
    nobody in even so."""
    trusting = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
    async with FakeUpstream() as verifier:
        sidecar = await start(TURNSTILE.format(url=verifier.url, on_failure="allow"), config=trusting)

        async def log_in(token: str, site: int) -> Reply:
            fields = {"X-Forwarded-For": f"203.0.{site}.7"}
            return await sidecar.ask("POST", "/login", json={"captcha": token}, headers=fields)

        for number, (answer, code, _) in enumerate(LIES):
            verifier.answer = answer
            if code == "captcha_failed":
                assert (await log_in(f"t{number}", 1)).code == code, answer
                continue
            replies = [await log_in(f"t{number}-{index}", site) for index, site in enumerate((1, 2, 3))]
            assert [reply.status for reply in replies] == [503, 503, 200], answer
            verifier.answer = says({"success": True, "hostname": "signup.example"})
            for index in range(4):  # half of the last twenty would open its breaker
                assert (await log_in(f"good{number}-{index}", 1)).status == 200
        proven = [one for one in sidecar.upstream.requests if one.values(b"x-verified-identity")]
        assert len(proven) == 4 * sum(code == "captcha_unavailable" for _, code, _ in LIES)


# Providers…

# What one answers -> what the attempt came to, and a part of the reason.
TROUBLES: list[tuple[Answer | None, str, str]] = [
    (None, "rejected", "unreachable"),
    (silence, "uncertain", ""),
    (reset, "uncertain", ""),
    (half, "uncertain", ""),
    (says({}, 500), "uncertain", ""),
    (OK, "uncertain", ""),
    (says({"Response": {"SendStatusSet": [], "RequestId": "r"}}), "uncertain", ""),
    (says({"Response": {"Error": {"Code": "A.NewWord", "Message": "no"}, "RequestId": "r"}}), "rejected", "A.NewWord"),
    (
        says(
            {
                "Response": {
                    "SendStatusSet": [{"Code": "FailedOperation.InsufficientBalanceInSmsPackage"}],
                    "RequestId": "r",
                }
            }
        ),
        "rejected",
        "balance",
    ),
]


@pytest.mark.parametrize("number", range(len(TROUBLES)))
async def test_a_provider_that_is_away_slow_lies_or_is_out_of_money(start: Start, number: int) -> None:
    """The next one sends the code, `switch_after` later at most; the log says what came of the first."""
    answer, outcome, reason = TROUBLES[number]
    async with FakeUpstream(answer=answer or OK) as broken:
        tables = PROVIDERS.format(url=broken.url if answer else closed_port(), order='["tencent", "hook"]')
        with capture_logs() as lines:
            sidecar = await start(SEND + VERIFY, config=HEAD + tables)
            reply, _ = await asyncio.gather(sidecar.send(), is_plain_served(sidecar))
            assert reply.status == 202
            assert (await sidecar.register(await sidecar.vendor.code())).status == 200
            async with asyncio.timeout(DEADLINE_S):
                while len(told(lines, "attempt")) < 2:
                    await asyncio.sleep(0.01)
        attempts = {line["provider"]: line for line in told(lines, "attempt")}
        assert attempts["hook"]["outcome"] == "accepted"
        assert attempts["tencent"]["outcome"] == outcome
        assert reason in attempts["tencent"]["reason"]
        assert await sidecar.metric(f'sidecar_attempts_total{{outcome="{outcome}",provider="tencent"}}') == 1


async def test_the_only_provider_is_away(start: Start) -> None:
    """202 all the same: it is asked again while the code lives, and the message is sent once it is back."""
    url = closed_port()
    tables = PROVIDERS.replace("{{vendor}}", url).format(url=url, order='["hook"]')
    with capture_logs() as lines:
        sidecar = await start(SEND + VERIFY, config=HEAD + tables)
        assert (await sidecar.send()).status == 202
        async with asyncio.timeout(DEADLINE_S):
            while not told(lines, "attempt"):
                await asyncio.sleep(0.01)
        async with FakeUpstream(port=int(url.rpartition(":")[2])) as vendor:
            await vendor.wait_for(lambda: len(vendor.requests) == 1)
            code = json.loads(vendor.requests[0].content)["code"]
            assert (await sidecar.register(code)).status == 200
            await sidecar.counts('sidecar_messages_total{outcome="sent"}', 1)
    assert {line["outcome"] for line in told(lines, "attempt")} == {"rejected", "accepted"}


async def test_the_only_provider_is_out_of_money(start: Start) -> None:
    """That does not pass by itself: the verification has failed, what it had cost is given back, and it is told."""
    answer, _, _ = TROUBLES[-1]
    assert answer is not None
    async with FakeUpstream(answer=answer) as broken:
        waits = SEND.replace('action = "send"', 'action = "send"\nwait = "5s"')
        with capture_logs() as lines:
            sidecar = await start(
                waits, config=HEAD + PROVIDERS.format(url=broken.url, order='["tencent"]'), to_rate="1/1h"
            )
            for _ in range(2):
                reply = await sidecar.send()
                assert (reply.status, reply.code) == (502, "delivery_failed"), "and not rate_limited the second time"
        assert "balance" in told(lines, "message_failed")[0]["reason"]
        await sidecar.counts('sidecar_messages_total{outcome="failed"}', 2)
        broken.answer = says(
            {"Response": {"SendStatusSet": [{"Code": "Ok", "SerialNo": "1:1", "PhoneNumber": "+8613900000001"}]}}
        )
        assert (await sidecar.send()).status == 202
