"""The attacker who writes where only we should, into mails, messages and logs, or has us speak to other hosts.

What may stand on a page is in tests/story/test_story_pages.py; what a backend may read otherwise in tests/backends/.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import pytest
import structlog
from fakes import RawClient
from mail_server import mail_server
from telling import CONFIG, E164, MAIN, PHONE, SEND, VERIFY, Start
from vendors import Vendor, vendor

from sidecar import logs

HEAD, _ = CONFIG.split("[providers.hook]")
ANY_CHANNEL = SEND.replace('action = "send"', 'action = "send"\nwait = "10s"\nchannel = "auto"\nlocale = "json:lang"')
TWILIO = """
[providers.twilio]
kind = "twilio"
account_sid = "AC00000000000000000000000000000000"
auth_token = "token-of-the-attack"
from = "+15005550006"
endpoint = "{url}"
[[delivery]]
providers = ["twilio"]
"""


@pytest.fixture
def log_again() -> Iterator[None]:
    """Leave the log as it was found: its stream is the captured one of this test."""
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []


@pytest.mark.parametrize(
    "recipient",
    [
        "ann@example.org\r\nBcc: eve@example.net",
        "ann@example.org\nBcc: eve@example.net",
        "ann@example.org\r\nRCPT TO:<eve@example.net>",
        "ann@example.org, eve@example.net",
        "ann@example.org;eve@example.net",
        "ann@example.org eve@example.net",
        "Ann <eve@example.net>",
        "<eve@example.net>ann@example.org",
        '"ann@example.org\r\nBcc: eve@example.net"@example.org',
        '"ann\\"@example.org',
        "ann@[127.0.0.1]",
        "ann@example.org> SIZE=1 <eve@example.net",
        "ann\x00@example.org",
        "ann@example.org\u2028Bcc: eve@example.net",
        "ann%0d%0aBcc:eve@example.net@example.org",
        "ann@eve.example.net@example.org",
    ],
)
async def test_a_mail_goes_to_one_mailbox_or_to_none(start: Start, recipient: str) -> None:
    """What is more than an address, or could be read as a command or a field, is no recipient."""
    async with mail_server() as mail:
        smtp = f'[providers.mail]\nkind = "smtp"\nurl = "{mail.url}"\nfrom = "Example <no-reply@example.com>"\n'
        sidecar = await start(smtp + '[[delivery]]\nproviders = ["mail"]\n' + ANY_CHANNEL, config=HEAD)
        refused = await sidecar.send(recipient)
        assert refused.code in {"invalid_recipient", "malformed_request"}
        assert (await sidecar.send("ann@example.org")).status == 202
        [mailed] = mail.mails
        assert b"eve@example.net" not in mailed
        assert mail.connections[-1].count("RCPT") == 1


@pytest.mark.parametrize(
    "more",
    [
        {"lang": "en\r\nX-Evil: 1"},
        {"lang": "../../etc/passwd"},
        {"lang": "{code}"},
        {"lang": "en&To=%2B16502530001"},
        {
            "code": "111111",
            "brand": "EVIL",
            "minutes": "EVIL",
            "text": "EVIL {code}",
            "template": "EVIL",
            "From": "EVIL",
        },
    ],
)
async def test_a_client_writes_nothing_into_a_message(start: Start, more: Any) -> None:
    """Who asks chooses the recipient and the language; the rest of the vendor's parameters is ours."""
    async with vendor() as twilio:
        twilio.answers(201, json.dumps({"sid": "SM00000000000000000000000000000001", "status": "queued"}))
        sidecar = await start(TWILIO.format(url=twilio.url) + ANY_CHANNEL, config=HEAD)
        assert (await sidecar.send(**more)).status == 202
        [asked] = twilio.asked
        form = parse_qsl(asked.body.decode(), strict_parsing=True)
        assert [value for name, value in form if name == "To"] == [E164]
        assert [value for name, value in form if name == "From"] == ["+15005550006"]
        [text] = [value for name, value in form if name == "Body"]
        assert ("EVIL" in text, "111111" in text, "\r" in text, "{" in text) == (False, False, False, False)


@pytest.mark.parametrize(
    "number",
    [
        f"{PHONE}&To=%2B16502530001",
        f"{PHONE}\r\nTo: x",
        f"{PHONE},+16502530001",
        "+8613900000001;ext=1",
        f"tel:{PHONE};phone-context=evil",
    ],
)
async def test_a_number_is_one_number_or_none(start: Start, number: str) -> None:
    """What stands behind it is neither dialled nor handed to a vendor."""
    async with vendor() as twilio:
        twilio.answers(201, json.dumps({"sid": "SM00000000000000000000000000000001", "status": "queued"}))
        sidecar = await start(TWILIO.format(url=twilio.url) + ANY_CHANNEL, config=HEAD)
        assert (await sidecar.send(number)).code in {"invalid_recipient", "malformed_request"}
        assert not twilio.asked


