"""The sidecar's own HTTP API: contract section 4, over real sockets."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from telling import CONFIG, E164, MAIN, OTHER, PHONE, Reply, Sidecar, Start

from sidecar.errors import CODES
from sidecar.store.client import Store
from sidecar.store.embedded import embedded

V1 = "/.sidecar/v1/verifications"


async def begin(sidecar: Sidecar, to: str = PHONE, **more: Any) -> Reply:
    return await sidecar.ask("POST", V1, json={"to": to, "captcha": await sidecar.solved()} | more)


async def test_a_verification_from_start_to_token(start: Start) -> None:
    """202, Location, status by status, a token that proves it once."""
    sidecar = await start(to_rate="1/60s")
    sent = await begin(sidecar, locale="zh-CN")
    assert sent.status == 202
    document = sent.json
    assert document["to"].startswith("+86")
    assert "13900000001" not in document["to"]
    assert sent.headers["Location"] == f"{V1}/{document['id']}"
    code = await sidecar.vendor.code()
    assert sidecar.vendor.messages[0]["locale"] == "zh-CN"
    assert code in sidecar.vendor.messages[0]["text"]
    status = await sidecar.ask("GET", sent.headers["Location"], headers={"Prefer": "wait=5"})
    assert status.status == 200
    assert set(status.json) == set(document)
    assert status.json["status"] in {"queued", "sent"}
    assert 50 < status.json["resend_in"] <= 60
    path = f"{V1}/{document['id']}/check"
    assert (await sidecar.ask("POST", path, json={})).code == "code_required"
    mistyped = await sidecar.ask("POST", path, json={"code": "x"})
    assert (mistyped.code, "attempts_left" in mistyped.json) == ("code_mismatch", False)
    for malformed in (True, 1.0, ["1"], {"a": 1}):
        assert (await sidecar.ask("POST", path, json={"code": malformed})).code == "malformed_request"
    wrong = (int(await sidecar.vendor.code(E164)) + 1) % 10**6
    mismatch = await sidecar.ask("POST", path, json={"code": wrong})
    assert (mismatch.code, mismatch.json["attempts_left"]) == ("code_mismatch", 4)
    verified = await sidecar.ask("POST", path, json={"code": code})
    assert (verified.status, verified.json["status"]) == (200, "verified")
    assert (await sidecar.ask("POST", path, json={"code": code})).code == "code_expired"
    assert (await sidecar.ask("GET", sent.headers["Location"])).json["status"] == "verified"
    token = {"X-Verification-Token": verified.json["token"]}
    assert (await sidecar.register(None, headers=token)).status == 200


async def test_the_api_asks_the_same_of_everybody(start: Start) -> None:
    """Captcha and limits of [api], and the recipient's bucket is the routes' too."""
    sidecar = await start(to_rate="1/1h")
    assert (await sidecar.ask("POST", V1, json={"to": PHONE})).code == "captcha_required"
    assert (await sidecar.ask("POST", V1, json={"to": PHONE, "captcha": "x"})).code == "captcha_failed"
    assert (await begin(sidecar, "nobody")).code == "invalid_recipient"
    assert (await sidecar.send()).status == 202
    assert (await begin(sidecar)).code == "rate_limited"
    assert (await begin(sidecar, OTHER)).status == 202


@pytest.mark.parametrize(
    "body",
    [
        '{"to": "13900000001", "to": "13900000002"}',
        '{"to": 13900000001}',
        '{"to": "13900000001", "channel": "pigeon"}',
        '{"to": "13900000001", "admin": true}',
        "[]",
        "",
    ],
)
async def test_a_malformed_start_is_refused(start: Start, body: str) -> None:
    """malformed_request."""
    sidecar = await start()
    reply = await sidecar.ask("POST", V1, data=body, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.code) == (400, "malformed_request")


async def test_prefer_wait_holds_the_answer_until_it_changes(start: Start) -> None:
    """The answer comes when the message was sent, and not before."""
    sidecar = await start()
    sidecar.vendor.open.clear()
    sent = (await begin(sidecar)).json
    waiting = asyncio.create_task(sidecar.ask("GET", f"{V1}/{sent['id']}", headers={"Prefer": "wait=9"}))
    await sidecar.vendor.wait_for(lambda: sidecar.vendor.asked == 1)
    assert not waiting.done()
    sidecar.vendor.open.set()
    reply = await waiting
    assert reply.json["status"] == "sent"
    assert reply.headers["Preference-Applied"] == "wait=9"


async def test_held_answer_does_not_wait_for_a_change_that_has_been(start: Start) -> None:
    """A message that was sent before the client asked is told at once, unless the client says that it has seen it."""
    sidecar = await start()
    sent = (await begin(sidecar)).json
    code = await sidecar.vendor.code()
    path = f"{V1}/{sent['id']}"
    while (await sidecar.ask("GET", path)).json["status"] != "sent":
        pass
    reply = await asyncio.wait_for(sidecar.ask("GET", path, headers={"Prefer": "wait=29"}), 15)
    assert (reply.json["status"], reply.headers["Preference-Applied"]) == ("sent", "wait=29")
    told = {"Prefer": 'status="queued", wait=29'}
    assert (await asyncio.wait_for(sidecar.ask("GET", path, headers=told), 15)).json["status"] == "sent"
    seen = {"Prefer": 'wait=29; why="news", status=sent'}
    waiting = asyncio.create_task(sidecar.ask("GET", path, headers=seen))
    over, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not over, "it is held while the status is the one that was named"
    await sidecar.ask("POST", f"{path}/check", json={"code": code})
    reply = await asyncio.wait_for(waiting, 15)
    assert reply.json["status"] == "verified"
    assert reply.headers["Preference-Applied"] == 'wait=29, status="sent"'
    final = {"Prefer": 'wait=29, status="verified"'}
    assert (await asyncio.wait_for(sidecar.ask("GET", path, headers=final), 15)).json["status"] == "verified"


@pytest.mark.parametrize(
    "prefer", ['wait=29, status="nonsense"', "wait=29 status=sent", "wait=no", "respond-async", ""]
)
async def test_preference_that_names_no_status_or_no_wait_holds_nothing_up(start: Start, prefer: str) -> None:
    sidecar = await start()
    sidecar.vendor.open.clear()
    sent = (await begin(sidecar)).json
    reply = await asyncio.wait_for(sidecar.ask("GET", f"{V1}/{sent['id']}", headers={"Prefer": prefer}), 15)
    assert reply.json["status"] == "queued"
    sidecar.vendor.open.set()


async def test_a_failed_message_is_reported(start: Start) -> None:
    """queued, then failed."""
    sidecar = await start()
    sidecar.vendor.status = 400
    sent = (await begin(sidecar)).json
    reply = await sidecar.ask("GET", f"{V1}/{sent['id']}", headers={"Prefer": "wait=9"})
    assert (reply.json["status"], reply.json["reason"]) == ("failed", "provider")


async def test_openapi_lists_every_status_and_reason(start: Start) -> None:
    """The words of contract section 4."""
    sidecar = await start()
    document = (await sidecar.ask("GET", "/.sidecar/openapi.json")).json
    told = document["components"]["schemas"]["Verification"]["properties"]
    assert told["status"]["enum"] == ["queued", "sent", "unconfirmed", "delivered", "failed", "verified", "expired"]
    number = ["recipient_invalid", "recipient_unsupported", "recipient_blocked", "recipient_limited"]
    assert told["reason"]["enum"] == [*number, "provider", "no_provider"]
    by_id, newest = (document["paths"][f"/v1/verifications/{way}check"]["post"] for way in ("{id}/", ""))
    assert set(newest["responses"]) == set(by_id["responses"])
    assert "recipient_not_allowed" in by_id["responses"]["403"]["description"]
    challenge = document["paths"]["/captcha/{name}/challenge"]["get"]
    for work in (by_id, newest, challenge, document["paths"]["/v1/verifications"]["post"]):
        assert "overloaded" in work["responses"]["503"]["description"]
    code = [document["components"]["schemas"][name]["properties"]["code"] for name in ("Check", "CheckNewest")]
    assert code[0] == code[1]


async def test_one_check_of_forty_gets_the_token(start: Start) -> None:
    """Also here, one holder at a time."""
    sidecar = await start()
    sent = (await begin(sidecar)).json
    code = await sidecar.vendor.code()
    path = f"{V1}/{sent['id']}/check"
    replies = await asyncio.gather(*(sidecar.ask("POST", path, json={"code": code}) for _ in range(40)))
    assert sorted({reply.status for reply in replies} - {200}) in ([410], [409, 410], [409])
    assert [reply.status for reply in replies].count(200) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/.sidecar"),
        ("GET", "/.sidecar/nothing"),
        ("DELETE", V1),
        ("GET", f"{V1}/{'A' * 24}"),
        ("GET", f"{V1}/%2e%2e"),
        ("GET", "/.sidecar/captcha/nobody/challenge"),
        ("GET", "/.sidecar/static/..%2fpages.py"),
        ("GET", "/.sidecar/static/verify.html"),
    ],
)
async def test_what_is_not_listed_is_not_found(start: Start, method: str, path: str) -> None:
    """404, from us: nothing under the prefix reaches upstream."""
    from yarl import URL

    sidecar = await start()
    async with sidecar.session.request(method, URL(sidecar.url + path, encoded=True)) as response:
        assert response.status == 404
        assert (await response.json(content_type=None))["code"] == "not_found"
    assert not sidecar.upstream.requests


async def test_pages_and_documents(start: Start) -> None:
    """The hosted page, the browser client, the widget, the OpenAPI document and the keys, on both listeners."""
    sidecar = await start()
    page = await sidecar.ask("GET", "/.sidecar/verify", headers={"Accept-Language": "zh-CN"})
    assert (page.status, page.headers["Content-Language"]) == (200, "zh")
    assert (await sidecar.ask("GET", "/.sidecar/client.js")).headers["Content-Type"].startswith("text/javascript")
    widget = await sidecar.ask("GET", "/.sidecar/static/altcha.min.js")
    assert len(widget.body) > 50_000
    head = await sidecar.ask("HEAD", "/.sidecar/static/altcha.min.js")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(widget.body)))
    cached = await sidecar.ask(
        "GET", "/.sidecar/static/altcha.min.js", headers={"If-None-Match": widget.headers["ETag"]}
    )
    assert (cached.status, cached.body) == (304, b"")
    document = (await sidecar.ask("GET", "/.sidecar/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    assert set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(CODES)
    keys = (await sidecar.ask("GET", "/.sidecar/jwks.json")).json
    assert keys == (await sidecar.admin("/.sidecar/jwks.json")).json
    assert not any("d" in key for key in keys["keys"])


async def test_an_api_that_sends_nothing_still_checks(start: Start) -> None:
    """`api.send = false`: a route sends, the API checks; there is no page, and the document knows of neither."""
    sidecar = await start(MAIN + "[api]\nsend = false\n")
    refused = await begin(sidecar)
    assert (refused.status, refused.code) == (403, "route_denied")
    assert sidecar.vendor.messages == []
    sent = await sidecar.send()
    code = await sidecar.vendor.code()
    checked = await sidecar.ask("POST", f"{sent.headers['Location']}/check", json={"code": code})
    assert (checked.status, checked.json["status"]) == (200, "verified")
    assert (await sidecar.ask("GET", "/.sidecar/verify")).status == 404
    paths = (await sidecar.ask("GET", "/.sidecar/openapi.json")).json["paths"]
    assert not {"/v1/verifications", "/verify"} & set(paths)
    assert "/v1/verifications/{id}/check" in paths


async def test_api_is_served_in_absolute_form_too(start: Start) -> None:
    """RFC 9112 section 3.2.2: as a client writes it that believes a proxy is here; upstream hears of none of it."""
    sidecar = await start()
    whole = "http://www.example.com"
    sent = await raw(sidecar, "POST", whole + V1, json.dumps({"to": PHONE, "captcha": await sidecar.solved()}))
    assert sent.startswith(b"HTTP/1.1 202 ")
    code = await sidecar.vendor.code()
    checked = await raw(sidecar, "POST", f"{whole}{V1}/check", json.dumps({"to": PHONE, "code": code}))
    assert b'"status":"verified"' in checked
    assert b'"keys"' in await raw(sidecar, "GET", f"{whole}/.sidecar/jwks.json?x=1")
    assert b'"code":"not_found"' in await raw(sidecar, "GET", f"{whole}/.sidecar")
    assert sidecar.upstream.requests == []


async def raw(sidecar: Sidecar, method: str, target: str, content: str = "") -> bytes:
    """Ask with a target as it is written, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    head = f"{method} {target} HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_only_allowed_origins_may_read(start: Start) -> None:
    """`api.cors_origins`."""
    sidecar = await start(MAIN + '[api]\ncors_origins = ["https://app.example"]\n')
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        preflight = await sidecar.ask("OPTIONS", V1, headers={"Origin": origin})
        reply = await sidecar.ask("POST", V1, json={}, headers={"Origin": origin})
        for one in (preflight, reply):
            assert (one.headers.get("Access-Control-Allow-Origin") == origin) is allowed


