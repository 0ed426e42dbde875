"""`verify`, `guard`, `deny`, `pass`: contract section 3, sentence by sentence, over real sockets."""

import asyncio
import hashlib
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import jwt
import pytest
from fakes import DEADLINE_S, OK, Message, RawClient, Taken, read_content
from telling import CONFIG, E164, MAIN, OTHER, PHONE, SEND, TEST_NUMBER, VERIFY, Reply, Sidecar, Start

from sidecar.store.client import Store
from sidecar.store.embedded import embedded

IDENTITY = b"x-verified-identity"


async def claims(sidecar: Sidecar, request: Message) -> dict[str, Any]:
    """The JWT that upstream got, checked against the published keys as upstream would."""
    token = request.value(IDENTITY).decode()
    keys = jwt.PyJWKSet.from_dict((await sidecar.ask("GET", "/.sidecar/jwks.json")).json)
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(token, key, algorithms=["ES256"], audience="upstream", issuer="signup-sidecar")


async def fresh_code(sidecar: Sidecar, phone: str = PHONE, e164: str = E164) -> str:
    assert (await sidecar.send(phone)).status == 202
    return await sidecar.vendor.code(e164)


def wrong(code: str) -> str:
    return code[:-1] + str((int(code[-1]) + 1) % 10)


async def test_a_right_code_reaches_upstream_with_a_jwt_for_this_very_request(start: Start) -> None:
    """Upstream gets the client's own request, and a signed field that says whose number was verified."""
    sidecar = await start()
    code = await fresh_code(sidecar)
    reply = await sidecar.register(code)
    assert (reply.status, reply.body) == (200, b"ok")
    (request,) = sidecar.upstream.requests
    assert json.loads(request.content) == {"phone": PHONE, "code": code}
    said = await claims(sidecar, request)
    assert said["sub"] == said["phone_number"] == E164
    assert said["phone_number_verified"] is True
    assert said["amr"] == ["sms"]
    assert (said["htm"], said["htu"]) == ("POST", "/register")
    assert said["body_sha256"] == hashlib.sha256(request.content).hexdigest()
    assert said["verification_id"]


async def test_without_a_proof_nothing_reaches_upstream(start: Start) -> None:
    """No proof 401, wrong proof 422, never asked for one 410."""
    sidecar = await start()
    for nothing in (None, "", "  "):
        reply = await sidecar.register(nothing)
        assert (reply.status, reply.code) == (401, "code_required")
    assert (await sidecar.register("123456")).code == "code_expired"
    code = await fresh_code(sidecar)
    reply = await sidecar.register(wrong(code))
    assert (reply.status, reply.code, reply.json["attempts_left"]) == (422, "code_mismatch", 4)
    assert not sidecar.upstream.requests


async def test_a_code_is_read_as_people_type_it(start: Start) -> None:
    """Whatever stands between its digits, and as a number; what cannot be a code costs no try."""
    config = CONFIG.replace("246810", "012345")
    sidecar = await start(MAIN, config=config)

    async def tried(code: Any) -> Reply:
        assert (await sidecar.send(TEST_NUMBER)).status == 202
        return await sidecar.ask("POST", "/register", json={"phone": TEST_NUMBER, "code": code})

    for mistyped in ("12345", "0123456", "O12345", "x" * 60_000, 1234567, 123_456_789_012, "1\0", "\ud83d\ude00"):
        reply = await tried(mistyped)
        assert (reply.status, reply.code) == (422, "code_mismatch")
        assert "attempts_left" not in reply.json
    assert (await tried("000000")).json["attempts_left"] == 4
    for malformed in (True, 12345.0, 1e5, ["012345"], {"a": 1}, 2**60):
        assert (await tried(malformed)).code == "malformed_request"
    for blank in ("\u200b", " - ", None, ""):
        assert (await tried(blank)).code == "code_required"
    assert not sidecar.upstream.requests
    for right in (12345, "012-345", "\u0660\u0661\u0662 \uff13\uff14\uff15\u200f\n"):
        assert (await tried(right)).status == 200


