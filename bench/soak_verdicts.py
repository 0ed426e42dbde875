"""Is anything lost, twice, unexplained or left behind? The soak's verdicts, from what it saw."""

import collections
import statistics

# What docs/store.md says lives for ever; everything else has an end. The longest life of each, in seconds.
UNBOUNDED = ("{sidecar:outbox}", "{sidecar:outbox}:later", "{sidecar:outbox}:waiting", "{sidecar:outbox}:dead",
             "{sidecar:seen}", "{sidecar:breakers}", "sidecar:blocks", "sidecar:instances")  # fmt: skip
LIVES = {
    "bucket": 3600, "load": 3600 * 2, "refunded": 3600, "sends": 12 * 86400, "verification": 600 + 600, "current": 600,
    "idempotency": 60, "answered": 3600, "posted": 86400, "vendor_id": 86400, "early": 600, "jwks": 960, "probe": 1,
}  # fmt: skip
# Requests that were asked up to so long after a fault's end may still meet it: a breaker that has not asked again (ten
# seconds for captchas), messages that come back.
HEALS_S = 12.0


def slope(points):
    """Theil and Sen: the median of all slopes, for which single steps count for nothing."""
    points = points[:: max(1, len(points) // 250)]
    slopes = [(y2 - y1) / (x2 - x1) for n, (x1, y1) in enumerate(points) for x2, y2 in points[n + 1 :] if x2 - x1 > 0]
    return statistics.median(slopes) if slopes else float("nan")


def lost_of(accepted, calls, ended):
    """The numbers for which more messages were accepted than vendors were asked for or than came to an end otherwise.

    `calls[number]`: how often each vendor was asked; `ended[number]`: how many messages were reported failed, or dropped.
    """
    return [number for number, count in accepted.items() if sum(calls.get(number, {}).values()) + ended[number] < count]


def repeated_of(accepted, maybe, calls):
    """By number, how many times more than it was asked for one vendor was asked to send. `maybe`: asks whose answer did not
    say whether the message is queued; a vendor that refuses is asked again, and is none of this.
    """
    over = {number: max(by.values()) - accepted[number] - maybe[number] for number, by in calls.items()}
    return {number: count for number, count in over.items() if count > 0 and accepted[number] + maybe[number]}


def used_again(registered, tries):
    """The numbers that upstream has registered more often than its answers tell.

    One whose answer was lost, or came too late, may have been a registration, and its proof may be shown again.
    """
    lost = {number: sum(told.partition(" ")[0] in {"0", "502", "504"} for told in of) for number, of in tries.items()}
    return [number for number, count in registered.items() if count > 1 + lost.get(number, 0)]


class Verdicts:
    def __init__(self):
        self.rows = []

    def add(self, what, found, asked, fine):
        self.rows.append((what, str(found), asked, fine))

    def table(self):
        rows = ["| what | found | asked | |", "|---|---|---|---|"]
        rows += [
            f"| {what} | {found} | {asked} | {'yes' if fine else '**no**'} |" for what, found, asked, fine in self.rows
        ]
        return "\n".join(rows)


def judge(soak):
    said, people, phones = Verdicts(), soak.people, soak.phones
    # Messages.
    ended = collections.Counter()
    for verification_id, events in soak.sidecar.ended.items():
        if verification_id in people.ids:
            ended[people.ids[verification_id]] += len(events)
    for verification_id, status in soak.missing.items():
        ended[people.ids[verification_id]] += status == "failed"
    calls = {number: collections.Counter(vendor for _, vendor in of) for number, of in phones.arrived.items()}
    messages = people.accepted.total()
    lost = lost_of(people.accepted, calls, ended)
    unsent = [number for number in people.accepted if number not in calls and number not in lost]
    said.add(
        "accepted with 202, and neither at a vendor nor reported failed",
        f"{len(lost)} of {messages}",
        "0",
        not lost and messages,
    )
    said.add("accepted, at no vendor, and reported failed", len(unsent), "told", True)
    twice = repeated_of(people.accepted, people.maybe, calls)
    repeated = sum(twice.values())
    leases = sum(soak.pending_at)
    soak.twice = twice
    said.add(
        "messages that one vendor was asked for again",
        repeated,
        f"at most the {leases} leases that were broken",
        repeated <= leases,
    )
    both = sum(len(set(vendors)) > 1 for vendors in phones.rung.values())
    counted = _sum(soak.metrics, "sidecar_delivery_duplicates_total")
    said.add("people who got it from two vendors", f"{both}, counted as duplicates: {counted:.0f}", "told", True)
    # The gate.
    said.add("registrations without a proof", soak.upstream.bare, "0", not soak.upstream.bare)
    again = used_again(soak.upstream.registered, people.tries)
    said.add(
        "proofs used twice",
        f"{len(again)} of {len(soak.upstream.registered)}",
        "0",
        not again and soak.upstream.registered,
    )
    # Failures.
    unexplained = [one for one in people.errors if not _explained(soak, one)]
    soak.unexplained = [one for one in unexplained if not _stalled(soak, one)]
    stalled, unexplained = len(unexplained) - len(soak.unexplained), soak.unexplained
    said.add(
        f"answers that failed as the machine withheld its cores ({sum(end - begin for begin, end in soak.stalls):.0f} s in all)",
        stalled,
        "told",
        True,
    )
    said.add(
        "answers that failed while nothing was broken",
        f"{len(unexplained)} of {people.counts.total()}",
        "0",
        not unexplained,
    )
    unknown = sum(
        n for (kind, status, _), n in people.counts.items() if kind in {"api", "verify"} and status in {404, 410}
    )
    said.add("codes that were accepted, and not known when they were typed in", unknown, "0", not unknown)
    internal = sum(count for (_, status, _), count in people.counts.items() if status == 500)
    said.add("answers of 500", internal, "0", not internal)
    nothing = [
        number
        for at, number in people.without_code
        if not _was(soak, at - soak.began - 60, at - soak.began, lambda _: True)
    ]
    said.add(
        "people who got no code while nothing was broken",
        f"{len(nothing)} (else {len(people.without_code)})",
        "0",
        not nothing,
    )
    said.add(
        "events that must not be",
        dict(collections.Counter(line["event"] for line in soak.sidecar.strange)) or 0,
        "0",
        not soak.sidecar.strange,
    )
    # What is left.
    store = soak.last["store"]
    for name in ("outbox", "pending", "later", "waiting"):
        said.add(f"left in the store: {name}", store[name], "0", store[name] == 0)
    early = (store["early"] + 1) // 2  # by the vendor's id and by ours
    said.add(
        "receipts of messages that nobody noted",
        early,
        f"at most the {leases} leases that were broken",
        early <= leases,
    )
    said.add("couriers known", store["consumers"], "told (the dead are forgotten after an hour)", True)
    endless = sorted(set(soak.endless) - set(UNBOUNDED))
    said.add("keys without an end that docs/store.md does not name", ", ".join(endless) or 0, "0", not endless)
    over = {kind: round(life[1]) for kind, life in soak.lives.items() if life[1] > LIVES.get(kind, 0) + 1}
    said.add("keys that live longer than docs/store.md says", over or 0, "0", not over)
    most = max(sample["store"]["endless"] - sample["store"]["known"] for sample in soak.samples if "store" in sample)
    said.add("at any time: keys without an end beyond those", most, "0", most <= 0)
    for role, figures in soak.last["processes"].items():
        first = soak.first["processes"].get(role, {})
        said.add(f"{role}: descriptors, sockets", f"{figures['fds']}, {figures['sockets']} (at first {first.get('fds')}, {first.get('sockets')})",
                 "at most 2 more", figures["fds"] <= first.get("fds", 0) + 2)  # fmt: skip
    for role, told in soak.told_last.items():
        first = soak.told_first.get(role, {"tasks": {}})
        more = collections.Counter(told["tasks"])
        more.subtract(first["tasks"])
        more = {name: count for name, count in more.items() if count > 0}
        said.add(
            f"{role}: tasks",
            f"{sum(told['tasks'].values())} (at first {sum(first['tasks'].values())}{'; more: ' + str(more) if more else ''})",
            "no more",
            not more,
        )
    said.add(
        "connections to the store",
        f"{store['clients']} (at first {soak.first['store']['clients']})",
        "at most 2 more",
        store["clients"] <= soak.first["store"]["clients"] + 2,
    )
    # Memory.
    limit = 3.0 if not soak.is_short else 15.0
    for role in ("parent", "maker", "worker 1"):
        pid = soak.last["processes"].get(role, {}).get("pid")
        lived = [(s["at"], s["processes"][role]["own"], s["processes"][role]["fds"]) for s in soak.samples
                  if role in s["processes"] and s["processes"][role]["pid"] == pid and soak.warm_s < s["at"] < soak.seconds - soak.quiet_s]  # fmt: skip
        if len(lived) < 12:
            said.add(f"{role}: memory", "too short a life", "told", True)
            continue
        # What most connections at once have needed stays with the process: it is flat from then on.
        most = max(range(len(lived)), key=lambda n: lived[n][2])
        points = [(at, own) for at, own, _ in lived]
        late = points[max(len(points) // 3, most if most < len(points) - 12 else 0) :]
        per_hour, whole = slope(late) * 3600, slope(late) * (late[-1][0] - late[0][0])
        said.add(f"{role}: memory of its own over the last {(late[-1][0] - late[0][0]) / 60:.0f} min",
                 f"{late[0][1]:.1f} to {late[-1][1]:.1f} MB, {per_hour:+.1f} MB an hour", f"within {limit:.0f} MB", abs(whole) <= limit)  # fmt: skip
    code, left = soak.left
    said.add("exit code after SIGTERM, processes left", f"{code}, {len(left)}", "0, 0", code == 0 and not left)
    return said


def _sum(metrics, name):
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)


def _was(soak, begin, end, spoils):
    """Whether a fault that spoils so was on, or healing, at some time between."""
    return any(
        one["begin"] - 0.5 <= end and begin <= one["end"] + HEALS_S and spoils(one["spoils"]) for one in soak.faults
    )


def _stalled(soak, error):
    """Whether a worker or the store waited for a core meanwhile, or in the second before: a command has one second."""
    began, ended = error[0] - soak.began, error[1] - soak.began
    return any(begin <= ended and began <= end + 1.0 for begin, end in soak.stalls)


def _explained(soak, error):
    began, ended, kind, *_ = error
    kinds = {"all"} if kind == "plain" else {"all", "guarded"}
    return _was(soak, began - soak.began, ended - soak.began, lambda spoils: spoils in kinds)
