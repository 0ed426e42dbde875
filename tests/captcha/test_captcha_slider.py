"""The sliding puzzle: work, picture, track, token, each once, in its time, for its asker; and nothing else passes."""

import asyncio
import base64
import gc
import io
import json
import random
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import altcha as library
import pytest
import pytest_asyncio
import tracks
from fakes import DEADLINE_S, Calm
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sidecar.captcha.seam import Step, Verdict
from sidecar.captcha.slider import MAX_TOKEN, Settings, Slider, built_in
from sidecar.captcha.slider_maker import MOST_READY, Pictures
from sidecar.captcha.slider_picture import HEIGHT, PIECE, SHAPES, WIDTH, draw

SECRET = b"0123456789abcdef"
IP, NEIGHBOUR, STRANGER = "203.0.113.7", "203.0.113.200", "198.51.100.9"
QUICK = Settings(kind="slider", cost=2, max_counter=20)


SITES = Calm()


def make(
    now: Callable[[], float] = time.time, rules: Settings = QUICK, secret: bytes = SECRET, pictures: bool = True
) -> Slider:
    """A table at work, with a few pictures that are ready."""
    slider = built_in(rules, secret, now, lambda n: n - 1, lambda _usual: SITES)
    if pictures:
        slider._pictures._ready.extend(PICTURES)
    return slider


PICTURES = [draw(random.Random(seed)) for seed in range(3)]


async def work(slider: Slider) -> str:
    challenge = library.Challenge.from_dict(slider.challenge(await slider.due(IP))["work"])
    solution = library.solve_challenge(challenge)
    assert solution is not None
    return library.Payload(challenge, solution).to_base64()


async def judged(step: Step | Verdict) -> dict[str, Any] | Verdict:
    return step if isinstance(step, Verdict) else await step.judge()


async def picture(slider: Slider, ip: str = IP) -> dict[str, Any]:
    told = await judged(slider.step({"work": await work(slider)}, ip))
    assert isinstance(told, dict), told
    return told


def place(slider: Slider, told: dict[str, Any]) -> int:
    """Where the piece belongs, as only the server can say."""
    nonce = base64.urlsafe_b64decode(told["picture"] + "==")
    x: int = struct.unpack(">d16sH", slider._sealing.decrypt(nonce[:12], nonce[12:], b"picture"))[2]
    return x


def moved(told: dict[str, Any], to: float) -> dict[str, Any]:
    return {"picture": told["picture"], "by": "mouse", "points": tracks.hand(to, 5)}


async def token(slider: Slider, ip: str = IP) -> str:
    told = await picture(slider, ip)
    answer = await judged(slider.step(moved(told, place(slider, told)), ip))
    assert isinstance(answer, dict), answer
    return str(answer["token"])


async def passed(slider: Slider, shown: str, ip: str = IP) -> Verdict:
    known = slider.look(shown)
    return known if isinstance(known, Verdict) else await slider.verify(shown, ip)


async def test_the_right_place_gives_a_token_that_passes() -> None:
    slider = make()
    assert await passed(slider, await token(slider)) == Verdict("pass")


async def test_another_place_gives_none() -> None:
    slider = make()
    for off in (-QUICK.tolerance - 1, QUICK.tolerance + 1, 60):
        told = await picture(slider)
        step = slider.step(moved(told, place(slider, told) + off), IP)
        assert await judged(step) == Verdict("reject", "place")


async def test_the_right_place_by_no_hand_gives_none() -> None:
    slider = make()
    told = await picture(slider)
    shown = {**moved(told, 0), "points": tracks.even(place(slider, told))}
    verdict = await judged(slider.step(shown, IP))
    assert isinstance(verdict, Verdict)
    assert verdict.reason.startswith("even_speed+")


async def test_a_picture_is_known_by_one_name_whatever_is_tried_with_it() -> None:
    """Claimed by it, it is tried once: nobody tries one place after another."""
    slider = make()
    told = await picture(slider)
    names = set()
    for to in range(0, 300, 50):
        step = slider.step(moved(told, to), IP)
        assert isinstance(step, Step)
        names.add(step.id)
    assert len(names) == 1
    again = slider.step(moved({"picture": told["picture"] + "="}, 1), IP)
    assert again == Verdict("reject", "signature") or (isinstance(again, Step) and again.id in names)


async def test_work_pictures_and_tokens_are_each_known_by_names_of_their_own() -> None:
    slider = make()
    solved = await work(slider)
    first = slider.step({"work": solved}, IP)
    assert isinstance(first, Step)
    told = await judged(first)
    assert isinstance(told, dict)
    second = slider.step(moved(told, place(slider, told)), IP)
    assert isinstance(second, Step)
    answer = await judged(second)
    assert isinstance(answer, dict)
    assert len({first.id, second.id, slider.look(answer["token"])}) == 3
    repeated = slider.step({"work": solved}, IP)
    assert isinstance(repeated, Step)
    assert repeated.id == first.id