async def test_wrong_tries_kill_the_code(start: Start) -> None:
    """422 with attempts_left 4 to 0, then 429, for the right code as well."""
    sidecar = await start()
    code = await fresh_code(sidecar)
    for left in (4, 3, 2, 1, 0):
        assert (await sidecar.register(wrong(code))).json["attempts_left"] == left
    for attempt in (wrong(code), code):
        reply = await sidecar.register(attempt)
        assert (reply.status, reply.code) == (429, "too_many_attempts")
    assert not sidecar.upstream.requests


async def test_a_spent_code_is_expired(start: Start) -> None:
    """Upstream answered 2xx: the code is spent."""
    sidecar = await start()
    code = await fresh_code(sidecar)
    assert (await sidecar.register(code)).status == 200
    reply = await sidecar.register(code)
    assert (reply.status, reply.code) == (410, "code_expired")
    assert len(sidecar.upstream.requests) == 1


@pytest.mark.parametrize(("status", "spent"), [(200, True), (302, True), (409, False), (500, False)])
async def test_upstreams_answer_spends_or_releases(start: Start, status: int, spent: bool) -> None:
    """2xx and 3xx spend; 4xx and 5xx release, so that a taken user name costs no second message."""
    sidecar = await start()
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode()
    assert (await sidecar.register(code)).status == status
    sidecar.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    again = await sidecar.register(code)
    assert again.status == (410 if spent else 200)


