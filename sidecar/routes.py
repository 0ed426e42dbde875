"""Which route is this? Pure.

The law: a route covers every reading of a request that a common backend may have: of its path (what is cut, decoded,
folded, resolved, in which order) and of its method (what an override field turns it into). Backends disagree, so all
readings are computed, each finds its first match in configured order, and then:

1. A target that is letter for letter the path of its first match is that route: the operator has named it.
2. Otherwise a guarding route wins over `pass` and over none, enforced ones over observed ones, and among those the
   strictest: deny > verify > send > guard.
3. It must ask for all that the others would have asked, or never reach upstream (`_covers`). If it does not, no answer
   is safe, as one proof would open another route: `CLOSED`.

It never raises, whatever the octets, and never passes what it could not read to the end within its bounds.
"""

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidecar import overrides, readings
from sidecar.config.model import Route
from sidecar.overrides import EVERY, may_name_another
from sidecar.readings import LITERAL, MAX_OCTETS, SIMPLE, Reading, decoded, fold, octets, without_ending
from sidecar.spelling import Fields

# What is found for a request whose readings contradict each other, or are too many to compute.
CLOSED: Final = Route(match="* /*", action="deny")

_STRICTEST_FIRST: Final = ("deny", "verify", "send", "guard")
# Other targets that fields name, or a query: one is usual, a front proxy and a front controller may each name another.
_MAX_TARGETS: Final = 8
# What all targets of one request may cost, in octets.
_MAX_REQUEST: Final = MAX_OCTETS
_MAX_BASES: Final = 4  # directories in which a front controller may stand: those of the target, from the root on
# Paths whose look-up is remembered, and how long one may be with its mount points: 2 MiB of them at most.
_KEPT: Final = 2048
_MAX_KEPT: Final = 1024

_NAME: Final = re.compile(r"\{[^{}]+\}")
# Files of WordPress, to which forms are posted, and which are not behind its front controller. Any other address is,
# also one that looks like a script's, where no such file is there.
_WORDPRESS_FILES: Final = frozenset(
    f"/{name}.php"
    for name in (
        "wp-admin/admin", "wp-admin/admin-ajax", "wp-admin/admin-post", "wp-admin/async-upload", "wp-admin/edit",
        "wp-admin/media-new", "wp-admin/media-upload", "wp-admin/options", "wp-admin/plugins", "wp-admin/post",
        "wp-admin/themes", "wp-admin/update", "wp-admin/upload", "wp-comments-post", "wp-cron", "wp-login", "xmlrpc",
    )
)  # fmt: skip
# Scripts that are front controllers by custom, and take the path that they serve from a form as well.
_FRONT_SCRIPT: Final = re.compile(r"(?i:(?:^|/)index\.[a-z0-9]+(?:/|$))")


@dataclass(frozen=True, slots=True, eq=False)
class _Pattern:
    """One route's `match`, read. `segments` has None for `{name}`; `literal` is the path if it has one spelling."""

    index: int
    route: Route
    method: str
    segments: tuple[str | None, ...]
    subtree: bool
    literal: str

    @property
    def first(self) -> str | None:
        """The first segment of every path that it takes; None where that may be any."""
        return self.segments[0] if self.segments else None

    @property
    def takes_more(self) -> bool:
        """True when it takes more than one path."""
        return self.subtree or None in self.segments

    def takes_method(self, method: str) -> bool:
        return self.method in {EVERY, method} or (method == "HEAD" and self.method == "GET")

    def takes_path(self, reading: Reading) -> bool:
        if len(reading) < len(self.segments) or (len(reading) > len(self.segments) and not self.subtree):
            return False
        return all(mine in (None, theirs) for mine, theirs in zip(self.segments, reading, strict=False))


@dataclass(frozen=True, slots=True)
class _Target:
    """A request target, looked up.

    `literal` is its path where that is spelled plainly, `named` then the matches of this plain reading alone.
    `hits` are the matches of each reading, in configured order; None: there are too many to compute.
    """

    literal: str
    named: tuple[_Pattern, ...]
    hits: Collection[tuple[_Pattern, ...]] | None


class _LookedUp(NamedTuple):
    """What a path may match, if anything, and whether it may be a front controller's. `cost` is in octets."""

    target: _Target | None
    is_front: bool
    cost: int


_UNREADABLE: Final = _Target("", (), None)


@dataclass(slots=True)
class _Budget:
    """What is left to spend on the targets of one request, in octets of their spellings."""

    left: int


