"""sidecar/fleet.py, worker.py, fork_server.py: several workers as their operator has them, with real signals."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from awake import awake
from children import PATIENCE_S, Child, Pipe, Run
from fakes import OK, Message, Taken, read_content
from vendors import vendor

from sidecar import fleet
from sidecar.fleet import _ForkServer, _Process
from sidecar.worker import _message

DENY = '[[routes]]\nmatch = "GET /closed"\naction = "deny"\n'
TWO = {"workers": "2"}


def pids(child: Child) -> list[int]:
    """The process ids of the workers that the log has told of so far."""
    return [line["worker"] for line in child.lines if line["event"] == "worker_serves"]


async def serving(child: Child) -> int:
    return int(json.loads((await child.asked("/readyz", child.admin_port))[1])["workers"]["serving"])


def is_there(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Load:
    """Clients that ask on kept connections and on new ones, one after the other, until told to stop."""

    def __init__(self, child: Child, path: str = "/open") -> None:
        self.statuses: list[int] = []
        self.failures: list[BaseException] = []
        self._child = child
        self._path = path
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask(is_kept=bool(n % 2))) for n in range(8)]
        await self.more()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait(self._tasks)

    async def more(self, count: int = 50) -> None:
        """Wait for so many more answers."""
        wanted = len(self.statuses) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.statuses) < wanted:
                await asyncio.sleep(0)

    async def _ask(self, *, is_kept: bool) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=not is_kept)) as session:
            while not self._stop.is_set():
                try:
                    async with session.get(self._child.url + self._path) as answer:
                        await answer.read()
                        self.statuses.append(answer.status)
                except aiohttp.ClientError as error:
                    self.failures.append(error)


async def test_a_killed_worker_is_replaced_and_nothing_that_it_counted_is_lost(run: Run) -> None:
    """The log says which and why, the others serve on, and the counters only grow."""
    child = await run(**TWO, access_log='"off"')
    for _ in range(20):
        assert (await child.asked("/open"))[0] == 200
    requests = 'sidecar_requests_total{action="pass",outcome="forwarded"}'
    assert await child.metric(requests) == 20
    killed = (pids(child))[0]
    await asyncio.sleep(0)
    os.kill(killed, signal.SIGKILL)
    ended = await child.line("worker_ended")
    assert (ended["worker"], "SIGKILL" in ended["why"]) == (killed, True)
    again = await child.line("worker_serves")
    assert again["worker"] not in {killed, (pids(child))[1]}
    assert await serving(child) == 2
    for _ in range(20):
        assert (await child.asked("/open"))[0] == 200
    assert await child.metric(requests) == 40


def _connections(pid: int, port: int) -> int:
    """How many connections to a port a process has open."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].partition(":")[2], 16) == port and row[3] == "01"}
    held = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held += str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]") in inodes
    return held


async def test_kept_connections_spread_over_the_workers(run: Run) -> None:
    """A balancer's kept connections, opened while nobody asks, reach all workers; and a replaced one gets its share."""
    child = await run(DENY, **TWO)
    port = int(child.url.rpartition(":")[2])

    writers: list[asyncio.StreamWriter] = []

    async def opened(count: int) -> None:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /closed HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writers.append(writer)

    async def has_a_share(pid: int, before: int, share: float) -> bool:
        """Open more connections: nobody waits for a worker whom the machine lets wait, so it has its share later."""
        for _ in range(20):
            if _connections(pid, port) >= share * (len(writers) - before):
                return True
            await opened(8)
        return False

    await opened(32)
    first = pids(child)
    assert sum(_connections(pid, port) for pid in first) == 32
    assert all([await has_a_share(pid, 0, 0.25) for pid in first])
    os.kill(first[0], signal.SIGKILL)
    again = int((await child.line("worker_serves"))["worker"])
    before, kept = len(writers), _connections(first[1], port)
    await opened(kept)
    assert await has_a_share(again, before, 0.5)
    for writer in writers:
        writer.close()


