"""What can one table alone not say? The rules between tables, and those that ask this machine's files.

Law: a check tells, it never mends; it reads files and changes none. It sees only what is right in itself (`Draft`), so
one mistake is told once.
"""

import difflib
import ipaddress
import os
import re
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar import language
from sidecar.asn import AsnFileError
from sidecar.config.findings import Findings, UnfitError, any_of, one_of, show, spell
from sidecar.config.model import (
    LANGUAGE_RANGE,
    Api,
    Budget,
    Captcha,
    CodeRules,
    Delivery,
    Identity,
    Limit,
    Listed,
    Numbers,
    Outbound,
    Provider,
    Pumping,
    Reply,
    Route,
    Server,
    Store,
    Upstream,
)
from sidecar.config.proxies import Proxies
from sidecar.config.units import Listen
from sidecar.config.where import KeyPath
from sidecar.errors import CODES, Refusal
from sidecar.recipient import parse
from sidecar.segments import segments

# Shorter ones can be searched: 16 random characters of base64 are 96 bits.
_SECRET_CHARS: Final = 16
# RFC 7518 section 3.2: a key of the hash's size, 256 bits.
_HS256_CHARS: Final = 32
# ITU-T E.164: at most 15 digits, the first one of a country code.
_E164: Final = re.compile(r"\+[1-9][0-9]{5,14}")

# Hosts that are this machine itself, and those of a listener on every address that it has.
_LOOPBACK: Final = "127.0.0.1"
_LOOPBACKS: Final = frozenset({_LOOPBACK, "localhost", "::1"})
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - read, not listened on

# A route's key -> the actions with which it means something.
_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "to": ("send", "verify"),
    "code": ("verify",),
    "captcha": ("guard", "send", "verify"),
    "captcha_after": ("verify",),
    "captcha_token": ("guard", "send", "verify"),
    "limits": ("guard", "send", "verify"),
    "mode": ("guard", "send", "verify"),
    "channel": ("send", "verify"),
    "country": ("send", "verify"),
    "locale": ("guard", "send", "verify"),
    "wait": ("send",),
    "reply": ("send",),
    "errors": ("guard", "send", "verify"),
    "browser": ("verify",),
    "spend_when": ("verify",),
}
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {"send": ("to",), "verify": ("to", "code")}
_SELECTORS: Final = {
    "to": 'say where the recipient is, such as to = "json:phone"',
    "code": 'say where the code is, such as code = "json:code"',
}
# The statuses whose answers have no content: RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
_WITHOUT_CONTENT: Final = frozenset({204, 205, 304})
# Limits that count by recipient, which a guarded request has none of.
_BY_RECIPIENT: Final = ("to", "to_prefix", "country")

# The conditions of [[block]] and [[allow]].
_CONDITIONS: Final = ("cidr", "prefix", "asn", "agent")

# Limits that bound what all clients together may cost: they bound nothing while there is a way round them.
_ON_ALL: Final = ("to_prefix", "country", "global")

# Limits on what is asked: whoever uses them up keeps others out.
_ON_WHAT: Final = frozenset({"to", "to_prefix", "country", "route", "global"})


@dataclass(frozen=True, slots=True)
class Draft:
    """The tables of a configuration, each right in itself, or None where it is not."""

    server: Server | None
    upstream: Upstream | None
    store: Store | None
    outbound: Outbound | None
    identity: Identity | None
    code: CodeRules | None
    numbers: Numbers | None
    pumping: Pumping | None
    budget: Budget | None
    captcha: Mapping[str, Captcha | None]
    limits: Mapping[str, Limit | None]
    providers: Mapping[str, Provider | None]
    delivery: Sequence[Delivery | None]
    block: Sequence[Listed | None]
    allow: Sequence[Listed | None]
    api: Api | None
    routes: Sequence[Route | None]


