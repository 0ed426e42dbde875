"""Does a list refuse this request? Who asks, and for which number, in; what refuses it out. Pure.

Law: an [[allow]] that holds goes before every block. All conditions of one table must hold; of a condition's values one
must. As long as the number is not known, nobody is refused whom an [[allow]] may still let in by it. An [[allow]] lets
nobody past anything but blocks: limits, captchas and the number policy are the same for all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar import ranges
from sidecar.config.model import Listed
from sidecar.ranges import Ranges

# As much of a User-Agent is looked at: its sender may write as much as a head holds.
_LONGEST_AGENT: Final = 4096


class Match(NamedTuple):
    """What refuses. `reason` is for the log; `by_number`: another number from the same client might not be refused."""

    reason: str
    by_number: bool


class Asker(NamedTuple):
    """Who asks: the client's address as `proxy.client` names it, and what it says that it is; "" where nobody looks."""

    ip: str
    agent: str = ""


class Beginnings:
    """Beginnings of numbers, looked up by their lengths: thousands of them cost as much as one."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._known = frozenset(prefixes)
        self._lengths = sorted({len(prefix) for prefix in self._known})

    def __bool__(self) -> bool:
        return bool(self._known)

    def has(self, number: str) -> bool:
        """True for a number, in E.164, that begins with one of them."""
        return any(number[:length] in self._known for length in self._lengths)


@dataclass(frozen=True, slots=True)
class Added:
    """What administrators have added to the lists, as one instance sees it now. `whole`: hashes of whole numbers."""

    addresses: Ranges | None = None
    beginnings: Beginnings | None = None
    whole: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.addresses or self.beginnings or self.whole)


NOTHING_ADDED: Final = Added()
_ADDED_ADDRESS: Final = Match("admin block address", by_number=False)
_ADDED_NUMBER: Final = Match("admin block number", by_number=True)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One table, or all tables that have one condition of the same kind. What is None or empty is no condition."""

    match: Match
    addresses: Ranges | None
    asns: frozenset[int]
    asn_file: str
    agents: tuple[str, ...]
    beginnings: Beginnings | None

    @classmethod
    def of(cls, table: Listed) -> "_Rule":
        names = [name for name in ("cidr", "asn", "agent", "prefix") if getattr(table, name)]
        return cls(
            Match(f"block {' '.join(names)}", by_number=bool(table.prefix)),
            ranges.of_networks(table.cidr) if table.cidr else None,
            frozenset(table.asn),
            table.asn_file,
            tuple(text.lower() for text in table.agent),
            Beginnings(table.prefix) if table.prefix else None,
        )

    def holds_of(self, asker: Asker, networks: Mapping[str, Ranges]) -> bool:
        """True when every condition on who asks holds, and where there is none."""
        if self.addresses is not None and not self.addresses.value(ranges.address(asker.ip)):
            return False
        if self.asns and networks[self.asn_file].value(ranges.address(asker.ip)) not in self.asns:
            return False
        return not self.agents or any(agent in asker.agent for agent in self.agents)

    def holds(self, asker: Asker, number: str | None, networks: Mapping[str, Ranges]) -> bool:
        """True when every condition holds. `number`: in E.164; None where there is none."""
        if self.beginnings is not None and (number is None or not self.beginnings.has(number)):
            return False
        return self.holds_of(asker, networks)


class Lists:
    """The lists of one configuration. `networks`: the ranges of each `asn_file`, as they are now."""

    def __init__(
        self,
        block: Sequence[Listed],
        allow: Sequence[Listed],
        networks: Mapping[str, Ranges],
        added: Callable[[], Added] = lambda: NOTHING_ADDED,
        hashes: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        """`added`: what administrators block now; `hashes`: of a whole number, as it stands in there."""
        self._block = tuple(map(_Rule.of, _joined(block)))
        self._allow = tuple(map(_Rule.of, _joined(allow)))
        self._has_block = bool(block)
        self._networks = networks
        self._added = added
        self._hashes = hashes
        self._reads_agent = any(rule.agents for rule in (*self._block, *self._allow))

    def __bool__(self) -> bool:
        """False while there is no block: then nothing need be asked."""
        return self._has_block or self._added() is not NOTHING_ADDED

    def asker(self, ip: str, agents: Callable[[], Iterable[str]]) -> Asker:
        """Name who asks. `agents`: the values of User-Agent, read only where a table has a condition on them."""
        if not self._reads_agent:
            return Asker(ip)
        return Asker(ip, ", ".join(agents())[:_LONGEST_AGENT].lower())

    def at_once(self, asker: Asker) -> Match | None:
        """Say what refuses an asker whatever number they ask for; None where the number may decide."""
        for rule in self._allow:
            if rule.holds_of(asker, self._networks):
                return None
        for rule in self._block:
            if rule.beginnings is None and rule.holds_of(asker, self._networks):
                return rule.match
        return self._by_address(asker, self._added())

    def match(self, asker: Asker, number: str | None) -> Match | None:
        """Say what refuses a request. `number`: in E.164; None where it asks for none."""
        for rule in self._allow:
            if rule.holds(asker, number, self._networks):
                return None
        for rule in self._block:
            if rule.holds(asker, number, self._networks):
                return rule.match
        added = self._added()
        if number is not None:
            if added.beginnings is not None and added.beginnings.has(number):
                return _ADDED_NUMBER
            if added.whole and not added.whole.isdisjoint(self._hashes(number)):
                return _ADDED_NUMBER
        return self._by_address(asker, added)

    def _by_address(self, asker: Asker, added: Added) -> Match | None:
        if added.addresses is not None and added.addresses.value(ranges.address(asker.ip)):
            return _ADDED_ADDRESS
        return None


def _joined(tables: Sequence[Listed]) -> list[Listed]:
    """Make one table of all that have one condition of the same kind: a thousand of them cost as much as one."""
    found: dict[tuple[str, str], Listed] = {}
    several = []
    for table in tables:
        names = [name for name in ("cidr", "asn", "agent", "prefix") if getattr(table, name)]
        if len(names) != 1:
            several.append(table)
            continue
        (name,) = names
        before = found.get((name, table.asn_file))
        values = getattr(table, name) + (getattr(before, name) if before is not None else ())
        found[name, table.asn_file] = table.model_copy(update={name: values})
    return [*found.values(), *several]
