"""Who asks, for what, and what will the log say of it? One request that is decided about, from its head to its answer.

To its connection it is a `Case` (`proxy/listener.py`), which is given the content, or told why none will come.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sidecar import language
from sidecar.config.model import Route
from sidecar.errors import Refusal
from sidecar.pages import browser
from sidecar.pages.pages import Resume
from sidecar.proxy.client import Client
from sidecar.proxy.fields import end_to_end
from sidecar.proxy.listener import Connection
from sidecar.proxy.messages import RawFields, Request
from sidecar.spelling import has_name, values

# No content is read for this visit.
NOTHING: Final = -1


class Desk(Protocol):
    """Who takes visits."""

    def begin(self, visit: "Visit", content: bytes) -> None: ...

    def refuse(self, visit: "Visit", refusal: Refusal) -> None: ...

    def left(self, visit: "Visit") -> None: ...


@dataclass(slots=True, eq=False)
class Visit:
    """One request on its way through.

    `started` is time.perf_counter(). `max_content`: how many octets of content are read, NOTHING for none.
    """

    desk: Desk
    request: Request
    connection: Connection
    client: Client
    request_id: str
    started: float
    action: str
    route: Route | None = None
    max_content: int = NOTHING
    is_costly: bool = False  # it is work: it counts among those that may be under way at once
    waits_behind: bool = False  # its asker was refused the last time, or it surely will be: others' turns come first
    refusal: Refusal | None = None  # what is known of it before it is decided
    why_read: str = ""  # one more sentence for who sends a larger content
    log: dict[str, Any] = field(default_factory=dict)
    status: int | None = None  # the answer's, once it is known
    resume: Resume | None = None  # what a hosted page would send again
    typed: str = ""  # the recipient as the request has it, for that page
    is_other_site: bool = False  # another site sent the form: no page holds it
    wish: str = ""  # the language where the route says that it stands
    is_over: bool = False
    stop: Callable[[], Any] | None = None  # breaks off what is being decided
    _raw: RawFields | None = None  # once somebody has asked

    # What its connection tells.

    @property
    def too_large(self) -> Refusal:
        """The refusal of more content than is read."""
        said = f"At most {self.max_content} bytes are read here.{self.why_read}"
        return Refusal("body_too_large", "guarded_body", said)

    def begin(self, content: bytes) -> None:
        self.desk.begin(self, content)

    def refuse(self, refusal: Refusal) -> None:
        self.desk.refuse(self, refusal)

    def left(self) -> None:
        self.desk.left(self)

    # What it says of itself.

    @property
    def raw(self) -> RawFields:
        """The fields that upstream would see: nobody decides by others."""
        if self._raw is None:
            self._raw = end_to_end(self.request.fields)
        return self._raw

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def target(self) -> str:
        """The request target as it came."""
        return self.request.target.decode("utf-8", "surrogateescape")

    @property
    def path(self) -> str:
        """The path that upstream gets, without the query."""
        return self.request.origin.partition(b"?")[0].decode("utf-8", "surrogateescape")

    def all(self, name: str) -> list[str]:
        """Return all values of a field, in whatever spelling."""
        return [value.decode("utf-8", "surrogateescape") for value in values(self.raw, name)]

    def header(self, name: str) -> str:
        """Return the first value of a field, in whatever spelling; "" for none."""
        found = values(self.raw, name)
        return found[0].decode("utf-8", "surrogateescape") if found else ""

    @property
    def locale(self) -> str:
        """The languages that the client takes, as `language.read` makes them."""
        accepted = b",".join(values(self.raw, "Accept-Language"))
        return language.read(self.wish, accepted.decode("utf-8", "surrogateescape"))

    @property
    def wants_page(self) -> bool:
        """True when the client is a browser that would show a page."""
        if not has_name(self.request.fields.names, b"accept"):
            return False
        accept = self.all("Accept")  # which Connection may have taken away
        return bool(accept) and browser.wants_page(accept)
