"""[[block]] and [[allow]], and nearly all clients at one address: over real sockets."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from telling import CONFIG, MAIN, Sidecar, Start, serve_public

from sidecar.app import running
from sidecar.crowd import WINDOW
from sidecar.lists.blocks import Register
from sidecar.lists.targets import read
from sidecar.metrics import Metrics

TRUSTING = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
GUARD = """
[[routes]]
match = "POST /login"
action = "guard"
limits = ["ip"]
[[routes]]
match = "GET /passed/*"
action = "pass"
[[routes]]
match = "POST /watched"
action = "send"
to = "json:phone"
mode = "observe"
[[routes]]
match = "* /closed"
action = "deny"
"""
ROUTES = MAIN + GUARD
OUTSIDE, INSIDE = "192.0.2.1", "203.0.113.9"
BLOCK = '[[block]]\ncidr = ["203.0.113.0/24", "2001:db8::/32"]\n'


def of(ip: str, **fields: str) -> dict[str, str]:
    return {"X-Forwarded-For": ip, **{name.replace("_", "-"): value for name, value in fields.items()}}


async def send(sidecar: Sidecar, headers: dict[str, str], phone: str = "13900000001", path: str = "/send") -> Any:
    body = {"phone": phone, "captcha": await sidecar.solved()}
    return await sidecar.ask("POST", path, json=body, headers=headers)


async def refused(reply: Any) -> str:
    return f"{reply.status} {reply.code}" if reply.status >= 400 else str(reply.status)


@pytest.mark.parametrize("ip", [INSIDE, "2001:db8:1::1", "::ffff:203.0.113.9", f"{INSIDE}:4711"])
async def test_who_is_blocked_reaches_no_guarded_route_and_no_endpoint_that_costs(start: Start, ip: str) -> None:
    """403 route_denied, however the address is spelled; nothing reaches upstream or a provider."""
    sidecar = await start(ROUTES + BLOCK, config=TRUSTING)
    headers = of(ip)
    asked = [
        ("POST", "/send", {"phone": "13900000001", "captcha": await sidecar.solved()}),
        ("POST", "/send", {"phone": "13900000001"}),
        ("POST", "/register", {"phone": "13800000000", "code": "246810"}),
        ("POST", "/login", {}),
        ("POST", "/.sidecar/v1/verifications", {"to": "+8613900000001"}),
        ("POST", "/.sidecar/v1/verifications/check", {"to": "+8613900000001", "code": "123456"}),
        ("POST", "/.sidecar/v1/verifications/x/check", {"code": "123456"}),
        ("GET", "/.sidecar/v1/verifications/x", None),
        ("GET", "/.sidecar/captcha/altcha/challenge", None),
        ("GET", "/.sidecar/verify", None),
    ]
    with capture_logs() as lines:
        for method, path, body in asked:
            reply = await sidecar.ask(method, path, json=body, headers=headers)
            assert (reply.status, reply.code) == (403, "route_denied"), path
    assert {line["reason"] for line in lines if line["event"] == "request"} == {"block cidr"}
    assert await sidecar.metric('sidecar_refusals_total{code="route_denied"}') == len(asked)
    assert not sidecar.upstream.requests
    assert not sidecar.vendor.asked
    assert (await send(sidecar, of(OUTSIDE))).status == 202


async def test_what_is_not_guarded_flows_on_for_who_is_blocked(start: Start) -> None:
    """Unmatched paths and `pass` routes, keys, the API's description, its client, preflights and vendors' receipts."""
    sidecar = await start(ROUTES + BLOCK, config=TRUSTING + '[api]\ncors_origins = ["https://a.example"]\n')
    for path in ("/", "/passed/on", "/.sidecar/jwks.json", "/.sidecar/openapi.json", "/.sidecar/client.js"):
        assert (await sidecar.ask("GET", path, headers=of(INSIDE))).status == 200, path
    receipt = await sidecar.ask("POST", "/.sidecar/receipts/hook/0123456789abcdef", json={}, headers=of(INSIDE))
    assert receipt.code == "not_found"
    preflight = of(INSIDE, Origin="https://a.example", Access_Control_Request_Method="POST")
    for path in ("/send", "/.sidecar/v1/verifications"):
        assert (await sidecar.ask("OPTIONS", path, headers=preflight)).status == 204, path
    assert (await sidecar.ask("GET", "/closed", headers=of(INSIDE))).code == "route_denied"


async def test_a_blocked_number_is_refused_by_the_number_from_everywhere(start: Start) -> None:
    """403 recipient_not_allowed, after no limit was spent: on routes and by the API, to send and to verify."""
    sidecar = await start(ROUTES + '[[block]]\nprefix = ["+861390", "+8816"]\n', config=TRUSTING, ip_rate="2/1h")
    with capture_logs() as lines:
        for phone in ("13900000001", "+86 139 0000 0002", "13900000003", "+881612345678"):
            reply = await send(sidecar, of(OUTSIDE), phone)
            assert reply.code == "recipient_not_allowed", phone
        body = {"to": "+8613900000001", "captcha": await sidecar.solved()}
        assert (await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)).code == "recipient_not_allowed"
        body = {"to": "13900000001", "code": "123456"}
        assert (
            await sidecar.ask("POST", "/.sidecar/v1/verifications/check", json=body)
        ).code == "recipient_not_allowed"
        assert (await sidecar.register("123456")).code == "recipient_not_allowed"
    assert {line["reason"] for line in lines if line.get("code") == "recipient_not_allowed"} == {"block prefix"}
    assert "13900000001" not in json.dumps(lines)
    assert (await send(sidecar, of(OUTSIDE), "18600000001")).status == 202
    assert (await sidecar.register("123456", phone="18600000001")).code == "code_mismatch"


async def test_a_check_by_id_is_held_against_the_lists_with_the_number_that_it_is_of(start: Start) -> None:
    """Only its record knows the number: a blocked one, or one that a blocked address would have to be let in by."""
    friend = "198.51.100.7"
    allow = f'[[allow]]\ncidr = ["{friend}"]\n[[allow]]\nprefix = ["+8618600000001"]\n'
    sidecar = await start(ROUTES + BLOCK + '[[block]]\nprefix = ["+861390"]\n' + allow, config=TRUSTING)

    async def checked(phone: str, *ips: str) -> list[str]:
        sent = await send(sidecar, of(friend), phone)
        body = {"code": await sidecar.vendor.code(f"+86{phone}")}
        path = f"{sent.headers['Location']}/check"
        return [await refused(await sidecar.ask("POST", path, json=body, headers=of(ip))) for ip in ips]

    with capture_logs() as lines:
        blocked = await checked("13900000001", OUTSIDE, INSIDE, friend)
    assert blocked == ["403 recipient_not_allowed", "403 route_denied", "200"]
    assert {line["to"] for line in lines if line.get("route") is None and "to" in line} == {"+861********01"}
    assert await checked("18600000001", INSIDE) == ["200"]
    assert await checked("18600000002", INSIDE, OUTSIDE) == ["403 route_denied", "200"]


async def test_an_agent_is_blocked_wherever_it_stands_in_the_field(start: Start) -> None:
    sidecar = await start(ROUTES + '[[block]]\nagent = ["curl/", "HeadlessChrome"]\n', config=TRUSTING)
    for agent, status in (
        ("curl/8.5.0", 403),
        ("Mozilla/5.0 (X11) headlesschrome/130", 403),
        ("Mozilla/5.0", 202),
        ("", 202),
    ):
        assert (await send(sidecar, of(OUTSIDE, User_Agent=agent))).status == status, agent


async def test_a_network_is_blocked_by_its_number(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "asn.csv"
    path.write_text("203.0.113.0,203.0.113.255,64500\n2001:db8::/32,AS64500\n192.0.2.0/24,64501\n")
    sidecar = await start(ROUTES + f'[[block]]\nasn = [64500]\nasn_file = "{path}"\n', config=TRUSTING)
    for ip, status in ((INSIDE, 403), ("2001:db8::9", 403), (OUTSIDE, 202), ("10.0.0.1", 202)):
        assert (await send(sidecar, of(ip))).status == status, ip


async def test_an_allow_lets_past_blocks_and_past_nothing_else(start: Start) -> None:
    """By address, and by number once that is known; the limit is the same for all."""
    allow = f'[[allow]]\ncidr = ["{INSIDE}"]\n[[allow]]\nprefix = ["+8618600000001"]\n'
    sidecar = await start(ROUTES + BLOCK + allow, config=TRUSTING, ip_rate="1/1h")
    assert (await send(sidecar, of(INSIDE))).status == 202
    assert (await send(sidecar, of(INSIDE))).code == "rate_limited"
    assert (await send(sidecar, of("203.0.113.1"))).code == "route_denied"
    assert (await send(sidecar, of("203.0.113.1"), "18600000001")).status == 202
    assert (await sidecar.ask("POST", "/login", headers=of("203.0.113.1"))).code == "route_denied"
    assert (await sidecar.ask("GET", "/.sidecar/captcha/altcha/challenge", headers=of("203.0.113.1"))).status == 200


async def test_a_route_that_observes_only_says_what_it_would_have_refused(start: Start) -> None:
    sidecar = await start(ROUTES + BLOCK + '[[block]]\nprefix = ["+861390"]\n', config=TRUSTING)
    with capture_logs() as lines:
        assert (await send(sidecar, of(INSIDE), path="/watched", phone="18600000001")).status == 202
        assert (await send(sidecar, of(OUTSIDE), path="/watched")).status == 202
    observed = [line["observed"] for line in lines if line.get("route") == "POST /watched"]
    assert observed == [
        [{"code": "route_denied", "reason": "block cidr"}],
        [{"code": "recipient_not_allowed", "reason": "block prefix"}],
    ]
    assert await sidecar.metric('sidecar_observed_refusals_total{code="route_denied"}') == 1


async def test_what_is_refused_at_a_glance_asks_no_store(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of the blocked costs the store nothing, whatever it sends along."""
    sidecar = await start(ROUTES + BLOCK, config=TRUSTING)
    body = {"phone": "13900000001", "captcha": await sidecar.solved()}
    monkeypatch.setattr(sidecar.app.gate._buckets, "_store", None)
    for _ in range(3):
        reply = await sidecar.ask("POST", "/send", json=body, headers=of(INSIDE, Idempotency_Key="1"))
        assert reply.code == "route_denied"


