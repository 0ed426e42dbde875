"""The catalogue: named ways round a gate, each one request. Some are other people's bug reports, some are ours.

Every guarded handler stands under its plain path: `POST /api/register` (a form), `POST /api/json/register`,
`POST /api/query/register`, the two send routes, `PUT /api/account`, and WordPress' `POST /wp-json/api/register`. A way round is true when a backend runs such a
handler for it. HONEST is the number that a code was sent to, VICTIM another one that is smuggled in beside it.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

HONEST: Final = "+8613800000000"
CODE: Final = "246810"
VICTIM: Final = "+8613911112222"

_A: Final = quote(HONEST)
_V: Final = quote(VICTIM)
FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"
_FORM_BODY: Final = f"phone={_V}&code=000000"


@dataclass(frozen=True)
class Way:
    """One request. `proof`: a code was sent to HONEST before, and the request shows it.

    In its octets HOST is the sidecar's address, and TOKEN a verification token of HONEST's.
    """

    name: str
    octets: bytes
    proof: bool = False


def request(
    target: str | bytes,
    body: str | bytes = "",
    *fields: str | bytes,
    method: str = "POST",
    kind: str | None = FORM,
    version: str = "1.1",
) -> bytes:
    """Write a request. `target` and fields go out octet for octet, as Latin-1."""

    def octets(text: str | bytes) -> bytes:
        return text.encode("latin-1") if isinstance(text, str) else text

    content = body.encode() if isinstance(body, str) else body
    lines = [
        method.encode() + b" " + octets(target) + b" HTTP/" + version.encode(),
        b"Host: HOST",
        b"Connection: close",
    ]
    if kind is not None and content:
        lines.append(b"Content-Type: " + kind.encode())
    if content or method in {"POST", "PUT"}:
        lines.append(b"Content-Length: %d" % len(content))
    lines += map(octets, fields)
    return b"\r\n".join([*lines, b"", content])


def multipart(*parts: tuple[str, str], boundary: str = "b") -> str:
    """Write a multipart body: of each part the parameters of its Content-Disposition, and its content."""
    written = [f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n" for name, value in parts]
    return "".join(written) + f"--{boundary}--\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Write a frame of HTTP/2. RFC 9113 section 4.1."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _in_http2() -> bytes:
    """Write what a client of HTTP/2 says first, and a POST to the guarded form. RFC 9113 section 3.4."""
    body = _FORM_BODY.encode()
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/api/register"),
        (":authority", "h"),
        ("content-type", FORM),
        ("content-length", str(len(body))),
    )
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")
    return preface + _frame(1, 4, 3, block) + _frame(0, 1, 3, body)


def _tunnels() -> list[Way]:
    """Ways to talk to the backend past the sidecar: another protocol, or an upgrade that was not one."""
    upgrade = b"GET / HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade%s\r\nUpgrade: %s\r\n%s\r\n"
    post = request("/api/register", _FORM_BODY)
    settings = b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    socket = b"Sec-WebSocket-Version: %s\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    return [
        Way("HTTP/2 at once", _in_http2()),
        Way("h2c", upgrade % (b", HTTP2-Settings", b"h2c", settings) + _in_http2()),
        Way("h2c without its settings named", upgrade % (b"", b"h2c", settings) + _in_http2()),
        Way("h2c, spelled", upgrade % (b", HTTP2-Settings", b"H2C", settings) + _in_http2()),
        Way("h2c, and a WebSocket", upgrade % (b", HTTP2-Settings", b"websocket, h2c", settings + socket % b"13") + _in_http2()),
        Way("a WebSocket that is none", upgrade % (b"", b"websocket", socket % b"777") + post),
        Way("a WebSocket nobody takes", upgrade % (b"", b"websocket", socket % b"13") + post),
        Way("a WebSocket by POST", request("/x", "", "Connection: Upgrade", "Upgrade: websocket") + post),
        Way("CONNECT", b"CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n" + post),
        Way("an expectation, and a request behind", request("/x", "", "Expect: 100-continue").replace(b"Connection: close\r\n", b"") + post),
        Way("a GET whose length is a list", request("/x", post, "Content-Length: 0, 0", method="GET", kind=None)),
        Way("two lengths", request("/x", "", f"Content-Length: {len(post)}") + post),
        Way("a length with a sign", request("/x", "", "X: y").replace(b"Content-Length: 0", b"Content-Length: +0") + post),
        Way("chunked in another case", request("/x", b"0\r\n\r\n" + post, "Transfer-Encoding: Chunked")),
        Way("chunked behind a tab", request("/x", b"0\r\n\r\n" + post, "Transfer-Encoding:\tchunked")),
        Way("chunked before a colon's space", request("/x", b"0\r\n\r\n" + post, "Transfer-Encoding : chunked")),
        Way("chunked, in vain", request("/x", b"0\r\n\r\n" + post, "Transfer-Encoding: xchunked")),
        Way("chunked, a chunk with a lone CR", request("/x", b"1\rX\r\nA\r\n0\r\n\r\n" + post, "Transfer-Encoding: chunked").replace(b"Content-Length", b"X-Length")),
        Way("chunked, a size with a prefix", request("/x", b"0x0\r\n\r\n" + post, "Transfer-Encoding: chunked").replace(b"Content-Length", b"X-Length")),
        Way("a bare CR before a field", request("/x", post, "X: y\rTransfer-Encoding: chunked")),
        Way("a bare LF for a line", b"POST /api/register HTTP/1.1\nHost: HOST\n\n"),
        Way("a folded field", request("/", _FORM_BODY, "X: y\r\n X-Original-URL: /api/register")),
    ]  # fmt: skip


def _targets() -> list[Way]:
    spellings = [
        "/api/register/", "//api/register", "/api//register", "/./api/register", "/x/../api/register", "/api/x/../register",
        "/%61pi/register", "/api%2Fregister", "/api/register%2F", "/api/register%20", "/api/register%00", "/api/register%0a",
        "/API/Register", "/api/register;x=1", "/api;x=1/register", "/api/register?", "/api/register?x", "/api\\register",
        "/api/%72egister", "/api/%2572egister", "/api/register.json", "/api/register.", "/api/register/.", "/api/register/x/..",
        "/api/register#x", "/api/register%23", "/api/register%3f", "/api/register%3Bx", "/%2e/api/register", "/x/%2e%2e/api/register",
        "/index.php/api/register", "/index.php/api//register/", "http://HOST/api/register", "HTTP://HOST/api/register",
        "http://other/api/register", "http://HOST//api/register", "http:///api/register", "http://u@HOST/api/register",
        "//HOST/api/register", "///api/register", "/%2fapi/register", "/api/register%c2%a0", "/api/register%e3%80%80",
        "/api/register/%20", "/api/%20register", "/api/regi%73ter/", "/api/./register", "/..//api/register",
        "/api/register%09", "/api/register%0d%0a", "/api/register%ff", "/api/r\u00e9gister", "/%c0%afapi/register",
        "/api/register;/x", "/api/register/..;/register", "/api;/register", "/api/..;/api/register", "/;/api/register", "/api/%3b/register", "/api/register/%2e",
        "/api/regist%c3er", "/%ff/../api/register", "/api%ff/register", "/api/register%80%80", "/api/%c0%72egister", "/api/register%ed%a0%80", "/api/register%ef%bf%bd",
        "/api/register%E2%80%8E", "/api/register%F0%9F%98%80", "/api/register%u0020", "/api/register%", "/api/register%2", "/api/%", "/api/register&x", "/api/register=x",
        "/api/register:80", "/api/register::$DATA", "/api/register!", "/api/register~", "/api/register,", "/api/register'", "/api/register%27", "/api/register%22", "/api/register*",
        "/api/register.html", "/api/register.php", "/api/register.json.json", "/api/register.%00", "/api/register%2ejson", "/api/register..", "/static/..%2fapi/register", "/static/..%5capi%5cregister",
        "/api/register%3Bjsessionid=1", "/api/register;jsessionid=1", "/api/register/index", "/api/register/index.html", "/./././api/register", "/a/b/../../api/register", "/api///register///",
        "*/api/register", "api/register", "x:/api/register", "https://HOST/api/register?x#y",
    ]  # fmt: skip
    ways = [Way(f"target {spelling}", request(spelling, _FORM_BODY)) for spelling in spellings]
    for octet in (*range(1, 33), 0x7F, 0x85, 0xA0, 0xFF):
        for place, target in (
            ("after", b"/api/register" + bytes([octet])),
            ("before", bytes([octet]) + b"/api/register"),
        ):
            ways.append(Way(f"octet {octet:#04x} {place} the target", request(target, _FORM_BODY)))
    two = b"\xc2\xa0", b"\xe3\x80\x80", b"\xe2\x80\x8b", b"\xef\xbb\xbf", b"\x1c\xa0", b"\xa0\xa0", b"\xa0/", b"\xa0x"
    for octets in two:
        ways.append(Way(f"octets {octets!r} after the target", request(b"/api/register" + octets, _FORM_BODY)))
        ways.append(Way(f"octets {octets!r} before the target", request(octets + b"/api/register", _FORM_BODY)))
    for method in ("post", "Post", "PoST", "POST,GET", "GET", "PUT", "HEAD", "QUERY", "OPTIONS"):
        ways.append(Way(f"method {method}", request("/api/register", _FORM_BODY, method=method)))
    ways.append(Way("HTTP/1.0", request("/api/register", _FORM_BODY, version="1.0")))
    ways.append(Way("HTTP/0.9", b"POST /api/register\r\n\r\n"))
    return ways


def _mounts() -> list[Way]:
    """Fields that tell a backend where it is mounted, or what the path is."""
    ways = []
    for name in ("SCRIPT_NAME", "Script-Name", "SCRIPT.NAME", "X-Script-Name", "X-Forwarded-Prefix", "Daphne-Root-Path",
                 "X-Forwarded-Path", "X-Root-Path", "HTTP_SCRIPT_NAME", "X-Mount-Point", "X-SCRIPT_NAME"):  # fmt: skip
        for mount in ("/x", "/x/", "x", "//x", "/%78", "/X", "/x/y"):
            target = "/x/y/api/register" if mount == "/x/y" else "/x/api/register"
            ways.append(Way(f"{name}: {mount}", request(target, _FORM_BODY, f"{name}: {mount}")))
    ways.append(
        Way(
            "Daphne-Root-Path twice",
            request("/x/api/register", _FORM_BODY, "Daphne-Root-Path: /y", "Daphne-Root-Path: /x"),
        )
    )
    ways.append(Way("SCRIPT_NAME /api", request("/api/api/register", _FORM_BODY, "SCRIPT_NAME: /api")))
    ways.append(Way("SCRIPT_NAME: /api, path outside", request("/register", _FORM_BODY, "SCRIPT_NAME: /api")))
    for name in ("PATH_INFO", "Path-Info", "REQUEST_URI", "X-Original-URL", "X-Rewrite-URL", "X.Original.URL", "X_Original_URL",
                 "x-original-url", "X!Rewrite!URL", "X-Forwarded-Uri", "X-Original-Uri", "X-Override-URL"):  # fmt: skip
        for target in ("/", "/x", "/index.php"):
            ways.append(Way(f"{name} on {target}", request(target, _FORM_BODY, f"{name}: /api/register")))
        ways.append(Way(f"{name} with a host", request("/", _FORM_BODY, f"{name}: http://HOST/api/register")))
        ways.append(Way(f"{name} spelled", request("/", _FORM_BODY, f"{name}: /x/..//api/./register/?y")))
    ways.append(
        Way("X-Original-URL twice", request("/", _FORM_BODY, "X-Original-URL: /x", "X-Original-URL: /api/register"))
    )
    return ways


def _front_controllers() -> list[Way]:
    ways = []
    for name in (
        "rest_route",
        "s",
        "r",
        "_url",
        "REST_ROUTE",
        "rest.route",
        "rest%5Froute",
        "[rest_route]",
        "rest_route[]",
    ):
        for path in ("/", "/index.php", "/index.php/"):
            ways.append(Way(f"?{name} on {path}", request(f"{path}?{name}=/api/register", _FORM_BODY)))
            ways.append(Way(f"{name} in the form on {path}", request(path, f"{name}=%2Fapi%2Fregister&{_FORM_BODY}")))
    ways.append(Way("?rest_route twice", request("/?rest_route=/x&rest_route=/api/register", _FORM_BODY)))
    ways.append(Way("?rest_route spelled", request("/?rest_route=%2Fapi//register%2F", _FORM_BODY)))
    ways.append(Way("wp-json", request("/wp-json/api/register", _FORM_BODY)))
    body = multipart(('name="rest_route"', "/api/register"), ('name="phone"', VICTIM))
    ways.append(Way("rest_route in multipart", request("/", body, kind="multipart/form-data; boundary=b")))
    ways.append(Way("rest_route in a cookie", request("/", _FORM_BODY, "Cookie: rest_route=/api/register")))
    return ways


def _methods() -> list[Way]:
    """`PUT /api/account`, by a POST; and `POST /api/register`, by a GET or PUT."""
    ways = []
    fields = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_METHOD_OVERRIDE", "X.HTTP.Method.Override",
              "X-Http-Method-Override")  # fmt: skip
    for field in fields:
        ways.append(Way(f"{field}: PUT", request("/api/account", _FORM_BODY, f"{field}: PUT")))
        ways.append(Way(f"{field}: put", request("/api/account", _FORM_BODY, f"{field}: put")))
        ways.append(Way(f"{field}: POST on GET", request("/api/register", "", f"{field}: POST", method="GET")))
        ways.append(Way(f"{field}: POST on PUT", request("/api/register", _FORM_BODY, f"{field}: POST", method="PUT")))
    ways.append(
        Way(
            "override twice",
            request("/api/account", _FORM_BODY, "X-HTTP-Method-Override: GET", "X-HTTP-Method-Override: PUT"),
        )
    )
    names = ("_method", "_Method", ".method", " method", "+method", "%5Fmethod", "[_method]", "_method[]", "[method", "_method%00",
             "_meth%6fd", "_METHOD")  # fmt: skip
    for name in names:
        ways.append(Way(f"{name} in the form", request("/api/account", f"{name}=PUT&{_FORM_BODY}")))
        ways.append(Way(f"{name} last in the form", request("/api/account", f"{_FORM_BODY}&{name}=put")))
        ways.append(Way(f"?{name}", request(f"/api/account?{name.replace(' ', '%20')}=PUT", _FORM_BODY)))
        ways.append(Way(f"?{name} on GET", request(f"/api/register?{name.replace(' ', '%20')}=POST", method="GET")))
    for kind in ("image/png", "application/octet-stream"):
        for name in ("Content-Type", "content_type"):
            ways.append(
                Way(
                    f"{kind}, and Connection: {name}",
                    request("/api/account", f"_method=PUT&{_FORM_BODY}", f"Connection: {name}", kind=kind),
                )
            )
        for name in ("Content_Type", "Content.Type", "content!type"):
            ways.append(
                Way(
                    f"{name}: {kind}",
                    request("/api/account", f"_method=PUT&{_FORM_BODY}", f"{name}: {kind}", kind=None),
                )
            )
    for name in ("x-tunneled-method", "%24httpMethod"):
        ways.append(Way(f"?{name}", request(f"/api/account?{name}=PUT", _FORM_BODY)))
        ways.append(Way(f"{name} in the form", request("/api/account", f"{name}=PUT&{_FORM_BODY}")))
    ways.append(Way("_method in JSON", request("/api/account", '{"_method":"PUT"}', kind=JSON)))
    ways.append(Way("_method in JSON, escaped", request("/api/account", '{"\\u005fmethod":"PUT"}', kind=JSON)))
    ways.append(Way("_method with no type", request("/api/account", "_method=PUT", kind=None)))
    for name in ('name="_method"', 'name=".method"', "name=_method", "name='_method'", 'name=" method"', 'NAME="_method"', 'name="[method"',
                 'name="\\_method"', 'name="x"; name="_method"', 'x=y; name="_method"', "name*=UTF-8''%5Fmethod", 'name = "_method"',
                 'name="%5Fmethod"', 'name="=?utf-8?q?_method?="', 'filename="x"; name="_method"', 'name="_method"; filename=""'):  # fmt: skip
        body = multipart((name, "PUT"), ('name="phone"', VICTIM))
        ways.append(Way(f"multipart {name}", request("/api/account", body, kind="multipart/form-data; boundary=b")))
    body = multipart(('name="_method"', "PUT"))
    for kind in ("multipart/form-data;boundary=b", 'multipart/form-data; boundary="b"', "Multipart/Form-Data; Boundary=b", "multipart/form-data; charset=utf-8; boundary=b",
                 "multipart/form-data, boundary=b", "multipart/form-data; boundary=x; boundary=b", "multipart/form-data; xboundary=x; boundary=b"):  # fmt: skip
        ways.append(Way(f"multipart by {kind}", request("/api/account", body, kind=kind)))
    folded = body.replace("form-data; name", "form-data;\r\n name")
    ways.append(
        Way("multipart, a folded field", request("/api/account", folded, kind="multipart/form-data; boundary=b"))
    )
    ways.append(
        Way(
            "multipart, bare LF",
            request("/api/account", body.replace("\r\n", "\n"), kind="multipart/form-data; boundary=b"),
        )
    )
    ways.append(
        Way("multipart, a preamble", request("/api/account", "x=y\r\n" + body, kind="multipart/form-data; boundary=b"))
    )
    part = '--b\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name="_method"\r\n\r\nPUT\r\n--b--\r\n'
    ways.append(
        Way("multipart, the name second", request("/api/account", part, kind="multipart/form-data; boundary=b"))
    )
    ways.append(
        Way(
            "multipart, no end",
            request("/api/account", body.removesuffix("--\r\n"), kind="multipart/form-data; boundary=b"),
        )
    )
    return ways


def _types() -> list[Way]:
    """Bodies whose type is said in a way that some backend reads otherwise. The victim's number, no proof."""
    form = f"phone={_V}&code=000000"
    ways = [Way("no proof at all", request("/api/register", f"phone={_V}"))]
    for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded; charset=utf-16", "multipart/form-data; boundary=b", "",
                 "application/x-www-form-urlencoded, application/json"):  # fmt: skip
        ways.append(Way(f"a form as {kind!r}", request("/api/register", form, kind=kind)))
    ways.append(Way("no type", request("/api/register", form, kind=None)))
    two = (f"Content-Type: {FORM}", f"Content-Type: {JSON}")
    ways.append(Way("two types", request("/api/register", form, *two, kind=None)))
    ways.append(
        Way(
            "two types, the second spelled with a dot",
            request("/api/register", form, two[1], f"Content.Type: {FORM}", kind=None),
        )
    )
    for coding in ("gzip", "x-gzip", "identity, gzip"):
        ways.append(Way(f"Content.Encoding: {coding}", request("/api/register", form, f"Content.Encoding: {coding}")))
    ways.append(
        Way(
            "multipart to the verify route",
            request("/api/register", multipart(('name="phone"', VICTIM)), kind="multipart/form-data; boundary=b"),
        )
    )
    for field in (
        "X-Verified-Identity",
        "x-verified-identity",
        "X_Verified_Identity",
        "X.Verified.Identity",
        "X-Verified_Identity",
    ):
        ways.append(
            Way(
                f"a forged {field}",
                request("/api/register", form, f"{field}: eyJhbGciOiJub25lIn0.eyJzdWIiOiIrODYxMzkxMTExMjIyMiJ9."),
            )
        )
    for field, value in (
        ("X-Verification-Token", "x"),
        ("X-Verification-Token", ""),
        ("Cookie", "sidecar-verification=x"),
    ):
        ways.append(Way(f"a made-up {field} {value!r}", request("/api/register", form, f"{field}: {value}")))
    smuggled = request("/api/register", form).replace(b"Connection: close\r\n", b"")
    ways.append(Way("a request inside a GET's body", request("/", smuggled, method="GET", kind="text/plain")))
    ways.append(
        Way(
            "a chunked body beside a length",
            request("/", b"0\r\n\r\n" + smuggled, "Transfer-Encoding: chunked", kind="text/plain"),
        )
    )
    ways.append(
        Way("Transfer.Encoding", request("/", b"0\r\n\r\n" + smuggled, "Transfer.Encoding: chunked", kind="text/plain"))
    )
    ways.append(
        Way(
            "pipelined",
            request("/", method="GET").replace(b"Connection: close\r\n", b"") + request("/api/register", form),
        )
    )
    ways.append(Way("the send route, a captcha's place empty", request("//api/sms/code", f"phone={_V}")))
    return ways


