"""What a provider kind is. Pure.

A kind over HTTP is a pure module with `Settings`, `request(...)` and `read(...)`, with `outbound.call` between them.
The kind's file name is its TOML `kind` (`-` written as `_`).
"""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from sidecar.recipient import Recipient


@dataclass(frozen=True, slots=True)
class Message:
    """One code for one recipient. `code` and `text` live in memory only."""

    id: str  # the verification's id
    recipient: Recipient
    locale: str  # BCP 47
    code: str
    minutes: int  # the code's lifetime, rounded up
    text: str  # the whole text, for kinds that carry text

    def __repr__(self) -> str:
        return f"Message({self.id}, {self.recipient!r})"


# Why a vendor refused, in our words, and whether another provider may try.
Fault = Literal[
    "credentials",  # keys, rights, source address
    "request",  # template, signature, parameter, content
    "number_invalid",  # no provider can send to it
    "number_unsupported",  # this provider, account or template cannot
    "number_blocked",  # opted out or blacklisted
    "number_frequency",  # the vendor's own per-number limit: an answer, not a fault
    "throttled",  # account or provider limit
    "balance",  # out of money
    "unreachable",  # surely never sent: no connection
]
TRY_NEXT: Final = frozenset({"credentials", "request", "number_unsupported", "throttled", "balance", "unreachable"})


@dataclass(frozen=True, slots=True)
class Accepted:
    """The vendor took the message: it said its success word and gave the id that receipts will carry."""

    provider_message_id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The vendor said no. `vendor_code` is its own word, for the log."""

    fault: Fault
    vendor_code: str

    @property
    def may_try_next(self) -> bool:
        """True when another provider may take the message."""
        return self.fault in TRY_NEXT


@dataclass(frozen=True, slots=True)
class Uncertain:
    """No answer, or one that says nothing usable: the message may be on its way. Not a failure."""

    reason: str


Outcome = Accepted | Rejected | Uncertain


class Provider(Protocol):
    """One [providers.NAME] table at work."""

    async def send(self, message: Message, timeout_s: float) -> Outcome:
        """Try once. Never raises for a vendor's fault."""
        ...
