"""Alibaba Cloud captcha 2.0 (VerifyIntelligentCaptcha 2023-03-05): what to ask, signed ACS3, and what it means. Pure.

https://help.aliyun.com/document_detail/2360571.html and its list of VerifyCodes (public documentation, read 2026-11).
The widget's CaptchaVerifyParam is the token, and is passed on unchanged. It lives twenty minutes from when the captcha
was shown and works once; a lost answer cannot be asked for again. The endpoint's region must be the widget's. The
vendor advises to let everyone in when the call fails; here `on_failure` says so.
"""

import json
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sidecar import acs3
from sidecar.captcha import answer
from sidecar.captcha.seam import Endpoint, Key, Outcome, Verdict
from sidecar.config.model import Captcha
from sidecar.config.units import NonEmpty, Text
from sidecar.outbound import HttpReply, HttpRequest

MAX_TOKEN: Final = 16384  # undocumented; device tokens make it some 5,000 characters
LIFE_S: Final = 1200.0  # documented
ASK_AGAIN: Final = False

_CALL: Final = ("VerifyIntelligentCaptcha", "2023-03-05")
# `VerifyCode` of a refusal -> ours; every other one is a wrong token.
_CODES: Final[Mapping[str, Outcome]] = {
    "F001": "reject",  # an attack
    "F002": "reject",  # empty
    "F003": "reject",  # malformed
    "F004": "reject",  # test mode says no
    "F008": "spent",
    "F009": "reject",  # no real device
    "F010": "reject",  # too many of this address
    "F011": "reject",  # too many of this device
    "F012": "policy",  # of another scene
    "F014": "reject",  # the captcha was never shown
    "F015": "reject",
    "F016": "policy",  # of another page
    "F017": "reject",
    "F022": "reject",
    "F024": "reject",
}
# `Code` of an error -> ours; every other one is the vendor's trouble. InvalidParameter may be the browser's doing.
_ERRORS: Final[Mapping[str, Outcome]] = {
    "Forbidden.AccountAccessDenied": "config",
    "Forbidden.RAMUserAccessDenied": "config",
    "InvalidAccessKeyId.NotFound": "config",
    "InvalidAccessKeyId.Inactive": "config",
    "InvalidSecurityToken.Expired": "config",
    "SignatureDoesNotMatch": "config",
    "SignatureNonceUsed": "config",
    "InvalidTimeStamp.Expired": "config",
    "MissingParameter": "config",
    "InvalidParameter": "reject",
}


class Settings(Captcha):
    """[captcha.NAME] with kind = "aliyun"."""

    widget_keys: ClassVar = ("scene_id", "prefix", "region", "script")
    page_needs: ClassVar = ("prefix",)

    access_key_id: NonEmpty
    access_key_secret: Key
    security_token: Annotated[Text, Field(repr=False)] = ""  # of temporary credentials
    scene_id: NonEmpty
    prefix: Text = ""  # the account's, for the hosted page
    region: Literal["cn", "sgp"] = "cn"  # the widget's, for the hosted page
    endpoint: Endpoint = "https://captcha.cn-shanghai.aliyuncs.com"
    script: Endpoint = "https://o.alicdn.com/captcha-frontend/aliyunCaptcha/AliyunCaptcha.js"


def identify(settings: Settings, token: str) -> str | Verdict:  # noqa: ARG001 - the seam's shape
    """Give what the token is known by: itself, in one spelling where it is JSON."""
    found = answer.members(token)
    try:
        return token if found is None else json.dumps(found, sort_keys=True)
    except RecursionError:  # reading takes less depth than writing
        return Verdict("reject", "too_deep")


def request(settings: Settings, token: str, client_ip: str, now: float, nonce: str) -> HttpRequest:  # noqa: ARG001 - the seam's shape
    """Ask about one token."""
    return acs3.request(
        settings.endpoint,
        _CALL,
        {"CaptchaVerifyParam": token, "SceneId": settings.scene_id},
        key=(settings.access_key_id, settings.access_key_secret),
        now=now,
        nonce=nonce,
        security_token=settings.security_token,
        in_form=True,
    )


def read(settings: Settings, reply: HttpReply) -> Verdict:  # noqa: ARG001 - the seam's shape
    """Read the answer. Only a `VerifyResult` true, of a call that went well, passes."""
    found = answer.members(reply.body)
    if found is None:
        return Verdict("provider_error", answer.unreadable(reply))
    code = found.get("Code")
    if reply.status != 200 or code != "Success":
        outcome = _ERRORS.get(code) if isinstance(code, str) else None
        return Verdict(outcome, str(code)) if outcome else Verdict("provider_error", f"http_{reply.status}")
    result = answer.member(found, "Result")
    said = result.get("VerifyCode")
    match result.get("VerifyResult"):
        case True:
            return Verdict("pass")
        case False:
            known = said if isinstance(said, str) and said in _CODES else ""
            return Verdict(_CODES.get(known, "reject"), known or "unknown_code")
        case _:
            return Verdict("provider_error", "no_verdict")
