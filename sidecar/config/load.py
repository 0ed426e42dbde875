"""How does a TOML file become a `Config`? Read, expand, validate, check; every mistake at once, with its line and cure.

The only door to the configuration: `load` gives a whole one or raises `ConfigError`. It reads files, and changes none.
Kinds of captcha and provider are handed in, never imported.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from sidecar.config import words
from sidecar.config.checks import Draft, check
from sidecar.config.expand import expand
from sidecar.config.findings import ConfigError, Findings, Problem, any_of, describe, one_of, show, spell
from sidecar.config.model import (
    Api,
    Budget,
    Captcha,
    CodeRules,
    Config,
    Delivery,
    Identity,
    Limit,
    Listed,
    Numbers,
    Outbound,
    Provider,
    Pumping,
    Route,
    Server,
    Store,
    Table,
    Upstream,
)
from sidecar.config.schema import schema_of
from sidecar.config.units import FROM_TOML, Rate
from sidecar.config.where import KeyPath, places

__all__ = ["ConfigError", "Kinds", "Problem", "describe", "files_of", "load", "schema"]

_T = TypeVar("_T", bound=Table)

_SINGLE: Final[Mapping[str, type[Table]]] = {
    "server": Server,
    "upstream": Upstream,
    "outbound": Outbound,
    "store": Store,
    "identity": Identity,
    "code": CodeRules,
    "numbers": Numbers,
    "pumping": Pumping,
    "budget": Budget,
    "api": Api,
}
# Names stand in paths, metric labels and store keys.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# What `api.captcha` and `api.limits` name by default.
_API_CAPTCHA: Final = "altcha"
_API_LIMITS: Final[Mapping[str, Limit]] = {
    "ip": Limit(key="ip", rate=Rate(5, 60.0)),
    "to": Limit(key="to", rate=Rate(1, 60.0)),
}
# Keys whose value is a file's path: `files_of` names those too.
_FILE_KEYS: Final = frozenset({"cert", "key", "ca", "asn_file"})
_SYNTAX: Final = re.compile(r"(?P<what>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)")


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds that there are, the TOML `kind` -> its Settings; and what `messages` by language would be.

    `channels` says what a kind of provider carries; `networks` reads an `asn_file`, and raises ValueError or OSError
    where it cannot.
    """

    captcha: Mapping[str, type[Captcha]]
    providers: Mapping[str, type[Provider]]
    channels: Callable[[str], Collection[str]] = lambda _: ("sms", "email")
    messages: Callable[[CodeRules], Mapping[str, str]] = lambda _: {}
    networks: Callable[[str], object] = lambda _: None


def load(path: Path, env: Mapping[str, str], kinds: Kinds, warn: Callable[[Problem], None] = lambda _: None) -> Config:
    """Read a configuration, and call `warn` with each warning. Raises ConfigError with everything that is wrong."""
    text, raw = _read_toml(path)
    findings = Findings(str(path), raw, places(text), _homes())
    content = expand(findings, raw, env)
    draft, made = _make(findings, content, kinds)
    messages = kinds.messages(draft.code) if draft.code is not None else {}
    check(draft, messages, kinds.channels, kinds.networks, findings, env)
    if findings.problems:
        raise ConfigError(findings.sorted())
    for warning in findings.sorted():
        warn(warning)
    return Config(**_with_api_defaults(made, kinds))


def files_of(path: Path, env: Mapping[str, str]) -> list[str]:
    """The files that a configuration reads beside its own: `${file:…}`, certificates, keys, tables of numbers.

    Never raises: of a file that is no configuration just now there are none.
    """
    found: list[str] = []
    try:
        _, raw = _read_toml(path)
    except ConfigError:
        return found
    for key, value in _texts(raw):
        found += re.findall(r"(?<!\$)\$\{file:([^{}]*)\}", value)
        if key in _FILE_KEYS and value:
            found.append(re.sub(r"(?<!\$)\$\{(\w+)\}", lambda place: env.get(place[1], ""), value))
    return sorted(set(found))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a TOML value, with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from _texts(inner, name)
    for inner in value if isinstance(value, list) else ():
        yield from _texts(inner, key)


def schema(kinds: Kinds) -> dict[str, Any]:
    """Describe the configuration as JSON Schema (draft 2020-12), for editors."""
    return schema_of(kinds.captcha, kinds.providers)


# Reading the file…


