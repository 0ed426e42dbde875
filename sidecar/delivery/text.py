"""What does the message say? A text per language, short enough for one SMS, and the subject of an e-mail.

Pure but for reading `texts/` once. A `locale` is what `language.read` makes; the last resort is English.
"""

import functools
import json
from pathlib import Path
from typing import Final

from sidecar import language

_TEXTS: Final = Path(__file__).parent / "texts"


def render(locale: str, code: str, minutes: int, origin: str) -> str:
    """Write the message in the first language of `locale` that there is, for a code that lives `minutes` more.

    `origin` is a host name, or "" for none: phones then offer the code to that site only. The format is the WICG's
    "Origin-bound one-time codes delivered via SMS": the last line is @host #code.
    """
    text = _words(locale)["sms"].format(code=code, minutes=minutes)
    return f"{text}\n\n@{origin} #{code}" if origin else text


def subject(locale: str) -> str:
    """Write an e-mail's subject. It has no code in it: lock screens show subjects."""
    return _words(locale)["subject"]


def _words(locale: str) -> dict[str, str]:
    return _texts()[language.choose(locale, _texts()) or language.DEFAULT]


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in _TEXTS.glob("*.json")}
