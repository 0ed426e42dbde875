"""What does a verify cost? Ours beside Express by hand, in one run: `make bench-verify`.

64 connections spend codes that were really issued: each contestant sends its own first, through its own send route, and they
are read from the messages that the simulated Twilio took. The code is checked, a JWT signed (ES256), the request forwarded,
and upstream's 200 spends the code. Every code is used once; every answer must be upstream's.
"""

import itertools

import load
import rig
import uvloop

CONNECTIONS = 64
COLUMNS = (
    ("verified/s", "verified", 0), ("p50 ms", "p50", 1), ("p99 ms", "p99", 1), ("CPU µs", "cpu", 0),
    ("of the store, µs", "store", 0), ("core 1 busy", "core1", 2),
)  # fmt: skip


GOALS = (
    rig.Goal("verified/s", "4000", lambda by_name: by_name["ours"].median("verified"), lambda x: x >= 4000),
    rig.Goal("verified/s, × Express", "1.5", rig.ratio("verified"), lambda x: x >= 1.5),
)


async def codes(one: rig.Contestant, count: int) -> dict[str, str]:
    """Have so many codes sent, on a route without captcha and limits; return them by number."""
    await load.told(rig.TWILIO, "reset")
    answers = await load.closed(one.port, itertools.islice(load.sends("/api/codes", None), count), CONNECTIONS)
    if answers.count(202) != count:
        raise rig.FailedRun(f"{one.name}: {answers.told()}")
    await load.arrived(rig.TWILIO, count)
    return await load.told(rig.TWILIO, "codes")


async def verified(one: rig.Contestant, count: int, is_profiled: bool = False) -> None:
    """Spend so many codes, and keep the figures."""
    issued = await codes(one, count)
    requests = iter(
        [load.post("/api/register", f'{{"phone":"{to}","code":"{code}"}}'.encode()) for to, code in issued.items()]
    )
    spent = rig.Spent(one)
    with rig.profiled(one, is_profiled, lambda: count):
        answers = await load.closed(one.port, requests, CONNECTIONS)
    if answers.count(200) != count:
        raise rig.FailedRun(f"{one.name}: {answers.told()}")
    one.note(verified=answers.per_s(200), p50=answers.percentile(0.5), p99=answers.percentile(0.99), **spent.per(count))


async def main() -> None:
    parser = rig.arguments(__doc__, seconds=0, runs=5)
    parser.add_argument("--codes", type=int, default=8000, help="to spend in one run")
    args = rig.parsed(parser)
    with rig.guarded(args) as found:
        for one in found:
            with rig.left_out_if_failed():
                await verified(one, min(1000, args.codes))
            one.figures.clear()
        for one in rig.turns(found, args.runs):
            with rig.left_out_if_failed():
                await verified(one, args.codes, args.profile)
                print(
                    f"{one.name}: {one.figures['verified'][-1]:.0f} verified/s, {one.figures['cpu'][-1]:.0f} µs",
                    flush=True,
                )
    print(f"\nmedians of {args.runs} interleaved runs of {args.codes} codes, {CONNECTIONS} connections\n")
    print(rig.table(found, COLUMNS))
    print(f"\n{rig.goals(found, *GOALS)}")


if __name__ == "__main__":
    uvloop.run(main())
