"""What a hand does passes; what no hand does is refused, and whatever is sent is judged in bounded time."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import tracks
from hypothesis import given
from hypothesis import strategies as st

from sidecar.captcha import slider_track
from sidecar.captcha.seam import Verdict

WAY = 180.0


def judged(points: tracks.Points, by: str = "mouse", wanted: float = WAY, tolerance: float = 7) -> Verdict:
    return slider_track.judge(slider_track.read(by, points), wanted, tolerance)


@pytest.mark.parametrize("by", ["mouse", "touch", "pen"])
@pytest.mark.parametrize("frame_ms", [4.2, 8.3, 16.7, 33.3])
def test_hands_pass_on_screens_of_any_speed(by: str, frame_ms: float) -> None:
    """Of 100 unsteady drags of 40 to 300 pixels at 30 to 240 events a second 98 pass or more."""
    ways = [40 + 260 * n / 100 for n in range(100)]
    points = [tracks.hand(way, seed, frame_ms=frame_ms) for seed, way in enumerate(ways)]
    passed = [judged(track, by, way).outcome for track, way in zip(points, ways, strict=True)]
    assert passed.count("pass") >= 98


def test_keys_pass() -> None:
    for way in (30, 97, 251):
        assert judged(tracks.keys(way), "keyboard", way) == Verdict("pass")


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (tracks.even(WAY), "even_speed+no_braking+smooth+level+even_beat+sudden_end"),
        (tracks.eased(WAY), "smooth+level+even_beat"),
        (tracks.smooth(WAY), "smooth+level+even_beat"),
        (tracks.even(WAY, lasts_ms=200), "too_fast"),
        (tracks.even(WAY, count=5), "few_points"),
        ([[0, 0, 0], *([n * 40, 1 + n, 0] for n in range(1, 20)), [900, WAY, 0]], "leap"),
        ([[n * 40, 150 + 1.5 * n, 0] for n in range(21)], "leap"),
    ],
)
def test_what_formulas_make_is_refused(points: tracks.Points, reason: str) -> None:
    assert judged(points) == Verdict("reject", reason)


def test_a_sine_is_no_tremor() -> None:
    assert (
        judged(tracks.wavy(WAY, count=90, lasts_ms=1400), wanted=tracks.wavy(WAY, count=90)[-1][1]).outcome == "reject"
    )


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([[0, 0, 0], [400, WAY, 0]], "leap"),
        ([[0, 0, 0], *([n, 4 * n, 0] for n in range(1, 46))], "too_fast"),
        ([[0, WAY, 0], [500, WAY, 0]], "leap"),
        ([[0, WAY, 0]], "too_fast"),
    ],
)
def test_keys_do_not_leap(points: tracks.Points, reason: str) -> None:
    assert judged(points, "keyboard") == Verdict("reject", reason)


@given(off=st.floats(-60, 60))
def test_the_end_must_be_near(off: float) -> None:
    """Within the tolerance, and not a hair farther, however good the hand."""
    points = [[t, x, y] for t, x, y in tracks.hand(WAY, 3)]
    end = points[-1][1]
    verdict = judged(points, wanted=end + off)
    assert verdict == (Verdict("pass") if abs(end + off - end) <= 7 else Verdict("reject", "place"))


def test_times_do_not_run_backwards() -> None:
    points = tracks.hand(WAY)
    points[5], points[6] = points[6], points[5]
    assert judged(points) == Verdict("reject", "times")


NUMBERS = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)


@pytest.mark.parametrize(
    "points",
    [
        *(None, {}, [], "x", [1], [[1, 2]], [[1, 2, 3, 4]], [[0, 0, None]], [["0", 0, 0]], [[True, 0, 0]]),
        *(
            [[math.nan, 0, 0]],
            [[0, math.inf, 0]],
            [[0, 0, -math.inf]],
            [[-1, 0, 0]],
            [[0, 10**400, 0]],
            [[1e300, 0, 0]],
        ),
        [[0, 0, 0]] * (slider_track.MAX_POINTS + 1),
    ],
)
def test_what_is_no_track_is_not_read(points: Any) -> None:
    with pytest.raises(ValueError):
        slider_track.read("mouse", points)


@pytest.mark.parametrize("by", ["", "Mouse", "magic", None, 1, [], {}])
def test_a_track_says_what_made_it(by: Any) -> None:
    with pytest.raises(ValueError):
        slider_track.read(by, tracks.hand(WAY))


@given(by=st.sampled_from(["mouse", "keyboard", "x"]), points=st.lists(st.lists(NUMBERS, max_size=4), max_size=30))
def test_whatever_is_sent_is_judged_or_no_track(by: str, points: Any) -> None:
    try:
        track = slider_track.read(by, points)
    except ValueError:
        return
    assert slider_track.judge(track, 100, 7).outcome in {"pass", "reject"}


@given(
    by=st.sampled_from(["mouse", "touch", "pen", "keyboard"]),
    points=st.lists(
        st.tuples(st.floats(0, 6e5), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)).map(list), min_size=1, max_size=60
    ),
    is_sorted=st.booleans(),
)
def test_any_numbers_are_judged(by: str, points: Any, is_sorted: bool) -> None:
    """No division by nothing, no end that is never come to: also of tracks that stand still or go back."""
    track = slider_track.read(by, sorted(points) if is_sorted else points)
    verdict = slider_track.judge(track, track.points[-1][1], 7)
    assert verdict.outcome in {"pass", "reject"}
    times = [point[0] for point in track.points]
    assert times == sorted(times) or verdict == Verdict("reject", "times")


def test_the_longest_track_is_judged_in_a_few_milliseconds() -> None:
    points = [[n * 2.5, 180 * tracks.min_jerk(n / 511) + (n % 3), n % 5] for n in range(slider_track.MAX_POINTS)]
    text = json.dumps(points)

    def quickest(work: Callable[[], Any]) -> float:
        def once() -> float:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started

        return min(once() for _ in range(5))

    assert quickest(lambda: judged(json.loads(text))) < 0.05
