"""Does it shed, or sink? Sends at a fixed rate, from half to three times of what it can carry: `make bench-overload`.

First its capacity, as bench-send measures it (64 connections); then, at each rate, every send is due at its moment whatever
the answers do, and waits from then on. Goodput is what was accepted a second, until the last answer; what is refused is
refused with 503 (overloaded). A second of CPU is what the machine gives us when others use it, too; so goodput is also told
by it.
"""

from collections import defaultdict
from dataclasses import replace

import load
import rig
import uvloop

CONNECTIONS = 64
OPEN = 2048  # of the open loop: as a front proxy may have
SHARES = (0.5, 1.0, 1.5, 2.0, 3.0)
COLUMNS = (
    ("offered/s", "offered", 0), ("goodput/s", "goodput", 0), ("p50 ms of what was accepted", "p50", 0), ("p99 ms", "p99", 0),
    ("refused: overloaded", "refused", 2), ("failed otherwise", "failed", 2), ("p99 ms of refusals", "refused_p99", 0),
    ("CPU µs a request", "cpu", 0), ("goodput a CPU second", "per_cpu_s", 0),
)  # fmt: skip


async def offered(one: rig.Contestant, into: rig.Contestant, per_s: float, seconds: float) -> None:
    """Offer so many sends a second."""
    await load.told(rig.TWILIO, "reset")
    before: list[float] = []  # to open 2,048 connections takes a fifth of a second
    begins = lambda: before.append(rig.cpu_s(one.pid))  # noqa: E731
    answers = await load.opened(one.port, load.sends(), per_s, seconds, OPEN, begins)
    await load.arrived(rig.TWILIO, answers.count(202))
    spent_s, total = rig.cpu_s(one.pid) - before[0], answers.count()
    print(f"{into.name}: {answers.told()} {dict(answers.codes)}", flush=True)
    into.note(
        offered=per_s, goodput=answers.per_s(202), p50=answers.percentile(0.5, 202), p99=answers.percentile(0.99, 202),
        refused=answers.codes["overloaded"] / total, failed=1 - (answers.count(202) + answers.codes["overloaded"]) / total,
        refused_p99=answers.percentile(0.99, 503), cpu=spent_s / total * 1e6,
        per_cpu_s=answers.count(202) / spent_s,
    )  # fmt: skip


async def main() -> None:
    parser = rig.arguments(__doc__, seconds=6, runs=1)
    parser.set_defaults(only="ours")
    args = rig.parsed(parser)
    with rig.guarded(args) as found:
        capacity = 0.0  # of the best: all are offered the same
        for one in rig.turns(found, 4):  # in the best of four runs: something else may have had the core
            answers = await load.closed(one.port, load.sends(), CONNECTIONS, min(3, args.seconds))
            one.note(carries=answers.per_s(202))
            capacity = max(capacity, answers.per_s(202))
            await load.arrived(rig.TWILIO, answers.count(202))
        rows = {
            one.name: [replace(one, name=f"{one.name}, {share:g} ×", figures=defaultdict(list)) for share in SHARES]
            for one in found
        }
        with rig.profiled(found[0], args.profile, lambda: int(capacity * sum(SHARES) * args.seconds)):
            for number in range(args.runs):
                for at, share in enumerate(SHARES):
                    for one in (found, found[::-1])[number % 2]:
                        await offered(one, rows[one.name][at], share * capacity, args.seconds)
    for one in found:
        print(f"\n{one.name} carries {max(one.figures['carries']):.0f} sends/s\n")
        print(rig.table(rows[one.name], COLUMNS))
        print("\n" + rig.goals(
            found,
            of_best("goodput", "goodput", rows[one.name]), of_best("goodput a CPU second", "per_cpu_s", rows[one.name]),
            rig.Goal("p99 at 3 ×, ms", "under 2000", lambda _, one=one: rows[one.name][-1].median("p99"), lambda x: x < 2000),
        ))  # fmt: skip


def of_best(what: str, figure: str, rows: list[rig.Contestant]) -> rig.Goal:
    """The goal that at three times of what it can carry it does nearly as much as at its best."""
    share = lambda _: rows[-1].median(figure) / max(row.median(figure) for row in rows)  # noqa: E731
    return rig.Goal(f"{what} at 3 ×, of the best", "at least 0.9", share, lambda x: x >= 0.9)


if __name__ == "__main__":
    uvloop.run(main())
