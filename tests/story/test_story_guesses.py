"""Who guesses codes: wrong tries are counted by recipient and by asker, in any spelling. Over real sockets."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any

import pytest
from fakes import DEADLINE_S
from telling import CONFIG, E164, MAIN, OTHER, PHONE, SEND, TEST_NUMBER, VERIFY, Reply, Sidecar, Start

from sidecar.store.client import Store

ANY_CHANNEL = (SEND + VERIFY).replace('to = "json:phone"', 'to = "json:phone"\nchannel = "auto"')
TRUSTING = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
SECRET = "story-secret-story-secret-story-secret"
# Wrong but for one time in a million.
GUESS = "000000"


def ruled(config: str = CONFIG, **rules: str) -> str:
    """The configuration with rules in [code]."""
    return config + "[code]\n" + "".join(f'{name} = "{value}"\n' for name, value in rules.items())


def from_ip(ip: str) -> dict[str, str]:
    return {"X-Forwarded-For": ip}


async def sent_id(sidecar: Sidecar, to: str) -> str:
    sent = await sidecar.send(to)
    assert sent.status == 202
    return str(sent.json["id"])


async def check(sidecar: Sidecar, verification_id: str, code: str) -> Reply:
    path = f"/.sidecar/v1/verifications/{verification_id}/check"
    return await sidecar.ask("POST", path, json={"code": code})


async def counted(*tries: Awaitable[Reply]) -> Counter[str]:
    return Counter([(await reply).code for reply in tries])


async def test_spellings_of_a_mailbox_have_one_budget(start: Start) -> None:
    """By a route and by the API's check, in any case of either part: seven guesses of seven, not of each spelling."""
    sidecar = await start(ANY_CHANNEL, config=ruled(failures="7/1h"))
    spellings = ["foo@mail.example", "Foo@mail.example", "FOO@Mail.Example"]
    found: Counter[str] = Counter()
    for n in range(21):
        verification_id = await sent_id(sidecar, spellings[n % 3])
        by_route = sidecar.register(GUESS, spellings[(n + 1) % 3])
        found[(await (by_route if n % 2 else check(sidecar, verification_id, GUESS))).code] += 1
        if n % 2 == 0:
            by_route.close()
    assert found == {"code_mismatch": 7, "too_many_attempts": 14}


async def test_a_mailbox_is_verified_in_another_case_than_it_was_typed(start: Start) -> None:
    """The message goes to the address as typed, the proof is the mailbox's."""
    sidecar = await start(ANY_CHANNEL)
    await sent_id(sidecar, "Foo@mail.example")
    code = await sidecar.vendor.code("Foo@mail.example")
    assert (await sidecar.register(code, "foo@mail.example")).status == 200


async def test_spellings_of_a_number_have_one_budget(start: Start) -> None:
    """E.164 or as at home, spaces and all."""
    sidecar = await start(config=ruled(failures="7/1h"))
    spellings = [PHONE, E164, "139 0000 0001", "+86 (139) 0000-0001", "１３９０００００００１", "8613900000001"]
    found: Counter[str] = Counter()
    for n in range(18):
        await sent_id(sidecar, spellings[n % 6])
        found[(await sidecar.register(GUESS, spellings[(n + 1) % 6])).code] += 1
    assert found == {"code_mismatch": 7, "too_many_attempts": 11}


async def test_an_asker_has_so_many_wrong_tries_over_all_recipients(start: Start) -> None:
    """`code.failures_per_ip`, whatever limits a route names. Right ones cost nothing, and wait like wrong ones."""
    sidecar = await start(config=ruled(TRUSTING, failures_per_ip="3/10m"))
    for n in range(5):
        await sent_id(sidecar, f"1390000001{n}")
        code = await sidecar.vendor.code(f"+861390000001{n}")
        assert (await sidecar.register(code, f"1390000001{n}")).status == 200
    ids = [await sent_id(sidecar, f"1390000002{n}") for n in range(4)]
    assert (await sidecar.register(GUESS, "13900000020")).code == "code_mismatch"
    assert (await check(sidecar, ids[1], GUESS)).code == "code_mismatch"
    assert (await sidecar.register(GUESS, "13900000022")).code == "code_mismatch"

    code = await sidecar.vendor.code("+8613900000023")
    for refused in (await sidecar.register(code, "13900000023"), await check(sidecar, ids[3], code)):
        assert (refused.status, refused.code) == (429, "too_many_attempts")
        assert 0 < int(refused.headers["Retry-After"]) <= 200
        assert refused.headers["RateLimit-Policy"] == '"code.failures_per_ip";q=3;w=600'
    assert (await sidecar.register(code, "13900000023", headers=from_ip("198.51.100.1"))).status == 200


