"""The message's words: every language has them, and they fit one SMS."""

import json
import string
from pathlib import Path

import pytest

from sidecar.config.model import CodeRules
from sidecar.delivery import text
from sidecar.language import read
from sidecar.segments import segments

TEXTS = sorted((Path(text.__file__).parent / "texts").glob("*.json"))
PLAIN = CodeRules()


def rules(**more: object) -> CodeRules:
    return CodeRules.model_validate(more)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_language_has_every_key_and_every_field(path: Path) -> None:
    """English is the key list."""
    english = json.loads((path.parent / "en.json").read_text(encoding="utf-8"))
    here = json.loads(path.read_text(encoding="utf-8"))
    assert here.keys() == english.keys()
    places = {"sms": ["code", "minutes"], "short": ["code", "minutes"], "branded": ["brand", "text"], "subject": []}
    for key, words in here.items():
        assert sorted(name for _, name, _, _ in string.Formatter().parse(words) if name is not None) == places[key]


@pytest.mark.parametrize("brand", ["", "Example Co"])
@pytest.mark.parametrize("end", [{}, {"origin": "accounts.example.com"}, {"app_hash": "FA+9qCX9VSu"}])
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_the_longest_message_is_one_sms(path: Path, end: dict[str, str], brand: str) -> None:
    """Eight digits, ten minutes, with and without a host of twenty characters, and a name of ten before it."""
    written = text.Texts(rules(brand=brand, **end)).render(path.stem, "12345678", 10)
    assert segments(written) == 1
    assert "12345678" in written
    assert "10" in written.replace("12345678", "")
    assert brand in written.partition("1")[0]


def test_what_fits_is_said_whole() -> None:
    """The short text is for an SMS that would be two; an e-mail has room."""
    tight = rules(origin="accounts.example.com", brand="Example Co")
    assert "Никому его не сообщайте" in text.Texts(PLAIN).render("ru", "123456", 5)
    assert "Никому" not in text.Texts(tight).render("ru", "123456", 5)
    assert "Никому его не сообщайте" in text.Texts(tight).render("ru", "123456", 5, "email")
    assert "Do not share" in text.Texts(tight).render("en", "123456", 5)


def test_what_cannot_fit_is_said_whole() -> None:
    """The short text is taken only where it saves an SMS."""
    endless = rules(origin=f"{'x' * 48}.example.com")
    assert "Никому его не сообщайте" in text.Texts(endless).render("ru", "123456", 5)


@pytest.mark.parametrize(
    ("seconds", "minutes"), [(300, 5), (299.9, 5), (290, 5), (289, 4), (151, 2), (70, 1), (50, 1), (20, 1), (0.1, 1)]
)
def test_a_message_promises_no_minute_that_there_is_not(seconds: float, minutes: int) -> None:
    """But for the seconds that it takes to be sent."""
    assert text.minutes_left(seconds) == minutes


def test_a_text_of_ones_own_stands_before_ours() -> None:
    """By language, as all are looked up; the other languages stay ours. What is put in is not read again."""
    own = rules(
        brand="{code} & Co",
        texts={"EN": "{brand}: {code}, {code}! {minutes}", "pt-BR": "Oi {code}", "zh-hant": "嗨 {code}"},
    )
    assert text.Texts(own).render(read("en-GB"), "123456", 5) == "{code} & Co: 123456, 123456! 5"
    assert text.Texts(own).render(read("tlh"), "123456", 5).startswith("{code} & Co: 123456, 123456!")
    assert text.Texts(own).render(read("pt-PT"), "123456", 5).startswith("{code} & Co: Use 123456"), "ours is nearer"
    assert text.Texts(own).render(read("pt_br"), "123456", 5) == "Oi 123456"
    assert text.Texts(own).render(read("zh-TW"), "123456", 5, "email") == "嗨 123456"
    assert text.Texts(own).render(read("de"), "123456", 5).startswith("{code} & Co: 123456 ist")
    assert text.longest(own)["zh-Hant"] == "嗨 000000"


def test_the_text_is_the_first_language_that_there_is_then_english() -> None:
    """tests/test_language.py holds how they are looked up."""
    for wish, language in (("tlh, zh-TW;q=0.5", "zh-Hant"), ("tlh", "en"), ("", "en")):
        words = json.loads((TEXTS[0].parent / f"{language}.json").read_text(encoding="utf-8"))
        assert text.Texts(PLAIN).render(read(wish), "123456", 5) == words["sms"].format(code="123456", minutes=5)


def test_origin_is_the_last_line() -> None:
    """As the WICG's format has it: explanatory text, then @host #code."""
    written = text.Texts(rules(origin="example.com")).render("en", "123456", 5)
    assert written.splitlines()[-1] == "@example.com #123456"
    assert written.startswith(text.Texts(PLAIN).render("en", "123456", 5))


def test_the_hash_of_an_app_is_the_last_line_of_an_sms() -> None:
    """Android reads it in no e-mail."""
    hashed = rules(app_hash="FA+9qCX9VSu")
    assert text.Texts(hashed).render("en", "123456", 5).splitlines()[-1] == "FA+9qCX9VSu"
    assert "FA+9qCX9VSu" not in text.Texts(hashed).render("en", "123456", 5, "email")


def test_subject_is_in_the_language_of_the_text() -> None:
    assert text.subject(read("zh-TW")) == "您的驗證碼"
    assert text.subject("tlh") == "Your verification code"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_subject_fits_a_line(path: Path) -> None:
    """One line, and short enough for a list of mails (RFC 5322 section 2.1.1: 78 characters)."""
    assert len(text.subject(path.stem).splitlines()) == 1
    assert 0 < len(text.subject(path.stem)) <= 70
