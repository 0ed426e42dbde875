"""What a browser sees of our own answers, and whose form may wait on a page: contract section 4, over real sockets."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
from awake import awake
from fakes import OK, RawClient, Taken
from telling import CONFIG, E164, PHONE, SEND, Reply, Sidecar, Start

from sidecar.pages import pages

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FORM_SEND = """
[[routes]]
match = "POST /code"
action = "send"
to = "form:phone"
limits = ["ip", "to"]
"""
PAGE = """
[[routes]]
match = "POST /register"
action = "verify"
to = "form:phone"
code = "form:code"
limits = ["ip"]
browser = "page"
[[routes]]
match = "GET /confirm"
action = "verify"
to = "query:phone"
code = "query:code"
browser = "page"
[[routes]]
match = "* /closed/*"
action = "deny"
"""
TABLES = FORM_SEND + PAGE


class Form(HTMLParser):
    """A page's form, its links and its text, as a browser without scripts reads them."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(convert_charrefs=True)
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8", reply.body
        self.fields: list[tuple[str, str]] = []
        self.shown: dict[str, str | None] | None = None
        self.form: dict[str, str | None] | None = None
        self.links: list[str | None] = []
        self.tags: list[str] = []
        self.text = ""
        self._words: list[str] = []
        self.feed(reply.body.decode())
        self.close()
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "form":
            self.form = values
        elif tag == "a":
            self.links.append(values["href"])
        elif tag == "input" and values["type"] == "hidden":
            self.fields.append((str(values["name"]), str(values["value"])))
        elif tag == "input":
            self.shown = values

    def handle_data(self, data: str) -> None:
        self._words.append(data)


async def post(sidecar: Sidecar, form: Any, path: str = "/register", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await sidecar.ask("POST", path, data=form, headers=BROWSER | named)


def is_verifying(reply: Reply) -> bool:
    """True for the page that verifies, and holds the form."""
    return reply.status == 403 and b'id="config"' in reply.body and b'"resume": {' in reply.body


# --- Whose form may wait


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "https://evil.example"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://127.0.0.1:{port}"},
        {"Referer": "https://evil.example/form"},
    ],
)
async def test_a_form_of_another_site_waits_on_no_page(start: Start, headers: dict[str, str]) -> None:
    """It would come out of ours as our own, with Strict cookies; the person is told, and can open the site itself."""
    sidecar = await start(TABLES)
    told = {name: value.format(port=sidecar.port) for name, value in headers.items()}
    reply = await post(sidecar, {"phone": PHONE, "secret": "attackers-choice"}, **told)
    assert (reply.status, reply.headers["Cache-Control"]) == (403, "no-store")
    page = Form(reply)
    assert "Another website sent this form" in page.text
    assert page.links == ["/"]
    assert page.form is None
    assert b"attackers-choice" not in reply.body
    assert PHONE.encode() not in reply.body
    assert "script" not in page.tags


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec_Fetch_Site": "same-origin", "Origin": "http://127.0.0.1:{port}"},
        {"Origin": "HTTP://127.0.0.1:{port}"},
        {"Referer": "http://127.0.0.1:{port}/form"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "null"},
    ],
)
async def test_a_form_of_our_own_site_waits(start: Start, headers: dict[str, str]) -> None:
    """Our own origin, or a browser too old to say."""
    sidecar = await start(TABLES)
    told = {name: value.format(port=sidecar.port) for name, value in headers.items()}
    assert is_verifying(await post(sidecar, {"phone": PHONE}, **told))


async def test_the_origin_is_the_one_that_the_client_sees(start: Start) -> None:
    """A trusted proxy says which; nobody else does. `public_url` is ours, too."""
    sidecar = await start(TABLES)
    forwarded = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "www.example.com"}
    origin = {"Origin": "https://www.example.com"}
    assert not is_verifying(await post(sidecar, {"phone": PHONE}, **forwarded, **origin))
    trusting = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
    sidecar = await start(TABLES, config=trusting)
    assert is_verifying(await post(sidecar, {"phone": PHONE}, **forwarded, **origin))
    assert not is_verifying(await post(sidecar, {"phone": PHONE}, **forwarded, Origin="http://www.example.com"))
    assert not is_verifying(await post(sidecar, {"phone": PHONE}, **forwarded, Origin="https://www.example.com:8443"))
    public = CONFIG.replace("[server]", '[server]\npublic_url = "https://www.example.com/app"')
    sidecar = await start(TABLES, config=public)
    assert is_verifying(await post(sidecar, {"phone": PHONE}, **origin))


