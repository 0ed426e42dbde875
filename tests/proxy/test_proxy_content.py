"""How does content pass, and what stands around it? Ranges, trailers, interim and early answers, cut anywhere."""

import asyncio
import re

import pytest
from fakes import OK, FakeUpstream, Message, Taken, read_content
from proxied import Passing, passing

pytestmark = pytest.mark.usefixtures("engine")

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HOST = b"Host: example.com\r\n"
GET = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\n" + HOST
IN_CHUNKS = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n"
# A handler has read the content before anything leaves: these are of requests that are not read here.
RELAYED = pytest.mark.parametrize("engine", ["relayed"], indirect=True)


@pytest.mark.parametrize(
    "answered",
    [
        b"206 Partial Content\r\nContent-Range: bytes 2-4/9\r\nContent-Length: 3\r\n\r\ncde",
        b"206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x\r\nContent-Length: 5\r\n\r\n--x--",
        b"416 Range Not Satisfiable\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_range_is_upstreams_to_cut(sidecar: Passing, upstream: FakeUpstream, answered: bytes) -> None:
    upstream.answer = b"HTTP/1.1 " + answered
    async with sidecar.client() as client:
        answer = await client.ask(fields=["Range: bytes=2-4", 'If-Range: "a"'])
        assert answer.raw.replace(b"Via: 1.1 signup-sidecar\r\n", b"") == upstream.answer
        assert (await client.ask()).status == answer.status
    got = upstream.requests[0]
    assert (got.value(b"range"), got.value(b"if-range")) == (b"bytes=2-4", b'"a"')
    assert len(upstream.taken) == 1


# Trailers…


async def test_an_answers_trailers_pass(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Announced and unannounced ones, in order; not what only a field may say. And the connection goes on."""
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;x=y\r\nabc\r\n0;z\r\nX-Sum:1 \r\n"
        b"Content-Length: 3\r\nSet-Cookie: a=b\r\nserver-timing: \xff\r\nTransfer-Encoding: gzip\r\nX-Sum: 2\r\n\r\n"
    )
    passed = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nserver-timing: \xff\r\nX-Sum: 2\r\n\r\n"
    async with sidecar.client() as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"TE: trailers\r\n\r\n")
            assert (await client.head()).value(b"trailer") == b"X-Sum"
            assert await client.exactly(len(passed)) == passed
    assert len(upstream.taken) == 1
    assert (upstream.requests[0].value(b"te"), upstream.requests[0].value(b"connection")) == (b"trailers", b"TE")


async def test_a_client_of_http_1_0_gets_no_trailers(sidecar: Passing, upstream: FakeUpstream) -> None:
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert not (head := await client.head()).values(b"trailer")
        assert head.value(b"connection") == b"close"
        assert await client.rest() == b"abc"


@RELAYED
async def test_a_requests_trailers_pass_but_for_what_a_backend_could_take_for_ours(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(taken: Taken, request: Message) -> None:
        got.set_result(await taken.reader.readuntil(b"\r\n\r\n"))
        await taken.write(OK)

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(
            UPLOAD + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Sum:1\r\n"
            b"X-Verified-Identity: f\r\nx_verified.identity: f\r\nX-Forwarded-For: 6.6.6.6\r\nX_Request_Id: f\r\n"
            b"Content-Length: 1\r\nHost: f\r\nAuthorization: f\r\nX-HTTP-Method: f\r\nX-Sum: \xff\r\n\r\n"
        )
        assert (await client.answer()).content == b"ok"
    assert await got == b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Sum: \xff\r\n\r\n"
    assert upstream.requests[0].value(b"trailer") == b"X-Sum"


# Cut anywhere…


async def test_requests_that_come_octet_by_octet_are_what_they_are(sidecar: Passing, upstream: FakeUpstream) -> None:
    octets = (
        b"\r\nPOST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
        b"POST /b HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n2\r\nbc\r\n0\r\nX: y\r\n\r\n"
        + GET
    )
    seen: list[bytes] = []

    async def answer(taken: Taken, request: Message) -> None:
        if request.values(b"transfer-encoding"):
            while not request.raw.endswith(b"\r\n0\r\nX: y\r\n\r\n"):
                request.raw += await taken.reader.readexactly(1)
            seen.append(request.raw.partition(b"\r\n\r\n")[2])
        else:
            seen.append((await read_content(taken.reader, request)).content)
        await taken.write(OK)

    upstream.answer = answer
    async with sidecar.client() as client:
        for at in range(len(octets)):
            await client.send(octets[at : at + 1])
            await asyncio.sleep(0)  # a segment each
        assert [(await client.answer()).content for _ in range(3)] == [b"ok"] * 3
    assert [request.target for request in upstream.requests] == [b"/a", b"/b", b"/next"]
    if sidecar.relays:
        chunks, _, trailers = seen[1].partition(b"0\r\n")
        # What came in one read leaves as one chunk, and how many octets that are is the machine's affair.
        assert re.sub(rb"[123]\r\n(\w+)\r\n", rb"\1", chunks) == b"abc"
        assert trailers == b"X: y\r\n\r\n"
        seen[1] = b"abc"
    assert seen == [b"abc", b"abc", b""]


async def test_an_answer_that_comes_octet_by_octet_is_what_it_is(sidecar: Passing, upstream: FakeUpstream) -> None:
    octets = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\nA : b\n c\nTransfer-Encoding: chunked\n\n"
        b"1\r\na\r\n2;x\r\nbc\r\n0\r\n\r\n"
    )

    async def answer(taken: Taken, request: Message) -> None:
        for at in range(len(octets)):
            await taken.write(octets[at : at + 1])
            await asyncio.sleep(0)

    upstream.answer = answer
    async with sidecar.client() as client:
        for _ in range(2):
            hints = await client.ask()
            assert (hints.status, hints.value(b"link")) == (103, b"</a>")
            got = await client.answer()
            assert (got.content, got.value(b"a")) == (b"abc", b"b c")
    assert len(upstream.taken) == 1


# An answer before the request's end…


@RELAYED
async def test_an_echo_comes_back_while_the_upload_runs(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Both ways at once, and both connections are kept."""

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(CHUNKED)
        while (piece := await taken.reader.readuntil(b"\r\n")) != b"0\r\n":
            await taken.write(piece + await taken.reader.readexactly(int(piece, 16) + 2))
        await taken.write(piece + await taken.reader.readexactly(2))

    upstream.answer = answer
    async with sidecar.client() as client:
        for _ in range(2):
            await client.send(IN_CHUNKS)
            await client.head()
            for piece in (b"3\r\nabc\r\n", b"2\r\n\r\n\r\n", b"0\r\n\r\n"):
                await client.send(piece)
                assert await client.exactly(len(piece)) == piece
    assert len(upstream.taken) == 1


UPLOADS = [
    (UPLOAD + b"Content-Length: 6\r\n\r\nabc", b"def"),
    (IN_CHUNKS + b"3\r\nabc\r\n", b"3\r\ndef\r\n0\r\nX: y\r\n\r\n"),
]


@RELAYED
@pytest.mark.parametrize(("began", "rest"), UPLOADS)
async def test_after_an_early_answer_the_next_request_is_read_where_the_upload_ends(
    sidecar: Passing, upstream: FakeUpstream, began: bytes, rest: bytes
) -> None:
    """And sent on another connection: upstream's first one is in the middle of a request."""

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno" if taken.number == 0 else OK)
        await taken.reader.read()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(began)
        early = await client.answer()
        assert (early.status, early.content, early.values(b"connection")) == (413, b"no", [])
        await client.send(rest + GET)
        assert (await client.answer()).content == b"ok"
    assert [request.target for request in upstream.requests] == [b"/upload", b"/next"]


@RELAYED
@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"])
async def test_an_early_answer_is_read_whole_though_the_upload_goes_on(
    sidecar: Passing, upstream: FakeUpstream, connection: bytes
) -> None:
    """Nothing resets the connection under a client that has not heard yet."""
    size = 1 << 20

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await taken.reader.read()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(UPLOAD + connection + b"Content-Length: %d\r\n\r\n" % (8 * size))
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        await client.send(bytes(4 * size))
        await upstream.wait_closed()
        assert (await client.answer()).content == bytes(size)
        if connection:
            assert await client.rest() == b""
        await client.send(bytes(2 * size))
        await client.send(bytes(2 * size))


@RELAYED
@pytest.mark.parametrize(
    ("began", "rest"),
    [
        (UPLOAD + b"Content-Length: 9000003\r\n\r\nabc", bytes(4_000_000)),
        (IN_CHUNKS + b"3\r\nabc\r\n", (b"7d000\r\n" + bytes(512_000) + b"\r\n") * 8),
    ],
)
async def test_a_refusal_is_read_whole_though_the_upload_goes_on(
    sidecar: Passing, upstream: FakeUpstream, began: bytes, rest: bytes
) -> None:
    """Upstream has gone; the client hears so, and what it still sends resets nothing."""

    async def answer(taken: Taken, request: Message) -> None:
        await taken.reader.readexactly(3)
        taken.reset()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(began)
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        await upstream.wait_closed()
        await client.send(rest)
        assert (await client.answer()).content == b"upstream_unavailable"
        assert await client.rest() == b""
        await client.send(rest)


# One request behind another…


@pytest.mark.parametrize(
    "upload", [UPLOAD + b"Content-Length: 6\r\n\r\nGET / ", IN_CHUNKS + b"6\r\nGET / \r\n0\r\nX: y\r\n\r\n"]
)
@pytest.mark.parametrize("cut", [0, 5, 20, 80])
async def test_requests_behind_an_upload_are_answered_after_it(
    sidecar: Passing, upstream: FakeUpstream, upload: bytes, cut: int
) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        if request.values(b"transfer-encoding"):
            await taken.reader.readuntil(b"\r\nX: y\r\n\r\n")
        else:
            await read_content(taken.reader, request)
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.target) + request.target)

    upstream.answer = answer
    octets = upload + GET + upload + GET
    async with sidecar.client() as client:
        await client.send(octets[:cut])
        await asyncio.sleep(0)
        await client.send(octets[cut:])
        assert [(await client.answer()).content for _ in range(4)] == [b"/upload", b"/next"] * 2
    assert len(upstream.requests) == 4


async def test_a_client_of_http_1_0_hears_no_interim_answer(sidecar: Passing, upstream: FakeUpstream) -> None:
    """RFC 9110 section 15.2."""
    upstream.answer = b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK
    async with sidecar.client() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")


@RELAYED
async def test_a_refused_expectation_needs_no_content(sidecar: Passing, upstream: FakeUpstream) -> None:
    """The content that was not sent is still owed: the connection is no other request's."""

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        taken.writer.close()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(UPLOAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(GET))
        assert (await client.answer()).status == 417
        await client.send(GET)
    assert [request.target for request in upstream.requests] == [b"/upload"]


# Content that does not come…


@RELAYED
@pytest.mark.parametrize("began", [began for began, _ in UPLOADS])
async def test_content_that_stops_coming_is_refused_and_never_looks_whole(upstream: FakeUpstream, began: bytes) -> None:
    rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(taken: Taken, request: Message) -> None:
        rest.set_result(await taken.reader.read())

    upstream.answer = answer
    async with passing(upstream.url, content_s=1.0) as sidecar, sidecar.client() as client:
        await client.send(began)
        refused = await client.answer()
        assert (refused.status, refused.value(b"connection")) == (400, b"close")
        assert await client.rest() == b""
    assert await rest in {b"abc", b"3\r\nabc\r\n"}
    assert [refusal.reason for refusal in sidecar.refusals] == ["content_too_slow"]


@RELAYED
async def test_content_that_stops_coming_breaks_an_answer_that_has_begun(upstream: FakeUpstream) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(CHUNKED + b"3\r\nabc\r\n")
        await taken.reader.read()

    upstream.answer = answer
    async with passing(upstream.url, content_s=1.0) as sidecar, sidecar.client() as client:
        await client.send(UPLOADS[0][0])
        await client.head()
        assert await client.rest() == b"3\r\nabc\r\n"
    assert [answer.is_cut for answer in sidecar.answers] == [True]


@RELAYED
async def test_content_that_comes_slowly_is_not_content_that_stops(upstream: FakeUpstream) -> None:
    """Each octet has the whole time, and an upstream that takes none of it is not the client's fault."""
    async with passing(upstream.url, content_s=2.0) as sidecar, sidecar.client() as client:
        await client.send(UPLOAD + b"Content-Length: 4\r\n\r\n")
        answer = asyncio.create_task(client.answer())
        for _ in range(4):
            done, _ = await asyncio.wait([answer], timeout=0.7)
            assert not done
            await client.send(b"x")
        assert (await answer).content == b"ok"


@RELAYED
async def test_an_upload_that_pauses_is_not_upstreams_silence(upstream: FakeUpstream) -> None:
    """While the client owes content, upstream has nothing to answer: `read_timeout` begins when all has been sent."""
    async with passing(upstream.url, read_timeout=1.0) as sidecar, sidecar.client() as client:
        await client.send(UPLOAD + b"Content-Length: 4\r\n\r\nab")
        answer = asyncio.create_task(client.answer())
        done, _ = await asyncio.wait([answer], timeout=1.5)
        assert not done
        await client.send(b"cd")
        assert (await answer).content == b"ok"


async def test_a_client_that_takes_nothing_is_not_upstreams_silence(upstream: FakeUpstream) -> None:
    """Upstream is not read while the client's buffer is full, so its silence is ours."""
    size = 8 << 20
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with passing(upstream.url, read_timeout=1.0) as sidecar, sidecar.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads too
        await client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        await asyncio.sleep(1.5)  # longer than upstream may be silent for
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.answer()).content) == size


async def test_a_gate_that_decides_is_not_upstreams_silence(upstream: FakeUpstream) -> None:
    """The status is known and the gate settles the code: however long that takes, upstream's answer is passed on."""

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await settled.wait()
        await taken.write(b"ok")

    async def settle(_: int) -> None:
        await asyncio.wait([asyncio.create_task(settled.wait())], timeout=1.5)
        settled.set()

    settled = asyncio.Event()
    upstream.answer = answer
    async with passing(upstream.url, read_timeout=1.0) as sidecar, sidecar.client() as client:
        sidecar.on_status = settle
        assert (await client.ask()).content == b"ok"


@RELAYED
async def test_a_refusal_of_bad_chunks_is_read_whole_though_more_comes(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    async def answer(taken: Taken, request: Message) -> None:
        await taken.reader.read()

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(IN_CHUNKS + b"3\r\nabc\r\n")
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        await client.send(b"Z\r\n")
        await upstream.wait_closed()
        for _ in range(8):
            await client.send(b"Z\r\n" * (1 << 18))
        assert (await client.answer()).status == 400
        assert await client.rest() == b""
