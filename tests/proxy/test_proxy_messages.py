"""Where does a message end, and what does its head say? The parser alone, without a socket."""

import itertools
import re
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.proxy import messages
from sidecar.proxy.fields import serialize
from sidecar.proxy.messages import (
    CRLF,
    HTTP_1_0,
    HTTP_1_1,
    MAX_ANSWER_HEAD,
    MAX_ANSWER_LINE,
    MAX_CHUNK_LINE,
    MAX_EXTENSIONS,
    MAX_FIELDS,
    MAX_HEAD,
    MAX_LENGTH,
    MAX_TRAILERS,
    Answer,
    Chunked,
    Content,
    RawFields,
    Request,
    Sized,
    UntilClose,
    check_beginning,
    end_of_answer_head,
    read_answer,
    read_fields,
    read_request,
)

LINE = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def read(head: bytes) -> Request:
    """A request's head without its empty line, cut as the listener cuts it."""
    line, _, block = head.partition(CRLF)
    return read_request(line, read_fields(block))


def why(head: bytes) -> str:
    """The reason for which a request's head is refused."""
    with pytest.raises(Refusal) as refused:
        read(head)
    assert refused.value.status == 400
    return refused.value.reason


# A request's head…


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "request_line"),
        (b"GET", "request_line"),
        (b"GET /", "request_line"),
        (b"GET  / HTTP/1.1", "request_line"),
        (b"GET /  HTTP/1.1", "request_line"),
        (b" GET / HTTP/1.1", "request_line"),
        (b"GET / HTTP/1.1 ", "request_line"),
        (b"GET\t/ HTTP/1.1", "request_line"),
        (b"GET / HTTP/1.1\r", "request_line"),
        (b"GET / HTTP/1.1\n", "request_line"),
        (b"GET /a b HTTP/1.1", "request_line"),
        (b"GET /\r HTTP/1.1", "request_line"),
        (b"GET /\0 HTTP/1.1", "request_line"),
        (b"GET /\x7f HTTP/1.1", "request_line"),
        (b"G(T / HTTP/1.1", "request_line"),
        (b"G\xe9T / HTTP/1.1", "request_line"),
        (b"GET / http/1.1", "request_line"),
        (b"GET / HTTP/1.10", "request_line"),
        (b"GET / HTTP/01.1", "request_line"),
        (b"GET / HTTP/11", "request_line"),
        (b"GET / HTTP/1,1", "request_line"),
        (b"GET / HTTP/\xb2.1", "request_line"),
        (b"GET / HTTPS/1.1", "request_line"),
        (b"GET / HTTP/0.9", "version"),
        (b"GET / HTTP/1.2", "version"),
        (b"GET / HTTP/2.0", "version"),
        (b"PRI * HTTP/2.0", "version"),
        (b"CONNECT a:1 HTTP/1.1", "connect"),
        (b"CONNECT / HTTP/1.1", "connect"),
        (b"GET /a#b HTTP/1.1", "target"),
        (b"GET http://a/#b HTTP/1.1", "target"),
        (b"GET a HTTP/1.1", "target_form"),
        (b"GET ?a HTTP/1.1", "target_form"),
        (b"GET * HTTP/1.1", "target_form"),
        (b"OPTIONS ** HTTP/1.1", "target_form"),
        (b"GET a:80 HTTP/1.1", "target_form"),
        (b"GET ftp://a/ HTTP/1.1", "target_form"),
        (b"GET http:/a HTTP/1.1", "target_form"),
        (b"GET http:///a HTTP/1.1", "target_form"),
        (b"GET http://?a HTTP/1.1", "target_form"),
        (b"GET http://u@a/ HTTP/1.1", "target_form"),
        (b"GET http://u:p@a/ HTTP/1.1", "target_form"),
        (b"GET http://a\\b/ HTTP/1.1", "target_form"),
        (b"GET http://\xe9/ HTTP/1.1", "target_form"),
    ],
)
def test_a_line_that_is_no_requests_is_refused(line: bytes, reason: str) -> None:
    assert why(line + CRLF + HOST) == reason


