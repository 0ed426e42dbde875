"""What does a fleet take, and what breaks first? Worked out of what bench_scale.py has measured. Pure, but for `main`.

    python bench/scaling.py                             # of the figures that are committed: the tables of docs/scaling.md
    python bench/scaling.py .bench/scale.json           # of your own, see `make bench-scale`
    python bench/scaling.py --rates 2000,20000 --mix guard=0.9,send=0.05,verify=0.05 --price 0.03

docs/scaling.md says each formula in words, and where the assumed numbers come from. It needs Python alone.
"""

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("scale.json")
# Where the document has a table.
MARKED = re.compile(r"<!-- scaling -->\n.*?<!-- end -->", re.DOTALL)
RATES = (10_000, 100_000, 1_000_000)
# The parts of the store, as `bench_scale.apart` gives them to primaries; the first three are one cluster slot each.
PARTS = ("limits", "outbox", "receipts", "recipients")
SLOTS = PARTS[:3]
# Octets of one segment beside its content: Ethernet 14, IPv4 20, TCP 20 and its timestamps 12.
SEGMENT = 66
# Each kind of key that a send leaves: for how many seconds, and which part of the store it is in.
LIVES = {
    "verification": (1_200, "recipients"),
    "current": (600, "recipients"),
    "bucket:ip": (60, "limits"),
    "bucket:to": (60, "limits"),
    "bucket:to_daily": (8_640, "limits"),
    "bucket:captcha.token.turnstile": (300, "limits"),
    "posted": (86_400, "receipts"),
    "vendor_id": (86_400, "receipts"),
}


@dataclass(frozen=True)
class Assumed:
    """What was not measured. Shares are of one; times in seconds."""

    mix: Mapping[str, float] = field(
        default_factory=lambda: {"guard": 0.60, "none": 0.20, "full": 0.10, "send": 0.05, "verify": 0.05}
    )
    busy: float = 0.6  # how much of a core, a worker's or a primary's, is planned to be busy at the peak
    day: float = 0.4  # a day's mean rate, of its peak
    pod_cores: int = 4  # workers of one pod
    upstream_s: float = 0.1  # how long upstream takes to answer
    vendor_s: float = 0.5  # how long an SMS vendor takes
    captcha_s: float = 0.2  # how long a captcha's verifier takes
    per_connection: float = 100.0  # requests on one connection of the load balancer
    spare: float = (
        1.5  # memory beside the data: fragments, buffers, pages copied while the append-only file is rewritten
    )
    price: float = 0.01  # US dollars a message
    vendor_cap: int = 5_000  # messages a second and account: Alibaba's (Tencent 3,000, Alibaba international 2,000)
    primary_gb: float = 16.0  # the memory of one primary
    most_waiting: int = 10_000  # outbox.MAX_MESSAGES
    leases: int = 512  # courier.LEASES
    backlog: int = 1_024  # sockets._BACKLOG
    ports: int = 28_232  # net.ipv4.ip_local_port_range: 32768 to 60999
    conntrack: int = 262_144  # net.netfilter.nf_conntrack_max
    time_wait_s: float = 120.0  # net.netfilter.nf_conntrack_tcp_timeout_time_wait
    maxclients: int = 10_000  # Valkey's


@dataclass(frozen=True)
class Figures:
    """What one guarded request of each kind costs: CPU µs, of the sidecar and of each part of the store; what it sends."""

    cpu_us: Mapping[str, float]
    store_us: Mapping[str, Mapping[str, float]]
    commands: Mapping[str, float]  # of the store
    octets: Mapping[str, Mapping[str, float]]  # on the wire, both ways, by whom it is exchanged with
    keys: Mapping[str, float]  # octets of each kind of key
    overhead: float  # what the server's memory grew by, of the octets of the keys

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> "Figures":
        """Read what bench_scale.py has written. Raises KeyError where a part was not measured."""
        apart, anatomy = told["cost"]["apart"], told["anatomy"]
        return cls(
            cpu_us={kind: one["cpu_us"] for kind, one in apart.items()},
            store_us={kind: dict(zip(PARTS, one["store_us"], strict=True)) for kind, one in apart.items()},
            commands={kind: sum(one["commands"].values()) for kind, one in anatomy.items()},
            octets={
                kind: {
                    leg: flow["in"] + flow["out"] + SEGMENT * (flow["segments_in"] + flow["segments_out"])
                    for leg, flow in one.items()
                    if leg not in {"commands", "within_scripts"}
                }
                for kind, one in anatomy.items()
            },
            keys={kind: one["octets"] for kind, one in told["memory"]["kinds"].items()},
            overhead=told["memory"]["used"]
            / sum(one["keys"] * one["octets"] for one in told["memory"]["kinds"].values()),
        )


