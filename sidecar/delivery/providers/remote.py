"""How is a vendor handed a message? A kind's `request`, one `outbound.call`, the kind's `read`.

Never asks twice: no vendor's sending is idempotent. "Surely never sent" becomes a rejection that another provider may
follow at once; "no answer" stays unknown.
"""

from collections.abc import Callable, Collection
from typing import Any, Protocol

from sidecar import outbound
from sidecar.delivery.providers.seam import Message, Outcome, Rejected, Uncertain
from sidecar.recipient import Channel


class RemoteKind(Protocol):
    """A kind's module, as `Remote` uses it. Its functions take the module's own `Settings`."""

    @property
    def CHANNELS(self) -> Collection[Channel]:  # noqa: N802 - a module's constant
        """What the vendor can carry."""
        ...

    @property
    def request(self) -> Callable[[Any, Message, float, str], outbound.HttpRequest | Rejected]:
        """What to ask, or why the vendor would refuse: then it is not asked."""
        ...

    @property
    def read(self) -> Callable[[outbound.HttpReply, Message], Outcome]: ...


class Remote:
    """One [providers.NAME] table of a kind over HTTP.

    `now` gives seconds since the epoch; `nonce` gives a text that is fresh at every call.
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

    @property
    def channels(self) -> Collection[Channel]:
        return self._kind.CHANNELS

    async def send(self, message: Message, timeout_s: float) -> Outcome:
        """Try once, within `timeout_s` seconds."""
        request = self._kind.request(self._settings, message, self._now(), self._nonce())
        if isinstance(request, Rejected):
            return request
        try:
            reply = await outbound.call(self._session, request, timeout_s)
        except outbound.NeverSentError as error:
            return Rejected("unreachable", str(error))
        except outbound.NoAnswerError as error:
            return Uncertain(str(error))
        return self._kind.read(reply, message)
