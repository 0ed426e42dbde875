"""What is still to be sent? A bounded, durable stream: put, lease, renew, reclaim, ack. At least once.

A message is in the stream from `put` until `ack`. A courier that has room leases one in the step that queues one
(`put_and_lease`); what waits, and what others queue, it asks for (`lease`). The oldest goes first in both. Who leases a
message says so again and again (`renew`); a lease that nobody renews is taken over by whoever asks first (`reclaim`).
One that is acked may be put aside in the same step, to come back later (`bring_due`), with what has become of it so
far. Recipients are sealed by the caller, and there is no code. Everything raises StoreAwayError.
"""

import functools
import json
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from sidecar.delivery.providers.seam import Fault
from sidecar.errors import Refusal
from sidecar.store.client import ReplyError, Script, Store
from sidecar.store.wire import Word

_HERE: Final = Path(__file__).parent
_BURY: Final = Script.load(_HERE / "bury.lua")
_REDRIVE: Final = Script.load(_HERE / "redrive.lua")
_DUE: Final = Script.load(_HERE / "due.lua")
_LEAVE: Final = Script.load(_HERE / "leave.lua")

_GROUP: Final = "couriers"
_PUT: Final = Script.load(_HERE / "put.lua")
_ACK: Final = Script.load(_HERE / "ack.lua").having(GROUP=_GROUP)
# About 5 MB in the store, and more than the slowest vendor account sends before the codes die.
MAX_MESSAGES: Final = 10_000
# Dead letters that are kept; the oldest go first.
_MAX_DEAD: Final = 10_000
# When one that finds the outbox full may ask again: some will have left it by then.
_RETRY_AFTER_S: Final = 5.0
# A courier speaks every second; one that has not for an hour is not coming back.
_DEAD_MS: Final = 3_600_000
# A message's fields in the store, in the order of put.lua.
_FIELDS: Final = ("verification", "sealed", "locale", "tickets", "expires_at", "request", "past", "send_ticket")
# What is shown of a dead letter.
_SHOWN: Final = (b"verification", b"reason")


# What a request is answered: its key in the store, the text, and for how many milliseconds it is kept.
Answered = tuple[str, bytes, int]

# Why a message comes back; "" is its first way.
#   retry    all who were asked refused for now: to be tried again
#   confirm  somebody may have it: to see whether it was confirmed, and to go to one more provider if not
#   end      nobody accepted it, and one may have it: to be a dead letter if nobody has confirmed it when its code dies
Back = Literal["", "retry", "confirm", "end"]


@dataclass(frozen=True, slots=True)
class Past:
    """What has become of a message on its earlier ways."""

    back: Back = ""
    message_id: str = ""  # `seam.Message.id`, the same on all its ways
    holders: tuple[str, ...] = ()  # the providers that may have it, or had it
    accepted: str = ""  # who of them said so
    is_lost: bool = False  # none of the holders will bring it: so their receipts say
    refused: Mapping[str, Fault] = field(default_factory=dict)  # who refused for good, and why
    later: Mapping[str, float] = field(default_factory=dict)  # who may be asked again, from when on: epoch seconds
    refusals: int = 0  # how often the one that refused for now most often did so
    reason: str = ""  # what the last race came to, in the log's words


NO_PAST: Final = Past()


@dataclass(slots=True)  # not frozen: it is made for every message, and gets its id when it is leased
class Entry:
    """One message as the store has it. `id`: what the store knows it by; "" before it is leased."""

    verification_id: str
    sealed: bytes  # the recipient
    locale: str  # as `language.read` makes it
    tickets: tuple[str, ...]  # what to give back when every provider refuses; the limits room's own words
    expires_at: float  # when the code dies, seconds since the epoch
    request_id: str
    past: Past = NO_PAST
    send_ticket: str = ""  # by which `limits.sends` knows what it counted; "" where it counts nothing
    id: str = field(default="", compare=False)


class Unreadable(NamedTuple):
    """A message that cannot be read. `verification_id` may be ""."""

    id: str
    verification_id: str


