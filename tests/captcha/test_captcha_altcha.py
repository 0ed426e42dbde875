"""The built-in proof of work: solved it passes, once, in its time, and nothing else does."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import altcha as library
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.captcha.altcha import MAX_TOKEN, Altcha, Settings
from sidecar.captcha.seam import Verdict
from sidecar.errors import StoreAwayError
from sidecar.store.client import Store

SECRET = b"0123456789abcdef"
# Cheap work: what is held here does not depend on how much of it there is.
QUICK = Settings(kind="altcha", cost=2, max_counter=20)


@dataclass
class Ledger:
    """What was spent, and for how long it is remembered."""

    spent: dict[str, float] = field(default_factory=dict)

    async def once(self, name: str, ttl_s: float) -> bool:
        if name in self.spent:
            return False
        self.spent[name] = ttl_s
        return True


def make(
    ledger: Ledger | None = None,
    now: Callable[[], float] = time.time,
    secret: bytes = SECRET,
    settings: Settings = QUICK,
    randbelow: Callable[[int], int] = lambda n: n - 1,
) -> Altcha:
    return Altcha(settings, secret, now, randbelow, (ledger or Ledger()).once)


def solve(challenge: dict[str, Any]) -> dict[str, Any]:
    made = library.Challenge.from_dict(challenge)
    solution = library.solve_challenge(made)
    assert solution is not None
    return library.Payload(made, solution).to_dict()


def encode(payload: Any) -> str:
    return base64.b64encode(json.dumps(payload).encode()).decode()


async def test_a_solved_challenge_passes_once() -> None:
    captcha = make()
    token = encode(solve(captcha.challenge()))
    assert await captcha.verify(token, "203.0.113.7") == Verdict("pass")
    assert await captcha.verify(token, "203.0.113.7") == Verdict("spent", "used")


async def test_another_spelling_of_a_spent_token_is_spent_too() -> None:
    """Base64 and JSON can be written in many ways; the signature cannot."""
    captcha = make()
    payload = solve(captcha.challenge())
    assert (await captcha.verify(encode(payload), "")).outcome == "pass"
    payload["solution"]["counter"] += 1
    payload["more"] = "x"
    loose = base64.b64encode(json.dumps(payload, indent=3).encode()).decode()
    assert await captcha.verify(f"{loose[:8]}\n{loose[8:]}", "") == Verdict("spent", "used")


async def test_of_many_at_once_with_one_token_one_passes(store: Store) -> None:
    """With the store, as it is wired: SET NX decides."""

    async def spend_once(name: str, ttl_s: float) -> bool:
        key = store.names.spent("altcha", name)
        return bool(await store.execute(key, "SET", key, 1, "NX", "PX", int(ttl_s * 1000)))

    captcha = Altcha(QUICK, SECRET, time.time, lambda n: n - 1, spend_once)
    token = encode(solve(captcha.challenge()))
    verdicts = await asyncio.gather(*(captcha.verify(token, "") for _ in range(40)))
    assert sorted(verdict.outcome for verdict in verdicts) == ["pass"] + ["spent"] * 39


async def test_a_challenge_works_until_it_expires_and_is_remembered_for_longer() -> None:
    """Exactly its ttl on our clock, and what is spent stays spent while any host's clock still takes it."""
    start = float(int(time.time()))
    ledger = Ledger()
    token = encode(solve(make(ledger, lambda: start).challenge()))
    assert await make(ledger, lambda: start + 600).verify(token, "") == Verdict("spent", "expired")
    assert ledger.spent == {}
    assert await make(ledger, lambda: start + 599).verify(token, "") == Verdict("pass")
    [kept_s] = ledger.spent.values()
    assert kept_s >= 1 + 60


async def test_a_challenge_of_another_secret_is_refused() -> None:
    token = encode(solve(make(secret=b"another-secret-x").challenge()))
    assert await make().verify(token, "") == Verdict("reject", "signature")


def test_a_short_secret_is_refused() -> None:
    """The library signs nothing with an empty one."""
    with pytest.raises(ValueError, match="16 octets"):
        make(secret=b"")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p["challenge"]["parameters"].update(cost=1), "signature"),
        (lambda p: p["challenge"]["parameters"].update(keyPrefix=""), "signature"),
        (lambda p: p["challenge"]["parameters"].update(expiresAt=10**11), "signature"),
        (lambda p: p["challenge"]["parameters"].pop("keySignature"), "signature"),
        (lambda p: p["challenge"]["parameters"].pop("expiresAt"), "unreadable"),
        (lambda p: p["challenge"]["parameters"].update(expiresAt=True), "unreadable"),
        (lambda p: p["challenge"]["parameters"].update(expiresAt=1e11), "unreadable"),
        (lambda p: p["challenge"].update(signature=""), "signature"),
        (lambda p: p["challenge"].update(signature=None), "unreadable"),
        (lambda p: p["challenge"].update(signature=["x"]), "unreadable"),
        (lambda p: p["solution"].update(derivedKey="00" * 32), "solution"),
        (lambda p: p["solution"].update(derivedKey=p["challenge"]["parameters"]["keyPrefix"]), "solution"),
        (lambda p: p["solution"].update(derivedKey=1), "solution"),
        (lambda p: p.update(challenge=None), "unreadable"),
        (lambda p: p.pop("solution"), "unreadable"),
    ],
)
async def test_a_changed_token_is_refused_and_spends_nothing(change: Callable[[Any], Any], reason: str) -> None:
    ledger = Ledger()
    captcha = make(ledger)
    payload = solve(captcha.challenge())
    change(payload)
    assert await captcha.verify(encode(payload), "") == Verdict("reject", reason)
    assert ledger.spent == {}


