"""What does a request say of the browser that sent it? Whether it wants a page, and which site it comes from. Pure.

The law: only a request that no other site can have made may be held on a page of ours and sent on from there. What goes
on from our page looks like a request of our own site: with `SameSite=Strict` cookies and our `Origin`.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final
from urllib.parse import urlsplit

# Entries of Accept worth reading, and their length: a browser sends seven at most, in 200 characters.
_MAX_ENTRIES: Final = 32
_MAX_ACCEPT: Final = 2000
# RFC 9110 section 12.4.2.
_WEIGHT: Final = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_PAGE: Final = frozenset({"text/html", "application/xhtml+xml"})
_JSON: Final = re.compile(r"(?:application|text)/(?:[a-z0-9!#$&^_.-]+\+)?json")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# What Sec-Fetch-Site says of a request that no other site made: "none" is typed, or a bookmark. Fetch Metadata, 2.3.
_OWN_SITE: Final = frozenset({"same-origin", "none"})

_Origin = tuple[str, str, int]  # scheme, host, port


def wants_page(accept: Iterable[str]) -> bool:
    """True when the Accept fields name HTML before any JSON: by weight, then by order. RFC 9110 section 12.5.1."""
    return _wants_page(",".join(accept)[:_MAX_ACCEPT])


@functools.lru_cache(256)
def _wants_page(accept: str) -> bool:
    page = json = (0.0, 0)
    for place, entry in enumerate(accept.split(",")[:_MAX_ENTRIES]):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        weights = [text.removeprefix("q=") for text in parameters if text.startswith("q=")]
        if any(not _WEIGHT.fullmatch(text) for text in weights):
            continue
        rank = (float(weights[0]) if weights else 1.0, -place)
        if media in _PAGE:
            page = max(page, rank)
        elif _JSON.fullmatch(media):
            json = max(json, rank)
    return page[0] > 0 and page >= json


def is_from_another_site(
    site: Sequence[str], origin: Sequence[str], referer: Sequence[str], own_origins: Iterable[str]
) -> bool:
    """True unless what the browser says of the request's origin speaks for one of `own_origins`.

    Each argument is all values of its field: `Sec-Fetch-Site`, `Origin`, `Referer`. Any value that names another site
    counts, whatever the others say. A request with none of the three comes from no page that a browser would know of.
    """
    if any(value.strip().lower() not in _OWN_SITE for value in site):
        return True
    own = {_normal(one) for one in own_origins} - {None}
    if origin:
        return not all(_is_own(value, own, is_told=bool(site)) for value in origin)
    return not site and any(_normal(value) not in own for value in referer)


def _is_own(origin: str, own: AbstractSet[_Origin | None], *, is_told: bool) -> bool:
    """True when an Origin is ours; `is_told` says that the browser said so itself, in Sec-Fetch-Site.

    Then two more are: "null", for a site whose own Referrer-Policy is no-referrer; and our host under another scheme
    or port: a browser says so only where it trusts the connection, and a proxy that we do not trust may have ended it.
    """
    found = _normal(origin)
    if found in own:
        return True
    is_our_host = found is not None and any(one is not None and one[1] == found[1] for one in own)
    return is_told and (is_our_host or origin.strip() == "null")


def _normal(url: str) -> _Origin | None:
    """Scheme, host in lower case, and port; None where there is none. RFC 6454 section 4."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme, parts.hostname
    if scheme not in _DEFAULT_PORTS or not host:
        return None
    return scheme, host, _DEFAULT_PORTS[scheme] if port is None else port
