"""NetEase Yidun, behaviour captcha v2: what to ask, signed, and what the answer means. Pure.

https://support.dun.163.com/documents/15588062143475712 (secondary verification; read through the vendor's public demo
of 2020 and repositories that quote the page). A token lives 20 minutes unless the console says otherwise and works
once; a lost answer cannot be asked for again. Every answer has HTTP status 200: only `error` 0 with `result` true
passes.

Where the browser cannot reach the vendor, its script hands out one and the same token to everybody, and the vendor says
yes to that with `sdkReduce` true. It proves nothing: nobody gets in by it, unless `accept_fallback` says so.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final
from urllib.parse import quote_plus

from pydantic import StrictBool

from sidecar.captcha import answer
from sidecar.captcha.seam import Endpoint, Key, Outcome, Verdict
from sidecar.config.model import Captcha, Doubt
from sidecar.config.units import NonEmpty, Text
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 4096  # undocumented; seen ones are a few hundred characters
LIFE_S: Final = 1200.0  # the longest that the vendor's console sets
ASK_AGAIN: Final = False

_FIELDS: Final = (("Content-Type", "application/x-www-form-urlencoded"),)
# The vendor's words -> ours; every other word that is not 0 is a fault of theirs that we do not know.
_ERRORS: Final[dict[int, tuple[Outcome, str]]] = {
    415: ("config", "415_signature"),
    419: ("config", "419_parameters"),
    421: ("config", "421_version"),
    430: ("provider_error", "430_rate"),
}


class Settings(Captcha):
    """[captcha.NAME] with kind = "yidun"."""

    widget_keys: ClassVar = ("captcha_id", "script")

    captcha_id: NonEmpty
    secret_id: NonEmpty
    secret_key: Key
    user: Text = ""
    accept_fallback: StrictBool = False  # let in who brings the token that everybody gets while the vendor is down
    endpoint: Endpoint = "https://c.dun.163.com/api/v2/verify"
    script: Endpoint = "https://cstaticdun.126.net/load.min.js"

    def doubtful(self) -> Iterable[Doubt]:
        """An open door."""
        if self.accept_fallback:
            yield (
                ("accept_fallback",),
                "lets in who brings the one token that everybody can have",
                "leave it out, and name a second captcha on the route",
            )

    @functools.cached_property
    def form(self) -> tuple[str, str]:
        """What a form says at each call, before and behind the token."""
        user, secret_id = quote_plus(self.user), quote_plus(self.secret_id)
        return f"captchaId={quote_plus(self.captcha_id)}", f"user={user}&secretId={secret_id}&version=v2"


def identify(settings: Settings, token: str) -> str | Verdict:  # noqa: ARG001 - the seam's shape
    """Give what the token is known by: itself."""
    return token


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token. `now` in seconds since the epoch, `nonce` at most 32 characters."""
    form = {
        "captchaId": settings.captcha_id,
        "validate": token,
        "user": settings.user,  # must be sent, even empty
        "secretId": settings.secret_id,
        "version": "v2",
        "timestamp": str(round(now * 1000)),
        "nonce": nonce,
    }
    before, behind = settings.form
    body = (
        f"{before}&validate={quote_plus(token)}&{behind}&timestamp={form['timestamp']}&nonce={quote_plus(nonce)}"
        f"&signature={sign(form, settings.secret_key)}"
    )
    return HttpRequest("POST", settings.endpoint, _FIELDS, body.encode())


def sign(form: Mapping[str, str], secret_key: str) -> str:
    """The vendor's signature: MD5 over names and values as they are before form encoding, sorted by name."""
    text = "".join([name + form[name] for name in sorted(form)]) + secret_key
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def read(settings: Settings, reply: HttpReply) -> Verdict:
    """Read the answer. A non-zero `error` outranks `result`."""
    found = answer.members(reply.body) if reply.status == 200 else None
    if found is None:
        return Verdict("provider_error", answer.unreadable(reply))
    error = found.get("error")
    if type(error) is not int:  # a bool is an int to isinstance
        return Verdict("provider_error", "no_verdict")
    if error != 0:
        return Verdict(*_ERRORS.get(error, ("provider_error", "unknown_error")))
    result = found.get("result")
    if result is True:
        if found.get("sdkReduce", False) is not False:
            return Verdict("let_in" if settings.accept_fallback else "unproven", "sdk_reduce")
        return Verdict("pass")
    if result is False:
        return Verdict("reject", "result_false")
    return Verdict("provider_error", "no_verdict")
