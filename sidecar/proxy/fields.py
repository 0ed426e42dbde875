"""Which fields pass? Pure.

The law: hop-by-hop fields end here (RFC 9110 section 7.6.1), end-to-end fields pass in order, repeated ones repeated,
octet for octet; the fields by which upstream knows the client are ours alone, in every spelling that a backend could
read as them, and in the trailer section too. Field lists are sequences of raw (name, value) pairs; no function here
changes the one it is given.

Names are compared by `spelling.alike`: `X_Forwarded-For` is `X-Forwarded-For`.
"""

import functools
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.overrides import field_targets, is_no_target, is_telling, may_hold_path
from sidecar.proxy.client import Client
from sidecar.proxy.messages import CRLF, Fields, RawFields, Request, Version
from sidecar.spelling import ByName, Message, alike

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
_FROM_PROXIES: Final = frozenset({b"forwarded", b"x-real-ip"})
# By which a server may tell whether the content is a form.
_TYPES: Final = frozenset({b"content-type", b"content-encoding"})
# What Connection may name without ending a field that would pass.
_PLAIN_OPTIONS: Final = frozenset({b"keep-alive", b"close", b"upgrade", b"te", b""})

# RFC 9110 section 6.5.1: routing, authentication, controls and the content's form are no matter for trailers. A backend
# that merges them into the fields shall not find there what the gate has not seen.
_NO_TRAILERS: Final = frozenset(
    b"authorization cookie set-cookie proxy-authorization proxy-authenticate www-authenticate content-type"
    b" content-encoding content-range content-location cache-control expires age date vary location retry-after"
    b" pragma range expect max-forwards if-match if-none-match if-modified-since if-unmodified-since if-range trailer"
    b" origin referer x-verification-token"
    b" access-control-allow-origin access-control-allow-credentials strict-transport-security"
    b" content-security-policy".split()
)
_SANE_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(slots=True, eq=False)  # not frozen: it is made for every request
class Kept:
    """What passes of a client's fields: whole lines, in order.

    `request_id` is the client's own X-Request-Id if there is one and it is sane (1 to 128 visible ASCII octets), else
    "". `takes_trailers`: upstream may answer with some. `may_name_another`: some field may name another method or
    target. `types` are the fields that say what the content is, in every spelling, `type_octets` their lines' length.
    `framing` are those of `lines` that pass only with a content that is not read here.
    """

    lines: list[bytes]
    framing: tuple[bytes, ...] = ()
    request_id: str = ""
    takes_trailers: bool = False
    may_name_another: bool = False
    types: RawFields = ()
    type_octets: int = 0


class Rules:
    """Which of a client's fields reach upstream, where this is the identity field."""

    def __init__(self, identity_header: str) -> None:
        self._kinds = ByName(functools.partial(_kind, alike(identity_header.encode())))

    def keep(self, request: Request, *, trusted_peer: bool) -> Kept:
        """Return what passes."""
        fields = request.fields
        named = frozenset() if fields.options <= _PLAIN_OPTIONS else _all_alike(fields.options) - _NEVER_NAMED
        kinds = self._kinds
        kept = Kept([])
        lines = kept.lines
        has_id = False
        for name, line in zip(fields.names, fields.lines, strict=True):
            if named and alike(name) in named:
                continue
            kind = kinds[name]
            if kind >= _GONE:
                if kind == _GONE:
                    continue
                passes = False
                if kind == _WHOLE:
                    passes = True
                    kept.framing = (*kept.framing, line)
                elif kind == _TYPE:
                    passes = True
                    kept.types = (*kept.types, (name, line[len(name) + 1 :].strip(b" \t")))
                    kept.type_octets += len(line)
                elif kind == _PROXYS:
                    passes = trusted_peer
                    kept.may_name_another = kept.may_name_another or (passes and is_telling(name))
                elif kind == _TRAILER:
                    passes = fields.chunked
                    kept.framing = (*kept.framing, line)
                elif kind == _OVERRIDE:
                    passes = kept.may_name_another = True
                elif kind == _REQUEST_ID:
                    has_id = True
                elif name.lower() == b"te":
                    kept.takes_trailers = kept.takes_trailers or _wants_trailers(line[len(name) + 1 :])
                if not passes:
                    continue
            lines.append(line)
            if kind != _NO_TARGET and may_hold_path(line):
                kept.may_name_another = True
        if has_id:
            kept.request_id = request_id(fields)
        return kept

    def trailers(self, raw: RawFields) -> list[tuple[bytes, bytes]]:
        """Return the trailer fields that reach upstream. RFC 9110 section 6.5.1."""
        passing = [pair for pair in raw if self._kinds[pair[0]] <= 0 and alike(pair[0]) not in _NO_TRAILERS]
        return [pair for pair in passing if not field_targets([pair])]


