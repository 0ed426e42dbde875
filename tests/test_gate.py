"""sidecar/gate.py: what a story over real sockets would take too long for. The stories are in tests/story."""

import asyncio
import os

import pytest
from couriers import uncounted

from sidecar import gate, logs
from sidecar.config.model import CodeRules
from sidecar.recipient import parse
from sidecar.secret import Secret
from sidecar.store.client import Store
from sidecar.verification.verifications import Hold, Proof, Verifications

PHONE = parse("+8613900000001", "sms", "CN")


def make(store: Store, hold_s: float) -> Verifications:
    return Verifications(store, Secret("s" * 32, (), os.urandom), CodeRules(), {}, os.urandom, hold_s, logs.write)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, seconds; none takes any time."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    return made


@pytest.mark.parametrize("hold_s", [1, 14.5, 131, 3600])
@pytest.mark.parametrize("spend", [True, False])
async def test_a_settlement_is_tried_for_as_long_as_a_hold_lasts(
    store: Store, pauses: list[float], hold_s: float, *, spend: bool
) -> None:
    """Upstream's time-outs decide how long a hold lasts, and nobody gives up before that."""
    away = Store("unix:///nowhere/at/all.sock")
    verifications = make(store, hold_s)
    issued = await verifications.issue(PHONE, 0)
    code = verifications.code(issued.id, PHONE)
    assert code is not None
    async with await verifications.hold(PHONE, Proof("code", code), uncounted) as hold:
        lost = Hold(make(away, hold_s), hold.id, "a-hash", "somebody", hold.lasts_s)
        await gate._settle_later(lost, spend=spend)
    assert sum(pauses) == hold_s
    assert max(pauses) <= 15, "a store that is back is seen soon"
    await away.close()


async def test_a_settlement_that_the_store_took_is_not_tried_again(store: Store, pauses: list[float]) -> None:
    """One try at a store that is there, and the code is spent."""
    verifications = make(store, 30)
    issued = await verifications.issue(PHONE, 0)
    code = verifications.code(issued.id, PHONE)
    assert code is not None
    async with await verifications.hold(PHONE, Proof("code", code), uncounted) as hold:
        await gate._settle_later(hold, spend=True)
    assert len(pauses) == 1
    record = await verifications.read(issued.id)
    assert record is not None
    assert record.status == "verified"
