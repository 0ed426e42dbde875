"""What does a guarded send cost? Ours beside Express by hand, in one run: `make bench-send`.

64 connections, a JSON of a number and a captcha token each, no number twice. Turnstile and Twilio are asked over HTTP; two
buckets. Ours keeps the message in the outbox, and its courier delivers it: counted until the last has reached the vendor.
Then the same without a captcha, which is refused.
"""

import load
import rig
import uvloop

CONNECTIONS = 64
COLUMNS = (
    ("answers/s", "answers", 0), ("messages/s", "messages", 0), ("p50 ms", "p50", 1), ("p99 ms", "p99", 1),
    ("CPU µs a message", "cpu", 0), ("of the store, µs", "store", 0), ("core 1 busy", "core1", 2),
    ("refused/s without a captcha", "refused", 0), ("CPU µs a refusal", "refused_cpu", 0),
)  # fmt: skip


GOALS = (
    rig.Goal("messages/s, × Express", "1.5, floor 1", rig.ratio("messages"), lambda x: x >= 1.5),
    rig.Goal("p99 of the answer, × Express", "at most 1", rig.ratio("p99"), lambda x: x <= 1),
)


async def sent(one: rig.Contestant, seconds: float, is_profiled: bool = False) -> None:
    """Send for so long, wait for the last message, and keep the figures. Raises FailedRun where one is missing."""
    await load.told(rig.TWILIO, "reset")
    spent = rig.Spent(one)
    with rig.profiled(one, is_profiled, lambda: answers.count(202)):
        answers = await load.closed(one.port, load.sends(), CONNECTIONS, seconds)
        accepted = answers.count(202)
        vendor = await load.arrived(rig.TWILIO, accepted)
    if accepted != answers.count() or vendor["numbers"] != accepted:
        raise rig.FailedRun(
            f"{one.name}: {answers.told()}; {vendor['messages']} messages to {vendor['numbers']} numbers"
        )
    one.note(
        answers=answers.per_s(202), messages=accepted / (vendor["last_at"] - answers.began),
        p50=answers.percentile(0.5), p99=answers.percentile(0.99), **spent.per(accepted),
    )  # fmt: skip


async def refused(one: rig.Contestant, seconds: float) -> None:
    """The same without a captcha."""
    spent = rig.Spent(one)
    answers = await load.closed(one.port, load.sends(captcha=None), CONNECTIONS, seconds)
    if answers.count(403) != answers.count():
        raise rig.FailedRun(f"{one.name} without a captcha: {answers.told()}")
    one.note(refused=answers.per_s(403), refused_cpu=spent.per(answers.count())["cpu"])


async def main() -> None:
    args = rig.parsed(rig.arguments(__doc__, seconds=5, runs=5))
    with rig.guarded(args) as found:
        for one in found:
            with rig.left_out_if_failed():
                await sent(one, min(2, args.seconds))
            one.figures.clear()
        for one in rig.turns(found, args.runs):
            with rig.left_out_if_failed():
                await sent(one, args.seconds, args.profile)
                print(
                    f"{one.name}: {one.figures['messages'][-1]:.0f} messages/s, {one.figures['cpu'][-1]:.0f} µs",
                    flush=True,
                )
                if not args.profile:
                    await refused(one, args.seconds / 2)
    print(f"\nmedians of {args.runs} interleaved runs of {args.seconds:g} s, {CONNECTIONS} connections\n")
    print(rig.table(found, COLUMNS))
    print(f"\n{rig.goals(found, *GOALS)}")


if __name__ == "__main__":
    uvloop.run(main())
