"""Which fields pass: the rules alone, without a socket."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.overrides import may_name_another
from sidecar.proxy import fields
from sidecar.proxy.client import Client
from sidecar.proxy.messages import Fields, Request

STRANGER = Client("192.0.2.1", "http", "example.com", trusted_peer=False, chain=("192.0.2.1",))
PROXY = Client("198.51.100.7", "https", "example.com", trusted_peer=True, chain=("198.51.100.7", "10.0.0.1"))
IDENTITY = "X-Verified-Identity"

Raw = list[tuple[bytes, bytes]]


RULES = fields.Rules(IDENTITY)


def asked(raw: Raw, *, method: str = "GET", authority: bytes | None = None) -> Request:
    """A request with these fields, which need not make sense as a message."""
    return Request(method, b"/", b"/", authority, (1, 1), b"", unframed(raw))


def unframed(raw: Raw) -> Fields:
    try:
        return Fields([b"%b: %b" % pair for pair in raw])
    except Refusal:
        # What breaks a message's framing is refused before it comes here.
        return Fields([b"%b: %b" % (key, value) for key, value in raw if key.lower() not in FRAMING])


FRAMING = {b"content-length", b"transfer-encoding"}


def pairs(octets: bytes) -> Raw:
    lines = octets.split(b"\r\n")
    assert lines.pop() == b""
    return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]


def sent(raw: Raw, client: Client = STRANGER, request: Request | None = None, body: bytes | None = None) -> Raw:
    """What upstream gets, as `forward` puts it together."""
    request = request or asked(raw)
    kept = RULES.keep(request, trusted_peer=client.trusted_peer)
    said = fields.ours(request, client, kept.request_id or "made", takes_trailers=kept.takes_trailers)
    return pairs(fields.theirs(request, kept, body, b"localhost")) + said


def answered(raw: Raw, *, in_chunks: bool = False) -> Raw:
    return pairs(b"\r\n".join([*fields.to_client(unframed(raw), (1, 1), in_chunks=in_chunks), b""]))


def values(raw: Raw, name: bytes) -> list[bytes]:
    return [value for key, value in raw if key.lower() == name]


def as_cgi(name: bytes) -> bytes:
    """The name as RFC 3875 section 4.1.18 and its imitators read it, the widest reading there is."""
    return re.sub(rb"[^A-Z0-9]", b"_", name.upper())


@pytest.mark.parametrize(
    "name",
    [
        b"X-Verified-Identity",
        b"x-verified-identity",
        b"X_Verified_Identity",
        b"X-VERIFIED_identity",
        b"X.Verified~Identity",
    ],
)
def test_a_client_made_identity_field_is_removed_in_every_spelling(name: bytes) -> None:
    raw = [(name, b"forged"), (b"A", b"1"), (name, b"again")]
    assert sent(raw) == sent([(b"A", b"1")])
    assert not {b"forged", b"again"} & {value for _, value in sent(raw)}


tokens = st.text("abcXYZ019-_.~!", min_size=1, max_size=12).map(str.encode)
ours = st.sampled_from(
    b"X-Verified-Identity X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host X-Request-Id Host Connection Upgrade TE"
    b" Keep-Alive Transfer-Encoding Trailer X-Forwarded-Port Forwarded".split(b" ")
)


@st.composite
def respelled(draw: st.DrawFn) -> bytes:
    """One of our fields as somebody might spell it to get past us."""
    name = draw(ours)
    spelled = bytearray()
    for octet in name:
        if octet == ord("-"):
            spelled.append(draw(st.sampled_from(b"-_.~")))
        else:
            spelled += draw(st.sampled_from([bytes([octet]).lower(), bytes([octet]).upper()]))
    return bytes(spelled)


names = st.one_of(tokens, respelled())
raws = st.lists(
    st.tuples(names, st.one_of(st.binary(max_size=8).filter(lambda v: not re.search(rb"[\r\n\0]", v)), names))
)


@given(raws)
def test_upstream_knows_the_client_from_us_alone(raw: Raw) -> None:
    """However a backend folds names, each of our fields is there once, with our value, and no other of its kind."""
    by_cgi: dict[bytes, list[bytes]] = {}
    for key, value in sent(raw):
        by_cgi.setdefault(as_cgi(key), []).append(value)
    assert by_cgi[b"X_FORWARDED_FOR"] == [b"192.0.2.1"]
    assert by_cgi[b"X_FORWARDED_PROTO"] == [b"http"]
    assert by_cgi[b"X_FORWARDED_HOST"] == [b"example.com"]
    assert by_cgi[b"X_REQUEST_ID"] == [fields.request_id(unframed(raw)).encode() or b"made"]
    assert len(by_cgi[b"HOST"]) == 1
    gone = {b"X_VERIFIED_IDENTITY", b"CONNECTION", b"UPGRADE", b"TE", b"KEEP_ALIVE", b"TRANSFER_ENCODING", b"TRAILER"}
    assert not (gone | {b"X_FORWARDED_PORT", b"FORWARDED"}) & by_cgi.keys()


VISIBLE = st.binary(max_size=8).filter(lambda value: not re.search(rb"[\0\r\n \t]", value))


@given(st.lists(st.tuples(st.sampled_from([b"A", b"Cookie", b"Accept", b"B_C"]), VISIBLE)))
def test_end_to_end_fields_pass_in_order_and_repeated_ones_repeated(raw: Raw) -> None:
    assert [pair for pair in sent(raw) if pair in raw] == raw
    assert answered(raw) == [*raw, (b"Via", b"1.1 signup-sidecar")]


@given(raws)
def test_what_was_read_is_never_changed(raw: Raw) -> None:
    """It is used again, for the next message with the same fields."""
    request = asked(raw)
    before = list(request.fields.lines)
    sent(raw, request=request)
    fields.to_client(request.fields, (1, 1), in_chunks=True)
    assert request.fields.lines == before


def test_what_connection_names_is_removed_as_the_clients_and_set_as_ours() -> None:
    raw = [
        (b"Connection", b"close, X-Secret, X-Forwarded-For,,"),
        (b"connection", b"X-Verified-Identity, Host, Content-Length"),
        (b"X-Secret", b"1"),
        (b"Host", b"example.com"),
        (b"Content-Length", b"0"),
        (b"X-Forwarded-For", b"6.6.6.6"),
    ]
    kept = sent(raw)
    assert not values(kept, b"x-secret")
    assert not values(kept, b"connection")
    assert values(kept, b"x-forwarded-for") == [b"192.0.2.1"]
    assert values(kept, b"host") == [b"example.com"]
    assert values(kept, b"content-length") == [b"0"]


@pytest.mark.parametrize(
    "name", [b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade"]
)
def test_hop_by_hop_fields_end_here_both_ways(name: bytes) -> None:
    assert not values(sent([(name, b"x")]), name.lower())
    assert not values(answered([(name, b"x")]), name.lower())


def test_a_trusted_proxys_forwarding_fields_are_kept_and_appended_to() -> None:
    raw = [(b"Forwarded", b"for=198.51.100.7"), (b"X-Real-IP", b"198.51.100.7"), (b"X-Forwarded-Port", b"443")]
    kept = sent([*raw, (b"X_Real_IP", b"6.6.6.6"), (b"X_Forwarded_Port", b"1")], PROXY)
    assert [pair for pair in kept if pair in raw] == raw
    assert values(kept, b"x-forwarded-for") == [b"198.51.100.7, 10.0.0.1"]
    assert values(kept, b"x-forwarded-proto") == [b"https"]
    assert not values(kept, b"x_real_ip")
    assert not values(kept, b"x_forwarded_port")


@pytest.mark.parametrize("name", [b"Forwarded", b"X-Real-IP", b"X-Forwarded-Port", b"X_Forwarded_Prefix"])
def test_a_strangers_forwarding_fields_are_removed(name: bytes) -> None:
    assert not values(sent([(name, b"forged")]), name.lower())


def test_via_is_added_after_the_ones_that_came() -> None:
    assert values(sent([(b"Via", b"1.0 fred")]), b"via") == [b"1.0 fred", b"1.1 signup-sidecar"]
    assert values(answered([(b"Via", b"1.0 fred")]), b"via") == [b"1.0 fred", b"1.1 signup-sidecar"]


def test_traceparent_passes() -> None:
    pair = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert pair in sent([pair])


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        ([b"abc-123"], "abc-123"),
        ([b"~" * 128], "~" * 128),
        ([b"~" * 129], ""),
        ([b"a b"], ""),
        ([b""], ""),
        ([b"\xff"], ""),
        ([b"a", b"b"], ""),
        ([], ""),
    ],
)
def test_one_sane_request_id_is_kept(ids: list[bytes], kept: str) -> None:
    assert fields.request_id(unframed([(b"x-request-ID", value) for value in ids])) == kept


def test_a_whole_body_is_framed_by_its_length() -> None:
    raw = [(b"Host", b"a"), (b"Transfer-Encoding", b"chunked"), (b"Expect", b"100-continue"), (b"Content_Length", b"7")]
    kept = sent(raw, body=b"abc")
    assert [pair for pair in kept if as_cgi(pair[0]) in {b"CONTENT_LENGTH", b"TRANSFER_ENCODING", b"EXPECT"}] == [
        (b"Content-Length", b"3")
    ]


def test_a_request_that_never_had_a_body_gets_no_length() -> None:
    assert not values(sent([], body=b""), b"content-length")


@given(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), st.sampled_from([b"\r", b"\n", b"\0", b"\r\nX: y"]))
def test_no_field_can_end_its_line(value: tuple[bytes, bytes], end: bytes) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        fields.serialize([(b"A", value[0] + end + value[1])])


def test_the_trailer_is_announced_where_it_can_follow() -> None:
    raw = [(b"Host", b"a"), (b"Transfer-Encoding", b"chunked"), (b"Trailer", b"Digest")]
    assert values(sent(raw), b"trailer") == [b"Digest"]
    assert not values(sent(raw, body=b"whole"), b"trailer")
    assert not values(sent([(b"Host", b"a"), (b"Trailer", b"Digest")]), b"trailer")
    assert values(answered([(b"Trailer", b"Digest")], in_chunks=True), b"trailer") == [b"Digest"]


@pytest.mark.parametrize(
    ("te", "passed"),
    [(b"trailers", [b"trailers"]), (b"gzip, Trailers;q=1", [b"trailers"]), (b"gzip", []), (b"x-trailers", [])],
)
def test_upstream_hears_that_trailers_are_taken(te: bytes, passed: list[bytes]) -> None:
    """RFC 9110 section 10.1.4: from us, as we pass them on; other codings are the client's own."""
    kept = sent([(b"Host", b"a"), (b"TE", te)])
    assert values(kept, b"te") == passed
    assert values(kept, b"connection") == ([b"TE"] if passed else [])


