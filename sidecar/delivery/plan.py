"""Which providers, in what order, each started when? Pure.

A rule's providers in its own order, one `switch_after` apart. What is silent is given that long; what is sure to have
failed is followed at once (`send.py`), which is why even those that silence could not reach by the deadline stay in.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from sidecar.config.model import Delivery
from sidecar.recipient import Recipient


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try on one provider, `offset_s` seconds after the first if all those before it are silent."""

    provider: str
    offset_s: float


def choose(rules: Sequence[Delivery], recipient: Recipient) -> Delivery | None:
    """Find the first rule that matches the recipient; one with no condition matches all. None: nobody may be asked."""
    return next((rule for rule in rules if not rule.countries or recipient.country in rule.countries), None)


def plan(rule: Delivery, usable: Container[str]) -> tuple[Attempt, ...]:
    """Order the rule's providers, leaving out those that are not usable for this message."""
    names = [name for name in dict.fromkeys(rule.providers) if name in usable]
    return tuple(Attempt(name, i * rule.switch_after) for i, name in enumerate(names))
