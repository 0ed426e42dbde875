"""Whatever may name another method or target is one more reading; what an ordinary client sends names none."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.model import Route
from sidecar.errors import Refusal
from sidecar.overrides import Upload, upload
from sidecar.routes import CLOSED, Routes
from sidecar.spelling import Fields

VERIFY = Route(match="POST /api/register", action="verify", to="json:phone", code="json:code")
ITEM = Route(match="PATCH /api/users/{id}", action="guard", captcha="turnstile")
ROUTES = Routes([VERIFY, ITEM])
REST = Route(match="POST /wp-json/myapp/v1/register", action="verify", to="form:phone", code="form:code")
OTHER_REST = Route(match="POST /blog/wp-json/myapp/v1/join", action="guard", captcha="turnstile")
WIKI = Route(match="POST /wiki/Special:CreateAccount", action="guard", captcha="turnstile")
WORDPRESS = Routes([REST, OTHER_REST, WIKI, Route(match="POST /", action="pass")])

FORM = (b"Content-Type", b"application/x-www-form-urlencoded")
BOUNDARY = b"----WebKitFormBoundaryabcDEF"
MULTIPART = (b"Content-Type", b"multipart/form-data; boundary=" + BOUNDARY)


def post(target: bytes | str, *fields: tuple[bytes, bytes], routes: Routes = ROUTES) -> Route | None:
    return routes.find("POST", target, fields).route


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    """One part of a multipart form; `name` as it stands behind `name=`."""
    head = b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; name=" + name + more
    return head + b"\r\n\r\n" + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


# Fields whose value is a path…

ANY_NAME = [b"SCRIPT_NAME", b"Daphne-Root-Path", b"X-Invoke-Path", b"x~odd.name", b"From"]


@pytest.mark.parametrize("name", ANY_NAME)
@pytest.mark.parametrize(
    "value",
    [
        b"/api/register", b"//api/x/../register;a", b"%2Fapi%2fregister", b"%252fapi/register", b"\\api\\register",
        b"\xef\xbc\x8fapi/register", b"\xa0/api/register", b"/api/register?a=b", b"https://h/api/register",
        b"/x, /api/register", b"/api/, /api/register",
    ],
)  # fmt: skip
def test_a_field_whose_value_is_a_path_is_one_more_target(name: bytes, value: bytes) -> None:
    assert post("/x", (b"Host", b"a"), (name, value)) is VERIFY
    assert ROUTES.find("GET", "/x", [(name, value)]).route is None
    read = Route(match="GET /api/register", action="guard")
    assert Routes([read]).find("HEAD", "/x", [(name, value)]).route is read, "a guarded GET is answered to a HEAD, too"


@pytest.mark.parametrize("name", ANY_NAME)
@pytest.mark.parametrize(
    ("value", "target"),
    [
        (b"/x", "/x/api/register"),
        (b"/x/", "/x/api/register"),
        (b"/X", "/x/API/register"),
        (b"/x", "/%78/api//register/"),
        (b"%2fx", "/x/api/register"),
        (b"/%78", "/x/api/register?a"),
        (b"/x", "/xapi/register"),
        (b"/x", "/x/x/api/register"),
        (b"/x/y", "/any/x/y/api/register"),
        (b"/y, /x", "/x/api/register"),
        (b"/x", "http://h/x/api/register"),
        (b"/x", "/index.php/x/api/register"),
        (b"//", "/x//api/register"),
    ],
)
def test_a_field_whose_value_is_a_path_is_a_mount_point_to_take_off(name: bytes, value: bytes, target: str) -> None:
    assert post(target) is not VERIFY
    assert post(target, (name, value)) is VERIFY


def test_every_mount_point_is_taken_off_and_put_in_front() -> None:
    assert post("/x/y/api/register", (b"A", b"/x"), (b"B", b"/y")) is VERIFY
    assert post("/register", (b"X-Script-Name", b"/api")) is VERIFY
    assert post("/other", (b"X-Original-URL", b"/x/api/register"), (b"SCRIPT_NAME", b"/x")) is VERIFY


@pytest.mark.parametrize("name", [b"X-Original-URL", b"X.Rewrite~Uri", b"Path-Info", b"X-Url", b"x_script_name"])
def test_a_field_whose_name_says_so_needs_no_slash(name: bytes) -> None:
    """Symfony puts it in front."""
    assert post("/x", (name, b"api/register")) is VERIFY
    assert post("/x", (b"X-Other", b"api/register")) is None


@pytest.mark.parametrize(
    "field",
    [
        (b"Referer", b"https://example.com/api/register"),
        (b"referer", b"/api/register"),
        (b"Turbolinks-Referrer", b"https://example.com/api/register"),
        (b"HX-Current-URL", b"https://example.com/api/register"),
        (b"Origin", b"https://example.com"),
        (b"X-Hub-Signature-256", b"/api/register"),
        (b"X-CSRF-Token", b"/api/register"),
        (b"Sec-WebSocket-Key", b"/api/register"),
        (b"Content-MD5", b"/api/register"),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"*/*"),
        (b"User-Agent", b"Mozilla/5.0 (X11; /api/register)"),
        (b"Cookie", b"path=/api/register; SCRIPT_NAME=/api"),
        (b"Next-Router-State-Tree", b"%5B%22%22%2C%7B%22children%22%3A%5B%22api%2Fregister%22%5D%7D%5D"),
        (b"X-Tenant", b"api/register"),
        (b"If-None-Match", b'"/api/register"'),
        (b"X-Original-URI", b"/register/other"),
    ],
)
def test_what_no_server_takes_for_its_target_passes(field: tuple[bytes, bytes]) -> None:
    assert post("/check-name", field) is None
    assert post("/", field, routes=Routes([Route(match="POST /", action="guard"), VERIFY])) is not CLOSED


def test_an_origin_is_not_the_root() -> None:
    """It is a URL without a path, and stands in every POST of a browser."""
    root = Routes([Route(match="POST /", action="guard")])
    assert post("/x", (b"Origin", b"https://a"), (b"X-Api", b"https://a/"), routes=root) is None


# Methods in a multipart form…


def overridden(body: bytes, content_type: bytes = MULTIPART[1]) -> Route | None:
    found = ROUTES.find("POST", "/api/users/7", [(b"Content-Type", content_type)])
    assert found.needs_body_for_override
    return ROUTES.with_body_override(found, body, content_type).route


NAMES = [
    b'"_method"', b'".method"', b'" method"', b'"[method"', b'"_METHOD"', b'"_method[]"', b"_method", b"'_method'",
    b'"_method\r\nX: y',
    b'"_meth\\od"', b'"%5Fmethod"', b'"X-HTTP-Method-Override"', b'"a"; name="_method"', b'"a\\"; name="_method"',
    b'"a"; x=\'; name="_method"', b'"a"\r\nX: NAME = "_method"', b'\r\n "_method"', b'""\r\nContent-ID: <_method>',
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_read_from_the_names_of_a_multipart_form(name: bytes) -> None:
    assert overridden(form(part(b'"a"', b"1"), part(name, b"patch"))) is ITEM
    assert overridden(form(part(b'"a"', b"1"), part(name, b"PUT"))) is None
    lines = form(part(b'"a"', b"1"), part(name, b"patch"))
    assert overridden(lines.replace(b"\r\n", b"\n")) is ITEM, "PHP ends lines with LF alone, too"
    assert overridden(lines.replace(b"patch", b"\n\npatch\r\n\r\n")) is ITEM
    assert overridden(form(part(b'"a"', b"1"), part(name, b"UFVU", b"\r\nContent-Transfer-Encoding: base64"))) is ITEM


@pytest.mark.parametrize(
    "head",
    [
        b"\"a\"; name*=utf-8''b", b'"a"; name*0="_met"; name*1="hod"', b'"=?utf-8?q?=5Fmethod?="',
        b'"a"\r\nContent-Type: multipart/mixed; boundary=c', b'"' + b" " * 300 + b'_method"',
    ],
)  # fmt: skip
def test_a_name_that_parsers_read_differently_is_every_name(head: bytes) -> None:
    assert overridden(form(part(head, b"PUT"))) is ITEM


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=a; boundary=" + BOUNDARY,
        b'multipart/form-data; boundary="a\\"b"',
        b"multipart/form-data; boundary=a,b",
        b"multipart/form-data; boundary*=utf-8''a",
        b"multipart/form-data; boundary=a, multipart/form-data; boundary=b",
    ],
)
def test_a_boundary_that_parsers_read_differently_is_every_method(content_type: bytes) -> None:
    assert overridden(form(part(b'"a"', b"1")), content_type) is ITEM


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=" + BOUNDARY,
        b'multipart/form-data; boundary="' + BOUNDARY + b'"',
        b"Multipart/Form-Data;Boundary=" + BOUNDARY + b"; charset=UTF-8",
        b"multipart/form-data; charset=utf-8; boundary=" + BOUNDARY,
    ],
)
@pytest.mark.parametrize(
    "more",
    [
        b'; filename="name_method.png"\r\nContent-Type: image/png',
        b"; filename=\"=?utf-8?B?5paH?=\"; filename*=utf-8''%E6%96%87.png",
        b'; filename="\xe6\x96\x87.png"\r\nContent-Transfer-Encoding: binary',
    ],
)
def test_an_honest_upload_overrides_nothing(content_type: bytes, more: bytes) -> None:
    """Whatever octets a file has, also those that are a name in a part's head."""
    content = b'\x89PNG =? name="_method" name*= \n--x _method=PUT&x=1 ' + bytes(range(256))
    upload = form(part(b'"payment_method"', b"PATCH"), part('"照片[]"'.encode(), content, more), part(b'"x"', b"--"))
    assert overridden(upload, content_type) is None
    assert overridden(form(part(b'"_method"', b"PATCH"), part(b'"f"', content, more)), content_type) is ITEM


