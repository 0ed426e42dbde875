"""E-mail: what is written, over what it travels, what a reply means, when the outcome is open."""

import asyncio
import datetime as dt
import email
import email.policy
import ipaddress
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mail_server import BREAK, SILENCE, mail_server
from pydantic import ValidationError
from vendors import SOON_S, closed_port

from sidecar.delivery.providers import smtp
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, Rejected, Uncertain
from sidecar.recipient import parse

TEXT = "验证码 246810\n\n@a.example #246810"
MESSAGE = Message("ab_1-0", parse("ann@example.org", "email", "CN"), "zh", "246810", 5, TEXT)
ACCEPTED = Accepted("<ab_1-0@example.com>")


def settings(url: str, **more: Any) -> smtp.Settings:
    table = {"kind": "smtp", "url": url, "from": "Example 示例 <no-reply@example.com>"}
    return smtp.Settings.model_validate(table | more)


async def send(url: str, message: Message = MESSAGE, timeout_s: float = SOON_S, **more: Any) -> Outcome:
    async with smtp.opened(settings(url, **more)) as provider:
        return await provider.send(message, timeout_s)


# What is written…


def test_mail_is_written_as_the_rfcs_have_it() -> None:
    """Headers in ASCII, the text in base64, a mark by which a repeat is known."""
    raw = smtp.compose("Example 示例 <no-reply@example.com>", "<ab_1-0@example.com>", MESSAGE, 1_700_000_000.9)
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 78  # RFC 5322 section 2.1.1
    mail = email.message_from_bytes(raw, policy=email.policy.SMTP)
    assert dict(mail.items()) | {"Content-Transfer-Encoding": "", "MIME-Version": ""} == {
        "From": "Example 示例 <no-reply@example.com>",
        "To": "ann@example.org",
        "Subject": "您的验证码",
        "Date": "Tue, 14 Nov 2023 22:13:20 +0000",
        "Message-ID": "<ab_1-0@example.com>",
        "Auto-Submitted": "auto-generated",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "",
        "MIME-Version": "",
    }
    assert mail.get_content().splitlines() == TEXT.splitlines()


def test_mail_in_ascii_is_plain() -> None:
    raw = smtp.compose("a@b.c", "<1@b.c>", replace(MESSAGE, locale="en", text="246810 is your code"), 0.0)
    assert raw.endswith(b"\r\n\r\n246810 is your code\r\n")
    assert b"Subject: Your verification code\r\n" in raw


@pytest.mark.parametrize("sender", ["a@b.c\r\nBcc: x@y.z", "a@b.c\nX: y"])
def test_mail_header_takes_no_line_break(sender: str) -> None:
    with pytest.raises(ValueError, match="linefeed"):
        smtp.compose(sender, "<1@b.c>", MESSAGE, 0.0)


async def test_mail_with_a_dot_alone_on_a_line_is_sent_whole() -> None:
    """RFC 5321 section 4.5.2: a first dot is doubled on the way, or it would end the text."""
    async with mail_server() as it:
        assert await send(it.url, replace(MESSAGE, locale="en", text="246810\n.\n..is it")) == ACCEPTED
        assert it.mails[0].endswith(b"\r\n246810\r\n..\r\n...is it\r\n.\r\n")


async def test_smtp_message_id_is_the_same_at_every_attempt() -> None:
    """And another one for another message."""
    async with mail_server() as it:
        outcomes = [await send(it.url, message) for message in (MESSAGE, MESSAGE, replace(MESSAGE, id="ab_2-0"))]
        ids = [email.message_from_bytes(mail)["Message-ID"] for mail in it.mails]
    assert outcomes == [ACCEPTED, ACCEPTED, Accepted("<ab_2-0@example.com>")]
    assert ids == ["<ab_1-0@example.com>", "<ab_1-0@example.com>", "<ab_2-0@example.com>"]


# Over what it travels…


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "mail.pem", folder / "mail.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, secret)
    return pem, context


