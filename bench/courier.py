"""What does a message cost, from the queue to the vendor? CPU time of this process, per message.

Verifications are issued first, and not counted; then so many clients at once queue a message each, as the gate does, and
wait until it is sent (with --backlog they do not wait), and the courier of the same process delivers them, with a real
store and a simulated vendor, both processes of their own. "instant" is a provider that accepts without a call: what is
left is the outbox, the courier and its race.

    python bench/courier.py [--messages 4000] [--at-once 32] [--providers instant,webhook,twilio] [--backlog]
"""

import argparse
import asyncio
import cProfile
import os
import secrets
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import uvloop
from couriers import post

from sidecar import logs
from sidecar.config.model import Delivery
from sidecar.delivery.providers import twilio
from sidecar.delivery.providers.remote import Remote
from sidecar.delivery.providers.seam import Accepted
from sidecar.recipient import load_number_data, parse
from sidecar.store.client import Store
from sidecar.store.embedded import embedded

REPLY = b'{"id":"v-1","sid":"SM0123456789abcdef0123456789abcdef","status":"queued"}'
ANSWER = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(REPLY) + REPLY


class Vendor(asyncio.Protocol):
    """Takes every request and answers it at once, with as little work as can be."""

    def connection_made(self, transport):
        self.transport, self.had = transport, b""

    def data_received(self, data):
        self.had += data
        while (head := self.had.find(b"\r\n\r\n")) >= 0:
            at = self.had.lower().index(b"content-length:") + 15
            end = head + 4 + int(self.had[at : self.had.index(b"\r\n", at)])
            if len(self.had) < end:
                return
            self.had = self.had[end:]
            self.transport.write(ANSWER)


async def simulate():
    server = await asyncio.get_running_loop().create_server(Vendor, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Instant:
    channels = frozenset({"sms"})

    async def send(self, message, timeout_s):
        return Accepted(message.id)


def provider(it, kind, url):
    if kind == "instant":
        return Instant()
    if kind == "webhook":
        return next(iter(it.router()._providers.values()))
    table = {
        "kind": "twilio",
        "account_sid": "AC" + 32 * "0",
        "auth_token": "t",
        "from": "+14155550100",
        "endpoint": url,
    }
    settings = twilio.Settings.model_validate(table)
    return Remote(twilio, settings, it.session, time.time, lambda: secrets.token_hex(16))


async def measure(store, kind, url, messages, at_once, backlog, profile):
    """CPU microseconds a message, and messages a second."""
    async with post(store, {"only": url}, Delivery(providers=("only",))) as it:
        it.ledger._reporting = ()
        recipients = [parse(f"+86139{n:08}", "sms", "CN") for n in range(messages)]
        issued = [await it.verifications.issue(one, 0.0) for one in recipients]
        sent = {one.id: asyncio.Event() for one in issued}

        async def mark(verification_id, *status):
            await it.verifications.mark(verification_id, *status)
            sent[verification_id].set()

        courier = it.courier(router=it.router({"only": provider(it, kind, url)}), mark=mark)
        running = [asyncio.create_task(work) for work in (courier.run(), it.breakers.run())]
        todo = iter(zip(recipients, issued, strict=True))

        async def client():
            for recipient, one in todo:
                await it.queue(recipient, one, courier)
                if not backlog:
                    await sent[one.id].wait()

        with profile:
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(client() for _ in range(at_once)))
            for one in sent.values():
                await one.wait()
            while await it.outbox.length():
                await asyncio.sleep(0.01)
            cpu, took = time.process_time() - cpu, time.perf_counter() - began
        await courier.drain(5.0)
        assert it.count("sidecar_messages_total", outcome="sent") == messages
        running[1].cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*running)
    return cpu / messages * 1e6, messages / took


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--providers", default="instant,webhook,twilio")
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--profile", help="where cProfile's statistics go")
    parser.add_argument("--backlog", action="store_true")
    parser.add_argument("--simulate", action="store_true")
    options = parser.parse_args()
    if options.simulate:
        return await simulate()
    logs.configure("json", descriptor=os.open(os.devnull, os.O_WRONLY))
    list(load_number_data())
    profile = cProfile.Profile() if options.profile else suppress()
    simulator = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--simulate", stdout=asyncio.subprocess.PIPE
    )
    url = f"http://127.0.0.1:{int(await simulator.stdout.readline())}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with embedded(Path(folder)) as store_url:
                os.sched_setaffinity(0, {options.core})  # the store and the vendor stay on all
                for _ in range(options.repeats):
                    for kind in options.providers.split(","):
                        store = Store(store_url, prefix=f"bench-{time.time_ns()}", timeout_s=30.0)
                        cpu, rate = await measure(
                            store, kind, url, options.messages, options.at_once, options.backlog, profile
                        )
                        print(f"{kind:10} {cpu:8.0f} us CPU a message {rate:8.0f} messages/s", flush=True)
                        await store.close()
    finally:
        simulator.kill()
        await simulator.wait()
    if options.profile:
        profile.dump_stats(options.profile)


if __name__ == "__main__":
    uvloop.run(main())
