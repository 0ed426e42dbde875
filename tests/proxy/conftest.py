"""Fixtures only: a passing sidecar in front of a recording upstream."""

from collections.abc import AsyncIterator

import pytest
from fakes import FakeUpstream
from proxied import Passing, passing


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def sidecar(upstream: FakeUpstream) -> AsyncIterator[Passing]:
    async with passing(upstream.url) as running:
        yield running
