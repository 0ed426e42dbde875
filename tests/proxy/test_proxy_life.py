"""How long does a connection live, and whose is it then? Both ends, from the first octet to the last."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from certificates import LOOPBACK, Authority, serving
from fakes import DEADLINE_S, OK, UNDER_WAY, FakeUpstream, Message, RawClient, Taken, read_content
from proxied import Passing, passing

from sidecar.config.model import TlsClient
from sidecar.proxy.messages import MAX_ANSWER_HEAD, MAX_FIELDS, MAX_HEAD
from sidecar.proxy.proxy_protocol import SIGNATURE

pytestmark = pytest.mark.usefixtures("engine")

LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: example.com\r\n"
GET = LINE + HOST + b"\r\n"
WEBSOCKET = LINE + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
# A handler has read the content before anything leaves: these are of requests that are not read here.
RELAYED = pytest.mark.parametrize("engine", ["relayed"], indirect=True)


def asked(client: RawClient, method: str = "GET", target: str = "/") -> asyncio.Task[Message]:
    """A request that is under way."""
    return asyncio.create_task(client.ask(method, target))


async def is_silent(*answers: asyncio.Future[Message]) -> bool:
    """True when nobody is answered for a while."""
    done, _ = await asyncio.wait(answers, timeout=0.1)
    return not done


# The client's connection…


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n" + HOST, "octets"),
        (LINE + HOST + b"A: " + b"a" * MAX_HEAD + b"\r\n", "octets"),
        (LINE + HOST + b"A: b\r\n" * MAX_FIELDS, "fields"),
        (LINE + HOST + (b"A: " + b"a" * 1000 + b"\r\n") * (MAX_HEAD // 1000 + 1), "octets"),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_head_beyond_its_limits_is_refused(
    sidecar: Passing, upstream: FakeUpstream, head: bytes, reason: str, is_whole: bool
) -> None:
    """Whether it ends or not."""
    async with sidecar.client() as client:
        await client.send(head, b"\r\n" if is_whole else b"A: " + b"a" * MAX_HEAD)
        assert (await client.answer()).status == 431
        assert await client.rest() == b""
    assert not upstream.requests
    assert [refusal.code for refusal in sidecar.refusals] == ["head_too_large"]
    if is_whole:
        assert sidecar.refusals[0].reason == reason


async def test_a_head_at_its_limits_passes(sidecar: Passing, upstream: FakeUpstream) -> None:
    target = "/" + "a" * 30_000
    fields = ["A: " + "a" * 30_000] + ["B: b"] * (MAX_FIELDS - 2)
    async with sidecar.client() as client:
        assert (await client.ask("GET", target, fields)).status == 200
    assert upstream.requests[0].target == target.encode()
    assert [f"{key.decode()}: {value.decode()}" for key, value in upstream.requests[0].fields[1:MAX_FIELDS]] == fields


async def test_one_line_may_be_all_of_a_head(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Twelve kilobytes of cookies pass, and so do sixty."""
    async with sidecar.client() as client:
        for size in (12 << 10, 60 << 10):
            assert (await client.ask("GET", "/", ["Cookie: a=" + "b" * size])).status == 200
    assert [len(dict(request.fields)[b"Cookie"]) for request in upstream.requests] == [(12 << 10) + 2, (60 << 10) + 2]


async def test_the_configuration_says_how_large_a_head_may_be(upstream: FakeUpstream) -> None:
    """`server.max_head` counts request line and fields together, to the octet."""
    head = LINE + HOST + b"A: "
    async with passing(upstream.url, max_head=4096) as sidecar, sidecar.client() as client:
        await client.send(head + b"a" * (4096 - len(head) - 2) + b"\r\n\r\n")
        assert (await client.answer()).status == 200
        await client.send(head + b"a" * (4096 - len(head) - 1) + b"\r\n\r\n")
        assert (await client.answer()).status == 431


