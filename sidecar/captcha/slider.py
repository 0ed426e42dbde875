"""The sliding puzzle: does a person see where the piece belongs, and does a hand move it there? No other host.

Three steps, each paid for before it is taken (`step` looks at the last two; the caller claims what it shows, so that it
is shown once, and then has it judged):

1. `challenge` gives a proof of work, https://altcha.org/docs/v2/ as the kind `altcha` has it. It costs us 0.1 ms.
2. Whoever did the work gets a picture, and a seal that only we can open: where the piece belongs, whose picture it is,
   and until when. So nothing is kept here, and the place is nowhere in clear.
3. Whoever shows the seal with a track (slider_track.py) gets a token if the track is right, and needs another picture
   if it is not: a seal is spent by its first try, right or wrong, so that nobody tries one place after another.

The token works once, in its time, and for the asker who had the picture: by default the address's prefix and not the
address, for phones change theirs within one, and a bot that passes its tokens on has another. The price: who goes from
one network to another between picture and message solves a second one.

A flood of step 1 is as cheap to us as the captcha `altcha`; one of step 2 costs its sender a second of a processor for
each picture, and when it takes pictures faster than they are drawn, the next are refused (`captcha_unavailable`) until
there are some: no picture is shown twice, for who has solved it once would have solved it for all.
"""

import base64
import hmac
import os
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pydantic import Field

from sidecar.captcha import slider_track
from sidecar.captcha.altcha import Altcha
from sidecar.captcha.altcha import Settings as AltchaSettings
from sidecar.captcha.seam import Due, Load, Step, Verdict
from sidecar.captcha.slider_maker import Pictures
from sidecar.captcha.slider_picture import HEIGHT, PIECE, WIDTH
from sidecar.config.units import Duration, Positive, Rate
from sidecar.secret import b64url, unb64url

# A picture's seal is 72 characters, a token 70.
MAX_TOKEN: Final = 128
_NONCE: Final = 12  # octets, RFC 8439 section 2.3
_ASKER: Final = 16  # octets of a keyed hash
# Until when, in seconds since the epoch, for whom; of a picture also how far to the right the piece belongs.
_SOLVED: Final = struct.Struct(f">d{_ASKER}s")
_PLACED: Final = struct.Struct(f">d{_ASKER}sH")
# Hosts' clocks may differ by so much: a seal may expire this much later than its `ttl` says, and no later.
_CLOCKS_APART_S: Final = 60.0


class Settings(AltchaSettings):
    """[captcha.NAME] with kind = "slider".

    The work before each picture is as the kind "altcha" has it, and rises as there; half of its default. `tolerance` is
    in pixels of a picture 360 wide. `ttl` is how long a picture can be solved, and then its token used.
    """

    max_counter: Annotated[Positive, Field(le=1_000_000)] = 16_000
    ttl: Annotated[Duration, Field(ge=30, le=3600)] = 300.0
    tolerance: Annotated[Positive, Field(ge=3, le=15)] = 7
    bound_to: Literal["ip_prefix", "ip", "none"] = "ip_prefix"


