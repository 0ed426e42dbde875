"""Which route is this? Every reading of a request finds the route that guards it; nothing else is guarded."""

import tracemalloc
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.config.model import Route
from sidecar.routes import CLOSED, Routes

SEND = Route(match="POST /api/sms/code", action="send", to="json:phone", captcha="turnstile")
VERIFY = Route(match="POST /api/register", action="verify", to="json:phone", code="json:code")
ITEM = Route(match="PATCH /api/users/{id}", action="guard", captcha="turnstile")
STATIC = Route(match="GET /static/*", action="pass")
ADMIN = Route(match="* /admin/*", action="deny")
CAFE = Route(match="GET /caf%C3%A9/登记", action="guard")
SCRIPT = Route(match="POST /join.php", action="guard")
ROUTES = Routes([SEND, VERIFY, ITEM, STATIC, ADMIN, CAFE, SCRIPT])

Field = tuple[bytes, bytes]


def find(method: str, target: bytes | str, *fields: Field, routes: Routes = ROUTES) -> Route | None:
    return routes.find(method, target, fields).route


def guard(match: str, **more: object) -> Route:
    return Route.model_validate({"match": match, "action": "guard"} | more)


SPITEFUL = "/" + "%252e;a\\..//%c0%af. ::$x%00" * 40

# Ordinary requests…


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        ("POST", "/api/sms/code", SEND),
        ("post", "/api/sms/code", SEND),
        ("POST", "/api/sms/code?x=1", SEND),
        ("POST", b"/api/register", VERIFY),
        ("PATCH", "/api/users/7", ITEM),
        ("GET", "/static", STATIC),
        ("GET", "/static/js/app.min.js", STATIC),
        ("HEAD", "/static/js/app.js", STATIC),
        ("GET", "/admin", ADMIN),
        ("PUT", "/admin/a/b/c", ADMIN),
        ("GET", "/caf%C3%A9/%E7%99%BB%E8%AE%B0", CAFE),
        ("GET", "/café/登记", CAFE),
    ],
)
def test_a_request_finds_its_route(method: str, target: bytes | str, route: Route) -> None:
    assert find(method, target) is route


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/api/sms/code"),
        ("POST", "/api/sms"),
        ("POST", "/api/sms/code/more"),
        ("POST", "/api/sms/codes"),
        ("POST", "/xapi/sms/code"),
        ("POST", "/api/smscode"),
        ("PATCH", "/api/users"),
        ("PATCH", "/api/users/7/posts"),
        ("POST", "/search?path=/api/sms/code"),
        ("POST", "/api/sms/code/../other"),
        ("GET", "/administrator"),
        ("OPTIONS", "*"),
        ("GET", "/%E4%BD%A0%E5%A5%BD/a%20b.png?q=100%"),
        ("GET", "/proxy/https%3A%2F%2Fexample.com%2Fa%2Fb"),
        ("GET", "/" + "%E4%BD%A0" * 900),
        ("GET", "/" + "v/1.2.3/" * 900),
    ],
)
def test_an_ordinary_other_request_is_no_route(method: str, target: str) -> None:
    assert find(method, target) is None


def test_the_first_match_wins() -> None:
    first, second = guard("GET /a/*", captcha="one"), guard("GET /a/b", captcha="two")
    assert find("GET", "/a/b", routes=Routes([first, second])) is first
    assert find("GET", "/a/b", routes=Routes([second, first])) is second


def test_a_named_path_is_its_own_route_under_a_guarded_subtree() -> None:
    """An operator who exempts a path by name is not overruled by a shortened reading of it."""
    icon, rest = Route(match="GET /favicon.ico", action="pass"), guard("* /*")
    routes = Routes([icon, rest])
    assert find("GET", "/favicon.ico", routes=routes) is icon
    assert find("GET", "/favicon.ico/", routes=routes) is rest
    assert find("GET", "/favicon%2Eico", routes=routes) is rest


def test_without_a_guarding_route_everything_passes() -> None:
    routes = Routes([Route(match="GET /x", action="pass")])
    assert find("GET", SPITEFUL, routes=routes) is None


