"""What is asked? One reading, or a refusal that says what would be right."""

import json
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import intake
from sidecar.config.model import Route
from sidecar.errors import Refusal
from sidecar.intake import MAX_DEPTH, MAX_PAIRS, Request, Selected, form_pairs, read, read_json_object, wish
from sidecar.overrides import field_targets

Field = tuple[bytes, bytes]
JSON = (b"Content-Type", b"application/json")
FORM = (b"Content-Type", b"application/x-www-form-urlencoded")
NUMBER = "+8613900000001"


def send(to: str | None = "json:phone", **more: object) -> Route:
    return Route.model_validate({"match": "POST /a", "action": "send", "to": to} | more)


def verify(to: str, code: str, **more: object) -> Route:
    return send(to, action="verify", code=code, **more)


def ask(route: Route, body: bytes | str = b"", *fields: Field, target: str = "/a") -> Selected:
    return read(route, Request(target, fields, body.encode() if isinstance(body, str) else body))


def reason(route: Route, body: bytes | str = b"", *fields: Field, target: str = "/a") -> str:
    """Why a request is refused as malformed. What it holds must not be told."""
    with pytest.raises(Refusal) as caught:
        ask(route, body, *fields, target=target)
    refusal = caught.value
    assert refusal.code == "malformed_request"
    assert refusal.detail.startswith("Expected ")
    assert "139" not in repr(refusal)
    return refusal.reason


# What is read…


def test_json_is_read_by_path() -> None:
    body = json.dumps({"user": {"phone": NUMBER, "name": "a"}, "code": "012345", "captcha": "t"})
    route = verify("json:user.phone", "json:code", captcha="x", captcha_token="json:captcha")
    assert ask(route, body, JSON) == Selected(NUMBER, "t", "012345")


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"Application/JSON; charset=UTF-8",
        b'application/json;charset="utf-8"',
        b"application/json; charset=utf8",
        b"application/vnd.api+json",
    ],
)
def test_json_is_read_under_its_media_types(content_type: bytes) -> None:
    assert ask(send(), f'{{"phone":"{NUMBER}"}}', (b"content-type", content_type)).to == NUMBER


def test_a_country_is_read_beside_the_recipient() -> None:
    """As text or as a number; it may be missing, and it stands in one place as every selected name does."""
    route = send("json:phone", country="json:area_code")
    for value, read_as in (('"+44"', "+44"), ("44", "44"), ('""', None), ("null", None)):
        assert ask(route, f'{{"phone": "7400123456", "area_code": {value}}}', JSON).country == read_as
    assert ask(route, '{"phone": "7400123456"}', JSON).country is None
    assert reason(route, '{"phone": "1", "area_code": 44, "Area_Code": 86}', JSON) == "json_duplicate"
    assert reason(route, '{"phone": "1", "area_code": 44}', JSON, target="/a?area_code=86") == "two_places"
    assert reason(route, '{"phone": "1", "area_code": [44]}', JSON) == "json_value"
    form = send("form:phone", country="form:area_code")
    assert reason(form, "phone=1&area_code=44&area_code[]=86", FORM) == "form_duplicate"


def test_a_whole_number_is_its_digits() -> None:
    asked = ask(verify("json:phone", "json:code"), '{"phone":13900000001,"code":9007199254740991}', JSON)
    assert asked == Selected("13900000001", None, 9007199254740991)


def test_a_form_is_read() -> None:
    route = verify("form:phone", "form:user[code]")
    body = "phone=%2B8613900000001&x=1;2&user[code]=12+34&empty"
    assert ask(route, body, FORM) == Selected(NUMBER, None, "12 34")


def test_a_query_is_read() -> None:
    route = verify("query:phone", "query:code")
    assert ask(route, target="/a?phone=%2B8613900000001&code=1") == Selected(NUMBER, None, "1")
    assert ask(route, b'{"x":1}', JSON, target="http://h/a?phone=1&code=") == Selected("1", None, None)
    assert ask(route, b"x=1", FORM, target="/a?phone=1") == Selected("1", None, None)


def test_a_field_is_read() -> None:
    route = verify("header:X-Phone", "header:x-code")
    assert ask(route, b"\xff", (b"x-phone", b" +86 139 "), (b"X-Code", b"1"), target="/a") == Selected(
        "+86 139", None, "1"
    )


def test_a_missing_code_is_left_to_the_gate() -> None:
    route = verify("json:phone", "json:code")
    for body in ('{"phone":"1"}', '{"phone":"1","code":null}', '{"phone":"1","code":""}'):
        assert ask(route, body, JSON) == Selected("1", None, None)


