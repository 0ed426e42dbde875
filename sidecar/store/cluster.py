"""Which node of a cluster has a key? A map of its slots, which is read from any node and mended by what nodes answer.

Its law: a node that answers with a redirect has not done the command, so the command goes on to where it was told,
within its own time, and is done once. The map is read again once for however many commands find it wrong. What nodes
say is bounded: so many redirects for a command, so many nodes, and a map that is none changes nothing.

A key's slot: CRC16 (XMODEM) of its hash tag, in 16384. https://valkey.io/topics/cluster-spec/ (read 2026-11)
"""

import asyncio
import time
from binascii import crc_hqx
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from sidecar.store.address import Address
from sidecar.store.connections import Node, Redirect
from sidecar.store.faults import Fault
from sidecar.store.seeds import CLUSTER_PORT, Place, Seeds
from sidecar.store.trouble import Trouble
from sidecar.store.wire import LostError, Wire

SLOTS: Final = 16384
# A cluster has about so many at most, its specification says.
MOST_NODES: Final = 1000
# The map is read so often at most: a replica takes seconds to become a primary.
_LOOK_EVERY_S: Final = 0.1
# One node of several that are tried has at least so long to let us in.
_TRIED_S: Final = 0.1
# A command on several keys of a slot that moves is asked again as late, each time twice as late, and this at most.
_TRY_AGAIN_S: Final = 0.01
_TRY_LAST_S: Final = 0.16
# No name in the DNS is longer (RFC 1035 section 2.3.4).
_MOST_HOST: Final = 255


class Range(NamedTuple):
    """Slots from `first` to `last`, which the primary at `place` has; `replicas` follow it."""

    first: int
    last: int
    place: Place
    replicas: Sequence[Place]


def slot_of(key: str) -> int:
    """Give a key's slot: that of its hash tag, where there is one."""
    _, brace, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return crc_hqx((tag if brace and closed and tag else key).encode(), 0) % SLOTS


def read_slots(said: Any, asked: str) -> list[Range]:
    """Read what a node at the host `asked` answered to CLUSTER SLOTS. Raises ValueError for what is no map of slots."""
    if type(said) is not list or len(said) > SLOTS:
        raise ValueError("no CLUSTER SLOTS")
    try:
        return [_range(*one, asked=asked) for one in said]
    except (TypeError, IndexError, AttributeError) as error:
        raise ValueError("no CLUSTER SLOTS") from error


def _range(first: Any, last: Any, *nodes: Any, asked: str) -> Range:
    if type(first) is not int or type(last) is not int or not 0 <= first <= last < SLOTS:
        raise ValueError("no range of slots")
    primary, *replicas = (_place(node[0], node[1], asked) for node in nodes)
    if primary is None:
        raise ValueError("no address of a primary")
    return Range(first, last, primary, [replica for replica in replicas if replica is not None])


def _place(host: Any, port: Any, asked: str) -> Place | None:
    """Read where a node is; one that says no host is where it was asked. None: it has none yet, as "?" says."""
    if type(port) is not int or not 0 < port <= 0xFFFF:
        raise ValueError("no port")
    name = host.decode("ascii") if host is not None else ""
    if name == "?":
        return None
    if len(name) > _MOST_HOST or not name.isprintable() or " " in name:
        raise ValueError("no host")
    return Place(name or asked, port)


def read_redirect(fault: Fault, slot: int, asked: str) -> Place | None:
    """Read where MOVED or ASK sends a command on a key of `slot`; None for what sends it nowhere."""
    with suppress(ValueError):
        _, told, where = fault.text.split(" ")
        host, _, port = where.rpartition(":")
        if int(told) == slot:
            return _place(host.encode("ascii"), int(port), asked)
    return None


