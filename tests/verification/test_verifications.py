"""sidecar/verification/: the scripts and what they are asked, on a real Valkey."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from couriers import uncounted
from structlog.testing import capture_logs

from sidecar import logs
from sidecar.config.model import CodeRules
from sidecar.config.units import Rate
from sidecar.errors import Refusal
from sidecar.recipient import Recipient, parse
from sidecar.secret import Secret
from sidecar.store.client import Store
from sidecar.verification import verifications as module
from sidecar.verification.verifications import Hold, Proof, Verifications

PHONE = parse("+8613900000001", "sms", "CN")
OTHER = parse("+8613900000002", "sms", "CN")
TEST_NUMBER = parse("+8613800000000", "sms", "CN")


def make(store: Store, secret: Secret | None = None, hold_s: float = 30, **rules: object) -> Verifications:
    return Verifications(
        store,
        secret or Secret("s" * 32, (), os.urandom),
        CodeRules.model_validate(rules),
        {TEST_NUMBER.address: "246810"},
        os.urandom,
        hold_s,
        logs.write,
    )


def code_of(verifications: Verifications, verification_id: str) -> str:
    code = verifications.code(verification_id, PHONE)
    assert code is not None
    return code


def wrong(code: str) -> str:
    return code[:-1] + str((int(code[-1]) + 1) % 10)


async def outcome(verifications: Verifications, proof: Proof, recipient: object = PHONE) -> str:
    """One try whose request upstream liked."""
    try:
        async with await verifications.hold(recipient, proof, uncounted) as hold:  # type: ignore[arg-type]
            await hold.spend()
    except Refusal as refusal:
        left = refusal.extra.get("attempts_left")
        return refusal.code if left is None else f"{refusal.code} {left}"
    return "spent"


async def test_a_right_code_works_once(store: Store) -> None:
    """Spent is expired."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    proof = Proof("code", code_of(verifications, issued.id))
    assert await outcome(verifications, proof) == "spent"
    assert await outcome(verifications, proof) == "code_expired"
    record = await verifications.read(issued.id)
    assert record is not None
    assert record.status == "verified"


async def test_forty_right_answers_at_once_give_one_success(store: Store) -> None:
    """One holder at a time, and what it spends is spent for all."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    proof = Proof("code", code_of(verifications, issued.id))
    found = Counter(await asyncio.gather(*(outcome(verifications, proof) for _ in range(40))))
    assert found["spent"] == 1
    assert set(found) <= {"spent", "verification_in_use", "code_expired"}


async def test_forty_wrong_answers_at_once_count_every_one(store: Store) -> None:
    """No race buys a sixth try: 422 with 4 to 0 tries left, once each, then 429, for the right code too."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    code = code_of(verifications, issued.id)
    found = Counter(await asyncio.gather(*(outcome(verifications, Proof("code", wrong(code))) for _ in range(40))))
    assert found == {f"code_mismatch {left}": 1 for left in range(5)} | {"too_many_attempts": 35}
    assert await outcome(verifications, Proof("code", code)) == "too_many_attempts"