async def test_the_code_is_spent_before_the_client_hears(start: Start) -> None:
    """Whoever sees the status line finds the code spent, though the rest of the answer is still to come."""
    go_on = asyncio.Event()

    async def slowly(taken: Taken, _: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await go_on.wait()
        await taken.write(b"k")

    sidecar = await start()
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = slowly
    async with sidecar.session.post(sidecar.url + "/register", json={"phone": PHONE, "code": code}) as response:
        assert response.status == 200
        assert (await sidecar.register(code)).code == "code_expired"
        go_on.set()
        assert await response.read() == b"ok"


async def test_forty_right_answers_at_once_give_one_request_upstream(start: Start) -> None:
    """One request at a time may hold the code: verification_in_use for the others, code_expired after."""
    sidecar = await start()
    code = await fresh_code(sidecar)
    replies = await asyncio.gather(*(sidecar.register(code) for _ in range(40)))
    assert len(sidecar.upstream.requests) == 1
    found = Counter(reply.status for reply in replies)
    assert found[200] == 1
    assert set(found) <= {200, 409, 410}


async def test_a_held_code_is_in_use(start: Start) -> None:
    """verification_in_use while upstream still thinks."""

    async def never(taken: Taken, _: Message) -> None:
        await taken.reader.read()

    sidecar = await start()
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = never
    first = asyncio.create_task(sidecar.register(code))
    await sidecar.upstream.wait_for(lambda: len(sidecar.upstream.requests) == 1)
    reply = await sidecar.register(code)
    assert (reply.status, reply.code) == (409, "verification_in_use")
    assert len(sidecar.upstream.requests) == 1
    assert (await first).status == 504


@pytest.mark.parametrize(("answered", "again"), [("200 OK", 410), ("399 Custom", 410), ("400 Bad Request", 200)])
async def test_upstreams_answer_decides_when_the_client_has_left(start: Start, answered: str, again: int) -> None:
    """Who leaves before the answer has no second account for one code: 2xx and 3xx spend it, 4xx releases it."""
    has_left, has_answered = asyncio.Event(), asyncio.Event()

    async def late(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await has_left.wait()
        await taken.write(f"HTTP/1.1 {answered}\r\nContent-Length: 0\r\n\r\n".encode())
        has_answered.set()

    sidecar = await start()
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = late
    leaving = asyncio.create_task(sidecar.register(code))
    await sidecar.upstream.wait_for(lambda: len(sidecar.upstream.requests) == 1)
    leaving.cancel()
    async with asyncio.timeout(DEADLINE_S):
        while not sidecar.listening.is_idle:
            await asyncio.sleep(0)
        assert (await sidecar.register(code)).code == "verification_in_use"
        has_left.set()
        await has_answered.wait()
        sidecar.upstream.answer = OK
        while (reply := await sidecar.register(code)).status == 409:
            pass
    assert reply.status == again
    assert len(sidecar.upstream.requests) == (1 if again == 410 else 2)


async def test_a_websocket_that_upstream_accepts_spends_the_code(start: Start) -> None:
    """101 is a yes: the next handshake with the same code reaches nobody."""

    async def switch(taken: Taken, _: Message) -> None:
        await taken.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")

    route = VERIFY.replace("POST /register", "GET /ws").replace("json:", "query:")
    sidecar = await start(SEND + route)
    target = f"/ws?phone={PHONE}&code={await fresh_code(sidecar)}"
    sidecar.upstream.answer = switch
    for status in (101, 410):
        async with RawClient(sidecar.port) as client:
            answer = await client.ask(target=target, fields=("Connection: Upgrade", "Upgrade: websocket"))
            assert answer.status == status
    assert len(sidecar.upstream.requests) == 1


async def test_upstream_away_releases_the_code(start: Start) -> None:
    """upstream_unavailable 502, upstream_timeout 504: neither costs the code."""
    sidecar = await start()
    code = await fresh_code(sidecar)

    async def reset(taken: Taken, _: Message) -> None:
        taken.reset()

    async def silent(taken: Taken, _: Message) -> None:
        await taken.reader.read()

    sidecar.upstream.answer = reset
    reply = await sidecar.register(code)
    assert (reply.status, reply.code) == (502, "upstream_unavailable")
    sidecar.upstream.answer = silent
    reply = await sidecar.register(code)
    assert (reply.status, reply.code) == (504, "upstream_timeout")
    sidecar.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert (await sidecar.register(code)).status == 200


async def test_another_numbers_code_is_no_proof(start: Start) -> None:
    """A code proves the number that it was sent to, in every spelling of it."""
    sidecar = await start()
    mine = await fresh_code(sidecar)
    await fresh_code(sidecar, OTHER, "+8613900000002")
    assert (await sidecar.register(mine, OTHER)).code == "code_mismatch"
    assert (await sidecar.register(mine, "+86 139-0000-0001")).status == 200
    assert (await claims(sidecar, sidecar.upstream.requests[0]))["sub"] == E164


@pytest.mark.parametrize(
    "name",
    ["X-Verified-Identity", "x-verified-identity", "X_Verified_Identity", "X-VERIFIED_identity", "x.verified-identity"],
)
async def test_a_client_made_identity_never_reaches_upstream(start: Start, name: str) -> None:
    """In no spelling that a backend could read as ours, on any route, repeated, or named in Connection."""
    sidecar = await start(MAIN + '[[routes]]\nmatch = "POST /login"\naction = "guard"\nlimits = ["ip"]\n')
    forged = [(name, "forged"), (name, "twice"), ("Connection", f"close, {name}")]
    for method, path in (("GET", "/anything"), ("POST", "/login")):
        reply = await sidecar.ask(method, path, headers=forged, json={} if method == "POST" else None)
        assert reply.status == 200
        request = sidecar.upstream.requests[-1]
        assert b"forged" not in request.raw
        assert b"twice" not in request.raw
    code = await fresh_code(sidecar)
    body = {"phone": PHONE, "code": code}
    assert (await sidecar.ask("POST", "/register", headers=forged, json=body)).status == 200
    request = sidecar.upstream.requests[-1]
    assert b"forged" not in request.raw
    assert (await claims(sidecar, request))["sub"] == E164, "Connection does not take ours away either"


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("POST", "/register/", {}),
        ("POST", "//register", {}),
        ("POST", "/x/../register", {}),
        ("POST", "/%72egister", {}),
        ("POST", "/REGISTER", {}),
        ("POST", "/register;x=1", {}),
        ("POST", "/./register", {}),
        ("POST", "/register%2f", {}),
        ("POST", "/register?x=1", {}),
        ("PUT", "/register", {"X-HTTP-Method-Override": "POST"}),
        ("GET", "/register?_method=POST", {}),
    ],
)
async def test_no_spelling_of_a_guarded_path_passes(
    start: Start, method: str, target: str, headers: dict[str, str]
) -> None:
    """Every spelling is guarded or refused, never passed."""
    from yarl import URL

    sidecar = await start()
    url = URL(sidecar.url + target, encoded=True)
    async with sidecar.session.request(method, url, json={"phone": PHONE}, headers=headers) as response:
        assert response.status in {400, 401, 403}
    assert not sidecar.upstream.requests