@dataclass(frozen=True, slots=True)
class Found:
    """The route of a request, None if it passes.

    `needs_body_for_override` is True when a form may yet name a method or a path that makes it another route: read the
    bounded body and ask `Routes.with_body_override`, before anything passes. `may_name_path`: not only a method.
    `naming`: a form that has none of these parameters passes; none are said where that cannot be said. `passes`: the
    request surely passes, as it is.
    """

    route: Route | None
    needs_body_for_override: bool = False
    may_name_path: bool = False
    naming: frozenset[str] = frozenset()
    targets: tuple[_Target, ...] = ()
    methods: frozenset[str] = frozenset()
    path: str = ""
    passes: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        passes = not self.needs_body_for_override and (self.route is None or self.route.action == "pass")
        object.__setattr__(self, "passes", passes)


_NOTHING: Final = Found(None)


class Routes:
    """The configured routes, in order. `method_override`: upstream may take a method from a field, query or form.

    `stepping`: the limits of mode "captcha", under which a route's captcha is not demanded.
    """

    def __init__(
        self, routes: Sequence[Route], *, method_override: bool = True, stepping: frozenset[str] = frozenset()
    ) -> None:
        patterns = [_compile(index, route) for index, route in enumerate(routes)]
        guarding = [pattern for pattern in patterns if pattern.route.action != "pass"]
        self._is_empty = not patterns
        self._guards = bool(guarding)
        self._overrides = method_override
        self._stepping = stepping
        # The methods that some guarded route takes, and those that some route names, with one that none does.
        self._guarded = frozenset(pattern.method for pattern in guarding)
        self._methods = frozenset({pattern.method for pattern in patterns} | {"OTHER"}) - {EVERY}
        self._under = _pretty(guarding)
        homes = {prefix.rpartition("/")[0] for prefix in self._under.get("rest_route", ())}
        self._files = frozenset(home + file for home in homes for file in _WORDPRESS_FILES)
        # Patterns of more than one path: those that may begin with any segment, and those that may begin with this one.
        self._wild = [pattern for pattern in patterns if pattern.takes_more and pattern.first is None]
        self._wild_under = {
            first: [*self._wild, *(pattern for pattern in patterns if pattern.takes_more and pattern.first == first)]
            for first in {pattern.first for pattern in patterns} - {None}
        }
        self._exact: dict[Reading, list[_Pattern]] = {}
        self._aliases: dict[Reading, list[_Pattern]] = {}
        for pattern in patterns:
            if not pattern.takes_more:
                path = tuple(segment for segment in pattern.segments if segment is not None)
                self._exact.setdefault(path, []).append(pattern)
                for alias in without_ending(path):
                    self._aliases.setdefault(alias, []).append(pattern)
        self._kept_look_up = functools.lru_cache(_KEPT)(self._look_up)

    def find(self, method: str, target: bytes | str, fields: Fields) -> Found:
        """Look a request up. `target` is as it came on the wire, `fields` likewise. Never raises."""
        if self._is_empty:
            return _NOTHING
        path, _, query = octets(target).partition("?")
        method = method.upper()
        names_another = bool(fields) and may_name_another(fields)
        may_be_form = method == "POST" and self._guards
        may_name_path = may_be_form and self._reads_paths(path, fields)
        if not (
            names_another or may_name_path or (query and overrides.may_name_path(query))
        ) and self._is_surely_nothing(path):
            return _NOTHING
        may_be_form = may_be_form and not overrides.is_no_form(fields)
        methods = {method}
        others: list[str] = []
        if names_another:
            others = overrides.field_targets(fields)
            methods |= overrides.field_methods(fields) if self._overrides else set()
        for raw in (query, *(other.partition("?")[2] for other in others)):
            if raw and self._overrides:
                methods |= overrides.form_methods(raw)
        targets = tuple(self._targets(path, query, others, guards=self._may_guard(methods)))
        return self._found(
            path, targets, frozenset(methods), fields, may_be_form=may_be_form, may_name_path=may_name_path
        )

    def with_body_override(self, found: Found, body: bytes, content_type: bytes | str) -> Found:
        """Look again, now that the body that `found` asked for is here. Never raises."""
        kind = octets(content_type)
        methods = found.methods | (overrides.body_methods(body, kind) if self._overrides else set())
        targets = found.targets
        if found.may_name_path:
            named = overrides.body_targets(body, kind)
            if not _is_front_script(found.path):
                named = named and [(name, value) for name, value in named if name in overrides.UNDER]
            targets += tuple(self._inner(found.path, named, _Budget(_MAX_REQUEST)))
        return Found(self._decide(targets, methods), targets=targets, methods=methods)

    def _found(
        self,
        path: str,
        targets: tuple[_Target, ...],
        methods: frozenset[str],
        fields: Fields,
        *,
        may_be_form: bool,
        may_name_path: bool,
    ) -> Found:
        route = self._decide(targets, methods) if targets else None
        needs_body = may_name_path
        naming = self._naming(path) if may_name_path and (route is None or route.action == "pass") else frozenset()
        if may_be_form and self._overrides and targets:
            # Only POST bodies override (Rack, Symfony, Laravel, Spring, Express and ASP.NET Core agree).
            strictest = self._decide(targets, methods | {EVERY})
            if strictest is not None and strictest.action != "pass" and strictest is not route:
                if overrides.is_coded(fields):
                    return Found(strictest)  # a compressed body hides its override from us, and from few backends
                needs_body, naming = True, frozenset()
        if may_name_path and overrides.is_coded(fields):
            return Found(CLOSED)
        return Found(route, needs_body, may_name_path, naming, targets, methods, path)

    def _naming(self, path: str) -> frozenset[str]:
        """Return the parameters of a form that may name another path here, one that is guarded."""
        other = overrides.NAMING - overrides.UNDER.keys() if _is_front_script(path) else frozenset()
        return frozenset(self._under) | other

    def _reads_paths(self, path: str, fields: Fields) -> bool:
        """True when a POST may be a front controller's form, which may name a path that some guarded route has.

        WordPress is behind every address that is no file of its own; other front controllers that read a form at all
        are asked for by the name of their script.
        """
        return (_is_front_script(path) or (bool(self._under) and path not in self._files)) and overrides.is_form(fields)

    def _may_guard(self, methods: Collection[str]) -> bool:
        """True when some guarded route takes one of the methods."""
        if EVERY in methods or EVERY in self._guarded:
            return self._guards
        return not self._guarded.isdisjoint(methods) or ("HEAD" in methods and "GET" in self._guarded)

    # Looking a target up…

    def _is_surely_nothing(self, path: str) -> bool:
        """True for a path with one reading only, which no route has: most are, and it is quickly seen."""
        if not SIMPLE.fullmatch(path):
            return False
        reading = tuple(path[1:].lower().split("/"))
        if reading in self._exact or reading in self._aliases or reading[-1] == "index":
            return False
        return not any(pattern.takes_path(reading) for pattern in self._wild_for(reading))

    def _targets(self, path: str, query: str, others: Collection[str], *, guards: bool) -> Iterator[_Target]:
        """Find what a request may match: its own target, what its query names, and what its fields name.

        Nothing is found for what matches nothing, and for a target beside its own where no guarded route is meant.
        """
        if len(others) > _MAX_TARGETS:
            yield _UNREADABLE
            return
        named = [other.partition("?")[::2] for other in others] if guards else []
        mounts = readings.mounts_of([mount for mount, _ in named])
        budget = _Budget(_MAX_REQUEST)
        for whole, raw_query in ((path, query), *named):
            found = self._kept(whole, mounts, budget)
            if found.target:
                yield found.target
            if raw_query and guards:
                inner = overrides.query_targets(raw_query, is_front=found.is_front)
                yield from self._inner(whole, inner, budget)
        for mount, _ in named:
            found = self._kept(mount.rstrip("/") + path, (), budget)
            if found.target:
                yield found.target

    def _inner(self, path: str, named: Collection[tuple[str, str]] | None, budget: "_Budget") -> Iterator[_Target]:
        """Find what a front controller at `path` may serve, by what a query or form names. None: nobody can tell."""
        if named is None or len({value for _, value in named}) > _MAX_TARGETS:
            yield _UNREADABLE
            return
        bases = path.split("/", _MAX_BASES + 1)[:-1] if named else []
        for name, value in named:
            tail = value.partition("?")[0].lstrip("/")
            if name in overrides.UNDER:
                paths = {f"{prefix}/{tail}" for prefix in self._under.get(name, ())}
            else:
                paths = {value} | {"/".join((*bases[: at + 1], tail)) for at in range(len(bases))}
            for each in paths:
                if not self._is_surely_nothing(each):
                    found = self._kept(each, (), budget)
                    if found.target:
                        yield found.target

    def _kept(self, path: str, mounts: tuple[str, ...], budget: "_Budget") -> _LookedUp:
        """Look a path up, or remember what was found before; past the budget it is not read."""
        if budget.left < 0:
            return _LookedUp(_UNREADABLE, is_front=False, cost=0)
        is_kept = len(path) + sum(map(len, mounts)) <= _MAX_KEPT
        found = self._kept_look_up(path, mounts) if is_kept else self._look_up(path, mounts)
        budget.left -= found.cost
        return found

    def _look_up(self, path: str, mounts: tuple[str, ...]) -> _LookedUp:
        """Look a path up, in every reading."""
        read = readings.read(path, mounts)
        if read is None:
            return _LookedUp(_UNREADABLE, is_front=False, cost=MAX_OCTETS)
        hits = {self._matches(reading, self._aliases.get(reading, ())) for reading in read.plain}
        hits |= {self._matches(reading) for reading in read.shortened}
        hits.discard(())
        if not hits:
            return _LookedUp(None, read.is_front, read.cost)
        literal = path if LITERAL.fullmatch(path) else ""
        return _LookedUp(_Target(literal, self._matches(fold(path)) if literal else (), hits), read.is_front, read.cost)

    def _matches(self, reading: Reading, aliased: Iterable[_Pattern] = ()) -> tuple[_Pattern, ...]:
        found = [*self._exact.get(reading, ()), *aliased]
        found += [pattern for pattern in self._wild_for(reading) if pattern.takes_path(reading)]
        return tuple(sorted(found, key=lambda pattern: pattern.index)) if len(found) > 1 else tuple(found)

    def _wild_for(self, reading: Reading) -> list[_Pattern]:
        """Return the patterns of more than one path that may take this one."""
        return self._wild_under.get(reading[0], self._wild) if reading else self._wild

    # Deciding…

    def _decide(self, targets: Iterable[_Target], methods: Collection[str]) -> Route | None:
        if not self._guards:
            methods = [method for method in methods if method != EVERY]
        elif EVERY in methods:
            methods = self._methods | (frozenset(methods) - {EVERY})
        firsts: dict[int, Route] = {}
        for target in targets:
            for method in methods:
                named = _first(target.named, method)
                if named is not None and named.literal and named.literal == target.literal:
                    firsts[named.index] = named.route
                    continue
                if target.hits is None:
                    return CLOSED if self._guards else None
                for hits in target.hits:
                    first = _first(hits, method)
                    if first is not None:
                        firsts[first.index] = first.route
        guarding = [index for index, route in firsts.items() if route.action != "pass"]
        if not guarding:
            return firsts[min(firsts)] if firsts else None
        chosen = firsts[min(guarding, key=lambda index: (*_strictness(firsts[index]), index))]
        return chosen if all(_covers(chosen, firsts[index], self._stepping) for index in guarding) else CLOSED


