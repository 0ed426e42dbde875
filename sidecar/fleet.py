"""Who serves where there are several workers? Processes that this one has made, watches, tells, and counts together.

All of them accept from the same listening sockets, so that a connection which waits is taken by whoever lives. A worker
that ends is replaced at once, and after growing pauses where it ends as it begins. What they have counted is asked for
when somebody looks, and what a dead one had counted is kept.

The configuration is read once, by this process, and handed to each of them as it was read: a file that changes while
they take it over one after another makes no two of them serve by different ones.
"""

import asyncio
import base64
import json
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from sidecar.config.model import Config
from sidecar.life import ended
from sidecar.metrics import Metrics
from sidecar.worker import MAX_LINE

# The pause before a worker is replaced that ended as it began: at first, and at most.
_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0
# One that has served for so long did not end as it began.
_WELL_S: Final = 10.0
# A configuration is built within so much, or its worker is given up.
_START_S: Final = 30.0
# Somebody waits for the metrics: who does not answer by then is busy, and its last report a second old at most.
_REPORT_WAIT_S: Final = 0.3
# How long the exit code of a worker is waited for: its control socket ends a little before it does.
_STATUS_WAIT_S: Final = 2.0
# After its drain a worker ends within so much, or is killed.
_END_S: Final = 2.0


