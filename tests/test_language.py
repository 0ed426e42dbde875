"""sidecar/language.py: one reading of what a person speaks."""

import pytest
from awake import cpu_s
from hypothesis import given
from hypothesis import strategies as st

from sidecar import language

THERE = ("en", "de", "zh", "zh-Hant", "pt", "id")


@pytest.mark.parametrize(
    ("wish", "chosen"),
    [
        ("en", "en"),
        ("de-AT", "de"),
        ("DE_at", "de"),
        ("zh_CN", "zh"),
        ("zh_CN.UTF-8", "zh"),
        ("de_DE@euro", "de"),
        ("zh-Hans-CN", "zh"),
        ("zh-TW", "zh-Hant"),
        ("zh_tw", "zh-Hant"),
        ("zh-Hant-HK", "zh-Hant"),
        ("zh-Hans-TW", "zh"),
        ("in_ID", "id"),
        ("pt-BR-x-private", "pt"),
        ("tlh", None),
        ("tlh, de;q=0.1", "de"),
        ("en;q=0.5, de;q=0.9, zh;q=0.9", "de"),
        ("en;q=0.8,zh-TW;q=0.9", "zh-Hant"),
        ("de;q=0, zh;q=0.001", "zh"),
        ("de-AT, de;q=0, en;q=0.2", "en"),
        ("de ;\tQ=1.000 , en", "de"),
        ("*, de;q=0.5", "de"),
        ("*", None),
        ("", None),
        ("C", None),
        ("POSIX", None),
        ("../../secret", None),
        ("de;q=2, en;q=0.1", "en"),
        ("de;q=-1, en;q=0.1", "en"),
        ("de;q=0.9;level=1, en;q=0.1", "en"),
        ("{{de}}", None),
        ("\u0434\u0435, en", "en"),
        ("de\u0130, en", "en"),
        ("x" * 60_000, None),
        ("de," * 30_000, "de"),
        (",".join(["tlh"] * 20 + ["de"]), None),
    ],
)
def test_the_first_language_that_is_there_is_chosen(wish: str, chosen: str | None) -> None:
    """RFC 9110 section 12.5.4 orders them, RFC 4647 section 3.4 shortens them, and what cannot be read is left out."""
    assert language.choose(language.read(wish), THERE) == chosen


@pytest.mark.parametrize(
    ("wishes", "locale"),
    [
        (("de-AT", "zh"), "de-AT,zh"),
        (("", "zh_hant_tw"), "zh-Hant-TW"),
        (("no language", "en;q=0.1"), "en"),
        (("de", "de-AT, en;q=0, de;q=0"), "de,de-AT,en;q=0"),
        (("fr;q=0", "*, zh-tw;q=0.2"), "zh-TW,fr;q=0"),
        (("sl-ROZAJ-biske-1994",), "sl-rozaj-biske-1994"),
        (("en-a-bb-x-cc",), "en-a-bb-x-cc"),
        ((), ""),
    ],
)
def test_the_first_wish_comes_first(wishes: tuple[str, ...], locale: str) -> None:
    """What a request says of its language goes before its Accept-Language, which counts where that names none."""
    assert language.read(*wishes) == locale
    assert language.read(locale) == locale


def test_another_region_is_nearer_than_another_language() -> None:
    """A text for Brazil is read in Portugal, and not one in English."""
    assert language.choose(language.read("pt-PT, en;q=0.5"), ("en", "pt-BR")) == "pt-BR"
    assert language.choose(language.read("pt-PT, pt-BR;q=0.5"), ("pt", "pt-BR")) == "pt"
    assert language.choose(language.read("PT-br"), ("pt", "pt-br")) == "pt-br", "as it is spelled there"


def test_the_language_that_is_wanted_most_need_not_be_there() -> None:
    """A webhook is told it: it may have texts of its own."""
    assert language.first(language.read("tlh, en")) == "tlh"
    assert language.first(language.read("")) == "en"


@given(st.lists(st.text(max_size=60) | st.text(alphabet="adefzh-_;=q,.@ 01*", max_size=60), max_size=3))
def test_a_locale_is_read_as_itself(wishes: list[str]) -> None:
    """Whatever was said, what is made of it is short, in ASCII, and means the same when it is read again."""
    locale = language.read(*wishes)
    assert locale.isascii()
    assert len(locale) < 1200
    assert language.choose(locale, THERE) == language.choose(language.read(locale), THERE)


@pytest.mark.parametrize("wish", ["a-" * 30_000, ",".join(["a-b-c-d-e-f-g-h"] * 8_000), "zh_" * 20_000, ";q=" * 20_000])
def test_a_long_wish_costs_nothing(wish: str) -> None:
    """Sixty thousand characters are read in the time of five hundred."""
    assert cpu_s(lambda: language.read(wish)) < 0.01


def test_no_more_of_a_wish_is_remembered_than_is_read() -> None:
    """What a client writes behind it takes no room here."""
    wish = "de," * 200
    assert language.read(wish) == language.read(wish + "x" * 60_000) == "de"
    before = language._ranges.cache_info().currsize
    assert language.read(wish + "y" * 60_000) == "de"
    assert language._ranges.cache_info().currsize == before
