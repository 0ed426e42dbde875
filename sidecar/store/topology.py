"""Which node of the store is asked for a key? One for all; where there are several, a topology of its own knows."""

from typing import Protocol

from sidecar.store.address import Address
from sidecar.store.connections import Node


class Topology(Protocol):
    """The nodes of one store."""

    def node(self, key: str | None) -> Node:
        """Give the node to ask for a key; None for a command without one, which any node can answer."""
        ...

    def close(self) -> None:
        """Close every connection to every node."""
        ...


class Single:
    """One node for every key."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def node(self, key: str | None) -> Node:  # noqa: ARG002 - it is the same for all
        """Give that node."""
        return self._node

    def close(self) -> None:
        """Close every connection."""
        self._node.close()


def of_url(url: str, limit_s: float) -> Topology:
    """Make the topology that a store's URL names; a command has `limit_s` seconds.

    Raises ValueError for what is none, OSError for TLS files that cannot be read.
    """
    return Single(Node(Address(url), limit_s))
