"""What does a long list cost? Reading a file of networks, beside a loop at work, and looking an address up.

    python bench/bench_lists.py [--ranges 420000]

Each form of the file is read in a process of its own: alone, and then in a thread beside a uvloop loop that wakes up
every millisecond, whose waits are told, and those beside a thread that sleeps. The files are drawn from a seed; the last one is the first one shuffled.
"""

import argparse
import asyncio
import ipaddress
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from sidecar import asn, ranges
from sidecar.config.model import Listed
from sidecar.lists.rules import Lists

LOOKS = 200_000


def rows(count):
    """Networks of the sizes that are announced, with gaps, as an address table has them: one in four of IPv6."""
    drawn = random.Random(1)
    four, six = 1 << 24, 0x2001 << 112
    for _ in range(count * 3 // 4):
        size = 1 << drawn.choice((8, 8, 8, 9, 10, 11, 12))
        four = -(-four // size) * size
        yield ipaddress.IPv4Address, four, size, drawn.randrange(1, 70_000)
        four += size + (256 if drawn.random() < 0.3 else 0)
    for _ in range(count // 4):
        size = 1 << (128 - drawn.choice((32, 36, 40, 44, 48, 48)))
        six = -(-six // size) * size
        yield ipaddress.IPv6Address, six, size, drawn.randrange(1, 70_000)
        six += size


def write(folder, count):
    found = list(rows(count))
    ends = [f"{of(at)}\t{of(at + size - 1)}\t{number}\tZZ\tNAME-{number}\n" for of, at, size, number in found]
    (folder / "first and last").write_text("".join(ends))
    nets = [
        f'{of(at)}/{of(0).max_prefixlen - size.bit_length() + 1},{number},"Name, Inc."\n'
        for of, at, size, number in found
    ]
    (folder / "networks").write_text("network,number,name\n" + "".join(nets))
    random.Random(2).shuffle(ends)
    (folder / "shuffled").write_text("".join(ends))


async def longest_wait(work):
    """The longest of a loop's waits for its turn while a thread does the work, and the 99th of a hundred, in ms."""
    waits = []
    thread = asyncio.create_task(asyncio.to_thread(work))
    while not thread.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        waits.append((time.perf_counter() - began - 0.001) * 1000)
    await thread
    waits.sort()
    return waits[-1], waits[int(len(waits) * 0.99)]


def cost_us(look):
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(LOOKS // 5):
            look()
        best = min(best, (time.perf_counter() - began) / (LOOKS // 5) * 1e6)
    return best


def most_held_mb():
    """What this process held at most, in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def one(path):
    before = most_held_mb()
    began, cpu = time.perf_counter(), time.process_time()
    _, found = asn.load(path)
    told = {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    told["peak_mb"] = most_held_mb() - before
    kept = [*found._starts.values(), *found._values.values()]
    told["kept_mb"] = sum(map(sys.getsizeof, kept)) / (1 << 20) + sum(map(sys.getsizeof, found._starts[6])) / (1 << 20)
    table = Listed(asn=(64_500,), asn_file=path)
    lists = Lists([table], (), {path: found})
    drawn = random.Random(3)
    some = [str(ipaddress.IPv4Address(drawn.getrandbits(32))) for _ in range(64)]
    told["look_us"] = cost_us(lambda: found.value(ranges.Address(4, 0x5DB8D822)))
    told["request_us"] = cost_us(lambda: lists.at_once(lists.asker(some[7], tuple)))
    asn._known.clear()
    told["idle_longest_ms"], told["idle_p99_ms"] = uvloop.run(longest_wait(lambda: time.sleep(told["s"])))
    told["longest_ms"], told["p99_ms"] = uvloop.run(longest_wait(lambda: asn.load(path)))
    print(json.dumps(told))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranges", type=int, default=420_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one)
        return
    print(
        "| file | read, s | CPU, s | peak, MB | kept, MB | a look-up, µs | a request, µs | a loop waits, ms: p99, longest | beside a thread that sleeps |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.ranges)
        for path in sorted(Path(folder).iterdir()):
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(path)], capture_output=True, text=True, check=True
            )
            t = json.loads(done.stdout)
            print(
                f"| {path.name} | {t['s']:.1f} | {t['cpu_s']:.1f} | {t['peak_mb']:.0f} | {t['kept_mb']:.1f} |"
                f" {t['look_us']:.2f} | {t['request_us']:.2f} | {t['p99_ms']:.1f}, {t['longest_ms']:.1f} | {t['idle_p99_ms']:.1f}, {t['idle_longest_ms']:.1f} |"
            )


if __name__ == "__main__":
    main()