def test_a_guard_route_without_selectors_reads_nothing() -> None:
    route = Route(match="* /a", action="guard")
    assert ask(route, b"\xff\x00{", (b"Content-Type", b"image/png")) == Selected(None, None, None)


def test_an_ask_shows_nothing_of_itself() -> None:
    assert "1" not in repr(Selected("1", "11", "111"))


@pytest.mark.parametrize("body", ["{}", '{"phone":null}', '{"phone":""}', '{"phone":"  "}', '{"Phone":"1"}'])
def test_a_recipient_is_demanded(body: str) -> None:
    assert reason(send(), body, JSON) == "no_recipient"


@pytest.mark.parametrize("body", ['{"phone":"1"}', '{"phone":"1","captcha":null}', '{"phone":"1","captcha":""}'])
def test_a_captcha_token_that_is_not_there_is_none(body: str) -> None:
    for route in (send(captcha="x", captcha_token="json:captcha"), send(captcha="x")):
        assert ask(route, body, JSON) == Selected("1", None, None)


@pytest.mark.parametrize(
    ("token", "read"),
    [
        ('"text"', "text"),
        ("7", "7"),
        ('{"ticket":"t","randstr":"@r","ret":0}', '{"randstr":"@r","ret":"0","ticket":"t"}'),
        ('{"randstr":"@r","x":null,"ticket":"t"}', '{"randstr":"@r","ticket":"t"}'),
        ("{}", "{}"),
    ],
)
def test_a_captcha_token_of_parts_is_read_as_one_text(token: str, read: str) -> None:
    """GeeTest's and Tencent's widgets give an object: ordered by name, it has one spelling."""
    route = send(captcha="x", captcha_token="json:captcha")
    assert ask(route, f'{{"phone":"1","captcha":{token}}}', JSON) == Selected("1", read, None)


@pytest.mark.parametrize(
    "token",
    [
        "true",
        "[]",
        "1.5",
        '{"a":true}',
        '{"a":{}}',
        '{"a":["x"]}',
        '{"a":1.5}',
        '{"a":"1","A":"2"}',
        '{"a":"1","a":"1"}',
        "{" + ",".join(f'"p{n}":"x"' for n in range(17)) + "}",
    ],
)
def test_a_captcha_token_is_texts_and_nothing_else(token: str) -> None:
    route = send(captcha="x", captcha_token="json:captcha")
    assert reason(route, f'{{"phone":"1","captcha":{token}}}', JSON) in {
        "captcha_token",
        "json_value",
        "json_duplicate",
    }


# The head…


