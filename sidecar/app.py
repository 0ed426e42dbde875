"""What is made of a configuration? The only wiring: config -> objects -> what the two listeners call.

`running` builds everything, starts it in order, and stops it in the opposite order.
"""

import asyncio
import hmac
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

from sidecar import captcha, outbound
from sidecar.admin import Admin, Crew
from sidecar.admission import Admission
from sidecar.admitting import Admitting
from sidecar.api import Api
from sidecar.captcha.remote import Remote as RemoteCaptcha
from sidecar.captcha.seam import BuiltIn, Verifier, is_built_in
from sidecar.config.model import Config
from sidecar.config.proxies import Proxies
from sidecar.courier import Courier
from sidecar.delivery import providers
from sidecar.delivery.breakers import Breakers
from sidecar.delivery.ledger import Ledger
from sidecar.delivery.outbox import Outbox
from sidecar.delivery.providers.remote import Remote as RemoteProvider
from sidecar.delivery.providers.seam import Provider
from sidecar.delivery.rates import Rates
from sidecar.delivery.receipts import Receipts, callback_url, may_come
from sidecar.delivery.router import Router, probe_s
from sidecar.delivery.sightings import Sightings
from sidecar.errors import Refusal, StoreAwayError
from sidecar.events import Tell, told_to
from sidecar.faces import Faces
from sidecar.front import Front
from sidecar.gate import Gate
from sidecar.identity import Signer
from sidecar.keyring import Keyring
from sidecar.keys import KeyFiles, SigningKey, read_pem
from sidecar.life import Life, ended
from sidecar.limits.buckets import Buckets, Meter
from sidecar.limits.load import Load
from sidecar.limits.sends import Prices, Sends
from sidecar.line import Line
from sidecar.lists import targets
from sidecar.lists.blocks import Blocks, Register
from sidecar.lists.files import AsnFiles
from sidecar.lists.rules import Lists
from sidecar.lists.targets import Target
from sidecar.logs import EventLog
from sidecar.metrics import Metrics
from sidecar.proxy.client import Trusted
from sidecar.proxy.forward import Forwarder
from sidecar.recipient import Recipient, of_address, parse
from sidecar.routes import Routes
from sidecar.secret import Secret
from sidecar.store.client import ReplyError, Store
from sidecar.store.instances import Instances
from sidecar.store.trouble import Trouble
from sidecar.verification.idempotency import Idempotency
from sidecar.verification.verifications import Verifications

# What a hold must outlast beside upstream's own time-outs: sending a guarded body and settling.
_HOLD_MARGIN_S: Final = 10.0
# For holds that are being settled as the process ends, however long its requests took.
_SETTLE_S: Final = 1.0


@dataclass(slots=True)
class App:
    """A configuration at work."""

    config: Config
    front: Front
    gate: Gate
    courier: Courier
    instances: Instances
    life: Life


