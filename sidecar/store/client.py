"""How does the sidecar ask its store? Commands and scripts over the Redis protocol, each with one time limit.

It never sends anything twice: a command whose answer was lost may have been done, and an XADD or a spent bucket done
twice is a wrong message or a wrong refusal. What failed is for the caller to refuse; `trouble` tells why it failed.
"""

import asyncio
import hashlib
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from hiredis import ReplyError as ErrorReply

from sidecar.errors import StoreAwayError, StoreError
from sidecar.store import topology
from sidecar.store.connections import Node, Redirect
from sidecar.store.faults import Fault
from sidecar.store.names import Names
from sidecar.store.trouble import LASTING, Trouble
from sidecar.store.wire import LostError, Word, pack

# How long the key that `why_not` writes lives.
_PROBE_MS: Final = 1000
# A command goes on so often: a slot that moves costs two, and each try again is twice as late as the one before.
_MOST_TIMES: Final = 16
_TOO_MANY: Final = "too many commands wait for it"


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
        """Read a script from the file beside the module that runs it, as that is imported.

        Later it may be another version's, installed meanwhile, and go by other words than that module's commands.
        """
        return cls._of(path.read_text(encoding="utf-8"))

    def having(self, **constants: int | str) -> Self:
        """Make of it a script with local variables, by name: what is the same each time is no word of each command.

        Text is plain words, which Python quotes as Lua does.
        """
        named = "".join(f"local {name} = {value!r}\n" for name, value in constants.items())
        return self._of(named + self.text)

    @classmethod
    def _of(cls, text: str) -> Self:
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class _Command(asyncio.Future[Any]):
    """One command on its way to a node; its result is the reply.

    `script`: which one its words run, for a node that does not know it. `is_lasting`: what it does must outlive the
    node. `read`: makes of the reply what is awaited.
    """

    __slots__ = ("asked_at", "is_lasting", "key", "node", "octets", "read", "script", "store", "words")

    store: "Store"
    node: Node
    key: str | None
    words: tuple[Word, ...]
    octets: bytes
    read: Callable[[Any], Any] | None
    script: Script | None
    is_lasting: bool
    asked_at: float
    # How often it has gone on from one node to another, until when it may, and whether it asks for a slot on its way.
    times = 0
    until = 0.0
    is_asking = False

    @property
    def verb(self) -> str:
        """What it is called."""
        return str(self.words[0])

    def answered(self, reply: Any, now: float) -> None:
        """Hand a reply on."""
        store, node = self.store, self.node
        store.observe(now - self.asked_at)
        if type(reply) is ErrorReply:
            store.take_fault(self, Fault.read(str(reply)), now)
            return
        store.was_reached = True
        trouble = node.trouble
        if trouble is not None:
            if trouble.since is not None:
                trouble.did(LASTING if self.is_lasting else self.verb, now)
            if self.is_lasting and (node.following.alone or trouble.alone_since is not None):
                trouble.lasting(node.place, now, alone=node.following.alone)
        if self.done():
            return
        if self.read is not None:
            try:
                reply = self.read(reply)
            except Exception as error:  # noqa: BLE001 - it is told to whoever awaits it
                self.set_exception(error)
                return
        self.set_result(reply)

    def lost(self, reason: str) -> None:
        self.store.give_up(self, reason)

    def unsent(self, reason: str) -> None:
        self.store.look_elsewhere(self, reason)

    def fail(self, error: StoreError) -> None:
        """Raise an error where the reply is awaited."""
        if not self.done():
            self.set_exception(error)
            self.exception()  # one that nobody awaits is nobody's error


class _Asking:
    """Says to a node that the next command, which goes out with it, is on a slot on its way there."""

    octets = pack(("ASKING",))

    def __init__(self, command: _Command) -> None:
        self.asked_at = command.asked_at
        self.done = command.done

    def answered(self, reply: Any, now: float) -> None:
        """Leave it to the command itself to be refused."""

    def lost(self, reason: str) -> None:
        """Leave it to the command itself."""

    def unsent(self, reason: str) -> None:
        """Leave it to the command itself."""


