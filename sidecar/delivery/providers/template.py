"""Which of the vendor's approved templates, and with what in its variables? Pure.

Vendors in China send no text of ours: a template that they approved, and values for its variables. A template may be
one text for all languages, or a table by language. In a value, {code} and {minutes} stand for the message's own.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from sidecar import language
from sidecar.config.findings import UnfitError
from sidecar.config.model import CodeRules, Named
from sidecar.config.units import Text
from sidecar.delivery.providers.seam import Message

_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_TAG: Final = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*")
# BCP 47's word for "no language in particular".
_ANY: Final = "und"


def _templates(value: Any) -> Mapping[str, str]:
    right = 'write its code, such as "SMS_10001", or one by language: { zh = "SMS_10001", en = "SMS_10002" }'
    table = {_ANY: value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not all(isinstance(one, str) and one for one in table.values()) or not table:
        raise UnfitError("is no template", right)
    if not all(isinstance(tag, str) and _TAG.fullmatch(tag) for tag in table):
        raise UnfitError("has a key that is no language", right)
    return MappingProxyType({language.spelled(tag): one for tag, one in table.items()})


def _value(value: str) -> str:
    unknown = [name for name in _PLACE.findall(value) if name not in {"code", "minutes"}]
    if unknown:
        raise UnfitError(f"has {{{unknown[0]}}}, which nothing stands for", 'write "{code}", "{minutes}" or plain text')
    return value


def _with_code(values: tuple[str, ...] | Mapping[str, str]) -> Any:
    texts = values.values() if isinstance(values, Mapping) else values
    if not any("{code}" in value for value in texts):
        raise UnfitError("sends no code", 'write "{code}" as one of the values')
    return values


# Language (BCP 47) -> template.
Template = Annotated[
    Mapping[str, str],
    BeforeValidator(_templates),
    PlainSerializer(dict),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
            ]
        }
    ),
]
_Value = Annotated[Text, AfterValidator(_value)]
# Values by name, or by position; one of them has the code.
NamedParams = Annotated[Named[_Value], AfterValidator(_with_code)]
ListedParams = Annotated[tuple[_Value, ...], AfterValidator(_with_code), Field(min_length=1)]


def choose(templates: Mapping[str, str], locale: str) -> str:
    """Choose a template: the first of the locale's languages that there is, English, then the first of all."""
    if len(templates) == 1:
        return next(iter(templates.values()))
    tag = language.choose(locale, templates) or language.choose(language.DEFAULT, templates)
    return templates[tag or next(iter(templates))]


def fill(value: str, message: Message) -> str:
    """Put the message's code and minutes into a value, once: what is put in is not read again."""
    return _filled(value, message.code, message.minutes)


def examples(
    params: Mapping[str, str] | tuple[str, ...], rules: CodeRules, longest_code: int
) -> Iterator[tuple[str | int, str, str]]:
    """Give each parameter's name or position, its value as written, and as the first message of a code has it."""
    code, minutes = "0" * min(rules.length, longest_code), math.ceil(rules.ttl / 60)
    named: Iterable[tuple[str | int, str]] = params.items() if isinstance(params, Mapping) else enumerate(params)
    for key, value in named:
        yield key, value, _filled(value, code, minutes)


def _filled(value: str, code: str, minutes: int) -> str:
    if "{" not in value:
        return value
    own = {"code": code, "minutes": str(minutes)}
    return _PLACE.sub(lambda found: own[found[1]], value)


def fill_named(params: Mapping[str, str], message: Message) -> dict[str, str]:
    """Fill every value of a table."""
    return {name: fill(value, message) for name, value in params.items()}
