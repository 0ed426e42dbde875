"""The formula by itself, on a clock that the test holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.limits.gcra import Decision, Limit, decide, refund

S = 1_000_000
NOW = 1_700_000_000 * S

limits = st.builds(Limit, interval_us=st.integers(1, 86_400 * S), burst=st.integers(1, 50))


def test_exactly_as_patient_as_told() -> None:
    """The story in the module's docstring: 20/1h, burst 2, each answer followed to the microsecond."""
    minute = 60 * S
    limit = Limit.of_rate(20, 3600.0, 2)
    first = decide(limit, None, NOW)
    assert first == Decision(True, 1, 3 * minute, 0, NOW + 3 * minute)
    second = decide(limit, first.tat_us, NOW)
    assert second == Decision(True, 0, 6 * minute, 0, NOW + 6 * minute)
    third = decide(limit, second.tat_us, NOW + minute)
    assert third == Decision(False, 0, 5 * minute, 2 * minute, NOW + 6 * minute)
    early = decide(limit, third.tat_us, NOW + 3 * minute - 1)
    assert not early.allowed
    assert early.retry_after_us == 1
    on_time = decide(limit, third.tat_us, NOW + 3 * minute)
    assert on_time == Decision(True, 0, 6 * minute, 0, NOW + 9 * minute)
    assert decide(limit, on_time.tat_us, NOW + 9 * minute) == first_at(9 * minute, first)


def first_at(later_us: int, first: Decision) -> Decision:
    return Decision(True, first.remaining, first.reset_us, 0, first.tat_us + later_us)


@given(limits, st.lists(st.integers(0, 10_000 * S), max_size=60))
def test_no_more_than_burst_and_what_leaked(limit: Limit, pauses: list[int]) -> None:
    """From any allowed one on, at most `burst` and one per interval since then are allowed."""
    now, tat, allowed = NOW, None, []
    for pause in pauses:
        now += pause
        decision = decide(limit, tat, now)
        tat = decision.tat_us
        if decision.allowed:
            allowed.append(now)
    for i, start in enumerate(allowed):
        for j, end in enumerate(allowed[i:], start=1):
            assert j <= limit.burst + (end - start) // limit.interval_us


@given(limits, st.integers(-(10**12), 10**15), st.integers(1, 50))
def test_refused_until_exactly_retry_after(limit: Limit, ahead_us: int, cost: int) -> None:
    """Three outcomes: it fits; it fits after retry_after_us and not one microsecond sooner; it never fits."""
    tat = NOW + ahead_us
    decision = decide(limit, tat, NOW, cost)
    if decision.allowed:
        assert decision.retry_after_us == 0
        assert decision.tat_us == min(max(tat, NOW), NOW + limit.drain_us) + cost * limit.interval_us
    elif decision.retry_after_us is None:
        assert cost > limit.burst
        assert not decide(limit, None, NOW, cost).allowed
    else:
        assert 0 < decision.retry_after_us <= cost * limit.interval_us
        # What is kept is the old TAT, as a refusal takes nothing; it is read again later.
        assert decide(limit, decision.tat_us, NOW + decision.retry_after_us, cost).allowed
        assert not decide(limit, decision.tat_us, NOW + decision.retry_after_us - 1, cost).allowed


@given(limits, st.integers(0, 10**15))
def test_remaining_is_what_really_remains(limit: Limit, ahead_us: int) -> None:
    """`remaining` more are allowed at once, and the one after is not."""
    look = decide(limit, NOW + ahead_us, NOW, cost=0)
    tat: int | None = look.tat_us
    for _ in range(look.remaining):
        decision = decide(limit, tat, NOW)
        assert decision.allowed
        tat = decision.tat_us
    assert not decide(limit, tat, NOW).allowed


@given(limits, st.integers(0, 10**15), st.integers(0, 10**12))
def test_a_refund_is_as_if_it_never_happened(limit: Limit, ahead_us: int, later_us: int) -> None:
    """Spent and given back later, a bucket is what it would be by then without either."""
    tat = NOW + ahead_us
    spent = decide(limit, tat, NOW)
    if spent.allowed:
        back = refund(limit, spent.tat_us, NOW + later_us)
        assert decide(limit, back, NOW + later_us, cost=0) == decide(limit, tat, NOW + later_us, cost=0)


def test_a_refund_never_gives_credit() -> None:
    """However often it is given back, a bucket is empty at best."""
    limit = Limit(S, 3)
    assert refund(limit, None, NOW) is None
    assert refund(limit, NOW + S, NOW + 5 * S) is None
    assert decide(limit, refund(limit, NOW + S, NOW), NOW, cost=0).remaining == 3


def test_a_clock_set_back_keeps_nobody_waiting_for_it() -> None:
    """A TAT from a clock that was a day ahead counts as a full bucket, no more."""
    decision = decide(Limit(S, 5), NOW + 86_400 * S, NOW)
    assert decision.retry_after_us == S


@pytest.mark.parametrize(("interval_us", "burst"), [(0, 1), (1, 0), (-1, 1), (3600 * S, 1_000_000)])
def test_limits_that_make_no_sense_are_refused(interval_us: int, burst: int) -> None:
    """A bucket must leak, take something, and not outlast doubles."""
    with pytest.raises(ValueError, match="expected 1 or more of each"):
        Limit(interval_us, burst)


def test_an_uneven_rate_rounds_to_the_patient_side() -> None:
    """3/1s is one every 333334 us, never every 333333."""
    assert Limit.of_rate(3, 1.0, 3).interval_us == 333_334
    assert Limit.of_rate(1, 0.25, 1).interval_us == 250_000
