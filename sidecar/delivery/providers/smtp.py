"""E-mail over SMTP: how is a message handed to a mail server, and what does its answer mean?

RFC 5321 (SMTP), RFC 3463 (enhanced codes), RFC 3207 (STARTTLS), RFC 8314 (TLS from the start), RFC 3834 (automatic
mail): no vendor. Law: no password and no message goes out before TLS, except to this very machine, and there no
password at all. Until the text goes out nothing was sent; a line that breaks after that leaves the outcome open. 4yz
and 5yz are refusals at every stage, the text's too, and a 4yz passes: the same server may be asked again.
Connections are kept and used again. Bounces come back as mail, so there are no receipts.
"""

import asyncio
import ipaddress
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

import aiosmtplib
from pydantic import AfterValidator, Field

from sidecar.config.findings import UnfitError
from sidecar.config.model import Provider
from sidecar.config.units import NonEmpty, Positive, Text
from sidecar.delivery import text
from sidecar.delivery.providers.seam import Accepted, Fault, Message, Outcome, Rejected, Uncertain
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"email"})
RECEIPTS: Final = None

# Servers wait five minutes for the next command (RFC 5321 section 4.5.3.2.7); middle boxes forget a line sooner.
_IDLE_S: Final = 60.0
# A dot that begins a line is doubled, for one alone would end the text: RFC 5321 section 4.5.2.
_DOT: Final = re.compile(rb"^\.", re.MULTILINE)

# "data": DATA was said, and no octet of the text; "text": the text goes out, or is out.
Stage = Literal["connect", "mail", "rcpt", "data", "text"]