async def test_what_a_killed_worker_accepted_is_sent(run: Run) -> None:
    """202 means that it will be sent: whoever lives takes up what was leased."""
    async with vendor() as hook:
        hook.hangs(202, "{}")
        tables = f'[providers.hook]\nkind = "webhook"\nurl = "{hook.url}"\nsecret = "s"\n'
        child = await run(tables, **TWO, providers='["hook"]')
        numbers = [f"+8613900000{n:03}" for n in range(20)]
        for number in numbers:
            assert await child.asks("/.sidecar/v1/verifications", {"to": number}) == 202
        for pid in pids(child):
            os.kill(pid, signal.SIGKILL)
        hook.released.set()
        hook.answers(202, "{}")
        await child.until(_all_sent(hook, numbers))


def _all_sent(hook: Any, numbers: list[str]) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return {json.loads(asked.body)["to"] for asked in hook.asked} >= set(numbers)

    return check


async def test_a_reload_reaches_all_workers_and_fails_nobody(run: Run) -> None:
    """Under load: no request fails, and each worker has the new routes, one made later too; not a bad file's."""
    child = await run(**TWO)
    before = pids(child)
    async with Load(child) as load:
        child.rewrite(DENY, **TWO)
        await child.reload("reloaded")
        for _ in range(30):  # on new connections, which go to either
            assert (await child.asked("/closed"))[0] == 403
        child.rewrite('[[routes]]\nmatch = "GET /open"\naction = "dney"\n', **TWO)
        assert "routes[0].action" in (await child.reload("reload_refused"))["problems"][0]
        os.kill(before[0], signal.SIGKILL)
        await child.line("worker_serves")
        for _ in range(30):
            assert (await child.asked("/closed"))[0] == 403  # the new one has what was good last
        await load.more()
    assert set(load.statuses) == {200}
    assert len(load.failures) <= 8  # those whose worker was killed


async def test_a_configuration_that_no_worker_could_use_is_nobodys(run: Run) -> None:
    """It is read without a fault, and another instance has another secret: a worker made later has the old one."""
    child = await run(**TWO)
    child.rewrite(DENY, secret='"another-secret-another-secret-another"', **TWO)
    assert "server.secret" in (await child.reload("reload_refused"))["error"]
    for pid in pids(child):
        os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        await child.line("worker_serves")
    assert (await child.asked("/closed"))[0] == 200
    child.rewrite(DENY, **TWO)
    await child.reload("reloaded")
    assert (await child.asked("/closed"))[0] == 403


async def test_a_configuration_that_not_all_workers_could_use_is_nobodys(run: Run, tmp_path: Path) -> None:
    """The second finds a file gone bad that the first has used: the first has the old routes again, and so has each
    that is made later."""
    secret = tmp_path / "state" / "secret"
    secret.parent.mkdir()
    secret.write_text("children-secret-children-secret-children")
    child = await run(secret='""', **TWO)
    kept = secret.read_text()
    secret.unlink()
    os.mkfifo(secret)
    child.rewrite(DENY, secret='""', **TWO)
    child.process.send_signal(signal.SIGHUP)
    # To the parent, to the first, and to the second; then to the first again.
    pipe = Pipe(secret, [child.process.pid, *pids(child)])
    await asyncio.to_thread(pipe.says, kept, kept, "", kept, kept)
    assert "empty" in (await child.line("reload_refused"))["error"]
    for pid in [0, *pids(child)]:
        if pid:
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(secret.write_text, kept)
            await child.line("worker_serves")
        for _ in range(20):
            assert (await child.asked("/closed"))[0] == 200


