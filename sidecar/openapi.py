"""What does the API look like to a machine? The OpenAPI 3.1 document of contract section 4. Pure."""

from typing import Any, get_args

from sidecar import __version__
from sidecar.delivery.providers.seam import FailureReason
from sidecar.errors import CODES
from sidecar.verification.states import Status


def document(prefix: str, *, sends: bool = True) -> dict[str, Any]:
    """The document for an API under `prefix`; without `sends` it has nothing that sends a code (`api.send`)."""
    sending = {
        "/v1/verifications": {"post": _start(prefix)},
        "/verify": {"get": _read("verify", "The hosted page", "text/html", "route_denied")},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Signup Sidecar",
            "version": __version__,
            "description": "Verify that a person holds a phone number or an e-mail address.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix}],
        "paths": {
            **(sending if sends else {}),
            "/v1/verifications/{id}": {"get": _status()},
            "/v1/verifications/{id}/check": {"post": _check()},
            "/v1/verifications/check": {"post": _check_newest()},
            "/captcha/{name}/challenge": {"get": _challenge(), "post": _step()},
            "/receipts/{provider}": {"post": _receive("Signed", "provider")},
            "/receipts/{provider}/{receipt_token}": {"post": _receive("Unsigned", "provider", "receipt_token")},
            "/jwks.json": {"get": _read("jwks", "The public keys (RFC 7517)", "application/jwk-set+json")},
            "/openapi.json": {"get": _read("openapi", "This document", "application/json")},
            "/client.js": {"get": _read("client", "The browser client, an ES module", "text/javascript")},
        },
        "components": {"schemas": _schemas()},
    }


def _start(prefix: str) -> dict[str, Any]:
    return {
        "operationId": "startVerification",
        "summary": "Send a code",
        "description": "Asking again within the code's life sends the same code again.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "A repeat with the same key gets the same answer and no second message.",
                "schema": {"type": "string", "maxLength": 255},
            }
        ],
        "requestBody": _body("Start"),
        "responses": {
            "202": {
                "description": "It will be sent, or reported failed",
                "headers": {"Location": {"schema": {"type": "string", "examples": [f"{prefix}/v1/verifications/…"]}}},
                "content": _json("Verification"),
            }
        }
        | _refusals(
            "malformed_request",
            "body_too_large",
            "invalid_recipient",
            "recipient_not_allowed",
            "route_denied",
            "captcha_required",
            "captcha_failed",
            "captcha_unavailable",
            "rate_limited",
            "verification_in_use",
            "store_unavailable",
            "overloaded",
        ),
    }


def _status() -> dict[str, Any]:
    return {
        "operationId": "readVerification",
        "summary": "Where is it?",
        "parameters": [
            _path("id"),
            {
                "name": "Prefer",
                "in": "header",
                "description": "wait=SECONDS (RFC 7240) holds the answer, 30 seconds at most, until the status is no"
                ' longer the one that status="…" names: the one that you have seen, queued if you name none.',
                "schema": {"type": "string", "examples": ["wait=5", 'wait=5, status="sent"']},
            },
        ],
        "responses": {"200": {"description": "As it is now", "content": _json("Verification")}}
        | _refusals("not_found", "route_denied", "store_unavailable"),
    }


def _check() -> dict[str, Any]:
    return {
        "operationId": "checkCode",
        "summary": "Exchange the code for a token",
        "description": "The token proves the recipient once on a `verify` route, in the field X-Verification-Token.",
        "parameters": [_path("id")],
        "requestBody": _body("Check"),
        "responses": {"200": {"description": "Verified", "content": _json("Verified")}}
        | _refusals(
            "malformed_request",
            "body_too_large",
            "code_required",
            "code_mismatch",
            "code_expired",
            "too_many_attempts",
            "verification_in_use",
            "captcha_required",
            "captcha_failed",
            "captcha_unavailable",
            "rate_limited",
            "recipient_not_allowed",
            "route_denied",
            "overloaded",
            "store_unavailable",
        ),
    }


def _check_newest() -> dict[str, Any]:
    return {
        "operationId": "checkNewestCode",
        "summary": "Exchange a recipient's newest code for a token",
        "description": "For a code that was asked for in another tab, before a reload, or by a `send` route.",
        "requestBody": _body("CheckNewest"),
        "responses": {"200": {"description": "Verified", "content": _json("Verified")}}
        | _refusals(
            "malformed_request",
            "body_too_large",
            "invalid_recipient",
            "recipient_not_allowed",
            "route_denied",
            "code_required",
            "code_mismatch",
            "code_expired",
            "too_many_attempts",
            "verification_in_use",
            "captcha_required",
            "captcha_failed",
            "captcha_unavailable",
            "rate_limited",
            "overloaded",
            "store_unavailable",
        ),
    }


