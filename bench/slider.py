"""What does the slider cost us, and what do solvers achieve against it? `make bench-slider`, about fifteen minutes.

Draws pictures into .bench/slider, of which slider_solver.py then solves what it can, in a venv of its own; says what a
picture costs, and how many tracks of which maker the judge takes: of a model of hands, and of scripts.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import tracks  # noqa: E402

from sidecar.captcha import slider_track  # noqa: E402
from sidecar.captcha.slider import Settings  # noqa: E402
from sidecar.captcha.slider_picture import SHAPES, draw  # noqa: E402

RULES = Settings(kind="slider")


def jittered(points: tracks.Points, seed: int) -> tracks.Points:
    """A script's track with noise of one pixel and three milliseconds on it, as the better ones have."""
    rng = random.Random(seed)
    noisy, time_ms = [], 0.0
    for (before, *_), (after, x, y) in zip([points[0], *points[:-1]], points):
        time_ms += max(0.1, after - before + rng.uniform(-3, 3))
        noisy.append([round(time_ms, 1), x + rng.uniform(-1, 1), y + rng.uniform(-1, 1)])
    return noisy


MAKERS = {
    "a model of hands (two movements of least jerk, tremor, drift)": lambda way, n: tracks.hand(way, n),
    "the same at 125 events a second": lambda way, n: tracks.hand(way, n, frame_ms=8),
    "script: at one speed": lambda way, n: tracks.even(way),
    "script: at one speed, noisy": lambda way, n: jittered(tracks.even(way), n),
    "script: eased out": lambda way, n: tracks.eased(way),
    "script: eased out, noisy": lambda way, n: jittered(tracks.eased(way), n),
    "script: a movement of least jerk": lambda way, n: tracks.smooth(way),
    "script: a movement of least jerk, noisy": lambda way, n: jittered(tracks.smooth(way), n),
    "script: says that it is a keyboard": lambda way, n: tracks.keys(round(way)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path(".bench/slider"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for old in args.folder.glob("*"):
        old.unlink()
    places, octets, started = {}, 0, time.process_time()
    for number in range(args.pictures):
        picture = draw(random.Random(f"slider {number}"))
        octets += len(picture.scene) + len(picture.piece)
        (args.folder / f"{number:04}.jpg").write_bytes(picture.scene)
        (args.folder / f"{number:04}.png").write_bytes(picture.piece)
        places[f"{number:04}"] = (picture.x, picture.y)
    spent = time.process_time() - started
    told = {"tolerance": RULES.tolerance, "holes": SHAPES, "pictures": places}
    (args.folder / "answers.json").write_text(json.dumps(told))
    print(f"{spent / args.pictures * 1000:.1f} ms of CPU time and {octets / args.pictures / 1000:.1f} kB a picture")
    xs = [x for x, _ in places.values()]
    blind = max(sum(abs(x - guess) <= RULES.tolerance for x in xs) for guess in range(360)) / len(xs)
    print(f"{blind:.1%} of pictures are solved by whoever always shows the best one place, unseen\n")
    print("| track | taken |\n|---|---|")
    for name, make in MAKERS.items():
        passed = 0
        for number in range(500):
            way = random.Random(number).uniform(60, 300)
            by = "keyboard" if "keyboard" in name else "mouse"
            track = slider_track.read(by, make(way, number))
            passed += slider_track.judge(track, way, RULES.tolerance).outcome == "pass"
        print(f"| {name} | {passed / 500:.1%} |")
    print()


main()
