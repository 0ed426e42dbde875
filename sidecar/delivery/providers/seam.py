"""What a provider kind is. Pure.

A kind over HTTP is a pure module with `CHANNELS`, `Settings`, `request(...)` and `read(...)`; `remote.Remote` puts
`outbound.call` between the two. A kind without HTTP has, instead of the two functions, `opened(settings)`: an async
context manager that gives a `Provider`, and closes it.
A kind whose vendor reports what became of a message has `receipts(fields, body)` and `RECEIPT_REPLY`; one whose vendor
does not says `RECEIPTS = None`. A vendor that signs its receipts has `receipt_signature_ok(...)`.
The kind's file name is its TOML `kind` (`-` written as `_`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import AfterValidator, Field

from sidecar.config.model import called
from sidecar.config.units import NonEmpty
from sidecar.recipient import Channel, Recipient

# Where a vendor is asked: http or https, no spaces, nothing after the path.
Endpoint = Annotated[NonEmpty, Field(pattern=r"^https?://[^\s/?#]+[^\s?#]*$"), AfterValidator(called)]
# A key or a token: never shown when settings are printed.
Credential = Annotated[NonEmpty, Field(repr=False)]


@dataclass(slots=True)  # not frozen: it is made for every message
class Message:
    """One code for one recipient. `code` and `text` live in memory only."""

    # The same over every attempt at this message, on whatever provider and after whatever crash, so that a receiver can
    # tell a repeat. Another one when the user asks again, for the same code even.
    id: str
    recipient: Recipient
    locale: str  # as `language.read` makes it
    code: str
    minutes: int  # what is left of the code's lifetime, rounded down, 1 at least
    text: str  # the whole text, for kinds that carry text
    # Where a vendor that takes an address with each message shall report to, its end naming this one; None: nowhere.
    callback_url: str | None = None

    def __repr__(self) -> str:
        return f"Message({self.id}, {self.recipient!r})"


# Why a vendor refused, in our words, and whether another provider may try.
Fault = Literal[
    "credentials",  # keys, rights, source address
    "request",  # template, signature, parameter, content; and every refusal whose word we do not know
    "number_invalid",  # no provider can send to it
    "number_unsupported",  # this provider, account or template cannot
    "number_blocked",  # opted out or blacklisted
    "number_frequency",  # the vendor's own per-number limit: an answer, not a fault
    "throttled",  # account or provider limit
    "balance",  # out of money
    "unreachable",  # surely never sent: no connection, or the server takes nothing now
]
TRY_NEXT: Final = frozenset({"credentials", "request", "number_unsupported", "throttled", "balance", "unreachable"})
# Refusals that pass by themselves: the same provider may take the same message a little later.
PASSING: Final = frozenset({"throttled", "unreachable"})

# Why a verification failed, as the API tells it (contract section 4).
FailureReason = Literal[
    "recipient_invalid", "recipient_unsupported", "recipient_blocked", "recipient_limited", "provider", "no_provider"
]


@dataclass(slots=True)  # not frozen: it is made for every message
class Accepted:
    """The vendor took the message: it said its success word and gave the id that receipts will carry."""

    provider_message_id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The vendor said no, or was never reached: surely nothing was sent. `vendor_code` is its own word, for the log.

    `retry_after_s`: after how many seconds the vendor itself says that it may be asked again; None: it does not say.
    `deferred`: it said "later" of a refusal that would not pass by its fault alone, as a mail server that greylists.
    Two refusals that differ in this only are equal.
    """

    fault: Fault
    vendor_code: str
    retry_after_s: float | None = None
    deferred: bool = field(default=False, compare=False)

    @property
    def may_try_next(self) -> bool:
        """True when another provider may take the message."""
        return self.fault in TRY_NEXT

    @property
    def is_passing(self) -> bool:
        """True when this provider may take the message a little later."""
        return self.deferred or self.fault in PASSING


@dataclass(frozen=True, slots=True)
class Uncertain:
    """No answer, or one that says nothing usable: the message may be on its way. Not a failure."""

    reason: str


Outcome = Accepted | Rejected | Uncertain

# What became of a message, after SMPP 3.4 section 5.2.28. "unknown": the vendor used a word that we do not know.
ReceiptState = Literal["enroute", "delivered", "expired", "undeliverable", "rejected", "unknown"]
# Those that say the message will not arrive.
LOST: Final[frozenset[ReceiptState]] = frozenset({"expired", "undeliverable", "rejected"})


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a vendor says became of one message. It may come late, twice, out of order, or be forged."""

    provider_message_id: str  # as in Accepted
    recipient: str | None = field(repr=False)  # digits, as this vendor writes them: some leave the country code out
    state: ReceiptState
    vendor_code: str  # the vendor's own word
    client_ref: str | None  # `Message.id`, where the vendor gives it back


@dataclass(frozen=True, slots=True)
class ReceiptReply:
    """What a vendor wants to hear, or it sends the same receipts again. `json` None: an empty body."""

    status: int
    json: Mapping[str, Any] | None


def failure_reason(refusals: Collection[Rejected]) -> FailureReason:
    """Say in the API's words why nobody sent a message that each of `refusals` refused.

    What one provider says of the number outweighs the troubles of others. That a number is not served outweighs them
    only where all say so: without its trouble, another provider might have served it.
    """
    faults = {refusal.fault for refusal in refusals}
    told: tuple[tuple[Fault, FailureReason], ...] = (
        ("number_invalid", "recipient_invalid"),
        ("number_blocked", "recipient_blocked"),
        ("number_frequency", "recipient_limited"),
    )
    for fault, reason in told:
        if fault in faults:
            return reason
    if faults == {"number_unsupported"}:
        return "recipient_unsupported"
    return "provider" if faults else "no_provider"


class Provider(Protocol):
    """One [providers.NAME] table at work."""

    @property
    def channels(self) -> Collection[Channel]:
        """What it can carry."""
        ...

    async def send(self, message: Message, timeout_s: float) -> Outcome:
        """Try once, within `timeout_s` seconds. Never raises for a vendor's fault."""
        ...