async def test_no_page_of_any_kind_holds_another_sites_form(start: Start) -> None:
    """A wrong number, a wrong code, a limit: nothing can be sent on from there; a GET neither."""
    sidecar = await start(TABLES, ip_rate="3/1h")
    evil = {"Sec_Fetch_Site": "cross-site"}
    replies = [
        await post(sidecar, {"phone": "nonsense", "x": "attackers-choice"}, **evil),
        await post(sidecar, {"phone": "", "x": "attackers-choice"}, **evil),
        *[await post(sidecar, {"phone": PHONE, "code": "123456", "x": "attackers-choice"}, **evil) for _ in range(5)],
        await sidecar.ask(
            "GET", f"/confirm?phone={PHONE}&x=attackers-choice", headers=BROWSER | {"Sec-Fetch-Site": "cross-site"}
        ),
    ]
    assert {reply.status for reply in replies} == {422, 400, 403, 429}
    for reply in replies:
        assert Form(reply).form is None
        assert b"attackers-choice" not in reply.body
    assert not sidecar.upstream.requests


# --- Every answer of ours is a page


def problem(reply: Reply) -> str:
    """The code that the page's small print names."""
    found = re.search(r"<p lang=\"en\" dir=\"ltr\">([a-z_]+) · (\d+) · ([0-9a-f]{32})", reply.body.decode())
    assert found is not None
    assert int(found[2]) == reply.status
    assert found[3] == reply.headers["X-Request-Id"]
    fields = reply.headers
    assert fields["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in fields["Content-Security-Policy"]
    assert fields["Content-Language"] == "en"
    return found[1]


async def test_a_number_that_is_wrong_is_corrected_on_the_page(start: Start) -> None:
    """The rest of the form stays as it was, and goes on; whatever the number's field holds, it is text."""
    sidecar = await start(TABLES)
    wrong = '"><script>alert(1)</script>'
    form = [("name", "Ann & <Bob>"), ("phone", wrong), ("n", "1"), ("n", "2"), ("note", "one\r\ntwo"), ("submit", "x")]
    reply = await post(sidecar, form)
    assert (reply.status, problem(reply)) == (422, "invalid_recipient")
    page = Form(reply)
    assert "This does not look like a phone number." in page.text
    assert "script" not in page.tags
    assert page.form == {"method": "post"}, "to this very address: no action names another"
    assert page.shown is not None
    assert (page.shown["name"], page.shown["value"], page.shown["aria-describedby"]) == (
        *("phone", wrong),
        "told hint",
    )
    whole = "+86 131 2345 6789".replace(" ", "\N{NO-BREAK SPACE}")
    assert f"for example {whole}" in reply.body.decode(), "one that is read here, and no line ends inside it"
    assert page.fields == [pair for pair in form if pair[0] != "phone"]
    assert is_verifying(await post(sidecar, [*page.fields, ("phone", PHONE)]))


async def test_a_number_that_is_missing_is_asked_for(start: Start) -> None:
    """Empty, or not in the form at all."""
    sidecar = await start(TABLES)
    for form in ({"phone": "  ", "name": "Ann"}, {"name": "Ann"}):
        reply = await post(sidecar, form)
        assert (reply.status, problem(reply)) == (400, "malformed_request")
        page = Form(reply)
        assert "Enter your phone number." in page.text
        assert page.shown is not None
        assert (page.shown["name"], page.shown["value"]) == ("phone", "")
        assert page.fields == [("name", "Ann")]


async def test_a_number_that_is_not_served_can_be_changed(start: Start) -> None:
    """recipient_not_allowed."""
    sidecar = await start(TABLES, config=CONFIG.replace("[numbers]", '[numbers]\ncountries = ["GB"]'))
    reply = await post(sidecar, {"phone": PHONE, "code": "123456"})
    assert (reply.status, problem(reply)) == (403, "recipient_not_allowed")
    page = Form(reply)
    assert page.shown is not None
    assert page.shown["value"] == PHONE


async def test_a_wrong_code_of_the_forms_own_is_corrected_on_the_page(start: Start) -> None:
    """With the tries that are left; a code that is dead leads to the page that gets a new one."""
    sidecar = await start(TABLES)
    assert (await post(sidecar, {"phone": PHONE}, "/code")).status == 202
    code = await sidecar.vendor.code()
    other = code[:-1] + str((int(code[-1]) + 1) % 10)
    reply = await post(sidecar, {"phone": PHONE, "code": other, "name": "Ann"})
    assert (reply.status, problem(reply)) == (422, "code_mismatch")
    page = Form(reply)
    assert "That is not the right code. Tries left: 4." in page.text
    assert page.shown is not None
    assert (page.shown["name"], page.shown["value"], page.shown["autocomplete"]) == ("code", "", "one-time-code")
    assert page.fields == [("phone", PHONE), ("name", "Ann")]
    for left in (3, 2, 1):
        again = await post(sidecar, {"phone": PHONE, "code": other})
        assert f"Tries left: {left}." in Form(again).text
    for _ in range(2):  # the try that killed it, and one more
        dead = await post(sidecar, {"phone": PHONE, "code": other})
        assert is_verifying(dead)
        assert b'["code", ""]' in dead.body


async def test_the_last_try_is_told_as_the_last(start: Start) -> None:
    """On a route without a page of its own: no "Tries left: 0"."""
    sidecar = await start(FORM_SEND + PAGE.replace('browser = "page"', ""))
    assert (await post(sidecar, {"phone": PHONE}, "/code")).status == 202
    code = await sidecar.vendor.code()
    other = code[:-1] + str((int(code[-1]) + 1) % 10)
    pages_told = [Form(await post(sidecar, {"phone": PHONE, "code": other})).text for _ in range(5)]
    assert "Tries left: 1." in pages_told[3]
    assert "Too many wrong codes. Send a new one." in pages_told[4]
    assert "Tries left" not in pages_told[4]


async def test_after_the_page_an_old_code_in_the_form_is_not_in_the_way(start: Start) -> None:
    """The form goes on with the field of its dead code empty, and with the proof that the page got."""
    sidecar = await start(TABLES)
    assert is_verifying(await post(sidecar, {"phone": PHONE, "code": "123456"}))
    body = {"to": PHONE, "captcha": await sidecar.solved()}
    sent = await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)
    code = await sidecar.vendor.code()
    checked = await sidecar.ask("POST", f"/.sidecar/v1/verifications/{sent.json['id']}/check", json={"code": code})
    cookie = {"Cookie": f"sidecar-verification={checked.json['token']}"}
    assert (await post(sidecar, {"phone": PHONE, "code": ""}, **cookie)).status == 200
    assert sidecar.upstream.requests[0].content == f"phone={PHONE}&code=".encode()


