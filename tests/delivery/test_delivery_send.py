"""The hedged race: its rules on a clock that jumps, and then over real sockets."""

import asyncio
import contextlib
import itertools
import selectors
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendors import SOON_S, Vendor, closed_port, vendor

from sidecar import outbound
from sidecar.delivery.providers import webhook
from sidecar.delivery.providers.remote import Remote
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, ReceiptState, Rejected, Uncertain
from sidecar.delivery.send import HELD, Attempted, Race, Result, word
from sidecar.recipient import parse

T = TypeVar("T")

# A clock that jumps…


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes at once: waiting costs nothing, and every moment is exact."""

    def __init__(self) -> None:
        self.moment = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.moment


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "waiting for something that cannot come"
        self._loop.moment += max(timeout, 0.0)
        return super().select(0)


def at_once(story: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(story)


ACCEPTED = Accepted("m-1")
BUSY = Rejected("throttled", "429")  # another may try, and the same one later
POOR = Rejected("balance", "402")  # another may try, and not the same one
GONE = Rejected("number_invalid", "21211")  # nobody may
LOST = Uncertain("reset")


@dataclass
class Told:
    """What happened in a race, and when."""

    result: Result
    decided_at: float
    started: list[tuple[str, float, float]]  # provider, when, the time it was given
    ended: list[tuple[str, float]]
    recorded: list[Attempted]


async def run(
    script: Mapping[str, tuple[float, Outcome] | list[tuple[float, Outcome]]],
    *,
    switch_after: float = 1.0,
    attempt_timeout: float = 3.0,
    deadline: float = 5.0,
    plan: tuple[str, ...] = (),
    **other: Any,
) -> Told:
    """Race providers that each come to something after so many seconds; one that has no time for it is silent.

    A list is what one provider comes to, attempt by attempt, the last for good.
    """
    clock = asyncio.get_running_loop().time
    started: list[tuple[str, float, float]] = []
    ended: list[tuple[str, float]] = []
    recorded: list[Attempted] = []

    async def start(provider: str, timeout_s: float) -> Outcome:
        steps = script[provider]
        seconds, outcome = (steps.pop(0) if len(steps) > 1 else steps[0]) if isinstance(steps, list) else steps
        started.append((provider, clock(), timeout_s))
        await asyncio.sleep(min(seconds, timeout_s))
        ended.append((provider, clock()))
        return outcome if seconds < timeout_s else Uncertain("no answer")

    async with Race(
        plan or tuple(script),
        start,
        switch_after_s=switch_after,
        attempt_timeout_s=attempt_timeout,
        deadline_s=deadline,
        record=recorded.append,
        **other,
    ) as result:
        decided_at = clock()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left behind"
    return Told(result, decided_at, started, ended, recorded)


def starts(told: Told) -> list[tuple[str, float]]:
    return [(provider, round(moment, 6)) for provider, moment, _ in told.started]


def test_first_that_answers_in_time_is_the_only_one_asked() -> None:
    told = at_once(run({"a": (0.3, ACCEPTED), "b": (0.1, ACCEPTED)}))
    assert (told.result.kind, told.result.provider) == ("accepted", "a")
    assert starts(told) == [("a", 0.0)]


def test_rejection_that_another_may_follow_is_followed_at_once() -> None:
    told = at_once(run({"a": (0.2, BUSY), "b": (0.1, ACCEPTED)}))
    assert (told.result.kind, told.result.provider) == ("accepted", "b")
    assert starts(told) == [("a", 0.0), ("b", 0.2)]


def test_lost_attempt_is_followed_at_once() -> None:
    """A broken line will not answer any more: waiting for it would be for nothing."""
    assert starts(at_once(run({"a": (0.2, LOST), "b": (0.1, ACCEPTED)}))) == [("a", 0.0), ("b", 0.2)]


def test_silence_is_joined_after_switch_after() -> None:
    told = at_once(run({"a": (9, ACCEPTED), "b": (9, ACCEPTED), "c": (0.5, ACCEPTED)}))
    assert (told.result.kind, told.result.provider) == ("accepted", "c")
    assert starts(told) == [("a", 0.0), ("b", 1.0), ("c", 2.0)]
    assert told.decided_at == pytest.approx(2.5)


def test_silence_is_measured_from_the_one_that_is_silent() -> None:
    """One that failed early moves all that come after it forward."""
    told = at_once(run({"a": (0.2, BUSY), "b": (9, ACCEPTED), "c": (0.1, ACCEPTED)}))
    assert starts(told) == [("a", 0.0), ("b", 0.2), ("c", 1.2)]


def test_late_acceptance_of_the_silent_one_wins_too() -> None:
    told = at_once(run({"a": (1.2, ACCEPTED), "b": (9, ACCEPTED)}))
    assert (told.result.kind, told.result.provider) == ("accepted", "a")
    assert told.decided_at == pytest.approx(1.2)


def test_late_answer_of_the_loser_is_recorded_as_a_duplicate() -> None:
    """The result does not wait for it; leaving the race does."""
    told = at_once(run({"a": (2.0, ACCEPTED), "b": (0.1, ACCEPTED)}))
    assert told.result.provider == "b"
    assert told.decided_at == pytest.approx(1.1)
    assert [(a.provider, a.duplicate, round(a.seconds, 6)) for a in told.recorded] == [
        ("b", False, 0.1),
        ("a", True, 2.0),
    ]


def test_late_rejection_of_the_loser_is_no_duplicate() -> None:
    told = at_once(run({"a": (2.0, BUSY), "b": (0.1, ACCEPTED)}))
    assert [(a.provider, a.duplicate) for a in told.recorded] == [("b", False), ("a", False)]


def test_number_at_fault_stops_everything_to_come() -> None:
    told = at_once(run({"a": (0.2, GONE), "b": (0.1, ACCEPTED)}))
    assert told.result.kind == "refused"
    assert starts(told) == [("a", 0.0)]


def test_number_at_fault_does_not_stop_what_is_under_way() -> None:
    """The second provider was asked already, and may still take the message."""
    told = at_once(run({"a": (1.5, GONE), "b": (1.0, ACCEPTED), "c": (0.1, ACCEPTED)}))
    assert (told.result.kind, told.result.provider) == ("accepted", "b")
    assert starts(told) == [("a", 0.0), ("b", 1.0)]


def test_refused_by_all_is_refused() -> None:
    told = at_once(run({"a": (0.2, POOR), "b": (0.1, POOR)}))
    assert (told.result.kind, told.result.provider) == ("refused", None)
    assert told.decided_at == pytest.approx(0.3)


def test_one_silence_among_rejections_is_uncertain() -> None:
    """The silent one may have the message: it has not failed."""
    assert at_once(run({"a": (9, POOR), "b": (0.1, POOR)})).result.kind == "uncertain"


def test_nobody_to_ask_is_refused() -> None:
    assert at_once(run({})).result == Result("refused", None, ())


def test_nothing_starts_after_the_deadline_and_nothing_outlives_it() -> None:
    told = at_once(run(dict.fromkeys("abc", (20, ACCEPTED)), switch_after=2.0, attempt_timeout=9.0, deadline=4.0))
    assert told.started == [("a", 0.0, 4.0), ("b", 2.0, 2.0)]
    assert told.result.kind == "uncertain"
    assert told.decided_at == pytest.approx(4.0)


def test_attempt_whose_time_is_up_is_followed_at_once() -> None:
    told = at_once(run({"a": (9, ACCEPTED), "b": (0.1, ACCEPTED)}, switch_after=4.0, attempt_timeout=0.5))
    assert starts(told) == [("a", 0.0), ("b", 0.5)]


def test_fault_in_a_providers_file_loses_no_message_and_tells_no_secret() -> None:
    async def story() -> tuple[Result, list[Attempted]]:
        recorded: list[Attempted] = []

        async def start(provider: str, timeout_s: float) -> Outcome:
            if provider == "a":
                raise KeyError("code 246810 to +8613900000001")
            return ACCEPTED

        async with Race(
            ("a", "b"), start, switch_after_s=1, attempt_timeout_s=3, deadline_s=5, record=recorded.append
        ) as result:
            pass
        return result, recorded

    result, recorded = at_once(story())
    assert result.provider == "b"
    lost = recorded[0].outcome
    assert isinstance(lost, Uncertain)
    assert lost.reason.startswith("KeyError at test_delivery_send.py:")
    assert "246810" not in repr(recorded)


def test_provider_that_does_not_keep_its_time_is_cut_off() -> None:
    async def story() -> Result:
        async def start(provider: str, timeout_s: float) -> Outcome:
            await asyncio.sleep(3600)
            return ACCEPTED

        async with Race(
            ("a",), start, switch_after_s=1, attempt_timeout_s=3, deadline_s=5, record=lambda _: None
        ) as result:
            assert asyncio.get_running_loop().time() < 4
        return result

    told = at_once(story())
    assert told.kind == "uncertain"
    assert [attempted.outcome for attempted in told.attempts] == [Uncertain("no_answer_in_time")]


def test_wait_for_a_turn_takes_nothing_from_the_time_of_an_attempt() -> None:
    """Nor is one cut off that still waits for it."""

    async def turn(provider: str, deadline: float, patience_s: float) -> bool:
        await asyncio.sleep(4.0)
        return True

    told = at_once(run({"a": (2.0, ACCEPTED)}, attempt_timeout=3.0, deadline=9.0, turn=turn))
    assert told.started == [("a", 4.0, 3.0)]
    assert told.result.kind == "accepted"
    assert told.decided_at == pytest.approx(6.0)


@pytest.mark.parametrize(("waits_s", "asked"), [(2.0, [("b", 1.0)]), (5.0, [("b", 1.0)]), (0.5, [("a", 0.5)])])
def test_turn_that_comes_when_another_has_won_is_no_attempt(waits_s: float, asked: list[tuple[str, float]]) -> None:
    """Its message would be a second one on the same phone."""

    async def turn(provider: str, deadline: float, patience_s: float) -> bool:
        await asyncio.sleep(waits_s if provider == "a" else 0.0)
        return True

    told = at_once(run({"a": (0.1, ACCEPTED), "b": (0.1, ACCEPTED)}, switch_after=1.0, turn=turn))
    assert starts(told) == asked
    assert [one.outcome for one in told.recorded if one.provider not in dict(asked)] == [HELD] * (waits_s > 1.0)


def test_turn_that_comes_after_the_deadline_is_no_attempt() -> None:
    """Nobody is asked to send what the race can no longer hear of."""

    async def turn(provider: str, deadline: float, patience_s: float) -> bool:
        await asyncio.sleep(5.5)
        return True

    told = at_once(run({"a": (0.1, ACCEPTED)}, deadline=5.0, turn=turn))
    assert not told.started
    assert (told.result.kind, told.result.holders) == ("refused", ())


def test_one_that_is_cut_off_is_followed_at_once_and_does_not_end_the_race() -> None:
    """Whatever it makes of being cut off."""

    async def story() -> tuple[Result, float]:
        async def start(provider: str, timeout_s: float) -> Outcome:
            if provider == "b":
                return ACCEPTED
            try:
                await asyncio.sleep(3600)
            finally:
                raise OSError

        async with Race(
            ("a", "b"), start, switch_after_s=9, attempt_timeout_s=3, deadline_s=50, record=lambda _: None
        ) as result:
            return result, asyncio.get_running_loop().time()

    result, decided_at = at_once(story())
    assert result.provider == "b"
    assert decided_at == pytest.approx(3.25)


# Asking again…


def test_provider_that_refuses_for_now_is_asked_again_after_growing_pauses() -> None:
    """Half a second, one, two: as often as the deadline allows, and never while the last attempt is under way."""
    told = at_once(run({"a": (0.1, BUSY)}))
    assert starts(told) == [("a", 0.0), ("a", 0.6), ("a", 1.7), ("a", 3.8)]
    assert told.result.kind == "refused"
    assert told.decided_at == pytest.approx(3.9)
    assert told.result.later == {"a": pytest.approx(4.0)}


def test_provider_that_has_recovered_takes_the_message() -> None:
    told = at_once(run({"a": [(0.1, BUSY), (0.1, Rejected("unreachable", "refused")), (0.1, ACCEPTED)]}))
    assert (told.result.kind, told.result.provider) == ("accepted", "a")
    assert starts(told) == [("a", 0.0), ("a", 0.6), ("a", 1.7)]


def test_pauses_go_on_growing_over_the_races_of_a_message() -> None:
    """Up to half a minute."""
    told = at_once(run({"a": (0.1, BUSY)}, refusals=4))
    assert starts(told) == [("a", 0.0)]
    assert (told.result.later["a"], told.result.refusals) == (8.0, 5)
    assert at_once(run({"a": (0.1, BUSY)}, refusals=5000)).result.later["a"] == 30.0


def test_nobody_is_asked_again_without_the_time_to_answer() -> None:
    """An attempt that is cut short is silence: a clear refusal would become a message that may have been sent."""
    told = at_once(run({"a": (0.1, BUSY)}, deadline=1.4))
    assert starts(told) == [("a", 0.0)]


def test_race_that_is_told_not_to_wait_asks_everybody_once() -> None:
    told = at_once(run({"a": (0.1, BUSY), "b": (0.1, BUSY)}, waits=False))
    assert starts(told) == [("a", 0.0), ("b", 0.1)]
    assert set(told.result.later) == {"a", "b"}


def test_vendor_that_says_when_is_not_asked_before() -> None:
    told = at_once(run({"a": [(0.1, Rejected("throttled", "429", 2.5)), (0.1, ACCEPTED)]}))
    assert starts(told) == [("a", 0.0), ("a", 2.6)]


def test_race_does_not_wait_for_what_cannot_be_before_the_deadline() -> None:
    """The message goes back to the outbox at once, and comes back when the vendor said."""
    told = at_once(run({"a": (0.1, Rejected("throttled", "429", 60.0))}))
    assert starts(told) == [("a", 0.0)]
    assert told.decided_at == pytest.approx(0.1)
    assert told.result.later == {"a": pytest.approx(60.0)}


def test_others_are_asked_first_and_then_the_same_again() -> None:
    told = at_once(run({"a": [(0.1, BUSY), (0.1, ACCEPTED)], "b": (0.1, POOR), "c": (0.1, BUSY)}))
    assert starts(told) == [("a", 0.0), ("b", 0.1), ("c", 0.2), ("a", 0.6)]
    assert told.result.provider == "a"


def test_refusal_that_does_not_pass_is_not_asked_again() -> None:
    told = at_once(run({"a": (0.1, POOR)}))
    assert starts(told) == [("a", 0.0)]
    assert told.result.later == {}


def test_one_that_is_asked_again_joins_the_silent_one_only_when_silence_is_followed() -> None:
    """`b` is silent: `a` joins it after switch_after, or, where silence is to be waited for, not at all."""
    told = at_once(run({"a": [(0.1, BUSY), (0.1, ACCEPTED)], "b": [(9.0, ACCEPTED)]}))
    assert starts(told)[:3] == [("a", 0.0), ("b", 0.1), ("a", 1.1)]
    told = at_once(run({"a": (0.1, BUSY), "b": (9.0, ACCEPTED)}, switch=False))
    assert starts(told) == [("a", 0.0), ("b", 0.1)]
    assert (told.result.kind, told.result.later) == ("uncertain", {})


def test_number_at_fault_ends_the_asking_again_too() -> None:
    told = at_once(run({"a": (0.1, BUSY), "b": (0.1, GONE)}))
    assert starts(told) == [("a", 0.0), ("b", 0.1)]
    assert (told.result.kind, told.result.later) == ("refused", {})


def test_greylisted_recipient_is_tried_again_though_it_was_a_refusal_of_the_number() -> None:
    told = at_once(run({"a": [(0.1, Rejected("number_blocked", "450 4.7.1", deferred=True)), (0.1, ACCEPTED)]}))
    assert told.result.kind == "accepted"


def test_those_that_are_to_be_left_alone_for_now_are_asked_when_all_others_have_been() -> None:
    """An open breaker, or a Retry-After of an earlier round."""
    told = at_once(run({"a": (0.1, POOR), "b": (0.1, ACCEPTED)}, plan=("a",), later={"b": 2.0}))
    assert starts(told) == [("a", 0.0), ("b", 2.0)]
    told = at_once(run({"a": (0.1, POOR), "b": (0.1, ACCEPTED)}, plan=("a",), later={"b": 7.0}))
    assert starts(told) == [("a", 0.0)]
    assert told.result.later == {"b": pytest.approx(6.9)}


def test_those_that_the_deadline_kept_from_being_asked_may_be_asked_at_once() -> None:
    told = at_once(run({"a": (9.0, BUSY), "b": (0.1, ACCEPTED)}, deadline=0.5))
    assert starts(told) == [("a", 0.0)]
    assert (told.result.kind, told.result.holders, told.result.later) == ("uncertain", ("a",), {"b": 0.0})


# A receipt before the answer…


def hears(words: dict[str, ReceiptState]) -> Any:
    async def heard(provider: str, outcome: Outcome) -> ReceiptState | None:
        return words.get(provider)

    return heard


def test_message_that_was_lost_before_its_answer_goes_to_the_next_at_once() -> None:
    told = at_once(run({"a": (0.1, ACCEPTED), "b": (0.1, ACCEPTED)}, heard=hears({"a": "undeliverable"})))
    assert starts(told) == [("a", 0.0), ("b", 0.1)]
    assert (told.result.kind, told.result.provider, told.result.holders) == ("accepted", "b", ("a", "b"))
    assert not any(one.duplicate for one in told.recorded)


def test_message_that_was_lost_by_all_is_lost() -> None:
    told = at_once(run({"a": (0.1, ACCEPTED), "b": (0.1, POOR)}, heard=hears({"a": "expired"})))
    assert (told.result.kind, told.result.provider) == ("lost", None)


@pytest.mark.parametrize("word", ["enroute", "delivered"])
def test_lost_answer_of_a_message_that_a_receipt_knows_is_an_acceptance(word: ReceiptState) -> None:
    told = at_once(run({"a": (0.1, LOST), "b": (0.1, ACCEPTED)}, heard=hears({"a": word})))
    assert starts(told) == [("a", 0.0)]
    assert (told.result.kind, told.result.provider) == ("accepted", "a")


def test_message_that_is_lost_while_its_answer_is_awaited_goes_to_the_next_at_once() -> None:
    """Also where silence is not followed, and nobody is started twice by the late answer."""
    script = {"a": (2.9, ACCEPTED), "b": (2.95, ACCEPTED), "c": (0.1, ACCEPTED)}
    for switch in (True, False):
        told = at_once(run(script, switch_after=2.8, switch=switch, heard=hears({"a": "undeliverable"})))
        assert starts(told)[:2] == [("a", 0.0), ("b", 0.25)]
        assert told.result.provider == ("c" if switch else "b")
        assert starts(told)[2:] == ([("c", 3.05)] if switch else [])


def test_message_that_is_delivered_while_its_answer_is_awaited_has_won() -> None:
    """Nobody else is asked, and its own late answer is no duplicate."""
    told = at_once(run({"a": (2.9, ACCEPTED), "b": (0.1, ACCEPTED)}, heard=hears({"a": "delivered"})))
    assert starts(told) == [("a", 0.0)]
    assert told.result.provider == "a"
    assert told.decided_at == pytest.approx(0.25)
    assert [one.duplicate for one in told.recorded] == [False]


def test_receipt_in_a_word_that_we_do_not_know_settles_nothing() -> None:
    assert at_once(run({"a": (0.1, LOST)}, heard=hears({"a": "unknown"}))).result.kind == "uncertain"


def test_race_that_is_broken_off_looks_for_no_receipt() -> None:
    """Whoever breaks it off waits until nothing of it is under way: not for the store, which may be why."""
    looked: list[Outcome] = []

    async def heard(provider: str, outcome: Outcome) -> ReceiptState | None:
        looked.append(outcome)
        return None

    async def story() -> None:
        async with asyncio.timeout(0.1):
            await run({"a": (2.0, ACCEPTED)}, heard=heard)

    with pytest.raises(TimeoutError):
        at_once(story())
    assert not looked


SCRIPTS = st.lists(
    st.tuples(
        st.floats(0, 8).map(lambda seconds: round(seconds, 2)), st.sampled_from([ACCEPTED, POOR, POOR, GONE, LOST])
    ),
    max_size=6,
).map(lambda script: {f"p{i}": step for i, step in enumerate(script)})


@given(SCRIPTS, st.sampled_from([0.25, 1.0, 4.0]), st.sampled_from([0.5, 3.0]), st.sampled_from([0.3, 5.0, 10.0]))
def test_race_keeps_its_rules_whatever_the_vendors_do(
    script: dict[str, tuple[float, Outcome]], switch_after: float, attempt_timeout: float, deadline: float
) -> None:
    """In the plan's order; never after the deadline, a winner or a final no; never later than silence allows."""
    told = at_once(run(script, switch_after=switch_after, attempt_timeout=attempt_timeout, deadline=deadline))
    near = 1e-6
    ends = dict(told.ended)
    outcomes = {a.provider: a.outcome for a in told.recorded}

    # Everyone asked is asked once, in order, and recorded once.
    names = [provider for provider, _, _ in told.started]
    assert names == list(script)[: len(names)]
    assert sorted(a.provider for a in told.recorded) == sorted(names)

    # The deadline is handed down.
    for provider, moment, timeout_s in told.started:
        assert moment < deadline
        assert timeout_s <= min(attempt_timeout, deadline - moment) + near
        assert ends[provider] <= deadline + near

    # Nobody starts after it is over.
    final = [
        ends[provider] for provider, outcome in outcomes.items() if isinstance(outcome, Accepted) or outcome == GONE
    ]
    over_at = min(final, default=deadline)
    assert all(moment <= over_at + near for _, moment, _ in told.started)

    # Each starts when the one before it has been silent long enough, or when one failed; and no later.
    failures = [ends[p] for p, o in outcomes.items() if o in (POOR, LOST) or isinstance(o, Uncertain)]
    moments = [moment for _, moment, _ in told.started]
    for before, moment in itertools.pairwise(moments):
        due = before + switch_after
        assert moment <= due + near
        assert abs(moment - due) < near or any(abs(moment - failure) < near for failure in failures)
    if len(names) < len(script) and script:
        assert over_at <= moments[-1] + switch_after + near

    # The result says what is known.
    accepted = [a for a in told.recorded if isinstance(a.outcome, Accepted)]
    assert [a.duplicate for a in accepted] == [False] + [True] * (len(accepted) - 1) if accepted else True
    decided = [outcomes[a.provider] for a in told.result.attempts]
    if accepted:
        assert (told.result.kind, told.result.provider) == ("accepted", accepted[0].provider)
    elif all(isinstance(outcome, Rejected) for outcome in decided):
        assert told.result.kind == "refused"
    else:
        assert told.result.kind == "uncertain"


