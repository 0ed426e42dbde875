"""Alibaba Cloud abroad: text, numbers, receipts in two spellings."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError

from sidecar.delivery.providers import aliyun_intl
from sidecar.delivery.providers.seam import Message, Receipt, Rejected
from sidecar.outbound import HttpRequest
from sidecar.recipient import parse

MESSAGE = Message("id-1", parse("+85261234567", "sms", "HK"), "en", "246810", 5, "246810 is your code")
TABLE = {"kind": "aliyun-intl", "access_key_id": "AKID", "access_key_secret": "s3cret"}


def query(**more: Any) -> dict[str, str]:
    made = aliyun_intl.request(aliyun_intl.Settings.model_validate(TABLE | more), MESSAGE, 0.0, "n")
    assert isinstance(made, HttpRequest)
    return dict(parse_qsl(urlsplit(made.url).query))


def test_aliyun_intl_sends_the_text_and_drops_it_when_the_code_dies() -> None:
    asked = {"To": "85261234567", "Message": "246810 is your code", "ValidityPeriod": "300", "TaskId": "id-1"}
    assert query() == asked | {"Type": "OTP"}
    assert query(type="") == asked
    assert query(**{"from": "Example"}) == asked | {"Type": "OTP", "From": "Example"}


def test_aliyun_intl_does_not_serve_the_mainland() -> None:
    """Refused without a call, and another provider may try."""
    message = replace(MESSAGE, recipient=parse("+8613900000001", "sms", "CN"))
    outcome = aliyun_intl.request(aliyun_intl.Settings.model_validate(TABLE), message, 0.0, "n")
    assert outcome == Rejected("number_unsupported", "not to the mainland")
    assert outcome.may_try_next


@pytest.mark.parametrize("sender", ["Example", "Example1234", "123456789012345", ""])
def test_aliyun_intl_senders_that_phones_show(sender: str) -> None:
    assert query(**{"from": sender}).get("From", "") == sender


@pytest.mark.parametrize("sender", ["Example12345", "示例", "Ex ample", "1234567890123456"])
def test_aliyun_intl_sender_that_phones_cannot_show_is_refused(sender: str) -> None:
    with pytest.raises(ValidationError, match="sender"):
        query(**{"from": sender})


def test_aliyun_intl_receipt_in_the_chinese_sites_spelling() -> None:
    body = json.dumps([{"to": "8521234567", "status": 6, "message_id": "3", "task_id": "", "error_code": "EXPIRED"}])
    assert aliyun_intl.receipts({}, body.encode()) == (Receipt("3", "8521234567", "expired", "EXPIRED", None),)


def test_aliyun_intl_receipt_of_an_unknown_status_is_unknown() -> None:
    body = json.dumps([{"To": "8521234567", "Status": "9", "MessageId": "3"}])
    assert [receipt.state for receipt in aliyun_intl.receipts({}, body.encode())] == ["unknown"]
