"""sidecar/line.py: guarded work in its order, a slice of it in each turn of the loop."""

import asyncio

import pytest

from sidecar.line import Line


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def works(self, seconds: float) -> None:
        self.now += seconds


async def test_work_is_done_in_the_order_in_which_it_came() -> None:
    """Also what is put while other work is done."""
    line, done = Line(), []
    over = asyncio.Event()

    def first() -> None:
        done.append(1)
        line.put(lambda: done.append(3))
        line.put(over.set)

    line.put(first)
    line.put(lambda: done.append(2))
    assert not done, "nothing is done in the turn in which it came"
    await over.wait()
    assert done == [1, 2, 3]
    assert len(line) == 0


async def test_work_that_raises_keeps_no_other_work_waiting() -> None:
    """It is reported, and the next one has its turn: also what comes later."""
    line, over = Line(), asyncio.Event()
    loop, reported = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    mistake = ValueError("a mistake")

    def breaks() -> None:
        raise mistake

    line.put(breaks)
    line.put(lambda: line.put(over.set))
    async with asyncio.timeout(30):
        await over.wait()
        over.clear()
        line.put(over.set)
        await over.wait()
    assert reported == [mistake]


@pytest.mark.parametrize(("each_s", "at_once"), [(0.0001, 10), (0.0004, 3), (0.001, 1), (0.05, 1)])
async def test_a_turn_of_the_loop_has_a_slice_of_it(each_s: float, at_once: int) -> None:
    """And all else that the loop has to do comes between two slices, however much waits."""
    clock = Clock()
    line, turns, over = Line(slice_s=0.001, clock=clock), [0], asyncio.Event()

    def work() -> None:
        clock.works(each_s)
        turns[-1] += 1

    def plain() -> None:
        if not over.is_set():
            turns.append(0)
            asyncio.get_running_loop().call_soon(plain)

    for _ in range(30):
        line.put(work)
    line.put(over.set)
    plain()
    await over.wait()
    assert sum(turns) == 30
    assert max(turns) == at_once


async def test_it_is_behind_when_the_oldest_has_waited_too_long() -> None:
    """Not the newest, and not for ever: what was taken is done, and then more is taken."""
    clock = Clock()
    line, over = Line(slice_s=0.001, behind_s=0.5, few=0, clock=clock), asyncio.Event()
    assert not line.is_behind()
    line.put(lambda: clock.works(0.002))
    clock.works(0.4)
    line.put(over.set)
    assert not line.is_behind()
    clock.works(0.11)
    assert line.is_behind()
    await asyncio.sleep(0)
    assert len(line) == 1
    assert not line.is_behind(), "the one that waits now came later"
    await over.wait()
    clock.works(9)
    assert not line.is_behind(), "nothing waits"


async def test_a_short_line_is_not_behind_however_long_the_machine_stood_still() -> None:
    """What few wait for is soon done; where more wait, nobody would be answered in time."""
    clock = Clock()
    line = Line(behind_s=0.5, few=3, clock=clock)
    for _ in range(3):
        line.put(lambda: None)
    clock.works(9)
    assert not line.is_behind()
    line.put(lambda: None)
    assert line.is_behind()
    assert not line.is_behind(was_refused=True)
    await asyncio.sleep(0)
    assert not line.is_behind()


async def test_whoever_was_refused_last_waits_behind_those_who_were_not() -> None:
    """But not for ever: one turn in four is theirs."""
    line, done, over = Line(), [], asyncio.Event()
    for n in range(8):
        line.put(lambda n=n: done.append(f"bot {n}"), was_refused=True)  # type: ignore[misc]
    for n in range(8):
        line.put(lambda n=n: done.append(f"person {n}"))  # type: ignore[misc]
    line.put(over.set, was_refused=True)
    await over.wait()
    assert [one.partition(" ")[0] for one in done[:12]] == ["person", "person", "person", "bot"] * 2 + [
        *("person", "person", "bot", "bot")
    ]
    for who in ("bot", "person"):
        assert [one for one in done if one.startswith(who)] == [f"{who} {n}" for n in range(8)]


async def test_whoever_was_refused_keeps_nobody_else_out() -> None:
    """Each kind of asker is behind when the oldest of its own kind has waited too long."""
    clock = Clock()
    line = Line(behind_s=0.5, few=0, clock=clock)
    line.put(lambda: None, was_refused=True)
    clock.works(0.3)
    line.put(lambda: None)
    assert not line.is_behind(was_refused=True)
    clock.works(0.3)
    assert line.is_behind(was_refused=True)
    assert not line.is_behind()
    clock.works(0.3)
    assert line.is_behind()
    await asyncio.sleep(0)
    assert not line.is_behind()
    assert not line.is_behind(was_refused=True)
