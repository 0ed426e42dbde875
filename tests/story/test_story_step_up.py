"""When a captcha is demanded: over a limit of mode "captcha", and after so many wrong codes. Over real sockets."""

import asyncio
from collections import Counter

import pytest
from captcha_simulators import TurnstileSimulator, running
from fakes import DEADLINE_S
from structlog.testing import capture_logs
from telling import CONFIG, E164, OTHER, PHONE, SEND, TEST_NUMBER, VERIFY, Reply, Sidecar, Start

TRUSTING = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
# Wrong but for one time in a million.
GUESS = "000000"
CAPTCHA = 'captcha = "altcha"\ncaptcha_token = "json:captcha"\n'
GUESSED = f"{VERIFY}{CAPTCHA}captcha_after = 3\n"
API_GUESSED = "[api]\ncaptcha_after = 3\n"


def stepping(key: str, rate: str = "2/1h", route: str = SEND) -> str:
    """A route that demands its captcha only over a limit by `key`, beside its other limits."""
    name = "free"
    named = route.replace('limits = ["ip", "to"]', f'limits = ["ip", "to", "{name}"]')
    return f'[limits.{name}]\nkey = "{key}"\nrate = "{rate}"\nmode = "captcha"\n{named}'


async def send(sidecar: Sidecar, phone: str = PHONE, *, ip: str = "192.0.2.1", **more: str) -> Reply:
    """Ask for a code, without a captcha unless one is given."""
    return await sidecar.ask("POST", "/send", json={"phone": phone, **more}, headers={"X-Forwarded-For": ip})


async def guess(sidecar: Sidecar, code: str = GUESS, phone: str = PHONE, **more: str) -> Reply:
    return await sidecar.ask("POST", "/register", json={"phone": phone, "code": code, **more})


async def sent(sidecar: Sidecar, phone: str = PHONE) -> str:
    reply = await sidecar.send(phone)
    assert reply.status == 202, reply.body
    return str(reply.json["id"])


# Over a limit of mode "captcha"…


@pytest.mark.parametrize(
    ("key", "alike", "unlike"),
    [
        ("ip", {"phone": OTHER}, {"ip": "192.0.2.77"}),
        ("ip_prefix", {"phone": OTHER, "ip": "192.0.2.77"}, {"ip": "198.51.100.1"}),
        ("to", {"phone": "+86 139-0000-0001", "ip": "198.51.100.1"}, {"phone": OTHER}),
        ("global", {"phone": OTHER, "ip": "198.51.100.1"}, None),
        ("route", {"phone": OTHER, "ip": "198.51.100.1"}, None),
        ("country", {"phone": OTHER, "ip": "198.51.100.1"}, {"phone": "+447400123456"}),
    ],
)
async def test_nothing_is_asked_under_the_limit_and_a_captcha_over_it(
    start: Start, key: str, alike: dict[str, str], unlike: dict[str, str] | None
) -> None:
    """By whom and by what; with a right token it goes on, and whoever the limit does not count is asked nothing."""
    sidecar = await start(stepping(key), config=TRUSTING)
    assert [(await send(sidecar)).status for _ in range(2)] == [202, 202]
    for asked in ({}, alike):
        refused = await send(sidecar, **asked)
        assert (refused.status, refused.code) == (403, "captcha_required")
        assert refused.json["captchas"] == ["altcha"]
    if unlike is not None:
        assert (await send(sidecar, **unlike)).status == 202
    for asked in ({}, alike):
        assert (await send(sidecar, **asked, captcha=await sidecar.solved())).status == 202
    messages = 5 if unlike is not None else 4
    await sidecar.vendor.wait_for(lambda: len(sidecar.vendor.messages) == messages)


async def test_a_solved_captcha_resets_the_limit_for_nobody(start: Start) -> None:
    """Each one over the limit solves its own: the one after a solved one is asked again, and its token works once."""
    sidecar = await start(stepping("global", "1/1h"))
    assert (await send(sidecar)).status == 202
    for _ in range(3):
        token = await sidecar.solved()
        assert (await send(sidecar, captcha=token)).status == 202
        assert (await send(sidecar)).code == "captcha_required"
        assert (await send(sidecar, captcha=token)).code == "captcha_failed"


