"""NetEase Yidun as its pages and its public demo describe it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.captcha import yidun
from sidecar.captcha.seam import Verdict
from sidecar.outbound import HttpReply

DATA = Path(__file__).parent.parent / "data" / "captcha"
SIGNATURES = json.loads((DATA / "yidun_md5.json").read_text("utf-8"))["vectors"]
REPLIES = [
    v
    for v in json.loads((DATA / "captcha_replies.json").read_text("utf-8"))["vectors"]
    if v["input"]["verifier"] == "yidun"
]


@pytest.mark.parametrize("vector", SIGNATURES, ids=[v["id"] for v in SIGNATURES])
def test_signatures(vector: dict[str, Any]) -> None:
    """Each signature is the one of the vendor's demo."""
    assert yidun.sign(vector["input"]["params"], vector["input"]["secret_key"]) == vector["expect"]["signature"]


OURS = [v for v in SIGNATURES if v["id"] != "extra-param"]  # we send no parameter of our own


@pytest.mark.parametrize("vector", OURS, ids=[v["id"] for v in OURS])
def test_request_bodies(vector: dict[str, Any]) -> None:
    """The body is the vendor's octet for octet: every field, an empty user too, and the signature."""
    params = vector["input"]["params"]
    settings = yidun.Settings(
        kind="yidun",
        captcha_id=params["captchaId"],
        secret_id=params["secretId"],
        secret_key=vector["input"]["secret_key"],
        user=params["user"],
    )
    now = int(params["timestamp"]) / 1000
    request = yidun.request(settings, params["validate"], "203.0.113.7", now, params["nonce"])
    assert (request.method, request.url) == ("POST", "https://c.dun.163.com/api/v2/verify")
    assert request.fields == (("Content-Type", "application/x-www-form-urlencoded"),)
    assert request.body.decode() == vector["expect"]["body"]


SETTINGS = yidun.Settings(kind="yidun", captcha_id="c", secret_id="s", secret_key="k")


@pytest.mark.parametrize("vector", REPLIES, ids=[v["id"] for v in REPLIES])
def test_recorded_replies(vector: dict[str, Any]) -> None:
    """Each recorded reply is read as the vendor means it."""
    given = vector["input"]
    verdict = yidun.read(SETTINGS, HttpReply(given["http_status"], {}, given["body"].encode()))
    assert verdict.outcome == vector["expect"]["kind"]


@pytest.mark.parametrize(
    ("members", "verdict"),
    [
        ({"result": True, "error": 415}, Verdict("config", "415_signature")),
        ({"result": True, "error": 430}, Verdict("provider_error", "430_rate")),
        ({"result": True, "error": 999}, Verdict("provider_error", "unknown_error")),
        ({"result": True}, Verdict("provider_error", "no_verdict")),
        ({"result": True, "error": False}, Verdict("provider_error", "no_verdict")),
        ({"result": True, "error": "0"}, Verdict("provider_error", "no_verdict")),
        ({"result": True, "error": 0.0}, Verdict("provider_error", "no_verdict")),
        ({"result": 1, "error": 0}, Verdict("provider_error", "no_verdict")),
        ({"error": 0}, Verdict("provider_error", "no_verdict")),
    ],
)
def test_only_error_0_with_result_true_passes(members: dict[str, Any], verdict: Verdict) -> None:
    assert yidun.read(SETTINGS, HttpReply(200, {}, json.dumps(members).encode())) == verdict
