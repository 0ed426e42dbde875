"""How does pydantic's error read to an operator? One of its errors in, what is wrong and what would be right out. Pure.

Law: the value is shown as it stands in the file, and not at all where it is a secret.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from sidecar.config import units
from sidecar.config.findings import Findings, UnfitError, any_of, holds_secret, one_of, show
from sidecar.config.where import KeyPath

_WEB_ADDRESS: Final = '"https://HOST/PATH"'
# pydantic's error type -> what the value is not, what to write. https://docs.pydantic.dev/latest/errors/validation_errors/
_TEXT: Final = ("text", "write a text in quotes")
_WHOLE: Final = ("whole number", "write a whole number without quotes, such as 6")
_NUMBER: Final = ("number", "write a number without quotes, such as 0.5")
_YES_NO: Final = ("true or false", "write true or false, without quotes")
_LIST: Final = ("list", 'write a list, such as ["…"]')
_TABLE: Final = ("table", "write a table, such as { … = … }")
_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "string_type": _TEXT,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _YES_NO,
    "bool_parsing": _YES_NO,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _TABLE,
    "mapping_type": _TABLE,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
}
# -> what is wrong, what to write before the bound, the bound's name in the error.
_BOUNDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "greater_than": ("is too small", "write more than", "gt"),
    "greater_than_equal": ("is too small", "write at least", "ge"),
    "less_than": ("is too large", "write less than", "lt"),
    "less_than_equal": ("is too large", "write at most", "le"),
}


def tell_all(
    findings: Findings, model: type[BaseModel], table: KeyPath, value: Mapping[str, Any], errors: Iterable[ErrorDetails]
) -> None:
    """Tell what pydantic found wrong in `value`, which is to be a `model` and stands at `table`."""
    schema = model.model_json_schema()
    for error in errors:
        way = _way(value, error)
        wrong, right = _words(findings, schema, table, way, error)
        for secret in _secrets(value, table):  # a kind's own validator may have put it in
            wrong, right = wrong.replace(secret, "***"), right.replace(secret, "***")
        findings.tell((*table, *way), wrong, right)


def _words(
    findings: Findings, schema: Mapping[str, Any], table: KeyPath, way: KeyPath, error: ErrorDetails
) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx", {})
    path = (*table, *way)
    if kind == "extra_forbidden":
        known = _node(schema, way[:-1]).get("properties", {})
        return "is not known here", findings.homes.get(str(way[-1])) or one_of(str(way[-1]), known, "write")
    if kind == "missing":
        return "is missing", f"write {way[-1]} = {_example(_node(schema, way), path)}"

    shown = findings.shown(path)
    node = _node(schema, way)
    reason = context.get("error")
    if isinstance(reason, UnfitError):
        return f"{shown} {reason.wrong}", reason.right
    if reason is not None:
        wrong, semicolon, right = str(reason).partition("; ")
        if semicolon:
            return wrong, right
        return (f"{shown} is not right", wrong) if way else (wrong, "see config.example.toml")
    if kind in _TYPES:
        thing, right = _TYPES[kind]
        if thing == "list" and shown.startswith('"'):
            right = f"write a list: [{shown}]"
        return f"{shown} is no {thing}", right
    if kind in _BOUNDS:
        wrong, right, bound = _BOUNDS[kind]
        return f"{shown} {wrong}", f"{right} {_spell_like(node, context[bound])}"
    match kind:
        case "literal_error":
            words = node.get("enum") or [node.get("const", "")]
            return f"{shown} is not known here", one_of(str(error["input"]), [str(word) for word in words if word])
        case "string_too_short":
            right = f"write {_example(node, path)}"
            right = f"leave it out, or {right}" if "default" in node else right
            return "is empty" if not error["input"] else f"{shown} is too short", right
        case "too_short":
            return "is empty" if not error["input"] else "is too short", "name at least one"
        case "string_pattern_mismatch" if "http" in context["pattern"]:
            return f"{shown} is no web address", f"write {_WEB_ADDRESS}"
        case "string_pattern_mismatch":
            return f"{shown} has the wrong form", f"write a text that matches {context['pattern']}"
        case _:
            return f"{shown} is not right", error["msg"][:1].lower() + error["msg"][1:]


def _way(value: Any, error: ErrorDetails) -> KeyPath:
    """Where the error stands: pydantic's `loc` without what is not in the file (tags of unions, "[key]")."""
    way: KeyPath = ()
    for part in error["loc"]:
        is_there = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if is_there:
            value = value[part]
        elif error["type"] != "missing" or part != error["loc"][-1]:
            continue
        way = (*way, part)
    return way


def _node(schema: Mapping[str, Any], way: KeyPath) -> Mapping[str, Any]:
    """The part of a JSON Schema that describes what stands at `way`."""

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        while True:
            if "$ref" in node:
                node = schema["$defs"][node["$ref"].rpartition("/")[2]]
            elif "anyOf" in node:
                node = node["anyOf"][0]
            else:
                return node

    node = resolved(schema)
    for part in way:
        inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        inner = inner or node.get("additionalProperties")
        node = resolved(inner) if isinstance(inner, dict) else {}
    return node


def _example(node: Mapping[str, Any], path: KeyPath) -> str:
    if holds_secret(path):
        return '"${NAME}", from the environment'
    if "examples" in node:
        return show(node["examples"][0])
    if "enum" in node:
        return any_of(word for word in node["enum"] if word)
    if "default" in node:
        return show(node["default"])
    if "http" in node.get("pattern", ""):
        return _WEB_ADDRESS
    return {"integer": "a whole number", "boolean": "true or false", "array": '["…"]', "object": "{ … }"}.get(
        node.get("type", ""), '"…"'
    )


def _spell_like(node: Mapping[str, Any], bound: float) -> str:
    """Write a bound in the unit of the key that has it."""
    match node.get("examples"):
        case [units.DURATION_EXAMPLE]:
            return show(units.spell_duration(bound))
        case [units.SIZE_EXAMPLE]:
            return show(units.spell_size(int(bound)))
        case _:
            return f"{bound:g}"


def _secrets(value: Any, path: KeyPath) -> list[str]:
    """Every text under a secret's key, the longest first."""
    if isinstance(value, dict):
        found = [text for name, inner in value.items() for text in _secrets(inner, (*path, name))]
    elif isinstance(value, list):
        found = [text for index, inner in enumerate(value) for text in _secrets(inner, (*path, index))]
    else:
        found = [value] if isinstance(value, str) and len(value) > 2 and holds_secret(path) else []
    return sorted(found, key=len, reverse=True)
