"""Who carries the message? Two simulated SMS operators that check what they are sent as real ones do.

Operator a speaks Twilio's Messages API, operator b takes our signed webhook. Law: what they accept appears on the
handset, what they refuse does not. Their states are the handset page's switches.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from sidecar.demo.handset import Handset

# Longer than any attempt waits: the answer is lost, the message is not.
SLOW_S: Final = 4.0

# Standard Webhooks: "prevent replay attacks"; its libraries take five minutes.
_TOLERANCE_S: Final = 300.0

_E164: Final = re.compile(r"\+[1-9]\d{6,14}")


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the operators gave their customer, the sidecar."""

    account_sid: str
    auth_token: str
    sender: str
    webhook_secret: str  # Standard Webhooks: whsec_ and base64

    def __repr__(self) -> str:  # the token and the secret stay out of tracebacks
        return f"Accounts({self.account_sid})"


def open_accounts() -> Accounts:
    return Accounts(
        account_sid=f"AC{secrets.token_hex(16)}",
        auth_token=secrets.token_hex(16),
        sender="+15005550006",
        webhook_secret=f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
    )


class Operators:
    """Both operators' endpoints, in front of one handset."""

    def __init__(self, handset: Handset, accounts: Accounts, slow_s: float = SLOW_S) -> None:
        self._handset = handset
        self._accounts = accounts
        self._slow_s = slow_s

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/twilio/2010-04-01/Accounts/{sid}/Messages.json", self._as_its_state("a", self._twilio)),
            web.post("/webhook", self._as_its_state("b", self._webhook)),
        ]

    def _as_its_state(
        self, name: str, answer: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            if self._handset.states[name] == "dead":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()  # written to nobody
            await request.read()
            if self._handset.states[name] == "slow":
                await asyncio.sleep(self._slow_s)
            return await answer(request)

        return handle

    async def _twilio(self, request: web.Request) -> web.Response:
        """POST Messages. https://www.twilio.com/docs/messaging/api/message-resource"""
        sid, token = self._accounts.account_sid, self._accounts.auth_token
        expected = f"Basic {base64.b64encode(f'{sid}:{token}'.encode()).decode()}"
        given = request.headers.get("Authorization", "")
        if request.match_info["sid"] != sid or not hmac.compare_digest(given.encode(), expected.encode()):
            return _twilio_error(401, 20003, "Authenticate")
        form = {k: v for k, v in (await request.post()).items() if isinstance(v, str)}
        to, text = form.get("To", ""), form.get("Body", "")
        if not to:
            return _twilio_error(400, 21604, "A 'To' phone number is required.")
        if not _E164.fullmatch(to):
            return _twilio_error(400, 21211, "The 'To' number is not a valid phone number.")
        if form.get("From") != self._accounts.sender:
            return _twilio_error(400, 21606, "The 'From' phone number provided is not a valid message-capable number.")
        if not text:
            return _twilio_error(400, 21602, "Message body is required.")
        self._handset.deliver(to, text, "a")
        message = {"sid": f"SM{secrets.token_hex(16)}", "status": "queued", "to": to, "from": self._accounts.sender}
        more = {"account_sid": sid, "num_segments": "1", "error_code": None, "error_message": None, "price": None}
        return web.json_response(message | more, status=201)

    async def _webhook(self, request: web.Request) -> web.Response:
        """Our own contract: a JSON message, signed as Standard Webhooks 1.0 has it."""
        body = await request.read()
        if not is_signed(request, body, self._accounts.webhook_secret, time.time()):
            return web.json_response({"error": "the signature or its timestamp is wrong"}, status=401)
        to, text = _read_message(body)
        if not text or not _E164.fullmatch(to):
            return web.json_response({"error": 'expected JSON with "to" (E.164) and "text"'}, status=400)
        self._handset.deliver(to, text, "b")
        return web.Response(status=202)


def is_signed(request: web.Request, body: bytes, secret: str, now: float) -> bool:
    """True when one of the signatures is ours and fresh. https://www.standardwebhooks.com, "Verifying webhooks"."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message_id = request.headers.get("webhook-id", "")
    timestamp = request.headers.get("webhook-timestamp", "")
    if not message_id or not re.fullmatch(r"[0-9]{1,12}", timestamp) or abs(now - int(timestamp)) > _TOLERANCE_S:
        return False
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    expected = f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"
    given = request.headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(one.encode(), expected.encode()) for one in given)


def _read_message(body: bytes) -> tuple[str, str]:
    """`to` and `text` of the JSON message, empty where they are missing."""
    try:
        document: Any = json.loads(body)
    except ValueError:
        document = None
    fields = document if isinstance(document, dict) else {}
    return str(fields.get("to", "")), str(fields.get("text", ""))


def _twilio_error(status: int, code: int, message: str) -> web.Response:
    more_info = f"https://www.twilio.com/docs/errors/{code}"
    document = {"code": code, "message": message, "more_info": more_info, "status": status}
    return web.json_response(document, status=status)
