"""Twilio Programmable Messaging: what to ask, and what the answer means. Pure.

https://www.twilio.com/docs/messaging/api/message-resource and https://www.twilio.com/docs/api/errors (read as stored in
2024-2026). The `twilio` package checks receipts. It does not ask for messages: it sets no time-out, can send a POST
twice, and takes 0.1 s and 16 MiB to import for what is one form. Twilio has no idempotent sending. Success is 201 with
a `sid`, and nothing else is.

Receipts, https://www.twilio.com/docs/usage/webhooks/webhooks-security (public documentation, read 2026-11): one form
for each change of status, signed over the address that it was sent to and all that it says.
"""

import base64
import functools
import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Final, Literal, Self
from urllib.parse import parse_qs, parse_qsl, quote_plus, urlsplit

from multidict import MultiDict
from pydantic import AfterValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from sidecar.config.findings import UnfitError
from sidecar.config.model import Doubt, Named, Provider
from sidecar.config.units import NonEmpty, Text
from sidecar.delivery.providers import answer
from sidecar.delivery.providers.seam import (
    Credential,
    Endpoint,
    Fault,
    Message,
    Outcome,
    Receipt,
    ReceiptReply,
    ReceiptState,
)
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import Channel
from sidecar.spelling import BROKEN_ESCAPE

CHANNELS: Final[Collection[Channel]] = frozenset({"sms"})
RECEIPT_REPLY: Final = ReceiptReply(200, None)  # any 2xx

# Error code -> our word. Twilio adds codes all the time, and asks that nobody build upon its list.
_ERRORS: Final[dict[str, Fault]] = {
    "20003": "credentials",
    "20005": "credentials",  # account not active; an unpaid one is suspended so
    "21606": "credentials",  # From is not ours, or cannot send
    "21608": "credentials",  # trial account, unverified number
    "21659": "credentials",
    "21660": "credentials",
    "90010": "credentials",  # account suspended
    "21602": "request",  # no body
    "21603": "request",  # no From
    "21604": "request",  # no To
    "21617": "request",  # body too long
    "21619": "request",
    "21656": "request",
    "21703": "request",  # the messaging service has no sender
    "21705": "request",  # bad messaging service
    "21211": "number_invalid",
    "21265": "number_invalid",  # short code
    "21614": "number_invalid",  # not a mobile number
    "21635": "number_invalid",  # landline
    "21408": "number_unsupported",  # region not enabled for this account
    "21612": "number_unsupported",  # no route for this pair of numbers
    "21610": "number_blocked",  # the recipient sent STOP
    "14107": "throttled",
    "20429": "throttled",
    "21611": "throttled",  # From's queue is full
    "30022": "throttled",  # limits of carriers in the US
    "30023": "throttled",
    "60728": "throttled",
    "63017": "throttled",
    "63038": "throttled",
}
# Faults within the vendor, and its maintenance: the message may have gone out.
_OPEN: Final = frozenset({"20500", "20503", "21730"})
# `MessageStatus` -> our word. partially_delivered (some of a message's parts) is left out: it is neither.
_STATES: Final[dict[str, ReceiptState]] = {
    "accepted": "enroute",
    "scheduled": "enroute",
    "queued": "enroute",
    "sending": "enroute",
    "sent": "enroute",  # to the carrier: not final
    "delivered": "delivered",
    "read": "delivered",
    "undelivered": "undeliverable",
    "failed": "rejected",  # never left Twilio
    "canceled": "rejected",
}
# `ErrorCode` of what failed -> our word, where that says more than the status.
_FAILED: Final[dict[str, ReceiptState]] = {
    "30001": "rejected",  # queue overflow
    "30002": "rejected",  # account suspended
    "30003": "undeliverable",  # unreachable
    "30004": "rejected",  # blocked
    "30005": "undeliverable",  # unknown number
    "30006": "undeliverable",  # landline
    "30007": "rejected",  # filtered
    "30032": "rejected",  # unregistered sender in the US
    "30034": "rejected",
    "30450": "rejected",  # taken for pumping
}
_FORM: Final = "application/x-www-form-urlencoded"
_FIELDS: Final = (("Content-Type", _FORM), ("Accept", "application/json"))
# A receipt has some twenty fields; to read and sort the thousands that 64 KiB hold takes 20 ms.
_MOST_FIELDS: Final = 200
# ValidityPeriod's range, in seconds.
_MAX_VALIDITY_S: Final = 36_000


