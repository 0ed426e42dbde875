"""What does a flood do to everybody else? Ours beside Express and nginx's limit_req, in one run: `make bench-flood`.

256 connections of bots (wrk, at a low priority so that it does not delay the clients that share its core) do one of
none      ask for messages without a captcha
new       do so on a connection of its own each (ours alone)
wrong     with wrong ones, from 65,536 addresses
full      with right ones, from 256 addresses whose buckets are full
guesses   guess the codes of 1,000 numbers, from 65,536 addresses
altcha    ask for challenges of the built-in captcha, whose work rises meanwhile, from 65,536 addresses (ours alone)
slider    show the sliding puzzle work that is none, from 65,536 addresses (ours alone)
and beside them a bystander asks a plain route 20 times a second, and a person signs up every 100 ms, each with a number,
a captcha and an address of their own, on 32 connections each, open from before. All addresses come by X-Forwarded-For.
"""

import asyncio
import itertools
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import load
import rig
import uvloop

BOTS = 256
ADDRESSES = {
    "none": 65_536,
    "new": 65_536,
    "wrong": 65_536,
    "full": 256,
    "guesses": 65_536,
    "altcha": 65_536,
    "slider": 65_536,
}
# What only ours has; the tables that it takes.
BUILT_IN = {"altcha": '[captcha.altcha]\nkind = "altcha"\n', "slider": '[captcha.slider]\nkind = "slider"\n'}
KINDS = ("alone", *ADDRESSES)
GUESSED = 1_000  # numbers
BYSTANDERS_PER_S, SIGN_UPS_PER_S = 20, 10
IP_BURST = 5
LIMIT_REQ = """limit_req_zone $http_x_forwarded_for zone=ip:32m rate=1r/m;
upstream u {{ server 127.0.0.1:{upstream}; keepalive 128; }}
server {{ listen 127.0.0.1:{port} backlog=1024;
  location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  location /api/sms {{ limit_req zone=ip burst=4 nodelay; limit_req_status 429;
    proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }}
}}"""
COLUMNS = (
    ("refusals/s", "refused", 0), ("CPU µs a refusal", "cpu", 1), ("bystander p50 ms", "bystander_p50", 1),
    ("p99", "bystander_p99", 1), ("sign-up p50 ms", "sign_up_p50", 1), ("p99", "sign_up_p99", 1), ("unanswered", "unanswered", 0),
)  # fmt: skip


def people() -> Iterator[str]:
    """Addresses that are nobody else's, as a field."""
    return (f"X-Forwarded-For: 172.{16 + n // 65536 % 16}.{n // 256 % 256}.{n % 256}" for n in itertools.count())


PEOPLE = people()


def sign_ups() -> Iterator[bytes]:
    for number in load.numbers:
        yield load.post("/api/sms", f'{{"phone":"{number}","captcha":"good-{number[-8:]}"}}'.encode(), next(PEOPLE))


def plain() -> Iterator[bytes]:
    return (load.get(f"/api/items/{n}", next(PEOPLE)) for n in itertools.count())


async def prepared(one: rig.Contestant) -> tuple[int, int]:
    """Fill the buckets of the "full" bots, and issue codes to guess; return the first number of these, and how many."""
    bots = (
        f"X-Forwarded-For: 10.0.{n // 256}.{n % 256}" for n in range(1, ADDRESSES["full"] + 1) for _ in range(IP_BURST)
    )
    bodies = (f'{{"phone":"{number}","captcha":"good-{number[-8:]}"}}'.encode() for number in load.numbers)
    filled = await load.closed(one.port, (load.post("/api/sms", body, bot) for bot, body in zip(bots, bodies)), 16)
    first = int(next(load.numbers)[3:]) + 1
    issued = await load.closed(one.port, itertools.islice(load.sends("/api/codes", None), GUESSED), 16)
    if filled.count(200, 202) != filled.count() or issued.count(200, 202) != GUESSED:
        raise rig.FailedRun(f"{one.name}: {filled.told()}; {issued.told()}")
    return first, GUESSED


