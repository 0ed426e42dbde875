"""Alibaba Cloud in China: numbers, variables, what a code means."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError

from sidecar.delivery.providers import aliyun
from sidecar.delivery.providers.seam import Message, Rejected
from sidecar.outbound import HttpRequest
from sidecar.recipient import parse

MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh-CN", "246810", 5, "246810")
TABLE: dict[str, Any] = {
    "kind": "aliyun",
    "access_key_id": "AKID",
    "access_key_secret": "s3cret",
    "sign_name": "阿里云短信测试",
    "template": {"zh": "SMS_1", "en": "SMS_2"},
}


def settings(**more: Any) -> aliyun.Settings:
    return aliyun.Settings.model_validate(TABLE | more)


def query(message: Message, **more: Any) -> dict[str, str]:
    made = aliyun.request(settings(**more), message, 0.0, "n")
    assert isinstance(made, HttpRequest)
    return dict(parse_qsl(urlsplit(made.url).query))


def test_aliyun_asks_for_one_number_with_a_template() -> None:
    """Every parameter in the query; what comes back in receipts is the message's own id."""
    assert query(MESSAGE) == {
        "PhoneNumbers": "13900000001",
        "SignName": "阿里云短信测试",
        "TemplateCode": "SMS_1",
        "TemplateParam": '{"code":"246810"}',
        "OutId": "id-1",
    }


@pytest.mark.parametrize(
    ("typed", "number"),
    [("+8613900000001", "13900000001"), ("+85261234567", "85261234567"), ("+14155550100", "14155550100")],
)
def test_aliyun_number_has_no_86_at_home_and_no_plus_abroad(typed: str, number: str) -> None:
    assert query(replace(MESSAGE, recipient=parse(typed, "sms", "CN")))["PhoneNumbers"] == number


def test_aliyun_template_is_the_languages() -> None:
    assert query(replace(MESSAGE, locale="en-US"))["TemplateCode"] == "SMS_2"


def test_aliyun_minutes_are_a_text_too() -> None:
    """Every value of TemplateParam is a string."""
    made = json.loads(query(MESSAGE, params={"code": "{code}", "min": "{minutes}", "name": "注册"})["TemplateParam"])
    assert made == {"code": "246810", "min": "5", "name": "注册"}


@pytest.mark.parametrize(
    ("code", "more", "why"),
    [
        ("246", {}, "code: not 4 to 6 characters"),
        ("2468101", {}, "code: not 4 to 6 characters"),
        ("246810", {"params": {"code": "{code}", "name": "x" * 36}}, "name: not 1 to 35 characters"),
        ("246810", {"params": {"code": "{code}", "name": ""}}, "name: not 1 to 35 characters"),
        ("246810", {"params": {"code": "{code}", "name": "https://a.cn"}}, "name: a web address"),
        ("246810", {"params": {"code": "{code}", "name": "WWW.a.cn"}}, "name: a web address"),
        ("246810", {"params": {"code": "{code}", "name": "注册🔐"}}, "name: an emoji"),
        ("246810", {"params": {"code": "{code}", "name": "☎️"}}, "name: an emoji"),
    ],
)
def test_aliyun_value_that_no_variable_can_hold_is_refused_without_a_call(
    code: str, more: dict[str, Any], why: str
) -> None:
    assert aliyun.request(settings(**more), replace(MESSAGE, code=code), 0.0, "n") == Rejected("request", why)


@pytest.mark.parametrize("code", ["2468", "246810"])
def test_aliyun_shortest_and_longest_code_pass(code: str) -> None:
    assert json.loads(query(replace(MESSAGE, code=code))["TemplateParam"]) == {"code": code}


@pytest.mark.parametrize(
    ("success", "err_code", "state"),
    [
        (True, "DELIVERED", "delivered"),
        (True, "SOMETHING_NEW", "delivered"),
        (False, "MOBILE_NOT_ON_SERVICE", "undeliverable"),
        (False, "MOBILE_SEND_LIMIT", "rejected"),
        (False, "REQUEST_SUCCESS", "enroute"),
        (False, "SOMETHING_NEW", "undeliverable"),
        ("true", "DELIVERED", "unknown"),
        (None, "DELIVERED", "unknown"),
    ],
)
def test_aliyun_receipt_state(success: Any, err_code: str, state: str) -> None:
    """`success` decides, and only as a boolean."""
    body = json.dumps([{"biz_id": "1^0", "phone_number": "13900000001", "success": success, "err_code": err_code}])
    [receipt] = aliyun.receipts({}, body.encode())
    assert receipt.state == state


@pytest.mark.parametrize(
    "wrong",
    [{"sign_name": ""}, {"template": ""}, {"access_key_secret": ""}, {"params": {"code": "246810"}}, {"endpoint": "x"}],
)
def test_aliyun_settings_refuse_what_cannot_work(wrong: dict[str, Any]) -> None:
    settings()
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        settings(**wrong)