class Box:
    """What a whole mail server took, and over what."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, list[str], bool]] = []
        self.logins: list[tuple[bytes, bool]] = []

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802 - its name there
        over_tls = server.transport.get_extra_info("sslcontext") is not None
        self.taken.append((str(envelope.mail_from), list(envelope.rcpt_tos), over_tls))
        return "250 2.0.0 Ok"

    def login(self, server: Any, session: Session, envelope: Envelope, mechanism: str, login: Any) -> AuthResult:
        assert isinstance(login, LoginPassword)
        self.logins.append((login.password, server.transport.get_extra_info("sslcontext") is not None))
        return AuthResult(success=(login.login, login.password) == (b"user@example.com", b"p:a/s s"), handled=False)


@asynccontextmanager
async def whole_server(tls: ssl.SSLContext, *, implicit: bool) -> AsyncIterator[tuple[Box, int]]:
    """A mail server of another hand, aiosmtpd, that demands TLS and a log-in."""
    box = Box()

    def protocol() -> SMTP:
        demands: Any = {"auth_require_tls": False} if implicit else {"tls_context": tls, "require_starttls": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it does not know that its socket speaks TLS already
            return SMTP(box, authenticator=box.login, auth_required=True, hostname="m", **demands)

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=tls if implicit else None)
    try:
        yield box, server.sockets[0].getsockname()[1]
    finally:
        server.close()


USER = "user%40example.com:p%3Aa%2Fs%20s"


async def test_smtps_is_tls_from_the_first_octet(tmp_path: Path) -> None:
    pem, tls = certificate(tmp_path)
    async with whole_server(tls, implicit=True) as (box, port):
        assert await send(f"smtps://{USER}@127.0.0.1:{port}", ca=str(pem)) == ACCEPTED
    assert box.taken == [("no-reply@example.com", ["ann@example.org"], True)]
    assert box.logins == [(b"p:a/s s", True)]


async def test_smtp_starts_tls_before_it_says_who_it_is(tmp_path: Path) -> None:
    pem, tls = certificate(tmp_path)
    async with whole_server(tls, implicit=False) as (box, port):
        assert await send(f"smtp://{USER}@127.0.0.1:{port}", ca=str(pem)) == ACCEPTED
    assert box.taken == [("no-reply@example.com", ["ann@example.org"], True)]
    assert box.logins == [(b"p:a/s s", True)]


async def test_smtp_wrong_password_is_our_credentials(tmp_path: Path) -> None:
    pem, tls = certificate(tmp_path)
    async with whole_server(tls, implicit=False) as (box, port):
        outcome = await send(f"smtp://user:wrong@127.0.0.1:{port}", ca=str(pem))
    assert outcome == Rejected("credentials", "535 5.7.8")
    assert box.taken == []


async def test_smtp_server_that_nobody_we_know_vouches_for_gets_nothing(tmp_path: Path) -> None:
    _, tls = certificate(tmp_path)
    async with whole_server(tls, implicit=False) as (box, port):
        outcome = await send(f"smtp://{USER}@127.0.0.1:{port}")
    assert isinstance(outcome, Rejected)
    assert outcome.fault == "unreachable"
    assert (box.taken, box.logins) == ([], [])


async def test_starttls_that_is_not_offered_is_a_failure_and_nothing_is_said() -> None:
    """Neither the password nor the message goes out in the clear, even where the server would take it."""
    async with mail_server() as it:
        it.says["EHLO"] = "250-mail.example\r\n250 AUTH PLAIN LOGIN"
        outcome = await send(f"smtp://{USER}@127.0.0.1:{it.port}")
        assert outcome == Rejected("unreachable", "the server offers no STARTTLS")
        assert it.connections == [["EHLO"]]


# When the outcome is open…


@pytest.mark.parametrize("verb", ["hello", "EHLO", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("how", [BREAK, SILENCE])
async def test_smtp_line_that_fails_before_the_text_sent_nothing(verb: str, how: str) -> None:
    """Another provider may try at once."""
    async with mail_server() as it:
        it.says[verb] = how
        outcome = await send(it.url, timeout_s=0.2 if how == SILENCE else SOON_S)
        assert isinstance(outcome, Rejected), outcome
        assert outcome.fault == "unreachable"
        assert outcome.is_passing
        assert len(it.connections) == 1


@pytest.mark.parametrize("verb", ["hello", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("reply", ["421 4.3.2 Shutting down", "451 4.7.1 Greylisted", "452 4.2.2 Full", "499 What?"])
async def test_smtp_server_that_says_later_may_be_asked_again(verb: str, reply: str) -> None:
    """4yz at whatever stage, the text's too: surely not taken, and it passes."""
    async with mail_server() as it:
        it.says[verb] = reply
        outcome = await send(it.url)
        assert isinstance(outcome, Rejected), outcome
        assert outcome.is_passing


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
async def test_smtp_server_that_says_never_is_final(verb: str) -> None:
    async with mail_server() as it:
        it.says[verb] = "550 5.7.1 No"
        outcome = await send(it.url)
        assert isinstance(outcome, Rejected), outcome
        assert not outcome.is_passing


