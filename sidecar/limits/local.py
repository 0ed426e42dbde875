"""What do buckets say while the store is away? This process's own, in memory, in the words of `gcra.lua`'s answer.

For `guard` routes with `store.on_failure = "local"` alone. Each instance takes its share: a limit is divided by the
instances that were last seen. Nothing of it outlives the outage in the store, and a token that was used here may be
used once at each other instance: that is the price of serving at all, and why it takes a word in the configuration.
"""

from collections.abc import Sequence
from typing import Final

from sidecar.limits.gcra import Decision, Limit, decide

# So many buckets, some 20 MB. Beyond it the one that was asked for longest ago is forgotten: whoever has so many
# addresses is held by no limit on them.
MOST: Final = 65_536

# A bucket here: its name in the store, its limit, and whether its refusal refuses everything.
LocalBucket = tuple[str, Limit, bool]


def share(limit: Limit, instances: int) -> Limit:
    """One of so many instances' share of a limit: a slower leak, and a smaller burst, but never less than one."""
    instances = max(1, instances)
    return Limit(min(limit.interval_us * instances, _LONGEST_US), max(1, limit.burst // instances))


# With a burst of one, what a bucket of a century's drain may have.
_LONGEST_US: Final = 100 * 365 * 86_400_000_000


class Local:
    """Buckets in this process's memory. Times in microseconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._tats: dict[str, int] = {}

    def spend(self, buckets: Sequence[LocalBucket], looked: int, now_us: int, instances: int) -> list[int]:
        """Decide on buckets together: the first `looked` are looked at only, of the others one is taken, or of none.

        Answers as gcra.lua does: now, then of each bucket allowed, remaining, retry and reset.
        """
        shares = [(key, share(limit, instances), refuses) for key, limit, refuses in buckets]
        would = [decide(limit, self._tats.get(key), now_us) for key, limit, _ in shares]
        is_refused = any(one[2] and not decision.allowed for one, decision in zip(shares, would, strict=True))
        answer = [now_us]
        for number, ((key, limit, _), decision) in enumerate(zip(shares, would, strict=True)):
            after = decision
            if number < looked or is_refused or not decision.allowed:
                after = decide(limit, self._tats.get(key), now_us, cost=0)
            else:
                self._keep(key, after)
            answer += [int(decision.allowed), after.remaining, decision.retry_after_us or 0, after.reset_us]
        return answer

    def give_back(self, key: str, interval_us: int, instances: int) -> None:
        """Give one back to a bucket."""
        if key in self._tats:
            self._tats[key] -= interval_us * max(1, instances)

    def _keep(self, key: str, decision: Decision) -> None:
        self._tats.pop(key, None)
        self._tats[key] = decision.tat_us
        if len(self._tats) > MOST:
            del self._tats[next(iter(self._tats))]
