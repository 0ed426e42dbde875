"""sidecar/outbound.py: what surely never left, and what may have been taken. Real sockets, one call each."""

import asyncio
import gc
import gzip
import random
import socket
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from awake import awake
from certificates import LOOPBACK, Authority, serving
from cryptography import x509
from fakes import OK, FakeUpstream, Message, Taken, free_port, read_content, read_head
from vendors import SOON_S, closed_port

from sidecar import hosts
from sidecar.outbound import (
    MAX_REPLY,
    HttpReply,
    HttpRequest,
    NeverSentError,
    NoAnswerError,
    Session,
    call,
    open_session,
)

SECRET = "13912345678"
Ask = Callable[..., Awaitable[HttpReply]]


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    async with open_session() as it:
        yield it


@pytest_asyncio.fixture
async def ask(session: Session) -> Ask:
    """Ask an address once."""

    async def once(url: str, timeout_s: float = 5.0) -> HttpReply:
        fields = (("Content-Type", "text/plain"), ("Authorization", SECRET))
        return await call(session, HttpRequest("POST", url, fields, SECRET.encode()), timeout_s)

    return once


def wordless(error: BaseException) -> bool:
    """True when an error's words say nothing of the request."""
    return SECRET not in str(error) and SECRET not in repr(error)


# Surely never sent…


async def test_a_refused_connection_was_never_sent(ask: Ask) -> None:
    with pytest.raises(NeverSentError) as raised:
        await ask(closed_port())
    assert wordless(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://sms.invalid/",
        "http://..../",
        f"http://{'a' * 64}.com/",
        "http://127.1/",
        "http://[::1/",
        "http://a.b:99999/",
    ],
)
async def test_a_name_without_an_address_was_never_sent(ask: Ask, url: str) -> None:
    """.invalid has none, by RFC 6761 section 6.4; others are none that a resolver takes."""
    with pytest.raises(NeverSentError):
        await ask(url)


async def test_a_failed_tls_handshake_was_never_sent(ask: Ask) -> None:
    """What listens behind https does not speak TLS."""

    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example.com ESMTP\r\n")
        writer.close()

    plain = await asyncio.start_server(greet, "127.0.0.1")
    async with plain:
        with pytest.raises(NeverSentError) as raised:
            await ask(f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}/")
    assert wordless(raised.value)