async def test_the_configuration_says_how_long_an_idle_connection_is_kept(upstream: FakeUpstream) -> None:
    """`server.keep_alive` ends a connection that asks nothing more, and not before."""
    async with passing(upstream.url, keep_alive_s=1.0) as sidecar, sidecar.client() as client:
        began = asyncio.get_running_loop().time()
        assert (await client.ask("GET", "/")).status == 200
        assert await client.rest() == b""
        assert asyncio.get_running_loop().time() - began >= 0.99  # uvloop's clock counts milliseconds


@pytest.mark.parametrize("head", [b"OPTIONS * HTTP/1.1\r\n", b"OPTIONS http://example.com HTTP/1.1\r\n"])
async def test_options_may_ask_for_the_whole_server(sidecar: Passing, upstream: FakeUpstream, head: bytes) -> None:
    async with sidecar.client() as client:
        await client.send(head + HOST + b"\r\n")
        assert (await client.answer()).content == b"ok"
    assert upstream.requests[0].start_line == b"OPTIONS * HTTP/1.1"
    assert upstream.requests[0].value(b"host") == b"example.com"


async def test_a_client_of_http_1_0_may_ask_to_stay(sidecar: Passing, upstream: FakeUpstream) -> None:
    """It is told that it may; without asking it may not."""
    async with sidecar.client() as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n")
            answer = await client.answer()
            assert (answer.content, answer.value(b"connection")) == (b"ok", b"keep-alive")
        await client.send(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
        assert (await client.answer()).value(b"connection") == b"close"
        assert await client.rest() == b""
    assert len(upstream.taken) == 1
    assert not any(request.values(b"connection") for request in upstream.requests)


async def test_a_client_that_says_close_is_served_nothing_more(sidecar: Passing, upstream: FakeUpstream) -> None:
    async with sidecar.client() as client:
        await client.send(LINE + HOST + b"Connection: close\r\n\r\n" + GET)
        answer = await client.answer()
        assert (answer.content, answer.value(b"connection")) == (b"ok", b"close")
        assert await client.rest() == b""
    assert len(upstream.requests) == 1


async def test_empty_lines_before_a_request_are_nothing(sidecar: Passing, upstream: FakeUpstream) -> None:
    """RFC 9112 section 2.2."""
    async with sidecar.client() as client:
        await client.send(b"\r\n\r\n", GET, b"\r\n", GET)
        assert [(await client.answer()).content for _ in range(2)] == [b"ok"] * 2
    assert len(upstream.requests) == 2


async def test_many_connections_are_held_and_each_is_served(sidecar: Passing, upstream: FakeUpstream) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(sidecar.client()) for _ in range(150)]
        for _ in range(2):
            for client in clients:
                assert (await client.ask()).content == b"ok"
    assert len(upstream.taken) == 1


# Upstream's connections…