async def test_a_dead_code_is_not_judged_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once found dead, tries at it are neither counted nor looked at; the next code is. So many are remembered."""
    monkeypatch.setattr(module, "_MOST_DEAD", 1)
    verifications = make(store)
    counted = []

    async def count(recipient: Recipient, is_right: bool) -> Callable[[], None]:
        counted.append(is_right)
        return await uncounted(recipient, is_right)

    async def guessed(recipient: Recipient, code: str) -> str:
        with pytest.raises(Refusal) as refused:
            await verifications.hold(recipient, Proof("code", code), count)
        return refused.value.code

    for recipient in (PHONE, OTHER, PHONE):
        issued = await verifications.issue(recipient, 0)
        assert issued.fresh
        code = verifications.code(issued.id, recipient)
        assert code is not None
        found = [await guessed(recipient, wrong(code)) for _ in range(5 + 1)]
        assert found == ["code_mismatch"] * 5 + ["too_many_attempts"]
        counted.clear()
        assert [await guessed(recipient, shown) for shown in (wrong(code), code)] == ["too_many_attempts"] * 2
        assert not counted
    assert len(verifications._dead) == 1


async def test_a_held_code_is_in_use_and_a_released_one_is_free(store: Store) -> None:
    """Upstream said no: the same code works again, and nobody else could use it meanwhile."""
    verifications = make(store)
    proof = Proof("code", code_of(verifications, (await verifications.issue(PHONE, 0)).id))
    async with await verifications.hold(PHONE, proof, uncounted):
        assert await outcome(verifications, proof) == "verification_in_use"
        assert await outcome(verifications, Proof("code", wrong(str(proof.shown)))) == "verification_in_use"
    assert await outcome(verifications, proof) == "spent"


async def test_a_crash_inside_the_hold_releases_it(store: Store) -> None:
    """A client that leaves, or any fault, gives the code back."""
    verifications = make(store)
    proof = Proof("code", code_of(verifications, (await verifications.issue(PHONE, 0)).id))
    with pytest.raises(asyncio.CancelledError):
        async with await verifications.hold(PHONE, proof, uncounted):
            raise asyncio.CancelledError
    assert await outcome(verifications, proof) == "spent"


async def test_a_release_that_the_store_does_not_take_is_told_and_breaks_nothing() -> None:
    """The answer has been given by then, so it stands; the log says which verification is held until it lapses."""
    away = make(Store("unix:///nowhere/at/all.sock"))
    with capture_logs() as lines:
        async with Hold(away, "some-id", "a-hash", "somebody", 30):
            pass
    assert [(line["event"], line["verification_id"]) for line in lines] == [("release_failed", "some-id")]


async def test_a_hold_that_lapsed_cannot_settle_the_next_ones(store: Store) -> None:
    """A process that slept through its hold neither spends nor releases what another holds now."""
    verifications = make(store, hold_s=0)
    proof = Proof("code", code_of(verifications, (await verifications.issue(PHONE, 0)).id))
    async with (
        await verifications.hold(PHONE, proof, uncounted) as first,
        await verifications.hold(PHONE, proof, uncounted) as second,
    ):
        await first.release()
        with pytest.raises(Refusal, match="code_expired"):
            await first.exchange()
        await second.spend()
    assert await outcome(verifications, proof) == "code_expired"


async def test_the_same_code_until_it_is_spent_killed_or_expired(store: Store) -> None:
    """`resend = "same"`: a late first message still works."""
    verifications = make(store)
    first = await verifications.issue(PHONE, 0)
    again = await verifications.issue(PHONE, 0)
    assert (again.id, again.fresh) == (first.id, False)
    assert await outcome(verifications, Proof("code", code_of(verifications, first.id))) == "spent"
    assert (await verifications.issue(PHONE, 0)).id != first.id


async def age(store: Store, verification_id: str, seconds: float) -> None:
    """Make a verification older."""
    key = store.names.verification(verification_id)
    for field in ("made", "expires"):
        await store.execute(key, "HINCRBY", key, field, -int(seconds * 1000))
    await store.execute(key, "PEXPIRE", key, int(await store.execute(key, "PTTL", key)) - int(seconds * 1000))


@pytest.mark.parametrize(
    ("ttl", "asked_at", "left"),
    [
        ("5m", (149,), 151),
        ("5m", (151,), 300),
        ("5m", (299.5,), 300),
        ("5m", (200, 420), 180),
        ("5m", (200, 420, 539), 61),
        ("10m", (299,), 301),
        ("10m", (400,), 200),
        ("10m", (530,), 70),
        ("20s", (11,), 20),
        ("20s", (11, 22, 33), 20),
    ],
)
async def test_a_code_that_is_sent_again_has_time_to_arrive(
    store: Store, ttl: str, asked_at: tuple[float, ...], left: float
) -> None:
    """Less than half of its life left: a whole one again, but never more than ten minutes after it was made."""
    verifications = make(store, ttl=ttl)
    first = await verifications.issue(PHONE, 0)
    before = 0.0
    for at in asked_at:
        await age(store, first.id, at - before)
        before = at
        again = await verifications.issue(PHONE, 0)
        assert (again.id, again.fresh) == (first.id, False)
    assert left - 1 < again.expires_in_s <= left
    record = await verifications.read(first.id)
    assert record is not None
    assert left - 1 < record.expires_in_s <= left, "it is said alike everywhere"
    current = store.names.current(Secret("s" * 32, (), os.urandom).hash(PHONE.address))
    assert left * 1000 - 1000 < await store.execute(current, "PTTL", current) <= left * 1000
    readable = await store.execute(store.names.verification(first.id), "PTTL", store.names.verification(first.id))
    assert readable > left * 1000 + 500_000, "long enough to say that it has expired"
    assert await outcome(verifications, Proof("code", code_of(verifications, first.id))) == "spent"


@pytest.mark.parametrize(("ttl", "asked_at"), [("10m", (541,)), ("5m", (200, 420, 541)), ("10m", (599.5,))])
async def test_a_code_that_would_be_dead_on_arrival_is_replaced(
    store: Store, ttl: str, asked_at: tuple[float, ...]
) -> None:
    """Ten minutes are nearly over: the next message has a new code with a whole life, and the old one is dead."""
    verifications = make(store, ttl=ttl)
    first = await verifications.issue(PHONE, 0)
    before = 0.0
    for at in asked_at:
        await age(store, first.id, at - before)
        before = at
        again = await verifications.issue(PHONE, 0)
    assert again.fresh
    assert again.id != first.id
    assert again.expires_in_s == {"5m": 300, "10m": 600}[ttl]
    with pytest.raises(Refusal, match="code_expired"):
        async with await verifications.hold_by_id(first.id, code_of(verifications, first.id), uncounted):
            pass


async def test_wrong_tries_are_not_forgotten_with_a_longer_life(store: Store) -> None:
    """A code's new life has no new tries."""
    verifications = make(store)
    first = await verifications.issue(PHONE, 0)
    code = code_of(verifications, first.id)
    assert await outcome(verifications, Proof("code", wrong(code))) == "code_mismatch 4"
    await age(store, first.id, 299)
    await verifications.issue(PHONE, 0)
    assert await outcome(verifications, Proof("code", wrong(code))) == "code_mismatch 3"