async def test_a_form_that_overrides_its_method_is_guarded(start: Start) -> None:
    """`_method` in a POST body turns it into the guarded route; without it, the form passes."""
    route = '[[routes]]\nmatch = "PUT /profile"\naction = "deny"\n'
    sidecar = await start(route)
    assert (await sidecar.ask("POST", "/profile", data={"_method": "PUT", "a": "b"})).code == "route_denied"
    assert not sidecar.upstream.requests
    assert (await sidecar.ask("POST", "/profile", data={"a": "b"})).status == 200
    assert sidecar.upstream.requests[0].content == b"a=b"


async def test_deny_is_403(start: Start) -> None:
    """route_denied."""
    sidecar = await start('[[routes]]\nmatch = "* /admin/*"\naction = "deny"\n')
    for path in ("/admin", "/admin/users", "/%61dmin/users"):
        reply = await sidecar.ask("GET", path)
        assert (reply.status, reply.code) == (403, "route_denied")
    assert (await sidecar.ask("GET", "/administration")).status == 200


async def test_the_first_match_wins_and_what_matches_nothing_passes(start: Start) -> None:
    """`pass` before `deny` opens a hole on purpose."""
    routes = '[[routes]]\nmatch = "GET /a/open"\naction = "pass"\n[[routes]]\nmatch = "* /a/*"\naction = "deny"\n'
    sidecar = await start(routes)
    assert (await sidecar.ask("GET", "/a/open")).status == 200
    assert (await sidecar.ask("GET", "/a/closed")).status == 403
    assert (await sidecar.ask("GET", "/elsewhere")).status == 200


GUARD = """
[[routes]]
match = "POST /login"
action = "guard"
captcha = "altcha"
captcha_token = "json:captcha"
limits = ["ip"]
"""


async def test_guard_forwards_with_a_jwt_that_says_captcha_only(start: Start) -> None:
    """Captcha and limits, then upstream."""
    sidecar = await start(GUARD, ip_rate="2/1h")
    assert (await sidecar.ask("POST", "/login", json={"user": "x"})).code == "captcha_required"
    assert (await sidecar.ask("POST", "/login", json={"captcha": "wrong"})).code == "captcha_failed"
    assert not sidecar.upstream.requests
    body = {"user": "x", "captcha": await sidecar.solved()}
    assert (await sidecar.ask("POST", "/login", json=body)).status == 200
    said = await claims(sidecar, sidecar.upstream.requests[0])
    assert said["amr"] == ["captcha"]
    assert not {"sub", "phone_number", "email"} & set(said)
    assert json.loads(sidecar.upstream.requests[0].content) == body
    assert (await sidecar.ask("POST", "/login", json={"captcha": await sidecar.solved()})).status == 200
    assert (await sidecar.ask("POST", "/login", json={"captcha": await sidecar.solved()})).code == "rate_limited"


async def test_guard_without_a_captcha_claims_nothing(start: Start) -> None:
    """What was not proven is not signed."""
    sidecar = await start('[[routes]]\nmatch = "POST /login"\naction = "guard"\nlimits = ["ip"]\n')
    assert (await sidecar.ask("POST", "/login", json={})).status == 200
    assert not sidecar.upstream.requests[0].values(IDENTITY)


