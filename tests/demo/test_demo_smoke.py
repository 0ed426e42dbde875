"""The whole demo as its user runs it: a child process, over real sockets, and what it leaves behind."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from children import PATIENCE_S

from sidecar.demo.ports import HOST, Ports

_STEPS = 10


async def start(*arguments: str) -> Process:
    command = (sys.executable, "-m", "sidecar", "demo", *arguments)
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)


async def ended(process: Process) -> tuple[int, str, str]:
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def demo() -> AsyncIterator[tuple[Process, Ports, Path]]:
    """A demo that is up; gives its process, its ports and its folder."""
    ports = Ports.any_free()
    process = await start("--port", str(ports.public))
    try:
        assert process.stdout is not None
        shown = ""
        async with asyncio.timeout(PATIENCE_S):
            while "Configuration and log:" not in shown:
                line = await process.stdout.readline()
                assert line, (await ended(process))[2]
                shown += line.decode()
        yield process, ports, Path(shown.rpartition(": ")[2].strip())
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await ended(process)


def descendants(pid: int) -> set[int]:
    """All processes below one, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


async def test_a_walk_through_both_operators_takes_every_step_and_exits_0() -> None:
    code, out, err = await ended(await start("--smoke"))
    assert (code, err) == (0, "")
    assert len(re.findall(r"✓ +\d+ .* ms$", out, re.MULTILINE)) == _STEPS
    assert "✗" not in out


async def test_a_walk_goes_on_when_the_first_operator_is_dead() -> None:
    code, out, _ = await ended(await start("--smoke", "--operators", "dead,ok"))
    assert code == 0, out


async def test_a_walk_with_both_operators_dead_exits_1_and_names_the_step() -> None:
    code, out, _ = await ended(await start("--smoke", "--operators", "dead,dead"))
    assert code == 1
    failed = [line for line in out.splitlines() if "✗" in line]
    assert len(failed) == 1
    assert "the message arrives on the handset" in failed[0]
    assert "operator a is dead, operator b is dead" in out
    assert "Failed at step 6" in out


async def test_a_running_demo_is_walked_with_its_own_switches_and_no_second_one_is_started() -> None:
    async with demo() as (_, ports, _):
        arguments = ("--smoke", "--port", str(ports.public))
        code, out, _ = await ended(await start(*arguments))
        assert code == 0, out
        async with aiohttp.ClientSession(ports.url("handset")) as handset:
            messages = await (await handset.get("/messages.json")).json()
            assert len(messages) == 1, "the walk's message came to this demo's handset"
            for name in "ab":
                await handset.post(f"/operators/{name}", json={"state": "dead"})
        code, out, _ = await ended(await start(*arguments))
        assert code == 1
        assert "Failed at step 6" in out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_ended_demo_exits_0_and_leaves_no_process_port_or_file(how: signal.Signals) -> None:
    async with demo() as (process, ports, folder):
        children = descendants(process.pid)
        assert len(children) >= 2, "the sidecar and its store"
        async with aiohttp.ClientSession(ports.url("handset")) as page, page.get("/events"):
            process.send_signal(how)
            process.send_signal(how)  # an impatient user
            code, _, err = await ended(process)
    assert (code, err) == (0, "")
    assert alive(children) == set()
    assert ports.taken() == ""
    assert not folder.exists()


async def test_a_demo_whose_sidecar_dies_says_so_and_exits_1() -> None:
    async with demo() as (process, _, _):
        for pid in descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code, _, err = await ended(process)
    assert code == 1
    assert "the sidecar ended by itself" in err


@pytest.mark.parametrize("name", ["public", "admin", "backend", "handset"])
async def test_a_port_in_use_is_named_with_the_option_that_helps(name: str) -> None:
    ports = Ports.any_free()
    port = getattr(ports, name)
    with socket.create_server((HOST, port)):
        code, out, err = await ended(await start("--port", str(ports.public)))
    assert (code, out) == (1, "")
    assert f"port {port} ({name}) is in use" in err
    assert "--port N" in err


@pytest.mark.parametrize("arguments", [("--operators", "ok,gone"), ("--port", "65533"), ("--port", "0")])
async def test_bad_usage_exits_2(arguments: tuple[str, str]) -> None:
    code, out, err = await ended(await start(*arguments))
    assert (code, out) == (2, "")
    assert arguments[0] in err