async def test_rotate_kills_the_code_before(store: Store) -> None:
    """`resend = "rotate"`: only the newest code is good."""
    verifications = make(store, resend="rotate")
    first = await verifications.issue(PHONE, 0)
    second = await verifications.issue(PHONE, 0)
    assert second.id != first.id
    assert await outcome(verifications, Proof("code", code_of(verifications, second.id))) == "spent"
    with pytest.raises(Refusal, match="code_expired"):
        async with await verifications.hold_by_id(first.id, code_of(verifications, first.id), uncounted):
            pass


async def test_an_expired_code_is_expired(store: Store) -> None:
    """Time is the store's; a code whose time is over is refused and its record still says so."""
    verifications = make(store, ttl="50ms")
    issued = await verifications.issue(PHONE, 0)
    async with asyncio.timeout(30):
        while (record := await verifications.read(issued.id)) and record.status != "expired":
            await asyncio.sleep(0)
    assert record is not None
    with pytest.raises(Refusal, match="code_expired"):
        async with await verifications.hold_by_id(issued.id, code_of(verifications, issued.id), uncounted):
            pass
    assert await outcome(verifications, Proof("code", code_of(verifications, issued.id))) == "code_expired"


async def test_the_code_of_another_number_is_no_proof(store: Store) -> None:
    """A verification proves the recipient that it was made for."""
    verifications = make(store)
    mine = await verifications.issue(PHONE, 0)
    await verifications.issue(OTHER, 0)
    assert await outcome(verifications, Proof("code", code_of(verifications, mine.id)), OTHER) == "code_mismatch 4"
    async with await verifications.hold_by_id(mine.id, code_of(verifications, mine.id), uncounted) as hold:
        token = await hold.exchange()
    assert await outcome(verifications, Proof("token", token), OTHER) == "code_expired"
    assert await outcome(verifications, Proof("token", token)) == "spent"
    assert await outcome(verifications, Proof("token", token)) == "code_expired"


