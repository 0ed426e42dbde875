"""What does the log say of a store that is away? Pure: `now` is in seconds, of any clock.

Its law: every reason is told when it comes up, and then at most every ten seconds, however many commands fail; and when
it is over, that is told too. A store that takes no writes is not over it because it answers reads, nor one whose
replicas are silent because it takes writes.
"""

from typing import Final, Self

from sidecar.events import StoreAlone, StoreAway, StoreBack, StoredAlone, StoreReplicated, Tell
from sidecar.store.faults import UNREPLICATED

AGAIN_S: Final = 10.0
# Only a write tells that these are over; a full store denies some writes and takes others, so it must be one of these.
_OF_WRITES: Final = frozenset({"READONLY", "UNBLOCKED", "OOM", "MISCONF", "NOREPLICAS"})
_WRITES: Final = frozenset({"SET", "ZADD", "XADD"})
# Stands for whatever was done that must outlive its server.
LASTING: Final = "WAIT"


class Trouble:
    """The troubles of one store, or of one of its nodes, at `place`."""

    def __init__(self, tell: Tell, place: str = "") -> None:
        self._tell = tell
        self._place = place
        self.since: float | None = None
        self._needs_write = False
        self._needs_replicas = False
        self._is_told = False
        self._failures = 0
        self._told_at: dict[str, float] = {}
        # Since when replicas are missing, and how much was stored meanwhile.
        self.alone_since: float | None = None
        self._stored_alone = 0

    def at(self, place: str) -> Self:
        """Give the troubles of one node: they are not over because another one does what it is asked."""
        return type(self)(self._tell, place)

    def failed(self, reason: str, command: str, now: float) -> None:
        """Take note that the store did not do a command."""
        if self.since is None:
            self.since, self._is_told, self._failures = now, False, 0
        self._needs_write = self._needs_write or reason in _OF_WRITES
        self._needs_replicas = self._needs_replicas or reason.startswith(UNREPLICATED)
        self._failures += 1
        if now - self._told_at.get(reason, -AGAIN_S) < AGAIN_S:
            return
        self._told_at[reason] = now
        self._is_told = True
        where = "" if self._place in reason else f" at {self._place}"
        seconds = now - self.since
        self._tell(StoreAway(reason=f"{reason}{where}", command=command, failures=self._failures, seconds=seconds))

    def did(self, command: str, now: float) -> None:
        """Take note, while there is trouble, that the store did a command."""
        if self.since is None or (self._needs_replicas and command != LASTING):
            return
        if self._needs_write and command not in _WRITES and command != LASTING:
            return
        self.over(now)

    def over(self, now: float) -> None:
        """Take note that whatever was wrong is over, or that nothing depends on it any more."""
        if self.since is not None and self._is_told:
            self._tell(StoreBack(failures=self._failures, seconds=now - self.since))
            self._told_at = {reason: at for reason, at in self._told_at.items() if now - at < AGAIN_S}
        self.since, self._needs_write, self._needs_replicas = None, False, False

    def lasting(self, place: str, now: float, *, alone: str) -> None:
        """Take note that what must outlive its server was done at `place`; `alone`: why no replica has it, or ""."""
        if alone:
            if self.alone_since is None:
                self.alone_since, self._stored_alone = now, 0
                self._tell(StoreAlone(place=place, reason=alone))
            self._stored_alone += 1
            self._tell(StoredAlone())
        elif self.alone_since is not None:
            self._tell(StoreReplicated(place=place, alone=self._stored_alone, seconds=now - self.alone_since))
            self.alone_since = None
