"""How does the whole story stand on one machine? Starts backend, handset, operators and the sidecar; ends them all.

Law: everything listens on 127.0.0.1 and leaves nothing behind: no process, no file. The sidecar is a child process,
started as a user would start it; nothing of it is imported here.
"""

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final, cast

import aiohttp
from aiohttp import web

from sidecar.demo.backend import Library
from sidecar.demo.colour import paint
from sidecar.demo.handset import Handset, State
from sidecar.demo.operators import Operators, open_accounts
from sidecar.demo.ports import HOST, MAX_FIRST, Ports
from sidecar.demo.smoke import AUDIENCE, is_running, walk

DEFAULT_PORT: Final = 8080

_CONFIG: Final = Template(files(__package__).joinpath("demo.toml").read_text(encoding="utf-8"))

# A cold start on a busy machine: Python, its imports, the store's process, the first keys.
_READY_WITHIN_S: Final = 20.0
# The demo's `drain` is one second; past this, the sidecar and its store are killed.
_GONE_WITHIN_S: Final = 4.0
_LAST_WORDS: Final = 15  # lines


class StageError(Exception):
    """The demo cannot stand. The text says what happened and what would help."""


def main(port: int | None, smoke: bool, operators: tuple[str, str]) -> int:
    """Run the demo until Ctrl-C, or walk one sign-up through it. `operators` are two of handset.STATES, for a and b.

    Returns the exit code: 0, 1 when it failed while running, 2 for bad usage.
    """
    if port is not None and not 1 <= port <= MAX_FIRST:
        return _fail(f"--port {port}: the demo takes four ports in a row; write 1 to {MAX_FIRST}", 2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a box's corner still gets the text
    states = dict(zip("ab", cast("tuple[State, State]", operators), strict=True))  # the command knows the words
    try:
        return asyncio.run(_smoke(port, states) if smoke else _show(port or DEFAULT_PORT, states))
    except StageError as error:
        return _fail(str(error), 1)
    except asyncio.CancelledError:  # Ctrl-C: how a demo ends, and how a walk fails
        return 1 if smoke else 0


def _fail(text: str, code: int) -> int:
    print(f"signup-sidecar demo: {text}", file=sys.stderr)
    return code


async def _show(port: int, states: dict[str, State]) -> int:
    _end_on_signals()
    ports = Ports.in_a_row(port)
    async with _stage(ports, states) as (sidecar, folder):
        print(_box(ports, folder), flush=True)
        await sidecar.wait()
        raise StageError(f"the sidecar ended by itself, with exit code {sidecar.returncode}{_last_words(folder)}")


async def _smoke(port: int | None, states: dict[str, State]) -> int:
    _end_on_signals()
    ports = Ports.any_free() if port is None else Ports.in_a_row(port)
    if port is not None and await is_running(ports):
        return await walk(ports)
    async with _stage(ports, states):
        return await walk(ports)


def _end_on_signals() -> None:
    """Let Ctrl-C, SIGTERM or a closed terminal cancel this task, once: ending is short, and hurry leaves orphans."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end() -> None:
        for one in signals:
            loop.add_signal_handler(one, lambda: None)
        if task is not None:
            task.cancel()

    for one in signals:
        loop.add_signal_handler(one, end)


# Starting…


@asynccontextmanager
async def _stage(ports: Ports, states: dict[str, State]) -> AsyncIterator[tuple[Process, Path]]:
    """Hold everything up, the sidecar ready; ends it all on the way out. Raises StageError."""
    taken = ports.taken()
    if taken:
        raise StageError(f"port {taken} is in use; choose another with --port N (N to N+3 must be free)")
    accounts = open_accounts()
    handset = Handset(ports.url("public", "/"), states)
    phones = web.Application()
    phones.add_routes([*handset.routes(), *Operators(handset, accounts).routes()])
    async with AsyncExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="sidecar-demo-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        await stack.enter_async_context(_served(Library().app(), ports.backend))
        await stack.enter_async_context(_served(phones, ports.handset))
        words = {"state_dir": json.dumps(str(folder / "state")), "audience": AUDIENCE}
        config = _CONFIG.substitute(asdict(ports) | asdict(accounts) | words)
        (folder / "demo.toml").write_text(config, encoding="utf-8")
        sidecar = await stack.enter_async_context(_sidecar(folder))
        await _ready(sidecar, ports, folder)
        yield sidecar, folder


@asynccontextmanager
async def _served(app: web.Application, port: int) -> AsyncIterator[None]:
    # Open event streams would be waited for; they are only pages, and may go.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _sidecar(folder: Path) -> AsyncIterator[Process]:
    """Run `signup-sidecar run` in a session of its own: Ctrl-C reaches us, and we end it."""
    command = (sys.executable, "-P", "-m", "sidecar", "run", str(folder / "demo.toml"))
    with (folder / "sidecar.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
            start_new_session=True,
            env=os.environ | {"no_proxy": "*"},  # the operators are on this machine, which no proxy reaches
        )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), _GONE_WITHIN_S)
        if child.returncode != 0:  # it died or hangs, and its store may live on: they are one process group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def _ready(sidecar: Process, ports: Ports, folder: Path) -> None:
    """Wait until /readyz says yes. Raises StageError."""
    try:
        async with asyncio.timeout(_READY_WITHIN_S), aiohttp.ClientSession() as session:
            while sidecar.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(ports.url("admin", "/readyz?needs=store,upstream")) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StageError(f"the sidecar was not ready within {_READY_WITHIN_S:.0f} s{_last_words(folder)}") from None
    raise StageError(f"the sidecar did not start: exit code {sidecar.returncode}{_last_words(folder)}")


def _last_words(folder: Path) -> str:
    lines = (folder / "sidecar.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return "; it said:\n" + "\n".join(f"  {line}" for line in lines[-_LAST_WORDS:]) if lines else "; it said nothing"


# Saying so…


def _box(ports: Ports, folder: Path) -> str:
    rows = (
        ("Sign up", ports.url("public", "/"), "any number, like 139 0000 0001"),
        ("Handset", ports.url("handset", "/"), "the code arrives here"),
        ("Members", ports.url("public", "/members"), "who got a card"),
        ("Requests", ports.url("public", "/journal"), "what the backend saw"),
        ("Backend", ports.url("backend", "/"), "the same app, unguarded"),
        ("Metrics", ports.url("admin", "/metrics"), "for Prometheus"),
    )
    name_width, url_width, hint_width = (max(map(len, column)) for column in zip(*rows, strict=True))
    width = name_width + url_width + hint_width + 4
    title = f"{'Signup Sidecar':<{width - 18}}Ctrl-C ends it all"
    lines = [paint(f"{title:<{width}}", "bold"), " " * width]
    for name, url, hint in rows:
        padding = " " * (2 + url_width - len(url))
        lines.append(f"{name:<{name_width}}  {paint(url, 'cyan')}{padding}{paint(f'{hint:<{hint_width}}', 'dim')}")
    edge = "─" * (width + 4)
    shown = "\n".join(f" │  {line}  │" for line in lines)
    return f"\n ╭{edge}╮\n{shown}\n ╰{edge}╯\n   Configuration and log: {folder}\n"