def _with_key(value: str, info: ValidationInfo) -> str:
    key = info.data.get("api_key", "wrong, and told so")
    if key and not value:
        raise PydanticCustomError("missing", "is missing beside api_key")
    if value and not key:
        raise UnfitError("has no meaning without api_key", 'write api_key = "SK…", too')
    return value


def _unless_key(value: str, info: ValidationInfo) -> str:
    if not value and not info.data.get("api_key", "wrong, and told so"):
        raise PydanticCustomError("missing", "is missing, and so is api_key")
    return value


class Settings(Provider):
    """[providers.NAME] with kind = "twilio"."""

    kind: Literal["twilio"]
    account_sid: Annotated[NonEmpty, Field(pattern=r"^AC[0-9A-Za-z]+$")]
    # An API key and its secret, which sign in instead of auth_token. Receipts are signed with auth_token alone.
    api_key: Annotated[Text, Field(pattern=r"^(SK[0-9A-Za-z]+)?$")] = ""
    api_secret: Annotated[Text, AfterValidator(_with_key)] = Field(default="", validate_default=True, repr=False)
    auth_token: Annotated[Text, AfterValidator(_unless_key)] = Field(default="", validate_default=True, repr=False)
    from_: Text = Field(default="", alias="from")
    messaging_service_sid: Annotated[Text, Field(pattern=r"^(MG[0-9A-Za-z]+)?$")] = ""
    # Shared keys that receipts may be signed with instead of auth_token (public beta): their id -> the key.
    receipt_keys: Named[Credential] = Field(default_factory=dict, validate_default=True, repr=False)
    endpoint: Endpoint = "https://api.twilio.com"

    @functools.cached_property
    def url(self) -> str:
        return f"{self.endpoint.rstrip('/')}/2010-04-01/Accounts/{self.account_sid}/Messages.json"

    @functools.cached_property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The field lines of each request: RFC 7617 says who asks."""
        pair = f"{self.api_key or self.account_sid}:{self.api_secret or self.auth_token}"
        return *_FIELDS, ("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")

    @functools.cached_property
    def form_sender(self) -> str:
        """Who sends, as a form writes it."""
        senders = {"From": self.from_, "MessagingServiceSid": self.messaging_service_sid}
        return "".join(f"&{name}={quote_plus(value)}" for name, value in senders.items() if value)

    @model_validator(mode="after")
    def _has_a_sender(self) -> Self:
        if not self.from_ and not self.messaging_service_sid:
            raise ValueError(
                'who sends is missing; write from = "+15005550006" (a number of yours) or '
                'messaging_service_sid = "MG…", or both'
            )
        return self

    def doubtful(self) -> Iterable[Doubt]:
        """An account without what checks receipts."""
        if not self.auth_token and not self.receipt_keys:
            yield (
                ("api_key",),
                "stands without auth_token, which receipts are signed with, so none are asked for",
                "write auth_token too, or leave it so and let verified codes tell what arrived",
            )


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask for one message. Twilio drops it when it cannot go out while its code lives."""
    form = f"To={message.recipient.address.replace('+', '%2B')}"  # E.164: nothing else is to be escaped
    if message.callback_url and (settings.auth_token or settings.receipt_keys):  # else nobody could check its receipts
        form += f"&StatusCallback={quote_plus(message.callback_url)}"
    validity_s = min(max(message.minutes * 60, 1), _MAX_VALIDITY_S)
    form += f"&ValidityPeriod={validity_s}{settings.form_sender}&Body={quote_plus(message.text)}"
    return HttpRequest("POST", settings.url, settings.fields, form.encode())


