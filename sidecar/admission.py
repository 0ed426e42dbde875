"""What does it take to be let in? The steps of a request's admission, planned before the first is taken. Pure.

The lists, limits on who asks and a captcha, the number policy, and then all limits together: nothing is spent before
everything is allowed. Who asks is looked at before the captcha, so that nobody solves one for nothing; without a
captcha there is nothing to look at beforehand, for the last step decides all limits in one.

When is a route's captcha demanded? Always, and first of all; but where the route steps up, only once one of its limits
of mode "captcha" is full, or after `captcha_after` wrong codes for the recipient. Then the last step finds out, and the
captcha is solved in the midst of it. So nobody who is under all of these limits is asked for a captcha, nor does any
verifier see the token that such a request may bring along.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.client_key import client_key
from sidecar.config.model import Config, Route
from sidecar.config.units import Rate
from sidecar.errors import Refusal
from sidecar.limits.buckets import Bucket, Meter
from sidecar.limits.pumping import Sending
from sidecar.lists.rules import Lists, Match
from sidecar.recipient import Recipient
from sidecar.store.names import Names
from sidecar.visit import Visit

# Limits on who asks, decided before the captcha; all others are on what is asked, decided after it.
_WHO: Final = ("ip", "header:")  # ip, ip_prefix, header:NAME
# Limits on what all ask for.
_OF_ALL: Final = ("route", "global")
# How many askers' wrong codes a whole site may show: IPv4's /24, IPv6's /48.
_ASKERS_OF_A_SITE: Final = 10


@dataclass(slots=True)  # not frozen: it is made for every request
class Solve:
    """Have a verifier judge the token; `who` is looked at and a wrong token counted in `failures`, both beforehand.

    `others`: the same by the route's other captchas, in their order, where the token does not name the one it is of.
    """

    captcha: str
    token: str | None
    who: tuple[Bucket, ...]
    failures: Bucket
    others: tuple["Solve", ...] = ()


@dataclass(slots=True)  # not frozen: it is made for every request
class Spend:
    """Take one from every bucket, or nothing from any; where one of `looked` or of them demands it, `solve` first.

    `solve` is None where no captcha is demanded any more. `sending`: a send that is held against `[pumping]` and
    `[budget]` in the same turn; None where nothing is.
    """

    buckets: tuple[Bucket, ...]
    looked: tuple[Bucket, ...] = ()
    solve: Solve | None = None
    sending: Sending | None = None


# The steps of an admission, in this order once the lists have let it pass: the captcha that is demanded always, the
# recipient that is held against the number policy, and what is spent; None for one that is not taken.
Plan = tuple[Solve | None, Recipient | None, Spend | None]

# What a limit counts by, of a request and its recipient.
_Value = Callable[[Visit, Recipient | None], str]


@dataclass(frozen=True, slots=True)
class _Limited:
    """One limit of a route: its `key`, what that is for a request, and whether it is known of who asks.

    `is_looked_at`: before a captcha is solved, which it does not demand itself.
    """

    key: str
    value: _Value
    meter: Meter
    is_who: bool
    is_looked_at: bool


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a route asks, worked out once. `steps_up`: its captcha is not demanded always."""

    route: Route  # kept with what is known of it, or its id could become another's
    limits: tuple[_Limited, ...]
    on_who: tuple[_Limited, ...]  # those that are known of who asks
    steps_up: bool