@pytest.mark.parametrize("route", [send(), send("form:phone")])
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((b"Content-Type", b"text/plain"),),
        ((b"Content-Type", b"text/json"),),
        ((b"Content-Type", b""),),
        (JSON, FORM),
        (JSON, JSON),
        (FORM, (b"content_type", b"application/x-www-form-urlencoded")),
        (FORM, (b"Content.Type", b"application/json")),
        ((b"Content-Type", b"application/json, application/x-www-form-urlencoded"),),
        ((b"Content-Type", b"application/json; charset=gbk"),),
        ((b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-16"),),
        ((b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-8; charset=ibm037"),),
        ((b"Content-Type", b"application/json; charset='utf-8'"),),
        ((b"Content-Type", b'application/json; charset="utf-8'),),
        ((b"Content-Type", b"application/json; version=1"),),
        ((b"Content-Type", b"application/\xff"),),
    ],
)
def test_another_content_type_is_refused(route: Route, fields: tuple[Field, ...]) -> None:
    body = '{"phone":"1"}' if route.to == "json:phone" else "phone=1"
    assert reason(route, body, *fields) == "content_type"


@pytest.mark.parametrize("kind", [b"multipart/form-data; boundary=b", b" Multipart/Mixed", b"multipart/form-data"])
def test_a_multipart_form_is_refused_as_one(kind: bytes) -> None:
    """So that its sender reads why."""
    for route in (send(), send("form:phone"), send("query:phone")):
        assert reason(route, "x", (b"Content-Type", kind), target="/a?phone=1") == "multipart"


def test_one_kind_of_body_is_not_taken_for_the_other() -> None:
    assert reason(send(), '{"phone":"1"}', FORM) == "content_type"
    assert reason(send("form:phone"), "phone=1", JSON) == "content_type"


@pytest.mark.parametrize("route", [send(), Route(match="* /a", action="guard")])
def test_a_content_encoding_is_refused(route: Route) -> None:
    for name in (b"content_encoding", b"Content.Encoding", b"CONTENT!ENCODING"):
        assert reason(route, '{"phone":"1"}', JSON, (name, b"gzip")) == "content_encoding"
    assert reason(route, '{"phone":"1"}', JSON, (b"Content-Encoding", b""), (b"Content-Encoding", b"br"))
    ask(route, '{"phone":"1"}', JSON, (b"Content-Encoding", b"Identity"))


@pytest.mark.parametrize("values", [[b"1", b"1"], [b"1", b"2"], [b"\xe5\x8f\xb7"], [b"1\t2"], [b"1\x00"]])
def test_a_field_has_one_visible_value(values: list[bytes]) -> None:
    fields = [(name, value) for name, value in zip((b"X-Phone", b"x.phone"), values, strict=False)]
    assert reason(send("header:X-Phone"), b"", *fields) in {"repeated_field", "field_value"}
    assert reason(send("header:X_Phone"), b"", *fields) in {"repeated_field", "field_value"}


# JSON…


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'"phone"',
        b"null",
        b'[{"phone":"1"}]',
        b'{"phone":"1"} {}',
        b'{"phone":"1"}x',
        b'{"phone":"1",}',
        b"{'phone':'1'}",
        b'{phone:"1"}',
        b'{"phone":"1"/**/}',
        b'{"phone":"\x01"}',
        b'{"phone":"\\x31"}',
        b'{"phone":01}',
        b'{"phone":+1}',
        b'\xef\xbb\xbf{"phone":"1"}',
        b'{"phone":"\xff"}',
        b'{"phone":"1","x":"\xc0\x80"}',
        '{"phone":"1"}'.encode("utf-16"),
        '{"phone":"1"}'.encode("utf-16-le"),
        b'{"phone":"1","x":"\\ud800"}',
        b'{"phone":"1","\\udfff":0}',
        b'{"phone":"1","x":[{"y":["\\udc00\\ud800"]}]}',
        b'{"phone":"1","x":NaN}',
        b'{"phone":"1","x":-Infinity}',
        b'{"phone":"1","x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"x":' * 30_000,
        b'{"x":' * 5_000 + b"1" + b"}" * 5_000,
    ],
)
def test_a_body_that_is_not_one_strict_object_is_refused(body: bytes) -> None:
    assert reason(send(), body, JSON).startswith("json")


def test_json_may_be_as_deep_as_the_bound() -> None:
    deep = b"[" * (MAX_DEPTH - 1) + b"1" + b"]" * (MAX_DEPTH - 1)
    assert ask(send(), b'{"phone":"1","x":' + deep + b"}", JSON).to == "1"


@pytest.mark.parametrize(
    "members",
    [
        '"phone":"1","phone":"2"',
        '"phone":"1","phone":"1"',
        '"phone":"1","\\u0070hone":"2"',
        '"phone":"1","Phone":"2"',
        '"phone":"1","PHONE":null',
        '"phone":"1","x":{"y":1,"y":2}',
        '"phone":"1","x":[{"ß":1,"SS":2}]',
        '"phone":"1","ｐｈｏｎｅ":"2"',
        '"user":{"kind":"1","\u212aind":"2"},"phone":"1"',
        '"phone":"1","i":1,"ı":2',
        '"phone":"1","i":1,"İ":2',
        '"phone":"1","phone\\u0000":"2"',
        '"phone":"1","x\\u0000":"2"',
    ],
)
def test_a_name_that_some_parser_takes_for_another_is_refused(members: str) -> None:
    assert reason(send(), f"{{{members}}}", JSON) in {"json_duplicate", "json_name"}


@pytest.mark.parametrize(
    "value",
    ["true", "false", "1.0", "1e3", "-0", "9007199254740992", "1" * 5000, "[]", '["1"]', "{}", '{"phone":"1"}'],
)
def test_a_value_is_a_string_or_a_whole_number(value: str) -> None:
    assert reason(send(), f'{{"phone":{value}}}', JSON) == "json_value"
    assert ask(send(), f'{{"phone":"1","other":{value}}}', JSON).to == "1"


@pytest.mark.parametrize(
    ("to", "body", "field", "said"),
    [
        ("json:user.phone", '{"user":{"phone":"1\\n"}}', JSON, "`user.phone` once in the JSON object"),
        ("form:phone", "phone=1%00", FORM, "`phone` once in the form"),
        ("query:phone", "", JSON, "`phone` once in the query"),
    ],
)
def test_a_refusal_says_what_was_expected_and_where(to: str, body: str, field: Field, said: str) -> None:
    with pytest.raises(Refusal) as caught:
        ask(send(to), body, field, target="/a?phone=1%0A")
    assert caught.value.detail == f"Expected {said} without control characters."