async def test_observed_routes_forward_without_identity(start: Start) -> None:
    """guard and verify forward; verify without proof goes without the identity field."""
    tables = (MAIN + GUARD).replace('action = "verify"', 'action = "verify"\nmode = "observe"')
    sidecar = await start(tables.replace('action = "guard"', 'action = "guard"\nmode = "observe"'))
    assert (await sidecar.register(None)).status == 200
    assert (await sidecar.register("000000")).status == 200
    assert (await sidecar.ask("POST", "/login", json={})).status == 200
    assert (await sidecar.ask("POST", "/login", json={"captcha": "wrong"})).status == 200
    assert not any(request.values(IDENTITY) for request in sidecar.upstream.requests)
    code = await fresh_code(sidecar)
    assert (await sidecar.register(code)).status == 200
    assert (await claims(sidecar, sidecar.upstream.requests[-1]))["sub"] == E164
    assert await sidecar.metric('sidecar_observed_refusals_total{code="code_required"}') == 1
    assert await sidecar.metric('sidecar_observed_refusals_total{code="captcha_required"}') == 1


async def test_an_observed_route_forwards_while_the_store_is_away(start: Start) -> None:
    """Not even a limit that nobody can look up stands in the way of a route that only observes."""
    guard = GUARD.replace('action = "guard"', 'action = "guard"\nmode = "observe"')
    sidecar = await start(guard, url="unix:///nowhere/at/all.sock")
    assert (await sidecar.ask("POST", "/login", json={"captcha": "x"})).status == 200
    assert len(sidecar.upstream.requests) == 1
    assert await sidecar.metric('sidecar_observed_refusals_total{code="store_unavailable"}') == 2


async def test_a_drain_waits_for_what_a_client_began_and_left(start: Start) -> None:
    """The store still hears what upstream said, though the client has gone and the process is about to."""
    has_left = asyncio.Event()

    async def late(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await has_left.wait()
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    sidecar = await start()
    code = await fresh_code(sidecar)
    sidecar.upstream.answer = late
    leaving = asyncio.create_task(sidecar.register(code))
    await sidecar.upstream.wait_for(lambda: len(sidecar.upstream.requests) == 1)
    leaving.cancel()
    async with asyncio.timeout(DEADLINE_S):
        while not sidecar.listening.is_idle:
            await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.2, has_left.set)
    await sidecar.app.front.drain(DEADLINE_S)
    assert await sidecar.metric('sidecar_verifications_total{outcome="verified"}') == 1


async def test_a_limit_on_a_verify_route_counts_every_try(start: Start) -> None:
    """Beside `attempts` and `failures`, a route may limit who tries."""
    sidecar = await start(SEND + '[[routes]]\nmatch = "POST /register"\naction = "verify"\nto = "json:phone"\n'
                          'code = "json:code"\nlimits = ["tries"]\n'
                          '[limits.tries]\nkey = "ip"\nrate = "2/1h"\n')  # fmt: skip
    code = await fresh_code(sidecar)
    for _ in range(2):
        assert (await sidecar.register(wrong(code))).code == "code_mismatch"
    assert (await sidecar.register(code)).code == "rate_limited"


async def test_an_email_is_verified_as_one(start: Start) -> None:
    """`channel = "email"`: OpenID's names for it."""
    tables = MAIN.replace('action = "send"', 'action = "send"\nchannel = "email"')
    sidecar = await start(tables.replace('action = "verify"', 'action = "verify"\nchannel = "email"'))
    assert (await sidecar.send("someone@Mail.Example")).status == 202
    code = await sidecar.vendor.code("someone@mail.example")
    assert (await sidecar.register(code, "someone@mail.example")).status == 200
    said = await claims(sidecar, sidecar.upstream.requests[0])
    assert (said["sub"], said["email"], said["email_verified"]) == (
        "someone@mail.example",
        "someone@mail.example",
        True,
    )
    assert said["amr"] == ["email"]


async def test_the_browser_without_a_proof_gets_the_page_and_its_request_goes_on(start: Start) -> None:
    """`browser = "page"`: 403, no-store; with the token that the page gets, the same form passes."""
    tables = (
        SEND
        + '[[routes]]\nmatch = "POST /register"\naction = "verify"\n'
        + 'to = "form:phone"\ncode = "form:code"\nbrowser = "page"\n'
    )
    sidecar = await start(tables)
    form = {"phone": PHONE, "name": "<script>alert(1)</script>"}
    page = await sidecar.ask("POST", "/register", data=form, headers={"Accept": "text/html,*/*"})
    assert page.status == 403
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Content-Type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert b"<script>alert(1)" not in page.body
    assert (await sidecar.ask("POST", "/register", data=form)).code == "code_required", "no browser, no page"
    token = await exchanged(sidecar)
    cookie = {"Cookie": f"a=b; sidecar-verification={token}", "Accept": "text/html"}
    assert (await sidecar.ask("POST", "/register", data=form, headers=cookie)).status == 200
    assert (await claims(sidecar, sidecar.upstream.requests[0]))["sub"] == E164
    again = await sidecar.ask("POST", "/register", data=form, headers=cookie)
    assert (again.status, again.headers["Content-Type"]) == (403, "text/html; charset=utf-8"), "spent: asked again"
    assert len(sidecar.upstream.requests) == 1


