"""How does the sidecar ask a vendor? One HTTP call with one time limit, straight or through a proxy.

It alone knows "never sent" from "no answer". Used by captcha and provider kinds. Never follows redirects, never
retries, never reads more than `MAX_REPLY`.
"""

import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
import yarl

from sidecar.config.proxies import Proxies

# The largest documented vendor answer is a few KiB.
MAX_REPLY: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, its URL already percent-encoded: the octets given here are those that leave."""

    method: str
    url: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def __repr__(self) -> str:  # the fields and the body hold secrets and codes
        return f"HttpRequest({self.method})"


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer. `fields` has lower-case names."""

    status: int
    fields: Mapping[str, str]
    body: bytes


class NeverSentError(Exception):
    """Surely no octet of the request reached the vendor.

    No address, refused, no TLS, a proxy that would not connect, or the time was up before.
    """


class NoAnswerError(Exception):
    """The request may have been taken, and no whole answer came."""


@dataclass(slots=True)
class _Line:
    """Whether a call has its connection, TLS and tunnel and all: before that, nothing of the request was sent."""

    is_open: bool = False


_line: ContextVar[_Line] = ContextVar("_line")


class _Connector(aiohttp.TCPConnector):
    """Opens connections, and notes of the call in whose task it does so that it has one."""

    async def connect(self, *request: Any, **rest: Any) -> Any:
        connection = await super().connect(*request, **rest)
        _line.get().is_open = True
        return connection


class Session:
    """The pooled connections that every call shares. Must be made inside the loop; closed at its block's end.

    `ca` is a PEM file of the authorities to believe; "": the system's. Raises OSError for one that cannot be read.
    """

    def __init__(self, proxies: Proxies, ca: str) -> None:
        self.proxies = proxies
        self.http = aiohttp.ClientSession(
            connector=_Connector(limit=0, ttl_dns_cache=60, ssl=ssl.create_default_context(cafile=ca) if ca else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self.http.close()


def open_session(proxies: Proxies | None = None, ca: str = "") -> Session:
    """Make a session, as `Session` has it. No proxies: every call goes straight."""
    return Session(proxies or Proxies("", {}), ca)


async def call(session: Session, request: HttpRequest, timeout_s: float) -> HttpReply:
    """Ask once. Raises NeverSentError or NoAnswerError; answers of every status are returned, but a proxy's own 407."""
    line = _Line()
    _line.set(line)
    fields = list(request.fields)
    names = {name.lower() for name, _ in fields}
    secure = request.url.startswith("https:")
    try:
        proxy = session.proxies.of(request.url)
        to_proxy = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        if not secure:  # the proxy reads the request itself, and no CONNECT before it
            fields += to_proxy.items()
        async with session.http.request(
            request.method,
            yarl.URL(request.url, encoded=True),
            headers=fields,
            proxy=proxy.url if proxy else None,
            proxy_headers=to_proxy if secure else None,
            data=request.body or None,
            # aiohttp would add a Content-Type that the request's signature does not know.
            skip_auto_headers=[] if "content-type" in names else ["Content-Type"],
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as reply:
            if proxy and not secure and reply.status == 407:
                raise NeverSentError("proxy_407")
            body = await reply.content.read(MAX_REPLY + 1)
            while len(body) <= MAX_REPLY and (more := await reply.content.read(MAX_REPLY + 1 - len(body))):
                body += more
            if len(body) > MAX_REPLY:
                raise NoAnswerError("the answer is larger than any documented one")
            return HttpReply(reply.status, {k.lower(): v for k, v in reply.headers.items()}, body)
    except aiohttp.ClientHttpProxyError as error:
        raise NeverSentError(f"proxy_{error.status}") from None  # what it quotes has the proxy's password
    except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: no address at all, or no proxy
        raise (NoAnswerError if line.is_open else NeverSentError)(type(error).__name__) from error