@pytest.mark.parametrize("value", ["1\\u0000", "1\\n2", "\\u007f1"])
def test_a_value_has_no_control_characters(value: str) -> None:
    """But in a code, which may be pasted with its line end, and goes nowhere."""
    assert reason(send(), f'{{"phone":"{value}"}}', JSON) == "control_character"
    body = f'{{"phone":"1","code":"{value}"}}'
    assert ask(verify("json:phone", "json:code"), body, JSON).code == json.loads(body)["code"]


def test_a_path_goes_through_objects_only() -> None:
    route = send("json:user.phone")
    for body in ('{"user":"1"}', '{"user":["phone"]}', '{"user":{"phone":{"phone":"1"}}}'):
        assert reason(route, body, JSON) == "json_value"
    assert reason(route, '{"user":null}', JSON) == "no_recipient"


@pytest.mark.parametrize(
    "other", ["User.Phone", "user[phone]", "[user]phone", "user.phone.x", "[user]", "user.", "user[]"]
)
def test_a_member_has_no_other_member_beside_it_that_is_alike_by_its_words(other: str) -> None:
    """Laravel and lodash read `user.phone` before they look into `user`; Rails reads `[phone]` as phone."""
    assert reason(send("json:user.phone"), f'{{"user":{{"phone":"1"}},"{other}":"2"}}', JSON) == "two_places"
    inner = other.replace("User.", "").replace("user", "phone")
    assert reason(send("json:user.phone"), f'{{"user":{{"phone":"1","{inner}.":"2"}}}}', JSON) == "two_places"


def test_other_members_may_stand_beside() -> None:
    user = '{"phone":"1","phone_country":"2","name":{"phone":"3"}}'
    body = f'{{"user":{user},"phone":"4","contact.phone":"5","user.name":"6"}}'
    assert ask(send("json:user.phone"), body, JSON).to == "1"
    assert ask(send(), '{"phone":"1","contact":{"phone":"2"},"contact.phone":"3","phones":["4"]}', JSON).to == "1"


def test_an_object_that_is_read_has_no_more_members_than_a_form() -> None:
    def of(count: int) -> str:
        return json.dumps({"phone": "1"} | {str(number): 1 for number in range(count)})

    assert ask(send(), of(MAX_PAIRS - 1), JSON).to == "1"
    assert reason(send(), of(MAX_PAIRS), JSON) == "json_size"
    assert ask(send(), json.dumps({"phone": "1", "x": json.loads(of(MAX_PAIRS))}), JSON).to == "1"


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ([f"few {number}" for number in range(31)], 1),
        ([chr(0x20000 + number) for number in range(32)], 0),
        (["long" * 64], 0),
    ],
)
def test_an_object_is_remembered_by_few_and_short_names_only(more: list[str], kept: int) -> None:
    """Each name takes a hundred octets, however short: some thousand objects of hundreds are tens of MiB."""
    memories = intake._differ, intake._is_alone
    body = json.dumps({"phone": "1"} | dict.fromkeys(more, 1))
    asked = [sum(memory.cache_info()[:2]) for memory in memories]
    assert ask(send(), body, JSON).to == "1"
    assert [sum(memory.cache_info()[:2]) for memory in memories] == [before + kept for before in asked]


# Forms and queries…

SPELLED_TWICE = [
    "phone=1&phone=2",
    "phone=1&phone=1",
    "phone=1&Phone=2",
    "phone=1&phone[]=2",
    "phone=1&phone[0]=2",
    "phone=1&phone[a][b]=2",
    "phone=1&phone%5B%5D=2",
    "phone=1&%70hone=2",
    "phone=1&+phone=2",
    "phone=1&phone.=2",
    "phone=1&phone%00x=2",
    "phone=1&phone",
    "phone=1&ｐhone=2",
    "phone[]=1",
    "Phone=1",
    "+phone=1",
    "phone[" + "[" * 9 + "=1&phone=1",
    "phone=1&[phone]=2",
    "phone=1&[phone=2",
    "phone=1&]phone=2",
    "phone=1&[][phone][0]=2",
    "phone=1&.phone=2",
    "phone=1&['phone']=2",
    "phone=1&phone]=2",
    "phone=1&phone.x[y]=2",
    "phone=1&phone%E2%80%8B=2",
    "phone=1&%01phone=2",
    "phone=1&_phone=2",
    "[phone]=1",
]


@pytest.mark.parametrize("form", SPELLED_TWICE)
def test_a_name_stands_once_and_as_configured(form: str) -> None:
    assert reason(send("form:phone"), form, FORM) == "form_duplicate"
    assert reason(send("query:phone"), target=f"/a?{form}") == "form_duplicate"


