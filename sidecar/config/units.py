"""The units of the configuration: "250ms", "1/60s", "64KiB", addresses and networks. Pure.

Each type is a pydantic annotation: it reads the TOML spelling, refuses every other with what would be right, and
describes itself in the JSON Schema.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainSerializer, StrictBool, StrictInt, StrictStr, WithJsonSchema

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"(\d+)(B|KiB|MiB|GiB)")
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` in `period_s` seconds, leaking evenly."""

    count: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen, or whom to call: a TCP host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_duration(value: Any) -> float:
    """Seconds of "250ms", "60s", "5m", "1h", "1d"."""
    if isinstance(value, float):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'{value!r} is no duration; write "250ms", "60s", "5m" or "1h"')
    return float(found[1]) * _SECONDS[found[2]]


def read_rate(value: Any) -> Rate:
    """COUNT/PERIOD: "1/60s", "20/1h"."""
    if isinstance(value, Rate):
        return value
    count, slash, period = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not slash or not count.isdecimal() or int(count) == 0 or _DURATION.fullmatch(period) is None:
        raise ValueError(f'{value!r} is no rate; write COUNT/PERIOD with a count of 1 or more, such as "1/60s" or "20/1h"')
    period_s = read_duration(period)
    if period_s <= 0:
        raise ValueError(f'{value!r} has an empty period; write COUNT/PERIOD such as "1/60s"')
    return Rate(int(count), period_s)


def read_size(value: Any) -> int:
    """Bytes of "64KiB", "1MiB", "500B"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'{value!r} is no size; write "64KiB", "1MiB" or "500B"')
    return int(found[1]) * _BYTES[found[2]]


def read_listen(value: Any) -> Listen:
    """host:port, [ipv6]:port or unix:/path."""
    if isinstance(value, Listen):
        return value
    wrong = ValueError(f'{value!r} is no listener address; write "127.0.0.1:8080", "[::1]:8080" or "unix:/path"')
    if not isinstance(value, str):
        raise wrong
    if value.startswith("unix:"):
        if len(value) == len("unix:"):
            raise wrong
        return Listen(path=value.removeprefix("unix:"))
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise wrong
    return Listen(host=host.strip("[]"), port=int(port))


def read_network(value: Any) -> Any:
    try:
        return ipaddress.ip_network(value)
    except (ValueError, TypeError):
        raise ValueError(f'{value!r} is no network; write a CIDR such as "10.0.0.0/8" or "2001:db8::/32"') from None


def _text(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


def _back(value: Any) -> str:
    return str(value)


Duration = Annotated[float, BeforeValidator(read_duration), _text(r"^\d+(\.\d+)?(ms|s|m|h|d)$", "60s")]
RateText = Annotated[
    Rate, BeforeValidator(read_rate), PlainSerializer(_back), _text(r"^\d+/\d+(\.\d+)?(ms|s|m|h|d)$", "1/60s")
]
Size = Annotated[int, BeforeValidator(read_size), _text(r"^\d+(B|KiB|MiB|GiB)$", "64KiB")]
ListenText = Annotated[
    Listen, BeforeValidator(read_listen), PlainSerializer(_back), _text(r"^(unix:.+|.*:\d{1,5})$", "127.0.0.1:8080")
]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(read_network),
    PlainSerializer(_back),
    _text(".+", "10.0.0.0/8"),
]
Text = StrictStr
NonEmpty = Annotated[StrictStr, Field(min_length=1)]
Flag = StrictBool
Count = Annotated[StrictInt, Field(ge=0)]
Positive = Annotated[StrictInt, Field(ge=1)]