class _Process:
    """One worker process, by its control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        self.pid = pid
        self.began = time.monotonic()
        self.serves = asyncio.Event()
        self.hearing: asyncio.Task[None] | None = None  # the loop itself keeps none
        self.over = asyncio.Event()
        self.counted: dict[str, Any] = {}
        self.ended: Mapping[str, str] = {}
        self.reported = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._reloaded: asyncio.Future[str | None] | None = None

    def say(self, **message: Any) -> None:
        with suppress(OSError):
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self) -> None:
        """Take in what it says, until it has ended, also in the middle of a line; then it is told to, if it lives."""
        with suppress(OSError, ValueError):
            while line := await self._reader.readline():
                match json.loads(line):
                    case {"report": counted, "ended": names}:
                        self.counted, self.ended = counted, names
                        self.reported.set()
                    case {"serves": _}:
                        self.serves.set()
                        structlog.get_logger().info("worker_serves", worker=self.pid)
                    case {"reloaded": why}:
                        self._answered(why)
        self._writer.close()
        self.over.set()
        self._answered(None)

    def _answered(self, why: str | None) -> None:
        if self._reloaded is not None and not self._reloaded.done():  # nobody waits for it any more
            self._reloaded.set_result(why)

    async def reload(self, config: bytes) -> str | None:
        """Have it replace its configuration by a pickled one; says why not, and None where it has ended.

        Raises TimeoutError.
        """
        if self.over.is_set():
            return None
        answer = self._reloaded = asyncio.get_running_loop().create_future()
        self.say(reload=base64.b64encode(config).decode())
        return await asyncio.wait_for(answer, _START_S)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if not self.over.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Fleet:
    """So many worker processes on the same listening sockets; `drain` closes this process's.

    `metrics` are this process's own; what workers that have ended had counted is added to them.
    """

    def __init__(
        self, config: Config, store_url: str, sockets: Sequence[socket.socket], count: int, metrics: Metrics
    ) -> None:
        self._config = pickle.dumps(config)  # what new workers get
        self._store_url = store_url
        self._sockets = sockets
        self._count = count
        self._forking: _ForkServer | None = None
        self._lock = asyncio.Lock()  # one question at a time
        self._processes: set[_Process] = set()
        self._keeping: list[asyncio.Task[None]] = []
        self._metrics = metrics
        self._log = structlog.get_logger()

    async def begin(self) -> None:
        """Start all of them. Raises OSError, ValueError where one cannot."""
        await self._fork_server()
        first = [await self._made() for _ in range(self._count)]
        serving = [asyncio.create_task(process.serves.wait()) for process in first]
        over = [asyncio.create_task(process.over.wait()) for process in first]
        try:
            async with asyncio.timeout(_START_S):
                while not all(task.done() for task in serving) and not any(task.done() for task in over):
                    await asyncio.wait([*serving, *over], return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.wait([task for task in serving if not task.done()] or serving, timeout=0.01)
        except TimeoutError:
            raise OSError("the workers do not start") from None
        finally:
            await ended(*serving, *over)
        if any(process.over.is_set() for process in first):
            raise OSError("a worker cannot run; its own line says why")
        self._keeping = [asyncio.create_task(self._keep(process)) for process in first]

    async def reload(self, config: Config) -> str:
        """Have one after another replace its configuration; says why the first that could not did not.

        Those that had replaced it by then have the one before again.
        """
        before, handed = self._config, pickle.dumps(config)
        why, is_used = await self._hand_out(handed)
        if why and is_used:
            await self._hand_out(before)
        return why

    async def _hand_out(self, handed: bytes) -> tuple[str, bool]:
        """Have all use a pickled configuration, new workers too: gives why one could not, and whether any does."""
        asked: set[_Process] = set()
        is_used = False
        while waiting := self._processes - asked:  # those too that are made meanwhile
            process = waiting.pop()
            asked.add(process)
            try:
                why = await process.reload(handed)
            except TimeoutError:
                process.kill()
                continue
            if why is None:
                continue
            if why:
                return why, is_used
            is_used = True
            await self._use(handed)  # so that whoever takes the place of a dead one gets it too
        if is_used:
            return "", True
        if any(process.serves.is_set() for process in asked):
            return "every worker ended before it could use it", False
        await self._use(handed)  # nobody serves by the old one either
        return "", True

    async def drain(self, within_s: float) -> None:
        """End all of them within so many seconds."""
        await ended(*self._keeping)  # nobody is replaced any more
        for one in self._sockets:  # ours; each worker closes its own
            one.close()
        if self._forking is not None:
            self._forking.stop_listening()
        for process in self._processes:
            process.say(drain=float(within_s))
        over = [asyncio.create_task(process.over.wait()) for process in self._processes]
        if over:
            await asyncio.wait(over, timeout=within_s + _END_S)
        await ended(*over)
        for process in self._processes:
            process.kill()
        if self._forking is not None:
            await self._forking.close()

    def hurry(self) -> None:
        """Have all of them break off what is under way."""
        for process in self._processes:
            process.say(hurry=True)

    async def metrics(self) -> Metrics:
        """What all of them have counted, the dead ones and this process too."""
        for process in self._processes:
            process.reported.clear()
            process.say(report=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_REPORT_WAIT_S):
                for process in list(self._processes):
                    await process.reported.wait()
        together = Metrics(dropped=int)  # this process's log is counted in its own metrics
        together.add(self._metrics.numbers())
        for process in self._processes:
            together.add(process.counted)
        return together

    def ended_tasks(self) -> dict[str, str]:
        """The long-lived tasks of any worker that do not run now."""
        return {name: error for process in self._processes for name, error in process.ended.items()}

    def serving(self) -> int:
        """How many serve now."""
        return sum(process.serves.is_set() and not process.over.is_set() for process in self._processes)

    async def _keep(self, process: _Process) -> None:
        """Replace a worker whenever it has ended."""
        pause_s = 0.0
        while True:
            await process.over.wait()
            self._processes.discard(process)
            self._metrics.add(process.counted, has_ended=True)
            if time.monotonic() - process.began > _WELL_S:
                pause_s = 0.0
            why = await self._forking.why(process.pid) if self._forking is not None else "unknown"
            self._log.error("worker_ended", worker=process.pid, why=why, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(max(_PAUSE_S, 2 * pause_s), _MAX_PAUSE_S)
            while True:
                try:
                    process = await self._made()
                    break
                except (OSError, ValueError) as error:
                    self._log.error("worker_not_started", error=str(error), again_in_s=_MAX_PAUSE_S)
                    await asyncio.sleep(_MAX_PAUSE_S)

    async def _made(self) -> _Process:
        """A new worker process, which does not serve yet."""
        ours, its = socket.socketpair()
        with its:
            async with self._lock:
                pid = await (await self._fork_server()).fork(its)
                ours.setblocking(False)
                process = _Process(*await asyncio.open_connection(sock=ours, limit=MAX_LINE), pid)
                self._processes.add(process)
        process.hearing = asyncio.create_task(process.hear())
        return process

    async def _use(self, config: bytes) -> None:
        """Have new workers get this configuration."""
        if config is self._config:
            return
        async with self._lock:
            self._config = config
            with suppress(OSError):  # the fork server has ended; the next one begins with it
                await (await self._fork_server()).use(config)

    async def _fork_server(self) -> "_ForkServer":
        """The fork server; another one where it has died. Raises OSError, ValueError."""
        if self._forking is None or self._forking.is_over:
            self._forking = await _ForkServer.started(self._config, self._store_url, self._sockets)
        return self._forking


class _ForkServer:
    """The process that makes workers: see `fork_server`."""

    def __init__(self, child: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._statuses: dict[int, asyncio.Future[int]] = {}
        self._child = child
        self._control = control
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._hearing = asyncio.create_task(self._hear())

    @classmethod
    async def started(cls, config: bytes, store_url: str, sockets: Sequence[socket.socket]) -> "_ForkServer":
        """Start one, and wait until it has loaded all. Raises OSError."""
        ours, its = socket.socketpair()
        with its:
            numbers = [its.fileno(), *(one.fileno() for one in sockets)]
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "sidecar.fork_server", store_url, *map(str, numbers)),
                pass_fds=numbers,
                stdin=asyncio.subprocess.PIPE,
            )
        ours.setblocking(False)
        made = cls(child, ours)
        assert child.stdin is not None
        with suppress(OSError):  # it has died, which its control socket says
            child.stdin.write(config)
            await child.stdin.drain()
            child.stdin.close()
        await made._answer()
        return made

    @property
    def is_over(self) -> bool:
        return self._hearing.done()

    async def use(self, config: bytes) -> None:
        """Have it make workers of this configuration."""
        self._control.send(b"use %d" % len(config))
        await self._answer()
        await asyncio.get_running_loop().sock_sendall(self._control, config)
        await self._answer()

    async def fork(self, control: socket.socket) -> int:
        """Have it make a worker with that control socket; gives its process id."""
        socket.send_fds(self._control, [b"fork"], [control.fileno()])
        return int((await self._answer())["forked"])

    def stop_listening(self) -> None:
        """Have it let go of the listening sockets: nothing is made any more."""
        with suppress(OSError):
            self._control.send(b"stop")

    async def why(self, pid: int) -> str:
        """Say why a worker has ended, for whoever reads the log."""
        known = self._status(pid)
        await asyncio.wait((known, self._hearing), timeout=_STATUS_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        self._statuses.pop(pid, None)
        if not known.done():
            return "unknown"
        status = known.result()
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return f"{name} (out of memory?)" if name == "SIGKILL" else name
        return f"exit code {os.waitstatus_to_exitcode(status)}"

    def _status(self, pid: int) -> asyncio.Future[int]:
        return self._statuses.setdefault(pid, asyncio.get_running_loop().create_future())

    async def close(self) -> None:
        """End it."""
        await ended(self._hearing)
        self._control.close()
        try:
            await asyncio.wait_for(self._child.wait(), _END_S)
        except TimeoutError:
            self._child.kill()
            await self._child.wait()

    async def _answer(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_START_S):
                answer = await self._answers.get()
        except TimeoutError:
            self._child.kill()  # another one is started; an answer that came now would be taken for the next one's
            raise
        if answer is None:
            raise OSError("the process that makes workers has ended")
        return answer

    async def _hear(self) -> None:
        loop, rest = asyncio.get_running_loop(), b""
        with suppress(OSError):
            while octets := await loop.sock_recv(self._control, 64 << 10):
                *lines, rest = (rest + octets).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if "ended" in message:
                        self._status(message["ended"]).set_result(message["status"])
                    else:
                        self._answers.put_nowait(message)
        self._answers.put_nowait(None)