# (at which stage, reply codes, enhanced codes) -> our word; None is any, "" is no enhanced code. The first that fits.
_REPLIES: Final[tuple[tuple[Stage | None, set[int] | None, set[str] | None, Fault], ...]] = (
    (None, {530, 534, 535, 538}, None, "credentials"),
    (None, None, {"5.7.8"}, "credentials"),
    (None, {452, 552}, {"4.2.2", "5.2.2"}, "number_invalid"),  # mailbox full, whoever sends
    ("rcpt", {550, 551, 553}, {"5.1.1", "5.1.2", "5.1.3", "5.1.10"}, "number_invalid"),
    ("rcpt", {550, 551, 553}, {""}, "number_invalid"),  # RFC 5321 section 4.2.3: mailbox unavailable, not local
    ("rcpt", None, {"5.7.1", "5.2.1"}, "number_blocked"),  # policy; mailbox disabled
    (None, {450, 451}, {"4.7.1", "4.2.1"}, "number_frequency"),  # too often, greylisted
    (None, {421}, {"4.7.0"}, "throttled"),
    (None, {452}, {"4.5.3"}, "throttled"),
)


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail is handed in, and how."""

    host: str
    port: int
    security: Literal["tls", "starttls", "none"]
    user: str
    password: str = field(repr=False)


_SCHEMES: Final[dict[str, tuple[int, Literal["tls", "starttls", "none"]]]] = {
    "smtps": (465, "tls"),
    "smtp": (587, "starttls"),
    "smtp+plain": (25, "none"),
}


def read_url(url: str) -> Server:
    """Read smtps:// (TLS from the start), smtp:// (STARTTLS, a must) or smtp+plain:// (this machine).

    Raises UnfitError.
    """
    right = 'write "smtps://USER:PASSWORD@HOST:465" or "smtp://USER:PASSWORD@HOST:587"'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UnfitError("is no address of a mail server", right) from None
    known = _SCHEMES.get(parts.scheme)
    if known is None or not parts.hostname or port == 0 or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise UnfitError("is no address of a mail server", right)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise UnfitError("has a user or a password, and not both", right)
    if known[1] == "none" and (user or not _is_here(parts.hostname)):
        raise UnfitError(
            "would send in the clear", 'write "smtps://" or "smtp://"; "smtp+plain://" is for 127.0.0.1, without a user'
        )
    return Server(parts.hostname, port or known[0], known[1], user, password)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(value: str) -> str:
    read_url(value)
    return value


def _mailbox(value: str) -> str:
    wrong = UnfitError("is no mailbox", 'write "Example <no-reply@example.com>" or the address alone')
    if not value.isprintable():
        raise wrong
    try:
        header: Any = HeaderRegistry()("From", value)
        addresses = header.addresses
    except (ValueError, IndexError, AttributeError):
        raise wrong from None
    named = any(group.display_name for group in header.groups)  # "group: a@b.c;"
    if (
        header.defects
        or named
        or len(addresses) != 1
        or not re.fullmatch(r"[!-?A-~]+@[A-Za-z0-9.-]+", addresses[0].addr_spec)
    ):
        raise wrong
    return value


class Settings(Provider):
    """[providers.NAME] with kind = "smtp"."""

    kind: Literal["smtp"]
    url: Annotated[NonEmpty, AfterValidator(_url)] = Field(repr=False)
    from_: Annotated[NonEmpty, AfterValidator(_mailbox)] = Field(alias="from")
    ca: Text = ""  # a PEM file, for a server whose certificate is signed by an authority of your own
    connections: Positive = 4  # at most at a time


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator["Smtp"]:
    """Give the provider; its connections are closed at the end. Raises OSError for a `ca` that cannot be read."""
    provider = Smtp(settings, time.time)
    try:
        yield provider
    finally:
        provider.close()


@dataclass(slots=True)
class _Progress:
    stage: Stage = "connect"


class Smtp:
    """One mail server. `now` gives seconds since the epoch."""

    channels = CHANNELS

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self._server = read_url(settings.url)
        self._from = settings.from_
        header: Any = HeaderRegistry()("From", settings.from_)
        self._sender: str = header.addresses[0].addr_spec
        self._domain: str = header.addresses[0].domain
        self._tls = None if self._server.security == "none" else ssl.create_default_context(cafile=settings.ca or None)
        self._slots = asyncio.Semaphore(settings.connections)
        self._now = now
        # Connections that nobody uses, and since when; the one used last is last.
        self._idle: list[tuple[aiosmtplib.SMTP, float]] = []

    async def send(self, message: Message, timeout_s: float) -> Outcome:
        """Try once, within `timeout_s` seconds, connecting and all."""
        message_id = f"<{message.id}@{self._domain}>"
        try:
            mail = compose(self._from, message_id, message, self._now())
        except ValueError:
            return Rejected("request", "unfit for a mail's header")
        progress = _Progress()
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                await self._hand_over(message.recipient.address, mail, progress)
        except aiosmtplib.SMTPResponseException as error:
            return read_reply(progress.stage, error.code, error.message)
        except aiosmtplib.SMTPNotSupported as error:
            return Rejected("unreachable", error.message)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            name = type(error).__name__
            return Uncertain(name) if progress.stage == "text" else Rejected("unreachable", name)
        return Accepted(message_id)

    def close(self) -> None:
        """Close what is open and idle."""
        while self._idle:
            self._idle.pop()[0].close()

    async def _hand_over(self, recipient: str, mail: bytes, progress: _Progress) -> None:
        client = await self._begun(progress)
        try:
            progress.stage = "rcpt"
            await client.rcpt(recipient)
            progress.stage = "data"
            await _send_text(client, mail, progress)
        except BaseException:
            client.close()  # what it would say next belongs to this message
            raise
        self._idle.append((client, asyncio.get_running_loop().time()))

    async def _begun(self, progress: _Progress) -> aiosmtplib.SMTP:
        """Give a connection on which the server has taken MAIL: an idle one if one still lives, else a new one."""
        while self._idle:
            client, since = self._idle.pop()
            if client.is_connected and asyncio.get_running_loop().time() - since < _IDLE_S:
                progress.stage = "mail"
                if await self._still_lives(client):
                    return client
            client.close()
        progress.stage = "connect"
        client = await self._connected()
        try:
            progress.stage = "mail"
            await client.mail(self._sender)
        except BaseException:
            client.close()
            raise
        return client

    async def _still_lives(self, client: aiosmtplib.SMTP) -> bool:
        """Say MAIL on a kept connection. False when the server has given it up: another may be used."""
        try:
            await client.mail(self._sender)
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPSenderRefused) as error:
            if isinstance(error, aiosmtplib.SMTPSenderRefused) and error.code != 421:
                client.close()
                raise
            return False
        except BaseException:
            client.close()
            raise
        return True

    async def _connected(self) -> aiosmtplib.SMTP:
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.security == "tls",
            start_tls=False,  # below, where its absence is told
            tls_context=self._tls,
            # Left out, the machine would be asked for its name, which may take the resolver's time.
            local_hostname=self._domain,
            timeout=None,  # the attempt as a whole is bounded
        )
        try:
            await client.connect()
            if server.security == "starttls":
                await _secure(client)
            if server.user:
                await client.login(server.user, server.password)
        except BaseException:
            client.close()
            raise
        return client


async def _send_text(client: aiosmtplib.SMTP, mail: bytes, progress: _Progress) -> None:
    """Say DATA, and then the text. Not as `client.data`, which cannot tell whether a line broke before the text."""
    await _expect(354, client.execute_command(b"DATA"))
    if client.protocol is None:
        raise aiosmtplib.SMTPServerDisconnected("Connection lost")
    client.protocol.write(_DOT.sub(b"..", mail) + b".\r\n")
    progress.stage = "text"
    await _expect(250, client.protocol.read_response())


async def _expect(code: int, reply: Awaitable[aiosmtplib.SMTPResponse]) -> None:
    """Wait for a reply. Raises SMTPDataError for any other code."""
    said = await reply
    if said.code != code:
        raise aiosmtplib.SMTPDataError(said.code, said.message)


async def _secure(client: aiosmtplib.SMTP) -> None:
    await client.ehlo()
    if not client.supports_extension("starttls"):
        raise aiosmtplib.SMTPNotSupported("the server offers no STARTTLS")
    await client.starttls()


def compose(sender: str, message_id: str, message: Message, now: float) -> bytes:
    """Write the mail. Raises ValueError for a line break in a header.

    `message_id` is the same at every attempt, so that whoever gets the mail twice can tell.
    """
    mail = EmailMessage(policy=SMTP_POLICY)
    mail["From"] = sender
    mail["To"] = message.recipient.address
    mail["Subject"] = text.subject(message.locale)  # RFC 2047, by the policy
    mail["Date"] = format_datetime(datetime.fromtimestamp(int(now), UTC))
    mail["Message-ID"] = message_id
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834 section 5: nobody's out-of-office answers it
    mail.set_content(message.text, cte="7bit" if message.text.isascii() else "base64")
    return mail.as_bytes()


def read_reply(stage: Stage, code: int, said: str) -> Outcome:
    """Read a refusal, said at `stage`.

    RFC 5321 section 4.2.1: after 4yz and 5yz the message was not taken, and after 4yz the same may be tried again.
    """
    found = re.match(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)", said)
    enhanced = found[0] if found else ""
    vendor_code = f"{code} {enhanced}".strip()
    if not 400 <= code <= 599:
        return Uncertain(vendor_code) if stage == "text" else Rejected("unreachable", vendor_code)
    if stage == "rcpt" and (code, enhanced) == (550, "5.7.1") and "relay" in said.lower():
        return Rejected("credentials", vendor_code)  # not our server, or it does not know us
    for at, codes, statuses, fault in _REPLIES:
        if (at or stage) == stage and code in (codes or {code}) and enhanced in (statuses or {enhanced}):
            return Rejected(fault, vendor_code, deferred=code <= 499)
    # What is left over is told by its first digit: come again later, and so does nobody now; or never, as it is.
    return Rejected("unreachable" if code <= 499 else "request", vendor_code)
