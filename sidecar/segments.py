"""How many SMS is a text? Networks carry it in segments, and vendors bill each. Pure.

3GPP TS 23.038 (the alphabets) and TS 23.040 section 9.2.3.24 (how a longer text is put together).
"""

from typing import Final

# TS 23.038 section 6.2.1; the escape is no character, and what needs it takes two places (section 6.2.1.1).
_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED: Final = frozenset("\f^{}\\[~]|€")
# 140 octets in all: so many septets, or units of UTF-16; fewer where a header says which part it is.
_GSM_7: Final = (160, 153)
_UCS_2: Final = (70, 67)


def segments(text: str) -> int:
    """Count the SMS that a text takes: 1 for up to 160 characters of GSM-7, or 70 if a single one is not in it."""
    if all(character in _BASIC or character in _EXTENDED for character in text):
        return _parts([2 if character in _EXTENDED else 1 for character in text], *_GSM_7)
    return _parts([2 if ord(character) > 0xFFFF else 1 for character in text], *_UCS_2)


def _parts(widths: list[int], alone: int, each: int) -> int:
    """Fill parts in order; what takes two places is not torn apart."""
    if sum(widths) <= alone:
        return 1
    count, room = 0, 0
    for width in widths:
        if width > room:
            count, room = count + 1, each
        room -= width
    return count