async def test_a_hundred_wrong_tries_at_once_are_thirty(start: Start) -> None:
    """Each is counted before it is judged: being quick buys nobody a thirty-first."""
    sidecar = await start()
    numbers = [f"139000003{n:02}" for n in range(25)]
    for number in numbers:
        await sent_id(sidecar, number)
    tries = [sidecar.register(GUESS, number) for number in numbers for _ in range(4)]
    found = Counter([reply.code for reply in await asyncio.gather(*tries)])
    assert found == {"code_mismatch": 30, "too_many_attempts": 70}


async def test_forty_right_answers_at_once_are_no_guesses(start: Start) -> None:
    """Right ones never meet the budget of wrong ones, however many come at once."""
    sidecar = await start(config=ruled(failures="1/1h", failures_per_ip="1/1h"))
    await sent_id(sidecar, PHONE)
    code = await sidecar.vendor.code()
    found = Counter([reply.status for reply in await asyncio.gather(*(sidecar.register(code) for _ in range(40)))])
    assert found[200] == 1
    assert set(found) <= {200, 409, 410}


async def test_a_site_of_many_addresses_is_no_crowd_of_askers(start: Start) -> None:
    """Who goes from one IPv6 /64 of its /48 to the next has ten askers' tries, not 65,536 askers'."""
    config = ruled(TRUSTING, failures_per_ip="1/10m", failures="1000/1h")
    sidecar = await start(config=config)
    found: Counter[str] = Counter()
    for n in range(15):
        await sent_id(sidecar, PHONE)
        found[(await sidecar.register(GUESS, headers=from_ip(f"2001:db8:7:{n:x}::1"))).code] += 1
    assert found == {"code_mismatch": 10, "too_many_attempts": 5}
    assert (await sidecar.register(GUESS, headers=from_ip("2001:db8:8::1"))).code == "code_mismatch"


async def test_what_is_not_judged_costs_nothing(start: Start) -> None:
    """What can be no code, and a try at a dead one, are no wrong try, or strangers would use up its budget."""
    sidecar = await start(config=ruled(failures="7/1h"))
    await sent_id(sidecar, PHONE)
    assert await counted(*(sidecar.register("what?") for _ in range(20))) == {"code_mismatch": 20}
    assert await counted(*(sidecar.register(GUESS) for _ in range(5))) == {"code_mismatch": 5}
    assert await counted(*(sidecar.register(GUESS) for _ in range(20))) == {"too_many_attempts": 20}
    await sent_id(sidecar, PHONE)
    async with asyncio.timeout(DEADLINE_S):
        while (reply := await sidecar.register(GUESS)).code == "too_many_attempts":
            pass  # what was taken for the last one is given back in a moment
    assert reply.code == "code_mismatch"
    assert await counted(sidecar.register(GUESS), sidecar.register(GUESS)) == {
        "code_mismatch": 1,
        "too_many_attempts": 1,
    }


async def test_a_guess_at_a_number_that_has_had_its_wrong_codes_asks_the_store_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known to be full: the right code is refused as a wrong one is, and nobody else's is."""
    sidecar = await start(config=ruled(failures="3/1h"))
    for number in (PHONE, OTHER):
        await sent_id(sidecar, number)
    code, others = await sidecar.vendor.code(), await sidecar.vendor.code("+8613900000002")
    assert await counted(*(sidecar.register(GUESS) for _ in range(4))) == {"code_mismatch": 3, "too_many_attempts": 1}

    asked: list[str] = []
    real = Store.execute

    def execute(store: Store, key: str | None, verb: str, *args: Any, **more: Any) -> Any:
        asked.append(verb)
        return real(store, key, verb, *args, **more)

    monkeypatch.setattr(Store, "execute", execute)
    refused = [await sidecar.register(shown) for shown in (GUESS, code)]
    assert [(reply.status, reply.code) for reply in refused] == [(429, "too_many_attempts")] * 2
    assert all(0 < int(reply.headers["Retry-After"]) <= 3600 / 3 for reply in refused)
    assert "GET" not in asked, "its newest code was not even looked up"
    assert (await sidecar.register(others, OTHER)).status == 200
    assert "GET" in asked


