"""How do octets pass after an upgrade? Both ways, untouched, until both ends have said all.

The law: after upstream's 101 nobody here reads a frame. Each end's transport is handed to a `_Half` (asyncio's own
`set_protocol`), which writes what it receives to the other end and slows its reader down to the other end's writer. So
fragments, pings, close codes and extensions are the two ends' own business, and the memory held is one transport
buffer each way. That an end is lost is told to the protocol that it was taken from.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

# One end has finished, the other still talks. RFC 6455 section 7.1.1 wants both closed soon after the close frames;
# a minute is for the rest of what was under way, not for a peer that has vanished.
HALF_CLOSED_S: Final = 60.0


def tunnel(client: Any, upstream: Any, greeting: bytes, early: bytes, ended: Callable[[], None]) -> None:
    """Pass octets between two connections, each a protocol with an open `transport`.

    `greeting` is owed to the client: upstream's 101, and what it said behind it; `early` to upstream. `ended` is called
    when the client's end is lost, just before its protocol hears so. Either end is broken off `HALF_CLOSED_S` after the
    other has finished.
    """
    near, far = _Half(client, is_full=client.writing_paused), _Half(upstream, is_full=False)
    near.told = ended
    near.peer, far.peer = far, near
    near.send(greeting)
    far.send(early)
    near.start()
    far.start()


class _Half(asyncio.Protocol):
    """One end of the tunnel."""

    __slots__ = ("_former", "_is_done", "_is_full", "_timer", "_transport", "_write", "peer", "told")

    def __init__(self, former: Any, *, is_full: bool) -> None:
        self.peer = self
        self.told: Callable[[], None] | None = None
        self._former = former
        self._transport: asyncio.Transport = former.transport
        self._write = self._transport.write
        self._is_full = is_full
        self._is_done = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def start(self) -> None:
        """Read, whatever was paused before, unless the other end is full."""
        if not self._transport.is_closing() and not self.peer._is_full:  # noqa: SLF001 - the other half
            self._transport.resume_reading()

    def send(self, octets: bytes) -> None:
        if octets and not self._transport.is_closing():
            self._write(octets)

    def finish(self) -> None:
        """The other end has said all: pass its end of stream on, after what is still to be written."""
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # TLS knows no half-closed stream
        self._timer = self._timer or asyncio.get_running_loop().call_later(HALF_CLOSED_S, self.abort)

    def abort(self) -> None:
        """No clean end for this one: the other broke, or it has had its time."""
        self._transport.abort()

    # What the transport tells…

    def data_received(self, data: bytes) -> None:
        self.peer.send(data)

    def eof_received(self) -> bool:
        self._is_done = True
        self.peer.finish()
        if self.peer._is_done:  # noqa: SLF001 - the other half; both have said all
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
        if self.told is not None:
            self.told()
        # Soon, not now: who was told of the end goes on first.
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
