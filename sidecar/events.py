"""What happened? One frozen value for each fact that is told, and told once.

Whoever knows a fact makes its event and hands it to a `Tell`; that hands it to every listener that hears events of its
class: to the log (`logs`) and to the metrics (`metrics`). The law: no listener raises or waits, for what is told has
been done, and must not be done again.

An event's fields are those of its line in the log, in this order; one that is None by default is left out where nobody
sets it. No field ever has a code, a token, a secret or a recipient that is not masked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

_T = TypeVar("_T", bound="Event")


class Event:
    """A fact. `name` is its line's in the log, and `level` how grave it is: "" for what is counted and not logged."""

    __slots__ = ()
    name: ClassVar[str] = ""
    level: ClassVar[Literal["", "info", "warning", "error"]] = ""


Tell = Callable[[Event], None]
# Says what of a listener hears the events of a class; None: it wants to hear none of them.
Hears = Callable[[type[Event]], Callable[[Any], None] | None]


def told_to(*listeners: Hears) -> Tell:
    """Make a `Tell` of listeners. Each is asked once of each class, for a request makes six events."""

    class Hearing(dict[type[Event], Callable[[Any], None]]):
        def __missing__(self, of: type[Event]) -> Callable[[Any], None]:
            all_who_hear = [hear for hears in listeners if (hear := hears(of)) is not None]
            self[of] = all_who_hear[0] if len(all_who_hear) == 1 else _each(all_who_hear)
            return self[of]

    hearing = Hearing()
    return lambda event: hearing[type(event)](event)


def _each(all_who_hear: Sequence[Callable[[Any], None]]) -> Callable[[Any], None]:
    def hear(event: Event) -> None:
        for one in all_who_hear:
            one(event)

    return hear


def _rounded(digits: int) -> Any:
    """Say to how many digits after the point the log has a number."""
    return field(metadata={"digits": digits})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(_rounded,))
def _event(of: type[_T]) -> type[_T]:
    """Make an event's class, frozen for the type checker.

    A dataclass that freezes itself takes four times as long to make, 2.8 µs of the 20 µs that a refusal may take.
    """
    return dataclass(slots=True, kw_only=True)(of)


# Of requests…


@_event
class RequestEnded(Event):
    """A request has ended. `ms`: how long it took; `code` and `reason` are a refusal's.

    `observed` are the refusals that a route let go because it only observes, `observed_limits` the names of the limits
    that it let go. `captcha_demanded_by` are the names of the limits that demanded a captcha, "code.failures" for wrong
    codes.
    """

    name = "request"
    level = "info"
    request_id: str
    client: str
    method: str
    route: str | None
    action: str
    outcome: str
    status: int | None
    ms: float = _rounded(1)
    other_site: bool | None = None
    to: str | None = None
    captcha_demanded_by: Sequence[str] | None = None
    observed_limits: Sequence[str] | None = None
    observed: Sequence[dict[str, str]] | None = None
    verification: str | None = None
    assent: str | None = None
    code: str | None = None
    reason: str | None = None


@_event
class RequestsRefused(Event):
    """In the last second, so many more requests than have a line of their own were refused, by so many clients."""

    name = "requests_refused"
    level = "info"
    route: str | None
    action: str
    code: str | None
    count: int
    clients: int


@_event
class CaptchaBroken(Event):
    """A captcha's verifier gave no verdict."""

    name = "captcha_broken"
    level = "error"
    captcha: str
    outcome: str
    reason: str


@_event
class CaptchaJudged(Event):
    """A captcha token came to this. `outcome` is the verdict's."""

    captcha: str
    outcome: str


@_event
class CaptchaBreakerMoved(Event):
    """A captcha's breaker moved: while it is open, its verifier is not asked, for it did not answer."""

    name = "captcha_breaker"
    level = "warning"
    captcha: str
    state: str
    was: str


@_event
class Verified(Event):
    """Something became of a verification."""

    outcome: Literal["started", "resent", "verified", "released"]


