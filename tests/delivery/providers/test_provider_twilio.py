"""Twilio: the package's own requests and signatures, and every recorded reply."""

import base64
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict
from pydantic import ValidationError
from twilio.http import HttpClient  # type: ignore[import-untyped]
from twilio.http.response import Response  # type: ignore[import-untyped]
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]
from twilio.rest import Client  # type: ignore[import-untyped]

from sidecar.delivery.providers import twilio
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, Receipt, Rejected, Uncertain
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import parse

DATA = Path(__file__).parents[2] / "data" / "delivery"
REQUESTS: list[dict[str, Any]] = json.loads((DATA / "twilio_requests.json").read_text(encoding="utf-8"))
MESSAGE = Message("id-1", parse("+14155550100", "sms", "US"), "en", "246810", 5, "246810 is your code")


def settings(**more: Any) -> twilio.Settings:
    table = {"kind": "twilio", "account_sid": "ACtest", "auth_token": "t0ken", "from": "+15005550006"} | more
    return twilio.Settings.model_validate({name: value for name, value in table.items() if value})


def reply(status: int, body: Any) -> HttpReply:
    return HttpReply(status, {}, (body if isinstance(body, str) else json.dumps(body)).encode())


class Catching(HttpClient):  # type: ignore[misc]  # the package has no types
    """Sends nothing."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger(__name__), is_async=False)
        self.caught: list[Any] = []

    def request(self, method: str, uri: str, **rest: Any) -> Any:
        self.caught += (method, uri, rest["data"], rest["headers"], rest["auth"])
        return Response(201, "{}")


def by_the_package(table: twilio.Settings, arguments: dict[str, Any]) -> HttpRequest:
    """What Twilio's package makes of `messages.create(**arguments)`, without the fields that tell of the package."""
    catching = Catching()
    user, password = table.api_key or table.account_sid, table.api_secret or table.auth_token
    Client(user, password, table.account_sid, http_client=catching).messages.create(**arguments)
    method, url, data, fields, (user, password) = catching.caught
    said = {name: fields[name] for name in ("Content-Type", "Accept")}
    said["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    return HttpRequest(method, url, tuple(said.items()), urlencode(data, doseq=True).encode())


# What the package can ask for beside, and a code does not need.
NOT_ASKED = {"ProvideFeedback", "MessageIntent", "RiskCheck", "Attempt", "ContentRetention", "AddressRetention",
             "SmartEncoded", "ShortenUrls"}  # fmt: skip


@pytest.mark.parametrize("vector", [v for v in REQUESTS if "body" in v["arguments"]], ids=lambda vector: vector["id"])
def test_twilio_request_is_what_the_package_would_send(vector: dict[str, Any]) -> None:
    """Method, URL, credentials and every form field are the package's own, as they were recorded."""
    arguments, expect = vector["arguments"], vector["expect"]
    table = settings(
        account_sid=vector["account_sid"],
        auth_token=vector["auth_token"],
        **{"from": arguments.get("from_", ""), "messaging_service_sid": arguments.get("messaging_service_sid", "")},
    )
    message = replace(
        MESSAGE,
        recipient=parse(arguments["to"], "sms", "US"),
        text=arguments["body"],
        minutes=arguments.get("validity_period", 300) // 60,
        callback_url=arguments.get("status_callback"),
    )
    made = twilio.request(table, message, 0.0, "")
    fields = {name.lower(): value for name, value in made.fields}
    assert (made.method, made.url) == (expect["method"], expect["url"])
    assert fields["authorization"] == expect["authorization"]
    assert fields["content-type"] == expect["content_type"]
    assert fields["accept"] == expect["accept"]
    form = parse_qsl(made.body.decode(), keep_blank_values=True, strict_parsing=True)
    wanted = {name: value for name, value in expect["form"] if name not in NOT_ASKED}
    assert sorted(form) == sorted((wanted | {"ValidityPeriod": "300"}).items())


def test_twilio_message_lives_as_long_as_its_code() -> None:
    made = twilio.request(settings(), MESSAGE, 0.0, "")
    assert dict(parse_qsl(made.body.decode())) == {
        "To": "+14155550100",
        "From": "+15005550006",
        "Body": "246810 is your code",
        "ValidityPeriod": "300",
    }


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
SENDERS = st.sampled_from(
    [
        {},
        {"from": "", "messaging_service_sid": "MG1"},
        {"messaging_service_sid": "MG1"},
        {"from": "A & Ö", "api_key": "SK1", "api_secret": "s: é"},
    ]
)


@given(TEXTS, TEXTS, st.integers(0, 2000), SENDERS)
def test_twilio_message_is_octet_for_octet_what_the_package_would_send(
    text: str, callback: str, minutes: int, more: dict[str, str]
) -> None:
    """Whatever its own values: method, URL, the fields that mean something, and the form in the package's order."""
    table = settings(**more)
    message = replace(MESSAGE, text=text, minutes=minutes, callback_url=callback or None)
    arguments: dict[str, Any] = {"to": "+14155550100", "body": text}
    arguments["validity_period"] = min(max(minutes * 60, 1), 36_000)
    arguments |= {"from_": table.from_} if table.from_ else {}
    arguments |= {"messaging_service_sid": table.messaging_service_sid} if table.messaging_service_sid else {}
    arguments |= {"status_callback": callback} if callback else {}
    made, expected = twilio.request(table, message, 0.0, ""), by_the_package(table, arguments)
    assert (made.method, made.url, dict(made.fields), made.body) == (
        expected.method, expected.url, dict(expected.fields), expected.body,
    )  # fmt: skip


def test_twilio_messaging_service_sends_without_a_number() -> None:
    made = twilio.request(settings(**{"from": "", "messaging_service_sid": "MG1"}), MESSAGE, 0.0, "")
    form = dict(parse_qsl(made.body.decode()))
    assert form["MessagingServiceSid"] == "MG1"
    assert "From" not in form


def test_twilio_endpoint_is_the_configured_one_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """TWILIO_EDGE and TWILIO_REGION, which Twilio's package reads, change nothing; an endpoint's path stays."""
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
        (400, {"code": 99999}, Rejected("request", "99999")),
        (400, {"code": "21211"}, Rejected("request", "http_400")),
        (404, "<html>", Rejected("request", "http_404")),
        (400, {"code": True}, Rejected("request", "http_400")),
        (400, {"code": 21657, "sid": "SM1"}, Uncertain("21657")),
        (201, {"code": 21657, "sid": "SM1"}, Uncertain("21657")),
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


def basic(made: HttpRequest) -> str:
    scheme, _, given = dict(made.fields)["Authorization"].partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(given).decode()


CALLBACK = replace(MESSAGE, callback_url="https://guard.example/.sidecar/receipts/twilio?ref=id-1")


def test_twilio_api_key_signs_in_and_the_account_stays_in_the_path() -> None:
    """With auth_token beside it, receipts are asked for; the key outweighs it."""
    key = {"api_key": "SK1", "api_secret": "s3cr3t"}
    for token in ("", "t0ken"):
        made = twilio.request(settings(auth_token=token, **key), CALLBACK, 0.0, "")
        assert basic(made) == "SK1:s3cr3t"
        assert made.url == "https://api.twilio.com/2010-04-01/Accounts/ACtest/Messages.json"
        assert (b"StatusCallback" in made.body) == bool(token)
    assert basic(twilio.request(settings(), MESSAGE, 0.0, "")).startswith("ACtest:")


def test_twilio_receipts_are_asked_for_where_a_shared_key_can_check_them() -> None:
    table = settings(auth_token="", api_key="SK1", api_secret="s", receipt_keys={"k": "shared"})
    assert b"StatusCallback" in twilio.request(table, CALLBACK, 0.0, "").body
    assert not list(table.doubtful())


def test_twilio_receipt_is_believed_by_no_api_key() -> None:
    """Twilio signs with the auth token alone: without it every signature is refused, an empty one's too."""
    table = settings(auth_token="", api_key="SK1", api_secret="s3cr3t")
    url, form = "https://guard.example/r", {"MessageSid": "SM1", "MessageStatus": "sent"}
    for secret in ("s3cr3t", "SK1", ""):
        signature = RequestValidator(secret).compute_signature(url, form)
        fields = FORM | {"x-twilio-signature": signature}
        assert not twilio.receipt_signature_ok(table, url, fields, b"MessageSid=SM1&MessageStatus=sent")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"auth_token": ""}, "auth_token"),
        ({"auth_token": "", "api_key": "SK1"}, "api_secret"),
        ({"api_key": "SK1"}, "api_secret"),
        ({"api_secret": "s"}, "api_secret"),
        ({"api_key": "AC1", "api_secret": "s"}, "api_key"),
        ({"auth_token": "", "api_key": "SK1/../x", "api_secret": "s"}, "api_key"),
    ],
)
def test_twilio_needs_one_whole_way_to_sign_in(given: dict[str, str], wrong: str) -> None:
    with pytest.raises(ValidationError) as raised:
        settings(**given)
    assert [error["loc"] for error in raised.value.errors()] == [(wrong,)]


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


