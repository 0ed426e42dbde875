"""What a line of the log has, and what it never has."""

import json
import logging
import os
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from types import UnionType
from typing import Any, Literal, Self

import pytest
import structlog
from awake import awake
from structlog.testing import capture_logs

from sidecar import logs
from sidecar.events import Event, RequestEnded, StoreBack, Verified, told_to

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


# Events…

# Values of each type that a field may have, the awkward among them.
VALUES: dict[Any, list[Any]] = {
    str: ["", "POST /send", 'a "quoted"\\ \n\x00 text', "Zürich 上海 \u2028", "lone \ud800"],
    int: [0, -1, 10**30],
    float: [0.0, 0.4, 12345.6789, 1e300, 3],
    bool: [True, False],
    type(None): [None],
}
EVENTS = [one for one in Event.__subclasses__() if one.level]


def values(of: Any) -> list[Any]:
    """What a field of this type may hold."""
    if isinstance(of, UnionType):
        return [value for one in typing.get_args(of) for value in values(one)]
    if typing.get_origin(of) is Literal:
        return list(typing.get_args(of))
    if typing.get_origin(of) is Sequence:
        return [[], [{"code": "captcha_required", "reason": "é"}], ["ip", "to"]]
    return VALUES[of]


def samples(of: Any) -> Iterator[Any]:
    """Events of a class: each value of each field at least once."""
    every = {one.name: values(one.type) for one in fields(of)}
    for turn in range(max(map(len, every.values()))):
        yield of(**{name: some[turn % len(some)] for name, some in every.items()})
    yield of(**{one.name: values(one.type)[1] for one in fields(of) if one.default is not None})


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("of", EVENTS, ids=lambda of: of.name)
def test_an_event_looks_like_any_other_line(capfd: pytest.CaptureFixture[str], of: Any, log_format: Any) -> None:
    """Its line is the one that structlog would write, to the letter, whatever its fields hold."""
    logs.configure(log_format)
    for event in samples(of):
        logs.write(event)
        pairs = {one.name: getattr(event, one.name) for one in fields(of)}
        digits = {one.name: one.metadata["digits"] for one in fields(of) if "digits" in one.metadata}
        optional = {one.name for one in fields(of) if one.default is None}
        shown = {
            name: round(value, digits[name]) if name in digits else value
            for name, value in pairs.items()
            if not (name in optional and value is None)
        }
        getattr(structlog.get_logger(), of.level)(of.name, **shown)
        mine, theirs = told(capfd).removesuffix("\n").split("\n")
        at = (
            len('{"timestamp": "2026-11-27T20:30:00.000000Z"')
            if log_format == "json"
            else len("2026-11-27T20:30:00.000000Z")
        )
        assert mine[at:] == theirs[at:]
        assert mine[: at - 11].startswith(theirs[:12])


def test_an_event_that_cannot_be_rendered_raises_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The line comes all the same, with what can be rendered; a number that is none, a text that is none."""
    logs.configure("json")
    for value in AWKWARD:
        logs.write(StoreBack(failures=value, seconds=1.0))
        logs.write(StoreBack(failures=1, seconds=value))
    lines = [json.loads(line) for line in told(capfd).splitlines()]
    assert [line["event"] for line in lines] == ["store_back"] * 2 * len(AWKWARD)
    assert PHONE not in str(lines)


def test_where_nobody_has_set_up_the_log_structlog_has_the_event() -> None:
    with capture_logs() as lines:
        logs.write(StoreBack(failures=3, seconds=1.26))
    assert lines == [{"event": "store_back", "failures": 3, "seconds": 1.3, "log_level": "info"}]


class Later:
    """An event loop's `call_later`: what is to be called stands here until the test does."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, seconds: float, call: Callable[[], None]) -> None:
        assert seconds == 1.0
        self.calls.append(call)


REFUSED = RequestEnded(
    request_id="r",
    client="192.0.2.1",
    method="POST",
    route="POST /send",
    action="send",
    outcome="refused",
    status=403,
    ms=0.1,
    code="captcha_required",
    reason="no_token",
)


def test_a_flood_of_refusals_is_a_few_lines_and_an_exact_count() -> None:
    """Of each code, route and action twenty a second have a line; the others are one line, however many they are."""
    later = Later()
    tell = told_to(logs.EventLog("guarded", later).hears)
    with capture_logs() as lines:
        for number in range(1020):
            tell(replace(REFUSED, client=f"192.0.2.{number % 7}"))
        for _ in range(21):
            tell(replace(REFUSED, code="rate_limited"))
        for _ in range(20):
            tell(replace(REFUSED, route=None, action="unreadable"))
        assert [line["event"] for line in lines] == ["request"] * 60
        del lines[:]
        [end_of_second] = later.calls
        end_of_second()
    shared = {"event": "requests_refused", "log_level": "info", "route": "POST /send", "action": "send"}
    assert lines == [
        {**shared, "code": "captcha_required", "count": 1000, "clients": 7},
        {**shared, "code": "rate_limited", "count": 1, "clients": 1},
    ]


def test_each_second_begins_anew_and_the_last_one_is_told_at_the_end() -> None:
    later = Later()
    log = logs.EventLog("all", later)
    tell = told_to(log.hears)
    with capture_logs() as lines:
        for _ in range(3):
            for _ in range(25):
                tell(REFUSED)
            log.close()
            log.close()
    assert len(later.calls) == 3
    assert [line["event"] for line in lines] == ([*["request"] * 20, "requests_refused"]) * 3
    assert [line["count"] for line in lines if line["event"] == "requests_refused"] == [5] * 3


@pytest.mark.parametrize("outcome", ["forwarded", "queued", "repeated", "answered", "verified", "left", "failed"])
def test_what_was_not_refused_has_a_line_each(outcome: str) -> None:
    tell = told_to(logs.EventLog("guarded", Later()).hears)
    with capture_logs() as lines:
        for _ in range(1000):
            tell(replace(REFUSED, outcome=outcome, code=None, reason=None))
    assert [line["outcome"] for line in lines] == [outcome] * 1000


@pytest.mark.parametrize(
    ("access_log", "actions"), [("all", ["send", "pass"]), ("guarded", ["send"]), ("off", [])], ids=str
)
def test_access_log_says_whose_requests_have_lines(access_log: Any, actions: list[str]) -> None:
    """All else that is told has its line under any of them, and what is only counted has none."""
    later = Later()
    log = logs.EventLog(access_log, later)
    tell = told_to(log.hears)
    with capture_logs() as lines:
        for action in ("send", "pass"):
            tell(replace(REFUSED, action=action))
            tell(replace(REFUSED, action=action, outcome="forwarded"))
        tell(StoreBack(failures=1, seconds=1.0))
        tell(Verified(outcome="started"))
        log.close()
    assert [line["action"] for line in lines if line["event"] == "request"] == [x for x in actions for _ in range(2)]
    assert [line["event"] for line in lines if line["event"] != "request"] == ["store_back"]


# How lines leave…


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
        count = 2 * logs.MOST_HELD // 1000
        with awake() as took:
            for number in range(count):
                log.info("line", number=number, filler=filler)
            assert took() < 5
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
