"""The configuration as the program sees it: contract section 2, typed and frozen. Pure.

Durations are seconds, sizes bytes. Each table refuses keys that it does not know. What one table alone cannot say
(does this route's captcha exist?) is in `checks.py`. Captcha and provider tables are read by their kind's own
`Settings`, which `load.py` is handed; this module imports none.
"""

import copyreg
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

import phonenumbers
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
    WrapSerializer,
)

from sidecar.assent import Scalar
from sidecar.config.findings import UnfitError, hide_userinfo, holds_secret, one_of, show
from sidecar.config.proxies import read_proxy
from sidecar.config.units import (
    Count,
    Duration,
    Listen,
    ListenText,
    ModeText,
    Network,
    NonEmpty,
    Positive,
    Rate,
    RateText,
    Size,
    Text,
    fitting,
    one_or_more,
    schema_text,
    text_or_list,
)
from sidecar.config.where import KeyPath
from sidecar.recipient import NUMBER_TYPES, OPERATORS, PROVINCES, UNKNOWN, example_of
from sidecar.spelling import alike
from sidecar.store.seeds import CLUSTER, CLUSTER_PORT, SENTINEL, SENTINEL_PORT, Seeds, take_wanted

_T = TypeVar("_T")
# A field name (RFC 9110 section 5.1).
_FIELD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


