"""Which fields pass? Pure.

The law: hop-by-hop fields end here (RFC 9110 section 7.6.1), end-to-end fields pass in order, repeated ones repeated,
octet for octet; the fields by which upstream knows the client are ours alone, in every spelling that a backend could
read as them, and in the trailer section too. Field lists are sequences of raw (name, value) pairs; no function here
changes the one it is given.

A CGI or WSGI backend turns every octet of a name that is no letter or digit into `_`, so names are compared with all
such octets alike: `X_Forwarded-For` is `X-Forwarded-For`.
"""

import functools
import re
import string
from dataclasses import dataclass
from typing import Final

from sidecar.proxy.client import Client
from sidecar.proxy.messages import RawFields, Request, Version

PSEUDONYM: Final = b"signup-sidecar"  # in Via, RFC 9110 section 7.6.3

# RFC 9110 section 7.6.1 and appendix C.1 of RFC 9113. Trailer passes where trailers can follow (section 6.6.2).
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
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
# RFC 9110 section 6.5.1: routing, authentication, controls and the content's form are no matter for trailers. A backend
# that merges them into the fields shall not find there what the gate has not seen.
_NO_TRAILERS: Final = frozenset(
    b"authorization cookie set-cookie proxy-authorization proxy-authenticate www-authenticate content-type"
    b" content-encoding content-range content-location cache-control expires age date vary location retry-after"
    b" pragma range expect max-forwards if-match if-none-match if-modified-since if-unmodified-since if-range trailer"
    b" origin referer"
    b" access-control-allow-origin access-control-allow-credentials strict-transport-security"
    b" content-security-policy".split()
)
# Whatever names another method or target: X-HTTP-Method-Override, X-Original-URL, X-Rewrite-URI.
_OVERRIDES: Final = re.compile(rb"method|ur[il]|verification")
_SANE_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(raw: RawFields) -> str:
    """Return the client's X-Request-Id if there is one and it is sane: 1 to 128 visible ASCII octets. Else ""."""
    ids = [value for key, value in raw if key.lower() == b"x-request-id"]
    return ids[0].decode() if len(ids) == 1 and _SANE_REQUEST_ID.fullmatch(ids[0]) else ""


def to_upstream(
    request: Request,
    *,
    client: Client,
    request_id: str,
    identity_header: str,
    body: bytes | None = None,
    host: bytes = b"localhost",
) -> list[tuple[bytes, bytes]]:
    """Return the fields that upstream gets: the client's end-to-end ones in order, then ours.

    `body` is the content where it is sent whole: then no transfer coding and no expectation remains. `host` is the Host
    of a request that named none (HTTP/1.0). `request_id` is what X-Request-Id becomes.
    """
    raw, authority = request.fields.raw, request.authority
    names = [_read_name(key) for key, _ in raw]
    gone = _never_passed(identity_header)
    if request.fields.options:
        gone |= _named_in_connection(raw) - _NEVER_NAMED
    hosts = request.fields.hosts
    kept = [(b"Host", authority if authority is not None else hosts[0] if hosts else host)]
    asked_for = client.host.encode("latin-1")
    if authority is not None and not any(value != asked_for for value in hosts):
        asked_for = authority  # the Host field was not what they asked for
    streams_chunks = request.fields.chunked and body is None
    takes_trailers = False
    for name, field in zip(names, raw, strict=True):
        alike = name.alike
        if alike in gone:
            takes_trailers = takes_trailers or (name.lower == b"te" and _wants_trailers(field[1]))
            continue
        if name.is_proxys:
            # Another spelling of a field that only a proxy writes, or a client's own of it.
            if not client.trusted_peer or name.lower != alike:
                continue
        elif alike in _FRAMING and name.lower != alike:
            continue  # frames the message, for a backend that reads it so
        if body is not None and alike in {b"content-length", b"expect"}:
            continue
        if alike == b"trailer" and not streams_chunks:
            continue
        kept.append(field)
    if streams_chunks:
        kept.append((b"Transfer-Encoding", b"chunked"))
    elif body is not None and (body or request.fields.chunked or request.fields.length is not None):
        kept.append((b"Content-Length", b"%d" % len(body)))
    kept.append((b"X-Forwarded-For", ", ".join(client.chain).encode()))
    kept.append((b"X-Forwarded-Proto", client.scheme.encode()))
    if asked_for:
        kept.append((b"X-Forwarded-Host", asked_for))
    kept.append((b"X-Request-Id", request_id.encode()))
    kept.append((b"Via", b"%d.%d %s" % (*request.version, PSEUDONYM)))
    if request.is_websocket:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    elif takes_trailers:
        # RFC 9110 section 10.1.4: we do take them, and pass them on.
        kept += [(b"Connection", b"TE"), (b"TE", b"trailers")]
    return kept


def trailers_to_upstream(raw: RawFields, *, identity_header: str) -> list[tuple[bytes, bytes]]:
    """Return the trailer fields that upstream gets. RFC 9110 section 6.5.1."""
    gone = _never_passed(identity_header) | _NO_TRAILERS | _FRAMING
    return [
        (key, value)
        for key, value in raw
        if not ((name := _read_name(key)).alike in gone or name.is_proxys or _OVERRIDES.search(name.alike))
    ]


def to_client(raw: RawFields, version: Version = (1, 1), *, in_chunks: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the fields of an answer that the client gets: the end-to-end ones in order, then Via.

    `in_chunks`: the client gets it in chunks, so a trailer section may be announced.
    """
    gone = _HOP_BY_HOP if in_chunks else _HOP_BY_HOP | {b"trailer"}
    if any(key.lower() == b"connection" for key, _ in raw):
        gone |= _named_in_connection(raw) - _NEVER_NAMED
    kept = [field for field in raw if field[0].lower() not in gone]
    kept.append((b"Via", b"%d.%d %s" % (*version, PSEUDONYM)))
    return kept


def trailers_to_client(raw: RawFields) -> list[tuple[bytes, bytes]]:
    """Return the trailer fields that the client gets. RFC 9110 section 6.5.1."""
    gone = _HOP_BY_HOP | _NO_TRAILERS | _FRAMING
    return [field for field in raw if field[0].lower() not in gone]


def serialize(fields: RawFields) -> bytes:
    """Write field lines and the empty line behind them. Raises ValueError if one would end early. RFC 9112, 5."""
    lines = [*[b"%b: %b" % field for field in fields], b"", b""]
    octets = b"\r\n".join(lines)
    if octets.count(b"\r") != len(lines) - 1 or octets.count(b"\n") != len(lines) - 1 or b"\0" in octets:
        raise ValueError("a field holds CR, LF or NUL")
    return octets


def _wants_trailers(te: bytes) -> bool:
    return any(coding.partition(b";")[0].strip(b" \t").lower() == b"trailers" for coding in te.split(b","))


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