@pytest.mark.parametrize(
    "answered",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
async def test_an_upstream_that_answers_and_leaves_takes_no_client_with_it(
    sidecar: Passing, upstream: FakeUpstream, answered: bytes
) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(answered)
        taken.writer.close()

    upstream.answer = answer
    async with sidecar.client() as client:
        for method in ("GET", "POST", "GET"):
            answer_ = await client.ask(method)
            assert (answer_.content, answer_.values(b"connection")) == (b"ok", [])
    assert [request.start_line[:3] for request in upstream.requests] == [b"GET", b"POS", b"GET"]
    assert len(upstream.taken) == 3


async def test_an_upstream_of_http_1_0_may_stay(sidecar: Passing, upstream: FakeUpstream) -> None:
    upstream.answer = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    async with sidecar.client() as client:
        assert (await client.ask()).value(b"via") == b"1.0 signup-sidecar"
        assert (await client.ask()).start_line == b"HTTP/1.1 200 OK"
    assert len(upstream.taken) == 1


async def test_after_an_idle_connections_end_a_post_goes_on_a_new_one(sidecar: Passing, upstream: FakeUpstream) -> None:
    async with sidecar.client() as client:
        await client.ask()
        upstream.taken[0].writer.write_eof()
        await upstream.wait_closed()
        assert (await client.ask("POST", content=b"abc")).content == b"ok"
    assert [request.start_line[:4] for request in upstream.requests] == [b"GET ", b"POST"]
    assert len(upstream.taken) == 2


@pytest.mark.parametrize(
    ("method", "answered"),
    [
        ("GET", OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"),
        ("HEAD", OK),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\nwrong"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nwrong"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n"),
    ],
)
async def test_what_stands_behind_an_answer_is_nobodys(
    sidecar: Passing, upstream: FakeUpstream, method: str, answered: bytes
) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(answered if taken.number == 0 else OK)

    upstream.answer = answer
    async with sidecar.client() as client:
        first = await client.ask(method)
        assert b"wrong" not in first.raw
        assert (await client.ask()).content == b"ok"
    assert len(upstream.taken) == 2


async def test_an_answers_head_beyond_its_limits_is_refused(sidecar: Passing, upstream: FakeUpstream) -> None:
    upstream.answer = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (MAX_ANSWER_HEAD // 6) + b"\r\n"
    async with sidecar.client() as client:
        assert (await client.ask()).content == b"upstream_unavailable"
    assert [refusal.reason for refusal in sidecar.refusals] == ["malformed:head_too_large"]


async def test_many_cookies_pass(sidecar: Passing, upstream: FakeUpstream) -> None:
    cookies = [b"%d=%b" % (number, b"x" * 4000) for number in range(40)]
    upstream.answer = OK.replace(
        b"\r\n\r\n", b"".join(b"\r\nSet-Cookie: " + cookie for cookie in cookies) + b"\r\n\r\n"
    )
    async with sidecar.client() as client:
        for _ in range(2):
            await client.send(GET)
            octets = await client.exactly(len(upstream.answer) + len(b"Via: 1.1 signup-sidecar\r\n"))
            assert octets.replace(b"Via: 1.1 signup-sidecar\r\n", b"") == upstream.answer


async def test_an_old_servers_answer_is_passed_on_mended(sidecar: Passing, upstream: FakeUpstream) -> None:
    upstream.answer = b"HTTP/1.1 200\nX-One : a\n\tb\r\nX-Two:c\r\nContent-Length:2\n\nok"
    async with sidecar.client() as client:
        for _ in range(2):
            assert (await client.ask()).raw == (
                b"HTTP/1.1 200 \r\nX-One: a b\r\nX-Two:c\r\nContent-Length:2\r\nVia: 1.1 signup-sidecar\r\n\r\nok"
            )
    assert len(upstream.taken) == 1


# No more of them than allowed…


class Held:
    """An upstream that answers each request when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Semaphore(0)

    async def __call__(self, taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        await self.may.acquire()
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.target) + request.target)


async def test_who_waits_for_a_connection_gets_it_in_turn(upstream: FakeUpstream) -> None:
    upstream.answer = held = Held()
    async with AsyncExitStack() as stack:
        sidecar = await stack.enter_async_context(passing(upstream.url, max_connections=2))
        answers = []
        for number in range(6):
            client = await stack.enter_async_context(sidecar.client())
            answers.append(asked(client, "POST", f"/{number}"))
            await asyncio.sleep(0)
        await upstream.wait_for(lambda: len(upstream.requests) == 2)
        assert await is_silent(*answers)
        for _ in answers:
            held.may.release()
        assert [(await answer).content for answer in answers] == [b"/%d" % number for number in range(6)]
    assert sorted(request.target for request in upstream.requests) == [b"/%d" % number for number in range(6)]
    assert len(upstream.taken) == 2


async def test_who_leaves_while_waiting_is_not_asked_for(upstream: FakeUpstream) -> None:
    upstream.answer = held = Held()
    async with passing(upstream.url, max_connections=1) as sidecar, sidecar.client() as one, sidecar.client() as three:
        first = asked(one, target="/1")
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        async with sidecar.client() as two:
            await two.send(b"POST /2 HTTP/1.1\r\n" + HOST + b"\r\n")
            third = asked(three, target="/3")
            assert await is_silent(first, third)
        held.may.release()
        held.may.release()
        assert (await first).content == b"/1"
        assert (await third).content == b"/3"
    assert [request.target for request in upstream.requests] == [b"/1", b"/3"]


@pytest.mark.parametrize("answered", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
@pytest.mark.parametrize("leaves", ["client", "upstream"])
async def test_a_connection_that_breaks_makes_way_for_the_next(
    upstream: FakeUpstream, answered: bytes, leaves: str
) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        if request.target == b"/1":
            await taken.write(answered)
            await taken.reader.read()
        await taken.write(OK)

    upstream.answer = answer
    async with passing(upstream.url, max_connections=1) as sidecar, sidecar.client() as two:
        async with sidecar.client() as one:
            await one.send(b"POST /1 HTTP/1.1\r\n" + HOST + b"\r\n")
            await upstream.wait_for(lambda: len(upstream.requests) == 1)
            second = asked(two, target="/2")
            if answered:
                await one.head()
            assert await is_silent(second)
            if leaves == "upstream":
                upstream.taken[0].reset()
                await second
        assert (await second).content == b"ok"
    assert [request.target for request in upstream.requests] == [b"/1", b"/2"]


async def test_a_tunnel_takes_a_connection_and_gives_it_back(upstream: FakeUpstream) -> None:
    """Who waits behind it waits no longer than for a silent upstream."""

    async def answer(taken: Taken, request: Message) -> None:
        if request.values(b"upgrade"):
            await taken.write(SWITCHED)
            await taken.reader.read()
            taken.writer.close()
        else:
            await taken.write(OK)

    upstream.answer = answer
    async with passing(upstream.url, max_connections=1, connect_timeout=1.0, read_timeout=1.0) as sidecar:
        async with sidecar.client() as talking:
            await talking.send(WEBSOCKET)
            await talking.head()
            async with sidecar.client() as client:
                assert (await client.ask()).content == b"upstream_timeout"
        async with sidecar.client() as client:
            assert (await client.ask()).content == b"ok"
    assert [len(request.values(b"upgrade")) for request in upstream.requests] == [1, 0]


# A way to upstream that is slow…


@asynccontextmanager
async def slow_way(port: int, opens: asyncio.Event) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A way to `port` on which nothing passes, and so no TLS is spoken, before it `opens`; tells when it is tried."""
    tried = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while octets := await reader.read(1 << 16):
                writer.write(octets)
        finally:
            writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.set()
        await opens.wait()
        further, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back), pump(further, writer), return_exceptions=True)

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(join(reader, writer))
        tasks.add(task)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], tried
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_leaves_while_connecting_leaves_the_connection_to_the_next(tmp_path: Path) -> None:
    """And its request is never sent."""
    authority, opens = Authority(tmp_path), asyncio.Event()
    async with (
        FakeUpstream(tls=serving(authority.issue("server", LOOPBACK))) as upstream,
        slow_way(upstream.port, opens) as (port, tried),
        passing(f"https://127.0.0.1:{port}", tls=TlsClient(ca=authority.cert), max_connections=1) as sidecar,
        sidecar.client() as two,
    ):
        async with sidecar.client() as one:
            await one.send(b"POST /1 HTTP/1.1\r\n" + HOST + b"\r\n")
            await asyncio.wait_for(tried.wait(), DEADLINE_S)
            second = asked(two, target="/2")
            assert await is_silent(second)
        opens.set()
        assert (await second).content == b"ok"
        assert [request.target for request in upstream.requests] == [b"/2"]
        assert len(upstream.taken) == 1


