"""Juhe data, SMS: what to ask, and what the answer means. Pure.

https://www.juhe.cn/docs/api/id/54 (public documentation and open clients of it, read 2026-11). Every refusal is HTTP
200. Success is `error_code` 0 with a `sid`, which comes as a text or as a number. Mainland numbers only. Idempotent
sending and receipts are not documented: the verified code is the proof of arrival.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from pydantic import Field

from sidecar.config.model import Provider
from sidecar.delivery.providers import answer
from sidecar.delivery.providers.seam import (
    Accepted,
    Credential,
    Endpoint,
    Fault,
    Message,
    Outcome,
    Rejected,
    Uncertain,
)
from sidecar.delivery.providers.template import NamedParams, Template, choose, fill_named
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"sms"})
RECEIPTS: Final = None

_MAINLAND: Final = re.compile(r"\+86(1[0-9]{10})")
# `error_code` -> our word. Codes that are not here stay unknown. 205403 (network), 205409 (busy), 10014 (internal),
# 10020 (maintenance) and 205404 (failed, for whatever `reason` says) are left out: the message may have gone out.
_ERRORS: Final[Mapping[int, Fault]] = {
    10001: "credentials",  # wrong key
    10002: "credentials",  # no right
    10003: "credentials",  # key expired
    10004: "credentials",
    10005: "credentials",  # not certified
    10007: "credentials",  # unknown source
    10008: "credentials",  # address banned
    10009: "credentials",  # key banned
    10021: "credentials",  # interface stopped
    205402: "request",  # wrong template
    205406: "request",  # template not supported
    205407: "request",  # batch too large
    205410: "request",  # wrong method
    205401: "number_invalid",
    205405: "number_frequency",  # "number abnormal or too often": two meanings in one code
    10011: "throttled",  # address limit
    10012: "throttled",  # over the quota of calls
    10013: "throttled",  # test key limit
    205408: "balance",  # stock used up
}


class Settings(Provider):
    """[providers.NAME] with kind = "juhe"."""

    kind: Literal["juhe"]
    key: Credential
    template: Template
    params: NamedParams = Field(default={"code": "{code}"}, validate_default=True)
    # How the values travel: "vars", a JSON object, or "tpl_value", the older interface's own form.
    form: Literal["vars", "tpl_value"] = "vars"
    endpoint: Endpoint = "https://v.juhe.cn"


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest | Rejected:  # noqa: ARG001 - the seam's shape
    """Ask for one message. The key is in the body: in a query it would stand in logs."""
    found = _MAINLAND.fullmatch(message.recipient.address)
    if not found:
        return Rejected("number_unsupported", "not a mobile number of the mainland")
    params = fill_named(settings.params, message)
    pairs = [
        ("key", settings.key),
        ("mobile", found[1]),
        ("tpl_id", choose(settings.template, message.locale)),
        (settings.form, values(settings.form, params)),
    ]
    return HttpRequest(
        "POST",
        settings.endpoint.rstrip("/") + "/sms/send",
        (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")),
        urlencode(pairs).encode(),
    )


def values(form: Literal["vars", "tpl_value"], params: Mapping[str, str]) -> str:
    """Write the values. In tpl_value, #name#=value, each encoded, and once more by the form that carries it."""
    if form == "vars":
        return json.dumps(params, ensure_ascii=False, separators=(",", ":"))
    return "&".join(f"{quote(f'#{name}#', safe='~')}={quote(value, safe='~')}" for name, value in params.items())


def read(reply: HttpReply, message: Message) -> Outcome:  # noqa: ARG001 - the seam's shape
    """Read the answer to one request. A code that is not in the table says nothing usable, so the outcome is open."""
    said = answer.of_reply(reply.body)
    code: Any = said.get("error_code")
    if reply.status != 200 or type(code) is not int:
        return Uncertain(f"http_{reply.status}")
    if code == 0:
        sid: Any = answer.member(said, "result").get("sid")
        given = str(sid) if type(sid) in {str, int} else ""
        return Accepted(given) if given else Uncertain("no_sid")
    fault = _ERRORS.get(code)
    return Rejected(fault, str(code)) if fault else Uncertain(str(code))
