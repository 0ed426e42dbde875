"""The built-in captcha: is this browser willing to work for a second? Proof of work as ALTCHA has it, version 2.

https://altcha.org/docs/v2/ and the `altcha` package's own source (2.3.0). No account, no other host. We pick a counter,
derive one key from it and tell the browser half of that key; the browser tries counters until it finds ours. A
challenge is signed, so nothing is kept until it is solved; a solved one is claimed by its signature, and works once.
Times are seconds since the epoch. The token never leaves this file.
"""

import hmac
from collections.abc import Callable
from typing import Annotated, Any, Final

import altcha
from pydantic import Field

from sidecar.captcha.seam import Verdict
from sidecar.config.model import Captcha
from sidecar.config.units import Duration, Positive

# A real token is 560 to 750 characters.
MAX_TOKEN: Final = 8 << 10

# Beyond it no number of seconds is one of ours, and arithmetic with it fails (RFC 8259 section 6).
_LAST_SECOND: Final = 2**53

_ALGORITHM: Final = "PBKDF2/SHA-256"
# Hosts' clocks may differ by so much: a challenge may expire this much later than its `ttl` says, and no later.
_CLOCKS_APART_S: Final = 60.0


class Settings(Captcha):
    """[captcha.NAME] with kind = "altcha".

    The browser's work is `cost` * `max_counter` / 2 rounds on average and twice that at most: about a second on a
    phone with the defaults (two cores of a small server, in Chromium: 1 s on average, 2 s at most).
    """

    cost: Annotated[Positive, Field(le=100_000)] = 1000
    max_counter: Annotated[Positive, Field(le=1_000_000)] = 8000
    ttl: Annotated[Duration, Field(ge=30, le=3600)] = 600.0


class Altcha:
    """One [captcha.NAME] table at work.

    `secret` signs challenges and belongs to this table alone. `randbelow` must be unguessable.
    """

    is_away: Final = False

    def __init__(
        self,
        settings: Settings,
        secret: bytes,
        now: Callable[[], float],
        randbelow: Callable[[int], int],
    ) -> None:
        if len(secret) < 16:  # the library would sign nothing with an empty one
            raise ValueError("a signing secret has 16 octets or more")
        self._settings = settings
        self._challenge_key = hmac.digest(secret, b"altcha challenge", "sha256")
        self._solution_key = hmac.digest(secret, b"altcha solution", "sha256")
        self._now = now
        self._randbelow = randbelow
        # No token is accepted that lives for longer, so a claimed one outlives nobody's clock.
        self.life_s = settings.ttl + 2 * _CLOCKS_APART_S

    def challenge(self) -> dict[str, Any]:
        """Make a challenge: `{"parameters": {...}, "signature": hex}`.

        Costs one key derivation, 0.4 ms at the default cost. That is the price of a steady solving time and a cheap
        `verify`, and what a flood of these calls can take from us each; hence a low `cost` and a high `max_counter`:
        the browser's work is their product, ours only the first.

        The counter starts at 0, not at some floor: whoever knows a floor begins there.
        """
        return altcha.create_challenge(
            _ALGORITHM,
            self._settings.cost,
            counter=self._randbelow(self._settings.max_counter),
            expires_at=int(self._now() + self._settings.ttl),
            hmac_secret=self._challenge_key,
            hmac_key_secret=self._solution_key,
        ).to_dict()

    def look(self, token: str) -> str | Verdict:
        """Judge a solved challenge: it is known by its signature. 0.1 ms: its key is held against that.

        Whether it was used before, whoever claims it finds out.
        """
        if len(token) > MAX_TOKEN:
            return Verdict("reject", "too_long")
        try:
            payload = altcha.Payload.from_base64(token)
        except (ValueError, KeyError, TypeError, RecursionError):
            return Verdict("reject", "unreadable")
        expires_at, signature = payload.challenge.parameters.expires_at, payload.challenge.signature
        # Ours are whole seconds and a text.
        if type(expires_at) is not int or not 0 <= expires_at <= _LAST_SECOND or not isinstance(signature, str):
            return Verdict("reject", "unreadable")
        left_s = expires_at - self._now()
        if left_s <= 0:
            return Verdict("spent", "expired")
        # The library looks at the clock too, a second more generous.
        result = altcha.verify_solution(payload, self._challenge_key, hmac_key_secret=self._solution_key)
        if not result.verified:
            return Verdict("reject", "signature" if result.invalid_signature else "solution")
        if left_s > self._settings.ttl + _CLOCKS_APART_S:
            return Verdict("reject", "too_young")  # made under a longer `ttl`: it would outlive its claim
        return signature

    async def verify(self, token: str, client_ip: str) -> Verdict:  # noqa: ARG002 - the seam's shape
        """Nothing is left to judge of what `look` found nothing wrong with."""
        return Verdict("pass")


def built_in(settings: Settings, secret: bytes, now: Callable[[], float], randbelow: Callable[[int], int]) -> Altcha:
    """Set one table to work; the arguments are as `Altcha` has them."""
    return Altcha(settings, secret, now, randbelow)