class Table(BaseModel):
    """A TOML table: frozen, and unknown keys are errors. Its repr has no secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self  # nothing in it changes

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            is_secret = value and name is not None and holds_secret((name,))
            yield name, "***" if is_secret else hide_userinfo(value) if isinstance(value, str) else value


def _frozen(value: Mapping[str, _T]) -> MappingProxyType[str, _T]:
    return MappingProxyType(dict(value))


# A configuration is read once and handed from process to process (`fleet`), which a read-only view alone cannot be.
copyreg.pickle(MappingProxyType, lambda view: (_frozen, (dict(view),)))


# A TOML table whose names are the user's own; read-only.
Named = Annotated[Mapping[str, _T], AfterValidator(_frozen), WrapSerializer(lambda value, dump: dump(dict(value)))]


class TlsServer(Table):
    cert: Text = ""
    key: Text = ""


# Far more than any machine has cores for; a number beyond it is a mistake.
_MOST_WORKERS: Final = 256


def _public_url(value: str) -> str:
    right = 'write "https://HOST", and the path before api.prefix if there is one'
    if not value:
        return value
    scheme, host, rest = _split_url(value, right)
    if scheme not in {"http", "https"} or not host or "?" in rest or "#" in rest:
        raise UnfitError("is no address that the world could reach", right)
    return value.rstrip("/")


def _split_url(value: str, right: str) -> tuple[str, str, str]:
    """Scheme, host with port, and all that follows. Raises UnfitError."""
    try:
        parts = urlsplit(value)
        port_fits = parts.port != 0
    except ValueError:
        port_fits = False
    if not port_fits or any(c.isspace() or not c.isprintable() for c in value):
        raise UnfitError("is no URL", right)
    if "@" in parts.netloc:
        raise UnfitError("names a user, which is not passed on", right)
    host = parts.netloc if parts.hostname else ""
    return parts.scheme, host, value.removeprefix(f"{value.partition('://')[0]}://{parts.netloc}")


def _worker_count(value: Any) -> Any:
    if value != "auto" and (type(value) is not int or not 1 <= value <= _MOST_WORKERS):
        raise UnfitError(
            "is no number of workers", f'write a number from 1 to {_MOST_WORKERS}, or "auto" for one per core'
        )
    return value


class Server(Table):
    listen: ListenText = Listen(host="127.0.0.1", port=8080)
    socket_mode: ModeText = 0o660
    admin: ListenText = Listen(host="127.0.0.1", port=9090)
    workers: Annotated[int | Literal["auto"], BeforeValidator(_worker_count)] = 1
    public_url: Annotated[Text, AfterValidator(_public_url)] = ""
    trusted_proxies: tuple[Network, ...] = ()
    tls: TlsServer = TlsServer()
    proxy_protocol: StrictBool = False
    keep_alive: Annotated[Duration, Field(gt=0)] = 75.0
    # Below 4 KiB a browser's ordinary request does not fit; above 1 MiB a few clients fill the memory.
    max_head: Annotated[Size, Field(ge=4 << 10, le=1 << 20)] = 64 << 10
    max_guarded_body: Annotated[Size, Field(ge=1)] = 64 << 10
    drain: Duration = 30.0
    drain_delay: Duration = 0.0
    state_dir: NonEmpty = "./state"
    secret: Text = ""
    previous_secrets: tuple[NonEmpty, ...] = ()
    log_format: Literal["json", "console"] = "json"
    access_log: Literal["guarded", "all", "off"] = "guarded"


class TlsClient(Table):
    ca: Text = ""
    cert: Text = ""
    key: Text = ""
    server_name: Text = ""


def _upstream_url(value: str) -> str:
    if value.startswith("unix:"):
        if not value.startswith("unix:/"):
            raise UnfitError("names no socket", 'write its whole path, such as "unix:/run/app.sock"')
        return value
    right = 'write "http://HOST:PORT", "https://HOST" or "unix:/path"'
    scheme, host, rest = _split_url(value, right)
    if scheme not in {"http", "https"} or not host:
        raise UnfitError("is no address of an upstream", right)
    if rest not in {"", "/"}:
        raise UnfitError(
            "has more than a host and a port",
            f'write "{scheme}://{host}": a path is passed on as the client asks for it',
        )
    return f"{scheme}://{host}"


class Upstream(Table):
    url: Annotated[NonEmpty, AfterValidator(_upstream_url)] = "http://127.0.0.1:8000"
    tls: TlsClient = TlsClient()
    connect_timeout: Annotated[Duration, Field(gt=0)] = 1.0
    read_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    max_connections: Count = 0
    # Whether upstream may take a method from a field, query or form; false: none of them is looked at.
    method_override: StrictBool = True


def called(value: str) -> str:
    """Check an address over http or https that the sidecar calls: host and port, and no user. Raises UnfitError."""
    right = 'write "https://HOST" or "https://HOST:PORT", and what follows'
    try:
        host = _split_url(value, right)[1]
        urlsplit(value).hostname.encode("idna") if host else b""  # type: ignore[union-attr]
    except UnicodeError:
        host = ""
    if not host:
        raise UnfitError("has no host that can be called", right)
    return value


def _proxy(value: str) -> str:
    if value:
        read_proxy(value)
    return value


class Outbound(Table):
    """Calls to vendors and captcha verifiers over HTTP."""

    # Takes every call; empty: HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment say (proxies.py).
    proxy: Annotated[Text, AfterValidator(_proxy)] = Field(default="", repr=False)
    ca: Text = ""  # a PEM file, instead of the system's authorities


_PASSWORD_ENDS: Final = UnfitError(
    "has a password with characters that end it",
    "write them percent-encoded: # as %23, / as %2F, ? as %3F, [ as %5B, ] as %5D (and % itself as %25)",
)


def _seeds(value: str, port: int, right: str) -> Seeds:
    """Read a URL that names several servers."""
    user = value.partition("://")[2].rpartition("@")[0]
    is_odd = bool(set(user) & set("#/?[]"))
    try:
        seeds = Seeds.read(value, port)
    except ValueError as error:
        raise (_PASSWORD_ENDS if is_odd else UnfitError(str(error), right)) from None
    if is_odd and "@" in seeds.name:
        raise _PASSWORD_ENDS
    return seeds


def _cluster_url(value: str) -> str:
    right = (
        f'write "{value.partition("://")[0]}://HOST:PORT,HOST:PORT", with USER:PASSWORD@ before all of them if need be'
    )
    seeds = _seeds(value, CLUSTER_PORT, right)
    databases = {number for name, number in parse_qsl(value.partition("?")[2]) if name == "db"}
    if {seeds.name, *databases} - {"", "0"}:
        raise UnfitError("names a database, and a cluster has one alone", right)
    return value


def _sentinel_url(value: str) -> str:
    right = (
        f'write "{value.partition("://")[0]}://HOST:PORT,HOST:PORT/NAME", where NAME is what the Sentinels call the'
        " primary, with the servers' USER:PASSWORD@ before all of them and ?sentinel_password= behind if need be"
    )
    name, slash, database = _seeds(value, SENTINEL_PORT, right).name.partition("/")
    if not name:
        raise UnfitError("does not say what its Sentinels call the primary", right)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UnfitError("has a NAME that no Sentinel takes", right)
    if slash and not re.fullmatch(r"[0-9]+", database):
        raise UnfitError("names no database by its number", f"{right}; /NAME/0 is its first database")
    return value


def _store_url(value: str) -> str:
    right = (
        'write "embedded", "redis://HOST:PORT/0", "rediss://HOST:PORT/0", "unix:///path", '
        '"redis+cluster://HOST:PORT,HOST:PORT" or "redis+sentinel://HOST:PORT,HOST:PORT/NAME"'
    )
    scheme, colon, _ = value.partition("://")
    if value == "embedded":
        return value
    try:
        take_wanted(value)
    except ValueError as error:
        raise UnfitError(str(error), "write ?wait_replicas=1, or leave it out") from None
    if colon and scheme in CLUSTER:
        return _cluster_url(value)
    if colon and scheme in SENTINEL:
        return _sentinel_url(value)
    if not colon or scheme not in {"redis", "rediss", "unix"}:
        raise UnfitError("is no address of a store", right)
    try:
        parts = urlsplit(value)
        has_place = parts.path.startswith("/") if scheme == "unix" else bool(parts.hostname) and parts.port != 0
        # Several servers have a scheme of their own.
        has_place = has_place and "," not in parts.netloc.rpartition("@")[2]
        # No Redis URL has a fragment, nor a query that says nothing: what comes before them was the password's.
        has_place = has_place and "#" not in value and all("=" in pair for pair in parts.query.split("&") if pair)
    except ValueError:
        has_place = False
    user = value.partition("://")[2].rpartition("@")[0]
    if (not has_place or "@" in parts.path) and not user.startswith("/") and set(user) & set("#/?[]"):
        raise _PASSWORD_ENDS
    if not has_place:
        raise UnfitError("is no address of a store", right)
    if scheme != "unix" and not re.fullmatch(r"(?:/[0-9]*)?", parts.path):
        raise UnfitError("names no database by its number", f'write "{scheme}://HOST:PORT/0"')
    return value


class Store(Table):
    url: Annotated[NonEmpty, AfterValidator(_store_url)] = "embedded"
    # `guard` routes while the store is away: refused, or decided by this process's own buckets.
    on_failure: Literal["deny", "local"] = "deny"


# Fields with which a message is framed or routed (RFC 9110, RFC 9112), and those that the sidecar itself reads or
# writes: a client's identity field is taken away, so an identity in one of them breaks what the field is for.
_NO_IDENTITY: Final = frozenset(
    {
        "connection", "content-length", "content-type", "expect", "host", "keep-alive", "te", "trailer",
        "transfer-encoding", "upgrade", "via",
        "cookie", "traceparent", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id",
        "x-verification-token",
    }
)  # fmt: skip


def _identity_field(value: str) -> str:
    if not re.fullmatch(_FIELD, value):
        raise UnfitError("is no field name", 'write letters, digits and "-", such as "X-Verified-Identity"')
    if alike(value.encode()).decode() in _NO_IDENTITY:
        raise UnfitError("has another meaning already", 'write a name of its own, such as "X-Verified-Identity"')
    return value


class Identity(Table):
    header: Annotated[Text, AfterValidator(_identity_field)] = "X-Verified-Identity"
    algorithm: Literal["ES256", "EdDSA", "RS256", "HS256"] = "ES256"
    private_key: Text = ""
    secret: Text = ""
    issuer: NonEmpty = "signup-sidecar"
    audience: NonEmpty = "upstream"
    ttl: Annotated[Duration, Field(ge=1)] = 60.0  # JWTs count whole seconds


# What may stand in a message of one's own, and what must.
_PLACES: Final = ("code", "minutes", "brand")


def _message_text(value: str) -> str:
    right = 'write "{code}", and "{minutes}" and "{brand}" if you like, such as "{brand}: {code} is your code"'
    for place in re.findall(r"\{([^{}]*)\}", value):
        if place not in _PLACES:
            raise UnfitError(f"has {{{place}}}, which nothing stands for", one_of(place, _PLACES))
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", value)):
        raise UnfitError("has a brace without its other half", right)
    if "{code}" not in value:
        raise UnfitError("has no {code} in it", right)
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f]", value):
        raise UnfitError("has control characters in it", "leave them out, but for line breaks")
    return value


MessageText = Annotated[Text, AfterValidator(_message_text), Field(min_length=1, max_length=1000)]


class CodeRules(Table):
    length: Annotated[Positive, Field(ge=4, le=8)] = 6
    ttl: Annotated[Duration, Field(gt=0, le=600)] = 300.0  # NIST SP 800-63B-4 section 3.1.3.3: at most ten minutes
    attempts: Annotated[Positive, Field(le=10)] = 5
    failures: RateText = Rate(20, 3600.0)
    failures_per_ip: RateText = Rate(30, 600.0)
    resend: Literal["same", "rotate"] = "same"
    # A host name, as origin-bound one-time codes have it; empty: no such line.
    origin: Annotated[
        Text,
        fitting(
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)?",
            "is no host name",
            'write the site alone, such as "example.com"',
        ),
    ] = ""
    brand: Annotated[
        Text, fitting(r"[^\x00-\x1f\x7f]{0,40}", "is no name", "write one line of up to 40 characters")
    ] = ""
    # https://developers.google.com/identity/sms-retriever/verify
    app_hash: Annotated[
        Text,
        fitting(
            r"(?:[A-Za-z0-9+/]{11})?", "is no hash of an app", "write the 11 characters that Android's tools make of it"
        ),
    ] = ""
    texts: Named[MessageText] = Field(default_factory=dict, validate_default=True)  # language (BCP 47) -> text


def _country(value: str) -> str:
    if value not in phonenumbers.SUPPORTED_REGIONS:
        code = {"UK": "GB"}.get(value.upper(), value.upper())
        right = (
            show(code) if code in phonenumbers.SUPPORTED_REGIONS else 'its ISO 3166 alpha-2 code, such as "CN" or "GB"'
        )
        raise UnfitError("is no country", f"write {right}")
    return value


def _number_type(value: str) -> str:
    if value not in NUMBER_TYPES.values():
        raise UnfitError("is no type of number", one_of(value, NUMBER_TYPES.values()))
    return value


Country = Annotated[Text, AfterValidator(_country), schema_text("^[A-Z]{2}$", "CN")]
NumberType = Annotated[
    Text, AfterValidator(_number_type), WithJsonSchema({"type": "string", "enum": sorted(NUMBER_TYPES.values())})
]


def _operator(value: str) -> str:
    if value not in (*OPERATORS, UNKNOWN):
        raise UnfitError("is no operator", one_of(value, (*OPERATORS, UNKNOWN)))
    return value


def _province(value: str) -> str:
    if value not in (*PROVINCES, UNKNOWN):
        raise UnfitError("is no province of China", one_of(value, (*PROVINCES, UNKNOWN)))
    return value


# "unknown" takes the numbers that the data says nothing of.
Operator = Annotated[Text, AfterValidator(_operator), WithJsonSchema({"type": "string", "enum": [*OPERATORS, UNKNOWN]})]
Province = Annotated[Text, AfterValidator(_province), WithJsonSchema({"type": "string", "enum": [*PROVINCES, UNKNOWN]})]
# A language range, RFC 4647 section 2.1: "en" takes en, en-GB, …
LANGUAGE_RANGE: Final = r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*"
LanguageRange = Annotated[Text, fitting(LANGUAGE_RANGE, "is no language", 'write it as "zh", "zh-Hant" or "en-GB"')]


# The beginning of numbers in E.164.
Prefix = Annotated[
    Text,
    fitting(r"\+[1-9][0-9]{1,13}", "is no beginning of a number", 'write "+" and the country code first: "+86149"'),
]


class Numbers(Table):
    default_country: Country = "CN"
    countries: tuple[Country, ...] = ()
    extra: tuple[Prefix, ...] = ()
    block_types: tuple[NumberType, ...] = ("premium_rate", "toll_free", "voip", "pager", "fixed_line")
    test: Named[NonEmpty] = Field(
        default_factory=dict, validate_default=True, repr=False
    )  # E.164 or folded e-mail address -> code

    @property
    def example(self) -> str:
        """A number to show to whoever typed none: one that these rules serve."""
        return example_of(self.default_country, self.countries, self.block_types)


# RFC 6793: 32 bits; 0 is nobody's (RFC 7607).
Asn = Annotated[Positive, Field(le=(1 << 32) - 1)]


# The beginning of numbers in E.164, up to whole ones: a country code is one.
Beginning = Annotated[
    Text,
    fitting(r"\+[1-9][0-9]{0,14}", "is no beginning of a number", 'write "+" and the country code first: "+8816"'),
]


class Listed(Table):
    """A table of [[block]] or [[allow]]. Of its conditions each that is there must hold; of one's values, any."""

    cidr: tuple[Network, ...] = ()
    prefix: tuple[Beginning, ...] = ()
    asn: tuple[Asn, ...] = ()
    asn_file: Text = ""  # a CSV: first and last address, or a network, and the number
    agent: tuple[NonEmpty, ...] = ()  # a part of User-Agent, in any case