async def test_health_readiness_and_metrics(start: Start) -> None:
    """healthz is the process, readyz whether plain traffic flows; metrics have the contract's names."""
    sidecar = await start()
    await sidecar.send()
    await sidecar.vendor.code()
    assert (await sidecar.admin("/healthz")).status == 200
    assert (await sidecar.admin("/readyz")).status == 200
    assert await sidecar.metric('sidecar_requests_total{action="send",outcome="queued"}') == 1
    await sidecar.counts('sidecar_attempts_total{outcome="accepted",provider="hook"}', 1)
    text = (await sidecar.admin("/metrics")).body.decode()
    for name in (
        "sidecar_refusals_total",
        "sidecar_attempt_seconds_bucket",
        "sidecar_delivery_duplicates_total",
        "sidecar_outbox_messages",
        "sidecar_verifications_total",
        "sidecar_upstream_seconds_bucket",
        "sidecar_store_seconds_bucket",
    ):
        assert f"\n{name}" in text or f"# TYPE {name}" in text or f"# TYPE {name.removesuffix('_total')}" in text, name
    assert "sidecar_log_lines_dropped_total" in text
    assert "# TYPE sidecar_task_ends_total" in text


async def test_readyz_says_of_store_and_upstream_how_they_are(start: Start, tmp_path: Path) -> None:
    """200 while plain traffic flows, whatever else is away; the body says why, and `needs` makes it a no."""
    async with embedded(tmp_path) as url, AsyncExitStack() as stack:
        admin = Store(url)
        stack.push_async_callback(admin.close)
        sidecar = await start(url=url)

        async def ready(path: str = "/readyz") -> tuple[int, Any]:
            reply = await sidecar.admin(path)
            assert reply.headers["Content-Type"].startswith("application/json")
            return reply.status, reply.json

        well = {
            "status": "ready",
            "store": {"takes_writes": True},
            "upstream": {"reachable": True},
            "workers": {"serving": 1},
            "ended_tasks": {},
        }
        assert await ready() == await ready("/readyz?needs=store,upstream") == (200, well)
        await admin.execute(None, "CONFIG", "SET", "maxmemory", 1)
        full = well | {"store": {"takes_writes": False, "reason": "OOM"}}
        assert await ready() == await ready("/readyz?needs=upstream") == (200, full)
        assert await ready("/readyz?needs=store") == (503, full | {"status": "not_ready"})
        await admin.execute(None, "CONFIG", "SET", "maxmemory", 0)
        await admin.execute(None, "CLIENT", "PAUSE", 600, "ALL")
        status, told = await ready()
        assert (status, told["store"]["reason"]) == (200, "no answer within 0.5 s")
        await sidecar.upstream.__aexit__(None, None, None)
        away = {"reachable": False, "reason": f"refused {sidecar.upstream.url.removeprefix('http://')}"}
        status, told = await ready()
        assert (status, told["upstream"]) == (200, away)
        status, told = await ready("/readyz?needs=store&needs=upstream")
        assert (status, told["status"], told["upstream"]) == (503, "not_ready", away)
        for needs in ("disk", "store,disk", "Store"):
            status, told = await ready(f"/readyz?needs={needs}")
            assert status == 400
            assert needs.rpartition(",")[2] in told["detail"]
        sidecar.app.life.is_draining = True
        status, told = await ready()
        assert (status, told["status"]) == (503, "draining")