# Readings of a path…

SPELLINGS = [
    "/api/sms/code/",
    "//api//sms///code",
    "/api/./sms/code/.",
    "/api/x/../sms/code",
    "/api/x/y/../../sms/code",
    "/../api/sms/code",
    "/api/x//../sms/code",
    "/api/x//../..//sms/code",
    "/API/Sms/coDE",
    "/api/sms/%63ode",
    "/%61%70%69/%73ms/code",
    "/api%2Fsms%2fcode",
    "/api/sms/%2563ode",
    "/api/sms/%252563ode",
    "/api%252fsms/code",
    "/api/%2e%2e/api/sms/code",
    "/x/%252e%252e/api/sms/code",
    "/x/.%2e/api/sms/code",
    "/api/x%2Fy/%2e%2e/sms/%63ode",
    "/api/sms/code;jsessionid=1",
    "/api;a=b/sms;c/code;",
    "/x/..;/api/sms/code",
    "/x/..;a=b/api/sms/code",
    "/x/..%3b/api/sms/code",
    "/x/%2e%2e%3ba/api/sms/code",
    "/;/api/sms/code",
    "/;a/x/..;/api/sms/code",
    "\\api\\sms\\code",
    "/api/x\\..\\sms/code",
    "/api%5csms/code",
    "/x/..%5capi/sms/code",
    "/api/sms/code%00",
    "/api/sms/code%00.png",
    "/api/sms/code%3Fx=1",
    "/api/sms/code%23x",
    "/api/sms/code#x",
    "/api/sms/code%0a",
    "/api/sms/code%0d%0ax",
    "/api/sms/co%09de",
    "/api/sms/code%20",
    "/api/sms/code.",
    "/api./sms /code. .",
    "/api/sms/code%2e",
    "/x/..%20/api/sms/code",
    "/api/sms/code::$DATA",
    "/api/sms/code.json",
    "/api/sms/code.do",
    "/api/sms/code.json;x=1",
    "/api/sms/code.php/",
    "/api/sms/code.php/extra",
    "/api/sms/code/index.php",
    "/api/sms/code/index",
    "/index.php/api/sms/code",
    "/INDEX.PHP/api/sms/code",
    "/app/index.php/api/sms/code",
    "/index.php?s=/api/sms/code",
    "/?s=api/sms/code",
    "/index.php?r=api%2Fsms%2Fcode",
    "/api/sms%c0%afcode",
    "/api/sms%e0%80%afcode",
    "/x/%c0%ae%c0%ae/api/sms/code",
    "/api/sms/%c1%a3ode",
    "/api%u002fsms/code",
    "/api/sms%uff0fcode",
    "/api/sms／code",
    "/api/sms%ef%bc%8fcode",
    "/x/%e2%80%a5/api/sms/code",
    "/api/sms∕code",
    "/api/sms/ｃｏｄｅ",
    "/api/ſmſ/code",
    "/apı/sms/code",
    "/apİ/sms/code",
    "/api/sms/co\u200bde",
    "/api/sms/code\u00a0",
    "/api/sms/code\u0085",
    "/api/sms/code\u3000?x=1",
    "/api/sms/code\u2028\ufeff",
    "/api/sms/code\u1680/",
    "/api\u180e/sms/\u2003code",
    "/api/sms/code%A0",
    "/api/sms/code%1c%85",
    "/api/sms/code%C2%85%e2%80%a9",
    "/?s=/api/sms/code%c2%a0",
    "http://example.com/api/sms/code\u00a0",
    "http://example.com/api/sms/code",
    "HTTPS://user:pass@example.com:8443/api/sms/code?x",
    "http:/api/sms/code",
    "http:api/sms/code",
    "http:///api/sms/code",
    "x-odd+scheme.1://h/api/sms/code",
    "http://example.com\\api\\sms\\code",
    "//example.com/api/sms/code",
    "///example.com/api/sms/code",
    "/%2fexample.com/api/sms/code",
    "/\\example.com/api/sms/code",
    "example.com:80/api/sms/code",
    "api/sms/code",
    "http%3a//example.com/api/sms/code",
]