@_event
class SendSuspected(Event):
    """A send breaks a rule of `[pumping]`, or a budget: it is refused (`enforced`), or would be.

    `open`: the unverified sends, numbers or countries that the rule finds; `threshold`: how many are normal. Of a
    budget: what the day has cost, and what it may.
    """

    name = "send_suspected"
    level = "warning"
    request_id: str
    client: str
    to: str
    country: str
    rule: str
    enforced: bool
    open: float
    threshold: float


@_event
class SendsSuspected(Event):
    """In the last second, so many more sends than have a line of their own broke this rule."""

    name = "sends_suspected"
    level = "warning"
    rule: str
    enforced: bool
    count: int


@_event
class SuspectVerified(Event):
    """Sends that broke a rule, and were sent all the same, are verified: the rule was wrong about them."""

    name = "suspect_verified"
    level = "info"
    sends: int


@_event
class BudgetReached(Event):
    """A send would have cost more than the day may; told once a day."""

    name = "budget_reached"
    level = "error"
    scope: str
    spent: float
    budget: float
    currency: str


@_event
class BudgetSpent(Event):
    """What the day has cost so far, in all (`daily`) or in a country that has a budget."""

    scope: str
    amount: float


@_event
class MessagePaid(Event):
    """A provider took a message, or may have, and will be paid for it."""

    provider: str
    country: str
    amount: float


@_event
class SettleFailed(Event):
    """Upstream has answered, and the store could not be told whether the code is spent."""

    name = "settle_failed"
    level = "error"
    verification: str
    request_id: str


@_event
class ReleaseFailed(Event):
    """A code could not be given back."""

    name = "release_failed"
    level = "warning"
    verification_id: str


# Of lists…


@_event
class BlockBegan(Event):
    """What an administrator blocked is in force here, for so many seconds; for good where none are told."""

    name = "block_began"
    level = "info"
    what: str
    seconds: int | None = None


@_event
class BlockEnded(Event):
    """It is blocked here no longer: its time is over, or it was removed."""

    name = "block_ended"
    level = "info"
    what: str
    why: Literal["over", "removed"]


@_event
class AsnFileRead(Event):
    """An `asn_file` has changed, and what it says now is in force."""

    name = "asn_file_read"
    level = "info"
    file: str


@_event
class AsnFileRefused(Event):
    """An `asn_file` has changed, and cannot be read; what it said before stays in force. `line` is 0 for all of it."""

    name = "asn_file_refused"
    level = "error"
    file: str
    line: int
    problem: str


@_event
class ClientsShareAddress(Event):
    """Of the last `requests` guarded requests at least this share came from one address.

    `forwarded_for`: that address sends X-Forwarded-For, and is not believed.
    """

    name = "clients_share_address"
    level = "warning"
    address: str
    share: float = _rounded(2)
    requests: int
    forwarded_for: bool
    advice: str


@_event
class AddressShareSeen(Event):
    """At least this share of the last guarded requests came from one address."""

    share: float


# Of messages…


@_event
class Attempt(Event):
    """A provider was asked to send a message. `duplicate`: another one had taken it."""

    name = "attempt"
    level = "info"
    message: str
    verification_id: str
    request_id: str
    to: str
    provider: str
    outcome: str
    reason: str
    seconds: float = _rounded(3)
    duplicate: bool


@_event
class MessageSent(Event):
    """A provider accepted a message. `again`: after another one had it."""

    name = "message_sent"
    level = "info"
    message: str
    verification_id: str
    request_id: str
    to: str
    provider: str | None
    again: bool


@_event
class MessageUnconfirmed(Event):
    """No provider accepted a message, and one may have it."""

    name = "message_unconfirmed"
    level = "warning"
    message: str
    verification_id: str
    request_id: str
    to: str
    reason: str
    again: bool


@_event
class MessageDeferred(Event):
    """All providers refused a message for now."""

    name = "message_deferred"
    level = "warning"
    message: str
    verification_id: str
    request_id: str
    to: str
    reason: str
    again_in_s: float = _rounded(3)


