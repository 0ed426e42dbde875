"""How do octets pass after an upgrade? Both ways, untouched, until both ends have said all.

The law: after upstream's 101 nobody here reads a frame. Each end's transport is handed from aiohttp's protocol to a
`_Half` (asyncio's own `set_protocol`), which writes what it receives to the other end and slows its reader down to the
other end's writer. So fragments, pings, close codes and extensions are the two ends' own business, and the memory held
is one transport buffer each way. At the end the client's transport goes back to aiohttp, which closes it.
"""

import asyncio
from typing import Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.web_protocol import RequestHandler

# One end has finished, the other still talks. RFC 6455 section 7.1.1 wants both closed soon after the close frames;
# a minute is for the rest of what was under way, not for a peer that has vanished.
HALF_CLOSED_S: Final = 60.0


async def tunnel(client: RequestHandler, upstream: ResponseHandler, head: bytes) -> None:
    """Pass octets between two upgraded connections; `head` is the 101 that the client is still owed.

    Returns when both ends have finished, one was lost, or `HALF_CLOSED_S` after the first has finished. The caller
    closes both. Raises ConnectionResetError if one end has gone before.
    """
    if client.transport is None or upstream.transport is None:
        raise ConnectionResetError("one end has gone before the tunnel began")
    early, greeting = _Tail(), _Tail()
    client.keep_alive(False)
    client.set_parser(early)  # type: ignore[arg-type]  # it is told nothing but octets, like any reader of frames
    upstream.set_parser(greeting, None)
    near, far = _Half(client, client.transport), _Half(upstream, upstream.transport)
    near.join(far)
    far.join(near)
    try:
        near.send(head + bytes(greeting.octets))
        far.send(bytes(early.octets))
        near.start()
        far.start()
        both = (near.ended, far.ended)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(both, timeout=HALF_CLOSED_S)
    finally:
        near.give_back()
        far.give_back()


class _Tail:
    """What had arrived after the heads: aiohttp gives its buffered octets to the next parser."""

    def __init__(self) -> None:
        self.octets = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.octets += data
        return False, b""

    def feed_eof(self) -> None:
        """Nothing is waiting for it."""


class _Half(asyncio.Protocol):
    """One end of the tunnel."""

    def __init__(self, former: RequestHandler | ResponseHandler, transport: asyncio.Transport) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._former = former
        self._transport = transport
        self._is_full = former.writing_paused
        self._lost: list[Exception | None] = []
        self._peer = self
        transport.set_protocol(self)

    def join(self, peer: "_Half") -> None:
        self._peer = peer

    def start(self) -> None:
        """Read, whatever aiohttp had paused, unless the other end is full."""
        if not self._transport.is_closing() and not self._peer._is_full:  # noqa: SLF001 - the other half
            self._transport.resume_reading()

    def send(self, octets: bytes) -> None:
        if octets and not self._transport.is_closing():
            self._transport.write(octets)

    def finish(self) -> None:
        """The other end has said all: pass its end of stream on, after what is still to be written."""
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # TLS knows no half-closed stream

    def give_back(self) -> None:
        """Hand the transport back to aiohttp in the state that it is in."""
        self._transport.set_protocol(self._former)
        if self._is_full and not self._former.writing_paused:
            self._former.pause_writing()
        elif not self._is_full and self._former.writing_paused:
            self._former.resume_writing()
        for error in self._lost:
            self._former.connection_lost(error)

    # What the transport tells…

    def data_received(self, data: bytes) -> None:
        self._peer.send(data)

    def eof_received(self) -> bool:
        self._end()
        self._peer.finish()
        return self._transport.can_write_eof()  # true keeps the other direction open

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.append(exc)
        self._end()
        if exc is None:
            self._peer.finish()
        else:
            self._peer.abort()

    def pause_writing(self) -> None:
        self._is_full = True
        self._peer.pause()

    def resume_writing(self) -> None:
        self._is_full = False
        self._peer.start()

    def pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def abort(self) -> None:
        """The other end broke: no clean end for this one."""
        self._end()
        self._transport.abort()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
