"""Which fields pass, and what does the request line really ask for? Pure.

The law: hop-by-hop fields end here (RFC 9110 section 7.6.1), end-to-end fields pass in order, repeated ones repeated,
octet for octet; the fields by which upstream knows the client are ours alone, in every spelling that a backend could
read as them. Field lists are sequences of raw (name, value) pairs; no function here changes the one it is given.

A CGI or WSGI backend turns every octet of a name that is no letter or digit into `_`, so names are compared with all
such octets alike: `X_Forwarded-For` is `X-Forwarded-For`.
"""

import functools
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.errors import Refusal
from sidecar.proxy.client import Client

RawFields = Sequence[tuple[bytes, bytes]]

PSEUDONYM: Final = b"signup-sidecar"  # in Via, RFC 9110 section 7.6.3

# RFC 9110 section 7.6.1 and appendix C.1 of RFC 9113, and two that announce what this engine does not carry on:
# TE and Trailer (trailers are merged away, RFC 9110 section 6.5.1).
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
# What a client may name in Connection and still not have removed: upstream could not read the message without them.
_NEVER_NAMED: Final = frozenset({b"host", b"content-length"})
# Set here for every request.
_OURS: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"})
# A trusted proxy may write these, a client may not.
_PROXYS: Final = frozenset({b"forwarded", b"x-real-ip"})
# Spelled with `_` these are no framing to us, but might be to a backend.
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})

_ALIKE: Final = bytes(
    ord(chr(octet).lower()) if chr(octet) in string.ascii_letters + string.digits else ord("-") for octet in range(256)
)
_SANE_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
_ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
# RFC 3986 section 3.2: no userinfo (RFC 9110 section 4.2.4), nothing that ends an authority.
_AUTHORITY: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")
_TARGET: Final = re.compile(rb"[\x21\x22\x24-\x7e\x80-\xff]+")  # no space, no control octet, no fragment


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head as far as it decides about the message.

    `target` is what upstream gets: origin-form, or `*`. `authority` is the host of an absolute-form target, which
    replaces the Host field (RFC 9112 section 3.2.2). `length` and `chunked` are the framing: neither means no body.
    """

    target: bytes
    authority: bytes | None
    length: int | None
    chunked: bool
    is_websocket: bool


def read_head(method: str, raw_target: str, version: tuple[int, int], raw: RawFields) -> Head:
    """Read a request's head. Raises Refusal(malformed_request) where two readers might differ. RFC 9112 sections 2-6.

    TRACE is Refusal(route_denied). aiohttp's parser has refused most that is malformed; here is what it lets through.
    """
    if version not in {(1, 0), (1, 1)}:
        raise _malformed("version", "Speak HTTP/1.1.")
    if method == "CONNECT":
        raise _malformed("connect", "This is no tunnel.")
    if method == "TRACE":
        # RFC 9110 section 9.3.8: it would answer with the fields that upstream alone should see.
        raise Refusal("route_denied", "trace", "TRACE is not served.")
    target, authority = _origin_form(method, raw_target.encode("utf-8", "surrogateescape"))
    hosts: list[bytes] = []
    may_upgrade = False
    for key, value in raw:
        name = key.lower()
        if name == b"host":
            hosts.append(value)
        elif name == b"upgrade":
            may_upgrade = True
    if len(hosts) > 1 or (hosts and _AUTHORITY.fullmatch(hosts[0]) is None):
        raise _malformed("host", "Send one Host field with a host and perhaps a port.")
    length, chunked = framing(raw)
    if chunked and version == (1, 0):
        # RFC 9112 section 6.1: its framing is faulty, even if a length could be found.
        raise _malformed("chunked_1_0", "HTTP/1.0 has no transfer codings.")
    is_websocket = may_upgrade and _is_websocket(method, version, raw, length, chunked)
    return Head(target, authority, length, chunked, is_websocket)


def framing(raw: RawFields) -> tuple[int | None, bool]:
    """Return a message's length and whether it is chunked. Raises Refusal. RFC 9112 section 6.3."""
    every_coding: list[bytes] = []
    lengths: list[bytes] = []
    for key, value in raw:
        name = key.lower()
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            every_coding.append(value)
    if not every_coding and not lengths:
        return None, False
    codings = b",".join(every_coding)
    if len(lengths) > 1 or (lengths and (codings or not lengths[0].isdigit())):
        raise _malformed("content_length", "Send one Content-Length, or Transfer-Encoding: chunked.")
    if codings and codings.strip(b" \t").lower() != b"chunked":
        # Another coding would have to be kept or undone; without its name the content is garbage.
        raise _malformed("transfer_encoding", "The one transfer coding known here is chunked.")
    return int(lengths[0]) if lengths else None, bool(codings)


def origin_form(method: str, raw_target: str) -> bytes:
    """Return the target as upstream gets it. Raises Refusal(malformed_request)."""
    return _origin_form(method, raw_target.encode("utf-8", "surrogateescape"))[0]


def path_of(raw_target: str) -> str:
    """Return the path as upstream gets it, no query: the `htu` of the JWT. Raises Refusal(malformed_request)."""
    target, _ = _origin_form("", raw_target.encode("utf-8", "surrogateescape"))
    return target.partition(b"?")[0].decode("utf-8", "surrogateescape")


def request_id(raw: RawFields) -> str:
    """Return the client's X-Request-Id if there is one and it is sane: 1 to 128 visible ASCII octets. Else ""."""
    ids = [value for key, value in raw if key.lower() == b"x-request-id"]
    return ids[0].decode() if len(ids) == 1 and _SANE_REQUEST_ID.fullmatch(ids[0]) else ""