class Admission:
    """The lists, limits, captchas and number policy of one configuration.

    `hashes`: keyed, the newest secret's first. `lives`: by a captcha's name, for how many seconds a token is claimed.
    """

    def __init__(
        self,
        config: Config,
        names: Names,
        hashes: Callable[[str], Sequence[str]],
        lives: Mapping[str, float],
        lists: Lists,
        sending: Callable[[Recipient, str, Route], Sending | None] | None = None,
    ) -> None:
        self._config = config
        self._tests = frozenset(config.numbers.test)
        self._lists = lists
        self._sending = sending
        self._names = names
        self._hashes = hashes
        self._routes: dict[int, _Terms] = {}
        self._failures = {
            name: Meter.of_rate(f"captcha.{name}", rules.failures, names) for name, rules in config.captcha.items()
        }
        # A token is a bucket that takes one for as long as it lives. It is named by its kind: one token counts once for
        # all tables of a kind, whichever account they ask.
        self._claims = {
            name: Meter.of_rate(f"captcha.token.{rules.kind}", Rate(1, lives[name]), names)
            for name, rules in config.captcha.items()
        }
        rules = config.code
        per_site = Rate(_ASKERS_OF_A_SITE * rules.failures_per_ip.count, rules.failures_per_ip.period_s)
        self._of_recipient = Meter.of_rate("code.failures", rules.failures, names)
        # The same buckets, of which the first few wrong codes alone need no captcha: `captcha_after` -> meter.
        self._before_captcha: dict[int, Meter] = {}
        self._of_asker = Meter.of_rate("code.failures_per_ip", rules.failures_per_ip, names)
        self._of_site = Meter.of_rate("code.failures_per_site", per_site, names)

    def plan(
        self, visit: Visit, route: Route, recipient: Recipient | None, token: str | None, *, is_guess: bool = False
    ) -> Plan:
        """Plan the admission of a request. `is_guess`: it shows a code, which may be a wrong one."""
        # A test number's sends cost nothing, so nothing that is asked is limited; who asks is, and so are guesses.
        is_test = recipient is not None and self.is_test(recipient)
        is_send = route.action == "send"
        terms = self._terms(route)
        limits = terms.on_who if is_test and is_send else terms.limits
        buckets = self._buckets(limits, visit, recipient)
        solve = None
        if route.captcha:
            who = [bucket for one, bucket in zip(limits, buckets, strict=True) if one.is_looked_at]
            solve = self._solve(visit, route, token, tuple(who))
        checked = recipient if recipient is not None and recipient.channel == "sms" and not is_test else None
        sending = None
        if self._sending is not None and recipient is not None and is_send and not is_test:
            sending = self._sending(recipient, visit.client.ip, route)
        if not buckets and solve is None and sending is None:
            return None, checked, None
        # Looked at where the store is asked anyway; else whoever judges the code finds out, without one turn more.
        after = route.captcha_after if is_guess and buckets else None
        looked = tuple(self._of_recipients(recipient, after)) if recipient is not None and after else ()
        if terms.steps_up:
            return None, checked, Spend(buckets, looked, solve, sending)
        return solve, checked, Spend(buckets, looked, None, sending)

    def blocked_at_once(self, visit: Visit) -> Refusal | None:
        """Say which list forbids a visit whatever it asks for: known from its head alone."""
        if not self._lists:
            return None
        match = self._lists.at_once(self._lists.asker(visit.client.ip, lambda: visit.all("User-Agent")))
        return _blocked(match) if match is not None else None

    def screen(self, visit: Visit, recipient: Recipient | None) -> None:
        """Hold a visit against the lists. Raises Refusal(route_denied, recipient_not_allowed)."""
        if not self._lists:
            return
        asker = self._lists.asker(visit.client.ip, lambda: visit.all("User-Agent"))
        number = recipient.address if recipient is not None and recipient.channel != "email" else None
        match = self._lists.match(asker, number)
        if match is not None:
            raise _blocked(match)

    def solve(self, visit: Visit, route: Route, token: str | None) -> Solve:
        """Plan the step of a route's captcha. What would demand one is not looked at: it is being solved."""
        limits = [one for one in self._terms(route).on_who if one.is_looked_at]
        return self._solve(visit, route, token, self._buckets(limits, visit, None))

    def _solve(self, visit: Visit, route: Route, token: str | None, who: tuple[Bucket, ...]) -> Solve:
        captchas, token = of_captchas(route.captcha, token)
        solve = Solve(captchas[0], token, who, self._of_wrong_tokens(visit, captchas[0]))
        if len(captchas) > 1:
            others = [Solve(name, token, who, self._of_wrong_tokens(visit, name)) for name in captchas[1:]]
            solve.others = tuple(others)
        return solve

    def steps_up(self, route: Route) -> bool:
        """True where a route's captcha is demanded only when a limit is full, or after so many wrong codes."""
        return self._terms(route).steps_up

    def who(self, visit: Visit, route: Route) -> tuple[Bucket, ...]:
        """The buckets on who asks that surely matter: known from a request's head alone."""
        terms = self._terms(route)
        buckets = self._buckets(terms.on_who, visit, None)
        # Of several, the token says which one is asked.
        if len(route.captcha) == 1 and not terms.steps_up:
            return (*buckets, self._of_wrong_tokens(visit, route.captcha[0]))
        return buckets

    def demanding(self, visit: Visit, route: Route) -> tuple[Bucket, ...]:
        """The buckets that may demand a route's captcha: those that are known from a request's head alone."""
        limits = [one for one in self._terms(route).limits if one.meter.demands]
        return self._buckets([one for one in limits if one.is_who or one.key in _OF_ALL], visit, None)

    def counting(self, visit: Visit, captcha: str) -> Solve:
        """Plan how a step of solving a built-in captcha counts. What a route asks beside is asked there."""
        return Solve(captcha, None, (), self._of_wrong_tokens(visit, captcha))

    def claim(self, captcha: str, token_id: str) -> Bucket:
        """The bucket that takes one token of a captcha, once."""
        return self._claims[captcha].bucket(self._hashes(token_id)[0])

    def of_wrong_codes(self, visit: Visit, recipient: Recipient | None, after: int | None = None) -> Iterator[Bucket]:
        """Wrong codes: of one recipient, by one asker, and by one site, which has many addresses (IPv6: 65,536).

        Under the hash of each accepted secret, or a rotation would begin all budgets anew. Without a recipient, those
        of who asks. `after`: a recipient's demand a captcha after so many.
        """
        ip = visit.client.ip
        if recipient is not None:
            yield from self._of_recipients(recipient, after)
        yield from map(self._of_asker.bucket, self._hashes(client_key("ip", ip)))
        yield from map(self._of_site.bucket, self._hashes(client_key("ip_prefix", ip)))

    def check(self, recipient: Recipient) -> None:
        """`numbers.countries` and `numbers.block_types`. Raises Refusal(recipient_not_allowed)."""
        rules = self._config.numbers
        if rules.countries and recipient.country not in rules.countries:
            raise Refusal("recipient_not_allowed", "country", "Numbers of this country are not served.")
        if recipient.number_type in rules.block_types:
            raise Refusal("recipient_not_allowed", "number_type", "Numbers of this type are not served.")

    def is_test(self, recipient: Recipient) -> bool:
        """True for a number of `numbers.test`, to which nothing is sent."""
        return recipient.identity in self._tests

    def _of_recipients(self, recipient: Recipient, after: int | None) -> list[Bucket]:
        meter = self._of_recipient
        if after is not None:
            meter = self._before_captcha.get(after) or self._before_captcha.setdefault(
                after,
                Meter.of_rate("code.failures", self._config.code.failures, self._names, burst=after, demands=True),
            )
        return [meter.bucket(hashed) for hashed in self._hashes(recipient.identity)]

    def _terms(self, route: Route) -> _Terms:
        """What a route asks, worked out once."""
        known = self._routes.get(id(route))
        if known is None:
            limits = tuple([self._limited(name, route) for name in route.limits])
            on_who = tuple([limit for limit in limits if limit.is_who])
            steps_up = route.captcha_after is not None or any(limit.meter.demands for limit in limits)
            known = self._routes[id(route)] = _Terms(route, limits, on_who, steps_up)
        return known

    def _limited(self, name: str, route: Route) -> _Limited:
        limit = self._config.limits[name]
        meter, is_who = Meter.of(name, limit, self._names, enforce=route.mode == "enforce"), limit.key.startswith(_WHO)
        return _Limited(limit.key, _value(limit.key, route), meter, is_who, is_who and not meter.demands)

    def _buckets(self, limits: Iterable[_Limited], visit: Visit, recipient: Recipient | None) -> tuple[Bucket, ...]:
        hashes = self._hashes
        return tuple([one.meter.bucket(hashes(one.value(visit, recipient))[0]) for one in limits])

    def _of_wrong_tokens(self, visit: Visit, captcha: str) -> Bucket:
        return self._failures[captcha].bucket(self._hashes(client_key("ip", visit.client.ip))[0])


