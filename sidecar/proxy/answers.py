"""How does an answer of upstream read to the client? Its head, and how its content is framed. Pure but for `break_off`.

The law: one reading of upstream's framing, RFC 9112 section 6.3, for every way through this room; the client's framing
is made anew from it, and an answer that did not end well is broken off, so that nobody can take it for whole.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Final

from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11, RawResponseMessage

from sidecar.errors import Refusal
from sidecar.proxy import fields

SWITCHING: Final = 101


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The octets of the head that the client gets, and how the content follows.

    `is_empty`: none follows. `is_chunked`: in chunks. `until_close`: the connection's end is the content's.
    Else its own length frames it. `stays_open`: the client's connection takes another request afterwards.
    """

    octets: bytes
    is_empty: bool
    is_chunked: bool
    until_close: bool
    stays_open: bool


def read(message: RawResponseMessage, method: str, version: HttpVersion, *, keep_alive: bool) -> AnswerHead:
    """Frame upstream's final answer for a client that asked with `method` in `version`.

    `keep_alive` says whether the client's connection may stay open. Raises Refusal(upstream_unavailable) where the
    message cannot be framed anew for certain.
    """
    # RFC 9110 section 6.4.1: these have no content.
    is_empty = method == "HEAD" or message.code in {SWITCHING, 204, 304}
    try:
        length, _ = fields.framing(message.raw_headers)
    except Refusal as refusal:
        raise Refusal("upstream_unavailable", f"malformed:{refusal.reason}") from refusal
    is_chunked = not is_empty and length is None and version >= HttpVersion11
    until_close = not is_empty and length is None and not is_chunked
    stays_open = keep_alive and not until_close
    passed = fields.to_client(message.raw_headers)
    if message.code == SWITCHING:
        passed += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        return AnswerHead(head(message, passed), is_empty, is_chunked, until_close, stays_open)
    if message.code == 204:  # RFC 9110 section 8.6: no length either
        passed = [pair for pair in passed if pair[0].lower() != b"content-length"]
    if is_chunked:
        passed.append((b"Transfer-Encoding", b"chunked"))
    if not stays_open:
        passed.append((b"Connection", b"close"))
    elif version == HttpVersion10:
        passed.append((b"Connection", b"keep-alive"))
    return AnswerHead(head(message, passed), is_empty, is_chunked, until_close, stays_open)


def head(message: RawResponseMessage, passed: fields.RawFields) -> bytes:
    """Write the head of an answer. Raises Refusal(upstream_unavailable)."""
    reason = message.reason.encode("utf-8", "surrogateescape")
    try:
        return fields.serialize(b"HTTP/1.1 %d %s" % (message.code, reason), passed)
    except ValueError as error:
        raise Refusal("upstream_unavailable", "malformed:field") from error


def break_off(transport: asyncio.Transport, *, until_close: bool) -> None:
    """End the client's connection so that the answer on it cannot be taken for whole."""
    sock = transport.get_extra_info("socket")
    if until_close and sock is not None:
        # Its end would look like the content's: only a reset tells them apart.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
