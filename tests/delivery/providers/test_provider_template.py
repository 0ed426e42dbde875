"""Templates by language, values by place."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sidecar import language
from sidecar.delivery.providers.seam import Message
from sidecar.delivery.providers.template import ListedParams, NamedParams, Template, choose, fill, fill_named
from sidecar.recipient import parse

MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", "246810", 5, "246810")


class Table(BaseModel):
    template: Template = {}
    named: NamedParams = {}
    listed: ListedParams = ()


@pytest.mark.parametrize(
    ("locale", "chosen"),
    [
        ("zh", "Z"),
        ("zh-CN", "Z"),
        ("ZH_cn", "Z"),
        ("zh-TW", "T"),
        ("zh-Hant-HK", "T"),
        ("en-GB", "E"),
        ("de", "A"),
        ("de-CH", "A"),
        ("fr", "E"),
        ("", "E"),
    ],
)
def test_template_is_the_nearest_language(locale: str, chosen: str) -> None:
    """The language, another region of it, then English."""
    table = Table.model_validate({"template": {"zh": "Z", "zh-Hant": "T", "en": "E", "de-AT": "A"}})
    assert choose(table.template, language.read(locale)) == chosen


def test_template_without_english_is_the_first() -> None:
    table = Table.model_validate({"template": {"zh": "Z", "ja": "J"}})
    assert choose(table.template, "fr") == "Z"


def test_template_that_is_one_text_is_for_all_languages() -> None:
    table = Table.model_validate({"template": "SMS_1"})
    assert {choose(table.template, locale) for locale in ("zh", "en", "", "x-klingon")} == {"SMS_1"}


@pytest.mark.parametrize("wrong", ["", 5, {}, [], {"zh": ""}, {"zh": 5}, {"": "SMS_1"}, {"z h": "SMS_1"}, {"zh": {}}])
def test_template_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="template"):
        Table.model_validate({"template": wrong})


def test_values_are_filled_in_once() -> None:
    """What stands in the message is not read as a place again."""
    table = Table.model_validate({"named": {"a": "{code}", "b": "in {minutes} min: {code}", "c": "plain"}})
    assert fill_named(table.named, MESSAGE) == {"a": "246810", "b": "in 5 min: 246810", "c": "plain"}
    odd = Message("id-1", MESSAGE.recipient, "zh", "{minutes}", 5, "")
    assert fill("{code}", odd) == "{minutes}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"named": {"a": "{name}", "b": "{code}"}},
        {"named": {"a": "{code.__class__}", "b": "{code}"}},
        {"named": {"a": "{minutes}"}},
        {"named": {"a": 5}},
        {"listed": ["{minutes}"]},
        {"listed": ["{codes}"]},
        {"listed": []},
    ],
)
def test_values_that_cannot_carry_the_code_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Table.model_validate(wrong)
