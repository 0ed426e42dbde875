"""What is a captcha kind? The values that every kind speaks in, and the two shapes a kind has. Pure.

A kind over HTTP is a pure module with `Settings`, `identify(...)`, `request(...)` and `read(...)`; `remote.Remote` puts
`outbound.call` between them. A built-in kind's module has `Settings` and `built_in(...)`, which makes a `BuiltIn`. The
kind's file name is its TOML `kind`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import AfterValidator, Field

from sidecar.config.model import called
from sidecar.config.units import NonEmpty

# pass            a person, as far as the verifier can tell
# reject          a wrong token: counts in the captcha's `failures` bucket
# spent           expired or used before: counts likewise
# policy          a genuine token for another host or action, or a low score: counts likewise
# unproven        the vendor's widget says that the vendor is down, which anybody can say: nobody gets in by it, and it
#                 counts likewise
# let_in          the same, where the configuration accepts it: proves nobody, and counts likewise
# config          our key, account or parameters are wrong: nobody gets in until it is mended
# provider_error  the verifier did not answer as documented: the captcha's `on_failure` decides
Outcome = Literal["pass", "reject", "spent", "policy", "unproven", "let_in", "config", "provider_error"]

# Where a vendor is asked, or its widget's script is.
Endpoint = Annotated[NonEmpty, Field(pattern=r"^https?://"), AfterValidator(called)]
# A key of an account: never shown when settings are printed.
Key = Annotated[NonEmpty, Field(repr=False)]


@dataclass(slots=True)  # not frozen: it is made for every token
class Verdict:
    """What a verifier says of one token. `reason` is for the log: a documented word or ours, never the token."""

    outcome: Outcome
    reason: str = ""


# Of a verifier that is known not to answer.
AWAY: Final = Verdict("provider_error", "away")


class Verifier(Protocol):
    """One [captcha.NAME] table at work.

    A token is looked at, claimed in the store by whoever asks, so that nobody else uses it, and then verified.
    """

    @property
    def life_s(self) -> float:
        """Seconds for which a claimed token stays claimed: no token is accepted for longer after it is claimed."""
        ...

    @property
    def is_away(self) -> bool:
        """True while the verifier is known not to answer, so that nobody need wait for it."""
        ...

    @property
    def is_away_for_all(self) -> bool:
        """True where no token can be at fault that the last one was not judged: only then may `on_failure` let in."""
        ...

    def look(self, token: str) -> str | Verdict:
        """Say what a token is known by, which is the same in all its spellings; or what is wrong with it at a glance.

        No I/O. What needs no vendor's word is judged here.
        """
        ...

    async def verify(self, token: str, client_ip: str) -> Verdict:
        """Judge a token that `look` found nothing wrong with.

        Never raises for a vendor's fault. A built-in captcha that asks the store raises StoreError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a captcha that is solved in steps: claimed by its `id`, and then judged, once.

    `judge` gives the widget's next document, or says what is wrong; it may raise StoreError.
    """

    id: str
    judge: Callable[[], Awaitable[dict[str, Any] | Verdict]]


@dataclass(frozen=True, slots=True)
class Due:
    """How much work is due to an address now. `by`: its name, "" for nobody's; `most`: numbers to try, at most."""

    by: str
    most: int


class BuiltIn(Verifier, Protocol):
    """A captcha that needs no vendor.

    What it asks is made in two steps, so that whoever asks can wait for a turn of the loop between them.
    """

    async def due(self, client_ip: str) -> Due:
        """Say how much work is due to an address, and count that it asks. Never raises."""
        ...

    def challenge(self, due: Due) -> dict[str, Any]:
        """Make what a browser has to solve, as JSON for the widget. No I/O; some tenth of a millisecond of the loop."""
        ...


def is_built_in(verifier: Verifier) -> bool:
    """True for a captcha that needs no vendor: it knows a token of its own from any other."""
    return hasattr(verifier, "challenge")


class Load(Protocol):
    """How much is asked of one built-in captcha just now, by one address, by its site and by all."""

    def asker(self, ip: str) -> str:
        """Name an address so that nobody learns which it is."""
        ...

    def site(self, ip: str) -> str:
        """Name the site of an address, likewise."""
        ...

    def count(self, ip: str, *, given: int, solved: int) -> Awaitable[tuple[float, float, float]]:
        """Count challenges that an address is given, or has solved; tell how many times the usual each count is then.

        Its own, its site's and all's. Counted whether or not it is awaited. Raises StoreError.
        """
        ...


class InSteps(BuiltIn, Protocol):
    """A built-in captcha that asks its widget more than once before there is a token."""

    def step(self, shown: Mapping[str, Any], client_ip: str) -> Step | Verdict:
        """Look at what the widget shows next. No I/O; bounded whatever is shown."""
        ...