def _first(patterns: Iterable[_Pattern], method: str) -> _Pattern | None:
    for pattern in patterns:
        if pattern.takes_method(method):
            return pattern
    return None


def _strictness(route: Route) -> tuple[bool, int]:
    return route.mode != "enforce", _STRICTEST_FIRST.index(route.action)


def _covers(chosen: Route, other: Route, stepping: frozenset[str]) -> bool:
    """True when nothing that `other` would keep from upstream gets there by way of `chosen`."""
    if chosen is other or chosen.action == "send" or (chosen.action == "deny" and chosen.mode == "enforce"):
        return True  # the latter two never reach upstream
    if other.action == "send":
        return False
    if other.mode == "observe":
        return True
    if other.captcha and not (chosen.captcha and set(chosen.captcha) <= set(other.captcha)):
        return False
    if not set(other.limits) <= set(chosen.limits):
        return False
    if other.captcha and not _demands_as_often(chosen, other, stepping):
        return False
    if other.action != "verify":
        return True
    return chosen.action == "verify" and _proof_of(chosen) == _proof_of(other)


def _demands_as_often(chosen: Route, other: Route, stepping: frozenset[str]) -> bool:
    """True when `chosen` demands its captcha whenever `other` would; the limits of `other` are among its own."""
    if chosen.captcha_after is None and not stepping & set(chosen.limits):
        return True  # it always does
    if other.captcha_after is None:
        return bool(stepping & set(other.limits))
    return chosen.captcha_after is not None and chosen.captcha_after <= other.captcha_after


