"""Which connection does a command go out on? To each node one of all decisions, one of what lasts, others that wait.

Its law: a command goes out on a connection that is surely open, or as surely as can be known before: one that the store
has closed is opened anew, and one that may have died silently (idle for a while, or idle when another one's answer did
not come) must answer a PING first. So what a dead connection costs is a new one, and not a refused request; and no
command is ever sent twice.

What must outlive a primary (a message that is accepted, a proof that is used) is answered once a replica has it, too: a
WAIT goes out behind it, which holds up its whole connection, so that one is apart (docs/decisions/0020). A primary
without replicas has nobody to wait for; there it goes out with the decisions, and costs nothing.
"""

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from sidecar.store.faults import UNREPLICATED, Fault
from sidecar.store.trouble import Trouble
from sidecar.store.wire import LostError, Pending, Wire, Word, pack

# An idle connection is believed in for so long. Networks forget idle connections after minutes; hosts vanish any time.
TRUST_S: Final = 1.0
# A store answers a PING in a millisecond; what is left of a command's second must do for a new connection. A busy
# connection whose oldest command has waited for so long is in doubt likewise: that command is its PING.
PING_S: Final = 0.3
# So many commands are written and not answered yet: what a store does in a tenth of a second. More wait their turn.
_MOST_WRITTEN: Final = 4096
# So many wait their turn: by then the store is slower than what is asked of it, and who came now would wait in vain.
_MOST_UNSENT: Final = 16_384
# Those that wait for something to happen in the store: the delivery loops, and answers held open.
_MOST_WAITING: Final = 1024
# So long may replicas take to say that they have what was written: some hundred times what they take when all is well.
# The store looks at its clock ten times a second, so it may be a tenth more.
REPLICATED_S: Final = 0.4
# A primary that had no replica when it was asked last is asked again after so long: one may have come.
_LOOK_S: Final = 1.0
# A primary that has just lost a replica takes nothing that must last for so long. It may be the replica that has gone,
# or the replica may be the primary now: Sentinels find out within a second, and tell each other within two. Others that
# still follow the old one prove nothing: what they have then is overwritten.
DESERTED_S: Final = 3.0
# Replicas that have had no write in time for so long count as gone: a primary drops one that is silent itself then, by
# its default, but one that is always late, or a tool that only reads along as a replica, it never drops.
SILENT_S: Final = 60.0
# Two failures that lie further apart say nothing of the time between them, where nobody asked.
_UNASKED_S: Final = 600.0
# So long they are waited for then, so that who comes while others wait is in time, too.
_SILENT_WAIT_S: Final = 0.3


class Command(Pending, Protocol):
    """A command that can wait for a connection. `octets`: as it goes out."""

    octets: bytes

    def done(self) -> bool:
        """True when nobody waits for its reply any more."""
        ...

    def unsent(self, reason: str) -> None:
        """Take note that no connection was to be had: it was not sent."""


class Door(Protocol):
    """How connections to one node are made. `place` names where the node is, and may change from one to the next."""

    @property
    def place(self) -> str: ...

    async def connect(self) -> Wire:
        """Open a connection: let in, ready, and open in this turn of the loop. Raises LostError; it keeps no time."""
        ...


