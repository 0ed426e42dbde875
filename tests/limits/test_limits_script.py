"""gcra.lua against gcra.py: one story, told by both."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidecar.limits
from sidecar.limits import gcra
from sidecar.limits.gcra import Limit
from sidecar.store.client import Script, Store

ROOM = Path(sidecar.limits.__file__).parent
GCRA = Script.load(ROOM / "gcra.lua")

# Short intervals leak while the test runs, long ones fill; the largest reach what doubles still hold.
some_limits = st.builds(
    Limit,
    interval_us=st.one_of(st.integers(1, 3000), st.integers(1, 10**9), st.integers(1, 10**12)),
    burst=st.one_of(st.integers(1, 3), st.integers(1, 3000)),
)


@dataclass(frozen=True)
class Ask:
    """Indexes of buckets: of those given back to, looked at and spent, in this order."""

    given: tuple[int, ...]
    looked: tuple[int, ...]
    spent: tuple[int, ...]
    enforce: tuple[bool, ...]

    def words(self, limits: list[Limit]) -> list[str]:
        """What the script is told of each bucket."""
        told = [
            f"{limit.interval_us} {limit.burst} {enforce:d}"
            for limit, enforce in zip(limits, self.enforce, strict=True)
        ]
        return [
            *(f"back {limits[i].interval_us}" for i in self.given),
            *(f"look {told[i]}" for i in self.looked),
            *(f"take {told[i]}" for i in self.spent),
        ]


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Limit], list[int | None], list[Ask]]:
    """Some buckets, how far ahead of now each one's TAT starts, and what is asked of them."""
    limits = draw(st.lists(some_limits, min_size=1, max_size=4))
    ahead = draw(st.lists(st.none() | st.integers(-(10**7), 3 * 10**15), min_size=len(limits), max_size=len(limits)))
    which = st.sampled_from(range(len(limits)))

    @st.composite
    def asks(draw: st.DrawFn) -> Ask:
        decided = draw(st.lists(which, max_size=len(limits), unique=True))
        looked = draw(st.integers(0, len(decided)))
        given = draw(st.lists(which, max_size=2))
        flags = draw(st.lists(st.booleans(), min_size=len(limits), max_size=len(limits)))
        return Ask(tuple(given), tuple(decided[:looked]), tuple(decided[looked:]), tuple(flags))

    return limits, ahead, draw(st.lists(asks(), max_size=12))


@given(stories())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_the_script_decides_as_the_formula_does(
    store: Store, story: tuple[list[Limit], list[int | None], list[Ask]]
) -> None:
    """Every answer and every TAT of the script is what gcra.py says for the time that the script read."""
    limits, ahead, asks = story
    example = secrets.token_hex(4)
    keys = [store.names.bucket(str(i), example) for i in range(len(limits))]
    seconds, microseconds = await store.execute(None, "TIME")
    tats: list[int | None] = [None] * len(limits)
    for i, offset in enumerate(ahead):
        if offset is not None:
            tats[i] = int(seconds) * 1_000_000 + int(microseconds) + offset
            await store.execute(keys[i], "SET", keys[i], tats[i] or 0)

    for ask in asks:
        decided = (*ask.looked, *ask.spent)
        now, *answers = await store.run(GCRA, [keys[i] for i in (*ask.given, *decided)], ask.words(limits))

        expected: list[int] = []
        for i in ask.given:
            tats[i] = gcra.refund(limits[i], tats[i], now)
            expected.append(tats[i] or 0)
        alone = {i: gcra.decide(limits[i], tats[i], now) for i in decided}
        go = all(alone[i].allowed for i in decided if ask.enforce[i])
        for i in decided:
            decision = alone[i]
            is_spent = go and decision.allowed and i in ask.spent
            seen = decision if is_spent else gcra.decide(limits[i], tats[i], now, cost=0)
            expected += [decision.allowed, seen.remaining, decision.retry_after_us or 0, seen.reset_us]
            if is_spent or (tats[i] or 0) > now + limits[i].drain_us:  # fuller than full is kept as full
                tats[i] = seen.tat_us
        assert answers == expected
    for i, key in enumerate(keys):
        held = await store.execute(key, "GET", key)
        assert held is None or int(held) == tats[i]  # forgotten, or to the last digit