LIMIT_KEYS: Final = ("ip", "ip_prefix", "to", "to_prefix", "country", "route", "global")


def _limit_key(value: str) -> str:
    if value in LIMIT_KEYS or re.fullmatch(f"header:{_FIELD}", value):
        return value
    raise UnfitError("is no key of a limit", one_of(value, [*LIMIT_KEYS, "header:NAME"]))


class Limit(Table):
    key: Annotated[
        Text, AfterValidator(_limit_key), schema_text(f"^({'|'.join(LIMIT_KEYS)}|header:{_FIELD})$", LIMIT_KEYS[0])
    ]
    rate: RateText
    burst: Positive | None = None  # None: the rate's count
    mode: Literal["enforce", "observe", "captcha"] = "enforce"


class Captcha(Table):
    """What every captcha kind has; a kind's Settings extend it."""

    # The keys whose values the widget in a browser needs, so they are no secrets; and those that it cannot do without
    # where the kind itself can.
    widget_keys: ClassVar[tuple[str, ...]] = ()
    page_needs: ClassVar[tuple[str, ...]] = ()

    kind: NonEmpty
    timeout: Annotated[Duration, Field(gt=0)] = 3.0
    on_failure: Literal["deny", "allow"] = "deny"
    failures: RateText = Rate(10, 60.0)

    def widget(self) -> dict[str, str]:
        """What the widget in a browser is told: no secret."""
        return {key: str(getattr(self, key)) for key in self.widget_keys}

    def doubtful(self) -> Iterable["Doubt"]:
        """What works, and is likely not what was meant."""
        return ()


