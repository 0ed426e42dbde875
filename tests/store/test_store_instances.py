"""sidecar/store/instances.py: who shares a store shares the secret."""

import asyncio
import time

import pytest
from fakes import DEADLINE_S
from structlog.testing import capture_logs

from sidecar.store.client import Store
from sidecar.store.instances import ForeignSecretError, Instances


async def test_instances_of_one_secret_live_together(store: Store) -> None:
    one, two = (Instances(store, name, "old", {"old"}, time.time) for name in "ab")
    await one.join()
    await two.join()
    assert await store.execute(store.names.instances(), "ZCARD", store.names.instances()) == 2
    await one.leave()
    await two.leave()
    assert await store.execute(store.names.instances(), "ZCARD", store.names.instances()) == 0


async def test_an_instance_under_another_secret_does_not_start(store: Store) -> None:
    """It would refuse the others' codes, and they its own."""
    await Instances(store, "a", "old", {"old"}, time.time).join()
    stranger = Instances(store, "b", "new", {"new"}, time.time)
    with pytest.raises(ForeignSecretError, match=r"server\.secret"):
        await stranger.join()
    assert await store.execute(store.names.instances(), "ZCARD", store.names.instances()) == 1


async def test_a_rotation_goes_one_instance_at_a_time(store: Store) -> None:
    """The new one knows the old one's secret; the old one need not know the new."""
    old = Instances(store, "a", "old", {"old"}, time.time)
    await old.join()
    await Instances(store, "b", "new", {"new", "old"}, time.time).join()
    with pytest.raises(ForeignSecretError):
        await old.join()


async def test_the_dead_do_not_count(store: Store) -> None:
    """An instance that was killed is forgotten after a while, by the store's clock."""
    now_s = int((await store.execute(None, "TIME"))[0])
    await store.execute(store.names.instances(), "ZADD", store.names.instances(), now_s - 16, "old:killed")
    await Instances(store, "b", "new", {"new"}, time.time).join()
    assert await store.execute(store.names.instances(), "ZRANGE", store.names.instances(), 0, -1) == [b"new:b"]


async def test_who_stays_says_again_that_it_lives_until_it_leaves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that forgot it knows of it again; after that it is gone at once, and not only after a while."""
    monkeypatch.setattr("sidecar.store.instances._SAY_EVERY_S", 0.01)
    key = store.names.instances()
    one = Instances(store, "a", "old", {"old"}, time.time)
    staying = asyncio.create_task(one.stay())
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(2):
            while not await store.execute(key, "ZCARD", key):
                await asyncio.sleep(0.01)
            await store.execute(key, "DEL", key)
        await one.leave()
        await staying
    assert await store.execute(key, "ZCARD", key) == 0


async def test_clocks_that_differ_are_told_once_and_again_when_that_changes(store: Store) -> None:
    """By more or less, or no more; one that hovers at the threshold is told once."""
    aheads = [0.0, 3600.0, 3600.0, 3602.0, -3600.0, 0.0, 0.0, 7.0, 4.5, 7.0]
    ahead = iter(aheads)
    instances = Instances(store, "a", "old", {"old"}, lambda: time.time() + next(ahead))
    with capture_logs() as lines:
        for _ in aheads:
            await instances.join()
    told = [(line["event"], round(line.get("ahead_s", 0), -1)) for line in lines]
    assert told == [("clocks_differ", 3600), ("clocks_differ", -3600), ("clocks_agree", 0), ("clocks_differ", 10)]
