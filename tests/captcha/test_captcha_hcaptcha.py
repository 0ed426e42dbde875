"""hCaptcha as its pages describe it."""

from typing import Any
from urllib.parse import parse_qsl

import pytest

from sidecar.captcha import hcaptcha
from sidecar.captcha.seam import Verdict
from sidecar.outbound import HttpReply


def settings(**more: Any) -> hcaptcha.Settings:
    return hcaptcha.Settings(kind="hcaptcha", secret="0xSECRET", **more)


def test_the_request_is_a_form_with_the_vendors_names() -> None:
    """With the site key where there is one: a token of another site of the account is refused by it."""
    request = hcaptcha.request(settings(site_key="site&key"), "to+k en", "203.0.113.7", 0.0, "")
    assert (request.method, request.url) == ("POST", "https://api.hcaptcha.com/siteverify")
    assert dict(request.fields)["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(request.body.decode()) == [
        ("secret", "0xSECRET"),
        ("response", "to+k en"),
        ("remoteip", "203.0.113.7"),
        ("sitekey", "site&key"),
    ]
    assert b"sitekey" not in hcaptcha.request(settings(), "t", "", 0.0, "").body


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("not-using-dummy-passcode", "config"),
        ("expired-input-response", "spent"),
        ("already-seen-response", "spent"),
        ("invalid-input-response", "reject"),
        ("brand-new", "reject"),
    ],
)
def test_words_of_a_refusal(word: str, outcome: str) -> None:
    reply = HttpReply(200, {}, b'{"success": false, "error-codes": ["%b"]}' % word.encode())
    assert hcaptcha.read(settings(), reply).outcome == outcome


def test_the_host_must_be_one_of_the_configured() -> None:
    reply = HttpReply(200, {}, b'{"success": true, "hostname": "evil.example"}')
    assert hcaptcha.read(settings(), reply) == Verdict("pass")
    assert hcaptcha.read(settings(hostname="signup.example"), reply) == Verdict("policy", "hostname")
