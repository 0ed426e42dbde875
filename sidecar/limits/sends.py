"""What do sends come to that are never verified, and what do they cost? `[pumping]` and `[budget]`, at work on a store.

Its law: a send is judged and counted in one step in the store, by the store's clock; so is its verification, and what
is given back. It never decides by itself: when the store is away, StoreAwayError reaches the caller. Nothing of it is
asked where neither table stands in the configuration, for there is no `Sends` then.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from sidecar.client_key import client_key
from sidecar.config.model import Budget, Config, Delivery, Provider, Pumping, Route
from sidecar.errors import Refusal
from sidecar.events import BudgetReached, BudgetSpent, MessagePaid, SendSuspected, SuspectVerified, Tell
from sidecar.limits import pumping
from sidecar.limits.pumping import DAY_MS, RULES, Broken, Judged, PassedBy, Rule, Rules, Sending
from sidecar.recipient import Recipient
from sidecar.store.client import Script, Store

_PUMPING: Final = Script.load(Path(__file__).with_name("pumping.lua"))
_MILLIONTHS: Final = 1_000_000
# One answer for every rule: whoever is refused must not learn which one it was, nor when exactly there is room. It is a
# minute, for a person who tries again is mostly let in.
_AGAIN_S: Final = 60.0
# What the script says first of a send: now, entry, passed by, spent twice, alarms twice.
_FIRST: Final = 7
# The rules on money; all others are on what is never verified.
_BUDGETS: Final[tuple[Rule, ...]] = ("budget", "budget_country")
_PASSED_BY: Final[tuple[PassedBy, ...]] = ("", "number", "network", "reserve", "again")


class Prices:
    """What messages cost, in millionths of the budget's currency; 0 where a provider has no price."""

    def __init__(self, providers: Mapping[str, Provider], rules: Sequence[Delivery]) -> None:
        self._providers = providers
        self._rules = rules
        self.dearest = cache(self._dearest)

    def of(self, provider: str, country: str) -> int:
        """Tell what one message to a country costs at a provider."""
        prices = self._providers[provider].price
        return round(prices.get(country, prices.get("*", 0.0)) * _MILLIONTHS)

    def _dearest(self, country: str) -> int:
        """Tell the most that one provider may take, of those whom a delivery rule may ask for that country."""
        prices = [0]
        for rule in self._rules:
            if not rule.countries or country in rule.countries:
                prices += [self.of(name, country) for name in rule.providers]
                if not (rule.operators or rule.provinces or rule.channels or rule.locales):
                    break  # it takes every number of the country
        return max(prices)


class Sends:
    """The sends of one configuration. `hash` is keyed; `tell` hears what is suspected and what is spent."""

    def __init__(self, store: Store, config: Config, prices: Prices, hash_: Callable[[str], str], tell: Tell) -> None:
        self._store = store
        self._names = store.names
        self._pumping: Pumping = config.pumping
        self._budget: Budget = config.budget
        self._prices = prices
        self._hash = hash_
        self._tell = tell
        self.rules = rules_of(config.pumping)
        self._base = self._names.sends("")
        self._daily = _limit(config.budget.daily)
        self._by_country = {country: _limit(most) for country, most in config.budget.by_country.items()}
        # What the script is told of every send.
        self._constant = (
            pumping.KNOWN_MS,
            pumping.MOST_OPEN,
            pumping.MOST_ENTRIES,
            pumping.AGAIN_MS,
            self.rules.permille,
            self.rules.countries_per_ip,
            self.rules.ip_floor,
            *(int(value) for counter in self.rules.counted for value in counter),
        )

    def sending(self, recipient: Recipient, ip: str, route: Route) -> Sending | None:
        """Say what is to be judged of a send; None where nothing is: `[pumping]` is of numbers, `[budget]` of all."""
        country = recipient.country
        enforce = route.mode == "enforce"
        found = Sending(
            self._hash(recipient.identity),
            country,
            price=self._prices.dearest(country),
            daily=self._daily,
            by_country=self._by_country.get(country, -1),
            enforce=enforce and self._pumping.mode == "enforce",
            enforce_budget=enforce,
        )
        if self._pumping.mode != "off" and recipient.channel == "sms":
            number = recipient.address
            prefix, thousand, hundred, ten = (self._hash(number[:-digits]) for digits in (4, 3, 2, 1))
            found.ip = self._hash(client_key("ip", ip))
            found.network = self._hash(client_key("network", ip))
            ip_prefix = self._hash(client_key("ip_prefix", ip))
            found.names = pumping.names_of(country, (prefix, thousand, hundred, ten), ip_prefix)
        elif not found.price or not self._budget.is_set:
            return None
        return found

    def judge(
        self, sending: Sending, *, to: str, client: str, request_id: str, now_ms: int = 0
    ) -> Awaitable["SendRuling"]:
        """Judge a send, and count it unless it is refused. Asked at once. Raises StoreAwayError.

        `to` (masked), `client` and `request_id` are for the log. `now_ms`: milliseconds since the epoch, where the
        store's clock is not to say it.
        """
        keys = [self._base + f"number:{sending.number}", self._base + "money"]
        if sending.names:
            keys += [self._base + f"ip:{sending.ip}", self._base + sending.near]
            keys += [self._base + name for name in sending.names]
        arguments = (
            *self._first("judge", now_ms),
            int(sending.enforce),
            int(sending.enforce_budget),
            sending.country,
            sending.price,
            sending.daily,
            sending.by_country,
            *self._constant,
        )

        def read(answer: Sequence[int]) -> SendRuling:
            judged = _judged(answer)
            self._tell_of_money(sending, judged)
            return _send_ruling(sending, judged, to, client, request_id, self._tell)

        return self._store.run(_PUMPING, keys, arguments, read=read)

    def verified(self, number: str, now_ms: int = 0) -> Awaitable[tuple[int, int]]:
        """Count the open sends of a number (hashed) as verified. Asked at once, and nobody needs to await it.

        Gives how many there were, and how many of them were suspected and sent all the same.
        """
        keys = [self._base + f"number:{number}", self._base + "money"]
        return self._store.run(_PUMPING, keys, self._first("verified", now_ms), read=self._verified)

    async def give_back(self, ticket: str, now_ms: int = 0) -> None:
        """Undo a send that was not made after all, by its ticket; twice is once. Raises StoreAwayError."""
        number, entry, *_ = ticket.split(" ")
        keys = [self._base + f"number:{number}", self._base + "money"]
        await self._store.run(_PUMPING, keys, (*self._first("give_back", now_ms), entry))

    async def paid(self, ticket: str, country: str, providers: Iterable[str], *, is_first: bool) -> None:
        """Count what a message has cost: each of these providers took it, or may have.

        `is_first`: what was reserved when it was asked for has not been counted against yet. Raises StoreAwayError.
        """
        cost = 0
        for provider in providers:
            price = self._prices.of(provider, country)
            cost += price
            if price:
                self._tell(MessagePaid(provider=provider, country=country, amount=price / _MILLIONTHS))
        if not ticket:
            return
        number, _, day, _, reserved = ticket.split(" ")
        more = cost - int(reserved) if is_first else cost
        if more:
            keys = [self._base + f"number:{number}", self._base + "money"]
            await self._store.run(_PUMPING, keys, (*self._first("paid", 0), day, country, more))

    def _first(self, what: str, now_ms: int) -> tuple[str | int, ...]:
        return what, now_ms, self._base, self.rules.period_ms

    def _verified(self, answer: Sequence[int]) -> tuple[int, int]:
        _, sends, suspected = answer
        if suspected:
            self._tell(SuspectVerified(sends=suspected))
        return sends, suspected

    def _tell_of_money(self, sending: Sending, judged: Judged) -> None:
        if not sending.price:
            return
        budget = self._budget
        total, of_country = judged.spent
        self._tell(BudgetSpent(scope="daily", amount=total / _MILLIONTHS))
        if sending.by_country >= 0:
            self._tell(BudgetSpent(scope=sending.country, amount=of_country / _MILLIONTHS))
        for rule in judged.alarms:
            is_all = rule == "budget"
            self._tell(
                BudgetReached(
                    scope="daily" if is_all else sending.country,
                    spent=(total if is_all else of_country) / _MILLIONTHS,
                    budget=(sending.daily if is_all else sending.by_country) / _MILLIONTHS,
                    currency=budget.currency,
                )
            )


