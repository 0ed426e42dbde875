"""pumping.lua against pumping.py: one story, told by both; and what the rules mean, told by the pure one alone."""

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidecar.limits
from sidecar.limits import pumping
from sidecar.limits.pumping import DAY_MS, RULES, Book, Judged, Rules, Sending, names_of
from sidecar.store.client import Script, Store

PUMPING = Script.load(Path(sidecar.limits.__file__).with_name("pumping.lua"))
START_MS = 1_790_000_000_000
RULES_OF_A_DAY = Rules(floor=20, period_ms=DAY_MS, permille=300, countries_per_ip=3)


def sending(number: str = "+8613800000000", ip: str = "203.0.113.1", country: str = "CN", **more: Any) -> Sending:
    """A send as it stands in the model; what is hashed in the product stands plain here."""
    ip_prefix = ip.rpartition(".")[0]
    blocks = number[:-4], number[:-3], number[:-2], number[:-1]
    made = Sending(number, country, ip, ip_prefix, names_of(country, blocks, ip_prefix))
    return replace(made, **more)


# The script tells the same story as the model…


@dataclass(frozen=True)
class Step:
    """What is asked, of which send, and how long after the step before (back, where a clock was set back)."""

    what: str
    number: int
    ip: int
    country: str
    after_ms: int
    enforce: bool
    enforce_budget: bool
    is_watched: bool
    price: int
    daily: int
    by_country: int
    entry: int
    repeat: int


steps = st.builds(
    Step,
    what=st.sampled_from(["judge", "judge", "judge", "judge", "verified", "give_back", "paid"]),
    number=st.one_of(st.integers(0, 30), st.sampled_from([0, 1, 100, 1000, 10_000, 55_555])),
    ip=st.integers(0, 5),
    country=st.sampled_from(["CN", "US", "DE", "FR", "TG"]),
    after_ms=st.one_of(
        st.just(0), st.integers(0, 60_000), st.integers(0, 2 * DAY_MS), st.integers(-DAY_MS, 9 * DAY_MS)
    ),
    enforce=st.booleans(),
    enforce_budget=st.booleans(),
    is_watched=st.sampled_from([True, True, True, False]),
    price=st.sampled_from([0, 45_000, 600_000]),
    daily=st.sampled_from([-1, 0, 1_000_000, 5_000_000]),
    by_country=st.sampled_from([-1, 500_000]),
    entry=st.integers(1, 4),
    repeat=st.sampled_from([1, 1, 1, 2, 4, 20]),
)
some_rules = st.builds(
    Rules,
    floor=st.integers(1, 25),
    period_ms=st.sampled_from([3_600_000, DAY_MS, 7_777_777]),
    permille=st.sampled_from([0, 300, 1000, 2500]),
    countries_per_ip=st.integers(1, 3),
)


class InStore:
    """The script, asked as the model is."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self.store = store
        self.rules = rules
        self.base = store.names.sends(secrets.token_hex(4)) + ":"

    async def judge(self, one: Sending, now_ms: int) -> list[int]:
        rules = self.rules
        keys = [f"{self.base}number:{one.number}", f"{self.base}money"]
        if one.names:
            keys += [f"{self.base}ip:{one.ip}", f"{self.base}trust:{one.ip_prefix}"]
            keys += [self.base + name for name in one.names]
        arguments: list[str | int] = [
            int(one.enforce),
            int(one.enforce_budget),
            one.country,
            one.price,
            one.daily,
            one.by_country,
        ]
        limits = [pumping.KNOWN_MS, pumping.MOST_OPEN, pumping.MOST_ENTRIES]
        limits += [rules.permille, rules.countries_per_ip, rules.ip_floor]
        floors = [int(value) for counter in rules.counted for value in counter]
        first: list[str | int] = ["judge", now_ms, self.base, rules.period_ms]
        answer: list[int] = await self.store.run(PUMPING, keys, [*first, *arguments, *limits, *floors])
        return answer

    async def ask(self, what: str, number: str, now_ms: int, *more: int | str) -> list[int]:
        keys = [f"{self.base}number:{number}", f"{self.base}money"]
        answer: list[int] = await self.store.run(PUMPING, keys, [what, now_ms, self.base, self.rules.period_ms, *more])
        return answer


def flat(judged: Judged) -> list[int]:
    """What the script answers of a judgement."""
    said = [judged.now_ms, judged.entry, ("", "number", "range").index(judged.passed_by), *judged.spent]
    said += [int("budget" in judged.alarms), int("budget_country" in judged.alarms)]
    for one in judged.broken:
        said += [RULES.index(one.rule) + 1, one.open, one.threshold]
    return said


@given(some_rules, st.lists(steps, max_size=25))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_script_judges_as_the_model_does(store: Store, rules: Rules, story: list[Step]) -> None:
    """Every answer of the script is the model's, whatever came before, on whatever clock."""
    book, script = Book(rules), InStore(store, rules)
    now_ms = START_MS
    for step in story:
        now_ms += step.after_ms
        day = now_ms // DAY_MS
        for again in range(step.repeat):
            number = f"+86138{step.number + again:08}"
            if step.what == "judge":
                one = sending(
                    number,
                    f"203.0.{step.ip % 2}.{step.ip}",
                    step.country,
                    enforce=step.enforce,
                    enforce_budget=step.enforce_budget,
                    price=step.price,
                    daily=step.daily,
                    by_country=step.by_country,
                )
                if not step.is_watched:
                    one = replace(one, names=(), ip="", ip_prefix="")
                assert await script.judge(one, now_ms) == flat(book.judge(one, now_ms))
            elif step.what == "verified":
                assert await script.ask("verified", number, now_ms) == [now_ms, *book.verified(number, now_ms)]
            elif step.what == "give_back":
                was_there = book.give_back(number, step.entry, now_ms)
                assert await script.ask("give_back", number, now_ms, step.entry) == [now_ms, int(was_there)]
            else:
                more = step.price - 300_000
                book.paid(day, step.country, more, now_ms)
                assert await script.ask("paid", number, now_ms, day, step.country, more) == [now_ms]