REFUSALS = st.builds(
    Rejected, st.sampled_from(["throttled", "unreachable"]), st.just("w"), st.none() | st.sampled_from([0.1, 1.0, 9.0])
)
STEPS = st.lists(
    st.tuples(st.sampled_from([0.1, 0.7, 4.0]), REFUSALS | st.sampled_from([ACCEPTED, POOR, GONE, LOST])), min_size=1
)


@given(st.lists(STEPS, min_size=1, max_size=4), st.booleans())
def test_asking_again_keeps_its_rules_whatever_the_vendors_do(
    steps: list[list[tuple[float, Outcome]]], switch: bool
) -> None:
    """Never twice at once, never sooner than the vendor says, only after a refusal that passes, others first."""
    script = {f"p{i}": list(one) for i, one in enumerate(steps)}
    told = at_once(run({name: list(one) for name, one in script.items()}, switch=switch))
    for name in script:
        begun = [moment for provider, moment, _ in told.started if provider == name]
        over = [moment for provider, moment in told.ended if provider == name]
        outcomes = [one.outcome for one in told.recorded if one.provider == name]
        for round_, (again, ended, outcome) in enumerate(zip(begun[1:], over, outcomes, strict=False)):
            assert isinstance(outcome, Rejected)
            assert outcome.is_passing
            assert again >= ended + max(outcome.retry_after_s or 0.0, 0.5 * 2**round_) - 1e-6
            first = [moment for provider, moment, _ in told.started if provider == list(script)[-1]]
            assert first, "all were asked before one was asked again"
            assert first[0] <= again
    assert told.decided_at <= 5.0 + 1e-6
    for name, seconds in told.result.later.items():
        assert seconds >= 0
        assert name not in told.result.holders or told.result.kind == "accepted"