def end_to_end(fields: Fields) -> RawFields:
    """Return every field but those that Connection takes away: nobody decides by what upstream will not see."""
    if fields.options <= _PLAIN_OPTIONS:
        return fields.raw
    named = _all_alike(fields.options) - _NEVER_NAMED
    return Message(pair for pair in fields.raw if alike(pair[0]) not in named)


def request_id(fields: Fields) -> str:
    """Return the client's X-Request-Id if there is one and it is sane: 1 to 128 visible ASCII octets. Else ""."""
    ids = fields.said.get(b"x-request-id", ())
    return ids[0].decode() if len(ids) == 1 and _SANE_REQUEST_ID.fullmatch(ids[0]) else ""


def theirs(request: Request, kept: Kept, body: bytes | None, default_host: bytes) -> bytes:
    """Write what is the client's: Host, the lines that pass, and how the content is framed.

    `body` is the content where it is sent whole: then no coding, no expectation remains. `default_host` is the Host of
    a request that named none (HTTP/1.0).
    """
    hosts = request.fields.said.get(b"host")
    host = request.authority if request.authority is not None else hosts[0] if hosts else default_host
    lines = [b"Host: " + host, *kept.lines]
    if body is not None and kept.framing:
        lines = [line for line in lines if line not in kept.framing]
    if body is None:
        if request.fields.chunked:
            lines.append(b"Transfer-Encoding: chunked")
    elif body or request.fields.chunked or request.fields.length is not None:
        lines.append(b"Content-Length: %d" % len(body))
    lines.append(b"")
    return CRLF.join(lines)


def ours(request: Request, client: Client, request_id: str, *, takes_trailers: bool) -> list[tuple[bytes, bytes]]:
    """Return what a proxy says of a request and its client. `request_id` is what X-Request-Id becomes."""
    asked_for = client.host.encode("latin-1")
    if request.authority is not None and not any(value != asked_for for value in request.fields.said.get(b"host", ())):
        asked_for = request.authority  # the Host field was not what they asked for
    said = [
        (b"X-Forwarded-For", ", ".join(client.chain).encode()),
        (b"X-Forwarded-Proto", client.scheme.encode()),
    ]
    if asked_for:
        said.append((b"X-Forwarded-Host", asked_for))
    said.append((b"X-Request-Id", request_id.encode()))
    said.append((b"Via", b"%d.%d %s" % (*request.version, PSEUDONYM)))
    if request.is_websocket:
        said += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    elif takes_trailers:
        # RFC 9110 section 10.1.4: we do take them, and pass them on.
        said += [(b"Connection", b"TE"), (b"TE", b"trailers")]
    return said


