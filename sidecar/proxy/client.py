"""Who asks, when proxies stand between? Pure.

The client is the nearest address that no trusted proxy wrote: the walk goes through `X-Forwarded-For` from the right
and ends at the first address that is no trusted proxy's. What lies left of it could be anybody's invention and is
never believed. `Forwarded` (RFC 7239) is not read.
"""

import functools
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RawFields = Sequence[tuple[bytes, bytes]]
# How far the walk goes: nobody has so many proxies, and each costs time.
MAX_HOPS: Final = 64
# The longest entry that is looked at, and remembered: an IPv6 address with quotes, brackets, zone and port.
_MAX_ENTRY: Final = 80
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
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


def name(peer_ip: str, raw_fields: RawFields, trusted_networks: Sequence[Network], scheme: str) -> Client:
    """Name the client. `peer_ip` is "" on a unix socket: this machine, as 127.0.0.1. Never raises."""
    peer = _address(peer_ip) or "127.0.0.1"
    host = b"".join([value for name, value in raw_fields if name.lower() == b"host"]).decode("latin-1")
    if not _is_trusted(peer, trusted_networks):
        return Client(ip=peer, scheme=scheme, host=host, trusted_peer=False, chain=(peer,))
    chain = [peer]
    entries = ",".join(value.decode("latin-1") for key, value in raw_fields if key.lower() == b"x-forwarded-for")
    for entry in reversed(entries.rsplit(",", MAX_HOPS)[-MAX_HOPS:] if entries.strip() else []):
        address = _address(entry) if len(entry) <= _MAX_ENTRY else None
        if address is None:
            break
        chain.append(address)
        if not _is_trusted(address, trusted_networks):
            break
    told_scheme = _last(raw_fields, b"x-forwarded-proto").lower()
    return Client(
        ip=chain[-1],
        scheme=told_scheme if told_scheme in {"http", "https"} else scheme,
        host=_last(raw_fields, b"x-forwarded-host") or host,
        trusted_peer=True,
        chain=tuple(reversed(chain)),
    )


def is_trusted_peer(peer_ip: str, trusted_networks: Sequence[Network]) -> bool:
    """Tell whether the peer is one of the trusted proxies. `peer_ip` as `name` takes it."""
    return _is_trusted(_address(peer_ip) or "127.0.0.1", trusted_networks)


@functools.lru_cache(4096)
def _address(entry: str) -> str | None:
    """Read one entry of the list: without port, brackets, quotes and zone; an IPv4-mapped IPv6 address as IPv4."""
    text = entry.strip(' \t"')
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


def _is_trusted(address: str, networks: Sequence[Network]) -> bool:
    if not networks:
        return False
    parsed = ipaddress.ip_address(address)
    return any(parsed in network for network in networks)


def _last(raw_fields: RawFields, key: bytes) -> str:
    """Return the last element of a list field: the nearest writer's."""
    values = [value for name, value in raw_fields if name.lower() == key]
    return values[-1].rpartition(b",")[2].strip().decode("latin-1") if values else ""