# Over real sockets…

MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", "246810", 5, "246810")
# So long that only a switch that did not wait for it can have happened.
NEVER_S = 600.0


@dataclass
class Sent:
    """A race of two webhook vendors."""

    session: Any
    urls: dict[str, str]
    recorded: list[Attempted] = field(default_factory=list)
    ended: asyncio.Queue[Attempted] = field(default_factory=asyncio.Queue)

    def record(self, attempted: Attempted) -> None:
        self.recorded.append(attempted)
        self.ended.put_nowait(attempted)

    async def start(self, provider: str, timeout_s: float) -> Outcome:
        table = {"kind": "webhook", "url": self.urls[provider], "secret": "s"}
        settings = webhook.Settings.model_validate(table)
        return await Remote(webhook, settings, self.session, lambda: 0.0, str).send(MESSAGE, timeout_s)

    def race(self, switch_after: float) -> contextlib.AbstractAsyncContextManager[Result]:
        return Race(
            tuple(self.urls),
            self.start,
            switch_after_s=switch_after,
            attempt_timeout_s=NEVER_S,
            deadline_s=2 * NEVER_S,
            record=self.record,
        )


@contextlib.asynccontextmanager
async def two_vendors(first_url: str = "") -> Any:
    async with vendor() as first, vendor() as second:
        session = outbound.open_session()
        try:
            yield first, second, Sent(session, {"first": first_url or first.url, "second": second.url})
        finally:
            await session.close()


