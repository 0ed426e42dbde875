"""limits/local.py: buckets in a process's memory answer as gcra.lua does, and hold a share of each limit."""

import secrets
from itertools import repeat

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits.test_limits_script import GCRA, Ask, stories

import sidecar.limits.local
from sidecar.limits.gcra import Limit
from sidecar.limits.local import Local, share
from sidecar.store.client import Store


@given(stories())
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_it_answers_as_the_script_does(
    store: Store, story: tuple[list[Limit], list[int | None], list[Ask]]
) -> None:
    """Every answer, where one process has the whole of each limit."""
    limits, _, asks = story
    example, local = secrets.token_hex(4), Local()
    keys = [store.names.bucket(str(i), example) for i in range(len(limits))]
    for ask in asks:
        decided = (*ask.looked, *ask.spent)
        answer = await store.run(GCRA, [keys[i] for i in decided], ask.words(limits)[len(ask.given) :])
        asked = [(keys[i], limits[i], ask.enforce[i]) for i in decided]
        assert local.spend(asked, len(ask.looked), answer[0], 1) == answer


@given(st.integers(1, 10**9), st.integers(1, 3000), st.integers(1, 300))
def test_all_shares_together_are_no_more_than_the_limit(interval_us: int, burst: int, instances: int) -> None:
    """Their leaks add up to its own, their bursts too; but each instance lets one through at once."""
    one = share(Limit(interval_us, burst), instances)
    assert one.interval_us == interval_us * instances
    assert one.burst * instances <= max(burst, instances)
    assert one.burst >= 1


def test_a_limit_of_a_century_can_be_shared() -> None:
    """What is longest stays in range."""
    longest = 100 * 365 * 86_400_000_000
    assert share(Limit(longest, 1), 300) == Limit(longest, 1)


def test_what_is_given_back_can_be_spent_again() -> None:
    """And what was never spent gives nothing back."""
    local, bucket = Local(), ("a", Limit(1_000_000, 2), True)
    assert [local.spend([bucket], 0, 0, 2)[1] for _ in range(2)] == [1, 0]
    local.give_back("a", 1_000_000, 2)
    local.give_back("b", 1_000_000, 2)
    assert [local.spend([bucket], 0, 0, 2)[1] for _ in range(2)] == [1, 0]


def test_memory_is_bounded() -> None:
    """The one that was asked for longest ago is forgotten."""
    local, limit = Local(), Limit(1_000_000, 1)
    most = sidecar.limits.local.MOST
    for n, cost in zip(range(most + 1), repeat(1), strict=False):
        assert local.spend([(str(n), limit, True)], 0, 0, cost)[1] == 1
    assert local.spend([(str(most), limit, True)], 0, 0, 1)[1] == 0
    assert local.spend([("0", limit, True)], 0, 0, 1)[1] == 1
