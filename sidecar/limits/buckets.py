"""Which limits does a request meet, and what do they say to it? Buckets in the store, and their words in HTTP.

Its law: a request's buckets are decided together, in the store, by the store's clock; spent all or none. What was spent
can be given back by its ticket. Never decides by itself: when the store is away, StoreAwayError reaches the caller.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sidecar.config import model
from sidecar.config.units import Rate
from sidecar.errors import LimitState, StoreAwayError
from sidecar.limits.gcra import Limit
from sidecar.limits.local import Local
from sidecar.store.client import Script, Store
from sidecar.store.names import Names

_GCRA: Final = Script.load(Path(__file__).with_name("gcra.lua"))
# Longer than any message is under way.
_REFUNDED_MS: Final = 3_600_000
# What gcra.lua answers per bucket: allowed, remaining, retry, reset.
_ANSWERS: Final = 4
# So many full buckets are remembered, some 20 MB; a flood from more addresses asks the store again for the oldest.
_MOST_FULL: Final = 65_536
# How long a full bucket is believed to be full without asking again: another process may have given back to it.
_BELIEVED_S: Final = 10.0

# What follows a bucket's name where it is remembered as one that demands a captcha.
_DEMAND: Final = " captcha"


@dataclass(frozen=True, slots=True, eq=False)
class Meter:
    """What all buckets of one limit have in common, worked out once for a configuration.

    `prefix`: how the names of its buckets begin in the store; `ticket`: how what gives back to them begins. `looks` and
    `takes`: what gcra.lua is told to look at one, or to take from it, and then the same for a request that has solved a
    captcha. `spare_us`: so many microseconds before a bucket is empty it takes another one. A meter that `demands` a
    captcha does so where an enforcing one would refuse; once it is solved, the bucket takes one when it can, and
    demands nothing more.
    """

    name: str
    count: int
    period_s: float
    enforce: bool
    demands: bool
    limit: Limit
    prefix: str
    ticket: str
    looks: tuple[str, str]
    takes: tuple[str, str]
    spare_us: int

    @classmethod
    def of_rate(
        cls,
        name: str,
        rate: Rate,
        names: Names,
        *,
        burst: int | None = None,
        enforce: bool = True,
        demands: bool = False,
    ) -> Self:
        """Make it of a rate; a bucket takes `burst` at once, or the rate's whole count. Raises ValueError as Limit."""
        limit = Limit.of_rate(rate.count, rate.period_s, burst or rate.count)
        enforce = enforce and not demands
        words = [f"{limit.interval_us} {limit.burst} {refuses:d}" for refuses in (enforce or demands, enforce)]
        return cls(
            name=name,
            count=rate.count,
            period_s=rate.period_s,
            enforce=enforce,
            demands=demands,
            limit=limit,
            prefix=names.bucket(name, ""),
            ticket=f"{limit.interval_us}:",
            looks=(f"look {words[0]}", f"look {words[1]}"),
            takes=(f"take {words[0]}", f"take {words[1]}"),
            spare_us=(limit.burst - 1) * limit.interval_us,
        )

    @classmethod
    def of(cls, name: str, limit: model.Limit, names: Names, *, enforce: bool = True) -> Self:
        """Make it of [limits.NAME]; with `enforce=False` it refuses nothing. Raises ValueError as Limit."""
        return cls.of_rate(
            name,
            limit.rate,
            names,
            burst=limit.burst,
            enforce=enforce and limit.mode == "enforce",
            demands=limit.mode == "captcha",
        )

    def bucket(self, hashed: str) -> "Bucket":
        """Give the bucket for a hashed value of the limit's key."""
        return Bucket(self, self.prefix + hashed)

    def state(self, remaining: int, reset_s: float) -> LimitState:
        """Describe one of its buckets as the RateLimit fields tell it."""
        return LimitState(self.name, self.count, self.period_s, remaining, reset_s)


