"""Twilio: the package's own requests, and every recorded reply."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from pydantic import ValidationError

from sidecar.delivery.providers import twilio
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, Rejected, Uncertain
from sidecar.outbound import HttpReply
from sidecar.recipient import parse

DATA = Path(__file__).parents[2] / "data" / "delivery"
REQUESTS: list[dict[str, Any]] = json.loads((DATA / "twilio_requests.json").read_text(encoding="utf-8"))
MESSAGE = Message("id-1", parse("+14155550100", "sms", "US"), "en", "246810", 5, "246810 is your code")


def settings(**more: str) -> twilio.Settings:
    table = {"kind": "twilio", "account_sid": "ACtest", "auth_token": "t0ken", "from": "+15005550006"} | more
    return twilio.Settings.model_validate({name: value for name, value in table.items() if value})


def reply(status: int, body: Any) -> HttpReply:
    return HttpReply(status, {}, (body if isinstance(body, str) else json.dumps(body)).encode())


@pytest.mark.parametrize("vector", REQUESTS, ids=[v["id"] for v in REQUESTS])
def test_twilio_request_is_what_the_package_would_send(vector: dict[str, Any]) -> None:
    """Method, URL, credentials and every form field are the package's own."""
    made = twilio.build(
        settings(account_sid=vector["account_sid"], auth_token=vector["auth_token"]), vector["arguments"]
    )
    fields = {name.lower(): value for name, value in made.fields}
    expect = vector["expect"]
    assert (made.method, made.url) == (expect["method"], expect["url"])
    assert fields["authorization"] == expect["authorization"]
    assert fields["content-type"] == expect["content_type"]
    assert fields["accept"] == expect["accept"]
    form = parse_qsl(made.body.decode(), keep_blank_values=True, strict_parsing=True)
    assert sorted(form) == sorted((name, value) for name, value in expect["form"])


def test_twilio_message_lives_as_long_as_its_code() -> None:
    made = twilio.request(settings(), MESSAGE, 0.0, "")
    assert dict(parse_qsl(made.body.decode())) == {
        "To": "+14155550100",
        "From": "+15005550006",
        "Body": "246810 is your code",
        "ValidityPeriod": "300",
    }


def test_twilio_messaging_service_sends_without_a_number() -> None:
    made = twilio.request(settings(**{"from": "", "messaging_service_sid": "MG1"}), MESSAGE, 0.0, "")
    form = dict(parse_qsl(made.body.decode()))
    assert form["MessagingServiceSid"] == "MG1"
    assert "From" not in form


def test_twilio_endpoint_is_the_configured_one_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """TWILIO_EDGE and TWILIO_REGION, which the package reads, change nothing; an endpoint's path stays."""
    monkeypatch.setenv("TWILIO_EDGE", "sydney")
    monkeypatch.setenv("TWILIO_REGION", "au1")
    made = twilio.request(settings(endpoint="http://127.0.0.1:1234/twilio/"), MESSAGE, 0.0, "")
    assert made.url == "http://127.0.0.1:1234/twilio/2010-04-01/Accounts/ACtest/Messages.json"
    assert twilio.request(settings(), MESSAGE, 0.0, "").url.startswith("https://api.twilio.com/2010-04-01/")


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (201, {"sid": ""}, Uncertain("no_sid")),
        (201, {"sid": None}, Uncertain("no_sid")),
        (201, {"sid": 5}, Uncertain("no_sid")),
        (201, [], Uncertain("no_sid")),
        (201, "", Uncertain("no_sid")),
        (200, {"sid": "SM1"}, Uncertain("http_200")),
        (302, "", Uncertain("http_302")),
        (400, {"code": 99999}, Uncertain("99999")),
        (400, {"code": "21211"}, Uncertain("http_400")),
        (404, "<html>", Uncertain("http_404")),
        (401, "", Rejected("credentials", "http_401")),
        (403, {"code": 99999}, Rejected("credentials", "99999")),
        (429, "{", Rejected("throttled", "http_429")),
        (400, {"code": 21612}, Rejected("number_unsupported", "21612")),
        (400, {"type": "t", "title": "t", "status": 400, "code": 21614}, Rejected("number_invalid", "21614")),
        # A server's fault: the message may have gone out, whatever the code says.
        (500, {"code": 21211}, Uncertain("21211")),
        (503, {"code": 20503}, Uncertain("20503")),
        (400, {"code": 20500}, Uncertain("20500")),
    ],
)
def test_twilio_says_yes_or_no_only_as_documented(status: int, body: Any, outcome: Outcome) -> None:
    assert twilio.read(reply(status, body), MESSAGE) == outcome


def test_twilio_message_id_is_the_sid() -> None:
    assert twilio.read(reply(201, {"sid": "SM1"}), MESSAGE) == Accepted("SM1")


def test_twilio_settings_need_a_sender() -> None:
    with pytest.raises(ValidationError, match="messaging_service_sid"):
        settings(**{"from": ""})


@pytest.mark.parametrize(
    "wrong",
    [
        {"account_sid": "AC/../x"},
        {"account_sid": "SK1"},
        {"messaging_service_sid": "AC1"},
        {"endpoint": "api.twilio.com"},
        {"endpoint": "https://api.twilio.com/?a=b"},
        {"auth_token": ""},
        {"sender": "+1"},
    ],
)
def test_twilio_settings_refuse_what_cannot_work(wrong: dict[str, str]) -> None:
    settings()
    table = {"kind": "twilio", "account_sid": "ACtest", "auth_token": "t0ken", "from": "+15005550006"}
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        twilio.Settings.model_validate(table | wrong)
