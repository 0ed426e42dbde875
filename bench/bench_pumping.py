"""What does [pumping] stop, and whom does it refuse? Two weeks of simulated sign-ups with three kinds of pumping in them.

The decision is the product's own: `limits/pumping.lua` on a Valkey of its own, by the simulation's clock, for the first
run; `limits/pumping.py`, which a property test holds equal to it, for all that are varied. Both must come to the same.
The sign-ups, the attacks and their addresses are drawn from a seed. What is simulated comes after the captcha and the
limits: everybody here has solved one, and no address or number asks too often.

    python bench/bench_pumping.py [--out run.json] [--seeds 10] [--only script,seeds,attacks,sites,rules]
    python bench/bench_pumping.py --plot run.json docs/images/pumping.png
"""

import argparse
import asyncio
import functools
import heapq
import itertools
import json
import math
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.limits.pumping import DAY_MS, Book, Rules, Sending, names_of

DAY_S = 86_400
DAYS = 14
START_S = 20_000 * DAY_S
PARTS = ("script", "seeds", "attacks", "sites", "rules")
# Country: its code, share of the honest, blocks of 10,000 mobile numbers in use, price of a message.
COUNTRIES = {
    "CN": ("86", 34.0, 150_000, 0.045), "US": ("1", 14.0, 40_000, 0.06), "DE": ("49", 9.0, 12_000, 0.55),
    "IN": ("91", 8.0, 90_000, 0.20), "GB": ("44", 7.0, 9_000, 0.35), "BR": ("55", 6.0, 20_000, 0.25),
    "FR": ("33", 4.5, 8_000, 0.50), "ID": ("62", 4.0, 30_000, 1.60), "MX": ("52", 3.0, 12_000, 0.30),
    "PL": ("48", 2.0, 5_000, 0.25), "TH": ("66", 1.8, 9_000, 0.25), "PH": ("63", 1.5, 12_000, 1.30),
    "NG": ("234", 1.0, 18_000, 1.90), "PK": ("92", 0.8, 18_000, 1.80), "UA": ("380", 0.6, 5_000, 1.00),
    "UZ": ("998", 0.4, 3_000, 1.90), "AZ": ("994", 0.3, 1_200, 2.20), "KZ": ("7", 0.3, 2_500, 1.50),
    "LK": ("94", 0.2, 3_000, 1.70), "TJ": ("992", 0.1, 1_000, 2.30), "IS": ("354", 0.1, 60, 0.55),
}  # fmt: skip
# And forty more of which now and then somebody signs up.
COUNTRIES |= {f"Z{index:02}": (f"5{index:02}", 0.035, 800, 1.5) for index in range(40)}
CODES = list(COUNTRIES)
SHARES = [share for _, share, _, _ in COUNTRIES.values()]
PRICE = {country: price for country, (_, _, _, price) in COUNTRIES.items()}


@dataclass(frozen=True)
class Ask:
    """Somebody asks for a code. `verifies_s`: how many seconds later it is typed in, 0 for never."""

    at: float
    who: str  # honest, or which attack
    number: str
    country: str
    ip: str
    verifies_s: float = 0.0
    tries: int = 0  # how often more it is asked for while it is refused
    is_again: bool = False


