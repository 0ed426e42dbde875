"""Where is a host? Its addresses, looked up beside everything else, and remembered while nobody knows better.

Its law: a name server that is slow or away costs only those who need that very name, and not even them where the name
was found before. The system's look-up cannot be cancelled, and the few threads that a loop has for it would be taken by
those that hang: so each has a thread of its own, one at a time for each host, and there are never more than hosts.
"""

import asyncio
import ipaddress
import math
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aiohappyeyeballs import AddrInfoType, start_connection

# How long addresses are believed without another look-up, where nobody says otherwise: a host that moves is found soon.
BELIEVED_S: Final = 1.0
# How long a look-up may take before addresses that are known already are used instead. RFC 8767 section 5 has 1.8 s,
# of which a time limit of one second for connecting would leave nothing.
_PATIENCE_S: Final = 0.3
# How long known addresses go on being used without a name server, and how soon it is asked again. RFC 8767 section 5
# has a day or more.
_STALE_S: Final = 86_400.0
_AGAIN_S: Final = 1.0
# RFC 8305 section 8: how long one address has the connecting to itself before the next is tried beside it.
_NEXT_ADDRESS_S: Final = 0.25
# What says for certain that there is no such host (any more): what was known of it is not used, either.
_NO_SUCH: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Host:
    """A host and a port to connect to; `name` may be an address. `believed_s`: for how long addresses are believed."""

    def __init__(self, name: str, port: int, believed_s: float = BELIEVED_S) -> None:
        self._name = name
        self._port = port
        self._believed_s = believed_s
        self._found: Sequence[AddrInfoType] = _literal(name, port)
        self._is_literal = bool(self._found)
        self._found_at = 0.0
        self._believed_until = math.inf if self._is_literal else 0.0
        self._looking: asyncio.Future[None] | None = None
        self._looking_since = 0.0

    async def connect(self) -> socket.socket:
        """Connect to one of its addresses; it keeps no time. Raises OSError, and ValueError for a name that is none."""
        try:
            return await start_connection(await self._addresses(), happy_eyeballs_delay=_NEXT_ADDRESS_S)
        except (OSError, asyncio.CancelledError):
            if not self._is_literal:
                self._believed_until = 0.0  # it may have moved
            raise

    async def _addresses(self) -> Sequence[AddrInfoType]:
        """Give its addresses: those that are believed, or what a look-up finds, or else those that were known."""
        now = asyncio.get_running_loop().time()
        if now < self._believed_until:
            return self._found
        looking = self._looking or self._begin(now)
        if self._found:
            await asyncio.wait([looking], timeout=max(0.0, self._looking_since + _PATIENCE_S - now))
        if not self._found:
            await asyncio.shield(looking)
        return self._found

    def _begin(self, now: float) -> asyncio.Future[None]:
        """Look its name up; who asks meanwhile waits for the same."""
        loop = asyncio.get_running_loop()
        self._looking_since = now
        self._looking = looking = loop.create_future()

        def look() -> None:
            found: Sequence[AddrInfoType] = []
            raised: OSError | ValueError | None = None
            try:
                found = look_up(self._name, self._port)
            except (OSError, ValueError) as error:
                raised = error
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(self._end, looking, found, raised)

        try:
            threading.Thread(target=look, name="look-up", daemon=True).start()
        except RuntimeError:  # no more threads
            self._end(looking, [], socket.gaierror(socket.EAI_AGAIN, "no thread to look it up"))
        return looking

    def _end(
        self, looking: asyncio.Future[None], found: Sequence[AddrInfoType], error: OSError | ValueError | None
    ) -> None:
        now = asyncio.get_running_loop().time()
        self._looking = None
        if error is None:
            self._found, self._found_at, self._believed_until = found, now, now + self._believed_s
            looking.set_result(None)
            return
        is_certain = isinstance(error, ValueError) or error.errno in _NO_SUCH
        if is_certain or now - self._found_at > _STALE_S:
            self._found = []
        self._believed_until = now + _AGAIN_S if self._found else 0.0
        looking.set_exception(error)
        looking.exception()  # whoever waits is told; nobody may


def look_up(name: str, port: int) -> Sequence[AddrInfoType]:
    """Ask the system for a host's addresses. Blocks. Raises OSError, and ValueError for a name that is none."""
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)


def _literal(name: str, port: int) -> Sequence[AddrInfoType]:
    """Give the address that a name is; none for any other."""
    try:
        ipaddress.ip_address(name)
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (ValueError, OSError):  # no address, or one of a zone that this machine has not ("fe80::1%eth9")
        return []