@asynccontextmanager
async def running(config: Config, store_url: str, metrics: Metrics, life: Life | None = None) -> AsyncIterator[App]:
    """Build and start everything that a configuration asks for.

    Raises OSError, ValueError for what cannot be, ForeignSecretError beside instances with another secret.
    """
    life = life or Life()
    async with AsyncExitStack() as stack:
        log = EventLog(config.server.access_log, asyncio.get_running_loop().call_later)
        stack.callback(log.close)
        tell = told_to(metrics.hears, log.hears)
        store = Store(store_url, observe=metrics.store_seconds.of(()).observe, trouble=Trouble(tell))
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(_session(config))
        forwarder = Forwarder(
            config.upstream,
            metrics.upstream_seconds.observe,
            config.identity.header,
            Trusted(config.server.trusted_proxies),
        )
        stack.push_async_callback(forwarder.close)

        secret = _secret(config)
        signer = Signer(config.identity, signing_keys(config), time.time, _new_id)
        keyring = _keyring(config, store, secret, signer, tell)
        keyring.keys()  # a key that cannot be read is told now, and not to the first who is verified
        with suppress(StoreAwayError, ReplyError):
            await keyring.look()
        # With max_connections, a request waits for its connection as long as for its answer.
        # And where a route's `spend_when` asks for more than the status, for the content as long again.
        waits = 3 if any(route.spend_when for route in config.routes) else 2
        hold_s = config.upstream.connect_timeout + waits * config.upstream.read_timeout + _HOLD_MARGIN_S
        instances = Instances(store, _new_id(), secret.fingerprint, secret.accepted, time.time)
        with suppress(StoreAwayError, ReplyError):  # everything but guarded routes works without
            await instances.join()
        stack.push_async_callback(instances.leave)
        sends = _sends(config, store, secret, tell)
        verified = sends.verified if sends is not None and config.pumping.mode != "off" else None
        verifications = Verifications(
            store, secret, config.code, config.numbers.test, os.urandom, hold_s, tell, verified
        )
        buckets = Buckets(store, instances=lambda: instances.seen)
        outbox = Outbox(store)
        verifiers = _verifiers(config, session, secret, store, tell)

        vendors = providers.kinds()
        receipts_url = _receipts_url(config)
        reporting = {
            name
            for name, settings in config.providers.items()
            if may_come(receipts_url, settings, vendors[settings.kind])
        }
        ledger = Ledger(store, secret.hashes, reporting)
        line = Line()
        courier = Courier(
            outbox=outbox,
            router=await stack.enter_async_context(_routing(config, store, session, buckets, tell, life)),
            ledger=ledger,
            code=verifications.code,
            open_recipient=lambda sealed: of_address(secret.open(sealed)),
            read=verifications.read,
            mark=verifications.mark,
            refund=buckets.refund,
            sends=sends,
            tell=tell,
            now=time.time,
            code_rules=config.code,
            line=line,
        )
        stepping = frozenset(name for name, limit in config.limits.items() if limit.mode == "captcha")
        routes = Routes(config.routes, method_override=config.upstream.method_override, stepping=stepping)
        faces = Faces(config, _new_id)
        files = AsnFiles([table.asn_file for table in (*config.block, *config.allow) if table.asn_file], tell)
        await files.open()
        blocks = Blocks(store, tell)
        with suppress(StoreAwayError, ReplyError):  # its task tells what is wrong
            await blocks.look()
        lists = Lists(config.block, config.allow, files.ranges, blocks.in_force, secret.hashes)
        admission = Admission(
            config,
            store.names,
            secret.hashes,
            {name: verifier.life_s for name, verifier in verifiers.items()},
            lists,
            sends.sending if sends is not None else None,
        )
        admitting = Admitting(
            config=config, admission=admission, buckets=buckets, sends=sends, captchas=verifiers, tell=tell
        )
        gate = Gate(
            config=config,
            admission=admission,
            faces=faces,
            forwarder=forwarder,
            buckets=buckets,
            admitting=admitting,
            verifications=verifications,
            idempotency=Idempotency(store, secret),
            put=courier.put,
            signer=signer,
            tell=tell,
            now=time.time,
        )
        challengers = {name: verifier for name, verifier in verifiers.items() if is_built_in(verifier)}
        receipts = Receipts(config.providers, vendors, receipts_url, ledger, courier.received)
        api = Api(config, gate, faces, verifications, cast("dict[str, BuiltIn]", challengers), keyring, tell, receipts)
        front = Front(
            config=config,
            routes=routes,
            gate=gate,
            api=api,
            faces=faces,
            forwarder=forwarder,
            tell=tell,
            metrics=metrics,
            line=line,
            quick_id=_quick_ids().__next__,
        )
        app = App(config, front, gate, courier, instances, life)
        delivering = life.keep("courier", courier.run, lambda: courier.is_draining)
        staying = [
            life.keep("instances", instances.stay, lambda: instances.has_left),
            life.keep("blocks", blocks.run),
            life.keep("keyring", keyring.run),
        ]
        if files:
            staying.append(life.keep("asn_files", files.run))
        # Not among those: it ends a process, and what is cancelled twice has no time to.
        drawing = [
            life.keep(f"captcha.{name}", verifier.run)
            for name, verifier in verifiers.items()
            if hasattr(verifier, "run")
        ]
        try:
            yield app
        finally:
            for task in staying:
                task.cancel()
            # With the process, in what is left of its time; replaced by a reload, in its own.
            left_s = max(life.left_s, _SETTLE_S) if life.is_draining else config.server.drain
            await asyncio.gather(front.drain(left_s), courier.drain(left_s))
            await ended(delivering, *staying, *drawing)


