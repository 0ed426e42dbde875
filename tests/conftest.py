"""Fixtures only: what every room's tests stand on."""

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from children import run
from chromium import tab
from hypothesis import HealthCheck, settings
from telling import start

from sidecar import logs
from sidecar.store.client import Store
from sidecar.store.embedded import embedded

# How long one example takes is the machine's affair: what may cost no more than so much is measured where that is held.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

__all__ = ["no_log", "no_proxy", "run", "start", "store", "store_url", "tab"]


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to the log that another one has set up: where none is, structlog can be captured."""
    monkeypatch.setattr(logs, "_writer", None)


@pytest.fixture(scope="session", autouse=True)
def no_proxy() -> Iterator[None]:
    """What the tests call is on this machine: no proxy of its environment takes a call."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "*")
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def store_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of one real Valkey for the whole run."""
    async with embedded(tmp_path_factory.mktemp("state")) as url:
        yield url


@pytest_asyncio.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """That Valkey under a prefix of the test's own, swept afterwards; its time limit is that of a busy machine."""
    store = Store(store_url, prefix=f"test-{secrets.token_hex(6)}", timeout_s=10.0)
    yield store
    if keys := await store.execute(None, "KEYS", f"*{store.names.prefix}*"):
        await store.execute(keys[0], "DEL", *keys)
    await store.close()