def _recipients() -> list[Way]:
    """A right code for HONEST, and VICTIM somewhere beside."""
    ways = []
    honest = f"phone={_A}&code={CODE}"
    names = ("phone", "[phone]", "phone[]", "phone[0]", "phone[x]", ".phone", "phone.", " phone", "+phone", "%20phone", "Phone", "PHONE",
             "phone%00", "phone%00x", "%70hone", "%2570hone", "phone]", "]phone", "[phone", "[][phone]", "[[phone]]", "phone[", "phone[a][b]",
             "'phone'", "['phone']", "phone%0a", "%09phone", "phone%20", "phone%c2%a0", "%ef%bc%b0hone", "phone;", "phone%3b", "phone:string")  # fmt: skip
    for name in names:
        ways.append(Way(f"{name} after, in the form", request("/api/register", f"{honest}&{name}={_V}"), proof=True))
        ways.append(Way(f"{name} before, in the form", request("/api/register", f"{name}={_V}&{honest}"), proof=True))
        query = name.replace(" ", "%20")
        ways.append(Way(f"?{name} beside a form", request(f"/api/register?{query}={_V}", honest), proof=True))
        document = f'{{"phone":"{HONEST}","code":"{CODE}"}}'
        ways.append(
            Way(f"?{name} beside JSON", request(f"/api/json/register?{query}={_V}", document, kind=JSON), proof=True)
        )
        ways.append(
            Way(f"?{name} twice in the query", request(f"/api/query/register?{honest}&{query}={_V}"), proof=True)
        )
        ways.append(
            Way(f"?{name} first in the query", request(f"/api/query/register?{query}={_V}&{honest}"), proof=True)
        )
        ways.append(
            Way(
                f"{name} in a form beside the query",
                request(f"/api/query/register?{honest}", f"{name}={_V}"),
                proof=True,
            )
        )
        cookie = f"Cookie: a=b; {query.replace(';', '')}={_V}"
        ways.append(Way(f"{name} in a cookie", request("/api/register", honest, cookie), proof=True))
        ways.append(Way(f"{name} after a semicolon", request("/api/register", f"{honest};{name}={_V}"), proof=True))
        ways.append(
            Way(
                f"{name} after a semicolon in the code",
                request("/api/register", f"phone={_A}&code={CODE};{name}={_V}"),
                proof=True,
            )
        )
    members = (
        "phone",
        "Phone",
        "\\u0070hone",
        "[phone]",
        ".phone",
        "phone[]",
        "phone\\u0000",
        "ph\\u00adone",
        "\\uff50hone",
        " phone",
    )
    for name in members:
        for text in (
            f'{{"phone":"{HONEST}","code":"{CODE}","{name}":"{VICTIM}"}}',
            f'{{"{name}":"{VICTIM}","phone":"{HONEST}","code":"{CODE}"}}',
        ):
            ways.append(Way(f"member {text.split('+')[0]}", request("/api/json/register", text, kind=JSON), proof=True))
    for text in (f'{{"phone":"{HONEST}","code":"{CODE}"}}{{"phone":"{VICTIM}"}}', f'\ufeff{{"phone":"{HONEST}","code":"{CODE}"}}',
                 f'{{"phone":["{HONEST}","{VICTIM}"],"code":"{CODE}"}}', f'{{"phone":"{HONEST}","code":"{CODE}",/*"phone":"{VICTIM}",*/"x":1}}',
                 f'{{"phone":{HONEST[1:]},"code":{CODE}}}', f'{{"phone":{HONEST[1:]}.0,"code":"{CODE}"}}', f'{{"phone":8.6138e12,"code":"{CODE}"}}'):  # fmt: skip
        ways.append(
            Way(
                f"JSON {text.replace(HONEST, 'HONEST').replace(VICTIM, 'VICTIM')}",
                request("/api/json/register", text, kind=JSON),
                proof=True,
            )
        )
    tails = (" x0000001", "x0000001", " ext 5", ";ext=5", ";isub=1", "#5", " #1", ",1", ";phone-context=+1", "/2", " 1", "\u0661", "\uff11", "%00", "%0a1", "p1", "w1",
             " или 13911112222", "\u200b1", "\u202e", "e0", ".0", "-", "--", "(0)", "()", "[]", "+")  # fmt: skip
    for tail in tails:
        for number in (HONEST, "13800000000", "008613800000000"):
            sent = quote(number) + (tail if "%" in tail else quote(tail))
            ways.append(
                Way(f"{number} with {tail!r}", request("/api/register", f"phone={sent}&code={CODE}"), proof=True)
            )
    heads = (
        "tel:",
        "0",
        "00",
        "+0",
        "1",
        "\u0661",
        "\uff0b",
        "(+86)",
        "[86]",
        "=",
        "'",
        "+86",
        "++",
        "%2B%2B",
        "TEL:+86-",
        "86",
        "+1",
        "phone=",
        "\u200e",
    )
    for head in heads:
        sent = (head if "%" in head else quote(head)) + "13800000000"
        ways.append(Way(f"a number after {head!r}", request("/api/register", f"phone={sent}&code={CODE}"), proof=True))
    for number in ("1380000\u06600000", "138\u0660000\uff10000", "\u0661\u0663\u0668\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660",
                   "\uff0b\uff18\uff16\uff11\uff13\uff18\uff10\uff10\uff10\uff10\uff10\uff10\uff10\uff10", "1 3 8 0 0 0 0 0 0 0 0", "138\u00ad00000000", "138-0000-0000", "(138) 0000 0000"):  # fmt: skip
        ways.append(
            Way(f"the number as {number!r}", request("/api/register", f"phone={quote(number)}&code={CODE}"), proof=True)
        )
    places = (f"code={CODE}&code=000000", f"code[]={CODE}", f"Code={CODE}", f"code={CODE}%00", f"[code]={CODE}")
    for place in places:
        ways.append(Way(f"a code as {place}", request("/api/register", f"phone={_V}&{place}"), proof=True))
    ways.append(
        Way("the victim's number with the honest code", request("/api/register", f"phone={_V}&code={CODE}"), proof=True)
    )
    for field in (
        "X-Verification-Token: TOKEN",
        "Cookie: sidecar-verification=TOKEN",
        "x-verification-token: TOKEN",
        "X_Verification_Token: TOKEN",
    ):
        ways.append(
            Way(f"the victim's number with {field}", request("/api/register", f"phone={_V}", field), proof=True)
        )
        ways.append(
            Way(
                f"the victim's number and a code with {field}",
                request("/api/register", f"phone={_V}&code={CODE}", field),
                proof=True,
            )
        )
        ways.append(
            Way(
                f"the victim's number in JSON with {field}",
                request("/api/json/register", f'{{"phone":"{VICTIM}"}}', field, kind=JSON),
                proof=True,
            )
        )
    for named in (
        "X-Verified-Identity",
        "x-verified-identity",
        "Content-Length",
        "Content-Type",
        "Host",
        "Via",
        "X-Forwarded-For",
        "X_Verified_Identity",
    ):
        ways.append(Way(f"Connection: {named}", request("/api/register", honest, f"Connection: {named}"), proof=True))
    twice = request("/api/register", honest).replace(b"Connection: close\r\n", b"") + request("/api/register", honest)
    ways.append(Way("one code twice in one write", twice, proof=True))
    ways.append(
        Way(
            "one code, then the victim",
            request("/api/register", honest).replace(b"Connection: close\r\n", b"")
            + request("/api/register", f"phone={_V}&code={CODE}"),
            proof=True,
        )
    )
    for field in ("X-Verified-Identity", "X_Verified_Identity", "X.Verified.Identity", "x-verified-identity"):
        forged = f"{field}: eyJhbGciOiJub25lIn0.eyJzdWIiOiIrODYxMzkxMTExMjIyMiJ9."
        ways.append(Way(f"{field} forged beside a proof", request("/api/register", honest, forged), proof=True))
    trailer = f"2\r\nph\r\n{len(honest) - 2:x}\r\n{honest[2:]}\r\n0\r\nX-Verified-Identity: a.eyJzdWIiOiIrODYxMzkxMTExMjIyMiJ9.b\r\n\r\n"
    chunked = request("/api/register", "", "Transfer-Encoding: chunked", f"Content-Type: {FORM}").replace(
        b"Content-Length: 0\r\n", b""
    )
    ways.append(Way("the identity in a trailer", chunked + trailer.encode(), proof=True))
    for kind in (f"{FORM}; charset=utf-8", f"{FORM};charset=UTF-16", f"{FORM}; charset=gbk", f"{FORM}; charset=utf-7"):
        ways.append(Way(f"with proof as {kind}", request("/api/register", honest, kind=kind), proof=True))
    ways.append(Way("_charset_", request("/api/register", f"_charset_=utf-16&{honest}"), proof=True))
    return ways


CATALOGUE: Final = (*_tunnels(), *_targets(), *_mounts(), *_front_controllers(), *_methods(), *_types(), *_recipients())

# What must pass, so that the catalogue does not hold by refusing everything.
HONEST_WAYS: Final = (
    Way("a form", request("/api/register", f"name=a&phone={_A}&phone_country=86&code={CODE}&user[name]=b"), proof=True),
    Way("a form, a query beside", request("/api/register?utm_source=x", f"phone={_A}&code={CODE}"), proof=True),
    Way(
        "JSON",
        request("/api/json/register", f'{{"phone":"{HONEST}","code":"{CODE}","x":{{"phone":1}}}}', kind=JSON),
        proof=True,
    ),
    Way("a query", request(f"/api/query/register?phone={_A}&code={CODE}"), proof=True),
    Way("cookies", request("/api/register", f"phone={_A}&code={CODE}", "Cookie: session=1; theme=dark"), proof=True),
)
