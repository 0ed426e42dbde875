"""Which four ports does the demo take, and are they free? All on 127.0.0.1."""

import socket
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from typing import Final

HOST: Final = "127.0.0.1"

# The last port of four in a row is at most 65535.
MAX_FIRST: Final = 65532


@dataclass(frozen=True, slots=True)
class Ports:
    public: int
    admin: int
    backend: int
    handset: int

    @classmethod
    def in_a_row(cls, first: int) -> "Ports":
        return cls(first, first + 1, first + 2, first + 3)

    @classmethod
    def any_free(cls) -> "Ports":
        """Take four that nobody has now; they are held together, so that they differ."""
        with ExitStack() as stack:
            held = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(4)]
            return cls(*(one.getsockname()[1] for one in held))

    def taken(self) -> str:
        """Name the first port that somebody else has, as "8081 (admin)"; empty when all are free."""
        for field, port in zip(fields(self), astuple(self), strict=True):
            try:
                socket.create_server((HOST, port)).close()
            except OSError:
                return f"{port} ({field.name})"
        return ""

    def url(self, name: str, path: str = "") -> str:
        """Give the URL of a listener by its name."""
        return f"http://{HOST}:{getattr(self, name)}{path}"