async def test_an_unsolved_challenge_does_not_pass_whatever_counter_is_claimed() -> None:
    captcha = make()
    for counter in range(25):
        claimed = {"challenge": captcha.challenge(), "solution": {"counter": counter, "derivedKey": "ab" * 32}}
        assert await captcha.verify(encode(claimed), "") == Verdict("reject", "solution")


@given(token=st.text(max_size=200) | st.binary(max_size=200).map(lambda b: base64.b64encode(b).decode()))
async def test_garbage_is_refused(token: str) -> None:
    assert (await make().verify(token, "")).outcome == "reject"


MEMBERS = (
    *("challenge", "parameters", "signature", "solution", "counter", "derivedKey", "algorithm"),
    *("nonce", "salt", "cost", "expiresAt", "keySignature", "__proto__"),
)


@given(
    payload=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(MEMBERS),
                inner,
                max_size=8,
            )
        ),
        max_leaves=20,
    )
)
async def test_json_of_any_other_shape_is_refused(payload: Any) -> None:
    assert (await make().verify(encode(payload), "")).outcome in {"reject", "spent"}


async def test_a_token_is_bounded_and_a_real_one_is_far_below_the_bound() -> None:
    captcha = make()
    payload = solve(captcha.challenge())
    assert len(encode(payload)) < MAX_TOKEN / 8
    payload["padding"] = "x" * MAX_TOKEN
    assert await captcha.verify(encode(payload), "") == Verdict("reject", "too_long")


async def test_a_deeply_nested_token_is_refused() -> None:
    token = base64.b64encode(b"[" * (MAX_TOKEN // 2)).decode()
    assert (await make().verify(token[:MAX_TOKEN], "")).outcome == "reject"


async def test_when_nobody_can_say_whether_it_was_spent_nobody_passes() -> None:
    async def away(_name: str, _ttl_s: float) -> bool:
        raise StoreAwayError

    captcha = Altcha(QUICK, SECRET, time.time, lambda n: n - 1, away)
    with pytest.raises(StoreAwayError):
        await captcha.verify(encode(solve(captcha.challenge())), "")


def test_a_challenge_tells_what_the_widget_needs_and_no_secret() -> None:
    challenge = make(now=lambda: 1772600767.9).challenge()
    assert set(challenge) == {"parameters", "signature"}
    parameters = challenge["parameters"]
    assert set(parameters) == {
        *("algorithm", "cost", "expiresAt", "keyLength", "keyPrefix", "keySignature", "nonce", "salt"),
    }
    assert (parameters["algorithm"], parameters["cost"]) == ("PBKDF2/SHA-256", 2)
    assert parameters["expiresAt"] == 1772600767 + 600
    # Half of the key: the other half is the proof.
    assert len(parameters["keyPrefix"]) == parameters["keyLength"]


def test_the_counter_is_drawn_from_all_below_the_maximum() -> None:
    asked: list[int] = []

    def randbelow(n: int) -> int:
        asked.append(n)
        return 7

    challenge = make(randbelow=randbelow).challenge()
    assert asked == [QUICK.max_counter]
    assert solve(challenge)["solution"]["counter"] == 7


def test_no_two_challenges_are_alike() -> None:
    captcha = make()
    assert len({captcha.challenge()["signature"] for _ in range(50)}) == 50


def test_verifying_costs_no_key_derivation() -> None:
    """With a derivation that would take minutes, a wrong solution is refused at once."""
    slow = make(settings=Settings(kind="altcha", cost=100_000, max_counter=1))
    challenge = slow.challenge()
    claimed = encode({"challenge": challenge, "solution": {"counter": 0, "derivedKey": "ab" * 32}})
    started = time.process_time()
    for _ in range(50):
        assert asyncio.run(slow.verify(claimed, "")) == Verdict("reject", "solution")
    fifty = time.process_time() - started
    started = time.process_time()
    slow.challenge()
    assert fifty < 10 * (time.process_time() - started)