@dataclass(frozen=True, slots=True)
class SendRuling:
    """What a send's judgement means: a `ticket` to go on with, or a `refusal`.

    `reasons`: what it breaks, in the log's words, refused or not. `tell` says so, if that is what decides.
    """

    ticket: str
    refusal: Refusal | None
    reasons: tuple[str, ...]
    tell: Callable[[], None]


def _send_ruling(sending: Sending, judged: Judged, to: str, client: str, request_id: str, tell: Tell) -> SendRuling:
    broken = judged.rules

    def tell_all() -> None:
        for one in broken:
            is_money = one.rule in _BUDGETS
            unit = _MILLIONTHS if is_money else 1
            tell(
                SendSuspected(
                    request_id=request_id,
                    client=client,
                    to=to,
                    country=sending.country,
                    rule=one.rule,
                    enforced=sending.enforce_budget if is_money else sending.enforce,
                    open=one.open / unit,
                    threshold=one.threshold / unit,
                )
            )

    reasons = tuple(one.rule if one.rule in _BUDGETS else f"pumping {one.rule}" for one in broken)
    if judged.entry:
        day = judged.now_ms // DAY_MS
        ticket = f"{sending.number} {judged.entry} {day} {sending.country} {sending.price}"
        return SendRuling(ticket, None, reasons, tell_all)
    is_over = sending.enforce_budget and any(one.rule in _BUDGETS for one in broken)
    retry_after_s = (DAY_MS - judged.now_ms % DAY_MS) / 1000 if is_over else _AGAIN_S
    refusal = Refusal("rate_limited", ", ".join(reasons), "Wait before trying again.", retry_after_s=retry_after_s)
    return SendRuling("", refusal, reasons, tell_all)


def rules_of(table: Pumping) -> Rules:
    """Read `[pumping]` as `pumping` has it."""
    rate = table.unverified
    return Rules(rate.count, max(1, round(rate.period_s * 1000)), round(table.ratio * 1000), table.countries_per_ip)


def _limit(most: float | None) -> int:
    return -1 if most is None else round(most * _MILLIONTHS)


def _judged(answer: Sequence[int]) -> Judged:
    now_ms, entry, passed_by, total, of_country, *alarms = answer[:_FIRST]
    flat = answer[_FIRST:]
    broken = tuple(Broken(RULES[flat[i] - 1], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3))
    return Judged(
        now_ms,
        entry,
        broken,
        _PASSED_BY[passed_by],
        (total, of_country),
        tuple(rule for rule, is_first in zip(_BUDGETS, alarms, strict=True) if is_first),
    )
