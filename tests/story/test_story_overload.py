"""More than can be done: what comes then is refused at once, what was let in is served, and plain traffic passes."""

import asyncio
import functools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes import DEADLINE_S, OK, Message, Taken
from telling import CONFIG, MAIN, PHONE, Start

from sidecar import front
from sidecar.line import Line
from sidecar.proxy import answers

GUARD = """
[[routes]]
match = "POST /guarded"
action = "guard"
limits = ["ip"]
"""
SHUT = '[[routes]]\nmatch = "POST /shut"\naction = "deny"\n'
CHALLENGE = "/.sidecar/captcha/altcha/challenge"
COSTLY = ("/send", "/register", "/guarded", "/.sidecar/v1/verifications")


@asynccontextmanager
async def behind(line: Line) -> AsyncIterator[None]:
    """Something always waits, and none may wait in this line."""
    over, ended = asyncio.Event(), [asyncio.Event(), asyncio.Event()]

    def work(n: int) -> None:
        if over.is_set():
            ended[n].set()
        else:
            line.put(functools.partial(work, n))

    for n in range(2):
        work(n)
    try:
        yield
    finally:
        over.set()
        for one in ended:
            await one.wait()


@pytest.mark.parametrize("path", COSTLY)
async def test_what_comes_while_too_much_waits_is_refused_at_once(start: Start, path: str) -> None:
    """`overloaded`, with when to come again, counted as every refusal; the store is not asked, nothing is spent."""
    sidecar = await start(MAIN + GUARD, to_rate="1/1h")
    sidecar.upstream.answer = OK
    line = sidecar.app.front._line = Line(behind_s=0.0, few=0)
    body = {"phone": PHONE, "code": "123456", "captcha": "x"}
    async with behind(line):
        for _ in range(3):
            reply = await sidecar.ask("POST", path, json=body)
            assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "overloaded", "2")
        assert (await sidecar.ask("GET", CHALLENGE)).code == "overloaded", "it is work for us, too"
        assert (await sidecar.ask("GET", "/plain")).body == b"ok"
        assert (await sidecar.ask("POST", "/plain", json=body)).body == b"ok"
        assert (await sidecar.ask("GET", "/.sidecar/jwks.json")).status == 200, "what costs little waits its turn"
    assert await sidecar.metric('sidecar_refusals_total{code="overloaded"}') == 4
    assert (await sidecar.send()).status == 202, "then it is as if nobody had asked"


class Full(Line):
    """As many wait as may, and a few more would be too many for most."""

    def is_behind(self, *, was_refused: bool = False, most: float = 1.0) -> bool:
        return most <= 1.0


async def test_who_has_a_code_in_hand_is_refused_last(start: Start) -> None:
    """The message is paid for, and its reader at the door."""
    sidecar = await start(MAIN + GUARD)
    sidecar.upstream.answer = OK
    await sidecar.send()
    code = await sidecar.vendor.code()
    sidecar.app.front._line = Full()
    body = {"phone": PHONE, "code": code, "captcha": "x"}
    for path in ("/send", "/guarded", "/.sidecar/v1/verifications"):
        assert (await sidecar.ask("POST", path, json=body)).code == "overloaded"
    assert (await sidecar.register(code)).status == 200