def _read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    def fail(line: int, key: str, wrong: str, right: str) -> ConfigError:
        return ConfigError((Problem(str(path), line, key, wrong, right),))

    try:
        # Some editors put a byte order mark first. TOML has LF and CRLF for a line's end.
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise fail(
            1, "file", f"cannot be read ({error.strerror})", "name a configuration that this user may read"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise fail(line, "file", "is no UTF-8 text here", "save it as UTF-8") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _SYNTAX.fullmatch(str(error).partition("\n")[0])
        if found is None or found["line"] is None:
            what = found["what"] if found else "not readable"
            raise fail(text.count("\n") + 1, "TOML", f"{what} at the end of the file", "close what is open") from None
        again = found["what"].startswith("Cannot ")
        right = 'write key = value, a text in straight quotes, such as "…" (https://toml.io)'
        if again:
            header = re.match(r"\s*\[\[[^\]]*\]\]", text.split("\n")[int(found["line"]) - 1])
            right = f"write {header[0].strip()} with two brackets everywhere" if header else "say everything once"
        raise fail(int(found["line"]), "TOML", f"{found['what']} (column {found['column']})", right) from None
    except RecursionError:
        raise fail(1, "TOML", "is nested too deeply", "write tables with fewer levels") from None


def _homes() -> dict[str, str]:
    """How to write what somebody put into another table: the names of tables, and the keys that one table alone has."""
    tables = {f"[{name}]": model for name, model in _SINGLE.items()}
    tables |= {"[[routes]]": Route, "[[delivery]]": Delivery, "[[block]]": Listed, "[[allow]]": Listed}
    homes = [(key, f"write it below {title}") for title, model in tables.items() for key in model.model_fields]
    homes += [(title.strip("[]"), f"write {title} and its keys below") for title in tables]
    keys = [key for key, _ in homes]
    return {key: right for key, right in homes if keys.count(key) == 1}


# Each table by itself…


def _make(findings: Findings, content: Mapping[str, Any], kinds: Kinds) -> tuple[Draft, dict[str, Any]]:
    """Validate each table by itself. Gives what `check` looks at, and what `Config` is made of if all is right."""
    for name in content:
        if name not in Config.model_fields:
            findings.tell((name,), "is not known here", findings.homes.get(name) or one_of(name, Config.model_fields))
    made: dict[str, Any] = {
        name: _validated(findings, model, content.get(name, {}), (name,)) for name, model in _SINGLE.items()
    }
    made["captcha"] = _of_kinds(findings, content, "captcha", kinds.captcha)
    made["providers"] = _of_kinds(findings, content, "providers", kinds.providers)
    made["limits"] = {
        name: _validated(findings, Limit, table, ("limits", name))
        for name, table in _named(findings, content, "limits").items()
    }
    made["delivery"] = _listed(findings, Delivery, content, "delivery")
    made["block"] = _listed(findings, Listed, content, "block")
    made["allow"] = _listed(findings, Listed, content, "allow")
    made["routes"] = _listed(findings, Route, content, "routes")

    return Draft(**{name: made[name] for name in Draft.__dataclass_fields__}), made


def _validated(findings: Findings, model: type[_T], value: Any, path: KeyPath) -> _T | None:
    if not isinstance(value, dict):
        title = f"[[{path[0]}]]" if isinstance(path[-1], int) else f"[{spell(path)}]"
        findings.tell(path, f"{findings.shown(path)} is no table", f"write {title} and its keys below")
        return None
    try:
        return _model(model, value)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    words.tell_all(findings, model, path, value, wrong)
    # Once more without what is wrong, so that the checks between tables see the rest.
    bad = {details["loc"][0] for details in wrong if details["loc"]}
    try:
        return _model(model, {name: inner for name, inner in value.items() if name not in bad})
    except ValidationError:
        return None


def _model(model: type[_T], value: Mapping[str, Any]) -> _T:
    return model.model_validate(value, context=FROM_TOML, by_alias=True, by_name=False)


def _named(findings: Findings, content: Mapping[str, Any], table: str) -> dict[str, Any]:
    """The tables in [table.NAME], by their names."""
    tables = content.get(table, {})
    if not isinstance(tables, dict):
        findings.tell((table,), f"{findings.shown((table,))} is no table", f"write [{table}.NAME] and its keys below")
        return {}
    if isinstance(kind := tables.get("kind", tables.get("key")), str):
        findings.tell(
            (table,), "has keys of its own", f"write [{table}.NAME] above them, such as [{table}.{show(kind)[1:-1]}]"
        )
        return {}
    for name in tables:
        if not _NAME.fullmatch(name):
            findings.tell((table, name), "is no name", 'write up to 64 letters, digits, "-" and "_"')
    return tables


def _of_kinds(
    findings: Findings, content: Mapping[str, Any], table: str, kinds: Mapping[str, type[_T]]
) -> dict[str, _T | None]:
    """Validate each [table.NAME] by the Settings of its kind."""
    made: dict[str, _T | None] = {}
    for name, value in _named(findings, content, table).items():
        path: KeyPath = (table, name, "kind")
        kind = value.get("kind") if isinstance(value, dict) else None
        made[name] = None
        if not isinstance(value, dict):
            findings.tell(
                path[:-1], f"{findings.shown(path[:-1])} is no table", f"write [{table}.NAME] and its keys below"
            )
        elif isinstance(kind, str) and kind in kinds:
            made[name] = _validated(findings, kinds[kind], value, path[:-1])
        elif kind is None:
            findings.tell(path, "is missing", f"write kind = {any_of(kinds)}")
        else:
            findings.tell(path, f"{findings.shown(path)} is not known here", one_of(str(kind), kinds))
    return made


def _listed(findings: Findings, model: type[_T], content: Mapping[str, Any], table: str) -> tuple[_T | None, ...]:
    """Validate each [[table]]."""
    tables = content.get(table, [])
    if not isinstance(tables, list):
        findings.tell(
            (table,), f"{findings.shown((table,))} is no list of tables", f"write [[{table}]], with two brackets"
        )
        return ()
    return tuple(_validated(findings, model, value, (table, index)) for index, value in enumerate(tables))


def _with_api_defaults(made: Mapping[str, Any], kinds: Kinds) -> dict[str, Any]:
    """Add what the API names by default and the file does not define: it sends messages, so it is never left open."""
    captcha, limits, api = dict(made["captcha"]), dict(made["limits"]), made["api"]
    if _API_CAPTCHA in api.captcha and _API_CAPTCHA not in captcha:
        captcha[_API_CAPTCHA] = kinds.captcha[_API_CAPTCHA].model_validate({"kind": _API_CAPTCHA})
    for name in api.limits:
        if name not in limits:
            limits[name] = _API_LIMITS[name]
    return {**made, "captcha": captcha, "limits": limits}