class Slider:
    """One [captcha.NAME] table at work.

    `secret` belongs to this table alone. `randbelow` must be unguessable. `load` is what is asked of this table just
    now, and names who asks. There are pictures only while `run` runs.
    """

    # Without pictures nobody new can solve one, and the tokens of who has are as good as ever.
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
        self._settings = settings
        self._work = Altcha(settings, hmac.digest(secret, b"slider work", "sha256"), now, randbelow, load)
        self._sealing = ChaCha20Poly1305(hmac.digest(secret, b"slider sealing", "sha256"))
        self._asker_key = hmac.digest(secret, b"slider asker", "sha256")
        self._now = now
        self._load = load
        self._pictures = Pictures()
        # Work, pictures and tokens live equally long, and are claimed alike.
        self.life_s = settings.ttl + 2 * _CLOCKS_APART_S

    async def run(self) -> None:
        """Keep pictures ready for as long as this runs. Raises IncompleteReadError or TimeoutError without a maker."""
        await self._pictures.run()

    async def due(self, client_ip: str) -> Due:
        """Say how much work a picture costs an address now, and count that it asks. Never raises."""
        return await self._work.due(client_ip)

    def challenge(self, due: Due) -> dict[str, Any]:
        """Make the work that a picture costs. No I/O."""
        return {"work": self._work.challenge(due)}

    def step(self, shown: Mapping[str, Any], client_ip: str) -> Step | Verdict:
        """Look at the next step: a picture for `{"work"}`, a token for `{"picture", "by", "points"}`."""
        match shown:
            case {"work": str(work), **more} if not more:
                token_id = self._work.look(work)
                if isinstance(token_id, Verdict):
                    return token_id
                return Step(token_id, partial(self._picture, work, client_ip))
            case {"picture": str(picture), "by": by, "points": points, **more} if not more:
                return self._placed(picture, by, points, client_ip)
            case _:
                return Verdict("reject", "unreadable")

    async def _picture(self, work: str, client_ip: str) -> dict[str, Any] | Verdict:
        if self._pictures.is_empty:  # before the work is counted: it is shown again in a moment
            return Verdict("provider_error", "no_picture")
        verdict = await self._work.verify(work, client_ip)
        if verdict.outcome != "pass":
            return verdict
        picture = self._pictures.take()
        if picture is None:
            return Verdict("provider_error", "no_picture")
        until = self._now() + self._settings.ttl
        return {
            "picture": self._sealed(_PLACED.pack(until, self._asker(client_ip), picture.x), b"picture"),
            "scene": base64.b64encode(picture.scene).decode(),
            "piece": base64.b64encode(picture.piece).decode(),
            "top": picture.y,
            "size": [WIDTH, HEIGHT, PIECE],
            "expires_in": int(self._settings.ttl),
        }

    def _placed(self, picture: str, by: Any, points: Any, client_ip: str) -> Step | Verdict:
        try:
            track = slider_track.read(by, points)
        except ValueError:
            return Verdict("reject", "unreadable")  # nothing was tried, so the picture is not spent
        opened = self._opened(picture, b"picture", _PLACED, client_ip)
        if isinstance(opened, Verdict):
            return opened
        name, wanted = opened
        return Step(name, partial(self._token, track, wanted, client_ip))

    async def _token(self, track: slider_track.Track, wanted: int, client_ip: str) -> dict[str, Any] | Verdict:
        verdict = slider_track.judge(track, wanted, self._settings.tolerance)
        if verdict.outcome != "pass":
            return verdict
        until = self._now() + self._settings.ttl
        token = self._sealed(_SOLVED.pack(until, self._asker(client_ip)), b"solved")
        return {"token": token, "expires_in": int(self._settings.ttl)}

    def look(self, token: str) -> str | Verdict:
        """Judge a token, but for whom it is: it is known by its nonce, in whatever spelling."""
        opened = self._opened(token, b"solved", _SOLVED, None)
        return opened if isinstance(opened, Verdict) else opened[0]

    async def verify(self, token: str, client_ip: str) -> Verdict:
        """Judge whether a token that `look` found nothing wrong with is for who shows it."""
        opened = self._opened(token, b"solved", _SOLVED, client_ip)
        return opened if isinstance(opened, Verdict) else Verdict("pass")

    # Sealing…

    def _sealed(self, plain: bytes, purpose: bytes) -> str:
        nonce = os.urandom(_NONCE)
        return b64url(nonce + self._sealing.encrypt(nonce, plain, purpose))

    def _opened(
        self, seal: str, purpose: bytes, form: struct.Struct, client_ip: str | None
    ) -> tuple[Any, ...] | Verdict:
        """Open a seal of ours: what it is known by, and what else is in it. Without `client_ip` it may be anybody's."""
        if len(seal) > MAX_TOKEN:
            return Verdict("reject", "too_long")
        try:
            octets = unb64url(seal)
            until, asker, *more = form.unpack(self._sealing.decrypt(octets[:_NONCE], octets[_NONCE:], purpose))
        except (ValueError, InvalidTag):
            return Verdict("reject", "signature")
        left_s = until - self._now()
        if left_s <= 0:
            return Verdict("spent", "expired")
        if left_s > self._settings.ttl + _CLOCKS_APART_S:
            return Verdict("reject", "too_young")  # made under a longer `ttl`: it would outlive its claim
        if client_ip is not None and not hmac.compare_digest(asker, self._asker(client_ip)):
            return Verdict("reject", "another_asker")
        return (octets[:_NONCE].hex(), *more)

    def _asker(self, client_ip: str) -> bytes:
        """Who asks, as far as a token is bound to that."""
        match self._settings.bound_to:
            case "ip":
                known = self._load.asker(client_ip)
            case "ip_prefix":
                known = self._load.site(client_ip)
            case "none":
                known = ""
        return hmac.digest(self._asker_key, known.encode(), "sha256")[:_ASKER]


def built_in(
    settings: Settings,
    secret: bytes,
    now: Callable[[], float],
    randbelow: Callable[[int], int],
    load_of: Callable[[tuple[Rate, Rate, Rate]], Load],
) -> Slider:
    """Set one table to work; the arguments are as `Slider` has them, with what is usual of `load_of`."""
    usual = settings.usual_per_ip, settings.usual_per_prefix, settings.usual_in_all
    return Slider(settings, secret, now, randbelow, load_of(usual))