# The captchas of a route, in the order in which they are offered: the next one where the one before is away.
Captchas = Annotated[tuple[NonEmpty, ...], BeforeValidator(one_or_more)]


# Of one table: the way to a key in it, what is wrong with its value ("is no …"), what would be right.
Doubt = tuple[KeyPath, str, str]


# An amount of money, in the budget's currency. A billion of it in millionths is a whole number to a double.
Amount = Annotated[float, Field(strict=True, ge=0, le=1_000_000_000, allow_inf_nan=False)]
_Limit = Annotated[float, Field(strict=True, gt=0, le=1_000_000_000, allow_inf_nan=False)]


def _budgets(value: Mapping[str, float]) -> Mapping[str, float]:
    for country in value:
        try:
            _country(country)
        except UnfitError as error:
            raise UnfitError(f"names {show(country)}, which is no country", error.right) from None
    return value


def _prices(value: Mapping[str, float]) -> Mapping[str, float]:
    _budgets({country: price for country, price in value.items() if country != "*"})
    return value


class Provider(Table):
    """What every provider kind has; a kind's Settings extend it."""

    # As many digits as the vendor's templates hold; `code.length` may be no more.
    longest_code: ClassVar[int] = 8

    kind: NonEmpty
    rate: RateText | None = None  # None: as fast as messages come
    # The last part of the path that the vendor posts receipts to; empty: it posts none, or signs them.
    receipt_token: Annotated[
        Text,
        Field(repr=False),
        fitting(r"(?:[A-Za-z0-9._~-]{16,})?", "is no secret part of a path", 'make one with "openssl rand -hex 16"'),
    ] = ""
    receipt_sources: tuple[Network, ...] = ()  # where its receipts come from; empty: anywhere
    # What one message costs, by country; "*" is every other, and messages to what has no country.
    price: Annotated[Named[Amount], AfterValidator(_prices)] = Field(default_factory=dict, validate_default=True)

    def unfit(self, code: "CodeRules") -> Iterable[Doubt]:  # noqa: ARG002 - kinds with templates look at it
        """What is fixed here and the vendor would surely refuse, whoever is sent to."""
        return ()

    def doubtful(self) -> Iterable[Doubt]:
        """What works, and is likely not what was meant."""
        return ()


