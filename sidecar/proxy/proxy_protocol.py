"""Who really connected, when a proxy that reads no HTTP stands before us? The PROXY protocol, version 2.

HAProxy's specification, doc/proxy-protocol.txt section 2.2: the first octets of a connection name its source, and all
that follows is the client's. The law: whether a header must come is decided by the peer's address alone, never by the
octets (section 2: a receiver "MUST not try to guess"). From a trusted peer it must come, whole and in time; from
anybody else none is looked for. Not one octet behind the header is taken, so TLS or HTTP starts where it ends.
"""

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from sidecar.proxy.client import Trusted, is_trusted_peer

# Octets of the fixed head: signature, version and command, family and transport, length of what follows.
HEAD: Final = 16
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
# A header must be whole by then. Section 2: at least 3 s, so that a lost segment can be sent again.
HEADER_S: Final = 5.0
# Headers awaited at once. Each is a proxy's that we trust, and may take up to 64 KiB.
MOST_HEADERS: Final = 1024

_LOCAL: Final = 0
_PROXY: Final = 1
# Family and transport -> the octets of the two ends' addresses. All that there are, but for datagrams.
_ADDRESSES: Final = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
_DATAGRAMS: Final = (0x12, 0x22, 0x32)
# Connections accepted before the loop goes on to serve those that it has.
IN_A_ROW: Final = 64
# How long another process, which has fewer connections, may take to accept one: an idle one is as fast as it wakes.
_POLITE_S: Final = 0.002
# As asyncio's own server: with no file descriptor left, the next try is so much later.
_RETRY_S: Final = 1.0
# With no room for another connection, the next look: those that wait in the system's queue hardly notice.
_FULL_S: Final = 0.01
# As long as either goes on, it is told so often.
_TELL_S: Final = 10.0
# For TLS to end with all that is still to be written: the loop's own 30 s cut off who takes it slowly. The protocol
# looks at that itself; this is for one that does not.
_SHUTDOWN_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a connection comes from. An IPv4-mapped IPv6 address in a header is read as IPv4."""

    ip: str
    port: int


# Reading octets… (pure)


def length(head: bytes) -> int:
    """Give the octets of the whole header, of which `head` is the first 16.

    Raises ValueError where no header of version 2 for a stream begins so; its text has none of the octets.
    """
    if len(head) < HEAD:
        raise ValueError(f"{len(head)} octets came, a header has {HEAD} or more")
    if head.startswith(b"PROXY "):
        raise ValueError("a header of version 1 (text) came, send one of version 2 (binary)")
    if not head.startswith(SIGNATURE):
        raise ValueError("no header came, send one of version 2 before all else")
    version, command = divmod(head[12], 16)
    if version != 2:
        raise ValueError(f"a header of version {version} came, send one of version 2")
    follow = int.from_bytes(head[14:HEAD], "big")
    if command == _LOCAL:
        return HEAD + follow
    if command != _PROXY:
        raise ValueError(f"the command {command} came, send 1 (PROXY) or 0 (LOCAL)")
    if head[13] in _DATAGRAMS:
        raise ValueError("a header for datagrams came, send one for TCP")
    least = _ADDRESSES.get(head[13])
    if least is None:
        family, transport = divmod(head[13], 16)
        raise ValueError(
            f"the family {family} with the transport {transport} came, send 1 (IPv4) or 2 (IPv6) with 1 (stream)"
        )
    if follow < least:
        raise ValueError(f"{follow} octets of addresses came, their family has {least}")
    return HEAD + follow


def read(header: bytes) -> Source | None:
    """Read a whole header. None: the connection's own peer counts, and what else the header says is nothing to us.

    So it is with LOCAL, the proxy's own connection, such as a health check; with a family that is not told; and with a
    unix socket before the proxy. What follows the addresses (TLVs, section 2.2.1 on) is skipped. Raises ValueError.
    """
    whole = length(header[:HEAD])
    if len(header) != whole:
        raise ValueError(f"{len(header)} octets came, the header has {whole}")
    if header[12] & 15 == _LOCAL:
        return None
    # Source address, destination address, source port, destination port, in network order.
    match header[13]:
        case 0x11:
            return Source(str(ipaddress.IPv4Address(header[16:20])), int.from_bytes(header[24:26], "big"))
        case 0x21:
            address = ipaddress.IPv6Address(header[16:32])
            return Source(str(address.ipv4_mapped or address), int.from_bytes(header[48:50], "big"))
        case _:
            return None


# Accepting connections…


class Acceptor:
    """Accepts on listening sockets, and makes a protocol for each connection once its source is known.

    `sockets` are bound, listening and non-blocking, TCP or unix; `close` closes them. `factory` is asked with the
    header's source; without one (an untrusted peer, LOCAL) with the peer as the system named it on accepting, which a
    transport cannot always say later: a client that has reset the connection has left no name, but maybe a request.
    None is the peer of a unix socket, this machine. `trusted` and `tls` may be replaced at any time; connections that
    are being accepted keep what they had. `room` is told how many connections are still being accepted, and says how
    many more may be; until there is room again, connections wait in the system's queue. `is_my_turn` is told the same
    where several processes accept from one queue: while it is another's turn, this one waits for a moment before it
    accepts.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        trusted: Trusted,
        factory: Callable[[Source | None], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None = None,
        header_s: float = HEADER_S,
        most_headers: int = MOST_HEADERS,
        room: Callable[[int], int] = lambda _accepting: 1,
        in_a_row: int = IN_A_ROW,
        is_my_turn: Callable[[int], bool] = lambda _accepting: True,
    ) -> None:
        self.trusted = trusted
        self.tls = tls
        self._sockets = sockets
        self._factory = factory
        self._header_s = header_s
        self._most_headers = most_headers
        self._room = room
        self._in_a_row = in_a_row
        self._is_my_turn = is_my_turn
        self._patience = 1  # how many it takes at once that others should have
        self._log = structlog.get_logger()
        self._tasks: set[asyncio.Task[None]] = set()
        self._headers = 0
        self._accepts = False
        self._is_closed = False
        self._retry: asyncio.TimerHandle | None = None
        self._is_polite = False  # it rests to let another process go first
        self._tell_at = {"accept_failed": 0.0, "connections_full": 0.0}

    def start(self) -> None:
        """Begin to accept, on the running loop."""
        self._accept_or_not()

    async def close(self) -> None:
        """Accept no more, and drop connections in their header or TLS handshake; established ones go on."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._accept_or_not()
        for listening in self._sockets:
            listening.close()
        await asyncio.sleep(0)  # a task that is cancelled before it began closes nothing
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept_or_not(self) -> None:
        """Accept while there is room for a header. A reader of our own: uvloop's sock_accept makes one each time."""
        accepts = not self._is_closed and self._retry is None and self._headers < self._most_headers
        if accepts == self._accepts:
            return
        self._accepts = accepts
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            if accepts:
                loop.add_reader(listening, self._accept, listening)
            else:
                loop.remove_reader(listening)

    def _accept(self, listening: socket.socket) -> None:
        if self._is_my_turn(len(self._tasks)):
            self._patience = 1
            self._take_some(listening, self._in_a_row)
        else:
            self._rest(_POLITE_S)
            self._is_polite = True

    def _take_some(self, listening: socket.socket, most: int) -> int:
        """Accept so many at most, and say how many there were."""
        for taken in range(most):
            if not self._accepts:
                return taken
            if self._room(len(self._tasks)) <= 0:
                if self._is_news("connections_full"):
                    self._log.warning("connections_full")
                self._rest(_FULL_S)
                return taken
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return taken
            except OSError as error:
                # Mostly too many open files. The connection stays in the queue and would wake us at once.
                if self._is_news("accept_failed"):
                    self._log.warning("accept_failed", reason=error.strerror, again_in_s=_RETRY_S)
                self._rest(_RETRY_S)
                return taken
            connection.setblocking(False)
            peer = None if connection.family == socket.AF_UNIX else Source(address[0], address[1])
            has_header = is_trusted_peer(peer.ip if peer else "", self.trusted)
            self._headers += has_header
            task = asyncio.create_task(self._take(connection, peer, has_header=has_header))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._accept_or_not()
        return most

    def _is_news(self, event: str) -> bool:
        """True when an event is to be told: the first time, and then every ten seconds."""
        now = asyncio.get_running_loop().time()
        if now < self._tell_at[event]:
            return False
        self._tell_at[event] = now + _TELL_S
        return True

    def _rest(self, seconds: float) -> None:
        """Accept nothing for so long."""
        self._retry = asyncio.get_running_loop().call_later(seconds, self._try_again)
        self._accept_or_not()

    def _try_again(self) -> None:
        self._retry = None
        self._accept_or_not()
        if self._is_polite:
            self._is_polite = False
            # Nobody else has taken what is still there: one, which may have come just now; and twice as many each time
            # that there are so many, for then nobody else is there.
            taken = [self._take_some(listening, self._patience) for listening in self._sockets]
            self._patience = min(2 * self._patience, IN_A_ROW) if max(taken, default=0) >= self._patience else 1

    async def _take(self, connection: socket.socket, peer: Source | None, *, has_header: bool) -> None:
        """Make a protocol for one connection, or close it."""
        source, tls = peer, self.tls
        with ExitStack() as ours:
            ours.callback(connection.close)
            if has_header:
                try:
                    async with asyncio.timeout(self._header_s):
                        source = await _header(connection) or peer
                except TimeoutError:
                    self._refused(peer, f"no whole header came within {self._header_s:g} s")
                    return
                except (ValueError, OSError) as error:
                    self._refused(peer, str(error))
                    return
                finally:
                    self._headers -= 1
                    self._accept_or_not()
            ours.pop_all()  # the transport closes it
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._factory, source),
                connection,
                ssl=tls,
                ssl_shutdown_timeout=_SHUTDOWN_S if tls is not None else None,
            )
        except OSError:
            pass  # a client that fails at TLS, or has left, is told by nobody to nobody
        except MemoryError:  # which passes, when others leave
            if self._is_news("accept_failed"):
                self._log.warning("accept_failed", reason=os.strerror(errno.ENOMEM), again_in_s=0.0)

    def _refused(self, peer: Source | None, reason: str) -> None:
        self._log.info("proxy_header_refused", reason=reason, peer=peer.ip if peer else "")


async def _header(connection: socket.socket) -> Source | None:
    """Read a connection's header, and nothing behind it. Raises ValueError, OSError."""
    head = await _exactly(connection, HEAD)
    return read(head + await _exactly(connection, length(head) - HEAD))


async def _exactly(connection: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    octets = bytearray()
    while len(octets) < count:
        piece = await loop.sock_recv(connection, count - len(octets))
        if not piece:
            raise ConnectionResetError("the connection ended before its header was whole")
        octets += piece
    return bytes(octets)
