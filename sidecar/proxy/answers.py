"""How does an answer of upstream read to the client? Its head, and how its content is framed. Pure but for `break_off`.

The law: one reading of upstream's framing, RFC 9112 section 6.3; the client's framing is made anew from it, and an
answer that did not end well is broken off, so that nobody can take it for whole.
"""

import asyncio
import email.utils
import functools
import socket
import struct
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from sidecar import problem
from sidecar.errors import Refusal
from sidecar.proxy import fields, messages
from sidecar.proxy.messages import CRLF, HTTP_1_0, HTTP_1_1, Answer, Chunked, Content, Request, Sized, UntilClose

SWITCHING: Final = 101
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True, eq=False)
class AnswerHead:
    """A final answer, framed for the client.

    `octets` is the head that the client gets. How the content comes: `is_empty`, none; `length` octets; `in_chunks`;
    else it ends with upstream's connection. How it leaves: `is_chunked`, `until_close`, else by its length.
    `stays_open`: the client's connection takes another request afterwards; `may_pool`: upstream's does, and with
    `binds_connection` of this client only.
    """

    status: int
    octets: bytes
    is_empty: bool
    length: int | None
    in_chunks: bool
    is_chunked: bool
    until_close: bool
    stays_open: bool
    may_pool: bool
    binds_connection: bool

    def content(self) -> Content | None:
        """Return the reader of the content, None where there is none."""
        if self.is_empty or self.length == 0:
            return None
        if self.in_chunks:
            return Chunked()
        return Sized(self.length) if self.length is not None else UntilClose()


def read(head: bytes) -> Answer:
    """Read an answer's head. Raises Refusal(upstream_unavailable) where it cannot be read for certain."""
    try:
        return messages.read_answer(head)
    except Refusal as refusal:
        raise Refusal("upstream_unavailable", f"malformed:{refusal.reason}") from refusal


def interim(answer: Answer) -> bytes:
    """Write an interim answer for the client. RFC 9110 section 15.2."""
    return _head(answer, _without_length(fields.to_client(answer.fields, answer.version)))


def final(answer: Answer, request: Request, *, keep_alive: bool) -> AnswerHead:
    """Frame upstream's final answer for the client of that request, whose connection `keep_alive` says may stay open.

    Raises Refusal(upstream_unavailable) for a 101 that nobody asked for. RFC 9110 section 15.2.2.
    """
    status, framing = answer.status, answer.fields
    if status == SWITCHING and not request.is_websocket:
        raise Refusal("upstream_unavailable", "unasked_101")
    # RFC 9110 section 6.4.1: these have no content.
    is_empty = request.method == "HEAD" or status in {SWITCHING, 204, 304}
    is_chunked = not is_empty and framing.length is None and request.version == HTTP_1_1
    until_close = not is_empty and framing.length is None and not is_chunked
    stays_open = keep_alive and not until_close and status != SWITCHING
    lines = fields.to_client(framing, answer.version, in_chunks=is_chunked)
    if status == SWITCHING:
        lines += [b"Connection: Upgrade", b"Upgrade: websocket"]
    else:
        if status == 204:  # RFC 9110 section 8.6: no length either
            lines = _without_length(lines)
        if is_chunked:
            lines.append(b"Transfer-Encoding: chunked")
        if not stays_open:
            lines.append(b"Connection: close")
        elif request.version == HTTP_1_0:
            lines.append(b"Connection: keep-alive")
    ends_with_connection = not is_empty and framing.length is None and not framing.chunked
    return AnswerHead(
        status=status,
        octets=_head(answer, lines),
        is_empty=is_empty,
        length=framing.length,
        in_chunks=framing.chunked,
        is_chunked=is_chunked,
        until_close=until_close,
        stays_open=stays_open,
        may_pool=answer.keep_alive and not ends_with_connection and status != SWITCHING,
        binds_connection=framing.binds_connection,
    )


def own(answer: problem.Answer, request: Request, request_id: str, *, stays_open: bool) -> bytes:
    """Write an answer of our own for the client of that request. RFC 9110 sections 6.6.1, 8.6, 15."""
    head, body = _beginning(answer.status, answer.fields), answer.body
    location = b"\r\nLocation: " + _visible(answer.location) if answer.location else b""
    length = b"\r\nContent-Length: %d" % len(body)
    if answer.status in {204, 304}:
        body = length = b""  # a route's own shape may have some
    if request.method == "HEAD":
        body = b""
    connection = b""
    if not stays_open:
        connection = b"\r\nConnection: close"
    elif request.version == HTTP_1_0:
        connection = b"\r\nConnection: keep-alive"
    said = (head, request_id.encode(), location, length, _date(int(time.time())), connection, body)
    return b"%b%b%b%b\r\nDate: %b%b\r\n\r\n%b" % said


@functools.lru_cache(512)
def _beginning(status: int, pairs: tuple[tuple[str, str], ...]) -> bytes:
    """Write the head of an answer of our own, up to its request's id. Most answers are one of a few."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", *(f"{name}: {value}" for name, value in pairs)]
    lines += ["Server: signup-sidecar", "X-Request-Id: "]  # not what it is made of
    head = CRLF.join(line.encode("latin-1") for line in lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
        raise ValueError("a field holds CR, LF or NUL")
    return head


def _visible(value: str) -> bytes:
    if not value.isprintable():
        raise ValueError("a field holds what nobody sees")
    return value.encode("latin-1")


@functools.lru_cache(1)
def _date(second: int) -> bytes:
    return email.utils.formatdate(second, usegmt=True).encode()


def last_chunk(trailers: messages.RawFields) -> bytes:
    """Write the end of content in chunks, for the client."""
    return b"0\r\n%b\r\n" % fields.serialize(fields.trailers_to_client(trailers))


def break_off(transport: asyncio.Transport, *, until_close: bool) -> None:
    """End the client's connection so that the answer on it cannot be taken for whole."""
    sock = transport.get_extra_info("socket")
    if until_close and sock is not None:
        # Its end would look like the content's: only a reset tells them apart.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _without_length(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if not line.lower().startswith(b"content-length:")]


def _head(answer: Answer, lines: list[bytes]) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b\r\n\r\n" % (answer.status, answer.reason, CRLF.join(lines))
