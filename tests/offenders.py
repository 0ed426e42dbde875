"""Requests that are small and could cost much: each named, of at most 64 KiB, sent by nobody in particular.

They go to the routes that `ROUTES` makes, to the API and to plain paths. What is nested, repeated, long, composed or
huge in them is as much as a head or a guarded body may hold.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

# What a guarded body and a head may hold, less what the rest of the request takes.
_ROOM: Final = (64 << 10) - 512
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"

ROUTES: Final = """
[captcha.altcha]
kind = "altcha"
failures = "100000/1s"
[[routes]]
match = "POST /guard"
action = "guard"
captcha = "altcha"
captcha_token = "form:captcha"
[[routes]]
match = "POST /guard/json"
action = "guard"
captcha = "altcha"
captcha_token = "json:captcha"
[[routes]]
match = "POST /send"
action = "send"
to = "form:phone"
locale = "form:lang"
channel = "auto"
[[routes]]
match = "POST /send/json"
action = "send"
to = "json:user.phone"
locale = "json:lang"
channel = "auto"
[[routes]]
match = "POST /verify"
action = "verify"
to = "form:phone"
code = "form:code"
channel = "auto"
browser = "page"
[[routes]]
match = "POST /verify/json"
action = "verify"
to = "json:phone"
code = "json:code"
channel = "auto"
[[routes]]
match = "* /verify/query"
action = "verify"
to = "query:phone"
code = "query:code"
[[routes]]
match = "POST /verify/field"
action = "verify"
to = "header:X-Phone"
code = "header:X-Code"
[[routes]]
match = "PUT /account/{id}"
action = "verify"
to = "form:phone"
code = "form:code"
[providers.twilio]
kind = "twilio"
account_sid = "AC00000000000000000000000000000000"
auth_token = "twilio-token-twilio-token"
from = "+15005550006"
[providers.hook]
kind = "aliyun"
access_key_id = "x"
access_key_secret = "x"
sign_name = "x"
template = "SMS_1"
receipt_token = "receipt-token-receipt-token"
"""


@dataclass(frozen=True)
class Offender:
    name: str
    octets: bytes


def request(
    target: str | bytes, body: str | bytes = b"", *fields: str | bytes, kind: str = "", method: str = "POST"
) -> bytes:
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    lines = [b" ".join((method.encode(), target.encode("latin-1") if isinstance(target, str) else target, b"HTTP/1.1"))]
    lines += [b"Host: h", b"Content-Length: %d" % len(content)]
    lines += [b"Content-Type: " + kind.encode()] if kind else []
    lines += [one.encode("latin-1") if isinstance(one, str) else one for one in fields]
    return b"\r\n".join([*lines, b"", content])


def _fill(unit: str | bytes, room: int = _ROOM) -> str:
    """Repeat a unit for as long as there is room for its octets."""
    text = unit.decode("latin-1") if isinstance(unit, bytes) else unit
    return text * (room // len(text.encode("utf-8", "surrogatepass")))


MARKS: Final = "\u0301" * 14_000 + "\u0316" * 14_000
# Texts that cost a normalisation, a case folding or a look-up much for their length.
_TEXTS: Final[dict[str, str]] = {
    "combining marks": MARKS,
    "combining marks, alternating": _fill("\u0316\u0301"),
    "combining marks of many classes": _fill("".join(map(chr, range(0x0591, 0x05BE)))),
    "long compatibility characters": _fill("\ufdfa"),
    "full-width letters": _fill("\uff21"),
    "mathematical digits": _fill("\U0001d7ce"),
    "hangul": _fill("\u1100\u1161\u11a8"),
    "sharp s": _fill("\u00df"),
    "dotted i": _fill("\u0130"),
    "a character of each kind": "".join(map(chr, range(0xA0, 0x6000)))[:21_000],
    "invisible marks": _fill("\u200b"),
    "digits": _fill("1"),
    "arabic digits": _fill("\u0661"),
    "spaces": _fill(" "),
    "wide spaces": _fill("\u3000"),
    "brackets": _fill("["),
    "closed brackets": _fill("[]"),
    "dots": _fill("."),
    "dots between": _fill("a."),
    "underscores": _fill("_ "),
    "dashes": _fill("-"),
    "plus signs": _fill("+"),
    "at signs": _fill("@"),
    "labels": _fill("a@a."),
    "commas": _fill(","),
    "semicolons": _fill(";"),
    "equals signs": _fill("="),
    "ampersands": _fill("&"),
    "slashes": _fill("/"),
    "percent signs": _fill("%"),
    "escapes": _fill("%61"),
    "escaped escapes": _fill("%2561"),
    "wide escapes": _fill("%u0061"),
    "letters": _fill("a"),
    "quotes": _fill('"'),
    "backslashes": _fill("\\"),
    "nuls": _fill("\0"),
}


def _in_forms() -> list[Offender]:
    found = []
    for label, text in _TEXTS.items():
        raw = text.encode("utf-8", "surrogatepass")
        found.append(
            Offender(
                f"a form's name of {label}",
                request("/verify", b"phone=1&code=1&" + raw[: _ROOM - 32] + b"[" * 8, kind=_FORM),
            )
        )
        fixed = {"phone": b"%2B8613800000000", "code": b"1", "captcha": b"x", "lang": b"de"}
        for name, path in (
            ("phone", "/send"),
            ("phone", "/verify"),
            ("code", "/verify"),
            ("captcha", "/guard"),
            ("lang", "/send"),
        ):
            pairs = [f"{key}=".encode() + value for key, value in fixed.items() if key != name] + [
                f"{name}=".encode() + raw
            ]
            found.append(
                Offender(f"a form's {name} of {label} to {path}", request(path, b"&".join(pairs)[:_ROOM], kind=_FORM))
            )
    for unit in (
        "phone=1&",
        "a&",
        "phone[a]=1&",
        "%70hone=1&",
        "&;",
        ";",
        "a=%61;",
        "[a]&",
        "\u0301&",
        "\ufdfa=1&",
        "phone=1;",
        "_method=GET&",
    ):
        found += [
            Offender(f"a form of many {unit}", request(path, _fill(unit), kind=_FORM))
            for path in ("/guard", "/verify", "/account/1", "/")
        ]
    few = "&".join("\u0301\u0316" * 15 for _ in range(990))
    found.append(Offender("a form of many marks", request("/verify", f"phone=1&{few}", kind=_FORM)))
    found.append(Offender("a form of other octets", request("/verify", b"\xff" * _ROOM, kind=_FORM)))
    return found


def _in_json() -> list[Offender]:
    documents = {
        "nested arrays": _fill("["),
        "nested arrays, closed": "[" * 30_000 + "]" * 30_000,
        "nested objects": _fill('{"a":'),
        "nested objects, closed": '{"a":' * 10_000 + "1" + "}" * 10_000,
        "many arrays": "{" + '"x":[' + "[]," * 20_000 + "1]}",
        "many numbers": '{"x":[' + "1," * 32_000 + "1]}",
        "a huge number": '{"phone":' + "9" * 60_000 + "}",
        "a huge negative number": '{"x":-' + "9" * 60_000 + "}",
        "many huge numbers": '{"x":[' + ("9" * 4_000 + ",") * 15 + "1]}",
        "many numbers of 16 digits": '{"x":[' + "9007199254740993," * 3_700 + "1]}",
        "a huge exponent": '{"phone":1e' + "9" * 60_000 + "}",
        "a huge fraction": '{"phone":0.' + "9" * 60_000 + "}",
        "many members": "{" + ",".join(f'"{number:x}":1' for number in range(7_000)) + "}",
        "many members alike": "{" + ",".join(f'"phone{"." * (number % 60)}":1' for number in range(1_200)) + "}",
        "many long members": "{" + ",".join(f'"{number:x}{"[" * 500}":1' for number in range(120)) + "}",
        "many empty members": "{" + ",".join('"":1' for _ in range(12_000)) + "}",
        "many empty objects": '{"x":[' + "{}," * 21_000 + "1]}",
        "many objects": '{"x":[' + '{"a":1},' * 8_000 + "1]}",
        "an unended string": '{"phone":"' + "a" * 60_000,
        "a string of escapes": '{"phone":"' + "\\u0301" * 10_000 + '"}',
        "a string of surrogates": '{"phone":"' + "\\ud800" * 10_000 + '"}',
        "a name of surrogates": '{"' + "\\ud800" * 10_000 + '":1}',
        "white space": " " * 60_000,
        "many names of one mark": "{" + ",".join(f'"{chr(0x300 + number % 112)}{number:x}":1' for number in range(5_000)) + "}",
        "many escaped names": "{" + ",".join(f'"\\u00{number % 90 + 0x21:x}{number}":1' for number in range(4_000)) + "}",
    }  # fmt: skip
    for label, text in _TEXTS.items():
        short = json.dumps(text)[1:-1] if label in {"quotes", "backslashes", "nuls"} else text
        room = short[: 60_000 // max(1, len(short.encode()) // len(short))]
        documents[f"a name of {label}"] = f'{{"phone":"1","code":"1","{room}":1}}'
        documents[f"a phone of {label}"] = f'{{"user":{{"phone":"{room}"}},"phone":"{room}","code":"1"}}'[:_ROOM]
        documents[f"a code of {label}"] = f'{{"phone":"+8613800000000","code":"{room}"}}'
        documents[f"a captcha of {label}"] = f'{{"captcha":"{room}"}}'
        documents[f"a language of {label}"] = f'{{"user":{{"phone":"+8613800000000"}},"lang":"{room}"}}'
    found = []
    for label, document in documents.items():
        octets = document.encode("utf-8", "surrogatepass")[:_ROOM]
        paths = ["/send/json", "/verify/json"]
        if label.split(" of ")[0] not in {"a phone", "a code", "a captcha", "a language"}:
            paths += ["/guard/json", "/verify/query?phone=1", "/.sidecar/v1/verifications", "/account/1"]
        elif label.startswith("a captcha"):
            paths = ["/guard/json"]
        found += [Offender(f"JSON: {label} to {path}", request(path, octets, kind=_JSON)) for path in paths]
    return found


def _odd(*values: object) -> tuple[object, ...]:
    return values


def _captcha_tokens() -> list[Offender]:
    def token(document: str) -> str:
        return base64.b64encode(document.encode()).decode()

    parameters = {
        "algorithm": "PBKDF2/SHA-256",
        "nonce": "00",
        "salt": "00",
        "cost": 1000,
        "keyLength": 32,
        "keyPrefix": "00",
        "expiresAt": 9_999_999_999,
    }
    solution = {"counter": 1, "derivedKey": "00", "time": 1}

    def of(signature: object = "00", solved: object = None, **changed: object) -> str:
        challenge = {"parameters": parameters | changed, "signature": signature}
        return token(json.dumps({"challenge": challenge, "solution": solution if solved is None else solved}))

    huge = 10**400
    tokens = {
        "nothing": "x",
        "an empty object": token("{}"),
        "an array": token("[]"),
        "deep JSON": token("[" * 5_000),
        "deep objects": token('{"challenge":' * 450 + "1" + "}" * 450),
        "a huge number": token("9" * 6_000),
        "an ordinary one": of(),
        "an ordinary one with an empty signature": of(""),
        "a signature that is no text": of(1),
        "a signature of other letters": of("\u00e9" * 64),
        "a signature of surrogates": token('{"challenge":{"parameters":{},"signature":"\\ud800"},"solution":{"counter":1,"derivedKey":"00"}}'),
        **{f"{name} = {str(value)[:20]}": of(**{name: value})
           for name in (*parameters, "data", "memoryCost", "parallelism", "keySignature", "expires")
           for value in _odd(huge, -huge, -1, 0, 1e308, float("nan"), float("inf"), True, None, "", "\u00e9", "\ud800", "0" * 3_000, [], [[]], {}, {"a": {}})},
        **{f"the solution {name} = {str(value)[:20]}": of(solved=solution | {name: value})
           for name in solution
           for value in _odd(huge, -huge, -1, 2**64, 1e308, float("nan"), None, "", "\u00e9", "\ud800", "zz", [], {}, True)},
        "no solution": of(solved={}),
        "a solution that is a list": of(solved=[]),
        "base64 of base64": token(token("{}")),
        "base64 with a long tail": "e30=" + "=" * 8_000,
        "letters beyond ASCII": "\u00e9" * 500,
        "surrogates": "\ud800",
    }  # fmt: skip
    found = [
        Offender(f"a captcha token: {label}", request("/guard/json", json.dumps({"captcha": text}), kind=_JSON))
        for label, text in tokens.items()
    ]
    for label in ("deep JSON", "a huge number", "an ordinary one", f"expiresAt = {str(huge)[:20]}"):
        text = tokens[label]
        found.append(
            Offender(f"a captcha token of a form: {label}", request("/guard", "captcha=" + quote(text), kind=_FORM))
        )
        body = json.dumps({"captcha": text, "to": "+8613800000000"})
        found.append(
            Offender(f"a captcha token to the API: {label}", request("/.sidecar/v1/verifications", body, kind=_JSON))
        )
    return found


# What is worth a try in every field, and the fields whose values are read in parts.
_EVERYWHERE: Final = frozenset({"a", ",", ";", "1,", "/", "%61", '"', "\xe9", " "})
_LISTS: Final = frozenset(
    {
        "Cookie",
        "Accept-Language",
        "Accept",
        "Prefer",
        "X-Forwarded-For",
        "Content-Type",
        "Connection",
        "X-HTTP-Method-Override",
        "X-Original-URL",
        "SCRIPT_NAME",
    }
)


def _in_heads() -> list[Offender]:
    """Fields, targets and cookies. A head is 64 KiB at most."""
    room = (64 << 10) - 1024
    form = "phone=%2B8613800000000&code=123456"
    found = []
    names = ("Cookie", "Accept-Language", "Accept", "Prefer", "Idempotency-Key", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded",
             "Content-Type", "Content-Encoding", "X-Verification-Token", "X-Request-Id", "Connection", "Upgrade", "TE", "Expect", "Origin", "Sec-Fetch-Site",
             "X-HTTP-Method-Override", "X-Original-URL", "Referer", "SCRIPT_NAME", "X-Phone", "X-Code", "User-Agent", "traceparent", "Via", "Host",
             "If-None-Match", "Access-Control-Request-Headers", "Range", "X-Twilio-Signature", "Keep-Alive", "Trailer", "Transfer-Encoding", "Content-Length")  # fmt: skip
    units: dict[str, str] = {
        "a": "a", ",": ",", "a,": "a,", "a;": "a;", "a=b; ": "a=b; ", ";": ";", "=": "=", "-": "-", "1": "1", "1,": "1,", "1.1.1.1, ": "1.1.1.1, ", "[::1], ": "[::1], ",
        "en;q=0.1, ": "en;q=0.1, ", "en-": "en-", "text/html;q=0.1,": "text/html;q=0.1,", '"': '"', 'wait="': 'wait="', "wait=9": "wait=9", "wait=1,": "wait=1,", "\\": "\\",
        '"\\': '"\\', "/": "/", "/a": "/a", "/..": "/..", "/./": "/./", "%2f": "%2f", "%25": "%25", "%61": "%61", ";a/": ";a/", "//": "//", ".php/": ".php/", " ": " ", "\t": "\t",
        "[": "[", "(": "(", "\xe9": "\xe9", "\xcc\x81": "\xcc\x81", "http://": "http://", ":": ":", "@": "@", "sidecar-verification=a; ": "sidecar-verification=a; ", "charset=": "charset=",
    }  # fmt: skip
    for name in names:
        for label, unit in units.items():
            if label not in _EVERYWHERE and name not in _LISTS:
                continue
            value = (unit * (room // len(unit)))[:room]
            if name in {"Transfer-Encoding", "Content-Length"}:
                value = value[:8_000]
            found.append(
                Offender(f"{name} of many {label!r}", request("/verify", form, f"{name}: {value}", kind=_FORM))
            )
    for name, method, path in (("Prefer", "GET", "/.sidecar/v1/verifications/abc"), ("If-None-Match", "GET", "/.sidecar/client.js"), ("Accept", "GET", "/.sidecar/verify"),
                               ("Accept-Language", "GET", "/.sidecar/verify"), ("Origin", "OPTIONS", "/.sidecar/v1/verifications"), ("X-Twilio-Signature", "POST", "/.sidecar/receipts/twilio")):  # fmt: skip
        for label, unit in units.items():
            value = (unit * (room // len(unit)))[:room]
            found.append(
                Offender(
                    f"{method} {path} with {name} of many {label!r}",
                    request(path, b"", f"{name}: {value}", method=method),
                )
            )
    for label, unit in units.items():
        value = (unit * (room // len(unit)))[:room].replace(" ", "+").replace("\t", "+")
        for before in ("/", "/account/", "/.sidecar/v1/verifications/", "/.sidecar/receipts/", "/.sidecar/static/", "/verify/query?", "/?", "/?rest_route=", "/.sidecar/receipts/twilio?", "http://",
                       "/verify/query?code=1&phone="):  # fmt: skip
            found.append(Offender(f"POST {before}… of many {label!r}", request((before + value)[:room])))
        found.append(Offender(f"X-Original-URL of many {label!r}", request("/", b"", f"X-Original-URL: /{value}")))
        found.append(
            Offender(f"a query of many {label!r} beside a form", request("/verify?" + value[:room], form, kind=_FORM))
        )
    lines = {
        "many fields": [f"X-{number:x}: 1" for number in range(4_500)],
        "many short fields": ["a:"] * 14_000,
        "many cookies": ["Cookie: a=1"] * 4_000,
        "many X-Forwarded-For": ["X-Forwarded-For: 1.1.1.1"] * 2_400,
        "many X-Original-URL": [f"X-Original-URL: /{number:x}" for number in range(2_400)],
        "many paths": [f"X-{number:x}: /{number:x}" for number in range(4_000)],
        "many mounts": [f"X-{number:x}: /verify" for number in range(3_000)],
        "many long paths": [f"X-{number:x}: /{'a/' * 100}" for number in range(300)],
        "many spelled paths": [f"X-{number:x}: /%61//./..;a" for number in range(2_000)],
        "many methods": [f"X-HTTP-Method-Override: {'ABCDEFGH'[number % 8] * 3}" for number in range(2_000)],
        "many Content-Type": ["Content-Type: application/x-www-form-urlencoded"] * 1_200,
        "many Connection": ["Connection: a"] * 4_000,
        "many options": ["Connection: " + ",".join(f"x{number:x}" for number in range(11_000))],
        "many Accept-Language": ["Accept-Language: de"] * 2_500,
        "many Content-Length": ["Content-Length: 0"] * 3_000,
        "many Host": ["Host: h"] * 6_000,
        "an old fold": ["X-A: a\r\n " + "b\r\n " * 5_000],
    }  # fmt: skip
    for label, fields in lines.items():
        for path in ("/verify", "/", "/x/verify", "/.sidecar/v1/verifications"):
            found.append(Offender(f"{label} to {path}", request(path, form, *fields, kind=_FORM)))
    found.append(Offender("an endless name", request("/verify", form, "a" * room + ": 1", kind=_FORM)))
    for unit in ("a", "sign", "key-", "md5", "url", "sha-1", "-", "_method", "referer"):
        for end in ("", "-x", "-1x"):
            for value in ("/a", "PUT", ""):
                field = f"{(unit * (room // len(unit)))[: room - len(end)]}{end}: {value}"
                found.append(Offender(f"a name of many {unit!r} with {end!r}: {value}", request("/x", form, field)))
    for unit in (" ", "\t", "a ", " ,"):
        for name in ("Accept", "Accept-Language"):
            value = (unit * (room // len(unit)))[:room]
            found.append(Offender(f"{name} of many {unit!r} in no head", request("/x", "", f"{name}:{value}\x01")))
    found.append(Offender("an endless method", request("/verify", form, kind=_FORM, method="A" * room)))
    paths = ("/" + "a/" * 30_000, "/" + "%2561" * 12_000, "/" + "%252561" * 8_000, "/" + ".php/" * 12_000, "/" + "a.php/" * 10_000, "/" + "\xcc\x81" * 30_000,
             "/" + ("\xcc\x81" + "\xcc\x96") * 15_000, "/" + "%cc%81%cc%96" * 5_000, "/" + "%cc%81" * 5_000 + "%cc%96" * 5_000, "/" + "\xef\xb7\xba" * 20_000, "/verify/" + "../" * 20_000, "/verify" + "/." * 30_000,
             "/verify;" + "a" * 60_000, "/verify" + ";a/" * 20_000, "/" + "\\" * 60_000, "/%5c" * 15_000, "/verify" + "%00" * 20_000, "/verify" + "\xa0" * 60_000, "/verify" + "%20" * 20_000,
             "/%u0061" * 8_000, "/" + "\xc0\xaf" * 30_000, "/a%2f%252f%25252f;b//./..%5c\\" * 2_000)  # fmt: skip
    for path in paths:
        for size in (200, 1_000, 4_000, 8_000, 60_000):
            found.append(Offender(f"POST {path[:20]!r}… cut at {size}", request(path[:size])))
    return found


def _in_other_bodies() -> list[Offender]:
    """Multipart, receipts, and bodies whose type says nothing."""
    found = []
    parts = {
        "many parts": "--b\r\n\r\n\r\n" * 6_000,
        "many boundaries": "--b" * 21_000,
        "many parameters": "--b\r\nContent-Disposition: form-data" + "; a=b" * 12_000 + "\r\n\r\n",
        "many quotes": '--b\r\nContent-Disposition: form-data; name="' + '\\"' * 30_000,
        "an endless field": "--b\r\n" + "a" * 60_000,
        "many fields": "--b\r\n" + "a: b\r\n" * 10_000,
        "many encoded words": '--b\r\nContent-Disposition: form-data; name="' + "=?utf-8?q?a?=" * 4_500,
        "many names": '--b\r\nContent-Disposition: form-data; name="_method"\r\n\r\nGET\r\n' * 950,
        "folds": "--b\r\nContent-Disposition: form-data" + ";\r\n a=b" * 7_000,
        "dashes": "-" * 60_000,
        "line ends": "\r\n" * 30_000,
        "spaces": " " * 60_000,
    }  # fmt: skip
    kinds = (
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        "text/plain",
        "",
        "multipart/form-data; boundary=" + "b" * 5_000,
        "multipart/mixed" + "; boundary=b" * 4_000,
    )
    for label, text in parts.items():
        for kind in kinds:
            for path in ("/account/1", "/verify"):
                found.append(
                    Offender(
                        f"multipart: {label} as {kind[:40]!r} to {path}",
                        request(path, text.encode()[:_ROOM], kind=kind),
                    )
                )
    bodies: dict[str, bytes] = {label: text.encode("utf-8", "surrogatepass")[:_ROOM] for label, text in _TEXTS.items()}
    bodies |= {
        "pairs": _fill("a=b&").encode(),
        "deep JSON": b"[" * 60_000,
        "a huge number": b"9" * 60_000,
        "XML": b"<a>" * 20_000,
        "entities": b"&lt;" * 15_000,
        "NaN": b"NaN",
        "arrays": b"[" + b"{}," * 20_000 + b"{}]",
    }
    for label, octets in bodies.items():
        for path in (
            "/.sidecar/receipts/twilio",
            "/.sidecar/receipts/hook/receipt-token-receipt-token",
            "/.sidecar/receipts/hook/x",
        ):
            for kind in (_FORM, _JSON):
                found.append(
                    Offender(
                        f"a receipt of {label} as {kind} to {path}",
                        request(path, octets, "X-Twilio-Signature: eA==", kind=kind),
                    )
                )
    for path in ("/.sidecar/v1/verifications/abc/check", "/.sidecar/v1/verifications/" + "A" * 24 + "/check"):
        for code in (
            '"1"',
            "123456",
            "9" * 60_000,
            '"' + "1" * 60_000 + '"',
            '"' + "\u0301\u0316" * 14_000 + '"',
            "1e999",
            "[]",
            "true",
            "-1",
            "0.5",
        ):
            found.append(Offender(f"a check of {code[:20]} to {path}", request(path, f'{{"code":{code}}}', kind=_JSON)))
    return found


def _in_readings() -> list[Offender]:
    """What is looked up beside a request's own target: paths in fields, queries and forms, names of parts."""
    found = []
    units: list[str | bytes] = [
        "%c0%af",
        "%a0%00",
        "\ufdfa",
        "%41%%\u00e9",
        "%85/",
        "a../",
        "/;",
        "%252e/",
        "\u0301\u0316/",
        "/a.php",
    ]
    for unit in units:
        octets = _fill(unit, 7_000).encode("utf-8", "surrogatepass")
        fields = [b"X-%d: /%d" % (number, number) + octets for number in range(8)]
        found.append(Offender(f"eight fields that are paths of {unit!r}", request("/account/1", b"", *fields)))
        short = [b"X-%d: /%d" % (number, number) + octets[:300] for number in range(8)]
        found.append(Offender(f"eight short fields that are paths of {unit!r}", request("/account/1", b"", *short)))
        escaped = quote(octets, safe="%/;.")[:60_000]
        for path in ("/", "/account/1", "/x"):
            found.append(Offender(f"a query's path of {unit!r} to {path}", request(f"{path}?s={escaped}&_method=a")))
    for unit in ("s=/&", "c=a&a=b&", "%6dethod=a&", "rest_route=%2f&", "_method=a&", "%73=/;", "next_"):
        found += [
            Offender(f"a query of many {unit} to {path}", request(path + "?" + _fill(unit, 60_000)))
            for path in ("/", "/x", "/account/1")
        ]
        found.append(Offender(f"an index' form of many {unit}", request("/index.php", _fill(unit), kind=_FORM)))
    for unit in ('name="', "name='", "name=", "name*", "content-id:", "--b\r\n", 'name="%a0\\', "%a0=%u0041", "--"):
        for kind in ("multipart/form-data; boundary=b", "multipart/form-data", "text/plain"):
            body = '--b\r\nX: y; name="_method"\r\n' + _fill(unit, 60_000)
            found.append(Offender(f"{kind} of many {unit!r}", request("/account/1", body, kind=kind)))
    return found


MAKERS: Final[tuple[Callable[[], list[Offender]], ...]] = (
    _in_forms,
    _in_json,
    _captcha_tokens,
    _in_readings,
    _in_heads,
    _in_other_bodies,
)