@pytest.mark.parametrize("target", SPELLINGS)
def test_a_route_covers_every_spelling_of_its_path(target: str) -> None:
    assert find("POST", target) is SEND
    assert find("POST", target.encode()) is SEND


@pytest.mark.parametrize(
    "end", [b"\xa0", b"\x85", b"\xa0\x85 ", b"/\xa0", b"\xa0/", b"\xa0?a=b", b"\xa0junk", b"\xa0\xe5\x8f\xb7"]
)
def test_what_some_server_takes_for_a_space_ends_a_target(end: bytes) -> None:
    """Servers made on Python's `http.server` split the request line as Latin-1 text."""
    assert find("POST", b"/api/sms/code" + end) is SEND
    assert find("POST", b"http://h/api/sms/code" + end) is SEND
    assert find("POST", b"/api\xa0/\x85sms\x85/code") is SEND, "or of a segment"


@pytest.mark.parametrize(
    "path", ["/搜索", "/api/sms/搜索堅", "/api/sms/堅-code", "/搜索/api/sms/code", "/api/sms/code/搜"]
)
@pytest.mark.parametrize("coding", ["utf-8", "gbk", "big5"])
def test_a_raw_path_of_a_legacy_client_passes(path: str, coding: str) -> None:
    assert find("POST", path.encode(coding)) is None
    assert find("POST", path.encode(coding) + b"?q=" + path.encode(coding)) is None


@pytest.mark.parametrize("end", ["%", "%2", "%z", "%%", "/%2", "%00%"])
def test_half_an_escape_at_the_end_is_nothing_to_some_backends(end: str) -> None:
    """UWSGI waits for the rest of it, which never comes."""
    assert find("POST", "/api/sms/code" + end) is SEND
    assert find("POST", "/api/sms/code%41" + end) is None


@pytest.mark.parametrize("path", ["/api/sms/code%ff", "/api/s%c3ms/code", "/api/sms%e4%b8/code", "/api/%ffsms/code"])
def test_what_is_no_utf_8_is_nothing_to_some_backends(path: str) -> None:
    """Bottle drops it; what is UTF-8 beside a name makes it another name."""
    assert find("POST", path) is SEND
    assert find("POST", urllib.parse.unquote_to_bytes(path)) is SEND
    assert find("POST", "/api/sms/code%e4%b8%ad") is None


@pytest.mark.parametrize("target", ["/join", "/Join/", "/join.php", "/join.php/x", "/x/../join.php%00", "/%6aoin"])
def test_a_route_of_a_file_covers_its_path_without_the_suffix(target: str) -> None:
    assert find("POST", target) is SCRIPT


def test_a_file_is_not_another_file_of_the_same_name() -> None:
    assert find("GET", "/report.html", routes=Routes([guard("GET /report.pdf")])) is None


def test_the_index_of_the_root_is_the_root() -> None:
    root = guard("POST /")
    assert all(find("POST", each, routes=Routes([root])) is root for each in ("", "/", "//", "/index.php", "/index"))
    index = guard("POST /index.php")
    assert all(find("POST", each, routes=Routes([index])) is index for each in ("/", "/index.php", "/./"))


@pytest.mark.parametrize(
    "target", ["/static/../admin", "/static/%2e%2e/admin", "/static/..;/admin", "/static\\..\\admin/"]
)
def test_a_pass_route_smuggles_nothing_past_a_guard(target: str) -> None:
    assert find("GET", target) is ADMIN


@pytest.mark.parametrize(
    "field",
    [
        b"X-Original-URL",
        b"x-rewrite-url",
        b"X_Original_Url",
        b"X-Original-URI",
        b"X-Forwarded-Uri",
        b"X.Original.URL",
        b"X~Rewrite!Url",
    ],
)
@pytest.mark.parametrize("value", [b"/api/sms/code", b" /api/x/../sms/code?a=b ", b"https://example.com/API/sms/code"])
def test_a_field_that_names_another_target_is_read(field: bytes, value: bytes) -> None:
    assert find("POST", "/static/x.js", (b"Host", b"a"), (field, value)) is SEND
    assert find("GET", "/static/x.js", (b"Host", b"a"), (field, value)) is STATIC