def read(reply: HttpReply, message: Message) -> Outcome:  # noqa: ARG001 - the seam's shape
    """Read the answer to one request. There is no success word: 201 stands for it."""
    body = answer.of_reply(reply.body)
    word = answer.number(body, "code")
    verdict: Literal["yes", "no", "odd", "none"] = "no" if word else "yes" if reply.status == 201 else "none"
    return answer.outcome(reply, answer.Said(verdict, word, answer.text(body, "sid"), "sid"), _ERRORS, _OPEN)


def receipts(fields: Mapping[str, str], body: bytes) -> tuple[Receipt, ...]:
    """Read one status callback. `fields` have lower-case names. Raises ValueError for what is none."""
    if not _is_form(fields):
        raise ValueError("expected a form")
    said = dict(_pairs(body))
    status = answer.needed(said, "MessageStatus", "SmsStatus")
    state, code = _STATES.get(status, "unknown"), said.get("ErrorCode", "")
    if status in {"failed", "undelivered"}:
        state = _FAILED.get(code, state)
    return (
        Receipt(
            provider_message_id=answer.needed(said, "MessageSid", "SmsSid"),
            recipient=answer.digits(said.get("To", "")),
            state=state,
            vendor_code=code or status,
            client_ref=None,
        ),
    )


def receipt_signature_ok(settings: Settings, url: str, fields: Mapping[str, str], body: bytes) -> bool:
    """Tell whether Twilio signed this callback to `url`, which is all of it as Twilio was given it, byte for byte.

    `fields` have lower-case names. A request that says which shared key signed it is checked with that one, and refused
    where it is not ours; one that does not is checked with the auth token.
    """
    secret, algorithm = settings.auth_token, "HMAC_SHA1"
    if "x-twilio-webhooks-signature-settings" in fields:
        named = dict(_settings_of(fields["x-twilio-webhooks-signature-settings"]))
        secret, algorithm = settings.receipt_keys.get(named.get("key", ""), ""), named.get("algorithm", algorithm)
    return bool(secret and algorithm) and signature_ok(url, fields, body, secret, algorithm)


def signature_ok(url: str, fields: Mapping[str, str], body: bytes, secret: str, algorithm: str) -> bool:
    """Check X-Twilio-Signature with one secret. An unknown algorithm is refused."""
    signer, form = RequestValidator(secret), MultiDict[str]()
    try:
        if _is_form(fields):
            form.extend(_pairs(body))
        elif not _is_the_hashed(url, body):
            return False
        signatures = [signer.compute_signature(spelt, form, algorithm) for spelt in _spellings(url)]
        given = fields.get("x-twilio-signature", "").encode()
        return any(hmac.compare_digest(signature.encode(), given) for signature in signatures)
    except ValueError:  # no URL, no form, no UTF-8, no such algorithm
        return False


def _is_form(fields: Mapping[str, str]) -> bool:
    return fields.get("content-type", "").partition(";")[0].strip().lower() == _FORM


def _pairs(body: bytes) -> list[tuple[str, str]]:
    """Read a form, all of it, empty values too. Raises ValueError."""
    if BROKEN_ESCAPE.search(body):  # Twilio writes none, and to read 64 KiB of them takes 60 ms
        raise ValueError("expected % only before two hexadecimal digits")
    return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)


def _is_the_hashed(url: str, body: bytes) -> bool:
    """Tell whether a body that is no form is the one whose hash the signed address carries."""
    hashes = parse_qs(urlsplit(url).query).get("bodySHA256", [])
    return len(hashes) == 1 and hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), hashes[0].encode())


def _spellings(url: str) -> tuple[str, str]:
    """Spell the address with the port and without: Twilio signs now the one, now the other."""
    parts = urlsplit(url)
    bare = parts.netloc.removesuffix(f":{parts.port}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    rest = url.removeprefix(f"{parts.scheme}://{parts.netloc}")
    return f"{parts.scheme}://{bare}{rest}", f"{parts.scheme}://{bare}:{port}{rest}"


def _settings_of(value: str) -> Iterable[tuple[str, str]]:
    for part in value.split(","):
        name, _, said = part.partition("=")
        yield name.strip(), said.strip()