@pytest.mark.parametrize("other", ["phone.number", "phone number", "phone[number", "phone+number", "PHONE_NUMBER"])
def test_a_name_with_underscores_is_known_in_every_spelling(other: str) -> None:
    assert reason(send("form:phone_number"), f"phone_number=1&{other}=2", FORM) == "form_duplicate"


@pytest.mark.parametrize("other", ["phone.number[0]", "phone[number]", "[phone]number", "phone-number", "phone"])
def test_a_name_with_underscores_is_alike_to_what_is_joined_with_them(other: str) -> None:
    """PHP has `phone.number[0]` in phone_number; and `phone` beside it is another field."""
    route = send("form:phone_number")
    if other == "phone":
        assert ask(route, f"phone_number=1&{other}=2", FORM).to == "1"
    else:
        assert reason(route, f"phone_number=1&{other}=2", FORM) == "form_duplicate"


@pytest.mark.parametrize(
    "other",
    ["user.phone", "[user]phone", "[user][phone]", "user", "user[]", "USER[Phone][0]", "user['phone']", "user..phone"],
)
def test_a_nested_name_is_known_by_its_words(other: str) -> None:
    assert reason(send("form:user[phone]"), f"user[phone]=1&{other}=2", FORM) == "form_duplicate"
    assert reason(send("query:user[phone]"), target=f"/a?user[phone]=1&{other}=2") == "form_duplicate"
    assert reason(send("json:user.phone"), '{"user":{"phone":"1"}}', JSON, target=f"/a?{other}=2") == "two_places"


def test_a_name_nested_deeper_than_anyone_reads_is_refused() -> None:
    body = "user[phone]=1&user" + "[a]" * 9 + "=2"
    assert reason(send("form:user[phone]"), body, FORM) == "form_duplicate"


def test_other_names_may_stand_beside() -> None:
    form = "phone=1&phone2=2&phones=3&xphone=4&user[phone]=5&x[]=6&x[]=7&phone_country=8&phone-type=9&my.phone=10"
    assert ask(send("form:phone"), form, FORM).to == "1"
    nested = "user[name]=a&user[phone]=1&phone=2&user[address][city]=b&user.email=c&username=d"
    assert ask(send("form:user[phone]"), nested, FORM).to == "1"
    assert ask(send(), '{"phone":"1"}', JSON, target="/a?utm_source=1&utm[medium]=2&phone_country=3&ref=4").to == "1"


@pytest.mark.parametrize("form", ["phone=1;phone=2", "x=1;phone=2&phone=1", "phone=1;x=2", "x;phone=1&phone=1"])
def test_a_semicolon_that_some_backend_splits_at_is_refused(form: str) -> None:
    assert reason(send("form:phone"), form, FORM) == "semicolon"
    assert reason(send("query:phone"), target=f"/a?{form}") == "semicolon"


@pytest.mark.parametrize("form", ["phone=%", "phone=1&x=%zz", "%4=1&phone=1", "phone=%u0031", "phone=1&x=100%"])
def test_a_broken_escape_is_refused(form: str) -> None:
    assert reason(send("form:phone"), form, FORM) == "percent_encoding"
    assert reason(send("query:phone"), target=f"/a?{form}") == "percent_encoding"


def test_what_is_no_utf_8_is_refused() -> None:
    for form in (b"phone=1&x=%ff", b"phone=\xe9", b"%c0%af=1&phone=1", b"phone=%ed%a0%80"):
        assert reason(send("form:phone"), form, FORM) == "form_encoding"
    assert reason(send("query:phone"), target="/a?phone=\udce9") == "form_encoding"
    assert reason(send("query:phone"), target="/a?phone=\ud800") == "form_encoding"


def test_a_form_has_no_more_fields_than_backends_read() -> None:
    assert ask(send("form:phone"), "x&" * (MAX_PAIRS - 1) + "phone=1", FORM).to == "1"
    assert reason(send("form:phone"), "x&" * MAX_PAIRS + "phone=1", FORM) == "form_size"


def test_a_fragment_is_refused_where_the_query_is_read() -> None:
    assert reason(send("query:phone"), target="/a?phone=1#&phone=2") == "fragment"


def test_a_null_in_a_form_value_is_refused() -> None:
    assert reason(send("form:phone"), "phone=1%00", FORM) == "control_character"
    assert reason(send("query:phone"), target="/a?phone=%001") == "control_character"


# Two places…


