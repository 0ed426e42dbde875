"""What does upstream get, and what the client? Octets, over real sockets, a test per rule."""

import asyncio
from pathlib import Path

import pytest
from fakes import DEADLINE_S, OK, UNDER_WAY, FakeUpstream, Message, RawClient, Taken, read_content, write_until_stalled
from proxied import Passing, passing
from vendors import closed_port

from sidecar.config.model import Upstream
from sidecar.errors import Refusal
from sidecar.proxy.forward import Forwarder

pytestmark = pytest.mark.usefixtures("engine")

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HOST = b"Host: example.com\r\n"
# A handler has read the content before anything leaves: these are of requests that are not read here.
RELAYED = pytest.mark.parametrize("engine", ["relayed"], indirect=True)


# The request…


async def test_upstream_gets_the_clients_octets_and_ours_and_nothing_else(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    async with sidecar.client() as client:
        await client.send(
            b"DELETE /a?b HTTP/1.1\r\nhost: example.com\r\nX-One:  \xe9\xff\x80 \r\nCookie: a=1\r\nX-one: 2\r\n"
            b"X-Empty:\r\nAccept-Encoding: gzip\r\nConnection: keep-alive, X-Gone\r\nX-Gone: 1\r\n\r\n"
        )
        await client.answer()
    assert upstream.requests[0].raw == (
        b"DELETE /a?b HTTP/1.1\r\nHost: example.com\r\nX-One:  \xe9\xff\x80 \r\nCookie: a=1\r\nX-one: 2\r\n"
        b"X-Empty:\r\nAccept-Encoding: gzip\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: example.com\r\nX-Request-Id: made-here\r\nVia: 1.1 signup-sidecar\r\n\r\n"
    )


@pytest.mark.parametrize(
    "target",
    ["//", "/a/../b/./c", "/%2F%2e%2E", "/a?", "/a;x=1;y", "/?", "/?a?b=%20+&&c", "//[", '/\\a|{}^`"<>', "/%zz"],
)
async def test_a_target_passes_octet_for_octet(sidecar: Passing, upstream: FakeUpstream, target: str) -> None:
    async with sidecar.client() as client:
        await client.ask("GET", target)
    assert upstream.requests[0].target == target.encode()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "PROPFIND"])
async def test_a_method_passes(sidecar: Passing, upstream: FakeUpstream, method: str) -> None:
    async with sidecar.client() as client:
        await client.ask(method)
    assert upstream.requests[0].start_line == method.encode() + b" / HTTP/1.1"


async def test_an_absolute_target_becomes_a_path_and_names_the_host(sidecar: Passing, upstream: FakeUpstream) -> None:
    async with sidecar.client() as client:
        await client.ask("GET", "http://other.example/a?b")
    assert upstream.requests[0].target == b"/a?b"
    assert upstream.requests[0].value(b"host") == b"other.example"


