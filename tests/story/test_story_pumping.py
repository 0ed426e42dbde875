"""[pumping] and [budget], over real sockets: whom they refuse, whom they do not, and what is told of it."""

import asyncio
import json
from typing import Any

import pytest
from fakes import DEADLINE_S
from structlog.testing import capture_logs
from telling import CONFIG, MAIN, TEST_NUMBER, Sidecar, Start

TRUSTING = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
PRICED = TRUSTING.replace('kind = "webhook"', 'kind = "webhook"\nprice = {{ CN = 0.05, "*" = 0.5 }}')
ENFORCED = '[pumping]\nmode = "enforce"\nunverified = "20/1d"\n'
OBSERVED = ENFORCED.replace("enforce", "observe")
# The first number of its block of ten; what follows is in the same block of a thousand.
FIRST = 13900001230


async def send(sidecar: Sidecar, phone: str | int, ip: str = "203.0.113.7") -> Any:
    return await sidecar.send(str(phone), headers={"X-Forwarded-For": ip})


async def sign_up(sidecar: Sidecar, phone: int, ip: str = "203.0.113.7") -> None:
    """Ask for a code, and type it in."""
    assert (await send(sidecar, phone, ip)).status == 202
    code = await sidecar.vendor.code(f"+86{phone}")
    assert (await sidecar.register(code, str(phone))).status == 200


def far(index: int) -> int:
    """A number that is nobody's neighbour."""
    return 13900000000 + 100_003 * index


def ip(index: int) -> str:
    """An address in a range of its own."""
    return f"198.51.{index}.1"


async def test_neighbours_that_nobody_verifies_are_refused_and_a_stranger_is_not(start: Start) -> None:
    """A run of neighbouring numbers ends at the third of ten; who is refused does not learn why."""
    sidecar = await start(ENFORCED + MAIN, config=TRUSTING)
    for index in range(3):
        assert (await send(sidecar, FIRST + index, ip(index))).status == 202
    with capture_logs() as lines:
        refused = await send(sidecar, FIRST + 3, ip(3))
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "rate_limited", "60")
    assert "RateLimit" not in refused.headers
    assert refused.json["detail"] == "Wait before trying again."
    [line] = [line for line in lines if line["event"] == "send_suspected"]
    assert (line["rule"], line["enforced"], line["open"], line["threshold"]) == ("ten", True, 3, 3)
    assert (line["country"], line["client"], line["to"]) == ("CN", ip(3), "+861********33")
    assert (await send(sidecar, far(1), ip(3))).status == 202
    assert await sidecar.metric('sidecar_suspected_sends_total{enforced="true",rule="ten"}') == 1
    assert len(sidecar.vendor.messages) == 4


async def test_a_number_in_each_of_several_blocks_of_ten_is_no_run(start: Start) -> None:
    """What is counted of ten numbers is counted of no hundred."""
    sidecar = await start(ENFORCED + MAIN, config=TRUSTING)
    for index in range(4):
        assert (await send(sidecar, FIRST + 10 * index, ip(index))).status == 202


async def test_a_verified_neighbour_makes_room(start: Start) -> None:
    """Who types the code in counts no longer; a company may sign up number by number."""
    sidecar = await start(ENFORCED + MAIN, config=TRUSTING)
    for index in range(10):
        await sign_up(sidecar, FIRST + index)


async def test_the_apis_check_makes_room_too(start: Start) -> None:
    """A code that is exchanged for a token is verified, and the token is not verified once more."""
    tables = ENFORCED.replace("20/1d", "1/1d") + '[api]\ncaptcha = ""\nlimits = []\n' + MAIN
    sidecar = await start(tables, config=TRUSTING)
    for index in range(3):
        to = f"+86{far(index)}"
        asked = await sidecar.ask("POST", "/.sidecar/v1/verifications", json={"to": to})
        assert asked.status == 202
        code = await sidecar.vendor.code(to)
        checked = await sidecar.ask("POST", f"/.sidecar/v1/verifications/{asked.json['id']}/check", json={"code": code})
        assert checked.status == 200
        proof = {"X-Verification-Token": checked.json["token"]}
        assert (await sidecar.register(None, str(far(index)), headers=proof)).status == 200
    assert (await sidecar.ask("POST", "/.sidecar/v1/verifications", json={"to": f"+86{far(9)}"})).status == 202
    refused = await sidecar.ask("POST", "/.sidecar/v1/verifications", json={"to": f"+86{far(10)}"})
    assert refused.code == "rate_limited"


