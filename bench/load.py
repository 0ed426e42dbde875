"""Who asks, and how long does each wait? Clients on one event loop: a closed loop, an open loop, one at a steady pace.

Closed: so many connections, each with its next request when its answer is whole. Open: requests at a fixed rate, whatever
the answers do; each waits from the moment that it was due, so that a late start is told as waiting, too.
"""

import asyncio
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# How long after the last request an answer is waited for.
PATIENCE_S = 30.0


@dataclass
class Answers:
    """What came back: of each status, the milliseconds that every answer took. Status 0: the connection ended instead."""

    ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    began: float = 0.0
    ended: float = 0.0

    def count(self, *statuses: int) -> int:
        """How many answers had one of these statuses; of all, when none is named."""
        return sum(len(ms) for status, ms in self.ms.items() if not statuses or status in statuses)

    def per_s(self, *statuses: int) -> float:
        """The same, a second."""
        return self.count(*statuses) / (self.ended - self.began)

    def percentile(self, share: float, *statuses: int) -> float:
        """So many milliseconds did this share of the answers take at most; NaN without any."""
        ms = sorted(ms for status, all_ms in self.ms.items() if not statuses or status in statuses for ms in all_ms)
        return ms[min(len(ms) - 1, math.ceil(share * len(ms)) - 1)] if ms else float("nan")

    def told(self) -> str:
        """Statuses and their counts, for people."""
        return ", ".join(f"{status or 'no answer'}: {len(ms)}" for status, ms in sorted(self.ms.items()))


class _Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, answers: Answers, is_free: Callable[["_Client"], None]) -> None:
        self._answers, self._is_free, self._buffer, self._began = answers, is_free, b"", None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def ask(self, request: bytes, due: float | None = None) -> None:
        self._began = due or time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            return
        fields = data[:head].lower()
        at = fields.find(b"content-length:")
        length = int(fields[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
        if len(data) < head + 4 + length:
            return
        self._buffer = b""
        began, self._began = self._began, None
        self._answers.ms[int(data[9:12])].append((time.perf_counter() - began) * 1000)
        if b"connection: close" in fields:
            self._transport.close()
        else:
            self._is_free(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._began is not None:
            self._answers.ms[0].append((time.perf_counter() - self._began) * 1000)
        self.is_lost()

    def is_lost(self) -> None:
        """Nobody cares, unless the load says so."""


async def closed(port: int, requests: Iterator[bytes], connections: int, seconds: float = math.inf) -> Answers:
    """Ask on so many connections, until the time is over or there are no more requests; return when all are answered."""
    loop, answers, over = asyncio.get_running_loop(), Answers(), asyncio.Event()
    until, clients = math.inf, set()

    def on(client: _Client) -> None:
        request = next(requests, None) if time.perf_counter() < until else None
        if request is not None:
            return client.ask(request)
        clients.discard(client)
        client._transport.close()
        if not clients:
            over.set()

    async def connect() -> _Client:
        _, client = await loop.create_connection(lambda: _Client(answers, on), "127.0.0.1", port)
        clients.add(client)
        client.is_lost = lambda: client in clients and again(client)
        return client

    def again(client: _Client) -> None:
        clients.discard(client)
        if time.perf_counter() < until:
            task = loop.create_task(connect())
            clients.add(task)
            task.add_done_callback(lambda done: (clients.discard(done), on(done.result())))
        elif not clients:
            over.set()

    opened = [await connect() for _ in range(connections)]
    answers.began = time.perf_counter()
    until = answers.began + seconds
    for client in opened:
        on(client)
    await over.wait()
    answers.ended = time.perf_counter()
    return answers


async def opened(port: int, requests: Iterator[bytes], per_s: float, seconds: float, at_most: int = 4096) -> Answers:
    """Ask at a fixed rate, on a connection that is free or a new one; what is unanswered in the end has status 0."""
    loop, answers, free, all_clients = asyncio.get_running_loop(), Answers(), [], []

    async def ask_on_new(request: bytes, due: float) -> None:
        _, client = await loop.create_connection(lambda: _Client(answers, free.append), "127.0.0.1", port)
        client.is_lost = lambda: client in free and free.remove(client)
        all_clients.append(client)
        client.ask(request, due)

    tasks, asked = set(), 0
    answers.began = began = time.perf_counter()
    for number in itertools.count():
        due = began + number / per_s
        if due >= began + seconds:
            break
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        request = next(requests)
        asked += 1
        if free:
            free.pop().ask(request, due)
        elif len(all_clients) + len(tasks) < at_most:
            task = loop.create_task(ask_on_new(request, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            answers.ms[0].append(0.0)  # there are no more connections: nobody is asked
        if number % 16 == 0:
            await asyncio.sleep(0)
    answers.ended = time.perf_counter()
    while answers.count() < asked and time.perf_counter() < answers.ended + PATIENCE_S:
        await asyncio.sleep(0.02)
    for client in all_clients:
        client._transport.abort()
    await asyncio.sleep(0.05)  # what was unanswered is counted as it ends
    return answers


async def paced(port: int, requests: Iterator[bytes], every_s: float, seconds: float) -> Answers:
    """One person after another: a request every `every_s` seconds, each from when it was due."""
    return await opened(port, requests, 1 / every_s, seconds)


def post(path: str, body: bytes, *fields: str) -> bytes:
    """A JSON request, as octets."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: www.example.com",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, *fields, "", ""]).encode() + body


def get(path: str, *fields: str) -> bytes:
    """A request without a body, as octets."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: www.example.com", *fields, "", ""]).encode()


# No two requests of a run are about the same number: +86138 and eight digits.
numbers = (f"+86138{number:08d}" for number in itertools.count(10_000_000))


def sends(path: str = "/api/sms", captcha: str | None = "good") -> Iterator[bytes]:
    """Sign-ups without end, each with a number of its own; a token that begins with "good" solves the captcha."""
    for number in numbers:
        token = f',"captcha":"{captcha}-{number[-8:]}"' if captcha else ""
        yield post(path, f'{{"phone":"{number}"{token}}}'.encode())


async def told(port: int, what: str) -> Any:
    """What the simulated vendors say of themselves: "counts", "codes"; "reset" forgets. On a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get(f"/{what}"))
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
    writer.close()
    return json.loads(body)


async def arrived(port: int, count: int) -> dict[str, float]:
    """What the vendors have counted, once it is so many messages, or no more of them come."""
    until = time.perf_counter() + PATIENCE_S
    while (counts := await told(port, "counts"))["messages"] < count and time.perf_counter() < until:
        await asyncio.sleep(0.05)
    return counts
