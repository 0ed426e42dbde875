"""What does the service manager know? Sockets that it has opened for us, and what we tell it of our state.

sd_listen_fds(3) and sd_notify(3) of systemd. Each is an environment variable: where there is none, nothing is done.
"""

import os
import socket
import time
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Final

from sidecar.config.units import Listen

_FIRST: Final = 3  # SD_LISTEN_FDS_START


def activated(env: MutableMapping[str, str], pid: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """The sockets that the manager listens on for us: public ones, and those whose FileDescriptorName is "admin".

    Takes the variables out of `env`, so that no child believes them to be its own. Raises ValueError for one that no
    connection comes from.
    """
    own = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", ""), env.pop("LISTEN_FDNAMES", "")
    if own[0] != str(pid) or not own[1].isdecimal():
        return [], []
    names = own[2].split(":")
    public: list[socket.socket] = []
    admin: list[socket.socket] = []
    for index in range(int(own[1])):
        one = socket.socket(fileno=_FIRST + index)
        if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(
                "systemd hands over a socket that takes no connections; write ListenStream=, and no Accept="
            )
        one.setblocking(False)
        os.set_inheritable(one.fileno(), False)
        is_admin = index < len(names) and names[index] == "admin"
        (admin if is_admin else public).append(one)
    return public, admin


def names(sockets: Sequence[socket.socket]) -> str:
    """Where sockets listen, for the log."""
    places = [one.getsockname() for one in sockets]
    return ", ".join(str(Listen(*place[:2]) if isinstance(place, tuple) else Listen(path=place)) for place in places)


def notify(env: MutableMapping[str, str], *states: str) -> None:
    """Tell the manager: `READY=1`, `RELOADING=1`, `STOPPING=1`, `STATUS=…`. Never raises, and waits for nobody."""
    address = env.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.setblocking(False)
        telling.sendto("\n".join(states).encode(), address.replace("@", "\0", 1))


def reloading() -> tuple[str, str]:
    """What `Type=notify-reload` wants to hear at the beginning of a reload."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
