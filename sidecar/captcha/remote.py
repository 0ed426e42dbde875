"""How is a vendor asked about a captcha token? A kind's `request`, `outbound.call`, the kind's `read`.

All of it within the table's `timeout`. A vendor that does not answer as documented is a `provider_error`, never an
exception and never a pass. A lost answer is asked for again only where the kind says that this is safe.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from sidecar import outbound
from sidecar.captcha.seam import Verdict

# Less than this is no time to connect and be answered in.
_WORTH_ASKING_S: Final = 0.05


class RemoteKind(Protocol):
    """A kind's module, as `Remote` uses it. Its functions take the module's own `Settings`."""

    @property
    def MAX_TOKEN(self) -> int:  # noqa: N802 - a module's constant
        """Longest token that the vendor gives out, in characters; a longer one is refused unasked."""
        ...

    @property
    def LIFE_S(self) -> float:  # noqa: N802 - a module's constant
        """Seconds for which the vendor takes a token at most."""
        ...

    @property
    def ASK_AGAIN(self) -> bool:  # noqa: N802 - a module's constant
        """True when the same request may be sent twice and is judged once."""
        ...

    @property
    def identify(self) -> Callable[[Any, str], str | Verdict]: ...

    @property
    def request(self) -> Callable[[Any, str, str, float, str], outbound.HttpRequest]: ...

    @property
    def read(self) -> Callable[[Any, outbound.HttpReply], Verdict]: ...


class Remote:
    """One [captcha.NAME] table of a kind over HTTP.

    `now` gives seconds since the epoch; `nonce` gives 32 hex digits, fresh and unguessable at every call.
    """

    def __init__(
        self,
        kind: RemoteKind,
        settings: Any,
        session: outbound.Session,
        now: Callable[[], float],
        nonce: Callable[[], str],
    ) -> None:
        self._kind = kind
        self._settings = settings
        self._session = session
        self._now = now
        self._nonce = nonce
        self.life_s = kind.LIFE_S
        self.is_away = False

    def look(self, token: str) -> str | Verdict:
        """Say what a token is known by; or what is wrong with it, so that no vendor is asked."""
        if not token:
            return Verdict("reject", "empty")
        if len(token) > self._kind.MAX_TOKEN:
            return Verdict("reject", "too_long")
        return self._kind.identify(self._settings, token)

    async def verify(self, token: str, client_ip: str) -> Verdict:
        """Ask the vendor about a token, once as far as the vendor is concerned."""
        request = self._kind.request(self._settings, token, client_ip, self._now(), self._nonce())
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.timeout
        try:
            try:
                reply = await outbound.call(self._session, request, self._settings.timeout)
            except outbound.NoAnswerError:
                # Mostly a pooled connection that the vendor closed just then; a time-out leaves nothing to try with.
                if not self._kind.ASK_AGAIN or deadline - clock() < _WORTH_ASKING_S:
                    raise
                reply = await outbound.call(self._session, request, deadline - clock())
        except outbound.NeverSentError:
            return Verdict("provider_error", "never_sent")
        except outbound.NoAnswerError:
            return Verdict("provider_error", "no_answer")
        return self._kind.read(self._settings, reply)