async def test_a_limit_says_how_long_to_wait(start: Start) -> None:
    """rate_limited: the fields stay, the sentence has the time, and the form can be sent again from there."""
    sidecar = await start(TABLES, ip_rate="1/90s")
    assert (await post(sidecar, {"phone": PHONE}, "/code")).status == 202
    reply = await post(sidecar, {"phone": PHONE, "code": "123456"})
    assert (reply.status, problem(reply)) == (429, "rate_limited")
    assert 80 < int(reply.headers["Retry-After"]) <= 90
    assert '"ip"' in reply.headers["RateLimit"]
    assert '"ip"' in reply.headers["RateLimit-Policy"]
    page = Form(reply)
    assert re.search(r"Try again in 1:[23]\d", page.text)
    assert page.fields == [("phone", PHONE), ("code", "123456")]


async def test_a_route_without_a_page_holds_no_form(start: Start) -> None:
    """The limit of a `send` route: the time to wait, and nothing to send on."""
    sidecar = await start(TABLES, to_rate="1/2h")
    assert (await post(sidecar, {"phone": PHONE}, "/code")).status == 202
    sending = await post(sidecar, {"phone": PHONE}, "/code")
    assert (sending.status, problem(sending)) == (429, "rate_limited")
    assert re.search(r"Try again in (2:00:00|1:59:\d\d)", Form(sending).text)
    assert Form(sending).form is None


