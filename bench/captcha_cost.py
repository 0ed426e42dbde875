"""What does a flood pay for each message, and what a person? The work that altcha asks for, against the rate.

The law is the product's own (`limits/load.py`, `captcha/altcha.py`) at its defaults; askers come at a steady pace for an
hour, and the work of the last ten minutes is told. No clock, no socket: `make bench-captcha` takes about a minute, and
draws the picture in docs/images/captcha-cost.png with matplotlib from a virtual environment of its own.

    python bench/captcha_cost.py --out cost.json
    python bench/captcha_cost.py --plot cost.json docs/images/captcha-cost.png
"""

import argparse
import json
import math
import sys
from pathlib import Path

HOUR_S, LAST_S = 3600.0, 600.0
RATES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
# Who floods: so many addresses, so many of them in one site.
FLOODS = {
    "one address": (1, 1),
    "a /24 of 256 addresses": (256, 256),
    "10,000 addresses": (10_000, 1),
}
# Who is honest: people in ten minutes, behind so many addresses of one site. Each takes two challenges.
HONEST = {
    "a home of four": (4, 1),
    "an office of 30": (30, 1),
    "a lecture hall of 300": (300, 1),
    "a mobile network's 16 addresses, 300 people": (300, 16),
    "a mobile network's 256 addresses, 3,000 people": (3_000, 256),
}


class Store:
    """The counts of everybody, as the store has them."""

    def __init__(self, usual):
        from sidecar.limits.load import Counts

        self.usual, self.nothing = usual, Counts()
        self.own, self.site, self.in_all = {}, {}, (0.0, 0.0)

    def count(self, address, site, now, *, given, solved):
        """Count at a moment: how many times the usual each count is."""
        from sidecar.limits.load import Counts

        (own, own_at), (of_site, site_at) = self.own.get(address, (0.0, now)), self.site.get(site, (0.0, now))
        in_all, all_at = self.in_all
        before = Counts(
            Counts(own=own).after(now - own_at, self.usual, given=0, solved=0).own,
            Counts(site=of_site).after(now - site_at, self.usual, given=0, solved=0).site,
            Counts(in_all=in_all).after(now - all_at, self.usual, given=0, solved=0).in_all,
        )
        counts = before.after(0.0, self.usual, given=given, solved=solved)
        self.own[address], self.site[site], self.in_all = (counts.own, now), (counts.site, now), (counts.in_all, now)
        return counts.shares(self.usual)


def settled(rate, addresses, in_site, every=1):
    """(what an asker pays, what a person elsewhere pays), in times the ordinary work, at `rate` sends in ten minutes."""
    from sidecar.captcha.altcha import Settings, rise
    from sidecar.limits.load import Usual

    rules = Settings(kind="altcha")
    store = Store(Usual(rules.usual_per_ip, rules.usual_per_prefix, rules.usual_in_all))
    paid, count = 0.0, 0
    for n in range(math.ceil(rate * HOUR_S / 600)):
        now = n * 600 / rate
        address = n % addresses
        for again in range(every):
            solved = int(again == every - 1)
            shares = store.count(address, address // in_site, now, given=1, solved=solved)
        if now >= HOUR_S - LAST_S or rate * HOUR_S / 600 < 2:
            paid, count = paid + rise(shares, rules.max_rise), count + 1
    elsewhere = store.count(-1, -1, HOUR_S, given=1, solved=0)
    return paid / count, rise(elsewhere, rules.max_rise)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    parser.add_argument("--plot", nargs=2, metavar=("JSON", "PNG"))
    options = parser.parse_args()
    if options.plot:
        return plot(*options.plot)
    told = {}
    print(f"{'sends in 10 min':>15} " + " ".join(f"{name:>24}" for name in FLOODS) + f" {'a person meanwhile':>20}")
    for rate in RATES:
        found = {name: settled(rate, *who) for name, who in FLOODS.items()}
        told[rate] = [found[name][0] for name in FLOODS] + [found["10,000 addresses"][1]]
        print(
            f"{rate:>15,} " + " ".join(f"{value:>23.1f}x" for value in told[rate][:-1]) + f" {told[rate][-1]:>19.1f}x"
        )
    print()
    for name, (people, addresses) in HONEST.items():
        own, _ = settled(people, addresses, addresses, every=2)
        print(f"{name:50} {own:4.1f}x")
    if options.out:
        Path(options.out).write_text(json.dumps(told))
    return 0


def plot(source, target):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    told = {int(rate): values for rate, values in json.loads(Path(source).read_text()).items()}
    names = [*(f"a flood from {name}" for name in FLOODS), "a person, while 10,000 addresses flood"]
    styles = (("#b03a2e", "-"), ("#c98a2b", "-"), ("#2b6cb0", "-"), ("#4a7d3a", "--"))
    figure, axes = plt.subplots(2, 1, figsize=(8, 6.6), sharex=True)
    for place, (name, (colour, line)) in enumerate(zip(names, styles, strict=True)):
        axes[0].plot(list(told), [values[place] for values in told.values()], line, color=colour, label=name, lw=1.8)
        if place < len(FLOODS):
            hours = [rate * values[place] / 3600 for rate, values in told.items()]
            axes[1].plot(list(told), hours, line, color=colour, lw=1.8)
    axes[1].plot(
        list(told), [rate / 3600 for rate in told], ":", color="#8a8a8a", lw=1.4, label="if the work did not rise"
    )
    axes[0].set_ylabel("work of one send\n(1: a second on a phone)")
    axes[1].set_ylabel("work of the flood in 10 min,\nhours of a phone")
    axes[1].set_xlabel("sends in ten minutes")
    axes[1].set_yscale("log")
    for one in axes:
        one.set_xscale("log")
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
        one.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    return 0


if __name__ == "__main__":
    sys.exit(main())
