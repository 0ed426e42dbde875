"""Through which proxy does a call to a vendor leave? `outbound.proxy`, else what the environment says. Pure.

Law: the configured proxy takes every call. Without one, HTTPS_PROXY takes calls to https and HTTP_PROXY those to http,
but for the hosts of NO_PROXY; each name in either case, and the lower-case one outweighs, as curl and Python have it.
As with those two, no host is exempt by itself, this machine neither: NO_PROXY says so. A password is never shown.
"""

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from sidecar.config.findings import UnfitError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_RIGHT: Final = (
    'write "http://HOST:PORT" or "http://USER:PASSWORD@HOST:PORT", with "/", "#" and the like as %2F and %23'
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, and the Proxy-Authorization that it wants; "" for none."""

    url: str
    authorization: str = field(default="", repr=False)


def read_proxy(value: str) -> Proxy:
    """Read http://[user:pass@]host[:port]. Raises UnfitError."""
    try:
        parts = urlsplit(value)
        port = parts.port or (None if parts.port == 0 else _DEFAULT_PORTS["http"])
    except ValueError:
        raise UnfitError("is no address of a proxy", _RIGHT) from None
    odd = parts.path not in {"", "/"} or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", value)
    if parts.scheme in {"https", "socks4", "socks4a", "socks5", "socks5h"} and parts.hostname:
        raise UnfitError(f"is a proxy that is spoken to by {parts.scheme}, which is not in this version", _RIGHT)
    if parts.scheme != "http" or not parts.hostname or port is None or odd:
        raise UnfitError("is no address of a proxy", _RIGHT)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authorization = ""
    if parts.username is not None:
        userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"  # RFC 7617
        authorization = f"Basic {base64.b64encode(userinfo.encode()).decode()}"
    return Proxy(f"http://{host}:{port}", authorization)


class Proxies:
    """The proxies of one configuration. `env` is the environment's variables, by their names."""

    def __init__(self, configured: str, env: Mapping[str, str]) -> None:
        self._configured = read_proxy(configured) if configured else None
        self._env = env

    def of(self, url: str) -> Proxy | None:
        """Say which proxy a call to `url`, http or https, goes through; None: none.

        Raises UnfitError for a proxy of the environment that cannot be spoken to.
        """
        if self._configured is not None:
            return self._configured
        parts = urlsplit(url)
        name = f"{parts.scheme}_proxy"
        value = self._variable(name)
        if not value or is_exempt(parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme], self._exempt()):
            return None
        try:
            return read_proxy(value if "://" in value else f"http://{value}")
        except UnfitError as error:
            raise UnfitError(f"would be called through {name.upper()}, which {error.wrong}", error.right) from None

    def _exempt(self) -> str:
        return self._variable("no_proxy")

    def _variable(self, name: str) -> str:
        return self._env.get(name, self._env.get(name.upper(), "")).strip()


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Tell whether NO_PROXY, a list with commas or spaces, has a host.

    An entry is a name with all that is below it, an address, a network, each with or without a port, or "*" for every
    host. A dot or "*." before a name changes nothing.
    """
    name = host.lower().rstrip(".")
    return any(_has(entry.lower(), name, port) for entry in re.split(r"[\s,]+", no_proxy) if entry)


def _has(entry: str, name: str, port: int) -> bool:
    if entry == "*":
        return True
    found = re.fullmatch(r"\[(?P<v6>[^\]]*)\](?::(?P<p6>[0-9]+))?|(?P<name>[^:]*):(?P<p4>[0-9]+)", entry)
    if found:
        of_port = found["p6"] or found["p4"]
        if of_port and int(of_port) != port:
            return False
        entry = found["v6"] or found["name"] or ""
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    below = entry.removeprefix("*").strip(".")
    return bool(below) and (name == below or name.endswith(f".{below}"))
