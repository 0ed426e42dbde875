"""`store.on_failure = "local"`: what this process decides while the store is away, and what it never does."""

from collections import Counter
from pathlib import Path

from captcha_simulators import TurnstileSimulator
from captcha_simulators import running as simulated
from telling import CONFIG, SEND, VERIFY, Sidecar, Start

from sidecar.store.embedded import embedded

ALONE = CONFIG + '[store]\nurl = "embedded"\non_failure = "local"\n'
GUARD = """
[[routes]]
match = "POST /comment"
action = "guard"
limits = ["ip"]
[[routes]]
match = "POST /form"
action = "guard"
captcha = "altcha"
captcha_token = "json:captcha"
"""


async def comments(sidecar: Sidecar, count: int) -> Counter[int]:
    return Counter([(await sidecar.ask("POST", "/comment", json={})).status for _ in range(count)])


async def test_guarded_routes_are_decided_without_the_store(start: Start, tmp_path: Path) -> None:
    """By a limit of its own, a captcha once; messages and proofs are refused; the metric says so; and then it ends."""
    async with embedded(tmp_path / "own") as url:
        sidecar = await start(GUARD + SEND + VERIFY, config=ALONE, url=url, ip_rate="4/1h")
        assert await comments(sidecar, 1) == {200: 1}
        token, other = await sidecar.solved(), await sidecar.solved()
    assert await comments(sidecar, 6) == {200: 4, 429: 2}
    forms = [(await sidecar.ask("POST", "/form", json={"captcha": one})).status for one in (token, token, "bm8=")]
    assert forms == [200, 403, 403]
    assert (await sidecar.ask("POST", "/form", json={})).code == "captcha_required"
    send = {"phone": "13900000001", "captcha": other}
    assert (await sidecar.ask("POST", "/send", json=send)).code == "store_unavailable"
    assert (await sidecar.register("123456")).code == "store_unavailable"
    assert await sidecar.metric("sidecar_decided_alone_total") >= 5
    assert not [message for message in sidecar.upstream.requests if message.target == b"/register"]
    async with embedded(tmp_path / "own"):
        assert (await sidecar.ask("POST", "/send", json=send)).status in {202, 429}


async def test_a_vendor_judges_tokens_without_the_store(start: Start, tmp_path: Path) -> None:
    """Also the first one, for which there is no connection to the vendor yet, and nothing else to wait for."""
    async with simulated(TurnstileSimulator(genuine={"t1"})) as vendor:
        table = f"""
[captcha.mine]
kind = "turnstile"
endpoint = "{vendor}"
secret = "0x-simulated-secret"
"""
        async with embedded(tmp_path / "own") as url:
            sidecar = await start(table + GUARD.replace('"altcha"', '"mine"'), config=ALONE, url=url)
        assert await comments(sidecar, 2) == {200: 2}  # so that it knows that the store is away
        forms = [(await sidecar.ask("POST", "/form", json={"captcha": one})).status for one in ("t1", "t1", "t2")]
    assert forms == [200, 403, 403]


async def test_a_limit_is_shared_by_the_instances_that_were_last_seen(start: Start, tmp_path: Path) -> None:
    """Two of them: each lets half of it through."""
    async with embedded(tmp_path / "own") as url:
        await start(GUARD, config=ALONE, url=url, ip_rate="8/1h")
        sidecar = await start(GUARD, config=ALONE, url=url, ip_rate="8/1h")
        assert (await sidecar.ask("GET", "/plain")).status == 200
    assert await comments(sidecar, 6) == {200: 4, 429: 2}


async def test_without_the_word_nothing_is_decided_alone(start: Start, tmp_path: Path) -> None:
    """`deny`, the default: 503."""
    async with embedded(tmp_path / "own") as url:
        sidecar = await start(GUARD, url=url)
    assert await comments(sidecar, 2) == {503: 2}
    assert await sidecar.metric("sidecar_decided_alone_total") == 0
