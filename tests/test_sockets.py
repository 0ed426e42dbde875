"""Where the process listens: unix sockets, every address of the machine, descriptors."""

import errno
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes import free_port

from sidecar.config.units import Listen, read_listen
from sidecar.sockets import bound


@pytest.fixture
def open_here() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(stack: ExitStack, where: str, mode: int = 0o660) -> list[socket.socket]:
    return [stack.enter_context(one) for one in bound(read_listen(where), mode)]


def takes(family: socket.AddressFamily, address: tuple[str, int]) -> bool:
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex(address) == 0


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
def test_a_unix_socket_has_its_mode(open_here: ExitStack, tmp_path: Path, mode: int) -> None:
    listen(open_here, f"unix:{tmp_path}/s", mode)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


def test_a_socket_that_somebody_serves_is_not_taken_over(open_here: ExitStack, tmp_path: Path) -> None:
    """Also one whose queue is full; the one whom it belongs to goes on."""
    path = str(tmp_path / "s")
    theirs = open_here.enter_context(socket.socket(socket.AF_UNIX))
    theirs.bind(path)
    theirs.listen(0)
    waiting = []
    for _ in range(3):
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: another process serves that socket"):
            bound(Listen(path=path), 0o660)
        client = open_here.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        waiting.append(client.connect_ex(path))
    assert errno.EAGAIN in waiting, "the queue was never full"
    assert (tmp_path / "s").is_socket()


def test_a_socket_that_its_process_left_behind_is_replaced(open_here: ExitStack, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    listen(open_here, f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    """Whatever is in it, it was not ours."""
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OSError, match="it is no socket"):
        bound(Listen(path=str(tmp_path / "s")), 0o660)
    assert (tmp_path / "s").read_text() == "precious"


def test_without_a_host_it_listens_on_every_address(open_here: ExitStack) -> None:
    """IPv4, and IPv6 where the machine has it, on one port."""
    port = free_port()
    families = {one.family for one in listen(open_here, f":{port}")}
    assert takes(socket.AF_INET, ("127.0.0.1", port))
    if socket.AF_INET6 in families:
        assert takes(socket.AF_INET6, ("::1", port))


@pytest.mark.parametrize("lack", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_serves_ipv4(open_here: ExitStack, monkeypatch: pytest.MonkeyPatch, lack: int) -> None:
    """A kernel without it, or one that has it turned off; whatever the resolver says."""

    class Machine(socket.socket):
        def __init__(self, family: int = -1, *more: int) -> None:
            if family == socket.AF_INET6 and lack == errno.EAFNOSUPPORT:
                raise OSError(lack, "Address family not supported by protocol")
            super().__init__(socket.AF_INET if family == socket.AF_INET6 else family, *more)
            self.is_missing = family == socket.AF_INET6

        def setsockopt(self, *options: object) -> None:
            if not self.is_missing:
                super().setsockopt(*options)  # type: ignore[call-overload]

        def bind(self, address: object) -> None:
            if self.is_missing:
                raise OSError(lack, "Cannot assign requested address")
            super().bind(address)  # type: ignore[arg-type]

    both = [
        (family, socket.SOCK_STREAM, 6, "", address)
        for family, address in ((socket.AF_INET6, ("::", 0, 0, 0)), (socket.AF_INET, ("0.0.0.0", 0)))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    monkeypatch.setattr(socket, "socket", Machine)
    (one,) = listen(open_here, ":0")
    assert one.family == socket.AF_INET
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both[:1])
    with pytest.raises(OSError, match=r"cannot listen on \[::1\]:0"):
        listen(open_here, "[::1]:0")


def test_the_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    script = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (128, r.getrlimit(r.RLIMIT_NOFILE)[1]));"
        "from sidecar.sockets import raise_descriptors; print(raise_descriptors(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    raised, soft, hard = map(int, done.stdout.split())
    assert raised == soft
    assert soft == (hard if hard != resource.RLIM_INFINITY else 1 << 20)