async def test_no_connection_in_time_was_never_sent(ask: Ask) -> None:
    """A listener whose queue is full answers no SYN."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        async with filled(full):
            with pytest.raises(NeverSentError):
                await ask(f"http://127.0.0.1:{full.getsockname()[1]}/", 0.2)
            gc.collect()  # a socket that was left open would say so


@asynccontextmanager
async def filled(listener: socket.socket) -> AsyncIterator[None]:
    """Connect until no more connections are taken, as the system itself says of the listener."""
    with ExitStack() as taken:
        async with asyncio.timeout(SOON_S):
            for connected in count(1):
                waiting, most = queue(listener)
                if waiting > most:
                    break
                one = taken.enter_context(socket.socket())
                one.setblocking(False)
                await asyncio.get_running_loop().sock_connect(one, listener.getsockname())
                while queue(listener)[0] < connected:
                    await asyncio.sleep(0)
        yield


def queue(listener: socket.socket) -> tuple[int, int]:
    """How many connections wait to be taken, and how many the listener wants to; where one more waits, it is full.

    Linux says so in `tcpi_unacked` and `tcpi_sacked` of a listener.
    """
    waiting, most = struct.unpack_from("=II", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)
    return waiting, most


# May have been taken…


async def reset(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    taken.reset()


async def closed(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    taken.writer.close()


async def truncated(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it")
    taken.writer.close()


async def silent(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.reader.read()


async def stuck(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it")
    await taken.reader.read()


async def endless(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await taken.write(b"400\r\n" + b"x" * 0x400 + b"\r\n")


async def garbled(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"220 smtp.example.com ESMTP\r\n\r\n")


async def switched(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    await taken.reader.read()


async def invited(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    taken.writer.close()


async def cut_without_length(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
    await asyncio.sleep(0)
    taken.reset()


async def endless_head(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        await taken.write(b"X: " + b"x" * 0x400 + b"\r\n")


async def unheard_of(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip, br\r\n\r\n"))
    await taken.reader.read()


async def framed_twice(taken: Taken, message: Message) -> None:
    await read_content(taken.reader, message)
    await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    await taken.reader.read()


@pytest.mark.parametrize(
    "answer",
    [
        reset,
        closed,
        truncated,
        silent,
        stuck,
        endless,
        garbled,
        switched,
        invited,
        cut_without_length,
        framed_twice,
        endless_head,
        unheard_of,
    ],
)
async def test_what_has_left_and_had_no_whole_answer_is_unknown(
    ask: Ask, answer: Callable[[Taken, Message], Awaitable[None]]
) -> None:
    """It was asked once, and is never asked again."""
    async with FakeUpstream(answer=answer) as vendor:
        with pytest.raises(NoAnswerError) as raised:
            await ask(vendor.url, 0.5)
        assert wordless(raised.value)
        assert len(vendor.requests) == 1


async def test_a_kept_connection_that_the_vendor_has_closed_is_unknown(ask: Ask) -> None:
    """The request may have met the vendor's close half way: it is not sent again by itself."""

    async def once(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        if len(vendor.requests) > 1:
            taken.reset()
        else:
            await taken.write(OK)

    async with FakeUpstream(answer=once) as vendor:
        assert (await ask(vendor.url)).status == 200
        with pytest.raises(NoAnswerError):
            await ask(vendor.url)
        assert (len(vendor.requests), len(vendor.taken)) == (2, 1)


# Answers…


@pytest.mark.parametrize("status", [204, 301, 302, 307, 308, 404, 500, 503])
async def test_every_status_is_an_answer_and_no_redirect_is_followed(ask: Ask, status: int) -> None:
    """A code must not go where an answer points."""
    async with FakeUpstream() as elsewhere:
        answer = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        async with FakeUpstream(answer=answer.encode()) as vendor:
            reply = await ask(vendor.url)
            assert (reply.status, reply.fields["location"]) == (status, f"{elsewhere.url}/")
        assert not elsewhere.requests


async def test_an_answer_of_just_the_largest_size_is_read_whole(ask: Ask) -> None:
    body = b"x" * MAX_REPLY
    for extra, fits in ((b"", True), (b"x", False)):
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body + extra), body + extra)
        async with FakeUpstream(answer=answer) as vendor:
            if fits:
                assert (await ask(vendor.url)).body == body
            else:
                with pytest.raises(NoAnswerError):
                    await ask(vendor.url)


