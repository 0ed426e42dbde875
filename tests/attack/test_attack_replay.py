"""The attacker who shows again what worked once: captcha tokens, codes, tokens, JWTs, keys. Over real sockets.

Receipts that come again are in tests/story/test_story_delivery.py.
"""

import json

import jwt
from attackers import code_of
from telling import CONFIG, E164, OTHER, PHONE, Start

V1 = "/.sidecar/v1/verifications"
IDENTITY = b"x-verified-identity"
STRANGER = CONFIG.replace("story-secret-story-secret-story-secret", "another-secret-another-secret-another!")


async def test_what_was_spent_on_one_instance_is_spent_on_the_other(start: Start) -> None:
    """A captcha token, a code, and a token of the API."""
    one, two = await start(), await start()
    token = await one.solved()
    sent = await one.ask("POST", "/send", json={"phone": PHONE, "captcha": token})
    assert sent.status == 202
    for phone in (PHONE, OTHER):
        assert (await two.ask("POST", "/send", json={"phone": phone, "captcha": token})).code == "captcha_failed"
    code = await code_of([one, two], E164)
    assert (await one.register(code)).status == 200
    assert (await two.register(code)).code == "code_expired"
    assert (await two.ask("POST", f"{V1}/{sent.json['id']}/check", json={"code": code})).code == "code_expired"

    again = await one.send(OTHER)
    code = await code_of([one, two], "+8613900000002")
    checked = await one.ask("POST", f"{V1}/{again.json['id']}/check", json={"code": code})
    shown = {"X-Verification-Token": checked.json["token"]}
    assert (await two.register(None, OTHER, headers=shown)).status == 200
    assert (await one.register(None, OTHER, headers=shown)).code == "code_expired"
    assert (await one.register(code, OTHER)).code == "code_expired"


async def test_a_captured_identity_is_worth_nothing_to_a_client(start: Start) -> None:
    """A JWT that upstream once got is taken away when a client shows it, and is no token of ours."""
    sidecar = await start()
    assert (await sidecar.send()).status == 202
    assert (await sidecar.register(await sidecar.vendor.code())).status == 200
    captured = sidecar.upstream.requests[0].value(IDENTITY).decode()
    for headers in ({"X-Verified-Identity": captured}, {"x_verified_identity": captured}):
        assert (await sidecar.ask("GET", "/home", headers=headers)).status == 200
        assert captured.encode() not in sidecar.upstream.requests[-1].raw
        assert (await sidecar.register(None, headers=headers)).code == "code_required"
    assert (await sidecar.register(None, headers={"X-Verification-Token": captured})).status in {401, 410, 422}
    assert len(sidecar.upstream.requests) == 3


async def test_an_identity_is_of_one_request(start: Start) -> None:
    """No two have the same `jti`, and each names its method, path and content, for an upstream that checks them."""
    sidecar = await start()
    said = []
    for phone, e164 in ((PHONE, E164), (OTHER, "+8613900000002")):
        assert (await sidecar.send(phone)).status == 202
        assert (await sidecar.register(await sidecar.vendor.code(e164), phone)).status == 200
        token = sidecar.upstream.requests[-1].value(IDENTITY).decode()
        said.append(jwt.decode(token, options={"verify_signature": False}))
    first, second = said
    for claim in ("jti", "sub", "body_sha256", "verification_id"):
        assert first[claim] != second[claim]
    assert all(claims["exp"] - claims["iat"] == 60 for claims in said)


async def test_an_idempotency_key_of_somebody_else_shows_nothing_of_theirs(start: Start) -> None:
    """The same key for another number is another message, and its answer has nothing of the first."""
    sidecar = await start()
    key = {"Idempotency-Key": "guessable"}
    mine = await sidecar.send(headers=key)
    other = await sidecar.send(OTHER, headers=key)
    assert mine.status == other.status == 202
    assert mine.json["id"] != other.json["id"]
    assert "0001" not in json.dumps(other.json["to"])
    assert await sidecar.vendor.code("+8613900000002")


async def test_a_token_of_another_secret_is_nobodys(start: Start, store_url: str) -> None:
    """A captcha token and a verification token made under another secret are wrong ones, not ours."""
    sidecar = await start()
    stranger = await start(config=STRANGER, url=f"{store_url}?db=1")
    token = await stranger.solved()
    assert (await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": token})).code == "captcha_failed"
    sent = await stranger.send()
    code = await stranger.vendor.code()
    checked = await stranger.ask("POST", f"{V1}/{sent.json['id']}/check", json={"code": code})
    shown = {"X-Verification-Token": checked.json["token"]}
    assert (await sidecar.register(None, headers=shown)).status in {401, 410, 422}
    assert not sidecar.upstream.requests
