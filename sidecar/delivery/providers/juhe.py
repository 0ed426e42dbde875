"""Juhe data, SMS: what to ask, and what the answer means. Pure.

https://www.juhe.cn/docs/api/id/54 (public documentation and open clients of it, read 2026-11). Every refusal is HTTP
200. Success is `error_code` 0 with a `sid`, which comes as a text or as a number. Mainland numbers only. Idempotent
sending and receipts are not documented: the verified code is the proof of arrival.
"""

import functools
import json
import re
from collections.abc import Collection, Mapping
from typing import Final, Literal
from urllib.parse import quote, quote_plus

from pydantic import Field

from sidecar.config.model import Provider
from sidecar.delivery.providers import answer
from sidecar.delivery.providers.seam import (
    Credential,
    Endpoint,
    Fault,
    Message,
    Outcome,
    Rejected,
)
from sidecar.delivery.providers.template import NamedParams, Template, choose, fill_named
from sidecar.outbound import HttpReply, HttpRequest
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"sms"})
RECEIPTS: Final = None

_FIELDS: Final = (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json"))
_WRITE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MAINLAND: Final = re.compile(r"\+86(1[0-9]{10})")
# `error_code` -> our word.
_ERRORS: Final[Mapping[str, Fault]] = {
    "10001": "credentials",  # wrong key
    "10002": "credentials",  # no right
    "10003": "credentials",  # key expired
    "10004": "credentials",
    "10005": "credentials",  # not certified
    "10007": "credentials",  # unknown source
    "10008": "credentials",  # address banned
    "10009": "credentials",  # key banned
    "10021": "credentials",  # interface stopped
    "205402": "request",  # wrong template
    "205406": "request",  # template not supported
    "205407": "request",  # batch too large
    "205410": "request",  # wrong method
    "205401": "number_invalid",
    "205405": "number_frequency",  # "number abnormal or too often": two meanings in one code
    "10011": "throttled",  # address limit
    "10012": "throttled",  # over the quota of calls
    "10013": "throttled",  # test key limit
    "205408": "balance",  # stock used up
    "205404": "request",  # failed, for whatever `reason` says
}
# Faults within the vendor: the message may have gone out.
_OPEN: Final = frozenset({"205403", "205409", "10014", "10020"})  # network, busy, internal, maintenance


class Settings(Provider):
    """[providers.NAME] with kind = "juhe"."""

    kind: Literal["juhe"]
    key: Credential
    template: Template
    params: NamedParams = Field(default={"code": "{code}"}, validate_default=True)
    # How the values travel: "vars", a JSON object, or "tpl_value", the older interface's own form.
    form: Literal["vars", "tpl_value"] = "vars"
    endpoint: Endpoint = "https://v.juhe.cn"

    @functools.cached_property
    def url(self) -> str:
        return self.endpoint.rstrip("/") + "/sms/send"

    @functools.cached_property
    def form_key(self) -> str:
        """The key, as a form writes it."""
        return quote_plus(self.key)


def request(settings: Settings, message: Message, now: float, nonce: str) -> HttpRequest | Rejected:  # noqa: ARG001 - the seam's shape
    """Ask for one message. The key is in the body: in a query it would stand in logs."""
    found = _MAINLAND.fullmatch(message.recipient.address)
    if not found:
        return Rejected("number_unsupported", "not a mobile number of the mainland")
    params = fill_named(settings.params, message)
    form = (
        f"key={settings.form_key}&mobile={found[1]}&tpl_id={quote_plus(choose(settings.template, message.locale))}"
        f"&{settings.form}={quote_plus(values(settings.form, params))}"
    )
    return HttpRequest("POST", settings.url, _FIELDS, form.encode())


def values(form: Literal["vars", "tpl_value"], params: Mapping[str, str]) -> str:
    """Write the values. In tpl_value, #name#=value, each encoded, and once more by the form that carries it."""
    if form == "vars":
        return _WRITE(params)
    return "&".join(f"{quote(f'#{name}#', safe='~')}={quote(value, safe='~')}" for name, value in params.items())


def read(reply: HttpReply, message: Message) -> Outcome:  # noqa: ARG001 - the seam's shape
    """Read the answer to one request."""
    body = answer.of_reply(reply.body)
    result = answer.member(body, "result")
    sid = answer.text(result, "sid") or answer.number(result, "sid")
    said = answer.coded(answer.number(body, "error_code"), "0", sid, "sid")
    return answer.outcome(reply, said, _ERRORS, _OPEN)