def test_trace_is_denied() -> None:
    with pytest.raises(Refusal) as refused:
        read(b"TRACE / HTTP/1.1\r\n" + HOST)
    assert (refused.value.status, refused.value.reason) == (403, "trace")


@pytest.mark.parametrize(
    ("target", "origin", "authority"),
    [
        (b"/", b"/", None),
        (b"//a/..;x?", b"//a/..;x?", None),
        (b"/\xc3\xa9\xff", b"/\xc3\xa9\xff", None),
        (b"/?http://b/", b"/?http://b/", None),
        (b"http://b", b"/", b"b"),
        (b"http://b?c", b"/?c", b"b"),
        (b"HTTPS://b:8/c?d", b"/c?d", b"b:8"),
        (b"http://[::1]:8//c", b"//c", b"[::1]:8"),
    ],
)
def test_a_target_is_read_as_an_origin_server_reads_it(target: bytes, origin: bytes, authority: bytes | None) -> None:
    request = read(b"GET " + target + b" HTTP/1.1\r\n" + HOST)
    assert (request.target, request.origin, request.authority) == (target, origin, authority)
    assert request.start == b"GET " + origin + b" HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("target", "origin"), [(b"*", b"*"), (b"http://b", b"*"), (b"http://b/", b"/"), (b"http://b?", b"/?"), (b"/", b"/")]
)
def test_options_may_ask_for_the_whole_server(target: bytes, origin: bytes) -> None:
    """RFC 9112 section 3.2.4."""
    assert read(b"OPTIONS " + target + b" HTTP/1.1\r\n" + HOST).origin == origin


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"Host: a\r\nno colon\r\n", "field"),
        (b"Host: a\r\nA : b\r\n", "field"),
        (b"Host: a\r\nA\t: b\r\n", "field"),
        (b"Host: a\r\n A: b\r\n", "field"),
        (b" Host: a\r\n", "field"),
        (b"Host: a\r\nA: b\r\n c: d\r\n", "field"),
        (b"Host: a\r\nA: b\r\n\tc\r\n", "field"),
        (b"Host: a\r\nA: b\r\n \r\n", "field"),
        (b"Host: a\r\n: b\r\n", "field"),
        (b"Host: a\r\nA(: b\r\n", "field"),
        (b"Host: a\r\nA B: c\r\n", "field"),
        (b"Host: a\r\n\xe9: b\r\n", "field"),
        (b"Host: a\r\nA\0: b\r\n", "field"),
        (b"Host: a\r\nA: \0\r\n", "field"),
        (b"Host: a\r\nA: b\x01\r\n", "field"),
        (b"Host: a\r\nA: b\x7f\r\n", "field"),
        (b"Host: a\r\nA: b\rC: d\r\n", "field"),
        (b"Host: a\r\nA: b\nC: d\r\n", "field"),
        (b"Host: a\r\nA: b\r\r\n", "field"),
        (b"Host: a\r\nA: b\n", "field"),
        (b"Host: a\r\nA: b", "field"),
        (b"Host: a\r\n\r\nA: b\r\n", "field"),
        (b"", "host"),
        (b"A: b\r\n", "host"),
        (b"Host: a\r\nHost: a\r\n", "host"),
        (b"Host: a\r\nhOST: b\r\n", "host"),
        (b"Host: a b\r\n", "host"),
        (b"Host: a/b\r\n", "host"),
        (b"Host: a?b\r\n", "host"),
        (b"Host: a#b\r\n", "host"),
        (b"Host: a\\b\r\n", "host"),
        (b"Host: u@a\r\n", "host"),
        (b"Host: \xe9\r\n", "host"),
    ],
)
def test_fields_that_could_be_read_otherwise_are_refused(block: bytes, reason: str) -> None:
    assert why(LINE + block) == reason