async def test_who_makes_workers_and_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is started then; its late answer would be taken for that to the next question."""
    monkeypatch.setattr(fleet, "_START_S", 0.1)
    ours, its = socket.socketpair()
    child = await asyncio.create_subprocess_exec("sleep", "1000", pass_fds=[its.fileno()])
    its.close()
    ours.setblocking(False)
    making = _ForkServer(child, ours)
    with pytest.raises(TimeoutError):
        await making.fork(ours)
    assert await child.wait() == -signal.SIGKILL
    async with asyncio.timeout(PATIENCE_S):
        while not making.is_over:
            await asyncio.sleep(0)
    await making.close()


# What the parent warns of as it reads it, and no worker does: it has read it by then.
WARNED = '[captcha.altcha]\nkind = "altcha"\nmax_rise = 100\n'


async def test_all_workers_serve_by_the_same_version_of_a_file_that_changes_meanwhile(run: Run) -> None:
    """It is read once, by whoever reloads: what is written afterwards is nobody's before the next reload."""
    child = await run(**TWO)
    for pid in pids(child):
        os.kill(pid, signal.SIGSTOP)
    child.rewrite(DENY + WARNED, **TWO)
    child.process.send_signal(signal.SIGHUP)
    await child.line("config")
    child.rewrite("nonsense", **TWO)
    for pid in pids(child):
        os.kill(pid, signal.SIGCONT)
    await child.line("reloaded")
    for _ in range(20):
        assert (await child.asked("/closed"))[0] == 403
    os.kill(pids(child)[0], signal.SIGKILL)
    await child.line("worker_ended")
    async with asyncio.timeout(PATIENCE_S):
        while await serving(child) < 2:
            await asyncio.sleep(0.05)
    for _ in range(20):
        assert (await child.asked("/closed"))[0] == 403


async def test_sigterm_waits_for_no_reload(run: Run) -> None:
    """Workers that hang as they take a configuration over are given up after the drain, and not after half a minute."""
    child = await run(**TWO, drain='"1s"')
    for pid in pids(child):
        os.kill(pid, signal.SIGSTOP)
    child.rewrite(DENY + WARNED, **TWO, drain='"1s"')
    child.process.send_signal(signal.SIGHUP)
    await child.line("config")
    with awake() as took:
        child.process.send_signal(signal.SIGTERM)
        assert (await child.line("reload_refused"))["error"] == "told to stop"
        assert await child.ended() == 0
        assert took() < 15


async def test_a_worker_that_has_ended_holds_up_no_reload() -> None:
    """It is passed over, whether it ended before it was asked or afterwards; and one that is late ends nobody."""
    ours, its = socket.socketpair()
    process = _Process(*await asyncio.open_connection(sock=ours), os.getpid())
    hearing = asyncio.create_task(process.hear())
    asked = asyncio.create_task(process.reload(b""))
    await asyncio.sleep(0)
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked
    again = asyncio.create_task(process.reload(b""))
    its.sendall(b'{"reloaded": ""}\n')
    assert await again == ""
    again = asyncio.create_task(process.reload(b""))
    await asyncio.sleep(0)
    its.close()
    assert await again is None
    await hearing
    assert await process.reload(b"") is None


async def test_a_worker_that_ends_in_the_middle_of_a_line_has_ended() -> None:
    """Killed while it says what it has counted, more than its socket takes at once: it is replaced all the same."""
    ours, its = socket.socketpair()
    process = _Process(*await asyncio.open_connection(sock=ours), os.getpid())
    hearing = asyncio.create_task(process.hear())
    its.sendall(b'{"report": {"sidecar_requests_total": [[')
    its.close()
    async with asyncio.timeout(PATIENCE_S):
        await process.over.wait()
        await hearing
    assert await process.reload(b"") is None


async def test_a_parent_that_is_killed_in_the_middle_of_a_line_has_gone() -> None:
    """A worker that reads half of a configuration drains, as after any other end of its parent."""
    ours, its = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    its.sendall(b'{"reload": "gASV')
    its.close()
    async with asyncio.timeout(PATIENCE_S):
        assert await _message(reader) is None
    writer.close()


