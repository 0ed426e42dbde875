"""Qiniu SMS: what to ask, how it is signed, and what the answer means. Pure.

https://developer.qiniu.com/sms/5897 and 10488 (sending), 5849 (error codes), 5910 (receipts): public documentation,
read 2026-11. Success is HTTP 200 with a `message_id` or a `job_id`. Not idempotent: `seq` is only given back. Values
must be letters and digits. What is wrong with a number comes in receipts only, and those are not signed.
"""

import base64
import hmac
import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

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
# Any 200 will do; anything else is repeated within ten minutes.
RECEIPT_REPLY: Final = ReceiptReply(200, None)

_CONTENT_TYPE: Final = "application/json"
_WRITE: Final = json.JSONEncoder(separators=(",", ":")).encode
# `error` -> our word.
_ERRORS: Final[Mapping[str, Fault]] = {
    "BadToken": "credentials",
    "FreezedUserError": "credentials",
    "InactivatedUseError": "credentials",
    "AccountNeedCertified": "credentials",
    "MalformedJSON": "request",
    "InvalidQueryValue": "request",
    "NotFoundError": "request",
    "AccountBalanceNotEnough": "balance",
}
# A fault within the vendor: the message may have gone out.
_OPEN: Final = frozenset({"ServerInternalError"})
# A receipt's `error` -> our word, where it did not arrive. What is not here failed for the carrier's reasons.
_FAILED: Final[Mapping[str, ReceiptState]] = {
    **dict.fromkeys(("8", "9", "22"), "rejected"),  # same content too often
    **dict.fromkeys(("10", "45", "86", "601", "9403"), "rejected"),  # blacklist
    **dict.fromkeys(("17", "43", "300040", "9419", "9441"), "rejected"),  # too often
    **dict.fromkeys(("20", "61", "XA:0003"), "rejected"),  # country; flow; signature not registered
    **dict.fromkeys(("1", "12", "640"), "undeliverable"),  # no such number
    **dict.fromkeys(("5", "28", "1052"), "undeliverable"),  # suspended; carrier; virtual number
}


class Settings(Provider):
    """[providers.NAME] with kind = "qiniu"."""

    kind: Literal["qiniu"]
    access_key: NonEmpty
    secret_key: Credential
    signature_id: Text = ""  # empty: the template's own
    template: Template
    oversea_template: Text = ""  # for numbers abroad; empty: they are not served
    params: NamedParams = Field(default={"code": "{code}"}, validate_default=True)
    endpoint: Endpoint = "https://sms.qiniuapi.com"

    def unfit(self, code: CodeRules) -> Iterable[Doubt]:
        """Values that no variable holds."""
        for name, _, value in examples(self.params, code, self.longest_code):
            if not _is_fit(value):
                yield (
                    ("params", name),
                    "is not letters and digits alone, and the vendor refuses all else",
                    "write letters and digits, and put the rest into the template itself",
                )


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest | Rejected:  # noqa: ARG001 - the seam's shape
    """Ask for one message. A value that the vendor's variables cannot hold is refused here."""
    params = fill_named(settings.params, message)
    if not all(_is_fit(value) for value in params.values()):
        return Rejected("request", "a value is not letters and digits")
    address = message.recipient.address
    content: dict[str, Any]
    if address.startswith("+86"):
        path = "/v1/message/single"
        template_id = choose(settings.template, message.locale)
        content = {"template_id": template_id, "mobile": address.removeprefix("+86"), "parameters": params}
        content["seq"] = message.id
        if settings.signature_id:
            content["signature_id"] = settings.signature_id
    elif settings.oversea_template:
        path = "/v1/message/oversea"
        content = {"template_id": settings.oversea_template, "mobiles": [address], "parameters": params}
    else:
        return Rejected("number_unsupported", "no oversea_template")
    url = settings.endpoint.rstrip("/") + path
    body = _WRITE(content).encode()
    parts = urlsplit(url)
    host = parts.netloc
    date = datetime.fromtimestamp(int(now), UTC).isoformat()[:19]
    dated = (("X-Qiniu-Date", f"{date.replace('-', '').replace(':', '')}Z"),)
    authorization = sign(
        "POST", host, parts.path, _CONTENT_TYPE, dated, body, (settings.access_key, settings.secret_key)
    )
    fields = (("Host", host), ("Content-Type", _CONTENT_TYPE), *dated, ("Authorization", authorization))
    return HttpRequest("POST", url, fields, body)


def _is_fit(value: str) -> bool:
    return value.isascii() and value.isalnum()


def sign(
    method: str,
    host: str,
    path_and_query: str,
    content_type: str,
    dated: tuple[tuple[str, str], ...],
    body: bytes,
    key: tuple[str, str],
) -> str:
    """Give the Authorization of one call with a key (access, secret). `dated` are its X-Qiniu- fields, sorted."""
    lines = [f"{method} {path_and_query}", f"Host: {host}", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in dated]
    to_sign = "\n".join(lines).encode() + b"\n\n" + body
    mac = hmac.digest(key[1].encode(), to_sign, "sha1")
    return f"Qiniu {key[0]}:{base64.urlsafe_b64encode(mac).decode()}"


def read(reply: HttpReply, message: Message) -> Outcome:  # noqa: ARG001 - the seam's shape
    """Read the answer to one request. There is no success word: 200 and an id stand for it."""
    body = answer.of_reply(reply.body)
    message_id = answer.text(body, "message_id") or answer.text(body, "job_id")
    word = answer.text(body, "error")
    verdict: Literal["yes", "no", "odd", "none"] = "no" if word else "yes" if reply.status == 200 else "none"
    return answer.outcome(reply, answer.Said(verdict, word, message_id, "message_id"), _ERRORS, _OPEN)


def receipts(fields: Mapping[str, str], body: bytes) -> tuple[Receipt, ...]:  # noqa: ARG001 - the seam's shape
    """Read a push. Raises ValueError for what is none."""
    return tuple(
        Receipt(
            provider_message_id=answer.needed(item, "message_id", "job_id"),
            recipient=answer.digits(answer.text(item, "mobile")),
            state=_state(answer.text(item, "status"), answer.text(item, "error")),
            vendor_code=answer.text(item, "error") or answer.text(item, "status"),
            client_ref=answer.text(item, "seq") or None,
        )
        for item in answer.objects(answer.of_reply(body).get("items"))
    )


def _state(status: str, error: str) -> ReceiptState:
    if status == "DELIVRD":
        return "delivered"
    return _FAILED.get(error, "undeliverable") if status == "FAILED" else "unknown"
