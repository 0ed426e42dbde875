"""How do octets pass after an upgrade? Both ways, untouched, until both ends have said all.

The law: after upstream's 101 nobody here reads a frame. Each end's transport is handed to a `_Half` (asyncio's own
`set_protocol`), which writes what it receives to the other end and slows its reader down to the other end's writer. So
fragments, pings, close codes and extensions are the two ends' own business, and the memory held is one transport
buffer each way. When a transport is lost, the protocol that it was taken from is told, as if it had kept it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

# One end has finished, the other still talks. RFC 6455 section 7.1.1 wants both closed soon after the close frames;
# a minute is for the rest of what was under way, not for a peer that has vanished.
HALF_CLOSED_S: Final = 60.0


def tunnel(client: Any, upstream: Any, greeting: bytes, early: bytes, ended: Callable[[], None]) -> None:
    """Pass octets between two connections, each a protocol with an open `transport`.

    `greeting` is what the client gets first: upstream's 101, and what upstream sent behind it. `early` is what upstream
    gets first: what the client sent behind its handshake. `ended` is called when the client's transport is lost, just
    before its protocol is told. Either end is broken off `HALF_CLOSED_S` after the other has finished.
    """
    near, far = _Half(client, is_full=client.writing_paused), _Half(upstream, is_full=False)
    near.on_lost = ended
    near.peer, far.peer = far, near
    near.send(greeting)
    far.send(early)
    near.start()
    far.start()


class _Half(asyncio.Protocol):
    """One end of the tunnel."""

    __slots__ = ("_former", "_is_done", "_is_full", "_timer", "_transport", "_write", "on_lost", "peer")

    def __init__(self, former: Any, *, is_full: bool) -> None:
        self.peer = self
        self.on_lost: Callable[[], None] | None = None
        self._former = former
        self._transport: asyncio.Transport = former.transport
        self._write = self._transport.write
        self._is_full = is_full
        self._is_done = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def start(self) -> None:
        """Read, whatever was paused before, unless the other end does not take what it is sent."""
        if not self._transport.is_closing() and not self.peer._is_full:  # noqa: SLF001 - the other half
            self._transport.resume_reading()

    def send(self, octets: bytes) -> None:
        if octets and not self._transport.is_closing():
            self._write(octets)

    def finish(self) -> None:
        """Pass on that the other end has finished sending, behind what is still to be written."""
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # TLS knows no half-closed stream
        self._timer = self._timer or asyncio.get_running_loop().call_later(HALF_CLOSED_S, self.abort)

    def abort(self) -> None:
        """End this transport at once: the other was reset, or this one has not finished within HALF_CLOSED_S."""
        self._transport.abort()

    # What the transport tells…

    def data_received(self, data: bytes) -> None:
        self.peer.send(data)

    def eof_received(self) -> bool:
        self._is_done = True
        self.peer.finish()
        if self.peer._is_done:  # noqa: SLF001 - the other half; both have finished
            self.peer._transport.close()  # noqa: SLF001
            return False
        return self._transport.can_write_eof()  # true keeps the other direction open

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if exc is None:
            self.peer.finish()
        else:
            self.peer.abort()
        if self.on_lost is not None:
            self.on_lost()
        # Soon, not now: what `on_lost` has woken runs before the former protocol hears of the loss.
        asyncio.get_running_loop().call_soon(self._former.connection_lost, exc)

    def pause_writing(self) -> None:
        self._is_full = True
        self.peer.pause()

    def resume_writing(self) -> None:
        self._is_full = False
        self.peer.start()

    def pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()
