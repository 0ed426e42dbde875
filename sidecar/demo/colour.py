"""How does the demo's text stand out? Colours on a terminal that wants them, plain text everywhere else."""

import os
import sys
from typing import Final, Literal

# Select Graphic Rendition, ECMA-48 section 8.3.117.
_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}


def paint(text: str, colour: Literal["bold", "dim", "red", "green", "cyan"]) -> str:
    """Colour a text for stdout, unless it is no terminal or NO_COLOR is set. https://no-color.org"""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"