class Breaker(Table):
    failures: Positive = 5  # in a row; or half of the last 20
    open_for: Annotated[Duration, Field(gt=0)] = 10.0


class Delivery(Table):
    """A delivery rule. Of its conditions each that is not empty must hold."""

    countries: tuple[Country, ...] = ()
    operators: tuple[Operator, ...] = ()
    provinces: tuple[Province, ...] = ()
    channels: tuple[Literal["sms", "email"], ...] = ()
    locales: tuple[LanguageRange, ...] = ()
    providers: Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
    strategy: Literal["priority", "weighted", "adaptive"] = "priority"
    weights: Named[Positive] = Field(default_factory=dict, validate_default=True)
    switch_after: Annotated[Duration, Field(gt=0)] = 1.0
    attempt_timeout: Annotated[Duration, Field(gt=0)] = 3.0
    deadline: Annotated[Duration, Field(gt=0)] = 5.0
    on_silence: Literal["switch", "wait"] = "switch"
    breaker: Breaker = Breaker()
    confirm_within: Annotated[Duration, Field(gt=0)] | None = None  # None: nothing is sent again


class Pumping(Table):
    """Against sends that are never verified (limits/pumping.py)."""

    mode: Literal["off", "observe", "enforce"] = "off"
    unverified: RateText = Rate(20, 86_400.0)
    ratio: Annotated[float, Field(strict=True, ge=0, le=10, allow_inf_nan=False)] = 0.3
    countries_per_ip: Positive = 3


