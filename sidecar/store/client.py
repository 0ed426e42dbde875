"""How does the sidecar ask its store? Commands and scripts over the Redis protocol, each with one time limit.

It never sends anything twice: a command whose answer was lost may have been done, and an XADD or a spent bucket done
twice is a wrong message or a wrong refusal. What failed is for the caller to refuse; `trouble` tells why it failed.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import hiredis

from sidecar.errors import StoreAwayError, StoreError
from sidecar.store import topology
from sidecar.store.connections import Node
from sidecar.store.faults import Fault
from sidecar.store.names import Names
from sidecar.store.trouble import Trouble
from sidecar.store.wire import LostError, Word, pack

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


class _Command:
    """One command on its way to a node. `script`: which one it runs, and on what, for a node that does not know it."""

    __slots__ = ("asked_at", "node", "octets", "read", "reply", "script", "store", "verb")

    def __init__(
        self,
        store: "Store",
        node: Node,
        verb: str,
        octets: bytes,
        reply: asyncio.Future[Any],
        read: Callable[[Any], Any] | None,
        script: tuple[Script, tuple[Word, ...]] | None,
    ) -> None:
        self.asked_at = time.monotonic()
        self.store = store
        self.node = node
        self.verb = verb
        self.octets = octets
        self.reply = reply
        self.read = read
        self.script = script

    def answered(self, reply: Any, now: float) -> None:
        self.store.take(self, reply, now)

    def lost(self, reason: str) -> None:
        self.store.give_up(self, reason)


class Store:
    """A store of the Redis protocol: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py spells them.

    Replies are as RESP2 has them: bytes, int, list, None. Everything raises StoreAwayError when the store does not
    answer within `timeout_s` or cannot serve now, and ReplyError when it answers that the command is wrong.
    `observe` is told the seconds that each command took. Raises ValueError for any other URL, and OSError for TLS files
    that cannot be read.

    A command is sent when it is asked, whether or not it is awaited, and those asked in one turn of the loop travel
    together. So several steps that do not need each other's answers are asked first and awaited then, without a task:

        marked, acked = store.run(MARK, …), store.execute(key, "XACK", …)
        await marked
        await acked

    Who is cancelled, or does not await its reply, disturbs nobody: the command is done, and its reply dropped.
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
        self._nodes = topology.of_url(url, timeout_s)

    def execute(
        self,
        key: str | None,
        verb: str,
        *args: Word,
        read: Callable[[Any], Any] | None = None,
    ) -> asyncio.Future[Any]:
        """Do one command: `verb` and `args`, as the store's documentation writes it.

        `key`: a key of the command, by which a cluster finds its node; None for a command without one (PING, TIME).
        `read`: makes of the reply what is awaited.
        """
        return self._ask(self._nodes.node(key), verb, (verb, *args), read)

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Word],
        *,
        read: Callable[[Any], Any] | None = None,
    ) -> asyncio.Future[Any]:
        """Run a script on keys of one cluster slot; the store keeps its text after the first time. `read` as above."""
        numbered = (len(keys), *keys, *args)
        words = ("EVALSHA", script.sha1, *numbered)
        return self._ask(self._nodes.node(keys[0] if keys else None), "EVALSHA", words, read, (script, numbered))

    async def blocking(self, key: str, verb: str, *args: Word, wait_s: float) -> Any:
        """Do a command that itself waits up to `wait_s` (BLOCK, BLPOP), on a connection that no decision needs."""
        node = self._nodes.node(key)
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(wait_s + self._timeout_s):
                reply = await node.waiting.ask(verb, *args)
        except TimeoutError:
            node.doubt()
            # What a command waits for by itself does not count: one reason for all.
            error: StoreError = self._away(verb, node.deciding.no_answer)
        except LostError as lost:
            error = self._away(verb, lost.reason)
        else:
            now = time.monotonic()
            if type(reply) is not hiredis.ReplyError:
                self._did(verb, now)
                return reply
            error = self._refused(node, verb, Fault.read(str(reply)), asked_at, now)
        raise error

    async def ping(self) -> bool:
        """Tell whether the store can serve now."""
        try:
            return bool(await self.execute(None, "PING") == b"PONG")
        except StoreError:
            return False

    async def why_not(self) -> str:
        """Say why the store takes no writes now; nothing when it does."""
        probe = self.names.probe()
        try:
            await self.execute(probe, "SET", probe, 1, "PX", _PROBE_MS)
        except StoreAwayError as error:
            return error.reason
        except ReplyError as error:
            return error.code
        return ""

    async def close(self) -> None:
        """Close every connection. What still waits for an answer gets StoreAwayError."""
        self._nodes.close()

    # A command's life…

    def _ask(
        self,
        node: Node,
        verb: str,
        words: tuple[Word, ...],
        read: Callable[[Any], Any] | None,
        script: tuple[Script, tuple[Word, ...]] | None = None,
        reply: asyncio.Future[Any] | None = None,
    ) -> asyncio.Future[Any]:
        reply = reply or asyncio.get_running_loop().create_future()
        command = _Command(self, node, verb, pack(words), reply, read, script)
        if not node.deciding.ask(command):
            self.give_up(command, "too many commands wait for it")
        return reply

    def take(self, command: _Command, reply: Any, now: float) -> None:
        """Hand a reply on; only the command itself calls this."""
        if self._observe is not None:
            self._observe(now - command.asked_at)
        if type(reply) is hiredis.ReplyError:
            fault = Fault.read(str(reply))
            if fault.code == "NOSCRIPT" and command.script is not None:
                script, numbered = command.script
                # It did not run, so this is no second time.
                words = ("EVAL", script.text, *numbered)
                self._ask(command.node, "EVAL", words, command.read, reply=command.reply)
            else:
                _fail(command.reply, self._refused(command.node, command.verb, fault, command.asked_at, now))
            return
        self._did(command.verb, now)
        if command.reply.done():
            return
        if command.read is not None:
            try:
                reply = command.read(reply)
            except Exception as error:  # noqa: BLE001 - it is told to whoever awaits it
                command.reply.set_exception(error)
                return
        command.reply.set_result(reply)

    def give_up(self, command: _Command, reason: str) -> None:
        """Tell that no reply will come; only the command itself calls this."""
        if self._observe is not None:
            self._observe(time.monotonic() - command.asked_at)
        _fail(command.reply, self._away(command.verb, reason))

    def _did(self, verb: str, now: float) -> None:
        self.was_reached = True
        if self._trouble is not None and self._trouble.since is not None:
            self._trouble.did(verb, now)

    def _refused(self, node: Node, verb: str, fault: Fault, asked_at: float, now: float) -> StoreError:
        """Make an error of what a node answered with."""
        if fault.is_stale:
            node.renew(asked_at, now)
        if fault.is_away:
            return self._away(verb, fault.reason)
        return ReplyError(verb, fault.code, fault.text)

    def _away(self, verb: str, reason: str) -> StoreAwayError:
        if self._trouble is not None:
            self._trouble.failed(reason, verb, time.monotonic())
        return StoreAwayError(verb, reason)


def _fail(reply: asyncio.Future[Any], error: StoreError) -> None:
    if not reply.done():
        reply.set_exception(error)
        reply.exception()  # one that nobody awaits is nobody's error
