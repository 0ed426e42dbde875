"""Whose messages really arrive? What was seen of each provider, weighed into an order. Pure.

docs/routing.md tells the formula and why. All counts fade by half in every `HALF_LIFE_S`, so that what was seen long
ago counts for little, and a provider that nobody asks is as good as new after a while.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

HALF_LIFE_S: Final = 600.0
# As much as this many messages seen: what a provider starts with, and drifts back to.
PRIOR: Final = 5.0
# How much better a provider must be to pass the one before it: the rule's order is somebody's choice (it may be the
# price), and noise shall not undo it.
MARGIN: Final = 0.05
# How many messages in a hundred begin with another provider, to find out how it does.
EXPLORE: Final = 0.02


@dataclass(slots=True)  # not frozen: it is made for every attempt
class Seen:
    """Faded counts of one provider in one segment.

    Of `tried` attempts, `in_time` were accepted before the next provider would have started. Of `due` accepted messages
    whose time to be confirmed is over, `confirmed` were, by a receipt or by the right code.
    """

    tried: float = 0.0
    in_time: float = 0.0
    due: float = 0.0
    confirmed: float = 0.0

    def plus(self, other: "Seen") -> "Seen":
        """What both have seen, at the same time."""
        return Seen(
            self.tried + other.tried,
            self.in_time + other.in_time,
            self.due + other.due,
            self.confirmed + other.confirmed,
        )

    def faded(self, after_s: float) -> "Seen":
        """The same, so many seconds later."""
        left = 0.5 ** (max(0.0, after_s) / HALF_LIFE_S)
        return Seen(self.tried * left, self.in_time * left, self.due * left, self.confirmed * left)


def scores(names: Sequence[str], seen: Mapping[str, Seen]) -> dict[str, float]:
    """How likely each one's message arrives in time, 0 to 1.

    People do not type every code that reaches them: what share is confirmed is measured on all providers together, and
    a provider is worse only if less of its messages are.
    """
    of = {name: seen.get(name, Seen()) for name in names}
    # The best of them shows how many people confirm at all; what nobody has seen is left out.
    usual = max(((one.confirmed + 1.0) / (one.due + 1.0 + PRIOR) for one in of.values() if one.due >= 1.0), default=1.0)
    return {
        name: (one.in_time + PRIOR)
        / (one.tried + PRIOR)
        * min(1.0, (one.confirmed / usual + PRIOR) / (one.due + PRIOR))
        for name, one in of.items()
    }


def adaptive(names: Sequence[str], seen: Mapping[str, Seen], draw: Callable[[], float]) -> list[str]:
    """Order providers by what was seen of them. `draw` gives a number from 0 to 1, 1 excluded, each time another."""
    if len(names) < 2:
        return list(names)
    scored = scores(names, seen)
    # When all are bad none is better: the order stays as the rule has it.
    order = sorted(names, key=lambda name: MARGIN * names.index(name) - scored[name])
    if draw() < EXPLORE:
        other = order[1 + int(draw() * (len(order) - 1))]
        order.remove(other)
        order.insert(0, other)
    return order


def weighted(names: Sequence[str], weights: Mapping[str, float], draw: Callable[[], float]) -> list[str]:
    """Draw providers one by one, each as often as its weight says; 1 where there is none."""
    left, order = list(names), []
    while left:
        at = draw() * sum(weights.get(name, 1.0) for name in left)
        for name in left:
            at -= weights.get(name, 1.0)
            if at < 0:
                break
        order.append(name)
        left.remove(name)
    return order