async def test_a_drain_ends_what_is_under_way_in_every_worker(run: Run) -> None:
    """SIGTERM: in-flight requests finish, new ones are refused, no process is left, the exit code is 0."""
    may = asyncio.Event()

    async def late(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await may.wait()
        await taken.write(OK)

    child = await run(**TWO)
    child.upstream.answer = late
    in_flight = [asyncio.create_task(child.asked("/slow")) for _ in range(10)]
    await child.upstream.wait_for(lambda: len(child.upstream.requests) == 10)
    child.process.send_signal(signal.SIGTERM)
    await child.line("draining")
    status, body = await child.asked("/readyz", child.admin_port)
    assert (status, json.loads(body)["status"]) == (503, "draining")

    async def is_closed() -> bool:
        try:
            async with asyncio.timeout(1):
                await child.asked("/new")
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
            return True
        except TimeoutError:
            return False
        return False

    await child.until(is_closed)
    may.set()
    assert set(await asyncio.gather(*in_flight)) == {(200, b"ok")}
    assert await child.ended() == 0
    assert not [pid for pid in pids(child) if is_there(pid)]


async def test_workers_end_with_their_parent(run: Run) -> None:
    """A killed parent leaves nobody behind who would serve, or send, unseen."""
    child = await run(**TWO, drain='"1s"')
    workers = pids(child)
    child.process.kill()
    async with asyncio.timeout(PATIENCE_S):
        while any(is_there(pid) for pid in workers):
            await asyncio.sleep(0.02)


async def test_whoever_takes_a_killed_parents_place_can_listen_at_once(run: Run) -> None:
    """Workers that drain go on with what is under way; nobody holds the port meanwhile, no child of theirs either."""
    may = asyncio.Event()

    async def late(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await may.wait()
        await taken.write(OK)

    child = await run('[captcha.slider]\nkind = "slider"\n', **TWO, drain='"300s"', captcha='"slider"')
    child.upstream.answer = late
    in_flight = asyncio.create_task(child.asked("/slow"))
    await child.upstream.wait_for(lambda: len(child.upstream.requests) == 1)
    child.process.kill()
    host, _, port = child.listen.rpartition(":")

    async def is_free() -> bool:
        with socket.socket() as one, suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, int(port)))
            return True
        return False

    await child.until(is_free)
    may.set()
    assert await in_flight == (200, b"ok")


async def test_a_worker_is_replaced_though_whoever_made_it_was_killed(run: Run) -> None:
    """The process that forks is made anew; the workers that it made serve on meanwhile."""
    child = await run(**TWO)
    first, second = pids(child)
    maker = parent_of(first)
    assert maker not in {child.process.pid, 1}
    os.kill(maker, signal.SIGKILL)
    os.kill(first, signal.SIGKILL)
    replaced = await child.line("worker_serves")
    assert replaced["worker"] not in {first, second}
    assert await serving(child) == 2


async def test_a_worker_that_is_ended_alone_drains_and_is_replaced(run: Run) -> None:
    """SIGTERM to a worker is no end of the service."""
    child = await run(**TWO)
    os.kill((pids(child))[0], signal.SIGTERM)
    ended = await child.line("worker_ended")
    assert ended["why"] == "exit code 0"
    await child.line("worker_serves")
    assert (await child.asked("/open"))[0] == 200


async def test_what_no_worker_can_use_is_no_service(run: Run, tmp_path: Path) -> None:
    """Exit code 1 and a line that says what, as without workers."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "secret").write_text("")
    child = await run(serves=False, secret='""', **TWO)
    await child.line("cannot_run")
    assert await child.ended() == 1


async def test_a_file_that_changes_is_loaded(run: Run, tmp_path: Path) -> None:
    """`--watch`: the configuration, or a mounted secret that is pointed elsewhere; what is bad is refused."""
    (tmp_path / "one").write_text("whsec_b25lb25l")
    (tmp_path / "two").write_text("whsec_dHdvdHdv")
    mounted = tmp_path / "secret"
    mounted.symlink_to(tmp_path / "one")
    hook = f'[providers.hook]\nkind = "webhook"\nurl = "http://127.0.0.1:1"\nsecret = "${{file:{mounted}}}"\n'
    child = await run(hook, options=["--watch"], **TWO)
    child.rewrite(hook + DENY, **TWO)
    await child.line("reloaded")
    assert (await child.asked("/closed"))[0] == 403
    again = tmp_path / "again"
    again.symlink_to(tmp_path / "two")
    again.rename(mounted)
    await child.line("reloaded")
    child.rewrite(hook + "[[routes]]\n", **TWO)
    await child.line("reload_refused")
    assert (await child.asked("/closed"))[0] == 403


async def test_what_cannot_be_a_files_name_ends_no_watch(run: Run) -> None:
    """It is refused, as any mistake; and what is written next is loaded."""
    child = await run(options=["--watch"])
    child.rewrite('[providers.hook]\nkind = "webhook"\nurl = "http://127.0.0.1:1"\nsecret = "${file:/a\\u0000b}"\n')
    await child.line("reload_refused")
    child.rewrite(DENY)
    await child.line("reloaded")
    assert (await child.asked("/closed"))[0] == 403