@dataclass(slots=True, eq=False)  # not frozen: it is made for every request
class Bucket:
    """One limit for one key value. `key` is its name in the store, where the value is hashed."""

    meter: Meter
    key: str

    def ticket(self) -> str:
        """Write what gives one back, for `Buckets.refund`; opaque, and safe to store."""
        return self.meter.ticket + self.key


@dataclass(slots=True)  # not frozen: it is made for every request
class Ruling:
    """What a request's buckets say together.

    `retry_after_s`: until every bucket that refused would take one; 0 when allowed. `refused`: when an enforcing bucket
    refused, the states of all of them, those that refused first. `demanded`: the names of full buckets that demand a
    captcha; where nothing is refused, it is all that is missing. `observed`: the names of observing buckets that would
    have refused. `spent`: the buckets that one was taken from here, and only those, each with the microseconds until it
    is empty; none after a peek or a refusal. `is_alone`: this process decided, as the store is away.
    """

    allowed: bool
    retry_after_s: float = 0.0
    refused: tuple[LimitState, ...] = ()
    observed: tuple[str, ...] = ()
    demanded: tuple[str, ...] = ()
    spent: tuple[tuple[Bucket, int], ...] = ()
    is_alone: bool = False

    @property
    def tickets(self) -> tuple[str, ...]:
        """What gives back what was spent, in the order of the buckets."""
        return tuple([bucket.ticket() for bucket, _ in self.spent])

    @property
    def again_in_s(self) -> float:
        """Seconds until every enforcing bucket would take one more: once the others in it leave room."""
        again_us = 0
        for bucket, reset_us in self.spent:
            if bucket.meter.enforce and reset_us - bucket.meter.spare_us > again_us:
                again_us = reset_us - bucket.meter.spare_us
        return again_us / 1e6


