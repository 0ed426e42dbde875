"""sidecar/ranges.py: the same value as a look at every range would find."""

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import ranges
from sidecar.ranges import Address, Network, Rows, Version

Row = tuple[Version, int, int, int]


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Ranges that often meet, overlap, lie in each other or are there twice; also at both ends of all addresses."""
    found: list[Row] = []
    for _ in range(draw(st.integers(0, 30))):
        version: Version = draw(st.sampled_from((4, 6)))
        most = (1 << (32 if version == 4 else 128)) - 1
        base = draw(st.sampled_from((0, 1 << 31, most - 40)))
        first = base + draw(st.integers(0, 40))
        found.append((version, first, min(most, first + draw(st.integers(0, 20))), draw(st.integers(1, 4))))
    return draw(st.sampled_from((found, sorted(found, key=lambda row: (row[1], -row[2])))))


def by_looking_at_all(found: Sequence[Row], at: Address) -> int:
    """Of the ranges that have it: the one that begins last, of those the narrowest, of those the last one."""
    mine = [
        (first, -last, number, value)
        for number, (version, first, last, value) in enumerate(found)
        if version == at.version and first <= at.number <= last
    ]
    return max(mine)[3] if mine else 0


@given(rows())
def test_a_search_finds_what_a_look_at_every_range_would(found: list[Row]) -> None:
    """At, before and behind each end of every range."""
    made = Rows()
    for row in found:
        made.add(*row)
    searched = made.ranges()
    for version, first, last, _ in found:
        most = (1 << (32 if version == 4 else 128)) - 1
        for number in {first - 1, first, first + 1, last - 1, last, last + 1} & set(range(max(0, first - 1), last + 2)):
            if 0 <= number <= most:
                at = Address(version, number)
                assert searched.value(at) == by_looking_at_all(found, at), at
    for at in (Address(4, 0), Address(4, (1 << 32) - 1), Address(6, 0), Address(6, (1 << 128) - 1)):
        assert searched.value(at) == by_looking_at_all(found, at)


def test_more_ranges_than_are_sorted_at_once_are_sorted_all_the_same() -> None:
    """In the opposite order, each of 5,000 is found."""
    made = Rows()
    for number in reversed(range(5_000)):
        made.add(4, number * 10, number * 10 + 4, number + 1)
    searched = made.ranges()
    assert [searched.value(Address(4, number * 10 + 4)) for number in range(5_000)] == list(range(1, 5_001))
    assert searched.value(Address(4, 5)) == 0


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
        ("203.0.113.7/32", "203.0.113.7", "203.0.113.8"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("::ffff:203.0.113.0/120", "203.0.113.9", "203.0.114.9"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
    ],
)
def test_a_network_has_its_addresses(network: str, inside: str, outside: str) -> None:
    """IPv4 that is written as IPv6 is IPv4, as the address of a client is."""
    made: Network = ipaddress.ip_network(network)
    searched = ranges.of_networks([made])
    assert searched.value(ranges.address(inside)) == 1
    assert searched.value(ranges.address(outside)) == 0


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_an_address_is_read_as_the_number_that_it_is(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert ranges.address(str(ip)) == (ip.version, int(ip))
