"""The console prints one line."""

from sidecar.delivery.providers.console import Console
from sidecar.delivery.providers.seam import Accepted, Message
from sidecar.recipient import parse


async def test_console_prints_the_message_on_one_line() -> None:
    lines: list[str] = []
    text = "246810 is your code.\n\n@example.com #246810"
    message = Message("id-1", parse("a@example.com", "auto", "CN"), "en", "246810", 5, text)
    assert await Console(lines.append).send(message, 1.0) == Accepted("id-1")
    assert lines == ["a@example.com: 246810 is your code. @example.com #246810\n"]