def to_upstream(
    raw: RawFields,
    *,
    client: Client,
    request_id: str,
    identity_header: str,
    head: Head,
    version: tuple[int, int] = (1, 1),
    body: bytes | None = None,
    host: bytes = b"localhost",
) -> list[tuple[bytes, bytes]]:
    """Return the fields that upstream gets: the client's end-to-end ones in order, then ours.

    `body` is the content where it is sent whole: then no transfer coding and no expectation remains. `host` is the Host
    of a request that named none (HTTP/1.0). `request_id` is what X-Request-Id becomes.
    """
    names = [_read_name(key) for key, _ in raw]
    gone = _never_passed(identity_header)
    if any(name.alike == b"connection" for name in names):
        gone |= _named_in_connection(raw) - _NEVER_NAMED
    hosts = [value for name, (_, value) in zip(names, raw, strict=True) if name.lower == b"host"]
    kept = [(b"Host", head.authority if head.authority is not None else hosts[0] if hosts else host)]
    asked_for = client.host.encode("latin-1")
    if head.authority is not None and not any(value != asked_for for value in hosts):
        asked_for = head.authority  # the Host field was not what they asked for
    for name, field in zip(names, raw, strict=True):
        alike = name.alike
        if alike in gone:
            continue
        if name.is_proxys:
            # Another spelling of a field that only a proxy writes, or a client's own of it.
            if not client.trusted_peer or name.lower != alike:
                continue
        elif alike in _FRAMING and name.lower != alike:
            continue  # frames the message, for a backend that reads it so
        if body is not None and alike in {b"content-length", b"expect"}:
            continue
        kept.append(field)
    if body is None and head.chunked:
        kept.append((b"Transfer-Encoding", b"chunked"))
    elif body is not None and (body or head.chunked or head.length is not None):
        kept.append((b"Content-Length", b"%d" % len(body)))
    kept.append((b"X-Forwarded-For", ", ".join(client.chain).encode()))
    kept.append((b"X-Forwarded-Proto", client.scheme.encode()))
    if asked_for:
        kept.append((b"X-Forwarded-Host", asked_for))
    kept.append((b"X-Request-Id", request_id.encode()))
    kept.append((b"Via", b"%d.%d %s" % (*version, PSEUDONYM)))
    if head.is_websocket:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return kept


def to_client(raw: RawFields, version: tuple[int, int] = (1, 1)) -> list[tuple[bytes, bytes]]:
    """Return the fields of an answer that the client gets: the end-to-end ones in order, then Via."""
    gone = _HOP_BY_HOP
    if any(key.lower() == b"connection" for key, _ in raw):
        gone |= _named_in_connection(raw) - _NEVER_NAMED
    kept = [field for field in raw if field[0].lower() not in gone]
    kept.append((b"Via", b"%d.%d %s" % (*version, PSEUDONYM)))
    return kept


def serialize(start_line: bytes, fields: RawFields) -> bytes:
    """Write a head. Raises ValueError if any part would end its line early. RFC 9112 sections 3-5."""
    lines = [start_line, *[b"%b: %b" % field for field in fields], b"", b""]
    octets = b"\r\n".join(lines)
    if octets.count(b"\r") != len(lines) - 1 or octets.count(b"\n") != len(lines) - 1 or b"\0" in octets:
        raise ValueError("a field holds CR, LF or NUL")
    return octets


@dataclass(frozen=True, slots=True)
class _Name:
    """A field's name, read once. `is_proxys`: however spelled, a backend could take it for a front proxy's word."""

    lower: bytes
    alike: bytes
    is_proxys: bool


@functools.lru_cache(512)
def _read_name(key: bytes) -> _Name:
    alike = key.translate(_ALIKE)
    return _Name(key.lower(), alike, alike in _PROXYS or alike.startswith(b"x-forwarded-"))


@functools.lru_cache(16)
def _never_passed(identity_header: str) -> frozenset[bytes]:
    return _HOP_BY_HOP | _OURS | {identity_header.encode().translate(_ALIKE), b"host"}


def _named_in_connection(raw: RawFields) -> frozenset[bytes]:
    return _options(b",".join([value for key, value in raw if key.lower() == b"connection"]))


@functools.lru_cache(256)
def _options(connection: bytes) -> frozenset[bytes]:
    return frozenset(
        option.strip(b" \t").translate(_ALIKE) for option in connection.split(b",") if option.strip(b" \t")
    )


def _is_websocket(method: str, version: tuple[int, int], raw: RawFields, length: int | None, chunked: bool) -> bool:
    """Return true for a handshake of RFC 6455 section 4.1; every other Upgrade is hop-by-hop and ends here."""
    protocols = [value.strip(b" \t").lower() for key, value in raw if key.lower() == b"upgrade"]
    return (
        method == "GET"
        and version == (1, 1)
        and not length
        and not chunked
        and protocols == [b"websocket"]
        and b"upgrade" in _named_in_connection(raw)
    )


def _origin_form(method: str, target: bytes) -> tuple[bytes, bytes | None]:
    """Return the target as an origin server reads it, and the authority if it was absolute. RFC 9112 section 3.2."""
    if _TARGET.fullmatch(target) is None:
        raise _malformed("target", "A request target has no fragment, space or control octet.")
    if target.startswith(b"/") or (target == b"*" and method in {"OPTIONS", ""}):
        return target, None
    found = _ABSOLUTE_FORM.fullmatch(target)
    if found is None or not found[1] or _AUTHORITY.fullmatch(found[1]) is None:
        raise _malformed("target_form", "Ask for a path such as /index.html.")
    if method == "OPTIONS" and not found[2]:
        return b"*", found[1]
    return found[2] if found[2].startswith(b"/") else b"/" + found[2], found[1]


def _malformed(reason: str, detail: str) -> Refusal:
    return Refusal("malformed_request", reason, detail)
