"""Which rule, which providers, when."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.model import Delivery
from sidecar.delivery.plan import Attempt, choose, plan
from sidecar.recipient import Email, Phone

CHINA = Delivery(countries=("CN",), providers=("a",))
ALPS = Delivery(countries=("AT", "CH"), providers=("b",))
REST = Delivery(providers=("c",))
NAMES = ("a", "b", "c", "d", "e")


def phone(country: str) -> Phone:
    return Phone("+8613900000001", country, "mobile")


def test_first_rule_that_matches_wins() -> None:
    assert choose((CHINA, ALPS, REST), phone("CN")) is CHINA
    assert choose((CHINA, ALPS, REST), phone("CH")) is ALPS
    assert choose((REST, CHINA), phone("CN")) is REST


def test_rule_without_condition_matches_all() -> None:
    assert choose((CHINA, REST), phone("unknown")) is REST
    assert choose((CHINA, REST), Email("a@example.com")) is REST


def test_no_rule_matches_nobody() -> None:
    assert choose((CHINA, ALPS), phone("US")) is None
    assert choose((), phone("CN")) is None


def test_providers_start_one_switch_after_another() -> None:
    rule = Delivery(providers=("a", "b", "c"), switch_after=0.5)
    assert plan(rule, NAMES) == (Attempt("a", 0.0), Attempt("b", 0.5), Attempt("c", 1.0))


def test_provider_that_cannot_be_used_costs_no_time() -> None:
    rule = Delivery(providers=("a", "b", "c"), switch_after=0.5)
    assert plan(rule, {"b", "c"}) == (Attempt("b", 0.0), Attempt("c", 0.5))


@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=8),
    st.sets(st.sampled_from(NAMES)),
    st.floats(0.001, 60),
)
def test_plan_asks_each_usable_provider_once_in_the_rules_order(
    providers: list[str], usable: set[str], switch_after: float
) -> None:
    rule = Delivery(providers=tuple(providers), switch_after=switch_after)
    made = plan(rule, usable)
    names = [attempt.provider for attempt in made]
    assert set(names) == usable & set(providers)
    assert names == sorted(set(names), key=providers.index)
    assert [attempt.offset_s for attempt in made] == [i * switch_after for i in range(len(made))]
