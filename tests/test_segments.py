"""sidecar/segments.py: what a vendor would bill."""

import pytest

from sidecar.segments import segments


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 80 + "a", 2),
        ("a" * 152 + "€" + "a" * 151, 2),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("à" * 160, 1),
        ("á" + "a" * 69, 1),
        ("á" + "a" * 70, 2),
        ("ç" + "a" * 70, 2),
        ("Ç" + "a" * 159, 1),
        ("码" * 70, 1),
        ("码" * 71, 2),
        ("码" * 134, 2),
        ("码" * 135, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("😀" * 66, 2),
        ("😀" * 67, 3),
    ],
)
def test_segments_as_the_networks_count_them(text: str, count: int) -> None:
    """3GPP TS 23.038: one character outside of GSM-7 makes the whole text UCS-2; a pair is not torn apart."""
    assert segments(text) == count