class Budget(Table):
    """What messages may cost in a day (UTC)."""

    daily: _Limit | None = None  # None: without end
    by_country: Annotated[Named[_Limit], AfterValidator(_budgets)] = Field(default_factory=dict, validate_default=True)
    currency: Annotated[Text, fitting(r"[^\x00-\x1f\x7f]{0,10}", "is no currency", 'write its name, such as "CNY"')] = (
        ""
    )

    @property
    def is_set(self) -> bool:
        """True where anything is limited."""
        return self.daily is not None or bool(self.by_country)


def _prefix(value: str) -> str:
    if not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", value) or {".", ".."} & set(value.split("/")):
        raise UnfitError("is no prefix of a path", 'write one or more names after "/" each, such as "/.sidecar"')
    return value


def _origin(value: str) -> str:
    """Refuse what no browser sends as Origin: it would never be the same (Fetch standard, "serialize an origin")."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]_-]+", value):
        raise UnfitError("is no origin", 'write scheme and host and no more, such as "https://example.com"')
    sent = value.lower().removesuffix(":443" if value.startswith("https:") else ":80")
    if sent != value:
        raise UnfitError("is not as browsers send it", f"write {show(sent)}")
    return value


class Api(Table):
    prefix: Annotated[Text, AfterValidator(_prefix), schema_text(r"^(/[A-Za-z0-9._~-]+)+$", "/.sidecar")] = "/.sidecar"
    captcha: Annotated[Captchas, text_or_list("altcha")] = ("altcha",)
    captcha_after: Count = 0  # a check demands it after so many wrong codes for the recipient; 0: it never does
    limits: tuple[NonEmpty, ...] = ("ip", "to")
    send: StrictBool = True  # False: it checks codes that routes sent, and sends none
    cors_origins: tuple[Annotated[Text, AfterValidator(_origin)], ...] = ()


def _json(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise UnfitError("holds what JSON cannot say", "leave out dates, nan and inf, or write them as text") from None
    return value


class Reply(Table):
    """An answer in the front end's own shape."""

    status: Annotated[Positive, Field(ge=200, le=599)] = 200
    json_body: Annotated[Any, AfterValidator(_json)] = Field(default=None, alias="json")