class Following:
    """How many replicas follow a node's server, as any of its connections heard last; 0 where it does not say.

    `denied` says why it will not wait for them, "" when it does; `is_silent` is true when none of them has had in time
    what was written, for long. `alone` says why no replica is waited for where there were some, or should be
    (`is_one_of_many`); "" when one is, and where so many are waited for as are `wanted`. `left_at`: when a replica has
    left that may be the primary now.
    """

    def __init__(self, wanted: int | None = None, *, is_one_of_many: bool = False) -> None:
        self.replicas = 0
        self.denied = ""
        self.is_silent = False
        self.left_at: float | None = None
        self._wanted = wanted
        self._should_have = is_one_of_many
        self._silent_since: float | None = None
        self._silent_at = 0.0
        self._place = ""
        self._before = 0
        self._looked_at = 0.0
        self.alone = self._why_alone()

    def hear(self, wire: Wire) -> None:
        """Take note of what the server said that a connection leads to."""
        if wire.place != self._place:
            self._place, self._before, self.left_at = wire.place, wire.replicas, None
        elif wire.replicas >= self._before:
            self._before, self.left_at = wire.replicas, None
        elif wire.replicas < self.replicas:
            self.left_at = time.monotonic()
        self.replicas = wire.replicas
        if wire.replicas:
            self._should_have = True
        self.alone = self._why_alone()

    def waited(self, *, is_replicated: bool, now: float, denied: str = "") -> None:
        """Take note whether replicas had in time what was written. Seconds of the monotonic clock."""
        self.denied = denied
        if is_replicated or not self.replicas:
            self._silent_since = None
        else:
            if self._silent_since is None or now - self._silent_at > _UNASKED_S:
                self._silent_since = now
            self._silent_at = now
        self.is_silent = self._silent_since is not None and now - self._silent_since >= SILENT_S
        self.alone = self._why_alone()

    def _why_alone(self) -> str:
        if self._wanted is not None:
            return ""
        if not self.replicas and self._should_have:
            return "no replica"
        return self.denied or ("silent replicas" if self.is_silent else "")

    @property
    def is_deserted(self) -> bool:
        """True while it may be that a replica has left because it is the primary now; others follow it later."""
        if self.left_at is not None and time.monotonic() - self.left_at >= DESERTED_S:
            self._before, self.left_at = self.replicas, None
        return self.left_at is not None

    def look(self, wire: Wire, now: float) -> None:
        """Have a server that has no replicas, or has just lost one, be asked once a second whether some have come."""
        if now - self._looked_at >= _LOOK_S and (not self.replicas or self.is_deserted) and wire.role:
            self._looked_at = now
            wire.look()


