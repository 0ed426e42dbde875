"""Does it arrive, within seconds, through whoever can? `make bench-router` prints what was seen on this machine.

Everything is real: the store, the courier, webhook vendors on loopback sockets. "Delivered" is what the simulated phone
got; whoever gets a code types it in at once, which is what confirms a message. The last part runs the whole product as
a process of its own and kills it with SIGKILL every five seconds.

    python bench/router.py [--messages 5000] [--rate 150] [--only failover,outage,kill]
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import aiohttp
from aiohttp import web
from couriers import Post, post, uncounted
from vendors import closed_port

from sidecar.config.model import Breaker, Delivery
from sidecar.delivery.breakers import Key
from sidecar.delivery.providers.seam import Message
from sidecar.errors import Refusal
from sidecar.recipient import Phone
from sidecar.store.client import Store
from sidecar.store.embedded import embedded

SWITCH_AFTER_S = 1.0
ANSWER_S = 0.03  # how long a healthy vendor takes


class Vendor:
    """A simulated vendor: `how` is ok, slow (answers after 4 s, and delivers then), hang, refuse, reset or lie."""

    def __init__(self, how: str, phone) -> None:
        self.how, self.phone, self.url, self.arrived = how, phone, "", {}

    async def take(self, request: web.BaseRequest) -> web.Response:
        message = json.loads(await request.read())
        self.arrived.setdefault(message["id"], time.perf_counter())
        if self.how == "hang":
            await asyncio.sleep(3600)
        if self.how == "refuse":
            return web.Response(status=429)
        if self.how == "reset":
            request.transport.abort()
            return web.Response()
        await asyncio.sleep(4.0 if self.how == "slow" else ANSWER_S)
        if self.how != "lie":
            self.phone(message)
        return web.Response(status=202)


@asynccontextmanager
async def vendors(hows, phone=lambda message: None):
    async with AsyncExitStack() as stack:
        made = []
        for how in hows:
            one = Vendor(how, phone)
            if how == "down":
                one.url = closed_port()
            else:
                runner = web.ServerRunner(web.Server(one.take, access_log=None), shutdown_timeout=0.1)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
                one.url = "http://{}:{}".format(*runner.addresses[0][:2])
            made.append(one)
        yield made


def number(n: int) -> Phone:
    return Phone(f"+86139{n:08}", "CN", "mobile")


def quantile(times, q):
    return sorted(times)[min(len(times) - 1, int(q * len(times)))]


def line(name, value, bound, ok):
    print(f"  {name:<46} {value:<28} {bound:<22} {'ok' if ok else 'NOT MET'}", flush=True)
    return ok


# Fail-over times…


async def failover(store: Store, count: int = 300) -> bool:
    print("Fail-over: from the start of the race until the second vendor has the message (p50 / p99)")
    fine = True
    for how, bound in (("hang", SWITCH_AFTER_S + 0.2), ("refuse", 0.2), ("reset", 0.2), ("down", 0.2), ("open", 0.02)):
        rule = Delivery(
            providers=("first", "second"),
            switch_after=SWITCH_AFTER_S,
            attempt_timeout=1.5,
            breaker=Breaker(failures=1, open_for=600.0),
        )
        async with (
            vendors(["refuse" if how == "open" else how, "ok"]) as (first, second),
            post(store, {"first": first.url, "second": second.url}, rule) as it,
        ):
            router = it.router()
            way = router.way(number(0), "en")
            if how == "open":
                it.breakers.record(Key("first", "CN"), 0, fine=False, failures=1, open_for_s=600)
                looking = asyncio.create_task(it.breakers.run())
                while it.breakers.of(Key("first", "CN")).state != "open":
                    await asyncio.sleep(0.01)
            # Without its background task no breaker learns, so every message meets the fault itself.
            times = []

            async def one(n: int) -> None:
                message = Message(f"{how}-{n}", number(n), "en", "246810", 5, "text")
                started = time.perf_counter()
                async with router.sent(way, message, 60.0, lambda _: None) as result:
                    assert result.provider == "second", result
                times.append(second.arrived[message.id] - started)

            await one(-1)  # the connections are open now
            times.clear()
            # Ten at a time where each waits a second; else one, so that none waits for our own processor.
            at_once = 10 if how == "hang" else 1
            for begin in range(0, count, at_once):
                await asyncio.gather(*(one(n) for n in range(begin, begin + at_once)))
            if how == "open":
                looking.cancel()
                assert not first.arrived
            told = {"hang": "first is silent", "refuse": "first refuses", "reset": "first breaks the line"}
            name = told.get(how, "first cannot be reached" if how == "down" else "first's breaker is open")
            p99 = quantile(times, 0.99)
            fine &= line(name, f"{statistics.median(times):.4f} s / {p99:.4f} s", f"p99 <= {bound:.2f} s", p99 <= bound)
    return fine


# Outages…


async def outage(store: Store, how: str, messages: int, rate: float) -> bool:
    """One of three vendors is down, slow or lying, and it is the one that the rule names first."""
    got: dict[str, list[float]] = {}
    queued: dict[str, float] = {}
    users = set()
    async with AsyncExitStack() as stack:

        def phone(message) -> None:
            verification_id = message["id"].rpartition("_")[0]
            got.setdefault(verification_id, []).append(time.perf_counter())
            if len(got[verification_id]) == 1:
                task = asyncio.create_task(types_it_in(verification_id, message["code"]))
                users.add(task)
                task.add_done_callback(users.discard)

        async def types_it_in(verification_id: str, code: str) -> None:
            with suppress(Refusal):
                async with await it.verifications.hold_by_id(verification_id, code, uncounted) as hold:
                    await hold.exchange()

        three = await stack.enter_async_context(vendors([how, "ok", "ok"], phone))
        rule = Delivery(
            providers=("first", "second", "third"),
            switch_after=SWITCH_AFTER_S,
            attempt_timeout=3.0,
            deadline=5.0,
            confirm_within=2.0,
        )
        urls = dict(zip(rule.providers, (one.url for one in three), strict=True))
        it: Post = await stack.enter_async_context(post(store, urls, rule))
        learning = asyncio.create_task(it.breakers.run())
        courier = it.courier()
        running = asyncio.create_task(courier.run())
        started = time.perf_counter()
        for n in range(messages):
            await asyncio.sleep(max(0.0, started + n / rate - time.perf_counter()))
            verification_id = await it.ask(number(n))
            queued[verification_id] = time.perf_counter()
        while await it.outbox.length() or await store.execute(store.names.later(), "ZCARD", store.names.later()):
            await asyncio.sleep(0.05)
        await courier.drain(10.0)
        await asyncio.gather(*users)
        await asyncio.sleep(0)
        for task in (running, learning):
            task.cancel()
    took = [got[one][0] - at for one, at in queued.items() if one in got]
    in_time = sum(one <= 5.0 for one in took) / messages
    twice = 1000 * sum(len(times) - 1 for times in got.values()) / messages
    print(
        f"    {how}: {len(took)} of {messages} arrived, p50 {quantile(took, 0.5):.3f} s, p99 {quantile(took, 0.99):.3f} s,"
        f" asked {' / '.join(str(len(one.arrived)) for one in three)}"
    )
    return line(f"first is {how}", f"{100 * in_time:.2f} % in 5 s", ">= 99.90 %", in_time >= 0.999) & line(
        "  duplicates", f"{twice:.1f} per 1,000", "counted", True
    )


# SIGKILL…

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
state_dir = "{state}"
secret = "a-secret-of-the-bench-a-secret-of-the-bench"
drain = "1s"
access_log = "off"
[store]
url = "{store}"
[providers.first]
kind = "webhook"
url = "{first}"
secret = "s"
[providers.second]
kind = "webhook"
url = "{second}"
secret = "s"
[providers.third]
kind = "webhook"
url = "{third}"
secret = "s"
[[delivery]]
providers = ["first", "second", "third"]
[api]
captcha = ""
limits = []
"""


