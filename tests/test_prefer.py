"""What a client prefers: RFC 7240's grammar, and what is no preference."""

import pytest
from awake import cpu_s

from sidecar import prefer


@pytest.mark.parametrize(
    ("lines", "preferences"),
    [
        ([], {}),
        (["wait=5"], {"wait": "5"}),
        (["Wait = 5"], {"wait": "5"}),
        (['wait=5, status="sent"'], {"wait": "5", "status": "sent"}),
        (["wait=5", "status=sent"], {"wait": "5", "status": "sent"}),
        (['status="a, wait=9", wait=5'], {"status": "a, wait=9", "wait": "5"}),
        (['status="a\\"b"'], {"status": 'a"b'}),
        (["respond-async, wait=100"], {"respond-async": "", "wait": "100"}),
        (['foo; bar, wait=1; baz="x;y" ;'], {"foo": "", "wait": "1"}),
        ([" ,, wait=5 ,,"], {"wait": "5"}),
        (["wait=5, wait=9", "WAIT=7"], {"wait": "5"}),
        (['foo=""'], {"foo": ""}),
    ],
)
def test_preferences_are_read_as_rfc_7240_writes_them(lines: list[str], preferences: dict[str, str]) -> None:
    """Tokens and quoted words, parameters left out, the first of a name counts, several fields are one list."""
    assert prefer.read(lines) == preferences


@pytest.mark.parametrize(
    "text",
    [
        "wait=",
        "=5",
        'status="sent',
        "wait=5 status=sent",
        "wait=5; =",
        "wait=5;a=",
        "wait=5; a =",
        "wait=\x00",
        "wéit=5",
        "x" * 1001,
    ],
)
def test_field_that_cannot_be_read_prefers_nothing(text: str) -> None:
    assert prefer.read([text]) == {}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5), ("05", 5), ("99999", 30), ("9" * 900, 30), ("", 0), ("-1", 0), ("1.5", 0), ("５", 0), ("²", 0)],
)
def test_wait_is_bounded_and_in_plain_digits(value: str, seconds: int) -> None:
    assert prefer.wait_s({"wait": value}, 30) == seconds


@pytest.mark.parametrize("piece", ["; ", " \t", "a;", 'a="', '"\\', ",", "a= ;"])
def test_field_that_almost_matches_takes_no_time(piece: str) -> None:
    """Nothing is tried again with its spaces split otherwise."""
    text = ("a" + piece * 1000)[:999] + "\x00"
    assert cpu_s(lambda: prefer.read([text])) < 0.05
