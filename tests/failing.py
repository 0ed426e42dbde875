"""What fails around the sidecar, for real: stores that die, freeze, fill up or forget; a clock; a name server."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import struct
import subprocess
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from awake import awake
from children import PATIENCE_S
from fakes import DEADLINE_S
from telling import TEST_NUMBER, Sidecar

from sidecar.store.client import Store
from sidecar.store.embedded import find_server

SHIM: Final = Path(__file__).parent / "failure" / "shim.c"
# What the sidecar gives a command to the store, and as much again for a machine that is busy.
REFUSED_WITHIN_S: Final = 1.0 + 2.0
GUARD: Final = '[[routes]]\nmatch = "POST /guarded"\naction = "guard"\nlimits = ["ip"]\n'
TEST_CODE: Final = "246810"


# Stores…


@dataclass
class Server:
    """A Valkey of a test's own, on a unix socket. `options` are of its command line, `env` of its environment."""

    home: Path
    options: tuple[str, ...]
    env: Mapping[str, str]
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.home / 'valkey.sock'}"

    async def start(self, *options: str) -> None:
        """Start it, or start it again on the data that it has."""
        self.home.mkdir(exist_ok=True)
        words = ["--port", "0", "--unixsocket", "valkey.sock", "--dir", ".", "--save", "", "--appendonly", "yes"]
        words += ["--repl-diskless-sync-delay", "0", *self.options, *options]
        self.process = await asyncio.create_subprocess_exec(
            find_server(), *words, cwd=self.home, env={**os.environ, **self.env}, stdout=DEVNULL, stderr=DEVNULL
        )
        async with asyncio.timeout(PATIENCE_S):
            while not await self._answers():
                await asyncio.sleep(0.01)

    async def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(self.home / "valkey.sock")
            writer.close()
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def kill(self) -> None:
        """As when its machine dies: at once, and the place where it listened is there no more."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        (self.home / "valkey.sock").unlink(missing_ok=True)

    async def says(self, *words: str, password: str = "") -> Any:
        """Have it do a command, as its administrator, and give its answer."""
        store = Store(self.url.replace("//", f"//:{password}@" if password else "//"), timeout_s=DEADLINE_S)
        try:
            return await store.execute(None, *words)
        finally:
            await store.close()


@contextlib.asynccontextmanager
async def a_valkey(home: Path, *options: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """Run a store of a test's own."""
    server = Server(home, options, env or {})
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


# What everybody sees…


async def sees_no_store(sidecar: Sidecar, reason: str) -> None:
    """Plain traffic passes as ever, what is guarded is 503 in time, and who looks is told the reason.

    Where the store still reads, a code for the test number must wait.
    """
    before = await sidecar.metric('sidecar_refusals_total{code="store_unavailable"}')
    with awake() as took:
        replies = await asyncio.gather(
            sidecar.send(), sidecar.register(TEST_CODE, TEST_NUMBER), sidecar.ask("POST", "/guarded")
        )
        assert took() < REFUSED_WITHIN_S
    for reply in replies:
        assert (reply.status, reply.code, int(reply.headers["Retry-After"]) > 0) == (503, "store_unavailable", True)
    assert await sidecar.metric('sidecar_refusals_total{code="store_unavailable"}') == before + 3
    for method in ("GET", "POST"):
        with awake() as took:
            assert (await sidecar.ask(method, "/plain", data=b"x" * 100_000)).body == b"ok"
            assert took() < 1.0
    ready = await sidecar.admin("/readyz")
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert ready.json["store"]["takes_writes"] is False
    assert re.fullmatch(reason, ready.json["store"]["reason"]), ready.json
    assert (await sidecar.admin("/readyz?needs=store")).status == 503
    assert (await sidecar.admin("/healthz")).status == 200


async def sees_a_store(sidecar: Sidecar) -> None:
    """All that needs the store works, and readyz says so. A code for the test number waits then."""
    async with asyncio.timeout(DEADLINE_S):
        while (await sidecar.admin("/readyz?needs=store")).status != 200:
            await asyncio.sleep(0.01)
    assert (await sidecar.ask("POST", "/guarded")).status == 200
    assert (await sidecar.send(TEST_NUMBER)).status == 202
    assert (await sidecar.register(TEST_CODE, TEST_NUMBER)).status == 200
    assert (await sidecar.send(TEST_NUMBER)).status == 202


def told(lines: list[Any], event: str) -> list[dict[str, Any]]:
    """The lines of one event."""
    return [line for line in lines if line["event"] == event]


# A clock and a name server…


@dataclass(frozen=True)
class Shim:
    """What stands between a process and its system: `env` puts it there. See shim.c."""

    clock: Path
    hang: Path
    library: Path

    @property
    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "SHIM_CLOCK": str(self.clock), "SHIM_HANG": str(self.hang)}

    def jump(self, seconds: int) -> None:
        """Set the wall clock so far ahead of the machine's, of every process that has this shim."""
        with self.clock.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", seconds))


@contextlib.contextmanager
def a_shim(folder: Path) -> Iterator[Shim]:
    """Build the shim. Skips the test where there is no C compiler, or the system has another way to load libraries."""
    compiler = shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        pytest.skip("needs a C compiler and LD_PRELOAD: the clock and the name server are faked below the process")
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    shim = Shim(folder / "clock", folder / "hang", library)
    shim.clock.write_bytes(bytes(8))
    yield shim