async def test_a_new_code_does_not_reset_the_failures(start: Start) -> None:
    """`code.failures` counts over all of a recipient's codes, and nobody else's; the right one must wait too."""
    sidecar = await start(config=ruled(failures="7/1h"))
    for left in (5, 2):
        await sent_id(sidecar, PHONE)
        assert await counted(*(sidecar.register(GUESS) for _ in range(left))) == {"code_mismatch": left}
    code = await sidecar.vendor.code(count=2)
    refused = await sidecar.register(code)
    assert refused.code == "too_many_attempts"
    assert 0 < int(refused.headers["Retry-After"]) <= 3600 / 7 + 1
    await sent_id(sidecar, OTHER)
    assert (await sidecar.register(await sidecar.vendor.code("+8613900000002"), OTHER)).status == 200


async def test_a_rotated_secret_begins_no_budget_anew(start: Start) -> None:
    """Guesses count under each accepted secret, so those before a rotation count after it, and after its end."""
    rules = {"failures": "7/1h", "failures_per_ip": "1000/1s"}
    before = await start(config=ruled(**rules))
    await sent_id(before, PHONE)
    assert await counted(*(before.register(GUESS) for _ in range(4))) == {"code_mismatch": 4}
    rotated = CONFIG.replace(f'secret = "{SECRET}"', f'secret = "{SECRET[::-1]}"\nprevious_secrets = ["{SECRET}"]')
    after = await start(config=ruled(rotated, **rules))
    await sent_id(after, PHONE)
    assert await counted(*(after.register(GUESS) for _ in range(5))) == {"code_mismatch": 3, "too_many_attempts": 2}
    await after.store.execute(
        after.store.names.instances(), "DEL", after.store.names.instances()
    )  # as if those two had stopped
    dropped = await start(config=ruled(CONFIG.replace(SECRET, SECRET[::-1]), **rules))
    assert await counted(*(dropped.register(GUESS) for _ in range(5))) == {"code_mismatch": 2, "too_many_attempts": 3}


async def test_a_test_number_meets_the_limits_of_a_verify_route(start: Start) -> None:
    """They are on guesses, and not on sends."""
    guarded = VERIFY + 'limits = ["to"]\n'
    sidecar = await start(SEND + guarded, to_rate="1/1h")
    await sent_id(sidecar, TEST_NUMBER)
    await sent_id(sidecar, TEST_NUMBER)
    assert (await sidecar.register(GUESS, TEST_NUMBER)).code == "code_mismatch"
    assert (await sidecar.register("246810", TEST_NUMBER)).code == "rate_limited"


async def test_a_repeat_is_one_in_any_spelling(start: Start) -> None:
    """The same Idempotency-Key for the same mailbox: the same answer, and no second message."""
    sidecar = await start(ANY_CHANNEL, to_rate="1/1h")
    key = {"Idempotency-Key": "k"}
    first, second = [await sidecar.send(to, headers=key) for to in ("foo@mail.example", "Foo@mail.example")]
    assert (first.status, first.json["id"]) == (second.status, second.json["id"])
    await sidecar.vendor.code("foo@mail.example")
    assert len(sidecar.vendor.messages) == 1


async def test_a_test_number_frees_its_sends_and_no_guesses(start: Start) -> None:
    """Its code is fixed, so its budget of wrong tries matters more, not less; and who asks is limited as ever."""
    sidecar = await start(MAIN, ip_rate="3/1h", to_rate="1/1h", config=ruled(failures="7/1h"))
    await sent_id(sidecar, TEST_NUMBER)
    assert await counted(*(sidecar.register(GUESS, TEST_NUMBER) for _ in range(6))) == {
        "code_mismatch": 5,
        "too_many_attempts": 1,
    }
    await sent_id(sidecar, TEST_NUMBER)
    await sent_id(sidecar, TEST_NUMBER)
    assert (await sidecar.send(TEST_NUMBER)).code == "rate_limited"
    async with asyncio.timeout(DEADLINE_S):
        while (reply := await sidecar.register(GUESS, TEST_NUMBER)).code == "too_many_attempts":
            pass
    assert reply.code == "code_mismatch"
    assert (await sidecar.register(GUESS, TEST_NUMBER)).code == "code_mismatch"
    assert (await sidecar.register("246810", TEST_NUMBER)).code == "too_many_attempts"