async def test_a_code_that_was_typed_comes_before_an_old_cookie(start: Start) -> None:
    """The hosted page's cookie of a minute ago, spent, does not stand in the way of a right code."""
    sidecar = await start()
    cookie = {"Cookie": f"sidecar-verification={await exchanged(sidecar)}"}
    assert (await sidecar.register(None, headers=cookie)).status == 200
    code = await fresh_code(sidecar, OTHER, "+8613900000002")
    assert (await sidecar.register(code, OTHER, headers=cookie)).status == 200


async def exchanged(sidecar: Sidecar, phone: str = PHONE, e164: str = E164) -> str:
    """A token of the API for a right code."""
    body = {"to": phone, "captcha": await sidecar.solved()}
    sent = await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)
    assert sent.status == 202
    code = await sidecar.vendor.code(e164)
    reply = await sidecar.ask("POST", f"/.sidecar/v1/verifications/{sent.json['id']}/check", json={"code": code})
    assert (reply.status, reply.json["status"]) == (200, "verified")
    return str(reply.json["token"])


async def test_a_token_proves_once_in_its_field(start: Start) -> None:
    """X-Verification-Token instead of a code; for this recipient, once."""
    sidecar = await start()
    token = {"X-Verification-Token": await exchanged(sidecar)}
    assert (await sidecar.register(None, OTHER, headers=token)).code == "code_expired"
    assert (await sidecar.register(None, headers=token)).status == 200
    assert (await sidecar.register(None, headers=token)).code == "code_expired"
    assert (await sidecar.register(None, headers={"X-Verification-Token": "A" * 24 + ".x"})).code == "code_expired"
    assert len(sidecar.upstream.requests) == 1


async def test_unguarded_traffic_flows_and_guarded_is_refused_while_the_store_is_away(start: Start) -> None:
    """store_unavailable 503 for send, verify and guard; everything else streams through."""
    sidecar = await start(MAIN + GUARD, url="unix:///nowhere/at/all.sock")
    assert (await sidecar.ask("GET", "/page")).status == 200
    for path, body in (
        ("/send", {"phone": PHONE, "captcha": "x"}),
        ("/register", {"phone": PHONE, "code": "123456"}),
        ("/login", {"captcha": "x"}),
    ):
        reply = await sidecar.ask("POST", path, json=body)
        assert (reply.status, reply.code) == (503, "store_unavailable")
        assert reply.headers["Retry-After"] == "1"
    assert len(sidecar.upstream.requests) == 1
    assert (await sidecar.admin("/healthz")).status == 200


async def test_forwarded_fields_are_set(start: Start) -> None:
    """X-Forwarded-For, -Proto, -Host, Via; X-Request-Id kept or made; traceparent passes."""
    sidecar = await start(config=CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]'))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Request-Id": "mine", "traceparent": trace}
    await sidecar.ask("GET", "/", headers=headers)
    await sidecar.ask("GET", "/")
    first, second = sidecar.upstream.requests
    assert first.value(b"x-forwarded-for") == b"203.0.113.7, 127.0.0.1"
    assert first.value(b"x-forwarded-proto") == b"http"
    assert first.value(b"x-forwarded-host") == f"127.0.0.1:{sidecar.port}".encode()
    assert b"signup-sidecar" in first.value(b"via")
    assert first.value(b"x-request-id") == b"mine"
    assert first.value(b"traceparent") == trace.encode()
    assert len(second.value(b"x-request-id")) == 32