async def test_only_decisions_that_cost_something_count_as_under_way(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither who waits for a status, nor what upstream takes its time over: thousands of them shut nobody out."""
    monkeypatch.setattr(front, "_MOST_UNDER_WAY", 1)
    answered = asyncio.Event()

    async def slow(taken: Taken, _: Message) -> None:
        await answered.wait()
        await taken.write(OK)

    sidecar = await start(MAIN + GUARD)
    sidecar.upstream.answer = slow
    sidecar.vendor.open.clear()
    path = f"/.sidecar/v1/verifications/{(await sidecar.send()).json['id']}"
    waiting = asyncio.create_task(sidecar.ask("GET", path, headers={"Prefer": "wait=20"}))
    guarded = asyncio.create_task(sidecar.ask("POST", "/guarded"))
    await sidecar.upstream.wait_for(lambda: len(sidecar.upstream.requests) == 1)
    async with asyncio.timeout(DEADLINE_S):
        while len(sidecar.app.front._running) < 2:
            await asyncio.sleep(0)
    assert (await sidecar.send()).status == 202

    body = {"phone": PHONE, "captcha": await sidecar.solved()}
    sidecar.app.front._under_way += 1
    assert (await sidecar.ask("POST", "/send", json=body)).code == "overloaded"
    assert (await sidecar.ask("GET", CHALLENGE)).code == "overloaded"
    sidecar.app.front._under_way -= 1

    answered.set()
    sidecar.vendor.open.set()
    assert (await guarded).status == 200
    assert (await waiting).status == 200
    assert sidecar.app.front._under_way == 0


class Watched(Line):
    """Remembers of each turn that was waited for whether it was behind those who were not refused."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: list[bool] = []
        for was_refused, lane in enumerate((self._first, self._second)):
            lane.begun = Noting(self.lanes, bool(was_refused))
            lane.new = Noting(self.lanes, bool(was_refused))


class Noting(deque[Any]):
    """Those who wait in one lane of a line; each that comes is noted in `lanes`."""

    def __init__(self, lanes: list[bool], was_refused: bool) -> None:
        super().__init__()
        self.lanes = lanes
        self.was_refused = was_refused

    def append(self, one: Any) -> None:
        self.lanes.append(self.was_refused)
        super().append(one)


async def test_a_challenge_is_made_in_a_turn_of_its_own_and_one_after_another_waits_behind(start: Start) -> None:
    """A turn to begin in and one to make it in, so that a flood gets a slice of the loop, and people go before it."""
    sidecar = await start()
    line = sidecar.app.front._line = Watched()
    token = await sidecar.solved()
    assert line.lanes == [False, False]
    await sidecar.solved()
    assert line.lanes[2:] == [True, True], "whoever asks again has solved none on this connection"
    body = {"phone": PHONE, "captcha": token}
    assert (await sidecar.ask("POST", "/send", json=body)).status == 202
    assert not any(line.lanes[4:]), "whoever has solved one is no bot"
    asked = len(line.lanes)
    await sidecar.solved()
    assert line.lanes[asked:] == [False, False]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"POST /send HTTP/1.1\r\nHost: a\r\n\r\n{}", 403),
        (b"POST /send HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", 403),
        (b"POST /shut HTTP/1.1\r\nHost: a\r\n\r\n", 403),
        (b"POST /send HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n", 413),
        (b"POST /send HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ],
)
async def test_what_is_refused_at_a_glance_waits_behind_people_on_a_new_connection_too(
    start: Start, asked: bytes, status: int
) -> None:
    """So a flood that opens a connection for each request has no more of a turn than one that keeps it."""
    sidecar = await start(MAIN + SHUT)
    line = sidecar.app.front._line = Watched()
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        head, end, content = asked.partition(b"\r\n\r\n")
        length = b"\r\nContent-Length: %d" % len(content) if content and b"Length" not in head else b""
        writer.write(head + length + end + content)
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).split()[1] == b"%d" % status
        writer.close()
    assert line.lanes == [False, True] * 3, "a turn to be looked at, and one behind people to be refused in"


async def test_what_waits_to_be_refused_keeps_none_of_its_content(start: Start) -> None:
    """It is no use to anybody, and not counted among what connections hold: it may wait behind thousands."""
    kept: list[int] = []

    class Looked(Line):
        def put(self, work: Callable[[], None], *, was_refused: bool = False) -> None:
            if was_refused and isinstance(work, functools.partial):
                kept.append(sum(len(word) for word in work.args if isinstance(word, bytes)))
            super().put(work, was_refused=was_refused)

    sidecar = await start(MAIN)
    sidecar.app.front._line = Looked()
    assert (await sidecar.ask("POST", "/send", json={"phone": "nobody", "more": "x" * 10_000})).status < 500
    assert kept == [0]


async def silent(taken: Taken, _: Message) -> None:
    taken.reset()


