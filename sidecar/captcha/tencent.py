"""Tencent Cloud captcha (DescribeCaptchaResult 2019-07-22): what to ask, signed TC3, and what the answer means. Pure.

https://cloud.tencent.com/document/product/1110/36926 and the vendor's package for Python (read 2026-11). The widget's
callback gives `ticket` and `randstr`, which are sent on as JSON. A ticket lives five minutes and works once; a lost
answer cannot be asked for again. The call takes the cloud account's keys and the captcha application's own. Only
`CaptchaCode` 1 passes.

Where the browser cannot reach the vendor, the widget makes a ticket by itself, which begins with "trerror_". It proves
nothing, and anybody can write one: it is refused unasked, unless `accept_fallback` lets it in.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, Field, StrictBool, WithJsonSchema

from sidecar import tc3
from sidecar.captcha import answer
from sidecar.captcha.seam import Endpoint, Key, Outcome, Verdict
from sidecar.config.model import Captcha, Doubt
from sidecar.config.units import NonEmpty, Text, fitting
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 4096  # undocumented; seen ones have some 300 characters
LIFE_S: Final = 300.0  # documented
ASK_AGAIN: Final = False

_CALL: Final = ("captcha", "DescribeCaptchaResult", "2019-07-22")
_CAPTCHA_TYPE: Final = 9  # the slider and its kin; the only one there is
# Made by the browser alone; the second is an older spelling.
_FALLBACK: Final = ("trerror_", "terror_")
# `CaptchaCode` -> ours; every other one is a wrong token.
_CODES: Final[Mapping[int, Outcome]] = {
    1: "pass",
    7: "reject",  # another randstr
    8: "spent",  # expired
    9: "spent",  # used before
    15: "reject",  # no ticket of theirs
    16: "config",  # another captcha application
    21: "reject",  # of a robot, or made by the browser alone
    100: "config",  # another AppSecretKey
}
# The first part of `Error.Code` -> ours; every other one is the vendor's trouble.
_ERRORS: Final[Mapping[str, Outcome]] = {
    "AuthFailure": "config",
    "UnauthorizedOperation": "config",  # no package, arrears, rights
    "InvalidParameter": "config",
    "InvalidParameterValue": "config",
    "MissingParameter": "config",
    "UnsupportedOperation": "config",
    "InvalidAction": "config",
}


# A number, or its digits: what comes of the environment is a text.
_AppId = Annotated[
    Text,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    fitting(r"[1-9][0-9]{0,14}", "is no CaptchaAppId", 'write the number that the console shows, such as "2012345678"'),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^[1-9][0-9]{0,14}$"}, {"type": "integer"}]}),
]


class Settings(Captcha):
    """[captcha.NAME] with kind = "tencent"."""

    widget_keys: ClassVar = ("app_id", "script")

    secret_id: NonEmpty
    secret_key: Key
    token: Annotated[Text, Field(repr=False)] = ""  # of temporary credentials
    app_id: _AppId  # CaptchaAppId
    app_secret_key: Key  # AppSecretKey
    accept_fallback: StrictBool = False  # let in who brings a ticket that the browser made alone; anybody can
    endpoint: Endpoint = "https://captcha.tencentcloudapi.com"
    script: Endpoint = "https://turing.captcha.qcloud.com/TJCaptcha.js"

    def doubtful(self) -> Iterable[Doubt]:
        """An open door."""
        if self.accept_fallback:
            yield (
                ("accept_fallback",),
                "lets in who brings tickets that anybody can write",
                "leave it out, and name a second captcha on the route",
            )


def identify(settings: Settings, token: str) -> str | Verdict:
    """Give what the token is known by: its ticket."""
    found = answer.parts(token, "ticket", "randstr")
    if found is None:
        return Verdict("reject", "unreadable")
    ticket = found[0]
    if ticket.startswith(_FALLBACK):
        return Verdict("let_in" if settings.accept_fallback else "unproven", "trerror_ticket")
    return ticket


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token, which `identify` found readable."""
    ticket, randstr = answer.parts(token, "ticket", "randstr") or ("", "")
    content: dict[str, Any] = {
        "CaptchaType": _CAPTCHA_TYPE,
        "Ticket": ticket,
        "UserIp": client_ip,
        "Randstr": randstr,
        "CaptchaAppId": int(settings.app_id),
        "AppSecretKey": settings.app_secret_key,
    }
    key = (settings.secret_id, settings.secret_key)
    return tc3.request(settings.endpoint, _CALL, content, key=key, now=now, token=settings.token)


def read(settings: Settings, reply: HttpReply) -> Verdict:  # noqa: ARG001 - the seam's shape
    """Read the answer. An error outranks a code."""
    found = answer.members(reply.body) if reply.status == 200 else None
    if found is None:
        return Verdict("provider_error", answer.unreadable(reply))
    response = answer.member(found, "Response")
    if response.get("Error") is not None:
        word = answer.member(response, "Error").get("Code")
        family = word.partition(".")[0] if isinstance(word, str) else ""
        return Verdict(_ERRORS.get(family, "provider_error"), family if family in _ERRORS else "error")
    code = response.get("CaptchaCode")
    if type(code) is not int:  # a bool is an int to isinstance
        return Verdict("provider_error", "no_verdict")
    if code == 1:
        return Verdict("pass")
    return Verdict(_CODES.get(code, "reject"), f"code_{code}" if code in _CODES else "unknown_code")
