"""sidecar/store/instances.py: who shares a store shares the secret."""

import pytest

from sidecar.store.client import Store
from sidecar.store.instances import ForeignSecretError, Instances


async def test_instances_of_one_secret_live_together(store: Store) -> None:
    one, two = (Instances(store, name, "old", {"old"}) for name in "ab")
    await one.join()
    await two.join()
    assert await store.execute(store.names.instances(), "ZCARD", store.names.instances()) == 2
    await one.leave()
    await two.leave()
    assert await store.execute(store.names.instances(), "ZCARD", store.names.instances()) == 0


async def test_an_instance_under_another_secret_does_not_start(store: Store) -> None:
    """It would refuse the others' codes, and they its own."""
    await Instances(store, "a", "old", {"old"}).join()
    stranger = Instances(store, "b", "new", {"new"})
    with pytest.raises(ForeignSecretError, match=r"server\.secret"):
        await stranger.join()
    assert await store.execute(store.names.instances(), "ZCARD", store.names.instances()) == 1


async def test_a_rotation_goes_one_instance_at_a_time(store: Store) -> None:
    """The new one knows the old one's secret; the old one need not know the new."""
    old = Instances(store, "a", "old", {"old"})
    await old.join()
    await Instances(store, "b", "new", {"new", "old"}).join()
    with pytest.raises(ForeignSecretError):
        await old.join()


async def test_the_dead_do_not_count(store: Store) -> None:
    """An instance that was killed is forgotten after a while, by the store's clock."""
    now_s = int((await store.execute(None, "TIME"))[0])
    await store.execute(store.names.instances(), "ZADD", store.names.instances(), now_s - 16, "old:killed")
    await Instances(store, "b", "new", {"new"}).join()
    assert await store.execute(store.names.instances(), "ZRANGE", store.names.instances(), 0, -1) == [b"new:b"]
