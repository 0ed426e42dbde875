"""A mail server on loopback that says what a test tells it to, or nothing, or breaks the line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_SAYS = {
    "hello": "220 mail.example ESMTP",
    "EHLO": "250-mail.example\r\n250 PIPELINING",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 End data with <CR><LF>.<CR><LF>",
    ".": "250 2.0.0 Ok: queued",
}
BREAK = "break"
SILENCE = "silence"


@dataclass
class MailServer:
    """`says` has the reply for each command ("hello" and "." too), or BREAK, or SILENCE."""

    port: int = 0
    says: dict[str, str] = field(default_factory=lambda: dict(_SAYS))
    # The commands of each connection, in order.
    connections: list[list[str]] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)
    # One for each command that came; a test takes them.
    heard: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    lines: set[asyncio.StreamWriter] = field(default_factory=set)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"smtp+plain://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Close every connection, as servers do with those that say nothing."""
        for line in self.lines:
            line.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands: list[str] = []
        self.connections.append(commands)
        self.lines.add(writer)
        try:
            if not await self._say("hello", writer):
                return
            while line := await reader.readline():
                verb = line.split()[0].decode().upper()
                commands.append(verb)
                self.heard.put_nowait(verb)
                if not await self._say(verb, writer):
                    return
                if verb == "DATA" and self.says["DATA"].startswith("354"):
                    self.mails.append(await reader.readuntil(b"\r\n.\r\n"))
                    if not await self._say(".", writer):
                        return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self.lines.discard(writer)
            writer.close()

    async def _say(self, verb: str, writer: asyncio.StreamWriter) -> bool:
        """Answer a command. False when the line is over."""
        said = self.says.get(verb, "502 5.5.1 What?")
        if said == SILENCE:
            await self.released.wait()
        if said in {BREAK, SILENCE}:
            return False
        writer.write(f"{said}\r\n".encode())
        await writer.drain()
        return True


@asynccontextmanager
async def mail_server() -> AsyncIterator[MailServer]:
    """Yield a mail server that listens on loopback and takes everything."""
    it = MailServer()
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        it.released.set()
        it.forget()
        server.close()
        await server.wait_closed()
