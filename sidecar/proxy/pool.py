"""Which connection carries an exchange? The one used last that is free, or a new one, or the next that comes free.

The law: at most `max_connections` are open or being opened, and who finds none waits in line, for as long as upstream
itself would be waited for. A connection comes back only after an exchange that ended in good order. One on which a
client authenticates itself for more than one request (NTLM, Negotiate) is never pooled: it is bound to that client's
connection, and ends with it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sidecar.errors import Refusal
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.upstream import LOOK_S, UpstreamConnection
from sidecar.proxy.writes import Writes


class Pool:
    """The connections to one upstream, and the way to new ones."""

    def __init__(
        self,
        connect: Callable[[Callable[[], asyncio.Protocol]], Any],
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        max_connections: int,
        observe: Callable[[float], None],
    ) -> None:
        """Must run inside the loop.

        `connect` makes a connection for a protocol factory; `observe` is told the seconds until each status.
        """
        self.read_timeout_s = read_timeout_s
        self.writes = Writes()
        self.observe = observe
        self.all: set[UpstreamConnection] = set()
        self._idle: list[UpstreamConnection] = []
        self._bound: dict[UpstreamConnection, None] = {}  # idle, and bound to a client's connection; the longest first
        self._connect = connect
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, Exchange]] = deque()
        self._look_s = min(LOOK_S, read_timeout_s / 4)
        self._looking: asyncio.TimerHandle | None = None

    def carry(self, exchange: Exchange) -> None:
        """Send the request on the connection bound to its client, on the one used last, or on a new one."""
        bound = exchange.client.protocol.bound if exchange.client is not None else None
        if bound is not None and bound.is_open():
            self._bound.pop(bound, None)
            bound.carry(exchange)
            return
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if upstream.is_open():
                upstream.carry(exchange)
                return
        if self._max_connections and len(self.all) + len(self._opening) >= self._max_connections:
            # As long as it would wait for upstream itself.
            until = time.perf_counter() + self._connect_timeout_s + self.read_timeout_s
            self._waiting.append((until, exchange))
            if self._bound:
                # Its client authenticates itself anew; without this, clients that are idle could shut all others out.
                next(iter(self._bound)).drop()
            return
        self._begin(self._open(exchange))

    async def reach(self) -> None:
        """Make a connection to upstream and close it. Raises OSError, and ValueError for a name that is none."""
        async with asyncio.timeout(self._connect_timeout_s):
            transport, _ = await self._connect(asyncio.Protocol)
        transport.abort()

    def put(self, upstream: UpstreamConnection) -> None:
        """Take back a connection that may be used again."""
        while self._waiting:
            _, exchange = self._waiting.popleft()
            if exchange.state == "waiting":
                upstream.carry(exchange)
                return
        self._idle.append(upstream)

    def bind(self, upstream: UpstreamConnection, connection: Any) -> None:
        """Keep a connection for the next request of the client's connection."""
        if connection.transport is None:
            upstream.drop()
            return
        connection.bound = upstream
        if self._waiting:
            upstream.drop()
        else:
            self._bound[upstream] = None

    def add(self, upstream: UpstreamConnection) -> None:
        self.all.add(upstream)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(self._look_s, self._look)

    def forget(self, upstream: UpstreamConnection) -> None:
        """A connection has gone: whoever waits may have a new one."""
        self.all.discard(upstream)
        self._bound.pop(upstream, None)
        if upstream in self._idle:
            self._idle.remove(upstream)
        self._open_for_waiting()

    async def close(self) -> None:
        """Drop every connection, and wait until they are."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        while self._waiting:
            self._waiting.popleft()[1].refuse(Refusal("upstream_unavailable", "connect:closing"))
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for upstream in list(self.all):
            upstream.fail("closing")

    def _begin(self, opening: Any) -> None:
        task = asyncio.create_task(opening)
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._open_for_waiting()

    def _open_for_waiting(self) -> None:
        while self._waiting and len(self.all) + len(self._opening) < self._max_connections:
            _, exchange = self._waiting.popleft()
            if exchange.state == "waiting":
                self._begin(self._open(exchange))

    async def _open(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, upstream = await self._connect(lambda: UpstreamConnection(self))
        except asyncio.CancelledError:
            exchange.refuse(Refusal("upstream_unavailable", "connect:closing"))
            raise
        except TimeoutError:
            exchange.refuse(Refusal("upstream_timeout", "connect_timeout"))
        except (OSError, ValueError) as error:  # ValueError: a name that is none
            exchange.refuse(Refusal("upstream_unavailable", f"connect:{type(error).__name__}"))
        else:
            if not upstream.is_open():
                exchange.refuse(Refusal("upstream_unavailable", "connect:closed"))
            elif exchange.state == "waiting":
                upstream.carry(exchange)
            else:
                upstream.is_used = True  # its client has left meanwhile; upstream may end it before the next comes
                self.put(upstream)

    def _look(self) -> None:
        """Look at every connection's limits, and at who has waited too long for one."""
        now = time.perf_counter()
        for upstream in list(self.all):
            upstream.look(now)
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].state != "waiting"):
            self._waiting.popleft()[1].refuse(Refusal("upstream_timeout", "connect_timeout"))
        is_needed = self.all or self._waiting
        self._looking = asyncio.get_running_loop().call_later(self._look_s, self._look) if is_needed else None