class Buckets:
    """The leaky buckets of one store. `clock`: seconds of a monotonic clock; `instances`: how many share the store."""

    def __init__(
        self, store: Store, clock: Callable[[], float] = time.monotonic, instances: Callable[[], int] = lambda: 1
    ) -> None:
        self._store = store
        self._clock = clock
        self._instances = instances
        self._local = Local()
        # Buckets that the store has called full, the oldest news first: name -> until when that is believed, when it
        # takes one, when it is empty.
        self._full: dict[str, tuple[float, float, float]] = {}

    @property
    def has_full(self) -> bool:
        """True while some bucket is known to be full; else nobody need name one to ask `full`."""
        return bool(self._full)

    def full(self, buckets: Iterable[Bucket]) -> Ruling | None:
        """Refuse without asking the store: None unless it has called an enforcing bucket full until later than now.

        The ruling's `refused` holds the states of the full ones alone. A bucket is forgotten here once the store would
        take one again, when this process gives back to it, and after ten seconds, as another one may have given back.
        """
        now = self._clock()
        refused = []
        retry_after_s = 0.0
        for bucket in buckets:
            known = self._full.get(bucket.key)
            if known is None or not bucket.meter.enforce:
                continue
            believed_until, takes_at, empty_at = known
            if believed_until <= now:
                del self._full[bucket.key]
                continue
            refused.append(bucket.meter.state(0, empty_at - now))
            retry_after_s = max(retry_after_s, takes_at - now)
        return Ruling(False, retry_after_s, tuple(refused)) if refused else None

    def demanding(self, buckets: Iterable[Bucket]) -> tuple[str, ...]:
        """Name the buckets that demand a captcha, as far as that is known without the store: as `full` has it."""
        if not self._full:
            return ()
        now = self._clock()
        known = [(bucket.meter, self._full.get(f"{bucket.key}{_DEMAND}")) for bucket in buckets]
        return tuple([meter.name for meter, one in known if meter.demands and one is not None and one[0] > now])

    async def peek(self, buckets: Sequence[Bucket]) -> Ruling:
        """Tell what `spend` would say now, and take nothing."""
        return await self.spend((), looking_at=buckets)

    async def spend(
        self,
        buckets: Sequence[Bucket],
        *,
        looking_at: Sequence[Bucket] = (),
        giving_back: Sequence[str] = (),
        is_solved: bool = False,
        may_decide_alone: bool = False,
    ) -> Ruling:
        """Take one from every bucket, or nothing from any; nothing either where one of `looking_at` would refuse.

        `giving_back`: tickets that are refunded in the same step, beforehand and whatever is ruled. `is_solved`: a
        captcha was solved, so none is demanded. One step in the store for all of it; while the store is away, this
        process's own buckets decide where they may.
        """
        keys, words = _of_tickets(giving_back)
        given = len(keys)
        for bucket in looking_at:
            keys.append(bucket.key)
            words.append(bucket.meter.looks[is_solved])
        for bucket in buckets:
            keys.append(bucket.key)
            words.append(bucket.meter.takes[is_solved])
        if not keys:
            return Ruling(allowed=True)
        if len(set(keys[given:])) < len(keys) - given:  # seldom
            looking_at, buckets = _once_each(looking_at, buckets)
            return await self.spend(
                buckets,
                looking_at=looking_at,
                giving_back=giving_back,
                is_solved=is_solved,
                may_decide_alone=may_decide_alone,
            )
        asked_at: float | None = self._clock()
        try:
            answer = await self._store.run(_GCRA, keys, words)
        except StoreAwayError:
            if not may_decide_alone:
                raise
            asked_at = None
            answer = self._alone(giving_back, looking_at, buckets, is_solved=is_solved)
        finally:
            if given:
                self._forget(keys[:given])
        return self._ruling(looking_at, buckets, answer[1 + given :], asked_at, is_solved=is_solved)

    def _alone(
        self, giving_back: Sequence[str], looked: Sequence[Bucket], spent: Sequence[Bucket], *, is_solved: bool
    ) -> list[int]:
        """Answer as gcra.lua would, of this process's own buckets."""
        instances = self._instances()
        for ticket in giving_back:
            interval, _, key = ticket.partition(":")
            self._local.give_back(key, int(interval), instances)
        asked = [
            (bucket.key, bucket.meter.limit, bucket.meter.enforce or (bucket.meter.demands and not is_solved))
            for bucket in (*looked, *spent)
        ]
        now, *said = self._local.spend(asked, len(looked), int(self._clock() * 1_000_000), instances)
        return [now, *[0] * len(giving_back), *said]

    async def refund(self, tickets: Sequence[str], once: str = "") -> None:
        """Give back what was spent. Each ticket once: given twice, it lets one more through.

        `once`: what they were spent for; they are then given back once, however often this is asked within the hour.
        """
        if not once:
            await self.spend((), giving_back=tickets)
            return
        if not tickets:
            return
        keys, back = _of_tickets(tickets)
        try:
            mark = self._store.names.refunded(once)
            await self._store.run(_GCRA, [mark, *keys], [f"once {_REFUNDED_MS}", *back])
        finally:
            self._forget(keys)

    def _ruling(
        self,
        looked: Sequence[Bucket],
        spent: Sequence[Bucket],
        answer: Sequence[int],
        asked_at: float | None,
        *,
        is_solved: bool,
    ) -> Ruling:
        """Read what the script answered of the buckets.

        `asked_at`: when the store was asked; None where this process decides alone, and full buckets are none that the
        store calls so.
        """
        is_alone = asked_at is None
        decided = (*looked, *spent)
        takes, resets = answer[::_ANSWERS], answer[3::_ANSWERS]
        if 0 not in takes:  # as mostly
            return Ruling(True, spent=tuple(zip(decided, resets, strict=True))[len(looked) :], is_alone=is_alone)
        observed, demanded, taken = [], [], []
        refused = False
        retry_us = 0
        for number, (bucket, takes_one) in enumerate(zip(decided, takes, strict=True)):
            meter, retry, reset = bucket.meter, answer[number * _ANSWERS + 2], resets[number]
            if takes_one:
                if number >= len(looked):
                    taken.append((bucket, reset))
            elif meter.enforce:
                refused = True
                retry_us = max(retry_us, retry)
                # From when it was asked, which is before the store looked: never later than the truth.
                self._remember(bucket.key, asked_at, retry / 1e6, reset / 1e6)
            elif not meter.demands:
                observed.append(meter.name)
            elif not is_solved:
                demanded.append(meter.name)
                # Apart from what refuses: other meters may see more room in the same bucket.
                self._remember(f"{bucket.key}{_DEMAND}", asked_at, retry / 1e6, reset / 1e6)
        if demanded and not refused:
            return Ruling(False, observed=tuple(observed), demanded=tuple(demanded), is_alone=is_alone)
        if not refused:
            return Ruling(True, observed=tuple(observed), spent=tuple(taken), is_alone=is_alone)
        states: tuple[list[LimitState], list[LimitState]] = ([], [])
        for number, bucket in enumerate(decided):
            if bucket.meter.enforce:
                allowed, remaining, _, reset = answer[number * _ANSWERS : (number + 1) * _ANSWERS]
                states[allowed].append(bucket.meter.state(remaining, reset / 1e6))
        return Ruling(
            False, retry_us / 1e6, (*states[0], *states[1]), tuple(observed), tuple(demanded), is_alone=is_alone
        )

    def _remember(self, key: str, asked_at: float | None, takes_in_s: float, empty_in_s: float) -> None:
        if asked_at is None:
            return
        self._full.pop(key, None)
        self._full[key] = (asked_at + min(takes_in_s, _BELIEVED_S), asked_at + takes_in_s, asked_at + empty_in_s)
        if len(self._full) > _MOST_FULL:
            del self._full[next(iter(self._full))]

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._full.pop(key, None)
            self._full.pop(f"{key}{_DEMAND}", None)


