"""What serves clients? One process's public listener, courier and configuration; alone, or as one of several.

A worker that runs alone is an object of its parent. One of several is a process that `fork_server` has made: it is told
what to do over a socket, one line of JSON each way, and when that socket ends, so did the parent, and it drains.
"""

import asyncio
import base64
import gc
import json
import os
import pickle
import signal
import socket
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import structlog

from sidecar import logs, machine
from sidecar.app import App, running
from sidecar.config.model import Config, Server
from sidecar.life import Life, ended, exit_code_of
from sidecar.metrics import Metrics
from sidecar.proxy import listener
from sidecar.proxy.client import Trusted
from sidecar.proxy.proxy_protocol import IN_A_ROW, Acceptor
from sidecar.recipient import load_number_data
from sidecar.sockets import most_clients, most_held, raise_descriptors
from sidecar.store.instances import ForeignSecretError
from sidecar.turns import Turn

_LOOK_S: Final = 0.05
# How many more objects there may be than after the last look for garbage, before the next one. Those of requests under
# way are no garbage, and Python's own 700 is what some ten of them have: a send's time was 6 % looking through them.
# Looking through so many takes less than a millisecond.
_YOUNG: Final = 10_000
# How often a worker process says what it has counted: so much is missing of what one had counted that was killed.
REPORT_S: Final = 1.0
# A line between it and its parent: a report of many series, a configuration.
MAX_LINE: Final = 16 << 20


class Worker:
    """A configuration at work behind the public listener. `sockets` are bound and listening; `drain` closes them."""

    def __init__(
        self, config: Config, store_url: str, sockets: Sequence[socket.socket], metrics: Metrics, life: Life
    ) -> None:
        self._metrics = metrics
        self._life = life
        self._config = config
        self._store_url = store_url
        self._sockets = sockets
        self._apps = AsyncExitStack()
        self._app: App
        self._public: listener.Server
        self._accepting: Acceptor
        self._turn: Turn | None = None
        self._loading: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._in_a_hurry = asyncio.Event()

    async def begin(self, turn: Turn | None = None) -> None:
        """Serve; with a `turn`, as one of several. Raises OSError, ValueError, ForeignSecretError."""
        self._turn = turn
        server = self._config.server
        tls = _tls(server)
        try:
            self._app = await self._apps.enter_async_context(
                running(self._config, self._store_url, self._metrics, self._life)
            )
        except BaseException:
            for one in self._sockets:
                one.close()
            raise
        self._public = listener.Server(
            self._app.front,
            max_head=server.max_head,
            keep_alive_s=server.keep_alive,
            most=most_clients(raise_descriptors()),
            most_held=most_held(worker_count(server)),
        )
        self._accepting = Acceptor(
            self._sockets,
            _heralds(server),
            self._public,
            tls=tls,
            room=self._public.room,
            # Several processes wake for a connection: each may have one.
            in_a_row=IN_A_ROW if turn is None else 1,
            is_my_turn=self._is_my_turn,
        )
        self._accepting.start()
        self.say_connections()
        gc.freeze()  # what lives as long as the process is no garbage; looking through it took a tenth of a second
        gc.set_threshold(_YOUNG)
        gc.enable()
        self._loading = asyncio.create_task(_load_number_data())

    async def reload(self, config: Config) -> str:
        """Replace the running configuration by another; what is under way is ended with the old one.

        Kept connections meet the new one from their next request on. Says why not where that cannot be, and then
        everything is as before.
        """
        new = AsyncExitStack()
        try:
            app = await new.enter_async_context(running(config, self._store_url, self._metrics, self._life))
            # A renewed certificate has the path of the old one; whoever connects from now on gets it.
            tls = _tls(config.server)
        except (OSError, ValueError, ForeignSecretError) as error:
            await new.aclose()
            return str(error)
        task = asyncio.create_task(_leave(self._app, self._apps))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        self._app, self._apps, self._config = app, new, config
        self._public.front = app.front
        self._accepting.tls, self._accepting.trusted = tls, _heralds(config.server)
        self._public.max_head, self._public.keep_alive_s = config.server.max_head, config.server.keep_alive
        return ""

    async def metrics(self) -> Metrics:
        """What it has counted."""
        return self._metrics

    def ended_tasks(self) -> dict[str, str]:
        """Its long-lived tasks that do not run now."""
        return dict(self._life.ended)

    def serving(self) -> int:
        """One, once it serves."""
        return int(self._loading is not None)

    async def drain(self, within_s: float) -> None:
        """Take no more connections, end what is under way within `within_s` seconds, and stop."""
        self._life.drain(within_s)
        hurrying = asyncio.create_task(self._hurry())
        if self._turn is not None:
            self._turn.leave()
            self._turn = None
        await self._accepting.close()
        await self._public.shutdown(self._life.left_s)
        await ended(*filter(None, (hurrying, self._loading)))
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._apps.aclose()

    def hurry(self) -> None:
        """Break off what is under way: somebody does not want to wait."""
        self._in_a_hurry.set()

    def say_connections(self) -> None:
        """Say to the other workers how many connections it has."""
        self._is_my_turn(0)

    def _is_my_turn(self, accepting: int) -> bool:
        return self._turn is None or self._turn.is_mine(len(self._public.connections) + accepting)

    async def _hurry(self) -> None:
        await self._in_a_hurry.wait()
        structlog.get_logger().warning("drain_cut_short", connections=len(self._public.connections))
        self._life.drain(0)
        for connection in list(self._public.connections):
            connection.abort()


