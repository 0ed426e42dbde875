"""The webhook: what is posted, how it is signed, what an answer means."""

import base64
import hashlib
import hmac
import json

import pytest
from pydantic import ValidationError

from sidecar.delivery.providers import webhook
from sidecar.delivery.providers.seam import Message
from sidecar.recipient import parse

MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", "246810", 5, "验证码 246810")
KEY = bytes(range(32))
WHSEC = "whsec_" + base64.b64encode(KEY).decode()


def settings(secret: str) -> webhook.Settings:
    return webhook.Settings.model_validate(
        {"kind": "webhook", "url": "https://example.com/sms?tenant=a%2Fb", "secret": secret}
    )


@pytest.mark.parametrize(("secret", "key"), [(WHSEC, KEY), ("plain Gehëimnis", "plain Gehëimnis".encode())])
def test_webhook_is_signed_as_standard_webhooks_has_it(secret: str, key: bytes) -> None:
    made = webhook.request(settings(secret), MESSAGE, 1_700_000_000.9, "")
    fields = dict(made.fields)
    assert fields["webhook-id"] == "id-1"
    assert fields["webhook-timestamp"] == "1700000000"
    mac = hmac.new(key, b"id-1.1700000000." + made.body, hashlib.sha256).digest()
    assert fields["webhook-signature"] == "v1," + base64.b64encode(mac).decode()


def test_webhook_signature_of_the_specification() -> None:
    """The example of the Standard Webhooks libraries' tests."""
    signature = webhook.sign(
        settings("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").key,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_webhook_posts_the_contracts_fields() -> None:
    made = webhook.request(settings(WHSEC), MESSAGE, 0.0, "")
    assert (made.method, made.url) == ("POST", "https://example.com/sms?tenant=a%2Fb")
    assert dict(made.fields)["Content-Type"] == "application/json"
    assert json.loads(made.body) == {
        "id": "id-1",
        "to": "+8613900000001",
        "channel": "sms",
        "locale": "zh",
        "code": "246810",
        "text": "验证码 246810",
    }


def test_webhook_repeat_has_the_same_id_and_a_signature_of_its_own() -> None:
    """A receiver tells a repeat by its id, and can refuse an old signature."""
    first, second = (dict(webhook.request(settings(WHSEC), MESSAGE, now, "").fields) for now in (1.0, 2.0))
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "whsec_abc"])
def test_webhook_secret_that_cannot_sign_is_refused(secret: str) -> None:
    with pytest.raises(ValidationError, match="secret"):
        settings(secret)


@pytest.mark.parametrize("url", ["example.com/sms", "ftp://example.com", "https://example.com/a b", ""])
def test_webhook_url_must_be_one(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        webhook.Settings.model_validate({"kind": "webhook", "url": url, "secret": "s"})