def _once_each(looked: Sequence[Bucket], spent: Sequence[Bucket]) -> tuple[list[Bucket], list[Bucket]]:
    """Name each bucket once: those that are only looked at, and those that are spent.

    One that is named twice in a request counts once, as its strictest name says, and is spent if one of its names is.
    """
    strictest: dict[str, Bucket] = {}
    for bucket in (*spent, *looked):
        strictest[bucket.key] = _stricter(strictest.get(bucket.key, bucket), bucket)
    keys = {bucket.key for bucket in spent}
    return (
        [bucket for key, bucket in strictest.items() if key not in keys],
        [bucket for key, bucket in strictest.items() if key in keys],
    )


def _stricter(one: Bucket, other: Bucket) -> Bucket:
    return one if one.meter.enforce or (one.meter.demands and not other.meter.enforce) else other


def _of_tickets(tickets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Read tickets: the buckets' names, and what gcra.lua is told to give back to each."""
    keys, words = [], []
    for ticket in tickets:
        interval, _, key = ticket.partition(":")
        keys.append(key)
        words.append(f"back {interval}")
    return keys, words


def rate_limit_fields(states: Iterable[LimitState]) -> list[tuple[str, str]]:
    """Write the fields RateLimit-Policy and RateLimit; none without states. draft-ietf-httpapi-ratelimit-headers-10.

    Lists of strings with parameters (RFC 9651): q quota, w its window in seconds; r remaining, t seconds until all of
    it is there again. Sooner than t some of it may be: Retry-After says when.
    """
    states = tuple(states)
    if not states:
        return []
    policies = ", ".join(f"{_string(s.name)};q={s.quota};w={math.ceil(s.window_s)}" for s in states)
    limits = ", ".join(f"{_string(s.name)};r={s.remaining};t={math.ceil(s.reset_s)}" for s in states)
    return [("RateLimit-Policy", policies), ("RateLimit", limits)]


def _string(text: str) -> str:
    # RFC 9651 section 3.3.3: a string is printable ASCII; a limit's name may be any TOML key.
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
