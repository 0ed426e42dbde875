"""sidecar/keyring.py: the keys of all instances on one store. A real Valkey, and whole instances on it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jwt
from attackers import code_of
from cryptography.hazmat.primitives import serialization
from fakes import DEADLINE_S
from telling import CONFIG, E164, MAIN, Sidecar, Start

from sidecar.events import KeysDiffer
from sidecar.keyring import Jwk, Keyring
from sidecar.keys import make
from sidecar.secret import Secret
from sidecar.store.client import Store

SECRET = "keyring-secret-keyring-secret-keyring"


def urandom(count: int) -> bytes:
    return bytes(range(count))


class Instance:
    """One instance's keyring, its clock, and what it has told."""

    def __init__(self, store: Store, *kids: str, secret: str = SECRET, ttl_s: float = 60.0) -> None:
        self.now = 1_000_000.0
        self.told: list[Any] = []
        self.own: list[Jwk] = [{"kid": kid, "kty": "EC"} for kid in kids]
        self.ring = Keyring(
            store, Secret(secret, (), urandom), lambda: self.own, ttl_s, lambda: self.now, self.told.append
        )

    @property
    def kids(self) -> list[str]:
        return [key["kid"] for key in self.ring.keys()]  # noqa: SIM118 - a method, not a dictionary


async def test_each_knows_the_keys_of_all(store: Store) -> None:
    """Its own first, those of the others once it has looked, none twice."""
    one, two = Instance(store, "a", "b"), Instance(store, "c", "b")
    assert one.kids == ["a", "b"]
    for instance in (one, two, one):
        await instance.ring.look()
    assert one.kids == ["a", "b", "c"]
    assert set(two.kids) == {"a", "b", "c"}
    assert two.kids[:2] == ["c", "b"]


async def test_a_difference_is_told_once_an_hour(store: Store) -> None:
    """With the keys, and only where there is one."""
    one, two = Instance(store, "a"), Instance(store, "b")
    await one.ring.look()
    assert one.told == []
    for _ in range(3):
        await two.ring.look()
    assert two.told == [KeysDiffer(own="b", others="a")]
    one.now = two.now = two.now + 3601
    await one.ring.look()
    await two.ring.look()
    assert two.told == 2 * [KeysDiffer(own="b", others="a")]


async def test_a_key_stays_as_long_as_its_last_token_and_is_forgotten_then(store: Store) -> None:
    """An instance that has gone took its key with it, but not what it signed."""
    gone, stays = Instance(store, "a", ttl_s=60), Instance(store, "b", ttl_s=60)
    await gone.ring.look()
    stays.now += 60 + 300
    await stays.ring.look()
    assert stays.kids == ["b", "a"]
    stays.now += 700
    await stays.ring.look()
    assert stays.kids == ["b"]
    assert await store.execute(store.names.jwks(), "HKEYS", store.names.jwks()) == [b"b"]
    assert 0 < await store.execute(store.names.jwks(), "PTTL", store.names.jwks()) <= 1_000_000


async def test_who_does_not_know_the_secret_publishes_nothing(store: Store) -> None:
    """An entry of another secret, one that is no entry, and one that is sealed and no key."""
    name = store.names.jwks()
    other = Secret("another-secret-another-secret-another", (), urandom)
    ours = Secret(SECRET, (), urandom)
    forged = {"key": {"kid": "evil"}, "until": 9e9}
    entries: dict[str, bytes] = {
        "evil": other.seal(json.dumps(forged)),
        "plain": json.dumps(forged).encode(),
        "empty": b"",
        "strange": ours.seal("[]"),
        "endless": ours.seal(json.dumps({"key": {"kid": "x"}, "until": "never"})),
    }
    for kid, entry in entries.items():
        await store.execute(name, "HSET", name, kid, entry)
    one = Instance(store, "a")
    await one.ring.look()
    assert one.kids == ["a"]
    assert await store.execute(name, "HKEYS", name) == [b"a"]


async def test_a_store_full_of_keys_fills_no_answer(store: Store) -> None:
    """64 of others at most."""
    many = Instance(store, *(f"k{n}" for n in range(200)))
    await many.ring.look()
    one = Instance(store, "a")
    await one.ring.look()
    assert len(one.kids) == 65


def _signing(config: str, tmp_path: Path, name: str) -> str:
    """A configuration with a private key of its own."""
    pem = make("ES256").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / name
    path.write_bytes(pem)
    return config + f'[identity]\nprivate_key = "${{{{file:{path}}}}}"\n'


async def test_an_upstream_that_asks_one_can_check_what_another_signed(start: Start, tmp_path: Path) -> None:
    """Two instances with keys of their own on one store: by either's listeners."""
    one = await start(MAIN, config=_signing(CONFIG, tmp_path, "one.pem"))
    two = await start(MAIN, config=_signing(CONFIG, tmp_path, "two.pem"))
    assert (await two.send()).status == 202
    code = await code_of([one, two], E164)
    assert (await two.register(code)).status == 200
    token = two.upstream.requests[-1].value(b"X-Verified-Identity").decode()
    kid = jwt.get_unverified_header(token)["kid"]
    async with asyncio.timeout(DEADLINE_S):
        while kid not in [key["kid"] for key in await _jwks(one)]:
            await asyncio.sleep(0.05)
    key = jwt.PyJWKSet.from_dict({"keys": await _jwks(one)})[kid]
    assert jwt.decode(token, key, algorithms=["ES256"], audience="upstream")["sub"] == E164
    async with asyncio.timeout(DEADLINE_S):
        while {key["kid"] for key in (await one.admin("/.sidecar/jwks.json")).json["keys"]} != {
            key["kid"] for key in await _jwks(two)
        }:
            await asyncio.sleep(0.05)


async def _jwks(sidecar: Sidecar) -> list[Jwk]:
    return list((await sidecar.ask("GET", "/.sidecar/jwks.json")).json["keys"])