async def test_a_picture_is_no_token_and_a_token_no_picture() -> None:
    slider = make()
    told = await picture(slider)
    assert (await passed(slider, told["picture"])).outcome == "reject"
    assert slider.step(moved({"picture": await token(slider)}, 100), IP) == Verdict("reject", "signature")


@pytest.mark.parametrize(
    ("bound_to", "ip", "outcome"),
    [
        ("ip_prefix", NEIGHBOUR, "pass"),
        ("ip_prefix", STRANGER, "reject"),
        ("ip", IP, "pass"),
        ("ip", NEIGHBOUR, "reject"),
        ("none", STRANGER, "pass"),
    ],
)
async def test_a_token_is_for_who_had_the_picture(bound_to: Any, ip: str, outcome: str) -> None:
    slider = make(rules=Settings(kind="slider", cost=2, max_counter=20, bound_to=bound_to))
    told = await picture(slider)
    step = slider.step(moved(told, place(slider, told)), ip)
    assert (step if isinstance(step, Verdict) else Verdict("pass")).outcome == outcome
    assert (await passed(slider, await token(slider), ip)).outcome == outcome


async def test_pictures_and_tokens_work_until_they_expire_and_no_longer() -> None:
    start = float(int(time.time()))
    told = await picture(early := make(lambda: start))
    late = make(lambda: start + QUICK.ttl)
    assert late.step(moved(told, place(late, told)), IP) == Verdict("spent", "expired")
    assert isinstance(make(lambda: start + QUICK.ttl - 1).step(moved(told, 1), IP), Step)
    shown = await token(early)
    assert await passed(make(lambda: start + QUICK.ttl - 1), shown) == Verdict("pass")
    assert await passed(late, shown) == Verdict("spent", "expired")


async def test_what_was_made_under_a_longer_ttl_does_not_outlive_its_claim() -> None:
    start = float(int(time.time()))
    long = make(lambda: start, Settings(kind="slider", cost=2, max_counter=20, ttl=3600.0))
    assert await passed(make(lambda: start), await token(long)) == Verdict("reject", "too_young")
    assert make().life_s >= QUICK.ttl + 60


async def test_nothing_of_another_secret_passes() -> None:
    other = make(secret=b"another-secret-x")
    assert await passed(make(), await token(other)) == Verdict("reject", "signature")
    assert make().step(moved(await picture(other), 1), IP) == Verdict("reject", "signature")
    assert make().step({"work": await work(other)}, IP) == Verdict("reject", "signature")


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
async def test_a_changed_seal_is_refused(at: int, bit: int) -> None:
    octets = bytearray(base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4)))
    octets[at % len(octets)] ^= 1 << bit
    changed = base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
    assert await passed(SEALER, changed) == Verdict("reject", "signature")


SEALER = make()
TOKEN = asyncio.run(token(SEALER))


@given(shown=st.text(max_size=200))
async def test_garbage_is_no_token(shown: str) -> None:
    assert (await passed(SEALER, shown)).outcome == "reject"
    assert await passed(SEALER, "x" * (MAX_TOKEN + 1)) == Verdict("reject", "too_long")


def test_a_token_is_far_below_the_bound() -> None:
    assert len(TOKEN) <= MAX_TOKEN * 0.6


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(shown=st.dictionaries(st.sampled_from(["work", "picture", "by", "points", "x"]), ANYTHING, max_size=5))
def test_whatever_is_shown_is_refused_and_costs_no_picture(shown: dict[str, Any]) -> None:
    ready = len(SEALER._pictures._ready)
    verdict = SEALER.step(shown, IP)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome == "reject"
    assert len(SEALER._pictures._ready) == ready


@pytest.mark.parametrize("points", [[[0, float("nan"), 0]], [[0, 0, 0]] * 600, "x", None, [[0, 10**30, 0]]])
async def test_what_is_no_track_leaves_the_picture_unspent(points: Any) -> None:
    """It is refused before there is a name to claim."""
    slider = make()
    assert slider.step({**moved(await picture(slider), 1), "points": points}, IP) == Verdict("reject", "unreadable")


async def test_nothing_that_is_told_says_where_the_piece_belongs() -> None:
    """The same picture twice has seals of the same length and nothing else in common."""
    slider = make(pictures=False)
    slider._pictures._ready.extend([PICTURES[0]] * 2)
    one, other = await picture(slider), await picture(slider)
    assert set(one) == {"picture", "scene", "piece", "top", "size", "expires_in"}
    assert one["scene"] == other["scene"]
    assert len(one["picture"]) == len(other["picture"])
    assert sum(a == b for a, b in zip(one["picture"], other["picture"], strict=True)) < len(one["picture"]) / 4