@_event
class MessageFailed(Event):
    """All providers refused a message for good. `country` is told where no rule or provider was for it."""

    name = "message_failed"
    level = "warning"
    message: str
    verification_id: str
    request_id: str
    to: str
    country: str | None = None
    reason: str


@_event
class MessageNeverConfirmed(Event):
    """Nobody confirmed a message until its code died."""

    name = "message_never_confirmed"
    level = "warning"
    message: str
    verification_id: str
    request_id: str
    to: str
    country: str | None = None
    reason: str


@_event
class MessageDropped(Event):
    """A message need not be sent any more."""

    name = "message_dropped"
    level = "info"
    message: str
    verification_id: str
    request_id: str
    to: str
    reason: str


@_event
class MessageUnreadable(Event):
    """A message cannot be understood. `error` is the error's type and place."""

    name = "message_unreadable"
    level = "error"
    message: str
    verification_id: str
    error: str


@_event
class MessageNotNoted(Event):
    """Who has a message could not be noted, so its receipts will move nothing."""

    name = "message_not_noted"
    level = "warning"
    error: str


@_event
class MessageNotConcluded(Event):
    """A step of a message's book-keeping did not go through."""

    name = "message_not_concluded"
    level = "error"
    message: str
    verification_id: str
    step: str
    error: str


@_event
class MessageConcluded(Event):
    """Sending a message came to this, and its book-keeping is done."""

    outcome: Literal["sent", "unconfirmed", "deferred", "failed"]


@_event
class ReceiptMoved(Event):
    """A vendor said what became of a message, so many seconds after it had accepted it.

    `duplicate`: its answer had been lost, or came too late, so only this tells that it took a message that another has.
    """

    name = "receipt"
    level = "info"
    provider: str
    verification_id: str
    state: str
    vendor_code: str
    seconds: float = _rounded(3)
    duplicate: bool


@_event
class BreakerMoved(Event):
    """A provider's breaker moved."""

    name = "breaker"
    level = "info"
    provider: str
    segment: str
    state: str
    was: str


@_event
class BreakerSeen(Event):
    """The worst of a provider's breakers is in this state: 0 closed, 1 half open, 2 open."""

    provider: str
    state: int


@_event
class OutboxAway(Event):
    """The courier cannot take messages, for another reason than a store that is away."""

    name = "outbox_away"
    level = "warning"
    error: str
    again_in_s: float = _rounded(3)


@_event
class RenewFailed(Event):
    """The courier could not say that its leases are in use."""

    name = "renew_failed"
    level = "warning"
    error: str
    leases: int


# Of the store…


@_event
class StoreAway(Event):
    """The store did not do a command."""

    name = "store_away"
    level = "warning"
    reason: str
    command: str
    failures: int
    seconds: float = _rounded(1)


@_event
class StoreRefused(Event):
    """The store answered, and did not do a command. `reason` is the first word of what it said."""

    name = "store_refused"
    level = "error"
    reason: str


@_event
class StoreBack(Event):
    """The store does commands again, after so many failures and seconds."""

    name = "store_back"
    level = "info"
    failures: int
    seconds: float = _rounded(1)


@_event
class StoreAlone(Event):
    """A primary has no replica any more, or none yet, or does not wait for it, and why.

    What is accepted from now on is lost if its machine is.
    """

    name = "store_alone"
    level = "warning"
    place: str
    reason: str


@_event
class StoredAlone(Event):
    """Something that must outlive its server was stored on a primary that lacks its replicas."""


@_event
class StoreReplicated(Event):
    """A primary has a replica again. `alone`: how much was stored without one that must outlive the server."""

    name = "store_replicated"
    level = "info"
    place: str
    alone: int
    seconds: float = _rounded(1)


@_event
class KeysDiffer(Event):
    """Instances on one store sign with different keys. `own` and `others` are key ids."""

    name = "signing_keys_differ"
    level = "warning"
    own: str
    others: str


@_event
class DecidedAlone(Event):
    """A process's own buckets decided about a guarded request, as the store is away."""
