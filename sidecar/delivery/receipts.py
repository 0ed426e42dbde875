"""What do vendors report, and is it really they? The receipts endpoint of every provider.

A vendor that signs is believed by its signature. One that signs nothing is given a secret path
(`providers.NAME.receipt_token`) and, where they are written, believed from its own addresses only
(`receipt_sources`). Whatever else is posted here finds nothing; and only ids of messages that we sent move anything.
"""

import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Final
from urllib.parse import parse_qs, quote

from sidecar.config.model import Provider
from sidecar.delivery.ledger import Ledger, Moved
from sidecar.delivery.providers.seam import Receipt, ReceiptReply
from sidecar.errors import Refusal

# Told of every receipt that is news of a message.
Told = Callable[[Moved], Awaitable[None]]
# What may be a telephone number: no vendor's code of a failure is so long.
_NUMBER: Final = re.compile(r"\d{7,}")
# What carries our message's id in an address that is given to a vendor with the message.
_REF: Final = "ref"


class Receipts:
    """The receipts of one configuration's providers. `settings` and their kinds by the provider's name.

    `url` is how the world reaches the endpoint, without the provider's name; "" when nobody said.
    """

    def __init__(
        self, settings: Mapping[str, Provider], kinds: Mapping[str, ModuleType], url: str, ledger: Ledger, told: Told
    ) -> None:
        self._settings = settings
        self._kinds = kinds
        self._url = url
        self._ledger = ledger
        self._told = told

    async def take(
        self, name: str, token: str | None, query: str, client_ip: str, fields: Mapping[str, str], body: bytes
    ) -> ReceiptReply:
        """Take one request of a vendor's. `fields` have lower-case names. Raises Refusal, StoreAwayError."""
        kind = self._believed(name, token, query, client_ip, fields, body)
        try:
            said: tuple[Receipt, ...] = kind.receipts(fields, body)
        except ValueError:
            raise Refusal("malformed_request", "no_receipt", "Expected receipts as the vendor writes them.") from None
        ref = parse_qs(query).get(_REF, [None])[0]
        for one in said:
            # A vendor's text may quote the recipient, and goes into the log and the store.
            code = _NUMBER.sub("*", one.vendor_code)
            receipt = replace(one, client_ref=one.client_ref or ref, vendor_code=code)
            moved = await self._ledger.received(name, receipt)
            if moved is not None:
                await self._told(moved)
        reply: ReceiptReply = kind.RECEIPT_REPLY
        return reply

    def _believed(
        self, name: str, token: str | None, query: str, client_ip: str, fields: Mapping[str, str], body: bytes
    ) -> ModuleType:
        """The provider's kind, when it is really the vendor. Raises Refusal, the same for every reason."""
        settings = self._settings.get(name)
        kind = self._kinds.get(settings.kind) if settings is not None else None
        if settings is None or kind is None or not hasattr(kind, "receipts"):
            raise _nothing("no_receipts_of_it")
        if not hmac.compare_digest(settings.receipt_token.encode(), (token or "").encode("utf-8", "surrogatepass")):
            raise _nothing("receipt_token")
        if settings.receipt_sources:
            address = ipaddress.ip_address(client_ip)
            if not any(address in network for network in settings.receipt_sources):
                raise _nothing("receipt_source")
        if not hasattr(kind, "receipt_signature_ok"):
            if not settings.receipt_token:
                raise _nothing("receipts_not_asked_for")
            return kind
        url = callback_url(self._url, name, settings)
        if url is None or not kind.receipt_signature_ok(settings, url + (query and f"?{query}"), fields, body):
            raise _nothing("receipt_signature")
        return kind


def may_come(url: str, settings: Provider, kind: ModuleType) -> bool:
    """True when this provider can report here: its vendor signs and has an address to do so, or knows a secret path."""
    if not hasattr(kind, "receipts"):
        return False
    return bool(url if hasattr(kind, "receipt_signature_ok") else settings.receipt_token)


def callback_url(url: str, name: str, settings: Provider) -> str | None:
    """Where a vendor shall report to; None when nobody said how the world reaches us."""
    token = settings.receipt_token
    return f"{url}/{name}{f'/{token}' if token else ''}" if url else None


def with_ref(callback_url: str, message_id: str) -> str:
    """Where a vendor shall report to of this message: the receipt names our id even when the answer was lost."""
    return f"{callback_url}?{_REF}={quote(message_id, safe='')}"


def _nothing(reason: str) -> Refusal:
    return Refusal("not_found", reason)
