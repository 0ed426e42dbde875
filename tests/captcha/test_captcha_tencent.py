"""Tencent's captcha as its pages and its package describe it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.captcha import tencent
from sidecar.captcha.seam import Verdict
from sidecar.outbound import HttpReply

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "tencent_tc3.json").read_text("utf-8"))


def settings(**more: Any) -> tencent.Settings:
    table = {"kind": "tencent", "secret_id": "s", "secret_key": "k", "app_id": 1, "app_secret_key": "a"}
    return tencent.Settings.model_validate(table | more)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["service"] == "captcha"], ids=lambda vector: vector["id"])
def test_the_request_is_the_vendors_own(vector: dict[str, Any]) -> None:
    """Fields, body and signature, octet for octet."""
    params = vector["params"]
    request = tencent.request(
        settings(
            secret_id=vector["secret_id"],
            secret_key=vector["secret_key"],
            token=vector["token"] or "",
            app_id=params["CaptchaAppId"],
            app_secret_key=params["AppSecretKey"],
            endpoint=f"https://{vector['host']}",
        ),
        json.dumps({"ticket": params["Ticket"], "randstr": params["Randstr"]}),
        params["UserIp"],
        float(vector["timestamp"]),
        "",
    )
    [compact] = [body for body in vector["bodies"] if body["body"] == request.body.decode()]
    fields = dict(request.fields)
    assert fields.pop("Authorization") == compact["authorization"]
    assert fields == vector["headers"]


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (1, Verdict("pass")),
        (7, Verdict("reject", "code_7")),
        (8, Verdict("spent", "code_8")),
        (21, Verdict("reject", "code_21")),
        (100, Verdict("config", "code_100")),
        (0, Verdict("reject", "unknown_code")),
        (-1, Verdict("reject", "unknown_code")),
        (10**30, Verdict("reject", "unknown_code")),
    ],
)
def test_codes(code: int, verdict: Verdict) -> None:
    reply = HttpReply(200, {}, json.dumps({"Response": {"CaptchaCode": code}}).encode())
    assert tencent.read(settings(), reply) == verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ({"Code": "AuthFailure.SignatureExpire"}, Verdict("config", "AuthFailure")),
        ({"Code": "UnauthorizedOperation.ErrAuth"}, Verdict("config", "UnauthorizedOperation")),
        ({"Code": "RequestLimitExceeded"}, Verdict("provider_error", "error")),
        ({"Code": "<b>new</b>"}, Verdict("provider_error", "error")),
        ({"Code": 7}, Verdict("provider_error", "error")),
        ("AuthFailure", Verdict("provider_error", "error")),
    ],
)
def test_an_error_outranks_a_code(error: Any, verdict: Verdict) -> None:
    reply = HttpReply(200, {}, json.dumps({"Response": {"Error": error, "CaptchaCode": 1}}).encode())
    assert tencent.read(settings(), reply) == verdict
