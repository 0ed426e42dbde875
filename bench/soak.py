"""What is left behind after an hour of work and faults? `make soak` (SOAK_SECONDS=3600).

It starts the sidecar as a user does, with two workers and a Valkey; upstream, two vendors and a captcha's verifier are
simulated. Then it measures what the sidecar carries, offers 70 % of that (and no more than --most guarded requests a second)
in an open loop, and switches faults on and off, one after the other, each healing before the next. In the end it leaves
everything alone for some minutes and looks what is still there.

Verdicts: nothing accepted is lost, no proof is used twice, nobody passes without one; what fails, fails while something is
broken; memory is flat; no connection, descriptor, task, lease or key is left behind. Exit code 1 when one of them fails.
"""

import argparse
import asyncio
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import uvloop
from rig import HERE, LOAD_CORE, TEST_CORE, WORK
from soak_people import People
from soak_verdicts import LIVES, UNBOUNDED, judge
from soak_world import TOKEN, Group, Hook, Phones, Twilio, Upstream, Valkey, Verifier, free_port

from sidecar.store.client import Store

HOME = WORK / "soak"
SHARE = 0.7
SAMPLE_S = 5.0
# A worker or the store that waited so long for a core, within so long, says nothing of itself then: the line of guarded
# requests refuses when its oldest waits for 0.3 s.
STALL_S, STALL_IN_S = 0.2, 0.6
# A fault is on for so long, and has so long to heal before the next one.
ON_S, SLOT_S = 8.0, 24.0
CONFIG = """[server]
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
workers = 2
state_dir = "{home}/state"
trusted_proxies = ["127.0.0.0/8"]
public_url = "http://127.0.0.1:{port}"
drain = "5s"
[upstream]
url = "{upstream}"
read_timeout = "10s"
[store]
url = "{store}"
[code]
ttl = "{code_s}s"
failures = "20/1h"
[numbers]
default_country = "CN"
[captcha.turnstile]
kind = "turnstile"
secret = "1x0000000000000000000000000000000AA"
hostname = "www.example.com"
endpoint = "{verifier}/turnstile/v0/siteverify"
[limits.ip]
key = "ip"
rate = "{ip_rate}/60s"
[limits.to]
key = "to"
rate = "3/60s"
[providers.twilio]
kind = "twilio"
account_sid = "AC00000000000000000000000000000000"
auth_token = "{token}"
from = "+15005550006"
endpoint = "{twilio}"
[providers.hook]
kind = "webhook"
url = "{hook}/sms"
secret = "a secret of the soak"
[[delivery]]
providers = ["twilio", "hook"]
confirm_within = "10s"
[pumping]
mode = "observe"
[api]
captcha = "turnstile"
limits = ["ip", "to"]
[[routes]]
match = "POST /api/sms"
action = "send"
to = "json:phone"
captcha = "turnstile"
captcha_token = "json:captcha"
limits = ["ip", "to"]
[[routes]]
match = "POST /api/register"
action = "verify"
to = "json:phone"
code = "json:code"
[[routes]]
match = "POST /api/login"
action = "guard"
limits = ["ip"]
"""
# Events that are expected by the hundred and say nothing here.
PLAIN_EVENTS = {"request", "requests_refused", "attempt", "message_sent", "receipt", "message_concluded"}
# What must not be in the log, whatever fails.
NEVER = {"task_ended", "message_unreadable", "message_not_concluded", "message_not_noted", "keys_unreadable", "keys_differ",
         "accept_failed", "log_lines_dropped", "worker_not_started", "metric_failed", "request_failed", "crashed", "outbox_away", "renew_failed"}  # fmt: skip


# The sidecar's processes…