async def test_without_pictures_nobody_gets_one_and_tokens_are_as_good_as_ever() -> None:
    """Never "away", or `on_failure` would let everybody in; and no picture is shown twice."""
    slider = make()
    held = await token(slider)
    shown = [(await picture(slider))["scene"] for _ in PICTURES[1:]]
    assert len(set(shown)) == len(PICTURES) - 1
    assert await judged(slider.step({"work": await work(slider)}, IP)) == Verdict("provider_error", "no_picture")
    assert not slider.is_away
    assert await passed(slider, held) == Verdict("pass")


# The pictures…


def test_the_same_randomness_draws_the_same_picture() -> None:
    assert draw(random.Random(1)) == draw(random.Random(1))
    assert draw(random.Random(1)) != draw(random.Random(2))


@given(seed=st.integers())
@settings(deadline=None)
def test_a_piece_belongs_inside_and_not_where_it_begins(seed: int) -> None:
    drawn = draw(random.Random(seed))
    assert PIECE <= drawn.x <= WIDTH - PIECE
    assert 0 <= drawn.y <= HEIGHT - PIECE
    scene, piece = Image.open(io.BytesIO(drawn.scene)), Image.open(io.BytesIO(drawn.piece))
    assert (scene.format, scene.size, piece.format, piece.size) == ("JPEG", (WIDTH, HEIGHT), "PNG", (PIECE, PIECE))
    left, top, right, bottom = piece.getchannel("A").getbbox() or (0, 0, 0, 0)
    assert right - left >= 18
    assert bottom - top >= 18
    assert not scene.getexif()
    assert len(drawn.scene) + len(drawn.piece) < 40_000


def test_no_column_is_worth_a_guess() -> None:
    """Who always shows the best of all places, unseen, is right less often than who draws lots among the shapes."""
    places = [draw(random.Random(seed)).x for seed in range(200)]
    best = max(sum(abs(x - guess) <= QUICK.tolerance for x in places) for guess in range(WIDTH))
    assert best < 200 / SHAPES
    assert min(places) < WIDTH / 4
    assert max(places) > WIDTH * 3 / 4


# Their maker…


@pytest_asyncio.fixture
async def drawing() -> AsyncIterator[Pictures]:
    pictures = Pictures()
    task = asyncio.create_task(pictures.run())
    yield pictures
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def filled(pictures: Pictures, count: int) -> None:
    async with asyncio.timeout(30):
        while len(pictures._ready) < count:
            await asyncio.sleep(0.02)


async def test_pictures_are_made_ahead_and_only_so_many(drawing: Pictures) -> None:
    """The pool fills, stays as it is, and what is taken is drawn anew; no two are alike."""
    await filled(drawing, MOST_READY)
    assert len(drawing._ready) == MOST_READY
    taken = [drawing.take() for _ in range(MOST_READY)]
    assert drawing.take() is None
    await filled(drawing, MOST_READY)
    assert len(drawing._ready) == MOST_READY
    scenes = {one.scene for one in [*taken, *drawing._ready] if one is not None}
    assert len(scenes) == 2 * MOST_READY


async def test_drawing_does_not_hold_up_the_loop(drawing: Pictures) -> None:
    """While the pool is emptied again and again, a turn of the loop stays far below the time of one picture."""
    await filled(drawing, 1)
    turns, taken, worst = 0, 0, 0.0
    gc.disable()  # what the garbage of all the tests before costs is nobody's drawing
    try:
        async with asyncio.timeout(DEADLINE_S):
            while turns < 1000 or taken < 20:
                started = time.thread_time()
                while drawing.take() is not None:
                    taken += 1
                await asyncio.sleep(0)
                worst = max(worst, time.thread_time() - started)
                turns += 1
    finally:
        gc.enable()
    assert worst < 0.01


async def test_a_maker_that_dies_ends_the_run_so_that_it_is_begun_again() -> None:
    pictures = Pictures()
    task = asyncio.create_task(pictures.run())
    await filled(pictures, 1)
    assert pictures.child is not None
    pictures.child.kill()
    while not task.done():
        pictures.take()
        await asyncio.wait({task}, timeout=0.01)
    assert isinstance(task.exception(), asyncio.IncompleteReadError)


async def test_the_maker_ends_with_the_run() -> None:
    pictures = Pictures()
    task = asyncio.create_task(pictures.run())
    await filled(pictures, 1)
    child = pictures.child
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert child is not None
    assert child.returncode is not None


async def test_the_maker_ends_when_nobody_reads_any_more() -> None:
    """As when the sidecar is killed: it is not left behind."""
    import sys

    command = (sys.executable, "-P", "-m", "sidecar.captcha.slider_maker")
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readexactly(1000)
    child._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    assert await asyncio.wait_for(child.wait(), 20) == 0


def test_settings_are_bounded() -> None:
    for wrong in ({"tolerance": 2}, {"tolerance": 16}, {"cost": 0}, {"ttl": 5.0}, {"bound_to": "cookie"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(kind="slider", **wrong)
    assert json.loads(Settings(kind="slider").model_dump_json())["tolerance"] == 7
