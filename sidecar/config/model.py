"""The configuration as the program sees it: contract section 2, typed and frozen. Pure.

Durations are seconds, sizes bytes. Each table refuses keys that it does not know. What one table alone cannot say
(does this route's captcha exist?) is in `load.py`. Captcha and provider tables are read by their kind's own
`Settings`, which `load.py` is handed; this module imports none.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sidecar.config.units import (
    Count,
    Duration,
    Flag,
    Listen,
    ListenText,
    Network,
    NonEmpty,
    Positive,
    Rate,
    RateText,
    Size,
    Text,
)
from sidecar.recipient import NUMBER_TYPES


class Table(BaseModel):
    """A TOML table: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class TlsServer(Table):
    cert: Text = ""
    key: Text = ""


class Server(Table):
    listen: ListenText = Listen(host="127.0.0.1", port=8080)
    admin: ListenText = Listen(host="127.0.0.1", port=9090)
    trusted_proxies: tuple[Network, ...] = ()
    tls: TlsServer = TlsServer()
    max_guarded_body: Size = 64 << 10
    drain: Duration = 30.0
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


class Upstream(Table):
    url: NonEmpty = "http://127.0.0.1:8000"
    tls: TlsClient = TlsClient()
    connect_timeout: Duration = 1.0
    read_timeout: Duration = 60.0
    max_connections: Count = 0


class Store(Table):
    url: NonEmpty = "embedded"


class Identity(Table):
    header: NonEmpty = "X-Verified-Identity"
    algorithm: Literal["ES256", "EdDSA", "RS256", "HS256"] = "ES256"
    private_key: Text = ""
    secret: Text = ""
    issuer: NonEmpty = "signup-sidecar"
    audience: NonEmpty = "upstream"
    ttl: Duration = 60.0


class CodeRules(Table):
    length: Annotated[Positive, Field(ge=4, le=8)] = 6
    ttl: Annotated[Duration, Field(gt=0, le=600)] = 300.0  # NIST SP 800-63B-4 section 3.1.3.3: at most ten minutes
    attempts: Annotated[Positive, Field(le=10)] = 5
    failures: RateText = Rate(20, 3600.0)
    resend: Literal["same", "rotate"] = "same"
    origin: Text = ""


def _country(value: str) -> str:
    if len(value) != 2 or not value.isascii() or not value.isalpha() or not value.isupper():
        raise ValueError(f'{value!r} is no country; write an ISO 3166 alpha-2 code such as "CN"')
    return value


def _number_type(value: str) -> str:
    if value not in NUMBER_TYPES.values():
        raise ValueError(f"{value!r} is no number type; write one of {', '.join(sorted(NUMBER_TYPES.values()))}")
    return value


Country = Annotated[Text, AfterValidator(_country)]


class Numbers(Table):
    default_country: Country = "CN"
    countries: tuple[Country, ...] = ()
    block_types: tuple[Annotated[Text, AfterValidator(_number_type)], ...] = (
        "premium_rate",
        "toll_free",
        "voip",
        "pager",
    )
    test: dict[str, NonEmpty] = {}


class Limit(Table):
    key: Annotated[
        Text, Field(pattern=r"^(ip|ip_prefix|to|to_prefix|country|route|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+|global)$")
    ]
    rate: RateText
    burst: Positive | None = None  # None: the rate's count
    mode: Literal["enforce", "observe"] = "enforce"


class Captcha(Table):
    """What every captcha kind has; a kind's Settings extend it."""

    kind: NonEmpty
    timeout: Duration = 3.0
    on_failure: Literal["deny", "allow"] = "deny"
    failures: RateText = Rate(10, 60.0)


class Provider(Table):
    """What every provider kind has; a kind's Settings extend it."""

    kind: NonEmpty


class Delivery(Table):
    countries: tuple[Country, ...] = ()
    providers: Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
    strategy: Literal["priority"] = "priority"
    switch_after: Annotated[Duration, Field(gt=0)] = 1.0
    attempt_timeout: Annotated[Duration, Field(gt=0)] = 3.0
    deadline: Annotated[Duration, Field(gt=0)] = 5.0
    on_silence: Literal["switch"] = "switch"


class Api(Table):
    prefix: Annotated[Text, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/.sidecar"
    captcha: Text = "altcha"
    limits: tuple[NonEmpty, ...] = ("ip", "to")
    cors_origins: tuple[NonEmpty, ...] = ()


class Reply(Table):
    """An answer in the front end's own shape."""

    status: Annotated[Positive, Field(ge=200, le=599)] = 200
    json_body: Any = Field(default=None, alias="json")


Selector = Annotated[Text, Field(pattern=r"^(json|form|query|header):.+$")]


class Route(Table):
    match: Annotated[Text, Field(pattern=r"^(\*|[A-Z]+) /\S*$")]
    action: Literal["pass", "deny", "guard", "send", "verify"]
    to: Selector | None = None
    code: Selector | None = None
    captcha: Text = ""
    captcha_token: Selector | None = None
    limits: tuple[NonEmpty, ...] = ()
    mode: Literal["enforce", "observe"] = "enforce"
    channel: Literal["sms", "email", "auto"] = "sms"
    wait: Duration = 0.0
    reply: Reply | None = None
    errors: dict[str, Reply] = {}
    browser: Literal["", "page"] = ""


class Config(Table):
    server: Server = Server()
    upstream: Upstream = Upstream()
    store: Store = Store()
    identity: Identity = Identity()
    code: CodeRules = CodeRules()
    numbers: Numbers = Numbers()
    captcha: dict[str, Captcha] = {}
    limits: dict[str, Limit] = {}
    providers: dict[str, Provider] = {}
    delivery: tuple[Delivery, ...] = ()
    api: Api = Api()
    routes: tuple[Route, ...] = ()


# Keys and words of the contract whose feature comes in a later version: path -> values that are accepted now (what the
# contract says the default is), or () for none. `*` stands for any name or index.
LATER: Final[dict[str, tuple[Any, ...]]] = {
    "server.workers": (1,),
    "server.public_url": ("",),
    "server.proxy_protocol": (False,),
    "store.on_failure": ("deny",),
    "captcha.*.kind": ("turnstile", "yidun", "altcha"),
    "limits.*.mode": ("enforce", "observe"),
    "providers.*.kind": ("twilio", "webhook", "console"),
    "providers.*.rate": (),
    "providers.*.price": (),
    "providers.*.receipt_token": (),
    "delivery.*.operators": ([],),
    "delivery.*.provinces": ([],),
    "delivery.*.strategy": ("priority",),
    "delivery.*.on_silence": ("switch",),
    "delivery.*.breaker": (),
    "delivery.*.confirm_within": (),
    "pumping": (),
    "budget": (),
}

# The words that the contract gives to a LATER key, now or later; any other word is simply wrong.
CONTRACT_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "store.on_failure": ("deny", "local"),
    "captcha.*.kind": (
        "turnstile", "hcaptcha", "recaptcha", "yidun", "geetest", "tencent", "aliyun", "altcha", "slider",
    ),
    "limits.*.mode": ("enforce", "observe", "captcha"),
    "providers.*.kind": (
        "twilio", "aliyun", "aliyun-intl", "tencent", "juhe", "qiniu", "smtp", "webhook", "console",
    ),
    "delivery.*.strategy": ("priority", "weighted", "adaptive"),
    "delivery.*.on_silence": ("switch", "wait"),
}  # fmt: skip
