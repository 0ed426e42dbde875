"""A courier with everything real: store, verifications, outbox, webhook vendors. Also a process to be killed.

`python couriers.py STORE_URL PREFIX VENDOR_URL` delivers until it is stopped.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sidecar import outbound
from sidecar.config.model import CodeRules, Delivery
from sidecar.courier import Courier
from sidecar.delivery.breakers import Breakers
from sidecar.delivery.ledger import Ledger
from sidecar.delivery.outbox import Entry, Outbox
from sidecar.delivery.providers import webhook
from sidecar.delivery.providers.remote import Remote
from sidecar.delivery.rates import Rates
from sidecar.delivery.router import Router
from sidecar.delivery.sightings import Sightings
from sidecar.events import told_to
from sidecar.line import Line
from sidecar.logs import EventLog
from sidecar.metrics import Metrics
from sidecar.recipient import Recipient, of_address
from sidecar.secret import Secret
from sidecar.store.client import Store
from sidecar.verification.verifications import Issued, Verifications

SECRET = "a secret that both processes know"
TICKETS = ("1000000:{limits}:bucket:to:x", "2000000:{limits}:bucket:ip:y")


async def uncounted(_recipient: Recipient, _is_right: bool) -> Callable[[], None]:
    """Before a code's judgement, where nobody counts wrong ones; tests/story/test_story_guesses.py counts them."""
    return lambda: None


@dataclass
class Post:
    """What surrounds a courier, and what it said to its surroundings."""

    store: Store
    session: outbound.Session
    urls: dict[str, str]
    rules: tuple[Delivery, ...]
    code_rules: CodeRules = field(default_factory=CodeRules)
    metrics: Metrics = field(default_factory=Metrics)
    marked: asyncio.Queue[tuple[str, str]] = field(default_factory=asyncio.Queue)
    draws: Iterator[float] = field(default_factory=lambda: iter(()))
    refunded: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.secret = Secret(SECRET, (), os.urandom)
        self.outbox = Outbox(self.store)
        self.ledger = Ledger(self.store, self.secret.hashes, self.urls)
        self.sightings = Sightings(self.store)
        log = EventLog("all", asyncio.get_running_loop().call_later)
        self.tell = told_to(self.metrics.hears, log.hears)
        self.verifications = Verifications(self.store, self.secret, self.code_rules, {}, os.urandom, 10.0, self.tell)
        self.breakers = Breakers(self.store, self.urls, self.tell)

    def router(self, providers: Mapping[str, Any] | None = None, rates: Rates | None = None) -> Router:
        def provider(url: str) -> Remote:
            settings = webhook.Settings.model_validate({"kind": "webhook", "url": url, "secret": "s"})
            return Remote(webhook, settings, self.session, time.time, str)

        made = providers or {name: provider(url) for name, url in self.urls.items()}
        return Router(
            made,
            self.rules,
            self.breakers,
            rates or Rates(frozenset(), unlimited),
            self.sightings,
            lambda: next(self.draws, 0.5),
        )

    def courier(self, outbox: Outbox | None = None, router: Router | None = None, **other: Any) -> Courier:
        async def mark(verification_id: str, status: Any, reason: str, given_back: bool) -> None:
            await self.verifications.mark(verification_id, status, reason, given_back)
            self.marked.put_nowait((verification_id, status))

        async def refund(tickets: Sequence[str], once: str) -> None:
            self.refunded.append(tuple(tickets))

        made: dict[str, Any] = {
            "outbox": outbox or self.outbox,
            "router": router or self.router(),
            "ledger": self.ledger,
            "code": self.verifications.code,
            "open_recipient": self.open_recipient,
            "read": self.verifications.read,
            "mark": mark,
            "refund": refund,
            "tell": self.tell,
            "now": time.time,
            "code_rules": self.code_rules,
            "line": Line(),
        }
        return Courier(**(made | other))

    def open_recipient(self, sealed: bytes) -> Recipient:
        return of_address(self.secret.open(sealed))

    async def ask(self, recipient: Recipient, courier: Courier | None = None, **other: Any) -> str:
        """Issue a verification and queue its message; gives the verification's id.

        `courier` queues it, as the gate has it done, and may begin with it at once; without one it is only queued.
        `dies_at` is when its code dies, in seconds since the epoch.
        """
        issued = await self.verifications.issue(recipient, 0.0)
        if (dies_at := other.pop("dies_at", None)) is not None:
            record = self.store.names.verification(issued.id)
            await self.store.execute(record, "HSET", record, "expires", int(dies_at * 1000))
            other.setdefault("expires_at", dies_at)
        await self.queue(recipient, issued, courier, **other)
        return issued.id

    async def queue(self, recipient: Recipient, issued: Issued, courier: Courier | None = None, **other: Any) -> None:
        """Queue the message of a verification, as `ask` does."""
        entry: dict[str, Any] = {
            "verification_id": issued.id,
            "sealed": self.secret.seal(recipient.address),
            "locale": "en",
            "tickets": TICKETS,
            "expires_at": time.time() + issued.expires_in_s,
            "request_id": "r-1",
        }
        if courier is None:
            await self.outbox.put(Entry(**(entry | other)))
        else:
            await courier.put(Entry(**(entry | other)), recipient, None)

    async def status(self, verification_id: str) -> str | None:
        record = await self.verifications.read(verification_id)
        return record.status if record else None

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0


async def unlimited(provider: str) -> float:
    return 0.0


@asynccontextmanager
async def post(store: Store, urls: dict[str, str], *rules: Delivery, **other: Any) -> AsyncIterator[Post]:
    session = outbound.open_session()
    try:
        yield Post(store, session, urls, rules or (Delivery(providers=tuple(urls)),), **other)
    finally:
        await session.close()


async def main(store_url: str, prefix: str, vendor_url: str) -> None:
    store = Store(store_url, prefix=prefix)
    patient = Delivery(providers=("first",), attempt_timeout=60.0, deadline=60.0)
    async with post(store, {"first": vendor_url}, patient) as it:
        await it.courier().run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
