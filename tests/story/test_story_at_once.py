"""What is refused at a glance, and what must not be: the answer is the one that a whole look would come to."""

import asyncio
from contextlib import suppress
from itertools import count

import pytest
from fakes import DEADLINE_S, OK
from telling import CONFIG, MAIN, PHONE, SEND, Start

from sidecar.line import Line
from sidecar.proxy import answers
from sidecar.visit import Visit

PAGE = """
[[routes]]
match = "POST /page"
action = "verify"
to = "form:phone"
code = "form:code"
browser = "page"
limits = ["ip"]
"""
GUARD = """
[[routes]]
match = "POST /guard"
action = "guard"
limits = ["ip"]
"""
EMPTY = """
[[routes]]
match = "POST /empty"
action = "send"
to = "json:phone"
captcha = "altcha"
captcha_token = "json:captcha"
reply = { status = 204 }
errors = { captcha_required = { status = 204 } }
"""
BROWSER = {"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"}


async def test_a_repeat_has_its_answer_though_its_asker_may_ask_for_no_more(start: Start) -> None:
    """What a repeat costs has been paid; that others of this asker were refused since is no reason."""
    sidecar = await start(ip_rate="1/1h")
    key = {"Idempotency-Key": "one"}
    first = await sidecar.send(headers=key)
    assert first.status == 202
    assert (await sidecar.send()).code == "rate_limited"
    again = await sidecar.send(headers=key)
    assert (again.status, again.body) == (202, first.body)
    assert (await sidecar.send(headers={"Idempotency-Key": "two"})).code == "rate_limited"


async def test_a_person_whose_site_guessed_too_much_sees_the_page_that_verifies(start: Start) -> None:
    """Who shows no code at all has guessed nothing, and is asked for one."""
    sidecar = await start(SEND + PAGE, config=CONFIG + '[code]\nfailures_per_ip = "1/1h"\n')
    assert (await sidecar.send()).status == 202
    guess = f"phone={PHONE}&code=000000"
    json = BROWSER | {"Accept": "application/json"}
    assert (await sidecar.ask("POST", "/page", data=guess, headers=json)).code == "code_mismatch"
    assert (await sidecar.ask("POST", "/page", data=guess, headers=json)).code == "too_many_attempts"
    page = await sidecar.ask("POST", "/page", data=f"phone={PHONE}", headers=BROWSER)
    assert (page.status, PHONE.encode() in page.body, b"Confirmed" in page.body) == (403, True, True), page.body