@RELAYED
async def test_an_upload_waits_for_its_connection(tmp_path: Path) -> None:
    """Its first octets are not lost meanwhile, and no more of it is read than they."""
    authority, opens = Authority(tmp_path), asyncio.Event()
    size = 24 << 20
    async with (
        FakeUpstream(tls=serving(authority.issue("server", LOOPBACK))) as upstream,
        slow_way(upstream.port, opens) as (port, tried),
        passing(f"https://127.0.0.1:{port}", tls=TlsClient(ca=authority.cert), connect_timeout=9.0) as sidecar,
        sidecar.client() as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\nabc" % (size + 3))
        await asyncio.wait_for(tried.wait(), DEADLINE_S)
        client.writer.write(bytes(size))
        drained = asyncio.ensure_future(client.writer.drain())
        done, _ = await asyncio.wait([drained], timeout=0.3)
        assert not done
        opens.set()
        assert (await client.answer()).content == b"ok"
        await drained
    assert upstream.requests[0].content == b"abc" + bytes(size)


async def test_an_upstream_that_is_never_connected_times_out(upstream: FakeUpstream) -> None:
    """It takes the connection, and says nothing to TLS's greeting. Nobody's request has left."""
    async with (
        slow_way(upstream.port, asyncio.Event()) as (port, _),
        passing(f"https://127.0.0.1:{port}", connect_timeout=0.1) as sidecar,
        sidecar.client() as client,
    ):
        assert (await client.ask("POST", content=b"abc")).content == b"upstream_timeout"
    assert [refusal.reason for refusal in sidecar.refusals] == ["connect_timeout"]


# Sockets…


async def test_unix_sockets_on_both_ends_pass_the_same_octets(tmp_path: Path) -> None:
    async with (
        FakeUpstream(path=str(tmp_path / "upstream")) as upstream,
        passing(upstream.url, path=str(tmp_path / "public")) as sidecar,
        sidecar.client() as client,
    ):
        for _ in range(2):
            await client.send(b"POST /a?b HTTP/1.1\r\nhost: example.com\r\nContent-Length: 3\r\n\r\nabc")
            assert (await client.answer()).raw == OK.replace(b"\r\n\r\n", b"\r\nVia: 1.1 signup-sidecar\r\n\r\n")
    passed = (
        b"POST /a?b HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\nX-Forwarded-For: 127.0.0.1\r\n"
        b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: example.com\r\nX-Request-Id: made-here\r\n"
        b"Via: 1.1 signup-sidecar\r\n\r\nabc"
    )
    assert [request.raw for request in upstream.requests] == [passed, passed]
    assert len(upstream.taken) == 1


async def test_a_client_behind_a_proxy_header_is_named_to_upstream(upstream: FakeUpstream) -> None:
    """PROXY protocol v2; what the client itself says of it is forged."""
    header = SIGNATURE + struct.pack("!BBH4B4BHH", 0x21, 0x11, 12, 192, 0, 2, 1, 192, 0, 2, 2, 5000, 443)
    async with passing(upstream.url, heralds=["127.0.0.0/8"]) as sidecar, sidecar.client() as client:
        await client.send(header + LINE + HOST + b"X-Forwarded-For: 6.6.6.6\r\n\r\n")
        assert (await client.answer()).content == b"ok"
        assert (await client.ask()).content == b"ok"
    assert [request.value(b"x-forwarded-for") for request in upstream.requests] == [b"192.0.2.1"] * 2


# A client that does not read…


@RELAYED
async def test_a_client_that_reads_nothing_is_not_answered_for_ever(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Not by one answer behind another either: what it asks for next waits until it takes what it has."""
    count, size = 0, 16 << 10

    async def answer(taken: Taken, request: Message) -> None:
        nonlocal count
        count += 1
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    upstream.answer = answer
    async with sidecar.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads too
        with suppress(TimeoutError):
            while count * size < 3 * UNDER_WAY:
                before = count
                await client.send(GET)
                async with asyncio.timeout(0.5):
                    while count == before:
                        await asyncio.sleep(0)
        assert count * size < UNDER_WAY


async def test_a_connection_that_cannot_be_made_makes_way_for_the_next(upstream: FakeUpstream) -> None:
    """Who waited behind it is answered too."""
    async with (
        slow_way(upstream.port, asyncio.Event()) as (port, tried),
        passing(f"https://127.0.0.1:{port}", connect_timeout=0.2, read_timeout=0.2, max_connections=1) as sidecar,
        sidecar.client() as one,
        sidecar.client() as two,
    ):
        first = asked(one)
        await asyncio.wait_for(tried.wait(), DEADLINE_S)
        second = asked(two)
        assert (await first).content == b"upstream_timeout"
        assert (await second).content == b"upstream_timeout"