async def test_what_is_away_is_told_on_a_page(start: Start) -> None:
    """upstream_unavailable, upstream_timeout, store_unavailable; on plain requests, too."""

    async def reset(taken: Taken, _: Any) -> None:
        taken.reset()

    async def silent(taken: Taken, _: Any) -> None:
        await taken.reader.read()

    sidecar = await start(TABLES)
    assert (await post(sidecar, {"phone": PHONE}, "/code")).status == 202
    form = {"phone": PHONE, "code": await sidecar.vendor.code()}
    sidecar.upstream.answer = reset
    reply = await post(sidecar, form)
    assert (reply.status, problem(reply)) == (502, "upstream_unavailable")
    assert Form(reply).fields == list(form.items()), "the right code with it, so that it is enough to send it again"
    plain = await sidecar.ask("GET", "/anything", headers=BROWSER)
    assert (plain.status, problem(plain)) == (502, "upstream_unavailable")
    assert "This site cannot be reached right now." in Form(plain).text
    sidecar.upstream.answer = silent
    late = await sidecar.ask("GET", "/anything", headers=BROWSER)
    assert (late.status, problem(late)) == (504, "upstream_timeout")
    sidecar.upstream.answer = OK
    assert (await post(sidecar, form)).status == 200
    away = await start(TABLES, url="unix:///nowhere/at/all.sock")
    reply = await post(away, {"phone": PHONE, "code": "123456"})
    assert (reply.status, problem(reply)) == (503, "store_unavailable")
    assert int(reply.headers["Retry-After"]) >= 1


async def test_what_is_closed_too_large_unreadable_or_not_there_is_told_on_a_page(start: Start) -> None:
    """route_denied, body_too_large, malformed_request, not_found."""
    sidecar = await start(TABLES)
    closed = await sidecar.ask("GET", "/closed/x", headers=BROWSER)
    assert (closed.status, problem(closed)) == (403, "route_denied")
    large = await post(sidecar, {"phone": PHONE, "x": "y" * 70_000})
    assert (large.status, problem(large)) == (413, "body_too_large")
    twice = await post(sidecar, [("phone", PHONE), ("phone", "13900000002")])
    assert (twice.status, problem(twice)) == (400, "malformed_request")
    assert Form(twice).form is None, "it would only be refused again"
    nowhere = await sidecar.ask("GET", "/.sidecar/nothing", headers=BROWSER)
    assert (nowhere.status, problem(nowhere)) == (404, "not_found")
    assert "There is nothing at this address." in Form(nowhere).text
    head = await sidecar.ask("HEAD", "/closed/x", headers=BROWSER)
    assert (head.status, head.body) == (403, b"")


async def test_a_code_on_its_way_is_told_on_a_page(start: Start) -> None:
    """The 202 of a send route, unless its `reply` says otherwise; the recipient masked."""
    sidecar = await start(TABLES)
    reply = await post(sidecar, {"phone": PHONE}, "/code")
    assert reply.status == 202
    assert reply.headers["Location"].startswith("/.sidecar/v1/verifications/")
    assert "Your code is on its way" in Form(reply).text
    assert b"+861********01" in reply.body
    assert E164.encode() not in reply.body
    own = FORM_SEND + "reply = { status = 200, json = { code = 0 } }\nerrors = { rate_limited = { status = 200 } }\n"
    sidecar = await start(own, to_rate="1/1h")
    assert (await post(sidecar, {"phone": "13900000007"}, "/code")).json == {"code": 0}
    assert (await post(sidecar, {"phone": "13900000007"}, "/code")).status == 200


@pytest.mark.parametrize("accept", ["*/*", "application/json, text/html", "text/html;q=0.5, application/json", ""])
async def test_a_script_gets_what_it_always_got(start: Start, accept: str) -> None:
    """Problem documents and JSON, for whom HTML does not come before any JSON."""
    sidecar = await start(TABLES)
    headers = {"Accept": accept}
    assert (await sidecar.ask("POST", "/register", data={"phone": PHONE}, headers=headers)).code == "code_required"
    assert (await sidecar.ask("POST", "/register", data={"phone": "x"}, headers=headers)).code == "invalid_recipient"
    assert (await sidecar.ask("POST", "/code", data={"phone": PHONE}, headers=headers)).json["status"] == "queued"


