"""The sidecar as its operator has it: a child process, its log, its signals, its exit code."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import pytest_asyncio
from fakes import FakeUpstream, free_port

from sidecar.store.client import Store

T = TypeVar("T")

# A start takes a second on an idle machine; tests run on busy ones.
PATIENCE_S: Final = 120.0
# How long one that no test has ended may drain.
_DRAIN_S: Final = 1.0

# A store that is there already: what is tested here is the process, not the embedded store.
CONFIG: Final = """
[server]
listen = "{listen}"
admin = "127.0.0.1:{admin_port}"
state_dir = "{state}"
workers = 1
drain = "20s"
drain_delay = "0s"
socket_mode = "0660"
secret = "children-secret-children-secret-children"
public_url = ""
trusted_proxies = []
proxy_protocol = false
access_log = "guarded"
tls = {{}}
[upstream]
url = "{upstream}"
[store]
url = "{store}"
[api]
captcha = ""
limits = []
[numbers]
test = {{ "+8613800000000" = "246810" }}
[providers.console]
kind = "console"
[[delivery]]
providers = ["console"]
"""


def rewritten(text: str, more: str, changed: Mapping[str, str]) -> str:
    """A configuration with `more` at its end, and each key of `changed` with another value, as TOML has it."""
    for key, value in changed.items():
        (old,) = [line for line in text.splitlines() if line.startswith(f"{key} = ")]
        text = text.replace(old, f"{key} = {value}")
    return text + more


@dataclass
class Child:
    """A running `signup-sidecar run`, and the upstream behind it."""

    process: Process
    path: Path
    text: str
    listen: str
    admin_port: int
    upstream: FakeUpstream
    lines: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    async def line(self, event: str) -> dict[str, Any]:
        """The next line of the log that tells of `event`."""
        return await self.line_that(lambda line: line["event"] == event)

    async def line_that(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next line of the log that fits."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while raw := await self.process.stderr.readline():
                self.log += raw.decode()
                self.lines.append(json.loads(raw))
                if fits(self.lines[-1]):
                    return self.lines[-1]
        raise AssertionError(f"no such line in {self.log}")

    def rewrite(self, more: str = "", **changed: str) -> None:
        """Write the configuration anew: what it was, with `more` tables, and keys with other values."""
        self.path.write_text(rewritten(self.text, more, changed), encoding="utf-8")

    async def reload(self, event: str) -> dict[str, Any]:
        self.process.send_signal(signal.SIGHUP)
        return await self.line(event)

    async def ended(self) -> int:
        """The exit code; the rest of the log is in `log`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            self.log += (await self.process.stderr.read()).decode()
            return await self.process.wait()

    async def asked(self, path: str, port: int | None = None, **more: Any) -> tuple[int, bytes]:
        """One GET of the public listener, or of another port."""
        url = f"http://127.0.0.1:{port}" if port else self.url
        async with aiohttp.ClientSession() as session, session.get(url + path, **more) as answer:
            return answer.status, await answer.read()

    async def asks(self, path: str, body: Any) -> int:
        """One POST of JSON to the public listener."""
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as answer:
            await answer.read()
            return answer.status

    async def serves(self) -> None:
        """Wait until it answers, of one whose log nobody sees."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert self.process.returncode is None
                with suppress(aiohttp.ClientError):
                    await self.asked("/healthz", self.admin_port)
                    return
                await asyncio.sleep(0.05)

    async def metric(self, line: str) -> float:
        """The value of a metric, named with its labels as the exposition has it."""
        text = (await self.asked("/metrics", self.admin_port))[1].decode()
        found = [entry.rpartition(" ")[2] for entry in text.splitlines() if entry.rpartition(" ")[0] == line]
        return float(found[0]) if found else 0.0

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Look again and again until it is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not await holds():
                await asyncio.sleep(0.05)


async def command(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdout: int | None = PIPE,
    stderr: int | None = PIPE,
    limits: str = "",
) -> Process:
    """Start `signup-sidecar` with arguments; `limits`: what `ulimit` is told before, such as "-n 64"."""
    whole = (sys.executable, "-m", "sidecar", *arguments)
    if limits:
        whole = ("sh", "-c", f'ulimit {limits} && exec "$@"', "sh", *whole)
    return await asyncio.create_subprocess_exec(*whole, stdout=stdout, stderr=stderr, env={**os.environ, **(env or {})})


async def said(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command to its end: its exit code, stdout and stderr."""
    process = await command(*arguments, env=env)
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Pipe:
    """A file that says something else to each who reads it, one after the other."""

    def __init__(self, path: Path, readers: list[int]) -> None:
        self._path = path
        self._readers = readers

    def says(self, *texts: str) -> None:
        """Say each of these to whoever opens the file next. Blocks until all have read."""
        for text in texts:
            writing = _until(self._opened)
            # Who does not read to the end could open it again between these two, and would be said nothing.
            with _standing_still(_until(self._reader)):
                os.write(writing, text.encode())
                os.close(writing)
            _until(lambda: not self._reader())

    def _opened(self) -> int | None:
        with suppress(OSError):  # nobody opens it
            return os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        return None

    def _reader(self) -> int | None:
        """The process that has it open."""
        for pid in self._readers:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # closed just now
                    if link.readlink() == self._path:
                        return pid
        return None


@contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    """Stop a process while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    _until(lambda: {_state(task) for task in Path(f"/proc/{pid}/task").iterdir()} == {"T"})
    yield
    os.kill(pid, signal.SIGCONT)


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def _until(found: Callable[[], T | None]) -> T:
    until = time.monotonic() + PATIENCE_S
    while not (it := found()):
        assert time.monotonic() < until
        time.sleep(0.001)
    return it


Run = Callable[..., Awaitable[Child]]


@pytest_asyncio.fixture
async def run(tmp_path: Path, store_url: str) -> AsyncIterator[Run]:
    """Start sidecars as child processes, and wait until each serves; on a store without the last test's keys."""
    async with AsyncExitStack() as stack:
        emptied = Store(store_url)
        await emptied.execute(None, "FLUSHALL")
        await emptied.close()

        async def begin(
            more: str = "",
            *,
            listen: str = "",
            store: str = "",
            serves: bool = True,
            stderr: int = PIPE,
            stdout: int = PIPE,
            env: Mapping[str, str] | None = None,
            limits: str = "",
            host: str = "127.0.0.1",
            options: Sequence[str] = (),
            **changed: str,
        ) -> Child:
            upstream = await stack.enter_async_context(FakeUpstream())
            listen = listen or f"127.0.0.1:{free_port()}"
            admin_port = free_port()
            text = CONFIG.format(
                listen=listen,
                admin_port=admin_port,
                state=tmp_path / "state",
                upstream=upstream.url.replace("127.0.0.1", host),
                store=store or store_url,
            )
            path = tmp_path / "sidecar.toml"
            path.write_text(rewritten(text, more, changed), encoding="utf-8")
            process = await stack.enter_async_context(_process(path, options, stdout, stderr, env, limits))
            child = Child(process, path, text, listen, admin_port, upstream)
            if serves and stderr == PIPE:
                await child.line("listening")
            elif serves:
                await child.serves()
            return child

        yield begin


@asynccontextmanager
async def _process(
    path: Path, options: Sequence[str], stdout: int, stderr: int, env: Mapping[str, str] | None, limits: str
) -> AsyncIterator[Process]:
    process = await command("run", str(path), *options, stdout=stdout, stderr=stderr, env=env, limits=limits)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()  # one that drains says which lines it has run
        ending = asyncio.create_task(process.communicate())
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ending), _DRAIN_S)
        with suppress(ProcessLookupError):
            process.kill()
        await ending