def _proof_of(route: Route) -> tuple[str | None, ...]:
    """What says whose proof a `verify` route asks for."""
    return route.to, route.country, route.code, route.channel


def _compile(index: int, route: Route) -> _Pattern:
    method, _, path = route.match.partition(" ")
    subtree = path.endswith("/*")
    path = path[:-2] if subtree else path
    segments: list[str | None] = []
    for segment in path.split("/"):
        segments += [None] if _NAME.fullmatch(segment) else fold(decoded(octets(segment)))
    literal = path if not subtree and None not in segments and LITERAL.fullmatch(path) else ""
    return _Pattern(index, route, method.upper(), tuple(segments), subtree, literal)


def _is_front_script(path: str) -> bool:
    """True for the path of a script that is a front controller by custom, however it is escaped."""
    return _FRONT_SCRIPT.search(path if LITERAL.fullmatch(path) else decoded(decoded(path))) is not None


def _pretty(guarding: Iterable[_Pattern]) -> dict[str, set[str]]:
    """Return where in pretty addresses the path of a parameter begins, of those that are guarded: `/blog/wp-json`."""
    found: dict[str, set[str]] = {}
    for pattern in guarding:
        for name, segment in overrides.UNDER.items():
            if segment in pattern.segments:
                before = pattern.segments[: pattern.segments.index(segment) + 1]
                found.setdefault(name, set()).add("".join(f"/{each or 'any'}" for each in before))
    return found
