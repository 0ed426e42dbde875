"""Look for small inputs that cost much: `make fuzz-time`. No coverage guides it, the cost itself does.

Each target is one function that a stranger's octets reach before anybody knows them. An input is made of units, repeated
and nested, cut to at most 64 KiB; what cost most for its length so far is changed again and again, as is what is new. An
input is a finding when it costs more than `BASE_MS + PER_KIB_MS` for each KiB of it, three times out of three, or when
something but a refusal is raised. Findings go to `.bench/slow-*`, and `bench/fuzz_time.py FILE…` plays them again.
"""

import base64
import gc
import json
import pathlib
import random
import sys
import time
from ipaddress import ip_network

from sidecar import intake, language, prefer, recipient
from sidecar.captcha.altcha import Altcha, Settings
from sidecar.config.model import Route
from sidecar.delivery.providers import twilio
from sidecar.errors import Refusal
from sidecar.proxy import client, messages
from sidecar.routes import Routes
from sidecar.verification import codes

ROOM = 64 << 10
# A whole guarded body or head at its worst stays below what a bystander may wait for, 50 ms, with as much again beside.
BASE_MS, PER_KIB_MS = 8.0, 0.45
FOLDER = pathlib.Path(".bench")

FORM = (b"Content-Type", b"application/x-www-form-urlencoded")
JSON = (b"Content-Type", b"application/json")
ROUTES = Routes(
    [
        Route.model_validate({"match": match, "action": action, "to": "form:phone", "code": "form:code"})
        for match, action in (
            ("POST /api/register", "verify"),
            ("PUT /account/{id}", "verify"),
            ("* /admin/*", "verify"),
        )
    ]
)


def _route(source: str, **more: str) -> Route:
    selectors = {
        "to": f"{source}:user.phone" if source == "json" else f"{source}:user[phone]",
        "code": f"{source}:code",
    }
    return Route.model_validate({"match": "POST /a", "action": "verify"} | selectors | more)


ALTCHA = Altcha(Settings(kind="altcha"), b"x" * 32, lambda: 1.8e9, lambda _most: 5, load=None)


def _find(octets: bytes) -> None:
    found = ROUTES.find("POST", octets.replace(b" ", b"+") or b"/", [(b"Host", b"h")])
    if found.needs_body_for_override:
        ROUTES.with_body_override(found, b"", b"")


def _find_field(octets: bytes) -> None:
    value = octets.translate(None, b"\r\n\0")
    ROUTES.find(
        "POST",
        b"/",
        [
            (b"Host", b"h"),
            (b"X-Original-URL", value),
            (b"SCRIPT_NAME", value[:4_000]),
            (b"X-HTTP-Method-Override", value),
        ],
    )


def _find_many(octets: bytes) -> None:
    ROUTES.find(
        "POST",
        b"/x/api/register",
        [(b"X-%d" % number, line) for number, line in enumerate(octets.split(b"\n")[:4_000])],
    )


def _find_name(octets: bytes) -> None:
    ROUTES.find("POST", b"/x/api/register", [(octets, b"/a"), (octets[::-1], b"PUT")])


def _find_body(octets: bytes, kind: bytes) -> None:
    found = ROUTES.find("POST", b"/account/1", [(b"Content-Type", kind)])
    if found.needs_body_for_override:
        ROUTES.with_body_override(found, octets, kind)


def _altcha(octets: bytes) -> None:
    token = base64.b64encode(octets[: 6 << 10]).decode()
    ALTCHA.look(token)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def _head(octets: bytes) -> None:
    block = b"Host: h\r\n" + b"".join(line + b"\r\n" for line in octets.split(b"\n"))
    fields = messages.read_fields(block)
    messages.read_request(b"POST / HTTP/1.1", fields)


def _client(octets: bytes) -> None:
    client.name(
        "10.0.0.1",
        [(b"X-Forwarded-For", octets), (b"X-Forwarded-Host", octets)],
        client.Trusted([ip_network("10.0.0.0/8")]),
        "http",
    )


SIGNED = {"x-twilio-signature": "eA=="}


def _document(*names: bytes | str) -> bytes:
    """Write a document whose members have these names, and its last value."""
    members, room = b"", ROOM - 64
    for name in names:
        member = json.dumps(name if isinstance(name, str) else _text(name), ensure_ascii=False).encode() + b":1,"
        room -= len(member)
        if room < 0:
            break
        members += member
    return b'{"user":{' + members + b'"phone":"1"},"code":1}'