class Shared:
    """The connection of all decisions: what is asked in one turn of the loop goes out in one piece.

    Each command has `limit_s` seconds, connecting included; one timer looks after them all, for the oldest is first.
    `silent` is called when one had no answer in time, `following` told what the server says of its replicas.
    """

    def __init__(self, door: Door, limit_s: float, silent: Callable[[], None], following: Following) -> None:
        self._following = following
        self._door = door
        self._limit_s = limit_s
        self._silent = silent
        self._unsent: list[Command] = []
        self._wire: Wire | None = None
        self._retired: list[Wire] = []
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_flushing = False
        self._generation = 0
        self._doubted_at = 0.0

    def is_open(self) -> bool:
        """True while it leads to a server, as far as this end knows."""
        return self._wire is not None and self._wire.is_open()

    def ask(self, command: Command) -> bool:
        """Have a command go out with this turn's others; False when too many wait already."""
        if len(self._unsent) >= _MOST_UNSENT:
            return False
        self._unsent.append(command)
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        return True

    def doubt(self) -> None:
        """Have the connection prove itself before it is used again: another one fell silent."""
        self._doubted_at = time.monotonic()

    def renew(self) -> None:
        """Use another connection from now on; this one is closed once it has all its answers."""
        self._generation += 1
        if self._wire is not None:
            self._retired.append(self._wire)
            self._wire.retire()
            self._wire = None

    def close(self) -> None:
        """Close the connection; who waits for an answer gets none."""
        self.renew()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unsent, self._unsent = self._unsent, []
        for command in unsent:
            command.lost(f"closed by {self._door.place}")
        for wire in self._retired:
            wire.end()
        self._retired.clear()

    # Going out…

    def _flush(self) -> None:
        """Write what waits, if the connection is to be trusted; else see to that first."""
        self._is_flushing = False
        if self._timer is None:
            self._look_in(self._limit_s)
        if self._opening is not None:
            return
        wire = self._wire
        if wire is None or not wire.is_open() or not (wire.asked or is_trusted(wire, self._doubted_at)):
            self._opening = asyncio.get_running_loop().create_task(self._open())
        elif self._may_write(wire):
            self._write(wire)

    def _may_write(self, wire: Wire) -> bool:
        asked = wire.asked
        return not asked or (len(asked) < _MOST_WRITTEN and time.monotonic() - asked[0].asked_at < PING_S)

    def _write(self, wire: Wire) -> None:
        if commands := self._take_unsent():
            wire.write(b"".join([command.octets for command in commands]), commands)
            self._following.look(wire, commands[0].asked_at)

    def _take_unsent(self) -> list[Command]:
        unsent, self._unsent = self._unsent, []
        return [command for command in unsent if not command.done()]

    def _heard(self) -> None:
        """Write what waited for a sign of life, for its turn, or for the end of a dead connection."""
        if self._unsent and not self._is_flushing:
            self._flush()

    # Having a connection…

    async def _open(self) -> None:
        """Prove the connection, or make one, and write what waits."""
        try:
            wire = await self._proved()
        except LostError as error:
            self._fail_unsent(error.reason)
            return
        except TimeoutError:
            wire = None  # the timer tells whoever has waited as long; who came later has another try
        finally:
            if self._opening is asyncio.current_task():  # and not closed meanwhile
                self._opening = None
        if wire is not None and wire.is_open():
            self._write(wire)
        elif self._unsent:
            self._flush()

    async def _proved(self) -> Wire:
        if self._wire is not None:
            wire = self._wire
            if await answers(wire) and wire is self._wire:
                return wire
        while True:
            generation = self._generation
            async with asyncio.timeout(self._limit_s):
                wire = await self._door.connect()
            if generation == self._generation:
                wire.hear(self._heard)
                wire.hear_role = functools.partial(self._following.hear, wire)
                self._following.hear(wire)
                self._wire = wire
                return wire
            wire.end()  # it leads to what was the store before

    # Being told in time…

    def _look(self) -> None:
        """Give up what has waited for too long. A connection with such a command is dead, with all that came after."""
        self._timer = None
        now = time.monotonic()
        self._retired = [wire for wire in self._retired if wire.asked]
        wires = self._retired if self._wire is None else [*self._retired, self._wire]
        dead = [wire for wire in wires if wire.asked and now - wire.asked[0].asked_at >= self._limit_s]
        expired = [command for command in self._unsent if now - command.asked_at >= self._limit_s]
        if dead or expired:
            self._unsent = self._unsent[len(expired) :]  # they are in the order of their times
            self._silent()
        for wire in dead:
            wire.end(self.no_answer)
        for command in expired:
            command.lost(self.no_answer)
        oldest = [wire.asked[0].asked_at for wire in wires if wire.asked] + [one.asked_at for one in self._unsent[:1]]
        if oldest:
            self._look_in(min(oldest) + self._limit_s - now)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    @property
    def no_answer(self) -> str:
        """Say that a command's time is over."""
        return f"no answer within {self._limit_s:g} s"

    def _fail_unsent(self, reason: str) -> None:
        unsent, self._unsent = self._unsent, []
        for command in unsent:
            command.unsent(reason)


