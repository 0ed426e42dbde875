"""Which servers does a store's URL name that names several? Their places, and how one is let in there. Pure.

One form for all: SCHEME://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME?OPTIONS, where user and password, `/NAME` and options
may be left out. User, password and options are one server's as redis-py spells them, and hold for every server.
"""

from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

# How the URLs begin that name several servers, without and with TLS, and where those listen that tell no port.
CLUSTER: Final = frozenset({"redis+cluster", "rediss+cluster"})
CLUSTER_PORT: Final = 6379
SENTINEL: Final = frozenset({"redis+sentinel", "rediss+sentinel"})
SENTINEL_PORT: Final = 26379
_WANTED: Final = "wait_replicas"
# More replicas than anybody has wait for nobody.
_MOST_WANTED: Final = 9


class Place(NamedTuple):
    """Where a server listens. `host` is a name or an address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Seeds(NamedTuple):
    """What such a URL says. `way_in`: the URL of one server alone, which lets in as all of them do."""

    places: tuple[Place, ...]
    name: str
    way_in: str

    @classmethod
    def read(cls, url: str, port: int) -> Self:
        """Read a URL; `port` is where a server listens that the URL tells no port of.

        Raises ValueError, which says what is wrong with it as one says it of a value ("names no server").
        """
        scheme, _, rest = url.partition("://")
        authority, question, options = rest.partition("?")
        if "#" in rest or not all("=" in pair for pair in options.split("&") if pair):
            raise ValueError("ends in what is no option")
        authority, _, name = authority.partition("/")
        user, at, hosts = authority.rpartition("@")
        if not hosts:
            raise ValueError("names no server")
        if "," in user:
            raise ValueError("has a comma before its @")
        places = tuple(_place(host, port) for host in hosts.split(","))
        way_in = f"{scheme.partition('+')[0]}://{user}{at}{places[0]}/0{question}{options}"
        return cls(places, name, way_in)


def take_wanted(url: str) -> tuple[str, int | None]:
    """Take out of any store's URL how many replicas must have what is to outlive a server; None: it does not say.

    Raises ValueError, as `Seeds.read`.
    """
    place, question, query = url.partition("?")
    options = [option for option in query.split("&") if option.partition("=")[0] != _WANTED]
    found = [option.partition("=")[2] for option in query.split("&") if option.partition("=")[0] == _WANTED]
    if not found:
        return url, None
    if len(found) > 1 or not found[0].isascii() or not found[0].isdigit() or int(found[0]) > _MOST_WANTED:
        raise ValueError(f"has a {_WANTED} that is no number from 0 to {_MOST_WANTED}")
    return f"{place}{question if options else ''}{'&'.join(options)}", int(found[0])


def _place(text: str, port: int) -> Place:
    try:
        parts = urlsplit(f"//{text}")
        host, told = parts.hostname, parts.port
    except ValueError:
        host, told = None, None
    if not host or told == 0 or parts.netloc != text or text.endswith(":"):
        raise ValueError("names a server that is no HOST:PORT")
    return Place(host, told or port)
