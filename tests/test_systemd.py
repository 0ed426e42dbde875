"""sidecar/systemd.py: sockets that the service manager has opened, and what it is told, over its real protocols."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from children import PATIENCE_S, Run
from fakes import FakeUpstream

from sidecar import systemd

# As systemd starts a service: its sockets from descriptor 3 on, and the process id that they are meant for.
LAUNCHER = """
import os, sys
names, command, given = sys.argv[1], sys.argv[2:], os.environ.pop("GIVEN").split(",")
held = [os.dup(int(number)) for number in given]
for index, number in enumerate(held):
    os.dup2(number, 3 + index)
    os.set_inheritable(3 + index, True)  # also where it was there already
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)), LISTEN_FDNAMES=names)
os.execvp(command[0], command)
"""


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_serves_on_the_sockets_that_it_is_given(tmp_path: Path, store_url: str, workers: int) -> None:
    """Public and admin, by their names; whoever connected before it served is served, and the manager is told."""
    async with FakeUpstream() as upstream:
        config = tmp_path / "sidecar.toml"
        config.write_text(
            f'[server]\nlisten = "127.0.0.1:1"\nadmin = "127.0.0.1:2"\nstate_dir = "{tmp_path}"\nworkers = {workers}\n'
            f'secret = "systemd-secret-systemd-secret-systemd"\n[upstream]\nurl = "{upstream.url}"\n'
            f'[store]\nurl = "{store_url}"\n[providers.console]\nkind = "console"\n'
            '[[delivery]]\nproviders = ["console"]\n'
        )
        with (
            socket.create_server(("127.0.0.1", 0)) as public,
            socket.create_server(("127.0.0.1", 0)) as admin,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        ):
            manager.bind(str(tmp_path / "notify"))
            manager.setblocking(False)
            early_to, admin_to = public.getsockname(), admin.getsockname()
            early = socket.create_connection(public.getsockname())
            early.sendall(b"GET /early HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", LAUNCHER, "public:admin", sys.executable, "-m", "sidecar", "run", str(config)),
                env={
                    **os.environ,
                    "GIVEN": f"{public.fileno()},{admin.fileno()}",
                    "NOTIFY_SOCKET": f"{tmp_path}/notify",
                },
                pass_fds=(public.fileno(), admin.fileno()),
                stderr=PIPE,
            )
            try:
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(PATIENCE_S / 2):
                    assert await loop.sock_recv(manager, 1024) == b"READY=1"
                    early.setblocking(False)
                    assert (await loop.sock_recv(early, 1024)).startswith(b"HTTP/1.1 200 ")
                    reader, writer = await asyncio.open_connection(*admin.getsockname())
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
                    writer.close()
                    process.send_signal(1)
                    told = await loop.sock_recv(manager, 1024)
                    assert told.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
                    assert await loop.sock_recv(manager, 1024) == b"READY=1"
                    process.terminate()
                    assert await loop.sock_recv(manager, 1024) == b"STOPPING=1"
                    assert await process.wait() == 0
            finally:
                early.close()
                if process.returncode is None:
                    process.kill()
                log = (await process.communicate())[1].decode()
        listening = next(json.loads(line) for line in log.splitlines() if '"listening"' in line)
        assert listening["public"] == "{}:{}".format(*early_to)
        assert listening["admin"] == "{}:{}".format(*admin_to)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_takes_no_connections_is_refused(kind: int) -> None:
    """As of Accept=yes or ListenDatagram=: it would be ready, and serve nobody."""
    with socket.socket(socket.AF_INET, kind) as one:
        given = os.dup(one.fileno())
        code = (
            "import os; from sidecar import systemd\n"
            f"os.dup2({given}, 3); os.set_inheritable(3, True)\n"
            "systemd.activated({'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}, os.getpid())"
        )
        done = subprocess.run([sys.executable, "-c", code], pass_fds=[given], capture_output=True, check=False)
        os.close(given)
    assert b"ValueError: systemd hands over a socket that takes no connections" in done.stderr


async def test_sockets_of_somebody_else_are_left_alone(run: Run) -> None:
    """LISTEN_PID names another process: a child of whoever was activated binds its own."""
    child = await run(env={"LISTEN_PID": "1", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/nowhere/notify"})
    assert (await child.asked("/open"))[0] == 200


def test_nothing_is_done_where_nothing_is_said() -> None:
    """No variable, or one that is none."""
    assert systemd.activated({}, os.getpid()) == ([], [])
    assert systemd.activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}, os.getpid()) == ([], [])
    systemd.notify({}, "READY=1")
    systemd.notify({"NOTIFY_SOCKET": "relative"}, "READY=1")
