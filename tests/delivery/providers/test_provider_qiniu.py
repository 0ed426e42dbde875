"""Qiniu: the vendor's own signatures, numbers at home and abroad, values."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.delivery.providers import qiniu
from sidecar.delivery.providers.seam import Message, Rejected
from sidecar.outbound import HttpRequest
from sidecar.recipient import parse

DATA = Path(__file__).parents[2] / "data" / "delivery"
VECTORS: list[dict[str, Any]] = json.loads((DATA / "qiniu_mac.json").read_text(encoding="utf-8"))
MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", "246810", 5, "246810")
ABROAD = replace(MESSAGE, recipient=parse("+85261234567", "sms", "HK"))
TABLE: dict[str, Any] = {"kind": "qiniu", "access_key": "AK", "secret_key": "s3cret", "template": "1212"}


def ask(message: Message = MESSAGE, **more: Any) -> HttpRequest | Rejected:
    return qiniu.request(qiniu.Settings.model_validate(TABLE | more), message, 1_772_600_767.9, "n")


def asked(message: Message = MESSAGE, **more: Any) -> HttpRequest:
    made = ask(message, **more)
    assert isinstance(made, HttpRequest)
    return made


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_qiniu_signature_is_the_vendors(vector: dict[str, Any]) -> None:
    """With and without a date, a query, Chinese in either spelling."""
    dated = (("X-Qiniu-Date", vector["x_qiniu_date"]),) if vector["x_qiniu_date"] else ()
    made = qiniu.sign(
        vector["method"],
        vector["host"],
        vector["path_and_query"],
        vector["content_type"],
        dated,
        vector["body"].encode(),
        (vector["access_key"], vector["secret_key"]),
    )
    assert made == vector["authorization"]


def test_qiniu_asks_for_one_number_with_a_template_at_a_signed_date() -> None:
    made = asked(signature_id="77")
    assert (made.method, made.url) == ("POST", "https://sms.qiniuapi.com/v1/message/single")
    assert dict(made.fields)["X-Qiniu-Date"] == "20260304T050607Z"
    assert json.loads(made.body) == {
        "template_id": "1212",
        "mobile": "13900000001",
        "parameters": {"code": "246810"},
        "seq": "id-1",
        "signature_id": "77",
    }


def test_qiniu_numbers_abroad_have_a_template_of_their_own() -> None:
    made = asked(ABROAD, oversea_template="99")
    assert made.url == "https://sms.qiniuapi.com/v1/message/oversea"
    assert json.loads(made.body) == {
        "template_id": "99",
        "mobiles": ["+85261234567"],
        "parameters": {"code": "246810"},
    }


def test_qiniu_without_one_does_not_serve_numbers_abroad() -> None:
    assert ask(ABROAD) == Rejected("number_unsupported", "no oversea_template")


@pytest.mark.parametrize("value", ["注册", "a b", "a-b", "", "１２"])
def test_qiniu_value_that_is_not_letters_and_digits_is_refused_without_a_call(value: str) -> None:
    """The vendor's page: no Chinese."""
    assert ask(params={"code": "{code}", "x": value}) == Rejected("request", "a value is not letters and digits")


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        ("DELIVRD", "", "delivered"),
        ("FAILED", "640", "undeliverable"),
        ("FAILED", "9441", "rejected"),
        ("FAILED", "XA:0003", "rejected"),
        ("FAILED", "77777", "undeliverable"),
        ("DELIVERED", "", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_qiniu_receipt_state(status: str, error: str, state: str) -> None:
    item = {"mobile": "13900000001", "message_id": "1", "status": status, "error": error}
    [receipt] = qiniu.receipts({}, json.dumps({"items": [item]}).encode())
    assert receipt.state == state
