"""pumping.lua against pumping.py: one story, told by both; and what the rules mean, told by the pure one alone."""

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidecar.limits
from sidecar.config.model import Config, Route
from sidecar.limits import pumping
from sidecar.limits.pumping import DAY_MS, RULES, Book, Judged, Rules, Sending, names_of
from sidecar.limits.sends import Prices, Sends
from sidecar.recipient import of_address
from sidecar.store.client import Script, Store

PUMPING = Script.load(Path(sidecar.limits.__file__).with_name("pumping.lua"))
START_MS = 1_790_000_000_000
RULES_OF_A_DAY = Rules(floor=20, period_ms=DAY_MS, permille=300, countries_per_ip=3)


def sending(number: str = "+8613800000000", ip: str = "203.0.113.1", country: str = "CN", **more: Any) -> Sending:
    """A send as it stands in the model; what is hashed in the product stands plain here."""
    ip_prefix = ip.rpartition(".")[0]
    blocks = number[:-4], number[:-3], number[:-2], number[:-1]
    made = Sending(number, country, ip, ip_prefix.rpartition(".")[0], names_of(country, blocks, ip_prefix))
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
    what=st.sampled_from(["judge", "judge", "judge", "sign_up", "sign_up", "verified", "give_back", "paid"]),
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
            keys += [f"{self.base}ip:{one.ip}", self.base + one.near]
            keys += [self.base + name for name in one.names]
        arguments: list[str | int] = [
            int(one.enforce),
            int(one.enforce_budget),
            one.country,
            one.price,
            one.daily,
            one.by_country,
        ]
        limits = [pumping.KNOWN_MS, pumping.MOST_OPEN, pumping.MOST_ENTRIES, pumping.AGAIN_MS]
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
    said = [
        judged.now_ms,
        judged.entry,
        ("", "number", "network", "reserve", "again").index(judged.passed_by),
        *judged.spent,
    ]
    said += [int("budget" in judged.alarms), int("budget_country" in judged.alarms)]
    for one in judged.broken:
        said += [RULES.index(one.rule) + 1, one.open, one.threshold]
    return said


@given(some_rules, st.lists(steps, max_size=25))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_the_script_judges_as_the_model_does(store: Store, rules: Rules, story: list[Step]) -> None:
    """Every answer of the script is the model's, whatever came before, on whatever clock."""
    book, script = Book(rules), InStore(store, rules)
    now_ms = START_MS
    for step in story:
        now_ms += step.after_ms
        day = now_ms // DAY_MS
        for again in range(step.repeat):
            number = f"+86138{step.number + again:08}"
            if step.what in {"judge", "sign_up"}:
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
                    one = replace(one, names=(), ip="", network="")
                assert await script.judge(one, now_ms) == flat(book.judge(one, now_ms))
            if step.what in {"verified", "sign_up"}:
                assert await script.ask("verified", number, now_ms) == [now_ms, *book.verified(number, now_ms)]
            if step.what == "give_back":
                was_there = book.give_back(number, step.entry, now_ms)
                assert await script.ask("give_back", number, now_ms, step.entry) == [now_ms, int(was_there)]
            if step.what == "paid":
                more = step.price - 300_000
                book.paid(day, step.country, more, now_ms)
                assert await script.ask("paid", number, now_ms, day, step.country, more) == [now_ms]


async def test_a_counter_that_a_send_fills_by_nothing_is_empty_to_a_clock_that_is_set_back(store: Store) -> None:
    """A network's, of whose room a send had no need: the next one has it. The model and the script agree."""
    rules = Rules(floor=1, period_ms=3_600_000, permille=0, countries_per_ip=1)
    book, script = Book(rules), InStore(store, rules)
    known, one = sending("+12025550100", country="US"), sending("+12025550199", country="US")
    assert await script.judge(known, START_MS) == flat(book.judge(known, START_MS))
    assert await script.ask("verified", known.number, START_MS) == [START_MS, *book.verified(known.number, START_MS)]
    assert await script.judge(one, START_MS) == flat(book.judge(one, START_MS))
    # From another range of the same network, so that only the country and the prefix are full.
    again, set_back_ms = (
        replace(one, ip="203.0.114.1", names=(*one.names[:5], "range:203.0.114")),
        START_MS - 5 * 3_600_000,
    )
    judged = book.judge(again, set_back_ms)
    assert await script.judge(again, set_back_ms) == flat(judged)
    assert judged.passed_by == "network"


