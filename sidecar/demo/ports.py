"""Which four ports does the demo take, and are they free? All on 127.0.0.1."""

import random
import socket
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
        """Take four in a row that nobody has now. Raises OSError if there are none.

        They are below those that a system gives to whoever asks for any port, so nobody is given one meanwhile.
        """
        for first in random.SystemRandom().sample(range(20_000, 30_000, 4), 2_500):
            ports = cls.in_a_row(first)
            if not ports.taken():
                return ports
        raise OSError(f"no four free ports in a row on {HOST}")

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