class Sidecar:
    """`signup-sidecar run`, and what its log says."""

    def __init__(self, values):
        self.values, self.events, self.ended, self.strange = values, collections.Counter(), {}, []
        self.workers, self.lines = [], []
        self.path = HOME / "sidecar.toml"

    def write(self, ip_rate=30, more=""):
        self.path.write_text(CONFIG.format(**self.values, ip_rate=ip_rate) + more)

    async def start(self):
        self.write()
        (HOME / "told").mkdir()
        paths = [str(HERE / "inside"), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "SOAK_TOLD": str(HOME / "told"), "PYTHONPATH": ":".join(filter(None, paths))}
        self.process = await asyncio.create_subprocess_exec(
            "taskset", "-c", str(TEST_CORE), sys.executable, "-m", "sidecar", "run", str(self.path),
            stderr=asyncio.subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, limit=4 << 20,
        )  # fmt: skip
        self.reading = asyncio.create_task(self.read())
        async with asyncio.timeout(30):
            while self.events["worker_serves"] < 2:
                await asyncio.sleep(0.05)

    async def read(self):
        with (HOME / "sidecar.log").open("wb") as log:
            async for raw in self.process.stderr:
                try:
                    line = json.loads(raw)
                    event = line["event"]
                except (ValueError, KeyError):
                    line, event = {"event": "no line of the log", "text": raw.decode()[:500]}, "no line of the log"
                self.events[event] += 1
                if event not in PLAIN_EVENTS:
                    log.write(raw)
                    log.flush()
                if event == "worker_serves":
                    self.workers.append(line["worker"])
                if event in {"message_failed", "message_never_confirmed", "message_dropped"}:
                    self.ended.setdefault(line["verification_id"], []).append(event)
                if event in NEVER or event == "no line of the log" or "Exception in callback" in event:
                    self.strange.append(line)

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        """Workers, the oldest first."""
        self.workers = [pid for pid in self.workers if is_there(pid)]
        return self.workers

    def maker(self):
        """The process that makes workers."""
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(OSError):  # it has ended just now
                if b"fork_server" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        return None

    def processes(self):
        """By role."""
        workers = self.alive()
        roles = {"parent": self.pid} | ({"maker": maker} if (maker := self.maker()) else {})
        return roles | {f"worker {n + 1}": pid for n, pid in enumerate(workers[:2])}

    async def told(self):
        """What is alive inside: by role, tasks and objects."""
        found = {}
        for role, pid in self.processes().items():
            path = HOME / "told" / f"{pid}.json"
            path.unlink(missing_ok=True)
            if role == "maker":
                continue  # it has no loop
            os.kill(pid, signal.SIGUSR1)
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while not path.exists():
                        await asyncio.sleep(0.05)
                found[role] = {"pid": pid, **json.loads(path.read_text())}
        return found

    async def metrics(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.values["admin"])
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith("sidecar_"))
        return {name: float(value) for name, _, value in rows}


