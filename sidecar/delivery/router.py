"""Through whom does a message go, and what is learnt from it? Rule, plan and race, with breakers and rates around them.

`courier` uses it for what is in the outbox, and the command `send` for one test message: both send alike. It keeps no
message and knows no verification.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from sidecar import language, numbering
from sidecar.config.model import Delivery
from sidecar.delivery import plan, score
from sidecar.delivery.breakers import Breakers, Key
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, Provider, Rejected
from sidecar.delivery.rates import Rates
from sidecar.delivery.receipts import with_ref
from sidecar.delivery.score import Seen
from sidecar.delivery.send import HELD, Attempted, Heard, Race
from sidecar.delivery.sightings import Sightings
from sidecar.recipient import UNKNOWN, Channel, Phone, Recipient

# What a probe has beside its attempt's own time before another may be sent.
_PROBE_MARGIN_S: Final = 2.0
# Refusals that say nothing against the provider: it works, and does not send to this number.
_ABOUT_THE_NUMBER: Final = frozenset({"number_invalid", "number_unsupported", "number_blocked", "number_frequency"})
# What an attempt shows of its provider.
_IN_TIME: Final = Seen(tried=1.0, in_time=1.0)
_LATE: Final = Seen(tried=1.0)
# Kinds of messages (country, channel, language, operator, province) whose way is remembered: a configuration says
# what it is, and a deployment meets few of them.
_WAYS: Final = 4096


@dataclass(frozen=True, slots=True)
class Way:
    """Who may take a message: the rule, and its providers that carry the recipient's channel."""

    rule: Delivery
    usable: tuple[str, ...]
    segment: str
    keys: Mapping[str, Key]  # of each provider's breaker


