"""Where is a verification in its life? Everything that moves its status is in this table. Pure.

The scripts keep the proof (attempts, hold, spent); this table keeps what people are told. A move that is not listed
does not happen: a late receipt cannot take back "verified", a late "sent" cannot hide "delivered".
"""

from types import MappingProxyType
from typing import Final, Literal

Status = Literal["queued", "sent", "unconfirmed", "delivered", "failed", "verified", "expired"]

# event -> the statuses it may move from. The event's name is the status it moves to.
MAY_FOLLOW: Final = MappingProxyType(
    {
        # Asked for again: another message with the same code is on its way.
        "queued": ("queued", "sent", "unconfirmed", "delivered", "failed"),
        # A provider accepted the message.
        "sent": ("queued", "unconfirmed", "failed"),
        # No provider accepted it, and one may have it: silence is not a failure.
        "unconfirmed": ("queued", "failed"),
        "delivered": ("queued", "sent", "unconfirmed", "failed"),
        # Nothing is left to try, or a receipt says that it did not arrive.
        "failed": ("queued", "sent", "unconfirmed"),
        # The right code came, whatever the messages were doing.
        "verified": ("queued", "sent", "unconfirmed", "delivered", "failed"),
    }
)

# Nothing can follow: who waits for news need not wait on.
FINAL: Final[frozenset[Status]] = frozenset({"verified", "expired"})
