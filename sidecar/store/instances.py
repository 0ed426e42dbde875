"""Who else uses this store? Instances that share one must share `server.secret`, or each refuses the others' codes.

Every instance says every few seconds that it lives, and under which secret. One that starts beside living instances
under a secret that it does not know refuses to start. Never says the secret: only its fingerprint. As it learns the
store's time on the way, it tells when that is not ours.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

import structlog

from sidecar.errors import CannotRunError, StoreAwayError
from sidecar.store.client import ReplyError, Store

_SAY_EVERY_S: Final = 5.0
# Three words missed: it is gone.
_GONE_S: Final = 15.0
# Clocks that NTP keeps are apart by less than a tenth of this. Signed fields and vendors' signatures go by ours, codes
# and limits by the store's.
_APART_S: Final = 5.0


class ForeignSecretError(CannotRunError):
    """Living instances on this store have another secret."""


class Instances:
    """Our place among a store's instances: `fingerprint` is ours, `accepted` those that our configuration knows.

    `now` gives seconds since the epoch.
    """

    def __init__(
        self, store: Store, name: str, fingerprint: str, accepted: Collection[str], now: Callable[[], float]
    ) -> None:
        self._store = store
        self._now = now
        self._ahead_s = 0.0  # our clock of the store's, as it was told last
        self._member = f"{fingerprint}:{name}"
        self._accepted = accepted
        self.seen = 1  # how many there were when they were last seen, with us
        self.has_left = False

    async def join(self) -> None:
        """Say that we live, unless strangers do. Raises ForeignSecretError, StoreAwayError."""
        key = self._store.names.instances()
        now_s = int((await self._store.execute(key, "TIME"))[0])
        self._compare_clocks(now_s)
        living = await self._store.execute(key, "ZRANGE", key, f"({now_s - _GONE_S}", "+inf", "BYSCORE")
        if any(member.decode().partition(":")[0] not in self._accepted for member in living):
            raise ForeignSecretError(
                "another instance uses this store under another server.secret; give all of them the same one"
                " (while rotating: the others' in previous_secrets)"
            )
        if self.has_left:
            return
        await self._store.execute(key, "ZADD", key, now_s, self._member)
        self.seen = len({*living, self._member.encode()})
        await self._store.execute(key, "ZREMRANGEBYSCORE", key, "-inf", now_s - _GONE_S)

    async def stay(self) -> None:
        """Go on saying it, until we have left."""
        while not self.has_left:
            await asyncio.sleep(_SAY_EVERY_S)
            try:
                await self.join()
            except StoreAwayError:
                continue
            except ForeignSecretError as error:
                if not self.has_left:
                    structlog.get_logger().error("foreign_secret", error=str(error))

    def _compare_clocks(self, now_s: int) -> None:
        """Tell when our clock and the store's come to differ, come to differ by more or less, or agree again."""
        ahead_s = self._now() - now_s
        if abs(ahead_s) < (_APART_S / 2 if self._ahead_s else _APART_S):
            ahead_s = 0.0
        if abs(ahead_s - self._ahead_s) < _APART_S:
            return
        self._ahead_s = ahead_s
        if ahead_s:
            structlog.get_logger().warning("clocks_differ", ahead_s=round(ahead_s))
        else:
            structlog.get_logger().info("clocks_agree")

    async def leave(self) -> None:
        """Say that we go, and nothing more."""
        self.has_left = True
        with suppress(StoreAwayError, ReplyError):
            await self._store.execute(
                self._store.names.instances(), "ZREM", self._store.names.instances(), self._member
            )