async def kill(store_url: str, state: Path, messages: int, rate: float) -> bool:
    got: dict[str, int] = {}

    def phone(message) -> None:
        one = message["id"].rpartition("_")[0]
        got[one] = got.get(one, 0) + 1

    port, admin = (int(closed_port().rpartition(":")[2]) for _ in range(2))
    log = (state / "sidecar.log").open("wb")
    async with AsyncExitStack() as stack:
        three = await stack.enter_async_context(vendors(["down", "ok", "ok"], phone))
        config = state / "sidecar.toml"
        names = dict(zip(("first", "second", "third"), (one.url for one in three), strict=True))
        config.write_text(CONFIG.format(port=port, admin=admin, state=state, store=store_url, **names))
        kills, process, done = 0, None, asyncio.Event()

        async def start():
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sidecar", "run", str(config), stdout=log, stderr=log
            )

        async def killing() -> None:
            nonlocal process, kills
            while not done.is_set():
                process = await start()
                with suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), 5.0)
                    return
                process.send_signal(signal.SIGKILL)
                await process.wait()
                kills += 1

        killer = asyncio.create_task(killing())
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"http://127.0.0.1:{port}/.sidecar/v1/verifications"
        accepted: set[str] = set()
        unanswered = 0

        async def ask(n: int) -> None:
            nonlocal unanswered
            while True:
                try:
                    async with session.post(url, json={"to": f"+86139{n:08}"}) as answer:
                        if answer.status == 202:
                            accepted.add((await answer.json())["id"])
                            return
                        assert answer.status == 503, await answer.text()
                except aiohttp.ClientError:
                    unanswered += 1
                await asyncio.sleep(0.1)

        started = time.perf_counter()
        asking = set()
        for n in range(messages):
            await asyncio.sleep(max(0.0, started + n / rate - time.perf_counter()))
            task = asyncio.create_task(ask(n))
            asking.add(task)
            task.add_done_callback(asking.discard)
            while len(asking) > 50:
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        while asking:
            await asyncio.wait(asking)
        done.set()
        await killer
        store = Store(store_url)
        stack.push_async_callback(store.close)
        deadline = time.perf_counter() + 60
        while (
            await store.execute(store.names.outbox(), "XLEN", store.names.outbox()) and time.perf_counter() < deadline
        ):
            await asyncio.sleep(0.1)
        failed = 0
        for one in accepted - set(got):
            async with session.get(f"{url}/{one}") as answer:
                failed += answer.status == 200 and (await answer.json())["status"] == "failed"
        lost = len(accepted - set(got)) - failed
        process.terminate()
        await process.wait()
    print(
        f"    {len(accepted)} accepted, {kills} kills, {unanswered} requests without an answer, {failed} reported failed"
    )
    twice = 1000 * sum(count - 1 for one, count in got.items() if one in accepted) / messages
    return line("accepted, but neither sent nor reported", str(lost), "0", lost == 0) & line(
        "  duplicates", f"{twice:.1f} per 1,000", "counted", True
    )


async def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--only", default="failover,outage,kill")
    options = parser.parse_args()
    parts = options.only.split(",")
    fine = True
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        async with embedded(Path(folder)) as url:

            async def fresh(part) -> bool:
                store = Store(url, prefix=f"bench-{time.time_ns()}")
                try:
                    return await part(store)
                finally:
                    await store.close()

            if "failover" in parts:
                fine &= await fresh(failover)
            if "outage" in parts:
                print(f"One of three vendors fails: {options.messages:,} messages, {options.rate:g} a second")
                for how in ("down", "slow", "lie"):
                    fine &= await fresh(lambda store, how=how: outage(store, how, options.messages, options.rate))
            if "kill" in parts:
                print(f"kill -9 every 5 s, first vendor down: {options.messages:,} messages")
                fine &= await kill(url, Path(folder), options.messages, options.rate)
    return 0 if fine else 1


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    sys.exit(asyncio.run(main()))
