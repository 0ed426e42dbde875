"""May it happen again so soon? The generic cell rate algorithm: a leaky bucket kept as one point in time. Pure.

Its law: whole microseconds only, so that this file and `gcra.lua` agree to the last digit. The script decides on what
the store holds; this file says what that means, decides in `replay`, and is what property tests hold the script
against. It never reads a clock. ITU-T I.371 annex A calls it virtual scheduling.

The terms:
- count, period   what the rate says: `count` in every `period`, such as 20 in an hour.
- interval        the emission interval, period / count: how long one takes to leak out of the bucket (3 min).
- burst           how many an empty bucket takes at once.
- cost            how many one decision asks for; 1, or 0 to look only.
- TAT             the theoretical arrival time: when the bucket will be empty. No TAT, or one that is past: it is empty.

The level of a bucket is (TAT - now) / interval. A rate of 20/1h with burst 2, told in minutes:
1. At 0 the bucket is empty. One is allowed; TAT = 3, level 1, remaining 1.
2. At 0 again. TAT = 6, level 2, remaining 0.
3. At 1: TAT would be 9, which is 8 ahead, and a full bucket is 2 x 3 = 6 ahead. Refused; come again in 2.
4. At 3, just as told: TAT would be 9, which is 6 ahead. Allowed.
5. At 9 the bucket is empty, and the store forgets it.
"""

from dataclasses import dataclass
from typing import Final, Self

# Lua's numbers are doubles, whole up to 2^53 us, which is the year 2255. A century from now is still far below.
_MAX_DRAIN_US: Final = 100 * 365 * 86_400_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """What a bucket leaks and takes. Raises ValueError for one that does not leak, or takes a century to."""

    interval_us: int
    burst: int

    def __post_init__(self) -> None:
        if self.interval_us < 1 or self.burst < 1 or self.drain_us > _MAX_DRAIN_US:
            raise ValueError(
                f"a bucket of {self.burst} that loses one every {self.interval_us} us is out of range; "
                "expected 1 or more of each, and a full bucket that is empty within a century"
            )

    @property
    def drain_us(self) -> int:
        """How long a full bucket takes to be empty: how far ahead TAT can be."""
        return self.interval_us * self.burst

    @classmethod
    def of_rate(cls, count: int, period_s: float, burst: int) -> Self:
        """Read `count` in `period_s` seconds. A fraction of a microsecond is rounded to the patient side."""
        return cls(-(-round(period_s * 1_000_000) // count), burst)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a limit says at one moment. Times in microseconds.

    `remaining`, `reset_us` (until the bucket is empty) and `tat_us` describe the bucket after the decision.
    `retry_after_us` is 0 when allowed, and None when the cost can never fit.
    """

    allowed: bool
    remaining: int
    reset_us: int
    retry_after_us: int | None
    tat_us: int


def decide(limit: Limit, tat_us: int | None, now_us: int, cost: int = 1) -> Decision:
    """Decide on `cost` now, for a bucket that is empty at `tat_us`."""
    # A bucket is never more than full: after a clock was set back, or a limit made smaller, nobody waits longer than
    # the limit says. For that, whoever keeps TATs keeps the one given here, even where nothing was taken: the one that
    # was too far ahead would be as far ahead at the next look.
    tat_us = min(max(tat_us or 0, now_us), now_us + limit.drain_us)
    after_us = tat_us + cost * limit.interval_us
    early_us = after_us - limit.drain_us - now_us
    # It can never fit: even an empty bucket is too small.
    if cost > limit.burst:
        return Decision(False, _remaining(limit, tat_us, now_us), tat_us - now_us, None, tat_us)
    # It does not fit now: nothing is taken, and it fits once enough has leaked.
    if early_us > 0:
        return Decision(False, _remaining(limit, tat_us, now_us), tat_us - now_us, early_us, tat_us)
    # It fits.
    return Decision(True, _remaining(limit, after_us, now_us), after_us - now_us, 0, after_us)


def refund(limit: Limit, tat_us: int | None, now_us: int, cost: int = 1) -> int | None:
    """Give back what a decision took: the new TAT, or None for an empty bucket. What has leaked is not given twice."""
    after_us = (tat_us or 0) - cost * limit.interval_us
    return after_us if after_us > now_us else None


def _remaining(limit: Limit, tat_us: int, now_us: int) -> int:
    return (now_us + limit.drain_us - tat_us) // limit.interval_us