def test_more_targets_than_anyone_needs_are_refused() -> None:
    fields = [(b"X-Original-URL", b"/%d" % i) for i in range(9)]
    assert find("GET", "/", *fields) is CLOSED
    assert find("GET", "/?" + "&".join(f"s={i}" for i in range(9))) is CLOSED


def test_a_path_with_too_many_readings_is_refused() -> None:
    assert find("GET", SPITEFUL) is CLOSED
    assert find("GET", "/" + "%20;\\./" * 1100) is CLOSED, "too long for so many"
    assert find("GET", "//%25252e%2500;a\\..//%c0%af. ::$x%0a/x/../%uff0e%2e/%255c\\.;/ /") is CLOSED, "too many"
    assert find("GET", "/a.php" * 9) is CLOSED


# Readings of a method…


@pytest.mark.parametrize(
    "field",
    [
        (b"X-HTTP-Method-Override", b"POST"),
        (b"x-http-method-override", b" post "),
        (b"X_HTTP_METHOD_OVERRIDE", b"POST"),
        (b"X.Http|Method.Override", b"POST"),
        (b"X-HTTP-Method", b"PATCH, POST"),
        (b"X-Method-Override", b"POST"),
        (b"X-HTTP-Method-Override", b"%50OST"),
        (b"X-HTTP-Method-Override", b"?"),
    ],
)
def test_a_method_override_field_is_read(field: Field) -> None:
    assert find("GET", "/api/sms/code", field) is SEND
    assert find("GET", "/api/sms/codes", field) is None


@pytest.mark.parametrize(
    "query",
    [
        "_method=POST",
        "_METHOD=post",
        "a=b&_method=POST",
        "a;_method=POST",
        "%5fmethod=%50OST",
        ".method=POST",
        "_method[]=POST",
        "_method%00x=POST",
        "x-http-method-override=POST",
        "_method=PUT&_method=POST",
        "+_method=POST",
        "x-tunneled-method=POST",
        "$httpMethod=POST",
    ],
)
def test_a_method_override_in_the_query_is_read(query: str) -> None:
    assert find("GET", f"/api/sms/code?{query}") is SEND


def test_every_override_counts_and_none_takes_a_route_away() -> None:
    overridden = ((b"X-HTTP-Method", b"GET"), (b"X-HTTP-Method-Override", b"PUT"))
    assert find("POST", "/api/sms/code?_method=DELETE", *overridden) is SEND
    assert find("GET", "/api/sms/code", (b"X-HTTP-Method", b"PUT"), (b"X-HTTP-Method", b"POST")) is SEND