async def test_a_locked_country_lets_its_own_people_in(start: Start) -> None:
    """Whoever fills a country's counter locks out neither who was verified lately nor the network that they are in."""
    sidecar = await start(ENFORCED.replace("20/1d", "4/1d") + MAIN, config=TRUSTING)
    known, at_home = far(90), "192.0.2.1"
    await sign_up(sidecar, known, at_home)
    for index in range(4):
        assert (await send(sidecar, far(index), ip(index))).status == 202
    assert (await send(sidecar, far(5), ip(5))).code == "rate_limited"
    assert (await send(sidecar, known, ip(6))).code == "rate_limited"  # or anybody could ask which numbers are known
    assert (await send(sidecar, known, "192.0.3.1")).status == 202  # the number, and nothing of the network's share
    for index in (91, 92):
        assert (await send(sidecar, far(index), f"192.0.{index}.1")).status == 202  # the network, twice
    assert (await send(sidecar, far(5), ip(7))).status == 202  # who asks again, a quarter of four, from wherever
    assert (await send(sidecar, far(6), ip(6))).code == "rate_limited"
    assert (await send(sidecar, far(6), ip(6))).code == "rate_limited"  # and no more of these
    assert (await send(sidecar, far(93), "192.0.93.1")).status == 202  # the country's reserve, another quarter
    assert (await send(sidecar, far(94), "192.0.94.1")).code == "rate_limited"
    assert (await send(sidecar, "+14155550100", "192.0.94.1")).status == 202


async def test_an_address_with_many_countries_is_refused(start: Start) -> None:
    """One address may leave three countries unverified; the rule is not told to it."""
    sidecar = await start(ENFORCED + MAIN, config=TRUSTING)
    for phone in ("+8613900000001", "+14155550100", "+4915123456789"):
        assert (await send(sidecar, phone)).status == 202
    with capture_logs() as lines:
        assert (await send(sidecar, "+33612345678")).code == "rate_limited"
    assert [line["rule"] for line in lines if line["event"] == "send_suspected"] == ["countries_per_ip"]
    assert (await send(sidecar, "+33612345678", ip(1))).status == 202


async def test_observing_refuses_nobody_and_says_who_would_have_been(start: Start) -> None:
    """In the log with the rule, in the metrics, and once it is verified as a mistake of the rule."""
    sidecar = await start(OBSERVED + MAIN, config=TRUSTING)
    with capture_logs() as lines:
        for index in range(5):
            assert (await send(sidecar, FIRST + index, ip(index))).status == 202
    suspected = [line for line in lines if line["event"] == "send_suspected"]
    assert [(line["rule"], line["enforced"]) for line in suspected] == [("ten", False)] * 2
    observed = [line["observed"] for line in lines if line["event"] == "request" and "observed" in line]
    assert observed == [[{"code": "rate_limited", "reason": "pumping ten"}]] * 2
    assert await sidecar.metric('sidecar_observed_refusals_total{code="rate_limited"}') == 2
    code = await sidecar.vendor.code(f"+86{FIRST + 4}")
    with capture_logs() as lines:
        assert (await sidecar.register(code, str(FIRST + 4))).status == 200
        await sidecar.store.ping()
    assert await sidecar.metric("sidecar_suspects_verified_total") == 1
    assert [line["sends"] for line in lines if line["event"] == "suspect_verified"] == [1]


async def test_an_observing_route_refuses_nobody(start: Start) -> None:
    """A route's mode says more than [pumping]'s and than a budget."""
    routes = MAIN.replace('action = "send"', 'action = "send"\nmode = "observe"')
    tables = ENFORCED.replace("20/1d", "1/1d") + "[budget]\ndaily = 0.01\n" + routes
    sidecar = await start(tables, config=PRICED)
    for index in range(3):
        assert (await send(sidecar, FIRST + index)).status == 202
    await sidecar.vendor.wait_for(lambda: len(sidecar.vendor.messages) == 3)


async def test_what_all_providers_refuse_counts_for_nothing(start: Start) -> None:
    """It cost nothing, and its number is no unverified one: the next is not refused for it."""
    sidecar = await start(ENFORCED.replace("20/1d", "1/1d") + "[budget]\ndaily = 0.05\n" + MAIN, config=PRICED)
    sidecar.vendor.status, sidecar.vendor.error = 422, "invalid_recipient"
    for index in range(3):
        asked = await send(sidecar, FIRST + index)
        assert asked.status == 202
        path = f"/.sidecar/v1/verifications/{asked.json['id']}"
        assert (await sidecar.ask("GET", path, headers={"Prefer": "wait=10"})).json["status"] == "failed"
    sidecar.vendor.status = 202
    assert (await send(sidecar, FIRST + 3)).status == 202
    assert (await send(sidecar, FIRST + 4)).code == "rate_limited"