def _challenge() -> dict[str, Any]:
    return {
        "operationId": "readChallenge",
        "summary": "A challenge of a built-in captcha",
        "parameters": [_path("name")],
        "responses": {
            "200": {
                "description": "For the widget of ALTCHA or of the slider, which solves it",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        }
        | _refusals("not_found", "overloaded", "route_denied"),
    }


def _step() -> dict[str, Any]:
    return {
        "operationId": "takeStep",
        "summary": "The next step of a captcha that is solved in steps: the slider's picture, then its token",
        "parameters": [_path("name")],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object", "description": "As its widget sends it"}}},
        },
        "responses": {
            "200": {
                "description": "For the slider's widget; the last step gives the captcha token",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        }
        | _refusals(
            "malformed_request",
            "body_too_large",
            "captcha_failed",
            "captcha_unavailable",
            "rate_limited",
            "not_found",
            "route_denied",
            "overloaded",
            "store_unavailable",
        ),
    }


def _receive(which: str, *path: str) -> dict[str, Any]:
    return {
        "operationId": f"take{which}Receipts",
        "summary": "What a vendor says became of its messages",
        "description": "In the vendor's own words. Only ids of messages that we sent move anything.",
        "parameters": [_path(name) for name in path],
        "responses": {"200": {"description": "Taken down, in the vendor's own words"}}
        | _refusals("malformed_request", "body_too_large", "not_found", "overloaded", "store_unavailable"),
    }


def _read(name: str, summary: str, media_type: str, *refusals: str) -> dict[str, Any]:
    return {
        "operationId": f"read{name.capitalize()}",
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {media_type: {}}}} | _refusals(*refusals),
    }


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _body(schema: str) -> dict[str, Any]:
    return {"required": True, "content": _json(schema)}


def _refusals(*codes: str) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code][0], []).append(code)
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        str(status): {"description": " or ".join(sorted(names)), "content": problem}
        for status, names in sorted(by_status.items())
    }


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    # Of several parts it may stand as it is; of several captchas it names its own.
    token = {"type": ["string", "object"], "description": "The captcha token, or NAME:TOKEN where there are several"}
    demanded = token | {"description": "The captcha token, where the answer was captcha_required"}
    return {
        "Start": {
            "type": "object",
            "required": ["to"],
            "additionalProperties": False,
            "properties": {
                "to": {"type": "string", "examples": ["+8613900000001"]},
                "channel": {"enum": ["sms", "email", "auto"]},
                "locale": {
                    "type": "string",
                    "description": "BCP 47; or Accept-Language says it",
                    "examples": ["zh-CN"],
                },
                "captcha": token,
            },
        },
        "Check": {
            "type": "object",
            "required": ["code"],
            "additionalProperties": False,
            "properties": {"code": {"type": ["string", "integer"], "examples": ["123456"]}, "captcha": demanded},
        },
        "CheckNewest": {
            "type": "object",
            "required": ["to", "code"],
            "additionalProperties": False,
            "properties": {
                "to": {"type": "string", "examples": ["+8613900000001"]},
                "code": {"type": ["string", "integer"], "examples": ["123456"]},
                "channel": {"enum": ["sms", "email", "auto"]},
                "captcha": demanded,
            },
        },
        "Verification": {
            "type": "object",
            "required": ["id", "to", "channel", "status", "expires_in", "resend_in"],
            "properties": {
                "id": text,
                "to": {"type": "string", "description": "Masked"},
                "channel": {"enum": ["sms", "email"]},
                "status": {
                    "enum": list(get_args(Status)),
                    "description": "sent: a provider accepted the message; unconfirmed: none did, and one may have it",
                },
                "reason": {"enum": list(get_args(FailureReason)), "description": "With failed: why"},
                "expires_in": {"type": "integer", "description": "Seconds that the code lives"},
                "resend_in": {"type": "integer", "description": "Seconds until another message may be asked for"},
            },
        },
        "Verified": {
            "type": "object",
            "required": ["status", "token"],
            "properties": {"status": {"const": "verified"}, "token": text},
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457",
            "required": ["type", "title", "status", "detail", "code"],
            "properties": {
                "type": text,
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "code": {"enum": list(CODES)},
                "request_id": text,
                "attempts_left": {"type": "integer", "description": "With code_mismatch, if a try was counted"},
                "captchas": {
                    "type": "array",
                    "items": text,
                    "description": "With captcha_required and captcha_unavailable: the names of those that are offered",
                },
            },
        },
    }