async def test_a_form_that_names_a_guarded_method_is_refused_and_one_that_passes_is_not(start: Start) -> None:
    """A request that an override turns into a guarded one is judged as that; any other flows on for who is blocked."""
    mixed = '[[routes]]\nmatch = "PUT /mixed"\naction = "guard"\n[[routes]]\nmatch = "POST /mixed"\naction = "pass"\n'
    sidecar = await start(ROUTES.replace("POST /login", "PUT /login") + mixed + BLOCK, config=TRUSTING)
    form = of(INSIDE, Content_Type="application/x-www-form-urlencoded")
    for path in ("/login", "/mixed"):
        assert (await sidecar.ask("POST", path, data="_method=PUT", headers=form)).code == "route_denied"
        assert (await sidecar.ask("POST", path, data="a=b", headers=form)).status == 200


# Nearly all clients at one address…


@pytest.fixture
async def told() -> AsyncIterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


def shared(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == "clients_share_address"]


async def test_a_proxy_on_this_machine_that_nobody_named_is_told_of(start: Start, told: list[Any]) -> None:
    """nginx before the sidecar: every client is 127.0.0.1. Once, with what to do; the share is a metric."""
    sidecar = await start(ROUTES)
    for number in range(WINDOW - 1):
        await sidecar.ask("POST", "/login", headers=of(f"198.51.100.{number % 250}"))
    assert not shared(told)
    for number in range(WINDOW + 1):
        await sidecar.ask("POST", "/login", headers=of(f"198.51.100.{number % 250}"))
    [line] = shared(told)
    assert (line["log_level"], line["address"], line["share"], line["requests"]) == (
        "warning",
        "127.0.0.1",
        1.0,
        WINDOW,
    )
    assert line["forwarded_for"] is True
    assert "server.trusted_proxies" in line["advice"]
    assert await sidecar.metric("sidecar_busiest_address_share") == 1.0