async def test_what_a_limit_refuses_counts_for_nothing(start: Start) -> None:
    """[pumping] and the limits are asked in one turn, and what the one counted the other's refusal gives back."""
    sidecar = await start(ENFORCED.replace("20/1d", "2/1d") + MAIN, config=TRUSTING, to_rate="1/1h")
    assert (await send(sidecar, far(1))).status == 202
    for _ in range(5):
        assert (await send(sidecar, far(1))).code == "rate_limited"
    with capture_logs() as lines:
        assert (await send(sidecar, far(2), ip(1))).status == 202
        assert (await send(sidecar, far(3), ip(2))).code == "rate_limited"
    assert [line["rule"] for line in lines if line["event"] == "send_suspected"] == ["country"]


async def test_what_pumping_refuses_costs_no_limit(start: Start) -> None:
    """A bucket is spent only by a message that is queued."""
    sidecar = await start(ENFORCED.replace("20/1d", "1/1d") + MAIN, config=TRUSTING, ip_rate="2/1h")
    assert (await send(sidecar, far(1))).status == 202
    for _ in range(3):
        refused = await send(sidecar, far(2))
        assert (refused.code, refused.headers.get("RateLimit")) == ("rate_limited", None)


async def test_test_numbers_and_addresses_are_not_watched(start: Start) -> None:
    """To a test number nothing is sent; an e-mail to nobody is not what pumping pays for."""
    routes = MAIN.replace('limits = ["ip", "to"]', 'limits = ["ip", "to"]\nchannel = "auto"')
    sidecar = await start(ENFORCED.replace("20/1d", "1/1d") + routes, config=TRUSTING)
    for index in range(3):
        assert (await send(sidecar, TEST_NUMBER)).status == 202
        assert (await send(sidecar, f"nobody{index}@example.com")).status == 202
    assert await sidecar.store.execute(None, "KEYS", "*:sends}*") == []


async def test_over_the_days_budget_nothing_is_sent_and_one_alarm_is_told(start: Start) -> None:
    """0.05 each: two fit into 0.1. Retry-After is the rest of the day (UTC), and the alarm is told once."""
    sidecar = await start('[budget]\ndaily = 0.1\ncurrency = "CNY"\n' + MAIN, config=PRICED)
    with capture_logs() as lines:
        for index in range(2):
            assert (await send(sidecar, far(index))).status == 202
        refused = [await send(sidecar, far(5 + index)) for index in range(3)]
    assert {answer.code for answer in refused} == {"rate_limited"}
    seconds, _ = await sidecar.store.execute(None, "TIME")
    assert abs(int(refused[0].headers["Retry-After"]) - (86_400 - int(seconds) % 86_400)) < 60
    alarms = [line for line in lines if line["event"] == "budget_reached"]
    assert [(one["scope"], one["spent"], one["budget"], one["currency"]) for one in alarms] == [
        ("daily", 0.1, 0.1, "CNY")
    ]
    assert [line["reason"] for line in lines if line.get("code") == "rate_limited"] == ["budget"] * 3
    assert await sidecar.metric('sidecar_budget_spent{scope="daily"}') == pytest.approx(0.1)
    assert await sidecar.metric('sidecar_budget_alarms_total{scope="daily"}') == 1
    assert await sidecar.metric('sidecar_message_cost_total{country="CN",provider="hook"}') == pytest.approx(0.1)


async def test_a_countrys_budget_stops_that_country_alone(start: Start) -> None:
    """Over it the others go on."""
    sidecar = await start("[budget]\nby_country = { US = 0.5 }\n" + MAIN, config=PRICED)
    assert (await send(sidecar, "+14155550100")).status == 202
    assert (await send(sidecar, "+14155550101")).code == "rate_limited"
    assert (await send(sidecar, far(1))).status == 202


async def test_what_is_spent_is_told_of_the_countries_that_have_a_budget(start: Start) -> None:
    """And of no other, or every country of the world would have a line of its own."""
    sidecar = await start("[budget]\ndaily = 10.0\nby_country = { US = 5.0 }\n" + MAIN, config=PRICED)
    for number in ("+14155550100", far(1), far(2)):
        assert (await send(sidecar, number)).status == 202
    text = (await sidecar.admin("/metrics")).body.decode()
    spent = dict(line.split() for line in text.splitlines() if line.startswith("sidecar_budget_spent{"))
    assert {name: float(amount) for name, amount in spent.items()} == {
        'sidecar_budget_spent{scope="US"}': pytest.approx(0.5),
        'sidecar_budget_spent{scope="daily"}': pytest.approx(0.6),
    }