async def test_what_leaves_is_what_was_given(ask: Ask) -> None:
    """Octets that are signed are not touched: target, fields and body as they were encoded. No cookie is kept."""
    async with FakeUpstream(answer=OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")) as vendor:
        for _ in range(2):
            await ask(f"{vendor.url}/a%2Fb?c=%7e&d")
        for request in vendor.requests:
            assert request.start_line == b"POST /a%2Fb?c=%7e&d HTTP/1.1"
            assert request.value(b"authorization") == SECRET.encode()
            assert request.content == SECRET.encode()
            assert not request.values(b"cookie")


LINES = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        LINES + b"Content-Length: 2\r\n\r\nok",
        LINES + b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + LINES
        + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\nContent-Length: 2\n\nok",
        LINES + b"Content-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
        LINES + b"Content-Encoding:\r\nContent-Length: 2\r\n\r\nok",
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_every_framing_is_read(ask: Ask, answer: bytes, at_once: bool) -> None:
    """However its octets come."""

    async def give(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        for octets in [answer] if at_once else [answer[i : i + 1] for i in range(len(answer))]:
            await taken.write(octets)
            await asyncio.sleep(0)

    async with FakeUpstream(answer=give) as vendor:
        reply = await ask(vendor.url)
        assert (reply.status, reply.body) == (200, b"ok")


async def test_content_may_end_with_the_connection(ask: Ask) -> None:
    async def give(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await taken.write(LINES + b"\r\nok")
        taken.writer.close()

    async with FakeUpstream(answer=give) as vendor:
        assert [(await ask(vendor.url)).body for _ in range(2)] == [b"ok"] * 2
        assert len(vendor.taken) == 2


def raw_deflate(content: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(content) + made.flush()


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)],
)
async def test_a_compressed_answer_is_read_up_to_the_largest_size(
    ask: Ask, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    def answer(octets: bytes) -> bytes:
        return LINES + b"Content-ENCODING: %s\r\nContent-Length: %d\r\n\r\n%s" % (coding.encode(), len(octets), octets)

    noise = random.Random(1).randbytes(MAX_REPLY)  # no smaller when compressed
    bomb = compress(bytes(1 << 24))
    assert len(bomb) < MAX_REPLY
    async with FakeUpstream() as vendor:
        for whole in (b"ok", b"", noise):
            vendor.answer = answer(compress(whole))
            assert (await ask(vendor.url)).body == whole
        for broken in (
            bomb,
            compress(noise + b"x"),
            b"\x0fnothing compressed",
            bytes(3 * MAX_REPLY),
        ):
            vendor.answer = answer(broken)
            with pytest.raises(NoAnswerError):
                await ask(vendor.url)
        vendor.answer = answer(compress(b"ok" * 99)[:-4])
        assert (b"ok" * 99).startswith((await ask(vendor.url)).body), "what there is of it"
        vendor.answer = answer(b"")
        assert (await ask(vendor.url)).body == b""


async def test_fields_have_lower_case_names(ask: Ask) -> None:
    """Of those that stand twice, the last."""
    answer = LINES + b"Content-Length: 0\r\nX-Two: 1\r\nRetry-After:  7 \r\nx-two: \xc3\xa4\r\n\r\n"
    async with FakeUpstream(answer=answer) as vendor:
        reply = await ask(vendor.url)
        assert dict(reply.fields) == {"content-length": "0", "x-two": "ä", "retry-after": "7"}
        assert (len(reply.fields), reply.fields.get("none")) == (3, None)


# What leaves…


async def test_only_what_http_wants_is_added() -> None:
    """A content type would be one that the request's signature does not know."""
    async with FakeUpstream() as vendor, open_session() as session:
        own = (("host", "vendor.example"), ("ACCEPT", "text/plain"), ("User-Agent", "mine"))
        for method, fields, body in (("POST", (), b""), ("POST", own, b"x"), ("GET", (), b"")):
            await call(session, HttpRequest(method, f"{vendor.url}?a=b#c", fields, body), SOON_S)
        bare, given, got = (request.raw.partition(b"\r\n\r\n")[0].split(b"\r\n") for request in vendor.requests)
        added = [b"Host: 127.0.0.1:%d" % vendor.port, b"Accept: */*", b"User-Agent: signup-sidecar"]
        assert bare == [b"POST /?a=b HTTP/1.1", *added, b"Content-Length: 0"]
        assert given[1:] == [b"%s: %s" % (n.encode(), v.encode()) for n, v in own] + [b"Content-Length: 1"]
        assert got == [b"GET /?a=b HTTP/1.1", *added]


async def test_a_user_in_the_url_is_told_as_basic_says() -> None:
    """RFC 7617; and stands nowhere else."""
    async with FakeUpstream() as vendor, open_session() as session:
        url = vendor.url.replace("//", "//ann:p%C3%A4%3A@")
        await call(session, HttpRequest("POST", f"{url}/x", (), b""), SOON_S)
        [request] = vendor.requests
        assert request.start_line == b"POST /x HTTP/1.1"
        assert request.value(b"authorization") == b"Basic YW5uOnDDpDo="
        assert b"ann" not in request.raw


@pytest.mark.parametrize(
    ("target", "value"),
    [("/a b", "x"), ("/a\r\nX: y", "x"), ("/\0", "x"), ("/", "a\r\nX: y"), ("/", "a\nb"), ("/", "a\rb"), ("/", "\0")],
)
async def test_what_would_end_a_line_is_never_sent(target: str, value: str) -> None:
    async with FakeUpstream() as vendor, open_session() as session:
        with pytest.raises(NeverSentError):
            await call(session, HttpRequest("POST", vendor.url + target, (("A", value),), b""), SOON_S)
        assert not vendor.taken


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://127.0.0.1:0/", "http:///x", "http://a b/", "nothing"])
async def test_what_cannot_be_called_was_never_sent(ask: Ask, url: str) -> None:
    with pytest.raises(NeverSentError):
        await ask(url)


# Connections…


async def test_a_connection_is_used_again_and_again(ask: Ask) -> None:
    async with FakeUpstream() as vendor:
        for _ in range(5):
            await ask(vendor.url)
        assert (len(vendor.requests), len(vendor.taken)) == (5, 1)


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"1.1", b"1.0"),
        OK + b"and more",
        b"HTTP/1.1 204 No Content\r\n\r\nand more",
    ],
)
async def test_a_connection_that_ends_or_says_too_much_is_used_once(ask: Ask, answer: bytes) -> None:
    async with FakeUpstream(answer=answer) as vendor:
        for _ in range(2):
            assert (await ask(vendor.url)).status in {200, 204}
        assert len(vendor.taken) == 2


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_a_kept_connection_that_was_seen_to_end_is_not_used(says: bytes) -> None:
    """Nor one on which the vendor speaks unasked."""
    async with FakeUpstream() as vendor, open_session() as session:
        request = HttpRequest("POST", vendor.url, (), b"")
        await call(session, request, SOON_S)
        await vendor.taken[0].write(says)
        if not says:
            vendor.taken[0].writer.close()
        async with asyncio.timeout(SOON_S):
            while session.connections:
                await asyncio.sleep(0)
        assert (await call(session, request, SOON_S)).status == 200
        assert (len(vendor.requests), len(vendor.taken)) == (2, 2)


