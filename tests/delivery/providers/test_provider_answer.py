"""sidecar/delivery/providers/answer.py: the law of every kind over HTTP, and Retry-After."""

import pytest

from sidecar.delivery.providers.answer import NOTHING, Said, asked_to_wait_s, coded, outcome
from sidecar.delivery.providers.seam import Accepted, Fault, Outcome, Rejected, Uncertain
from sidecar.outbound import HttpReply

FAULTS: dict[str, Fault] = {"Bad": "credentials", "Number.Bad": "number_invalid", "Slow": "throttled"}
OPEN = {"Inner", "Slow.Maybe"}


def judged(status: int, said: Said) -> Outcome:
    return outcome(HttpReply(status, {"retry-after": "9"}, b""), said, FAULTS, OPEN)


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (200, coded("OK", "OK", "id"), Accepted("id")),
        (202, coded("OK", "OK", "id"), Accepted("id")),
        (200, coded("OK", "OK", ""), Uncertain("no_id")),
        (400, coded("OK", "OK", "id"), Uncertain("no_id")),
        (500, coded("OK", "OK", "id"), Uncertain("http_500")),
        (200, coded("ok", "OK", "id"), Uncertain("ok")),
        (400, coded("Ok", "OK", ""), Uncertain("Ok")),
        (200, coded("Bad", "OK", ""), Rejected("credentials", "Bad")),
        (200, coded("Bad", "OK", "id"), Rejected("credentials", "Bad")),  # the vendor's own word, known to be a no
        (200, coded("New", "OK", "id"), Uncertain("New")),
        (200, coded("New", "OK", ""), Rejected("request", "New")),
        (403, coded("New", "OK", ""), Rejected("credentials", "New")),
        (400, coded("Bad.Kin", "OK", ""), Rejected("credentials", "Bad.Kin")),
        (200, coded("Number.Bad", "OK", ""), Rejected("number_invalid", "Number.Bad")),
        (200, coded("Number.New", "OK", ""), Rejected("request", "Number.New")),
        (429, coded("Number.Bad", "OK", ""), Rejected("number_invalid", "Number.Bad")),
        (200, coded("Slow", "OK", ""), Rejected("throttled", "Slow", 9.0)),
        (200, coded("Slow.Kin", "OK", ""), Rejected("throttled", "Slow.Kin", 9.0)),
        (200, coded("Slow.Maybe", "OK", ""), Uncertain("Slow.Maybe")),
        (200, coded("Inner.Kin", "OK", ""), Uncertain("Inner.Kin")),
        (400, coded("Inner", "OK", ""), Uncertain("Inner")),
        (503, coded("Slow", "OK", ""), Uncertain("Slow")),
        (200, NOTHING, Uncertain("http_200")),
        (404, NOTHING, Rejected("request", "http_404")),
        (408, NOTHING, Rejected("unreachable", "http_408", 9.0)),
        (307, NOTHING, Rejected("request", "http_307")),
        (303, NOTHING, Uncertain("http_303")),
    ],
)
def test_law(status: int, said: Said, expected: Outcome) -> None:
    """Success needs its word and its id; an error shape refuses; what says two things, or nothing, is open."""
    assert judged(status, said) == expected


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after": "86401"}, 86_400.0),
        ({"retry-after": "9" * 400}, 86_400.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "١٢"}, None),
        ({"retry-after": "Fri, 27 Nov 2026 12:00:30 GMT"}, None),
        ({"retry-after": "Fri, 27 Nov 2026 12:00:30 GMT", "date": "Fri, 27 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Friday, 27-Nov-26 12:00:30 GMT", "date": "Fri, 27 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Fri Nov 27 12:00:30 2026", "date": "Fri, 27 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Fri, 27 Nov 2026 11:00:00 GMT", "date": "Fri, 27 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 27 Nov 2099 11:00:00 GMT", "date": "Fri, 27 Nov 2026 12:00:00 GMT"}, 86_400.0),
        ({"retry-after": "Fri, 99 Nov 2026 12:00:30 GMT", "date": "x"}, None),
        ({"retry-after": "Fri, 27 Nov 99999 12:00:30 GMT", "date": "Fri, 27 Nov 2026 12:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(fields: dict[str, str], seconds: float | None) -> None:
    """RFC 9110 section 10.2.3, dates in the three forms of section 5.6.7; what cannot be read asks for nothing."""
    assert asked_to_wait_s(fields) == seconds
