"""Long-lived tasks: one that ends is started again, and says so."""

import asyncio
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from sidecar.life import Life

SECRET = "+8613900000001"


async def raises() -> NoReturn:
    raise KeyError(SECRET)


async def returns() -> None:
    """End as if the work were done."""


async def is_cancelled() -> None:
    raise asyncio.CancelledError  # as a library's time limit that went wrong


@pytest.mark.parametrize(
    ("end", "word"),
    [(raises, "KeyError"), (returns, "returned"), (is_cancelled, "cancelled")],
)
async def test_a_task_that_ends_is_started_again(end: object, word: str) -> None:
    """However it ends; with growing pauses, a line and a count each, and never the error's own words."""
    assert callable(end)
    counted: list[str] = []
    again = asyncio.Event()
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts <= 2:
            await end()
            return
        again.set()
        await asyncio.Event().wait()

    life = Life(counted.append)
    with capture_logs() as lines:
        task = life.keep("courier", work)
        async with asyncio.timeout(30):
            while not life.ended:
                await asyncio.sleep(0)
            assert life.ended == {"courier": word}
            await again.wait()
    assert not life.ended
    assert counted == ["courier", "courier"]
    assert [(line["event"], line["task"], line["again_in_s"]) for line in lines] == [
        ("task_ended", "courier", 0.1),
        ("task_ended", "courier", 0.2),
    ]
    assert SECRET not in str([line["error"] for line in lines])
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_task_that_should_end_ends() -> None:
    """Drained, it is not started again."""
    with capture_logs() as lines:
        await Life().keep("courier", returns, lambda: True)
    assert not lines


async def test_who_ends_it_ends_its_work() -> None:
    """Cancelled, it waits until the work has put everything away."""
    put_away = asyncio.Event()
    began = asyncio.Event()

    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            put_away.set()

    task = Life().keep("courier", work)
    await began.wait()
    task.cancel()
    await asyncio.wait([task])
    assert put_away.is_set()


def test_a_process_is_starting_until_its_store_was_reached_once() -> None:
    """Then never again, whatever becomes of the store."""
    life = Life()
    assert life.is_starting(is_store_reached=False)
    assert not life.is_starting(is_store_reached=True)
    assert not life.is_starting(is_store_reached=False)
