"""Through whom does a message go, and what is learnt from it? Rule, plan and race, with breakers and rates around them.

`courier` uses it for what is in the outbox, and the command `send` for one test message: both send alike. It keeps no
message and knows no verification.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from sidecar import language, numbering
from sidecar.config.model import Delivery
from sidecar.delivery import plan, score
from sidecar.delivery.breakers import Breakers, Key
from sidecar.delivery.outbox import NO_PAST, Past
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
        past: Past = NO_PAST,
        now: float = 0.0,
    ) -> Race:
        """Race the message, which is worth sending for `left_s` more seconds, and learn from every attempt.

        `record` is told of those that were made. `past`: what has become of it before `now`, in seconds since the
        epoch. Who may have the message, or refused it for good, is not asked; who refused for now, not before its time.
        Where somebody may have it, one provider is asked, and no others but those that follow a sure failure.
        """
        rule = way.rule
        broken = self._broken(way)
        order: Sequence[str] = way.usable if rule.strategy == "priority" else self._order(way)
        later: dict[str, float] = {}
        if broken or past is not NO_PAST:
            usable = [name for name in way.usable if name not in past.holders and name not in past.refused]
            waiting = {name: at - now for name, at in past.later.items() if at > now}
            order = plan.plan(rule, [name for name in usable if name not in waiting], broken, order)
            # An open breaker keeps a provider out of the plan, not out of the message's life.
            now_ms = self._breakers.now_ms()
            later = {name: (broken[name] - now_ms) / 1000 for name in usable if name in broken and name not in order}
            later |= {name: max(waiting[name], later.get(name, 0.0)) for name in usable if name in waiting}
        generations: dict[str, int] = {}  # of the breakers, that the attempts have started under
        return Race(
            order,
            functools.partial(self._send, message),
            switch_after_s=rule.switch_after,
            attempt_timeout_s=rule.attempt_timeout,
            deadline_s=min(rule.deadline, left_s),
            record=functools.partial(self._learn, way, generations, record),
            turn=functools.partial(self._turn, way, generations, len(order) > 1),
            heard=heard,
            switch=rule.on_silence == "switch" and not past.holders,
            later=later,
            refusals=past.refusals,
            # Who waits holds one of the courier's few leases: not for a provider that is known to be broken.
            waits=not broken or not any(name in broken for name in order),
        )

    def confirmed(self, provider: str, recipient: Recipient, locale: str, *, was: bool) -> None:
        """Learn whether a message that this provider accepted was confirmed in time."""
        way = self.way(recipient, locale)
        if way is not None:
            self._sightings.add(provider, way.segment, Seen(due=1.0, confirmed=float(was)))

    def _turn(
        self, way: Way, generations: dict[str, int], has_others: bool, provider: str, deadline: float, patience_s: float
    ) -> Awaitable[bool] | None:
        """Ask the breaker when an attempt begins; then it waits in line, where there is one. None: it may, at once."""
        breaker = self._breakers.of(way.keys[provider])
        generations[provider] = breaker.generation
        if breaker.state != "closed" and self._breakers.may_be_probed(breaker):
            return self._probe(way, generations, has_others, provider, deadline, patience_s)
        return self._rates.turn(provider, deadline, patience_s) if self._rates.limits(provider) else None

    async def _probe(
        self, way: Way, generations: dict[str, int], has_others: bool, provider: str, deadline: float, patience_s: float
    ) -> bool:
        """Claim the probe of a breaker that may be probed; then wait in line."""
        key = way.keys[provider]
        probed = await self._breakers.probe(key, probe_s(way.rule))
        # Another message has the probe. Where there is nobody else to ask, this one goes too.
        if probed is None and has_others:
            return False
        generations[provider] = (probed or self._breakers.of(key)).generation
        return await self._rates.turn(provider, deadline, patience_s)

    def _send(self, message: Message, provider: str, timeout_s: float) -> Awaitable[Outcome]:
        """Make one attempt; the vendor is told where to report to, where it takes an address with each message."""
        url = self._callback_urls.get(provider)
        if url:
            message = replace(message, callback_url=with_ref(url, message.id))
        return self._providers[provider].send(message, timeout_s)

    def _learn(
        self, way: Way, generations: Mapping[str, int], record: Callable[[Attempted], None], attempted: Attempted
    ) -> None:
        """Learn from an attempt that was made, and tell of it."""
        outcome = attempted.outcome
        if outcome is HELD:
            return
        provider, fine = attempted.provider, is_fine(outcome)
        if self._counts_sightings and (isinstance(outcome, Accepted) or not fine):
            in_time = fine and attempted.seconds <= way.rule.switch_after
            self._sightings.add(provider, way.segment, _IN_TIME if in_time else _LATE)
        rules = way.rule.breaker
        self._breakers.record(
            way.keys[provider],
            generations[provider],
            fine=fine,
            failures=rules.failures,
            open_for_s=rules.open_for,
        )
        record(attempted)

    def _order(self, way: Way) -> Sequence[str]:
        """The rule's providers as a strategy that draws has them."""
        if way.rule.strategy == "weighted":
            return score.weighted(way.usable, way.rule.weights, self._draw)
        return score.adaptive(way.usable, self._sightings.of(way.usable, way.segment), self._draw)

    def _broken(self, way: Way) -> dict[str, int]:
        """Whom the breakers keep from being asked, and until when. One that may be probed is not among them."""
        found = {}
        for name, key in way.keys.items():
            breaker = self._breakers.of(key)
            if breaker.state != "closed" and not self._breakers.may_be_probed(breaker):
                found[name] = breaker.until_ms
        return found


def probe_s(rule: Delivery) -> float:
    """How long a probe may be under way by this rule."""
    return rule.attempt_timeout + _PROBE_MARGIN_S


def is_fine(outcome: Outcome) -> bool:
    """True when the provider did its work: it took the message, or refused the number and not us."""
    return isinstance(outcome, Accepted) or (isinstance(outcome, Rejected) and outcome.fault in _ABOUT_THE_NUMBER)
