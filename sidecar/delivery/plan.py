"""Which providers, in what order? Pure.

A rule's providers in its own order; `send.py` knows when each is started. Those whose breaker is open are left out,
but never all of them: a message that was accepted is owed a try, so when every breaker is open all are asked, the one
first that is to be probed soonest.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sidecar.config.model import Delivery
from sidecar.recipient import UNKNOWN

_NONE: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may ask of a message. `operator` and `province` are "unknown" where no rule asks for them."""

    country: str
    channel: str
    locale: str  # the one language that is wanted most, BCP 47
    operator: str = UNKNOWN
    province: str = UNKNOWN


def choose(rules: Sequence[Delivery], facts: Facts) -> Delivery | None:
    """Find the first rule that matches; one with no condition matches all. None: nobody may be asked."""
    return next((rule for rule in rules if _matches(rule, facts)), None)


def plan(
    rule: Delivery, usable: Container[str], broken: Mapping[str, int] = _NONE, order: Sequence[str] = ()
) -> tuple[str, ...]:
    """Order the rule's providers that are usable for this message.

    `order` is the strategy's, and the rule's own where it is not given. `broken` are those whose breaker says no, and
    until when, in any unit.
    """
    names = [name for name in dict.fromkeys(order or rule.providers) if name in usable]
    if not broken:
        return tuple(names)
    return tuple([name for name in names if name not in broken] or sorted(names, key=lambda name: broken[name]))


def _matches(rule: Delivery, facts: Facts) -> bool:
    return (
        (not rule.countries or facts.country in rule.countries)
        and (not rule.operators or facts.operator in rule.operators)
        and (not rule.provinces or facts.province in rule.provinces)
        and (not rule.channels or facts.channel in rule.channels)
        and (not rule.locales or any(_in_range(facts.locale, language) for language in rule.locales))
    )


def _in_range(locale: str, language: str) -> bool:
    """Basic filtering, RFC 4647 section 3.3.1: "zh" takes zh and zh-Hant, and not zhx."""
    return f"{locale}-".lower().startswith(f"{language}-".lower())
