"""Tracks as hands make them, and as formulas do: for the judge, the bench and the stories."""

import math
import random
from itertools import pairwise

Points = list[list[float]]


def hand(way: float, seed: int = 0, *, frame_ms: float = 16.7, by: str = "mouse") -> Points:
    """A drag as people do it: quick at first, slow before the end, past it or short of it and corrected, unsteady."""
    rng = random.Random(f"{seed} {way}")
    over = rng.choice((-1, 1)) * rng.uniform(0.02, 0.08) * way
    parts = [(0.0, way + over, rng.uniform(380, 900)), (way + over, way, rng.uniform(180, 420))]
    points: Points = [[0.0, 0.0, 0.0]]
    time, drift = rng.uniform(30, 120), 0.0
    for start, end, lasts in parts:
        until = time + lasts
        began = time
        while time < until:
            share = min_jerk((time - began) / lasts)
            drift += rng.gauss(0, 0.35)
            shake = rng.gauss(0, 0.6 + 0.012 * abs(end - start))
            points.append([round(time, 1), round(start + (end - start) * share + shake, 1), round(drift, 1)])
            time += frame_ms * rng.choice((1, 1, 1, 1, 2)) + rng.uniform(-0.8, 0.8)
        time += rng.uniform(20, 90)
    points.append([round(time, 1), way, points[-1][2]])
    points.append([round(time + rng.uniform(60, 250), 1), way, points[-1][2]])
    return points


def keys(way: float) -> Points:
    """A held arrow key, then single presses."""
    points: Points = [[0.0, 0.0, 0.0]]
    time, at = 0.0, 0.0
    while way - at >= 4:
        time += 400 if at == 4 else 33
        at += 4
        points.append([time, at, 0.0])
    while way - at >= 0.5:
        time += 160
        at += 1
        points.append([time, at, 0.0])
    return points


def min_jerk(share: float) -> float:
    """How far an unhurried hand is on its way after that share of its time (Flash and Hogan, 1985)."""
    return 10 * share**3 - 15 * share**4 + 6 * share**5


def even(way: float, count: int = 40, lasts_ms: float = 800) -> Points:
    """What most scripts send: equal steps in equal times."""
    return [[lasts_ms * n / count, way * n / count, 0.0] for n in range(count + 1)]


def eased(way: float, count: int = 40, lasts_ms: float = 800) -> Points:
    """What the better ones send: a curve without a tremor."""
    return [[lasts_ms * n / count, way * (1 - (1 - n / count) ** 3), 0.0] for n in range(count + 1)]


def smooth(way: float, count: int = 50, lasts_ms: float = 900) -> Points:
    """The curve of a hand without its noise."""
    return [[lasts_ms * n / count, way * min_jerk(n / count), 0.0] for n in range(count + 1)]


def wavy(way: float, count: int = 40, lasts_ms: float = 800) -> Points:
    """Equal steps with a sine in them."""
    return [[lasts_ms * n / count, way * n / count + 2 * math.sin(n / 3), math.sin(n / 5)] for n in range(count + 1)]


def farthest_step(points: Points) -> float:
    return max(abs(b[1] - a[1]) for a, b in pairwise(points))