async def test_a_forged_identity_does_not_arrive_and_the_signed_one_does(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    sidecar.extra = [(b"X-Verified-Identity", b"signed")]
    async with sidecar.client() as client:
        await client.ask(
            fields=["X-Verified-Identity: f", "x_verified-IDENTITY: f", "Connection: close, X-Verified-Identity"]
        )
    assert upstream.requests[0].value(b"x-verified-identity") == b"signed"
    assert b": f\r\n" not in upstream.requests[0].raw


async def test_a_trusted_proxys_word_is_passed_on(upstream: FakeUpstream) -> None:
    async with passing(upstream.url, trusted=["127.0.0.0/8"]) as sidecar, sidecar.client() as client:
        await client.ask(
            fields=["X-Forwarded-For: 6.6.6.6, 198.51.100.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"]
        )
    got = upstream.requests[0]
    assert got.value(b"x-forwarded-for") == b"198.51.100.7, 127.0.0.1"
    assert (got.value(b"x-forwarded-proto"), got.value(b"x-forwarded-host")) == (b"https", b"a.example")


async def test_a_sane_request_id_is_kept(sidecar: Passing, upstream: FakeUpstream) -> None:
    async with sidecar.client() as client:
        await client.ask(fields=["X-Request-Id: theirs"])
    assert upstream.requests[0].value(b"x-request-id") == b"theirs"


async def test_content_with_a_length_passes(sidecar: Passing, upstream: FakeUpstream) -> None:
    async with sidecar.client() as client:
        await client.ask("POST", content=bytes(range(256)) * 1000)
    assert upstream.requests[0].content == bytes(range(256)) * 1000
    assert upstream.requests[0].value(b"content-length") == b"256000"


@RELAYED
async def test_chunks_arrive_while_the_client_still_sends(upstream: FakeUpstream) -> None:
    """An upload is streamed: upstream holds its first octets before its last are sent."""
    first, last = asyncio.Event(), asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        assert await taken.reader.readexactly(len(b"3\r\nabc\r\n")) == b"3\r\nabc\r\n"
        first.set()
        assert (
            await taken.reader.readexactly(len(b"1\r\nd\r\n0\r\nX-Trailer: 1\r\n\r\n"))
            == b"1\r\nd\r\n0\r\nX-Trailer: 1\r\n\r\n"
        )
        last.set()
        await taken.write(OK)

    upstream.answer = answer
    async with passing(upstream.url) as sidecar, sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n")
        await asyncio.wait_for(first.wait(), 30)
        await client.send(b"1\r\nd\r\n0\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.answer()).content == b"ok"
    assert last.is_set()


async def test_a_body_that_was_read_here_is_sent_with_its_length(sidecar: Passing, upstream: FakeUpstream) -> None:
    """The client that waits to be invited is invited here, and upstream is not asked again."""
    sidecar.handles = lambda _request: True
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer()).status == 100
        await client.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert (await client.answer()).status == 200
    got = upstream.requests[0]
    assert (got.content, got.value(b"content-length")) == (b"abc", b"3")
    assert not got.values(b"transfer-encoding")
    assert not got.values(b"expect")


@RELAYED
async def test_an_expectation_is_upstreams_to_meet(sidecar: Passing, upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        assert request.value(b"expect") == b"100-continue"
        await taken.write(b"HTTP/1.1 100 Go On\r\n\r\n")
        await read_content(taken.reader, request)
        await taken.write(OK)

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer()).start_line == b"HTTP/1.1 100 Go On"
        await client.send(b"abc")
        assert (await client.answer()).status == 200
    assert upstream.requests[0].content == b"abc"


async def test_pipelined_requests_are_answered_in_order(sidecar: Passing, upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + request.target)

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(*(b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n" for number in range(5)))
        assert [(await client.answer()).content for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


@pytest.mark.parametrize("offered", [b"h2c", b"TLS/1.2, HTTP/2.0"])
async def test_an_offer_to_upgrade_is_left_and_the_request_passes(
    sidecar: Passing, upstream: FakeUpstream, offered: bytes
) -> None:
    """RFC 9110 section 7.8: Java's client offers h2c with every first request, and is content without it."""
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\n")
        await client.send(b"Upgrade: " + offered + b"\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
        assert (await client.answer()).content == b"ok"
        assert (await client.ask()).content == b"ok"
    for name in (b"upgrade", b"connection", b"http2-settings"):
        assert not upstream.requests[0].values(name)


@pytest.mark.parametrize(
    "upgrade",
    [
        b"GET / HTTP/1.1\r\nUpgrade: tcp\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket, h2c\r\n",
        b"POST / HTTP/1.1\r\nUpgrade: websocket\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nUpgrade: websocket\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n",
    ],
)
async def test_an_upgrade_to_anything_else_is_refused(sidecar: Passing, upstream: FakeUpstream, upgrade: bytes) -> None:
    async with sidecar.client() as client:
        await client.send(upgrade + HOST + b"Connection: keep-alive, Upgrade\r\n\r\nx")
        assert (await client.answer()).status == 400
        assert await client.rest() == b""
    assert not upstream.requests


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 403),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
        (b"GET /#a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\rC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b" A: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A\xe9: b\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /\r\n" + HOST + b"\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400),
        (b"GET http://u@a/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9223372036854775808\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: \r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nZ\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;\n\r\na\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n8000000000000000\r\na", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", 400),
    ],
)
async def test_what_is_malformed_or_ambiguous_never_reaches_upstream(
    sidecar: Passing, upstream: FakeUpstream, octets: bytes, status: int
) -> None:
    async with sidecar.client() as client:
        await client.send(octets)
        assert b" %d " % status in (await client.rest()).split(b"\r\n")[0]
    assert not upstream.requests


@RELAYED
async def test_content_that_breaks_its_framing_later_is_refused_and_never_looks_whole(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.reader.readexactly(len(b"3\r\nabc\r\n"))
        await client.send(b"Z\r\n")
        rest.set_result(await taken.reader.read())

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert (await client.answer()).status == 400
        assert await rest == b""


# The answer…


async def test_the_client_gets_upstreams_octets_and_via(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Repeated fields stay apart and in order, odd octets as they are; hop-by-hop ones end; nothing is made up."""
    upstream.answer = (
        b"HTTP/1.1 299 Sch\xc3\xb6n \xe9\r\nSet-Cookie: a=1\r\nX-Odd: \xff\xe9\r\nset-cookie: b=2; Path=/\r\n"
        b"Server: old\r\nConnection: keep-alive, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Length: 1\r\n\r\nx"
    )
    async with sidecar.client() as client:
        assert (await client.ask()).raw == (
            b"HTTP/1.1 299 Sch\xc3\xb6n \xe9\r\nSet-Cookie: a=1\r\nX-Odd: \xff\xe9\r\nset-cookie: b=2; Path=/\r\n"
            b"Server: old\r\nContent-Length: 1\r\nVia: 1.1 signup-sidecar\r\n\r\nx"
        )


async def test_codings_and_redirects_are_the_clients_business(sidecar: Passing, upstream: FakeUpstream) -> None:
    gone = b"\x1f\x8b\x08 no gzip"
    upstream.answer = (
        b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gone) + gone
    )
    async with sidecar.client() as client:
        answer = await client.ask()
    assert (answer.status, answer.content, answer.value(b"location")) == (302, gone, b"/b")
    assert len(upstream.requests) == 1


async def test_an_answer_to_head_has_a_length_and_no_content(sidecar: Passing, upstream: FakeUpstream) -> None:
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    async with sidecar.client() as client:
        assert (await client.ask("HEAD")).value(b"content-length") == b"5"
        assert (await client.ask("HEAD")).value(b"content-length") == b"5"
    assert len(upstream.taken) == 1


@pytest.mark.parametrize(
    ("answered", "passed"),
    [
        (b"204 No Content\r\n\r\n", b"204 No Content\r\n"),
        (b"204 No Content\r\nContent-Length: 0\r\n\r\n", b"204 No Content\r\n"),
        (b"304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"304 Not Modified\r\nContent-Length: 5\r\n"),
        (b"304 Not Modified\r\nETag: x\r\n\r\n", b"304 Not Modified\r\nETag: x\r\n"),
    ],
)
async def test_an_answer_without_content_stays_without(
    sidecar: Passing, upstream: FakeUpstream, answered: bytes, passed: bytes
) -> None:
    upstream.answer = b"HTTP/1.1 " + answered
    async with sidecar.client() as client:
        assert (await client.ask()).raw == b"HTTP/1.1 " + passed + b"Via: 1.1 signup-sidecar\r\n\r\n"
        assert (await client.ask()).raw == b"HTTP/1.1 " + passed + b"Via: 1.1 signup-sidecar\r\n\r\n"


async def test_an_event_arrives_before_the_next_is_sent(sidecar: Passing, upstream: FakeUpstream) -> None:
    heard = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(CHUNKED + b"9\r\ndata: 1\n\n\r\n")
        await heard.wait()
        await taken.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.head()
        assert await client.exactly(14) == b"9\r\ndata: 1\n\n\r\n"
        heard.set()
        assert await client.exactly(19) == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


async def test_an_answer_that_ends_with_its_connection_is_framed_anew(sidecar: Passing, upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        taken.writer.close()

    upstream.answer = answer
    async with sidecar.client() as client:
        first = await client.ask()
        assert (first.content, first.value(b"transfer-encoding")) == (b"until the end", b"chunked")
        assert (await client.ask()).content == b"until the end"


@pytest.mark.parametrize("answered", [CHUNKED + b"2\r\nok\r\n0\r\n\r\n", OK])
async def test_a_client_of_http_1_0_gets_no_chunks(sidecar: Passing, upstream: FakeUpstream, answered: bytes) -> None:
    """And names no host, so upstream gets its own."""
    upstream.answer = answered
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await client.answer()
        assert await client.rest() == b""
    assert (answer.content, answer.values(b"transfer-encoding")) == (b"ok", [])
    assert answer.value(b"connection") == b"close"
    assert upstream.requests[0].value(b"host") == upstream.url.removeprefix("http://").encode()
    assert upstream.requests[0].value(b"via") == b"1.0 signup-sidecar"


async def test_interim_answers_pass(sidecar: Passing, upstream: FakeUpstream) -> None:
    upstream.answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK
    async with sidecar.client() as client:
        first = await client.ask()
        assert (first.status, first.value(b"link")) == (103, b"</a.css>")
        assert (await client.answer()).status == 102
        assert (await client.answer()).content == b"ok"
    assert sidecar.statuses == [200]


@RELAYED
async def test_an_early_answer_arrives_while_the_upload_still_runs(sidecar: Passing, upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await taken.reader.read()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\nabc")
        assert (await client.answer()).content == b"no"
        await upstream.wait_closed()  # the rest of the upload has nowhere to go


# Life…


async def test_connections_to_upstream_are_kept(sidecar: Passing, upstream: FakeUpstream) -> None:
    for content in (b"", b"abc"):
        async with sidecar.client() as client:
            await client.ask("POST", content=content)
            await client.ask("GET")
    assert len(upstream.requests) == 4
    assert len(upstream.taken) == 1
    assert len(sidecar.observed) == 4


def closing_after_one(upstream: FakeUpstream) -> None:
    """Upstream promises to stay, answers one request a connection, and is gone at the next."""

    async def answer(taken: Taken, request: Message) -> None:
        await read_content(taken.reader, request)
        if len(upstream.requests) == 2:
            taken.reset()
            return
        await taken.write(OK)

    upstream.answer = answer


async def test_a_safe_request_that_meets_a_closed_connection_is_sent_again(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    closing_after_one(upstream)
    async with sidecar.client() as client:
        await client.ask()
        assert (await client.ask(target="/again")).status == 200
    assert [request.target for request in upstream.requests] == [b"/", b"/again", b"/again"]


@pytest.mark.parametrize("content", [b"", b"abc"])
async def test_a_post_is_never_sent_twice(sidecar: Passing, upstream: FakeUpstream, content: bytes) -> None:
    closing_after_one(upstream)
    async with sidecar.client() as client:
        await client.ask()
        assert (await client.ask("POST", content=content)).status == 502
    assert [request.start_line[:4] for request in upstream.requests] == [b"GET ", b"POST"]


async def test_a_new_connection_that_breaks_is_not_tried_again(sidecar: Passing, upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        taken.reset()

    upstream.answer = answer
    async with sidecar.client() as client:
        assert (await client.ask()).content == b"upstream_unavailable"
    assert len(upstream.requests) == 1


BROKEN_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    CHUNKED + b"3\r\nabc\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nabc",
]


@pytest.mark.parametrize("answered", BROKEN_ANSWERS)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_breaks_reaches_the_client_broken(
    sidecar: Passing, upstream: FakeUpstream, answered: bytes, version: bytes
) -> None:
    """A reset in the middle is no clean end, however the content is framed."""
    seen = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(answered)
        await seen.wait()
        taken.reset()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/" + version + b"\r\n" + HOST + b"\r\n")
        head = await client.head()
        if head.values(b"transfer-encoding"):
            assert await client.exactly(3) == b"3\r\n"
        assert await client.exactly(3) == b"abc"
        seen.set()
        if head.values(b"transfer-encoding") or head.values(b"content-length"):
            rest = await client.rest()
            assert rest in {b"", b"\r\n"}  # neither the last chunk nor the missing octets
        else:
            with pytest.raises(ConnectionResetError):
                await client.rest()
    assert [answer.is_cut for answer in sidecar.answers] == [True]


async def test_content_cut_short_by_a_clean_end_is_broken_too(sidecar: Passing, upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(BROKEN_ANSWERS[1])
        taken.writer.close()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"0\r\n\r\n" not in await client.rest()


async def test_a_malformed_chunk_breaks_the_answer(sidecar: Passing, upstream: FakeUpstream) -> None:
    seen = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(CHUNKED + b"3\r\nabc\r\n")
        await seen.wait()
        await taken.write(b"Z\r\n")
        await taken.reader.read()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.head()
        await client.exactly(8)
        seen.set()
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "answered",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_an_answer_that_cannot_be_read_for_certain_is_refused(
    sidecar: Passing, upstream: FakeUpstream, answered: bytes
) -> None:
    upstream.answer = answered
    async with sidecar.client() as client:
        assert (await client.ask()).content == b"upstream_unavailable"
    assert not sidecar.statuses


async def test_no_upstream_is_unavailable() -> None:
    async with passing(closed_port()) as sidecar, sidecar.client() as client:
        assert (await client.ask()).content == b"upstream_unavailable"


async def test_an_upstream_whose_name_is_none_is_unavailable() -> None:
    """No label of a name has more than 63 letters: nothing can be looked up, and that is no fault of the program."""
    async with passing(f"http://{'a' * 64}.example:80") as sidecar, sidecar.client() as client:
        assert (await client.ask()).content == b"upstream_unavailable"


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_a_silent_upstream_times_out(upstream: FakeUpstream, interim: bytes) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(interim)
        await taken.reader.read()

    upstream.answer = answer
    async with passing(upstream.url, read_timeout=1.0) as sidecar, sidecar.client() as client:
        first = await client.ask()
        assert (await client.answer() if interim else first).content == b"upstream_timeout"
        assert len(upstream.requests) == 1
        await upstream.wait_closed()


async def test_upstreams_silence_in_the_middle_breaks_the_answer(upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(CHUNKED + b"3\r\nabc\r\n")
        await taken.reader.read()

    upstream.answer = answer
    async with passing(upstream.url, read_timeout=0.1) as sidecar, sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_the_gate_hears_the_status_before_the_client(sidecar: Passing, upstream: FakeUpstream) -> None:
    """What it refuses then is the only answer that the client sees."""

    async def refuse(status: int) -> None:
        raise Refusal("store_unavailable", "test")

    sidecar.on_status = refuse
    async with sidecar.client() as client:
        assert (await client.ask()).content == b"store_unavailable"
    assert sidecar.statuses == [200]


@pytest.mark.parametrize("answered", [b"", CHUNKED + b"3\r\nabc\r\n"])
@pytest.mark.parametrize("content", [b"", b"Content-Length: 9\r\n\r\nabc"])
@RELAYED
async def test_a_client_that_leaves_takes_its_upstream_connection_with_it(
    sidecar: Passing, upstream: FakeUpstream, answered: bytes, content: bytes
) -> None:
    """Before the answer or in the middle of it, in the middle of the upload or after it."""
    started = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(answered)
        if content:
            await taken.reader.readexactly(3)
        started.set()
        await taken.reader.read()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + (content or b"\r\n"))
        await asyncio.wait_for(started.wait(), 30)
    await upstream.wait_closed()


async def test_one_slow_request_does_not_hold_back_another(upstream: FakeUpstream) -> None:
    go_on = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        if request.target == b"/slow":
            await go_on.wait()
        await taken.write(OK)

    upstream.answer = answer
    async with passing(upstream.url) as sidecar, sidecar.client() as slow, sidecar.client() as fast:
        await slow.send(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await fast.ask()).content == b"ok"
        go_on.set()
        assert (await slow.answer()).content == b"ok"


async def test_no_more_connections_than_allowed(upstream: FakeUpstream) -> None:
    """The second request waits for the first one's connection."""
    go_on = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await go_on.wait()
        await taken.write(OK)

    upstream.answer = answer
    async with passing(upstream.url, max_connections=1) as sidecar, sidecar.client() as one, sidecar.client() as two:
        asked = [asyncio.create_task(one.ask()), asyncio.create_task(two.ask())]
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        go_on.set()
        assert [answer.content for answer in await asyncio.gather(*asked)] == [b"ok", b"ok"]
    assert len(upstream.taken) == 1


async def test_a_client_that_does_not_read_stops_upstream(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Back-pressure: no more is taken from upstream than fits between the two, and none of it is lost."""
    size = UNDER_WAY + (16 << 20)
    stalled: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        stalled.set_result(await write_until_stalled(taken.writer, size))
        await taken.write(bytes(size - stalled.result()))

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert await asyncio.wait_for(stalled, DEADLINE_S) < UNDER_WAY
        await client.head()
        assert await client.exactly(size) == bytes(size)


@RELAYED
async def test_an_upstream_that_does_not_read_stops_the_client(sidecar: Passing, upstream: FakeUpstream) -> None:
    size = UNDER_WAY + (16 << 20)
    go_on = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await go_on.wait()
        assert await taken.reader.readexactly(size) == bytes(size)
        await taken.write(OK)

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
        sent = await write_until_stalled(client.writer, size)
        assert sent < UNDER_WAY
        go_on.set()
        client.writer.write(bytes(size - sent))
        assert (await client.answer()).content == b"ok"


# Ways to upstream…


async def test_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    async with (
        FakeUpstream(path=str(tmp_path / "s")) as upstream,
        passing(upstream.url) as sidecar,
        sidecar.client() as client,
    ):
        assert (await client.ask()).content == b"ok"
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        await client.answer()
    assert upstream.requests[1].value(b"host") == b"localhost"


async def why_not(url: str) -> str:
    forwarder = Forwarder(Upstream(url=url), lambda _: None, "X-Verified-Identity")
    try:
        return await forwarder.why_not()
    finally:
        await forwarder.close()


async def test_upstream_is_reachable_while_it_takes_connections(tmp_path: Path) -> None:
    """Nothing is said while it is; then why it is not, with the place."""
    async with FakeUpstream() as upstream:
        assert await why_not(upstream.url) == ""
    assert await why_not(upstream.url) == f"refused {upstream.url.removeprefix('http://')}"
    assert await why_not(f"unix:{tmp_path}/nobody") == f"no socket {tmp_path}/nobody"
    assert await why_not("http://nobody.invalid:80") == "no address of nobody.invalid:80"


async def test_what_passes_is_one_message_after_another(sidecar: Passing, upstream: FakeUpstream) -> None:
    """What a client hides in its content is content, whatever its length fields say in odd spellings."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    async with RawClient(sidecar.port) as client:
        await client.ask("POST", fields=["Content_Length: 0", "Transfer_Encoding: chunked"], content=hidden)
    assert [request.content for request in upstream.requests] == [hidden]
    assert b"_" not in upstream.requests[0].raw
