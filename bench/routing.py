"""Does learning pay? A simulated year of one operator's troubles, under priority, weighted and adaptive.

The rules are the product's own (`delivery/score.py`, `breaker.py`); the vendors, their troubles and the people
are drawn from a seed. No clock, no socket: `make bench-routing` takes about a minute, and draws the picture in
docs/images/routing.png with matplotlib from a virtual environment of its own.

    python bench/routing.py --out year.json [--every 60] [--seed 1]
    python bench/routing.py --plot year.json docs/images/routing.png
"""

import argparse
import json
import random
import sys
from collections import deque
from dataclasses import astuple
from pathlib import Path

YEAR_S = 365 * 86_400
NAMES = ("cheap", "middle", "dear")
PRICE = {"cheap": 0.045, "middle": 0.050, "dear": 0.060}
SWITCH_AFTER_S, DEADLINE_S, CONFIRM_S = 1.0, 5.0, 20.0
# What goes wrong: how often in a year at each vendor, and for how long, about.
TROUBLES = {
    "refuses": (24, 40 * 60),  # an outage: every attempt is refused at once
    "silent": (12, 30 * 60),  # an outage: no answer
    "slow": (36, 2 * 3600),  # the vendor takes 1 to 3 s, the operator up to 20 s
    "brown": (36, 3 * 3600),  # all is accepted, four in ten arrive
    "drops": (12, 2 * 3600),  # all is accepted, none arrives
}


def troubles(rng):
    """Each vendor's year: (begin, end, what), in order."""
    year = {}
    for name in NAMES:
        found = []
        for what, (count, typical_s) in TROUBLES.items():
            for _ in range(count):
                begin = rng.random() * YEAR_S
                found.append((begin, begin + typical_s * rng.lognormvariate(0, 0.8), what))
        year[name] = sorted(found)
    return year


class Vendor:
    def __init__(self, year):
        self.year, self.i = year, 0

    def at(self, now):
        while self.i < len(self.year) and self.year[self.i][1] < now:
            self.i += 1
        return next((what for begin, end, what in self.year[self.i : self.i + 4] if begin <= now < end), "well")


def attempt(what, rng):
    """(seconds to the answer or None, accepted, seconds until it arrives or None) of one attempt."""
    if what == "refuses":
        return 0.05, False, None
    if what == "silent":
        return None, False, None
    answer = rng.uniform(1.0, 3.0) if what == "slow" else min(0.9, rng.lognormvariate(-1.9, 0.4))
    arrives = {"brown": 0.4, "drops": 0.0}.get(what, 0.99)
    transit = rng.uniform(2.0, 20.0) if what == "slow" else rng.uniform(0.8, 2.5)
    return answer, True, answer + transit if rng.random() < arrives else None


