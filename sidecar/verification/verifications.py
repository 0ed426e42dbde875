"""Make, hold, settle and look up verifications. The scripts decide; this file names the keys and reads the answers.

Never stores a code or a recipient: the record holds the recipient's keyed hash, and the code is derived (`codes.py`).
"""

import functools
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from sidecar.config.model import CodeRules
from sidecar.errors import Refusal, StoreError
from sidecar.events import ReleaseFailed, Tell
from sidecar.recipient import Recipient, of_address
from sidecar.secret import Secret, b64url
from sidecar.store.client import Script, Store
from sidecar.verification import codes
from sidecar.verification.states import MAY_FOLLOW, Status

_HERE: Final = Path(__file__).parent
_ISSUE: Final = Script.load(_HERE / "issue.lua")
_CHECK: Final = Script.load(_HERE / "check.lua")
_SETTLE: Final = Script.load(_HERE / "settle.lua")
_MARK: Final = Script.load(_HERE / "mark.lua")
# How long a record is readable after its code has died: long enough for a page left open to say "expired".
_READABLE_MS: Final = 600_000
# NIST SP 800-63B-4 section 3.1.3.3: a code lives ten minutes at most, however often it is sent again.
_LONGEST_LIFE_MS: Final = 600_000
# What it takes a slow message to arrive, and a person to type it in.
_WORTH_SENDING_MS: Final = 60_000
# The statuses that each may follow, as mark.lua reads them.
_MAY_FOLLOW: Final = {status: f" {' '.join(others)} " for status, others in MAY_FOLLOW.items()}
# So many dead codes are remembered, some 2 MB; of others the store is asked.
_MOST_DEAD: Final = 16_384


@dataclass(slots=True)  # not frozen: it is made for every send
class Issued:
    """A verification that a message will be sent for. `fresh` is False when the living code goes out again.

    `sealed` is the recipient, as its message may have it, too.
    """

    id: str
    expires_in_s: float
    fresh: bool
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a verification. Times are seconds from now, 0 when past."""

    id: str
    sealed: bytes  # the recipient, as `Verifications.recipient` opens it
    recipient_hash: str  # as it was when issued: `server.secret` may have changed since
    status: Status
    expires_in_s: float
    again_in_s: float
    came_to: Status  # what its messages came to: as `status`, and still there when the code has expired
    reason: str  # why it failed, in the API's words
    is_replaced: bool  # another code took its place before its time was up


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client shows: a code for a recipient, as it was typed, or a token that a right code was exchanged for."""

    kind: Literal["code", "token"]
    shown: str | int

    def __repr__(self) -> str:
        return f"Proof({self.kind})"


# Counts a try at a recipient's code if it is wrong, and refuses right and wrong ones alike after too many wrong ones.
# It is asked before the judgement, so that many tries at once are not many more; what it returns takes the count back,
# for a try that was not judged after all.
Count = Callable[[Recipient, bool], Awaitable[Callable[[], None]]]


