"""The command: parse arguments, call, print.

Exit codes: 0 fine, 1 failed while running, 2 bad usage or configuration.
"""

import argparse
import asyncio
import gc
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing, redirect_stderr, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from sidecar import __version__

if TYPE_CHECKING:
    from sidecar.config.model import Config
    from sidecar.recipient import Recipient

# Imports of what a command needs stand in its function: `check` shall not load a web server.

# What came of a dead letter, as `dead` prints it.
_DEAD = {
    "queued": "queued again",
    "expired": "left: its code has expired, so nobody could use it; who still wants one asks for a new one",
    "dropped": "dropped",
    "missing": "not there",
}

# Values of one condition that `check` shows.
_MOST_SHOWN = 3

_BLOCK_EPILOG = """\
Every instance on the store refuses it within a second, on every guarded route and on the sidecar's own API; what
passes unguarded still passes. [[allow]] of the configuration goes before it. Without --for it lasts until it is
removed. A whole number may be blocked, too; it is stored hashed, and shown masked.

  signup-sidecar block add sidecar.toml 203.0.113.0/24 --for 1h
  signup-sidecar block add sidecar.toml "+8816"
  signup-sidecar block list sidecar.toml
  signup-sidecar block remove sidecar.toml "+8816"
"""

# What the author of a page with a form would not guess; no warning, for nothing in the configuration silences it.
_NO_MULTIPART = (
    "Note: a multipart form is refused where a route reads form:… Leave enctype out\n"
    "of the page's form, and FormData out of scripts (URLSearchParams instead)."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point of `signup-sidecar`."""
    _open_standard()
    complaints = _Complaints(sys.stderr)
    with closing(complaints), redirect_stderr(cast("TextIO", complaints)):
        try:
            options = _parser().parse_args(arguments)
            call: Callable[[argparse.Namespace], int] = options.call
            return call(options)
        except BrokenPipeError:  # `signup-sidecar schema | head`
            return 0
        finally:
            _end(sys.stdout)


def _end(stdout: TextIO) -> None:
    """See that what was printed is taken; whoever reads no further has read enough. Raises OSError for a full disk."""
    try:
        stdout.flush()
    except OSError as error:
        _let_go(stdout)
        if not isinstance(error, BrokenPipeError):
            raise


def _let_go(stream: TextIO) -> None:
    """Have what nobody has taken go nowhere: Python would try once more at its end, and exit with 120 for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Complaints:
    """stderr, for what is only told: where nobody takes it, the exit code still says how it went."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def close(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _let_go(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_standard() -> None:
    """Open what the caller closed of stdin, stdout and stderr: else a socket of ours gets its number, and the log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="signup-sidecar",
        description="A reverse-proxy sidecar that verifies phone numbers in front of a registration service.",
        epilog="Try `signup-sidecar demo` first: the whole story on this machine, with no accounts.",
    )
    parser.add_argument("--version", action="version", version=f"signup-sidecar {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, call: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(call=call)
        return made

    def config(made: argparse.ArgumentParser) -> None:
        made.add_argument("config", metavar="CONFIG.toml", type=Path, help="the configuration file")

    serving = command("run", _run, "run the sidecar in the foreground (SIGTERM drains, SIGHUP reloads)")
    config(serving)
    serving.add_argument(
        "--watch", action="store_true", help="reload when the configuration or a file it names changes"
    )
    check = command("check", _check, "validate a configuration without side effects, and show its routes")
    config(check)
    check.add_argument("--strict", action="store_true", help="exit 2 on a warning, too")
    demo = command("demo", _demo, "the whole story on one machine, with no accounts")
    demo.add_argument("--port", type=int, help="the public port (default 8080); the next three are used too")
    demo.add_argument("--smoke", action="store_true", help="walk one real sign-up through it by HTTP, then exit 0 or 1")
    demo.add_argument(
        "--operators", default="ok,ok", metavar="A,B", help="how the two operators start: ok, slow or dead each"
    )
    send = command("send", _send, "send a real test message through the router, and print each attempt")
    config(send)
    send.add_argument("--to", required=True, metavar="RECIPIENT", help="a telephone number (+86…) or an e-mail address")
    send.add_argument("--via", metavar="PROVIDER", help="ask this provider alone, whatever the rules say")
    dead = command("dead", _dead, "the messages that nobody could send, or that nobody confirmed")
    dead.add_argument("verb", choices=["list", "redrive", "drop"])
    config(dead)
    dead.add_argument("id", nargs="*", metavar="ID", help="which, as `list` shows them")
    dead.add_argument("--all", action="store_true", help="all of them")
    block = command("block", _block, "refuse an address range, or numbers by their beginning, at once and for a time")
    block.epilog = _BLOCK_EPILOG
    block.formatter_class = argparse.RawDescriptionHelpFormatter
    block.add_argument("verb", choices=["add", "list", "remove"])
    config(block)
    what = 'an address range such as "203.0.113.0/24", an address, or a beginning of numbers such as "+8816"'
    block.add_argument("what", nargs="?", metavar="WHAT", help=what)
    block.add_argument("--for", dest="for_", metavar="TIME", help='how long, such as "1h"; else until it is removed')
    keys = command("keys", _keys, "the signing keys: list them, or publish the next one")
    keys.add_argument("verb", choices=["list", "rotate"])
    config(keys)
    command("openapi", _openapi, "print the OpenAPI 3.1 document of the sidecar's own API")
    command("schema", _schema, "print the JSON Schema of the configuration, for editors")
    return parser


def _run(options: argparse.Namespace) -> int:
    gc.disable()  # while it starts, as next to nothing of what is made then is garbage: a tenth of the time
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it would end the process; it waits until that listens
    from sidecar.serve import run  # noqa: PLC0415 - see above

    return run(options.config, watch=options.watch)


def _check(options: argparse.Namespace) -> int:
    from sidecar.config.load import ConfigError, Problem, load  # noqa: PLC0415 - see above
    from sidecar.kinds import kinds  # noqa: PLC0415 - see above

    warnings: list[Problem] = []
    try:
        config = load(options.config, os.environ, kinds(), warnings.append)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for warning in warnings:
        print(warning, file=sys.stderr)
    if warnings and options.strict:
        return 2
    print(f"{options.config}: fine\n")
    print(_routes_shown(config))
    if config.block or config.allow:
        print(f"\n{_lists_shown(config)}")
    selectors = [(route.to, route.code, route.captcha_token, route.country, route.locale) for route in config.routes]
    if any(selector is not None and selector.startswith("form:") for some in selectors for selector in some):
        print("\n" + _NO_MULTIPART)
    return 0


def _routes_shown(config: "Config") -> str:
    """Draw the routes as a table, in the order in which they are looked up."""
    routes = [
        (
            route.match,
            route.action,
            route.limits,
            route.captcha,
            "" if route.mode == "enforce" else f"({route.mode} only)",
        )
        for route in config.routes
    ]
    if config.api.send:
        routes.append((f"POST {config.api.prefix}/v1/verifications", "send", config.api.limits, config.api.captcha, ""))
    table = [("MATCH", "ACTION", "LIMITS", "CAPTCHA", "")]
    table += [
        (match, action, ", ".join(limits) or "-", ", ".join(captchas) or "-", mode)
        for match, action, limits, captchas, mode in routes
    ]
    table.append(("everything else", "pass", "-", "-", ""))
    return _table(table)


def _lists_shown(config: "Config") -> str:
    """Say in words what [[allow]] and [[block]] come to; nothing where there are none."""
    rows = []
    for verb, tables in (("never block", config.allow), ("block", config.block)):
        for table in tables:
            conditions = {
                "address in": [*map(str, table.cidr)],
                "network": [f"AS{number}" for number in table.asn],
                "User-Agent with": [f'"{text}"' for text in table.agent],
                "number beginning with": [*table.prefix],
            }
            said = [f"{key} {_some(values)}" for key, values in conditions.items() if values]
            rows.append((verb, " and ".join(said)))
    return _table(rows)


def _some(values: Sequence[str]) -> str:
    more = len(values) - _MOST_SHOWN
    return " or ".join([*values[:_MOST_SHOWN], f"{more} more"] if more > 0 else values)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Write rows below each other, each column as wide as its longest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _demo(options: argparse.Namespace) -> int:
    from sidecar import demo  # noqa: PLC0415 - see above

    states = options.operators.split(",")
    if len(states) != 2 or not set(states) <= {"ok", "slow", "dead"}:
        print("demo: --operators: expected two of ok, slow, dead, such as ok,dead", file=sys.stderr)
        return 2
    return demo.main(options.port, smoke=options.smoke, operators=(states[0], states[1]))


def _send(options: argparse.Namespace) -> int:
    from sidecar.config.load import ConfigError, load  # noqa: PLC0415 - see above
    from sidecar.errors import Refusal  # noqa: PLC0415 - see above
    from sidecar.kinds import kinds  # noqa: PLC0415 - see above
    from sidecar.recipient import parse  # noqa: PLC0415 - see above

    try:
        config = load(options.config, os.environ, kinds(reads_networks=False))
        rules = config.numbers
        recipient = parse(
            options.to, "auto", rules.default_country, known=rules.test, extra=rules.extra, example=rules.example
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except Refusal as refusal:
        print(f"send: --to: {refusal.detail}", file=sys.stderr)
        return 2
    if options.via is not None and options.via not in config.providers:
        known = ", ".join(config.providers) or "none is configured"
        print(f"send: --via: there is no [providers.{options.via}]; expected one of: {known}", file=sys.stderr)
        return 2
    return asyncio.run(_sent(config, recipient, options.via))


async def _sent(config: "Config", recipient: "Recipient", via: str | None) -> int:
    """Send a code that nobody waits for. The exit code: 0 when a provider took the message."""
    from sidecar.app import routing  # noqa: PLC0415 - see above
    from sidecar.delivery import text  # noqa: PLC0415 - see above
    from sidecar.delivery.providers.seam import Message  # noqa: PLC0415 - see above
    from sidecar.delivery.send import Attempted, word  # noqa: PLC0415 - see above
    from sidecar.store.embedded import StoreMissingError, embedded  # noqa: PLC0415 - see above

    def tell(attempted: Attempted) -> None:
        outcome = type(attempted.outcome).__name__.lower()
        twice = ", a duplicate" if attempted.duplicate else ""
        said = word(attempted.outcome, message)
        print(f"  {attempted.provider:12} {attempted.seconds:6.3f} s  {outcome:9}  {said}{twice}")

    started = time.monotonic()
    code = f"{secrets.randbelow(10**config.code.length):0{config.code.length}}"
    minutes = text.minutes_left(config.code.ttl)
    locale = "zh" if recipient.country == "CN" else "en"
    message = Message(
        id=f"test_{secrets.token_hex(8)}",
        recipient=recipient,
        locale=locale,
        code=code,
        minutes=minutes,
        text=text.Texts(config.code).render(locale, code, minutes, recipient.channel),
    )
    try:
        async with AsyncExitStack() as stack:
            url = config.store.url
            if url == "embedded":
                url = await stack.enter_async_context(embedded(Path(config.server.state_dir)))
            router = await stack.enter_async_context(routing(config, url))
            way = router.way(recipient, locale, via)
            if way is None or not way.usable:
                why = f"none of its providers carries {recipient.channel}" if way else "no [[delivery]] rule matches"
                print(f"send: {recipient.masked} ({recipient.country}): {why}", file=sys.stderr)
                return 2
            print(f"{recipient.masked} ({way.segment}), at most {way.rule.deadline:g} s: {', '.join(way.usable)}")
            async with router.sent(way, message, config.code.ttl, tell) as result:
                seconds = time.monotonic() - started
                print(f"{result.kind}{f' by {result.provider}' if result.provider else ''} after {seconds:.3f} s")
    except (OSError, StoreMissingError) as error:
        print(f"send: {error}", file=sys.stderr)
        return 1
    return 0 if result.kind == "accepted" else 1


def _dead(options: argparse.Namespace) -> int:
    from sidecar.config.load import ConfigError, load  # noqa: PLC0415 - see above
    from sidecar.kinds import kinds  # noqa: PLC0415 - see above

    try:
        config = load(options.config, os.environ, kinds(reads_networks=False))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.verb != "list" and bool(options.id) == options.all:
        print(f"dead: {options.verb}: which? Give the IDs that `dead list` shows, or --all", file=sys.stderr)
        return 2
    return asyncio.run(_buried(config, options.verb, None if options.all else options.id))


async def _buried(config: "Config", verb: str, ids: Sequence[str] | None) -> int:
    """List, redrive or drop dead letters. The exit code: 1 when one is not there, or is past its time."""
    from sidecar.app import outbox_of  # noqa: PLC0415 - see above
    from sidecar.errors import StoreAwayError  # noqa: PLC0415 - see above
    from sidecar.store.client import ReplyError  # noqa: PLC0415 - see above
    from sidecar.store.embedded import StoreMissingError, embedded  # noqa: PLC0415 - see above

    undone = 0
    try:
        async with AsyncExitStack() as stack:
            url = config.store.url
            if url == "embedded":
                url = await stack.enter_async_context(embedded(Path(config.server.state_dir)))
            outbox = await stack.enter_async_context(outbox_of(url))
            letters = await outbox.dead()
            if not letters:
                print("dead: there is no dead letter", file=sys.stderr)
            if verb == "list":
                for letter in letters:
                    print(f"{letter.id}  {_when(letter.died_at)}  {letter.verification_id}  {letter.reason}")
                return 0
            for letter_id in ids if ids is not None else [letter.id for letter in letters]:
                came_to: str
                if verb == "redrive":
                    came_to = await outbox.redrive(letter_id, time.time())
                else:
                    came_to = "dropped" if await outbox.drop(letter_id) else "missing"
                undone += came_to in {"missing", "expired"}
                print(f"{letter_id}  {_DEAD[came_to]}")
    except (OSError, StoreMissingError, StoreAwayError, ReplyError) as error:
        print(f"dead: {error}", file=sys.stderr)
        return 1
    return 1 if undone else 0


def _block(options: argparse.Namespace) -> int:
    from sidecar.config.findings import UnfitError  # noqa: PLC0415 - see above
    from sidecar.config.load import ConfigError, load  # noqa: PLC0415 - see above
    from sidecar.config.units import read_duration  # noqa: PLC0415 - see above
    from sidecar.kinds import kinds  # noqa: PLC0415 - see above

    verb, what = options.verb, options.what
    wrong = ""
    if verb == "list" and what:
        wrong = "list: it shows all; leave WHAT out"
    elif verb != "list" and not what:
        wrong = f'{verb}: what? Give an address range such as 203.0.113.0/24, or a number\'s beginning such as "+8816"'
    elif options.for_ is not None and verb != "add":
        wrong = f"{verb}: --for is for add"
    for_s = 0.0
    try:
        if options.for_ is not None:
            for_s = read_duration(options.for_)
            wrong = wrong or (
                "" if for_s else '--for: 0 is no time: write some, such as "1h", or leave it out for good'
            )
    except UnfitError as error:
        wrong = wrong or f"--for: {options.for_} {error.wrong}: {error.right}"
    if wrong:
        print(f"block: {wrong}", file=sys.stderr)
        return 2
    try:
        config = load(options.config, os.environ, kinds(reads_networks=False))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return asyncio.run(_blocked(config, verb, what, for_s))


async def _blocked(config: "Config", verb: str, what: str, for_s: float) -> int:
    """Add, list or remove a block. The exit code: 1 when there is no room, or nothing to remove."""
    from sidecar.app import register_of  # noqa: PLC0415 - see above
    from sidecar.config.findings import UnfitError  # noqa: PLC0415 - see above
    from sidecar.errors import StoreAwayError  # noqa: PLC0415 - see above
    from sidecar.lists.blocks import MOST  # noqa: PLC0415 - see above
    from sidecar.store.client import ReplyError  # noqa: PLC0415 - see above
    from sidecar.store.embedded import StoreMissingError, embedded  # noqa: PLC0415 - see above

    try:
        async with AsyncExitStack() as stack:
            url = config.store.url
            if url == "embedded":
                url = await stack.enter_async_context(embedded(Path(config.server.state_dir)))
            register, read = await stack.enter_async_context(register_of(config, url))
            if verb == "list":
                _, blocks = await register.read()
                rows = [("WHAT", "UNTIL", "LEFT")]
                for block in blocks or ():
                    until = "it is removed" if block.left is None else _when(time.time() + block.left_s)
                    rows.append((block.shown, until, "-" if block.left is None else f"{block.left} s"))
                if len(rows) == 1:
                    print("block: nothing is blocked", file=sys.stderr)
                else:
                    print(_table(rows))
                return 0
            target = read(what)
            if verb == "remove":
                if await register.remove(target):
                    print(f"{target.shown} is blocked no longer")
                    return 0
                print(f"block: {target.shown} was not blocked; block list shows what is", file=sys.stderr)
                return 1
            if not await register.add(target, for_s):
                right = "remove some, or write them as [[block]] into the configuration"
                print(f"block: there are {MOST} blocks already, which is the most: {right}", file=sys.stderr)
                return 1
            until = f"until {_when(time.time() + for_s)}" if for_s else "until it is removed (--for 1h gives it an end)"
            print(f"{target.told} is blocked {until}")
            for note in target.notes(config.allow):
                print(f"Note: {note}")
    except UnfitError as error:
        print(f"block: {what} {error.wrong}: {error.right}", file=sys.stderr)
        return 2
    except (OSError, ValueError, StoreMissingError, StoreAwayError, ReplyError) as error:
        print(f"block: {error}", file=sys.stderr)
        return 1
    return 0


def _keys(options: argparse.Namespace) -> int:
    from sidecar.app import signing_keys  # noqa: PLC0415 - see above
    from sidecar.config.load import ConfigError, load  # noqa: PLC0415 - see above
    from sidecar.keys import KeyFiles  # noqa: PLC0415 - see above
    from sidecar.kinds import kinds  # noqa: PLC0415 - see above

    try:
        config = load(options.config, os.environ, kinds(reads_networks=False))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    files = signing_keys(config)
    if not isinstance(files, KeyFiles):
        print(
            "keys: this configuration names its key itself (identity.private_key or identity.secret);"
            " to rotate it, change it there and send SIGHUP",
            file=sys.stderr,
        )
        return 2
    if options.verb == "rotate":
        made = files.rotate()
        print(f"{made.kid} is published now and signs from {_when(made.signs_from)} on")
        return 0
    current = files.current()
    for key in files.all():
        state = "signs now" if key == current else "waits" if key.signs_from > time.time() else "retires"
        print(f"{key.kid}  {key.jwk['alg']}  {state:9}  from {_when(key.signs_from)}")
    return 0


def _openapi(_: argparse.Namespace) -> int:
    from sidecar.config.model import Api  # noqa: PLC0415 - see above
    from sidecar.openapi import document  # noqa: PLC0415 - see above

    print(json.dumps(document(Api().prefix), indent=2))
    return 0


def _schema(_: argparse.Namespace) -> int:
    from sidecar.config.load import schema  # noqa: PLC0415 - see above
    from sidecar.kinds import kinds  # noqa: PLC0415 - see above

    print(json.dumps(schema(kinds()), indent=2, ensure_ascii=False))
    return 0


def _when(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
