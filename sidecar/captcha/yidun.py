"""NetEase Yidun, behaviour captcha v2: what to ask, signed, and what the answer means. Pure.

https://support.dun.163.com/documents/15588062143475712 (secondary verification; read through the vendor's public demo
of 2020 and repositories that quote the page). A token lives 20 minutes unless the console says otherwise and works
once; a lost answer cannot be asked for again. Every answer has HTTP status 200: only `error` 0 with `result` true
passes.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote_plus

from pydantic import AfterValidator, Field

from sidecar.captcha.seam import Outcome, Verdict
from sidecar.config.model import Captcha, called
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

    captcha_id: NonEmpty
    secret_id: NonEmpty
    secret_key: Annotated[NonEmpty, Field(repr=False)]
    user: Text = ""
    endpoint: Annotated[NonEmpty, Field(pattern=r"^https?://"), AfterValidator(called)] = (
        "https://c.dun.163.com/api/v2/verify"
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


def read(settings: Settings, reply: HttpReply) -> Verdict:  # noqa: ARG001 - the seam's shape
    """Read the answer. A non-zero `error` outranks `result`."""
    if reply.status != 200:
        return Verdict("provider_error", f"http_{reply.status}")
    try:
        answer: Any = json.loads(reply.body)
    except (ValueError, RecursionError):
        return Verdict("provider_error", "not_json")
    error = answer.get("error") if isinstance(answer, dict) else None
    if type(error) is not int:  # a bool is an int to isinstance
        return Verdict("provider_error", "no_verdict")
    if error != 0:
        return Verdict(*_ERRORS.get(error, ("provider_error", "unknown_error")))
    result = answer.get("result")
    if result is True:
        return Verdict("pass")
    if result is False:
        return Verdict("reject", "result_false")
    return Verdict("provider_error", "no_verdict")
