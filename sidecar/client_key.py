"""How much of an address is one asker? What is counted by address is counted by this. Pure."""

import functools
import ipaddress
from typing import Final, Literal

# How much of an address one customer has. A home or a phone gets one IPv4 address, or a whole IPv6 /64; a site gets an
# IPv4 /24 or an IPv6 /48 (RFC 6177). Counting single IPv6 addresses would count nothing.
# A network operator has its IPv4 in parts of /16 and smaller, and gets an IPv6 /32 (RIPE-738 section 5.1).
_PREFIX_LENGTHS: Final = {"ip": {4: 32, 6: 64}, "ip_prefix": {4: 24, 6: 48}, "network": {4: 16, 6: 32}}


@functools.lru_cache(4096)
def client_key(key: Literal["ip", "ip_prefix", "network"], ip: str) -> str:
    """Tell whom a limit by address counts: "ip" a customer, "ip_prefix" a site, "network" many of an operator's.

    Raises ValueError for no address.
    """
    if key != "network" and ":" not in ip and ip.count(".") == 3:  # most are IPv4, in the one spelling that it has
        return f"{ip}/32" if key == "ip" else f"{ip[: ip.rindex('.')]}.0/24"
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        # A socket for both families writes IPv4 as ::ffff:192.0.2.1 (RFC 4291 section 2.5.5.2). The zone of a
        # link-local address (fe80::1%eth0) names our own interface.
        address = address.ipv4_mapped or address
    length, most = _PREFIX_LENGTHS[key][address.version], address.max_prefixlen
    return f"{type(address)(int(address) >> (most - length) << (most - length))}/{length}"