def _selector(value: str) -> str:
    place, _, name = value.partition(":")
    right = 'write where the value is: "json:a.b", "form:x", "query:x" or "header:X"'
    if place not in {"json", "form", "query", "header"} or not name:
        raise UnfitError("is no selector", right)
    if place == "json" and (way := re.fullmatch(r"(?:\$\.|/)(\w+(?:[./]\w+)*)", name)):
        raise UnfitError("is written as another language has it", f'write "json:{way[1].replace("/", ".")}"')
    if place == "json" and "" in name.split("."):
        raise UnfitError("has an empty name in it", 'write the way to the value, such as "json:a.b"')
    if place == "header" and not re.fullmatch(_FIELD, name):
        raise UnfitError("names no field", 'write a field name after "header:", such as "header:X-Captcha"')
    return value


Selector = Annotated[Text, AfterValidator(_selector), schema_text(r"^(json|form|query|header):.+$", "json:phone")]


# What stands here for the patterns of other routers. Taken for plain letters, theirs would match no request, and the
# route would guard nothing.
_ONE_SEGMENT: Final = 'write "{name}" for any one segment'
_THE_REST: Final = 'write "/*" at the end for all that is below a path, "{name}" for any one segment'


def _match(value: str) -> str:
    """Refuse what could never match as it is meant."""
    if not re.fullmatch(r"(?:\*|[A-Z]+(?:-[A-Z]+)*) /[^\s?#]*", value):
        raise UnfitError(
            "is no method and path",
            'write a method in capitals (or "*"), a space and a path without query, such as "POST /api/sms/code"',
        )
    path = value.partition(" ")[2]
    for segment in path.removesuffix("/*").split("/"):
        if "*" in segment:
            raise UnfitError('has a "*" that is not the whole end of the path, and would never match', _THE_REST)
        if "\\" in segment or segment.startswith("^"):
            raise UnfitError("has signs of a regular expression, which is not read here", _THE_REST)
        is_name = re.fullmatch(r"\{[A-Za-z_][A-Za-z0-9_-]*\}", segment)
        if not is_name and re.search(r"[{}]|^:[A-Za-z_]|^<.*>$|^\[.*\]$", segment):
            raise UnfitError(f"has the segment {show(segment)}, which means nothing here", _ONE_SEGMENT)
        if segment in {".", ".."}:
            raise UnfitError("has a dot segment, which no request has once it is read", "write the path it comes to")
    return value