def check(
    draft: Draft,
    messages: Mapping[str, str],
    channels: Callable[[str], Collection[str]],
    networks: Callable[[str], object],
    findings: Findings,
    env: Mapping[str, str],
) -> None:
    """Tell everything that does not fit together.

    `messages` are the longest ones, by language; `channels` says what a kind of provider carries; `networks` reads an
    `asn_file`, and raises ValueError or OSError; `env` is the environment's variables.
    """
    if draft.server is not None:
        _server(draft.server, findings)
        if draft.upstream is not None:
            _own_listener(draft.upstream, draft.server, findings)
        if draft.store is not None and draft.store.url != "embedded" and not draft.server.secret:
            findings.warn(
                ("server", "secret"),
                "is missing: each instance on this store makes one of its own, and none starts beside another's",
                'write secret = "${NAME}", from the environment',
                ("store", "url"),
            )
    if draft.upstream is not None:
        _upstream(draft.upstream, findings)
    if draft.outbound is not None:
        _outbound(draft.outbound, draft, findings, env)
    if draft.identity is not None:
        _identity(draft.identity, findings)
    if draft.numbers is not None and draft.code is not None:
        _test_numbers(draft.numbers, draft.code, findings)
    if draft.code is not None:
        _code_length(draft.code, draft.providers, findings)
        _providers(draft.code, draft.providers, findings)
        _messages(draft.code, messages, findings)
    for name, captcha in draft.captcha.items():
        for way, wrong, right in captcha.doubtful() if captcha is not None else ():
            findings.warn(("captcha", name, *way), wrong, right)
    if draft.api is not None:
        _api(draft.api, draft, findings)
    _delivery(draft, findings)
    _carried(draft, channels, findings)
    _lists("block", draft.block, networks, findings)
    _lists("allow", draft.allow, networks, findings)
    if draft.pumping is not None:
        _pumping(draft.pumping, findings)
    if draft.budget is not None:
        _budget(draft.budget, draft, findings)
    for index, route in enumerate(draft.routes):
        if route is not None:
            _route(route, ("routes", index), draft, findings)
    _reachable([route.match if route else None for route in draft.routes], findings)
    if not findings.problems:  # or what is told may only follow from them
        _does_something(draft, findings)
        _other_methods(draft, findings)


# Single tables, with what they name…


def _server(server: Server, findings: Findings) -> None:
    _tls_pair(server.tls.cert, server.tls.key, ("server", "tls"), findings)
    if server.secret:
        _long_enough(server.secret, _SECRET_CHARS, ("server", "secret"), findings)
    for index, secret in enumerate(server.previous_secrets):
        _long_enough(secret, _SECRET_CHARS, ("server", "previous_secrets", index), findings)
    if _meet(server.listen, server.admin):
        findings.tell(
            ("server", "admin"), "is the public listener's own address", "write another port", ("server", "listen")
        )
    for key in ("listen", "admin"):
        folder = Path(getattr(server, key).path).parent
        if not folder.is_dir():
            findings.warn(("server", key), f"{show(str(folder))} is no folder", "make it, or name another")
    proxies = ("server", "trusted_proxies")
    # One that is misspelt is told already, and is not here.
    if server.proxy_protocol and not server.trusted_proxies and not any(path[:2] == proxies for path in findings.told):
        findings.tell(
            ("server", "proxy_protocol"),
            "is expected from server.trusted_proxies, and there is none",
            'name who sends it, such as trusted_proxies = ["10.0.0.0/8"], or leave proxy_protocol out',
        )
    for index, network in enumerate(server.trusted_proxies):
        if network.prefixlen == 0:
            findings.warn(
                (*proxies, index),
                "believes everybody, so a client may name any address as its own and no limit by address holds",
                "name the networks of your proxies alone",
            )
    _state_dir(Path(server.state_dir), findings)


def _meet(one: Listen, other: Listen) -> bool:
    """Return true if who asks for one address may get to the other."""
    if one.path or other.path:
        return one.path == other.path
    hosts = {_LOOPBACK if host in _LOOPBACKS else host for host in (one.host, other.host)}
    return one.port == other.port != 0 and (len(hosts) == 1 or bool(hosts & _EVERYWHERE))