# Receipts…

WEBHOOKS: list[dict[str, Any]] = json.loads((DATA / "twilio_webhook.json").read_text(encoding="utf-8"))
FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
URL = "https://guard.example/dlr/twilio"
NAMES_KEY = "x-twilio-webhooks-signature-settings"


def fields_of(webhook: dict[str, Any]) -> dict[str, str]:
    named = {name.lower(): value for name, value in webhook["headers"].items()}
    return {"content-type": webhook["content_type"]} | named


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=lambda webhook: webhook["id"])
def test_twilio_signature_is_judged_as_the_package_does(webhook: dict[str, Any]) -> None:
    """Recorded verdicts of the package's own validator."""
    fields = fields_of(webhook)
    key_id = fields.get(NAMES_KEY, "").partition(",")[0].removeprefix("key=")
    if key_id:
        table = settings().model_copy(update={"receipt_keys": {key_id: webhook["secret"]}})
    else:
        table = settings(auth_token=webhook["secret"])
    assert twilio.receipt_signature_ok(table, webhook["url"], fields, webhook["body"].encode()) is webhook["valid"]


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)


@given(
    st.lists(st.tuples(NAMES, st.text(st.characters(codec="utf-8"), max_size=4)), min_size=1, max_size=6),
    st.sampled_from(["https://a.example", "https://a.example:443", "http://a.example:80", "https://a.example:8443"]),
    st.sampled_from(["/x", "/tw%69lio/%E9%AA%8C?x=~*+%20", "/x?k=a%2Bb&empty=", ""]),
    st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]),
    st.booleans(),
)
def test_twilio_signature_agrees_with_the_package(
    pairs: list[tuple[str, str]], host: str, path: str, algorithm: str, spoilt: bool
) -> None:
    """Whatever the form, the address and the hash: what the package signs is taken, and nothing else."""
    validator = RequestValidator("t0ken")
    params = MultiDict(pairs)
    signature = validator.compute_signature(host + path, params, algorithm)
    body = urlencode(pairs).encode() + (b"&Injected=1" if spoilt else b"")
    fields = FORM | {"x-twilio-signature": signature}
    ours = twilio.signature_ok(host + path, fields, body, "t0ken", algorithm)
    theirs = validator.validate(host + path, MultiDict(parse_qsl(body.decode(), True)), signature, algorithm)
    assert ours is theirs is not spoilt


