"""How does the sidecar ask a vendor? One HTTP call with one time limit.

It alone knows "never sent" from "no answer". Used by captcha and provider kinds. Never follows redirects, never
retries, never reads more than `MAX_REPLY`.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import yarl

# The largest documented vendor answer is a few KiB.
MAX_REPLY: Final = 64 << 10
# The share of a call's time that its connection may take.
_TO_CONNECT: Final = 0.9


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
    """Surely no octet of the request reached the vendor: no address, refused, no TLS, or the time was up before."""


class NoAnswerError(Exception):
    """The request may have been taken, and no whole answer came."""


def open_session() -> aiohttp.ClientSession:
    """Make the pooled session that every vendor call shares. Must run inside the loop."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
    )


async def call(session: aiohttp.ClientSession, request: HttpRequest, timeout_s: float) -> HttpReply:
    """Ask once. Raises NeverSentError or NoAnswerError; answers of every status are returned.

    A connection that is not there after nine tenths of `timeout_s` is given up: that surely comes before the time is up
    for the whole, and so the two time-outs can be told apart.
    """
    connect_s = _TO_CONNECT * timeout_s
    names = {name.lower() for name, _ in request.fields}
    try:
        async with session.request(
            request.method,
            yarl.URL(request.url, encoded=True),
            headers=list(request.fields),
            data=request.body or None,
            # aiohttp would add a Content-Type that the request's signature does not know.
            skip_auto_headers=[] if "content-type" in names else ["Content-Type"],
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s, connect=connect_s, sock_connect=connect_s),
        ) as reply:
            body = await reply.content.read(MAX_REPLY + 1)
            while len(body) <= MAX_REPLY and (more := await reply.content.read(MAX_REPLY + 1 - len(body))):
                body += more
            if len(body) > MAX_REPLY:
                raise NoAnswerError("the answer is larger than any documented one")
            return HttpReply(reply.status, {k.lower(): v for k, v in reply.headers.items()}, body)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, ssl.SSLError) as error:
        raise NeverSentError(type(error).__name__) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NoAnswerError(type(error).__name__) from error
