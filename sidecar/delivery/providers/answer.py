"""What did the vendor say, as JSON? Read with a type asserted at every step. Pure.

An answer that cannot be read says nothing: `of_reply` gives an empty one, and so it is never taken for a success.
A receipt that cannot be read is refused: `of_receipts` and what follows it raise ValueError.
"""

import json
from typing import Any


def of_reply(body: bytes) -> dict[str, Any]:
    """Read the object in an answer; {} for anything else."""
    document = _document(body)
    return document if isinstance(document, dict) else {}


def member(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """Give an object inside an object; {} for anything else."""
    inner = answer.get(name)
    return inner if isinstance(inner, dict) else {}


def text(answer: dict[str, Any], name: str) -> str:
    """Give a text that says something; "" for anything else."""
    value = answer.get(name)
    return value if isinstance(value, str) else ""


def of_receipts(body: bytes) -> list[dict[str, Any]]:
    """Read a list of objects. Raises ValueError."""
    return objects(_document(body))


def objects(document: Any) -> list[dict[str, Any]]:
    """Take a value for a list of objects. Raises ValueError."""
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise ValueError("expected a list of objects")
    return document


def needed(item: dict[str, Any], *names: str) -> str:
    """Give the first of these texts that is there. Raises ValueError when none is."""
    for name in names:
        if value := text(item, name):
            return value
    raise ValueError(f"expected a text in {names[0]}")


def digits(number: str) -> str | None:
    """Give a number's digits, or None when it is none."""
    bare = number.removeprefix("+")
    return bare if bare.isascii() and bare.isdigit() else None


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