def signed(body: bytes, key: str, algorithm: str = "HMAC_SHA1") -> dict[str, str]:
    signature = RequestValidator(key).compute_signature(URL, MultiDict(parse_qsl(body.decode(), True)), algorithm)
    return FORM | {"x-twilio-signature": signature}


@pytest.mark.parametrize(
    ("said", "key", "algorithm"),
    [
        ("key=other,algorithm=HMAC_SHA256", "t0ken", "HMAC_SHA256"),  # a key that is not ours, signed with the token
        ("key=,algorithm=HMAC_SHA1", "t0ken", "HMAC_SHA1"),
        ("", "t0ken", "HMAC_SHA1"),
        ("algorithm=HMAC_SHA1", "t0ken", "HMAC_SHA1"),
        ("key=ours,algorithm=none", "shared", "HMAC_SHA1"),
        ("key=ours,algorithm=", "shared", "HMAC_SHA1"),
        ("key=other", "", "HMAC_SHA1"),  # an empty key signs for nobody
    ],
)
def test_twilio_sender_cannot_choose_an_easier_check(said: str, key: str, algorithm: str) -> None:
    table = settings().model_copy(update={"receipt_keys": {"ours": "shared"}})
    body = b"MessageSid=SM1&MessageStatus=delivered"
    fields = signed(body, key, algorithm) | {NAMES_KEY: said}
    assert not twilio.receipt_signature_ok(table, URL, fields, body)


