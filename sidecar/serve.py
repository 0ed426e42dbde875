"""How does the sidecar live? Listeners, signals, drain, reload; one worker in this process, or several beside it.

A bad configuration never starts and never replaces a running good one. SIGTERM and SIGINT drain; SIGHUP reloads, and
with `--watch` so does a file that has changed. The parent owns the listening sockets, the embedded store's child, the
signals and the admin listener; whoever serves clients is a worker.

What serves clients is imported while the embedded store's child starts, for each takes a tenth of a second: so the
imports of `app`, `worker` and of what they import stand in functions.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from sidecar import logs, systemd
from sidecar.config.load import ConfigError, Problem, files_of, load
from sidecar.config.model import Config
from sidecar.kinds import kinds
from sidecar.life import Life, ended, exit_code_of
from sidecar.metrics import Metrics
from sidecar.sockets import bound, raise_descriptors
from sidecar.store.embedded import embedded

if TYPE_CHECKING:
    from sidecar.fleet import Fleet
    from sidecar.proxy import listener
    from sidecar.worker import Worker

T = TypeVar("T")

# What is bound or opened once; a reload that changes one of them is refused and says so.
_FIXED: Final = (
    "listen", "socket_mode", "admin", "workers", "proxy_protocol", "tls", "state_dir", "log_format",
)  # fmt: skip
# How long the end of the process waits for the last answer of the admin listener.
_ADMIN_S: Final = 1.0
# A second Ctrl-C by somebody who does not want to wait; wrappers pass the first one on twice, at once.
_AGAIN_S: Final = 1.0
# How often `--watch` looks. A file that is being written looks the same twice when it is whole.
_WATCH_S: Final = 0.5


def run(path: Path, *, watch: bool = False) -> int:
    """Run the sidecar in the foreground. Returns the exit code."""
    warnings: list[Problem] = []
    looks = _looks(path)
    try:
        config = load(path, os.environ, kinds(), warnings.append)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    logs.configure(config.server.log_format)
    logs.own_process()
    for warning in warnings:
        _log_warning(warning)
    return exit_code_of(_Server(path, config, looks, watch=watch).serve())


def _import_what_serves() -> None:
    from sidecar import app, fleet  # noqa: F401, PLC0415 - see above


class _Server:
    """The parent of its workers: what there is one of, and the configuration that is served now."""

    def __init__(self, path: Path, config: Config, looks: "_Looks", *, watch: bool) -> None:
        self._path = path
        self._config = config
        self._looks = looks  # of what was loaded last
        self._watch = watch
        self._metrics = Metrics()
        self._life = Life(self._metrics.task_ends.inc)
        self._log = structlog.get_logger()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._in_a_hurry = asyncio.Event()
        self._stopped_at = 0.0
        self._crew: Worker | Fleet

    async def serve(self) -> None:
        """Serve until told to stop, then drain."""
        self._listen_to_signals()
        descriptors = raise_descriptors()
        server = self._config.server
        given, given_admin = systemd.activated(os.environ, os.getpid())
        async with AsyncExitStack() as stack:
            url = self._config.store.url
            if url == "embedded":
                url = await stack.enter_async_context(
                    embedded(Path(server.state_dir), self._life, meanwhile=_import_what_serves)
                )
            from sidecar.app import administering  # noqa: PLC0415 - see above
            from sidecar.proxy import listener  # noqa: PLC0415 - see above
            from sidecar.proxy.client import Trusted  # noqa: PLC0415 - see above
            from sidecar.proxy.proxy_protocol import Acceptor  # noqa: PLC0415 - see above

            public = given or bound(server.listen, server.socket_mode)
            self._crew = self._workers(public, url)
            administration = await stack.enter_async_context(AsyncExitStack())
            front = await administration.enter_async_context(administering(self._config, url, self._life, self._crew))
            admin = listener.Server(front)
            asking = Acceptor(given_admin or bound(server.admin, server.socket_mode), Trusted(()), admin)
            asking.start()
            stack.push_async_callback(admin.shutdown, _ADMIN_S)
            stack.push_async_callback(asking.close)
            await self._crew.begin()
            self._log.info(
                "listening",
                public=systemd.names(given) or str(server.listen),
                admin=systemd.names(given_admin) or str(server.admin),
                pid=os.getpid(),
                descriptors=descriptors,
                workers=self._crew.serving(),
            )
            systemd.notify(os.environ, "READY=1")
            watching = self._life.keep("watch", self._watch_files) if self._watch else None
            while not self._stop.is_set():
                await _first(self._stop, self._reload)
                if self._reload.is_set() and not self._stop.is_set():
                    self._reload.clear()
                    systemd.notify(os.environ, *systemd.reloading())
                    administration = await self._reloaded(administration, admin, url)
                    systemd.notify(os.environ, "READY=1")
            await ended(*filter(None, [watching]))
            await self._drain()
        self._log.info("stopped")

    def _workers(self, sockets: list[socket.socket], url: str) -> "Worker | Fleet":
        from sidecar.fleet import Fleet  # noqa: PLC0415 - see above
        from sidecar.worker import Worker, worker_count  # noqa: PLC0415 - see above

        count = worker_count(self._config.server)
        if count == 1:
            return Worker(self._config, url, sockets, self._metrics, self._life)
        return Fleet(self._config, url, sockets, count, self._metrics)

    async def _drain(self) -> None:
        server = self._config.server
        systemd.notify(os.environ, "STOPPING=1")
        self._life.drain(server.drain_delay + server.drain)
        self._log.info("draining", seconds=server.drain, delay=server.drain_delay)
        hurrying = asyncio.create_task(self._hurry())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._in_a_hurry.wait(), server.drain_delay)
        await self._crew.drain(self._life.left_s)
        await ended(hurrying)

    async def _reloaded(self, old: AsyncExitStack, admin: "listener.Server", url: str) -> AsyncExitStack:
        """Replace the running configuration by the file's, or keep it and say why not."""
        from sidecar.app import administering  # noqa: PLC0415 - see above

        self._looks = await asyncio.to_thread(_looks, self._path)
        try:
            # In a thread: an asn_file that was not read before takes seconds.
            loading = asyncio.to_thread(load, self._path, os.environ, kinds(), _log_warning)
            config = await self._unless_stopped(loading)
        except ConfigError as error:
            self._log.error("reload_refused", problems=str(error).splitlines())
            return old
        except InterruptedError as error:
            self._log.error("reload_refused", error=str(error))
            return old
        before = self._config
        fixed = [f"server.{key}" for key in _FIXED if getattr(config.server, key) != getattr(before.server, key)]
        fixed += ["store.url"] if config.store.url != before.store.url else []
        if fixed:
            self._log.error("reload_refused", needs_restart=fixed)
            return old
        new = AsyncExitStack()
        try:
            administered = new.enter_async_context(administering(config, url, self._life, self._crew))
            front = await self._unless_stopped(administered)
            why = await self._unless_stopped(self._crew.reload(config))
        except (OSError, ValueError) as error:
            why = str(error)
        if why:
            await new.aclose()
            self._log.error("reload_refused", error=why)
            return old
        admin.front = front
        await old.aclose()
        self._config = config
        self._log.info("reloaded")
        return new

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a part of a reload; whoever is told to stop drains at once. Raises InterruptedError then."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise InterruptedError("told to stop")
            return working.result()
        finally:
            await ended(working, stopping)

    async def _watch_files(self) -> None:
        """Reload once a file of the configuration has changed, and is no longer being written."""
        seen = self._looks
        while True:
            await asyncio.sleep(_WATCH_S)
            now = await asyncio.to_thread(_looks, self._path)
            if now == seen and now != self._looks:
                self._looks = now
                self._log.info("configuration_changed")
                self._reload.set()
            seen = now

    async def _hurry(self) -> None:
        """Once somebody does not want to wait, break off what is under way."""
        await self._in_a_hurry.wait()
        self._life.drain(0)
        self._crew.hurry()

    def _told_to_stop(self, number: signal.Signals) -> None:
        """Stop; and at a Ctrl-C that comes a second or more later: now."""
        now = asyncio.get_running_loop().time()
        if not self._stop.is_set():
            self._stopped_at = now
            self._stop.set()
        elif number == signal.SIGINT and now - self._stopped_at >= _AGAIN_S:
            self._in_a_hurry.set()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # blocked since the process began


# Of each file: which one it is, how long, and when it was written; None: it is not there.
_Looks = dict[str, tuple[int, ...] | None]


def _looks(path: Path) -> _Looks:
    """How each file of a configuration looks."""
    looks: _Looks = {}
    for name in (str(path), *files_of(path, os.environ)):
        try:
            found = Path(name).stat()  # through links: a mounted secret is a link that is pointed elsewhere
            looks[name] = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        except (OSError, ValueError):  # it is not there, or this is no file's name
            looks[name] = None
    return looks


def _log_warning(warning: Problem) -> None:
    structlog.get_logger().warning("config", problem=str(warning))


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