class Hold:
    """The one use of a verified proof, while it lasts; left in the end, which releases it unless it was settled.

    `lasts_s`: how many seconds after it was taken the store lets somebody else hold the proof.
    """

    __slots__ = ("_holder", "_open", "_recipient_hash", "_verifications", "id", "lasts_s")

    def __init__(
        self, verifications: "Verifications", verification_id: str, recipient_hash: str, holder: str, lasts_s: float
    ) -> None:
        self.id = verification_id
        self._recipient_hash = recipient_hash
        self.lasts_s = lasts_s
        self._verifications = verifications
        self._holder = holder
        self._open = True

    def spend(self) -> Awaitable[bool]:
        """Use the proof up. Asked at once. Raises StoreAwayError."""
        return self._settle("spend")

    async def exchange(self) -> str:
        """Use the code up for a token. Raises StoreAwayError, and Refusal when the hold had lapsed."""
        if not await self._settle("exchange"):
            raise Refusal("code_expired", "hold_lapsed", "The check took too long. Ask for a new code.")
        return self._verifications.token(self.id)

    async def release(self, *, again: bool = False) -> None:
        """Let the proof be used again; nothing to do once it is settled, but `again`. Raises StoreAwayError."""
        if self._open or again:
            await self._settle("release")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Release it unless it was settled. Never raises: where the store is away, it lapses by itself."""
        if self._open:
            try:
                await self.release()
            except StoreError:
                self._verifications.tell(ReleaseFailed(verification_id=self.id))

    def _settle(self, outcome: str) -> Awaitable[bool]:
        self._open = False
        return self._verifications.settle(self.id, self._recipient_hash, self._holder, outcome)


class Verifications:
    """The verifications of one store. `verified` is told the recipient's hash when a proof is spent or exchanged."""

    def __init__(
        self,
        store: Store,
        secret: Secret,
        rules: CodeRules,
        test_codes: Mapping[str, str],
        urandom: Callable[[int], bytes],
        hold_s: float,
        tell: Tell,
        verified: Callable[[str], object] | None = None,
    ) -> None:
        self.tell = tell
        self._verified = verified
        self._store = store
        self._names = store.names
        self._secret = secret
        self._rules = rules
        self._test_codes = test_codes
        self._urandom = urandom
        self._hold_s = hold_s
        self._issue = _ISSUE.having(
            LIFE=int(rules.ttl * 1000),
            READABLE=_READABLE_MS,
            ATTEMPTS=rules.attempts,
            RESEND=rules.resend,
            LONGEST=_LONGEST_LIFE_MS,
            WORTH_SENDING=_WORTH_SENDING_MS,
        )
        self._check_script = _CHECK.having(HOLD=int(hold_s * 1000), ATTEMPTS=rules.attempts)
        self._settle_script = _SETTLE.having(LIFE=int(rules.ttl * 1000), READABLE=_READABLE_MS)
        # Verifications whose code was killed by wrong tries, the longest dead first. None ever lives again.
        self._dead: dict[str, None] = {}

    def code(self, verification_id: str, recipient: Recipient) -> str | None:
        """The code to send and to expect; None when no accepted secret made the id."""
        fixed = self._test_codes.get(recipient.identity)
        return fixed or codes.code_of(self._secret, verification_id, self._rules.length)

    def token(self, verification_id: str) -> str:
        token = codes.token_of(self._secret, verification_id)
        if token is None:
            raise Refusal("code_expired", "secret_gone", "This code is from before a change here. Ask for a new one.")
        return token

    def issue(self, recipient: Recipient, again_in_s: float) -> Awaitable[Issued]:
        """Make a verification, or find the one whose code still lives (`code.resend`). Raises StoreAwayError.

        `again_in_s` is what `read` will tell of when another message may be asked for.
        """
        recipient_hash = self._secret.hash(recipient.identity)
        new = codes.new_id(self._secret, recipient_hash, self._urandom(codes.RANDOM))
        sealed = self._secret.seal(recipient.address)

        keys = (self._names.current(recipient_hash), self._names.verification(new))
        words = (new, recipient_hash, recipient.channel, sealed, int(again_in_s * 1000))
        return self._store.run(self._issue, keys, words, read=functools.partial(_issued, sealed), lasting=True)

    async def read(self, verification_id: str) -> Record | None:
        """Look one up; None when there is none (any more). Raises StoreAwayError."""
        if not codes.is_ours(self._secret, verification_id):
            return None  # no key is made of it
        key = self._names.verification(verification_id)
        wanted = ("to", "sealed", "status", "reason", "expires", "again", "replaced")
        record, time = self._store.execute(key, "HMGET", key, *wanted), self._store.execute(key, "TIME")
        to, sealed, status, reason, expires, again, replaced = await record
        now_s, now_us = await time
        if to is None:
            return None
        now = int(now_s) + int(now_us) / 1e6
        left_s = int(expires) / 1000 - now
        came_to = cast("Status", status.decode())
        # "Failed" stays true: a message that was tried until its code died has failed in that very moment.
        told: Status = "expired" if left_s <= 0 and came_to not in {"verified", "failed"} else came_to
        return Record(
            id=verification_id,
            sealed=sealed,
            recipient_hash=to.decode(),
            status=told,
            expires_in_s=max(0.0, left_s),
            again_in_s=max(0.0, int(again) / 1000 - now),
            came_to=came_to,
            reason=(reason or b"").decode() if told == "failed" else "",
            is_replaced=replaced is not None,
        )

    def recipient(self, record: Record) -> Recipient:
        """Open whose verification it is. Raises ValueError when no accepted secret sealed it."""
        return of_address(self._secret.open(record.sealed))

    def mark(
        self,
        verification_id: str,
        status: Literal["sent", "unconfirmed", "delivered", "failed"],
        reason: str = "",
        given_back: bool = False,
    ) -> Awaitable[bool]:
        """Move the status as `states.MAY_FOLLOW` allows; says whether it moved. Asked at once. Raises StoreAwayError.

        `reason`: why it failed, in the API's words. `given_back`: what its message had cost is given back, so that
        another may be asked for at once.
        """
        key = self._names.verification(verification_id)
        return self._store.run(_MARK, [key], (status, reason, int(given_back), _MAY_FOLLOW[status]), read=bool)

    async def withdraw(self, issued: Issued) -> None:
        """Undo `issue` when its message could not be queued. Raises StoreAwayError."""
        if issued.fresh:
            key = self._names.verification(issued.id)
            await self._store.execute(key, "DEL", key)

    async def hold_by_id(self, verification_id: str, shown: str | int, count: Count) -> Hold:
        """As `hold`, for the API, which knows the verification and not the recipient."""
        code = self._typed(shown)
        record = await self.read(verification_id)
        if record is None:
            raise Refusal("code_expired", "no_verification", "No such verification, or it is over. Ask for a new code.")
        return await self._judged(verification_id, self.recipient(record), record.recipient_hash, code, count)

    def settle(self, verification_id: str, recipient_hash: str, holder: str, outcome: str) -> Awaitable[bool]:
        """End a hold; only `Hold` calls this. Asked at once. Raises StoreAwayError."""
        if self._verified is not None and outcome != "release":
            self._verified(recipient_hash)  # asked at once: it travels with the settlement
        keys = (self._names.verification(verification_id),)
        is_lasting = outcome != "release"
        return self._store.run(self._settle_script, keys, (holder, outcome), read=bool, lasting=is_lasting)

    def _typed(self, shown: str | int) -> str:
        """Read a code as it was typed.

        Raises Refusal(code_mismatch) for what cannot be one. Nobody is asked whether there is a verification at all, so
        it costs no try, no look into the store, and tells nothing: not the tries that are left, either.
        """
        code = codes.read(shown, self._rules.length)
        if code is None:
            right = f"A code has {self._rules.length} digits. Type them as they stand in the message."
            raise Refusal("code_mismatch", "mistyped", right)
        return code

    async def hold(self, recipient: Recipient, proof: Proof, count: Count) -> Hold:
        """Hold the recipient's verification for one use.

        Raises Refusal: code_expired, code_mismatch, too_many_attempts, verification_in_use, and what `count` raises;
        StoreAwayError.
        """
        recipient_hashes = self._secret.hashes(recipient.identity)
        if proof.kind == "token":
            proven = codes.id_of_token(self._secret, str(proof.shown))
            if proven is None:
                raise Refusal(
                    "code_expired", "token_forged", "The verification token is not one of ours. Verify again."
                )
            for recipient_hash in recipient_hashes:
                try:
                    return await self._check(proven, recipient_hash, "token", True)
                except Refusal as refusal:
                    if refusal.code != "code_expired":
                        raise
            raise Refusal(
                "code_expired",
                "token_spent_or_other_recipient",
                "The verification token has been used, is too old, or is another recipient's. Verify again.",
            )
        code = self._typed(proof.shown)
        looked = []  # at once
        for recipient_hash in recipient_hashes:
            current = self._names.current(recipient_hash)
            looked.append((recipient_hash, self._store.execute(current, "GET", current)))
        for recipient_hash, reply in looked:
            found = await reply
            if found is not None:
                verification_id = found.decode()
                if verification_id in self._dead:  # and not expired, or it would be nobody's current one
                    raise _killed()
                return await self._judged(verification_id, recipient, recipient_hash, code, count)
        raise Refusal("code_expired", "no_verification", "No code is waiting for this recipient. Ask for a new one.")

    async def _judged(
        self, verification_id: str, recipient: Recipient, recipient_hash: str, code: str, count: Count
    ) -> Hold:
        """Hold a verification if a code is its right one; right and wrong ones take the same steps in the store."""
        right = _same(self.code(verification_id, recipient), code)
        give_back = await count(recipient, right)
        try:
            return await self._check(verification_id, recipient_hash, "code", right)
        except Refusal as refusal:
            if refusal.code != "code_mismatch":
                give_back()
            raise

    def _check(self, verification_id: str, recipient_hash: str, kind: str, right: bool) -> Awaitable[Hold]:
        """Hold a verification for one use if its proof is right. Asked at once. Raises as `hold`."""
        holder = b64url(self._urandom(12))
        read = functools.partial(self._checked, verification_id, recipient_hash, holder)
        keys, words = (self._names.verification(verification_id),), (kind, int(right), recipient_hash, holder)
        return self._store.run(self._check_script, keys, words, read=read, lasting=True)

    def _checked(self, verification_id: str, recipient_hash: str, holder: str, answer: Any) -> Hold:
        """Read what check.lua answers."""
        match answer:
            case [b"held"]:
                return Hold(self, verification_id, recipient_hash, holder, self._hold_s)
            case [b"expired"]:
                raise Refusal("code_expired", "spent_or_expired")
            case [b"in_use"]:
                raise Refusal(
                    "verification_in_use", "held", "Another request is using it. Wait a moment.", retry_after_s=1
                )
            case [b"mismatch", left]:
                raise Refusal("code_mismatch", "wrong_code", extra={"attempts_left": left})
            case [b"too_many"]:
                self._dead[verification_id] = None
                if len(self._dead) > _MOST_DEAD:
                    del self._dead[next(iter(self._dead))]
                raise _killed()
            case _:
                raise RuntimeError(f"check.lua answered {answer!r}")


def _issued(sealed: bytes, reply: Sequence[Any]) -> Issued:
    """Read what issue.lua answers."""
    verification_id, life_ms, fresh = reply
    return Issued(verification_id.decode(), life_ms / 1000, bool(fresh), sealed)


def _killed() -> Refusal:
    return Refusal("too_many_attempts", "code_killed", "Too many wrong tries: the code is dead. Ask for a new one.")


def _same(expected: str | None, code: str) -> bool:
    """Compare in constant time."""
    return expected is not None and hmac.compare_digest(expected, code)
