"""Who is the primary now? The Sentinels are asked whenever a connection is made, and say when it becomes another one.

Its law: a connection is handed out only to a server that the Sentinels call the primary, and that calls itself one. All
of them are asked at once, so one that hangs costs a tenth of a second and one that is away nothing. Where they differ,
the newest configuration is right (its epoch, by which they agree among themselves): that of a Sentinel that was cut off
is old. Nobody is asked more often than ten times a second, however many connections fail. When no Sentinel answers, no
connection is made; those that there are go on.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from sidecar.store.address import Address
from sidecar.store.faults import Fault
from sidecar.store.seeds import SENTINEL_PORT, Place, Seeds
from sidecar.store.wire import LostError, Wire

# Sentinels answer in a millisecond. What is left of a command's second must do for the connection.
_ASK_S: Final = 0.4
# So much longer are the others waited for when one has answered: the first may be the one that was cut off.
_OTHERS_S: Final = 0.1
# So long an answer is believed: during a fail-over every request tries to connect.
_BELIEVED_S: Final = 0.1
# A server that is there lets us in within a millisecond, and one that is frozen never.
_CONNECT_S: Final = 0.5
# A Sentinel that we listen to proves so often that it is there, and is looked for so often when it is not.
_WATCH_S: Final = 1.0
_WHERE: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")
# What a Sentinel may call a place: it goes into a URL.
_HOST: Final = re.compile(rb"[0-9A-Za-z._:-]{1,255}")
_PORT: Final = re.compile(rb"[1-9][0-9]{0,4}")
_OF_SENTINELS: Final = "sentinel_"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})


class _Answer(NamedTuple):
    """What a Sentinel says. `epoch`: the higher, the newer."""

    epoch: int
    place: Place


class Primary:
    """A primary that Sentinels name: `redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/NAME`.

    User, password and options are the servers', as redis-py spells them for `redis://`; those that begin with
    `sentinel_` are the Sentinels' own. `rediss+sentinel://` is TLS with both, and `sentinel_ssl` says otherwise of the
    Sentinels. `switched` is called when the Sentinels have made another server the primary. Raises ValueError, OSError
    as Address.
    """

    def __init__(self, url: str, switched: Callable[[], None]) -> None:
        seeds, server, sentinel = ways_in(url)
        self._name = seeds.name
        self._server = Address(server)
        one = Address(sentinel, "SENTINEL", "it is no Sentinel")
        self._sentinels = [one.at(place) for place in seeds.places]
        self._switched = switched
        self._address: Address | None = None  # the server's that was found last
        self._looking: asyncio.Task[Sequence[_Answer]] | None = None
        self._looked_at = 0.0
        self._newest: Place | None = None
        self._watching: list[asyncio.Task[None]] = []

    @property
    def place(self) -> str:
        """Where the primary was last; the first Sentinel while none is known."""
        return (self._address or self._sentinels[0]).place

    async def connect(self) -> Wire:
        """Open a connection to the primary. Raises LostError."""
        if not self._watching:
            self._watching = [asyncio.create_task(self._watch(one)) for one in self._sentinels]
        now = asyncio.get_running_loop().time
        while True:
            answers = await self._looked_up()
            began = now()
            wire = await self._first_primary(answers)
            # What took long may be over: a server that was frozen, and replaced, still takes itself for the primary.
            is_right = False
            try:
                is_right = now() - began < _BELIEVED_S or await self._looked_up() == answers
            finally:
                if not is_right:
                    wire.end()
            if is_right:
                return wire

    def close(self) -> None:
        """Listen to the Sentinels no more."""
        for task in self._watching:
            task.cancel()
        if self._looking is not None:
            self._looking.cancel()

    async def _first_primary(self, answers: Sequence[_Answer]) -> Wire:
        """Connect to the first that is a primary. Raises LostError for what is wrong with the very first."""
        lost: LostError | None = None
        for answer in answers:
            address = self._at(answer.place)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    wire = await address.connect()
            except LostError as error:
                lost = lost or error
                continue
            except TimeoutError:
                lost = lost or LostError(f"no answer from {address.place}")
                continue
            if wire.role == "master":
                return wire
            wire.end()
            reason = f"no primary at {address.place}, as its Sentinels have it"
            lost = lost or LostError(reason if wire.role else f"no right to ask {address.place} for its ROLE")
        raise lost or LostError(f"no primary {self._name}")

    def _at(self, place: Place) -> Address:
        if self._address is None or self._address.place != str(place):
            self._address = self._server.at(place)
        return self._address

    # Asking…

    async def _looked_up(self) -> Sequence[_Answer]:
        """Give what the Sentinels say, the newest first; who asks meanwhile gets the same. Raises LostError."""
        now = asyncio.get_running_loop().time()
        if self._looking is None or (self._looking.done() and now - self._looked_at >= _BELIEVED_S):
            self._looking = asyncio.create_task(self._look_up())
            self._looking.add_done_callback(_retrieve)
        return await asyncio.shield(self._looking)

    async def _look_up(self) -> Sequence[_Answer]:
        asking = [asyncio.create_task(self._ask(sentinel)) for sentinel in self._sentinels]
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _ASK_S
        try:
            waiting = set(asking)
            while waiting and (left_s := ends_at - loop.time()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if any(not one.exception() and one.result() for one in done):
                    ends_at = min(ends_at, loop.time() + _OTHERS_S)
            said = [one.exception() or one.result() for one in asking if one.done()]
        finally:
            self._looked_at = loop.time()
            for one in asking:
                one.cancel()
        if answers := sorted((one for one in said if isinstance(one, _Answer)), reverse=True):
            before, self._newest = self._newest, answers[0].place
            if before not in {None, self._newest}:
                self._switched()  # connections may be open that lead to the one before
            return answers
        if None in said:
            raise LostError(f"no primary called {self._name} at its Sentinels")
        # Of several reasons the first is told, in the order of the URL: the same each time the same thing is wrong.
        reasons = [one.reason for one in said if isinstance(one, LostError)]
        raise LostError(f"no Sentinel answers: {reasons[0] if reasons else f'silent {self._sentinels[0].place}'}")

    async def _ask(self, sentinel: Address) -> _Answer | None:
        """Ask one Sentinel; None when it knows no primary of that name. Raises LostError."""
        wire = await sentinel.connect()
        try:
            return await self._asked(wire)
        finally:
            wire.end()

    async def _asked(self, wire: Wire) -> _Answer | None:
        where, more = wire.ask((*_WHERE, self._name), ("SENTINEL", "MASTER", self._name))
        place = _read_place(await where, wire.place)
        return None if place is None else _Answer(_read_epoch(await more), place)

    # Listening…

    async def _watch(self, sentinel: Address) -> None:
        """Hear of it when the primary becomes another one, until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            with suppress(LostError, TimeoutError):
                async with asyncio.timeout(_WATCH_S):
                    wire = await sentinel.connect()
                try:
                    await self._listen(wire)
                finally:
                    wire.end()
            await asyncio.sleep(max(0.0, began + _WATCH_S - now()))

    async def _listen(self, wire: Wire) -> None:
        """See what was missed, subscribe, and listen until something comes, or the Sentinel falls silent.

        What a Sentinel says unasked ends the wire, by the wire's law; it is asked on a new one what has happened.
        """
        ended = asyncio.Event()
        async with asyncio.timeout(_WATCH_S):
            asked, subscribed = wire.ask((*_WHERE, self._name), ("SUBSCRIBE", "+switch-master"))
            place = _read_place(await asked, wire.place)
            if isinstance(await subscribed, Exception):
                ended.set()  # it may not subscribe, and asks again and again
        if place not in {None, self._newest} and self._newest is not None:
            self._looking = None
            await self._looked_up()
        wire.hear(ended.set)
        while wire.is_open() and not ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_S):
                    await ended.wait()
            if wire.is_open() and not ended.is_set():
                async with asyncio.timeout(_WATCH_S):
                    await wire.ask(("PING",))[0]
                ended.clear()


