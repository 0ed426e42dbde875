"""Who gets a connection: one accept queue for all workers, or one for each (SO_REUSEPORT)? `python bench/accept_balance.py`

Stand-alone: workers that are forked, each with a loop of uvloop, answer a plain request after `--work` µs of CPU time.
Connections are opened one after the other while nobody asks ("idle"), or while the first of them already ask as fast as
they are answered ("busy"); then all of them ask for `--seconds`. Told: the connections of each worker and the requests that it served.
Then one worker stops for 50 ms out of 100, and new connections with a request each come every millisecond: how long does
an answer take? With one queue whoever is free takes the next.
"""

import argparse
import asyncio
import os
import signal
import socket
import time
from collections import Counter

import uvloop

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def listening(port: int, is_shared: bool) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if not is_shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(1024)
    made.setblocking(False)
    return made


class Answering(asyncio.Protocol):
    work_s = 0.0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        for _ in range(data.count(b"\r\n\r\n")):
            until = time.perf_counter() + self.work_s
            while time.perf_counter() < until:
                pass
            self.transport.write(b"%d\n" % os.getpid())


async def serve(sock: socket.socket, stops: bool) -> None:
    loop = asyncio.get_running_loop()

    def accept() -> None:  # one each time that it wakes, as sidecar/proxy/proxy_protocol.py does for several workers
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        task = asyncio.ensure_future(loop.connect_accepted_socket(Answering, connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    tasks: set = set()
    loop.add_reader(sock, accept)
    while True:
        await asyncio.sleep(0.05)
        if stops:
            time.sleep(0.05)


class Asking(asyncio.Protocol):
    def __init__(self, served: Counter, is_over) -> None:
        self.served, self.is_over, self.pid, self.buffer = served, is_over, None, b""

    def connection_made(self, transport):
        self.transport = transport

    def ask(self):
        self.transport.write(REQUEST)

    def data_received(self, data):
        self.buffer += data
        if not self.buffer.endswith(b"\n"):
            return
        self.pid, self.buffer = int(self.buffer), b""
        self.served[self.pid] += 1
        if not self.is_over():
            self.ask()


async def spread(port: int, connections: int, busy: int, seconds: float) -> tuple[list[int], list[int]]:
    """Open so many; the first `busy` of them ask from the beginning."""
    loop, served, clients, over = asyncio.get_running_loop(), Counter(), [], False
    for number in range(connections):
        _, client = await loop.create_connection(lambda: Asking(served, lambda: over), "127.0.0.1", port)
        clients.append(client)
        if number < busy:
            client.ask()
        await asyncio.sleep(0.0005)
    await asyncio.sleep(0.2)
    served.clear()
    for client in clients[busy:]:
        client.ask()
    await asyncio.sleep(seconds)
    over = True
    await asyncio.sleep(0.3)
    held = Counter(client.pid for client in clients)
    for client in clients:
        client.transport.abort()
    return sorted(held.values()), sorted(served.values())


async def waits(port: int, seconds: float) -> list[float]:
    """The milliseconds from each connection to its answer, one a millisecond."""
    found: list[float] = []

    async def once() -> None:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await reader.readline()
        found.append((time.perf_counter() - began) * 1000)
        writer.close()

    async with asyncio.TaskGroup() as group:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            group.create_task(once())
            await asyncio.sleep(0.001)
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--work", type=float, default=100, help="µs of CPU time a request")
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    Answering.work_s = args.work / 1e6
    for name, is_shared in (("one queue", True), ("SO_REUSEPORT", False)):
        for what in ("idle", "busy", "stops"):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            sock = listening(port, is_shared)
            pids = []
            for number in range(args.workers):
                mine = sock if is_shared or not number else listening(port, is_shared)
                if (pid := os.fork()) == 0:
                    uvloop.run(serve(mine, what == "stops" and number == 0))
                pids.append(pid)
                if not is_shared:
                    mine.close()
            if is_shared:
                sock.close()
            time.sleep(0.3)
            try:
                if what == "stops":
                    ms = uvloop.run(waits(port, args.seconds))
                    print(
                        f"{name}, one worker stops: p50 {ms[len(ms) // 2]:.1f} p99 {ms[len(ms) * 99 // 100]:.1f} ms",
                        flush=True,
                    )
                    continue
                for connections in (64, 1_000):
                    held, served = uvloop.run(spread(port, connections, 16 if what == "busy" else 0, args.seconds))
                    print(f"{name}, {what}, {connections} connections: {held}, requests {served}", flush=True)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
