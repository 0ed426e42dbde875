"""What does it take to be let in? The steps of a request's admission, planned before the first is taken. Pure.

Limits on who asks and a captcha, the number policy, and then all limits together: nothing is spent before everything is
allowed. Who asks is looked at before the captcha, so that nobody solves one for nothing; without a captcha there is
nothing to look at beforehand, for the last step decides all limits in one.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.config.model import Config, Route
from sidecar.config.units import Rate
from sidecar.errors import Refusal
from sidecar.limits.buckets import Bucket, Meter, client_key
from sidecar.recipient import Recipient
from sidecar.store.names import Names
from sidecar.visit import Visit

# Limits on who asks, decided before the captcha; all others are on what is asked, decided after it.
_WHO: Final = ("ip", "header:")  # ip, ip_prefix, header:NAME
# How many askers' wrong codes a whole site may show: IPv4's /24, IPv6's /48.
_ASKERS_OF_A_SITE: Final = 10


@dataclass(frozen=True, slots=True)
class Solve:
    """Have a verifier judge the token; `who` is looked at and a wrong token counted in `failures`, both beforehand."""

    captcha: str
    token: str | None
    who: tuple[Bucket, ...]
    failures: Bucket


@dataclass(frozen=True, slots=True)
class Allow:
    """Hold the recipient against the number policy."""

    recipient: Recipient


@dataclass(frozen=True, slots=True)
class Spend:
    """Take one from every bucket, or nothing from any."""

    buckets: tuple[Bucket, ...]


Step = Solve | Allow | Spend


class Admission:
    """The limits, captchas and number policy of one configuration. `hashed` makes a keyed hash, `hashes` all valid."""

    def __init__(
        self, config: Config, names: Names, hashed: Callable[[str], str], hashes: Callable[[str], Sequence[str]]
    ) -> None:
        self._config = config
        self._hashed = hashed
        self._hashes = hashes
        self._kept_hash = functools.lru_cache(4096)(hashed)  # of addresses, routes and the like: no recipient's
        self._meters = {
            (name, enforce): Meter.of(name, limit, names, enforce=enforce)
            for name, limit in config.limits.items()
            for enforce in (True, False)
        }
        self._failures = {
            name: Meter.of_rate(f"captcha.{name}", rules.failures, names) for name, rules in config.captcha.items()
        }
        rules = config.code
        per_site = Rate(_ASKERS_OF_A_SITE * rules.failures_per_ip.count, rules.failures_per_ip.period_s)
        self._guesses = (
            Meter.of_rate("code.failures", rules.failures, names),
            Meter.of_rate("code.failures_per_ip", rules.failures_per_ip, names),
            Meter.of_rate("code.failures_per_site", per_site, names),
        )

    def plan(self, visit: Visit, route: Route, recipient: Recipient | None, token: str | None) -> list[Step]:
        """Plan the admission of a request."""
        buckets = self._buckets(visit, route, recipient)
        steps: list[Step] = []
        if route.captcha:
            who = tuple(bucket for bucket, is_who in buckets if is_who)
            steps.append(Solve(route.captcha, token, who, self._of_wrong_tokens(visit, route.captcha)))
        if recipient is not None and recipient.channel == "sms" and not self.is_test(recipient):
            steps.append(Allow(recipient))
        if buckets or route.captcha:
            steps.append(Spend(tuple(bucket for bucket, _ in buckets)))
        return steps

    def who(self, visit: Visit, route: Route) -> list[Bucket]:
        """The enforced buckets on who asks: known from a request's head alone."""
        if route.mode != "enforce":
            return []
        names = [name for name in route.limits if self._config.limits[name].key.startswith(_WHO)]
        buckets = [self._bucket(name, visit, route, None) for name in names]
        if route.captcha:
            buckets.append(self._of_wrong_tokens(visit, route.captcha))
        return buckets

    def of_wrong_codes(self, visit: Visit, recipient: Recipient | None) -> list[Bucket]:
        """Wrong codes: of one recipient, by one asker, and by one site, which has many addresses (IPv6: 65,536).

        Under the hash of each accepted secret, or a rotation would begin all budgets anew. Without a recipient, those
        of who asks.
        """
        ip = visit.client.ip
        values = (recipient.identity if recipient else "", client_key("ip", ip), client_key("ip_prefix", ip))
        return [
            meter.bucket(hashed)
            for meter, value in zip(self._guesses, values, strict=True)
            if value
            for hashed in self._hashes(value)
        ]

    def check(self, recipient: Recipient) -> None:
        """`numbers.countries` and `numbers.block_types`. Raises Refusal(recipient_not_allowed)."""
        rules = self._config.numbers
        if rules.countries and recipient.country not in rules.countries:
            raise Refusal("recipient_not_allowed", "country", "Numbers of this country are not served.")
        if recipient.number_type in rules.block_types:
            raise Refusal("recipient_not_allowed", "number_type", "Numbers of this type are not served.")

    def is_test(self, recipient: Recipient) -> bool:
        """True for a number of `numbers.test`, to which nothing is sent."""
        return recipient.identity in self._config.numbers.test

    def _buckets(self, visit: Visit, route: Route, recipient: Recipient | None) -> list[tuple[Bucket, bool]]:
        """The buckets that a route names for this request, each with whether it is on who asks."""
        # A test number's sends cost nothing, so nothing that is asked is limited; who asks is, and so are guesses.
        is_free = route.action == "send" and recipient is not None and self.is_test(recipient)
        found = []
        for name in route.limits:
            is_who = self._config.limits[name].key.startswith(_WHO)
            if is_who or not is_free:
                found.append((self._bucket(name, visit, route, recipient), is_who))
        return found

    def _bucket(self, name: str, visit: Visit, route: Route, recipient: Recipient | None) -> Bucket:
        key = self._config.limits[name].key
        value = _value(key, visit, route, recipient)
        hashed = (self._hashed if key.startswith("to") else self._kept_hash)(value)
        return self._meters[name, route.mode == "enforce"].bucket(hashed)

    def _of_wrong_tokens(self, visit: Visit, captcha: str) -> Bucket:
        return self._failures[captcha].bucket(self._kept_hash(client_key("ip", visit.client.ip)))


def _value(key: str, visit: Visit, route: Route, recipient: Recipient | None) -> str:
    """What a limit's key is for this request. A bucket of nothing ("") is one that all such requests share."""
    match key:
        case "ip" | "ip_prefix":
            return client_key(key, visit.client.ip)
        case "to":
            return recipient.identity if recipient else ""
        case "to_prefix":
            return recipient.prefix if recipient else ""
        case "country":
            return recipient.country if recipient else ""
        case "route":
            return route.match
        case "global":
            return ""
        case _:
            # One of several would be the client's choice of a bucket, and upstream may go by another one.
            values = visit.all(key.removeprefix("header:"))
            return values[0] if len(values) == 1 else ""