def simulate(strategy, year, every_s, seed):
    from sidecar import breaker as law
    from sidecar.delivery import score
    from sidecar.breaker import Breaker
    from sidecar.delivery.score import Seen

    rng = random.Random(seed)
    vendors = {name: Vendor(year[name]) for name in NAMES}
    seen, seen_at = {name: Seen() for name in NAMES}, dict.fromkeys(NAMES, 0.0)
    breakers = dict.fromkeys(NAMES, Breaker())
    waiting = deque()
    weeks, now = [], 0.0

    def sight(name, what, at):
        faded = astuple(seen[name].faded(at - seen_at[name]))
        seen[name] = Seen(*(one + other for one, other in zip(faded, astuple(what), strict=True)))
        seen_at[name] = at

    def send(order, now):
        """One race: (seconds until it arrives or None, cost, attempts accepted, the first who accepted)."""
        start, came, cost, taken, winner = 0.0, None, 0.0, 0, None
        for name in order:
            if start >= DEADLINE_S:
                break
            answer, accepted, arrives = attempt(vendors[name].at(now), rng)
            in_time = accepted and answer <= SWITCH_AFTER_S
            sight(name, Seen(tried=1, in_time=in_time), now)
            at_ms = int(now * 1000)
            breakers[name] = law.record(
                breakers[name], breakers[name].generation, fine=accepted, failures=5, open_for_ms=10_000, now_ms=at_ms
            )
            if accepted:
                cost, taken, winner = cost + PRICE[name], taken + 1, winner or name
                if arrives is not None:
                    came = min(came or 1e9, start + arrives)
                if in_time:
                    break
            start += answer if answer is not None and not accepted else SWITCH_AFTER_S
        return came, cost, taken, winner

    while now < YEAR_S:
        while waiting and waiting[0][0] <= now:
            _, name, confirmed = waiting.popleft()
            sight(name, Seen(due=1, confirmed=confirmed), now)
        if strategy == "adaptive":
            faded = {name: seen[name].faded(now - seen_at[name]) for name in NAMES}
            order = score.adaptive(NAMES, faded, rng.random)
        elif strategy == "weighted":
            order = score.weighted(NAMES, {}, rng.random)
        else:
            order = list(NAMES)
        at_ms = int(now * 1000)
        usable = []
        for name in order:
            if breakers[name].may_be_probed(at_ms):
                breakers[name] = law.probe(breakers[name], 5_000, at_ms)
                usable.append(name)
            elif breakers[name].state == "closed":
                usable.append(name)
        came, cost, taken, winner = send(usable or order, now)
        in_time = came is not None and came <= DEADLINE_S
        # Nine in ten are confirmed by a receipt or by the code, where the message arrives before that is asked.
        confirmed = came is not None and came <= CONFIRM_S and rng.random() < 0.9
        if winner is not None:
            waiting.append((now + CONFIRM_S, winner, confirmed))
        if not confirmed:  # one more try, on the next: it costs, and it is too late for five seconds
            rest = [name for name in usable or order if name != winner][:1]
            _, more, again, _ = send(rest, now + CONFIRM_S) if rest else (None, 0.0, 0, None)
            cost, taken = cost + more, taken + again
        week = int(now // (7 * 86_400))
        if week == len(weeks):
            weeks.append([0, 0, 0.0, 0])
        for i, value in enumerate((1, in_time, cost, max(0, taken - 1))):
            weeks[week][i] += value
        now += rng.expovariate(1 / every_s)
    return weeks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between messages, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", nargs=2, metavar=("JSON", "PNG"))
    options = parser.parse_args()
    if options.plot:
        return plot(*options.plot)
    year = troubles(random.Random(options.seed))
    told = {}
    print(f"{'':10} {'in 5 s':>9} {'too late or never':>18} {'cost of 1,000':>14} {'sent twice per 1,000':>21}")
    for strategy in ("priority", "weighted", "adaptive"):
        told[strategy] = weeks = simulate(strategy, year, options.every, options.seed)
        count, in_time, cost, twice = (sum(week[i] for week in weeks) for i in range(4))
        late = f"{count - in_time:,} of {count:,}"
        print(
            f"{strategy:10} {100 * in_time / count:8.3f}% {late:>18} {1000 * cost / count:14.2f} {1000 * twice / count:21.1f}",
            flush=True,
        )
    if options.out:
        Path(options.out).write_text(json.dumps(told))
    return 0


def plot(source, target):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    told = json.loads(Path(source).read_text())
    figure, axes = plt.subplots(2, 1, figsize=(8, 5.4), sharex=True)
    for (strategy, weeks), colour in zip(told.items(), ("#8a8a8a", "#c98a2b", "#2b6cb0"), strict=True):
        week = range(1, len(weeks) + 1)
        axes[0].plot(week, [100 * one[1] / one[0] for one in weeks], colour, label=strategy, lw=1.6)
        axes[1].plot(week, [1000 * one[2] / one[0] for one in weeks], colour, label=strategy, lw=1.6)
    axes[0].set_ylabel("delivered in 5 s, %")
    axes[1].set_ylabel("cost of 1,000 messages")
    axes[1].set_xlabel("week")
    axes[0].legend(frameon=False, ncol=3, loc="lower left")
    for one in axes:
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    return 0


if __name__ == "__main__":
    sys.exit(main())