async def test_clients_behind_a_proxy_that_is_named_are_not_told_of(start: Start, told: list[Any]) -> None:
    sidecar = await start(ROUTES, config=TRUSTING)
    for number in range(WINDOW):
        await sidecar.ask("POST", "/login", headers=of(f"198.51.100.{number % 20}"))
    assert not shared(told)
    assert await sidecar.metric("sidecar_busiest_address_share") < 0.5


async def test_a_second_proxy_that_is_not_named_is_told_of(start: Start, told: list[Any]) -> None:
    """A content network before the load balancer: all clients have its address, and it says whose they are."""
    sidecar = await start(ROUTES, config=TRUSTING)
    for number in range(WINDOW):
        await sidecar.ask("POST", "/login", headers=of(f"198.51.100.{number % 250}, 192.0.2.77"))
    [line] = shared(told)
    assert (line["address"], line["forwarded_for"]) == ("192.0.2.77", True)


async def test_vendors_receipts_are_no_clients(start: Start, told: list[Any]) -> None:
    """All of them come from a few addresses."""
    sidecar = await start(ROUTES, config=TRUSTING)
    for _ in range(WINDOW):
        await sidecar.ask("POST", "/.sidecar/receipts/hook/0123456789abcdef", json={}, headers=of("192.0.2.77"))
    assert await sidecar.metric("sidecar_busiest_address_share") == 0
    for _ in range(WINDOW):
        await sidecar.ask("POST", "/.sidecar/v1/verifications/check", json={}, headers=of("192.0.2.77"))
    assert await sidecar.metric("sidecar_busiest_address_share") == 1
    assert len(shared(told)) == 1


