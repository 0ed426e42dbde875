"""docs/architecture.md: arrows point down. Walks the imports of every module."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from sources import tree

import sidecar

ROOT = Path(sidecar.__file__).parent
ROOMS = {"captcha", "delivery", "limits", "lists", "pages", "proxy", "verification"}
# Told a clock, randomness and bytes; they fetch none.
PURE = [
    "acs3",
    "assent",
    "breaker",
    "routes",
    "spelling",
    "intake",
    "json_text",
    "language",
    "recipient",
    "prefer",
    "problem",
    "openapi",
    "errors",
    "events",
    "secret",
    "segments",
    "store.seeds",
    "store.trouble",
    "tc3",
    "client_key",
    "crowd",
    "ranges",
    "limits.gcra",
    "lists.rules",
    "lists.targets",
    "captcha.aliyun",
    "captcha.answer",
    "captcha.geetest",
    "captcha.hcaptcha",
    "captcha.recaptcha",
    "captcha.siteverify",
    "captcha.tencent",
    "captcha.slider_track",
    "captcha.turnstile",
    "captcha.yidun",
    "delivery.plan",
    "delivery.score",
    "delivery.text",
    "delivery.providers.aliyun",
    "delivery.providers.aliyun_intl",
    "delivery.providers.answer",
    "delivery.providers.juhe",
    "delivery.providers.qiniu",
    "delivery.providers.template",
    "delivery.providers.tencent",
    "delivery.providers.twilio",
    "delivery.providers.webhook",
    "proxy.messages",
    "proxy.fields",
    "proxy.client",
    "proxy.states",
    "verification.codes",
    "verification.states",
    "config.model",
    "config.proxies",
    "config.units",
    "config.where",
]
IMPURE = {"aiohttp", "redis", "time", "random", "os", "secrets", "asyncio", "socket", "uvloop", "structlog"}


def modules() -> dict[str, Path]:
    """Every module's dotted name below `sidecar`, and its file."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }


def imports(path: Path, made: ast.Module) -> Iterator[str]:
    """What a file imports, anywhere in it, as dotted names."""
    for node in ast.walk(made):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports whole"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ALL = modules()
TREES = {name: tree(path) for name, path in ALL.items()}
IMPORTS = {name: set(imports(ALL[name], made)) for name, made in TREES.items()}


def importers_of(package: str) -> set[str]:
    """The modules of ours that import something at or below `package`."""
    return {
        name for name, found in IMPORTS.items() if any(one == package or one.startswith(f"{package}.") for one in found)
    }


def test_no_modules_import_in_a_circle() -> None:
    """Data flows one way; where one must know the other, it says in a Protocol what it needs."""
    ours = {
        name: {one.removeprefix("sidecar.") for one in found if one.startswith("sidecar.")} & set(ALL) - {name}
        for name, found in IMPORTS.items()
    }
    TopologicalSorter(ours).prepare()  # raises CycleError, which names the circle


def test_rooms_do_not_import_each_other() -> None:
    """What crosses is a value; only gate and courier make rooms act together."""
    for name, found in IMPORTS.items():
        room = name.partition(".")[0]
        others = {f"sidecar.{other}" for other in ROOMS - {room}}
        if room in ROOMS:
            assert not [one for one in found if ".".join(one.split(".")[:2]) in others], name


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_no_world(name: str) -> None:
    """`now`, `nonce` and bytes are arguments."""
    assert not {one.partition(".")[0] for one in IMPORTS[name]} & IMPURE


def test_every_kind_over_http_is_pure() -> None:
    """A kind is two pure functions and a Settings; what is asked over HTTP goes through outbound.call."""
    kinds = [name for name in ALL if name.startswith(("captcha.", "delivery.providers."))]
    machinery = {"captcha.seam", "captcha.remote", "delivery.providers.seam", "delivery.providers.remote"}
    built_in = {
        "captcha.altcha",
        "captcha.slider",
        "captcha.slider_maker",
        "captcha.slider_picture",
        "delivery.providers.console",
        "delivery.providers.smtp",
    }
    for name in set(kinds) - machinery - built_in:
        assert name in PURE, f"{name}: add it to PURE"


def test_only_the_store_speaks_to_redis() -> None:
    assert importers_of("redis") == {"store.address"}
    assert importers_of("hiredis") == {"store.address", "store.client", "store.wire"}


def test_only_app_builds() -> None:
    """The stories are wired in one place; serve runs what app made."""
    assert importers_of("sidecar.courier") == {"app"}
    assert importers_of("sidecar.gate") == {"app", "api", "front"}
    assert importers_of("sidecar.admitting") == {"app", "gate", "front"}
    assert importers_of("sidecar.front") == {"app"}
    assert importers_of("sidecar.api") == {"app", "admin", "front"}
    assert importers_of("sidecar.app") == {"serve", "worker", "cli"}
    assert importers_of("sidecar.serve") == {"cli"}


def test_only_the_command_imports_the_demo() -> None:
    assert {name for name in importers_of("sidecar.demo") if not name.startswith("demo")} == {"cli"}


def test_config_imports_no_kind() -> None:
    """It is handed the kinds' Settings."""
    for name, found in IMPORTS.items():
        if name.startswith("config"):
            assert not [one for one in found if one.startswith(tuple(f"sidecar.{room}" for room in ROOMS))], name


def test_every_file_says_what_it_is_for() -> None:
    """A module opens with the question it answers."""
    for name, made in TREES.items():
        assert not made.body or ast.get_docstring(made), name