class World:
    """Where people and attackers come from, and which numbers they have.

    A country's homes, telephones and offices are in networks (/16) of its own; some ranges (/24) of these are much
    fuller than others. What is rented by the hour is elsewhere.
    """

    def __init__(self, seed):
        self.rng = random.Random(f"world {seed}")
        self.free = itertools.count(256)
        self.homes, self.carriers, self.offices = {}, {}, {}
        for country, (_, share, _, _) in COUNTRIES.items():
            networks = [self.network() for _ in range(3 + int(2 * share))]
            self.homes[country] = [
                f"{self.rng.choice(networks)}.{self.rng.randrange(256)}" for _ in range(4 + int(90 * share))
            ]
            self.carriers[country] = [f"{self.network()}.{third}" for third in range(2 + int(share))]
            self.offices[country] = [self.address(self.rng.choice(networks)) for _ in range(2 + int(6 * share))]
        self.exits = [self.address(self.network()) for _ in range(25)]
        self.hotels = [self.address(self.rng.choice(self.homes[self.country(self.rng)])) for _ in range(150)]

    def network(self):
        number = next(self.free)
        return f"{number >> 8}.{number & 255}"

    def address(self, begin):
        while begin.count(".") < 3:
            begin += f".{self.rng.randrange(256)}"
        return begin

    def country(self, rng):
        return rng.choices(CODES, SHARES)[0]

    def number(self, country, rng):
        code, _, blocks, _ = COUNTRIES[country]
        return f"+{code}7{rng.randrange(blocks):06}{rng.randrange(10_000):04}"

    def home(self, country, rng):
        ranges = self.homes[country]
        return f"{ranges[int(len(ranges) * rng.random() ** 2)]}.{rng.randrange(256)}"

    def carrier(self, country, rng):
        return f"{rng.choice(self.carriers[country])}.{rng.randrange(16)}"

    def place(self, country, rng):
        """Where an honest person asks from: home, telephone, office, VPN, or abroad."""
        kind = rng.random()
        if kind < 0.42:
            return self.home(country, rng)
        if kind < 0.87:
            return self.carrier(country, rng)
        if kind < 0.92:
            return rng.choice(self.offices[country])
        if kind < 0.95:
            return rng.choice(self.exits)
        if kind < 0.97:
            return rng.choice(self.hotels)
        return self.home(self.country(rng), rng)


