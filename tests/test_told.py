"""What is only told (a line, a metric) can hold up, repeat or lose nothing that is done: seen from outside."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from children import PATIENCE_S, Child, Run, command
from fakes import FakeUpstream

from sidecar.store.client import Store

HOOK = '[providers.hook]\nkind = "webhook"\nsecret = "s"\nurl = "{url}"\n'
WAYS = ["a closed pipe", "a full pipe", "a full disk", "a socket without a peer"]


@contextmanager
def nobody(way: str) -> Iterator[int]:
    """Give a stderr that takes nothing."""
    if way == "a full disk":
        taken = os.open("/dev/full", os.O_WRONLY)
        kept = None
    elif way == "a socket without a peer":
        mine, theirs = socket.socketpair()
        theirs.close()
        taken, kept = mine.detach(), None
    else:
        kept, taken = os.pipe()
        if way == "a closed pipe":
            os.close(kept)
            kept = None
        else:
            os.set_blocking(taken, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(taken, bytes(4096))
            os.set_blocking(taken, True)
    try:
        yield taken
    finally:
        os.close(taken)
        if kept is not None:
            os.close(kept)


@asynccontextmanager
async def hooked(run: Run, stderr: int, **changed: str) -> AsyncIterator[tuple[Child, FakeUpstream]]:
    """A sidecar whose vendor counts its messages."""
    async with FakeUpstream() as vendor:
        more = HOOK.format(url=vendor.url)
        yield await run(more, stderr=stderr, providers='["hook"]', access_log='"all"', **changed), vendor


@pytest.mark.parametrize("way", WAYS)
async def test_a_log_that_nobody_takes_repeats_and_loses_nothing(run: Run, way: str) -> None:
    """One request is one message, and done with; plain traffic flows; the store comes back; SIGTERM ends it with 0."""
    with nobody(way) as stderr:
        async with hooked(run, stderr) as (child, vendor):
            assert await child.asks("/.sidecar/v1/verifications", {"to": "+8613912345678"}) == 202
            await vendor.wait_for(lambda: len(vendor.requests) == 1)

            async def is_done() -> bool:
                return await child.metric("sidecar_outbox_messages") == 0

            await child.until(is_done)
            for _ in range(20):
                assert (await child.asked("/plain"))[0] == 200
            assert (await child.asked("/readyz", child.admin_port))[0] == 200

            async def is_counted() -> bool:
                return await child.metric("sidecar_log_lines_dropped_total") >= 20

            if way != "a full pipe":  # there, lines wait for somebody to read
                await child.until(is_counted)
            assert len(vendor.requests) == 1
            child.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                assert await child.process.wait() == 0


async def test_a_store_that_is_killed_comes_back_though_nobody_takes_the_log(run: Run, tmp_path: Path) -> None:
    """The embedded store's keeper and the courier go on: after two kills the next message is sent."""
    with nobody("a closed pipe") as stderr:
        async with hooked(run, stderr, store="embedded") as (child, vendor):
            store = Store(f"unix://{tmp_path / 'state' / 'store' / 'valkey.sock'}")

            async def is_sent() -> bool:
                await child.asks("/.sidecar/v1/verifications", {"to": "+8613912345678"})
                return bool(vendor.requests)

            for _ in range(2):
                info: bytes = await store.execute(None, "INFO", "server")
                os.kill(int(info.partition(b"process_id:")[2].split()[0]), signal.SIGKILL)
                await child.until(store.ping)
            await child.until(is_sent)
            await store.close()


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
async def test_it_starts_with_its_descriptors_closed(run: Run, closed: str) -> None:
    """No socket of ours gets the number of stderr, and with it the log; SIGTERM ends it with 0."""
    child = await run()
    child.process.send_signal(signal.SIGTERM)
    assert await child.ended() == 0
    shell = f'exec "{sys.executable}" -m sidecar run "{child.path}" {closed}'
    child.process = await asyncio.create_subprocess_exec("sh", "-c", shell)
    await child.serves()
    for _ in range(20):
        assert (await child.asked("/plain"))[0] == 200
    child.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        assert await child.process.wait() == 0


@pytest.mark.parametrize("command_name", ["run", "check"])
async def test_a_mistake_is_exit_code_2_whoever_reads(tmp_path: Path, command_name: str) -> None:
    """The complaint about a bad configuration may go nowhere; the exit code says it all the same."""
    path = tmp_path / "sidecar.toml"
    path.write_text("[serer]\n")
    for way in WAYS[:1] + WAYS[2:]:
        with nobody(way) as stderr:
            process = await command(command_name, str(path), stderr=stderr)
            await process.communicate()
            assert process.returncode == 2, way


@pytest.mark.parametrize("way", WAYS)
async def test_a_console_that_nobody_reads_holds_up_nothing(run: Run, way: str) -> None:
    """The development provider prints on stdout, and waits for nobody either."""
    with nobody(way) as stdout:
        child = await run(stdout=stdout)
        for number in range(20):
            assert await child.asks("/.sidecar/v1/verifications", {"to": f"+86139123456{number:02}"}) == 202
        for _ in range(20):
            await child.line("message_sent")
        assert (await child.asked("/plain"))[0] == 200
        child.process.send_signal(signal.SIGTERM)
        assert await child.ended() == 0


async def test_a_task_that_ends_is_told_by_readyz_and_comes_back(run: Run, tmp_path: Path) -> None:
    """What no task can work with in the store ends it, and not the process; mended, it works again."""
    child = await run(store="embedded")
    store = Store(f"unix://{tmp_path / 'state' / 'store' / 'valkey.sock'}")
    await store.execute(store.names.seen(), "SET", store.names.seen(), "no hash")
    line = await child.line("task_ended")
    assert (line["task"], line["error"]) == ("sightings", "ReplyError")

    async def ended() -> dict[str, str]:
        status, body = await child.asked("/readyz", child.admin_port)
        assert status == 200
        told: dict[str, str] = json.loads(body)["ended_tasks"]
        return told

    async def is_told() -> bool:
        return await ended() == {"sightings": "ReplyError"}

    async def works() -> bool:
        return not await ended()

    await child.until(is_told)
    assert await child.metric('sidecar_task_ends_total{task="sightings"}') >= 1
    await store.execute(store.names.seen(), "DEL", store.names.seen())
    await child.until(works)
    await store.close()


async def test_the_last_lines_are_written_before_the_end(run: Run) -> None:
    """A line that tells why the process ends is there, whole, when it has ended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        child = await run(listen=f"127.0.0.1:{taken.getsockname()[1]}", serves=False)
        assert await child.ended() == 1
    assert json.loads(child.log.splitlines()[-1])["event"] == "cannot_run"