async def test_a_connection_is_not_kept_for_ever() -> None:
    async with FakeUpstream() as vendor, open_session(idle_s=0.05) as session:
        for _ in range(2):
            await call(session, HttpRequest("POST", vendor.url, (), b""), SOON_S)
            await vendor.wait_closed()
        assert len(vendor.taken) == 2
        assert not session.connections


async def test_many_calls_at_once_each_get_their_own_answer(session: Session) -> None:
    """None waits for another, and none gets another's, whoever of them leaves or runs out of time."""

    async def echo(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await asyncio.sleep(float(message.value(b"x-wait")))
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(message.content), message.content))

    draw = random.Random(7)

    async def one(number: int) -> str:
        body = b"%d" % number
        fields = (("X-Wait", str(draw.choice((0, 0.001, 0.01)))),)
        asked = asyncio.create_task(
            call(session, HttpRequest("POST", vendor.url, fields, body), draw.choice((5, 0.01)))
        )
        if draw.random() < 0.3:
            asyncio.get_running_loop().call_later(draw.random() * 0.02, asked.cancel)
        try:
            assert (await asked).body == body
        except asyncio.CancelledError:
            return "left"
        except (NoAnswerError, NeverSentError):
            return "late"
        return "answered"

    async with FakeUpstream(answer=echo) as vendor, asyncio.timeout(SOON_S):
        came = []
        for turn in range(10):
            came += await asyncio.gather(*[one(100 * turn + number) for number in range(50)])
    assert {"left", "late", "answered"} == set(came)


async def test_who_leaves_ends_the_connection(session: Session) -> None:
    async with FakeUpstream(answer=silent) as vendor:
        asked = asyncio.create_task(call(session, HttpRequest("POST", vendor.url, (), b""), SOON_S))
        await vendor.wait_for(lambda: bool(vendor.requests))
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await vendor.wait_closed()


async def test_closing_leaves_what_was_asked_open_and_asks_no_more() -> None:
    async with FakeUpstream(answer=silent) as vendor:
        session = open_session()
        request = HttpRequest("POST", vendor.url, (), b"")
        asked = asyncio.create_task(call(session, request, SOON_S))
        await vendor.wait_for(lambda: bool(vendor.requests))
        await session.close()
        with pytest.raises(NoAnswerError):
            await asked
        with pytest.raises(NeverSentError):
            await call(session, request, SOON_S)
        assert len(vendor.taken) == 1


# Addresses…


