"""How does the sidecar ask its store? Commands and scripts over the Redis protocol, each with one time limit.

The only module that imports redis. It never sends anything twice: a command whose answer was lost may have been done,
and an XADD or a spent bucket done twice is a wrong message or a wrong refusal. What failed is for the caller to refuse.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from redis import exceptions as redis_errors
from redis.asyncio.connection import BlockingConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidecar.errors import StoreAwayError
from sidecar.store.names import Names

Word = str | int | float | bytes

# Decisions take well under a millisecond, so this many at once is thousands a second; more wait their turn.
_MAX_CONNECTIONS: Final = 64
# Those that wait for something to happen (`blocking`): the delivery loops, and answers held open.
_MAX_WAITING: Final = 1024

# What a store says that is there but cannot serve now. redis-py has classes for some of them, plain errors for others.
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
        "NOAUTH",  # our password is missing, wrong, or may not do this: nobody can be served until it is mended
        "WRONGPASS",
        "NOPERM",
    }
)


class ReplyError(Exception):
    """The store answered a command with an error. `code` is its first word, such as "BUSYGROUP" or "WRONGTYPE"."""

    def __init__(self, command: str, code: str, text: str) -> None:
        super().__init__(f"{command}: {text}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: one atomic step in the store. `sha1` is what the store knows it by."""

    text: str
    sha1: str

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a script from the file beside the module that runs it."""
        text = path.read_text(encoding="utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Store:
    """A store of the Redis protocol: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py spells them.

    Replies are as RESP2 has them: bytes, int, list, None. Everything raises StoreAwayError when the store does not
    answer within `timeout_s` or cannot serve now, and ReplyError when it answers that the command is wrong.
    `observe` is told the seconds that each command took. Raises ValueError for any other URL.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "sidecar",
        timeout_s: float = 1.0,
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self.names = Names(prefix)
        self._timeout_s = timeout_s
        self._observe = observe
        options = {
            # redis-py takes anything from a URL's query; what follows are our promises, and wins.
            **parse_url(url),
            "protocol": 2,
            "decode_responses": False,
            "health_check_interval": 0,
            # redis-py's defaults send again, up to ten times, what may have been done. Only its `Redis` class does; we
            # use its connections, which retry the connecting alone. Not even that here: the caller's time is short.
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            # One clock per command, ours: connecting, waiting for a free connection, sending and reading all count.
            "socket_timeout": None,
            "socket_connect_timeout": timeout_s,
            "timeout": None,
        }
        self._deciding = _pool(options | {"max_connections": _MAX_CONNECTIONS})
        self._waiting = _pool(options | {"max_connections": _MAX_WAITING})

    async def execute(self, *command: Word) -> Any:
        """Do one command."""
        started = time.perf_counter()
        try:
            return await self._ask(self._deciding, self._timeout_s, *command)
        finally:
            if self._observe is not None:
                self._observe(time.perf_counter() - started)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes]) -> Any:
        """Run a script; the store keeps its text after the first time."""
        try:
            return await self.execute("EVALSHA", script.sha1, len(keys), *keys, *args)
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
            # It did not run, so this is no second time.
            return await self.execute("EVAL", script.text, len(keys), *keys, *args)

    async def blocking(self, *command: Word, wait_s: float) -> Any:
        """Do a command that itself waits up to `wait_s` (BLOCK, BLPOP), on a connection that no decision needs."""
        return await self._ask(self._waiting, wait_s + self._timeout_s, *command)

    async def ping(self) -> bool:
        """Tell whether the store can serve now."""
        try:
            return bool(await self.execute("PING") == b"PONG")
        except (StoreAwayError, ReplyError):
            return False

    async def close(self) -> None:
        """Close every connection. What still waits for an answer gets StoreAwayError."""
        for pool in (self._deciding, self._waiting):
            with contextlib.suppress(redis_errors.RedisError, OSError):
                await pool.aclose()

    async def _ask(self, pool: BlockingConnectionPool, limit_s: float, *command: Word) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]
                try:
                    await connection.send_command(*command)
                    # Cancelled or timed out while it reads, the connection closes itself: the next command must not
                    # read this one's answer.
                    return await connection.read_response()
                finally:
                    await pool.release(connection)
        except TimeoutError:
            raise StoreAwayError(f"{command[0]!s}: no answer within {limit_s:g} s") from None
        except (redis_errors.ResponseError, redis_errors.ConnectionError, redis_errors.TimeoutError, OSError) as error:
            raise _ours(str(command[0]), error) from error


def _pool(options: dict[str, Any]) -> BlockingConnectionPool:
    return BlockingConnectionPool(**options)


def _ours(command: str, error: Exception) -> StoreAwayError | ReplyError:
    """Translate what redis-py raised: is the store away, or is the command wrong?"""
    if not isinstance(error, redis_errors.ResponseError):
        return StoreAwayError(f"{command}: {error}")
    # redis-py cuts the first word off where it has a class for it, and keeps it as `status_code`.
    code = error.status_code or str(error).partition(" ")[0]
    if code in _AWAY:
        return StoreAwayError(f"{command}: {code}")
    # "unknown command" repeats its arguments, and they may be anything.
    return ReplyError(command, code, str(error).partition(", with args")[0])