def is_there(pid):
    """Whether a process runs; one that has ended and is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def process_figures(pid):
    """Memory in MB (what it holds alone or shares, by share; and all that it maps), descriptors, sockets, threads, CPU seconds."""
    rows = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    memory = {row[0]: int(row[1]) / 1024 for row in rows}
    sockets = count = 0
    for one in Path(f"/proc/{pid}/fd").iterdir():
        count += 1
        with suppress(OSError):
            sockets += os.readlink(one).startswith("socket:")
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {
        "pid": pid, "pss": memory["Pss:"], "rss": memory["Rss:"], "fds": count, "sockets": sockets, "threads": int(stat[17]),
        "own": memory["Private_Dirty:"], "cpu": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
    }  # fmt: skip


# The soak…


class Soak:
    def __init__(self, args):
        self.args, self.seconds = args, args.seconds
        self.is_short = self.seconds < 1200
        self.code_s = 30 if self.is_short else 120
        self.warm_s = min(180.0, 0.12 * self.seconds)
        self.quiet_s = max(self.code_s + 25.0, min(240.0, 0.1 * self.seconds))
        self.samples, self.faults, self.pending_at, self.stalls = [], [], [], []
        self.began = time.monotonic()

    def now(self):
        return time.monotonic() - self.began

    async def start(self):
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)
        self.phones = Phones()
        self.upstream, self.verifier = Upstream(), Verifier()
        self.twilio, self.hook = Twilio("twilio", self.phones), Hook("hook", self.phones)
        self.servers = (self.upstream, self.verifier, self.twilio, self.hook)
        for one in self.servers:
            await one.turn("ok")
        self.valkey = Group() if self.args.store == "sentinel" else Valkey()
        await self.valkey.start()
        self.store = Store(self.valkey.url, timeout_s=10.0)
        self.sidecar = Sidecar(
            dict(
                port=free_port(), admin=free_port(), home=HOME, store=self.valkey.url, code_s=self.code_s, token=TOKEN,
                **{name: getattr(self, name).url for name in ("upstream", "verifier", "twilio", "hook")},
            )
        )  # fmt: skip
        await self.sidecar.start()
        self.people = People(self.sidecar.values["port"], self.phones)

    # Samples…

    async def sample(self):
        figures = {"at": self.now(), "processes": {}}
        for role, pid in self.sidecar.processes().items():
            with suppress(OSError, ValueError):
                figures["processes"][role] = process_figures(pid)
        with suppress(Exception):  # it may be away now
            async with asyncio.timeout(2):
                figures["store"] = await self.look()
        figures["kinds"] = {}
        for kind, answers in self.people.recent.items():
            times = sorted(ms for ms, fine in answers if fine)
            figures["kinds"][kind] = {
                "count": len(answers), "failed": sum(not fine for _, fine in answers),
                "p50": times[len(times) // 2] if times else None, "p99": times[int(0.99 * len(times))] if times else None,
            }  # fmt: skip
        self.people.recent.clear()
        figures["busy"] = len(self.people.busy)
        self.samples.append(figures)
        return figures

    async def look(self):
        """What the store holds."""
        ask = self.store.execute
        outbox = "{sidecar:outbox}"
        memory, clients, keys = (
            await ask(None, "INFO", "memory"),
            await ask(None, "INFO", "clients"),
            await ask(None, "INFO", "keyspace"),
        )
        of = lambda text, name: int(text.partition(name.encode())[2].partition(b"\r")[0].partition(b",")[0] or 0)  # noqa: E731
        there = [name for name in UNBOUNDED if await ask(name, "EXISTS", name)]
        groups = await ask(outbox, "XINFO", "GROUPS", outbox) if outbox in there else []
        group = dict(zip(groups[0][::2], groups[0][1::2], strict=True)) if groups else {}
        return {
            "memory": of(memory, "used_memory:") / 1e6, "clients": of(clients, "connected_clients:"),
            "keys": of(keys, "keys="), "endless": of(keys, "keys=") - of(keys, "expires="), "known": len(there),
            "outbox": await ask(outbox, "XLEN", outbox), "pending": group.get(b"pending", 0), "consumers": group.get(b"consumers", 0),
            "later": await ask(outbox, "ZCARD", f"{outbox}:later"), "waiting": await ask(outbox, "HLEN", f"{outbox}:waiting"),
            "dead": await ask(outbox, "XLEN", f"{outbox}:dead"), "early": await ask(None, "HLEN", "{sidecar:receipts}:early"),
        }  # fmt: skip

    async def watching(self):
        """When did the machine withhold its cores? Such times are told, for what fails then says nothing of the sidecar.

        Also from this process, which upstream, the vendors and the verifier are simulated in.
        """
        waited = collections.defaultdict(collections.deque)  # by process: (when, seconds that it has waited for a core)
        last = self.now()
        while True:
            now = self.now()
            if now - last > STALL_IN_S:
                self.stalls.append((last, now))
            last = now
            for pid in (*self.sidecar.alive(), *self.valkey.pids()):
                with suppress(OSError):
                    looks = waited[pid]
                    looks.append((now, int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9))
                    while looks[0][0] < now - STALL_IN_S:
                        looks.popleft()
                    if looks[-1][1] - looks[0][1] > STALL_S:
                        self.stalls.append((looks[0][0], now))
                        looks.clear()
            await asyncio.sleep(0.1)

    async def sampling(self):
        due = time.monotonic()
        while True:
            await self.sample()
            due += SAMPLE_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    # Faults…

    def all_faults(self):
        """Name, what it spoils ("all", "plain", "guarded", "none"), how it begins and ends; and which are of the first third alone."""
        alive = self.sidecar.alive

        def kill(number, *pids):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

        def turns(server, how):
            return lambda: server.turn(how), lambda: server.turn("ok")

        async def both(how):
            await self.twilio.turn(how)
            await self.hook.turn(how)

        frozen = []

        def freeze():
            frozen[:] = alive()[-1:]
            kill(signal.SIGSTOP, *frozen)

        async def kill_at_work():
            """A worker dies while many of its messages are under way."""
            await self.hook.turn("slow")
            await self.twilio.turn("slow")
            await asyncio.sleep(2)
            with suppress(Exception):
                self.pending_at.append((await self.look())["pending"])
            kill(signal.SIGKILL, alive()[-1])

        reloads = [0]

        def reload():
            reloads[0] += 1
            self.sidecar.write(
                30 + reloads[0] % 2, '[[routes]]\nmatch = "GET /closed"\naction = "deny"\n' * (reloads[0] % 2)
            )
            kill(signal.SIGHUP, self.sidecar.pid)

        def bad():
            self.sidecar.write(30, '[[routes]]\nmatch = "GET /closed"\naction = "dney"\n')
            kill(signal.SIGHUP, self.sidecar.pid)

        nothing = lambda: None  # noqa: E731
        is_group = self.args.store == "sentinel"
        more = [("the store is handed over", "guarded", self.valkey.hand_over, nothing)] if is_group else []
        return [
            *more,
            ("reload", "none", reload, reload),
            ("the store is killed", "guarded", self.valkey.kill, self.valkey.start),
            ("first vendor away", "none", *turns(self.twilio, "away")),
            ("a worker is killed", "all", lambda: kill(signal.SIGKILL, alive()[-1]), nothing),
            ("a worker is killed while vendors are slow", "all", kill_at_work, lambda: both("ok")),
            ("upstream resets", "all", *turns(self.upstream, "resets")),
            ("first vendor slow", "none", *turns(self.twilio, "slow")),
            ("the store is frozen", "guarded", self.valkey.freeze, self.valkey.thaw),
            ("first vendor lies", "none", *turns(self.twilio, "lies")),
            ("a worker is frozen", "all", freeze, lambda: kill(signal.SIGCONT, *frozen)),
            ("captcha's verifier away", "guarded", *turns(self.verifier, "away")),
            ("bad reload", "none", bad, reload),
            ("both vendors away", "none", lambda: both("away"), lambda: both("ok")),
            ("upstream cuts answers", "all", *turns(self.upstream, "cuts")),
            ("a worker is drained", "all", lambda: kill(signal.SIGTERM, alive()[-1]), nothing),
            ("first vendor resets", "none", *turns(self.twilio, "resets")),
            ("captcha's verifier lies", "guarded", *turns(self.verifier, "lies")),
            ("upstream slow", "all", *turns(self.upstream, "slow")),
            ("first vendor refuses", "none", *turns(self.twilio, "refuses")),
            ("the maker of workers is killed", "all", lambda: kill(signal.SIGKILL, *filter(None, [self.sidecar.maker()])), nothing),
            ("all workers are killed", "all", lambda: kill(signal.SIGKILL, *alive()), nothing),
        ]  # fmt: skip

    FIRST_THIRD = ("the maker of workers is killed", "all workers are killed")
    # After these, whoever lives takes up what was leased, so that a message may go out twice.
    BREAKS_LEASES = ("killed", "frozen", "drained")

    async def breaking(self, until):
        """One fault after the other, in turn."""
        faults = [
            one
            for one in self.all_faults()
            if not self.args.only or any(word in one[0] for word in self.args.only.split(","))
        ]
        slot = min(SLOT_S, max(10.0, (until - self.now()) / len(faults)))
        on = min(ON_S, 0.4 * slot)
        begin, turn = self.now(), 0
        while self.now() + slot <= until:
            name, spoils, starts, ends = faults[turn % len(faults)]
            turn += 1
            if name in self.FIRST_THIRD and turn > len(faults) and self.now() > begin + (until - begin) / 3:
                continue
            if any(word in name for word in self.BREAKS_LEASES):
                with suppress(Exception):
                    self.pending_at.append((await self.look())["pending"])
            started = self.now()
            print(f"{started:7.0f} s  {name}", flush=True)
            await self.do(starts)
            await asyncio.sleep(on)
            await self.do(ends)
            self.faults.append({"name": name, "spoils": spoils, "begin": started, "end": self.now()})
            await asyncio.sleep(max(0.0, started + slot - self.now()))

    @staticmethod
    async def do(step):
        done = step()
        if asyncio.iscoroutine(done):
            await done

    # The story…

    async def run(self):
        await self.start()
        await asyncio.sleep(3)
        self.first = await self.sample()
        self.told_first = await self.sidecar.told()
        capacity = self.args.capacity or await self.capacity()
        self.capacity_found = capacity
        self.per_s = min(SHARE * capacity, self.args.most)
        print(f"carries {capacity:.0f} guarded requests/s here; offered: {self.per_s:.0f}", flush=True)
        sampling, watching = asyncio.create_task(self.sampling()), asyncio.create_task(self.watching())
        ends = self.seconds - self.quiet_s
        load = asyncio.create_task(self.people.opened(self.per_s, self.began + ends))
        await asyncio.sleep(max(0.0, self.warm_s - self.now()))
        self.warm = await self.sidecar.told()
        await self.breaking(ends - 12)
        await load
        print(f"{self.now():7.0f} s  quiet", flush=True)
        while self.people.busy and self.now() < self.seconds - self.code_s:
            await asyncio.sleep(0.1)
        self.people.client.close()
        await asyncio.sleep(max(self.code_s + 15.0, self.seconds - self.now()))
        for task in (sampling, watching):
            if task.done():
                task.result()  # a fault of the soak's own
            task.cancel()
        self.last = await self.sample()
        self.told_last = await self.sidecar.told()
        self.metrics = await self.sidecar.metrics()
        await self.statuses()
        self.lives = await self.ttls()
        self.early = await self.store.execute(None, "HVALS", "{sidecar:receipts}:early")
        self.left = await self.stop()

    async def capacity(self):
        """Guarded requests a second in a closed loop, the best of some seconds; until it is quiet again."""
        seconds, found = min(8.0, 0.02 * self.seconds), 0.0
        for _ in range(3):
            found = max(found, await self.people.closed(128, seconds))
        while self.people.busy:
            await asyncio.sleep(0.1)
        self.people.errors.clear()
        self.people.recent.clear()
        return found

    async def statuses(self):
        """What became of the messages that no vendor was asked for, while the sidecar still knows."""
        self.missing = {}
        for verification_id, number in self.people.ids.items():
            if number in self.phones.arrived or verification_id in self.sidecar.ended:
                continue
            reply = await self.people.client.ask("GET", f"/.sidecar/v1/verifications/{verification_id}")
            self.missing[verification_id] = reply.json.get("status", f"{reply.status} {reply.code}")

    async def ttls(self):
        """Of each kind of key how many there are, and the longest life that one still has, in seconds; -1: endless."""
        found, cursor = collections.defaultdict(lambda: [0, 0.0]), b"0"
        endless = []
        while True:
            cursor, keys = await self.store.execute(None, "SCAN", cursor, "COUNT", 500)
            asked = [self.store.execute(None, "PTTL", key) for key in keys]
            for key, reply in zip(keys, asked, strict=True):
                ms, name = await reply, key.decode()
                if ms == -2:
                    continue
                if ms == -1:
                    endless.append(name)
                    continue
                parts = name.split(":")
                kind = (
                    "sends"
                    if name.startswith("{sidecar:sends}")
                    else next((part for part in parts if part in LIVES), name)
                )
                found[kind][0] += 1
                found[kind][1] = max(found[kind][1], ms / 1000)
            if cursor == b"0":
                break
        self.endless = endless
        return dict(found)

    async def stop(self):
        """End it as an operator does: the exit code, and the processes that are left."""
        pids = list(self.sidecar.processes().values())
        self.people.client.close()
        self.sidecar.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                code = await self.sidecar.process.wait()
                await self.sidecar.reading
        except TimeoutError:
            self.sidecar.process.kill()
            code = "killed after 20 s"
        for _ in range(20):  # one whose maker is gone is reaped by the system
            if left := [pid for pid in pids if is_there(pid)]:
                await asyncio.sleep(0.1)
        return code, left

    async def clean(self):
        """Whatever happened: leave no process behind."""
        if hasattr(self, "sidecar") and self.sidecar.process.returncode is None:
            for pid in self.sidecar.processes().values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if hasattr(self, "valkey"):
            self.valkey.end()


# Telling…


async def main(args):
    os.sched_setaffinity(0, {LOAD_CORE})
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    soak = Soak(args)
    try:
        await soak.run()
    finally:
        await soak.clean()
    said = judge(soak)
    print(f"\n{soak.people.counts.total()} answers, {soak.people.asked} of them to guarded requests, {soak.people.accepted.total()} messages accepted, "
          f"{len(soak.people.verified)} people verified, {len(soak.faults)} faults, {soak.people.left_out} flows left out")  # fmt: skip
    for (kind, status, code), count in sorted(soak.people.counts.items()):
        print(f"  {kind:8} {status:4} {code:24} {count}")
    print("events:", dict(soak.sidecar.events.most_common()))
    print("keys:", {kind: (count, round(life)) for kind, (count, life) in soak.lives.items()})
    for began, ended, *what in soak.unexplained[:20]:
        print(f"unexplained at {began - soak.began:.1f} s, {1000 * (ended - began):.0f} ms: {what}")
    for number in [number for number, count in soak.upstream.registered.items() if count > 1][:10]:
        print("registered again:", soak.people.tries[number])
    for line in soak.sidecar.strange[:10]:
        print("strange:", line)
    for number in list(soak.twice)[:10]:
        print(
            "again:",
            [(round(at - soak.began, 2), vendor) for at, vendor in soak.phones.arrived[number]],
            soak.people.accepted[number],
            soak.people.maybe[number],
        )
    print("receipts that came early and stayed:", soak.early[:5])
    for role, told in soak.told_last.items():
        objects = collections.Counter(told["objects"])
        if soak.warm.get(role, {}).get("pid") == told["pid"]:
            objects.subtract(soak.warm[role]["objects"])
            print(role, "more objects than after warming up:", objects.most_common(8))
    print("\n" + said.table())
    if args.out:
        errors = [
            (round(began - soak.began, 3), round(ended - soak.began, 3), *what)
            for began, ended, *what in soak.people.errors
        ]
        kept = {"samples": soak.samples, "stalls": soak.stalls, "errors": errors, "faults": soak.faults, "capacity": soak.capacity_found, "per_s": soak.per_s, "rows": said.rows,
                "events": soak.sidecar.events, "told": {"first": soak.told_first, "warm": soak.warm, "last": soak.told_last},
                "counts": [[*key, count] for key, count in soak.people.counts.items()], "metrics": soak.metrics}  # fmt: skip
        Path(args.out).write_text(json.dumps(kept))
    return 0 if all(row[3] for row in said.rows) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--most", type=float, default=120, help="guarded requests a second, whatever it carries")
    parser.add_argument("--capacity", type=float, help="not measured, but this")
    parser.add_argument(
        "--store",
        choices=("one", "sentinel"),
        default="one",
        help="one Valkey, or a primary and a replica with Sentinels",
    )
    parser.add_argument("--only", default="", help="words of the faults that are wanted, separated by commas")
    parser.add_argument("--out", help="where all figures go, as JSON")
    sys.exit(uvloop.run(main(parser.parse_args())))
