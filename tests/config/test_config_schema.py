"""The JSON Schema takes what `load` takes, and marks what an editor can know to be wrong."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import schema
from sidecar.kinds import kinds

HERE = Path(__file__).parent
TAKEN = [HERE.parents[1] / "config.example.toml", *sorted((HERE / "good").glob("*.toml"))]
SCHEMA = schema(kinds())
# What the judge below understands; anything else in the schema would go unjudged.
KNOWN = {
    "$ref", "oneOf", "anyOf", "const", "enum", "type", "pattern", "properties", "additionalProperties", "required",
    "items", "minLength", "minItems", "minimum", "maximum", "exclusiveMinimum",
}  # fmt: skip
NOTES = {"default", "description", "examples", "title", "$schema", "$defs"}
TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def wrong(node: dict[str, Any], value: Any, at: str = "") -> Iterator[str]:
    """Judge a value by the part of JSON Schema (draft 2020-12) that is used."""
    assert set(node) <= KNOWN | NOTES, set(node) - KNOWN
    if "$ref" in node:
        yield from wrong(SCHEMA["$defs"][node["$ref"].removeprefix("#/$defs/")], value, at)
    if "oneOf" in node and sum(not list(wrong(one, value, at)) for one in node["oneOf"]) != 1:
        yield f"{at}: oneOf"
    if "anyOf" in node and not any(not list(wrong(one, value, at)) for one in node["anyOf"]):
        yield f"{at}: anyOf"
    if ("const" in node and value != node["const"]) or ("enum" in node and value not in node["enum"]):
        yield f"{at}: not a word of it"
    is_of_type = isinstance(value, TYPES[node.get("type", "object")]) and (
        node.get("type") not in {"integer", "number"} or value is not True
    )
    if "type" in node and not is_of_type:
        yield f"{at}: not of type {node['type']}"
        return
    if isinstance(value, str):
        if not re.search(node.get("pattern", ""), value) or len(value) < node.get("minLength", 0):
            yield f"{at}: pattern"
    elif isinstance(value, int | float):
        is_above = value > node.get("exclusiveMinimum", value - 1)
        if not is_above or not node.get("minimum", value) <= value <= node.get("maximum", value):
            yield f"{at}: range"
    elif isinstance(value, list):
        if len(value) < node.get("minItems", 0):
            yield f"{at}: too short"
        for index, inner in enumerate(value):
            yield from wrong(node.get("items", {}), inner, f"{at}[{index}]")
    elif isinstance(value, dict):
        for name in set(node.get("required", ())) - set(value):
            yield f"{at}.{name}: missing"
        for name, inner in value.items():
            below = node.get("properties", {}).get(name, node.get("additionalProperties", {}))
            if below is False:
                yield f"{at}.{name}: unknown"
            else:
                yield from wrong(below, inner, f"{at}.{name}")


@pytest.mark.parametrize("file", TAKEN, ids=lambda file: file.stem)
def test_every_file_that_loads_is_valid(file: Path) -> None:
    assert list(wrong(SCHEMA, tomllib.loads(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("unknown_keys", {".severs: unknown", ".server.lisen: unknown", ".upstream.tls.sni: unknown"}),
        ("wrong_units", {".server.drain: pattern", ".limits.ip.rate: pattern", ".limits.ip.burst: range"}),
        ("wrong_words", {".server.log_format: anyOf", ".code.length: range", ".captcha.altcha: oneOf"}),
        ("missing", {".limits.ip.rate: missing", ".routes[1].action: missing", ".providers.hook: oneOf"}),
        ("money", {".pumping.mode: anyOf", ".pumping.ratio: not of type number", ".budget.daily: range"}),
    ],
)
def test_an_editor_sees_what_is_wrong(name: str, lines: set[str]) -> None:
    document = tomllib.loads((HERE / "bad" / f"{name}.toml").read_text(encoding="utf-8"))
    assert lines <= set(wrong(SCHEMA, document))


def test_defaults_are_written_as_the_file_has_them() -> None:
    defaults = {
        f"{table}.{key}": node["default"]
        for table, described in SCHEMA["$defs"].items()
        for key, node in described["properties"].items()
        if "default" in node
    }
    assert defaults["Server.listen"] == "127.0.0.1:8080"
    assert defaults["Server.drain"] == "30s"
    assert defaults["Server.max_guarded_body"] == "64KiB"
    assert defaults["CodeRules.failures"] == "20/1h"
    assert defaults["captcha.turnstile.timeout"] == "3s"
    assert "captcha.turnstile.secret" not in defaults


def test_every_kind_is_described_and_every_reference_leads_somewhere() -> None:
    text = json.dumps(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(re.findall(r'"#/\$defs/([^"]+)"', text)) == set(SCHEMA["$defs"])
    for table, described in (("captcha", kinds().captcha), ("providers", kinds().providers)):
        choices = SCHEMA["properties"][table]["additionalProperties"]["oneOf"]
        assert [choice["$ref"] for choice in choices] == [f"#/$defs/{table}.{kind}" for kind in described]