HOSTILE = (
    b"\x1b[2J\x1b]0;owned\x07",
    b"\xc2\x9b31m",
    b'"},"level":"critical","event":"forged',
    b"\xe2\x80\xae\xe2\x80\xa8x",
    b"\xff\xfe",
    b"${jndi:ldap://x}%n%s{0}",
)


@pytest.mark.usefixtures("log_again")
@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_a_client_writes_no_line_and_no_command_into_the_log(
    start: Start, capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    """No line of its own, no terminal sequence, nothing that turns the reading direction: each line has one reading."""
    logs.configure(log_format)  # type: ignore[arg-type] # the two that there are
    sidecar = await start(MAIN, config=CONFIG.replace("[server]", '[server]\naccess_log = "all"'))
    for hostile in HOSTILE:
        for target, name in (
            (b"/send?" + hostile.replace(b" ", b""), b"User-Agent"),
            (b"/send", b"X-Request-Id"),
            (b"/plain", b"X-Request-Id"),
            (b"/send", b"Accept-Language"),
            (b"/send", b"Host"),
        ):
            async with RawClient(sidecar.port) as client:
                host = b"" if name == b"Host" else b"Host: localhost\r\n"
                await client.send(
                    b"POST ",
                    target,
                    b" HTTP/1.1\r\n",
                    host,
                    name,
                    b": ",
                    hostile,
                    b"\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
                )
                assert (await client.rest()).startswith(b"HTTP/1.1 ")
    logs.flush()
    logged = capfd.readouterr().err
    lines = logged.splitlines()
    assert len(lines) >= len(HOSTILE)
    assert not [c for c in logged if c != "\n" and (not c.isprintable() and c != " ")], logged
    if log_format == "json":
        events = [json.loads(line) for line in lines]
        assert "forged" not in {event["event"] for event in events}
        assert "critical" not in {event["level"] for event in events}


@asynccontextmanager
async def elsewhere() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that nobody should speak to: yields its port, and what was said to it."""
    said: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], said


async def test_no_request_reaches_a_host_of_the_clients_choice(start: Start) -> None:
    """Whatever a target, a host or a field names, upstream is the one of the configuration."""
    async with elsewhere() as (port, said):
        sidecar = await start()
        there = f"127.0.0.1:{port}".encode()
        heads = [
            b"GET http://" + there + b"/latest/meta-data HTTP/1.1\r\nHost: " + there,
            b"GET / HTTP/1.1\r\nHost: " + there,
            b"GET //" + there + b"/ HTTP/1.1\r\nHost: localhost",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: " + there,
            b"GET / HTTP/1.1\r\nHost: localhost\r\nForwarded: host=" + there,
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Original-URL: http://" + there + b"/",
            b"GET @" + there + b"/ HTTP/1.1\r\nHost: localhost",
            b"GET http://localhost@" + there + b"/ HTTP/1.1\r\nHost: localhost",
            b"CONNECT " + there + b" HTTP/1.1\r\nHost: " + there,
        ]
        for head in heads:
            async with RawClient(sidecar.port) as client:
                await client.send(head, b"\r\nConnection: close\r\n\r\n")
                assert (await client.rest()).startswith(b"HTTP/1.1 ")
        assert not said
        assert len(sidecar.upstream.requests) >= 4


async def test_no_redirect_of_a_vendor_is_followed(start: Start) -> None:
    """A provider or a verifier that sends us elsewhere is answered as one that says nothing that we know."""
    async with elsewhere() as (port, said), vendor() as redirecting:
        redirecting.answers(307, "", {"Location": f"http://127.0.0.1:{port}/"})
        captcha = (
            f'\n[captcha.turnstile]\nkind = "turnstile"\nsecret = "s"\nendpoint = "{redirecting.url}/siteverify"\n'
        )
        guard = '[[routes]]\nmatch = "POST /comment"\naction = "guard"\ncaptcha = "turnstile"\n'
        guard += 'captcha_token = "json:captcha"\n'
        tables = TWILIO.format(url=redirecting.url) + captcha + ANY_CHANNEL + VERIFY + guard
        sidecar = await start(tables, config=HEAD)
        assert (await sidecar.send()).status in {202, 502}
        token = {"captcha": "XXXX.DUMMY.TOKEN.XXXX"}
        assert (await sidecar.ask("POST", "/comment", json=token)).code == "captcha_unavailable"
        assert _paths(redirecting) >= {"/siteverify"}
        assert len(redirecting.asked) == 2
        assert not said


def _paths(vendor: Vendor) -> set[str]:
    return {asked.path for asked in vendor.asked}
