"""Which rule, which providers, when."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.model import Delivery
from sidecar.delivery.plan import Facts, choose, plan

CHINA = Delivery(countries=("CN",), providers=("a",))
ALPS = Delivery(countries=("AT", "CH"), providers=("b",))
REST = Delivery(providers=("c",))
NAMES = ("a", "b", "c", "d", "e")


def phone(country: str, **other: str) -> Facts:
    return Facts(**{"country": country, "channel": "sms", "locale": "zh", **other})


def test_first_rule_that_matches_wins() -> None:
    assert choose((CHINA, ALPS, REST), phone("CN")) is CHINA
    assert choose((CHINA, ALPS, REST), phone("CH")) is ALPS
    assert choose((REST, CHINA), phone("CN")) is REST


def test_rule_without_condition_matches_all() -> None:
    assert choose((CHINA, REST), phone("unknown")) is REST
    assert choose((CHINA, REST), Facts("email", "email", "en")) is REST


def test_no_rule_matches_nobody() -> None:
    assert choose((CHINA, ALPS), phone("US")) is None
    assert choose((), phone("CN")) is None


def test_every_condition_of_a_rule_must_hold() -> None:
    rule = Delivery(countries=("CN",), operators=("china-mobile",), provinces=("Guangdong",), providers=("a",))
    right = {"operator": "china-mobile", "province": "Guangdong"}
    assert choose((rule,), phone("CN", **right)) is rule
    for wrong in ({"operator": "china-unicom"}, {"province": "unknown"}, {"country": "HK"}):
        assert choose((rule,), phone(**({"country": "CN"} | right | wrong))) is None


def test_what_nobody_knows_can_be_matched() -> None:
    rule = Delivery(operators=("unknown",), providers=("a",))
    assert choose((rule,), phone("CN")) is rule
    assert choose((rule,), phone("CN", operator="china-mobile")) is None
    assert choose((rule,), Facts("email", "email", "en", "", "")) is None, "an address has no operator, known or not"


def test_rule_decides_by_channel_and_language() -> None:
    mail = Delivery(channels=("email",), providers=("a",))
    chinese = Delivery(locales=("zh",), providers=("b",))
    assert choose((mail, chinese, REST), Facts("email", "email", "en")) is mail
    assert choose((mail, chinese, REST), phone("TW", locale="zh-Hant")) is chinese
    assert choose((mail, chinese, REST), phone("CN", locale="ZH")) is chinese
    assert choose((mail, chinese, REST), phone("CN", locale="zha")) is REST


def test_provider_whose_breaker_is_open_is_left_out() -> None:
    rule = Delivery(providers=("a", "b", "c"))
    assert plan(rule, NAMES, {"a": 9, "c": 9}) == ("b",)


def test_when_all_are_broken_the_one_that_may_be_back_soonest_goes_first() -> None:
    """A message that was accepted is owed a try."""
    rule = Delivery(providers=("a", "b", "c"))
    assert plan(rule, NAMES, {"a": 9, "b": 3, "c": 5}) == ("b", "c", "a")


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8), st.sets(st.sampled_from(NAMES)))
def test_plan_asks_each_usable_provider_once_in_the_rules_order(providers: list[str], usable: set[str]) -> None:
    names = plan(Delivery(providers=tuple(providers)), usable)
    assert set(names) == usable & set(providers)
    assert list(names) == sorted(set(names), key=providers.index)


@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=8),
    st.sets(st.sampled_from(NAMES)),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9)),
    st.permutations(NAMES),
)
def test_no_open_breaker_is_asked_while_another_provider_is_there(
    providers: list[str], usable: set[str], broken: dict[str, int], order: list[str]
) -> None:
    """And when there is none, all of them are, so that no message is without a try."""
    rule = Delivery(providers=tuple(providers))
    names = plan(rule, usable & set(providers), broken, order)
    whole = (usable & set(providers)) - set(broken)
    assert set(names) == (whole or usable & set(providers))
    if whole:
        assert list(names) == sorted(names, key=order.index)
