"""Alibaba Cloud SMS abroad (SendMessageToGlobe): what to ask, and what the answer means. Pure.

https://help.aliyun.com "error-code-intl" (error codes), https://www.alibabacloud.com/help/doc-detail/409034.htm and
https://help.aliyun.com/document_detail/197995.html (receipts): public documentation, read 2026-11.
It carries the text itself, and not to the mainland. Success is `ResponseCode` "OK" with a `MessageId`. Charged on
submission, even if the carrier fails. Receipts are not signed, and may repeat.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field

from sidecar import acs3
from sidecar.config.model import Provider
from sidecar.config.units import NonEmpty, Text, fitting
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
    Rejected,
)
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"sms"})
# What it wants is not documented; this is what the domestic service wants.
RECEIPT_REPLY: Final = ReceiptReply(200, MappingProxyType({"code": 0, "msg": "OK"}))

# `ResponseCode` -> our word; and the gateway's words, in `Code`, which are the same for every service of the vendor.
_ERRORS: Final[Mapping[str, Fault]] = {
    "RAM_PERMISSION_DENY": "credentials",
    "ACCOUNT_NOT_EXISTS": "credentials",
    "PRODUCT_NOT_SUBSCRIBED": "credentials",
    "FORBIDDEN_ACTION": "credentials",
    "ACCOUNT_ILLEGAL": "credentials",
    "INVALID_SENDERID": "request",
    "SMS_CONTENT_CODE_ILLEGAL": "request",
    "SMS_SIGN_NAME_ILLEGAL": "request",
    "CONTENT_MISSING_PARAMETERS": "request",
    "INVALID_PARAMETERS": "request",
    "INVALID_JSON_PARAM": "request",
    "PARAM_LENGTH_LIMIT": "request",
    "SMS_CONTENT_ILLEGAL": "request",
    "BLACK_KEY_CONTROL_LIMIT": "request",
    "MOBILE_COUNT_OVER_LIMIT": "request",
    "MOBILE_NUMBER_ILLEGAL": "number_invalid",
    "NOT_SUPPORTED_COUNTRY": "number_unsupported",
    "COUNTRY_RESTRICTED": "number_unsupported",
    "SMS_SECURITY_INTERCEPTED": "number_blocked",  # their risk control
    "QPS_LIMIT_CONTROL": "throttled",
    "AMOUNT_NOT_ENOUGH": "balance",
    "OUT_OF_SERVICE": "balance",
    "SignatureDoesNotMatch": "credentials",
    "InvalidAccessKeyId.NotFound": "credentials",
    "MissingAccessKeyId": "credentials",
    "InvalidTimeStamp.Expired": "credentials",
    "SignatureNonceUsed": "credentials",
    "InvalidVersion": "request",
    "InvalidAction.NotFound": "request",
    "Throttling": "throttled",  # and .User, .Api
}
# Faults within the vendor: the message may have gone out.
_OPEN: Final = frozenset({"SYSTEM_ERROR", "ONLINE_BILLING_FAILED", "ServiceUnavailable", "InternalError"})
_STATES: Final[Mapping[str, ReceiptState]] = {"1": "delivered", "2": "undeliverable", "6": "expired"}


class Settings(Provider):
    """[providers.NAME] with kind = "aliyun-intl"."""

    kind: Literal["aliyun-intl"]
    access_key_id: NonEmpty
    access_key_secret: Credential
    security_token: Text = Field(default="", repr=False)  # of temporary credentials
    # Who sends, as the phone shows it; empty: the vendor chooses.
    from_: Annotated[
        Text,
        fitting(
            "[A-Za-z0-9]{0,11}|[0-9]{12,15}",
            "is no sender",
            'write up to 11 letters and digits, or up to 15 digits, such as "Example"',
        ),
    ] = Field(default="", alias="from")
    type: Text = "OTP"  # the vendor's kind of message; empty: not said
    endpoint: Endpoint = "https://dysmsapi.ap-southeast-1.aliyuncs.com"


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest | Rejected:
    """Ask for one message. The vendor drops it when it cannot go out while its code lives."""
    address = message.recipient.address
    if address.startswith("+86"):
        return Rejected("number_unsupported", "not to the mainland")
    params = {
        "To": address.removeprefix("+"),
        "Message": message.text,
        "ValidityPeriod": str(message.minutes * 60),
        "TaskId": message.id,
    }
    if settings.from_:
        params["From"] = settings.from_
    if settings.type:
        params["Type"] = settings.type
    return acs3.request(
        settings.endpoint,
        ("SendMessageToGlobe", "2018-05-01"),
        params,
        key=(settings.access_key_id, settings.access_key_secret),
        now=now,
        nonce=nonce,
        security_token=settings.security_token,
    )


def read(reply: HttpReply, message: Message) -> Outcome:  # noqa: ARG001 - the seam's shape
    """Read the answer to one request."""
    body = answer.of_reply(reply.body)
    said = answer.coded(answer.text(body, "ResponseCode"), "OK", answer.text(body, "MessageId"), "message_id")
    if "ResponseCode" not in body and (code := answer.text(body, "Code")):
        said = answer.Said("odd" if code == "OK" else "no", code)
    return answer.outcome(reply, said, _ERRORS, _OPEN, acs3.asked_to_wait_s(reply))


def receipts(fields: Mapping[str, str], body: bytes) -> tuple[Receipt, ...]:  # noqa: ARG001 - the seam's shape
    """Read a batch push, in either spelling of its names. Raises ValueError for what is none.

    Accounts of the Chinese site get lower-case names (197995), all others capitals (409034).
    """
    return tuple(
        Receipt(
            provider_message_id=answer.needed(item, "MessageId", "message_id"),
            recipient=answer.digits(answer.text(item, "To") or answer.text(item, "to")),
            state=_STATES.get(str(item.get("Status", item.get("status"))), "unknown"),
            vendor_code=answer.text(item, "ErrorCode") or answer.text(item, "error_code"),
            client_ref=answer.text(item, "TaskId") or answer.text(item, "task_id") or None,
        )
        for item in answer.of_receipts(body)
    )
