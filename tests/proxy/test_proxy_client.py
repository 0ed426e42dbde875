"""Who is named, whatever the fields say."""

from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.client import Client, Trusted, name
from sidecar.proxy.messages import Fields

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
TRUSTED = Trusted(NETWORKS)


def named(peer: str, *entries: str) -> Client:
    return name(peer, {b"x-forwarded-for": [entry.encode() for entry in entries]}, TRUSTED, "http")


@pytest.mark.parametrize(
    ("peer", "entries", "chain"),
    [
        ("192.0.2.1", ["198.51.100.7"], ["192.0.2.1"]),  # a stranger's word counts for nothing
        ("10.0.0.1", ["198.51.100.7"], ["198.51.100.7", "10.0.0.1"]),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7, 10.0.0.2"], ["198.51.100.7", "10.0.0.2", "10.0.0.1"]),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.7", "10.0.0.2"], ["198.51.100.7", "10.0.0.2", "10.0.0.1"]),  # lines join
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], ["10.0.0.3", "10.0.0.2", "10.0.0.1"]),  # all trusted: the leftmost
        ("10.0.0.1", ["198.51.100.7, unknown, 10.0.0.2"], ["10.0.0.2", "10.0.0.1"]),  # garbage ends the walk
        ("10.0.0.1", [f"198.51.100.7,{' ' * 81}10.0.0.2"], ["10.0.0.1"]),  # so is what is longer than any address
        ("10.0.0.1", ["198.51.100.7,,10.0.0.2"], ["10.0.0.2", "10.0.0.1"]),
        ("10.0.0.1", [], ["10.0.0.1"]),
        ("10.0.0.1", [""], ["10.0.0.1"]),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], ["198.51.100.7", "10.0.0.1"]),  # IPv4-mapped is IPv4
        ("10.0.0.1", ["198.51.100.7:4711"], ["198.51.100.7", "10.0.0.1"]),
        ("10.0.0.1", ["[2001:DB8::0:1]:443"], ["2001:db8::1", "10.0.0.1"]),
        ("10.0.0.1", ['"[2001:db8::1]"'], ["2001:db8::1", "10.0.0.1"]),
        ("fd00::1%eth0", ["2001:db8::1"], ["2001:db8::1", "fd00::1"]),
        ("", ["198.51.100.7"], ["127.0.0.1"]),  # a unix socket is this machine
    ],
)
def test_the_client_is_the_nearest_address_that_no_trusted_proxy_wrote(
    peer: str, entries: list[str], chain: list[str]
) -> None:
    client = named(peer, *entries)
    assert client.chain == tuple(chain)
    assert client.ip == chain[0]


def test_a_unix_peer_is_trusted_where_this_machine_is() -> None:
    client = name("", {b"x-forwarded-for": [b"198.51.100.7"]}, Trusted([ip_network("127.0.0.0/8")]), "http")
    assert client.ip == "198.51.100.7"


def test_scheme_and_host_are_believed_of_a_trusted_peer_only() -> None:
    lines = [b"Host: inner:8080", b"X-Forwarded-Proto: HTTPS", b"X-Forwarded-Host: example.com"]
    told = Fields(lines).said
    trusted, stranger = name("10.0.0.1", told, TRUSTED, "http"), name("192.0.2.1", told, TRUSTED, "http")
    assert (trusted.scheme, trusted.host) == ("https", "example.com")
    assert (stranger.scheme, stranger.host) == ("http", "inner:8080")


def test_a_scheme_that_is_none_is_not_believed() -> None:
    assert name("10.0.0.1", {b"x-forwarded-proto": [b"javascript"]}, TRUSTED, "https").scheme == "https"


entries = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(network="10.0.0.0/8").map(str),
    st.sampled_from(["unknown", "", "_hidden", "1.2.3", "[::1", "a:b:c"]),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20),
)


@given(st.lists(st.lists(entries, max_size=5), max_size=3), st.ip_addresses().map(str))
def test_whatever_is_claimed_only_the_last_believed_address_may_be_untrusted(lines: list[list[str]], peer: str) -> None:
    """Every address of the chain but the client's own is a trusted proxy's, and the peer is always there."""
    said = {b"x-forwarded-for": [", ".join(line).encode("latin-1") for line in lines]}
    client = name(peer, said, TRUSTED, "http")
    assert client.ip == client.chain[0]
    assert ip_address(client.chain[-1]) in {ip_address(peer), getattr(ip_address(peer), "ipv4_mapped", None)}
    for address in client.chain[1:]:
        assert any(ip_address(address) in network for network in NETWORKS)


@given(st.lists(entries, max_size=5))
def test_nothing_that_a_client_claims_moves_what_a_trusted_proxy_wrote(claims: list[str]) -> None:
    """The proxy appends the address it saw; no claim left of it changes who is named."""
    claimed = ", ".join([*claims, "198.51.100.7"]).encode("latin-1")
    assert name("10.0.0.1", {b"x-forwarded-for": [claimed]}, TRUSTED, "http").ip == "198.51.100.7"


pieces = st.one_of(st.sampled_from([0, 0, 1, 0xFFFF]), st.integers(0, 0xFFFF))


@given(st.lists(pieces, min_size=8, max_size=8), st.data())
def test_an_ipv6_address_has_one_spelling(words: list[int], data: st.DataObject) -> None:
    """Whatever is written for an address, in full or with zeros left out, its name is what RFC 5952 makes of it."""
    address = IPv6Address(b"".join(word.to_bytes(2) for word in words))
    begin = data.draw(st.integers(0, 7))
    end = data.draw(st.integers(begin, 8))
    written = [format(word, data.draw(st.sampled_from(["x", "X", "04x"]))) for word in words]
    text = ":".join(written)
    if end > begin and not any(words[begin:end]):
        text = f"{':'.join(written[:begin])}::{':'.join(written[end:])}"
    assert IPv6Address(text) == address
    assert named("10.0.0.1", text).ip == str(address.ipv4_mapped or address)
