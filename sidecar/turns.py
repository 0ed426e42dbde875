"""Whose turn is it to take a connection, of several workers that listen at one socket? Whoever has the fewest.

A connection wakes every worker that sleeps, and the system lets the same one come first again and again: of 64 kept
connections one worker of four got 61. So each says in memory that all of them share how many it has, and one that has
more than another lets that one go first (`Acceptor`). Nobody waits for long: who has the fewest may be busy.

A worker says its count when it accepts, and once a second, for it may have lost connections. Where the process that
makes workers was replaced, those of the old one and of the new one do not see each other.
"""

import mmap
from typing import Final

# The count of a place whose worker takes none, or of no worker.
_NOBODY: Final = 2**31 - 1


class Turns:
    """The counts of so many workers: made before they are forked, and handed to each as its `Turn`."""

    def __init__(self, workers: int) -> None:
        memory = mmap.mmap(-1, 4 * workers)
        self._counts = memoryview(memory).cast("i")
        self._free = list(range(workers))
        self._places: dict[int, int] = {}
        for place in self._free:
            self._counts[place] = _NOBODY

    def next(self) -> "Turn":
        """The turn of a worker that is about to be made; one more than there are places takes connections always."""
        return Turn(self._counts, self._free[0] if self._free else None)

    def made(self, pid: int) -> None:
        """A worker was made with the turn that `next` gave."""
        if self._free:
            self._places[pid] = self._free.pop(0)

    def ended(self, pid: int) -> None:
        """A worker has ended, however it did."""
        place = self._places.pop(pid, None)
        if place is not None:
            self._counts[place] = _NOBODY
            self._free.append(place)


class Turn:
    """One worker's place among all."""

    def __init__(self, counts: memoryview, place: int | None) -> None:
        self._counts = counts
        self._place = place

    def is_mine(self, connections: int) -> bool:
        """Say how many connections this worker has; returns true where no other one has fewer."""
        if self._place is None:
            return True
        self._counts[self._place] = connections
        return connections <= min(self._counts)

    def leave(self) -> None:
        """Take no more connections: nobody is to wait for this one."""
        if self._place is not None:
            self._counts[self._place] = _NOBODY