async def test_vendor_that_hangs_is_joined_and_its_late_yes_is_a_duplicate() -> None:
    async with two_vendors() as (first, second, sent), asyncio.timeout(SOON_S):
        first.hangs(202)
        second.answers(202, '{"id": "two"}')
        async with sent.race(0.1) as result:
            assert (result.kind, result.provider) == ("accepted", "second")
            assert len(first.asked) == 1
            first.released.set()
        assert [(a.provider, a.duplicate) for a in sent.recorded] == [("second", False), ("first", True)]
        assert first.asked[0].body == second.asked[0].body, "the same code goes out again"


@pytest.mark.parametrize("fault", ["refuses the connection", "resets", "says no", "fails"])
async def test_vendor_that_fails_is_followed_at_once(fault: str) -> None:
    """`switch_after` is ten minutes here: nobody waited for it."""
    url = closed_port() if fault == "refuses the connection" else ""
    async with two_vendors(url) as (first, second, sent), asyncio.timeout(SOON_S):
        _make_fail(first, fault)
        second.answers(202, "")
        async with sent.race(NEVER_S) as result:
            assert (result.kind, result.provider) == ("accepted", "second")
        assert len(second.asked) == 1


def _make_fail(it: Vendor, fault: str) -> None:
    if fault == "resets":
        it.resets()
    elif fault == "says no":
        it.answers(429, "")
    else:
        it.answers(500, "")


