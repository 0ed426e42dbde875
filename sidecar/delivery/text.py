"""What does the message say? A text per language, short enough for one SMS, and the subject of an e-mail.

Pure but for reading `texts/` once. A `locale` is what `language.read` makes; the last resort is English. Texts of the
configuration stand before ours of the same language.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sidecar import language
from sidecar.config.model import CodeRules
from sidecar.recipient import Channel
from sidecar.segments import segments

_TEXTS: Final = Path(__file__).parent / "texts"
_PLACE: Final = re.compile(r"\{([a-z]+)\}")
# Where the code stands in a text that is not written to its end: no configuration can have it in a text or a name.
_CODE: Final = "\0"
# Texts that are kept, by language, minutes and channel.
_KEPT: Final = 1024
# A message may be on its way for so long before the minutes that it speaks of are fewer.
_ON_ITS_WAY_S: Final = 10.0


class Texts:
    """The messages of one configuration. What does not depend on the code is written once, and kept."""

    def __init__(self, rules: CodeRules) -> None:
        self._rules = rules
        self._own = {language.spelled(tag): text for tag, text in rules.texts.items()}
        self._pieces = functools.lru_cache(_KEPT)(self._written)

    def render(self, locale: str, code: str, minutes: int, channel: Channel = "sms") -> str:
        """Write the message in the first language of `locale` that there is, for a code that lives `minutes` more.

        Of our own texts the short one is taken where the other would need a second SMS. The last line is what phones
        look for: @host #code as the WICG's "Origin-bound one-time codes delivered via SMS" has it, or the hash that
        Android's SMS Retriever knows an app by.
        """
        return code.join(self._pieces(locale, len(code), minutes, channel))

    def _written(self, locale: str, length: int, minutes: int, channel: Channel) -> list[str]:
        """Write the message in pieces, between which the code stands. Any digits take as much room as any other."""
        rules = self._rules
        end = f"\n\n@{rules.origin} #{_CODE}" if rules.origin else ""
        if rules.app_hash and channel == "sms":
            end = f"\n\n{rules.app_hash}"
        values = {"code": _CODE, "minutes": str(minutes), "brand": rules.brand}
        tag = language.choose(locale, [*self._own, *_texts()]) or language.DEFAULT
        if tag in self._own:
            return (_filled(self._own[tag], values) + end).split(_CODE)
        ours = _texts()[tag]
        written = [_filled(ours[key], values) for key in ("sms", "short")]
        if rules.brand:
            written = [_filled(ours["branded"], {"brand": rules.brand, "text": text}) for text in written]
        full, short = ((text + end).split(_CODE) for text in written)
        most, least = (segments(("0" * length).join(pieces)) for pieces in (full, short))
        return short if channel == "sms" and most > least else full


def minutes_left(seconds: float) -> int:
    """Whole minutes of what a code has to live: not more than there are when the message is read, and 1 at least."""
    return max(1, int((seconds + _ON_ITS_WAY_S) // 60))


def longest(rules: CodeRules) -> Mapping[str, str]:
    """Write the longest message of each language that there is."""
    tags = dict.fromkeys([*_texts(), *map(language.spelled, rules.texts)])
    texts = Texts(rules)
    return {tag: texts.render(tag, "0" * rules.length, minutes_left(rules.ttl)) for tag in tags}


def subject(locale: str) -> str:
    """Write an e-mail's subject. It has no code in it: lock screens show subjects."""
    return _texts()[language.choose(locale, _texts()) or language.DEFAULT]["subject"]


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Put the values into their places, once: what is put in is not read again."""
    return _PLACE.sub(lambda found: values[found[1]], text)


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(_TEXTS.glob("*.json"))}
