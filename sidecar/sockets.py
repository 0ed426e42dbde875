"""Where does the process listen, and how many connections may it have?

Its law: what somebody else still serves is not taken over; every address that this machine has is served, and one that
it has not is no reason not to start.
"""

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from sidecar import machine
from sidecar.config.units import Listen

# How many connections may wait to be taken: a launch day's first second.
_BACKLOG: Final = 1024
# A socket that somebody serves takes a connection at once, or has too many waiting.
_SERVED_S: Final = 1.0
# This machine has no such family (a kernel without IPv6), or not this address (IPv6 turned off).
_NOT_HERE: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
# Where the system sets no limit: more than one process serves.
_MOST_DESCRIPTORS: Final = 1 << 20


def bound(where: Listen, socket_mode: int) -> list[socket.socket]:
    """Listen there: on every address that a name has here, without a host on every address that this machine has.

    A unix socket gets `socket_mode`; the socket file of a process that has died is replaced. Raises OSError.
    """
    with _told(where), ExitStack() as ours:
        made = [ours.enter_context(_unix(where.path, socket_mode))] if where.path else _tcp(where, ours)
        for one in made:
            one.setblocking(False)
            one.listen(_BACKLOG)
        ours.pop_all()
        return made


def _tcp(where: Listen, ours: ExitStack) -> list[socket.socket]:
    made: list[socket.socket] = []
    missing: OSError | None = None
    infos = socket.getaddrinfo(where.host or None, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(infos):
        try:
            made.append(ours.enter_context(_bound_tcp(family, address)))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            missing = error
    if not made and missing is not None:
        raise missing
    return made


def _bound_tcp(family: int, address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # its IPv4 sibling has the same port
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _unix(path: str, mode: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        if _is_left_over(path):
            Path(path).unlink()
        before = os.umask(0o777 & ~mode)  # from the first moment on, and not only after a chmod
        try:
            made.bind(path)
        finally:
            os.umask(before)
    except BaseException:
        made.close()
        raise
    return made


def _is_left_over(path: str) -> bool:
    """Return true if there is a socket that nobody serves. Raises OSError where somebody does, or may."""
    try:
        is_socket = stat.S_ISSOCK(Path(path).stat().st_mode)
    except FileNotFoundError:
        return False
    if not is_socket:
        raise FileExistsError(errno.EEXIST, "there is a file of that name, and it is no socket")
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_SERVED_S)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            return True
        except (TimeoutError, BlockingIOError):
            pass  # its queue is full: somebody is there, and busy
    raise OSError(errno.EADDRINUSE, "another process serves that socket")


@contextmanager
def _told(where: Listen) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot listen on {where}: {error.strerror or error}") from error


def raise_descriptors() -> int:
    """Have as many file descriptors as the system lets us: a connection takes one, and one more to upstream.

    Gives how many there are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):  # macOS has a limit of its own under an infinite one
            return soft
        return most
    return soft


def most_clients(descriptors: int) -> int:
    """Say how many client connections so many descriptors are enough for.

    Each may need one to upstream, and a quarter is for all else: the store, vendors, health checks, log and files. So
    the descriptors never run out, and whoever was let in is served.
    """
    return descriptors * 3 // 8


def most_held(workers: int) -> int:
    """Say how many octets the clients of one of so many workers may make it hold: all of them half of the memory."""
    return machine.memory() // 2 // workers