# Formulas. `mean` is over the mix: what one guarded request costs that is of no kind in particular.


def mean(each: Mapping[str, float], mix: Mapping[str, float]) -> float:
    return sum(share * each[kind] for kind, share in mix.items())


def cores(rate: float, cpu_us: float, busy: float) -> float:
    """Cores for so many requests a second that take `cpu_us` each."""
    return rate * cpu_us / 1e6 / busy


def largest_rate(cpu_us: float, busy: float) -> float:
    """How many requests a second one thread carries: a worker, or the primary that has one slot."""
    return math.inf if cpu_us <= 0 else busy * 1e6 / cpu_us


def held(arrivals: float, life_s: float, octets: float) -> float:
    """Octets of what arrives so often a second and lives so long (Little's law)."""
    return arrivals * life_s * octets


def in_flight(arrivals: float, seconds: float) -> float:
    """How many are under way at once (Little's law): connections, leases, ports."""
    return arrivals * seconds


def accounts(sends: float, cap: float) -> int:
    """Vendor accounts that take so many messages a second."""
    return max(1, math.ceil(sends / cap))


def lasts_s(room: float, arrivals: float) -> float:
    """For how many seconds a queue of so much room takes what arrives, while nothing leaves it."""
    return math.inf if arrivals <= 0 else room / arrivals


# The whole…


@dataclass(frozen=True)
class Fleet:
    """What one rate takes."""

    rate: float
    cores: float
    pods: int
    store_cores: Mapping[str, float]  # by part: how busy one thread would be
    cells: int
    primaries: int
    memory: Mapping[str, float]  # by part: octets
    commands: float
    mbit: Mapping[str, float]
    sends: float
    accounts: int
    upstream: float
    usd_s: float
    usd_day: float


def per_number(figures: Figures) -> Mapping[str, float]:
    """What a number that was sent to holds, by the kind of key; a limit's bucket is as large as any other."""
    keys = dict(figures.keys)
    bucket = max(size for kind, size in keys.items() if kind.startswith("bucket:"))
    return {kind: keys.get(kind, bucket) for kind in LIVES}


def memory(sends: float, figures: Figures, assumed: Assumed) -> dict[str, float]:
    """Octets that each part of the store holds. What lives for longer than two hours sees a day's mean."""
    total = dict.fromkeys(PARTS, 0.0)
    for kind, octets in per_number(figures).items():
        life_s, part = LIVES[kind]
        arrivals = sends * assumed.day if life_s > 7_200 else sends
        total[part] += held(arrivals, life_s, octets) * figures.overhead * assumed.spare
    return total


def packed(loads: Sequence[float], most: float) -> int:
    """How many primaries take parts that cannot be parted, none of them more than `most` (first fit, the largest first)."""
    bins: list[float] = []
    for load in sorted(loads, reverse=True):
        for number, filled in enumerate(bins):
            if filled + load <= most:
                bins[number] += load
                break
        else:
            bins.append(load)
    return len(bins)


def fleet(rate: float, figures: Figures, assumed: Assumed) -> Fleet:
    """What so many guarded requests a second take."""
    mix, busy = assumed.mix, assumed.busy
    sends = rate * mix.get("send", 0)
    store = {part: rate * mean({kind: by[part] for kind, by in figures.store_us.items()}, mix) / 1e6 for part in PARTS}
    kept = memory(sends, figures, assumed)
    gb = assumed.primary_gb * 1e9
    # A slot that is more than one primary carries, by its time or its memory, takes another fleet beside this one; so does
    # an outbox that what is under way fills.
    slots = [max(store[part] / busy, kept[part] / gb) for part in SLOTS]
    waiting = in_flight(sends, assumed.vendor_s) / assumed.most_waiting
    cells = max(1, *(math.ceil(part - 1e-9) for part in (*slots, waiting)))
    fixed = [part / cells for part in slots]
    spread = max(store["recipients"] / busy, kept["recipients"] / gb) / cells
    apart = packed(fixed, 1.0)
    primaries = cells * max(apart, math.ceil(sum(fixed) + spread - 1e-9))
    workers = cores(rate, mean(figures.cpu_us, mix), busy)
    legs = sorted({leg for by in figures.octets.values() for leg in by})
    return Fleet(
        rate=rate,
        cores=workers,
        pods=max(2, math.ceil(workers / assumed.pod_cores)),
        store_cores=store,
        cells=cells,
        primaries=primaries,
        memory=kept,
        commands=rate * mean(figures.commands, mix),
        mbit={
            leg: rate * mean({kind: by.get(leg, 0) for kind, by in figures.octets.items()}, mix) * 8 / 1e6
            for leg in legs
        },
        sends=sends,
        accounts=accounts(sends, assumed.vendor_cap),
        upstream=in_flight(rate * (mix.get("guard", 0) + mix.get("verify", 0)), assumed.upstream_s),
        usd_s=sends * assumed.price,
        usd_day=sends * assumed.price * 86_400 * assumed.day,
    )