@asynccontextmanager
async def administering(config: Config, store_url: str, life: Life, crew: Crew) -> AsyncIterator[Admin]:
    """What the admin listener of the process shows each request to. Raises OSError, ValueError for keys."""
    store = Store(store_url)
    forwarder = Forwarder(config.upstream, lambda _: None, config.identity.header, Trusted(()))
    secret = _secret(config)
    signer = Signer(config.identity, signing_keys(config), time.time, _new_id)
    keyring = _keyring(config, store, secret, signer, lambda _: None)  # of which the workers tell
    keyring.keys()
    reading = life.keep("admin_keyring", keyring.run)
    try:
        yield Admin(
            prefix=config.api.prefix,
            store=store,
            why_no_upstream=forwarder.why_not,
            outbox_length=Outbox(store).length,
            life=life,
            keyring=keyring,
            crew=crew,
            new_id=_new_id,
        )
    finally:
        await ended(reading)
        await forwarder.close()
        await store.close()


@asynccontextmanager
async def outbox_of(store_url: str) -> AsyncIterator[Outbox]:
    """The outbox alone, for its dead letters."""
    store = Store(store_url)
    try:
        yield Outbox(store)
    finally:
        await store.close()


@asynccontextmanager
async def register_of(config: Config, store_url: str) -> AsyncIterator[tuple[Register, Callable[[str], Target]]]:
    """What administrators have blocked, and what reads what they type: it raises UnfitError."""
    rules = config.numbers

    def recipient(text: str) -> Recipient | None:
        with suppress(Refusal):
            return parse(text, "sms", rules.default_country, known=rules.test, extra=rules.extra, example=rules.example)
        return None

    def hashes(value: str) -> tuple[str, ...]:
        return _secret(config).hashes(value)

    store = Store(store_url)
    try:
        yield Register(store), lambda text: targets.read(text, recipient, hashes)
    finally:
        await store.close()


@asynccontextmanager
async def routing(config: Config, store_url: str) -> AsyncIterator[Router]:
    """The router alone, for a test message: it shares rates and breakers with the sidecars on that store."""
    async with AsyncExitStack() as stack:
        store = Store(store_url)
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(_session(config))
        tell = told_to(EventLog("off", asyncio.get_running_loop().call_later).hears)
        yield await stack.enter_async_context(_routing(config, store, session, Buckets(store), tell, Life()))


@asynccontextmanager
async def _routing(
    config: Config, store: Store, session: outbound.Session, buckets: Buckets, tell: Tell, life: Life
) -> AsyncIterator[Router]:
    """The router at work, with what it knows of the other workers."""
    # Buckets of one: a burst would be faster than the rate.
    rates = {
        name: Meter.of_rate("provider", settings.rate, store.names, burst=1).bucket(name)
        for name, settings in config.providers.items()
        if settings.rate
    }

    async def take(provider: str) -> float:
        ruling = await buckets.spend([rates[provider]])
        return 0.0 if ruling.allowed else ruling.retry_after_s

    url = _receipts_url(config)
    callbacks = {name: callback_url(url, name, settings) for name, settings in config.providers.items()}
    lines = Rates(frozenset(rates), take)
    longest_s = max((max(rule.breaker.open_for, probe_s(rule)) for rule in config.delivery), default=0.0)
    breakers = Breakers(store, config.providers, tell, int(longest_s * 1000))
    sightings = Sightings(store)
    # At once: each waits for a store that does not answer. What is wrong their tasks tell.
    await asyncio.gather(breakers.look(), sightings.look(), return_exceptions=True)
    looking = (life.keep("breakers", breakers.run), life.keep("sightings", sightings.run))
    try:
        async with _providers(config, session) as made:
            yield Router(made, config.delivery, breakers, lines, sightings, random.random, callbacks)
    finally:
        await ended(*looking)
        await lines.close()