@pytest.mark.parametrize("spoken", pages.languages())
async def test_the_page_is_in_the_readers_language(start: Start, spoken: str) -> None:
    """The sentence that the locale has; Arabic from right to left, the number not."""
    sidecar = await start(TABLES)
    reply = await post(sidecar, {"phone": "123"}, Accept_Language=f"{spoken}, en;q=0.5")
    assert reply.headers["Content-Language"] == spoken
    assert pages.texts(spoken)["error_invalid_recipient"] in Form(reply).text
    direction = "rtl" if spoken == "ar" else "ltr"
    assert f'<html lang="{spoken}" dir="{direction}">'.encode() in reply.body


@pytest.mark.parametrize(
    "hostile", ['"><img src=x onerror=alert(1)>', "</p><script>", "'\"`&lt;", "\u2028", "${title}$"]
)
async def test_nothing_of_the_request_is_on_a_page_unescaped(start: Start, hostile: str) -> None:
    """In a field's name or value, the query, the request's id, the language, the host."""
    sidecar = await start(TABLES)
    plain = Form(await post(sidecar, [("phone", "123"), ("a", "b"), ("c", "d")]))
    printable = hostile.encode("ascii", "ignore").decode()
    reply = await sidecar.ask(
        "POST",
        "/register",
        params={"q": hostile},
        data=[("phone", f"123{hostile}"), (hostile, "b"), ("c", hostile)],
        headers=BROWSER | {"X-Request-Id": printable, "Accept-Language": printable, "User-Agent": printable},
    )
    page = Form(reply)
    assert page.tags == plain.tags
    assert page.fields == [(hostile, "b"), ("c", hostile)]
    assert page.shown is not None
    assert page.shown["value"] == f"123{hostile}".strip()
    assert is_verifying(held := await post(sidecar, [("phone", PHONE), (hostile, hostile)]))
    assert held.body.count(b"<script") == 3


async def test_a_query_route_is_corrected_by_its_query(start: Start) -> None:
    """A GET form has its fields in the query: there the corrected one goes."""
    sidecar = await start(TABLES)
    reply = await sidecar.ask("GET", "/confirm?a=1&phone=123", headers=BROWSER)
    page = Form(reply)
    assert (reply.status, page.form, page.fields) == (422, {"method": "get"}, [("a", "1")])
    assert page.shown is not None
    assert page.shown["name"] == "phone"


# --- I have a code


async def test_a_recipients_newest_code_is_checked_whoever_asked_for_it(start: Start) -> None:
    """As on a `verify` route: tries counted, the token good for that recipient alone, once."""
    sidecar = await start(SEND + PAGE)
    assert (await sidecar.send()).status == 202
    code = await sidecar.vendor.code()
    other = code[:-1] + str((int(code[-1]) + 1) % 10)
    path = "/.sidecar/v1/verifications/check"
    wrong = await sidecar.ask("POST", path, json={"to": PHONE, "code": other})
    assert (wrong.status, wrong.code, wrong.json["attempts_left"]) == (422, "code_mismatch", 4)
    assert (await sidecar.ask("POST", path, json={"to": "13900000002", "code": code})).code == "code_expired"
    right = await sidecar.ask("POST", path, json={"to": f"+86 {PHONE}", "code": code})
    assert (right.status, right.json["status"]) == (200, "verified")
    assert (await sidecar.ask("POST", path, json={"to": PHONE, "code": code})).code == "code_expired"
    cookie = {"Cookie": f"sidecar-verification={right.json['token']}"}
    assert (await post(sidecar, {"phone": PHONE}, **cookie)).status == 200
    for body, refused in (
        ({"to": PHONE}, "code_required"),
        ({"code": code}, "invalid_recipient"),
        ({"to": PHONE, "code": [code]}, "malformed_request"),
        ({"to": PHONE, "code": code, "channel": "pigeon"}, "malformed_request"),
        ({"to": PHONE, "code": code, "more": 1}, "malformed_request"),
    ):
        assert (await sidecar.ask("POST", path, json=body)).code == refused


