"""Who asks, and how long does each wait? Clients on one event loop, in a closed loop or an open one.

Closed: so many connections, each with its next request when its answer is whole. Open: requests at a fixed rate, whatever
the answers do; each waits from the moment that it was due, so that a late start is told as waiting, too.
"""

import asyncio
import itertools
import json
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# How long after the last request an answer is waited for.
PATIENCE_S = 30.0


@dataclass
class Answers:
    """What came back: of each status, the milliseconds that every answer took. Status 0: the connection ended instead.

    `codes`: how often each code of a problem document came, of the statuses from 500. `by_port`: how many came on each
    connection, by our end's port. `octets`: how many went out, and how many came in.
    """

    ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    codes: Counter[str] = field(default_factory=Counter)
    by_port: Counter[int] = field(default_factory=Counter)
    octets: list[int] = field(default_factory=lambda: [0, 0])
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

    def __init__(self, load: "_Load") -> None:
        self._load, self._buffer, self._due = load, b"", None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._port = transport.get_extra_info("sockname")[1]

    def ask(self, request: bytes, due: float) -> None:
        self._due = due
        self._load.answers.octets[0] += len(request)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._load.answers.octets[1] += len(data)
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
        status = int(data[9:12])
        if status >= 500:
            self._load.answers.codes[
                data[head + 4 :].partition(b'"code":')[2].partition(b",")[0].strip(b' "}').decode()
            ] += 1
        self._answered(status)
        if b"connection: close" in fields:
            self.transport.close()
        else:
            self._load.is_free(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._due is not None:
            self._answered(0)
        self._load.is_lost()

    def _answered(self, status: int) -> None:
        self._load.answers.ms[status].append((time.perf_counter() - self._due) * 1000)
        self._load.answers.by_port[self._port] += 1
        self._due = None


class _Load:
    """So many connections; one that ends is opened again. `is_free` is called with each that can be asked something."""

    def __init__(self, port: int, is_free: Callable[[_Client], None]) -> None:
        self.answers, self.is_free = Answers(), is_free
        self._port, self._clients, self._opening, self._is_over = port, [], set(), False

    async def open(self, connections: int) -> None:
        for _ in range(connections):
            await self._connect()
        self.answers.began = time.perf_counter()

    async def _connect(self) -> _Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._port)
        self._clients.append(client)
        return client

    def begin(self) -> None:
        for client in tuple(self._clients):
            self.is_free(client)

    def is_lost(self) -> None:
        if not self._is_over:
            task = asyncio.ensure_future(self._connect())
            self._opening.add(task)
            task.add_done_callback(lambda done: (self._opening.discard(done), self.is_free(done.result())))

    async def end(self) -> Answers:
        self.answers.ended, self._is_over = time.perf_counter(), True
        for client in self._clients:
            client.transport.abort()
        await asyncio.sleep(0.05)  # what was unanswered is counted as its connection ends
        return self.answers


async def closed(
    port: int,
    requests: Iterator[bytes],
    connections: int,
    seconds: float = math.inf,
    begins: Callable[[], None] = lambda: None,
) -> Answers:
    """Ask on so many connections, until the time is over or there are no more requests; return when all are answered.

    `begins` is called once all are open.
    """
    over, idle, until = asyncio.Event(), 0, math.inf

    def is_free(client: _Client) -> None:
        nonlocal idle
        now = time.perf_counter()
        request = next(requests, None) if now < until else None
        if request is not None:
            client.ask(request, now)
        elif (idle := idle + 1) == connections:
            over.set()

    load = _Load(port, is_free)
    await load.open(connections)
    begins()
    load.answers.began = time.perf_counter()
    until = load.answers.began + seconds
    load.begin()
    await over.wait()
    return await load.end()


async def opened(
    port: int,
    requests: Iterator[bytes],
    per_s: float,
    seconds: float,
    connections: int,
    begins: Callable[[], None] = lambda: None,
) -> Answers:
    """Ask at a fixed rate, as a front proxy with so many connections would; what is unanswered in the end has status 0.

    Where no connection is free, a request waits for one. `begins` is called once all are open.
    """
    free, waiting = deque(), deque()

    def is_free(client: _Client) -> None:
        if waiting:
            client.ask(*waiting.popleft())
        else:
            free.append(client)

    load = _Load(port, is_free)
    await load.open(connections)
    begins()
    load.begin()
    total = int(per_s * seconds)
    for number in range(total):
        due = load.answers.began + number / per_s
        if (early := due - time.perf_counter()) > 0 or number % 16 == 0:
            await asyncio.sleep(max(0, early))
        if free:
            free.popleft().ask(next(requests), due)
        else:
            waiting.append((next(requests), due))
    until = time.perf_counter() + PATIENCE_S
    while load.answers.count() < total and time.perf_counter() < until:
        await asyncio.sleep(0.02)
    for _, due in waiting:
        load.answers.ms[0].append((time.perf_counter() - due) * 1000)
    waiting.clear()
    return await load.end()


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
