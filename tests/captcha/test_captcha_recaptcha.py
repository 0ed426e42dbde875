"""reCAPTCHA's three versions as Google's pages describe them."""

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from pydantic import ValidationError

from sidecar.captcha import recaptcha
from sidecar.captcha.seam import Verdict
from sidecar.outbound import HttpReply

ENTERPRISE = {"version": "enterprise", "project": "my-shop-1234", "api_key": "my-secret", "site_key": "6Lsite"}


def v2(**more: Any) -> recaptcha.Settings:
    return recaptcha.Settings(kind="recaptcha", secret="0xSECRET", **more)


def v3(**more: Any) -> recaptcha.Settings:
    return v2(version="v3", **more)


def enterprise(**more: Any) -> recaptcha.Settings:
    return recaptcha.Settings.model_validate({"kind": "recaptcha"} | ENTERPRISE | more)


def reply(status: int = 200, **members: Any) -> HttpReply:
    return HttpReply(status, {}, json.dumps(members).encode())


def test_the_request_is_a_form_with_the_vendors_names() -> None:
    for settings in (v2(), v3(action="signup")):
        request = recaptcha.request(settings, "to+k en", "203.0.113.7", 0.0, "")
        assert (request.method, request.url) == ("POST", "https://www.google.com/recaptcha/api/siteverify")
        assert parse_qsl(request.body.decode()) == [
            ("secret", "0xSECRET"),
            ("response", "to+k en"),
            ("remoteip", "203.0.113.7"),
        ]


def test_an_assessment_is_asked_for_with_the_key_in_a_field() -> None:
    """No proxy's log has it, nor has the address any of the account but its project."""
    request = recaptcha.request(enterprise(action="signup"), "token", "203.0.113.7", 0.0, "")
    assert request.url == "https://recaptchaenterprise.googleapis.com/v1/projects/my-shop-1234/assessments"
    assert dict(request.fields) == {"Content-Type": "application/json", "X-Goog-Api-Key": "my-secret"}
    assert json.loads(request.body) == {
        "event": {
            "token": "token",
            "siteKey": "6Lsite",
            "expectedAction": "signup",
            "userIpAddress": "203.0.113.7",
        }
    }
    assert set(json.loads(recaptcha.request(enterprise(), "t", "", 0.0, "").body)["event"]) == {"token", "siteKey"}
    other = enterprise(endpoint="http://127.0.0.1:1/")
    assert recaptcha.request(other, "t", "", 0.0, "").url == "http://127.0.0.1:1/v1/projects/my-shop-1234/assessments"


@pytest.mark.parametrize(
    ("score", "passes"),
    [(0.5, True), (1, True), (0.49, False), (0, False), (True, False), ("0.9", False), (None, False), ([0.9], False)],
)
def test_a_score_is_a_number_and_high_enough(score: Any, passes: bool) -> None:
    verdict = Verdict("pass") if passes else Verdict("policy", "score")
    assert recaptcha.read(v3(), reply(success=True, score=score, action="x")) == verdict
    valid = {"valid": True, "hostname": "h", "action": "x"}
    assert recaptcha.read(enterprise(), reply(tokenProperties=valid, riskAnalysis={"score": score})) == verdict


def test_a_score_of_no_number_is_refused() -> None:
    """JSON has no NaN, and Python's reader takes it all the same: nothing is at least it."""
    assert recaptcha.read(v3(), HttpReply(200, {}, b'{"success": true, "score": NaN}')) == Verdict("policy", "score")


def test_an_answer_with_a_score_is_none_of_version_2() -> None:
    assert recaptcha.read(v2(), reply(success=True, score=0.1)) == Verdict("config", "score_in_v2")
    assert recaptcha.read(v2(), reply(success=True)) == Verdict("pass")
    assert recaptcha.read(v3(), reply(success=True)) == Verdict("policy", "score")


