"""Who asks, when proxies stand between? Pure.

The client is the nearest address that no trusted proxy wrote: the walk goes through `X-Forwarded-For` from the right
and ends at the first address that is no trusted proxy's. What lies left of it could be anybody's invention and is
never believed. `Forwarded` (RFC 7239) is not read.
"""

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

RawFields = Sequence[tuple[bytes, bytes]]
# How far the walk goes: nobody has so many proxies, and each costs time.
MAX_HOPS: Final = 64
# The longest entry that is looked at, and remembered: an IPv6 address with quotes, brackets, zone and port.
_MAX_ENTRY: Final = 80
# The fields that name a client. What an IPv4 address looks like: nobody has another spelling of one (RFC 6943 3.1.1).
_TOLD: Final = frozenset({b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(slots=True)  # not frozen: it is made for every request
class Client:
    """Who asks, and how they reached the first proxy we trust.

    `chain` is every believed address, the client's own (`ip`) first, the peer's last. `scheme` is "http" or "https".
    `host` is the authority they asked for, "" where none was named. `trusted_peer` says that the peer is one of
    `server.trusted_proxies`, so that its forwarding fields are true.
    """

    ip: str
    scheme: str
    host: str
    trusted_peer: bool
    chain: tuple[str, ...]


class Trusted:
    """The proxies that are believed: `address in trusted`. An address is spelled as `name` spells it."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)
        self._v4 = tuple(
            (int(network.netmask), int(network.network_address)) for network in self._networks if network.version == 4
        )

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        if ":" not in address:
            a, b, c, d = address.split(".")
            number = int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
            return any(number & mask == network for mask, network in self._v4)
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)


NOBODY: Final = Trusted()


def name(peer_ip: str, raw_fields: RawFields, trusted: Trusted, scheme: str) -> Client:
    """Name the client. `peer_ip` is "" on a unix socket: this machine, as 127.0.0.1. Never raises."""
    peer, is_trusted = _peer(peer_ip, trusted)
    said: dict[bytes, list[bytes]] = {}
    for key, value in raw_fields:
        if (lower := key.lower()) in _TOLD:
            said.setdefault(lower, []).append(value)
    host = b"".join(said.get(b"host", ())).decode("latin-1")
    if not is_trusted:
        return Client(ip=peer, scheme=scheme, host=host, trusted_peer=False, chain=(peer,))
    chain = [peer]
    entries = ",".join([value.decode("latin-1") for value in said.get(b"x-forwarded-for", ())])
    for entry in reversed(entries.rsplit(",", MAX_HOPS)[-MAX_HOPS:] if entries.strip() else []):
        address = _address(entry) if len(entry) <= _MAX_ENTRY else None
        if address is None:
            break
        chain.append(address)
        if address not in trusted:
            break
    told_scheme = _last(said.get(b"x-forwarded-proto")).lower()
    return Client(
        ip=chain[-1],
        scheme=told_scheme if told_scheme in {"http", "https"} else scheme,
        host=_last(said.get(b"x-forwarded-host")) or host,
        trusted_peer=True,
        chain=tuple(reversed(chain)),
    )


def is_trusted_peer(peer_ip: str, trusted: Trusted) -> bool:
    """Tell whether the peer is one of the trusted proxies. `peer_ip` as `name` takes it."""
    return _peer(peer_ip, trusted)[1]


@functools.lru_cache(256)
def _peer(peer_ip: str, trusted: Trusted) -> tuple[str, bool]:
    """A peer's address, and whether it is believed: most requests come from one of a few load balancers."""
    address = _address(peer_ip) or "127.0.0.1"
    return address, address in trusted


def _address(entry: str) -> str | None:
    """Read one entry of the list: without port, brackets, quotes and zone; an IPv4-mapped IPv6 address as IPv4."""
    text = entry.strip(' \t"')
    return text if _IPV4.fullmatch(text) else _odd_address(text)


@functools.lru_cache(4096)
def _odd_address(text: str) -> str | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def _last(values: Sequence[bytes] | None) -> str:
    """Return the last element of a list field: the nearest writer's."""
    return values[-1].rpartition(b",")[2].strip().decode("latin-1") if values else ""