class Replicated(Shared):
    """The connection of what must outlive its server: answered once `wanted` replicas have what it wrote, or lost.

    `wanted` None: one, where the server has any, and waits for it. What is asked while a WAIT holds the connection goes
    out together after it, so there are as many as replicas can answer, and not one for each command. `renew` is called,
    with the time of asking, when a replica has gone or the server is no primary any more: is it still the right
    one?
    """

    def __init__(
        self,
        door: Door,
        limit_s: float,
        silent: Callable[[], None],
        following: Following,
        wanted: int | None,
        renew: Callable[[float, float], None],
    ) -> None:
        super().__init__(door, limit_s, silent, following)
        self._wanted = wanted
        self._renew_node = renew

    def _may_write(self, wire: Wire) -> bool:
        return not wire.asked

    def _write(self, wire: Wire) -> None:
        following = self._following
        wanted = min(1, following.replicas) if self._wanted is None else self._wanted
        is_deserted = self._wanted is None and following.is_deserted
        if not wanted and not is_deserted:
            super()._write(wire)
        elif commands := self._take_unsent():
            if is_deserted:
                for command in commands:
                    command.lost(UNREPLICATED)  # it was not sent, and is not sent elsewhere: who asks again is
                following.look(wire, commands[0].asked_at)
                return
            batch = _Batch(wire, commands, wanted, following, self._renew_node, is_must=self._wanted is not None)
            octets = [command.octets for command in commands]
            wait_s = _SILENT_WAIT_S if following.is_silent else REPLICATED_S
            octets += (pack(("WAIT", wanted, int(wait_s * 1000))), pack(("ROLE",)))
            wire.write(b"".join(octets), [batch] * len(octets))


class _Batch:
    """Commands that went out with one WAIT, and a ROLE, behind them: their replies are kept until it is answered.

    `is_must`: they are lost, too, where the server does not do WAIT for us, or its replicas have been silent for long.
    """

    def __init__(
        self,
        wire: Wire,
        commands: list[Command],
        wanted: int,
        following: Following,
        renew: Callable[[float, float], None],
        *,
        is_must: bool,
    ) -> None:
        self.asked_at = commands[0].asked_at
        self._wire = wire
        self._commands = commands
        self._wanted = wanted
        self._following = following
        self._renew = renew
        self._is_must = is_must
        self._replies: list[Any] = []

    def answered(self, reply: Any, now: float) -> None:
        """Keep a reply; with the last one, hand all on, or say that they are lost."""
        self._replies.append(reply)
        if len(self._replies) < len(self._commands) + 2:
            return
        *replies, replicated, role = self._replies
        self._wire.take_role(role)
        fault = Fault.read(str(replicated)) if isinstance(replicated, Exception) else None
        denied = f"WAIT: {fault.reason}" if fault is not None and fault.is_denied else ""
        is_replicated = type(replicated) is int and replicated >= self._wanted
        self._following.waited(is_replicated=is_replicated, now=now, denied=denied)
        is_alone = denied or (fault is None and self._following.is_silent)
        is_deserted = not self._is_must and self._following.is_deserted
        if (is_replicated or (is_alone and not self._is_must)) and not is_deserted:
            for command, its in zip(self._commands, replies, strict=True):
                command.answered(its, now)
            return
        if is_deserted or not self._wire.replicas:
            self._renew(self.asked_at, now)
        reason = UNREPLICATED
        if fault is not None:
            reason = f"{UNREPLICATED}: {denied}" if denied else fault.reason
        for command, its in zip(self._commands, replies, strict=True):
            if isinstance(its, Exception):
                command.answered(its, now)  # nothing was done
            else:
                command.lost(reason)

    def lost(self, reason: str) -> None:
        """Say once that all are lost: the connection has ended."""
        commands, self._commands = self._commands, []
        for command in commands:
            command.lost(reason)