def _members(value: Mapping[str, Any]) -> Mapping[str, Scalar]:
    """Write tables in tables as ways into them: { a = { b = 1 } } is { "a.b" = 1 }. Raises UnfitError."""
    found: dict[str, Scalar] = {}
    for way, wanted in _ways(value):
        if way in found:
            raise UnfitError(f"names {show(way)} twice", "name it once")
        found[way] = wanted
    if not found:
        raise UnfitError("names no member", "write the way to one and its value, such as { code = 0 }")
    return MappingProxyType(found)


def _ways(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Scalar]]:
    for name, inner in value.items():
        way = before + name
        if "" in way.split("."):
            raise UnfitError("has an empty name in it", 'write the way to the member, such as "data.ok"')
        if isinstance(inner, Mapping):
            yield from _ways(inner, f"{way}.")
        elif isinstance(inner, str) or (isinstance(inner, int | float) and math.isfinite(inner)):
            yield way, inner
        else:
            raise UnfitError(f"has a {show(way)} that no member can be", "write a text, a number, true or false")


class SpendWhen(Table):
    """When upstream's 2xx or 3xx is a yes: all these members of its JSON have these values. "a.b" is nested."""

    members: Annotated[Named[Any], AfterValidator(_members), Field(alias="json"), WithJsonSchema({"type": "object"})]


class Route(Table):
    match: Annotated[
        Text,
        AfterValidator(_match),
        schema_text(r"^(\*|[A-Z]+(-[A-Z]+)*) /[^\s?#*]*(/\*)?$", "POST /api/sms/code"),
    ]
    action: Literal["pass", "deny", "guard", "send", "verify"]
    to: Selector | None = None
    code: Selector | None = None
    captcha: Annotated[Captchas, text_or_list()] = ()
    captcha_after: Positive | None = None  # None: always; else from so many wrong codes for the recipient on
    captcha_token: Selector | None = None
    limits: tuple[NonEmpty, ...] = ()
    mode: Literal["enforce", "observe"] = "enforce"
    channel: Literal["sms", "email", "auto"] = "sms"
    country: Selector | None = None  # None: numbers.default_country reads national numbers
    locale: Selector | None = None  # None: Accept-Language says it
    wait: Duration = 0.0
    reply: Reply | None = None
    errors: Named[Reply] = Field(default_factory=dict, validate_default=True)
    browser: Literal["", "page"] = ""
    spend_when: SpendWhen | None = None  # None: a 2xx or 3xx is a yes


class Config(Table):
    server: Server = Server()
    upstream: Upstream = Upstream()
    outbound: Outbound = Outbound()
    store: Store = Store()
    identity: Identity = Identity()
    code: CodeRules = CodeRules()
    numbers: Numbers = Numbers()
    captcha: Named[Captcha] = Field(default_factory=dict, validate_default=True)
    limits: Named[Limit] = Field(default_factory=dict, validate_default=True)
    providers: Named[Provider] = Field(default_factory=dict, validate_default=True)
    delivery: tuple[Delivery, ...] = ()
    block: tuple[Listed, ...] = ()
    allow: tuple[Listed, ...] = ()
    pumping: Pumping = Pumping()
    budget: Budget = Budget()
    api: Api = Api()
    routes: tuple[Route, ...] = ()
