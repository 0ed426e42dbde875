"""Which keys may a token be signed with? Those of every instance on a store, for an upstream that asks one of them.

Each instance publishes its public keys in the store, sealed under the server secret: whoever may write to the store and
does not know the secret publishes none. A key stays published until the last token that it signed has expired, and
upstreams have had the time to ask again.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from sidecar.errors import StoreAwayError
from sidecar.events import KeysDiffer, Tell
from sidecar.keys import JWKS_MAX_AGE_S
from sidecar.secret import Secret
from sidecar.store.client import ReplyError, Store

# How often the others' keys are read and ours published again.
_LOOK_S: Final = 2.0
# Beyond the life of its last token: clocks that differ, and a store that is away for a while.
_MARGIN_S: Final = 600.0
# More keys than instances have: whatever fills the store with them fills no answer.
_MOST: Final = 64
# It is told again so often.
_TELL_S: Final = 3600.0

Jwk = dict[str, str]


class Keyring:
    """The public keys of all instances on a store. `own` are this one's (JWK, RFC 7517); `now` in epoch seconds."""

    def __init__(
        self,
        store: Store,
        secret: Secret,
        own: Callable[[], Sequence[Jwk]],
        ttl_s: float,
        now: Callable[[], float],
        tell: Tell,
    ) -> None:
        self._store = store
        self._secret = secret
        self._own = own
        self._lasts_s = ttl_s + JWKS_MAX_AGE_S + _MARGIN_S
        self._now = now
        self._tell = tell
        self._others: dict[str, Jwk] = {}
        self._tell_at = 0.0

    def keys(self) -> list[Jwk]:
        """Give this instance's keys, then those of the others that it has read of."""
        own = list(self._own())
        known = {key["kid"] for key in own}
        return own + [key for kid, key in self._others.items() if kid not in known]

    async def look(self) -> None:
        """Publish this instance's keys, and read the others'. Raises StoreAwayError, ReplyError."""
        name, now = self._store.names.jwks(), self._now()
        own = {key["kid"]: key for key in self._own()}
        if not own:  # a symmetric algorithm has nothing to publish
            return
        entries = [word for kid, key in own.items() for word in (kid, self._sealed(key, now + self._lasts_s))]
        await self._store.execute(name, "HSET", name, *entries)
        await self._store.execute(name, "PEXPIRE", name, int(self._lasts_s * 1000))
        found = await self._store.execute(name, "HGETALL", name)
        others: dict[str, Jwk] = {}
        over: list[bytes] = []
        for kid, sealed in zip(found[::2], found[1::2], strict=True):
            key = self._opened(sealed, now)
            if key is None:
                over.append(kid)
            elif key["kid"] not in own and len(others) < _MOST:
                others[key["kid"]] = key
        if over:
            await self._store.execute(name, "HDEL", name, *over)
        self._others = others
        if others and now >= self._tell_at:
            self._tell_at = now + _TELL_S
            self._tell(KeysDiffer(own=", ".join(own), others=", ".join(others)))

    async def run(self) -> None:
        """Go on doing so, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(StoreAwayError, ReplyError):
                await self.look()

    def _sealed(self, key: Jwk, until: float) -> bytes:
        return self._secret.seal(json.dumps({"key": key, "until": until}))

    def _opened(self, sealed: bytes, now: float) -> Jwk | None:
        """The key of an entry; None where it is over, or nobody who knows the secret has written it."""
        try:
            entry: Any = json.loads(self._secret.open(sealed))
            return dict(entry["key"]) if entry["until"] > now else None
        except (ValueError, KeyError, TypeError):
            return None