@pytest.mark.parametrize(
    "query",
    [
        "phone=2",
        "Phone",
        "phone[]=2",
        "x=1;phone=2",
        "%70hone=2",
        "%u0070hone=2",
        "phone%00=2",
        "phone.x=1",
        "%ff&phone",
        "[phone]=2",
        "[][phone]=2",
        ".phone",
        "%5bphone%5d[]=2",
    ],
)
def test_a_name_of_the_body_is_not_in_the_query(query: str) -> None:
    for route, body, kind in ((send(), '{"phone":"1"}', JSON), (send("form:phone"), "phone=1", FORM)):
        assert reason(route, body, kind, target=f"/a?{query}") == "two_places"
        assert reason(route, body, kind, (b"X-Original-URL", f"/b?{query}".encode())) == "two_places"
        assert ask(route, body, kind, target="/a?phones=1&q=100%&user[phone]=2").to == "1"


def test_many_targets_in_a_field_cost_no_more_than_finding_them() -> None:
    """A head has room for tens of thousands, each with a query: they are read as one."""
    fields = [JSON, (b"X-Original-URL", b",".join(b"/?%x" % number for number in range(60_000)))]

    def least_s(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
        return min(times)

    def refused() -> None:
        assert reason(send(), '{"phone":"1"}', *fields) == "form_size"

    assert least_s(refused) < 15 * least_s(lambda: field_targets(fields))


def test_a_name_of_the_body_is_not_in_the_query_in_another_spelling() -> None:
    """PHP reads both as phone_number."""
    assert reason(send("form:phone_number"), "phone_number=1", FORM, target="/a?phone.number=2") == "two_places"


def test_a_code_is_in_one_place_too() -> None:
    route = verify("json:phone", "json:code")
    assert reason(route, '{"phone":"1"}', JSON, target="/a?code=1") == "two_places"


def test_a_nested_name_is_not_replaced_by_the_query() -> None:
    for query in ("user=2", "user[phone]=2", "user.phone=2"):
        assert reason(send("json:user.phone"), '{"user":{"phone":"1"}}', JSON, target=f"/a?{query}") == "two_places"
        assert reason(send("form:user[phone]"), "user[phone]=1", FORM, target=f"/a?{query}") == "two_places"


def test_a_name_of_the_query_is_not_in_the_body() -> None:
    route = send("query:phone")
    assert reason(route, '{"Phone":"2"}', JSON, target="/a?phone=1") == "two_places"
    assert reason(route, '{"[phone]":"2"}', JSON, target="/a?phone=1") == "two_places"
    assert reason(route, "[phone]=2", FORM, target="/a?phone=1") == "two_places"
    assert reason(route, "phone[]=2", FORM, target="/a?phone=1") == "two_places"
    assert reason(route, "x=1;phone=2", FORM, target="/a?phone=1") == "two_places"
    assert reason(route, "x", (b"Content-Type", b"multipart/form-data; boundary=b"), target="/a?phone=1")
    assert reason(route, "phone=2", target="/a?phone=1") == "content_type"
    assert reason(route, "phone=2", (b"Content-Type", b"text/plain"), target="/a?phone=1") == "content_type"
    assert reason(route, '{"phone":"2"', JSON, target="/a?phone=1") == "json"


def test_a_query_is_not_read_beside_a_field_that_names_another() -> None:
    assert reason(send("query:phone"), b"", (b"X-Rewrite-URL", b"/a?phone=2"), target="/a?phone=1") == "other_target"
    assert ask(send("query:phone"), b"", (b"X-Rewrite-URL", b"/a"), target="/a?phone=1").to == "1"


@pytest.mark.parametrize("cookie", [b"a=b; phone=2", b"Phone=2", b"%70hone=2", b"phone[]=2", b"[phone]=2"])
def test_a_form_name_is_no_cookie(cookie: bytes) -> None:
    assert reason(send("form:phone"), "phone=1", FORM, (b"Cookie", cookie)) == "two_places"
    assert reason(send("query:phone"), b"", (b"Cookie", cookie), target="/a?phone=1") == "two_places"
    assert ask(send(), '{"phone":"1"}', JSON, (b"Cookie", cookie)).to == "1"


# The API's own bodies, and forms to show again…


def test_an_object_of_the_api_is_read_as_strictly() -> None:
    assert read_json_object(b'{"to":"1","x":[1,2.5,null]}', [JSON]) == {"to": "1", "x": [1, 2.5, None]}
    for body, fields in (
        (b'{"to":"1","To":"2"}', [JSON]),
        (b"[]", [JSON]),
        (b"", [JSON]),
        (b"{}", []),
        (b"{}", [JSON, (b"Content-Encoding", b"gzip")]),
    ):
        with pytest.raises(Refusal, match="malformed_request"):
            read_json_object(body, fields)


def test_a_form_is_given_back_field_by_field() -> None:
    assert form_pairs("/a?q=1", [FORM], b"b=1&a=%26&b=") == (("b", "1"), ("a", "&"), ("b", ""))
    assert form_pairs("/a?q=1&r=%20", [], b"") == (("q", "1"), ("r", " "))
    assert form_pairs("/a?q=1", [JSON], b"{}") == ()
    assert form_pairs("/a?q=1", [FORM], b"") == ()


# Laws: what is read is what naive readers read, too…

KEYS = st.one_of(
    st.sampled_from(["x", "y[]", "user[phone]", "phone2", "x;y", "code", ""]),
    st.sampled_from(["phone", "Phone", "phone[]", "phone[0]", " phone", "phone.", "ph%6fne", "phone%00", "x;phone"]),
)
VALUES = st.one_of(
    st.sampled_from(["1", "2", "%31", "+1", ""]), st.sampled_from(["1;phone=2", "1;x=3", "%", "%ff", "%00"])
)
PAIRS = st.lists(st.builds("{}={}".format, KEYS, VALUES), max_size=2)
PHONES = st.sampled_from(["phone=1", "phone=%31", "ph%6fne=+1", "phone=1;2"])
FORMS = st.builds(lambda before, phone, after: "&".join([*before, phone, *after]), PAIRS, PHONES, PAIRS)


def first(pairs: list[tuple[str, str]]) -> str | None:
    return next((value for name, value in pairs if name == "phone"), None)


def last(pairs: list[tuple[str, str]]) -> str | None:
    return dict(pairs).get("phone")


def without_case(pairs: list[tuple[str, str]]) -> str | None:
    return ",".join(value for name, value in pairs if name.lower() == "phone")


def like_php(pairs: list[tuple[str, str]]) -> str | None:
    read = {}
    for name, value in pairs:
        plain = name.lstrip(" ").partition("\0")[0]
        base, bracket, _ = plain.partition("[")
        read[base.replace(".", "_").replace(" ", "_")] = f"Array {value}" if bracket else value
    return read.get("phone")


@pytest.mark.parametrize("reader", [first, last, without_case, like_php])
@pytest.mark.parametrize("separators", ["&", "&;"])
@given(form=FORMS)
def test_a_form_that_is_read_has_one_reading(
    reader: Callable[[list[tuple[str, str]]], str | None], separators: str, form: str
) -> None:
    try:
        read_here = ask(send("form:phone"), form, FORM).to
    except Refusal:
        return
    parts = form.replace(";", "&") if ";" in separators else form
    assert reader(urllib.parse.parse_qsl(parts, keep_blank_values=True, separator="&")) == read_here


NAMES = st.sampled_from(["phone", "Phone", "PHONE", "phone\0", "x", "user", "K", "\u212a"])
DOCUMENTS = st.recursive(
    st.sampled_from(["1", "2", 1, 2**60, True, None, 1.5, "\0", ""]).map(json.dumps),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(NAMES, inner), min_size=1, max_size=3).map(
            lambda pairs: f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in pairs)}}}"
        ),
    ),
    max_leaves=5,
)