@given(st.lists(st.tuples(respelled(), st.just(b"x"))))
def test_no_trailer_says_what_only_a_field_may(raw: Raw) -> None:
    """A backend that merges them into the fields finds there no word that is ours."""
    assert RULES.trailers(raw) == []


@pytest.mark.parametrize(
    "name",
    [b"Authorization", b"COOKIE", b"Content_Length", b"Content-Type", b"X-HTTP-Method-Override", b"X-Original-URL",
     b"X-Verification-Token", b"X.Verified.Identity", b"X_Real_IP"],
)  # fmt: skip
def test_no_trailer_changes_what_the_gate_has_decided(name: bytes) -> None:
    kept = [(b"Digest", b"1"), (b"X-Checksum", b"2")]
    assert RULES.trailers([*kept, (name, b"forged")]) == kept


def test_an_answers_trailers_pass_but_for_framing_and_hops() -> None:
    kept = [(b"Server-Timing", b"a"), (b"grpc-status", b"0")]
    gone = [(b"Content-Length", b"1"), (b"Connection", b"close"), (b"Set-Cookie", b"a=b")]
    assert fields.trailers_to_client([*gone, *kept]) == kept


ANOTHER = st.sampled_from(
    b"X-HTTP-Method-Override X-Method _method X-Original-URL X-Rewrite-URI x_forwarded_uri X-Original_Url".split()
)


