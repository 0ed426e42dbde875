"""Which connection does a command go out on? The connections of one purpose: opened when needed, kept, and proved.

Its law: a command goes out on a connection that is surely open, or as surely as can be known before: one that the store
has closed is opened anew, and one that may have died silently (idle for a while, or idle when another one's answer did
not come) must answer a PING first. So what a dead connection costs is a new one, and not a refused request; and no
command is ever sent twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

# An idle connection is believed in for so long. Networks forget idle connections after minutes; hosts vanish any time.
TRUST_S: Final = 1.0
# A store answers a PING in a millisecond; what is left of a command's second must do for a new connection.
PING_S: Final = 0.3


class ConnectError(Exception):
    """No connection was to be had; the cause says why. Nothing was sent."""


class Connections:
    """At most `most` connections at a time, as `make` makes them; who comes when all are in use waits."""

    def __init__(self, make: Callable[[], AbstractConnection], most: int) -> None:
        self._make = make
        self._room = asyncio.Semaphore(most)
        self._idle: list[tuple[AbstractConnection, float]] = []
        self._used: set[AbstractConnection] = set()
        self._generation = 0
        self._doubted_at = 0.0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[AbstractConnection]:
        """Have a connection for one command and its whole answer. Raises ConnectError."""
        async with self._room:
            generation = self._generation
            connection = await self._proved()
            self._used.add(connection)
            is_whole = False
            try:
                try:
                    if not connection.is_connected:
                        await connection.connect()  # type: ignore[no-untyped-call]
                except (redis_errors.RedisError, OSError) as error:
                    raise ConnectError from error
                yield connection
                is_whole = True
            except redis_errors.ResponseError:
                is_whole = True  # an error is an answer
                raise
            finally:
                self._used.discard(connection)
                if is_whole and connection.is_connected and generation == self._generation:
                    self._idle.append((connection, time.monotonic()))
                else:
                    await _disconnected(connection)

    def doubt(self) -> None:
        """Have every idle connection prove itself before it is used again: one of them fell silent."""
        self._doubted_at = time.monotonic()

    async def renew(self) -> None:
        """Close every idle connection, and each that is in use once it has its answer."""
        self._generation += 1
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            await _disconnected(connection)

    async def close(self) -> None:
        """Close every connection; who waits for an answer gets an error."""
        await self.renew()
        for connection in tuple(self._used):
            await _disconnected(connection)

    async def _proved(self) -> AbstractConnection:
        """Give the idle connection that was used last, if it proves to be open, or a new one."""
        while self._idle:
            connection, used_at = self._idle.pop()
            is_proved = False
            try:
                if not await _is_clean(connection):
                    continue
                is_proved = self._is_trusted(used_at) or await _answers(connection)
            finally:
                if not is_proved:
                    await _disconnected(connection)
            if is_proved:
                return connection
            await self.renew()  # the others are older still
        return self._make()

    def _is_trusted(self, used_at: float) -> bool:
        return used_at > self._doubted_at and time.monotonic() - used_at < TRUST_S


async def _is_clean(connection: AbstractConnection) -> bool:
    """Return true if a connection is open as far as this end knows, and no answer waits that nobody asked for."""
    try:
        return connection.is_connected and not await connection.can_read()
    except (redis_errors.RedisError, OSError):
        return False


async def _answers(connection: Any) -> bool:
    try:
        async with asyncio.timeout(PING_S):
            await connection.send_command("PING")
            return bool(await connection.read_response() == b"PONG")
    except (redis_errors.RedisError, OSError):  # TimeoutError is one
        return False


async def _disconnected(connection: AbstractConnection) -> None:
    with suppress(redis_errors.RedisError, OSError):
        await connection.disconnect(nowait=True)