class Cluster:
    """The nodes of a cluster. `url`: `redis+cluster://` or, with TLS, `rediss+cluster://`, as `seeds` reads it.

    Raises ValueError for any other, OSError for TLS files that cannot be read.
    """

    is_spread = True

    def __init__(self, url: str, limit_s: float, trouble: Trouble | None, wanted: int | None = None) -> None:
        seeds = Seeds.read(url, CLUSTER_PORT)
        self._address = Address(seeds.way_in)
        self._limit_s = limit_s
        self._trouble = trouble
        self._wanted = wanted
        self._seeds = seeds.places
        self._turn = 0  # which of the known places is tried first
        self._doors: dict[Place, Address] = {}
        self._ranges: list[Range] = []
        self._has_replicas = False  # some primary has, or had: so each should
        self._why_no_map = ""
        self._slots: list[Node | None] = [None] * SLOTS
        self._nodes: dict[Place, Node] = {}
        self._gone: set[Node] = set()
        # Whoever lets us in: for what any node can answer, and for keys until the map is read.
        self._anyone = Node(_Anyone(self), limit_s, trouble, wanted)
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._is_closed = False

    def node(self, key: str | None) -> Node:
        """Give the node that has a key, as far as is known."""
        if key is None:
            return self._anyone
        node = self._slots[slot_of(key)]
        if node is None:
            self.look()
            return self._anyone
        return node

    def redirect(self, key: str | None, node: Node, fault: Fault, times: int) -> Redirect | None:
        """Say where a command goes on that a node has not done; None where it ends. `times` it has gone on before."""
        if key is None:
            return None
        if fault.code == "TRYAGAIN":
            return Redirect(self.node(key), is_asking=False, after_s=min(_TRY_AGAIN_S * 2**times, _TRY_LAST_S))
        if fault.code not in {"MOVED", "ASK"}:
            return None
        slot = slot_of(key)
        place = read_redirect(fault, slot, node.place.rpartition(":")[0].strip("[]"))
        told = self._at(place) if place is not None else None
        if told is None:
            return None
        # If the map says so already, this answers what was asked before it did.
        if fault.code == "MOVED" and self._slots[slot] is not told:
            self._slots[slot] = told
            self.look()
        return Redirect(told, is_asking=fault.code == "ASK", after_s=0.0)

    def look(self) -> asyncio.Future[None] | None:
        """Read the map again, once for however many ask for it. Done when that was tried; None once closed."""
        if self._is_closed:
            return None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return self._looking

    async def survey(self, probe: str) -> tuple[dict[str, str], str]:
        """Give a key to write to each primary, by its place, to see that it takes writes; and say what is wrong."""
        if not self._ranges and (looking := self.look()) is not None:
            await asyncio.wait([looking])
        nodes = set(self._slots) - {None}
        keys: dict[str, str] = {}
        for number in range(64 * SLOTS):  # so many that no slot is missed; mostly the first few are enough
            if len(keys) == len(nodes):
                break
            key = f"{probe}:{number}"
            if (node := self._slots[slot_of(key)]) is not None:
                keys.setdefault(node.place, key)
        lacking = self._slots.count(None)
        if not lacking:
            return keys, ""
        self.look()
        return keys, f"no node has {lacking} of its {SLOTS} slots" if keys else self._why_no_map

    def close(self) -> None:
        """Close every connection to every node."""
        self._is_closed = True
        if self._looking is not None:
            self._looking.cancel()
        for node in (self._anyone, *self._nodes.values(), *self._gone):
            node.close()
        self._gone.clear()

    # Nodes…

    def _at(self, place: Place) -> Node | None:
        """Give the node at a place; None when there are more than a cluster has."""
        node = self._nodes.get(place)
        if node is None and len(self._nodes) < MOST_NODES:
            trouble = self._trouble.at(str(place)) if self._trouble is not None else None
            node = self._nodes[place] = Node(
                self.door(place), self._limit_s, trouble, self._wanted, is_one_of_many=self._has_replicas
            )
        return node

    def door(self, place: Place) -> Address:
        """Give the address of a node."""
        return self._doors.get(place) or self._doors.setdefault(place, self._address.at(place))

    def places(self) -> list[Place]:
        """Give every place that is known, beginning with another one each time: one node may know less than another."""
        found = [place for one in self._ranges for place in (one.place, *one.replicas)]
        places = list(dict.fromkeys([*found, *self._seeds]))[:MOST_NODES]
        self._turn = (self._turn + 1) % len(places)
        return places[self._turn :] + places[: self._turn]

    def share_s(self, count: int) -> float:
        """How long one of so many nodes that are tried may take, in seconds."""
        return max(_TRIED_S, self._limit_s / count)

    # The map…

    async def _look(self) -> None:
        await asyncio.sleep(self._looked_at + _LOOK_EVERY_S - time.monotonic())
        places = self.places()
        for place in places:
            try:
                async with asyncio.timeout(self.share_s(len(places))):
                    ranges = await self._asked(place)
            except (LostError, ValueError, TimeoutError) as error:
                self._why_no_map = str(error) or f"no answer of {place}"
                continue
            self._take(ranges)
            break
        self._looked_at = time.monotonic()

    async def _asked(self, place: Place) -> list[Range]:
        wire = await self.door(place).connect()
        try:
            said = await wire.ask(("CLUSTER", "SLOTS"))[0]
        finally:
            wire.end()
        if isinstance(said, Exception):
            raise LostError(Fault.read(str(said)).reason)
        ranges = read_slots(said, place.host)
        if not ranges:
            raise ValueError(f"no slots at {place}")
        return ranges

    def _take(self, ranges: list[Range]) -> None:
        """Go by this map from now on, and leave the nodes that are not in it."""
        self._ranges = ranges
        self._has_replicas = self._has_replicas or any(one.replicas for one in ranges)
        if self._trouble is not None:
            self._trouble.over(time.monotonic())  # of whoever was asked before there was a map
        slots: list[Node | None] = [None] * SLOTS
        primaries = set()
        for first, last, place, _ in ranges:
            primaries.add(place)
            slots[first : last + 1] = [self._at(place)] * (last + 1 - first)
        self._slots = slots
        for place in self._nodes.keys() - primaries:
            self._leave(self._nodes.pop(place))
        known = {*self.places()}
        self._doors = {place: door for place, door in self._doors.items() if place in known}

    def _leave(self, node: Node) -> None:
        """Close a node's connections: each once it has its answers, and all when those would be too late."""
        now = time.monotonic()
        node.renew(now, now)
        self._gone.add(node)

        def close() -> None:
            node.close()
            self._gone.discard(node)
            if node.trouble is not None:
                node.trouble.over(time.monotonic())  # others have its slots
                node.trouble = None

        asyncio.get_running_loop().call_later(self._limit_s, close)


class _Anyone:
    """The way to whichever node of a cluster lets us in first, tried one after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.place = str(cluster.places()[0])

    async def connect(self) -> Wire:
        """Open a connection. Raises LostError."""
        places = self._cluster.places()
        reason = ""
        for place in places:
            try:
                async with asyncio.timeout(self._cluster.share_s(len(places))):
                    wire = await self._cluster.door(place).connect()
            except LostError as error:
                reason = error.reason
            except TimeoutError:
                reason = f"no answer of {place}"
            else:
                self.place = str(place)
                return wire
        raise LostError(reason)
