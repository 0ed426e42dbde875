"""The built-in captcha: is this browser willing to work for a second? Proof of work as ALTCHA has it, version 2.

https://altcha.org/docs/v2/ and the `altcha` package's own source (2.3.0). No account, no other host. We pick a counter,
derive one key from it and tell the browser half of that key; the browser tries counters until it finds ours. A
challenge is signed, so nothing is kept until it is solved; a solved one is claimed by its signature, and works once.
Times are seconds since the epoch. The token never leaves this file.

The work rises with load: with what an address and its site have asked for lately, and with what all have solved
(`rise`). It is settled when the challenge is given, and signed with it, for whom and how much: whoever brings it back
from the same address owes no more. From another address it must be at least half of what that address would have been
given by itself. So challenges cannot be fetched where they are cheap and spent where they are dear, and the phone that
has left the Wi-Fi meanwhile does not notice. docs/captcha.md has the figures.
"""

import hashlib
import hmac
import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import altcha
from pydantic import Field

from sidecar.captcha.seam import Due, Load, Verdict
from sidecar.config.model import Captcha, Doubt
from sidecar.config.units import Duration, Positive, Rate, RateText
from sidecar.errors import StoreError

# A real token is 640 to 840 characters.
MAX_TOKEN: Final = 8 << 10

# Beyond it no number of seconds is one of ours, and arithmetic with it fails (RFC 8259 section 6).
_LAST_SECOND: Final = 2**53

_ALGORITHM: Final = "PBKDF2/SHA-256"
_KEY: Final = 32  # octets of a derived key, of which the browser is told half
# How many times less than its own an address may bring from another one: who roams may come to a busier place.
_ROAMING: Final = 2
# How many iterations a slow phone does in a second; and how long ALTCHA's widget works before it gives up.
_SLOW_PER_S: Final = 1_300_000
_WIDGET_S: Final = 90
# Hosts' clocks may differ by so much: a challenge may expire this much later than its `ttl` says, and no later.
_CLOCKS_APART_S: Final = 60.0


class Settings(Captcha):
    """[captcha.NAME] with kind = "altcha".

    The browser's work is `cost` * `max_counter` / 2 rounds on average and twice that at most: about a second on a
    phone with the defaults (two cores of a small server, in Chromium: 1 s on average, 2 s at most). A round has `cost`
    iterations, and a challenge costs us one: below 250, browsers spend more on calling a round than on its iterations,
    which bots do not. Under load the work rises to `max_rise` times that. `usual_*` is how much is usual, and in which
    time: challenges given to one address (a home; an IPv6 /64) and to one site (a /24; an IPv6 /48), and those that all
    have solved.
    """

    cost: Annotated[Positive, Field(le=100_000)] = 250
    max_counter: Annotated[Positive, Field(le=1_000_000)] = 32_000
    ttl: Annotated[Duration, Field(ge=30, le=3600)] = 600.0
    max_rise: Annotated[Positive, Field(le=100)] = 10
    usual_per_ip: RateText = Rate(10, 600.0)
    usual_per_prefix: RateText = Rate(100, 600.0)
    usual_in_all: RateText = Rate(1000, 600.0)

    def doubtful(self) -> Sequence[Doubt]:
        """Work that a slow phone may not end before its widget gives up, or before the challenge has expired."""
        rounds = self.cost * self.max_counter * self.max_rise
        patience_s = min(_WIDGET_S, self.ttl)
        if rounds <= _SLOW_PER_S * patience_s:
            return ()
        return (
            (
                ("max_rise",),
                f"makes work of up to {rounds / _SLOW_PER_S:.0f} s on a slow phone, in {patience_s:.0f} s at most",
                f"let cost * max_counter * max_rise be {_SLOW_PER_S * patience_s:.0f} at most",
            ),
        )


def rise(shares: Sequence[float], most: float) -> float:
    """Tell how many times the ordinary work is due, `most` at most.

    `shares`: how many times the usual each count is. Each that is over the usual makes the work dearer by the square
    root of how many times it is: so an office of a hundred waits three times as long as a home, and not ten times; and
    whoever asks ten times as often still works thirty times as much in all.
    """
    return min(most, math.prod(math.sqrt(max(1.0, share)) for share in shares))


