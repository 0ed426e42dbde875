"""How does an editor know what may be written? The models as one JSON Schema (draft 2020-12).

Law: what `load` accepts is valid here. An editor cannot expand `${…}`, so every text may be one. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from sidecar.config.model import Captcha, Config, Provider
from sidecar.config.units import Listen, Rate, spell_duration, spell_size

_PLACE: Final = r"\$\{"


def schema_of(captcha: Mapping[str, type[Captcha]], providers: Mapping[str, type[Provider]]) -> dict[str, Any]:
    """Describe the whole file; a captcha's and a provider's table is one of its kinds'."""
    whole = _model(Config, "")
    definitions = whole.setdefault("$defs", {})
    for table, kinds in (("captcha", captcha), ("providers", providers)):
        for kind, settings in kinds.items():
            name = f"{table}.{kind}"
            described = _model(settings, f"{name}.")
            definitions |= described.pop("$defs", {})
            described["properties"]["kind"] = {"const": kind}
            described["required"] = sorted({*described.get("required", []), "kind"})
            definitions[name] = described
        whole["properties"][table]["additionalProperties"] = {
            "oneOf": [{"$ref": f"#/$defs/{table}.{kind}"} for kind in kinds]
        }
    for base in (Captcha, Provider):
        definitions.pop(base.__name__, None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "title": "Signup Sidecar"}


class _Generator(GenerateJsonSchema):
    """Writes defaults as the file would have them."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        default = schema.get("default")
        if isinstance(default, Rate | Listen):
            described["default"] = str(default)
        elif described.get("type") == "string" and isinstance(default, float):
            described["default"] = spell_duration(default)
        elif described.get("type") == "string" and isinstance(default, int):
            described["default"] = spell_size(default)
        return described


def _model(model: type[BaseModel], prefix: str) -> dict[str, Any]:
    described = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}", schema_generator=_Generator)
    described["$defs"] = {f"{prefix}{name}": inner for name, inner in described.get("$defs", {}).items()}
    return {name: _open_to_places(inner) for name, inner in described.items()}


def _open_to_places(node: Any) -> Any:
    """Let every text be `${…}` as well."""
    if isinstance(node, list):
        return [_open_to_places(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    node = {
        name: _open_to_places(inner) for name, inner in node.items() if name != "title" or not isinstance(inner, str)
    }
    if {"type": "null"} in node.get("anyOf", []):  # TOML has none: such a key is left out
        node.pop("default", None)
        node |= node.pop("anyOf")[0]
    if node.get("type") == "string" and isinstance(node.get("pattern"), str):
        node["pattern"] = f"{node['pattern']}|{_PLACE}"
    if node.get("type") == "string" and "enum" in node:
        choice = {"type": "string", "enum": node.pop("enum")}
        del node["type"]
        node["anyOf"] = [choice, {"type": "string", "pattern": _PLACE}]
    return node