@pytest.mark.parametrize("query", ["method=POST", "payment_method=POST", "_method=", "_methods=POST", "x=_method"])
def test_an_ordinary_query_overrides_nothing(query: str) -> None:
    assert find("GET", f"/api/sms/code?{query}") is None


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"name=a&_method=patch", FORM),
        (b"_method=PATCH", ""),
        (b"%5Fmethod=%50ATCH", FORM),
        (b"a=b;_METHOD=patch", FORM),
        (b"_method=put&_method=patch", FORM),
        (b"_method[]=patch", FORM),
        (b'{"_method":"patch"}', "application/json"),
        (b'{"\\u005fmethod":"patch"}', "application/json"),
        (b'{"_method":"get","_method":"patch"}', "text/plain"),
        (b'{"_method":["patch"]}', "application/json"),
        (b'{_method:"patch"}', "application/json"),
        (b'\xef\xbb\xbf{"_method":"patch"}', ""),
        (
            b'--b\r\nContent-Disposition: form-data; name="_method"\r\n\r\nPATCH\r\n--b--',
            "multipart/form-data; boundary=b",
        ),
        (b"--b\r\nContent-Disposition: form-data; name=_method\r\n\r\nPATCH\r\n--b--", ""),
        (b"--b\r\nContent-Disposition: form-data; name*=utf-8''%5Fmethod\r\n\r\nx\r\n--b--", "multipart/form-data"),
        ("_method=patch".encode("utf-16"), FORM),
        ("_method=patch".encode("cp037"), FORM + "; charset=ibm037"),
        (b"[" * 100_000 + b"\\u", "application/json"),
    ],
)
def test_a_method_override_in_the_body_is_read(body: bytes, content_type: str) -> None:
    found = ROUTES.find("POST", "/api/users/7", [(b"Content-Type", content_type.encode())])
    assert found.needs_body_for_override
    assert found.route is None
    assert ROUTES.with_body_override(found, body, content_type).route is ITEM


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", ""),
        (b"name=a&payment_method=patch", FORM + "; charset=UTF-8"),
        (b"_method=delete", FORM),
        (b'{"payment_method":"card","method":"patch"}', "application/json"),
        (b'{"a":{"_method":"patch"}}', "application/json"),
        (b'["_method","patch"]', "application/json"),
        (b'[["_method","patch"]]', "application/json"),
        (b'--b\r\nContent-Disposition: form-data; name="payment_method"\r\n\r\nx\r\n--b--', "multipart/form-data"),
    ],
)
def test_an_ordinary_body_overrides_nothing(body: bytes, content_type: str) -> None:
    found = ROUTES.find("POST", "/api/users/7", [])
    assert ROUTES.with_body_override(found, body, content_type).route is None


def test_a_body_is_asked_for_only_where_it_could_change_the_route() -> None:
    assert not ROUTES.find("POST", "/api/other", []).needs_body_for_override
    assert not ROUTES.find("PUT", "/api/users/7", []).needs_body_for_override
    assert not ROUTES.find("POST", "/api/sms/code", []).needs_body_for_override
    assert not ROUTES.find("POST", "/static/x", []).needs_body_for_override
    assert ROUTES.find("POST", "//api/users/7/", []).needs_body_for_override


@pytest.mark.parametrize("name", [b"content_encoding", b"Content.Encoding", b"CONTENT~ENCODING"])
def test_a_compressed_body_is_taken_to_override(name: bytes) -> None:
    """What is inside cannot be seen here, but may be upstream."""
    found = ROUTES.find("POST", "/api/users/7", [(name, b"gzip")])
    assert (found.route, found.needs_body_for_override) == (ITEM, False)


# Contradicting readings…


def both(one: Route, other: Route) -> Route | None:
    """What a path finds that reads as `one` (NUL cuts it) and as `other` (it does not)."""
    path, beyond = one.match.split()[1], other.match.split()[1]
    target = f"{path}%00/../..{beyond}"
    found, again = (find("POST", target, routes=Routes(each)) for each in ([one, other], [other, one]))
    assert found is again, "the order of routes with different demands does not matter"
    return found


def test_the_strictest_action_wins_and_asks_for_all_that_the_other_does() -> None:
    passing, deny = Route(match="* /a", action="pass"), Route(match="* /b", action="deny")
    weak, strong = guard("* /c"), guard("* /d", captcha="turnstile", limits=["ip"])
    send, verify = Route(match="* /e", action="send", to="json:a"), Route(match="* /f", action="verify", to="json:a")
    assert both(passing, weak) is weak
    assert both(weak, deny) is deny
    assert both(verify, deny) is deny
    assert both(weak, verify) is verify
    assert both(strong, send) is send


def test_one_proof_opens_no_other_route() -> None:
    """A path that reads as two routes which ask for different things is closed."""
    one = Route(match="* /a", action="verify", to="json:phone", code="json:code")
    two = Route(match="* /b", action="verify", to="json:mobile", code="json:code")
    human = guard("* /c", captcha="turnstile")
    limited = guard("* /d", limits=["ip"])
    send = Route(match="* /e", action="send", to="json:phone")
    assert both(one, two) is CLOSED
    assert both(one, human) is CLOSED
    assert both(one, limited) is CLOSED
    assert both(one, send) is CLOSED
    assert both(human, limited) is CLOSED


