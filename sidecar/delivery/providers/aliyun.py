"""Alibaba Cloud SMS in China (Dysmsapi SendSms): what to ask, and what the answer means. Pure.

https://help.aliyun.com/document_detail/101346.html and 101347 (error codes), 101867 (receipts), and SendSms's own page:
public documentation, read 2026-11. The parameters travel in the query, the body is empty. A refusal is HTTP 200 too;
success is `Code` "OK" with a `BizId`, and nothing else is. Not idempotent: `OutId` is only given back in receipts.
Receipts are not signed: whoever takes them must know the address that they are sent to.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar, Final, Literal

from pydantic import Field

from sidecar import acs3
from sidecar.config.model import CodeRules, Doubt, Provider
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
    Rejected,
)
from sidecar.delivery.providers.template import NamedParams, Template, choose, examples, fill_named
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"sms"})
# Only the status and that `code` is a number are looked at; anything else is sent again after 1, 5 and 10 minutes.
RECEIPT_REPLY: Final = ReceiptReply(200, MappingProxyType({"code": 0, "msg": "OK"}))

_WRITE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_WEB: Final = re.compile(r"://|www\.", re.IGNORECASE)
_EMOJI: Final = re.compile("[\ufe0f\U00010000-\U0010ffff]")
# `Code` -> our word.
_ERRORS: Final[Mapping[str, Fault]] = {
    "SignatureDoesNotMatch": "credentials",
    "InvalidAccessKeyId.NotFound": "credentials",
    "MissingAccessKeyId": "credentials",
    "InvalidTimeStamp.Expired": "credentials",  # our clock is more than 15 minutes off
    "SignatureNonceUsed": "credentials",
    "isp.RAM_PERMISSION_DENY": "credentials",
    "isv.ACCOUNT_NOT_EXISTS": "credentials",
    "isv.ACCOUNT_ABNORMAL": "credentials",
    "isv.SECURITY_FROZEN_ACCOUNT": "credentials",
    "isv.PRODUCT_UN_SUBSCRIPT": "credentials",
    "isv.PRODUCT_UNSUBSCRIBE": "credentials",
    "isv.DENY_IP_RANGE": "credentials",  # to mainland numbers from an address outside the mainland
    "isv.SMS_SIGNATURE_ILLEGAL": "request",
    "isv.SMS_SIGN_ILLEGAL": "request",
    "isv.SIGN_NAME_ILLEGAL": "request",
    "isv.SIGN_STATE_ILLEGAL": "request",
    "isv.SMS_TEMPLATE_ILLEGAL": "request",
    "isv.SMS_SIGNATURE_SCENE_ILLEGAL": "request",
    "isv.TEMPLATE_MISSING_PARAMETERS": "request",
    "isv.TEMPLATE_PARAMS_ILLEGAL": "request",
    "isv.INVALID_JSON_PARAM": "request",
    "isv.INVALID_PARAMETERS": "request",
    "isv.PARAM_LENGTH_LIMIT": "request",
    "isv.PARAM_NOT_SUPPORT_URL": "request",
    "isv.SMS_CONTENT_ILLEGAL": "request",
    "isv.UNSUPPORTED_CONTENT": "request",
    "isv.EXTEND_CODE_ERROR": "request",
    "isv.MOBILE_COUNT_OVER_LIMIT": "request",
    "isv.SMS_TEST_NUMBER_LIMIT": "request",  # test mode
    "isv.SMS_TEST_SIGN_TEMPLATE_LIMIT": "request",  # test mode
    "InvalidVersion": "request",
    "InvalidAction.NotFound": "request",
    "isv.MOBILE_NUMBER_ILLEGAL": "number_invalid",
    "isv.DOMESTIC_NUMBER_NOT_SUPPORTED": "number_unsupported",  # international template, mainland number
    "isv.CUSTOMER_REFUSED": "number_blocked",  # unsubscribed
    # Older pages say a forbidden word in a variable, newer users a blacklisted number. Our variables are digits.
    "isv.BLACK_KEY_CONTROL_LIMIT": "number_blocked",
    "isv.BUSINESS_LIMIT_CONTROL": "number_frequency",
    "Throttling": "throttled",  # and .User, .Api
    "isv.DAY_LIMIT_CONTROL": "throttled",  # limits that the customer set
    "isv.MONTH_LIMIT_CONTROL": "throttled",
    "isv.AMOUNT_NOT_ENOUGH": "balance",
    "isv.OUT_OF_SERVICE": "balance",
}
# Faults within the vendor: the message may have gone out.
_OPEN: Final = frozenset({"isp.SYSTEM_ERROR", "isp.GATEWAY_ERROR", "ServiceUnavailable", "InternalError"})
# A receipt's `err_code` -> our word, where it did not arrive. What is not here failed for the carrier's reasons.
_FAILED: Final[Mapping[str, ReceiptState]] = {
    "REQUEST_SUCCESS": "enroute",  # taken by the carrier, nothing heard yet
    "MOBILE_SEND_LIMIT": "rejected",
    "MOBILE_IN_BLACK": "rejected",
    "CONTENT_KEYWORD": "rejected",
    "CONTENT_ERROR": "rejected",
    "NO_ROUTE": "rejected",
    "PORT_NOT_REGISTERED": "rejected",
    "MOBILE_NOT_ON_SERVICE": "undeliverable",
    "MOBILE_ACCOUNT_ABNORMAL": "undeliverable",
    "INVALID_NUMBER": "undeliverable",
    "IS_CLOSE": "undeliverable",
    "SP_UNKNOWN_ERROR": "undeliverable",
}


class Settings(Provider):
    """[providers.NAME] with kind = "aliyun"."""

    longest_code: ClassVar[int] = 6

    kind: Literal["aliyun"]
    access_key_id: NonEmpty
    access_key_secret: Credential
    security_token: Text = Field(default="", repr=False)  # of temporary credentials
    sign_name: NonEmpty
    template: Template
    params: NamedParams = Field(default={"code": "{code}"}, validate_default=True)
    endpoint: Endpoint = "https://dysmsapi.aliyuncs.com"

    def unfit(self, code: CodeRules) -> Iterable[Doubt]:
        """Values that no variable holds."""
        for name, pattern, value in examples(self.params, code, self.longest_code):
            if wrong := _unfit(pattern, value):
                yield (
                    ("params", name),
                    f"is {wrong}, which the vendor refuses",
                    "write 1 to 35 characters, no web address and no emoji, and put the rest into the template itself",
                )

    def doubtful(self) -> Iterable[Doubt]:
        """Templates that are named by something else than their code."""
        for tag, template in self.template.items():
            if not template.startswith("SMS_"):
                yield (
                    ("template", tag),
                    "is likely no template's code",
                    'write the one that the console shows, which begins with "SMS_"',
                )


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest | Rejected:
    """Ask for one message. A value that the vendor's variables cannot hold is refused here."""
    params = fill_named(settings.params, message)
    for name, value in params.items():
        if wrong := _unfit(settings.params[name], value):
            return Rejected("request", f"{name}: {wrong}")
    return acs3.request(
        settings.endpoint,
        ("SendSms", "2017-05-25"),
        {
            "PhoneNumbers": number(message),
            "SignName": settings.sign_name,
            "TemplateCode": choose(settings.template, message.locale),
            "TemplateParam": _WRITE(params),
            "OutId": message.id,
        },
        key=(settings.access_key_id, settings.access_key_secret),
        now=now,
        nonce=nonce,
        security_token=settings.security_token,
    )