@dataclass(frozen=True)
class Break:
    """What ends at which rate of guarded requests a second, and what then."""

    what: str
    rate: float
    then: str


def breaks(figures: Figures, assumed: Assumed) -> list[Break]:
    """What ends, in the order in which it does while the rate grows and all else grows with it."""
    mix = assumed.mix
    sends = mix.get("send", 0)
    one = fleet(1.0, figures, assumed)
    gb = assumed.primary_gb * 1e9
    cpu = mean(figures.cpu_us, mix)
    workers_a_request = cores(1.0, cpu, assumed.busy)
    pod_rate = assumed.pod_cores / workers_a_request

    def upto(room: float, each: float) -> float:
        return math.inf if each <= 0 else room / each

    store = sum(one.store_cores.values())
    found = [
        Break("one worker", largest_rate(cpu, assumed.busy), 'workers = "auto"'),
        Break(f"one pod of {assumed.pod_cores} workers", pod_rate, "more pods"),
        Break("one primary that has everything", largest_rate(store * 1e6, assumed.busy), "a cluster"),
        *(
            Break(f"the slot of {part}, by CPU time", upto(assumed.busy, one.store_cores[part]), "another fleet")
            for part in SLOTS
        ),
        *(
            Break(
                f"the slot of {part}, by {assumed.primary_gb:g} GB",
                upto(gb, one.memory[part]),
                "more memory, or another fleet",
            )
            for part in SLOTS
        ),
        Break(
            "the outbox bridges less than 10 s of vendors that are away",
            upto(assumed.most_waiting / 10, sends),
            "another fleet",
        ),
        Break(
            "the outbox is full of what is under way",
            upto(assumed.most_waiting, sends * assumed.vendor_s),
            "another fleet",
        ),
        Break(
            f"one vendor account ({assumed.vendor_cap:,}/s)",
            upto(assumed.vendor_cap, sends),
            "more accounts, and vendors",
        ),
        Break(
            "Valkey's clients (two connections of each worker)",
            upto(assumed.maxclients, 2 * workers_a_request),
            "maxclients",
        ),
        Break("a million dollars a day", upto(1e6, one.usd_day), "budgets ([budget])"),
    ]
    return sorted((one for one in found if one.rate < math.inf), key=lambda one: one.rate)


def of_a_pod(figures: Figures, assumed: Assumed) -> list[tuple[str, str]]:
    """What one pod, or its node, must have room for: the same at every rate, for pods are added."""
    mix = assumed.mix
    rate = assumed.pod_cores / cores(1.0, mean(figures.cpu_us, mix), assumed.busy)
    forwarded = rate * (mix.get("guard", 0) + mix.get("verify", 0))
    upstream = in_flight(forwarded, assumed.upstream_s)
    new = rate / assumed.per_connection
    sends = rate * mix.get("send", 0)
    return [
        ("guarded requests a second", f"{rate:,.0f}"),
        (
            f"connections to upstream at {assumed.upstream_s:g} s an answer, of {assumed.ports:,} ports",
            f"{upstream:,.0f}",
        ),
        ("upstream's answers may take, until there are no more ports", f"{lasts_s(assumed.ports, forwarded):.1f} s"),
        (
            f"messages under way at {assumed.vendor_s:g} s, of {assumed.pod_cores * assumed.leases:,} leases",
            f"{in_flight(sends, assumed.vendor_s):,.0f}",
        ),
        (f"new connections a second, {assumed.per_connection:g} requests each", f"{new:,.0f}"),
        (
            f"all workers may stand still, until an accept queue of {assumed.backlog:,} is full",
            f"{lasts_s(assumed.backlog, new):.1f} s",
        ),
        ("the same where every request has a connection of its own", f"{lasts_s(assumed.backlog, rate):.2f} s"),
        (f"conntrack entries then, of {assumed.conntrack:,}", f"{in_flight(rate, assumed.time_wait_s):,.0f}"),
    ]


# Telling…


def short(number: float) -> str:
    """A number for people: two or three digits count."""
    if number >= 1e6:
        return f"{number / 1e6:,.3g} M" if number < 1e9 else f"{number / 1e6:,.0f} M"
    if number >= 100:
        return f"{float(f'{number:.3g}'):,.0f}"
    return f"{number:.2g}" if number < 10 else f"{number:.3g}"


def size(octets: float) -> str:
    return f"{short(octets / 1e9)} GB" if octets >= 1e9 else f"{short(octets / 1e6)} MB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
    )