def test_no_picture_is_taken_for_an_override() -> None:
    draw = random.Random(4)
    for _ in range(2000):
        picture = b"\x89PNG\r\n\x1a\n" + draw.randbytes(3000)
        assert overridden(form(part(b'"a"', b"1"), part(b'"f"', picture, b'; filename="a.png"'))) is None


def test_more_parts_or_names_than_anybody_sends_are_every_method() -> None:
    assert overridden(form(*[part(b'"a"', b"")] * 1100)) is ITEM
    assert overridden(form(part(b'"a"' + b"; name=b" * 1100, b""))) is ITEM
    assert overridden(form(*[part(b'"a"', b"")] * 200)) is None


# Bodies that are no form…


@pytest.mark.parametrize(
    "kind",
    [b"image/png", b"application/octet-stream", b"Video/MP4; codecs=avc1", b"application/pdf", b"image/svg+xml"],
)
def test_a_file_is_not_looked_at(kind: bytes) -> None:
    """It streams, whatever its length: no backend reads a form of this type."""
    for fields in ([(b"Content-Type", kind)], [(b"content-type", kind), (b"Content-Encoding", b"gzip")]):
        assert ROUTES.find("POST", "/api/users/7", fields).route is None
        assert not ROUTES.find("POST", "/api/users/7", fields).needs_body_for_override