def _sends(config: Config, store: Store, secret: Secret, tell: Tell) -> Sends | None:
    """What judges sends and counts their cost, where the configuration asks for either."""
    has_price = any(provider.price for provider in config.providers.values())
    if config.pumping.mode == "off" and not config.budget.is_set and not has_price:
        return None
    return Sends(store, config, Prices(config.providers, config.delivery), secret.hash, tell)


def _keyring(config: Config, store: Store, secret: Secret, signer: Signer, tell: Tell) -> Keyring:
    return Keyring(store, secret, lambda: signer.jwks()["keys"], config.identity.ttl, time.time, tell)


def _session(config: Config) -> outbound.Session:
    return outbound.open_session(Proxies(config.outbound.proxy, os.environ), config.outbound.ca)


def _receipts_url(config: Config) -> str:
    """How the world reaches the receipts endpoint, without a provider's name; "" when nobody said."""
    return f"{config.server.public_url}{config.api.prefix}/receipts" if config.server.public_url else ""


def _secret(config: Config) -> Secret:
    """The server's secret, beside those that are still accepted. Raises OSError, ValueError."""
    return Secret(_server_secret(config), config.server.previous_secrets, os.urandom)


def _server_secret(config: Config) -> str:
    """`server.secret`, or the one made under state_dir on first start."""
    if config.server.secret:
        return config.server.secret
    path = Path(config.server.state_dir) / "secret"
    with suppress(FileNotFoundError):
        return _kept_secret(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = secrets.token_urlsafe(32)
    # A name of its own: in containers, process ids are the same after a crash, and next door.
    partial = path.with_suffix(f".{secrets.token_hex(8)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        path.hardlink_to(partial)  # whoever comes second uses the first one's
    except FileExistsError:
        return _kept_secret(path)
    finally:
        partial.unlink()
    return made


def _kept_secret(path: Path) -> str:
    kept = path.read_text().strip()
    if not kept:
        raise ValueError(f"{path} is empty; restore it, or remove it to begin with a new secret")
    return kept


def signing_keys(config: Config) -> KeyFiles | SigningKey | None:
    """What signs: nothing asymmetric (HS256), the configured key, or the files under state_dir."""
    rules = config.identity
    if rules.algorithm == "HS256":
        return None
    if rules.private_key:
        return read_pem(rules.private_key, 0.0)
    return KeyFiles(Path(config.server.state_dir) / "keys", rules.algorithm, rules.ttl, time.time)


def _verifiers(
    config: Config, session: outbound.Session, secret: Secret, store: Store, tell: Tell
) -> dict[str, Verifier]:
    made: dict[str, Verifier] = {}
    for name, settings in config.captcha.items():
        module = captcha.kinds()[settings.kind]
        if hasattr(module, "built_in"):
            own = hmac.digest(secret.captcha_key, name.encode(), "sha256")
            load_of = partial(Load, store, secret.hash, name)
            made[name] = module.built_in(settings, own, time.time, secrets.randbelow, load_of)
        else:
            made[name] = RemoteCaptcha(name, module, settings, session, time.time, _new_id, tell)
    return made


@asynccontextmanager
async def _providers(config: Config, session: outbound.Session) -> AsyncIterator[dict[str, Provider]]:
    """Every provider by its name. A kind that is not spoken to over HTTP opens its own, and closes them."""
    async with AsyncExitStack() as stack:
        made: dict[str, Provider] = {}
        for name, settings in config.providers.items():
            module = providers.kinds()[settings.kind]
            if hasattr(module, "opened"):
                made[name] = await stack.enter_async_context(module.opened(settings))
            else:
                made[name] = RemoteProvider(module, settings, session, time.time, _new_id)
        yield made


# Of so many octets at a time: 256 of 16.
_PAGE: Final = 4096


def _quick_ids() -> Iterator[str]:
    """Random identifiers of 32 hex digits that are no secrets, for requests: each in a tenth of the time."""
    quick = random.Random()  # noqa: S311 - seeded by the system
    while True:
        digits = quick.randbytes(_PAGE).hex()
        for at in range(0, len(digits), 32):
            yield digits[at : at + 32]


def _new_id() -> str:
    """A random identifier of 32 hex digits that nobody can guess: JWT ids, nonces, idempotency keys of vendors."""
    return os.urandom(16).hex()
