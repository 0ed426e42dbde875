"""Fixtures only: a passing sidecar in front of a recording upstream, on uvloop and on asyncio's own loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import proxied
import pytest
import uvloop
from fakes import FakeUpstream
from proxied import Passing, passing


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=["relayed", "handled"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have requests relayed by their connection, or forwarded by a handler that has read them: no octet tells."""
    monkeypatch.setattr(proxied, "RELAYS", request.param == "relayed")
    return str(request.param)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def sidecar(upstream: FakeUpstream) -> AsyncIterator[Passing]:
    async with passing(upstream.url) as running:
        yield running