class Resolver:
    """A resolver of one name, in the place of the system's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: list[str] = []  # the addresses it gives
        self.asked = 0
        self.released = threading.Event()
        self.released.set()
        monkeypatch.setattr(hosts, "look_up", self.look_up)

    def look_up(self, host: str, port: int) -> list[tuple[object, ...]]:
        self.asked += 1
        assert self.released.wait(SOON_S)
        if not self.hosts:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [one for address in self.hosts for one in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)]


@pytest_asyncio.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


def named(vendor: FakeUpstream) -> HttpRequest:
    return HttpRequest("POST", f"http://sms.vendor.example:{vendor.port}/", (), b"")


async def test_a_name_is_looked_up_once_for_all_who_ask(resolver: Resolver, session: Session) -> None:
    resolver.hosts = ["127.0.0.1"]
    async with FakeUpstream() as vendor:
        await asyncio.gather(*[call(session, named(vendor), SOON_S) for _ in range(20)])
        assert resolver.asked == 1
        assert {request.value(b"host") for request in vendor.requests} == {b"sms.vendor.example:%d" % vendor.port}


async def test_a_dead_resolver_holds_up_nobody_who_has_a_connection(resolver: Resolver, session: Session) -> None:
    """Who needs a new one waits as long as it has time, and sent nothing; others still wait for the same answer."""
    resolver.released.clear()
    resolver.hosts = ["127.0.0.1"]
    async with FakeUpstream() as vendor:
        patient = asyncio.create_task(call(session, named(vendor), SOON_S))
        with pytest.raises(NeverSentError):
            await call(session, named(vendor), 0.05)
        resolver.released.set()
        assert (await patient).status == 200
        resolver.released.clear()
        assert (await call(session, named(vendor), SOON_S)).status == 200
        assert (resolver.asked, len(vendor.taken)) == (1, 1)


async def test_who_waits_for_an_address_when_all_is_closed_sent_nothing(resolver: Resolver) -> None:
    resolver.released.clear()
    resolver.hosts = ["127.0.0.1"]
    async with FakeUpstream() as vendor:
        session = open_session()
        asked = asyncio.create_task(call(session, named(vendor), SOON_S))
        async with asyncio.timeout(SOON_S):
            while not resolver.asked:
                await asyncio.sleep(0)
        await session.close()
        resolver.released.set()
        with pytest.raises(NeverSentError):
            await asked
        assert not vendor.requests
        await vendor.wait_closed()


async def test_a_name_that_has_no_address_now_is_asked_for_again(resolver: Resolver, session: Session) -> None:
    async with FakeUpstream() as vendor:
        with pytest.raises(NeverSentError):
            await call(session, named(vendor), SOON_S)
        resolver.hosts = ["127.0.0.2"]  # where nobody listens
        with pytest.raises(NeverSentError):
            await call(session, named(vendor), SOON_S)
        resolver.hosts = ["127.0.0.1"]  # it has moved
        assert (await call(session, named(vendor), SOON_S)).status == 200


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_an_address_of_version_6_is_called(session: Session) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = await read_content(reader, await read_head(reader))
        writer.write(OK.replace(b"ok", message.value(b"host")[-2:]))
        writer.close()

    server = await asyncio.start_server(serve, "::1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reply = await call(session, HttpRequest("POST", f"http://[::1]:{port}/", (), b""), SOON_S)
        assert reply.body == str(port)[-2:].encode()


async def test_an_address_that_does_not_answer_is_passed_over(resolver: Resolver, session: Session) -> None:
    """RFC 8305: the next one is tried beside it, long before the time is up."""
    with socket.socket() as full:
        full.bind(("127.0.0.2", free_port()))
        full.listen(0)
        vendor = FakeUpstream(port=full.getsockname()[1])
        async with filled(full), vendor:
            resolver.hosts = ["127.0.0.2", "127.0.0.1"]
            with awake() as took:
                assert (await call(session, named(vendor), SOON_S)).status == 200
                assert took() < SOON_S / 2


# TLS…


async def test_a_vendor_proves_its_name(resolver: Resolver, tmp_path: Path) -> None:
    """By the configured authority, else by the system's. The name is asked for, without the dot that may end it."""
    resolver.hosts = ["127.0.0.1"]
    authority = Authority(tmp_path)
    tls = serving(authority.issue("vendor", x509.DNSName("sms.vendor.example"), LOOPBACK))
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    async with FakeUpstream(tls=tls) as vendor:

        async def ask(host: str, ca: str) -> HttpReply:
            async with open_session(ca=ca) as session:
                request = HttpRequest("POST", f"https://{host}:{vendor.port}/", (), b"")
                return [await call(session, request, SOON_S) for _ in range(2)][-1]

        for host in ("sms.vendor.example", "sms.vendor.example.", "127.0.0.1"):
            assert (await ask(host, authority.cert)).status == 200
        assert names == ["sms.vendor.example", "sms.vendor.example", None]
        assert (len(vendor.requests), len(vendor.taken)) == (6, 3), "kept, too"
        for host, ca in (("sms.vendor.example", ""), ("another.example", authority.cert)):
            with pytest.raises(NeverSentError):
                await ask(host, ca)
        assert len(vendor.requests) == 6


def test_a_request_is_not_readable_in_a_log() -> None:
    assert SECRET not in repr(HttpRequest("POST", f"http://x/{SECRET}", (("A", SECRET),), SECRET.encode()))