async def test_a_plain_request_that_is_refused_is_counted_once(start: Start) -> None:
    """The connection that relayed it leaves the telling to the gate, which refuses it."""
    sidecar = await start(config=CONFIG.replace("{upstream}", "http://127.0.0.1:9"))
    assert (await sidecar.ask("GET", "/page")).code == "upstream_unavailable"
    metrics = (await sidecar.admin("/metrics")).body.decode().splitlines()
    counted = [line for line in metrics if line.startswith("sidecar_requests_total{") and not line.endswith(" 0.0")]
    assert counted == ['sidecar_requests_total{action="pass",outcome="refused"} 1.0']


async def test_a_refusal_ends_the_connection_only_where_content_was_not_read(start: Start) -> None:
    """Whoever has sent all of a refused request goes on; whoever still sends is told to stop."""
    sidecar = await start()
    head = "POST /register HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    async with RawClient(sidecar.port) as client:
        for _ in range(2):
            await client.send(head.format(2).encode(), b"{}")
            answer = await client.answer()
            assert (answer.status, answer.values(b"connection")) == (400, [])
        await client.send(head.format(1 << 20).encode())
        answer = await client.answer()
        assert (answer.status, answer.values(b"connection")) == (413, [b"close"])


async def test_a_client_is_named_by_its_proxy_whatever_connection_says(start: Start) -> None:
    """Connection: X-Forwarded-For takes the field from upstream, and no client out of its own bucket."""
    trusting = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
    sidecar = await start(config=trusting, ip_rate="1/1h")
    for address, status in (("203.0.113.1", 202), ("203.0.113.2", 202), ("203.0.113.1", 429)):
        headers = {"Connection": "keep-alive, X-Forwarded-For", "X-Forwarded-For": address}
        assert (await sidecar.send(headers=headers)).status == status


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Original-URL": "/register", "X-HTTP-Method-Override": "POST"},
        {"X-Rewrite-URL": "/register", "X-Method-Override": "POST"},
    ],
)
async def test_a_get_that_names_another_request_is_no_plain_one(start: Start, headers: dict[str, str]) -> None:
    """Its target alone passes, and was just seen to; with the field beside it upstream may take it for the other."""
    sidecar = await start()
    assert (await sidecar.ask("GET", "/page")).status == 200
    assert (await sidecar.ask("GET", "/page", headers=headers)).status in {400, 403, 422}
    assert (await sidecar.ask("GET", "/page")).status == 200
    assert len(sidecar.upstream.requests) == 2


async def test_a_browser_that_posts_json_gets_the_page_too(start: Start) -> None:
    """As the contract's own example has it; the page sends the JSON again itself."""
    sidecar = await start(MAIN.replace('action = "verify"', 'action = "verify"\nbrowser = "page"'))
    page = await sidecar.register(None, headers={"Accept": "text/html"})
    assert (page.status, page.headers["Cache-Control"]) == (403, "no-store")
    assert page.headers["Content-Type"].startswith("text/html")
    assert b'{\\"phone\\": \\"13900000001\\"}' in page.body or b"13900000001" in page.body
    assert (await sidecar.register(None)).code == "code_required"
    assert not sidecar.upstream.requests


async def test_a_store_away_just_then_hears_later_that_the_code_is_spent(start: Start, tmp_path: Path) -> None:
    """Upstream said yes while the store was frozen: the client hears it, and the code is no use to anybody after."""
    async with embedded(tmp_path / "own") as url:
        sidecar = await start(url=url)
        code = await fresh_code(sidecar)
        own = Store(url)
        info = await own.execute(None, "INFO", "server")
        await own.close()
        pid = int(info.split(b"process_id:")[1].split(b"\r")[0])

        async def freeze(taken: Taken, request: Message) -> None:
            await read_content(taken.reader, request)
            os.kill(pid, signal.SIGSTOP)
            await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        sidecar.upstream.answer = freeze
        try:
            assert (await sidecar.register(code)).status == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(30):
            while (reply := await sidecar.register(code)).status in {409, 503}:
                pass
        assert reply.code == "code_expired"
        assert len(sidecar.upstream.requests) == 1
