"""What can go wrong for a client, in the contract's words.

A `Refusal` is a no with two faces: `code` is what the client reads (contract section 4), `reason` is what the log
reads. It never carries a verification code, a token, a secret or an unmasked recipient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

# code -> (HTTP status, title). The one table of the contract's error codes.
CODES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "malformed_request": (400, "The request cannot be read unambiguously"),
        "invalid_recipient": (422, "The recipient is not a valid phone number or address"),
        "recipient_not_allowed": (403, "This recipient is not served"),
        "captcha_required": (403, "A captcha token is required"),
        "captcha_failed": (403, "The captcha token was not accepted"),
        "captcha_unavailable": (503, "The captcha cannot be checked right now"),
        "rate_limited": (429, "Too many requests"),
        "body_too_large": (413, "The request body is too large"),
        "head_too_large": (431, "The request line and fields are too large"),
        "verification_in_use": (409, "Another request is using this verification"),
        "code_required": (401, "A verification code is required"),
        "code_mismatch": (422, "The verification code is wrong"),
        "code_expired": (410, "The verification code is spent or expired"),
        "too_many_attempts": (429, "Too many wrong verification codes"),
        "recipient_unreachable": (422, "The message cannot be delivered to this recipient"),
        "delivery_failed": (502, "The message could not be delivered"),
        "store_unavailable": (503, "The service cannot decide right now"),
        "overloaded": (503, "The service is overloaded"),
        "upstream_unavailable": (502, "The upstream service cannot be reached"),
        "upstream_timeout": (504, "The upstream service did not answer in time"),
        "route_denied": (403, "This route is closed"),
        # Beside the contract: the sidecar's own API has no such resource.
        "not_found": (404, "There is nothing here"),
    }
)

# code -> what happened, and what would be right, where a refusal has no sentence of its own.
DETAILS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "malformed_request": "Two programs might read this request in two ways. Send it in its plainest form.",
        "invalid_recipient": "Expected a telephone number with its country code, or an e-mail address.",
        "recipient_not_allowed": "No codes are sent to this recipient. Use another number or address.",
        "captcha_required": "Solve the captcha and send its token along.",
        "captcha_failed": "The captcha token is wrong, spent or too old. Solve a new captcha.",
        "captcha_unavailable": "The captcha's verifier does not answer. Try again in a moment.",
        "rate_limited": "A limit is reached. Wait before trying again.",
        "body_too_large": "The body is larger than what is read here. Send a smaller one.",
        "head_too_large": "Request line and fields are larger than what is read here. Send fewer or shorter cookies.",
        "verification_in_use": "Another request is using this verification. Wait until it is answered, then try again.",
        "code_required": "Send the code that the recipient was sent.",
        "code_mismatch": "The code is not right. Look at the newest message, and type it again.",
        "code_expired": "This code has been used, or its time is over. Ask for a new one.",
        "too_many_attempts": "There were too many wrong codes. Ask for a new one.",
        "recipient_unreachable": "The recipient cannot be reached. Check the number, or use another one.",
        "delivery_failed": "No provider could send the message. Try again in a moment.",
        "store_unavailable": "What was sent and counted cannot be looked up right now. Try again in a moment.",
        "overloaded": "There is more to do than can be done right now. Try again in a moment.",
        "upstream_unavailable": "The service behind this one cannot be reached, or answers unreadably. Try again.",
        "upstream_timeout": "The service behind this one did not answer in time. It may have done what was asked.",
        "route_denied": "This route is closed to everybody.",
        "not_found": "No such verification, or it is over; or there is nothing under this address.",
    }
)


@dataclass(frozen=True, slots=True)
class LimitState:
    """One bucket as the RateLimit fields tell it. Times in seconds. draft-ietf-httpapi-ratelimit-headers-10."""

    name: str
    quota: int
    window_s: float
    remaining: int
    reset_s: float


@dataclass(eq=False)  # not frozen: the interpreter and contextlib set __traceback__ on what is raised
class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """A no. `detail` is for people, and says what happened and what would be right; DETAILS has one in its stead.

    `extra` adds members to the problem document.
    """

    code: str
    reason: str
    detail: str = ""
    retry_after_s: float | None = None
    limits: tuple[LimitState, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    status: int = field(init=False)

    def __post_init__(self) -> None:
        self.status = CODES[self.code][0]
        self.detail = self.detail or DETAILS[self.code]

    @property
    def title(self) -> str:
        return CODES[self.code][1]

    def __str__(self) -> str:
        return f"{self.code} ({self.reason})"


# Of what comes while more is to be done than can be. Told, and never raised: an exception that is raised again and
# again would grow.
OVERLOADED: Final = Refusal("overloaded", "line", "Too many requests wait to be decided.", retry_after_s=2.0)


class CannotRunError(Exception):
    """The process cannot run. The text says why, and what would help, to whoever started it."""


class StoreError(Exception):
    """The store did not do a command."""


class StoreAwayError(StoreError):
    """The store did not answer in time, cannot be reached, or cannot serve. Every decision that needs it is refused.

    `reason` says why: `READONLY`, `refused 10.0.0.5:6379`, `no answer within 1 s`.
    """

    def __init__(self, command: str = "store", reason: str = "away") -> None:
        super().__init__(f"{command}: {reason}")
        self.reason = reason
