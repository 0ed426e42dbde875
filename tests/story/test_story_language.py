"""One reading of a language: the message, a vendor's template and the page speak the same, over real sockets."""

import re
from typing import Any

import pytest
from telling import CONFIG, MAIN, PHONE, SEND, Start

SPOKEN = SEND + 'locale = "json:lang"\n'
FORM = """
[[routes]]
match = "POST /form"
action = "verify"
to = "form:phone"
code = "form:code"
locale = "form:lang"
browser = "page"
"""
GERMAN, CHINESE, ENGLISH = "Bestätigungscode", "验证码", "verification code"


@pytest.mark.parametrize(
    ("field", "lang", "said"),
    [
        ("de", "zh_CN", CHINESE),
        ("tlh, de;q=0.7, en;q=0.3", None, GERMAN),
        ("en;q=0.1, de;q=0.7", "", GERMAN),
        ("de", "tlh", GERMAN),
        ("de", "no language!", GERMAN),
        ("de", 5, GERMAN),
        ("de", True, GERMAN),
        ("de", ["zh"], GERMAN),
        ("de", {"a": "zh"}, GERMAN),
        ("de", "zh\n", GERMAN),
        ("de;q=0, en;q=0", "x" * 2000, ENGLISH),
        ("", "de-AT,en;q=0.5", GERMAN),
    ],
)
async def test_the_route_says_where_the_language_stands(start: Start, field: str, lang: Any, said: str) -> None:
    """`locale`: what is there goes first; what is missing or unreadable is no mistake: Accept-Language counts."""
    sidecar = await start(SPOKEN)
    body = {} if lang is None else {"lang": lang}
    assert (await sidecar.send(PHONE, {"Accept-Language": field}, **body)).status == 202
    await sidecar.vendor.code()
    assert said in sidecar.vendor.messages[0]["text"]


@pytest.mark.parametrize(
    ("field", "lang", "page", "said"),
    [
        ("tlh, de;q=0.5", "", "de", GERMAN),
        ("en;q=0.3,zh_TW", "", "zh", "驗證碼"),
        ("en", "de_AT", "de", GERMAN),
    ],
)
async def test_the_message_and_the_page_speak_the_same(
    start: Start, field: str, lang: str, page: str, said: str
) -> None:
    """What a browser says of its language is read in one way; the page asks for its message in its own language."""
    sidecar = await start(MAIN + FORM)
    headers = {"Accept": "text/html", "Accept-Language": field}
    shown = await sidecar.ask("POST", "/form", data={"phone": PHONE, "lang": lang}, headers=headers)
    assert shown.status == 403
    assert re.findall(r'<html lang="([^"]*)"', shown.body.decode()) == [page]
    body = {"to": PHONE, "captcha": await sidecar.solved()} | ({"locale": lang} if lang else {})
    assert (await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body, headers=headers)).status == 202
    await sidecar.vendor.code()
    assert said in sidecar.vendor.messages[0]["text"]


async def test_who_asks_stands_first_on_every_page_and_in_the_message(start: Start) -> None:
    """`code.brand`: as it is written, also where it looks like markup."""
    config = CONFIG.replace("[numbers]", '[code]\nbrand = "A & <b>Co</b>"\n[numbers]')
    sidecar = await start(MAIN + FORM, config=config)
    headers = {"Accept": "text/html"}
    for phone in (PHONE, "5"):
        shown = await sidecar.ask("POST", "/form", data={"phone": phone}, headers=headers)
        assert "A &amp; &lt;b&gt;Co" in shown.body.decode()
        assert "<b>" not in shown.body.decode()
    assert (await sidecar.send(PHONE)).status == 202
    await sidecar.vendor.code()
    assert sidecar.vendor.messages[0]["text"].startswith("A & <b>Co</b>: ")
