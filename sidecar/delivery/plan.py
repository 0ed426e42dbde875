"""Which providers, in what order, each started when? Pure.

A rule's providers in its own order, one `switch_after` apart. What is silent is given that long; what is sure to have
failed is followed at once (`send.py`), which is why even those that silence could not reach by the deadline stay in.
Those whose breaker is open are left out, but never all of them: a message that was accepted is owed a try, so when
every breaker is open all are asked, the one first that is to be probed soonest.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sidecar.config.model import Delivery
from sidecar.recipient import Recipient

_NONE: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try on one provider, `offset_s` seconds after the first if all those before it are silent."""

    provider: str
    offset_s: float


def choose(rules: Sequence[Delivery], recipient: Recipient) -> Delivery | None:
    """Find the first rule that matches the recipient; one with no condition matches all. None: nobody may be asked."""
    return next((rule for rule in rules if not rule.countries or recipient.country in rule.countries), None)


def plan(rule: Delivery, usable: Container[str], broken: Mapping[str, int] = _NONE) -> tuple[Attempt, ...]:
    """Order the rule's providers that are usable for this message.

    `broken` are those whose breaker says no, and until when, in any unit.
    """
    names = [name for name in dict.fromkeys(rule.providers) if name in usable]
    whole = [name for name in names if name not in broken] or sorted(names, key=lambda name: broken[name])
    return tuple(Attempt(name, i * rule.switch_after) for i, name in enumerate(whole))