# A message that is ours for now.
Leased = Entry | Unreadable


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that nobody could send, or that nobody confirmed.

    `died_at` in seconds since the epoch; `reason` in the log's words.
    """

    id: str
    verification_id: str
    died_at: float
    reason: str


class Outbox:
    """The outbox of one store, as one courier sees it."""

    def __init__(self, store: Store, *, max_messages: int = MAX_MESSAGES) -> None:
        self._store = store
        self._key = store.names.outbox()
        self._dead = store.names.dead()
        self._alone = (self._key,)
        self._aside = (self._key, store.names.later(), store.names.waiting())
        self._put_script = _PUT.having(GROUP=_GROUP, MOST=max_messages)
        self._consumer = uuid.uuid4().hex

    async def put(self, entry: Entry, answered: Answered | None = None) -> str:
        """Queue a message durably and give its id. Raises Refusal(overloaded) when the outbox is full.

        `answered`: what is written in the same step.
        """
        message_id, *_ = await self._put(entry, answered, "", _ids)
        return str(message_id.decode())

    def put_and_lease(self, entry: Entry, answered: Answered | None = None) -> Awaitable[Leased | None]:
        """Queue a message as `put` does, and lease the oldest one that nobody has had. Asked at once.

        It is this very `entry`, unless others wait before it; None when another courier was faster.
        """
        return self._put(entry, answered, self._consumer, functools.partial(_first, entry))

    def _put(self, entry: Entry, answered: Answered | None, courier: str, read: Callable[[Any], Any]) -> Awaitable[Any]:
        keys: tuple[str, ...] = self._alone
        words: tuple[Word, ...] = (courier, *_values(entry))
        if answered is not None:
            key, text, keep_ms = answered
            keys, words = (self._key, key), (*words, text, keep_ms)
        return self._store.run(self._put_script, keys, words, read=read, lasting=True)

    async def lease(self, count: int, wait_s: float) -> list[Leased]:
        """Take up to `count` messages that nobody has had, waiting up to `wait_s` for the first; 0: not at all."""
        options: tuple[str | int, ...] = ("GROUP", _GROUP, self._consumer, "COUNT", count)
        streams = ("STREAMS", self._key, ">")
        try:
            if wait_s:
                block = ("BLOCK", max(1, int(wait_s * 1000)), *streams)
                found = await self._store.blocking(self._key, "XREADGROUP", *options, *block, wait_s=wait_s)
            else:
                found = await self._store.execute(self._key, "XREADGROUP", *options, *streams)
        except ReplyError as error:
            if error.code != "NOGROUP":
                raise
            await self._make_group()
            return []
        return [_leased(*item) for _, items in found or () for item in items]

    async def reclaim(self, idle_s: float, count: int) -> list[Leased]:
        """Take up to `count` messages whose leases nobody has renewed for `idle_s` seconds."""
        found: list[Leased] = []
        cursor = b"0-0"
        while True:
            options = (_GROUP, self._consumer, int(idle_s * 1000), cursor, "COUNT", count - len(found))
            try:
                cursor, items, *_ = await self._store.execute(self._key, "XAUTOCLAIM", self._key, *options)
            except ReplyError as error:
                if error.code != "NOGROUP":
                    raise
                return []
            found += (_leased(*item) for item in items)
            if cursor == b"0-0" or len(found) >= count:
                return found

    async def renew(self, ids: Collection[str]) -> None:
        """Say that these leases are still in use."""
        if ids:
            # An id that has been acked is not made pending again: that would take FORCE.
            await self._store.execute(self._key, "XCLAIM", self._key, _GROUP, self._consumer, 0, *ids, "JUSTID")

    def ack(self, message_id: str, again: Entry | None = None, after_s: float = 0.0) -> Awaitable[Any]:
        """Take a message out: it is done with, or comes back as `again` after so many seconds. Asked at once."""
        if again is None:
            return self._store.run(_ACK, self._alone, (message_id,))
        fields = [word for field in zip(_FIELDS, _values(again), strict=True) for word in field]
        return self._store.run(_ACK, self._aside, (message_id, int(after_s * 1000), again.past.message_id, *fields))

    async def bury(self, message_id: str, reason: str) -> None:
        """Take a message out that nobody could send, or that nobody confirmed, and keep it as a dead letter."""
        await self._store.run(_BURY, [self._key, self._dead], [_GROUP, message_id, reason, _MAX_DEAD])

    async def dead(self) -> list[DeadLetter]:
        """Every dead letter, the oldest first."""
        found = []
        for letter_id, flat in await self._store.execute(self._dead, "XRANGE", self._dead, "-", "+"):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            verification_id, reason = (fields.get(name, b"").decode("utf-8", "replace") for name in _SHOWN)
            died_at = int(letter_id.partition(b"-")[0]) / 1000
            found.append(DeadLetter(letter_id.decode(), verification_id, died_at, reason))
        return found

    async def redrive(self, letter_id: str, now: float) -> Literal["queued", "missing", "expired"]:
        """Queue a dead letter again, unless its code has died by `now`, in seconds since the epoch."""
        came_to = await self._store.run(_REDRIVE, [self._key, self._dead], [letter_id, repr(now)])
        return ("queued" if came_to == 1 else "missing") if came_to >= 0 else "expired"

    async def drop(self, letter_id: str) -> bool:
        """Forget a dead letter; False when there is none."""
        return bool(await self._store.execute(self._dead, "XDEL", self._dead, letter_id))

    async def bring_due(self, count: int) -> int:
        """Bring back up to `count` that were put aside and are due."""
        return int(await self._store.run(_DUE, self._aside, [count, ""]))

    async def bring_lost(self, message_id: str) -> bool:
        """Bring a message back at once that was put aside, and will not arrive; False when it was not put aside."""
        return bool(await self._store.run(_DUE, self._aside, [1, message_id]))

    async def length(self) -> int:
        """Count the messages waiting or being sent."""
        return int(await self._store.execute(self._key, "XLEN", self._key))

    async def leave(self) -> None:
        """Stop being one of the couriers. Leases still held stay, for others to reclaim."""
        try:
            await self._store.run(_LEAVE, [self._key], [_GROUP, self._consumer, _DEAD_MS])
        except ReplyError:
            return  # there is no such stream or group: nothing to leave

    async def _make_group(self) -> None:
        try:
            # From the first message on: some may have been put before any courier came.
            await self._store.execute(self._key, "XGROUP", "CREATE", self._key, _GROUP, "0", "MKSTREAM")
        except ReplyError as error:
            if error.code != "BUSYGROUP":  # another courier was faster
                raise


def _ids(reply: Any) -> Any:
    """Read what put.lua answers: the message's id, and what is leased. Raises Refusal(overloaded)."""
    if reply is None:
        raise Refusal("overloaded", "outbox_full", "Too many messages wait to be sent.", retry_after_s=_RETRY_AFTER_S)
    return reply


