"""Numbers as people type them, and what upstream may make of them. Over real sockets."""

import json
from typing import Any

import jwt
import pytest
from fakes import Message
from telling import CONFIG, E164, PHONE, SEND, VERIFY, Sidecar, Start

BESIDE = (SEND + VERIFY).replace('to = "json:phone"', 'to = "json:phone"\ncountry = "json:area_code"')
FORMS = """
[[routes]]
match = "POST /form/send"
action = "send"
to = "form:phone"
[[routes]]
match = "POST /form/register"
action = "verify"
to = "form:phone"
code = "form:code"
"""
GERMAN = CONFIG.replace("[numbers]", '[numbers]\ndefault_country = "DE"')


def claims(request: Message) -> dict[str, Any]:
    """What the JWT says; tests/story/test_story_verify.py checks who signed it."""
    token = request.value(b"x-verified-identity").decode()
    return jwt.decode(token, options={"verify_signature": False})


async def form(sidecar: Sidecar, path: str, body: str) -> Any:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return await sidecar.ask("POST", path, data=body.encode(), headers=headers)


async def test_a_number_with_a_tail_reaches_nobody(start: Start) -> None:
    """`+8613912341380 x0000001`: who keeps the last eleven digits would store another number than was verified."""
    sidecar = await start()
    assert (await sidecar.send("13912341380")).status == 202
    code = await sidecar.vendor.code("+8613912341380")
    for tailed in ("+8613912341380 x0000001", "13912341380;ext=0000001", "13912341380 0000001", "1391234138０"):
        refused = await sidecar.register(code, tailed)
        assert (refused.status, refused.code) == (422, "invalid_recipient")
        assert (await sidecar.send(tailed)).code == "invalid_recipient"
    assert not sidecar.upstream.requests
    assert (await sidecar.register(code, "+86 (139) 1234-1380")).status == 200


@pytest.mark.parametrize(("typed", "number"), [("4915123456789", "+4915123456789"), (" 8613900000001", E164)])
async def test_a_number_that_lost_its_plus_goes_to_its_owner(start: Start, typed: str, number: str) -> None:
    """To nobody's landline in Germany that has the same digits."""
    sidecar = await start(config=GERMAN)
    assert (await sidecar.send(typed)).status == 202
    code = await sidecar.vendor.code(number)
    assert (await sidecar.register(code, typed)).status == 200
    assert claims(sidecar.upstream.requests[0])["phone_number"] == number


async def test_a_forms_plus_that_was_not_encoded(start: Start) -> None:
    """`phone=+8613900000001` arrives as a space and digits; upstream gets the form as it was."""
    sidecar = await start(FORMS, config=GERMAN)
    assert (await form(sidecar, "/form/send", "phone=+8613900000001")).status == 202
    body = f"phone=+8613900000001&code={await sidecar.vendor.code()}"
    assert (await form(sidecar, "/form/register", body)).status == 200
    assert sidecar.upstream.requests[0].content == body.encode()
    assert claims(sidecar.upstream.requests[0])["sub"] == E164


async def test_a_country_may_stand_by_itself(start: Start) -> None:
    """`country`: text or number, code or name; missing it is the default, and it contradicts no number."""
    sidecar = await start(BESIDE)
    for area_code in ("44", "+44", "GB", 44):
        assert (await sidecar.send("7400123456", area_code=area_code)).status == 202
    code = await sidecar.vendor.code("+447400123456", count=4)
    body = {"phone": "7400123456", "area_code": "44", "code": code}
    assert (await sidecar.ask("POST", "/register", json=body)).status == 200
    said = claims(sidecar.upstream.requests[0])
    assert said["sub"] == "+447400123456"
    assert json.loads(sidecar.upstream.requests[0].content)["area_code"] == "44"
    for missing in ({}, {"area_code": None}, {"area_code": ""}):
        assert (await sidecar.send(PHONE, **missing)).status == 202
    for phone, area_code in ((E164, "44"), (PHONE, "999"), (PHONE, "XX"), ("+447400123456", "86"), (PHONE, 44)):
        refused = await sidecar.send(phone, area_code=area_code)
        assert (refused.status, refused.code) == (422, "invalid_recipient")
    assert (await sidecar.send(PHONE, area_code=["86"])).code == "malformed_request"


async def test_the_page_knows_the_country_that_stood_beside(start: Start) -> None:
    """It asks the API, which has the number alone: so the page has it with its country code."""
    page = BESIDE.replace('code = "json:code"', 'code = "json:code"\nbrowser = "page"')
    sidecar = await start(page)
    body = {"phone": "7400123456", "area_code": "44"}
    reply = await sidecar.ask("POST", "/register", json=body, headers={"Accept": "text/html"})
    assert (reply.status, b'"to": "+447400123456"' in reply.body) == (403, True)


async def test_a_number_may_be_a_number(start: Start) -> None:
    """JSON's 13900000001; a negative, a broken and a huge one are none."""
    sidecar = await start()
    assert (await sidecar.send(13900000001)).status == 202
    assert (await sidecar.register(await sidecar.vendor.code(), 13900000001)).status == 200
    assert (await sidecar.send(-13900000001)).code == "invalid_recipient"
    for broken in (13900000001.5, 1.39e10, 10**30, True):
        assert (await sidecar.send(broken)).code in {"malformed_request", "invalid_recipient"}


async def test_what_is_said_of_a_number_that_is_none(start: Start) -> None:
    """A number of the configured country, which the same sidecar takes; on the page, too."""
    config = CONFIG.replace("[numbers]", '[numbers]\ndefault_country = "CN"\ncountries = ["FR", "DE"]')
    sidecar = await start(config=config)
    detail = (await sidecar.send("what?")).json["detail"]
    example = "+33 6 12 34 56 78"
    assert example in detail
    page = (await sidecar.ask("GET", "/.sidecar/verify")).body.decode()
    assert example in page.replace("\u00a0", " ")  # no line ends inside it
    assert (await sidecar.send(example)).status == 202


async def test_numbers_that_the_data_does_not_know(start: Start) -> None:
    """`numbers.extra` are mobile and served; landlines are served where `block_types` lets them."""
    sidecar = await start(config=CONFIG.replace("[numbers]", '[numbers]\nextra = ["+86120"]'))
    assert (await sidecar.send("12012345678")).status == 202
    await sidecar.vendor.code("+8612012345678")
    assert (await sidecar.send("010 6552 9988")).code == "recipient_not_allowed"
    served = await start(config=CONFIG.replace("[numbers]", "[numbers]\nblock_types = []"))
    assert (await served.send("010 6552 9988")).status == 202


async def test_a_mailbox_in_any_script(start: Start) -> None:
    """An IDN domain is one mailbox in either form, in ASCII to mail servers and upstream."""
    tables = (SEND + VERIFY).replace('to = "json:phone"', 'to = "json:phone"\nchannel = "email"')
    sidecar = await start(tables)
    assert (await sidecar.send("user@bücher.example")).status == 202
    code = await sidecar.vendor.code("user@xn--bcher-kva.example")
    assert (await sidecar.register(code, "User@BÜCHER.example")).status == 200
    assert claims(sidecar.upstream.requests[0])["email"] == "User@xn--bcher-kva.example"
    refused = await sidecar.send("üser@example.com")
    assert (refused.code, "ASCII" in refused.json["detail"]) == ("invalid_recipient", True)