async def test_one_client_that_asks_for_nearly_all_says_nothing_of_a_proxy(start: Start, told: list[Any]) -> None:
    """The warning names both, what to do with a proxy and with a client; plain requests count for nothing."""
    sidecar = await start(ROUTES, config=TRUSTING)
    for number in range(WINDOW):
        await sidecar.ask("GET", "/", headers=of(f"198.51.100.{number % 250}"))
        await sidecar.ask("POST", "/login", headers=of("192.0.2.77"))
    [line] = shared(told)
    assert (line["address"], line["forwarded_for"]) == ("192.0.2.77", False)
    assert "signup-sidecar block add" in line["advice"]


async def test_what_was_blocked_by_hand_is_in_force_as_soon_as_a_sidecar_starts(start: Start, store_url: str) -> None:
    """Before its first request: what stands in the store is read as it starts."""
    first = await start(ROUTES, config=TRUSTING)
    register, target = Register(first.store), read("203.0.113.0/24", lambda _: None, lambda _: ())
    await register.add(target, 60)
    async with running(first.app.config, store_url, Metrics()) as app, AsyncExitStack() as stack:
        port, _ = await serve_public(stack, app)
        for ip, status in ((INSIDE, 403), (OUTSIDE, 200)):
            async with first.session.post(f"http://127.0.0.1:{port}/login", headers=of(ip)) as answer:
                assert answer.status == status
    assert await register.remove(target)