def test_a_type_under_another_name_is_none() -> None:
    """Rack, to which `Content.Type` says nothing, reads a form there."""
    for name in (b"Content_Type", b"Content.Type", b"content_type"):
        assert ROUTES.find("POST", "/api/users/7", [(name, b"image/png")]).needs_body_for_override


@pytest.mark.parametrize(
    "kinds",
    [
        [], [b""], [b"text/plain"], [b"application/json"], [b"application/x-www-form-urlencoded"], [b"x/y"],
        [b"image/png; a=multipart/form-data"], [b"image/png, application/json"], [b"image/png,text/plain"],
        [b"image/png", b"application/x-www-form-urlencoded"], [b"image /png"], [b"application/xml"],
    ],
)  # fmt: skip
def test_any_other_body_is_looked_at(kinds: list[bytes]) -> None:
    """Rack reads a form without a type; many a backend reads one whatever its type says."""
    names = (b"Content-Type", b"Content.Type")
    assert ROUTES.find("POST", "/api/users/7", list(zip(names, kinds, strict=False))).needs_body_for_override


def test_without_method_override_nothing_is_looked_at() -> None:
    routes = Routes([VERIFY, ITEM], method_override=False)
    assert not routes.find("POST", "/api/users/7", [MULTIPART]).needs_body_for_override
    assert not routes.find("POST", "/api/users/7", [FORM, (b"Content-Encoding", b"gzip")]).needs_body_for_override
    assert routes.find("POST", "/api/users/7?_method=PATCH", [(b"X-HTTP-Method-Override", b"PATCH")]).route is None
    assert routes.find("PATCH", "/api/users/7", []).route is ITEM
    assert routes.find("POST", "/x", [(b"X-Original-URL", b"/api/register")]).route is VERIFY


# Paths that front controllers take from elsewhere…