async def test_a_page_keeps_the_form_of_who_has_to_wait(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every refusal by a full bucket has the form in it, to be sent again: also one for which no store is asked."""
    sidecar = await start(PAGE, ip_rate="1/1h")
    for already in range(4):
        if already == 3:
            monkeypatch.setattr(sidecar.app.gate._buckets, "spend", None)
        page = await sidecar.ask("POST", "/page", data=f"phone={PHONE}&code=123456&name=Ada", headers=BROWSER)
    assert (page.status, b"Ada" in page.body) == (429, True), page.body


@pytest.mark.parametrize("body", ['{"phone": 1}', '{"phone": "13900000001", "captcha": "TOKEN"}'])
async def test_an_answer_without_content_has_none(start: Start, body: str) -> None:
    """RFC 9110 section 15.3.5: octets behind a 204 would be the beginning of the next answer."""
    sidecar = await start(EMPTY)
    octets = body.replace("TOKEN", await sidecar.solved()).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    head = b"POST /empty HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(octets)
    writer.write(head + b"Connection: close\r\n\r\n" + octets)
    async with asyncio.timeout(DEADLINE_S):
        head, end, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert (head.split(b"\r\n")[0], end, content) == (b"HTTP/1.1 204 No Content", b"\r\n\r\n", b"")


@pytest.mark.parametrize("path", ["/guard", "/register", "/.sidecar/captcha/altcha/challenge"])
async def test_who_leaves_between_two_turns_is_told_of_once(start: Start, path: str) -> None:
    """Between the turn in which a decision is begun and its next step; or a reload would wait for it for ever.

    What may change something runs to its end all the same: here it is a wrong code, which stays counted.
    """
    sidecar = await start(MAIN + GUARD)
    front, loop = sidecar.app.front, asyncio.get_running_loop()
    serve = front._serve

    def left_at_once(visit: Visit, content: bytes) -> None:
        serve(visit, content)
        assert visit.connection.transport is not None
        loop.call_soon(visit.connection.transport.abort)
        visit.connection.connection_lost(None)

    front._serve = left_at_once  # type: ignore[method-assign]
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    method = "GET" if "challenge" in path else "POST"
    body = f'{{"phone": "{PHONE}", "code": "123456"}}' if method == "POST" else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\n\r\n{body}".encode())
    async with asyncio.timeout(DEADLINE_S):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        while front._running:
            await asyncio.sleep(0)
    writer.close()
    assert front.in_flight == 0
    assert not sidecar.upstream.requests
    action, outcome = {"/guard": ("guard", "left"), "/register": ("verify", "refused")}.get(path, ("api", "left"))
    assert await sidecar.metric(f'sidecar_requests_total{{action="{action}",outcome="{outcome}"}}') == 1


async def test_who_leaves_a_held_answer_is_told_of_once(start: Start) -> None:
    """A script that closes its page while it waits for a message's status."""
    sidecar = await start()
    sidecar.vendor.open.clear()
    path = f"/.sidecar/v1/verifications/{(await sidecar.send()).json['id']}"
    await sidecar.vendor.wait_for(lambda: sidecar.vendor.asked == 1)
    _, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nPrefer: wait=20\r\n\r\n".encode())
    async with asyncio.timeout(DEADLINE_S):
        while not sidecar.app.front._running:
            await asyncio.sleep(0)
        writer.close()
        while sidecar.app.front.in_flight:
            await asyncio.sleep(0)
    sidecar.vendor.open.set()
    assert await sidecar.metric('sidecar_requests_total{action="api",outcome="left"}') == 1


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 OK\r\n\r\n"])
async def test_plain_traffic_is_under_way_until_it_has_ended(start: Start, answer: bytes) -> None:
    """Answered, or failed: what waits in line has its whole turns again then, and a drain waits for nobody."""
    sidecar = await start()
    sidecar.upstream.answer = answer
    front = sidecar.app.front
    for _ in range(3):
        assert (await sidecar.ask("GET", "/plain")).status == (200 if answer == OK else 502)
    async with asyncio.timeout(DEADLINE_S):
        while front.in_flight:
            await asyncio.sleep(0)
    assert (front._line.plain, front._shedding.plain) == (0, 0)


async def test_what_cannot_be_rendered_is_answered_and_told_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of ours in an answer costs that answer: nobody waits for ever, and the line goes on."""
    sidecar = await start()
    sidecar.upstream.answer = OK
    real, calls = sidecar.app.front._faces.refusal, count()

    def broken(*of: object) -> object:
        if next(calls) < 2:
            raise ValueError("a mistake")
        return real(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(sidecar.app.front._faces, "refusal", broken)
    async with asyncio.timeout(DEADLINE_S):
        assert (await sidecar.ask("POST", "/send", json={"phone": PHONE})).status == 500, "in the line"
        assert (await sidecar.register("123456")).status == 500, "in its task"
        assert (await sidecar.ask("POST", "/send", json={"phone": PHONE})).code == "captcha_required"
        assert sidecar.app.front.in_flight == 0
    assert await sidecar.metric('sidecar_requests_total{action="send",outcome="failed"}') == 1
    assert await sidecar.metric('sidecar_requests_total{action="verify",outcome="failed"}') == 1


async def test_many_shed_requests_of_one_connection_leave_others_their_turn(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused in a slice of each turn of the loop, here so short that one is refused in it."""
    sidecar = await start(MAIN)
    sidecar.app.front._shedding = Line(slice_s=0.0, more_s=0.0)
    sidecar.app.front._line = Line(behind_s=0.0, few=0)
    sidecar.app.front._line._first.new.append(lambda: None)  # nobody has a turn: one always waits
    turns, most = 0, 900
    per_turn: dict[int, int] = {}
    real = answers.own

    def own(*of: object, **more: object) -> bytes:
        per_turn[turns] = per_turn.get(turns, 0) + 1
        return real(*of, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "own", own)
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(b"POST /send HTTP/1.1\r\nHost: a\r\n\r\n" * most)
    is_over = False

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not is_over:
            asyncio.get_running_loop().call_soon(turn)

    turn()
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(most):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            assert b'"overloaded"' in await reader.readexactly(length)
    is_over = True
    writer.close()
    assert sum(per_turn.values()) == most
    assert max(per_turn.values()) <= 2
