"""How does a refusal read? Problem details (RFC 9457), or the shape that a route's front end expects. Pure."""

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Final

from sidecar.config.model import Reply
from sidecar.errors import CODES, Refusal

# `json.dumps` would make an encoder for each answer.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_JSON: Final = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
_PROBLEM: Final = (("Content-Type", "application/problem+json"), ("Cache-Control", "no-store"))


@dataclass(slots=True)  # not frozen: it is made for every request
class Answer:
    """A whole answer: status, fields, body. `location`: where what was made is found, the field that no two share."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    location: str = ""


def json_answer(status: int, document: Any, fields: Sequence[tuple[str, str]] = ()) -> Answer:
    """A JSON answer that no cache may keep."""
    return written(status, _encode(document), fields)


def written(status: int, text: str, fields: Sequence[tuple[str, str]] = ()) -> Answer:
    """A JSON answer that no cache may keep, of a document that is written already."""
    return Answer(status, (*_JSON, *fields), text.encode())


def shaped(reply: Reply, fields: Sequence[tuple[str, str]] = ()) -> Answer:
    """An answer in the front end's own shape: `reply` and `errors` of a route."""
    if reply.json_body is None:
        return Answer(reply.status, (("Cache-Control", "no-store"), *fields), b"")
    return json_answer(reply.status, reply.json_body, fields)


def refusal_fields(refusal: Refusal, limit_fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of a refusal's answer, whatever its content: when to come again, and what a 401 asks for."""
    fields = list(limit_fields)
    if refusal.retry_after_s is not None:
        fields.append(("Retry-After", str(max(1, math.ceil(refusal.retry_after_s)))))
    if refusal.code == "code_required":
        # RFC 9110 section 15.5.2: a 401 names a scheme.
        fields.append(("WWW-Authenticate", 'Signup-Code realm="sidecar"'))
    return fields


def document(refusal: Refusal, request_id: str, fields: Sequence[tuple[str, str]]) -> Answer:
    """The problem document of a refusal, with the fields of `refusal_fields`."""
    before, after = _written(refusal.code, refusal.detail, tuple(refusal.extra.items()))
    body = before + encode_basestring(request_id)[1:-1].encode() + after
    return Answer(refusal.status, (*_PROBLEM, *fields), body)


def prepared(refusal: Refusal) -> Callable[[str], Answer]:
    """Prepare the problem document of a refusal that is always the same: gives what makes it of a request's id."""
    status, fields = refusal.status, (*_PROBLEM, *refusal_fields(refusal, ()))
    before, after = _written(refusal.code, refusal.detail, tuple(refusal.extra.items()))

    def answer(request_id: str) -> Answer:
        return Answer(status, fields, before + encode_basestring(request_id)[1:-1].encode() + after)

    return answer


@functools.lru_cache(512)
def _written(code: str, detail: str, extra: tuple[tuple[str, Any], ...]) -> tuple[bytes, bytes]:
    """Write a problem document around its request's id: most are one of a few."""
    status, title = CODES[code]
    members = {
        "type": f"urn:signup-sidecar:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "",
        **dict(extra),
    }
    text = _encode(members)
    before, mark, after = text.partition('"request_id":"')
    return (before + mark).encode(), after.encode()
