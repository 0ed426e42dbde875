"""How does the sidecar ask its store? Commands and scripts over the Redis protocol, each with one time limit.

It never sends anything twice: a command whose answer was lost may have been done, and an XADD or a spent bucket done
twice is a wrong message or a wrong refusal. What failed is for the caller to refuse; `trouble` tells why it failed.
"""

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from redis import exceptions as redis_errors
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidecar.errors import StoreAwayError, StoreError
from sidecar.store.connections import ConnectError, Connections
from sidecar.store.names import Names
from sidecar.store.trouble import Trouble
from sidecar.unreachable import why

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
        "UNBLOCKED",  # it became a replica while we waited
        "NOAUTH",  # our password is missing, wrong, or may not do this: nobody can be served until it is mended
        "WRONGPASS",
        "NOPERM",
    }
)

# The store is another one than when the connection was made: each connection to it leads to the wrong place.
_STALE: Final = frozenset({"READONLY", "MASTERDOWN", "LOADING", "MOVED", "UNBLOCKED"})
# How Redis 7 and Valkey say inside a script that the user has no right to a command: under the word of any error.
_DENIED_IN_SCRIPT: Final = ("The user executing the script can't", "ACL failure in script")
# How long the key that `why_not` writes lives.
_PROBE_MS: Final = 1000


class ReplyError(StoreError):
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
        trouble: Trouble | None = None,
    ) -> None:
        self.names = Names(prefix)
        self.was_reached = False
        self._timeout_s = timeout_s
        self._observe = observe
        self._trouble = trouble
        options: dict[str, Any] = {
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
        }
        self._place = _place(options)
        self._database = options.get("db", 0)
        # What redis-py's own pools take, and its connections do not.
        for name in ("max_connections", "timeout"):
            options.pop(name, None)
        made = functools.partial(options.pop("connection_class", Connection), **options)
        self._deciding = Connections(made, _MAX_CONNECTIONS)
        self._waiting = Connections(made, _MAX_WAITING)

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

    async def why_not(self) -> str:
        """Say why the store takes no writes now; nothing when it does."""
        try:
            await self.execute("SET", self.names.probe(), 1, "PX", _PROBE_MS)
        except StoreAwayError as error:
            return error.reason
        except ReplyError as error:
            return error.code
        return ""

    async def close(self) -> None:
        """Close every connection. What still waits for an answer gets StoreAwayError."""
        await self._deciding.close()
        await self._waiting.close()

    async def _ask(self, connections: Connections, limit_s: float, *command: Word) -> Any:
        name = str(command[0])
        try:
            reply = await self._asked(connections, limit_s, name, *command)
        except StoreAwayError as error:
            if self._trouble is not None:
                self._trouble.failed(error.reason, name, time.monotonic())
            raise
        self.was_reached = True
        if self._trouble is not None and self._trouble.since is not None:
            self._trouble.did(name, time.monotonic())
        return reply

    async def _asked(self, connections: Connections, limit_s: float, name: str, *command: Word) -> Any:
        try:
            async with asyncio.timeout(limit_s), connections.taken() as connection:
                await connection.send_command(*command)
                try:
                    # Cancelled or timed out while it reads, the connection is closed: the next command must not read
                    # this one's answer.
                    return await connection.read_response()
                except redis_errors.RedisError as error:
                    if _code(error) in _STALE:
                        await self._deciding.renew()
                        await self._waiting.renew()
                    raise
        except TimeoutError:
            self._deciding.doubt()
            self._waiting.doubt()
            # What a command waits for by itself does not count: one reason for all.
            raise StoreAwayError(name, f"no answer within {self._timeout_s:g} s") from None
        except ConnectError as error:
            # Whatever is wrong before a command was sent is wrong with the store, or with our way to it.
            raise StoreAwayError(name, self._why(error.__cause__)) from error
        except (redis_errors.RedisError, OSError) as error:
            code = _code(error)
            if not isinstance(error, redis_errors.ResponseError) or code in _AWAY:
                raise StoreAwayError(name, code if code in _AWAY else self._why(error)) from error
            # "unknown command" repeats its arguments, and they may be anything.
            raise ReplyError(name, code, str(error).partition(", with args")[0]) from error

    def _why(self, error: BaseException | None) -> str:
        """Say what is wrong with a connection, in few words that are the same each time."""
        while error is not None and not isinstance(error, OSError):  # redis-py wraps what it got
            if isinstance(error, redis_errors.InvalidResponse):
                return f"no Redis protocol at {self._place}"
            if code := _code(error):
                if "DB index" in str(error):
                    return f"no database {self._database} at {self._place}"
                return code if code != "ERR" else str(error).partition(", with args")[0]
            error = error.__cause__ or error.__context__
        return why(error, self._place) if error is not None else f"closed by {self._place}"


def _place(options: Mapping[str, Any]) -> str:
    """Name where the store is, and not as whom we ask."""
    if "path" in options:
        return str(options["path"])
    host = str(options.get("host", "localhost"))
    return f"{f'[{host}]' if ':' in host else host}:{options.get('port', 6379)}"


def _code(error: BaseException) -> str:
    """Return the first word of the store's error, where it is one: redis-py cuts it off where it has a class for it."""
    if isinstance(error, redis_errors.ResponseError):
        if any(sign in str(error) for sign in _DENIED_IN_SCRIPT):
            return "NOPERM"
        return error.status_code or str(error).partition(" ")[0]
    return getattr(error, "status_code", None) or ""
