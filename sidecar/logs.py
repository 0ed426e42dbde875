"""How does the log look, and how does it leave? One JSON object a line (or colours, for people), on stderr.

Its law: writing a line never raises, and never waits. A thread of its own writes the lines, in the order in which they
came; a line that cannot be written, because nobody reads, the disk is full or the other end has gone, is dropped and
counted. The lines of libraries (logging, warnings) leave the same way.

Events (`events`) are told to an `EventLog`, which knows whose lines are wanted; they have a way of their own to the
writer, for a request may cost three of them. All else is written by structlog, in the same shape.

Recipients reach a log call only as `.masked`; codes, tokens and secrets never do. Of an error the log has the type and
the place, and not what it says: a parser's words quote the octets that it choked on, and they may be anybody's number.
"""

import atexit
import json
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from json.encoder import encode_basestring
from queue import SimpleQueue
from typing import Any, Final, Literal, cast

import structlog

from sidecar.events import Event, RequestEnded, RequestsRefused, SendsSuspected, SendSuspected

# Octets of lines that wait to be written: some ten thousand lines.
MOST_HELD: Final = 4 << 20
# Octets of lines written at once: PIPE_BUF on Linux, so that processes that share a pipe do not cut each other's lines.
_AT_ONCE: Final = 4096
# How long lines gather before they are written: waking the thread for each one costs the caller more than the line.
_GATHER_S: Final = 0.01
# How long the end of the process waits for its last lines.
_FLUSH_S: Final = 1.0
_STDERR: Final = 2
# Refused requests that have a line each: so many a window, of each code, route and action. A flood of 20,000 refusals a
# second would cost a quarter of a core, and 500 GB of disk a day.
_IN_FULL: Final = 20
_WINDOW_S: Final = 1.0


class Writer:
    """Writes lines to a file descriptor, in a thread of its own.

    `put` may be called from any thread, and from a destructor or signal handler that interrupts another `put`.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        # What the thread waits for: lines; what it sets once all lines before it are done with; None, which ends it.
        self._calls: SimpleQueue[Literal["lines"] | threading.Event | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._is_called = False
        self._held = 0
        self._told = 0
        self._is_cut = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Have a line written some time soon, or count it as dropped."""
        with self._lock:
            held = self._held + len(line)
            if held > MOST_HELD:
                self.dropped += 1
                return
            self._held = held
            self._lines.append(line)
            if not self._is_called:
                self._is_called = True
                self._calls.put("lines")

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put is written or dropped; False when that takes longer than `timeout_s`."""
        done = threading.Event()
        self._calls.put(done)
        return done.wait(timeout_s)

    def close(self) -> None:
        """Have what was put written, then end the thread."""
        self._calls.put(None)

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if call == "lines" and self._calls.empty():
                time.sleep(_GATHER_S)
            with self._lock:
                lines, self._lines = self._lines, []
                self._is_called = False
            batch: list[bytes] = []
            octets = 0
            for line in lines:
                octets += len(line)
                if octets > _AT_ONCE and batch:
                    self._deliver(batch)
                    batch, octets = [], len(line)
                batch.append(line)
            if batch:
                self._deliver(batch)
            if isinstance(call, threading.Event):
                call.set()
            elif call is None:
                return

    def _deliver(self, batch: list[bytes]) -> None:
        octets = b"".join(batch)
        is_written = self._write(octets)
        with self._lock:
            self._held -= len(octets)
            self.dropped += 0 if is_written else len(batch)
        if is_written and self.dropped > self._told:
            lines, self._told = self.dropped - self._told, self.dropped
            self._write(_line("warning", {"event": "log_lines_dropped", "lines": lines}))

    def _write(self, octets: bytes) -> bool:
        """Write all of it, however long the other end takes; False when that cannot be."""
        left = memoryview(b"\n" + octets if self._is_cut else octets)
        whole = len(left)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody who shares the descriptor made it non-blocking
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
            except OSError:
                self._is_cut = self._is_cut or len(left) < whole
                return False
        self._is_cut = False
        return True


class _Lines:
    """What structlog writes to: every method takes a line."""

    def __init__(self, writer: Writer) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.put


class _Handler(logging.Handler):
    """Where the lines of libraries go."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._put = writer.put

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's line with too few arguments is still a line
            text = str(record.msg)
        with suppress(MemoryError):  # the law of this module: who logs that there is no memory goes on
            self._put(_line(record.levelname.lower(), {"event": text, "exc_info": record.exc_info}))