async def flooded(
    one: rig.Contestant, into: rig.Contestant, kind: str, guessed: tuple[int, int], seconds: float, is_profiled: bool
) -> None:
    """One flood, and who asks beside it."""
    count = 0
    cpu = rig.cpu_s(one.pid)
    with rig.profiled(one, is_profiled, lambda: count):
        bots = None
        if kind != "alone":
            words = [kind, ADDRESSES[kind], *guessed]
            bots = await asyncio.create_subprocess_exec(
                *("taskset", "-c", str(rig.LOAD_CORE), "nice", "-n", "10", "wrk", "-t1", f"-c{BOTS}", f"-d{seconds + 1:g}s"),
                *("-s", str(rig.HERE / "flood.lua"), f"http://127.0.0.1:{one.port}", "--", *map(str, words)),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await asyncio.sleep(1)
        bystander, person = await asyncio.gather(
            load.opened(one.port, plain(), BYSTANDERS_PER_S, seconds, 32),
            load.opened(one.port, sign_ups(), SIGN_UPS_PER_S, seconds, 32),
        )
        if bots is not None:
            told = (await bots.communicate())[0].decode()
            found = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
            if kind == "altcha":  # a challenge is no refusal: it is what the flood asks for, and costs most
                found = re.search(r"(\d+) requests in", told)
            count = int(found[1]) if found else 0
            took = float(re.search(r"requests in ([\d.]+)s", told)[1])
            into.note(refused=count / took, cpu=(rig.cpu_s(one.pid) - cpu) / max(1, count) * 1e6)
    into.note(
        bystander_p50=bystander.percentile(0.5), bystander_p99=bystander.percentile(0.99),
        sign_up_p50=person.percentile(0.5, 200, 202), sign_up_p99=person.percentile(0.99, 200, 202),
        unanswered=bystander.count() - bystander.count(200) + person.count() - person.count(200, 202),
    )  # fmt: skip


async def main() -> None:
    parser = rig.arguments(__doc__, seconds=8, runs=3)
    parser.add_argument("--floods", default=",".join(KINDS), help="separated by commas")
    args = rig.parsed(parser)
    if not shutil.which("wrk"):
        sys.exit("skipped: no wrk on PATH")
    kinds, rows = args.floods.split(","), {}
    with ExitStack() as stack:
        more = "".join(table for kind, table in BUILT_IN.items() if kind in kinds)
        found = stack.enter_context(rig.guarded(args, f"{IP_BURST}/3600s", more))
        if args.only == ",".join(rig.CONTESTANTS):
            nginx = rig.Contestant("nginx limit_req", rig.free_port())
            command = rig.nginx_command("limit", nginx.port, LIMIT_REQ.format(port=nginx.port, upstream=rig.UPSTREAM))
            nginx.pid = stack.enter_context(rig.running(rig.TEST_CORE, command, nginx.port)).pid
            found.append(nginx)
        guessed = {one.name: await prepared(one) for one in found}
        for kind in kinds:
            for one in rig.turns(found, args.runs):
                if one.name.startswith("nginx") and kind not in {"alone", "full"}:
                    continue  # it knows of no captcha and no code
                if one.name == "express" and kind in {"new", *BUILT_IN}:
                    continue
                row = rows.setdefault(
                    (one.name, kind), replace(one, name=f"{one.name}: {kind}", figures=defaultdict(list))
                )
                await flooded(one, row, kind, guessed[one.name], args.seconds, args.profile)
                print(f"{row.name}: {row.figures.get('refused', [0])[-1]:.0f} refusals/s", flush=True)
    print(f"\nmedians of {args.runs} interleaved runs of {args.seconds:g} s, {BOTS} connections of bots\n")
    print(rig.table(list(rows.values()), COLUMNS))
    mine = [row for (name, kind), row in rows.items() if name == "ours" and kind != "alone"]
    if not mine:
        return
    goals = [
        rig.Goal("bystander's p99, the worst, ms", "at most 10", lambda _: max(row.median("bystander_p99") for row in mine), lambda x: x <= 10),
        rig.Goal("sign-up's p99, the worst, ms", "at most 100", lambda _: max(row.median("sign_up_p99") for row in mine), lambda x: x <= 100),
    ]  # fmt: skip
    for kind, least in (("none", 20_000), ("full", 8_000)):
        if ("ours", kind) in rows:
            refused = rows["ours", kind].median("refused")
            goals.append(
                rig.Goal(
                    f"refusals/s, {kind}",
                    f"{least}",
                    lambda _, refused=refused: refused,
                    lambda x, least=least: x >= least,
                )
            )
    print(f"\n{rig.goals(found, *goals)}")


if __name__ == "__main__":
    uvloop.run(main())
