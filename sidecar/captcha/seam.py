"""What is a captcha kind? The values that every kind speaks in, and the two shapes a kind has. Pure.

A kind over HTTP is a pure module with `Settings`, `request(...)` and `read(...)`; `remote.Remote` puts `outbound.call`
between them. A built-in kind is a class with `verify` and `challenge`. The kind's file name is its TOML `kind`.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

# pass            a person, as far as the verifier can tell
# reject          a wrong token: counts in the captcha's `failures` bucket
# spent           expired or used before: counts likewise
# policy          a genuine token for another host or action, or a low score: counts likewise
# config          our key, account or parameters are wrong: nobody gets in until it is mended
# provider_error  the verifier did not answer as documented: the captcha's `on_failure` decides
Outcome = Literal["pass", "reject", "spent", "policy", "config", "provider_error"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one token. `reason` is for the log: a documented word or ours, never the token."""

    outcome: Outcome
    reason: str = ""


class Verifier(Protocol):
    """One [captcha.NAME] table at work."""

    async def verify(self, token: str, client_ip: str) -> Verdict:
        """Judge a token once. Never raises for a vendor's fault; StoreAwayError where the kind keeps state."""
        ...


class BuiltIn(Verifier, Protocol):
    """A captcha that needs no vendor."""

    def challenge(self) -> dict[str, Any]:
        """Make what the browser has to solve, as JSON for the widget."""
        ...