def worker_count(server: Server) -> int:
    """How many workers a configuration asks for: `"auto"` is one for each processor that this process may use."""
    return machine.cores() if server.workers == "auto" else server.workers


async def _leave(app: App, stack: AsyncExitStack) -> None:
    """Take a replaced configuration down: its courier now, the rest once its last request is over.

    That may be a download or a WebSocket of hours, and no reload shall cut it off. The drain at the end does. It counts
    as no instance of the store meanwhile: limits are not divided by it, and its secret holds up no rotation.
    """
    await app.instances.leave()
    await app.courier.drain(app.config.server.drain)
    while app.front.in_flight:
        await asyncio.sleep(_LOOK_S)
    await stack.aclose()


async def _load_number_data() -> None:
    """Load what is known of numbers once all is ready, beside the first requests, which hardly notice."""
    for _ in load_number_data():
        await asyncio.sleep(0)
    gc.freeze()


def _heralds(server: Server) -> Trusted:
    """Whose connections begin with a header of the PROXY protocol."""
    return Trusted(server.trusted_proxies if server.proxy_protocol else ())


def _tls(server: Server) -> ssl.SSLContext | None:
    if not server.tls.cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls.cert, server.tls.key)
    return context


# One of several…


def run(config: Config, store_url: str, sockets: Sequence[socket.socket], control: socket.socket, turn: Turn) -> int:
    """Be a worker process until told to end, or nobody tells any more. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent says what follows of it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logs.configure(config.server.log_format)
    logs.own_process()
    return exit_code_of(_obey(config, store_url, sockets, control, turn))


async def _obey(
    config: Config, store_url: str, sockets: Sequence[socket.socket], control: socket.socket, turn: Turn
) -> None:
    """Serve, and do what the parent says, until it says to drain or has gone."""
    reader, writer = await asyncio.open_connection(sock=control, limit=MAX_LINE)
    metrics = Metrics()
    worker = Worker(config, store_url, sockets, metrics, Life(metrics.task_ends.inc))
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    await worker.begin(turn)

    def say(**message: Any) -> None:
        with suppress(OSError):
            writer.write(json.dumps(message).encode() + b"\n")

    def report() -> None:
        say(report=metrics.numbers(), ended=worker.ended_tasks())

    async def go_on_reporting() -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            report()
            worker.say_connections()

    say(serves=os.getpid())
    reporting = asyncio.create_task(go_on_reporting())
    ending = asyncio.create_task(terminated.wait())
    within_s: float | None = None
    while within_s is None:
        hearing = asyncio.create_task(_message(reader))
        await asyncio.wait((hearing, ending), return_when=asyncio.FIRST_COMPLETED)
        message = hearing.result() if hearing.done() else None
        await ended(hearing)
        match message:
            case None:  # the parent has gone, or somebody ends this one alone
                within_s = config.server.drain
            case {"drain": float(seconds)}:
                within_s = seconds
            case {"report": _}:
                report()
            case {"reload": str(text)}:
                config = pickle.loads(base64.b64decode(text))  # noqa: S301 - our parent's, over a socket of its own
                say(reloaded=await worker.reload(config))
    hurrying = asyncio.create_task(_until_hurried(reader, worker))
    await worker.drain(within_s)
    report()
    await ended(reporting, ending, hurrying)
    with suppress(OSError):
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def _until_hurried(reader: asyncio.StreamReader, worker: Worker) -> None:
    while (message := await _message(reader)) is not None:
        if "hurry" in message:
            worker.hurry()


async def _message(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message of a control socket; None once it has ended, also in the middle of a line."""
    with suppress(OSError, ValueError):
        if line := await reader.readline():
            return dict(json.loads(line))
    return None
