"""Does the time of an answer tell whether a number is known? Sends to numbers of three pasts, in turn: `make bench-oracle`.

new       never asked for
asked     a code of it is under way
verified  its code was spent a moment ago
One connection, one request at a time, the three in random order. For each past its median, how far that is from the
new ones' median, and how often a request of it took longer than a new one's (0.5: the time tells nothing), with the
two standard errors that chance alone allows.
"""

import asyncio
import math
import random
import statistics
import time
from bisect import bisect_left, bisect_right

import load
import rig
import uvloop

PASTS = ("new", "asked", "verified")


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[float, int]:
    """Milliseconds until the whole answer was there, and its status."""
    began = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return (time.perf_counter() - began) * 1000, int(head[9:12])


def ask(path: str, number: str, code: str = "") -> bytes:
    shown = f',"code":"{code}"' if code else ""
    return load.post(path, f'{{"phone":"{number}"{shown}}}'.encode())


def longer(some: list[float], news: list[float]) -> float:
    """How often one of `some` took longer than one of `news`, ties by halves (Mann and Whitney's U, as a share)."""
    ordered = sorted(news)
    wins = sum((bisect_left(ordered, one) + bisect_right(ordered, one)) / 2 for one in some)
    return wins / (len(some) * len(news))


async def main() -> None:
    parser = rig.arguments(__doc__, seconds=0, runs=500)
    args = rig.parsed(parser)
    args.only = "ours"
    took: dict[str, list[float]] = {past: [] for past in PASTS}
    with rig.guarded(args) as (one,):
        await load.told(rig.TWILIO, "reset")
        known = [next(load.numbers) for _ in range(2 * args.runs)]
        issued = await load.closed(one.port, iter([ask("/api/codes", number) for number in known]), 2)
        assert issued.count(200, 202) == len(known), issued.told()
        await load.arrived(rig.TWILIO, len(known))
        codes = await load.told(rig.TWILIO, "codes")
        spent = known[args.runs :]
        done = await load.closed(one.port, iter([ask("/api/register", number, codes[number]) for number in spent]), 2)
        assert done.count(200) == len(spent), done.told()
        plan = [("asked", number) for number in known[: args.runs]] + [("verified", number) for number in spent]
        plan += [("new", next(load.numbers)) for _ in range(args.runs)]
        random.shuffle(plan)
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        for past, number in plan:
            ms, status = await asked(reader, writer, ask("/api/codes", number))
            assert status == 202, status
            took[past].append(ms)
        writer.close()
    error = 2 * math.sqrt((2 * args.runs + 1) / (12 * args.runs * args.runs))
    print(f"\n{args.runs} sends of each past; chance alone: 0.5 ± {error:.3f}\n")
    print("| past | median ms | more than new | longer than a new one |\n|---|---|---|---|")
    first = statistics.median(took["new"])
    for past in PASTS:
        middle = statistics.median(took[past])
        print(f"| {past} | {middle:.3f} | {middle - first:+.3f} | {longer(took[past], took['new']):.3f} |")


if __name__ == "__main__":
    uvloop.run(main())
