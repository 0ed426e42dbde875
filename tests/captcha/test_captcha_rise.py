"""The built-in captcha's work rises with load: for whom, how far, and what cannot be got round. On a real store."""

import base64
import json
import math
import time
from typing import Any

import altcha as library
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.captcha.altcha import Altcha, Settings, built_in, rise
from sidecar.captcha.seam import Verdict
from sidecar.limits.load import Load
from sidecar.store.client import Store

HOME, NEIGHBOUR, ELSEWHERE = "192.0.2.7", "192.0.2.8", "198.51.100.1"
ORDINARY = 20

shares = st.tuples(*[st.floats(0, 1e6)] * 3)


def make(store: Store, **more: Any) -> Altcha:
    settings = Settings.model_validate({"kind": "altcha", "cost": 1, "max_counter": ORDINARY, **more})
    return built_in(
        settings, b"0123456789abcdef", time.time, lambda n: n - 1, lambda usual: Load(store, str, "altcha", usual)
    )


def most(challenge: dict[str, Any]) -> int:
    return int(challenge["parameters"]["data"]["most"])


def solve(challenge: dict[str, Any]) -> str:
    made = library.Challenge.from_dict(challenge)
    solution = library.solve_challenge(made)
    assert solution is not None
    assert solution.counter == most(challenge) - 1, "it is as much work as it says"
    return base64.b64encode(json.dumps(library.Payload(made, solution).to_dict()).encode()).decode()


async def fresh(captcha: Altcha, ip: str) -> dict[str, Any]:
    return captcha.challenge(await captcha.due(ip))


async def judged(captcha: Altcha, token: str, ip: str) -> Verdict:
    found = captcha.look(token)
    return found if isinstance(found, Verdict) else await captcha.verify(token, ip)


@given(shares, st.floats(1, 100))
def test_the_work_is_ordinary_up_to_the_usual_and_never_more_than_the_most(
    those: tuple[float, float, float], limit: float
) -> None:
    assert 1 <= rise(those, limit) <= limit
    assert rise([min(1.0, share) for share in those], limit) == 1


@given(shares, st.integers(0, 2), st.floats(1, 100))
def test_the_work_rises_by_the_square_root_of_each_count(
    those: tuple[float, float, float], which: int, times: float
) -> None:
    """Ten times as much asked is three times the work for each, and thirty times in all."""
    more = list(those)
    more[which] = max(1.0, more[which]) * times
    assert rise(more, math.inf) == pytest.approx(rise(those, math.inf) * math.sqrt(times))


async def test_an_address_pays_more_for_what_it_asks_for_over_the_usual(store: Store) -> None:
    """Ten at the ordinary work; then more for each, up to `max_rise`; its neighbour and everybody else pay nothing."""
    captcha = make(store)
    asked = [most(await fresh(captcha, HOME)) for _ in range(1200)]
    assert asked[:10] == [ORDINARY] * 10
    assert asked == sorted(asked)
    assert asked[89] == pytest.approx(ORDINARY * 3, rel=0.05)
    assert asked[-1] == ORDINARY * 10
    assert [most(await fresh(captcha, ip)) for ip in (NEIGHBOUR, ELSEWHERE)] == [ORDINARY] * 2


async def test_instances_agree_and_a_new_one_forgets_nothing(store: Store) -> None:
    first = make(store)
    for _ in range(40):
        await fresh(first, HOME)
    assert most(await fresh(make(store), HOME)) == pytest.approx(ORDINARY * 2, rel=0.06)


async def test_what_all_have_solved_is_dear_for_everybody_and_what_they_leave_is_not(store: Store) -> None:
    """Unsolved challenges cost nothing to ask for, so nobody else pays for them."""
    captcha = make(store, usual_in_all="5/10m")
    tokens = [(ip, solve(await fresh(captcha, ip))) for ip in (f"203.0.{n}.1" for n in range(45))]
    assert most(await fresh(captcha, ELSEWHERE)) == ORDINARY
    for ip, token in tokens:
        assert await judged(captcha, token, ip) == Verdict("pass")
    assert most(await fresh(captcha, ELSEWHERE)) == pytest.approx(ORDINARY * 3, rel=0.05)


async def test_what_was_fetched_before_it_rose_is_good_where_it_was_fetched(store: Store) -> None:
    """Honest people do not solve twice because others came meanwhile."""
    captcha = make(store, usual_per_ip="1/10m")
    first = await fresh(captcha, HOME)
    for _ in range(200):
        await fresh(captcha, HOME)
    assert most(first) == ORDINARY
    assert await judged(captcha, solve(first), HOME) == Verdict("pass")


async def test_what_was_fetched_elsewhere_is_refused_where_it_is_dear(store: Store) -> None:
    """Cheap challenges of many addresses are not spent from one: each counts as if it had asked for it itself."""
    captcha = make(store, usual_per_ip="1/10m")
    verdicts = []
    for n in range(30):
        token = solve(await fresh(captcha, f"203.0.{n}.1"))
        verdicts.append(await judged(captcha, token, HOME))
    good = [verdict.outcome == "pass" for verdict in verdicts]
    assert good == sorted(good, reverse=True)
    assert sum(good) == 4, "half of what is due is enough: up to four times the usual"
    assert verdicts[-1] == Verdict("policy", "too_easy")
    assert most(await fresh(captcha, HOME)) > ORDINARY * 5


async def test_who_changes_the_network_in_between_does_not_notice(store: Store) -> None:
    """To an address of which a few times the usual is asked, too: many people are behind that of a mobile network."""
    captcha = make(store)
    for _ in range(30):
        await fresh(captcha, ELSEWHERE)
    assert await judged(captcha, solve(await fresh(captcha, HOME)), ELSEWHERE) == Verdict("pass")


async def test_while_the_store_is_away_the_work_is_ordinary_and_nobodys(store: Store) -> None:
    """Never an error; and what was hoarded meanwhile is judged as fetched elsewhere."""
    away = Store("unix:///nowhere/at/all.sock")
    captcha = make(store, usual_per_ip="1/10m")
    hoarded = [await fresh(make(away), HOME) for _ in range(20)]
    assert {most(challenge) for challenge in hoarded} == {ORDINARY}
    outcomes = [(await judged(captcha, solve(challenge), HOME)).outcome for challenge in hoarded]
    assert outcomes == ["pass"] * 4 + ["policy"] * 16
    await away.close()


async def test_work_that_never_rises_asks_the_store_for_nothing(store: Store) -> None:
    captcha = make(store, max_rise=1, usual_per_ip="1/10m")
    challenges = [await fresh(captcha, HOME) for _ in range(20)]
    assert {most(challenge) for challenge in challenges} == {ORDINARY}
    assert await judged(captcha, solve(challenges[0]), ELSEWHERE) == Verdict("pass")
    assert await store.execute(None, "KEYS", f"*{store.names.prefix}*") == []


def test_work_that_a_slow_phone_cannot_do_in_time_is_doubtful() -> None:
    """The defaults are not; ten times as much is, and so is less where a challenge lives for less."""
    assert not list(Settings(kind="altcha").doubtful())
    for more in ({"max_rise": 100}, {"cost": 10_000}, {"ttl": "30s", "max_rise": 20}):
        [(way, wrong, right)] = Settings.model_validate({"kind": "altcha", **more}).doubtful()
        assert way == ("max_rise",)
        assert wrong.startswith("makes work of up to ")
        assert right.startswith("let cost * max_counter * max_rise be ")