class Own:
    """Connections for commands that wait in the store: each has one to itself, and hands it on when it is answered."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._room = asyncio.Semaphore(_MOST_WAITING)
        self._idle: list[Wire] = []
        self._used: set[Wire] = set()
        self._generation = 0
        self._doubted_at = 0.0

    async def ask(self, *command: Word, is_asking: bool = False) -> Any:
        """Do one command. Left before its reply has come, its connection is closed. Raises LostError.

        `is_asking`: a cluster's node is to do it on a slot that is on its way there.
        """
        async with self._room:
            generation = self._generation
            wire = await self._proved()
            self._used.add(wire)
            try:
                return await wire.ask(*[("ASKING",)] * is_asking, command)[-1]
            finally:
                self._used.discard(wire)
                if wire.is_open() and not wire.asked and generation == self._generation:
                    self._idle.append(wire)
                else:
                    wire.end()

    def doubt(self) -> None:
        """Have every idle connection prove itself before it is used again: one of them fell silent."""
        self._doubted_at = time.monotonic()

    def renew(self) -> None:
        """Close every idle connection, and each that is in use once it has its answer."""
        self._generation += 1
        idle, self._idle = self._idle, []
        for wire in idle:
            wire.end()

    def close(self) -> None:
        """Close every connection; who waits for an answer gets none."""
        self.renew()
        for wire in tuple(self._used):
            wire.end()

    async def _proved(self) -> Wire:
        """Give the idle connection that was used last, if it proves to be open, or a new one."""
        while self._idle:
            wire = self._idle.pop()
            if not wire.is_open():
                continue
            if not is_trusted(wire, self._doubted_at) and not await answers(wire):
                self.renew()  # the others are older still
            elif wire.is_open():
                return wire
        return await self._door.connect()


class Node:
    """One server of the store, or one address that leads to whichever server is the primary: its connections.

    `trouble` is told what fails there. `wanted`: so many replicas must have what is to outlive the server; None: one,
    where it has any, and lets us wait for it; `is_one_of_many`: it should have.
    """

    def __init__(
        self,
        door: Door,
        limit_s: float,
        trouble: Trouble | None,
        wanted: int | None = None,
        *,
        is_one_of_many: bool = False,
    ) -> None:
        self.trouble = trouble
        self._door = door
        self.following = Following(wanted, is_one_of_many=is_one_of_many)
        self.waiting = Own(door)
        self.deciding = Shared(door, limit_s, self.waiting.doubt, self.following)
        self._replicated = Replicated(door, limit_s, self.waiting.doubt, self.following, wanted, self.renew)
        self._wanted = wanted
        self._renewed_at = 0.0

    def lasting(self) -> Shared:
        """Give the connection for what must outlive the server; that of the decisions where nobody is waited for."""
        if self._wanted == 0:
            return self.deciding
        following = self.following
        waits = self._wanted or following.replicas or following.left_at is not None or not self.deciding.is_open()
        return self._replicated if waits else self.deciding

    @property
    def place(self) -> str:
        """Where it is."""
        return self._door.place

    def doubt(self) -> None:
        """Have every connection prove itself before it is used again: one fell silent."""
        self.deciding.doubt()
        self._replicated.doubt()
        self.waiting.doubt()

    def renew(self, asked_at: float, now: float) -> None:
        """Use other connections from now on: what was asked at `asked_at` came to a server that is the wrong one.

        A connection that was made since then is not meant. Seconds of the monotonic clock.
        """
        if asked_at >= self._renewed_at:
            self._renewed_at = now
            self.deciding.renew()
            self._replicated.renew()
            self.waiting.renew()

    def close(self) -> None:
        """Close every connection; who waits for an answer gets none."""
        self.deciding.close()
        self._replicated.close()
        self.waiting.close()


class Redirect(NamedTuple):
    """Where a command goes on that a node has not done. `is_asking`: its slot is on its way to there."""

    node: Node
    is_asking: bool
    after_s: float


def is_trusted(wire: Wire, doubted_at: float) -> bool:
    """Tell whether an idle connection is believed to be alive: heard of lately, and not doubted since."""
    return wire.heard_at > doubted_at and time.monotonic() - wire.heard_at < TRUST_S


async def answers(wire: Wire) -> bool:
    """Tell whether an idle connection is alive, by a PING; one that is not is closed."""
    is_alive = False
    try:
        async with asyncio.timeout(PING_S):
            is_alive = wire.is_open() and await wire.ask(("PING",))[0] == b"PONG"
    except (LostError, TimeoutError):
        pass
    finally:
        if not is_alive:
            wire.end()
    return is_alive