async def test_the_admin_listener_answers_whatever_it_is_asked(start: Start) -> None:
    """HEAD is GET without the content; another method, another path and what is no request are refused."""
    sidecar = await start()
    for octets, status in (
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.admin_port)
        writer.write(octets)
        head, _, body = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == b"%d" % status
        assert b"Content-Type: application/json" in head
        assert not body
        writer.write_eof()
        assert bool(await reader.read()) == (not octets.startswith(b"HEAD"))
        writer.close()


async def test_a_clients_garbage_is_refused_on_the_admin_listener_and_no_error_of_ours(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """400, and no line: anybody could write thousands."""
    sidecar = await start()
    capfd.readouterr()
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.admin_port)
    writer.write(f"{PHONE} is no request\r\n\r\n".encode())
    answer = await reader.readuntil(b"}")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert PHONE.encode() not in answer
    assert "".join(capfd.readouterr()) == ""


async def test_a_failure_of_the_admin_listener_is_told_and_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """500, and its kind and place in the log."""
    sidecar = await start()
    monkeypatch.setattr(sidecar.metrics, "text", lambda: 1 / 0)
    assert (await sidecar.admin("/metrics")).status == 500
    assert "ZeroDivisionError" in "".join(capfd.readouterr())


async def test_a_process_is_starting_until_it_has_reached_its_store(start: Start, tmp_path: Path) -> None:
    """503 "starting" at first; never again once it was reached, though it goes away."""
    async with embedded(tmp_path) as url:
        switch = tmp_path / "switch"
        sidecar = await start(url=f"unix://{switch}")
        starting = await sidecar.admin("/readyz")
        assert (starting.status, starting.json["status"]) == (503, "starting")
        assert starting.json["store"]["reason"] == f"no socket {switch}"
        assert (await sidecar.ask("GET", "/plain")).status == 200
        switch.symlink_to(url.removeprefix("unix://"))
        assert (await sidecar.admin("/readyz")).status == 200
        switch.unlink()
        await sidecar.admin_front._store.close()
        again = await sidecar.admin("/readyz")
        assert (again.status, again.json["store"]["reason"]) == (200, f"no socket {switch}")