def busy(at):
    """How many ask at a time of day, beside the mean: few at night, many in the evening, more on Sundays."""
    hour, day = at / 3600 % 24, int(at // DAY_S)
    return (1 + 0.75 * math.sin((hour - 13) / 24 * 2 * math.pi)) * (1.2 if day % 7 == 6 else 1.0)


def honest(world, seed, per_day, peak=3.0):
    """Two weeks of people: sign-ups, and now and then a log-in of one who has signed up before."""
    rng = random.Random(f"honest {seed}")
    members = []
    at, mean_s = 0.0, DAY_S / per_day
    while True:
        at += rng.expovariate(1 / mean_s) / 1.95 / (peak if 5.5 * DAY_S < at < 5.5 * DAY_S + 3600 else 1)
        if at >= DAYS * DAY_S:
            return
        if rng.random() > busy(at) / 1.95:
            continue
        if members and rng.random() < 0.15:
            country, number = rng.choice(members)
        else:
            country = world.country(rng)
            number = world.number(country, rng)
        ip = world.place(country, rng)
        # From 0.85 to 0.95 of a country's people type it in, most within a minute; the others give up.
        likely = 0.85 + 0.1 * random.Random(country).random()
        verifies_s = min(rng.lognormvariate(3.3, 0.7), 540.0) if rng.random() < likely else 0.0
        # A message that is late is asked for again; so it is by half of those who never get one.
        again = rng.random() < (0.03 if verifies_s else 0.5)
        if verifies_s:
            members.append((country, number))
        if again:
            yield Ask(at, "honest", number, country, ip, tries=1)
            yield Ask(at + 65, "honest", number, country, ip, verifies_s, tries=1)
        else:
            yield Ask(at, "honest", number, country, ip, verifies_s, tries=1)
        if rng.random() < 0.0004:  # an office takes up new people, and their telephones are in a row
            first, office = int(world.number(country, rng)[1:]), rng.choice(world.offices[country])
            for index in range(rng.randrange(5, 25)):
                late_s = min(rng.lognormvariate(3.3, 0.7), 540.0) if rng.random() < 0.93 else 0.0
                yield Ask(at + 40 * index, "honest", f"+{first + index}", country, office, late_s, tries=1)


def burst(world, seed, size):
    """One country at once: 12,000 in six hours of a night, from 400 rented machines."""
    rng = random.Random(f"burst {seed}")
    machines = [world.address(world.network()) for _ in range(400)]
    blocks = [world.number("AZ", rng)[:-4] for _ in range(60)]
    for _ in range(int(12_000 * size)):
        at = 3 * DAY_S + rng.uniform(2, 8) * 3600
        yield Ask(at, "at once", f"{rng.choice(blocks)}{rng.randrange(10_000):04}", "AZ", rng.choice(machines))


FIVE = ("NG", "PK", "UZ", "KZ", "LK")


def slow(world, seed, size, countries=FIVE, *, homes=6000, at_home=0.0, days=8, tries=0, verified=0.0):
    """Slow and spread: 100 an hour for eight days, five countries, 6,000 homes anywhere in the networks of honest people.

    `at_home`: so many of these homes are in the country that the number is of. `tries`: how often it tries again where
    it is refused. `verified`: so many of the codes it types in.
    """
    rng = random.Random(f"slow {seed}")
    places = [world.address(world.home(world.country(rng), rng).rpartition(".")[0]) for _ in range(homes)]
    for _ in range(int(100 * 24 * days * size)):
        at = rng.uniform(5, 5 + days) * DAY_S
        country = rng.choice(countries)
        ip = world.home(country, rng) if rng.random() < at_home else rng.choice(places)
        late_s = 60.0 if rng.random() < verified else 0.0
        yield Ask(at, "slow", world.number(country, rng), country, ip, late_s, tries)


def shared(world, seed, size):
    """As `slow`, by one who knows the rules: from addresses where honest people verify, of carriers, VPNs and hotels."""
    rng = random.Random(f"shared {seed}")
    for _ in range(int(100 * 24 * 8 * size)):
        at = rng.uniform(5, 13) * DAY_S
        country = rng.choice(FIVE)
        ip = world.carrier(world.country(rng), rng) if rng.random() < 0.8 else rng.choice(world.exits + world.hotels)
        yield Ask(at, "slow", world.number(country, rng), country, ip)


def neighbours(world, seed, size):
    """Neighbouring numbers through real browsers: 50 an hour for four days, six thousand numbers in a row each, from the
    country's own homes and telephones."""
    rng = random.Random(f"neighbours {seed}")
    thousands = [world.number("ID", rng)[:-3] for _ in range(6)]
    for _ in range(int(50 * 24 * 4 * size)):
        at = rng.uniform(9, 13) * DAY_S
        ip = world.carrier("ID", rng) if rng.random() < 0.4 else world.home("ID", rng)
        yield Ask(at, "neighbours", f"{rng.choice(thousands)}{rng.randrange(1000):03}", "ID", ip)


def story(seed, per_day=3000, size=1.0, attacks=(burst, slow, neighbours)):
    world = World(seed)
    asks = list(honest(world, seed, per_day))
    for attack in attacks:
        asks += attack(world, seed, size)
    return sorted(asks, key=lambda ask: ask.at)


def sending(ask, enforce=True):
    number, prefix = ask.number, ask.ip.rpartition(".")[0]
    names = names_of(ask.country, (number[:-4], number[:-3], number[:-2], number[:-1]), prefix)
    return Sending(number, ask.country, ask.ip, prefix.rpartition(".")[0], names, enforce=enforce)


async def run(asks, judge, verified):
    """Have all judged in their order. Gives what became of each: (ask, the rule that refused it or "")."""
    told = []
    rng = random.Random(7)
    due = []  # (when, order, what): codes that are typed in, and those who try again
    order = itertools.count()

    async def until(at):
        while due and due[0][0] <= at:
            when, _, what = heapq.heappop(due)
            if isinstance(what, str):
                await verified(what, ms(when))
            else:
                await ask(what)

    async def ask(one):
        rule = await judge(one, ms(one.at))
        told.append((one, rule))
        if not rule and one.verifies_s:
            heapq.heappush(due, (one.at + one.verifies_s, next(order), one.number))
        if rule and one.tries:
            again = replace(one, at=one.at + rng.uniform(120, 900), tries=one.tries - 1, is_again=True)
            heapq.heappush(due, (again.at, next(order), again))

    for one in asks:
        await until(one.at)
        await ask(one)
    return told


def ms(at):
    return int((START_S + at) * 1000)


async def by_model(asks, rules):
    book = Book(rules)

    async def judge(ask, now_ms):
        judged = book.judge(sending(ask), now_ms)
        return "" if judged.entry else judged.rules[0].rule

    async def verified(number, now_ms):
        book.verified(number, now_ms)

    return await run(asks, judge, verified)


async def by_script(asks):
    """As `by_model` with the defaults, by `limits.sends` on a store of its own."""
    from sidecar.config.model import Config, Pumping
    from sidecar.limits import sends
    from sidecar.store.client import Store
    from sidecar.store.embedded import embedded

    with tempfile.TemporaryDirectory() as folder:
        async with embedded(Path(folder)) as url:
            store = Store(url, timeout_s=30)
            config = Config(pumping=Pumping(mode="enforce"))
            guard = sends.Sends(store, config, sends.Prices({}, ()), str, lambda _: None)

            async def judge(ask, now_ms):
                ruled = await guard.judge(sending(ask), to="", client="", request_id="", now_ms=now_ms)
                return "" if ruled.ticket else ruled.reasons[0].removeprefix("pumping ")

            async def verified(number, now_ms):
                await guard.verified(number, now_ms)

            told = await run(asks, judge, verified)
            memory = await store.execute(None, "INFO", "memory")
            used = int(memory.decode().partition("used_memory:")[2].split()[0])
            await store.close()
    return told, used


def summed(told):
    """What an attack cost with and without, and which honest sends were refused."""
    cost, passed, tried, through = Counter(), Counter(), Counter(), Counter()
    refused, why = 0, Counter()
    for ask, rule in told:
        if ask.who == "honest" or not ask.is_again:  # what is refused once and sent then is one message
            tried[ask.who] += 1
            cost[ask.who] += PRICE[ask.country]
        if not rule:
            through[ask.who] += 1
            passed[ask.who] += PRICE[ask.country]
        elif ask.who == "honest":
            refused += 1
            why[rule] += 1
    attacks = [who for who in cost if who != "honest"]
    whole, left = sum(cost[who] for who in attacks), sum(passed[who] for who in attacks)
    return {
        "stopped": 1 - left / whole if whole else 1.0,
        "without": whole,
        "with": left,
        "by_attack": {who: [tried[who], through[who], cost[who], passed[who]] for who in sorted(attacks)},
        "honest": tried["honest"],
        "refused": refused,
        "why": dict(why.most_common()),
    }


DEFAULT = Rules(floor=20, period_ms=DAY_MS, permille=300, countries_per_ip=3)


def show(name, found):
    attacks = "; ".join(
        f"{who} {tried} → {through} ({100 * (1 - left / cost):.1f} %)"
        for who, (tried, through, cost, left) in found["by_attack"].items()
    )
    print(
        f"{name:34} stopped {100 * found['stopped']:5.1f} % of {found['without']:7.0f}"
        f" | honest {found['honest']:6} refused {found['refused']:4} ({100 * found['refused'] / found['honest']:.3f} %)"
        f" | {attacks} | {found['why']}",
        flush=True,
    )
    return found


async def measure(options):
    only = set(options.only.split(","))
    results = {}

    async def model(name, asks, rules=DEFAULT):
        told = await by_model(asks, rules)
        results[name] = show(name, summed(told))
        return told

    asks = story(1)
    told = await model("seed 1, the model", asks)
    if "script" in only:
        by, used = await by_script(asks)
        results["seed 1, the script"] = show("seed 1, the script", summed(by))
        print(f"the store held {used / 1e6:.0f} MB in the end")
        if [rule for _, rule in by] != [rule for _, rule in told]:
            print("the script and the model differ")
            return 1
    results["hours"] = hours(told)
    if "seeds" in only:
        for seed in range(2, options.seeds + 1):
            await model(f"seed {seed}", story(seed))
    if "attacks" in only:
        await model("no attack", story(1, attacks=()))
        for size in (0.03, 0.1, 0.3, 10):
            await model(f"attacks × {size}", story(1, size=size))
        slow_ones = {
            "slow": {},
            "slow, tries twice": {"tries": 1},
            "slow, tries four times": {"tries": 3},
            "slow, from 60,000 homes": {"homes": 60_000},
            "slow, verifies one in ten": {"verified": 0.1},
            "slow, verifies one in four": {"verified": 0.25},
            "slow, at home": {"at_home": 1.0},
        }
        for name, how in slow_ones.items():
            await model(name, story(1, attacks=(functools.partial(slow, **how),)))
        await model("slow, from shared addresses", story(1, attacks=(shared,)))
        wide = [country for country in CODES if COUNTRIES[country][1] < 1.1]
        await model("slow, in 48 countries", story(1, attacks=(lambda w, s, z: slow(w, s, z, wide),)))
        await model("slow, in the largest country", story(1, attacks=(lambda w, s, z: slow(w, s, z, ("CN",)),)))
    if "sites" in only:
        for per_day in (100, 300, 1000, 10_000):
            await model(f"{per_day} sign-ups a day", story(1, per_day=per_day))
            await model(f"{per_day} a day, no attack", story(1, per_day=per_day, attacks=()))
    if "rules" in only:
        for floor in (5, 10, 50, 100):
            await model(f"unverified = {floor}/1d", asks, replace(DEFAULT, floor=floor))
        for permille in (100, 200, 500):
            await model(f"ratio = {permille / 1000}", asks, replace(DEFAULT, permille=permille))
    if options.out:
        Path(options.out).write_text(json.dumps(results))
    return 0


def hours(told):
    """For the picture: by hour what attacks would have cost and did, and which honest were refused."""
    found = [[0.0, 0.0, 0.0, 0.0] for _ in range(DAYS * 24 + 1)]
    for ask, rule in told:
        hour = found[min(int(ask.at // 3600), DAYS * 24)]
        if ask.who == "honest":
            hour[2] += 0 if rule else PRICE[ask.country]
            hour[3] += bool(rule)
        else:
            hour[0] += PRICE[ask.country]
            hour[1] += 0 if rule else PRICE[ask.country]
    return found


def plot(source, target):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = json.loads(Path(source).read_text())["hours"]
    days = [index / 24 for index in range(len(found))]
    sums = [list(itertools.accumulate(one[at] for one in found)) for at in range(3)]
    figure, (money, people) = plt.subplots(2, 1, figsize=(8, 5.4), sharex=True, height_ratios=[3, 1])
    money.plot(days, sums[0], "#b03a2e", lw=1.6, label="pumping, without the guard")
    money.plot(days, sums[1], "#b03a2e", lw=1.6, ls=":", label="pumping, with it")
    money.plot(days, sums[2], "#2b6cb0", lw=1.6, label="honest messages")
    for begin, end, name in ((3.08, 3.33, "at once"), (5, 13, "slow"), (9, 13, "neighbours")):
        money.axvspan(begin, end, color="#8a8a8a", alpha=0.12, lw=0)
        money.text(begin + 0.05, sums[0][-1] * (0.97 if name != "neighbours" else 0.9), name, va="top", fontsize=8)
    money.set_ylabel("spent, in all")
    money.legend(frameon=False, loc="center left")
    people.bar(days, [one[3] for one in found], width=1 / 20, color="#2b6cb0")
    people.set_ylabel("honest refused\nin an hour")
    people.set_xlabel("day")
    for one in (money, people):
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--plot", nargs=2, metavar=("RUN.json", "PICTURE.png"))
    options = parser.parse_args()
    return plot(*options.plot) if options.plot else asyncio.run(measure(options))


if __name__ == "__main__":
    sys.exit(main())
