"""Is every request that reached upstream in the log and in the metrics, whoever has left?"""

import asyncio

import pytest
from fakes import DEADLINE_S, Message, RawClient, Taken
from structlog.testing import capture_logs
from telling import CONFIG, E164, MAIN, PHONE, Sidecar, Start

GUARD = '\n[[routes]]\nmatch = "POST /guarded"\naction = "guard"\n'
PAGE = '\n[[routes]]\nmatch = "POST /register"\naction = "verify"\nto = "form:phone"\ncode = "form:code"\n'
PAGE += 'browser = "page"\n'
HEAD = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n"


def post(path: str, body: str = "{}") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def counted(sidecar: Sidecar, action: str, outcome: str, count: int) -> None:
    """Wait until so many requests of a kind are counted. Raises TimeoutError."""
    await sidecar.counts(f'sidecar_requests_total{{action="{action}",outcome="{outcome}"}}', count)


@pytest.mark.parametrize("action", ["verify", "guard", "pass"])
async def test_who_leaves_with_the_head_of_the_answer_is_logged_and_counted(start: Start, action: str) -> None:
    """Upstream writes head and content apart; the client reads the head and resets. Each of twenty is told."""
    sidecar = await start(MAIN + GUARD, config=CONFIG.replace("[server]", '[server]\naccess_log = "all"'))
    gone = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.reader.readexactly(int(request.value(b"content-length")))
        await taken.write(HEAD)
        await gone.wait()
        await taken.write(b"ok")

    sidecar.upstream.answer = answer
    with capture_logs() as lines:
        for number in range(20):
            gone.clear()
            body = "{}"
            if action == "verify":
                assert (await sidecar.send()).status == 202
                body = f'{{"phone": "{PHONE}", "code": "{await sidecar.vendor.code(E164, number + 1)}"}}'
            async with RawClient(sidecar.port) as client:
                await client.send(post({"verify": "/register", "guard": "/guarded", "pass": "/plain"}[action], body))
                assert (await client.head()).status == 201
                client.writer.transport.abort()
            gone.set()
            await counted(sidecar, action, "forwarded", number + 1)
    told = [line for line in lines if line["event"] == "request" and line["action"] == action]
    assert [(line["outcome"], line["status"]) for line in told] == [("forwarded", 201)] * 20
    assert len(sidecar.upstream.requests) == 20


@pytest.mark.parametrize(("action", "path"), [("guard", "/guarded"), ("pass", "/plain")])
async def test_the_log_says_how_many_milliseconds_a_request_took(start: Start, action: str, path: str) -> None:
    sidecar = await start(MAIN + GUARD, config=CONFIG.replace("[server]", '[server]\naccess_log = "all"'))

    async def answer(taken: Taken, request: Message) -> None:
        await taken.reader.readexactly(int(request.value(b"content-length")))
        await asyncio.sleep(0.05)
        await taken.write(HEAD + b"ok")

    sidecar.upstream.answer = answer
    with capture_logs() as lines:
        assert (await sidecar.ask("POST", path, json={})).status == 201
        await counted(sidecar, action, "forwarded", 1)
    [line] = [line for line in lines if line["event"] == "request" and line["action"] == action]
    assert 50 <= line["ms"] < 10_000


@pytest.mark.parametrize(("action", "path"), [("guard", "/guarded"), ("pass", "/plain")])
async def test_who_leaves_before_upstream_answers_is_told_as_left(start: Start, action: str, path: str) -> None:
    """Upstream has the request, and nobody knows what it made of it."""
    sidecar = await start(MAIN + GUARD)
    asked = asyncio.Event()

    async def answer(taken: Taken, _request: Message) -> None:
        asked.set()
        await taken.reader.read()

    sidecar.upstream.answer = answer
    async with RawClient(sidecar.port) as client:
        await client.send(post(path))
        await asyncio.wait_for(asked.wait(), DEADLINE_S)
        client.writer.transport.abort()
    await counted(sidecar, action, "left", 1)


async def test_who_leaves_a_verify_is_told_what_upstream_made_of_it(start: Start) -> None:
    """The story runs to upstream's answer, and the line says which that was."""
    sidecar = await start()
    assert (await sidecar.send()).status == 202
    code = await sidecar.vendor.code(E164)
    asked, gone = asyncio.Event(), asyncio.Event()

    async def answer(taken: Taken, _request: Message) -> None:
        asked.set()
        await gone.wait()
        await taken.write(HEAD + b"ok")

    sidecar.upstream.answer = answer
    with capture_logs() as lines:
        async with RawClient(sidecar.port) as client:
            await client.send(post("/register", f'{{"phone": "{PHONE}", "code": "{code}"}}'))
            await asyncio.wait_for(asked.wait(), DEADLINE_S)
            client.writer.transport.abort()
        gone.set()
        await counted(sidecar, "verify", "forwarded", 1)
    (line,) = [line for line in lines if line.get("action") == "verify"]
    assert (line["status"], line["outcome"]) == (201, "forwarded")


async def test_one_warning_says_that_every_form_looks_like_another_sites(start: Start) -> None:
    """A load balancer that replaces Host: the browser says same-origin, and names a host that nobody asked us for."""
    sidecar = await start(PAGE)
    own = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin", "Origin": "https://www.example.com"}
    with capture_logs() as lines:
        for site in ("cross-site", "same-origin", "same-origin"):
            await sidecar.ask("POST", "/register", data={"phone": PHONE}, headers={**own, "Sec-Fetch-Site": site})
    (line,) = [line for line in lines if line["event"] == "own_form_refused"]
    assert (line["host"], line["origin"]) == (f"127.0.0.1:{sidecar.port}", "https://www.example.com")


async def test_one_warning_says_that_nobody_is_believed(start: Start) -> None:
    """A load balancer that is not named in trusted_proxies makes one client of all its clients."""
    sidecar = await start()
    with capture_logs() as lines:
        for number in range(3):
            async with RawClient(sidecar.port) as client:
                await client.ask("GET", "/", ["X_Forwarded-For: 6.6.6.6" if number else "X-Forwarded-For: 6.6.6.6"])
    (line,) = [line for line in lines if line["event"] == "forwarded_for_ignored"]
    assert (line["peer"], "server.trusted_proxies" in line["advice"]) == ("127.0.0.1", True)
    trusting = await start(config=CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]'))
    with capture_logs() as lines:
        async with RawClient(trusting.port) as client:
            await client.ask("GET", "/", ["X-Forwarded-For: 6.6.6.6"])
    assert not [line for line in lines if line["event"] == "forwarded_for_ignored"]


async def test_a_flood_of_refusals_does_not_fill_the_log_and_none_is_uncounted(start: Start) -> None:
    """Refusals without a captcha: lines for some, one line for the others once the second is over, a metric for all."""
    sidecar = await start()
    with capture_logs() as lines:
        for _ in range(60):
            assert (await sidecar.ask("POST", "/send", json={"phone": PHONE})).code == "captcha_required"

        def told() -> int:
            return sum(int(line.get("count", 1)) for line in lines if line["event"].startswith("request"))

        async with asyncio.timeout(DEADLINE_S):
            while told() < 60:
                await sidecar.admin("/healthz")
    assert told() == 60
    assert await sidecar.metric('sidecar_requests_total{action="send",outcome="refused"}') == 60
    assert await sidecar.metric('sidecar_refusals_total{code="captcha_required"}') == 60
    for line in lines:
        if line["event"] == "requests_refused":
            assert (line["route"], line["code"], line["clients"]) == ("POST /send", "captcha_required", 1)