class EventLog:
    """The lines of events, under one configuration's `access_log`.

    Of refused requests, which anybody can cause at will, the first of each second have a line; the others are counted,
    and told in one line when the second is over. `call_later(seconds, call)` is the event loop's.
    """

    def __init__(
        self,
        access_log: Literal["guarded", "all", "off"],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._access_log = access_log
        self._call_later = call_later
        self._refused: dict[tuple[str | None, str, str | None], _Refused] = {}
        self._suspected: dict[tuple[str, bool], int] = {}

    def hears(self, of: type[Event]) -> Callable[[Any], None] | None:
        """Say what writes the lines of a class's events, where they have some that are wanted."""
        if of is RequestEnded:
            return None if self._access_log == "off" else self._request_ended
        if of is SendSuspected:
            return self._send_suspected
        return write if of.level else None

    def close(self) -> None:
        """Tell of the refusals, and of the suspected sends, that were only counted so far."""
        suspected, self._suspected = self._suspected, {}
        for (rule, enforced), count in suspected.items():
            if count > _IN_FULL:
                write(SendsSuspected(rule=rule, enforced=enforced, count=count - _IN_FULL))
        refused, self._refused = self._refused, {}
        for (code, action, route), one in refused.items():
            if one.count > _IN_FULL:
                count = one.count - _IN_FULL
                write(RequestsRefused(route=route, action=action, code=code, count=count, clients=len(one.clients)))

    def _request_ended(self, event: RequestEnded) -> None:
        """Write a request's line, unless it is one of many that are refused alike."""
        if event.action == "pass" and self._access_log != "all":
            return
        if event.outcome != "refused":
            write(event)
            return
        key = (event.code, event.action, event.route)
        refused = self._refused.get(key)
        if refused is None:
            self._open_window()
            refused = self._refused[key] = _Refused()
        refused.count += 1
        if refused.count <= _IN_FULL:
            write(event)
        else:
            refused.clients.add(event.client)

    def _send_suspected(self, event: SendSuspected) -> None:
        """Write a suspected send's line, if it is one of the first."""
        self._open_window()
        key = (event.rule, event.enforced)
        self._suspected[key] = count = self._suspected.get(key, 0) + 1
        if count <= _IN_FULL:
            write(event)

    def _open_window(self) -> None:
        """Have what is only counted told in a second."""
        if not self._refused and not self._suspected:
            self._call_later(_WINDOW_S, self.close)


@dataclass(slots=True)
class _Refused:
    """Alike refusals of a window: how many, and the clients of those that have no line."""

    count: int = 0
    clients: set[str] = field(default_factory=set)


_writer: Writer | None = None
_is_json_wanted = True
_render: structlog.types.Processor = structlog.processors.JSONRenderer(ensure_ascii=False)


def configure(log_format: Literal["json", "console"], descriptor: int = _STDERR) -> None:
    """Set up structlog, and let libraries' own log lines come out in the same shape."""
    global _writer, _render, _is_json_wanted  # noqa: PLW0603 - a process has one log
    if _writer is not None:
        _writer.close()
    _writer = Writer(descriptor)
    _is_json_wanted = log_format == "json"
    if _is_json_wanted:
        _render = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        _render = structlog.dev.ConsoleRenderer(colors=os.isatty(descriptor))
    lines = _Lines(_writer)
    structlog.configure(
        processors=[_processed],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Handler(_writer)]
    root.setLevel(logging.WARNING)


def write(event: Event) -> None:
    """Write the line of an event. Where nobody has set up the log, structlog does what it is set up for."""
    if _writer is not None and _is_json_wanted:
        try:
            line = _renderers[type(event)](event, _now()).encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 - a value of another type than was promised: _line leaves out what it must
            line = _line(event.level, {"event": event.name, **_shown(event)})
        _writer.put(line)
        return
    if _writer is not None:
        _writer.put(_line(event.level, {"event": event.name, **_shown(event)}))
        return
    with suppress(Exception):  # the law of this module
        getattr(structlog.get_logger(), event.level)(event.name, **_shown(event))


def _shown(event: Any) -> dict[str, Any]:
    """What the line of an event has, beside when, how grave and what."""
    shown = {}
    for one in fields(event):
        value = getattr(event, one.name)
        if value is not None or one.default is not None:
            digits = one.metadata.get("digits")
            shown[one.name] = round(value, digits) if digits and isinstance(value, float) else value
    return shown


def own_process() -> None:
    """Give the log all that Python itself would print on stderr, and write the last lines before the process ends."""
    logging.captureWarnings(capture=True)
    sys.unraisablehook = lambda raised: _unheard("error_unheard", raised.exc_value)
    threading.excepthook = lambda raised: _unheard("thread_failed", raised.exc_value)
    atexit.register(flush)


def flush() -> None:
    """Write the lines that wait, if that takes no longer than a second."""
    if _writer is not None:
        _writer.flush(_FLUSH_S)


def dropped() -> int:
    """How many lines could not be written so far."""
    return 0 if _writer is None else _writer.dropped


def _unheard(event: str, error: BaseException | None) -> None:
    structlog.get_logger().error(event, exc_info=error)


def _processed(_: object, level: str, event: structlog.types.EventDict) -> bytes:
    return _line(level, event)


# A second since the epoch, and its text; one value, for threads that read it meanwhile.
_second: tuple[str, str] = ("", "")


def _now() -> str:
    """The time, as ISO 8601 has it, in UTC: the date and time of day are worked out once a second."""
    global _second  # noqa: PLW0603 - what was worked out last
    now_ns = str(time.time_ns())
    now_s = now_ns[:-9]
    second, text = _second
    if second != now_s:
        text = datetime.fromtimestamp(int(now_s), UTC).isoformat()[:19]
        _second = now_s, text
    return f"{text}.{now_ns[-9:-3]}Z"


def _renderer(of: Any) -> Callable[[Any, str], str]:
    """Make the function that renders a class's events, at a time, as JSONRenderer would.

    Its source is written here, as `dataclasses` writes an __init__: it takes 2 µs, a loop over the fields 4, json 7.
    """
    line = f'{{{{"timestamp": "{{now}}", "level": "{of.level}", "event": "{of.name}"'
    for one in fields(of):
        value, digits = f"event.{one.name}", one.metadata.get("digits")
        text = f"_float({value}, {digits})" if digits else f"{_NAMES.get(one.type, '_any')}({value})"
        if one.default is None:
            line += f"{{'' if {value} is None else f', \"{one.name}\": {{{text}}}'}}"
        elif one.type in _OR_NONE:
            line += f", \"{one.name}\": {{'null' if {value} is None else {text}}}"
        else:
            line += f', "{one.name}": {{{text}}}'
    source = f'lambda event, now: f"""{line}}}}}\\n"""'
    names = {
        "_text": encode_basestring,
        "_int": int.__repr__,
        "_bool": _BOOLS.__getitem__,
        "_float": _float,
        "_any": _any,
    }
    return cast("Callable[[Any, str], str]", eval(source, names))  # noqa: S307 - of names of our own, and nothing else


class _Renderers(dict[type[Event], Callable[[Any, str], str]]):
    """What renders the events of a class, made with its first."""

    def __missing__(self, of: type[Event]) -> Callable[[Any, str], str]:
        self[of] = _renderer(of)
        return self[of]


def _float(value: float, digits: int) -> str:
    if value - value != 0.0:
        raise ValueError("nan and inf are spelled otherwise")
    return float.__repr__(round(value, digits))


def _any(value: object) -> str:
    if type(value) is str:
        return encode_basestring(value)
    if type(value) is bool:
        return "true" if value else "false"
    return _encode(value)


_renderers: Final = _Renderers()
# What renders a field's values, by its type; `_any` those of any other.
_NAMES: Final[dict[Any, str]] = {str: "_text", str | None: "_text", int: "_int", int | None: "_int", bool: "_bool"}
_BOOLS: Final = {True: "true", False: "false"}
_OR_NONE: Final = frozenset({str | None, int | None})
_encode: Final = json.JSONEncoder(ensure_ascii=False).encode


def _line(level: str, event: structlog.types.EventDict) -> bytes:
    """Make a line of an event; of one that cannot be rendered, what can be."""
    at = _now()
    try:
        _type_and_place(event)
        named = {"timestamp": at, "level": level, "event": None}
        whole = {**named, **structlog.contextvars.get_contextvars(), **event}
        text = str(_render(None, level, whole))
    except Exception as error:  # noqa: BLE001 - somebody's __repr__ raised: no reason to lose what is done
        shown = {name: value for name, value in event.items() if _is_json(value)}
        text = json.dumps({"timestamp": at, "level": level, **shown, "unrendered": type(error).__name__})
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except Exception:  # noqa: BLE001 - as in _line
        return False
    return True


def _type_and_place(event: structlog.types.EventDict) -> None:
    """Say of an error what it is and where it came about."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        at = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
        event.update(error=type(error).__name__, at=at)
        if error.__cause__ is not None:
            event["cause"] = type(error.__cause__).__name__