async def test_a_held_token_is_in_use(store: Store) -> None:
    """Who comes while another request holds it hears that it is in use, not that it is over: it may be free soon."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    async with await verifications.hold(PHONE, Proof("code", code_of(verifications, issued.id)), uncounted) as hold:
        proof = Proof("token", await hold.exchange())
    async with await verifications.hold(PHONE, proof, uncounted):
        assert await outcome(verifications, proof) == "verification_in_use"
    assert await outcome(verifications, proof) == "spent"


async def test_a_token_needs_the_exchange(store: Store) -> None:
    """Knowing how a token is made is not enough: the code must have been checked, and is spent by it."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    token = verifications.token(issued.id)
    assert await outcome(verifications, Proof("token", token)) == "code_expired"
    code = code_of(verifications, issued.id)
    async with await verifications.hold_by_id(issued.id, code, uncounted) as hold:
        assert await hold.exchange() == token
    assert await outcome(verifications, Proof("code", code)) == "code_expired"
    assert await outcome(verifications, Proof("token", token)) == "spent"


async def test_a_code_survives_the_rotation_of_the_secret(store: Store) -> None:
    """`previous_secrets`: what was sent before the rotation is checked after it."""
    before = make(store, Secret("s" * 32, (), os.urandom))
    code = code_of(before, (await before.issue(PHONE, 0)).id)
    after = make(store, Secret("t" * 32, ("s" * 32,), os.urandom))
    assert await outcome(after, Proof("code", code)) == "spent"


async def test_a_test_number_has_its_fixed_code(store: Store) -> None:
    """`numbers.test`: the code that stands there, and wrong ones count."""
    verifications = make(store)
    await verifications.issue(TEST_NUMBER, 0)
    assert await outcome(verifications, Proof("code", "000000"), TEST_NUMBER) == "code_mismatch 4"
    assert await outcome(verifications, Proof("code", "246810"), TEST_NUMBER) == "spent"


async def test_spellings_of_a_mailbox_are_one(store: Store) -> None:
    """The code that was sent to Foo@ is foo@'s, and one living code is all that they have."""
    verifications = make(store)
    typed, folded = parse("Foo@mail.example", "email", "CN"), parse("foo@MAIL.example", "email", "CN")
    issued = await verifications.issue(typed, 0)
    assert (await verifications.issue(folded, 0)).id == issued.id
    code = verifications.code(issued.id, typed)
    assert code is not None
    assert await outcome(verifications, Proof("code", wrong(code)), typed) == "code_mismatch 4"
    assert await outcome(verifications, Proof("code", wrong(code)), folded) == "code_mismatch 3"
    assert await outcome(verifications, Proof("code", code), folded) == "spent"


async def test_a_code_as_it_was_typed_is_still_the_code(store: Store) -> None:
    """A code pasted as it looks on the phone is right, in the API too."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    code = code_of(verifications, issued.id)
    wide = "".join(chr(ord(digit) - ord("0") + ord("０")) for digit in code)
    async with await verifications.hold_by_id(issued.id, f"{wide[:3]}-{wide[3:]}", uncounted):
        pass
    assert await outcome(verifications, Proof("code", f"\u200e{wide[:3]}\u00a0{wide[3:]}\n")) == "spent"


async def test_what_cannot_be_a_code_costs_no_try_and_tells_nothing(store: Store) -> None:
    """Whatever there is or is not, it is answered alike, and no try is counted."""
    verifications = make(store)
    mistyped = ("12345", "1234567", "123 45a", "x" * 60_000, 10**7, -1)
    for before in (lambda: asyncio.sleep(0), lambda: verifications.issue(PHONE, 0)):
        await before()
        for shown in mistyped:
            assert await outcome(verifications, Proof("code", shown)) == "code_mismatch"
    issued = await verifications.issue(PHONE, 0)
    for shown in mistyped:
        for verification_id in (issued.id, "no-id"):
            with pytest.raises(Refusal) as refused:
                async with await verifications.hold_by_id(verification_id, shown, uncounted):
                    pass
            assert refused.value.code == "code_mismatch"
            assert not refused.value.extra
    assert (
        await store.execute(store.names.verification(issued.id), "HGET", store.names.verification(issued.id), "wrong")
        == b"0"
    )
    code = code_of(verifications, issued.id)
    assert await outcome(verifications, Proof("code", wrong(code))) == "code_mismatch 4"


async def test_status_moves_forward_only(store: Store) -> None:
    """A late "sent" does not hide "delivered", and nothing takes "verified" back."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    assert await verifications.mark(issued.id, "sent")
    assert await verifications.mark(issued.id, "delivered")
    assert not await verifications.mark(issued.id, "sent")
    assert not await verifications.mark(issued.id, "failed")
    assert await outcome(verifications, Proof("code", code_of(verifications, issued.id))) == "spent"
    for late in ("sent", "unconfirmed", "delivered", "failed"):
        assert not await verifications.mark(issued.id, late)
    assert not await verifications.mark("A" * 24, "sent")