@pytest.mark.parametrize(
    "target",
    [
        "/?rest_route=/myapp/v1/register",
        "/index.php?rest_route=/myapp/v1/register",
        "/any/page?rest_route=/myapp/v1/register",
        "/page/?a=b&rest_route=%2FMYAPP//v1/./register/",
        "/page?rest.route=/myapp/v1/register",
        "/page?rest%5Broute=myapp/v1/register",
        "/page?+rest_route=/myapp/v1/register",
        "/page?a;rest_route=/myapp/v1/register",
    ],
)
def test_wordpress_takes_the_path_from_the_query(target: str) -> None:
    assert post(target, routes=WORDPRESS) is REST
    assert WORDPRESS.find("GET", target, []).route is None


def test_a_pretty_address_may_be_in_a_directory() -> None:
    assert post("/blog/?rest_route=/myapp/v1/join", routes=WORDPRESS) is OTHER_REST
    assert post("/index.php?title=Special:CreateAccount", routes=WORDPRESS) is WIKI
    assert post("/page?rest_route=/myapp/v1/other&title=Talk:Main", routes=WORDPRESS) is None


@pytest.mark.parametrize(
    "target",
    [
        "/foo?s=/api/register",  # ThinkPHP, Drupal, CakePHP: a rewritten address hands its query on
        "/foo?q=api/register",
        "/foo?_url=/api/register",
        "/app/index.php?r=api%2Fregister",
        "/?/api/register",  # CodeIgniter
        "/index.php?/api/register&x=1",
        "/index.php?api/register/",  # XenForo
        "/index.php?rp=/api/register",  # WHMCS
        "/index.php?routestring=api/register",  # vBulletin
        "/index.php?c=api&a=register",  # ThinkPHP
        "/?d=api&c=register",
        "/app/?any=/api/register",
        "/app.php?any=%2Fapi/register",
    ],
)
def test_a_front_controllers_path_is_read_from_the_query(target: str) -> None:
    assert post(target) is VERIFY


@pytest.mark.parametrize(
    "target",
    [
        "/search?path=/api/register",
        "/login.php?next=/api/register",
        "/?redirect_to=/api/register&return=%2Fapi%2Fregister",
        "/search.php?s=S&s=M&s=L&s=XL",
        "/search.php?s[]=36&s[]=37&s[]=38&s[]=39&s[]=40&s[]=41&s[]=42&s[]=43&s[]=44",
        "/foo?s=register",
        "/page?wsdl",
        "/index.php?page=2&a=list",
    ],
)
def test_an_ordinary_query_names_no_path(target: str) -> None:
    assert post(target) is None
    assert ROUTES.find("GET", target, []).route is None


def test_a_front_controller_in_a_directory_serves_what_is_below_it() -> None:
    routes = Routes([Route(match="POST /shop/api/register", action="guard")])
    for target in ("/shop/index.php?s=/api/register", "/shop/foo?s=/api/register", "/shop/?route=api/register"):
        assert post(target, routes=routes) is not None


def named(body: bytes, target: str, field: tuple[bytes, bytes], routes: Routes = WORDPRESS) -> Route | None:
    found = routes.find("POST", target, [field])
    assert found.needs_body_for_override
    return routes.with_body_override(found, body, field[1]).route


@pytest.mark.parametrize(
    "target",
    ["/", "/index.php", "/any/page", "/contact/", "/wp-json/wp/v2/media", "/%69ndex.php", "/no.php", "/a/wp-login.php"],
)
def test_wordpress_takes_the_path_from_a_form(target: str) -> None:
    assert named(b"a=b&rest_route=/myapp/v1/register", target, FORM) is REST
    assert named(b"rest%5froute=%2fmyapp/v1/register", target, FORM) is REST
    assert named(form(part(b'"rest.route"', b"/myapp/v1/register")), target, MULTIPART) is REST
    body = b"comment=/&next=/wp-json/myapp/v1/register&url=https://example.com/a&title=a"
    assert named(body, target, FORM) is WORDPRESS.find("POST", target, []).route


def test_other_front_controllers_are_asked_for_by_name() -> None:
    for target in ("/index.php", "/app/Index.php/", "/%69ndex%2ephp", "/%2569ndex.php"):
        assert named(b"routestring=api/register", target, FORM, ROUTES) is VERIFY
    assert named(b"next=/api/register&text=/api/register", "/index.php", FORM, ROUTES) is None


