"""sidecar/line.py: guarded work in its order, a slice of it in each turn of the loop."""

import asyncio
import functools
import itertools
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from sidecar.line import Line, Running, Steps


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


async def test_work_that_raises_keeps_no_other_work_waiting(running: Running) -> None:
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


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("was_refused", [False, True])
@pytest.mark.parametrize(("each_s", "at_once"), [(0.0001, 10), (0.0004, 3), (0.001, 1), (0.05, 1)])
async def test_a_turn_of_the_loop_has_a_slice_of_it(
    each_s: float, at_once: int, was_refused: bool, has_begun: bool, running: Running
) -> None:
    """And all else that the loop has to do comes between two slices, however much waits."""
    clock = Clock()
    line, turns, over = Line(slice_s=0.001, more_s=0.02, clock=clock), [0], asyncio.Event()
    line.plain = int(not was_refused)

    def work() -> None:
        clock.works(each_s)
        turns[-1] += 1

    def other() -> None:
        if not over.is_set():
            turns.append(0)
            asyncio.get_running_loop().call_soon(other)

    if has_begun:
        answer = asyncio.Future[None]()

        async def goes_on(then: Callable[[], None]) -> None:
            await answer
            then()

        steps = [goes_on(then) for then in [work] * 30 + [over.set]]
        await begin(line, running, *steps, was_refused=was_refused)
        answer.set_result(None)
    else:
        for _ in range(30):
            line.put(work, was_refused=was_refused)
        line.put(over.set, was_refused=was_refused)
    other()
    await over.wait()
    assert sum(turns) == 30
    assert max(turns) == at_once


@pytest.mark.parametrize(("each_s", "at_once"), [(0.0001, 20), (0.0015, 2), (0.05, 1)])
async def test_beside_no_plain_traffic_more_is_taken_of_those_who_were_not_refused(each_s: float, at_once: int) -> None:
    """Steps that are taken together ask the store together. Who was refused has the slice that is always there."""
    clock = Clock()
    line, turns, over = Line(slice_s=0.0, more_s=0.002, clock=clock), [""], asyncio.Event()

    def work(kind: str) -> None:
        clock.works(each_s)
        turns[-1] += kind

    def other() -> None:
        if not over.is_set():
            turns.append("")
            asyncio.get_running_loop().call_soon(other)

    for _ in range(200):
        line.put(functools.partial(work, "+"))
        line.put(functools.partial(work, "-"), was_refused=True)
    line.put(over.set, was_refused=True)
    other()
    await over.wait()
    first, *_ = (one for one in turns if one)
    assert len(first) == at_once + 1, "and one more, of whoever's turn it is"
    assert all(one.count("-") <= len(one) / 4 + 1 for one in turns), "one turn in four is theirs, as always"
    assert {len(one) for one in turns if one and "+" not in one} == {1}
    assert sum(map(len, turns)) == 400


