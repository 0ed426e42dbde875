"""Nobody can make the others wait: small requests that could cost much, and a bystander beside them.

A real process, real sockets. What the bystander waits for is counted in the time that the process computed meanwhile,
where the system tells it (Linux): a busy machine takes nothing from the truth of it.
"""

import asyncio
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from children import Child, Run
from fakes import RawClient
from offenders import MAKERS, ROUTES, Offender

_WAIT_S = 0.05
# The 50 ms are those of a core on which this takes so long; a slower one has as much more, or the test would hold the
# machine to it, and not the sidecar.
_ADDITIONS_S = 11e-6
_TRIES = 5


def _clock(process_id: int) -> Callable[[], float]:
    """The seconds that the process's first thread has computed, which has its loop; else the clock on the wall."""
    spent = Path(f"/proc/{process_id}/schedstat")
    try:
        int(spent.read_text("ascii").split()[0])
    except (OSError, ValueError):
        return time.monotonic
    return lambda: int(spent.read_text("ascii").split()[0]) / 1e9


def _allowed_s() -> float:
    """The 50 ms on this machine: of the best of many tries, so that no passing load makes them longer."""
    best = min(timeit.repeat(lambda: sum(range(1000)), number=20, repeat=200)) / 20
    return _WAIT_S * max(1.0, best / _ADDITIONS_S)


class Bystander:
    """Somebody who asks for a plain page again and again, and how long each answer took beside whom."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._clock = _clock(child.lines[-1]["pid"])  # who listens says so
        self.beside: str = ""
        self.waits: list[tuple[float, set[str]]] = []
        self._over = False

    async def ask(self) -> None:
        async with RawClient(int(self._child.listen.rpartition(":")[2])) as client:
            while not self._over:
                began, beside = self._clock(), {self.beside}
                answer = await client.ask("GET", "/plain")
                assert answer.status == 200
                self.waits.append((self._clock() - began, beside | {self.beside}))

    def end(self) -> None:
        self._over = True


async def _offend(child: Child, offender: Offender) -> bytes:
    """Send one offender on a connection of its own, and read the first line of what comes."""
    async with RawClient(int(child.listen.rpartition(":")[2])) as client:
        client.writer.write(offender.octets)
        with suppress(ConnectionError):
            return await asyncio.wait_for(client.reader.readline(), 30)
    return b""


async def _beside(child: Child, offenders: Iterator[Offender]) -> tuple[Bystander, list[str]]:
    """Let a bystander ask while each offender is sent: the bystander, and who got a 500."""
    bystander, failed = Bystander(child), []
    asking = asyncio.create_task(bystander.ask())
    for offender in offenders:
        bystander.beside = offender.name
        if (await _offend(child, offender)).split(b" ")[1:2] == [b"500"]:
            failed.append(offender.name)
    bystander.end()
    await asking
    return bystander, failed


@pytest.mark.timeout(300)
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__.strip("_"))
async def test_nobody_waits_for_an_offender(
    run: Run, monkeypatch: pytest.MonkeyPatch, maker: Callable[[], list[Offender]]
) -> None:
    """No answer to a bystander takes more than 50 ms, whatever others send, and nothing that they send is a 500."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # counting a child's lines takes its time
    child = await run(ROUTES, public_url='"https://www.example.com"', trusted_proxies='["127.0.0.0/8"]')
    offenders = {offender.name: offender for offender in maker()}
    bystander, failed = await _beside(child, iter(offenders.values()))
    assert not failed
    assert len(bystander.waits) > len(offenders) / 4
    allowed_s = _allowed_s()
    slow = sorted({name for wait, beside in bystander.waits if wait > allowed_s for name in beside})
    for name in slow:  # alone, and again: something else may have happened just then
        shares = []
        for _ in range(_TRIES):
            allowed_s = _allowed_s()  # just then
            alone, _ = await _beside(child, iter([offenders[name]]))
            shares.append(max(wait for wait, _ in alone.waits) / max(allowed_s, _allowed_s()))
        assert min(shares) <= 1, name
