"""The sidecar's own HTTP API, contract section 4, under `api.prefix`.

Builds the same `Ask` as a route does and calls the same `gate.send`. What it does not list is `not_found`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final, get_args

from sidecar import intake, language, prefer, problem
from sidecar.captcha.seam import BuiltIn
from sidecar.config.model import Config, Route
from sidecar.delivery.receipts import Receipts
from sidecar.errors import Refusal
from sidecar.events import Tell, Verified
from sidecar.faces import Faces, preflight
from sidecar.gate import Ask, Gate
from sidecar.keyring import Keyring
from sidecar.keys import JWKS_MAX_AGE_S
from sidecar.openapi import document
from sidecar.pages import pages
from sidecar.problem import Answer
from sidecar.verification import codes
from sidecar.verification.states import FINAL, Status
from sidecar.verification.verifications import Hold, Proof, Verifications
from sidecar.visit import Visit

# The longest that `Prefer: wait` (RFC 7240 section 4.3) holds an answer: below the idle limits of common proxies.
_MAX_WAIT_S: Final = 30
_CHANNELS: Final = ("sms", "email", "auto")
_KNOWN: Final = frozenset({"to", "channel", "locale", "captcha"})


class Api:
    """The API of one configuration."""

    def __init__(
        self,
        config: Config,
        gate: Gate,
        faces: Faces,
        verifications: Verifications,
        challengers: Mapping[str, BuiltIn],
        keyring: Keyring,
        tell: Tell,
        receipts: Receipts,
    ) -> None:
        self._config = config
        self._gate = gate
        self._faces = faces
        self._verifications = verifications
        self._challengers = challengers
        self._keyring = keyring
        self._tell = tell
        self._receipts = receipts
        prefix = config.api.prefix
        # The page asks for a code here, so there is none where nothing is sent.
        self._has_page = config.api.send
        self._prefix = prefix
        # The API's own send, as a route: what the gate needs to know of it.
        self._route = Route.model_validate(
            {
                "match": f"POST {prefix}/v1/verifications",
                "action": "send",
                "to": "json:to",
                "captcha": config.api.captcha,
                "captcha_token": "json:captcha" if config.api.captcha else None,
                "limits": config.api.limits,
                "channel": "auto",
            }
        )
        # The API's own check, likewise: the gate asks it when a captcha is demanded, and which.
        steps_up = config.api.captcha_after > 0
        self._check_route = Route.model_validate(
            {
                "match": f"POST {prefix}/v1/verifications/check",
                "action": "verify",
                "to": "json:to",
                "code": "json:code",
                "captcha": config.api.captcha if steps_up else "",
                "captcha_after": config.api.captcha_after or None,
                "captcha_token": "json:captcha" if steps_up else None,
                "channel": "auto",
            }
        )

    def owns(self, raw_path: str) -> bool:
        """True when the target is under the prefix."""
        return raw_path.startswith(self._prefix) and raw_path[len(self._prefix) :][:1] in {"", "/", "?"}

    def is_open(self, visit: Visit) -> bool:
        """True for what backends and vendors ask for, and what is the same for everybody: no list forbids it.

        A vendor's receipts come from the network of a cloud that may well be blocked.
        """
        match visit.method, self._parts(visit):
            case "OPTIONS", _:
                return True
            case _, ["receipts", *_] | ["jwks.json"] | ["openapi.json"] | ["client.js"] | ["static", _]:
                return True
            case _:
                return False

    def is_challenge(self, visit: Visit) -> bool:
        """True where a built-in captcha's challenge is asked for: nothing is changed, and it is work for us."""
        match visit.method, self._parts(visit):
            case "GET" | "HEAD", ["captcha", _, "challenge"]:
                return True
            case _:
                return False

    def refused_at_once(self, visit: Visit) -> Refusal | None:
        """Say which list forbids a visit, without reading what it asks."""
        return None if self.is_open(visit) else self._gate.blocked_at_once(visit)

    def _parts(self, visit: Visit) -> list[str]:
        """The names in the path, below the prefix."""
        return visit.path.removeprefix(self._prefix).strip("/").split("/")

    async def decide(self, visit: Visit, body: bytes) -> Answer:
        """Answer one request under the prefix. Raises Refusal, StoreError."""
        visit.log["outcome"] = "answered"
        # RFC 9110 section 9.3.2: HEAD is GET without the content, which the listener leaves out.
        method = "GET" if visit.method == "HEAD" else visit.method
        match method, self._parts(visit):
            case "OPTIONS", _:
                return preflight("GET, POST", "Content-Type, Idempotency-Key, Prefer")
            case "POST", ["v1", "verifications"]:
                return await self._start(visit, body)
            case "GET", ["v1", "verifications", verification_id]:
                return await self._status(visit, verification_id)
            case "POST", ["v1", "verifications", "check"]:
                return await self._check_newest(visit, body)
            case "POST", ["v1", "verifications", verification_id, "check"]:
                return await self._check(visit, verification_id, body)
            case "GET", ["captcha", name, "challenge"]:
                return await self._challenge(visit, name)
            case "POST", ["captcha", name, "challenge"]:
                return await self._step(visit, name, body)
            case "POST", ["receipts", name]:
                return await self._receive(visit, name, None, body)
            case "POST", ["receipts", name, token]:
                return await self._receive(visit, name, token, body)
            case "GET", ["jwks.json"]:
                return jwks(self._keyring)
            case "GET", ["openapi.json"]:
                return problem.json_answer(200, document(self._prefix, sends=self._config.api.send))
            case "GET", ["verify"] if self._has_page:
                return self._faces.hosted_page(visit, "", None)
            case "GET", ["client.js"] | ["static", _] as parts:
                return _static(parts[-1], visit.header("If-None-Match"))
            case _:
                raise Refusal("not_found", "no_such_endpoint", f"See {self._prefix}/openapi.json for what is here.")

    async def _start(self, visit: Visit, content: bytes) -> Answer:
        if not self._config.api.send:
            raise Refusal("route_denied", "api_send", "Codes are sent elsewhere; here they are checked only.")
        body = intake.read_json_object(content, visit.raw)
        queued = await self._gate.send(visit, self._route, self._ask(visit, body))
        answer = queued.answer()
        answer.location = f"{self._prefix}/v1/verifications/{queued.id}"
        return answer

    def _ask(self, visit: Visit, body: Mapping[str, Any]) -> Ask:
        """Read the body of `POST /v1/verifications`. Raises Refusal(malformed_request, invalid_recipient)."""
        unknown = sorted(set(body) - _KNOWN)
        if unknown:
            raise Refusal("malformed_request", "unknown_member", f"Expected only {', '.join(sorted(_KNOWN))}.")
        given = {name: body[name] for name in _KNOWN if body.get(name) is not None}
        if isinstance(token := given.get("captcha"), dict):
            given["captcha"] = intake.token_of_object(token)
        if not all(isinstance(value, str) for value in given.values()):
            raise Refusal("malformed_request", "member_type", "Expected every member to be a string.")
        channel = given.get("channel", "auto")
        if "to" not in given or channel not in {"sms", "email", "auto"}:
            raise Refusal("malformed_request", "member", 'Expected "to", and "sms" or "email" as "channel" if any.')
        recipient = self._gate.recipient(given["to"], channel)
        visit.log["to"] = recipient.masked
        return Ask(
            recipient=recipient,
            captcha_token=given.get("captcha"),
            locale=language.read(given.get("locale", ""), visit.locale),
            idempotency_key=visit.header("Idempotency-Key"),
        )

    async def _status(self, visit: Visit, verification_id: str) -> Answer:
        """Answer at once, or, with `Prefer: wait`, once the status is no longer the one that the client has seen."""
        record = await self._verifications.read(verification_id)
        preferred = prefer.read(visit.all("Prefer"))
        wait_s = prefer.wait_s(preferred, _MAX_WAIT_S)
        seen = preferred.get("status") or "queued"
        if record is not None and wait_s and record.status not in FINAL:
            record = await self._gate.wait_for_change(verification_id, seen, wait_s)
        if record is None:
            raise Refusal("not_found", "no_verification", "No such verification, or it is over.")
        recipient = self._verifications.recipient(record)
        applied = [f"wait={wait_s}"] if wait_s else []
        if wait_s and preferred.get("status") in get_args(Status):
            applied.append(f'status="{seen}"')
        return problem.json_answer(
            200,
            {
                "id": record.id,
                "to": recipient.masked,
                "channel": recipient.channel,
                "status": record.status,
                **({"reason": record.reason} if record.reason else {}),
                "expires_in": int(record.expires_in_s),
                "resend_in": math.ceil(record.again_in_s),
            },
            [("Preference-Applied", ", ".join(applied))] if applied else [],
        )

    async def _check(self, visit: Visit, verification_id: str, content: bytes) -> Answer:
        body = intake.read_json_object(content, visit.raw)
        code, token = body.get("code"), _captcha_token(body)
        if set(body) - {"code", "captcha"} or isinstance(code, bool) or not isinstance(code, str | int | None):
            raise Refusal("malformed_request", "members", 'Expected {"code": "…"}, and a "captcha" if one is demanded.')
        return await self._exchanged(
            visit, await self._gate.hold_by_id(visit, self._check_route, verification_id, _code(code), token)
        )

    async def _check_newest(self, visit: Visit, content: bytes) -> Answer:
        """Check a code by its recipient, as a `verify` route does: of a verification that was started elsewhere."""
        body = intake.read_json_object(content, visit.raw)
        to, code, token = body.get("to", ""), body.get("code"), _captcha_token(body)
        channel: Any = body.get("channel") or "auto"
        if (
            set(body) - {"to", "code", "channel", "captcha"}
            or not isinstance(to, str)
            or isinstance(code, bool)
            or not isinstance(code, str | int | None)
            or channel not in _CHANNELS
        ):
            raise Refusal(
                "malformed_request",
                "members",
                'Expected {"to": "…", "code": "…"}, a "channel" if any, and a "captcha" if one is demanded.',
            )
        recipient = self._gate.recipient(to, channel)
        visit.log["to"] = recipient.masked
        self._gate.screen(visit, recipient)
        ask = Ask(recipient=recipient, captcha_token=token, proof=Proof("code", _code(code)))
        return await self._exchanged(visit, await self._gate.hold(visit, self._check_route, ask))

    async def _exchanged(self, visit: Visit, hold: Hold) -> Answer:
        """Use a right code up for a token."""
        async with hold:
            token = await hold.exchange()
        self._tell(Verified(outcome="verified"))
        visit.log |= {"outcome": "verified", "verification": hold.id}
        return problem.json_answer(200, {"status": "verified", "token": token})

    async def _receive(self, visit: Visit, name: str, token: str | None, body: bytes) -> Answer:
        query = visit.target.partition("?")[2]
        fields = {name.decode().lower(): value.decode("utf-8", "surrogateescape") for name, value in visit.raw}
        reply = await self._receipts.take(name, token, query, visit.client.ip, fields, body)
        if reply.json is None:
            return Answer(reply.status, (), b"")
        return problem.json_answer(reply.status, dict(reply.json))

    async def _challenge(self, visit: Visit, name: str) -> Answer:
        captcha = self._challengers.get(name)
        if captcha is None:
            raise Refusal("not_found", "no_challenge", "This captcha is not built in.")
        told = captcha.challenge(await captcha.due(visit.client.ip))
        if hasattr(captcha, "step"):
            told |= pages.widget_texts(visit.locale)
        return problem.json_answer(200, told)

    async def _step(self, visit: Visit, name: str, content: bytes) -> Answer:
        """Take a step of a captcha that is solved in steps. Raises as `Gate.step`."""
        if not hasattr(self._challengers.get(name), "step"):
            raise Refusal("not_found", "no_steps", "This captcha is not solved in steps.")
        return problem.json_answer(200, await self._gate.step(visit, name, intake.read_json_object(content, visit.raw)))


def _captcha_token(body: Mapping[str, Any]) -> str | None:
    """The captcha token of a check. Raises Refusal(malformed_request)."""
    token = body.get("captcha")
    if isinstance(token, dict):
        return intake.token_of_object(token)
    if not isinstance(token, str | None):
        raise Refusal("malformed_request", "captcha_token", "Expected a captcha token as a text.")
    return token or None


def _code(shown: str | int | None) -> str | int:
    """The code of a body, as it was typed. Raises Refusal(code_required)."""
    if shown is None or codes.is_blank(shown):
        raise Refusal("code_required", "no_code", "Send the code that the recipient was sent.")
    return shown


def jwks(keyring: Keyring) -> Answer:
    """The public keys, which upstreams may cache."""
    body = json.dumps({"keys": keyring.keys()}).encode()
    fields = (("Content-Type", "application/jwk-set+json"), ("Cache-Control", f"public, max-age={JWKS_MAX_AGE_S}"))
    return Answer(200, fields, body)


def _static(name: str, if_none_match: str) -> Answer:
    page = pages.static_file(name, if_none_match)
    if page is None:
        raise Refusal("not_found", "no_such_file")
    return Answer(page.status, (("Content-Type", page.content_type), *page.fields), page.body)