@pytest.mark.parametrize("how", [BREAK, SILENCE])
async def test_smtp_line_that_fails_after_the_final_dot_leaves_the_outcome_open(how: str) -> None:
    """The server may have the mail; nobody asks it twice."""
    async with mail_server() as it:
        it.says["."] = how
        assert isinstance(await send(it.url, timeout_s=0.2 if how == SILENCE else SOON_S), Uncertain)
        assert len(it.mails) == 1


async def test_smtp_garbled_answer_before_the_text_sent_nothing() -> None:
    async with mail_server() as it:
        it.says["DATA"] = "hello?"
        assert isinstance(await send(it.url), Rejected)
        assert it.mails == []


async def test_smtp_garbled_answer_to_the_text_leaves_the_outcome_open() -> None:
    async with mail_server() as it:
        it.says["."] = "hello?"
        assert isinstance(await send(it.url), Uncertain)


async def test_smtp_nobody_listening_sent_nothing() -> None:
    outcome = await send(closed_port().replace("http", "smtp+plain"))
    assert isinstance(outcome, Rejected)
    assert outcome.fault == "unreachable"
    assert outcome.may_try_next


async def test_smtp_attempt_is_bounded_while_it_waits_for_a_connection() -> None:
    """All connections are busy with others."""
    async with mail_server() as it, smtp.opened(settings(it.url, connections=1)) as provider:
        it.says["."] = SILENCE
        first = asyncio.create_task(provider.send(MESSAGE, SOON_S))
        while await asyncio.wait_for(it.heard.get(), SOON_S) != "DATA":
            pass
        assert await provider.send(MESSAGE, 0.1) == Rejected("unreachable", "TimeoutError")
        it.released.set()
        assert isinstance(await first, Uncertain)


# Connections…