def _nested(octets: bytes) -> bytes:
    """Write a document of arrays and objects, nested as each octet says."""
    out, ends = [b'{"user":{"phone":"1"},"x":['], [b"]}"]
    for octet in octets[: ROOM // 6]:
        if octet % 4 == 0 and len(ends) < 60:
            out.append(b"[")
            ends.append(b"]")
        elif octet % 4 == 1 and len(ends) < 60:
            out.append(b'{"a":[')
            ends.append(b"]}")
        elif octet % 4 == 2 and len(ends) > 1:
            out.append(b"1" + ends.pop() + b",")
        else:
            out.append(b"{},")
    return b"".join(out) + b"1" + b"".join(reversed(ends))


# Targets that make a longer document of an input; and those that give up at a fixed cost, soon reached.
LONGER = {
    "JSON names",
    "JSON brackets",
    "a JSON name",
    "a JSON value",
    "route",
    "route by a field",
    "route by many fields",
}
TARGETS = {
    "route": _find,
    "route by a field": _find_field,
    "route by many fields": _find_many,
    "route by a field's name": _find_name,
    "route by a form": lambda octets: _find_body(octets, b"application/x-www-form-urlencoded"),
    "route by multipart": lambda octets: _find_body(octets, b"multipart/form-data; boundary=b"),
    "route by JSON": lambda octets: _find_body(octets, b"application/json"),
    "form": lambda octets: intake.read(
        _route("form"), intake.Request(b"/a", [FORM], b"user[phone]=1&code=1&" + octets)
    ),
    "query": lambda octets: intake.read(_route("query"), intake.Request(b"/a?user[phone]=1&" + octets, [], b"")),
    "query beside a form": lambda octets: intake.read(
        _route("form"), intake.Request(b"/a?" + octets, [FORM], b"user[phone]=1")
    ),
    "cookies beside a form": lambda octets: intake.read(
        _route("form"), intake.Request(b"/a", [FORM, (b"Cookie", octets)], b"user[phone]=1")
    ),
    "JSON": lambda octets: intake.read(_route("json"), intake.Request(b"/a", [JSON], octets)),
    "JSON members": lambda octets: intake.read(
        _route("json"), intake.Request(b"/a", [JSON], b'{"user":{"phone":"1",' + octets + b"}}")
    ),
    "a JSON name": lambda octets: intake.read(_route("json"), intake.Request(b"/a", [JSON], _document(octets, "1"))),
    "a JSON value": lambda octets: intake.read(
        _route("json"), intake.Request(b"/a", [JSON], _document(b"x", _text(octets)))
    ),
    "JSON names": lambda octets: intake.read(
        _route("json"), intake.Request(b"/a", [JSON], _document(*octets.split(b"a")))
    ),
    "JSON brackets": lambda octets: intake.read(_route("json"), intake.Request(b"/a", [JSON], _nested(octets))),
    "a type": lambda octets: intake.read(
        _route("form"), intake.Request(b"/a", [(b"Content-Type", octets)], b"user[phone]=1")
    ),
    "a phone": lambda octets: recipient.parse(_text(octets), "sms", "CN"),
    "an address": lambda octets: recipient.parse(_text(octets), "email", "CN"),
    "a language": lambda octets: language.choose(language.read(_text(octets)), ("en", "de", "zh-Hant")),
    "a code": lambda octets: codes.read(_text(octets), 6),
    "preferences": lambda octets: prefer.read([octets.decode("latin-1")]),
    "altcha": _altcha,
    "a head": _head,
    "wishes": lambda octets: messages.wishes(b"GET / HTTP/1.1\r\nAccept:" + octets),
    "a client": _client,
    "a receipt that is a form": lambda octets: twilio.signature_ok(
        "https://h/x", SIGNED | {"content-type": "application/x-www-form-urlencoded"}, octets, "x" * 16, "HMAC_SHA1"
    ),
    "a receipt's signature": lambda octets: twilio.signature_ok(
        f"https://h/x?{octets.decode('latin-1')}",
        SIGNED | {"x-twilio-signature": octets.decode("latin-1")},
        b"",
        "x" * 16,
        "HMAC_SHA1",
    ),
}

UNITS = [
    *(bytes([octet]) for octet in range(256)),
    *(text.encode() for text in ("\u0301", "\u0316", "\u0301\u0316", "\u05b0\u0591", "\ufdfa", "\u1100\u1161\u11a8", "\uff21", "\U0001d7ce", "\u0130", "\u00df", "\u200b", "\u3000", "\u0661", "\u212a", "\u0345", "\u1f82")),
    *b"phone user[phone] [phone] .phone code _method rest_route name= filename= %61 %2561 %u0061 %cc%81 %2f %00 /../ /./ // .php/ ;a=1 ;a/ /a a/ a=b& a=b; [] [0] [a] {\" \"a\": \"a\":1, [], {}, 1, 1e9 \\u0301 \\ud800 \\\\ --b =?utf-8?q? 10.0.0.1, en;q=0.1, de-AT, wait=1, a@a. +86 138 x1 ;ext= tel: :// http://h \xc0\xaf \xa0 \x85".split(),
    b"--b\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\n", b"\r\n", b"\n", b"X-A: /a\n", b'"expiresAt":', b"9" * 50, b'{"challenge":', b"9007199254740993,",
]  # fmt: skip


def new(draw: random.Random) -> bytes:
    """Make an input of one to five units, each repeated, perhaps nested."""
    out = b""
    for _ in range(draw.randint(1, 5)):
        unit = b"".join(draw.choice(UNITS) for _ in range(draw.choice((1, 1, 1, 2, 3, 6))))
        times = draw.choice((1, 1, 2, 30, 128, 1_000, 20_000, ROOM))
        out += (unit * times)[: ROOM - len(out)]
        if draw.random() < 0.1:
            out = b'{"user":' + out + b"}"
    return out[:ROOM]


def changed(draw: random.Random, octets: bytes) -> bytes:
    """Change an input in one place: a unit more, a piece less, twice, or elsewhere."""
    if not octets:
        return new(draw)
    at, to = sorted((draw.randrange(len(octets) + 1), draw.randrange(len(octets) + 1)))
    piece = octets[at:to]
    match draw.randrange(6):
        case 0:
            made = octets[:at] + draw.choice(UNITS) + octets[at:]
        case 1:
            made = octets[:at] + octets[to:]
        case 2:
            made = octets[:to] + piece + octets[to:]
        case 3:
            unit = draw.choice(UNITS)
            made = octets[:at] + (unit * (len(piece) // len(unit) + 1))[: len(piece)] + octets[to:]
        case 4:
            made = octets[:at] + piece[::-1] + octets[to:]
        case _:
            made = octets[to:] + piece + octets[:at]
    return made[:ROOM]


def cost_ms(target: str, octets: bytes) -> float:
    """Run a target on an input: the milliseconds that it computed. Raises whatever is no refusal."""
    began = time.thread_time()
    try:
        TARGETS[target](octets)
    except Refusal:
        pass
    return (time.thread_time() - began) * 1000


def bound_ms(target: str, octets: bytes) -> float:
    return BASE_MS + PER_KIB_MS * (ROOM if target in LONGER else len(octets)) / 1024


def is_slow(target: str, octets: bytes) -> bool:
    return all(cost_ms(target, octets) > bound_ms(target, octets) for _ in range(3))


def play(files: list[str]) -> int:
    for file in files:
        target, _, octets = pathlib.Path(file).read_bytes().partition(b"\n")
        print(f"{file}: {target.decode()}, {len(octets)} octets, {cost_ms(target.decode(), octets):.1f} ms")
    return 0


def main(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        return play(arguments)
    options = dict(argument.lstrip("-").split("=") for argument in arguments)
    seed = int(options.get("seed", time.time()))
    only = options.get("only")
    draw = random.Random(seed)
    until = time.monotonic() + float(options.get("seconds", 600))
    names = [name for name in TARGETS if only in {None, name}]
    best: dict[str, list[tuple[float, bytes]]] = {name: [] for name in names}
    found: dict[str, int] = dict.fromkeys(names, 0)
    gc.collect()
    gc.freeze()
    gc.disable()
    count = 0
    while time.monotonic() < until:
        name = draw.choice(names)
        kept = best[name]
        octets = changed(draw, draw.choice(kept)[1]) if kept and draw.random() < 0.6 else new(draw)
        count += 1
        if count % 500 == 0:
            gc.collect()
        try:
            spent = cost_ms(name, octets)
        except Exception as error:  # noqa: BLE001 - that is a finding
            found[name] += 1
            if found[name] <= 5:
                report(name, octets, f"raises {error!r:.200}")
            continue
        score = spent / bound_ms(name, octets)
        if score > 1 and is_slow(name, octets):
            found[name] += 1
            if found[name] <= 5:
                report(name, octets, f"{spent:.1f} ms for {len(octets)} octets")
        kept.append((score, octets))
        kept.sort(key=lambda one: -one[0])
        del kept[12:]
    print(f"{count} inputs with seed {seed}")
    for name in names:
        score, octets = best[name][0] if best[name] else (0.0, b"")
        print(
            f"{name:22} {found[name]:4} findings; at worst {score:5.2f} of the bound: {len(octets)} octets {octets[:30]!r}…"
        )
    return 1 if any(found.values()) else 0


def report(name: str, octets: bytes, what: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"slow-{name.replace(' ', '-')}-{hash(octets) & 0xFFFFFFFF:08x}"
    file.write_bytes(name.encode() + b"\n" + octets)
    print(f"{name}: {what}: {octets[:60]!r} in {file}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
