"""How does the log look? One JSON object a line (or colours, for people), every line with the request's id.

Recipients reach a log call only as `.masked`; codes, tokens and secrets never do. Of an error the log has the type and
the place, and not what it says: a parser's words quote the octets that it choked on, and they may be anybody's number.
"""

import logging
import sys
import traceback
from typing import Final, Literal

import structlog
from aiohttp.http_exceptions import HttpProcessingError

# What one looks for first in a line.
_FIRST: Final = ("timestamp", "level", "event")


def configure(log_format: Literal["json", "console"], level: int = logging.INFO) -> None:
    """Set up structlog, and let libraries' own log lines come out in the same shape."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, _type_and_place, _readable, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _type_and_place,
                _readable,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def _type_and_place(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
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
    return event


def _readable(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    return {name: event[name] for name in _FIRST if name in event} | dict(event)
