"""What does the message say? A text per language, short enough for one SMS, and the subject of an e-mail.

Pure but for reading `texts/` once.

Languages are looked up as RFC 4647 section 3.4 has it, by cutting subtags from the end; the last resort is English.
"""

import functools
import json
from collections.abc import Container
from pathlib import Path
from types import MappingProxyType
from typing import Final

_TEXTS: Final = Path(__file__).parent / "texts"
_DEFAULT: Final = "en"
# Regions that say their script without writing it.
_SCRIPT: Final = MappingProxyType({"zh-tw": "zh-hant", "zh-hk": "zh-hant", "zh-mo": "zh-hant"})


def render(locale: str, code: str, minutes: int, origin: str) -> str:
    """Write the message in the language nearest to `locale` (BCP 47), for a code that lives `minutes` more.

    `origin` is a host name, or "" for none: phones then offer the code to that site only. The format is the WICG's
    "Origin-bound one-time codes delivered via SMS": the last line is @host #code.
    """
    text = _words(locale)["sms"].format(code=code, minutes=minutes)
    return f"{text}\n\n@{origin} #{code}" if origin else text


def subject(locale: str) -> str:
    """Write an e-mail's subject. It has no code in it: lock screens show subjects."""
    return _words(locale)["subject"]


def nearest(locale: str, tags: Container[str]) -> str | None:
    """Find the tag nearest to `locale` (BCP 47) among lower-case tags, by cutting subtags from the end."""
    subtags = locale.lower().replace("_", "-").split("-")
    for count in range(len(subtags), 0, -1):
        tag = "-".join(subtags[:count])
        found = tag if tag in tags else _SCRIPT.get(tag, tag)
        if found in tags:
            return found
    return None


def _words(locale: str) -> dict[str, str]:
    return _texts()[nearest(locale, _texts()) or _DEFAULT]


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    return {path.stem.lower(): json.loads(path.read_text(encoding="utf-8")) for path in _TEXTS.glob("*.json")}