def keep_first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def ignore_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name.casefold(): value for name, value in pairs}


def cut_at_null(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name.partition("\0")[0]: value for name, value in pairs}


@pytest.mark.parametrize("reader", [dict, keep_first, ignore_case, cut_at_null])
@given(
    phone=st.sampled_from(['"1"', '"2"', "3"]),
    rest=st.lists(st.tuples(NAMES, DOCUMENTS), max_size=3),
    at=st.integers(0, 3),
)
def test_json_that_is_read_has_one_reading(
    reader: Callable[[list[tuple[str, Any]]], dict[str, Any]], phone: str, rest: list[tuple[str, str]], at: int
) -> None:
    members = [*rest[:at], ("phone", phone), *rest[at:]]
    body = f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in members)}}}"
    try:
        read_here = ask(send(), body, JSON).to
    except Refusal:
        return
    naive = json.loads(body, object_pairs_hook=reader, parse_int=lambda digits: str(int(float(digits))))
    assert naive["phone"] == read_here == json.loads(phone, parse_int=str)


def came_to(route: Route, target: bytes | str, fields: list[Field], body: bytes) -> str:
    try:
        return "read" if read(route, Request(target, fields, body)).to else "read without recipient"
    except Refusal as refusal:
        return refusal.code


SELECTORS = st.sampled_from(["json:phone", "json:a.b", "form:phone", "form:a[b]", "query:phone", "header:X-Phone"])


