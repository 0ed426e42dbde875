"""What a line of the log has, and what it never has."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

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


def told(capfd: pytest.CaptureFixture[str]) -> str:
    """What the log has written."""
    logs.flush()
    return capfd.readouterr().err


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError(PHONE)


def test_a_line_is_an_object_that_begins_with_when_how_grave_and_what(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    structlog.get_logger().info("listening", public="127.0.0.1:1")
    line = json.loads(told(capfd))
    assert list(line) == ["timestamp", "level", "event", "public"]
    assert (line["level"], line["event"], line["public"]) == ("info", "listening", "127.0.0.1:1")


@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("aiohttp.server")])
def test_an_error_is_told_by_type_and_place_and_never_by_its_words(
    capfd: pytest.CaptureFixture[str],
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
    text = told(capfd)
    assert PHONE not in text
    line = json.loads(text)
    assert (line["event"], line["level"]) == ("it broke", "error")
    assert (line["error"], line["cause"]) == ("ValueError", "KeyError")
    assert line["at"][-1].startswith("test_logs.py:")


def test_a_clients_garbage_is_one_short_line_and_no_error_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    try:
        fail(BadStatusLine(PHONE))
    except BadStatusLine:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "192.0.2.1")
    line = json.loads(told(capfd))
    del line["timestamp"]
    assert line == {"level": "info", "event": "Error handling request from 192.0.2.1", "error": "BadStatusLine"}


AWKWARD: list[Any] = [Unprintable(), "lone \ud800", float("nan"), 10**5000, {1: {2}}, b"\xff", object()]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("value", AWKWARD, ids=lambda value: type(value).__name__)
def test_a_value_that_cannot_be_rendered_raises_nothing(
    capfd: pytest.CaptureFixture[str], log_format: Any, value: Any
) -> None:
    """The line comes all the same, with what can be rendered; from structlog and from a library."""
    logs.configure(log_format)
    structlog.get_logger().info("odd", value=value, status=200)
    logging.getLogger("a.library").warning("odd %s", value)
    logging.getLogger("a.library").warning("odd %s %s", value)  # noqa: PLE1206 - a library's mistake
    text = told(capfd)
    assert text.count("\n") >= 3
    assert "200" in text
    assert text.count("odd") >= 3
    assert PHONE not in text


def test_a_loop_in_a_value_raises_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    around: list[Any] = []
    around.append(around)
    structlog.get_logger().info("odd", value=around, status=200)
    line = json.loads(told(capfd))
    assert (line["event"], line["status"], line["unrendered"]) == ("odd", 200, "ValueError")


class Pipe:
    """A pipe that the log writes to, of one page."""

    def __init__(self) -> None:
        self.reads, self.writes = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reads)

    def events(self) -> Iterator[dict[str, Any]]:
        with os.fdopen(os.dup(self.reads), "rb") as lines:
            yield from map(json.loads, lines)


def test_a_pipe_that_nobody_reads_holds_up_nobody() -> None:
    """Lines are held up to a bound, then dropped and counted; read again, it has the others in order, and says so."""
    with Pipe() as pipe:
        logs.configure("json", descriptor=pipe.writes)
        log = structlog.get_logger()
        filler = "x" * 1000
        began = time.monotonic()
        count = 2 * logs.MOST_HELD // 1000
        for number in range(count):
            log.info("line", number=number, filler=filler)
        assert time.monotonic() - began < 5
        dropped = logs.dropped()
        assert 0 < dropped < count
        numbers, said = [], 0
        for line in pipe.events():
            if line["event"] == "log_lines_dropped":
                said += line["lines"]
            else:
                numbers.append(line["number"])
            if len(numbers) + said == count:
                break
        assert said == dropped
        assert numbers == sorted(numbers)


def test_what_cannot_be_written_is_dropped_and_counted() -> None:
    """The other end has gone: no error, no wait, and a count of each line."""
    pipe = Pipe()
    os.close(pipe.reads)
    logs.configure("json", descriptor=pipe.writes)
    for _ in range(3):
        structlog.get_logger().info("line")
    logs.flush()
    assert logs.dropped() == 3


def test_a_full_disk_is_survived() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    logs.configure("json", descriptor=full)
    structlog.get_logger().info("line")
    logs.flush()
    assert logs.dropped() == 1


def test_a_descriptor_that_does_not_block_loses_nothing() -> None:
    """Whoever shares the terminal or pipe may have made it so; a line is still whole."""
    with Pipe() as pipe:
        os.set_blocking(pipe.writes, False)
        logs.configure("json", descriptor=pipe.writes)
        for number in range(1000):
            structlog.get_logger().info("line", number=number, filler="x" * 1000)
        events = pipe.events()
        assert [next(events)["number"] for _ in range(1000)] == list(range(1000))
        assert logs.dropped() == 0


def test_a_destructor_in_the_middle_of_a_line_may_log() -> None:
    """A line that comes while another one is being taken, on the same thread, waits for nothing."""
    with Pipe() as pipe:
        writer = logs.Writer(pipe.writes)
        with writer._lock:  # as a destructor finds it
            done = threading.Thread(target=lambda: None)
            writer.put(b"{}\n")
            done.start()
        assert writer.flush(5)
        assert os.read(pipe.reads, 10) == b"{}\n"