def test_a_captcha_that_is_demanded_less_often_covers_no_other() -> None:
    """By limits and by `captcha_after`: what one route would demand, no other reading of the path gets round."""

    def found(one: Route, other: Route) -> Route | None:
        target = f"{one.match.split()[1]}%00/../..{other.match.split()[1]}"
        return find("POST", target, routes=Routes([one, other], stepping=frozenset({"free", "busy"})))

    def verify(match: str, **more: object) -> Route:
        given = {"action": "verify", "to": "json:a", "code": "json:b", "captcha": "altcha", **more}
        return Route.model_validate({"match": match, **given})

    always, limited = verify("* /a"), verify("* /b", limits=["ip"])
    assert found(limited, always) is limited
    free, both_limits = verify("* /c", limits=["free"]), verify("* /d", limits=["free", "busy"])
    assert found(free, always) is CLOSED
    assert found(verify("* /i", limits=["ip", "free"]), limited) is CLOSED
    assert found(verify("* /e", limits=["free"]), free) is not CLOSED
    assert found(both_limits, free) is both_limits
    assert found(free, both_limits) is CLOSED
    three, five = verify("* /f", captcha_after=3), verify("* /g", captcha_after=5)
    assert found(three, five) is three
    assert found(five, three) is CLOSED
    assert found(five, always) is CLOSED
    assert found(always, five) is always
    assert found(free, three) is CLOSED
    assert found(verify("* /h", captcha_after=3, limits=["free"]), three) is not CLOSED


def test_an_observed_route_opens_no_enforced_one() -> None:
    observed = Route(match="* /a", action="verify", to="json:phone", mode="observe")
    enforced = guard("* /b", captcha="turnstile")
    closed = Route(match="* /c", action="deny", mode="observe")
    send = Route(match="* /d", action="send", to="json:phone")
    assert both(observed, enforced) is enforced
    assert both(closed, enforced) is enforced
    assert both(closed, observed) is closed
    assert both(closed, send) is send
    assert both(closed, send.model_copy(update={"mode": "observe"})) is CLOSED


# Laws…

Step = Callable[[str, int], str]


def _escape(path: str, at: int) -> str:
    at = 1 + at % (len(path) - 1)
    return f"{path[:at]}{''.join(f'%{octet:02x}' for octet in path[at].encode())}{path[at + 1 :]}"


def _at_slash(insert: str) -> Step:
    def step(path: str, at: int) -> str:
        slashes = [i for i, char in enumerate(path) if char == "/"]
        if not slashes:
            return path
        where = slashes[at % len(slashes)]
        return f"{path[:where]}{insert}{path[where:]}"

    return step


def _swap_case(path: str, at: int) -> str:
    at %= len(path)
    return path[:at] + path[at].swapcase() + path[at + 1 :]


STEPS: list[Step] = [
    _escape,
    _swap_case,
    _at_slash("/"),
    _at_slash("/."),
    _at_slash("/x/.."),
    _at_slash("/x/%2e%2e"),
    _at_slash(";a=b"),
    _at_slash("/x/..;"),
    lambda path, _: path + "/",
    lambda path, _: path + "%20",
    lambda path, _: path + "%00x",
    lambda path, _: path.replace("/", "\\"),
    lambda path, _: path.replace("%", "%25"),
]


def respellings(fewest: int, most: int) -> st.SearchStrategy[str]:
    """Draw targets that some chain of ordinary readers takes for /api/sms/code."""

    def spell(taken: list[tuple[Step, int]], before: str, after: str) -> str:
        path = "/api/sms/code"
        for step, at in taken:
            path = step(path, at)
        return (before + path if path.startswith("/") else path) + after

    return st.builds(
        spell,
        st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 200)), min_size=fewest, max_size=most),
        st.sampled_from(["", "http://example.com", "//example.com", "/index.php"]),
        st.sampled_from(["", "?a=b", "#x"]),
    )


