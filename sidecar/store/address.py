"""Where is the store, and how is one let in? A URL as redis-py spells them becomes connections that are ready for use.

redis-py reads the URL and makes the TLS context. It does not connect: its connection reads and writes by streams of its
own, which would have to be taken from it, and it greets in three round trips where one is enough. For a socket's path
and no more, as the embedded store has it, it is not even imported: that takes 70 ms and 7 MB.
"""

import asyncio
import copy
import socket
import ssl
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import hiredis

from sidecar import __version__
from sidecar.hosts import Host
from sidecar.store.faults import Fault
from sidecar.store.seeds import Place
from sidecar.store.wire import LostError, Wire, Word
from sidecar.unreachable import why

# What redis-py's pools take, and its connections do not.
_OF_POOLS: Final = ("max_connections", "timeout")
# The newest command that nothing works without: a store that lacks it would take messages that nobody could ever lease.
_NEWEST: Final = "XAUTOCLAIM"


class Address:
    """A store's URL: `redis://`, `rediss://` (TLS) or `unix://`. `place` names where it is, and not as whom we ask.

    `newest` is a command that whoever is there must know, and `lacks` says what it means where it does not. Raises
    ValueError for any other URL and for an option that is not known, OSError for TLS files that cannot be read.
    """

    def __init__(self, url: str, newest: str = _NEWEST, lacks: str = "it needs Valkey or Redis 7.0 or newer") -> None:
        self._newest = newest
        self._lacks = lacks
        parts = urlsplit(url)
        bare = SimpleNamespace(path=unquote(parts.path), username=None, password=None, db=0, client_name=None)
        is_bare = parts.scheme == "unix" and parts.path and not (parts.netloc or parts.query or parts.fragment)
        self._told: Any
        self._tls: ssl.SSLContext | None
        self._told, self._tls = (bare, None) if is_bare else _read(url)
        self._path = getattr(self._told, "path", "")
        self._name = getattr(self._told, "host", "")
        self.place = self._path or str(Place(self._name, self._told.port))
        self._host = None if self._path else Host(self._name, self._told.port)

    def at(self, place: Place) -> Self:
        """Give the address of another server, where one is let in as here."""
        other = copy.copy(self)
        other._go_to(place)  # noqa: SLF001 - it is one of these
        return other

    def _go_to(self, place: Place) -> None:
        self._path = ""
        self._name = place.host
        self.place = str(place)
        self._host = Host(place.host, place.port)

    async def connect(self) -> Wire:
        """Open a connection: let in, ready, and open in this turn of the loop. Raises LostError; it keeps no time."""
        try:
            wire = await self._opened()
        except OSError as error:
            raise LostError(why(error, self.place)) from error
        except ValueError as error:  # a name that is none, such as "a..b"
            raise LostError(f"no address of {self.place}") from error
        try:
            if wire.is_open():  # it may have ended with its TLS handshake, in one piece
                await self._greet(wire)
        except BaseException:
            wire.end()
            raise
        if not wire.is_open():
            raise LostError(f"closed by {self.place}")
        return wire

    async def _opened(self) -> Wire:
        loop = asyncio.get_running_loop()
        if self._host is None:
            _, wire = await loop.create_unix_connection(lambda: Wire(self.place), self._path)
            return wire
        told = self._told
        connected = await self._host.connect()
        name = self._name if self._tls else None
        _, wire = await loop.create_connection(
            lambda: Wire(self.place), sock=connected, ssl=self._tls, server_hostname=name
        )
        if told.socket_keepalive:
            with suppress(OSError):  # an option that this system does not have
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in told.socket_keepalive_options.items():
                    connected.setsockopt(socket.IPPROTO_TCP, option, value)
        return wire

    async def _greet(self, wire: Wire) -> None:
        """Say who asks and which database is meant, and see that it is new enough and what it is, where it lets us.

        One round trip: no command goes out before it is over.
        """
        told = self._told
        commands: list[tuple[Word, ...]] = []
        if told.username:
            commands.append(("AUTH", told.username, told.password or ""))
        elif told.password:
            commands.append(("AUTH", told.password))
        if told.db:
            commands.append(("SELECT", told.db))
        must = len(commands)
        if told.client_name:
            commands.append(("CLIENT", "SETNAME", told.client_name))
        # For whoever looks at CLIENT LIST. A store of before 7.2, or one that does not let us, need not know.
        commands += (("CLIENT", "SETINFO", "LIB-NAME", "signup-sidecar"), ("CLIENT", "SETINFO", "LIB-VER", __version__))
        commands += (("ROLE",), ("COMMAND", "INFO", self._newest))
        for number, reply in enumerate(wire.ask(*commands)):
            said = await reply
            if type(said) is not hiredis.ReplyError:
                if said == [None]:
                    raise LostError(f"no {self._newest} at {self.place}: {self._lacks}")
                if commands[number] == ("ROLE",):
                    wire.take_role(said)
                continue
            fault = Fault.read(str(said))
            if "DB index" in fault.text:
                raise LostError(f"no database {told.db} at {self.place}")
            if number < must or (fault.is_away and fault.code != "NOPERM"):
                raise LostError(fault.reason)


def _read(url: str) -> tuple[Any, ssl.SSLContext | None]:
    """Have redis-py read a URL: its connection, not to be used, and the TLS context. Raises ValueError, OSError."""
    from redis.asyncio.connection import Connection, parse_url  # noqa: PLC0415 - large, see above
    from redis.exceptions import RedisError  # noqa: PLC0415 - as above

    options: dict[str, Any] = {**parse_url(url)}
    for name in _OF_POOLS:
        options.pop(name, None)
    # Of what a URL may say we take where, as whom, which database, under which name, and TLS. The rest (limits of
    # time, decoding, sending again) would break promises of ours.
    try:
        told = options.pop("connection_class", Connection)(**options)
        return told, told.ssl_context.get() if hasattr(told, "ssl_context") else None
    except (TypeError, RedisError) as error:
        raise ValueError(f"the store's URL has an option that cannot be: {error}") from None
