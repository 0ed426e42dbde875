"""Alibaba Cloud's captcha as its pages describe it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sidecar.captcha import aliyun
from sidecar.captcha.seam import Verdict
from sidecar.outbound import HttpReply

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "aliyun_acs3.json").read_text("utf-8"))
CAPTCHAS = [v for v in VECTORS if v["action"] == "VerifyIntelligentCaptcha"]


def settings(**more: Any) -> aliyun.Settings:
    table = {"kind": "aliyun", "access_key_id": "k", "access_key_secret": "s", "scene_id": "abc123"}
    return aliyun.Settings.model_validate(table | more)


def test_there_is_a_vector() -> None:
    assert CAPTCHAS


@pytest.mark.parametrize("vector", CAPTCHAS, ids=lambda vector: vector["id"])
def test_the_request_is_the_vendors_own(vector: dict[str, Any]) -> None:
    """Fields, form and signature, octet for octet; the widget's parameter goes on unchanged."""
    request = aliyun.request(
        settings(
            access_key_id=vector["access_key_id"],
            access_key_secret=vector["access_key_secret"],
            security_token=vector["security_token"] or "",
            scene_id=vector["params"]["SceneId"],
            endpoint=f"https://{vector['host']}",
        ),
        vector["params"]["CaptchaVerifyParam"],
        "203.0.113.7",
        datetime.fromisoformat(vector["timestamp"]).timestamp(),
        vector["nonce"],
    )
    assert request.body.decode() == vector["body"]
    fields = dict(request.fields)
    assert fields.pop("Authorization") == vector["documented"]["authorization"]
    assert fields == vector["documented"]["headers"]


def test_a_token_is_known_by_what_it_says_however_it_is_spelt() -> None:
    known_by = aliyun.identify(settings(), '{"certifyId":"c","sceneId":"s"}')
    assert aliyun.identify(settings(), '{ "sceneId" : "s", "certifyId" : "\\u0063" }') == known_by
    assert aliyun.identify(settings(), '{"certifyId":"d","sceneId":"s"}') != known_by
    assert aliyun.identify(settings(), "eyJjZXJ0aWZ5SWQiOiJjIn0=") == "eyJjZXJ0aWZ5SWQiOiJjIn0="


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"VerifyResult": True, "VerifyCode": "T006"}, Verdict("pass")),
        ({"VerifyResult": False, "VerifyCode": "F012"}, Verdict("policy", "F012")),
        ({"VerifyResult": False, "VerifyCode": "F999"}, Verdict("reject", "unknown_code")),
        ({"VerifyResult": False, "VerifyCode": ["F008"]}, Verdict("reject", "unknown_code")),
        ({"VerifyResult": False}, Verdict("reject", "unknown_code")),
        ({"VerifyResult": "true", "VerifyCode": "T001"}, Verdict("provider_error", "no_verdict")),
        ("T001", Verdict("provider_error", "no_verdict")),
    ],
)
def test_results(result: Any, verdict: Verdict) -> None:
    """A code that we do not know does not reach the log."""
    reply = HttpReply(200, {}, json.dumps({"Code": "Success", "Success": True, "Result": result}).encode())
    assert aliyun.read(settings(), reply) == verdict


def test_a_pass_of_a_call_that_failed_is_none() -> None:
    good = {"Success": True, "Result": {"VerifyResult": True, "VerifyCode": "T001"}}
    for code in ("Success ", "SUCCESS", None, True, "Forbidden.AccountAccessDenied", ["Success"]):
        reply = HttpReply(200, {}, json.dumps(good | {"Code": code}).encode())
        assert aliyun.read(settings(), reply).outcome in {"provider_error", "config"}
