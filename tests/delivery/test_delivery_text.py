"""The message's words: every language has them, and they fit one SMS."""

import json
import string
from pathlib import Path

import pytest

from sidecar.delivery import text
from sidecar.language import read

TEXTS = sorted((Path(text.__file__).parent / "texts").glob("*.json"))
# 3GPP TS 23.038 section 6.2.1, without the escape and what needs it.
GSM_7 = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_language_has_every_key_and_every_field(path: Path) -> None:
    """English is the key list."""
    english = json.loads((path.parent / "en.json").read_text(encoding="utf-8"))
    here = json.loads(path.read_text(encoding="utf-8"))
    assert here.keys() == english.keys()
    for key, words in here.items():
        fields = [name for _, name, _, _ in string.Formatter().parse(words) if name is not None]
        assert sorted(fields) == (["code", "minutes"] if key == "sms" else [])


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_longest_code_fits_one_sms(path: Path) -> None:
    """160 characters of GSM-7, or 70 of UCS-2 (3GPP TS 23.040)."""
    written = text.render(path.stem, "12345678", 10, "")
    assert len(written) <= (160 if set(written) <= GSM_7 else 70)


def test_the_text_is_the_first_language_that_there_is_then_english() -> None:
    """tests/test_language.py holds how they are looked up."""
    for wish, language in (("tlh, zh-TW;q=0.5", "zh-Hant"), ("tlh", "en"), ("", "en")):
        words = json.loads((TEXTS[0].parent / f"{language}.json").read_text(encoding="utf-8"))
        assert text.render(read(wish), "123456", 5, "") == words["sms"].format(code="123456", minutes=5)


def test_origin_is_the_last_line() -> None:
    """As the WICG's format has it: explanatory text, then @host #code."""
    written = text.render("en", "123456", 5, "example.com")
    assert written.splitlines()[-1] == "@example.com #123456"
    assert written.startswith(text.render("en", "123456", 5, ""))


def test_subject_is_in_the_language_of_the_text() -> None:
    assert text.subject(read("zh-TW")) == "您的驗證碼"
    assert text.subject("tlh") == "Your verification code"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_subject_fits_a_line(path: Path) -> None:
    """One line, and short enough for a list of mails (RFC 5322 section 2.1.1: 78 characters)."""
    assert len(text.subject(path.stem).splitlines()) == 1
    assert 0 < len(text.subject(path.stem)) <= 70