def _own_listener(upstream: Upstream, server: Server, findings: Findings) -> None:
    """A request that comes back to us goes round for ever."""
    url = upstream.url
    if url.startswith("unix:"):
        called = Listen(path=url.removeprefix("unix:"))
    else:
        parts = urlsplit(url)
        called = Listen(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    for key in ("listen", "admin"):
        own: Listen = getattr(server, key)
        # The port of another machine's name is no port of ours, though we listen on every address that this one has.
        if _meet(own, called) and (own.host == called.host or called.host in {*_LOOPBACKS, *_EVERYWHERE}):
            findings.tell(
                ("upstream", "url"),
                f"is the sidecar's own address (server.{key})",
                "write where your service listens",
                ("server", key),
            )


def _state_dir(folder: Path, findings: Findings) -> None:
    path = ("server", "state_dir")
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except (OSError, ValueError):
        there, usable = folder, False
    if usable:
        return
    shown = show(str(folder))
    if there == folder:
        findings.tell(
            path, f"{shown} is no folder that this user may write to", "name one, or a new one where it may make it"
        )
    else:
        findings.tell(
            path, f"{shown} cannot be made in {show(str(there))}", "name a folder that this user may write to"
        )


def _upstream(upstream: Upstream, findings: Findings) -> None:
    tls = upstream.tls
    if not upstream.url.startswith("https://"):
        for key in ("ca", "cert", "key", "server_name"):
            if getattr(tls, key):
                findings.tell(
                    ("upstream", "tls", key),
                    "has no meaning without TLS",
                    'leave it out, or write url = "https://…"',
                    ("upstream", "url"),
                )
        return
    _tls_pair(tls.cert, tls.key, ("upstream", "tls"), findings)
    _ca(tls.ca, ("upstream", "tls", "ca"), findings)


def _outbound(outbound: Outbound, draft: Draft, findings: Findings, env: Mapping[str, str]) -> None:
    _ca(outbound.ca, ("outbound", "ca"), findings)
    proxies = Proxies(outbound.proxy, env)
    for table, made in (("captcha", draft.captcha), ("providers", draft.providers)):
        for name, settings in made.items():
            key = next((key for key in ("endpoint", "url") if hasattr(settings, key)), "")
            url = getattr(settings, key, "")
            if not url.startswith(("http://", "https://")):
                continue
            path = (table, name, key)
            try:
                proxied = proxies.of(url)
            except UnfitError as error:
                findings.tell(path, error.wrong, error.right, ("outbound",))
                continue
            if proxied is not None and _is_this_machine(url):
                findings.warn(
                    path,
                    f"is on this machine, and is called through the proxy {proxied.url}",
                    "leave outbound.proxy out, set HTTPS_PROXY instead, and name the host in NO_PROXY"
                    if outbound.proxy
                    else "name the host in NO_PROXY",
                )


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ca(ca: str, path: KeyPath, findings: Findings) -> None:
    if ca and _readable(ca, path, findings):
        try:
            ssl.create_default_context(cafile=ca)
        except (ssl.SSLError, ValueError):
            findings.tell(path, f"{show(ca)} has no certificate in it", "name a PEM file")


def _tls_pair(cert: str, key: str, path: KeyPath, findings: Findings) -> None:
    for mine, other, name, missing in ((cert, key, "cert", "key"), (key, cert, "key", "cert")):
        if mine and not other:
            findings.tell((*path, missing), f"is missing beside {name}", f"write both, or leave {name} out")
    readable = [_readable(file, (*path, name), findings) for file, name in ((cert, "cert"), (key, "key")) if file]
    if len(readable) != 2 or not all(readable):
        return
    try:
        # The password keeps an encrypted key from asking the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError, OSError):
        findings.tell(
            path,
            "cert and key do not fit each other",
            "name the PEM files of one certificate chain and its unencrypted key",
        )


def _readable(name: str, path: KeyPath, findings: Findings) -> bool:
    try:
        with Path(name).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no file name"
        findings.tell(path, f"{show(name)} cannot be read ({why})", "name a PEM file that this user may read")
        return False
    return True


def _identity(identity: Identity, findings: Findings) -> None:
    secret, private_key = ("identity", "secret"), ("identity", "private_key")
    if identity.algorithm == "HS256":
        if identity.private_key:
            findings.tell(private_key, "has no meaning with HS256", "leave it out, or write another algorithm")
        if identity.secret:
            _long_enough(identity.secret, _HS256_CHARS, secret, findings)
        else:
            findings.tell(
                secret, "is missing, which HS256 signs with", 'write secret = "${NAME}", from the environment'
            )
        return
    if identity.secret:
        findings.tell(
            secret,
            f"has no meaning with {identity.algorithm}",
            'leave it out, or write algorithm = "HS256"',
            ("identity", "algorithm"),
        )
    if not identity.private_key:
        return
    try:
        found: Any = serialization.load_pem_private_key(identity.private_key.encode(), password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        findings.tell(
            private_key, "is no unencrypted PEM private key", 'write it as private_key = "${file:/path/to/key.pem}"'
        )
        return
    fits, right = {
        "ES256": (isinstance(found, ec.EllipticCurvePrivateKey) and found.curve.name == "secp256r1", "a P-256 key"),
        "EdDSA": (isinstance(found, ed25519.Ed25519PrivateKey), "an Ed25519 key"),
        "RS256": (isinstance(found, rsa.RSAPrivateKey) and found.key_size >= 2048, "an RSA key of 2048 bits or more"),
    }[identity.algorithm]
    if not fits:
        findings.tell(private_key, f"is no key for {identity.algorithm}", f"give it {right}", ("identity", "algorithm"))


def _long_enough(secret: str, least: int, path: KeyPath, findings: Findings) -> None:
    if len(secret) < least:
        findings.tell(
            path,
            f"is shorter than {least} characters",
            'make one with "openssl rand -base64 32" and give it as "${NAME}"',
        )


def _code_length(code: CodeRules, providers: Mapping[str, Provider | None], findings: Findings) -> None:
    for name, provider in providers.items():
        if provider is not None and code.length > provider.longest_code:
            findings.tell(
                ("code", "length"),
                f"is more than providers.{name} can send",
                f"write {provider.longest_code}, or leave providers.{name} out",
            )


def _providers(code: CodeRules, providers: Mapping[str, Provider | None], findings: Findings) -> None:
    """What the kinds themselves say of their tables."""
    for name, provider in providers.items():
        if provider is None:
            continue
        for way, wrong, right in provider.unfit(code):
            path = ("providers", name, *way)
            findings.tell(path, f"{findings.shown(path)} {wrong}", right, ("code", "length"))
        for way, wrong, right in provider.doubtful():
            path = ("providers", name, *way)
            findings.warn(path, f"{findings.shown(path)} {wrong}", right)


def _messages(code: CodeRules, messages: Mapping[str, str], findings: Findings) -> None:
    """The texts of one's own, and which messages take more than one SMS."""
    if code.app_hash and code.origin:
        findings.tell(
            ("code", "app_hash"),
            "and origin are both the last line of a message",
            "leave one of them out",
            ("code", "origin"),
        )
    own: dict[str, str] = {}
    for tag, text in code.texts.items():
        path = ("code", "texts", tag)
        if not re.fullmatch(LANGUAGE_RANGE, tag):
            findings.tell(path, f"{show(tag)} is no language", 'write it as "zh", "zh-Hant" or "en-GB"')
        elif language.spelled(tag) in own:
            findings.tell(path, "is there twice", f"leave it out, or {show(own[language.spelled(tag)])}")
        elif "{brand}" in text and not code.brand:
            findings.tell(path, "has {brand}, and there is none", 'write code.brand = "…", or leave {brand} out')
        own.setdefault(language.spelled(tag), tag)
    long = {tag: count for tag, text in messages.items() if (count := segments(text)) > 1}
    for tag in own.keys() & long.keys():
        findings.warn(
            ("code", "texts", own[tag]), f"takes {long[tag]} SMS", "write it shorter, or what stands around it"
        )
    ours = [f"{tag} ({count})" for tag, count in long.items() if tag not in own]
    keys = [key for key in ("brand", "origin", "app_hash") if getattr(code, key)]
    if ours and keys:
        wrong = f"makes messages of more than one SMS: {', '.join(sorted(ours))}"
        findings.warn(("code", keys[0]), wrong, "write it shorter if you can")


def _test_numbers(numbers: Numbers, code: CodeRules, findings: Findings) -> None:
    for number, digits in numbers.test.items():
        path = ("numbers", "test", number)
        if not _E164.fullmatch(number) and (right := _folded_address(number)) != number:
            wrong, right = (
                ("is not as it is looked up", f"write {show(right)}")
                if right
                else (
                    "is no number in E.164, and no e-mail address",
                    'write "+", country code and number, such as "+8613800000000"',
                )
            )
            findings.tell(path, wrong, right)
        elif not re.fullmatch(rf"[0-9]{{{code.length}}}", digits):
            findings.tell(
                path, "is no code", f"write {code.length} digits in quotes, as code.length says", ("code", "length")
            )


def _folded_address(text: str) -> str:
    """The one spelling of an e-mail address that the store knows; "" for what is none."""
    try:
        return parse(text, "email", "ZZ").identity
    except Refusal:
        return ""


def _pumping(pumping: Pumping, findings: Findings) -> None:
    if pumping.model_fields_set and "mode" not in pumping.model_fields_set:
        findings.warn(
            ("pumping",), "has no mode, so nothing is watched", 'write mode = "observe", and look at it for a week'
        )


def _budget(budget: Budget, draft: Draft, findings: Findings) -> None:
    """Money needs prices: what has none costs nothing, and goes over no budget."""
    path = ("budget",)
    if not budget.is_set:
        if budget.model_fields_set and not any(told[:1] == path for told in findings.told):
            findings.tell(path, "limits nothing", "write daily = 500.0, or by_country = { US = 50.0 }")
        return
    providers = {name: provider for name, provider in draft.providers.items() if provider is not None}
    if providers and not any(provider.price for provider in providers.values()):
        # One whose table has a mistake may have a price, too.
        if len(providers) == len(draft.providers):
            findings.tell(
                path,
                "needs to know what a message costs, and no provider has a price",
                'write price = { CN = 0.045, "*" = 0.6 } below [providers.NAME]',
                ("providers",),
            )
        return
    for name, provider in providers.items():
        rules = [rule for rule in draft.delivery if rule is not None and name in rule.providers]
        countries = {country for rule in rules for country in rule.countries}
        if (
            "*" in provider.price
            or not rules
            or (all(rule.countries for rule in rules) and countries <= set(provider.price))
        ):
            continue
        wrong = "has no price for every country, so that some" if provider.price else "has no price, so that its"
        findings.warn(
            ("providers", name),
            f"{wrong} messages cost nothing to [budget]",
            'write the dearest as "*", such as price = { "*" = 0.6 }',
        )


# Delivery…


def _delivery(draft: Draft, findings: Findings) -> None:
    sends = [index for index, route in enumerate(draft.routes) if route is not None and route.action == "send"]
    if any(draft.providers.values()) and not draft.delivery:
        findings.tell(
            ("providers",),
            "no rule says which provider sends",
            f"add [[delivery]] with providers = [{', '.join(map(show, draft.providers))}]",
            ("delivery",),
        )
    if sends and not draft.providers:
        findings.tell(
            ("routes", sends[0], "action"),
            'there is no provider to "send" with',
            "add [providers.NAME] and a [[delivery]] that names it",
            ("providers",),
        )
    takes_all: int | None = None
    for index, rule in enumerate(draft.delivery):
        if rule is None:
            continue
        path = ("delivery", index)
        _names(rule.providers, draft.providers, "providers", (*path, "providers"), findings)
        for name in rule.weights:
            if name not in rule.providers:
                findings.tell(
                    (*path, "weights", name), "is none of this rule's providers", one_of(name, rule.providers)
                )
        if rule.deadline < rule.switch_after:
            findings.tell(
                (*path, "switch_after"),
                "is later than deadline, so no second provider ever starts",
                "write a shorter switch_after or a longer deadline",
                (*path, "deadline"),
            )
        if rule.confirm_within is not None and draft.code is not None and rule.confirm_within >= draft.code.ttl:
            findings.warn(
                (*path, "confirm_within"),
                "is not shorter than a code lives, so nothing is ever sent again",
                "write a shorter confirm_within or a longer code.ttl",
                ("code", "ttl"),
            )
        if takes_all is not None:
            findings.tell(
                path, f"can never match, as delivery[{takes_all}] takes every number", "put it above, or leave it out"
            )
        elif not (rule.countries or rule.operators or rule.provinces or rule.channels or rule.locales):
            takes_all = index


def _carried(draft: Draft, channels: Callable[[str], Collection[str]], findings: Findings) -> None:
    """Tell of a `send` route whose messages no rule's provider carries: each of them would fail."""
    for index, route in enumerate(draft.routes):
        if route is None or route.action != "send" or route.channel == "auto" or not draft.delivery:
            continue
        rules = [rule for rule in draft.delivery if rule is None or route.channel in (rule.channels or {route.channel})]
        # What is wrong in itself is told already, and may carry anything.
        named = [draft.providers.get(name) for rule in rules for name in (rule.providers if rule else ("",))]
        if not any(provider is None or route.channel in channels(provider.kind) for provider in named):
            findings.tell(
                ("routes", index, "channel"),
                f"{show(route.channel)} is carried by no provider that a [[delivery]] rule names for it",
                "name one that carries it, or write another channel",
                ("delivery",),
                ("providers",),
            )


def _names(names: Sequence[str], known: Collection[str], table: str, path: KeyPath, findings: Findings) -> None:
    """Tell what is named and not there, or named twice."""
    for index, name in enumerate(names):
        if name not in known:
            _unknown(name, known, table, (*path, index), findings)
        elif name in names[:index]:
            findings.tell((*path, index), f"{findings.shown((*path, index))} is there twice", "name it once")


def _unknown(name: str, known: Collection[str], table: str, path: KeyPath, findings: Findings) -> None:
    title = f"[{table}.{_name_shown(findings, path)}]"
    findings.tell(
        path, f"there is no {title}", one_of(name, known, "add it, or write") if known else "add it", (table,)
    )


def _name_shown(findings: Findings, path: KeyPath) -> str:
    shown = findings.shown(path)
    return shown[1:-1] if re.fullmatch(r'"[A-Za-z0-9_-]+"', shown) else shown


# Lists…


def _lists(title: str, tables: Sequence[Listed | None], networks: Callable[[str], object], findings: Findings) -> None:
    for index, table in enumerate(tables):
        if table is None:
            continue
        path = (title, index)
        # One that is wrong in itself is told already, and is not here.
        told = {way[2] for way in findings.told if way[:2] == path and len(way) > 2}
        if not any(getattr(table, key) or key in told for key in _CONDITIONS):
            right = f'name one, such as cidr = ["203.0.113.0/24"]; to {title} everybody write "0.0.0.0/0" and "::/0"'
            findings.tell(path, "has no condition", right)
        if table.asn and not table.asn_file:
            findings.tell(
                (*path, "asn_file"),
                "is missing beside asn",
                'name a CSV file of networks and their numbers, such as asn_file = "asn.csv"',
            )
        elif table.asn_file and not table.asn and "asn" not in told:
            findings.tell(
                (*path, "asn_file"),
                "has no meaning without asn",
                "name numbers, such as asn = [64500], or leave it out",
            )
        elif table.asn_file:
            _asn_file(table.asn_file, networks, (*path, "asn_file"), findings)
        if title == "allow" and table.agent and not (table.cidr or table.asn or table.prefix):
            findings.warn(
                (*path, "agent"),
                "lets anybody past every block who writes that User-Agent",
                "add a condition that nobody can make up, such as cidr",
            )


def _asn_file(name: str, networks: Callable[[str], object], path: KeyPath, findings: Findings) -> None:
    try:
        networks(name)
    except AsnFileError as error:
        where = f" line {error.line}:" if error.line else ""
        findings.tell(path, f"{show(name)}{where} {error.wrong}", error.right)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no file name"
        findings.tell(path, f"{show(name)} cannot be read ({why})", "name a CSV file that this user may read")


# The API and the routes…


def _api(api: Api, draft: Draft, findings: Findings) -> None:
    # What stands here by default, and is defined nowhere, `load` adds.
    if "captcha" in api.model_fields_set:
        _captchas(api.captcha, ("api", "captcha"), draft, findings)
    if "limits" in api.model_fields_set:
        _names(api.limits, draft.limits, "limits", ("api", "limits"), findings)
    _steps_up(api.captcha, api.captcha_after or None, api.limits, ("api",), draft, findings)


def _captchas(names: Sequence[str], path: KeyPath, draft: Draft, findings: Findings) -> None:
    """Tell which captchas of a list are not there, are there twice, or are never come to."""
    is_list = isinstance(findings.value(path), list)
    for index, name in enumerate(names):
        place = (*path, index) if is_list else path
        if name == "altcha" and name not in draft.captcha:
            findings.tell(place, "there is no [captcha.altcha]", 'add it with kind = "altcha"', ("captcha",))
        elif name not in draft.captcha:
            _unknown(name, draft.captcha, "captcha", place, findings)
        elif name in names[:index]:
            findings.tell(place, f"{findings.shown(place)} is there twice", "name it once")
        elif (rules := draft.captcha[name]) is not None and rules.on_failure == "allow" and name != names[-1]:
            findings.warn(
                place,
                f"{findings.shown(place)} lets everybody in while it is away, so nobody needs the next one",
                f'write on_failure = "deny" in [captcha.{name}]',
                ("captcha", name),
            )


def _route(route: Route, path: KeyPath, draft: Draft, findings: Findings) -> None:
    for key, actions in _ACTIONS.items():
        if key in route.model_fields_set and route.action not in actions:
            findings.tell(
                (*path, key),
                f'has no meaning with action = "{route.action}"',
                f"leave it out, or write action = {any_of(actions)}",
                (*path, "action"),
            )
    for key in _NEEDS.get(route.action, ()):
        if getattr(route, key) is None:
            findings.tell((*path, key), f'is missing, which "{route.action}" needs', _SELECTORS[key])
    if route.country is not None and route.channel == "email":
        findings.tell((*path, "country"), 'has no meaning with channel = "email"', "leave it out", (*path, "channel"))
    _route_captcha(route, path, draft, findings)
    _route_limits(route, path, draft, findings)
    _route_page(route, path, draft, findings)
    _one_body(route, path, findings)
    _way_round(route, path, draft, findings)
    if route.reply is not None:
        _reply(route.reply, (*path, "reply"), findings)
    for code, reply in route.errors.items():
        if code not in CODES:
            findings.tell((*path, "errors", code), "is no error code", one_of(code, CODES))
        _reply(reply, (*path, "errors", code), findings)
    if draft.api is not None:
        target = route.match.partition(" ")[2].casefold()
        prefix = draft.api.prefix.casefold()
        if target == prefix or target.startswith(prefix + "/"):
            findings.tell(
                (*path, "match"),
                f"is under {show(draft.api.prefix)}, where the sidecar's own API is",
                "write another path, or another api.prefix",
                ("api", "prefix"),
            )


def _reply(reply: Reply, path: KeyPath, findings: Findings) -> None:
    if reply.status in _WITHOUT_CONTENT and reply.json_body is not None:
        findings.tell(
            (*path, "json"),
            f"would reach nobody: an answer {reply.status} has no content",
            "leave it out, or write another status",
            (*path, "status"),
        )


def _route_captcha(route: Route, path: KeyPath, draft: Draft, findings: Findings) -> None:
    captcha, token = (*path, "captcha"), (*path, "captcha_token")
    _captchas(route.captcha, captcha, draft, findings)
    if route.captcha and route.captcha_token is None:
        findings.tell(
            token,
            "is missing beside captcha",
            'say where the token is, such as captcha_token = "json:captcha"',
            captcha,
        )
    is_told = any(path[: len(captcha)] == captcha for path in findings.told)
    if route.captcha_token is not None and not route.captcha and not is_told:
        findings.tell(token, "has no meaning without captcha", "name a captcha, or leave it out", captcha)
    _steps_up(route.captcha, route.captcha_after, route.limits, path, draft, findings)
    if route.captcha_after is not None and draft.api is not None and not draft.api.captcha_after:
        findings.warn(
            (*path, "captcha_after"),
            "the API's check takes wrong codes for the same recipients without a captcha",
            f"write captcha_after = {route.captcha_after} in [api], too",
        )


def _steps_up(
    captcha: object,
    after: int | None,
    limits: Sequence[str],
    path: KeyPath,
    draft: Draft,
    findings: Findings,
) -> None:
    """Tell what would demand a captcha, and cannot."""
    stepping = [name for name in limits if (one := draft.limits.get(name)) is not None and one.mode == "captcha"]
    if not captcha:
        right = 'name one, such as captcha = "altcha"'
        if after is not None:
            findings.tell((*path, "captcha_after"), "has no meaning without captcha", f"{right}, or leave it out")
        for name in stepping:
            findings.tell(
                (*path, "limits", limits.index(name)),
                f'"{name}" demands a captcha when it is full, and there is none here',
                f'{right}, or write mode = "enforce" in limits.{name}',
                ("limits", name, "mode"),
            )
        return
    if after is not None and draft.code is not None and after >= draft.code.failures.count:
        findings.tell(
            (*path, "captcha_after"),
            f"is never come to: wrong codes are refused after {draft.code.failures.count} already",
            f"write less than {draft.code.failures.count}, or more in code.failures",
            ("code", "failures"),
        )
    if not stepping:
        return
    keys = {draft.limits[name].key for name in stepping}  # type: ignore[union-attr]
    for index, name in enumerate(limits):
        limit = draft.limits.get(name)
        if limit is not None and limit.mode == "enforce" and limit.key in _ON_WHAT - keys:
            findings.warn(
                (*path, "limits", index),
                f'"{name}" counts by {show(limit.key)}, and many addresses use it up without a captcha: none of mode'
                f' "captcha" here counts by {show(limit.key)}',
                f'add a limit of mode "captcha" with key = {show(limit.key)} and a lower rate',
            )


def _route_page(route: Route, path: KeyPath, draft: Draft, findings: Findings) -> None:
    if not route.browser:
        return
    if draft.api is not None and not draft.api.send:
        findings.tell(
            (*path, "browser"),
            "shows a page that asks the API for a code, and the API sends none",
            "leave it out, or write send = true in [api]",
            ("api", "send"),
        )
    for name in draft.api.captcha if draft.api is not None else ():
        rules = draft.captcha.get(name)
        for key in rules.page_needs if rules is not None else ():
            if not getattr(rules, key):
                findings.tell(
                    ("captcha", name, key),
                    f"is missing, and the page of {spell(path)} shows this captcha by it",
                    f'write {key} = "…", or another captcha in [api]',
                )


def _route_limits(route: Route, path: KeyPath, draft: Draft, findings: Findings) -> None:
    _names(route.limits, draft.limits, "limits", (*path, "limits"), findings)
    if route.action != "guard":
        return
    for index, name in enumerate(route.limits):
        limit = draft.limits.get(name)
        if limit is not None and limit.key in _BY_RECIPIENT:
            findings.tell(
                (*path, "limits", index),
                f'"{name}" counts by {show(limit.key)}, and "guard" knows no recipient',
                'name limits by "ip", "ip_prefix", "header:NAME", "route" or "global"',
            )


def _one_body(route: Route, path: KeyPath, findings: Findings) -> None:
    """Tell of a route that reads its body as JSON and as a form: it would refuse every request."""
    first = ""
    for key in ("to", "code", "captcha_token", "country"):
        place = (getattr(route, key) or "").partition(":")[0]
        if place not in {"json", "form"}:
            continue
        first = first or key
        before = getattr(route, first).partition(":")[0]
        if place != before:
            findings.tell(
                (*path, key),
                f"is read from a body of another kind than {first}, and no body is both",
                f'write "{before}:…" here, or "{place}:…" there',
                (*path, first),
            )


def _way_round(route: Route, path: KeyPath, draft: Draft, findings: Findings) -> None:
    """Warn of a limit on a `send` route that a client goes round by asking the API for the same message."""
    if route.action != "send" or draft.api is None or not draft.api.send:
        return
    for index, name in enumerate(route.limits):
        limit = draft.limits.get(name)
        if limit is not None and limit.key in _ON_ALL and name not in draft.api.limits:
            findings.warn(
                (*path, "limits", index),
                f'"{name}" counts by {show(limit.key)}, and the API sends without it',
                f"add {show(name)} to api.limits, or write send = false in [api]",
            )


def _other_methods(draft: Draft, findings: Findings) -> None:
    """Warn of uploads that are refused, where nobody has said whether upstream takes a method from a form."""
    if draft.upstream is None or "method_override" in draft.upstream.model_fields_set:
        return
    for index, route in enumerate(draft.routes):
        method = route.match.partition(" ")[0] if route is not None and route.action != "pass" else "*"
        if method in _METHODS and method != "POST":
            findings.warn(
                ("routes", index, "match"),
                f"a POST to this path is refused past server.max_guarded_body, as its form may name {show(method)}",
                "write method_override = false in [upstream] if it takes no method from a field or form, else true",
            )
            return


def _reachable(matches: Iterable[str | None], findings: Findings) -> None:
    """Tell every route all of whose requests an earlier one takes."""
    earlier: list[tuple[int, str]] = []
    for index, match in enumerate(matches):
        if match is None:
            continue
        first = next((number for number, other in earlier if _takes_all(other, match)), None)
        if first is not None:
            findings.tell(
                ("routes", index, "match"),
                f"can never match, as routes[{first}] takes all its requests",
                "put it above that one, or leave it out",
            )
        earlier.append((index, match))


# RFC 9110 section 9.3, RFC 5789, RFC 4918 and its kin: what clients of a registration service send.
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY")


def _does_something(draft: Draft, findings: Findings) -> None:
    """Warn of a configuration that works and does nothing, or less than it looks like."""
    for index, route in enumerate(draft.routes):
        method = route.match.partition(" ")[0] if route is not None else "*"
        if method not in _METHODS and (meant := difflib.get_close_matches(method, _METHODS, n=1)):
            findings.warn(
                ("routes", index, "match"),
                f"{show(method)} is no method that clients send",
                f"did you mean {show(meant[0])}?",
            )
    routes = ("routes",)
    if not draft.routes:
        findings.warn(routes, "there is no route, so every request passes", "add [[routes]] with the paths to guard")
    elif all(route.action == "pass" for route in draft.routes if route is not None):
        findings.warn(
            routes, 'all routes "pass", so nothing is guarded', 'write action = "send" and "verify", or "guard"'
        )
    if draft.api is not None and draft.api.send and not draft.providers:
        findings.warn(
            ("api", "send"),
            "there is no provider, so the API can send no code",
            "add [providers.NAME] and a [[delivery]] that names it, or write send = false in [api]",
            ("providers",),
        )


def _takes_all(one: str, other: str) -> bool:
    """Tell whether the match `one` takes all that `other` takes. `{name}` is any one segment, a last `*` any rest."""
    (method, _, path), (other_method, _, other_path) = one.partition(" "), other.partition(" ")
    if method not in {"*", other_method} and (method, other_method) != ("GET", "HEAD"):
        return False
    has_rest, other_has_rest = path.endswith("/*"), other_path.endswith("/*")
    segments = path.removesuffix("/*").split("/")
    others = other_path.removesuffix("/*").split("/")
    if len(segments) > len(others) or (not has_rest and (other_has_rest or len(segments) != len(others))):
        return False
    return all(
        re.fullmatch(r"\{[^{}]+\}", mine) or mine == theirs for mine, theirs in zip(segments, others, strict=False)
    )
