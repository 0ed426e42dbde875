"""Turnstile as its pages describe it."""

import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from sidecar.captcha import turnstile
from sidecar.captcha.seam import Verdict
from sidecar.outbound import HttpReply

DATA = Path(__file__).parent.parent / "data" / "captcha" / "captcha_replies.json"
REPLIES = [v for v in json.loads(DATA.read_text("utf-8"))["vectors"] if v["input"]["verifier"] == "turnstile"]
NONCE = "0123456789abcdef0123456789abcdef"


def settings(**more: Any) -> turnstile.Settings:
    return turnstile.Settings(kind="turnstile", secret="0xSECRET", **more)


@pytest.mark.parametrize("vector", REPLIES, ids=[v["id"] for v in REPLIES])
def test_recorded_replies(vector: dict[str, Any]) -> None:
    """Each recorded reply is read as the vendor means it."""
    given = vector["input"]
    policy = given["policy"]
    verdict = turnstile.read(
        settings(hostname=policy["hostname"], action=policy["action"]),
        HttpReply(given["http_status"], {}, given["body"].encode()),
    )
    assert verdict.outcome == vector["expect"]["kind"]


def test_the_request_is_a_form_with_the_vendors_names() -> None:
    request = turnstile.request(settings(), "to+k en", "203.0.113.7", 0.0, NONCE)
    assert (request.method, request.url) == ("POST", "https://challenges.cloudflare.com/turnstile/v0/siteverify")
    assert dict(request.fields)["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(request.body.decode()) == [
        ("secret", "0xSECRET"),
        ("response", "to+k en"),
        ("remoteip", "203.0.113.7"),
        ("idempotency_key", str(uuid.UUID(NONCE))),
    ]


def test_an_unknown_client_address_is_left_out() -> None:
    assert b"remoteip" not in turnstile.request(settings(), "t", "", 0.0, NONCE).body


def answer(**members: Any) -> HttpReply:
    return HttpReply(200, {}, json.dumps(members).encode())


@pytest.mark.parametrize(
    ("configured", "answered", "passes"),
    [
        ("www.example.com", "WWW.Example.COM", True),
        ("WWW.Example.com", "www.example.com", True),
        ("www.example.com.", "www.example.com", True),
        (["www.example.com", "Example.com"], "example.com", True),
        (["www.example.com", "example.com"], "shop.example.com", False),
        ("example.com", "www.example.com", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "Bücher.example", True),
        ("localhost", "localhost", True),
        ("", "evil.example", True),
        ([], "evil.example", True),
        ("www.example.com", ["www.example.com"], False),
        ("www.example.com", None, False),
        ("www.example.com", "x" * 300, False),
    ],
)
def test_host_is_one_of_the_named_in_any_spelling(configured: Any, answered: Any, passes: bool) -> None:
    verdict = turnstile.read(settings(hostname=configured), answer(success=True, hostname=answered))
    assert verdict == (Verdict("pass") if passes else Verdict("policy", "hostname"))


def test_host_and_action_are_checked_only_where_configured() -> None:
    other = answer(success=True, hostname="evil.example", action="login")
    assert turnstile.read(settings(), other) == Verdict("pass")
    assert turnstile.read(settings(hostname="signup.example"), other) == Verdict("policy", "hostname")
    assert turnstile.read(settings(action="signup"), other) == Verdict("policy", "action")


def test_a_missing_host_or_action_is_not_the_configured_one() -> None:
    assert turnstile.read(settings(hostname="signup.example"), answer(success=True)) == Verdict("policy", "hostname")
    assert turnstile.read(settings(action="signup"), answer(success=True)) == Verdict("policy", "action")


def test_our_fault_outranks_the_tokens() -> None:
    both = answer(success=False, **{"error-codes": ["invalid-input-response", "invalid-input-secret"]})
    assert turnstile.read(settings(), both) == Verdict("config", "invalid-input-secret")


@pytest.mark.parametrize("codes", [None, [], ["brand-new"], "invalid-input-secret", [["x"]], [{}], {"a": 1}])
def test_a_refusal_without_a_known_reason_is_a_refusal(codes: Any) -> None:
    """And what the vendor wrote there does not reach the log."""
    assert turnstile.read(settings(), answer(success=False, **{"error-codes": codes})) == Verdict(
        "reject", "unknown_code"
    )
