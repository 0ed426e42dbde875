"""The development console: prints the message, code and all. Never for production.

No vendor, no page; the only place where a code is shown on purpose.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

from sidecar.config.model import Provider
from sidecar.delivery.providers.seam import Accepted, Message, Outcome
from sidecar.logs import Writer
from sidecar.recipient import Channel

CHANNELS: Final[Collection[Channel]] = frozenset({"sms", "email"})
RECEIPTS: Final = None

_STDOUT: Final = 1
_FLUSH_S: Final = 1.0


class Settings(Provider):
    """[providers.NAME] with kind = "console"."""

    kind: Literal["console"]


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator["Console"]:  # noqa: ARG001 - the seam's shape
    """Give the provider, on standard output. It never waits: who reads nothing of it gets what there is room for."""
    writer = Writer(_STDOUT)
    try:
        yield Console(lambda line: writer.put(line.encode("utf-8", "backslashreplace")))
    finally:
        await asyncio.to_thread(writer.flush, _FLUSH_S)
        writer.close()


class Console:
    """Takes everything. `write` is given one line, with its end."""

    channels = CHANNELS

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write

    async def send(self, message: Message, timeout_s: float) -> Outcome:  # noqa: ARG002 - the seam's shape
        """Print the message on one line."""
        self._write(f"{message.recipient.address}: {' '.join(message.text.split())}\n")
        return Accepted(message.id)