@settings(deadline=None)  # a wild path takes ten milliseconds, more on a busy machine
@given(respellings(0, 3))
def test_a_respelling_still_finds_the_route(target: str) -> None:
    assert find("POST", target) is SEND


@settings(deadline=None)  # a wild path takes ten milliseconds, more on a busy machine
@given(respellings(4, 12))
def test_a_wild_respelling_never_passes(target: str) -> None:
    """Past the bounds of what is computed, a request is refused."""
    assert find("POST", target) in (SEND, CLOSED)


PLAIN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_ABC", min_size=1, max_size=12)


@given(st.sampled_from(["GET", "POST", "PATCH", "DELETE"]), st.lists(PLAIN, max_size=5))
def test_a_plain_path_is_what_a_plain_reader_says(method: str, segments: list[str]) -> None:
    folded = [segment.lower() for segment in segments]
    while folded and folded[-1] == "index":
        folded.pop()
    expected = None
    if folded[:1] == ["admin"]:
        expected = ADMIN
    elif method == "GET" and folded[:1] == ["static"]:
        expected = STATIC
    elif method == "POST" and folded == ["join"]:
        expected = SCRIPT
    elif method == "PATCH" and folded[:2] == ["api", "users"] and len(folded) == 3:
        expected = ITEM
    assert find(method, "/" + "/".join(segments)) is expected


NAMES = st.one_of(
    st.sampled_from([b"X-Original-URL", b"X-HTTP-Method-Override", b"Content-Encoding", b"_method"]), st.binary()
)


@settings(deadline=None)
@given(
    st.text(max_size=8),
    st.one_of(st.binary(), st.text()),
    st.lists(st.tuples(NAMES, st.binary())),
    st.binary(),
    st.text(),
)
@example("POST", "/\ud800%ud800%uDC80", [], b"", "\ud800")
@example("POST", "/api/users/7", [], b'{"_method":' + b"[" * 2000, "application/json")
def test_no_octets_make_it_raise(
    method: str, target: bytes | str, fields: list[Field], body: bytes, content_type: str
) -> None:
    found = ROUTES.find(method, target, fields)
    again = ROUTES.with_body_override(found, body, content_type)
    assert found.route is None or found.route.action == "pass" or again.route is not None


def test_no_large_field_is_remembered() -> None:
    """Many requests, each with another long mount point, leave nothing behind."""
    tracemalloc.start()
    try:
        for number in range(50):
            find("POST", "/x/api/register", (b"Script-Name", b"/%020000d" % number))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


def test_a_proof_for_a_number_of_another_country_opens_no_other_route() -> None:
    """Where two readings lead to two `verify` routes that read the country differently, no answer is safe."""
    verify = {"action": "verify", "to": "json:phone", "code": "json:code"}
    one = Route.model_validate({"match": "POST /a", **verify, "country": "json:area"})
    other = Route.model_validate({"match": "POST /b", **verify})
    elsewhere = ((b"X-Original-URL", b"/b"),)
    assert Routes([one, other]).find("POST", "/a", elsewhere).route is CLOSED
    same = Route.model_validate({"match": "POST /b", **verify, "country": "json:area"})
    assert Routes([one, same]).find("POST", "/a", elsewhere).route is one


def test_a_long_path_is_looked_up_each_time() -> None:
    """What is remembered is short, so that some thousand look-ups stay small; a short path is looked up once."""
    routes = Routes([SEND])
    for target, remembered in (("/api/sms/%63ode" + "/." * 600, 0), ("/api/sms/%63ode", 1)):
        for _ in range(2):
            assert find("POST", target, routes=routes) is SEND
        assert routes._kept_look_up.cache_info()[::3] == (remembered, remembered)


def test_a_plain_path_that_no_route_has_is_not_even_looked_up() -> None:
    """Most requests are for one, and pass."""
    routes = Routes([SEND, guard("POST /users/*")])
    assert find("POST", "/pictures/one", routes=routes) is None
    assert routes._kept_look_up.cache_info().misses == 0