def of_captchas(captchas: tuple[str, ...], token: str | None) -> tuple[tuple[str, ...], str | None]:
    """Say which of a route's captchas a token may be of, and what a verifier is to see of it.

    "NAME:TOKEN" names one of them. No vendor's token begins with a name and a colon, so there is one reading.
    """
    if token is not None and ":" in token:
        name, _, rest = token.partition(":")
        if name in captchas:
            return (name,), rest
    return captchas, token


def _blocked(match: Match) -> Refusal:
    if match.by_number:
        return Refusal("recipient_not_allowed", match.reason)
    return Refusal("route_denied", match.reason, "Requests from here, or of this kind, are not served.")


def _value(key: str, route: Route) -> _Value:
    """Say what a limit's key is for the requests of a route. A bucket of nothing ("") is one that all of them share."""
    match key:
        case "ip" | "ip_prefix":
            return lambda visit, _: client_key(key, visit.client.ip)
        case "to":
            return lambda _, recipient: recipient.identity if recipient else ""
        case "to_prefix":
            return lambda _, recipient: recipient.prefix if recipient else ""
        case "country":
            return lambda _, recipient: recipient.country if recipient else ""
        case "route":
            return lambda _, __: route.match
        case "global":
            return lambda _, __: ""
        case _:
            name = key.removeprefix("header:")
            return lambda visit, _: _only(visit.all(name))


def _only(values: Sequence[str]) -> str:
    """Give the one value of a field: one of several would be the client's choice of a bucket, and not upstream's."""
    return values[0] if len(values) == 1 else ""