@pytest.mark.parametrize(
    "fields",
    [
        FORM,
        FORM | {"x-twilio-signature": ""},
        FORM | {"x-twilio-signature": "é"},
        FORM | {"x-twilio-signature": "\udcff"},
        {"content-type": "application/json"},
        {},
    ],
)
def test_twilio_receipt_that_nobody_signed_is_refused(fields: dict[str, str]) -> None:
    assert not twilio.receipt_signature_ok(settings(), URL, fields, b"MessageSid=SM1&MessageStatus=delivered")


@pytest.mark.parametrize("url", ["https://guard.example/\udcff", "https://guard.example:x/", "https://[/"])
def test_twilio_address_that_is_none_is_refused(url: str) -> None:
    """Whoever asks may write anything after the question mark."""
    assert not twilio.receipt_signature_ok(settings(), url, FORM | {"x-twilio-signature": "x"}, b"MessageSid=SM1")


@pytest.mark.parametrize("body", [b"MessageSid=%ff", b"\xff", b"a=\xe9"])
def test_twilio_form_that_is_no_utf_8_is_refused(body: bytes) -> None:
    assert not twilio.receipt_signature_ok(settings(), URL, FORM | {"x-twilio-signature": "x"}, body)


@pytest.mark.parametrize("body", [b"MessageSid=SM1&Body=100%", b"MessageSid=SM1&%zz=1"])
def test_twilio_form_with_a_percent_sign_that_escapes_nothing_is_refused(body: bytes) -> None:
    """Whoever signed it: Twilio writes none, and many would take long to read."""
    assert not twilio.receipt_signature_ok(settings(), URL, signed(body, "t0ken"), body)


def test_twilio_form_of_more_fields_than_any_receipt_has_is_refused() -> None:
    """Whoever signed it: to sort thousands would take long."""
    most = b"&".join(b"a%d=" % number for number in range(200))
    assert twilio.receipt_signature_ok(settings(), URL, signed(most, "t0ken"), most)
    more = most + b"&b="
    assert not twilio.receipt_signature_ok(settings(), URL, signed(more, "t0ken"), more)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("queued", "enroute"),
        ("sent", "enroute"),
        ("delivered", "delivered"),
        ("read", "delivered"),
        ("undelivered", "undeliverable"),
        ("failed", "rejected"),
        ("canceled", "rejected"),
        ("partially_delivered", "unknown"),
        ("something_new", "unknown"),
    ],
)
def test_twilio_receipt_state(status: str, state: str) -> None:
    body = f"MessageSid=SM1&MessageStatus={status}&To=whatsapp%3A%2B14155550100&New=1".encode()
    assert twilio.receipts(FORM, body) == (Receipt("SM1", None, state, status, None),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("undelivered", "30003", "undeliverable"),
        ("undelivered", "30007", "rejected"),
        ("failed", "30006", "undeliverable"),
        ("failed", "99999", "rejected"),
        ("undelivered", "99999", "undeliverable"),
        ("delivered", "30007", "delivered"),  # it arrived, whatever was said on the way
    ],
)
def test_twilio_receipt_of_a_failure_says_why(status: str, code: str, state: str) -> None:
    [receipt] = twilio.receipts(FORM, f"MessageSid=SM1&MessageStatus={status}&ErrorCode={code}".encode())
    assert (receipt.state, receipt.vendor_code) == (state, code)


def test_twilio_receipt_is_a_form() -> None:
    with pytest.raises(ValueError, match="form"):
        twilio.receipts({"content-type": "application/json"}, b"MessageSid=SM1&MessageStatus=sent")


def test_twilio_is_told_where_to_report() -> None:
    """Only where there is an address to report to."""
    callback = "https://guard.example/.sidecar/receipts/twilio"
    made = twilio.request(settings(), replace(MESSAGE, callback_url=callback), 0.0, "")
    assert dict(parse_qsl(made.body.decode()))["StatusCallback"] == callback
    assert b"StatusCallback" not in twilio.request(settings(), MESSAGE, 0.0, "").body
