"""How does the sidecar live? Listeners, signals, drain, reload.

A bad configuration never starts and never replaces a running good one. SIGTERM and SIGINT drain; SIGHUP reloads.
"""

import asyncio
import gc
import os
import signal
import ssl
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import structlog
import uvloop

from sidecar import logs
from sidecar.app import App, kinds, running
from sidecar.config.load import ConfigError, Problem, load
from sidecar.config.model import Config, Server
from sidecar.life import Life, ended
from sidecar.metrics import Metrics
from sidecar.proxy import listener
from sidecar.proxy.client import Trusted
from sidecar.proxy.proxy_protocol import Acceptor
from sidecar.recipient import load_number_data
from sidecar.sockets import bound, most_clients, raise_descriptors
from sidecar.store.embedded import StoreMissingError, embedded
from sidecar.store.instances import ForeignSecretError

# What is bound or opened once; a reload that changes one of them is refused and says so.
_FIXED: Final = ("listen", "socket_mode", "admin", "proxy_protocol", "tls", "state_dir", "log_format")
_LOOK_S: Final = 0.05
# How long the end of the process waits for the last answer of the admin listener.
_ADMIN_S: Final = 1.0
# A second Ctrl-C by somebody who does not want to wait; wrappers pass the first one on twice, at once.
_AGAIN_S: Final = 1.0


def run(path: Path) -> int:
    """Run the sidecar in the foreground. Returns the exit code."""
    warnings: list[Problem] = []
    try:
        config = load(path, os.environ, kinds(), warnings.append)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    logs.configure(config.server.log_format)
    logs.own_process()
    for warning in warnings:
        _log_warning(warning)
    try:
        uvloop.run(_Server(path, config).serve())
    except (OSError, ValueError, StoreMissingError, ForeignSecretError) as error:
        structlog.get_logger().error("cannot_run", error=str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - told by type and place, as Python would not tell it
        structlog.get_logger().critical("crashed", exc_info=error)
        return 1
    return 0


class _Server:
    """One process: two listeners, and the configuration that they serve now."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._config = config
        self._metrics = Metrics()
        self._life = Life(self._metrics.task_ends.inc)
        self._log = structlog.get_logger()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._in_a_hurry = asyncio.Event()
        self._stopped_at = 0.0
        self._tls = _tls(config.server)
        self._app: App
        self._leaving: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until told to stop, then drain."""
        self._listen_to_signals()
        descriptors = raise_descriptors()
        server = self._config.server
        async with AsyncExitStack() as stack:
            url = self._config.store.url
            if url == "embedded":
                url = await stack.enter_async_context(embedded(Path(server.state_dir), self._life))
            apps = await stack.enter_async_context(AsyncExitStack())
            self._app = await apps.enter_async_context(running(self._config, url, self._metrics, self._life))
            admin = listener.Server(self._app.admin)
            asking = Acceptor(bound(server.admin, server.socket_mode), Trusted(()), admin)
            asking.start()
            stack.push_async_callback(admin.shutdown, _ADMIN_S)
            stack.push_async_callback(asking.close)
            public = listener.Server(
                self._app.front,
                max_head=server.max_head,
                keep_alive_s=server.keep_alive,
                most=most_clients(descriptors),
            )
            listening = bound(server.listen, server.socket_mode)
            accepting = Acceptor(listening, _heralds(server), public, tls=self._tls, room=public.room)
            accepting.start()
            stack.push_async_callback(accepting.close)
            gc.freeze()  # what lives as long as the process is no garbage; looking through it took a tenth of a second
            gc.enable()
            self._log.info(
                "listening",
                public=str(server.listen),
                admin=str(server.admin),
                pid=os.getpid(),
                descriptors=descriptors,
            )
            loading = asyncio.create_task(_load_number_data())
            stack.push_async_callback(ended, loading)
            while not self._stop.is_set():
                await _first(self._stop, self._reload)
                if self._reload.is_set() and not self._stop.is_set():
                    self._reload.clear()
                    apps = await self._reloaded(apps, url)
                    public.front, admin.front = self._app.front, self._app.admin
                    accepting.trusted = _heralds(self._config.server)
                    public.max_head, public.keep_alive_s = self._config.server.max_head, self._config.server.keep_alive
            server = self._config.server
            self._life.drain(server.drain_delay + server.drain)
            self._log.info("draining", seconds=server.drain, delay=server.drain_delay)
            hurrying = asyncio.create_task(self._hurry(public))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._in_a_hurry.wait(), server.drain_delay)
            await accepting.close()
            await public.shutdown(self._life.left_s)
            await ended(hurrying)
            await asyncio.gather(*self._leaving, return_exceptions=True)
            await apps.aclose()
        self._log.info("stopped")

    async def _reloaded(self, old: AsyncExitStack, url: str) -> AsyncExitStack:
        """Replace the running configuration by the file's, or keep it and say why not."""
        try:
            # In a thread: an asn_file that was not read before takes seconds.
            config = await asyncio.to_thread(load, self._path, os.environ, kinds(), _log_warning)
        except ConfigError as error:
            self._log.error("reload_refused", problems=str(error).splitlines())
            return old
        before = self._config
        fixed = [f"server.{key}" for key in _FIXED if getattr(config.server, key) != getattr(before.server, key)]
        fixed += ["store.url"] if config.store.url != before.store.url else []
        if fixed:
            self._log.error("reload_refused", needs_restart=fixed)
            return old
        new = AsyncExitStack()
        try:
            app = await new.enter_async_context(running(config, url, self._metrics, self._life))
            if self._tls is not None:
                # A renewed certificate has the path of the old one; whoever connects from now on gets it.
                self._tls.load_cert_chain(config.server.tls.cert, config.server.tls.key)
        except (OSError, ValueError, ForeignSecretError) as error:
            await new.aclose()
            self._log.error("reload_refused", error=str(error))
            return old
        leaving, self._app, self._config = self._app, app, config
        task = asyncio.create_task(_leave(leaving, old))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        self._log.info("reloaded")
        return new

    async def _hurry(self, public: listener.Server) -> None:
        """Once somebody does not want to wait, break off what is under way."""
        await self._in_a_hurry.wait()
        self._log.warning("drain_cut_short", connections=len(public.connections))
        self._life.drain(0)
        for connection in list(public.connections):
            connection.abort()

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


async def _load_number_data() -> None:
    """Load what is known of numbers once all is ready, beside the first requests, which hardly notice."""
    for _ in load_number_data():
        await asyncio.sleep(0)
    gc.freeze()


def _log_warning(warning: Problem) -> None:
    structlog.get_logger().warning("config", problem=str(warning))


async def _leave(app: App, stack: AsyncExitStack) -> None:
    """Take a replaced configuration down: its courier now, the rest once its last request is over.

    That may be a download or a WebSocket of hours, and no reload shall cut it off. The drain at the end does.
    """
    await app.courier.drain(app.config.server.drain)
    while app.front.in_flight:
        await asyncio.sleep(_LOOK_S)
    await stack.aclose()


def _heralds(server: Server) -> Trusted:
    """Whose connections begin with a header of the PROXY protocol."""
    return Trusted(server.trusted_proxies if server.proxy_protocol else ())


def _tls(server: Server) -> ssl.SSLContext | None:
    if not server.tls.cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls.cert, server.tls.key)
    return context


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
