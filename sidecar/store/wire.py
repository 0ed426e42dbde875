"""How do commands and replies travel? One connection of the Redis protocol (RESP2): replies come as commands went out.

Its law: every command that was written ends once, with its own reply or as lost. Replies belong to commands by their
order alone, so whatever disturbs the order ends the connection: octets that are no RESP, a reply that nobody asked for.
A command that nobody waits for any more keeps its place, or the next would get its reply. It keeps no time.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

import hiredis

from sidecar.unreachable import why

Word = str | int | float | bytes
Hear = Callable[[], None]

# Writes a command as RESP has it. Text is UTF-8. (Its stub speaks of tuples of one word.)
pack: Final = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)

_ROLE: Final = pack(("ROLE",))
# Of a reply that has not wholly arrived.
_MORE: Final = object()


class LostError(Exception):
    """A connection ended, or none was to be had; `reason` says why. A command that was written may have been done."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Pending(Protocol):
    """A command whose reply has not come yet. `asked_at` in seconds of the monotonic clock."""

    asked_at: float

    def answered(self, reply: Any, now: float) -> None:
        """Take the reply: bytes, int, list, None, or an `hiredis.ReplyError`, which is the store's error."""

    def lost(self, reason: str) -> None:
        """Take note that no reply will come."""


# Replies that one turn of the loop takes in. Who waits for one goes on when its turn comes (line.py), and plain traffic
# is not to wait until hundreds of them are read.
_AT_ONCE: Final = 64


class _Plain:
    """A command that a coroutine awaits by itself: to be let in, a proof, or a wait in the store."""

    __slots__ = ("asked_at", "reply")

    def __init__(self) -> None:
        self.asked_at = time.monotonic()
        self.reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answered(self, reply: Any, _now: float) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def lost(self, reason: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(LostError(reason))
            self.reply.exception()  # of several sent together, only the first is awaited


class _Look:
    """A ROLE on its way, whose answer is the wire's own."""

    __slots__ = ("_wire", "asked_at")

    def __init__(self, wire: "Wire") -> None:
        self.asked_at = time.monotonic()
        self._wire = wire

    def answered(self, reply: Any, _now: float) -> None:
        self._wire.take_role(reply)

    def lost(self, reason: str) -> None:
        pass


class Wire(asyncio.Protocol):
    """One connection to the store at `place`.

    `asked`: what was written and is not answered yet, the oldest first. `heard_at`: when octets last came, in seconds
    of the monotonic clock. `role`: what the server said that it is, "master" or "slave", "" where it did not say;
    `replicas`: how many are in step with it, as it said last.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.role = ""
        self.replicas = 0
        self.asked: deque[Pending] = deque()
        self.heard_at = time.monotonic()
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._transport: asyncio.Transport | None = None
        self._is_retired = False
        self._has_turn = False  # replies have come that a later turn takes in
        self._hear: Hear = _nothing
        self.hear_role: Hear = _nothing  # called when `role` and `replicas` are told anew

    def is_open(self) -> bool:
        """True while commands can be written, as far as this end knows."""
        return self._transport is not None and not self._transport.is_closing()

    def write(self, octets: bytes, asked: Iterable[Pending]) -> None:
        """Send packed commands, in this order, in one piece; `is_open` is to be asked in the same turn of the loop."""
        if self._transport is None:
            raise RuntimeError("the wire has ended; expected one that is open")
        self._transport.write(octets)
        self.asked.extend(asked)

    def ask(self, *commands: tuple[Word, ...]) -> "list[asyncio.Future[Any]]":
        """Send commands in one piece; gives their replies as `Pending.answered` has them. LostError when none comes."""
        asked = [_Plain() for _ in commands]
        self.write(b"".join(map(pack, commands)), asked)
        return [one.reply for one in asked]

    def take_role(self, said: Any) -> None:
        """Take note of what ROLE was answered: of a primary, its role, its offset, and each replica with its own.

        A replica whose offset is 0 has not acknowledged anything yet: it still reads what it was sent, for minutes
        where that is much.
        """
        match said:
            case [b"master", int(), list(replicas)]:
                said_offset = [replica[2:] for replica in replicas if isinstance(replica, list)]
                self.role, self.replicas = "master", sum(offset != [b"0"] for offset in said_offset)
            case [bytes(role), *_]:
                self.role, self.replicas = role.decode("utf-8", "replace"), 0
        self.hear_role()

    def look(self) -> None:
        """Ask again what the server is; `role` and `replicas` say it then."""
        self.write(_ROLE, [_Look(self)])

    def hear(self, hear: Hear) -> None:
        """Have it call `hear` whenever octets have come and are taken in, and when it has ended."""
        self._hear = hear

    def retire(self) -> None:
        """Close it once everything that was written is answered."""
        self._is_retired = True
        if not self.asked:
            self.end()

    def end(self, reason: str = "") -> None:
        """Close it now. What is not answered yet is lost, for this reason, or because the store has closed it."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        lost = tuple(self.asked)
        self.asked.clear()
        for one in lost:
            one.lost(reason or f"closed by {self.place}")
        self._hear()

    # What asyncio calls…

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        self._reader.feed(data)
        if not self._has_turn:
            self._take(_AT_ONCE)

    def _take(self, most: int) -> None:
        """Take in replies that have come, and leave the rest to the next turn of the loop."""
        self._has_turn = False
        now, asked, next_reply = self.heard_at, self.asked, self._reader.gets
        try:
            for _ in range(most):
                reply = next_reply()
                if reply is _MORE:
                    break
                if not asked:
                    self.end()
                    return
                asked.popleft().answered(reply, now)
            else:
                self._has_turn = True
                asyncio.get_running_loop().call_soon(self._go_on)
        except hiredis.ProtocolError:
            self.end(f"no Redis protocol at {self.place}")
            return
        if self._is_retired and not asked:
            self.end()
        else:
            self._hear()

    def _go_on(self) -> None:
        if self._has_turn and self._transport is not None:
            self._take(_AT_ONCE)

    def connection_lost(self, error: Exception | None) -> None:
        if self._has_turn and self._transport is not None:
            self._take(len(self.asked) + 1)  # what has come is whole, whatever became of the connection
        self.end(why(error, self.place) if isinstance(error, OSError) else "")


def _nothing() -> None:
    pass