class Router:
    """The providers and rules of one configuration."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        rules: Sequence[Delivery],
        breakers: Breakers,
        rates: Rates,
        sightings: Sightings,
        draw: Callable[[], float],
        callback_urls: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        self._providers = providers
        self._rules = rules
        self._breakers = breakers
        self._rates = rates
        self._sightings = sightings
        self._draw = draw
        self._callback_urls = callback_urls
        self._way = functools.lru_cache(_WAYS)(self._found)
        self._counts_sightings = any(rule.strategy == "adaptive" for rule in rules)
        self._asks_operator = any(rule.operators for rule in rules)
        self._asks_province = any(rule.provinces for rule in rules)
        # The data is slow to load: now, and not while the first message waits.
        probe = Phone("+8613000000000", "CN", "mobile")
        if self._asks_operator:
            numbering.operator(probe)
        if self._asks_province:
            numbering.province(probe)

    def way(self, recipient: Recipient, locale: str, via: str | None = None) -> Way | None:
        """Find who may take it; None when no rule matches. `via` asks that provider alone."""
        operator = numbering.operator(recipient) if self._asks_operator else UNKNOWN
        province = numbering.province(recipient) if self._asks_province else UNKNOWN
        return self._way(recipient.country, recipient.channel, language.first(locale), operator, province, via)

    def _found(
        self, country: str, channel: Channel, spoken: str, operator: str, province: str, via: str | None
    ) -> Way | None:
        rule = plan.choose(self._rules, plan.Facts(country, channel, spoken, operator, province))
        if via is not None:
            rule = (rule or Delivery(providers=(via,))).model_copy(update={"providers": (via,)})
        if rule is None:
            return None
        usable = tuple(name for name in dict.fromkeys(rule.providers) if channel in self._providers[name].channels)
        segment = country if operator in {"", UNKNOWN} else f"{country}/{operator}"
        return Way(rule, usable, segment, {name: Key(name, segment) for name in usable})

    def sent(
        self,
        way: Way,
        message: Message,
        left_s: float,
        record: Callable[[Attempted], None],
        *,
        heard: Heard | None = None,
        leave_out: Collection[str] = (),
        later: Mapping[str, float] = MappingProxyType({}),
        refusals: int = 0,
        one_more: bool = False,
    ) -> Race:
        """Race the message, which is worth sending for `left_s` more seconds, and learn from every attempt.

        `record` is told of those that were made. `leave_out` are not asked, `later` not before so many seconds.
        `refusals`: how often it was refused for now in earlier races. `one_more`: somebody may have the message, so one
        provider is asked, and no others but those that follow a sure failure.
        """
        rule = way.rule
        broken = self._broken(way)
        order = self._order(way)
        generations: dict[str, int] = {}  # of the breakers, that the attempts have started under
        held_back = later
        if broken or later or leave_out:
            usable = [name for name in way.usable if name not in leave_out]
            order = plan.plan(rule, [name for name in usable if name not in later], broken, order)
            # An open breaker keeps a provider out of the plan, not out of the message's life.
            now_ms = self._breakers.now_ms()
            back = {name: (broken[name] - now_ms) / 1000 for name in usable if name in broken and name not in order}
            held_back = back | {name: max(later[name], back.get(name, 0.0)) for name in usable if name in later}

        async def turn(provider: str, deadline: float, patience_s: float) -> bool:
            """Ask the breaker when an attempt begins, claim the probe of one that may be probed; then wait in line."""
            key = way.keys[provider]
            breaker = self._breakers.of(key)
            if breaker.state != "closed" and self._breakers.may_be_probed(breaker):
                probed = await self._breakers.probe(key, probe_s(rule))
                # Another message has the probe. Where there is nobody else to ask, this one goes too.
                if probed is None and len(order) > 1:
                    return False
                breaker = probed or self._breakers.of(key)
            generations[provider] = breaker.generation
            return await self._rates.turn(provider, deadline, patience_s)

        def learn_and_record(attempted: Attempted) -> None:
            if attempted.outcome is not HELD:
                self._learn(way, attempted, generations[attempted.provider])
                record(attempted)

        return Race(
            order,
            lambda provider, timeout_s: self._providers[provider].send(self._reporting(provider, message), timeout_s),
            switch_after_s=rule.switch_after,
            attempt_timeout_s=rule.attempt_timeout,
            deadline_s=min(rule.deadline, left_s),
            record=learn_and_record,
            turn=turn,
            heard=heard,
            switch=rule.on_silence == "switch" and not one_more,
            later=held_back,
            refusals=refusals,
            # Who waits holds one of the courier's few leases: not for a provider that is known to be broken.
            waits=not broken or not any(name in broken for name in order),
        )

    def confirmed(self, provider: str, recipient: Recipient, locale: str, *, was: bool) -> None:
        """Learn whether a message that this provider accepted was confirmed in time."""
        way = self.way(recipient, locale)
        if way is not None:
            self._sightings.add(provider, way.segment, Seen(due=1.0, confirmed=float(was)))

    def _reporting(self, provider: str, message: Message) -> Message:
        url = self._callback_urls.get(provider)
        return replace(message, callback_url=with_ref(url, message.id)) if url else message

    def _order(self, way: Way) -> Sequence[str]:
        """The rule's providers as its strategy has them."""
        match way.rule.strategy:
            case "priority":
                return way.usable
            case "weighted":
                return score.weighted(way.usable, way.rule.weights, self._draw)
            case "adaptive":
                return score.adaptive(way.usable, self._sightings.of(way.usable, way.segment), self._draw)

    def _broken(self, way: Way) -> dict[str, int]:
        """Whom the breakers keep from being asked, and until when. One that may be probed is not among them."""
        found = {}
        for name, key in way.keys.items():
            breaker = self._breakers.of(key)
            if breaker.state != "closed" and not self._breakers.may_be_probed(breaker):
                found[name] = breaker.until_ms
        return found

    def _learn(self, way: Way, attempted: Attempted, generation: int) -> None:
        provider = attempted.provider
        accepted, fine = isinstance(attempted.outcome, Accepted), is_fine(attempted.outcome)
        if self._counts_sightings and (accepted or not fine):
            in_time = accepted and attempted.seconds <= way.rule.switch_after
            self._sightings.add(provider, way.segment, _IN_TIME if in_time else _LATE)
        rules = way.rule.breaker
        self._breakers.record(
            way.keys[provider],
            generation,
            fine=fine,
            failures=rules.failures,
            open_for_s=rules.open_for,
        )


def probe_s(rule: Delivery) -> float:
    """How long a probe may be under way by this rule."""
    return rule.attempt_timeout + _PROBE_MARGIN_S


def is_fine(outcome: Outcome) -> bool:
    """True when the provider did its work: it took the message, or refused the number and not us."""
    return isinstance(outcome, Accepted) or (isinstance(outcome, Rejected) and outcome.fault in _ABOUT_THE_NUMBER)