@given(
    to=SELECTORS,
    code=SELECTORS,
    target=st.one_of(st.text(), st.binary(), FORMS.map("/a?{}".format)),
    fields=st.lists(
        st.one_of(
            st.sampled_from([JSON, FORM, (b"X-Phone", b"1"), (b"Cookie", b"a"), (b"X-Original-URL", b"/\xff?%")]),
            st.tuples(st.binary(), st.binary()),
        ),
        max_size=3,
    ),
    body=st.one_of(st.binary(), FORMS.map(str.encode), DOCUMENTS.map(str.encode)),
)
def test_whatever_comes_is_read_or_refused(
    to: str, code: str, target: bytes | str, fields: list[Field], body: bytes
) -> None:
    assert came_to(verify(to, code), target, fields, body) in {"read", "malformed_request"}


def test_a_country_in_two_places_is_refused() -> None:
    """As every selector's name is: in the query beside JSON or a form, in a cookie, spelled otherwise."""
    json_route, form_route = send("json:phone", country="json:area"), send("form:phone", country="form:area")
    document, form = '{"phone": "7400123456", "area": "44"}', "phone=7400123456&area=44"
    assert reason(json_route, document, JSON, target="/a?area=86") == "two_places"
    assert reason(json_route, document, JSON, target="/a?[Area]=86") == "two_places"
    assert reason(json_route, document.replace("}", ', "[area]": "86"}'), JSON) == "two_places"
    assert reason(form_route, form, FORM, target="/a?area=86") == "two_places"
    assert reason(form_route, form, FORM, (b"Cookie", b"area=86")) == "two_places"
    assert reason(form_route, f"{form}&area[]=86", FORM) == "form_duplicate"
    assert ask(json_route, document, JSON, target="/a?areas=86").country == "44"


@pytest.mark.parametrize("body", [b'{"phone": "1", "lang": "de"}', b'{"phone": '])
def test_a_document_is_parsed_once(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever selectors ask for it, and also where it cannot be read."""
    parsed: list[str] = []
    reader = intake._JSON_READER

    class Counting:
        def raw_decode(self, text: str) -> Any:
            parsed.append(text)
            return reader.raw_decode(text)

    monkeypatch.setattr(intake, "_JSON_READER", Counting())
    request, route = Request("/a", [JSON], body), send("json:phone", locale="json:lang")
    assert wish(route, request) == ("de" if body.endswith(b"}") else "")
    with suppress(Refusal):
        read(route, request)
    assert len(parsed) == 1


@given(
    name=st.text(min_size=1, max_size=8).filter(lambda name: "\0" not in name),
    value=st.text(min_size=1, max_size=8),
    other=st.text(min_size=1, max_size=8),
)
@pytest.mark.parametrize("source", ["form", "json"])
def test_what_is_there_is_never_surely_lacking(source: str, name: str, value: str, other: str) -> None:
    """However a name is spelled in a form or in JSON: who sends a token is not refused at a glance."""
    if source == "form":
        body = urllib.parse.urlencode([(other, value), (name, value)], errors="surrogatepass").encode()
        bodies = [body, urllib.parse.urlencode([(name, value)], safe="=", errors="surrogatepass").encode()]
    else:
        bodies = [json.dumps({other: value} | {name.rpartition(".")[2]: value}, ensure_ascii=True).encode()]
        with suppress(UnicodeEncodeError):
            bodies.append(json.dumps({name.rpartition(".")[2]: value}, ensure_ascii=False).encode())
    assert not any(intake.surely_lacks(f"{source}:{name}", body) for body in bodies)


def test_a_space_in_a_name_is_no_sign_that_it_is_not_there() -> None:
    """A form has it as `+`, and the token is found."""
    body = b"captcha+token=x&phone=1"
    request = Request(b"/x", [(b"Content-Type", b"application/x-www-form-urlencoded")], body)
    assert request.select("form:captcha token") == "x"
    assert not intake.surely_lacks("form:captcha token", body)
    assert intake.surely_lacks("form:captcha", b"phone=1")


@pytest.mark.parametrize(("padding", "remembered"), [(0, 1), (60, 0)])
def test_a_long_type_is_not_remembered(padding: int, remembered: int) -> None:
    """Clients make it up, so what is kept of it is short."""
    fields = [(b"Content-Type", b"application/json" + b" " * padding + b";charset=utf-8")]
    intake._media_type.cache_clear()
    for _ in range(2):
        assert intake._content_type(fields) == "application/json"
    assert intake._media_type.cache_info()[::3] == (remembered, remembered)