@given(st.lists(st.tuples(st.one_of(tokens, ANOTHER), st.just(b"x")), max_size=4))
def test_whatever_names_another_method_or_target_is_told_of(raw: Raw) -> None:
    """`plain` remembers a route by method and target alone where it is not: as the routes' own rule has it."""
    kept = RULES.keep(asked(raw), trusted_peer=True)
    passed = [(line.partition(b":")[0], b"x") for line in kept.lines]
    assert kept.may_name_another or not may_name_another(passed)


@pytest.mark.parametrize(
    "field", [(b"SCRIPT_NAME", b"/x"), (b"X-Odd", b"%2Fx"), (b"A", b"http://a/x"), (b"X-Forwarded-Uri", b"x")]
)
def test_a_field_whose_value_is_a_path_is_told_of_and_is_no_trailer(field: tuple[bytes, bytes]) -> None:
    """`plain` asks for the route with such fields; a backend that merges trailers finds none in them."""
    for more in ([], [(b"X-Request-Id", b"a")]):
        assert RULES.keep(asked([field, *more]), trusted_peer=True).may_name_another
        ordinary = [(b"Referer", b"http://a/x"), (b"Accept", b"*/*"), *more]
        assert not RULES.keep(asked(ordinary), trusted_peer=True).may_name_another
    assert RULES.trailers([field, (b"X-Sum", b"1")]) == [(b"X-Sum", b"1")]


def test_what_connection_takes_away_is_not_read_here_either() -> None:
    raw = [
        (b"Connection", b"close, content_type, X-Phone, Host"),
        (b"Host", b"a"),
        (b"Content-Type", b"b"),
        (b"x.phone", b"c"),
    ]
    assert list(fields.end_to_end(unframed(raw))) == raw[:2]
    assert values(sent(raw), b"content-type") == []