@dataclass
class Came:
    """What came of work that was offered: how long each that was taken waited to begin, and when it came."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0
    idle_s: float = 0.0

    def longest(self, since: float = 0.0) -> float:
        return max(wait for at, wait in self.waits if at >= since)


async def offer(
    line: Line,
    clock: Clock,
    *,
    each_s: Callable[[], float],
    per_s: float,
    seconds: float,
    stalls: Mapping[float, float] | None = None,
    **kind: Any,
) -> Came:
    """Offer work at a fixed rate, each of it so long. `stalls`: when the machine stands still, and for how long."""
    came, due, until, stalls = Came(), clock.now, clock.now + seconds, dict(stalls or {})

    def begin(at: float) -> None:
        came.waits.append((at, clock.now - at))
        clock.works(each_s())

    while due < until or len(line):
        while due <= min(clock.now, until):
            if line.is_behind(**kind):
                came.refused += 1
            else:
                line.put(functools.partial(begin, due), was_refused=kind.get("was_refused", False))
            due += 1 / per_s
        if not len(line):
            came.idle_s += max(0.0, due - clock.now)
            clock.now = max(clock.now, due)
        for at in [at for at in stalls if at <= clock.now]:
            clock.works(stalls.pop(at))
        await asyncio.sleep(0)
    return came


def thousandth() -> float:
    return 0.001


@pytest.mark.parametrize("times", [1.1, 1.5, 3.0, 10.0])
@pytest.mark.parametrize("was_refused", [False, True])
async def test_of_a_flood_as_much_is_taken_as_is_done_and_soon_begun(times: float, was_refused: bool) -> None:
    """The line neither grows nor runs empty; only what comes before it is known to be a flood may wait longer."""
    clock = Clock()
    line = Line(clock=clock)
    came = await offer(line, clock, each_s=thousandth, per_s=1000 * times, seconds=10, was_refused=was_refused)
    assert came.idle_s < 0.01
    assert len(came.waits) == pytest.approx(10_000, rel=0.05)
    assert came.refused == pytest.approx(10_000 * (times - 1), rel=0.5 if times < 1.2 else 0.1)
    assert came.longest() < max(0.3, 0.1 * (times - 1)) + 0.02
    assert came.longest(since=3) < 0.31


async def test_what_can_be_done_is_taken_however_unevenly_it_comes() -> None:
    """The burst of a launch is worked off."""
    clock = Clock()
    line = Line(clock=clock)
    burst = await offer(line, clock, each_s=thousandth, per_s=1e9, seconds=2e-6)
    assert (len(burst.waits), burst.refused) == (2000, 0)
    after = await offer(line, clock, each_s=thousandth, per_s=950, seconds=5)
    assert after.refused == 0


@pytest.mark.parametrize("stall_s", [0.1, 0.2, 0.4])
async def test_when_the_machine_stood_still_what_comes_at_once_then_is_taken(stall_s: float) -> None:
    """It stood still, and not the line."""
    clock = Clock()
    came = await offer(
        Line(clock=clock), clock, each_s=thousandth, per_s=700, seconds=9, stalls={2.0: stall_s, 6.0: stall_s}
    )
    assert came.refused == 0
    assert came.longest() < stall_s * 1.1


async def test_less_is_taken_where_less_is_done_and_more_again_where_more_is() -> None:
    """When a machine gives a third of what it gave, nobody waits for long for the two thirds that it does not."""
    clock = Clock()
    came = await offer(
        Line(clock=clock),
        clock,
        each_s=lambda: 0.003 if 5 < clock.now < 15 else 0.001,
        per_s=3000,
        seconds=20,
    )
    assert came.longest(since=2) < 1.0
    assert max(wait for at, wait in came.waits if 9 < at < 14) < 0.4
    assert min(wait for at, wait in came.waits if at > 18) > 0.25, "the line is as long again as may be"
    assert came.idle_s < 0.01


async def test_a_few_are_always_taken() -> None:
    """They are begun in a moment, also where nothing has begun for long."""
    clock = Clock()
    line = Line(few=3, clock=clock)
    for _ in range(3):
        line.put(lambda: clock.works(9))
    await asyncio.sleep(0)
    clock.works(9)
    await asyncio.sleep(0)
    assert not line.is_behind()


async def test_who_is_to_be_refused_last_finds_room_where_others_find_none() -> None:
    """But no more than they are told."""
    clock = Clock()
    line, full = Line(clock=clock), 0

    def each_s() -> float:
        nonlocal full
        if clock.now > 2 and line.is_behind():
            full += 1
            assert not line.is_behind(most=2.0)
        return 0.001

    await offer(line, clock, each_s=each_s, per_s=3000, seconds=5)
    assert full > 100
    patient = await offer(Line(clock=clock), clock, each_s=thousandth, per_s=3000, seconds=5, most=2.0)
    assert 0.55 < patient.longest(since=clock.now - 2) < 0.62


async def test_whoever_was_refused_last_waits_behind_those_who_were_not() -> None:
    """But not for ever: one turn in four is theirs."""
    line, done, over = Line(), [], asyncio.Event()
    line.plain = 1
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
    """Each kind of asker is behind when too many of its own kind wait."""
    clock = Clock()
    line = Line(clock=clock)
    line.plain = 1
    bots = asyncio.ensure_future(offer(line, clock, each_s=thousandth, per_s=5000, seconds=5, was_refused=True))
    people = Came()
    while clock.now < 5:
        assert not line.is_behind()
        at = clock.now
        line.put(lambda at=at: people.waits.append((at, clock.now - at)))  # type: ignore[misc]
        await asyncio.sleep(0)
    assert (await bots).refused > 10_000
    assert people.longest() < 0.01


class Stepping:
    """A coroutine that waits as often as it has futures to wait for, and works a while after each."""

    def __init__(self, clock: Clock, each_s: float, waits: int) -> None:
        self.clock = clock
        self.each_s = each_s
        self.waits_for = [asyncio.get_running_loop().create_future() for _ in range(waits)]
        self.steps = 0
        self.ended = ""

    async def run(self) -> None:
        try:
            self.work()
            for future in self.waits_for:
                await future
                self.work()
        except asyncio.CancelledError as error:
            self.ended = type(error).__name__
            raise
        self.ended = "whole"

    def work(self) -> None:
        self.clock.works(self.each_s)
        self.steps += 1


@pytest.fixture
def running() -> Running:
    return Running()


async def begin(
    line: Line, running: Running, *coroutines: Coroutine[Any, Any, None], was_refused: bool = False
) -> list[Steps | None]:
    """Begin each in a turn, and give what came of that."""
    begun: list[Steps | None] = []
    for one in coroutines:
        line.put(lambda one=one: begun.append(line.begin(one, running, was_refused=was_refused)))  # type: ignore[misc]
    while len(line):
        await asyncio.sleep(0)
    return begun


@pytest.mark.parametrize(("each_s", "at_once"), [(0.125, 8), (0.375, 3), (50.0, 1)])
async def test_what_all_wait_for_comes_at_once_and_goes_on_a_slice_a_turn(
    each_s: float, at_once: int, running: Running
) -> None:
    """As when the store answers a hundred commands in one read; and all else of the loop comes between two slices."""
    clock = Clock()
    line, turns = Line(slice_s=1.0, clock=clock), []
    line.plain = 1
    begun = [Stepping(clock, each_s, waits=1) for _ in range(30)]
    await begin(line, running, *[one.run() for one in begun])
    assert all(one.steps == 1 for one in begun), "the first step is taken as it is begun"

    def plain() -> None:
        turns.append(sum(one.steps for one in begun))
        if any(not one.ended for one in begun):
            asyncio.get_running_loop().call_soon(plain)

    plain()
    for one in begun:
        one.waits_for[0].set_result(None)
    await running.drain(30)
    per_turn = [after - before for before, after in itertools.pairwise(turns)]
    assert sum(one.steps for one in begun) == 60
    assert max(per_turn) == at_once
    assert len(line) == 0


async def test_what_goes_on_comes_before_what_begins(running: Running) -> None:
    """Or all would be begun, and each would wait for all others at each step. Who was refused last stays behind."""
    line, order, over = Line(), [], asyncio.Event()

    async def asks(answer: asyncio.Future[str]) -> None:
        order.append(await answer)

    fair, refused = asyncio.Future[str](), asyncio.Future[str]()
    await begin(line, running, asks(fair))
    await begin(line, running, asks(refused), was_refused=True)
    # One turn in four is for who was refused: none of the next three.
    await begin(line, running, *[Stepping(Clock(), 0.0, waits=0).run() for _ in range(2)])
    refused.set_result("a refused one goes on")
    fair.set_result("one goes on")
    line.put(over.set, was_refused=True)
    line.put(lambda: order.append("another begins"))
    async with asyncio.timeout(30):
        await over.wait()
    assert order == ["one goes on", "another begins", "a refused one goes on"]


async def test_what_goes_on_with_what_was_begun_waits_for_its_first_step_too(running: Running) -> None:
    """Before what begins, in the order in which it came; it counts as begun from the start."""
    line, order, over = Line(), [], asyncio.Event()

    async def goes_on(name: str) -> None:
        order.append(f"{name} goes on")
        await asyncio.sleep(0)
        order.append(f"{name} ends")

    line.put(lambda: order.append("another begins"))
    line.put(over.set)
    line.go_on_with(goes_on("one"), running)
    line.go_on_with(goes_on("the next"), running)
    assert (order, len(running), len(line)) == ([], 2, 4)
    async with asyncio.timeout(30):
        await over.wait()
    assert order == ["one goes on", "the next goes on", "one ends", "the next ends", "another begins"]
    assert not running


async def test_what_is_broken_off_before_its_first_step_takes_none(running: Running) -> None:
    line, first = Line(), Stepping(Clock(), 0.0, waits=0)
    line.go_on_with(first.run(), running)
    running.cancel()
    async with asyncio.timeout(30):
        await running.over()
    assert (first.steps, first.ended, len(line)) == (0, "", 0)


async def test_what_ends_with_its_first_step_is_over(running: Running) -> None:
    """And what that step raises, whoever began it hears."""
    heard: list[ValueError] = []

    async def raises() -> None:
        raise ValueError("a mistake")

    def begins() -> None:
        try:
            line.begin(raises(), running)
        except ValueError as error:
            heard.append(error)

    line = Line()
    at_once = Stepping(Clock(), 0.0, waits=0)
    assert await begin(line, running, at_once.run()) == [None]
    assert at_once.ended == "whole"
    line.put(begins)
    await asyncio.sleep(0)
    assert [str(error) for error in heard] == ["a mistake"]
    assert not running


async def test_what_a_later_step_raises_is_reported_and_holds_nobody_up(running: Running) -> None:
    line, answer = Line(), asyncio.Future[None]()
    loop, reported = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    mistake = ValueError("a mistake")

    async def raises() -> None:
        await answer
        raise mistake

    other = Stepping(Clock(), 0.0, waits=1)
    await begin(line, running, raises(), other.run())
    answer.set_result(None)
    other.waits_for[0].set_result(None)
    await running.drain(30)
    assert other.ended == "whole"
    assert reported == [mistake]


@pytest.mark.parametrize("turns", range(3))
async def test_a_step_that_is_cancelled_is_told_wherever_it_waits(turns: int, running: Running) -> None:
    """While it waits for an answer, and while it waits for its turn after that."""
    line = Line()
    stepping = Stepping(Clock(), 0.0, waits=2)
    (steps,) = await begin(line, running, stepping.run())
    assert steps is not None
    for turn in range(turns):
        if turn == 1:
            stepping.waits_for[0].set_result(None)
        await asyncio.sleep(0)
    steps.cancel()
    await running.drain(30)
    assert (stepping.steps, stepping.ended, len(line)) == (1, "CancelledError", 0)


async def test_a_step_that_cancels_itself_is_told_at_its_next_wait(running: Running) -> None:
    """As when a connection is found lost in the midst of a step."""
    line = Line()
    stepping, going_on = Stepping(Clock(), 0.0, waits=1), asyncio.Future[None]()

    async def cancels_itself() -> None:
        await going_on
        assert steps is not None
        steps.cancel()
        await stepping.run()

    (steps,) = await begin(line, running, cancels_itself())
    going_on.set_result(None)
    await running.drain(30)
    assert (stepping.steps, stepping.ended) == (1, "CancelledError")
    assert stepping.waits_for[0].cancelled()


# What is told to a coroutine that asks its current task, and hears of it when it waits.


async def hears_of_its_time_once(heard: list[object]) -> None:
    try:
        async with asyncio.timeout(0):
            await asyncio.Future()
    except TimeoutError:
        heard.append("its time is over")
    await asyncio.sleep(0)
    heard.append("goes on")


async def hears_of_itself_once(heard: list[object], pause_s: float = 0.001) -> None:
    task = asyncio.current_task()
    assert task is not None
    heard.append(task.cancelling())
    task.cancel()
    for _ in range(2):
        try:
            await asyncio.sleep(pause_s)
            heard.append("goes on")
        except asyncio.CancelledError:
            heard.append("is cancelled")


async def lets_others_go_first(heard: list[object]) -> None:
    await hears_of_itself_once(heard, 0)


async def is_cancelled_beside_its_time(heard: list[object]) -> None:
    task = asyncio.current_task()
    assert task is not None
    try:
        async with asyncio.timeout(0):
            task.cancel()
            await asyncio.Future()
    except asyncio.CancelledError:
        heard.append("is cancelled, and not only late")
    heard.append(task.cancelling())


async def counts(heard: list[object]) -> None:
    task = asyncio.current_task()
    assert task is not None
    for _ in range(3):
        task.cancel()
        heard.append(task.cancelling())
    try:
        await asyncio.Future()
    except asyncio.CancelledError:
        heard += [task.uncancel() for _ in range(4)]
    await asyncio.sleep(0)
    heard.append("goes on")


@pytest.mark.parametrize(
    "story",
    [hears_of_its_time_once, hears_of_itself_once, lets_others_go_first, is_cancelled_beside_its_time, counts],
    ids=lambda story: story.__name__,
)
async def test_steps_are_told_what_a_task_is(
    running: Running, story: Callable[[list[object]], Coroutine[Any, Any, None]]
) -> None:
    """Of cancellations, their count and their end: the same coroutine hears the same in both."""
    in_task: list[object] = []
    await asyncio.create_task(story(in_task))
    in_steps: list[object] = []
    await begin(Line(), running, story(in_steps))
    await running.drain(30)
    assert in_steps == in_task


async def test_a_cancellation_that_is_taken_back_before_a_wait_is_none(running: Running) -> None:
    """As with a task of Python 3.13; one of two that is taken back leaves one."""
    heard: list[str] = []

    async def takes_back() -> None:
        task = asyncio.current_task()
        assert task is not None
        for times in (1, 2):
            for _ in range(times):
                task.cancel()
            task.uncancel()
            try:
                await asyncio.sleep(0)
                heard.append("goes on")
            except asyncio.CancelledError:
                heard.append("is cancelled")

    await begin(Line(), running, takes_back())
    await running.drain(30)
    assert heard == ["goes on", "is cancelled"]


async def test_what_begins_after_all_was_over_is_waited_for(running: Running) -> None:
    """And broken off in its time, as before."""
    line = Line()
    for _ in range(2):
        ends, never = Stepping(Clock(), 0.0, waits=1), Stepping(Clock(), 0.0, waits=1)
        await begin(line, running, ends.run())
        ends.waits_for[0].set_result(None)
        async with asyncio.timeout(30):
            await running.over()
        await begin(line, running, never.run())
        await running.drain(0.05)
        assert (ends.ended, never.ended) == ("whole", "CancelledError")


async def test_what_has_not_ended_in_its_time_is_broken_off(running: Running) -> None:
    line = Line()
    ends, never = Stepping(Clock(), 0.0, waits=1), Stepping(Clock(), 0.0, waits=1)
    await begin(line, running, ends.run(), never.run())
    asyncio.get_running_loop().call_later(0.01, ends.waits_for[0].set_result, None)
    await running.drain(0.1)
    assert (ends.ended, never.ended) == ("whole", "CancelledError")
    assert not running


async def test_a_coroutine_in_turn_is_one_like_any_other(running: Running) -> None:
    """Errors reach it, `asyncio.timeout` works from its first step on, and it may let others go first."""
    line, failing = Line(), asyncio.Future[None]()
    heard: list[str] = []

    async def asks() -> None:
        for _ in range(2):
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Future[None]()
            except TimeoutError:
                heard.append("late")
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(30):
                await failing
        except OSError as error:
            heard.append(str(error))
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
        heard.append("ended")

    await begin(line, running, asks(), was_refused=True)
    failing.set_exception(OSError("away"))
    await running.drain(30)
    assert heard == ["late", "late", "away", "ended"]


async def test_a_time_limit_is_not_taken_for_a_cancellation_nor_the_other_way_round(running: Running) -> None:
    line = Line()
    heard: list[str] = []

    async def asks() -> None:
        try:
            async with asyncio.timeout(30):
                await asyncio.Future[None]()
        except TimeoutError:
            heard.append("late")
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    (steps,) = await begin(line, running, asks())
    assert steps is not None
    steps.cancel()
    await running.drain(30)
    assert heard == ["cancelled"]


async def test_a_group_of_tasks_in_a_step_fails_as_in_a_task(running: Running) -> None:
    """A child that fails ends its siblings and what the group's body waits for, and the step goes on after it."""
    line = Line()
    heard: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise OSError("a child's")

    async def waits(name: str) -> None:
        try:
            await asyncio.Future[None]()
        except asyncio.CancelledError:
            heard.append(name)
            raise

    async def asks() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits("a sibling"))
                group.create_task(fails())
                await waits("the body")
        except* OSError:
            heard.append("failed")
        await asyncio.sleep(0)
        heard.append("went on")

    await begin(line, running, asks())
    async with asyncio.timeout(30):
        await running.over()
    assert sorted(heard[:2]) == ["a sibling", "the body"]
    assert heard[2:] == ["failed", "went on"]