@pytest.mark.parametrize("value", [b"", b"a", b"A.b:80", b"[::1]:80", b"%41", b"a_b"])
def test_a_host_is_one_authority(value: bytes) -> None:
    assert read(LINE + b"Host:" + value + CRLF).fields.said[b"host"] == [value]


def test_more_fields_than_any_client_sends_are_too_large_a_head() -> None:
    """A parser's time for a head has a bound, whatever its octets are."""
    with pytest.raises(Refusal) as refused:
        read(LINE + HOST + b"A: b\r\n" * MAX_FIELDS)
    assert (refused.value.status, refused.value.reason) == (431, "fields")


def test_http_1_0_needs_no_host() -> None:
    assert read(b"GET / HTTP/1.0\r\n").fields.said == {}
    assert why(b"GET / HTTP/1.0\r\n" + HOST + HOST) == "host"


def test_a_head_at_its_limits_is_read() -> None:
    longest = b"A: " + b"a" * 8000 + CRLF
    target = b"/" + b"a" * 8000
    assert read(b"GET " + target + b" HTTP/1.1\r\n" + HOST + longest).target == target
    assert len(read(LINE + HOST + b"A: b\r\n" * (MAX_FIELDS - 1)).fields.raw) == MAX_FIELDS
    block = HOST + longest * 7
    block += b"A:" + b"a" * (MAX_HEAD - len(block) - 4) + CRLF
    assert len(block) == MAX_HEAD
    assert len(read(LINE + block).fields.raw) == 9


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"Content-Length: 1\r\nContent-Length: 1\r\n", "content_length"),
        (b"Content-Length: 1\r\ncontent-LENGTH: 2\r\n", "content_length"),
        (b"Content-Length: 1, 1\r\n", "content_length"),
        (b"Content-Length: 1,\r\n", "content_length"),
        (b"Content-Length:\r\n", "content_length"),
        (b"Content-Length: +1\r\n", "content_length"),
        (b"Content-Length: -1\r\n", "content_length"),
        (b"Content-Length: 1 1\r\n", "content_length"),
        (b"Content-Length: 1.0\r\n", "content_length"),
        (b"Content-Length: 0x1\r\n", "content_length"),
        (b"Content-Length: 1_0\r\n", "content_length"),
        (b"Content-Length: \xb2\r\n", "content_length"),
        (b"Content-Length: \xd9\xa1\r\n", "content_length"),
        (b"Content-Length: 9223372036854775808\r\n", "content_length"),
        (b"Content-Length: 18446744073709551617\r\n", "content_length"),
        (b"Content-Length: 00000000000000000001\r\n", "content_length"),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "content_length"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "content_length"),
        (b"Transfer-Encoding: identity\r\nContent-Length: 1\r\n", "content_length"),
        (b"Transfer-Encoding: gzip, chunked\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: chunked, gzip\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: chunked, chunked\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: identity\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: xchunked\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: chunked;a=b\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: ,chunked\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: \x0bchunked\r\n", "field"),
        (b'Transfer-Encoding: "chunked"\r\n', "transfer_encoding"),
        (b"Transfer-Encoding:\r\n", "transfer_encoding"),
    ],
)
def test_content_that_could_end_elsewhere_is_refused(block: bytes, reason: str) -> None:
    """Of an answer too, but that a length and chunks are no request's."""
    assert why(POST + HOST + block) == reason
    with pytest.raises(Refusal) as refused:
        read_answer(OK + block + CRLF)
    # Of control octets, those that end no line are an old server's own.
    assert refused.value.reason == ("transfer_encoding" if reason == "field" else reason)