def told(figures: Figures, assumed: Assumed, rates: Sequence[float]) -> str:
    """Everything, as the document has it."""
    mix = assumed.mix
    fleets = [fleet(rate, figures, assumed) for rate in rates]
    costs = table(
        ["one request", "share", "CPU µs", *(f"{part}, µs" for part in PARTS), "commands", "octets on the wire"],
        [
            [kind, f"{share:.0%}", f"{figures.cpu_us[kind]:.0f}", *(f"{figures.store_us[kind][part]:.0f}" for part in PARTS), short(figures.commands[kind]), f"{sum(figures.octets[kind].values()):,.0f}"]
            for kind, share in mix.items()
        ] + [
            ["the mix", "", f"{mean(figures.cpu_us, mix):.0f}", *(f"{mean({k: v[part] for k, v in figures.store_us.items()}, mix):.1f}" for part in PARTS), short(mean(figures.commands, mix)), f"{mean({k: sum(v.values()) for k, v in figures.octets.items()}, mix):,.0f}"]
        ],
    )  # fmt: skip
    rows: list[list[str]] = [
        ["cores of workers", *(short(one.cores) for one in fleets)],
        [f"pods of {assumed.pod_cores} workers", *(f"{one.pods:,}" for one in fleets)],
        *([f"of one thread: {part}", *(short(one.store_cores[part]) for one in fleets)] for part in PARTS),
        ["fleets beside each other, each with a store", *(f"{one.cells:,}" for one in fleets)],
        ["primaries of all (shards)", *(f"{one.primaries:,}" for one in fleets)],
        ["commands to the store a second", *(short(one.commands) for one in fleets)],
        *([f"memory of {part}", *(size(one.memory[part]) for one in fleets)] for part in PARTS if fleets[-1].memory[part]),
        *([f"network, {leg}, Mbit/s", *(short(one.mbit[leg]) for one in fleets)] for leg in fleets[-1].mbit),
        ["connections to upstream", *(short(one.upstream) for one in fleets)],
        ["messages a second", *(short(one.sends) for one in fleets)],
        [f"vendor accounts at {assumed.vendor_cap:,}/s", *(f"{one.accounts:,}" for one in fleets)],
        ["money at the peak, $/s", *(short(one.usd_s) for one in fleets)],
        [f"money a day, at {assumed.day:.0%} of the peak, $", *(short(one.usd_day) for one in fleets)],
    ]  # fmt: skip
    whole = table(["guarded requests a second", *(f"{rate:,.0f}" for rate in rates)], rows)
    order = table(
        ["ends", "at guarded requests a second", "then"],
        [[one.what, short(one.rate), one.then] for one in breaks(figures, assumed)],
    )
    pod = table(["one pod", ""], of_a_pod(figures, assumed))
    keys = table(
        ["key of one active number", "octets", "lives, s"],
        [[kind, f"{octets:.0f}", f"{LIVES[kind][0]:,}"] for kind, octets in per_number(figures).items()],
    )
    return "\n\n".join([costs, whole, order, pod, keys])


def read_mix(text: str) -> dict[str, float]:
    """`guard=0.9,send=0.1`. Raises ValueError where shares are not of one."""
    mix = {kind: float(share) for kind, _, share in (part.partition("=") for part in text.split(","))}
    if abs(sum(mix.values()) - 1) > 1e-9:
        raise ValueError(f"the shares are {sum(mix.values()):g} together, and must be 1")
    return mix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figures", nargs="?", type=Path, default=FIGURES, help="what bench_scale.py has written")
    parser.add_argument(
        "--rates", default=",".join(map(str, RATES)), help="guarded requests a second, separated by commas"
    )
    parser.add_argument("--mix", type=read_mix, help="shares of the kinds, such as guard=0.9,send=0.05,verify=0.05")
    for name in (
        "busy",
        "day",
        "price",
        "upstream_s",
        "vendor_s",
        "vendor_cap",
        "pod_cores",
        "primary_gb",
        "per_connection",
    ):
        kind = type(getattr(Assumed(), name))
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(Assumed(), name))
    parser.add_argument(
        "--write", type=Path, metavar="DOCUMENT", help="put the tables into docs/scaling.md, and print none"
    )
    args = parser.parse_args()
    given = {name: value for name, value in vars(args).items() if value is not None}
    for name in ("figures", "rates", "write"):
        given.pop(name, None)
    figures = Figures.read(json.loads(args.figures.read_text()))
    tables = told(figures, replace(Assumed(), **given), [float(rate) for rate in args.rates.split(",")])
    if args.write is None:
        print(tables)
        return
    each = iter(tables.split("\n\n"))
    text = args.write.read_text("utf-8")
    args.write.write_text(MARKED.sub(lambda _: f"<!-- scaling -->\n{next(each)}\n<!-- end -->", text), "utf-8")


if __name__ == "__main__":
    main()