class Store:
    """A store of the Redis protocol: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py spells them, or a cluster.

    Replies are as RESP2 has them: bytes, int, list, None. Everything raises StoreAwayError when the store does not
    answer within `timeout_s` or cannot serve now, and ReplyError when it answers that the command is wrong.
    `observe` is told the seconds that each command took. Raises ValueError for any other URL, and OSError for TLS files
    that cannot be read.

    A command is sent when it is asked, whether or not it is awaited, and those asked in one turn of the loop travel
    together where they go to one node. So several steps that do not need each other's answers are asked first and
    awaited then, without a task:

        marked, acked = store.run(MARK, …), store.execute(key, "XACK", …)
        await marked
        await acked

    What is `lasting` must outlive the server that does it: it is answered once a replica has it, too, where the server
    has any, and raises StoreAwayError when none has it in time; it may last all the same. It does not travel with the
    rest, so only who awaits one before asking the other knows which is done first.

    Who is cancelled, or does not await its reply, disturbs nobody: the command is done, and its reply dropped. One that
    is cancelled before it goes out, as in the turn in which it is asked, is not done.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "sidecar",
        timeout_s: float = 1.0,
        observe: Callable[[float], object] = lambda _: None,
        trouble: Trouble | None = None,
    ) -> None:
        self.names = Names(prefix)
        self.was_reached = False
        self._timeout_s = timeout_s
        self.observe = observe
        self._nodes = topology.of_url(url, timeout_s, trouble)

    @property
    def is_spread(self) -> bool:
        """True where different keys may be on different nodes, which do what they are asked in no common order."""
        return self._nodes.is_spread

    def execute(
        self,
        key: str | None,
        verb: str,
        *args: Word,
        read: Callable[[Any], Any] | None = None,
    ) -> asyncio.Future[Any]:
        """Do one command: `verb` and `args`, as the store's documentation writes it.

        `key`: a key of the command, or for one without (TIME) the key whose node is meant: a cluster finds its node by
        it. None: any node will do (PING).
        `read`: makes of the reply what is awaited.
        """
        return self._ask(key, (verb, *args), read, None)

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Word],
        *,
        read: Callable[[Any], Any] | None = None,
        lasting: bool = False,
    ) -> asyncio.Future[Any]:
        """Run a script on keys of one cluster slot; the store keeps its text after the first time. `read` as above."""
        words = ("EVALSHA", script.sha1, len(keys), *keys, *args)
        return self._ask(keys[0] if keys else None, words, read, script, lasting)

    async def blocking(self, key: str, verb: str, *args: Word, wait_s: float) -> Any:
        """Do a command that itself waits up to `wait_s` (BLOCK, BLPOP), on a connection that no decision needs."""
        redirect: Redirect | None = Redirect(self._nodes.node(key), is_asking=False, after_s=0.0)
        asked_at, times = monotonic(), 0
        try:
            async with asyncio.timeout(wait_s + self._timeout_s):
                while redirect is not None:
                    node = redirect.node
                    if redirect.after_s:
                        await asyncio.sleep(redirect.after_s)
                    reply = await node.waiting.ask(verb, *args, is_asking=redirect.is_asking)
                    now, redirect = monotonic(), None
                    if type(reply) is not ErrorReply:
                        self.was_reached = True
                        if node.trouble is not None:
                            node.trouble.did(verb, now)
                        return reply
                    fault = Fault.read(str(reply))
                    # One that has waited for a while has no time to wait as long again.
                    if times < _MOST_TIMES and now - asked_at < self._timeout_s:
                        redirect = self._nodes.redirect(key, node, fault, times)
                        times += 1
        except TimeoutError:
            node.doubt()
            self._nodes.look()
            # What a command waits for by itself does not count: one reason for all.
            error: StoreError = self._away(node, verb, node.deciding.no_answer)
        except LostError as lost:
            self._nodes.look()
            error = self._away(node, verb, lost.reason)
        else:
            error = self._refused(node, verb, fault, asked_at, now)
        raise error

    async def ping(self) -> bool:
        """Tell whether the store can serve now."""
        try:
            return bool(await self.execute(None, "PING") == b"PONG")
        except StoreError:
            return False

    async def why_not(self) -> str:
        """Say why the store takes no writes that last, by what node of several; nothing when all take them."""
        keys, wrong = await self._nodes.survey(self.names.probe())
        said = await asyncio.gather(*(self._why_not_at(place, key) for place, key in keys.items()))
        return "; ".join(filter(None, (*said, wrong)))

    async def _why_not_at(self, place: str, key: str) -> str:
        try:
            await self._ask(key, ("SET", key, 1, "PX", _PROBE_MS), None, None, True)
        except StoreAwayError as error:
            reason = error.reason
        except ReplyError as error:
            reason = error.code
        else:
            return ""
        return reason if place in reason else f"{reason} at {place}"

    async def close(self) -> None:
        """Close every connection. What still waits for an answer gets StoreAwayError."""
        self._nodes.close()

    # A command's life…

    def _ask(
        self,
        key: str | None,
        words: tuple[Word, ...],
        read: Callable[[Any], Any] | None,
        script: Script | None,
        is_lasting: bool = False,
    ) -> asyncio.Future[Any]:
        command = _Command()
        command.store = self
        command.node = node = self._nodes.node(key)
        command.key = key
        command.words = words
        command.octets = pack(words)
        command.read = read
        command.script = script
        command.is_lasting = is_lasting
        command.asked_at = monotonic()
        if not (node.lasting() if is_lasting else node.deciding).ask(command):
            self.give_up(command, _TOO_MANY)
        return command

    def give_up(self, command: _Command, reason: str) -> None:
        """Tell that no reply will come; only the command itself calls this."""
        self.observe(monotonic() - command.asked_at)
        self._nodes.look()
        command.fail(self._away(command.node, command.verb, reason))

    def take_fault(self, command: _Command, fault: Fault, now: float) -> None:
        """Have a command go on that was not done, or make an error of it; only the command itself calls this."""
        if fault.code == "NOSCRIPT" and command.script is not None:
            command.words, command.script = ("EVAL", command.script.text, *command.words[2:]), None
            command.octets = pack(command.words)
            redirect: Redirect | None = Redirect(command.node, command.is_asking, 0.0)
        else:
            redirect = self._nodes.redirect(command.key, command.node, fault, command.times)
        until = command.until or command.asked_at + self._timeout_s
        if redirect is None or command.times >= _MOST_TIMES or now + redirect.after_s >= until:
            command.fail(self._refused(command.node, command.verb, fault, command.asked_at, now))
        elif not command.done():
            self._go_on(command, redirect)

    def look_elsewhere(self, command: _Command, reason: str) -> None:
        """Ask another node, where the map has changed, as no connection was to be had to this one."""
        looking = self._nodes.look() if command.times < _MOST_TIMES and command.key is not None else None
        if looking is None:
            self.give_up(command, reason)
            return
        self._limit(command)

        def looked(_: object) -> None:
            node = self._nodes.node(command.key)
            if node is command.node:
                self.give_up(command, reason)
            elif not command.done():
                self._go_on(command, Redirect(node, is_asking=False, after_s=0.0))

        looking.add_done_callback(looked)

    def _go_on(self, command: _Command, redirect: Redirect) -> None:
        """Send a command on that was not done: so this is no second time. It has no more time for that."""
        self._limit(command)
        command.node, command.is_asking = redirect.node, redirect.is_asking
        command.times += 1
        if redirect.after_s:
            get_running_loop().call_later(redirect.after_s, self._send, command)
        else:
            self._send(command)

    def _send(self, command: _Command) -> None:
        command.asked_at = monotonic()
        shared = command.node.lasting() if command.is_lasting else command.node.deciding
        is_taken = not command.is_asking or shared.ask(_Asking(command))
        if not is_taken or not shared.ask(command):
            self.give_up(command, _TOO_MANY)

    def _limit(self, command: _Command) -> None:
        """Have it fail when the time is over that it has since it was asked first, wherever it is then."""
        if command.until:
            return
        command.until = command.asked_at + self._timeout_s

        def late() -> None:
            if not command.done():
                command.fail(self._away(command.node, command.verb, command.node.deciding.no_answer))

        timer = get_running_loop().call_later(command.until - monotonic(), late)
        command.add_done_callback(lambda _: timer.cancel())

    def _refused(self, node: Node, verb: str, fault: Fault, asked_at: float, now: float) -> StoreError:
        """Make an error of what a node answered with."""
        if fault.is_stale:
            node.renew(asked_at, now)
        if fault.is_away:
            self._nodes.look()
            return self._away(node, verb, fault.reason)
        return ReplyError(verb, fault.code, fault.text)

    def _away(self, node: Node, verb: str, reason: str) -> StoreAwayError:
        if node.trouble is not None:
            node.trouble.failed(reason, verb, monotonic())
        return StoreAwayError(verb, reason)
