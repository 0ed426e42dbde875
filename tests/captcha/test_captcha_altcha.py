"""The built-in proof of work: solved it passes, once, in its time, and nothing else does."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import altcha as library
import pytest
from fakes import Calm
from hypothesis import given
from hypothesis import strategies as st

from sidecar.captcha.altcha import MAX_TOKEN, Altcha, Settings, built_in
from sidecar.captcha.seam import Verdict

SECRET = b"0123456789abcdef"
# Cheap work: what is held here does not depend on how much of it there is.
QUICK = Settings(kind="altcha", cost=2, max_counter=20)


def make(
    now: Callable[[], float] = time.time,
    secret: bytes = SECRET,
    settings: Settings = QUICK,
    randbelow: Callable[[int], int] = lambda n: n - 1,
) -> Altcha:
    return built_in(settings, secret, now, randbelow, lambda _usual: Calm())


def fresh(captcha: Altcha) -> dict[str, Any]:
    return captcha.challenge(asyncio.run(captcha.due("203.0.113.8")))


def judged(captcha: Altcha, token: str) -> Verdict:
    """What a token that nobody has claimed comes to."""
    found = captcha.look(token)
    return found if isinstance(found, Verdict) else asyncio.run(captcha.verify(token, "203.0.113.7"))


def solve(challenge: dict[str, Any]) -> dict[str, Any]:
    made = library.Challenge.from_dict(challenge)
    solution = library.solve_challenge(made)
    assert solution is not None
    return library.Payload(made, solution).to_dict()


def encode(payload: Any) -> str:
    return base64.b64encode(json.dumps(payload).encode()).decode()


def test_a_solved_challenge_passes() -> None:
    captcha = make()
    assert judged(captcha, encode(solve(fresh(captcha)))) == Verdict("pass")


def test_every_spelling_of_a_token_is_known_by_one_name() -> None:
    """Base64 and JSON can be written in many ways; the signature cannot, so what is claimed is claimed in all."""
    captcha = make()
    payload = solve(fresh(captcha))
    known_by = captcha.look(encode(payload))
    payload["solution"]["counter"] += 1
    payload["more"] = "x"
    loose = base64.b64encode(json.dumps(payload, indent=3).encode()).decode()
    assert captcha.look(f"{loose[:8]}\n{loose[8:]}") == known_by
    assert isinstance(known_by, str)
    assert captcha.look(encode(solve(fresh(captcha)))) != known_by


def test_a_challenge_works_until_it_expires_and_its_claim_lives_for_longer() -> None:
    """Exactly its ttl on our clock, and what is claimed stays so while any host's clock still takes it."""
    start = float(int(time.time()))
    token = encode(solve(fresh(make(lambda: start))))
    assert judged(make(lambda: start + 600), token) == Verdict("spent", "expired")
    assert judged(make(lambda: start + 599), token) == Verdict("pass")
    behind = make(lambda: start - 60)
    assert judged(behind, token) == Verdict("pass")
    assert behind.life_s >= 600 + 60 + 60


def test_a_challenge_that_would_outlive_its_claim_is_refused() -> None:
    """One that was made before the configuration made their life shorter."""
    long = make(settings=Settings(kind="altcha", cost=2, max_counter=20, ttl=3600.0))
    assert judged(make(), encode(solve(fresh(long)))) == Verdict("reject", "too_young")


def test_a_challenge_of_another_secret_is_refused() -> None:
    token = encode(solve(fresh(make(secret=b"another-secret-x"))))
    assert judged(make(), token) == Verdict("reject", "signature")


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
        (lambda p: p["challenge"]["parameters"].pop("data"), "signature"),
        (lambda p: p["challenge"]["parameters"]["data"].update(most=10**6), "signature"),
        (lambda p: p["challenge"]["parameters"]["data"].update(by="hash of 203.0.113.7"), "signature"),
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
def test_a_changed_token_is_refused(change: Callable[[Any], Any], reason: str) -> None:
    captcha = make()
    payload = solve(fresh(captcha))
    change(payload)
    assert judged(captcha, encode(payload)) == Verdict("reject", reason)


def test_an_unsolved_challenge_does_not_pass_whatever_counter_is_claimed() -> None:
    captcha = make()
    for counter in range(25):
        claimed = {"challenge": fresh(captcha), "solution": {"counter": counter, "derivedKey": "ab" * 32}}
        assert judged(captcha, encode(claimed)) == Verdict("reject", "solution")


@given(token=st.text(max_size=200) | st.binary(max_size=200).map(lambda b: base64.b64encode(b).decode()))
def test_garbage_is_refused(token: str) -> None:
    assert judged(make(), token).outcome == "reject"


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
def test_json_of_any_other_shape_is_refused(payload: Any) -> None:
    assert judged(make(), encode(payload)).outcome in {"reject", "spent"}


def test_a_token_is_bounded_and_a_real_one_is_far_below_the_bound() -> None:
    captcha = make()
    payload = solve(fresh(captcha))
    assert len(encode(payload)) < MAX_TOKEN / 8
    payload["padding"] = "x" * MAX_TOKEN
    assert judged(captcha, encode(payload)) == Verdict("reject", "too_long")


def test_a_deeply_nested_token_is_refused() -> None:
    token = base64.b64encode(b"[" * (MAX_TOKEN // 2)).decode()
    assert judged(make(), token[:MAX_TOKEN]).outcome == "reject"


def test_a_challenge_tells_what_the_widget_needs_and_no_secret() -> None:
    challenge = fresh(make(now=lambda: 1772600767.9))
    assert set(challenge) == {"parameters", "signature"}
    parameters = challenge["parameters"]
    assert set(parameters) == {
        *("algorithm", "cost", "data", "expiresAt", "keyLength", "keyPrefix", "keySignature", "nonce", "salt"),
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

    challenge = fresh(make(randbelow=randbelow))
    assert asked == [QUICK.max_counter]
    assert solve(challenge)["solution"]["counter"] == 7


def test_no_two_challenges_are_alike() -> None:
    captcha = make()
    assert len({fresh(captcha)["signature"] for _ in range(50)}) == 50


def test_verifying_costs_no_key_derivation() -> None:
    """With a derivation that would take minutes, a wrong solution is refused at once."""
    slow = make(settings=Settings(kind="altcha", cost=100_000, max_counter=1))
    challenge = fresh(slow)
    claimed = encode({"challenge": challenge, "solution": {"counter": 0, "derivedKey": "ab" * 32}})
    started = time.process_time()
    for _ in range(50):
        assert slow.look(claimed) == Verdict("reject", "solution")
    fifty = time.process_time() - started
    started = time.process_time()
    fresh(slow)
    assert fifty < 10 * (time.process_time() - started)