# --- Scripts of another origin

FRONT = "https://www.example.com"
CORS = f'[api]\ncors_origins = ["{FRONT}"]\n'


async def test_an_allowed_origin_reads_our_answers_on_routes(start: Start) -> None:
    """Refusals and 202 alike, with what they say of when to come again; nobody else reads any."""
    sidecar = await start(CORS + SEND + PAGE, to_rate="1/1h")
    origin = {"Origin": FRONT}
    sent = await sidecar.send(headers=origin)
    limited = await sidecar.send(headers=origin)
    required = await sidecar.ask("POST", "/register", data={"phone": PHONE}, headers=origin)
    assert [reply.status for reply in (sent, limited, required)] == [202, 429, 401]
    for reply in (sent, limited, required):
        assert reply.headers["Access-Control-Allow-Origin"] == FRONT
        assert reply.headers["Access-Control-Allow-Credentials"] == "true"
        exposed = {name.strip() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
        assert exposed == {"Location", "Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id"}
        assert "Origin" in reply.headers.getall("Vary")
    for other in ("https://evil.example", "null", "https://www.example.com.evil.example", FRONT.upper(), ""):
        reply = await sidecar.ask("POST", "/register", data={"phone": PHONE}, headers={"Origin": other})
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert "Origin" in reply.headers.getall("Vary"), "no cache gives one origin's answer to another"
    passed = await sidecar.ask("GET", "/anything", headers=origin)
    assert "Access-Control-Allow-Origin" not in passed.headers, "what upstream answers is its own"


async def test_a_preflight_for_a_guarded_route_is_ours_to_answer(start: Start) -> None:
    """Upstream may know nothing of the origin; a preflight for anything else, or from anybody else, is upstream's."""
    sidecar = await start(CORS + SEND + PAGE + '[[routes]]\nmatch = "POST /shut"\naction = "deny"\n')
    asks = {"Origin": FRONT, "Access-Control-Request-Method": "POST"}
    names = {"Access-Control-Request-Headers": "content-type, x-verification-token"}
    for path in ("/register", "/send", "/REGISTER/?x=1", "/shut"):
        reply = await sidecar.ask("OPTIONS", path, headers=asks | names)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["Access-Control-Allow-Origin"] == FRONT
        assert reply.headers["Access-Control-Allow-Credentials"] == "true"
        assert reply.headers["Access-Control-Allow-Methods"] == "POST"
        assert reply.headers["Access-Control-Allow-Headers"] == "content-type, x-verification-token"
    assert not sidecar.upstream.requests
    odd = await sidecar.ask("OPTIONS", "/register", headers=asks | {"Access-Control-Request-Headers": "a;b<c>"})
    assert odd.headers["Access-Control-Allow-Headers"] == "Content-Type"
    before = len(sidecar.upstream.requests)
    passed = [
        ("/other", asks),
        ("/register", asks | {"Origin": "https://evil.example"}),
        ("/register", {"Origin": FRONT}),
        ("/register", asks | {"Access-Control-Request-Method": "DELETE"}),
    ]
    for path, headers in passed:
        assert (await sidecar.ask("OPTIONS", path, headers=headers)).body == b"ok"
    assert len(sidecar.upstream.requests) == before + len(passed)
    without = await start(SEND + PAGE)
    assert (await without.ask("OPTIONS", "/register", headers=asks)).body == b"ok"


async def test_two_origins_are_nobodys(start: Start) -> None:
    """A browser sends one."""
    sidecar = await start(CORS + SEND)
    both = [("Origin", FRONT), ("Origin", "https://evil.example")]
    reply = await sidecar.ask("POST", "/send", data=json.dumps({}), headers=both)
    assert "Access-Control-Allow-Origin" not in reply.headers


# --- What cannot be read


@pytest.mark.parametrize(
    ("head", "status", "sentence"),
    [
        (b"Cookie: a=" + b"x" * 70_000 + b"\r\n", 431, "Your browser sent too much at once."),
        (b"Bad Field: x\r\n", 400, "Something went wrong."),
        (b"Host: other\r\n", 400, "Something went wrong."),
    ],
)
async def test_a_browser_whose_head_cannot_be_read_gets_a_page_too(
    start: Start, head: bytes, status: int, sentence: str
) -> None:
    """As far as its Accept can be: most often it is cookies, which only the person can delete."""
    sidecar = await start(TABLES)
    accept = f"Accept: {BROWSER['Accept']}\r\naccept-language: en\r\n".encode()
    for wish, kind in ((accept, b"text/html; charset=utf-8"), (b"Accept: */*\r\n", b"application/problem+json")):
        async with RawClient(sidecar.port) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n", wish, head, b"\r\n")
            answer = await client.answer()
            assert (answer.status, answer.value(b"content-type")) == (status, kind)
            assert (sentence.encode() in answer.content) is (kind != b"application/problem+json")


async def test_a_multipart_form_is_told_as_one(start: Start) -> None:
    """A person can do nothing about it but tell; the site's author reads what would be right."""
    sidecar = await start(TABLES)
    data = aiohttp.FormData({"phone": PHONE})
    data.add_field("picture", b"\x89PNG", filename="a.png")
    reply = await post(sidecar, data)
    assert (reply.status, problem(reply)) == (400, "malformed_request")
    page = Form(reply)
    assert "cannot be read here yet (multipart/form-data)" in page.text
    assert "send it as application/x-www-form-urlencoded" in page.text
    assert page.form is None


@pytest.mark.parametrize(
    ("channel", "typed", "sentence", "label", "autocomplete"),
    [
        ("email", "nobody@", "This does not look like an e-mail address.", "E-mail address", "email"),
        ("email", "", "Enter your e-mail address.", "E-mail address", "email"),
        ("auto", "", "Enter your phone number or e-mail address.", "Phone number or e-mail address", "on"),
        ("auto", "a@b", "This does not look like an e-mail address.", "Phone number or e-mail address", "on"),
    ],
)
async def test_an_address_is_asked_for_as_one(
    start: Start, channel: str, typed: str, sentence: str, label: str, autocomplete: str
) -> None:
    """By the route's channel."""
    sidecar = await start(PAGE.replace('to = "form:phone"', f'to = "form:phone"\nchannel = "{channel}"'))
    page = Form(await post(sidecar, {"phone": typed}))
    assert sentence in page.text
    assert label in page.text
    assert page.shown is not None
    assert (page.shown["name"], page.shown["value"], page.shown["autocomplete"]) == ("phone", typed, autocomplete)


async def test_who_asks_stands_on_every_page(start: Start) -> None:
    """`[code] brand`, as text."""
    sidecar = await start('[code]\nbrand = "<b>Ann & Co"\n' + TABLES)
    replies = [
        await post(sidecar, {"phone": "123"}),
        await post(sidecar, {"phone": PHONE}),
        await post(sidecar, {"phone": PHONE}, "/code"),
        await sidecar.ask("GET", "/closed/x", headers=BROWSER),
    ]
    for reply in replies:
        assert b'<p class="brand">&lt;b&gt;Ann &amp; Co</p>' in reply.body


@pytest.mark.parametrize(
    "target",
    ["//evil.example/register", "/\\evil.example/../register", "http://evil.example/register", "/x/..//register"],
)
async def test_no_target_leads_a_form_elsewhere(start: Start, target: str) -> None:
    """Its form goes to the page's own address: the target is not on the page at all."""
    sidecar = await start(TABLES)
    for body in (b"phone=123&a=b", f"phone={PHONE}&a=b".encode()):
        async with RawClient(sidecar.port) as client:
            fields = ("Accept: text/html", "Content-Type: application/x-www-form-urlencoded")
            answer = await client.ask("POST", target, fields, body)
        assert answer.status in {400, 403, 422}
        assert b"evil" not in answer.content
        assert b"action=" not in answer.content
    assert not sidecar.upstream.requests


async def test_a_form_of_a_thousand_large_fields_costs_little(start: Start) -> None:
    """64 KB that grow sixfold when escaped: a page is made of them in milliseconds."""
    sidecar = await start(TABLES)
    form = [("phone", "123"), *[(f"f{n}", '"' * 10) for n in range(900)]]
    with awake() as took:
        page = Form(await post(sidecar, form))
        assert took() < 1
    assert page.fields == form[1:]
