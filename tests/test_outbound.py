"""sidecar/outbound.py: what surely never left, and what may have been taken. Real sockets, one call each."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from fakes import OK, FakeUpstream, Message, Taken, read_content
from vendors import closed_port

from sidecar.outbound import MAX_REPLY, HttpReply, HttpRequest, NeverSentError, NoAnswerError, call, open_session

SECRET = "13912345678"
Ask = Callable[..., Awaitable[HttpReply]]


@pytest_asyncio.fixture
async def ask() -> AsyncIterator[Ask]:
    """Ask an address once."""
    async with open_session() as session:

        async def once(url: str, timeout_s: float = 5.0) -> HttpReply:
            fields = (("Content-Type", "text/plain"), ("Authorization", SECRET))
            return await call(session, HttpRequest("POST", url, fields, SECRET.encode()), timeout_s)

        yield once


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_no_connection_in_time_was_never_sent(ask: Ask) -> None:
    """A listener whose queue is full answers no SYN."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        async with filled(full):
            with pytest.raises(NeverSentError):
                await ask(f"http://127.0.0.1:{full.getsockname()[1]}/", 0.2)
            gc.collect()  # aiohttp leaves the socket of a connection that came too late to the collector, which says so


@asynccontextmanager
async def filled(listener: socket.socket) -> AsyncIterator[None]:
    """Connect until no more connections are taken."""
    taken: list[socket.socket] = []
    try:
        while True:
            one = socket.socket()
            one.setblocking(False)
            taken.append(one)
            try:
                async with asyncio.timeout(0.2):
                    await asyncio.get_running_loop().sock_connect(one, listener.getsockname())
            except TimeoutError:
                yield
                return
    finally:
        for one in taken:
            one.close()


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


@pytest.mark.parametrize("answer", [reset, closed, truncated, silent, stuck, endless, garbled])
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


def test_a_request_is_not_readable_in_a_log() -> None:
    assert SECRET not in repr(HttpRequest("POST", f"http://x/{SECRET}", (("A", SECRET),), SECRET.encode()))
