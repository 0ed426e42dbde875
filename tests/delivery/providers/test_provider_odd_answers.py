"""Answers as odd as networks make them, on every kind and over real sockets: no yes is refused, and no no was sent."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable

import pytest
from delivery.providers.test_provider_cases import NEW_WORDS, REMOTE, accepted, refusal, send
from fakes import FakeUpstream, Message, Taken, read_content

from sidecar.delivery.providers.seam import Accepted, Outcome, Rejected, Uncertain

Answer = Callable[[int, bytes], bytes]


def plain(status: int, body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    lines = (
        b"Content-Type: application/json",
        *fields,
        b"Content-Length: %d" % (len(body) if length is None else length),
    )
    return b"HTTP/1.1 %d X\r\n%s\r\n\r\n%s" % (status, b"\r\n".join(lines), body)


def chunked(status: int, body: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%s" % (status, len(body), body, end)


def beside(body: bytes, member: bytes) -> bytes:
    """The same object with another member first."""
    return b"{%s,%s" % (member, body.removeprefix(b"{"))


# The vendor's answer, whole, in a dress that HTTP and JSON allow.
WHOLE: dict[str, Answer] = {
    "with a byte order mark": lambda status, body: plain(status, b"\xef\xbb\xbf" + body),
    "in UTF-16": lambda status, body: plain(status, body.decode().encode("utf-16")),
    "gzip": lambda status, body: plain(status, gzip.compress(body), b"Content-Encoding: gzip"),
    "deflate": lambda status, body: plain(status, zlib.compress(body), b"Content-Encoding: deflate"),
    "chunked": chunked,
    "chunked with a trailer": lambda status, body: chunked(status, body, b"0\r\nX: y\r\n\r\n"),
    "HTTP/1.0 until the end": lambda status, body: b"HTTP/1.0 %d X\r\n\r\n%s" % (status, body),
    "after early hints": lambda status, body: b"HTTP/1.1 103 Hints\r\n\r\n" + plain(status, body),
    "with 60 KB of spaces": lambda status, body: plain(status, body + b" " * (60 << 10)),
    "with a lone surrogate beside": lambda status, body: plain(status, beside(body, b'"zz":"\\ud800"')),
}
# An answer of which nobody can say what it was.
BROKEN: dict[str, Answer] = {
    "gzip that is none": lambda status, body: plain(status, body, b"Content-Encoding: gzip"),
    "an encoding that we did not ask for": lambda status, body: plain(status, body, b"Content-Encoding: br"),
    "gzip of 8 MB": lambda status, body: plain(
        status, gzip.compress(body + b" " * (8 << 20)), b"Content-Encoding: gzip"
    ),
    "1 MB": lambda status, body: plain(status, body + b" " * (1 << 20)),
    "shorter than it says": lambda status, body: plain(status, body, length=len(body) + 5),
    "chunks without an end": lambda status, body: chunked(status, body, b""),
    "chunks that are none": lambda status, body: chunked(status, body, b"zz\r\n"),
    "two lengths": lambda status, body: plain(status, body, b"Content-Length: 3"),
    "half a head": lambda status, body: plain(status, body)[:20],
    "no head": lambda _, body: body,
    "a head of 40 KB": lambda status, body: plain(status, body, b"X: " + b"x" * 40_000),
}
# A whole answer whose body is no JSON object with one reading. Its status still says what it says.
UNREADABLE: dict[str, Answer] = {
    "a name that stands twice": lambda status, body: plain(status, beside(body, b'"zz":1,"zz":2')),
    "two documents": lambda status, body: plain(status, body + body),
    "in a list": lambda status, body: plain(status, b"[" + body + b"]"),
    "in a text": lambda status, body: plain(status, json.dumps(body.decode()).encode()),
    "a number of 5000 digits": lambda status, body: plain(status, beside(body, b'"zz":' + b"9" * 5000)),
    "half of its gzip": lambda status, body: plain(
        status, gzip.compress(body)[: 10 + len(body) // 2], b"Content-Encoding: gzip"
    ),
    "nothing": lambda status, _: plain(status, b""),
}
if sys.version_info < (3, 14):  # newer ones read it to its end, as any member that nobody asks for
    UNREADABLE["nested too deeply"] = lambda status, body: plain(
        status, beside(body, b'"zz":' + b"[" * 20_000 + b"]" * 20_000)
    )


async def answered(kind: str, answer: bytes) -> Outcome:
    """Ask once; the vendor takes the whole request, answers so, and closes."""

    async def once(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await taken.write(answer)
        taken.writer.close()

    async with FakeUpstream(answer=once) as vendor:
        outcome = await send(kind, vendor.url)
        assert len(vendor.requests) == 1, "it was asked again"
    return outcome


def yes(kind: str) -> tuple[int, bytes]:
    case = accepted(kind)
    return case["status"], case["body"].encode() or b'{"id": "1"}'


def no(kind: str) -> tuple[int, bytes]:
    reply = refusal(kind, NEW_WORDS[kind][0])
    return reply.status, reply.body


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("dress", WHOLE)
async def test_whole_answer_is_read_in_every_dress(kind: str, dress: str) -> None:
    assert isinstance(await answered(kind, WHOLE[dress](*yes(kind))), Accepted)
    assert isinstance(await answered(kind, WHOLE[dress](*no(kind))), Rejected)


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("how", BROKEN)
async def test_broken_answer_is_unknown_whatever_it_was(kind: str, how: str) -> None:
    for answer in (yes(kind), no(kind)):
        assert isinstance(await answered(kind, BROKEN[how](*answer)), Uncertain)


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("how", UNREADABLE)
async def test_unreadable_answer_is_told_by_its_status_alone(kind: str, how: str) -> None:
    """Only a 4xx refuses so, and only where 2xx is the vendor's yes does it accept."""
    for status, body in (yes(kind), no(kind)):
        outcome = await answered(kind, UNREADABLE[how](status, body))
        expected = Rejected if status >= 400 else Accepted if kind == "webhook" else Uncertain
        assert isinstance(outcome, expected), outcome
