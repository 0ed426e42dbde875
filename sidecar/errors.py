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
    """A no. `detail` is for people and says what would be right; `extra` adds members to the problem document."""

    code: str
    reason: str
    detail: str = ""
    retry_after_s: float | None = None
    limits: tuple[LimitState, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return CODES[self.code][0]

    @property
    def title(self) -> str:
        return CODES[self.code][1]

    def __str__(self) -> str:
        return f"{self.code} ({self.reason})"


class StoreAwayError(Exception):
    """The store did not answer in time, or cannot be reached. Every decision that needs it is refused."""
