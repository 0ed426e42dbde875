"""Who asks, when proxies stand between? Pure.

The client is the nearest address that no trusted proxy wrote: the walk goes through `X-Forwarded-For` from the right
and ends at the first address that is no trusted proxy's. What lies left of it could be anybody's invention and is
never believed. `Forwarded` (RFC 7239) is not read.
"""

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# How far the walk goes: nobody has so many proxies, and each costs time.
MAX_HOPS: Final = 64
# The longest entry that is looked at, and remembered: an IPv6 address with quotes, brackets, zone and port.
_MAX_ENTRY: Final = 80
# What an IPv4 address is made of, four of them with dots between: nobody has another spelling of one (RFC 6943 3.1.1).
_OCTETS: Final = frozenset(map(str, range(256)))
# What most IPv6 addresses look like in the spelling that RFC 5952 section 4 gives them, but for where their zeros are:
# reading such a one and writing it anew took five times as long as all else that is done to name a client.
_PIECE: Final = r"(?:0|[1-9a-f][0-9a-f]{0,3})"
_IPV6: Final = re.compile(rf"{_PIECE}(?::{_PIECE}){{7}}|{_PIECE}(?::{_PIECE}){{0,4}}::{_PIECE}(?::{_PIECE}){{0,4}}")
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
        masks = [(one.version, int(one.netmask), int(one.network_address)) for one in self._networks]
        self._v4 = tuple([(mask, number) for version, mask, number in masks if version == 4])
        self._v6 = tuple([(mask, number) for version, mask, number in masks if version == 6])
        # How an IPv4 address begins that may be one of them: that of most clients is none.
        ends = [(number >> 24, (number | mask ^ 0xFFFFFFFF) >> 24) for mask, number in self._v4]
        self._v4_begin = frozenset([str(octet) for first, last in ends for octet in range(first, last + 1)])

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        if ":" in address:
            if not self._v6:
                return False
            number = int(ipaddress.IPv6Address(address))
            return any(number & mask == network for mask, network in self._v6)
        if address.partition(".")[0] not in self._v4_begin:
            return False
        a, b, c, d = address.split(".")
        number = int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
        return any(number & mask == network for mask, network in self._v4)


NOBODY: Final = Trusted()


def name(peer_ip: str, said: Mapping[bytes, Sequence[bytes]], trusted: Trusted, scheme: str) -> Client:
    """Name the client. `peer_ip` is "" on a unix socket: this machine, as 127.0.0.1. Never raises.

    `said`: by their names in lower case, the values of at least Host and the X-Forwarded fields.
    """
    peer, is_trusted = _peer(peer_ip, trusted)
    host = b"".join(said.get(b"host", ())).decode("latin-1")
    if not is_trusted:
        return Client(peer, scheme, host, is_trusted, (peer,))
    chain = [peer]
    entries = b",".join(said.get(b"x-forwarded-for", ())).decode("latin-1").rsplit(",", MAX_HOPS)
    for entry in entries[: -MAX_HOPS - 1 : -1]:  # the nearest writer's first
        address = _address(entry) if len(entry) <= _MAX_ENTRY else None
        if address is None:
            break
        chain.append(address)
        if address not in trusted:
            break
    chain.reverse()
    if b"x-forwarded-proto" in said:
        told_scheme = _last(said[b"x-forwarded-proto"]).lower()
        scheme = told_scheme if told_scheme in {"http", "https"} else scheme
    if b"x-forwarded-host" in said:
        host = _last(said[b"x-forwarded-host"]) or host
    return Client(chain[0], scheme, host, is_trusted, tuple(chain))


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
    is_plain = _is_plain_ipv6(text) if ":" in text else text.count(".") == 3 and _OCTETS.issuperset(text.split("."))
    return text if is_plain else _odd_address(text)


def _is_plain_ipv6(text: str) -> bool:
    """True for an address in its one spelling. RFC 5952: the longest run of zeros, of two or more, is `::`."""
    if not _IPV6.fullmatch(text):
        return False
    pieces = f":{text}:"
    if "::" in text and (text.count(":") > 6 or ":0::" in pieces or "::0:" in pieces):
        return False
    return ":0:0:" not in pieces


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


def _last(values: Sequence[bytes]) -> str:
    """Return the last element of a list field: the nearest writer's."""
    return values[-1].rpartition(b",")[2].strip().decode("latin-1")