def _first(entry: Entry, reply: Any) -> Leased | None:
    """Read which message put.lua has leased when it queued `entry`."""
    message_id, *leased = _ids(reply)
    if not leased:
        return None
    if leased[0] == message_id:
        entry.id = message_id.decode()
        return entry
    return _leased(*leased)


def _values(entry: Entry) -> tuple[str | bytes, ...]:
    """Write a message as `_FIELDS` has it."""
    return (
        entry.verification_id,
        entry.sealed,
        entry.locale,
        f"[{', '.join(map(encode_basestring_ascii, entry.tickets))}]",
        repr(entry.expires_at),
        entry.request_id,
        "{}" if entry.past is NO_PAST else json.dumps(asdict(entry.past)),
        entry.send_ticket,
    )


def _leased(message_id: bytes, flat: Sequence[bytes]) -> Leased:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        tickets: Any = json.loads(fields[b"tickets"])
        return Entry(
            verification_id=fields[b"verification"].decode(),
            sealed=fields[b"sealed"],
            locale=fields[b"locale"].decode(),
            tickets=tuple(str(ticket) for ticket in tickets),
            expires_at=float(fields[b"expires_at"]),
            request_id=fields[b"request"].decode(),
            past=_past(fields),
            send_ticket=fields.get(b"send_ticket", b"").decode(),
            id=message_id.decode(),
        )
    except (KeyError, ValueError, TypeError):
        return Unreadable(message_id.decode(), fields.get(b"verification", b"").decode("utf-8", "replace"))


def _past(fields: Mapping[bytes, bytes]) -> Past:
    """Read what has become of it. What another version wrote beside, this one does not know, and leaves out."""
    said: Any = json.loads(fields.get(b"past", b"{}"))
    if said == {} and b"lost" not in fields:
        return NO_PAST
    known: dict[str, Any] = {name: said[name] for name in Past.__dataclass_fields__ if name in said}
    if b"lost" in fields:
        known["is_lost"] = True
    return Past(**known | {"holders": tuple(known.get("holders", ()))})
