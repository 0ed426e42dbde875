"""Tencent Cloud SMS (SendSms 2021-01-11): what to ask, how it is signed, and what the answer means. Pure.

https://cloud.tencent.com/document/product/382/55981 (SendSms and its error codes), 38780 (error codes), 59178
(receipts), and the signature method v3, TC3-HMAC-SHA256: public documentation, read 2026-11. Every refusal is HTTP 200.
Success is `Code` "Ok" of the number itself, with a `SerialNo`. Not idempotent: `SessionContext` is only given back.
Receipts are not signed, and their `ext` is there only where Tencent enabled it.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from sidecar import tc3
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
from sidecar.delivery.providers.template import ListedParams, Template, choose, examples, fill
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"sms"})
# Anything else is sent twice more.
RECEIPT_REPLY: Final = ReceiptReply(200, MappingProxyType({"result": 0, "errmsg": "OK"}))

# `Code`, of the number or of the whole call -> our word; a name without a dot is a whole family.
_ERRORS: Final[Mapping[str, Fault]] = {
    "UnauthorizedOperation.RequestIpNotInWhitelist": "credentials",
    "UnauthorizedOperation.RequestPermissionDeny": "credentials",
    "UnauthorizedOperation.SdkAppIdIsDisabled": "credentials",
    "UnauthorizedOperation.SmsSdkAppIdVerifyFail": "credentials",
    "UnauthorizedOperation.IndividualUserMarketingSmsPermissionDeny": "credentials",
    "FailedOperation.ProhibitSubAccountUse": "credentials",
    "InvalidParameterValue.SdkAppIdNotExist": "credentials",
    "InternalError.SigVerificationFail": "credentials",
    "InternalError.SigFieldMissing": "credentials",
    "InternalError.RequestTimeException": "credentials",  # our clock is off
    "FailedOperation.SignatureIncorrectOrUnapproved": "request",
    "FailedOperation.MissingSignature": "request",
    "FailedOperation.TemplateIncorrectOrUnapproved": "request",
    "FailedOperation.TemplateUnapprovedOrNotExist": "request",
    "FailedOperation.TemplateIdNotExist": "request",
    "FailedOperation.TemplateParamSetNotMatchApprovedTemplate": "request",
    "FailedOperation.ContainSensitiveWord": "request",
    "FailedOperation.FailResolvePacket": "request",
    "FailedOperation.JsonParseFail": "request",
    "InvalidParameterValue.TemplateParameterFormatError": "request",
    "InvalidParameterValue.TemplateParameterLengthLimit": "request",
    "InvalidParameterValue.ProhibitedUseUrlInTemplateParameter": "request",
    "InvalidParameterValue.ContentLengthLimit": "request",
    "LimitExceeded.PhoneNumberCountLimit": "request",
    "UnsupportedOperation.ContainDomesticAndInternationalPhoneNumber": "request",
    "InvalidParameterValue.IncorrectPhoneNumber": "number_invalid",
    "FailedOperation.PhoneNumberParseFail": "number_invalid",
    "UnsupportedOperation.UnsupportedRegion": "number_unsupported",
    "UnsupportedOperation.ChineseMainlandTemplateToGlobalPhone": "number_unsupported",
    "UnsupportedOperation.GlobalTemplateToChineseMainlandPhone": "number_unsupported",
    "LimitExceeded.AppCountryOrRegionInBlacklist": "number_unsupported",
    "FailedOperation.PhoneNumberInBlacklist": "number_blocked",  # unsubscribed, or on a carrier's list
    "LimitExceeded.PhoneNumberThirtySecondLimit": "number_frequency",
    "LimitExceeded.PhoneNumberOneHourLimit": "number_frequency",
    "LimitExceeded.PhoneNumberDailyLimit": "number_frequency",
    "LimitExceeded.PhoneNumberSameContentDailyLimit": "number_frequency",
    "LimitExceeded.DeliveryFrequencyLimit": "number_frequency",
    "LimitExceeded.AppDailyLimit": "throttled",
    "LimitExceeded.AppMainlandChinaDailyLimit": "throttled",
    "LimitExceeded.AppGlobalDailyLimit": "throttled",
    "LimitExceeded.AppCountryOrRegionDailyLimit": "throttled",
    "LimitExceeded.DailyLimit": "throttled",
    "LimitExceeded.GlobalSmsSendingRateLimit": "throttled",
    "FailedOperation.InsufficientBalanceInSmsPackage": "balance",
    "UnauthorizedOperation.ServiceSuspendDueToArrears": "balance",
    "AuthFailure": "credentials",
    "MissingParameter": "request",
    "RequestLimitExceeded": "throttled",
}
# Faults within the vendor, such as .Timeout and .SendAndRecvFail: the message may have gone out.
_OPEN: Final = frozenset({"InternalError"})
_STATES: Final[Mapping[str, ReceiptState]] = {"SUCCESS": "delivered", "FAIL": "undeliverable"}


class Settings(Provider):
    """[providers.NAME] with kind = "tencent"."""

    longest_code: ClassVar[int] = 6

    kind: Literal["tencent"]
    secret_id: NonEmpty
    secret_key: Credential
    token: Text = Field(default="", repr=False)  # of temporary credentials
    region: NonEmpty = "ap-guangzhou"
    app_id: NonEmpty
    sign_name: Text = ""  # a must for numbers in the mainland
    template: Template
    params: ListedParams = ("{code}",)  # by position; as many as the template has
    endpoint: Endpoint = "https://sms.tencentcloudapi.com"

    def unfit(self, code: CodeRules) -> Iterable[Doubt]:
        """Values that no code template holds."""
        for position, _, value in examples(self.params, code, self.longest_code):
            if not _is_fit(value):
                yield (
                    ("params", position),
                    "is not up to 6 digits, and a template for codes takes nothing else",
                    'write "{code}", "{minutes}" or digits, and put the rest into the template itself',
                )


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest | Rejected:  # noqa: ARG001 - the seam's shape
    """Ask for one message. A value that a code template cannot hold is refused here."""
    params = [fill(value, message) for value in settings.params]
    if not all(_is_fit(value) for value in params):
        return Rejected("request", "a value is not up to 6 digits")
    if not settings.sign_name and message.recipient.address.startswith("+86"):
        return Rejected("request", "no sign_name")
    content = {
        "PhoneNumberSet": [message.recipient.address],
        "SmsSdkAppId": settings.app_id,
        "TemplateId": choose(settings.template, message.locale),
        "TemplateParamSet": params,
        "SessionContext": message.id,
    }
    if settings.sign_name:
        content["SignName"] = settings.sign_name
    return tc3.request(
        settings.endpoint,
        ("sms", "SendSms", "2021-01-11"),
        content,
        key=(settings.secret_id, settings.secret_key),
        now=now,
        region=settings.region,
        token=settings.token,
    )


def _is_fit(value: str) -> bool:
    return re.fullmatch("[0-9]{0,6}", value) is not None


def read(reply: HttpReply, message: Message) -> Outcome:  # noqa: ARG001 - the seam's shape
    """Read the answer to one request for one number: its own word, or that for the whole call."""
    return answer.outcome(reply, _said(answer.member(answer.of_reply(reply.body), "Response")), _ERRORS, _OPEN)


def _said(response: dict[str, Any]) -> answer.Said:
    numbers = response.get("SendStatusSet")
    number = numbers[0] if isinstance(numbers, list) and len(numbers) == 1 and isinstance(numbers[0], dict) else {}
    serial = answer.text(number, "SerialNo")
    if response.get("Error") is not None:
        word = answer.text(answer.member(response, "Error"), "Code")
        return answer.Said("no" if word else "none", word, serial)
    return answer.coded(answer.text(number, "Code"), "Ok", serial, "serial_no")


def receipts(fields: Mapping[str, str], body: bytes) -> tuple[Receipt, ...]:  # noqa: ARG001 - the seam's shape
    """Read a push of up to 100. Raises ValueError for what is none."""
    return tuple(
        Receipt(
            provider_message_id=answer.needed(item, "sid"),
            recipient=answer.digits(answer.text(item, "nationcode") + answer.text(item, "mobile")),
            state=_STATES.get(answer.text(item, "report_status"), "unknown"),
            vendor_code=answer.text(item, "errmsg"),
            client_ref=answer.text(item, "ext") or None,
        )
        for item in answer.of_receipts(body)
    )