async def test_vendor_that_names_the_number_stops_the_race() -> None:
    async with two_vendors() as (first, second, sent), asyncio.timeout(SOON_S):
        first.answers(400, '{"error": "number_blocked"}')
        async with sent.race(NEVER_S) as result:
            assert result.kind == "refused"
        assert not second.asked


@pytest.mark.parametrize("how", ["cancelled", "raised in the block"])
async def test_race_that_is_broken_off_leaves_nothing_behind(how: str) -> None:
    """Cancelled before its result, or left by an error after it: no task, no open request."""
    before = asyncio.all_tasks()
    async with two_vendors() as (first, second, sent), asyncio.timeout(SOON_S):
        first.hangs()
        second.answers(202, "")

        async def story() -> None:
            async with sent.race(NEVER_S if how == "cancelled" else 0.05):
                raise LookupError

        telling = asyncio.create_task(story())
        await first.arrival()
        if how == "cancelled":
            telling.cancel()
        await asyncio.wait([telling])
        assert telling.cancelled() if how == "cancelled" else isinstance(telling.exception(), LookupError)
        await first.deserted.get()
    assert asyncio.all_tasks() <= before


# What is told…


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Accepted("m-13900000001"), "m-1390*******"),
        (Rejected("request", "E246810"), "request (E******)"),
        (Uncertain("no 246810 for +8613900000001"), "no ****** for +861390*******"),
        (Rejected("throttled", "http_429"), "throttled (http_429)"),
    ],
)
def test_word_shows_nothing_of_the_message(outcome: Outcome, shown: str) -> None:
    """Whatever a vendor repeats of the code and of the number has stars in its place."""
    message = Message("m-1", parse("+8613900000001", "sms", "CN"), "en", "246810", 5, "246810")
    assert word(outcome, message) == shown


def test_word_shows_no_address() -> None:
    """An e-mail address has stars in its place, in any case."""
    message = Message("m-1", parse("Foo@mail.example", "email", "CN"), "en", "246810", 5, "246810")
    assert word(Uncertain("550 <foo@MAIL.example>"), message) == "550 <****************>"


@pytest.mark.parametrize(
    ("address", "said"),
    [("kim@mail.example", "550 <\u212aim@mail.example>"), ("s@mail.example", "550 <\u017f@mail.example>")],
)
def test_word_shows_no_address_in_other_letters(address: str, said: str) -> None:
    """Letters that a case-blind look takes for one of the address's own, such as the Kelvin sign, hide nothing."""
    message = Message("m-1", parse(address, "email", "CN"), "en", "246810", 5, "246810")
    assert word(Uncertain(said), message) == f"550 <{'*' * len(address)}>"