@pytest.mark.parametrize("news", ["sent", "delivered", "failed", "verified"])
async def test_unconfirmed_message_can_become_anything_by_later_news(store: Store, news: Any) -> None:
    """And is no news itself where a provider has accepted the message."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    assert await verifications.mark(issued.id, "unconfirmed")
    if news == "verified":
        assert await outcome(verifications, Proof("code", code_of(verifications, issued.id))) == "spent"
    else:
        assert await verifications.mark(issued.id, news, "provider" if news == "failed" else "")
    if news != "failed":
        assert not await verifications.mark(issued.id, "unconfirmed")
    record = await verifications.read(issued.id)
    assert record is not None
    assert record.status == news


async def test_reason_of_a_failure_is_kept_until_something_else_happens(store: Store) -> None:
    """Asking again, or a late acceptance, takes it away."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)

    async def reason() -> str:
        record = await verifications.read(issued.id)
        assert record is not None
        return record.reason

    assert await reason() == ""
    await verifications.mark(issued.id, "failed", "recipient_blocked")
    assert not await verifications.mark(issued.id, "failed", "provider")
    assert await reason() == "recipient_blocked"
    await verifications.mark(issued.id, "sent")
    assert await reason() == ""
    await verifications.mark(issued.id, "failed", "provider")
    assert not (await verifications.issue(PHONE, 0)).fresh
    assert await reason() == ""


async def test_failed_stays_failed_when_the_code_has_expired(store: Store) -> None:
    """Whoever asks late is told that the message failed and why; of an unconfirmed one, that the code expired."""
    verifications = make(store)
    failed, unconfirmed = await verifications.issue(PHONE, 0), await verifications.issue(OTHER, 0)
    await verifications.mark(failed.id, "failed", "provider")
    await verifications.mark(unconfirmed.id, "unconfirmed")
    for one in (failed, unconfirmed):
        await store.execute(store.names.verification(one.id), "HSET", store.names.verification(one.id), "expires", 1)
    told = [await verifications.read(one.id) for one in (failed, unconfirmed)]
    assert [(one.status, one.reason, one.came_to) for one in told if one] == [
        ("failed", "provider", "failed"),
        ("expired", "", "unconfirmed"),
    ]


async def test_neither_code_nor_number_is_in_the_store(store: Store) -> None:
    """Whoever reads the store learns neither."""
    verifications = make(store)
    issued = await verifications.issue(PHONE, 0)
    code = code_of(verifications, issued.id)
    await outcome(verifications, Proof("code", wrong(code)))
    dump = b""
    for key in await store.execute(None, "KEYS", f"*{store.names.prefix}*"):
        dump += key
        match await store.execute(key, "TYPE", key):
            case b"hash":
                dump += b"|".join(await store.execute(key, "HGETALL", key))
            case _:
                dump += await store.execute(key, "GET", key)
    assert issued.id.encode() in dump
    assert code.encode() not in dump
    assert b"13900000001" not in dump


def test_failures_are_rates() -> None:
    """The defaults of the contract."""
    assert (CodeRules().failures, CodeRules().failures_per_ip) == (Rate(20, 3600.0), Rate(30, 600.0))