async def test_a_token_that_nobody_demands_is_not_used_up(start: Start) -> None:
    """No verifier sees it under the limit, so it still works over it."""
    sidecar = await start(stepping("ip", "2/1h"))
    token = await sidecar.solved()
    for _ in range(2):
        assert (await send(sidecar, captcha=token)).status == 202
    assert (await send(sidecar, captcha=token)).status == 202
    assert (await send(sidecar, captcha=token)).code == "captcha_failed"
    assert (await send(sidecar, captcha="nonsense")).code == "captcha_failed"


async def test_who_has_shown_wrong_tokens_is_served_where_none_is_demanded(start: Start) -> None:
    """Under the limit a captcha is nobody's business, its `failures` neither; over it they refuse."""
    limited = CONFIG.replace('kind = "altcha"', 'kind = "altcha"\nfailures = "2/1h"')
    guard = SEND.replace("POST /send", "POST /always")
    sidecar = await start(stepping("ip", "2/1h") + guard, config=limited)
    codes = [(await sidecar.ask("POST", "/always", json={"phone": PHONE, "captcha": "x"})).code for _ in range(4)]
    assert codes == ["captcha_failed", "captcha_failed", "rate_limited", "rate_limited"]
    for _ in range(2):
        assert (await send(sidecar)).status == 202
    assert (await send(sidecar, captcha="x")).code == "rate_limited"


async def test_of_many_at_once_so_many_go_without_a_captcha_as_the_limit_says(start: Start) -> None:
    """Forty at once with none, and then forty with one each: two of the first, all of the second."""
    sidecar = await start(stepping("global"), config=TRUSTING)
    phones = [f"139000004{n:02}" for n in range(40)]
    found = Counter([reply.status for reply in await asyncio.gather(*(send(sidecar, phone) for phone in phones))])
    assert found == {202: 2, 403: 38}
    tokens = [await sidecar.solved() for _ in phones]
    solved = (send(sidecar, phones[n], captcha=token, ip=f"192.0.2.{n}") for n, token in enumerate(tokens))
    assert {reply.status for reply in await asyncio.gather(*solved)} == {202}


async def test_what_is_refused_spends_nothing(start: Start) -> None:
    """A demand costs nobody anything: not the number's limit, which a stranger could use up, and not one's own."""
    sidecar = await start(stepping("to", "1/1h"), to_rate="3/1h", ip_rate="3/1h")
    assert (await send(sidecar)).status == 202
    assert {(await send(sidecar)).code for _ in range(10)} == {"captcha_required"}
    assert [(await send(sidecar, captcha=await sidecar.solved())).status for _ in range(2)] == [202, 202]
    assert (await send(sidecar, captcha=await sidecar.solved())).code == "rate_limited"


async def test_nobody_solves_a_captcha_for_nothing(start: Start) -> None:
    """Over a limit that refuses, too, one is refused; and the token that came along still works later."""
    sidecar = await start(stepping("ip", "1/1h"), ip_rate="2/1h", config=TRUSTING)
    assert (await send(sidecar)).status == 202
    assert (await send(sidecar, captcha=await sidecar.solved())).status == 202
    token = await sidecar.solved()
    for more in ({"captcha": token}, {}):
        refused = await send(sidecar, **more)
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert '"ip"' in refused.headers["RateLimit"]
        assert '"free"' not in refused.headers["RateLimit"]
    for _ in range(2):
        again = await send(sidecar, ip="192.0.2.2", captcha=token)
        assert again.status == 202