async def test_every_error_code_has_one_status() -> None:
    """The table of contract section 4."""
    table = [
        "malformed_request",
        "400",
        "code_required",
        "401",
        "invalid_recipient",
        "422",
        "code_mismatch",
        "422",
        "recipient_not_allowed",
        "403",
        "code_expired",
        "410",
        "captcha_required",
        "403",
        "too_many_attempts",
        "429",
        "captcha_failed",
        "403",
        "delivery_failed",
        "502",
        "recipient_unreachable",
        "422",
        "head_too_large",
        "431",
        "captcha_unavailable",
        "503",
        "store_unavailable",
        "503",
        "rate_limited",
        "429",
        "overloaded",
        "503",
        "body_too_large",
        "413",
        "upstream_unavailable",
        "502",
        "upstream_timeout",
        "504",
        "verification_in_use",
        "409",
        "route_denied",
        "403",
    ]
    expected = dict(zip(table[::2], map(int, table[1::2]), strict=True))
    assert {code: status for code, (status, _) in CODES.items() if code != "not_found"} == expected


async def test_the_verifier_away_is_the_configurations_decision(start: Start) -> None:
    """captcha_unavailable 503 with "deny"; with "allow" the request goes on, and proves no person."""
    tables = """
[captcha.remote]
kind = "turnstile"
secret = "s"
endpoint = "http://127.0.0.1:9/"
timeout = "500ms"
on_failure = "ON_FAILURE"
[[routes]]
match = "POST /login"
action = "guard"
captcha = "remote"
captcha_token = "json:captcha"
"""
    denying = await start(tables.replace("ON_FAILURE", "deny"))
    reply = await denying.ask("POST", "/login", json={"captcha": "x"})
    assert (reply.status, reply.code) == (503, "captcha_unavailable")
    allowing = await start(tables.replace("ON_FAILURE", "allow"))
    assert (await allowing.ask("POST", "/login", json={"captcha": "x"})).status == 200
    assert not allowing.upstream.requests[0].values(b"x-verified-identity")


async def test_a_custom_prefix_moves_everything(start: Start) -> None:
    """`api.prefix`."""
    sidecar = await start(MAIN + '[api]\nprefix = "/_signup"\n')
    assert (await sidecar.ask("GET", "/_signup/captcha/altcha/challenge")).status == 200
    assert (await sidecar.ask("GET", "/.sidecar/jwks.json")).body == b"ok", "no longer ours: upstream's"
    assert json.loads((await sidecar.ask("GET", "/_signup/openapi.json")).body)["servers"] == [{"url": "/_signup"}]


async def test_the_codes_length_is_the_configurations(start: Start) -> None:
    """`code.length`, and the origin-bound last line that phones autofill from."""
    sidecar = await start(config=CONFIG.replace("246810", "24681012") + '[code]\nlength = 8\norigin = "example.com"\n')
    await sidecar.send()
    code = await sidecar.vendor.code(E164)
    assert len(code) == 8
    assert sidecar.vendor.messages[0]["text"].splitlines()[-1] == f"@example.com #{code}"
