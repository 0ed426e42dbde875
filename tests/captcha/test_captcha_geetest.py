"""GeeTest as its pages and its public demos describe it."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from sidecar.captcha import geetest
from sidecar.captcha.seam import Verdict
from sidecar.outbound import HttpReply

DATA = Path(__file__).parent.parent / "data" / "captcha"
SIGNATURES = json.loads((DATA / "geetest_v4.json").read_text("utf-8"))["vectors"]
PARTS = {"lot_number": "4dc3cfc2", "captcha_output": "oU+/= &", "pass_token": "p", "gen_time": "1772600767"}


@pytest.mark.parametrize("vector", SIGNATURES, ids=[v["id"] for v in SIGNATURES])
def test_signatures(vector: dict[str, Any]) -> None:
    """Each signature is the one of the vendor's demo."""
    given = vector["input"]
    assert geetest.sign(given["captcha_key"], given["lot_number"]) == vector["expect"]["sign_token"]


def test_the_request_is_a_form_with_the_vendors_names() -> None:
    """The four parts as the widget gave them, signed; a whole number is its digits."""
    settings = geetest.Settings(kind="geetest", captcha_id="a b", captcha_key="my-secret")
    token = json.dumps(PARTS | {"gen_time": 1772600767, "captcha_id": "a b", "more": {"x": 1}})
    assert geetest.identify(settings, token) == "4dc3cfc2"
    request = geetest.request(settings, token, "203.0.113.7", 0.0, "")
    assert (request.method, request.url) == ("POST", "https://gcaptcha4.geetest.com/validate?captcha_id=a+b")
    assert dict(parse_qsl(request.body.decode())) == PARTS | {"sign_token": geetest.sign("my-secret", "4dc3cfc2")}


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ({"result": "fail", "reason": "brand new <b>"}, Verdict("reject", "fail")),
        ({"result": "fail", "reason": ["x"]}, Verdict("reject", "fail")),
        ({"result": "fail"}, Verdict("reject", "fail")),
        ({"result": "success", "status": None}, Verdict("reject", "status_error")),
        ({"result": "success", "reason": "captcha is down"}, Verdict("unproven", "pass_with_reason")),
        ({"result": "success"}, Verdict("pass")),
        ({"status": "error", "msg": 5}, Verdict("reject", "status_error")),
    ],
)
def test_words_of_an_answer(answer: dict[str, Any], verdict: Verdict) -> None:
    """A word that we do not know is a refusal, and does not reach the log."""
    settings = geetest.Settings(kind="geetest", captcha_id="c", captcha_key="k")
    assert geetest.read(settings, HttpReply(200, {}, json.dumps(answer).encode())) == verdict
