"""Which connection carries an exchange? Of those that are idle, the one used last; else a new one.

The law: at most `max_connections` are open or being opened. An exchange that finds all of them busy waits in line for
the next that is idle, as long as it would wait for upstream's answer. A connection comes back only after an exchange
that ended in good order. One on which a client has authenticated itself for more than one request (NTLM, Negotiate)
carries no other client's: it is bound to that client's connection, and ends with it.
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

        `connect` makes a connection for a protocol factory, as the loop's `create_connection` does; it raises OSError,
        and ValueError for a name that is none. `observe` is told the seconds from each request to its final status.
        `max_connections` of 0 is no limit.
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
            # For as long as it would wait for a connection and an answer.
            until = time.perf_counter() + self._connect_timeout_s + self.read_timeout_s
            self._waiting.append((until, exchange))
            if self._bound:
                # That one's client authenticates itself anew; else clients that are idle could shut all others out.
                next(iter(self._bound)).drop()
            return
        self._begin(self._open(exchange))

    async def reach(self) -> None:
        """Make a connection to upstream and close it. Raises what `connect` raises."""
        async with asyncio.timeout(self._connect_timeout_s):
            transport, _ = await self._connect(asyncio.Protocol)
        transport.abort()

    def put(self, upstream: UpstreamConnection) -> None:
        """Take back a connection that may carry the next exchange of any client."""
        while self._waiting:
            _, exchange = self._waiting.popleft()
            if exchange.state == "waiting":
                upstream.carry(exchange)
                return
        self._idle.append(upstream)

    def bind(self, upstream: UpstreamConnection, connection: Any) -> None:
        """Keep a connection for the next request of this client's connection, and for no other."""
        if connection.transport is None:
            upstream.drop()
            return
        connection.bound = upstream
        if self._waiting:
            upstream.drop()
        else:
            self._bound[upstream] = None

    def add(self, upstream: UpstreamConnection) -> None:
        """Count a connection that has been made, and look after its limits."""
        self.all.add(upstream)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(self._look_s, self._look)

    def forget(self, upstream: UpstreamConnection) -> None:
        """Count a connection no more, as it is closed: an exchange that waits may have a new one."""
        self.all.discard(upstream)
        self._bound.pop(upstream, None)
        if upstream in self._idle:
            self._idle.remove(upstream)
        self._open_for_waiting()

    async def close(self) -> None:
        """Drop every connection, and wait until none is being made."""
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
        """Make a connection for an exchange, or refuse it."""
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
                upstream.is_used = True  # the client has left meanwhile, so the connection becomes idle as others do
                self.put(upstream)

    def _look(self) -> None:
        """Look at every connection's limits, and refuse the exchanges that have waited too long for one."""
        now = time.perf_counter()
        for upstream in list(self.all):
            upstream.look(now)
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].state != "waiting"):
            self._waiting.popleft()[1].refuse(Refusal("upstream_timeout", "connect_timeout"))
        is_needed = self.all or self._waiting
        self._looking = asyncio.get_running_loop().call_later(self._look_s, self._look) if is_needed else None