async def test_the_script_has_the_models_reserve(store: Store) -> None:
    """From when an address is known until it is forgotten, and as large: a story that chance seldom tells."""
    book, script = Book(RULES_OF_A_DAY), InStore(store, RULES_OF_A_DAY)
    passed_by = []
    known = sending("+33612345678", country="FR")
    assert await script.judge(known, START_MS) == flat(book.judge(known, START_MS))
    assert await script.ask("verified", known.number, START_MS) == [START_MS, *book.verified(known.number, START_MS)]
    for day in (1, 7, 8):
        now_ms = (START_MS // DAY_MS + day) * DAY_MS
        strangers = [sending(far(100 * day + index), strange(100 * day + index)) for index in range(20)]
        for one in [*strangers, *(sending(far(100 * day + 50 + index)) for index in range(12))]:
            judged = book.judge(one, now_ms)
            assert await script.judge(one, now_ms) == flat(judged)
            passed_by.append(judged.passed_by)
    assert passed_by.count("reserve") == 20
    assert passed_by[-12:] == [""] * 12


async def test_the_script_remembers_who_was_refused_as_the_model_does(store: Store) -> None:
    """For two hours and as far as its reserve goes, below that of who is known; observed as enforced."""
    for enforce in (True, False):
        book, script = Book(RULES_OF_A_DAY), InStore(store, RULES_OF_A_DAY)
        passed_by = []

        async def both(one: Sending, now_ms: int) -> None:
            judged = book.judge(one, now_ms)  # noqa: B023 - of this round
            assert await script.judge(one, now_ms) == flat(judged)  # noqa: B023
            passed_by.append(judged.passed_by)  # noqa: B023

        for index in range(20):
            await both(sending(far(index), strange(index)), START_MS)
        refused = [sending(far(30 + index), strange(30 + index), enforce=enforce) for index in range(8)]
        for one in refused * 2:
            await both(one, START_MS)
        assert passed_by == [""] * 28 + ["again"] * 5 + [""] * 3
        late_ms = START_MS + pumping.AGAIN_MS
        for one in (refused[7], refused[6], refused[7]):
            await both(one, late_ms)
        # Two hours on, two of a country's twenty have come back; nobody was remembered.
        assert passed_by[-3:] == ["", "", "again"]
        # Once it is verified it is remembered for that, and no longer for having been refused.
        number, late_ms = refused[7].number, late_ms + 1
        assert await script.ask("verified", number, late_ms) == [late_ms, *book.verified(number, late_ms)]
        for _ in range(8):
            await both(sending(number, strange(90)), late_ms)
        assert passed_by[-8] == ""


# What the rules mean…


def far(index: int) -> str:
    """A number that is nobody's neighbour."""
    return f"+86138{100_003 * index:08}"


def strange(index: int) -> str:
    """An address in a network of its own."""
    return f"{10 + index // 256}.{index % 256}.0.1"


def judge_many(book: Book, numbers: range, now_ms: int) -> list[bool]:
    """Judge a send to each number from an address of its own: which were let through?"""
    return [bool(book.judge(sending(far(index), strange(index)), now_ms).entry) for index in numbers]


async def test_neighbours_of_a_number_share_as_many_counters_as_they_are_near(store: Store) -> None:
    """The same ten, hundred, thousand and ten thousand numbers, and the country."""
    config = Config.model_validate({"upstream": {"url": "http://127.0.0.1:1"}, "pumping": {"mode": "enforce"}})
    sends = Sends(store, config, Prices({}, ()), str, print)
    route = Route(match="POST /send", action="send", to="json:phone")

    def names(number: str) -> set[str]:
        found = sends.sending(of_address(number), "203.0.113.1", route)
        assert found is not None
        return set(found.names)

    number = "+8613900001111"
    common = {"country:CN", "prefix:+861390000", "thousand:+8613900001", "hundred:+86139000011", "ten:+861390000111"}
    assert {name for name in names(number) if not name.startswith("range:")} == common
    shared = [common & names(near) for near in ("+8613900001110", "+8613900001101", "+8613900001011", "+8613900000111")]
    assert [len(one) for one in shared] == [5, 4, 3, 2]
    assert common & names("+8613900011111") == {"country:CN"}


def test_a_threshold_grows_with_what_is_verified() -> None:
    """Twenty, and three for every ten that were verified in the last day; one comes back each day / threshold."""
    book = Book(RULES_OF_A_DAY)
    assert judge_many(book, range(21), START_MS) == [True] * 20 + [False]
    book = Book(RULES_OF_A_DAY)
    for index in range(100):
        assert book.judge(sending(far(1000 + index), strange(1000 + index)), START_MS).entry
        assert book.verified(far(1000 + index), START_MS) == (1, 0)
    assert judge_many(book, range(51), START_MS) == [True] * 50 + [False]
    later_ms = START_MS + DAY_MS // 50
    assert judge_many(book, range(60, 62), later_ms) == [True, False]
    book.verified(far(0), later_ms)
    assert judge_many(book, range(70, 72), later_ms) == [True, False]


def test_after_a_day_nothing_is_left_of_an_attack() -> None:
    """A counter that was filled is empty a period later; half of it after half a period."""
    book = Book(RULES_OF_A_DAY)
    judge_many(book, range(20), START_MS)
    assert judge_many(book, range(100, 111), START_MS + DAY_MS // 2) == [True] * 10 + [False]
    assert judge_many(book, range(200, 221), START_MS + 2 * DAY_MS) == [True] * 20 + [False]


def test_a_message_that_is_asked_for_again_is_no_second_neighbour() -> None:
    """Whose message is late asks again, and is refused neither as a neighbour of himself nor as many numbers."""
    book = Book(replace(RULES_OF_A_DAY, floor=100))
    assert all(book.judge(sending(), START_MS + 61_000 * again).entry for again in range(12))


def test_a_refused_send_fills_nothing() -> None:
    """Who is stopped by his block of neighbours does not close the country for the others."""
    book = Book(RULES_OF_A_DAY)
    for index in range(1000):
        book.judge(sending(f"+8613800000{index:03}", strange(index)), START_MS)
    assert judge_many(book, range(2000, 2016), START_MS) == [True] * 15 + [False]  # five of the thousand went through


def test_a_number_that_was_verified_passes_for_a_week_with_two_sends_open() -> None:
    """Its fourth is judged as anybody's, and so is its first from elsewhere, or after seven days."""
    book = Book(RULES_OF_A_DAY)
    assert book.judge(sending(), START_MS).entry
    book.verified("+8613800000000", START_MS)
    attacked_ms = START_MS + 6 * DAY_MS
    judge_many(book, range(1, 30), attacked_ms)
    assert not book.judge(sending(ip="192.0.2.1"), attacked_ms).entry
    near = sending(ip="203.0.9.1")  # from an address where nothing was verified, in the same network
    assert [book.judge(near, attacked_ms).passed_by for _ in range(4)] == ["number"] * 3 + [""]
    attacked_ms = START_MS + 8 * DAY_MS
    judge_many(book, range(30, 60), attacked_ms)
    assert not book.judge(sending(), attacked_ms).entry


def test_where_somebody_verified_half_as_much_more_is_normal() -> None:
    """In a country that is full, an address that is known from any country has ten more."""
    book = Book(RULES_OF_A_DAY)
    exit_ = {"ip": "203.0.113.1", "country": "FR"}
    assert book.judge(sending("+33612345678", **exit_), START_MS).entry
    book.verified("+33612345678", START_MS)
    attacked_ms = START_MS + 6 * DAY_MS
    assert judge_many(book, range(21), attacked_ms) == [True] * 20 + [False]
    assert not book.judge(sending(far(50), "203.0.113.2"), attacked_ms).entry
    judged = [book.judge(sending(far(60 + index)), attacked_ms) for index in range(11)]
    assert [one.passed_by for one in judged] == ["reserve"] * 10 + [""]
    assert judged[10].rules[0].rule == "country"
    attacked_ms = START_MS + 9 * DAY_MS
    judge_many(book, range(100, 121), attacked_ms)
    assert not book.judge(sending(far(130)), attacked_ms).entry


def test_the_reserve_does_not_excuse_neighbours() -> None:
    """It is for country and prefix alone: a run of numbers ends at the third of ten, wherever it is asked from."""
    book = Book(RULES_OF_A_DAY)
    book.judge(sending(), START_MS)
    book.verified("+8613800000000", START_MS)
    judge_many(book, range(1, 30), START_MS)
    run = [book.judge(sending(f"+861390000000{index}"), START_MS) for index in range(10)]
    assert [one.entry > 0 for one in run] == [True] * 3 + [False] * 7


def test_who_asks_from_known_addresses_gets_no_more_through() -> None:
    """A reserve is no more a day: ten days of asking bring its own size, once, wherever they are asked from."""
    through = []
    for is_known in (False, True):
        book = Book(RULES_OF_A_DAY)
        count = 0
        for index in range(10 * 24 * 4):
            now_ms = START_MS + index * DAY_MS // 96
            ip = strange(index)
            if is_known:
                number = f"+3361{index:07}0"
                assert book.judge(sending(number, ip, "FR"), now_ms).entry
                book.verified(number, now_ms)
            count += bool(book.judge(sending(far(index), ip), now_ms).entry)
        through.append(count)
    assert through[0] > 200
    assert through[0] <= through[1] <= through[0] + 10


def test_who_is_refused_and_asks_again_goes_before_strangers_and_after_who_is_known() -> None:
    """A traveller tries twice and is let in; of twenty that are normal five more are for that, and five beyond them."""
    book = Book(RULES_OF_A_DAY)
    assert book.judge(sending("+33612345678", country="FR"), START_MS).entry
    book.verified("+33612345678", START_MS)
    assert judge_many(book, range(20), START_MS) == [True] * 20
    assert judge_many(book, range(30, 36), START_MS) == [False] * 6
    assert judge_many(book, range(30, 36), START_MS + 60_000) == [True] * 5 + [False]
    assert not book.judge(sending(far(40), strange(40)), START_MS + 60_000).entry
    known = [book.judge(sending(far(50 + index)), START_MS + 60_000) for index in range(6)]
    assert [one.passed_by for one in known] == ["reserve"] * 5 + [""]


def test_asking_again_excuses_no_neighbours_and_no_third_open_send() -> None:
    """It is for country and prefix alone, and for a number with no more than two sends open."""
    book = Book(RULES_OF_A_DAY)
    run = [f"+861390000000{index}" for index in range(5)]
    assert [book.judge(sending(number), START_MS).entry > 0 for number in run * 2] == ([True] * 3 + [False] * 2) + (
        [True] * 3 + [False] * 2
    )
    book = Book(RULES_OF_A_DAY)
    judge_many(book, range(20), START_MS)
    one = sending(far(30), strange(30))
    assert [book.judge(one, START_MS).passed_by for _ in range(5)] == ["", "again", "again", "again", ""]


def test_who_always_asks_twice_gets_no_more_through() -> None:
    """A second try is worth its reserve once, and no more a day, for all the captchas that it costs."""
    through = []
    for tries in (1, 2):
        book = Book(RULES_OF_A_DAY)
        count = 0
        for index in range(10 * 24 * 4):
            now_ms = START_MS + index * DAY_MS // 96
            count += any(book.judge(sending(far(index), strange(index)), now_ms).entry for _ in range(tries))
        through.append(count)
    assert through[0] > 200
    assert through[0] <= through[1] <= through[0] + 5


def test_an_address_where_many_verify_may_leave_as_many_countries_more() -> None:
    """One country more for each number verified there in the last day: of those who share a VPN, some give up."""
    book = Book(replace(RULES_OF_A_DAY, countries_per_ip=1))
    numbers = {"FR": "+33612345678", "DE": "+4915123456789", "PL": "+48512345678", "GB": "+447712345678"}
    assert book.judge(sending(numbers["FR"], country="FR"), START_MS).entry
    assert not book.judge(sending(numbers["DE"], country="DE"), START_MS).entry
    home = sending("+8613900000000")
    book = Book(replace(RULES_OF_A_DAY, countries_per_ip=1))
    assert book.judge(home, START_MS).entry
    book.verified(home.number, START_MS)
    asked = [book.judge(sending(number, country=country), START_MS) for country, number in numbers.items()]
    assert [one.entry > 0 for one in asked] == [True, True, False, False]
    assert asked[2].rules == (pumping.Broken("countries_per_ip", 2, 2),)


def test_observing_fills_as_enforcing_would() -> None:
    """What would be refused is told each time, and changes nothing for what comes after it."""
    book = Book(RULES_OF_A_DAY)
    asked = [sending(far(index), strange(index), enforce=False) for index in range(60)]
    judged = [book.judge(one, START_MS) for one in asked]
    assert [bool(one.rules) for one in judged] == [False] * 20 + [True] * 40
    assert all(one.entry for one in judged)
    assert book.verified(far(59), START_MS) == (1, 1)
    assert book.verified(far(0), START_MS) == (1, 0)
    assert [bool(book.judge(sending(far(70 + n), strange(70 + n)), START_MS).entry) for n in range(3)] == [
        True,
        False,
        False,
    ]


def test_a_budget_ends_with_the_day_of_utc() -> None:
    """What was spent on one day is not the next day's, and what of it comes back late changes nothing."""
    book = Book(RULES_OF_A_DAY)
    priced: dict[str, Any] = {"names": (), "price": 600_000, "daily": 1_000_000}
    evening_ms = (START_MS // DAY_MS + 1) * DAY_MS - 1
    first = book.judge(sending(**priced), evening_ms)
    second = book.judge(sending(**priced), evening_ms)
    assert (first.entry, second.entry, second.alarms) == (1, 0, ("budget",))
    assert book.judge(sending(**priced), evening_ms).alarms == ()
    third = book.judge(sending(**priced), evening_ms + 1)
    assert (third.entry, third.spent) == (2, (600_000, 600_000))
    book.paid(evening_ms // DAY_MS, "CN", 5_000_000, evening_ms + 1)
    assert book.give_back("+8613800000000", 1, evening_ms + 1)
    assert book.spent[""] == 600_000
