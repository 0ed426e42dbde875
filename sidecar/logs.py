"""How does the log look, and how does it leave? One JSON object a line (or colours, for people), on stderr.

Its law: writing a line never raises, and never waits. A thread of its own writes the lines, in the order in which they
came; a line that cannot be written, because nobody reads, the disk is full or the other end has gone, is dropped and
counted. The lines of libraries (logging, warnings) leave the same way.

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
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Final, Literal

import structlog
from aiohttp.http_exceptions import HttpProcessingError

# Octets of lines that wait to be written: some ten thousand lines.
MOST_HELD: Final = 4 << 20
# Octets of lines written at once: PIPE_BUF on Linux, so that processes that share a pipe do not cut each other's lines.
_AT_ONCE: Final = 4096
# How long lines gather before they are written: waking the thread for each one costs the caller more than the line.
_GATHER_S: Final = 0.002
# How long the end of the process waits for its last lines.
_FLUSH_S: Final = 1.0
_STDERR: Final = 2
# What one looks for first in a line.
_FIRST: Final = ("timestamp", "level", "event")


class Writer:
    """Writes lines to a file descriptor, in a thread of its own.

    `put` may be called from any thread, and from a destructor or signal handler that interrupts another `put`.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        # Lines; an event is set once all before it is done with; None ends the thread.
        self._items: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._held = 0
        self._told = 0
        self._is_cut = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Have a line written some time soon, or count it as dropped."""
        with self._lock:
            if self._held + len(line) > MOST_HELD:
                self.dropped += 1
                return
            self._held += len(line)
            self._items.put(line)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put is written or dropped; False when that takes longer than `timeout_s`."""
        done = threading.Event()
        self._items.put(done)
        return done.wait(timeout_s)

    def close(self) -> None:
        """Have what was put written, then end the thread."""
        self._items.put(None)

    def _run(self) -> None:
        batch: list[bytes] = []
        while True:
            item = self._items.get()
            if isinstance(item, bytes):
                time.sleep(_GATHER_S)
            while isinstance(item, bytes):
                if batch and sum(map(len, batch)) + len(item) > _AT_ONCE:
                    self._deliver(batch)
                    batch = []
                batch.append(item)
                if self._items.empty():
                    break
                item = self._items.get()
            if batch:
                self._deliver(batch)
                batch = []
            if isinstance(item, threading.Event):
                item.set()
            elif item is None:
                return

    def _deliver(self, batch: list[bytes]) -> None:
        is_written = self._write(b"".join(batch))
        with self._lock:
            self._held -= sum(map(len, batch))
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
        self._put(_line(record.levelname.lower(), {"event": text, "exc_info": record.exc_info}))


_writer: Writer | None = None
_render: structlog.types.Processor = structlog.processors.JSONRenderer(ensure_ascii=False)


def configure(log_format: Literal["json", "console"], level: int = logging.INFO, descriptor: int = _STDERR) -> None:
    """Set up structlog, and let libraries' own log lines come out in the same shape."""
    global _writer, _render  # noqa: PLW0603 - a process has one log
    if _writer is not None:
        _writer.close()
    _writer = Writer(descriptor)
    if log_format == "json":
        _render = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        _render = structlog.dev.ConsoleRenderer(colors=os.isatty(descriptor))
    lines = _Lines(_writer)
    structlog.configure(
        processors=[_processed],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Handler(_writer)]
    root.setLevel(logging.WARNING)


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


def _line(level: str, event: structlog.types.EventDict) -> bytes:
    """Make a line of an event; of one that cannot be rendered, what can be."""
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
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
    if isinstance(error, HttpProcessingError):
        # A client's garbage, answered with 400: no fault of ours, and anybody can write a thousand lines of it.
        event.update(level="info", error=type(error).__name__)
    elif isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        at = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
        event.update(error=type(error).__name__, at=at)
        if error.__cause__ is not None:
            event["cause"] = type(error.__cause__).__name__