def to_client(fields: Fields, version: Version, *, in_chunks: bool = False) -> list[bytes]:
    """Return the lines of an answer's fields that the client gets: the end-to-end ones in order, then Via.

    `in_chunks`: the client gets it in chunks, so a trailer section may be announced.
    """
    kinds = [_ANSWER_KINDS[name] for name in fields.names]
    if not fields.options <= _PLAIN_OPTIONS:
        named = fields.options - _NEVER_NAMED
        kinds = [kind or name.lower() in named for kind, name in zip(kinds, fields.names, strict=True)]
    lines = (
        [line for kind, line in zip(kinds, fields.lines, strict=True) if not kind] if any(kinds) else fields.lines[:]
    )
    if in_chunks:
        lines += [line for name, line in zip(fields.names, fields.lines, strict=True) if name.lower() == b"trailer"]
    lines.append(b"Via: %d.%d %b" % (*version, PSEUDONYM))
    return lines


def accepting(lines: Sequence[bytes], codings: Container[bytes]) -> list[bytes]:
    """Return a request's lines, only these codings left in Accept-Encoding. RFC 9110 section 12.5.3."""
    others = [line for line in lines if alike(line.partition(b":")[0]) != b"accept-encoding"]
    if len(others) == len(lines):
        return others
    wanted = b",".join(line.partition(b":")[2] for line in lines if line not in others).split(b",")
    kept = [one.strip(b" \t") for one in wanted if one.partition(b";")[0].strip(b" \t").lower() in codings]
    return [*others, b"Accept-Encoding: " + (b", ".join(kept) or b"identity")]


def trailers_to_client(raw: RawFields) -> list[tuple[bytes, bytes]]:
    """Return the trailer fields that the client gets. RFC 9110 section 6.5.1."""
    gone = _HOP_BY_HOP | _NO_TRAILERS | _NEVER_NAMED
    return [field for field in raw if field[0].lower() not in gone]


def serialize(pairs: RawFields) -> bytes:
    """Write field lines. Raises ValueError if one would end early. RFC 9112 section 5."""
    octets = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
    if octets.count(b"\r") != len(pairs) or octets.count(b"\n") != len(pairs) or b"\0" in octets:
        raise ValueError("a field holds CR, LF or NUL")
    return octets


def _wants_trailers(te: bytes) -> bool:
    return any(coding.partition(b";")[0].strip(b" \t").lower() == b"trailers" for coding in te.split(b","))


# What a field's name comes to; 0 is any other, which passes.
_NO_TARGET: Final = -1  # passes, and no server takes its value for a target
_GONE: Final = 1
_PROXYS: Final = 2  # passes if a trusted proxy wrote it
_WHOLE: Final = 3  # passes unless the content was read here: Content-Length, Expect
_TRAILER: Final = 4
_TE: Final = 5
_REQUEST_ID: Final = 6
_OVERRIDE: Final = 7
_TYPE: Final = 8


def _kind(identity: bytes, name: bytes) -> int:
    """Return what a client's field comes to, by its name in any spelling."""
    lower, bare = name.lower(), alike(name)
    is_spelled = lower == bare
    if bare == b"x-request-id":
        return _REQUEST_ID
    if bare == b"te":
        return _TE
    if bare in _HOP_BY_HOP or bare in _OURS or bare in {identity, b"host"}:
        return _GONE
    if bare in _FROM_PROXIES or bare.startswith(b"x-forwarded-"):
        # Another spelling of a field that only a proxy writes, or a client's own of it.
        return _PROXYS if is_spelled else _GONE
    if bare == b"expect":
        return _WHOLE
    if bare == b"content-length":
        return _WHOLE if is_spelled else _GONE  # else it frames the message, for a backend that reads it so
    if bare == b"trailer":
        return _TRAILER
    if bare in _TYPES:
        return _TYPE
    if is_telling(lower):
        return _OVERRIDE
    return _NO_TARGET if is_no_target(name) else 0


def _ends_here(name: bytes) -> bool:
    return name.lower() in _HOP_BY_HOP | {b"trailer"}


# Of an answer's field, whether it ends here.
_ANSWER_KINDS: Final = ByName(_ends_here)


def _all_alike(options: frozenset[bytes]) -> frozenset[bytes]:
    return frozenset(map(alike, options))