def test_host_and_action_are_checked_where_configured() -> None:
    valid = {"valid": True, "hostname": "evil.example", "action": "login"}
    other = reply(tokenProperties=valid, riskAnalysis={"score": 0.9})
    assert recaptcha.read(enterprise(), other) == Verdict("pass")
    assert recaptcha.read(enterprise(hostname="signup.example"), other) == Verdict("policy", "hostname")
    assert recaptcha.read(enterprise(action="signup"), other) == Verdict("policy", "action")
    missing = reply(tokenProperties={"valid": True}, riskAnalysis={"score": 0.9})
    assert recaptcha.read(enterprise(hostname="signup.example"), missing) == Verdict("policy", "hostname")
    assert recaptcha.read(enterprise(action="signup"), missing) == Verdict("policy", "action")


@pytest.mark.parametrize(
    ("properties", "verdict"),
    [
        ({"valid": False, "invalidReason": "EXPIRED"}, Verdict("spent", "EXPIRED")),
        ({"valid": False, "invalidReason": "DUPE"}, Verdict("spent", "DUPE")),
        ({"valid": False, "invalidReason": "MALFORMED"}, Verdict("reject", "MALFORMED")),
        ({"valid": False, "invalidReason": "<b>brand new</b>"}, Verdict("reject", "invalid")),
        ({"valid": False, "invalidReason": ["DUPE"]}, Verdict("reject", "invalid")),
        ({"valid": False}, Verdict("reject", "invalid")),
        ({"valid": "true"}, Verdict("provider_error", "no_verdict")),
        ({"valid": 1}, Verdict("provider_error", "no_verdict")),
        ({}, Verdict("provider_error", "no_verdict")),
        ("valid", Verdict("provider_error", "no_verdict")),
        (None, Verdict("provider_error", "no_verdict")),
    ],
)
def test_only_a_valid_token_is_scored(properties: Any, verdict: Verdict) -> None:
    """And no word of an answer that we do not know reaches the log."""
    assert recaptcha.read(enterprise(), reply(tokenProperties=properties, riskAnalysis={"score": 1.0})) == verdict


@pytest.mark.parametrize(
    ("status", "word", "verdict"),
    [
        (400, "INVALID_ARGUMENT", Verdict("config", "INVALID_ARGUMENT")),
        (401, "UNAUTHENTICATED", Verdict("config", "UNAUTHENTICATED")),
        (403, "PERMISSION_DENIED", Verdict("config", "PERMISSION_DENIED")),
        (429, "RESOURCE_EXHAUSTED", Verdict("provider_error", "http_429")),
        (503, "UNAVAILABLE", Verdict("provider_error", "http_503")),
        (418, ["x"], Verdict("provider_error", "http_418")),
    ],
)
def test_an_error_of_the_api_says_whose_fault_it_is(status: int, word: Any, verdict: Verdict) -> None:
    assert recaptcha.read(enterprise(), reply(status, error={"code": status, "status": word})) == verdict
    valid = {"valid": True, "hostname": "h", "action": "x"}
    good = reply(status, tokenProperties=valid, riskAnalysis={"score": 1.0})
    assert recaptcha.read(enterprise(), good) == Verdict("provider_error", f"http_{status}")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "secret is missing"),
        ({"version": "v3"}, "secret is missing"),
        ({"secret": "s", "version": "v4"}, "v2"),
        ({"secret": "s", "action": "signup"}, "action has no meaning"),
        ({"secret": "s", "min_score": 0.7}, "min_score has no meaning"),
        ({"secret": "s", "version": "v3", "project": "p"}, "project has no meaning"),
        ({"secret": "s", "version": "v3", "min_score": 1.5}, "less than or equal to 1"),
        (ENTERPRISE | {"project": ""}, "project is missing"),
        (ENTERPRISE | {"api_key": ""}, "api_key is missing"),
        (ENTERPRISE | {"site_key": ""}, "site_key is missing"),
        (ENTERPRISE | {"project": "a/b"}, "no project"),
        (ENTERPRISE | {"secret": "s"}, "secret has no meaning"),
    ],
)
def test_the_keys_fit_the_version(table: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        recaptcha.Settings.model_validate({"kind": "recaptcha"} | table)


def test_no_key_is_shown() -> None:
    assert "my-secret" not in f"{enterprise()!r} {enterprise()}"
    assert "0xSECRET" not in repr(v2())