async def test_what_a_message_really_costs_is_counted(start: Start) -> None:
    """The dearest price is set aside, and what its provider takes is counted in the end; a duplicate costs as well."""
    dear = PRICED.replace(
        "[[delivery]]",
        '[providers.dear]\nkind = "webhook"\nurl = "{vendor}/dear"\nsecret = "s"\n'
        'price = {{ "*" = 0.9 }}\n[[delivery]]',
    ).replace('providers = ["hook"]', 'providers = ["hook", "dear"]')
    sidecar = await start("[budget]\ndaily = 1.0\n" + MAIN, config=dear)
    assert (await send(sidecar, far(0))).status == 202
    await sidecar.vendor.wait_for(lambda: len(sidecar.vendor.messages) == 1)
    await settled(sidecar, "50000")
    assert (await send(sidecar, far(1))).status == 202
    await settled(sidecar, "100000")
    sidecar.vendor.open.clear()
    assert (await send(sidecar, far(2))).status == 202  # 0.1 spent, 0.9 set aside
    await sidecar.vendor.wait_for(lambda: sidecar.vendor.asked == 4)
    sidecar.vendor.open.set()
    await settled(sidecar, "1050000")


async def settled(sidecar: Sidecar, millionths: str) -> None:
    """Wait until the day has cost so much."""
    key = sidecar.store.names.sends("money")
    async with asyncio.timeout(DEADLINE_S):
        while (await sidecar.store.execute(key, "HGET", key, "total")).decode() != millionths:
            pass


async def test_no_number_is_in_the_store(start: Start) -> None:
    """Neither a number nor the beginning of one, longer than its country code, is in any key or value."""
    sidecar = await start(OBSERVED + "[budget]\ndaily = 10\n" + MAIN, config=PRICED)
    await sign_up(sidecar, 13912345678)
    assert (await send(sidecar, 13912345679, "203.0.113.9")).status == 202
    held: list[bytes] = []
    for key in await sidecar.store.execute(None, "KEYS", "*:sends}*"):
        kind = await sidecar.store.execute(key.decode(), "TYPE", key)
        values = await sidecar.store.execute(key.decode(), "GET" if kind == b"string" else "HGETALL", key)
        held += [key, *(values if isinstance(values, list) else [values])]
        assert await sidecar.store.execute(key.decode(), "PTTL", key) > 0
    assert len(held) > 10
    whole = b" ".join(held)
    assert not [part for part in (b"1391234", b"203.0", b"+86") if part in whole]


async def test_what_is_off_asks_the_store_nothing(start: Start) -> None:
    """A price alone is for the metrics; without [pumping] and [budget] no key is made."""
    sidecar = await start('[pumping]\nmode = "off"\n' + MAIN, config=PRICED)
    await sign_up(sidecar, far(1))
    assert await sidecar.store.execute(None, "KEYS", "*:sends}*") == []
    assert await sidecar.metric('sidecar_message_cost_total{country="CN",provider="hook"}') == pytest.approx(0.05)
    assert json.dumps(sidecar.vendor.messages)


async def test_whoever_solves_nothing_counts_for_nothing_meanwhile(start: Start) -> None:
    """Over a limit that demands a captcha, a send is not judged before one is solved: nobody is refused beside it."""
    limit = '[limits.free]\nkey = "global"\nrate = "1/1h"\nmode = "captcha"\n'
    stepping = MAIN.replace('limits = ["ip", "to"]', 'limits = ["free"]', 1)
    sidecar = await start("[budget]\ndaily = 0.05\n" + limit + stepping, config=PRICED)
    reached = 'sidecar_budget_alarms_total{scope="daily"}'
    asked = {"phone": str(far(1))}
    assert (await sidecar.ask("POST", "/send", json=asked)).status == 202
    for wrong in ({}, {"captcha": "wrong"}):
        refused = await sidecar.ask("POST", "/send", json=asked | wrong)
        assert refused.code == ("captcha_failed" if wrong else "captcha_required")
    assert await sidecar.metric(reached) == 0
    assert (await sidecar.ask("POST", "/send", json=asked | {"captcha": await sidecar.solved()})).code == "rate_limited"
    assert await sidecar.metric(reached) == 1
