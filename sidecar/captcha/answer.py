"""How is a vendor's answer read, and a token that has several parts? JSON in, plain values out. Pure.

What is no JSON object is nothing: no reader makes a pass of it.
"""

import json
from typing import Any, Final

from sidecar import json_text
from sidecar.outbound import HttpReply

_DECODER: Final = json.JSONDecoder()


def members(text: bytes | str) -> dict[str, Any] | None:
    """Read one JSON object; None for anything else."""
    try:
        if isinstance(text, bytes):
            # Mostly there is no byte order mark, and this is surely UTF-8.
            text = text.decode() if text[:2] == b'{"' else text.decode(json.detect_encoding(text), "surrogatepass")
        found = json_text.document(text, _DECODER)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def unreadable(reply: HttpReply) -> str:
    """Say for the log what a reply is, of which nothing can be read: its status, where that is not 200."""
    return "not_json" if reply.status == 200 else f"http_{reply.status}"


def member(found: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Give a member that is an object itself; an empty one where it is not."""
    inner = found.get(name) if found is not None else None
    return inner if isinstance(inner, dict) else {}


def parts(token: str, *names: str) -> tuple[str, ...] | None:
    """Read these parts of a token that is a JSON object; None where one is missing, empty or no text.

    Other parts are not looked at: what a widget gives, a front end may pass on as it is. A whole number is its digits.
    """
    found = members(token)
    if found is None:
        return None
    values = [str(value) if type(value) in {str, int} else "" for value in (found.get(name) for name in names)]
    try:
        "".join(values).encode()
    except UnicodeEncodeError:  # an escaped half of a surrogate pair, which no request can hold
        return None
    return tuple(values) if all(values) else None