class Altcha:
    """One [captcha.NAME] table at work.

    `secret` signs challenges and belongs to this table alone. `randbelow` must be unguessable. `load` is what is asked
    of this table just now.
    """

    is_away: Final = False
    is_away_for_all: Final = False

    def __init__(
        self,
        settings: Settings,
        secret: bytes,
        now: Callable[[], float],
        randbelow: Callable[[int], int],
        load: Load,
    ) -> None:
        if len(secret) < 16:  # the library would sign nothing with an empty one
            raise ValueError("a signing secret has 16 octets or more")
        self._settings = settings
        self._challenge_key = hmac.digest(secret, b"altcha challenge", "sha256")
        self._solution_key = hmac.digest(secret, b"altcha solution", "sha256")
        self._now = now
        self._randbelow = randbelow
        self._load = load
        # No token is accepted that lives for longer, so a claimed one outlives nobody's clock.
        self.life_s = settings.ttl + 2 * _CLOCKS_APART_S

    async def due(self, client_ip: str) -> Due:
        """Say how much work is due to an address now, and count that it asks. Never raises.

        While the store is away nobody knows what is due: it is the ordinary work, and for no address, so that whoever
        brings it back owes their own.
        """
        if self._settings.max_rise > 1:
            with suppress(StoreError):
                shares = await self._load.count(client_ip, given=1, solved=0)
                return Due(self._load.asker(client_ip), self._due(shares))
        return Due("", self._settings.max_counter)

    def challenge(self, due: Due) -> dict[str, Any]:
        """Make a challenge: `{"parameters": {...}, "signature": hex}`.

        Costs one key derivation, 0.1 ms at the default cost. That is the price of a steady solving time and a cheap
        `look`, and what a flood of these calls can take from us each; hence a low `cost` and a high counter: the
        browser's work is their product, ours only the first, and it is the counter that rises.

        The counter starts at 0, not at some floor: whoever knows a floor begins there.

        As the library's `create_challenge`, which takes 0.07 ms more for texts that ours are not: what is signed is the
        JSON of sorted keys, and of ASCII JavaScript and Python write the same.
        """
        nonce, salt = os.urandom(16), os.urandom(16)
        password = nonce + self._randbelow(due.most).to_bytes(4)
        key = hashlib.pbkdf2_hmac("sha256", password, salt, self._settings.cost, _KEY)
        parameters = {
            "algorithm": _ALGORITHM,
            "cost": self._settings.cost,
            "data": {"by": due.by, "most": due.most},
            "expiresAt": int(self._now() + self._settings.ttl),
            "keyLength": _KEY,
            "keyPrefix": key[: _KEY // 2].hex(),
            "keySignature": hmac.digest(self._solution_key, key, "sha256").hex(),
            "nonce": nonce.hex(),
            "salt": salt.hex(),
        }
        signed = json.dumps(parameters, sort_keys=True, separators=(",", ":")).encode()
        return {"parameters": parameters, "signature": hmac.digest(self._challenge_key, signed, "sha256").hex()}

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

    async def verify(self, token: str, client_ip: str) -> Verdict:
        """Count what is solved, and refuse what was fetched where it is cheaper. Raises StoreError."""
        if self._settings.max_rise == 1:
            return Verdict("pass")
        signed = altcha.Payload.from_base64(token).challenge.parameters.data or {}  # as `look` found it: our own
        if signed.get("by") == self._load.asker(client_ip):
            self._load.count(client_ip, given=0, solved=1)  # nobody waits for it
            return Verdict("pass")
        own, _, _ = await self._load.count(client_ip, given=1, solved=1)
        if signed.get("most", self._settings.max_counter) * _ROAMING < self._due([own]):
            return Verdict("policy", "too_easy")
        return Verdict("pass")

    def _due(self, shares: Sequence[float]) -> int:
        """Tell below which number the counter lies that a browser has to find."""
        return math.ceil(self._settings.max_counter * rise(shares, self._settings.max_rise))


def built_in(
    settings: Settings,
    secret: bytes,
    now: Callable[[], float],
    randbelow: Callable[[int], int],
    load_of: Callable[[tuple[Rate, Rate, Rate]], Load],
) -> Altcha:
    """Set one table to work; the arguments are as `Altcha` has them, with what is usual of `load_of`."""
    usual = settings.usual_per_ip, settings.usual_per_prefix, settings.usual_in_all
    return Altcha(settings, secret, now, randbelow, load_of(usual))
