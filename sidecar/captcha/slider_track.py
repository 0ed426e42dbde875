"""Did a hand move this? A pointer's way, or a key's steps, from where the piece began to where it was let go. Pure.

A track is what a client says, and a client may say anything: whoever knows how hands move can write a track that
passes. So this is a sieve for the lazy, which makes the others write a generator; what stops a bot is the place, and
the work that each picture costs. What is refused here is what no hand does:

- it ends in the wrong place, began elsewhere, leapt, or had no time (hard signs: one refuses)
- it moves as a formula does: at one speed, on a perfect curve or a perfect line, to the beat of a clock, without
  slowing down before the end (soft signs: a hand shows one now and then, two refuse)

Keys have no curve to look at: of them only steps and times are judged, and whoever says "keyboard" is believed. People
who cannot use a pointer need that way, so it costs a bot no more than the others.

Times are milliseconds since the piece was taken, lengths are pixels of the picture.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from sidecar.captcha.seam import Verdict

# A browser tells a pointer's place 60 to 240 times a second; the widget thins what it sends to half of that.
MAX_POINTS: Final = 512
# Far beyond what a picture and a minute have: arithmetic with what is left is exact enough.
_FARTHEST: Final = 10_000.0
_LONGEST_MS: Final = 600_000.0
_POINTERS: Final = frozenset({"mouse", "touch", "pen"})

# Hard signs. The quickest of deliberate drags takes 300 ms; 60 events a second are 15 in that time, and a slow phone
# tells of half. The piece is taken where it lies; a step is what a hand does between two events.
_SHORTEST_MS: Final = 250.0
_FEWEST_POINTS: Final = 8
_FARTHEST_START: Final = 12.0
_LONGEST_STEP: Final = 0.45  # of the way
# Keys: the quickest repeat of a held key is 30 a second, and the widget's arrows go 4 pixels, or 1, its page keys 24.
_SHORTEST_KEYS_MS: Final = 300.0
_QUICKEST_KEY_MS: Final = 8.0
_LONGEST_KEY_STEP: Final = 24.0

# Soft signs, of tracks with so many points or more; a shorter one says too little.
_TELLING_POINTS: Final = 12
_EVEN_SPEED: Final = 0.15  # deviation of the speed, of its mean
_LAST_PART: Final = 0.15  # of the way …
_BRAKED: Final = 0.2  # … takes less than this of the time at an even speed, and a hand takes more
_FEWEST_TURNS: Final = 3  # how often a hand's push becomes a pull
_EVEN_BEAT: Final = 0.02  # deviation of the time between two events, of its mean
_SPEED_AT_END: Final = 0.35  # of the highest
_ENOUGH_SIGNS: Final = 2


@dataclass(frozen=True, slots=True)
class Track:
    """`points` are (time, how far to the right, how far down), `by` is "mouse", "touch", "pen" or "keyboard"."""

    by: str
    points: tuple[tuple[float, float, float], ...]


def read(by: Any, points: Any) -> Track:
    """Read what a client sent. Raises ValueError for what is no track: its cost is bounded by MAX_POINTS."""
    if not isinstance(by, str) or by not in _POINTERS | {"keyboard"}:
        raise ValueError("by")
    if not isinstance(points, list) or not 1 <= len(points) <= MAX_POINTS:
        raise ValueError("points")
    found: list[tuple[float, float, float]] = []
    for point in points:
        if not isinstance(point, list) or len(point) != 3:
            raise ValueError("point")
        time, x, y = (_number(value) for value in point)
        if not 0 <= time <= _LONGEST_MS or abs(x) > _FARTHEST or abs(y) > _FARTHEST:
            raise ValueError("range")
        found.append((time, x, y))
    return Track(by, tuple(found))


def _number(value: Any) -> float:
    # A bool is an int to isinstance; an int may be too large for a float.
    if type(value) not in {int, float} or not -_LONGEST_MS <= value <= _LONGEST_MS or not math.isfinite(value):
        raise ValueError("number")
    return float(value)


def judge(track: Track, wanted: float, tolerance: float) -> Verdict:
    """Judge where a track ends, and how it got there. `wanted` is how far to the right the piece belongs."""
    times = [time for time, _, _ in track.points]
    if any(later < sooner for sooner, later in pairwise(times)):
        return Verdict("reject", "times")
    if abs(track.points[-1][1] - wanted) > tolerance:
        return Verdict("reject", "place")
    sign = _of_keys(track) if track.by == "keyboard" else _of_pointer(track)
    return Verdict("reject", sign) if sign else Verdict("pass")


def _of_keys(track: Track) -> str:
    """The sign against a track of keys; "" for none."""
    steps = list(pairwise(track.points))
    if not steps or track.points[-1][0] - track.points[0][0] < _SHORTEST_KEYS_MS:
        return "too_fast"
    if abs(track.points[0][1]) > _LONGEST_KEY_STEP or any(abs(b[1] - a[1]) > _LONGEST_KEY_STEP + 0.5 for a, b in steps):
        return "leap"
    if statistics.median(b[0] - a[0] for a, b in steps) < _QUICKEST_KEY_MS:
        return "too_fast"
    return ""


def _of_pointer(track: Track) -> str:
    """The sign against a track of a pointer, or the signs; "" for none."""
    points = track.points
    way = points[-1][1] - points[0][1]
    if points[-1][0] - points[0][0] < _SHORTEST_MS:
        return "too_fast"
    if len(points) < _FEWEST_POINTS:
        return "few_points"
    longest = max(abs(b[1] - a[1]) for a, b in pairwise(points))
    if abs(points[0][1]) > _FARTHEST_START or longest > _LONGEST_STEP * abs(way):
        return "leap"
    signs = _signs(points, way)
    return "+".join(signs) if len(signs) >= _ENOUGH_SIGNS else ""


def _signs(points: Sequence[tuple[float, float, float]], way: float) -> list[str]:
    """The soft signs against a track, by name. What happens at one moment is one event."""
    moves = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(points) if b[0] > a[0]]
    speeds = [step / ms for ms, step in moves]
    moving = [speed for speed in speeds if speed]
    if len(moving) < _TELLING_POINTS:
        return []
    signs = []
    if statistics.pstdev(moving) < _EVEN_SPEED * abs(statistics.fmean(moving)):
        signs.append("even_speed")
    until = next(time for time, x, _ in points if x - points[0][1] >= (1 - _LAST_PART) * way)
    began, ended = points[0][0], points[-1][0]
    if ended - until < _BRAKED * (ended - began):
        signs.append("no_braking")
    pushes = [after - before for before, after in pairwise(moving)]
    if sum(one * other < 0 for one, other in pairwise([push for push in pushes if push])) < _FEWEST_TURNS:
        signs.append("smooth")
    if len({y for _, _, y in points}) == 1:
        signs.append("level")
    beat = [ms for ms, _ in moves]
    if statistics.pstdev(beat) < _EVEN_BEAT * statistics.fmean(beat):
        signs.append("even_beat")
    if abs(speeds[-1]) > _SPEED_AT_END * max(abs(speed) for speed in speeds):
        signs.append("sudden_end")
    return signs
