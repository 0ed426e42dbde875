"""What does an error mean that the store answers with? Its words, and what follows from them. Pure."""

from dataclasses import dataclass
from typing import Final, Self

# What a store says that is there but cannot serve now.
_AWAY: Final = frozenset(
    {
        "LOADING",  # it reads its data from disk
        "READONLY",  # it became a replica
        "MASTERDOWN",  # a replica without its primary
        "NOREPLICAS",  # fewer replicas than it must write to
        "MISCONF",  # it cannot write to its disk
        "OOM",  # it is full, and must not evict
        "BUSY",  # somebody's script runs too long
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",  # a cluster's node without its cluster's client
        "ASK",
        "MOVING",
        "UNBLOCKED",  # it became a replica while we waited
        "NOAUTH",  # our password is missing, wrong, or may not do this: nobody can be served until it is mended
        "WRONGPASS",
        "NOPERM",
    }
)
# Not the store's word, but ours: it did a command, and too few replicas have it, or may have.
UNREPLICATED: Final = "not on enough replicas in time"
# The store is another one than when the connection was made: each connection to it leads to the wrong place.
_STALE: Final = frozenset({"READONLY", "MASTERDOWN", "LOADING", "MOVED", "UNBLOCKED"})
# How Redis 7 and Valkey say inside a script that the user has no right to a command: under the word of any error.
_DENIED_IN_SCRIPT: Final = ("The user executing the script can't", "ACL failure in script")
# How Redis 7 and Valkey say inside a script that a key has gone to another node, or is on its way there: the slot is
# moved key by key, and the script's first steps are done. So it is not said in a redirect's words.
_MOVING_IN_SCRIPT: Final = "Script attempted to access a non local key in a cluster node"
# Said in place of an answer, to a connection that is closed then.
_FULL: Final = "max number of clients reached"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error that the store answered with: `code` is its first word, such as "WRONGTYPE"; `text` says more.

    The general code "ERR" stands in no text, and neither do a command's arguments, which may be anything.
    """

    code: str
    text: str

    @classmethod
    def read(cls, said: str) -> Self:
        """Read what the store said."""
        code, _, rest = said.partition(" ")
        text = (rest if code == "ERR" else said).partition(", with args")[0]
        if any(sign in said for sign in _DENIED_IN_SCRIPT):
            code = "NOPERM"
        if _MOVING_IN_SCRIPT in said:
            code = "MOVING"
        return cls(code, text)

    @property
    def is_away(self) -> bool:
        """True when it says that the store cannot serve now, and not that the command is wrong."""
        return self.code in _AWAY or self.text == _FULL

    @property
    def is_stale(self) -> bool:
        """True when the connection, and each that is as old, leads to a store that is no longer the right one."""
        return self.code in _STALE

    @property
    def is_denied(self) -> bool:
        """True when it says that this command is not for us: the user has no right to it, or the server lacks it."""
        return self.code == "NOPERM" or (self.code == "ERR" and not self.is_away and "replica" not in self.text)

    @property
    def reason(self) -> str:
        """Say in few words, the same each time, why the store is away."""
        return self.text if self.code == "ERR" else self.code