def ways_in(url: str) -> tuple[Seeds, str, str]:
    """Read a URL: the Sentinels' places and NAME, and the URLs of one server, and of one Sentinel, to be let in by.

    Raises ValueError, as `Seeds.read`.
    """
    seeds = Seeds.read(url, SENTINEL_PORT)
    name, _, database = seeds.name.partition("/")
    scheme, _, rest = seeds.way_in.partition("://")
    authority, is_tls = rest.partition("/")[0], scheme == "rediss"
    ours = [("db", database)] if database else []
    theirs: dict[str, str] = {}
    for option, value in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        if option == "sentinel_ssl":
            is_tls = value.lower() in _TRUE
        elif option.startswith(_OF_SENTINELS):
            theirs[option.removeprefix(_OF_SENTINELS)] = value
        else:
            ours.append((option, value))
            if option.startswith("ssl_"):
                theirs.setdefault(option, value)
    if not is_tls:
        theirs = {option: value for option, value in theirs.items() if not option.startswith("ssl_")}
    server = f"{scheme}://{authority}/{_query(ours)}"
    sentinel = f"{'rediss' if is_tls else 'redis'}://{seeds.places[0]}/{_query(theirs.items())}"
    return seeds._replace(name=name), server, sentinel


def _query(options: Iterable[tuple[str, str]]) -> str:
    written = urlencode([*options], quote_via=quote)
    return f"?{written}" if written else ""


def _read_place(said: Any, sentinel: str) -> Place | None:
    """Read where a Sentinel says that the primary is; None when it knows none of that name. Raises LostError."""
    match said:
        case [bytes(host), bytes(port)] if _HOST.fullmatch(host) and _PORT.fullmatch(port):
            return Place(host.decode(), int(port))
        case None:
            return None
        case Exception():
            raise LostError(f"{Fault.read(str(said)).reason} at {sentinel}")
        case _:
            raise LostError(f"no Sentinel at {sentinel}")


def _read_epoch(said: Any) -> int:
    """Read how new a Sentinel's configuration is; 0 where it does not say."""
    if not isinstance(said, list):
        return 0
    fields = dict(zip(said[::2], said[1::2], strict=False))
    epoch = fields.get(b"config-epoch", b"")
    return int(epoch) if isinstance(epoch, bytes) and epoch.isdigit() else 0


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Nobody may be left who waits for it."""
    if not task.cancelled():
        task.exception()