def number(message: Message) -> str:
    """Write the number: in the mainland without 86, abroad with the country code and no +."""
    return message.recipient.address.removeprefix("+86").removeprefix("+")


def read(reply: HttpReply, message: Message) -> Outcome:  # noqa: ARG001 - the seam's shape
    """Read the answer to one request."""
    body = answer.of_reply(reply.body)
    said = answer.coded(answer.text(body, "Code"), "OK", answer.text(body, "BizId"), "biz_id")
    return answer.outcome(reply, said, _ERRORS, _OPEN, acs3.asked_to_wait_s(reply))


def receipts(fields: Mapping[str, str], body: bytes) -> tuple[Receipt, ...]:  # noqa: ARG001 - the seam's shape
    """Read a batch push. Raises ValueError for what is none."""
    return tuple(
        Receipt(
            provider_message_id=answer.needed(item, "biz_id"),
            recipient=answer.digits(answer.text(item, "phone_number")),
            state=_state(item.get("success"), answer.text(item, "err_code")),
            vendor_code=answer.text(item, "err_code"),
            client_ref=answer.text(item, "out_id") or None,
        )
        for item in answer.of_receipts(body)
    )


def _state(success: object, err_code: str) -> ReceiptState:
    if success is True:
        return "delivered"
    return _FAILED.get(err_code, "undeliverable") if success is False else "unknown"


def _unfit(pattern: str, value: str) -> str:
    """Say why a variable cannot hold a value; "" when it can. A code has 4 to 6 characters, other values 1 to 35."""
    shortest, longest = (4, 6) if pattern == "{code}" else (1, 35)
    if not shortest <= len(value) <= longest:
        return f"not {shortest} to {longest} characters"
    if _WEB.search(value):
        return "a web address"
    # Emoji are beyond the basic plane, or are symbols that a selector makes one. Traditional characters, which the
    # vendor refuses as well, have no range of their own, and are its to find.
    if _EMOJI.search(value):
        return "an emoji"
    return ""
