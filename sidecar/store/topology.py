"""Which node of the store is asked for a key? One for all; where there are several, a topology of its own knows."""

import asyncio
import time
from typing import Protocol

from sidecar.store.address import Address
from sidecar.store.cluster import Cluster
from sidecar.store.connections import Node, Redirect
from sidecar.store.faults import Fault
from sidecar.store.seeds import CLUSTER, SENTINEL, take_wanted
from sidecar.store.sentinel import Primary
from sidecar.store.trouble import Trouble


class Topology(Protocol):
    """The nodes of one store."""

    @property
    def is_spread(self) -> bool:
        """True where different keys may be on different nodes, which do what they are asked in no common order."""
        ...

    def node(self, key: str | None) -> Node:
        """Give the node to ask for a key; None for a command without one, which any node can answer."""
        ...

    def redirect(self, key: str | None, node: Node, fault: Fault, times: int) -> Redirect | None:
        """Say where a command goes on that a node has not done; None where it ends. `times` it has gone on before."""
        ...

    def look(self) -> asyncio.Future[None] | None:
        """Find out which nodes there are, as one may be gone. Done when that was tried; None: there are no others."""
        ...

    async def survey(self, probe: str) -> tuple[dict[str, str], str]:
        """Give the keys to write to see that every node takes writes, by their places; and say what else is wrong."""
        ...

    def close(self) -> None:
        """Close every connection to every node."""
        ...


class Single:
    """One node for every key."""

    is_spread = False

    def __init__(self, node: Node) -> None:
        self._node = node

    def node(self, key: str | None) -> Node:  # noqa: ARG002 - it is the same for all
        """Give that node."""
        return self._node

    def redirect(self, key: str | None, node: Node, fault: Fault, times: int) -> None:
        """Send nothing on: there is no other node."""

    def look(self) -> None:
        """Look for no other node."""

    async def survey(self, probe: str) -> tuple[dict[str, str], str]:
        """Give the one key, and no place: it goes without saying."""
        return {"": probe}, ""

    def close(self) -> None:
        """Close every connection."""
        self._node.close()


class Watched(Single):
    """One node for every key: the primary that Sentinels name, whichever server that is."""

    def __init__(self, url: str, limit_s: float, trouble: Trouble | None, wanted: int | None) -> None:
        self._primary = Primary(url, self._switched)
        super().__init__(Node(self._primary, limit_s, trouble, wanted, is_one_of_many=True))

    def close(self) -> None:
        """Close every connection, those to the Sentinels, too."""
        self._primary.close()
        super().close()

    def _switched(self) -> None:
        now = time.monotonic()
        self._node.renew(now, now)


def of_url(url: str, limit_s: float, trouble: Trouble | None) -> Topology:
    """Make the topology that a store's URL names; a command has `limit_s` seconds, `trouble` tells what fails.

    Raises ValueError for what is none, OSError for TLS files that cannot be read.
    """
    url, wanted = take_wanted(url)
    scheme = url.partition("://")[0]
    if scheme in CLUSTER:
        return Cluster(url, limit_s, trouble, wanted)
    if scheme in SENTINEL:
        return Watched(url, limit_s, trouble, wanted)
    return Single(Node(Address(url), limit_s, trouble, wanted))
