"""What a limit counts: the keys of [limits.NAME], over real sockets."""

from typing import Any

import pytest
from telling import CONFIG, VERIFY, Sidecar, Start

TRUSTING = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
ROUTE = """
[limits.tested]
key = "KEY"
rate = "1/1h"
[[routes]]
match = "POST /send"
action = "send"
to = "json:phone"
captcha = "altcha"
captcha_token = "json:captcha"
limits = ["tested"]
[[routes]]
match = "POST /other"
action = "send"
to = "json:phone"
captcha = "altcha"
captcha_token = "json:captcha"
limits = ["tested"]
"""
HERE: dict[str, Any] = {"phone": "13900000001", "ip": "203.0.113.7", "path": "/send", "tenant": "a"}

# key, what is asked second, and whether that meets the same bucket.
CASES = [
    ("ip", {}, True),
    ("ip", {"phone": "18600000002", "path": "/other", "tenant": "b"}, True),
    ("ip", {"ip": "203.0.113.8"}, False),
    ("ip", {"ip": "2001:db8:1:2::1"}, False),
    ("ip_prefix", {"ip": "203.0.113.8"}, True),
    ("ip_prefix", {"ip": "203.0.114.7"}, False),
    ("to", {"phone": "+86 139 0000 0001", "ip": "198.51.100.1"}, True),
    ("to", {"phone": "13900000002"}, False),
    ("to_prefix", {"phone": "13900009999"}, True),
    ("to_prefix", {"phone": "13900010001"}, False),
    ("country", {"phone": "18600000002"}, True),
    ("country", {"phone": "+14155550100"}, False),
    ("route", {"phone": "+14155550100", "ip": "198.51.100.1"}, True),
    ("route", {"path": "/other"}, False),
    ("header:X-Tenant", {"phone": "18600000002", "ip": "198.51.100.1"}, True),
    ("header:X-Tenant", {"tenant": "b"}, False),
    ("global", {"phone": "+14155550100", "ip": "198.51.100.1", "path": "/other", "tenant": "b"}, True),
]


async def ask(sidecar: Sidecar, what: dict[str, Any]) -> int:
    body = {"phone": what["phone"], "captcha": await sidecar.solved()}
    headers = {"X-Forwarded-For": what["ip"], "X-Tenant": what["tenant"]}
    return (await sidecar.ask("POST", what["path"], json=body, headers=headers)).status


@pytest.mark.parametrize(("key", "second", "shared"), CASES)
async def test_what_a_key_counts(start: Start, key: str, second: dict[str, Any], shared: bool) -> None:
    """The same bucket for the same value of the key, another for another."""
    sidecar = await start(ROUTE.replace("KEY", key) + VERIFY, config=TRUSTING)
    assert await ask(sidecar, HERE) == 202
    assert await ask(sidecar, HERE | second) == (429 if shared else 202)


async def test_a_customers_ipv6_network_is_one_client(start: Start) -> None:
    """Counting single IPv6 addresses would count nothing: a home has 2^64 of them."""
    sidecar = await start(ROUTE.replace("KEY", "ip") + VERIFY, config=TRUSTING)
    assert await ask(sidecar, HERE | {"ip": "2001:db8:1:2::1"}) == 202
    assert await ask(sidecar, HERE | {"ip": "2001:db8:1:2:ffff::9"}) == 429
    assert await ask(sidecar, HERE | {"ip": "2001:db8:1:3::1"}) == 202


async def test_a_forged_forwarded_field_gives_nobody_a_second_bucket(start: Start) -> None:
    """Without a trusted proxy the peer is the client, whatever it writes."""
    sidecar = await start(ROUTE.replace("KEY", "ip") + VERIFY)
    assert await ask(sidecar, HERE) == 202
    assert await ask(sidecar, HERE | {"ip": "198.51.100.1"}) == 429


async def test_two_windows_on_one_key_are_decided_together(start: Start) -> None:
    """Any number of windows per key; the one that refuses is named, and the other takes nothing."""
    tables = ROUTE.replace("KEY", "to").replace('limits = ["tested"]', 'limits = ["tested", "daily"]')
    sidecar = await start(tables + '[limits.daily]\nkey = "to"\nrate = "5/1d"\n' + VERIFY, config=TRUSTING)
    body = {"phone": "13900000001"}
    assert (await sidecar.ask("POST", "/send", json=body | {"captcha": await sidecar.solved()})).status == 202
    refused = await sidecar.ask("POST", "/send", json=body | {"captcha": await sidecar.solved()})
    assert refused.headers["RateLimit-Policy"] == '"tested";q=1;w=3600, "daily";q=5;w=86400'
    assert refused.headers["RateLimit"].split(", ")[1].startswith('"daily";r=4;')


async def test_a_second_spelling_of_a_field_is_no_bucket_of_the_clients_choice(start: Start) -> None:
    """Upstream may go by one of several fields; whoever sends several shares one bucket with all who do."""
    sidecar = await start(ROUTE.replace("KEY", "header:X-Tenant") + VERIFY)

    async def send(**headers: str) -> int:
        body = {"phone": "13900000001", "captcha": await sidecar.solved()}
        fields = {name.replace("__", "."): value for name, value in headers.items()}
        return (await sidecar.ask("POST", "/send", json=body, headers=fields)).status

    assert await send(X__Tenant="a") == 202
    assert await send(**{"X-Tenant": "a"}) == 429
    assert await send(**{"X-Tenant": "a", "X__Tenant": "b"}) == 202
    assert await send(**{"X-Tenant": "a", "X_Tenant": "c"}) == 429
