"""Who makes worker processes? A process that has loaded the program and a good configuration, and only forks.

A fork of it serves within a few hundredths of a second where a new interpreter takes one, and shares the memory of what
both have loaded. It has no thread and no event loop, so that forking is safe. It keeps the last configuration that a
worker could use: what is on disk by the time that a worker dies may be none.

It is asked over a socket, one question at a time, and ends with it; what it says are lines of JSON: `fork` with a
worker's control socket -> `{"forked": pid}`; `use LENGTH` -> `{"ready": true}`, and after so many octets of a
configuration `{"used": true}`: new workers get that one; `stop` closes its listening sockets. And it says `{"ended":
pid, "status": wait status}` of each worker by itself. It reads no configuration from disk: it gets the first one on its
standard input, as the parent has read it.
"""

import gc
import json
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, Final

from sidecar import asn, logs, worker
from sidecar.config.model import Config
from sidecar.recipient import load_number_data
from sidecar.turns import Turns

# A question is one word.
_WORD: Final = 16


def main(arguments: list[str]) -> int:
    """`STORE_URL CONTROL_FD LISTENING_FD…`: fork until the control socket ends. Returns the exit code."""
    store_url = arguments[0]
    control = socket.socket(fileno=int(arguments[1]))
    sockets = [socket.socket(fileno=int(number)) for number in arguments[2:]]
    for one in (control, *sockets):
        one.set_inheritable(False)  # a program that a worker starts would hold the port
    # A terminal's signals go to the whole group; the parent says what follows of them.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def say(**message: Any) -> None:
        with suppress(OSError):  # the parent has gone, and asks nothing more
            control.sendall(json.dumps(message).encode() + b"\n")

    def reap(*_: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            turns.ended(pid)
            say(ended=pid, status=status)

    config = _received(sys.stdin.buffer.read())
    turns = Turns(worker.worker_count(config.server))
    signal.signal(signal.SIGCHLD, reap)
    for _ in load_number_data():
        pass
    gc.collect()
    gc.freeze()  # a collection in a worker would write to every object of it, and share none
    say(ready=True)
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, _WORD, 1)
        if packet == b"fork":
            turn = turns.next()
            # A worker that ends at once is reaped after it was counted and named.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            pid = os.fork()
            if pid == 0:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                code = worker.run(config, store_url, sockets, socket.socket(fileno=descriptors[0]), turn)
                logs.flush()
                os._exit(code)
            os.close(descriptors[0])
            turns.made(pid)
            say(forked=pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        elif packet.startswith(b"use "):
            say(ready=True)
            config = _received(_read(control, int(packet[4:])))
            say(used=True)
        elif packet == b"stop":
            for one in sockets:
                one.close()
        else:
            break
    for one in sockets:  # whoever takes the place of a parent that was killed listens there, while workers drain
        one.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(ChildProcessError):  # the last one is reaped: nobody is left behind
        while True:
            os.wait()
    return 0


def _read(control: socket.socket, length: int) -> bytes:
    with control.makefile("rb", buffering=0) as file:
        parts = []
        while length > 0 and (part := file.read(length)):
            parts.append(part)
            length -= len(part)
    return b"".join(parts)


def _received(octets: bytes) -> Config:
    """Take a configuration as the parent has read it, and load what it names, so that workers share it."""
    config: Config = pickle.loads(octets)  # noqa: S301 - our parent's, over a socket that nobody else has
    for table in (*config.block, *config.allow):
        if table.asn_file:
            with suppress(OSError, ValueError):  # it has changed just now: the workers tell what is wrong
                asn.load(table.asn_file)
    return config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
