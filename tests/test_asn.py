"""sidecar/asn.py: which files are read, and what is said of the others."""

import os
from pathlib import Path

import pytest

from sidecar import asn, ranges
from sidecar.asn import AsnFileError

FORMS = {
    "iptoasn": "1.0.0.0\t1.0.0.255\t13335\tUS\tCLOUDFLARENET\n1.0.1.0\t1.0.3.255\t0\tNone\tNot routed\n"
    "2001:db8::\t2001:db8:ffff:ffff:ffff:ffff:ffff:ffff\t64500\tZZ\tEXAMPLE\n",
    "db-ip": '"1.0.0.0","1.0.0.255","13335","Cloudflare, Inc."\n'
    '"2001:db8::","2001:db8:ffff:ffff:ffff:ffff:ffff:ffff","64500","Example, Ltd."\n',
    "GeoLite2": "network,autonomous_system_number,autonomous_system_organization\n"
    '1.0.0.0/24,13335,"Cloudflare, Inc."\n2001:db8::/32,64500,EXAMPLE\n',
    "by hand": "\ufeff# ours\n\n2001:db8::/32, AS64500\r\n1.0.0.0/24, AS13335\r\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_says_whose_an_address_is(form: str) -> None:
    found = asn.read(FORMS[form].encode().splitlines(keepends=True))
    for ip, number in (
        ("0.255.255.255", 0),
        ("1.0.0.0", 13335),
        ("1.0.0.255", 13335),
        ("1.0.1.0", 0),
        ("2001:db8::", 64500),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 64500),
        ("2001:db9::", 0),
    ):
        assert found.value(ranges.address(ip)) == number, ip


def test_a_network_within_another_is_its_own() -> None:
    """In whichever order they stand."""
    lines = [b"10.0.0.0/8,1\n", b"10.1.0.0/16,2\n", b"10.1.2.0/24,3\n"]
    for order in (lines, lines[::-1], [lines[1], lines[0], lines[2]]):
        found = asn.read(order)
        assert [found.value(ranges.address(ip)) for ip in ("10.0.0.1", "10.1.0.1", "10.1.2.1", "10.1.3.1")] == [
            1,
            2,
            3,
            2,
        ]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("1.0.0.0", '"1.0.0.0" has neither an end nor a length'),
        ("1.0.0.0/24", "has no number of a network"),
        ("1.0.0.0,1.0.0.255", "has no number of a network"),
        ("1.0.0.0,1.0.0.255,US", '"US" is no number of an autonomous system'),
        ("1.0.0.0,1.0.0.255,4294967296", '"4294967296" is no number of an autonomous system'),
        ("1.0.0.0,1.0.0.255,\u0661", '"\u0661" is no number of an autonomous system'),
        ("1.0.0.1/24,1", '"1.0.0.1/24" is an address inside a network'),
        ("1.0.0.0/33,1", '"1.0.0.0/33" is no network'),
        ("1.0.0.0/x,1", '"1.0.0.0/x" is no network'),
        ("1.0.0.9,1.0.0.0,1", '"1.0.0.0" is no end of a range from "1.0.0.9" on'),
        ("1.0.0.0,::1,1", '"::1" is no end of a range from "1.0.0.0" on'),
        ("1.0.0,1.0.0.9,1", '"1.0.0" is no address'),
        ("16777216,16777471,1", '"16777216" is no address'),
        ("network,asn", '"network" is no address'),
        ("x" * 5000, "is longer than 4096 octets"),
    ],
)
def test_what_is_no_range_is_told_with_its_line(line: str, wrong: str) -> None:
    """The second line of a file; only the first one may have the columns' names."""
    with pytest.raises(AsnFileError) as refused:
        asn.read([b"1.0.0.0/24,13335\n", line.encode() + b"\n"])
    assert (refused.value.line, refused.value.wrong) == (2, wrong)
    assert "1.0.0.0/24,13335" in refused.value.right


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"network,asn\n", b"1.0.0.0/24,0\n"])
def test_a_file_without_a_range_is_none(content: bytes) -> None:
    """An empty copy of a list must not take the list's place."""
    with pytest.raises(AsnFileError, match="has no range in it"):
        asn.read(content.splitlines(keepends=True))


def test_a_file_is_read_again_only_once_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "asn.csv"
    path.write_text("1.0.0.0/24,1\n")
    first = asn.load(str(path))
    assert asn.load(str(path))[1] is first[1]
    path.write_text("1.0.0.0/24,22\n")
    stamp, changed = asn.load(str(path))
    assert (stamp, changed.value(ranges.address("1.0.0.1"))) == (asn.stamp(str(path)), 22)
    path.write_text("nonsense\n")
    with pytest.raises(AsnFileError):
        asn.load(str(path))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A directory, and a device that never ends."""
    with pytest.raises(OSError, match="directory"):
        asn.load(str(tmp_path))
    with pytest.raises(AsnFileError, match="is no file"):
        asn.load(os.devnull)
