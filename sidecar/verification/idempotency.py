"""Has this very request been answered before? `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).

One claim per key while its request runs; the answer is kept, a refusal is not, so that a client may try again with a
new captcha. The answer is written in the very step that queues the message (`kept`), so whatever dies, a message that
was queued is not queued again. It holds no recipient: the request that repeats it brings its own.
"""

from typing import Final

from sidecar.errors import Refusal
from sidecar.secret import Secret
from sidecar.store import names
from sidecar.store.client import Store
from sidecar.store.names import Names

# A claim outlives the slowest honest request; an answer, the longest code.
_CLAIM_MS: Final = 60_000
_ANSWER_MS: Final = 3_600_000
_RUNNING: Final = b"running"
# Long enough for any identifier that clients make; longer ones are no keys.
MAX_KEY: Final = 255


class Idempotency:
    """The claims and answers of one store."""

    def __init__(self, store: Store, secret: Secret) -> None:
        self._store = store
        self._names: Names = store.names
        self._secret = secret

    def key(self, route: str, identity: str, client_key: str) -> str:
        """The store key of one client's key: requests are the same when route, recipient's identity and key are."""
        hashed = self._secret.hash(f"{route}\n{identity}\n{client_key}")
        return self._names.idempotency(names.route(self._secret.hash(identity)) + hashed)

    async def claim(self, key: str) -> bytes | None:
        """Claim the key: None says go on, else it is the answer to give again.

        Raises Refusal(verification_in_use) while the first request still runs, StoreAwayError.
        """
        answered = self._names.answered(key)
        claimed = self._store.execute(key, "SET", key, _RUNNING, "NX", "PX", _CLAIM_MS)
        looked = self._store.execute(answered, "GET", answered)  # travels with the claim; done after it
        is_ours, answer = await claimed, await looked
        if is_ours and answer is None and self._store.is_spread:
            answer = await self._store.execute(answered, "GET", answered)  # another node looked before it was claimed
        if answer is not None:
            if is_ours:
                await self.forget(key)
            return bytes(answer)
        if not is_ours:
            raise Refusal(
                "verification_in_use", "idempotent_request_running", "The first request still runs.", retry_after_s=1
            )
        return None

    def kept(self, key: str, answer: bytes) -> tuple[str, bytes, int]:
        """What is to be written with the message: under which key, what, and for how many milliseconds."""
        return self._names.answered(key), answer, _ANSWER_MS

    async def keep(self, name: str, text: bytes, keep_ms: int) -> None:
        """Write what `kept` gave, where no message is queued. Raises StoreAwayError."""
        await self._store.execute(name, "SET", name, text, "PX", keep_ms)

    async def forget(self, key: str) -> None:
        """Give the claim up: its request is over. Raises StoreAwayError."""
        await self._store.execute(key, "DEL", key)