def test_a_form_is_read_for_a_path_only_where_a_guarded_route_has_one() -> None:
    for target in ("/", "/any/page", "/upload.php"):
        assert not ROUTES.find("POST", target, [MULTIPART]).needs_body_for_override
    for target in ("/wp-admin/async-upload.php", "/wp-login.php"):
        assert not WORDPRESS.find("POST", target, [MULTIPART]).needs_body_for_override
    for kind in (b"image/png", b"application/json"):
        assert not WORDPRESS.find("POST", "/wp-json/wp/v2/media", [(b"Content-Type", kind)]).needs_body_for_override
    assert WORDPRESS.find("POST", "/", [FORM, (b"Content-Encoding", b"gzip")]).route is CLOSED


def test_a_proof_for_one_path_opens_no_other_that_the_form_names() -> None:
    found = WORDPRESS.find("POST", "/blog/wp-json/myapp/v1/join", [FORM])
    assert found.route is OTHER_REST
    assert WORDPRESS.with_body_override(found, b"rest_route=/myapp/v1/register", FORM[1]).route is CLOSED


def test_more_paths_in_fields_than_anybody_sends_are_refused() -> None:
    fields: Fields = [(b"X-Original-URL", b"/%d" % i) for i in range(9)]
    assert ROUTES.find("POST", "/", fields).route is CLOSED
    assert ROUTES.find("POST", "/", fields[:8]).route is None


# Uploads that stream…

NO = Refusal("body_too_large", "names_path", "No.")


def watching(content_type: bytes = MULTIPART[1]) -> Upload | None:
    return upload([(b"Content-Type", content_type)], frozenset({"rest_route"}), NO)


def streamed(body: bytes, cuts: list[int]) -> bytes | None:
    """What passes of a form that comes in pieces; None where it is refused."""
    watched = watching()
    assert watched is not None
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(edges)]
    passed = b""
    try:
        for at, piece in enumerate(pieces, 1):
            passed += watched.take(piece, is_end=at == len(pieces))
            assert b"rest_route" not in passed.replace(b'"x"; rest_route', b"")
    except Refusal:
        return None
    return passed


CUTS = st.lists(st.integers(0, 10_000), max_size=12)
PART_NAMES = st.sampled_from(
    [b'"a"', b'"rest_route"', b"rest_route", b"' rest.route'", b'"x"; rest_route', b'"a"; name=rest_route']
)
CONTENTS = st.sampled_from([b"", b"1", b"\r\n\r\n", b"--" + BOUNDARY[:20], b"-" * 300, b"a" * 3000])


@given(st.lists(st.tuples(PART_NAMES, CONTENTS), max_size=4), CUTS)
def test_an_upload_passes_whole_or_up_to_the_part_that_names_a_path(
    parts: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    """However it is cut into pieces; what has passed by then has no such part."""
    body = form(*[part(name, value) for name, value in parts])
    names_path = any(b"rest" in name and name != b'"x"; rest_route' for name, _ in parts)
    assert streamed(body, cuts) == (None if names_path else body)


@pytest.mark.parametrize(
    "body",
    [
        form(part(b'"a"' + b" " * 5000, b"")),
        form(*[part(b'"a"', b"")] * 1100),
        form(part(b"\"a\"; name*=utf-8''b", b"")),
        form(part(b'"=?utf-8?q?a?="', b"")),
        form(part(b'"a"\r\nContent-Type: multipart/mixed; boundary=c', b"")),
        form(b"--" + BOUNDARY + b'\nContent-Disposition: form-data; name="rest_route"\n\n/x\n'),
        form(part(b'"a"', b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="rest_route"\r\n\r\n/x')),
    ],
)
def test_an_upload_whose_parts_cannot_be_told_is_refused(body: bytes) -> None:
    assert streamed(body, []) is None
    assert streamed(body, list(range(len(body)))) is None


@pytest.mark.parametrize(
    "content_type", [FORM[1], b"multipart/form-data", b"multipart/form-data; boundary=a,b", MULTIPART[1] + b"a" * 300]
)
def test_what_is_no_plain_multipart_form_does_not_stream(content_type: bytes) -> None:
    assert watching(content_type) is None
    assert upload([MULTIPART, MULTIPART], frozenset({"rest_route"}), NO) is None


@pytest.mark.parametrize("target", ["/collect?url=%s", "/matomo.php?idsite=1&url=%s&urlref=", "/share?r=1&q=%s"])
def test_the_address_of_a_page_is_no_path(target: str) -> None:
    """Analytics tell of the page on which somebody signs up; a front controller takes a path, and no URL."""
    assert post(target % "https%3A%2F%2Fexample.com%2Fapi%2Fregister") is None
    assert post(target % "HTTP://example.com/api/register") is None
    assert post(target % "%2Fapi%2Fregister") is VERIFY