@pytest.mark.parametrize("key", ["ip", "global", "route"])
async def test_a_flood_without_captchas_is_told_so_without_the_store(
    start: Start, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a limit is known to be full; who brings a token, or repeats what was answered, is not refused by it."""
    sidecar = await start(stepping(key, "1/1h"))
    once = {"Idempotency-Key": "once"}
    first = await sidecar.ask("POST", "/send", json={"phone": PHONE}, headers=once)
    assert first.status == 202
    assert (await send(sidecar)).code == "captcha_required"
    spend = sidecar.app.gate._buckets.spend
    monkeypatch.setattr(sidecar.app.gate._buckets, "spend", None)
    refused = await send(sidecar)
    assert (refused.code, refused.json["captchas"]) == ("captcha_required", ["altcha"])
    again = await sidecar.ask("POST", "/send", json={"phone": PHONE}, headers=once)
    assert (again.status, again.body) == (202, first.body)
    monkeypatch.setattr(sidecar.app.gate._buckets, "spend", spend)
    assert (await send(sidecar, captcha=await sidecar.solved())).status == 202


async def test_a_test_number_is_asked_as_who_asks_and_not_as_what_is_asked(start: Start) -> None:
    """Its sends cost nothing, so they count by nothing that is asked."""
    sidecar = await start(stepping("to", "1/1h"))
    assert [(await send(sidecar, TEST_NUMBER)).status for _ in range(4)] == [202] * 4
    sidecar = await start(stepping("ip", "1/1h"))
    assert [(await send(sidecar, TEST_NUMBER)).status for _ in range(2)] == [202, 403]


async def test_a_guarded_route_tells_upstream_only_of_captchas_that_were_solved(start: Start) -> None:
    """Under the limit there is no identity field, whatever token came along; over it, with a right one, there is."""
    guard = '[[routes]]\nmatch = "POST /login"\naction = "guard"\nlimits = ["free"]\n' + CAPTCHA
    sidecar = await start(stepping("ip", "2/1h", guard))
    told = []
    for token in ("", await sidecar.solved(), "", await sidecar.solved()):
        reply = await sidecar.ask("POST", "/login", json={"captcha": token} if token else {})
        told.append(reply.status)
    assert told == [200, 200, 403, 200]
    fields = [request.values(b"x-verified-identity") for request in sidecar.upstream.requests]
    assert [len(values) for values in fields] == [0, 0, 1]


async def test_a_verify_route_steps_up_too(start: Start) -> None:
    """A right code over the limit needs a captcha, and then it is right."""
    sidecar = await start(SEND + stepping("ip", "1/1h", f'{VERIFY}limits = ["free"]\n{CAPTCHA}'))
    await sent(sidecar)
    code = await sidecar.vendor.code()
    assert (await guess(sidecar)).code == "code_mismatch"
    assert (await guess(sidecar, code)).code == "captcha_required"
    assert (await guess(sidecar, code, captcha=await sidecar.solved())).status == 200


async def test_the_api_steps_up_too(start: Start) -> None:
    """By `api.limits`; a captcha stays what it was where none of them is of this mode."""
    sidecar = await start('[api]\nlimits = ["free"]\n' + stepping("to", "1/1h"))
    start_path = "/.sidecar/v1/verifications"
    assert (await sidecar.ask("POST", start_path, json={"to": E164})).status == 202
    refused = await sidecar.ask("POST", start_path, json={"to": PHONE})
    assert (refused.code, refused.json["captchas"]) == ("captcha_required", ["altcha"])
    solved = {"to": PHONE, "captcha": await sidecar.solved()}
    assert (await sidecar.ask("POST", start_path, json=solved)).status == 202


async def test_a_route_that_observes_demands_nothing_and_says_what_it_would(start: Start) -> None:
    """The missing captcha is in the log; a right one that came along is not."""
    sidecar = await start(stepping("ip", "1/1h") + 'mode = "observe"\n')
    tries: list[dict[str, str]] = [{}, {}, {"captcha": await sidecar.solved()}]
    with capture_logs() as logs:
        for more in tries:
            assert (await send(sidecar, **more)).status == 202
        async with asyncio.timeout(DEADLINE_S):
            while await sidecar.metric('sidecar_requests_total{action="send",outcome="queued"}') != 3:
                pass  # each look is a round trip, in which the sidecar goes on
    lines = [line for line in logs if line["event"] == "request" and line["action"] == "send"]
    assert [line.get("captcha_demanded_by") for line in lines] == [None, ["free"], ["free"]]
    assert [len(line.get("observed", [])) for line in lines] == [0, 1, 0]


# After so many wrong codes…


async def test_after_three_wrong_codes_a_captcha_is_demanded_of_right_and_wrong_ones(start: Start) -> None:
    """Nobody learns by the demand whether a code is right; whoever solves it goes on, and the right one is taken."""
    sidecar = await start(SEND + GUESSED)
    await sent(sidecar)
    code = await sidecar.vendor.code()
    assert [(await guess(sidecar)).json["attempts_left"] for _ in range(3)] == [4, 3, 2]
    asked = [await guess(sidecar, one) for one in (GUESS, code, code, GUESS)]
    assert {(reply.status, reply.code) for reply in asked} == {(403, "captcha_required")}
    assert asked[0].json["captchas"] == ["altcha"]
    assert len({tuple(sorted(reply.json)) for reply in asked}) == 1
    assert (await guess(sidecar, captcha=await sidecar.solved())).json["attempts_left"] == 1
    assert (await guess(sidecar, code, captcha=await sidecar.solved())).status == 200


async def test_a_right_code_needs_no_captcha_before(start: Start) -> None:
    """Two wrong ones are no reason, nor is anybody else's number; and right ones count for nothing."""
    sidecar = await start(SEND + GUESSED)
    for n in range(4):
        await sent(sidecar)
        assert (await guess(sidecar, await sidecar.vendor.code(count=n + 1))).status == 200
    await sent(sidecar)
    for _ in range(2):
        assert (await guess(sidecar)).code == "code_mismatch"
    assert (await guess(sidecar, await sidecar.vendor.code(count=5))).status == 200
    await sent(sidecar)
    assert (await guess(sidecar)).code == "code_mismatch"
    assert (await guess(sidecar)).code == "captcha_required"
    await sent(sidecar, OTHER)
    assert (await guess(sidecar, await sidecar.vendor.code("+8613900000002"), OTHER)).status == 200


async def test_of_a_hundred_guesses_at_once_three_are_judged_without_a_captcha(start: Start) -> None:
    """In whatever spelling, by two sidecars on one store: the others are told to solve one, and the code lives."""
    first = await start(SEND + GUESSED)
    second = await start(SEND + GUESSED)
    await sent(first)
    code = await first.vendor.code()
    spellings = [PHONE, E164, "139 0000 0001", "+86 (139) 0000-0001"]
    tries = [guess((first, second)[n % 2], GUESS, spellings[n % 4]) for n in range(100)]
    found = Counter([reply.code for reply in await asyncio.gather(*tries)])
    assert found == {"code_mismatch": 3, "captcha_required": 97}
    assert (await guess(second, captcha=await second.solved())).json["attempts_left"] == 1
    assert (await guess(first, code, captcha=await first.solved())).status == 200


async def test_a_strangers_code_is_not_killed_for_nothing(start: Start) -> None:
    """A new code begins no new free tries, and each further one costs a solved captcha of its own."""
    sidecar = await start(SEND + GUESSED)
    await sent(sidecar)
    assert [(await guess(sidecar)).code for _ in range(4)] == ["code_mismatch"] * 3 + ["captcha_required"]
    token = await sidecar.solved()
    assert (await guess(sidecar, captcha=token)).json["attempts_left"] == 1
    assert (await guess(sidecar, captcha=token)).code == "captcha_failed"
    assert (await guess(sidecar, captcha=await sidecar.solved())).json["attempts_left"] == 0
    await sent(sidecar)
    code = await sidecar.vendor.code(count=2)
    assert {(await guess(sidecar)).code for _ in range(20)} == {"captcha_required"}
    assert (await guess(sidecar, code, captcha=await sidecar.solved())).status == 200


@pytest.mark.parametrize("limits", ["", 'limits = ["ip"]\n'])
async def test_a_demand_after_wrong_codes_spends_no_limit(start: Start, limits: str) -> None:
    """With limits on the route and without: who is told to solve a captcha has asked for nothing yet."""
    sidecar = await start(SEND.replace('"ip", ', "") + GUESSED + limits, ip_rate="6/1h")
    await sent(sidecar)
    for _ in range(3):
        assert (await guess(sidecar)).code == "code_mismatch"
    assert {(await guess(sidecar)).code for _ in range(20)} == {"captcha_required"}
    code = await sidecar.vendor.code()
    assert (await guess(sidecar, code, captcha=await sidecar.solved())).status == 200


async def test_a_wrong_token_is_no_way_to_guess(start: Start) -> None:
    """It is refused before the code is judged, for right codes as for wrong ones."""
    sidecar = await start(SEND + GUESSED)
    await sent(sidecar)
    code = await sidecar.vendor.code()
    for _ in range(3):
        await guess(sidecar)
    assert {(await guess(sidecar, one, captcha="x")).code for one in (GUESS, code)} == {"captcha_failed"}
    assert (await guess(sidecar, captcha=await sidecar.solved())).json["attempts_left"] == 1


@pytest.mark.parametrize("limits", ["", 'limits = ["ip"]\n'])
async def test_a_proof_that_is_no_guess_needs_no_captcha(start: Start, limits: str) -> None:
    """A verification token cannot be guessed, so that what others guess is not its bearer's trouble; whether the store
    is asked for limits of the route or not."""
    sidecar = await start(SEND + GUESSED + limits)
    verification_id = await sent(sidecar)
    path = f"/.sidecar/v1/verifications/{verification_id}/check"
    token = (await sidecar.ask("POST", path, json={"code": await sidecar.vendor.code()})).json["token"]
    await sent(sidecar)
    for _ in range(3):
        await guess(sidecar)
    assert (await guess(sidecar)).code == "captcha_required"
    proof = {"X-Verification-Token": token}
    assert (await sidecar.ask("POST", "/register", json={"phone": PHONE}, headers=proof)).status == 200


async def test_the_apis_checks_demand_one_as_routes_do(start: Start) -> None:
    """By id and by recipient, on the same count: guesses here count there."""
    sidecar = await start(API_GUESSED + SEND + GUESSED)
    verification_id = await sent(sidecar)
    by_id, newest = f"/.sidecar/v1/verifications/{verification_id}/check", "/.sidecar/v1/verifications/check"
    assert (await guess(sidecar)).code == "code_mismatch"
    assert (await sidecar.ask("POST", by_id, json={"code": GUESS})).code == "code_mismatch"
    assert (await sidecar.ask("POST", newest, json={"to": PHONE, "code": GUESS})).code == "code_mismatch"
    code = await sidecar.vendor.code()
    for one in (GUESS, code):
        for path, body in ((by_id, {}), (newest, {"to": PHONE})):
            refused = await sidecar.ask("POST", path, json={"code": one, **body})
            assert (refused.code, refused.json["captchas"]) == ("captcha_required", ["altcha"])
    solved = {"code": GUESS, "captcha": await sidecar.solved()}
    assert (await sidecar.ask("POST", by_id, json=solved)).json["attempts_left"] == 1
    solved = {"to": PHONE, "code": code, "captcha": await sidecar.solved()}
    assert (await sidecar.ask("POST", newest, json=solved)).json["status"] == "verified"


async def test_an_api_that_demands_none_is_as_it_was(start: Start) -> None:
    """A captcha that came along is not looked at."""
    sidecar = await start(SEND)
    verification_id = await sent(sidecar)
    path = f"/.sidecar/v1/verifications/{verification_id}/check"
    tries = [await sidecar.ask("POST", path, json={"code": GUESS, "captcha": "x"}) for _ in range(5)]
    assert [reply.json["attempts_left"] for reply in tries] == [4, 3, 2, 1, 0]


async def test_an_observed_route_judges_the_code_though_a_captcha_would_be_demanded(start: Start) -> None:
    """What enforcing would have demanded is noted, and the identity is upstream's as it was without."""
    sidecar = await start(SEND + GUESSED + 'mode = "observe"\n')
    await sent(sidecar)
    code = await sidecar.vendor.code()
    for _ in range(3):
        await guess(sidecar)
    assert (await guess(sidecar, code)).status == 200
    assert [len(request.values(b"x-verified-identity")) for request in sidecar.upstream.requests] == [0, 0, 0, 1]


@pytest.mark.parametrize("by", ["route", "api"])
async def test_a_token_that_nobody_judged_may_be_shown_again_with_the_code(start: Start, by: str) -> None:
    """The vendor did not answer, after three wrong codes: the same token is judged once it does."""
    simulator = TurnstileSimulator(genuine={"t1"})
    async with running(simulator):
        table = f"""
[captcha.turnstile]
kind = "turnstile"
secret = "0x-simulated-secret"
endpoint = "{simulator.endpoint}"
timeout = "500ms"
"""
        guessed = GUESSED.replace('captcha = "altcha"', 'captcha = "turnstile"')
        sidecar = await start(
            f'{table}[api]\ncaptcha = "turnstile"\ncaptcha_after = 3\n{SEND}{guessed}',
        )
        started = await sent(sidecar)
        code = await sidecar.vendor.code()
        path = "/register" if by == "route" else f"/.sidecar/v1/verifications/{started}/check"

        async def shown(what: str, **more: str) -> Reply:
            named = {"phone": PHONE} if by == "route" else {}
            return await sidecar.ask("POST", path, json={"code": what} | named | more)

        assert [(await shown(GUESS)).code for _ in range(4)] == ["code_mismatch"] * 3 + ["captcha_required"]
        simulator.silent = True
        assert (await shown(code, captcha="t1")).code == "captcha_unavailable"
        simulator.silent = False
        assert (await shown(code, captcha="t1")).status == 200