async def test_what_is_not_its_askers_fault_waits_with_everybody(start: Start) -> None:
    """A plain request that upstream does not answer, and a token that nobody has judged yet."""
    sidecar = await start(MAIN)
    sidecar.upstream.answer = silent
    line = sidecar.app.front._line = Watched()
    assert (await sidecar.ask("GET", "/plain")).status == 502
    assert line.lanes == [False]
    assert (await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": "wrong"})).status == 403
    assert not any(line.lanes)


@asynccontextmanager
async def answers_per_turn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """Count the answers that the sidecar writes of its own in each turn of the loop, while the block runs."""
    per_turn, real, loop, is_over = [0], answers.own, asyncio.get_running_loop(), False

    def own(*of: Any, **more: Any) -> bytes:
        per_turn[-1] += 1
        return real(*of, **more)

    def turn() -> None:
        per_turn.append(0)
        if not is_over:
            loop.call_soon(turn)

    monkeypatch.setattr(answers, "own", own)
    turn()
    try:
        yield per_turn
    finally:
        is_over = True


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/send", {"phone": PHONE, "captcha": "wrong"}, "captcha_failed"),
        ("/register", {"phone": PHONE, "code": "000000"}, "code_expired"),
    ],
)
async def test_what_the_store_answers_at_once_goes_on_a_slice_a_turn(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, str], code: str
) -> None:
    """However many wait for it, plain traffic has its turn between: here a slice is one step, and so one refusal."""
    sidecar = await start(MAIN, config=CONFIG.replace('kind = "altcha"', 'kind = "altcha"\nfailures = "500/1h"'))
    sidecar.app.front._line = Line(slice_s=0.0, more_s=0.0)
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    clients = [await asyncio.open_connection("127.0.0.1", sidecar.port) for _ in range(60)]
    async with answers_per_turn(monkeypatch) as per_turn, asyncio.timeout(DEADLINE_S):
        for _, writer in clients:
            writer.write(head.encode() + content)
        replies = [await reader.readuntil(b"}") for reader, _ in clients]
    for _, writer in clients:
        writer.close()
    assert all(f'"code":"{code}"'.encode() in reply for reply in replies), replies[0]
    assert sum(per_turn) == len(clients)
    assert max(per_turn) <= 2, "the loop's turns and the line's need not begin at the same place"


async def test_what_is_too_much_is_refused_a_slice_a_turn_beside_plain_traffic(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come at once, whoever has a plain request under way has a turn between: a slice is one refusal."""
    monkeypatch.setattr(front, "_SHED_S", 0.0)
    answered = asyncio.Event()

    async def slow(taken: Taken, _: Message) -> None:
        await answered.wait()
        await taken.write(OK)

    sidecar = await start(MAIN)
    sidecar.upstream.answer = slow
    plain = asyncio.create_task(sidecar.ask("GET", "/plain"))
    await sidecar.upstream.wait_for(lambda: len(sidecar.upstream.requests) == 1)
    clients = [await asyncio.open_connection("127.0.0.1", sidecar.port) for _ in range(60)]
    line = sidecar.app.front._line = Line(behind_s=0.0, few=0)
    line.plain = 1  # as of the one that it is put in the place of
    async with behind(line), answers_per_turn(monkeypatch) as per_turn, asyncio.timeout(DEADLINE_S):
        for _, writer in clients:
            writer.write(b"POST /send HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        replies = [await reader.readuntil(b"}") for reader, _ in clients]
    answered.set()
    assert (await plain).status == 200
    for _, writer in clients:
        writer.close()
    assert all(b'"code":"overloaded"' in reply for reply in replies), replies[0]
    assert sum(per_turn) == len(clients)
    assert max(per_turn) <= 2, "the loop's turns and the line's need not begin at the same place"


async def test_what_was_let_in_is_served_while_more_is_refused(start: Start) -> None:
    """Its captcha solved, its bucket spent: it would be lost if it were refused now."""
    sidecar = await start()
    token = await sidecar.solved()
    line = sidecar.app.front._line = Line(behind_s=0.0, few=0)
    asking = [
        asyncio.create_task(sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": token})) for _ in range(64)
    ]
    replies = await asyncio.gather(*asking)
    served = [reply for reply in replies if reply.status == 202]
    assert len(served) == 1, "one token, one message"
    assert {reply.status for reply in replies} <= {202, 403, 503}
    assert await sidecar.vendor.code()
    assert not line.is_behind()
