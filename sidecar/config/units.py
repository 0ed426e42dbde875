"""The units of the configuration: "250ms", "1/60s", "64KiB", addresses and networks. Pure.

Each type is a pydantic annotation: it reads the TOML spelling, refuses every other with what would be right, and
describes itself in the JSON Schema. A value that is one already (30.0 for a duration) is taken from Python code, and
refused from a TOML file, where it would have no unit.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    WithJsonSchema,
)

from sidecar.config.findings import UnfitError

# The validation context that says: this comes from a TOML file.
FROM_TOML: Final = {"from": "toml"}
# By these the JSON Schema knows the units.
DURATION_EXAMPLE: Final = "60s"
SIZE_EXAMPLE: Final = "64KiB"

# Nine digits are 31 years in seconds; more are a slip of the hand, and floats would lose them.
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_COUNT: Final = re.compile(r"[1-9][0-9]{0,8}")
_SIZE: Final = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PORT: Final = re.compile(r"[0-9]{1,5}")
_MODE: Final = re.compile(r"0?[0-7]{3}")
_HOST: Final = re.compile(r"[A-Za-z0-9.:_-]*")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` in `period_s` seconds, leaking evenly."""

    count: int
    period_s: float

    def __str__(self) -> str:
        return f"{self.count}/{spell_duration(self.period_s)}"


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
    """Seconds of "250ms", "60s", "5m", "1h", "1d". Raises UnfitError."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise UnfitError("is no duration", 'write a number and its unit, such as "250ms", "60s", "5m" or "1h"')
    return float(found[1]) * _SECONDS[found[2]]


def read_rate(value: Any) -> Rate:
    """COUNT/PERIOD: "1/60s", "20/1h". Raises UnfitError."""
    count, _, period = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not _COUNT.fullmatch(count) or not _DURATION.fullmatch(period) or not read_duration(period):
        raise UnfitError("is no rate", 'write COUNT/PERIOD, both above zero, such as "1/60s" or "20/1h"')
    return Rate(int(count), read_duration(period))


def read_size(value: Any) -> int:
    """Bytes of "64KiB", "1MiB", "500B". Raises UnfitError."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise UnfitError("is no size", 'write a whole number and its unit, such as "64KiB", "1MiB" or "500B"')
    return int(found[1]) * _BYTES[found[2]]


def read_listen(value: Any) -> Listen:
    """host:port, [ipv6]:port, :port or unix:/path. Raises UnfitError."""
    wrong = UnfitError("is no address to listen on", 'write "127.0.0.1:8080", "[::1]:8080", ":8080" or "unix:/path"')
    if not isinstance(value, str):
        raise wrong
    if value.startswith("unix:"):
        if len(value) == len("unix:"):
            raise wrong
        return Listen(path=value.removeprefix("unix:"))
    host, colon, port = value.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if in_brackets else host
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise wrong
    if not _HOST.fullmatch(bare) or in_brackets != (":" in bare):
        raise wrong
    return Listen(host=bare, port=int(port))


def read_mode(value: Any) -> int:
    """A file's mode, as chmod has it: "0660", "600". Raises UnfitError."""
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise UnfitError("is no mode of a file", 'write it as chmod does, such as "0660" or "0600"')
    return int(value, 8)


def read_network(value: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read a CIDR, or one address; IPv4 written as IPv6 is IPv4, as addresses are. Raises UnfitError."""
    try:
        read = ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        pass
    else:
        mapped = read.network_address.ipv4_mapped if isinstance(read, ipaddress.IPv6Network) else None
        return read if mapped is None else ipaddress.IPv4Network((mapped, read.prefixlen - 96))
    try:
        near = ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise UnfitError("is no network", 'write a CIDR such as "10.0.0.0/8" or "2001:db8::/32"') from None
    raise UnfitError("is an address inside a network", f'write the network "{near}", or the address with no "/…"')


def spell_duration(seconds: float) -> str:
    """Write seconds in the largest unit that takes them whole."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = seconds / _SECONDS[unit]
        if seconds and count.is_integer():
            return f"{int(count)}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def spell_size(size: int) -> str:
    """Write bytes in the largest unit that takes them whole."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size % _BYTES[unit] == 0 and (size or unit == "B"))
    return f"{size // _BYTES[unit]}{unit}"


def _from_text(read: Callable[[Any], Any], *made: type) -> BeforeValidator:
    def validate(value: Any, info: ValidationInfo) -> Any:
        if type(value) in made and info.context != FROM_TOML:
            return value
        return read(value)

    return BeforeValidator(validate)


def schema_text(pattern: str, example: str) -> WithJsonSchema:
    """Describe a text in the JSON Schema."""
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


def fitting(pattern: str, wrong: str, right: str) -> AfterValidator:
    """Refuse a text that does not match the whole `pattern`, in words."""
    compiled = re.compile(pattern)

    def validate(value: str) -> str:
        if not compiled.fullmatch(value):
            raise UnfitError(wrong, right)
        return value

    return AfterValidator(validate)


Duration = Annotated[
    float,
    _from_text(read_duration, float),
    PlainSerializer(spell_duration),
    schema_text(r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$", DURATION_EXAMPLE),
]
RateText = Annotated[
    Rate,
    _from_text(read_rate, Rate),
    PlainSerializer(str),
    schema_text(r"^[1-9][0-9]*/[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$", "1/60s"),
]
Size = Annotated[
    int, _from_text(read_size, int), PlainSerializer(spell_size), schema_text(r"^[0-9]+(B|KiB|MiB|GiB)$", SIZE_EXAMPLE)
]
ListenText = Annotated[
    Listen,
    _from_text(read_listen, Listen),
    PlainSerializer(str),
    schema_text(r"^(unix:.+|.*:[0-9]{1,5})$", "127.0.0.1:8080"),
]
ModeText = Annotated[
    int,
    _from_text(read_mode, int),
    PlainSerializer(lambda mode: f"{mode:04o}"),
    schema_text(r"^0?[0-7]{3}$", "0660"),
]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    _from_text(read_network, ipaddress.IPv4Network, ipaddress.IPv6Network),
    PlainSerializer(str),
    schema_text(r"^[0-9A-Fa-f.:]+(/[0-9]+)?$", "10.0.0.0/8"),
]
Text = StrictStr


def one_or_more(value: Any) -> Any:
    """Read a text alone as a list of it, and an empty one as a list of none."""
    return ((value,) if value else ()) if isinstance(value, str) else value


def text_or_list(default: str = "") -> WithJsonSchema:
    """Describe what `one_or_more` reads in the JSON Schema."""
    of_texts = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    return WithJsonSchema({"anyOf": of_texts, "default": default})


NonEmpty = Annotated[StrictStr, Field(min_length=1)]
Flag = StrictBool
Count = Annotated[StrictInt, Field(ge=0)]
Positive = Annotated[StrictInt, Field(ge=1)]