def test_http_1_0_has_no_transfer_codings() -> None:
    assert why(b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n") == "chunked_1_0"


@pytest.mark.parametrize(
    ("block", "length", "chunked"),
    [
        (b"", None, False),
        (b"Content-Length: 0\r\n", 0, False),
        (b"content-length:\t12 \r\n", 12, False),
        (b"Content-Length: 0000000000000000012\r\n", 12, False),
        (b"Content-Length: 9223372036854775807\r\n", MAX_LENGTH, False),
        (b"Transfer-Encoding: chunked\r\n", None, True),
        (b"TRANSFER-encoding:CHUNKED\t\r\n", None, True),
        (b"Content_Length: 1\r\nTransfer_Encoding: chunked\r\n", None, False),
    ],
)
def test_content_is_framed_one_way(block: bytes, length: int | None, chunked: bool) -> None:
    fields = read(POST + HOST + block).fields
    assert (fields.length, fields.chunked) == (length, chunked)
    fields = read_answer(OK + block + CRLF).fields
    assert (fields.length, fields.chunked) == (length, chunked)


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: a, CLOSE ,b\r\n", False),
        (b"1.1", b"Connection: a\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_a_connection_persists_as_its_message_says(version: bytes, connection: bytes, stays: bool) -> None:
    """RFC 9112 section 9.3, for both ends."""
    assert read(b"GET / HTTP/" + version + CRLF + HOST + connection).keep_alive is stays
    assert read_answer(b"HTTP/" + version + b" 200 OK\r\n" + connection + CRLF).keep_alive is stays


def test_an_answer_of_http_1_0_in_chunks_is_its_connections_last() -> None:
    """RFC 9112 section 6.1: its framing is not to be relied on."""
    assert not read_answer(
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n"
    ).keep_alive


@pytest.mark.parametrize(
    ("head", "is_websocket"),
    [
        (LINE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n", True),
        (LINE + b"Connection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\nContent-Length: 0\r\n", True),
        (LINE + b"Upgrade: websocket\r\n", False),
        (LINE + b"Connection: Upgrade\r\n", False),
        (LINE + b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
        (POST + b"Connection: Upgrade\r\nUpgrade: h2c, HTTP/2.0\r\nContent-Length: 1\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", False),
    ],
)
def test_a_websocket_is_asked_for_in_one_way(head: bytes, is_websocket: bool) -> None:
    assert read(head + HOST).is_websocket is is_websocket


@pytest.mark.parametrize(
    "head",
    [
        POST + b"Upgrade: websocket\r\n",
        LINE + b"Upgrade: websocket\r\nContent-Length: 1\r\n",
        LINE + b"Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
        LINE + b"Upgrade: websocket\r\nUpgrade: websocket\r\n",
        LINE + b"Upgrade: websocket, h2c\r\n",
        LINE + b"Upgrade: tcp\r\n",
        LINE + b"Upgrade: xh2c\r\n",
        LINE + b"Upgrade: h2c,\r\n",
    ],
)
def test_an_upgrade_that_cannot_be_served_or_left_is_refused(head: bytes) -> None:
    assert why(head + HOST + b"Connection: Upgrade\r\n") == "upgrade"


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\n", "line_end"),
        (b"GET / HTTP/1.1\n", "line_end"),
        (b"GET / HTTP/1.1\r\nA: b\n", "line_end"),
        (b"GET / HTTP/1.1\rA", "line_end"),
        (b"GET / HTTP/1.1\r\r", "line_end"),
        (b"GE\0", "line_end"),
        (b"a" * (MAX_HEAD + 2), "octets"),
        (LINE + b"A: b\r\n" * (MAX_HEAD // 6), "octets"),
    ],
)
def test_a_head_that_can_never_be_whole_is_not_waited_for(octets: bytes, reason: str) -> None:
    """However it is cut."""

    def wait_for(*ends: int) -> None:
        for known, end in itertools.pairwise((0, *ends)):
            check_beginning(octets[:end], known)

    for cut in (0, 1, len(octets) // 2, len(octets) - 1):
        with pytest.raises(Refusal) as refused:
            wait_for(cut, len(octets))
        assert refused.value.reason == reason


@pytest.mark.parametrize("octets", [b"", b"\r", b"G", b"GET / HTTP/1.1\r", LINE, LINE + b"A: b\r", b"a" * 8000])
def test_a_head_that_may_be_whole_yet_is_waited_for(octets: bytes) -> None:
    for known in range(len(octets)):
        check_beginning(octets, known)


# An answer's head…


@pytest.mark.parametrize(
    ("head", "raw"),
    [
        (b"HTTP/1.1 200 OK\nA: b\n\n", [(b"A", b"b")]),
        (b"HTTP/1.1 200 OK\r\nA: b\n\r\n", [(b"A", b"b")]),
        (b"HTTP/1.1 200 OK\nA: b\r\nC: d\n\n", [(b"A", b"b"), (b"C", b"d")]),
        (b"HTTP/1.1 200 OK\r\nA : b\r\nC\t \t:d\r\n\r\n", [(b"A", b"b"), (b"C", b"d")]),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\t d\r\nE: f\r\n\r\n", [(b"A", b"b c d"), (b"E", b"f")]),
        (b"HTTP/1.1 200 OK\nA: b\n c: d\n\n", [(b"A", b"b c: d")]),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n \r\n\r\n", [(b"A", b"b")]),
        (b"HTTP/1.1 200 OK\r\nA:\x01\x7f\xe9 \r\n\r\n", [(b"A", b"\x01\x7f\xe9")]),
        (b"HTTP/1.1 200 OK\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\n\n", []),
    ],
)
def test_an_old_servers_head_is_mended(head: bytes, raw: list[tuple[bytes, bytes]]) -> None:
    """RFC 9112 section 2.2, 5.1 and 5.2: what is passed on is well-formed."""
    for end in range(len(head)):
        assert end_of_answer_head(head[:end]) == 0
    assert end_of_answer_head(head + b"content\n\n") == len(head)
    answer = read_answer(head)
    assert (answer.status, answer.reason) == (200, b"OK")
    assert list(answer.fields.raw) == raw
    serialize([(name, value) for name, value in answer.fields.raw])


@pytest.mark.parametrize(
    ("line", "version", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", HTTP_1_1, 200, b"OK"),
        (b"HTTP/1.0 999 ", HTTP_1_0, 999, b""),
        (b"HTTP/1.1 100", HTTP_1_1, 100, b""),
        (b"HTTP/1.1 404 No\tsuch \xe9 ", HTTP_1_1, 404, b"No\tsuch \xe9 "),
    ],
)
def test_a_status_line_is_read(line: bytes, version: tuple[int, int], status: int, reason: bytes) -> None:
    answer = read_answer(line + b"\r\n\r\n")
    assert (answer.version, answer.status, answer.reason) == (version, status, reason)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 020 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 2\xb20 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 OK\r",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 200 OK\r\n folded",
        b"HTTP/1.1 200 OK\n\tA: b",
    ],
)
def test_a_status_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_answer(line + b"\r\n\r\n")
    assert refused.value.reason == "status_line"


BAD_FIELDS = [
    b"no colon\r\n",
    b": b\r\n",
    b"A B: c\r\n",
    b"\xe9: b\r\n",
    b"A(: b\r\n",
    b"A: b\0\r\n",
    b"A: b\rC: d\r\n",
    b"A: b\r\r\n",
]


@pytest.mark.parametrize(
    ("block", "reason"),
    [(b"A: " + b"a" * MAX_ANSWER_LINE + b"\r\n", "head_too_large"), *((block, "field") for block in BAD_FIELDS)],
)
def test_an_answers_fields_that_cannot_be_mended_are_refused(block: bytes, reason: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_answer(OK + block + CRLF)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"g", "status_line"),
        (b"HTTP/2", "status_line"),
        (b"\r\nHTTP/1.1 200 OK\r\n", "status_line"),
        (OK + b"A: b\r\n" * (MAX_ANSWER_HEAD // 6), "head_too_large"),
        (OK + b"A: b\r\n" * (MAX_ANSWER_HEAD // 6) + CRLF, "head_too_large"),
    ],
)
def test_an_answer_that_can_never_be_one_is_not_waited_for(octets: bytes, reason: str) -> None:
    with pytest.raises(Refusal) as refused:
        end_of_answer_head(octets)
    assert refused.value.reason == reason


# Contents…

Fed = tuple[bytes, bytes | None, list[tuple[bytes, bytes]]]


def fed(content: Content, pieces: Sequence[bytes]) -> Fed:
    """The content, what stands behind it (None while more must come) and the trailers."""
    got, behind = b"", None
    for piece in pieces:
        if behind is None:
            octets, behind = content.feed(piece)
            got += octets
        else:
            behind += piece
    return got, behind, list(content.trailers)


@pytest.mark.parametrize(
    ("octets", "read"),
    [
        (b"0\r\n\r\n", (b"", b"", [])),
        (b"3\r\nabc\r\n0\r\n\r\n", (b"abc", b"", [])),
        (b"1\r\na\r\n2\r\n\r\n\r\n0\r\n\r\nGET /", (b"a\r\n", b"GET /", [])),
        (b"A\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", (b"0\r\n\r\n0\r\n\r\n", b"", [])),
        (b"0000000000000003\r\nabc\r\n00\r\n\r\n", (b"abc", b"", [])),
        (b'3;x=y;z="q;"\r\nabc\r\n0 ; end\r\n\r\n\n', (b"abc", b"\n", [])),
        (b"3 \t;\xe9\r\nabc\r\n0\r\nA: b\r\nA:\t c \r\n\r\nrest", (b"abc", b"rest", [(b"A", b"b"), (b"A", b"c")])),
        (b"c\r\n\0\xff\r\n0\r\n\r\n3\r\n\r\n0\r\nX:\r\n\r\n", (b"\0\xff\r\n0\r\n\r\n3\r\n", b"", [(b"X", b"")])),
        (b"3\r\nabc\r\n0\r\nA: b\r\n", (b"abc", None, [])),
        (b"ff\r\nabc", (b"abc", None, [])),
        (b"7fffffffffffffff\r\nabc", (b"abc", None, [])),
    ],
)
def test_chunks_are_read_the_same_however_they_are_cut(octets: bytes, read: Fed) -> None:
    """Extensions end here, what stands behind the message is left, and trailers are there at its end."""
    for first in range(len(octets) + 1):
        assert fed(Chunked(), [octets[:first], octets[first:]]) == read
        for second in range(first, len(octets)):
            assert fed(Chunked(), [octets[:first], octets[first:second], octets[second:]]) == read
    assert fed(Chunked(), [octets[at : at + 1] for at in range(len(octets))]) == read


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"Z\r\n",
        b"g\r\n",
        b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"-1\r\n",
        b"0x3\r\nabc\r\n",
        b"3_0\r\n",
        b"\xb2\r\n",
        b"8000000000000000\r\n",
        b"ffffffffffffffff\r\n",
        b"00000000000000003\r\nabc\r\n",
        b"10000000000000003\r\nabc\r\n",
        b"3\nabc\r\n",
        b"3\rabc\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"3;a\rb\r\nabc\r\n",
        b"3;\0\r\nabc\r\n",
        b"3;\x7f\r\nabc\r\n",
        b"3,a\r\nabc\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc0\r\n",
        b"3\r\nabc\r\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
        b"0\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: \0\r\n\r\n",
        b"0\r\n: b\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * (MAX_FIELDS + 1) + CRLF,
        b"0\r\nA: " + b"b" * MAX_TRAILERS + b"\r\n\r\n",
        b"0\r\n" + (b"A: " + b"b" * 994 + CRLF) * (MAX_TRAILERS // 999 + 1),
    ],
)
def test_chunks_that_break_their_framing_are_refused_however_they_are_cut(octets: bytes) -> None:
    cuts = range(len(octets) + 1) if len(octets) < 100 else (1, 3, 4, len(octets) // 2, len(octets) - 1)
    for cut in cuts:
        with pytest.raises(Refusal) as refused:
            fed(Chunked(), [octets[:cut], octets[cut:]])
        assert refused.value.code == "malformed_request"


def test_what_nobody_needs_of_a_chunk_is_bounded() -> None:
    """One line, however slowly it comes; and all extensions of a message together."""
    longest = b"3;" + b"a" * (MAX_CHUNK_LINE - 4)
    assert Chunked().feed(longest + CRLF + b"abc\r\n") == (b"abc", None)
    for pieces in ([longest + b"a" + CRLF], [longest, b"a", b"a\r\n"], [longest + b"aaa"]):
        with pytest.raises(Refusal):
            fed(Chunked(), pieces)
    content, each = Chunked(), b"1;" + b"a" * 1022 + b"\r\nb\r\n"
    assert fed(content, [each] * (MAX_EXTENSIONS // 1023))[0] == b"b" * (MAX_EXTENSIONS // 1023)
    with pytest.raises(Refusal):
        content.feed(each)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_content_of_a_known_length_ends_there(length: int) -> None:
    octets = b"abcdefg"
    for first in range(len(octets)):
        assert fed(Sized(length), [octets[:first], octets[first:]]) == (octets[:length], octets[length:], [])
    assert fed(Sized(9), [octets]) == (octets, None, [])


def test_content_that_ends_with_its_connection_has_no_other_end() -> None:
    assert fed(UntilClose(), [b"0\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n\r\n"]) == (
        b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        None,
        [],
    )


# Whatever comes…

TOKENS = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=9).map(str.encode)
VALUES = st.binary(max_size=12).map(lambda octets: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", octets).strip(b" \t"))
RAWS = st.lists(st.tuples(TOKENS, VALUES), max_size=8)
# What a hostile end would try, pieced together.
SCRAPS = st.sampled_from(
    b"GET|POST|OPTIONS|CONNECT| |/|*|http://b|?a|#| HTTP/1.1| HTTP/1.0|HTTP/1.1 200 OK|HTTP/1.1 101 X|\r\n|\r\n\r\n"
    b"|\n|\r|\0|\t|:|: |Host: a|Content-Length: |Transfer-Encoding: chunked|Connection: |Upgrade: websocket|close|,|;"
    b"|0|1|3|A|f|abc|+|\xff|0\r\n\r\n|7fffffffffffffff|99999999999999999999".split(b"|")
)
OCTETS = st.lists(st.one_of(SCRAPS, SCRAPS, SCRAPS, st.binary(max_size=4)), max_size=24).map(b"".join)
CHUNKS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=20).map(lambda octets: b"%x\r\n%b\r\n" % (len(octets), octets)),
        st.sampled_from([b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\n", b"3;x=y\r\nabc\r\n", b"A: b\r\n", b"\r\n"]),
        st.binary(max_size=3),
    ),
    max_size=8,
).map(b"".join)


@given(TOKENS, st.text("/ab%?;.=*", max_size=9), RAWS)
def test_a_request_that_is_read_and_written_reads_the_same(method: bytes, rest: str, raw: RawFields) -> None:
    def told(request: Request) -> tuple[object, ...]:
        fields = request.fields
        framing = fields.length, fields.chunked, fields.options, fields.upgrade, fields.said.get(b"host")
        return request.method, request.origin, request.version, list(fields.raw), framing

    line = b"%b /%b HTTP/1.1" % (method, rest.encode())
    written = [(b"Host", b"a"), *((b"X" + name, value) for name, value in raw)]
    first = read_request(line, read_fields(serialize(written)))
    again = read_request(first.start.removesuffix(CRLF), read_fields(serialize(first.fields.raw)))
    assert told(again) == told(first)
    assert list(first.fields.raw) == written


@given(
    st.integers(100, 999),
    st.lists(
        st.tuples(
            TOKENS,
            st.sampled_from([b":", b" :", b"\t: ", b": "]),
            st.lists(VALUES, min_size=1, max_size=3),
            st.sampled_from([b"\n ", b"\r\n\t", b"\r\n  "]),
            st.sampled_from([b"\n", b"\r\n"]),
        )
    ),
)
def test_what_is_mended_once_needs_no_mending(
    status: int, lines: list[tuple[bytes, bytes, list[bytes], bytes, bytes]]
) -> None:
    """An old server's head, as it is passed on, reads the same and strictly."""
    head = b"HTTP/1.1 %d Odd\n" % status
    for name, colon, values, fold, end in lines:
        head += b"X" + name + colon + fold.join(values) + end
    first = read_answer(head + b"\n")
    written = serialize(first.fields.raw)
    again = read_answer(b"HTTP/1.1 %d %b\r\n%b" % (first.status, first.reason, written + CRLF))
    assert (again.status, again.reason, list(again.fields.raw)) == (status, b"Odd", list(first.fields.raw))
    assert list(read_fields(written).raw) == list(first.fields.raw)
    assert [name for name, _ in first.fields.raw] == [b"X" + name for name, *_ in lines]


@given(OCTETS)
def test_any_octets_are_a_head_or_refused(octets: bytes) -> None:
    """And what is read holds nothing that could end a line."""
    head, found, _ = octets.partition(b"\r\n\r\n")
    try:
        if found:
            request = read(head + CRLF)
            assert re.fullmatch(rb"[^\s\0]+ [^\s\0]+ HTTP/1\.1\r\n", request.start)
            serialize(request.fields.raw)
        else:
            check_beginning(octets)
    except Refusal:
        pass
    try:
        end = end_of_answer_head(octets)
        answer = read_answer(octets[:end]) if end else Answer(HTTP_1_1, 200, b"", messages.Fields([]))
        serialize([(b"Reason", answer.reason), *answer.fields.raw])
    except Refusal:
        pass


def outcome(pieces: Sequence[bytes]) -> Fed | None:
    """What chunks come to; None where they are refused."""
    try:
        return fed(Chunked(), pieces)
    except Refusal:
        return None


@given(st.one_of(CHUNKS, OCTETS), st.lists(st.integers(0, 200), max_size=6))
def test_any_octets_are_chunks_or_refused_and_the_same_however_they_are_cut(octets: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    whole = outcome([octets])
    assert outcome([octets[start:end] for start, end in itertools.pairwise(edges)]) == whole
    assert outcome([octets[at : at + 1] for at in range(len(octets))]) == (whole if octets else (b"", None, []))


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), RAWS, st.binary(max_size=10))
def test_content_written_in_chunks_is_read_again(pieces: list[bytes], trailers: RawFields, behind: bytes) -> None:
    octets = b"".join(b"%X;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    octets += b"0\r\n" + serialize(trailers) + CRLF
    assert fed(Chunked(), [octets + behind]) == (b"".join(pieces), behind, list(trailers))


def test_as_many_options_as_fields_are_read() -> None:
    """Connection names fields, and no message has more."""
    names = [b"x%d" % number for number in range(MAX_FIELDS)]
    assert len(read_fields(b"Host: h\r\nConnection: " + b",".join(names) + CRLF).options) == MAX_FIELDS
    with pytest.raises(Refusal) as refused:
        read_fields(b"Host: h\r\nConnection: " + b",".join([*names, b"y"]) + CRLF)
    assert (refused.value.code, refused.value.reason) == ("head_too_large", "options")


def test_nothing_large_is_remembered_of_a_head() -> None:
    """Many long heads, each another one, leave nothing behind."""
    tracemalloc.start()
    try:
        for number in range(100):
            options = b"%0200d," % number * 100
            read_fields(b"Host: h\r\n%0200d: a\r\nConnection: %b\r\n" % (number, options))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000
