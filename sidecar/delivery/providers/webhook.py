"""Any other provider, behind an HTTP endpoint of the operator's own: what to post, and what its answer means. Pure.

Signed as Standard Webhooks 1.0 has it: https://www.standardwebhooks.com (read as stored in 2024-2026). The body is
contract section 2's: {"id","to","channel","locale","code","text"}. `webhook-id` is the same at every attempt at one
message, so that the receiver can tell a repeat.

2xx accepts. A 4xx may say why in JSON, {"error": one of the words in _SAID}; else its status tells.
"""

import base64
import binascii
import functools
import hmac
import json
import re
from collections.abc import Collection
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from sidecar import language
from sidecar.config.model import Provider, called
from sidecar.config.units import NonEmpty
from sidecar.delivery.providers import answer
from sidecar.delivery.providers.seam import Accepted, Credential, Fault, Message, Outcome
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"sms", "email"})
RECEIPTS: Final = None

_PREFIX: Final = "whsec_"
_WRITE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

# Every fault but "unreachable", which an endpoint that answers cannot be.
_SAID: Final[dict[str, Fault]] = {
    "credentials": "credentials",
    "request": "request",
    "number_invalid": "number_invalid",
    "number_unsupported": "number_unsupported",
    "number_blocked": "number_blocked",
    "number_frequency": "number_frequency",
    "throttled": "throttled",
    "balance": "balance",
}


def _signing_secret(value: str) -> str:
    try:
        key = _key(value)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError('expected "whsec_" and base64 (Standard Webhooks), or any other text')
    return value


def _url(value: str) -> str:
    called(re.sub(r"(?<=://)[^/?#]*@", "", value))  # a user is passed on, as Basic says it
    return value


class Settings(Provider):
    """[providers.NAME] with kind = "webhook"."""

    kind: Literal["webhook"]
    url: Annotated[NonEmpty, Field(pattern=r"^https?://[^\s/?#]+[^\s#]*$"), AfterValidator(_url)]
    secret: Annotated[Credential, AfterValidator(_signing_secret)]

    @functools.cached_property
    def key(self) -> bytes:
        """The octets that sign."""
        return _key(self.secret)


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Post one message, signed at `now`."""
    content = {
        "id": message.id,
        "to": message.recipient.address,
        "channel": message.recipient.channel,
        "locale": language.first(message.locale),
        "code": message.code,
        "text": message.text,
    }
    body = _WRITE(content).encode()
    timestamp = str(int(now))
    return HttpRequest(
        "POST",
        settings.url,
        (
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("webhook-id", message.id),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", sign(settings.key, message.id, timestamp, body)),
        ),
        body,
    )


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Standard Webhooks, "Signature scheme": v1 is HMAC-SHA256 over id.timestamp.body, in base64."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def read(reply: HttpReply, message: Message) -> Outcome:
    """Read the endpoint's answer. There is no success word: 2xx stands for it, whatever the body says.

    A redirect is a refusal, and is not followed: the signature was for this address, and the code must not wander.
    """
    body = answer.of_reply(reply.body)
    if 200 <= reply.status <= 299:
        return Accepted(answer.text(body, "id") or message.id)
    word = answer.text(body, "error") if 400 <= reply.status <= 499 else ""
    return answer.outcome(reply, answer.Said("no", word if word in _SAID else f"http_{reply.status}"), _SAID)


def _key(secret: str) -> bytes:
    """The octets that sign: base64 after "whsec_", else the text's own. Raises binascii.Error."""
    if secret.startswith(_PREFIX):
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    return secret.encode()
