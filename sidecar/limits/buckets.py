"""Which limits does a request meet, and what do they say to it? Buckets in the store, and their words in HTTP.

Its law: a request's buckets are decided together, in the store, by the store's clock; spent all or none. What was spent
can be given back by its ticket. Never decides by itself: when the store is away, StoreAwayError reaches the caller.
"""

import ipaddress
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Self

from sidecar.config import model
from sidecar.errors import LimitState
from sidecar.limits.gcra import Limit
from sidecar.store.client import Script, Store
from sidecar.store.names import Names

_GCRA: Final = Script.load(Path(__file__).with_name("gcra.lua"))
_REFUND: Final = Script.load(Path(__file__).with_name("refund.lua"))
# Longer than any message is under way.
_REFUNDED_MS: Final = 3_600_000
_SPEND: Final = "spend"
_PEEK: Final = "peek"
# What gcra.lua answers per bucket: allowed, remaining, retry, reset, tat.
_ANSWERS: Final = 5

# How much of an address one customer has. A home or a phone gets one IPv4 address, or a whole IPv6 /64; a site gets an
# IPv4 /24 or an IPv6 /48 (RFC 6177). Counting single IPv6 addresses would count nothing.
_PREFIX_LENGTHS: Final = {"ip": {4: 32, 6: 64}, "ip_prefix": {4: 24, 6: 48}}


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit for one key value. `key` is its name in the store, where the value is hashed."""

    name: str
    key: str
    count: int
    period_s: float
    burst: int
    enforce: bool

    @classmethod
    def of(cls, name: str, limit: model.Limit, hashed: str, names: Names, *, enforce: bool = True) -> Self:
        """Make the bucket of [limits.NAME] for a hashed value; `enforce=False` observes whatever the limit's mode."""
        rate = limit.rate
        return cls(
            name=name,
            key=names.bucket(name, hashed),
            count=rate.count,
            period_s=rate.period_s,
            burst=limit.burst or rate.count,
            enforce=enforce and limit.mode == "enforce",
        )

    @property
    def limit(self) -> Limit:
        """What the formula sees. Raises ValueError as Limit does."""
        return Limit.of_rate(self.count, self.period_s, self.burst)

    @property
    def ticket(self) -> str:
        """What gives one back, for `Buckets.refund`; opaque, and safe to store."""
        return f"{self.limit.interval_us}:{self.key}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a request's buckets say together.

    `retry_after_s`: until every bucket that refused would take one; 0 when allowed. `refused`: when not allowed, the
    states of all enforcing buckets, those that refused first. `observed`: the names of observing buckets that would
    have refused. `tickets`: of what was spent here, and only that; empty after a peek or a refusal. `again_in_s`: when
    allowed, until every enforcing bucket would take one more.
    """

    allowed: bool
    retry_after_s: float = 0.0
    refused: tuple[LimitState, ...] = ()
    observed: tuple[str, ...] = ()
    tickets: tuple[str, ...] = ()
    again_in_s: float = 0.0


class Buckets:
    """The leaky buckets of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def peek(self, buckets: Iterable[Bucket]) -> Ruling:
        """Tell what `spend` would say now, and take nothing."""
        return await self._rule(_PEEK, buckets)

    async def spend(self, buckets: Iterable[Bucket]) -> Ruling:
        """Take one from every bucket, or nothing from any."""
        return await self._rule(_SPEND, buckets)

    async def refund(self, tickets: Sequence[str], once: str = "") -> None:
        """Give back what was spent. Each ticket once: given twice, it lets one more through.

        `once`: what they were spent for; they are then given back once, however often this is asked within the hour.
        """
        if not tickets:
            return
        intervals, _, keys = zip(*(ticket.partition(":") for ticket in tickets), strict=True)
        mark = self._store.names.refunded(once)
        await self._store.run(_REFUND, [mark, *keys], [_REFUNDED_MS if once else 0, *intervals])

    async def _rule(self, mode: str, asked: Iterable[Bucket]) -> Ruling:
        buckets = _once_each(asked)
        if not buckets:
            return Ruling(allowed=True)
        args: list[str | int] = [mode]
        for bucket in buckets:
            args += (bucket.limit.interval_us, bucket.limit.burst, int(bucket.enforce))
        _now, *flat = await self._store.run(_GCRA, [bucket.key for bucket in buckets], args)
        answers = [flat[i : i + _ANSWERS] for i in range(0, len(flat), _ANSWERS)]
        return _ruling(mode, list(zip(buckets, answers, strict=True)))


def _once_each(buckets: Iterable[Bucket]) -> list[Bucket]:
    """One bucket named twice in a request counts once; it is enforced if one of its names says so."""
    found: dict[str, Bucket] = {}
    for bucket in buckets:
        before = found.get(bucket.key, bucket)
        found[bucket.key] = replace(before, enforce=before.enforce or bucket.enforce)
    return list(found.values())


def _ruling(mode: str, answers: Sequence[tuple[Bucket, Sequence[int]]]) -> Ruling:
    refused, passed, observed, spent = [], [], [], []
    retry_us = again_us = 0
    for bucket, (allowed, remaining, retry, reset, _tat) in answers:
        state = LimitState(bucket.name, bucket.count, bucket.period_s, remaining, reset / 1e6)
        if allowed:
            spent.append(bucket.ticket)
            if bucket.enforce:
                passed.append(state)
                # One more fits once the others in the bucket leave room for it.
                again_us = max(again_us, reset - (bucket.limit.burst - 1) * bucket.limit.interval_us)
        elif bucket.enforce:
            refused.append(state)
            retry_us = max(retry_us, retry)
        else:
            observed.append(bucket.name)
    if refused:
        return Ruling(False, retry_us / 1e6, (*refused, *passed), tuple(observed))
    tickets = tuple(spent) if mode == _SPEND else ()
    return Ruling(True, observed=tuple(observed), tickets=tickets, again_in_s=again_us / 1e6)


def client_key(key: Literal["ip", "ip_prefix"], ip: str) -> str:
    """Tell whom a limit by address counts: "ip" a customer, "ip_prefix" a site. Raises ValueError for no address."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        # A socket for both families writes IPv4 as ::ffff:192.0.2.1 (RFC 4291 section 2.5.5.2). The zone of a
        # link-local address (fe80::1%eth0) names our own interface.
        address = address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return str(ipaddress.ip_network((address, _PREFIX_LENGTHS[key][address.version]), strict=False))


def rate_limit_fields(states: Iterable[LimitState]) -> list[tuple[str, str]]:
    """Write the fields RateLimit-Policy and RateLimit; none without states. draft-ietf-httpapi-ratelimit-headers-10.

    Lists of strings with parameters (RFC 9651): q quota, w its window in seconds; r remaining, t seconds until all of
    it is there again. Sooner than t some of it may be: Retry-After says when.
    """
    states = tuple(states)
    if not states:
        return []
    policies = ", ".join(f"{_string(s.name)};q={s.quota};w={math.ceil(s.window_s)}" for s in states)
    limits = ", ".join(f"{_string(s.name)};r={s.remaining};t={math.ceil(s.reset_s)}" for s in states)
    return [("RateLimit-Policy", policies), ("RateLimit", limits)]


def _string(text: str) -> str:
    # RFC 9651 section 3.3.3: a string is printable ASCII; a limit's name may be any TOML key.
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