async def test_smtp_connection_is_used_again() -> None:
    async with mail_server() as it, smtp.opened(settings(it.url)) as provider:
        assert [await provider.send(MESSAGE, SOON_S) for _ in range(3)] == [ACCEPTED] * 3
        assert it.connections == [["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]]


async def test_smtp_at_most_so_many_connections_at_a_time() -> None:
    async with mail_server() as it, smtp.opened(settings(it.url, connections=2)) as provider:
        outcomes = await asyncio.gather(*(provider.send(MESSAGE, SOON_S) for _ in range(8)))
        assert outcomes == [ACCEPTED] * 8
        assert len(it.connections) == 2


async def test_smtp_connection_that_the_server_gave_up_is_replaced() -> None:
    """Closed, or answered with 421: the mail goes out on a new one, once."""
    async with mail_server() as it, smtp.opened(settings(it.url)) as provider:
        assert await provider.send(MESSAGE, SOON_S) == ACCEPTED
        it.forget()
        assert await provider.send(MESSAGE, SOON_S) == ACCEPTED
        assert len(it.connections) == 2
        taken = it.says["MAIL"]
        it.says["MAIL"] = "421 4.4.2 Idle for too long"
        outcome = await provider.send(MESSAGE, SOON_S)
        assert outcome == Rejected("unreachable", "421 4.4.2"), "the new one is refused as well"
        assert len(it.connections) == 3
        it.says["MAIL"] = taken
        assert await provider.send(MESSAGE, SOON_S) == ACCEPTED
        assert len(it.mails) == 3


async def test_smtp_connection_on_which_something_failed_is_not_used_again() -> None:
    """What its server says next would be taken for the next message's."""
    async with mail_server() as it, smtp.opened(settings(it.url)) as provider:
        it.says["RCPT"] = "550 5.1.1 No such user"
        assert await provider.send(MESSAGE, SOON_S) == Rejected("number_invalid", "550 5.1.1")
        it.says["RCPT"] = "250 Ok"
        assert await provider.send(MESSAGE, SOON_S) == ACCEPTED
        assert it.connections == [["EHLO", "MAIL", "RCPT"], ["EHLO", "MAIL", "RCPT", "DATA"]]


# What a reply means…


@pytest.mark.parametrize(
    ("stage", "reply", "fault"),
    [
        ("connect", "530 5.7.0 Must issue STARTTLS", "credentials"),
        ("connect", "534 5.7.9 Mechanism too weak", "credentials"),
        ("connect", "535 5.7.8 Bad credentials", "credentials"),
        ("connect", "538 Encryption required", "credentials"),
        ("rcpt", "550 5.7.1 Relaying denied", "credentials"),
        ("mail", "500 What?", "request"),
        ("mail", "504 What?", "request"),
        ("mail", "552 5.3.4 Too large", "request"),
        ("mail", "554 No", "request"),
        ("mail", "553 5.7.1 Sender not yours", "request"),
        ("data", "550 5.7.1 Looks like spam", "request"),
        ("data", "554 5.6.0 No", "request"),
        ("rcpt", "550 5.1.1 No such user", "number_invalid"),
        ("rcpt", "551 5.1.2 No such host", "number_invalid"),
        ("rcpt", "553 5.1.3 Bad syntax", "number_invalid"),
        ("rcpt", "550 5.1.10 Null MX", "number_invalid"),
        ("rcpt", "550 No such user", "number_invalid"),
        ("rcpt", "452 4.2.2 Mailbox full", "number_invalid"),
        ("data", "552 5.2.2 Mailbox full", "number_invalid"),
        ("rcpt", "554 5.7.1 Policy", "number_blocked"),
        ("rcpt", "550 5.2.1 Disabled", "number_blocked"),
        ("rcpt", "450 4.7.1 Greylisted", "number_frequency"),
        ("rcpt", "451 4.7.1 Greylisted", "number_frequency"),
        ("rcpt", "450 4.2.1 Receiving too fast", "number_frequency"),
        ("connect", "421 4.7.0 Too many connections", "throttled"),
        ("rcpt", "452 4.5.3 Too many recipients", "throttled"),
        ("connect", "421 Closing", "unreachable"),
        ("data", "451 4.3.0 Try again", "unreachable"),
        ("connect", "454 4.7.0 TLS not available", "unreachable"),
        ("rcpt", "499 4.9.9 New", "unreachable"),
        ("rcpt", "599 5.9.9 New", "request"),
    ],
)
def test_smtp_reply_is_read_as_the_rfcs_have_it(stage: smtp.Stage, reply: str, fault: Any) -> None:
    code, _, said = reply.partition(" ")
    enhanced = said.split()[0] if said[1:2] == "." else ""
    assert smtp.read_reply(stage, int(code), said) == Rejected(fault, f"{code} {enhanced}".strip())


@pytest.mark.parametrize("code", [-1, 200, 354, 600])
def test_smtp_reply_that_is_neither_yes_nor_no(code: int) -> None:
    assert smtp.read_reply("text", code, "?") == Uncertain(str(code))
    for stage in ("rcpt", "data"):
        assert smtp.read_reply(stage, code, "?") == Rejected("unreachable", str(code))


async def test_smtp_reply_is_read_where_it_was_said() -> None:
    """The same words mean another thing about the sender than about the recipient."""
    async with mail_server() as it:
        it.says["MAIL"] = "550 5.1.1 No"
        assert await send(it.url) == Rejected("request", "550 5.1.1")
        it.says["MAIL"], it.says["."] = "250 Ok", "550 5.7.1 Spam"
        assert await send(it.url) == Rejected("request", "550 5.7.1")


# Settings…


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtps://u:p@mail.example.com", ("mail.example.com", 465, "tls", "u", "p")),
        ("smtps://u:p@mail.example.com:4650", ("mail.example.com", 4650, "tls", "u", "p")),
        ("smtp://mail.example.com", ("mail.example.com", 587, "starttls", "", "")),
        ("smtp://u%40a.b:p%3A@mail.example.com/", ("mail.example.com", 587, "starttls", "u@a.b", "p:")),
        ("smtp+plain://[::1]:2525", ("::1", 2525, "none", "", "")),
        ("smtp+plain://localhost", ("localhost", 25, "none", "", "")),
    ],
)
def test_smtp_url_says_where_and_how(url: str, server: tuple[str, int, str, str, str]) -> None:
    read = smtp.read_url(url)
    assert (read.host, read.port, read.security, read.user, read.password) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com:465",
        "https://mail.example.com",
        "smtps://",
        "smtps://mail.example.com:0",
        "smtps://mail.example.com:99999",
        "smtps://mail.example.com/x",
        "smtps://mail.example.com?x=1",
        "smtps://user@mail.example.com",
        "smtps://:pass@mail.example.com",
        "smtp+plain://mail.example.com",
        "smtp+plain://10.0.0.1",
        "smtp+plain://u:p@127.0.0.1",
    ],
)
def test_smtp_url_that_is_none_or_would_send_in_the_clear_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        settings(url)


@pytest.mark.parametrize(
    "sender",
    ["", "Example", "a@b.c, d@e.f", "a@b.c\r\nBcc: x@y.z", "Example <>", "é@b.c", "a b@c.d", "a@", "group: a@b.c;"],
)
def test_smtp_sender_is_one_mailbox(sender: str) -> None:
    with pytest.raises(ValidationError, match="from"):
        settings("smtps://mail.example.com", **{"from": sender})


def test_smtp_settings_show_no_password() -> None:
    table = settings("smtps://user:s3cr3t@mail.example.com")
    assert "s3cr3t" not in f"{table!r} {table} {smtp.read_url(table.url)!r}"
