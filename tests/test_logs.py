"""What a line of the log has, and what it never has."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from aiohttp.http_exceptions import BadStatusLine

from sidecar import logs

PHONE = "+8613900000001"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave logging as it was found: a test sets it up on its own captured stream."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def fail(error: Exception) -> None:
    raise error


def test_a_line_is_an_object_that_begins_with_when_how_grave_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    structlog.get_logger().info("listening", public="127.0.0.1:1")
    line = json.loads(capsys.readouterr().err)
    assert list(line) == ["timestamp", "level", "event", "public"]
    assert (line["level"], line["event"], line["public"]) == ("info", "listening", "127.0.0.1:1")


@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("aiohttp.server")])
def test_an_error_is_told_by_type_and_place_and_never_by_its_words(
    capsys: pytest.CaptureFixture[str],
    log: logging.Logger,
) -> None:
    """They may quote a request; of an error and of its cause."""
    logs.configure("json")
    try:
        try:
            fail(KeyError(PHONE))
        except KeyError as cause:
            raise ValueError(PHONE) from cause
    except ValueError:
        log.exception("it broke")
    text = capsys.readouterr().err
    assert PHONE not in text
    line = json.loads(text)
    assert (line["event"], line["level"]) == ("it broke", "error")
    assert (line["error"], line["cause"]) == ("ValueError", "KeyError")
    assert line["at"][-1].startswith("test_logs.py:")


def test_a_clients_garbage_is_one_short_line_and_no_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    try:
        fail(BadStatusLine(PHONE))
    except BadStatusLine:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "192.0.2.1")
    line = json.loads(capsys.readouterr().err)
    del line["timestamp"]
    assert line == {"level": "info", "event": "Error handling request from 192.0.2.1", "error": "BadStatusLine"}
