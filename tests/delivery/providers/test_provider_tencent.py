"""Tencent Cloud: the vendor's own signatures, variables, families of codes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.delivery.providers import tencent
from sidecar.delivery.providers.seam import Message, Outcome, Rejected, Uncertain
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import parse

DATA = Path(__file__).parents[2] / "data" / "delivery"
VECTORS: list[dict[str, Any]] = json.loads((DATA.parent / "tencent_tc3.json").read_text(encoding="utf-8"))
MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", "246810", 5, "246810")
TABLE: dict[str, Any] = {
    "kind": "tencent",
    "secret_id": "AKID",
    "secret_key": "s3cret",
    "app_id": "1400006666",
    "sign_name": "腾讯云",
    "template": "1110",
    "params": ["{code}", "{minutes}"],
}


def ask(message: Message = MESSAGE, now: float = 0.0, **more: Any) -> HttpRequest | Rejected:
    return tencent.request(tencent.Settings.model_validate(TABLE | more), message, now, "n")


def asked(message: Message = MESSAGE, **more: Any) -> HttpRequest:
    made = ask(message, **more)
    assert isinstance(made, HttpRequest)
    return made


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS if v["service"] == "sms" and len(v["params"].get("PhoneNumberSet", ())) == 1],
    ids=lambda vector: vector["id"],
)
def test_tencent_fields_are_the_vendors(vector: dict[str, Any]) -> None:
    """What the package sets in its headers, for the same account and moment."""
    made = asked(
        now=vector["timestamp"] + 0.9,
        region=vector["region"],
        token=vector["token"] or "",
        endpoint=f"https://{vector['host']}",
    )
    fields = dict(made.fields)
    del fields["Authorization"]
    assert fields == vector["headers"]
    assert (made.method, made.url) == ("POST", f"https://{vector['host']}/")


def test_tencent_asks_for_one_number_with_a_template() -> None:
    assert json.loads(asked().body) == {
        "PhoneNumberSet": ["+8613900000001"],
        "SmsSdkAppId": "1400006666",
        "TemplateId": "1110",
        "SignName": "腾讯云",
        "TemplateParamSet": ["246810", "5"],
        "SessionContext": "id-1",
    }


def test_tencent_token_of_temporary_credentials_travels_unsigned() -> None:
    with_token, without = dict(asked(token="t0ken").fields), dict(asked().fields)
    assert with_token.pop("X-TC-Token") == "t0ken"
    assert with_token == without


@pytest.mark.parametrize(
    "more", [{"params": ["{code}1"]}, {"params": ["{code}", "注册"]}, {"params": ["{code}", "1a"]}]
)
def test_tencent_value_that_a_code_template_cannot_hold_is_refused_without_a_call(more: dict[str, Any]) -> None:
    assert ask(**more) == Rejected("request", "a value is not up to 6 digits")


def test_tencent_code_of_seven_digits_is_refused_without_a_call() -> None:
    assert ask(replace(MESSAGE, code="2468101")) == Rejected("request", "a value is not up to 6 digits")


def test_tencent_signature_name_is_a_must_in_the_mainland_only() -> None:
    assert ask(sign_name="") == Rejected("request", "no sign_name")
    abroad = replace(MESSAGE, recipient=parse("+85261234567", "sms", "HK"))
    assert "SignName" not in json.loads(asked(abroad, sign_name="").body)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("AuthFailure.SecretIdNotFound", Rejected("credentials", "AuthFailure.SecretIdNotFound")),
        ("AuthFailure", Rejected("credentials", "AuthFailure")),
        ("RequestLimitExceeded.UinLimitExceeded", Rejected("throttled", "RequestLimitExceeded.UinLimitExceeded")),
        ("MissingParameter.EmptyPhoneNumberSet", Rejected("request", "MissingParameter.EmptyPhoneNumberSet")),
        ("FailedOperation.SomethingNew", Rejected("request", "FailedOperation.SomethingNew")),
        ("InternalError.SomethingNew", Uncertain("InternalError.SomethingNew")),
        ("", Uncertain("http_200")),
    ],
)
@pytest.mark.parametrize("place", ["call", "number"])
def test_tencent_code_means_the_same_in_either_place(code: str, outcome: Outcome, place: str) -> None:
    answer: dict[str, Any] = {"Error": {"Code": code}} if place == "call" else {"SendStatusSet": [{"Code": code}]}
    reply = HttpReply(200, {}, json.dumps({"Response": answer}).encode())
    assert tencent.read(reply, MESSAGE) == outcome


def test_tencent_receipt_of_an_unknown_status_is_unknown() -> None:
    body = json.dumps([{"nationcode": "86", "mobile": "13900000001", "report_status": "LATER", "sid": "5000:1"}])
    assert [receipt.state for receipt in tencent.receipts({}, body.encode())] == ["unknown"]
