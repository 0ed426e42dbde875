"""What is counted, and that counting holds up nothing."""

import re
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from sidecar import metrics as ours
from sidecar.events import (
    Attempt,
    BreakerSeen,
    MessageConcluded,
    ReceiptMoved,
    RequestEnded,
    RequestsRefused,
    Verified,
    told_to,
)
from sidecar.metrics import Metrics


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("amount", [[], "x", None])
def test_counting_never_raises(amount: Any) -> None:
    """A wrong amount, too few or too many labels, a label that cannot be a text: what is counted is done, and stays."""
    metrics = Metrics()
    wrong: Any = Unprintable()
    with capture_logs() as lines:
        metrics.refusals.inc("too", "many")
        metrics.refusals.inc(wrong)
        metrics.requests.inc()
        metrics.outbox.set(amount)
        metrics.upstream_seconds.observe(amount)
    assert [(line["event"], line["metric"]) for line in lines] == [
        ("metric_failed", "sidecar_refusals"),
        ("metric_failed", "sidecar_refusals"),
        ("metric_failed", "sidecar_requests"),
        ("metric_failed", "sidecar_outbox_messages"),
        ("metric_failed", "sidecar_upstream_seconds"),
    ]
    metrics.attempts.inc("hook", "accepted")
    text = metrics.text()
    assert b'sidecar_attempts_total{outcome="accepted",provider="hook"} 1.0' in text
    assert b"sidecar_upstream_seconds_count 0.0" in text
    assert b"sidecar_refusals_total{" not in text


def exposition(registry: CollectorRegistry) -> list[str]:
    """What a scrape reads, without the times at which counting began."""
    return re.sub(r"(_created(?:\{.*\})?) \S+", r"\1", generate_latest(registry).decode()).splitlines()


def test_a_scrape_reads_what_the_client_librarys_own_metrics_would_say() -> None:
    """Names, help, types, labels, bounds and numbers, to the letter, for the same counts."""
    own, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    count, gauge = ours.Counter(own, "c", "Counts", ["b", "a"]), ours.Gauge(own, "g", "Is")
    seconds, of = ours.Histogram(own, "s_seconds", "Takes"), ours.Histogram(own, "t_seconds", "Takes", ["provider"])
    their_count = prometheus_client.Counter("c", "Counts", ["b", "a"], registry=theirs)
    their_gauge = prometheus_client.Gauge("g", "Is", registry=theirs)
    bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
    their_seconds = prometheus_client.Histogram("s_seconds", "Takes", registry=theirs, buckets=bounds)
    their_of = prometheus_client.Histogram("t_seconds", "Takes", ["provider"], registry=theirs, buckets=bounds)
    assert exposition(own) == exposition(theirs)
    for labels in [("x", "y"), ("x", 'q"\n'), ("x", "y")]:
        count.inc(*labels)
        their_count.labels(*labels).inc()
    gauge.set(2)
    their_gauge.set(2)
    for value in (0.0, 0.001, 0.0011, 0.3, 2.5, 60.0, 61.5):
        seconds.observe(value)
        their_seconds.observe(value)
        of.observe(value, "hook")
        their_of.labels("hook").observe(value)
    assert exposition(own) == exposition(theirs)
    assert 'c_total{a="y",b="x"} 2.0' in exposition(own)


def request(outcome: str, **more: Any) -> RequestEnded:
    return RequestEnded(
        request_id="r",
        client="192.0.2.1",
        method="POST",
        route="POST /send",
        action="send",
        outcome=outcome,
        status=200,
        ms=1.0,
        **more,
    )


def test_every_event_is_counted_once_where_it_belongs() -> None:
    """An event moves its own numbers, and no others; one that nothing counts moves none."""
    metrics = Metrics()
    tell = told_to(metrics.hears)

    def counted(*events: Any) -> set[str]:
        before = set(metrics.text().decode().splitlines())
        for event in events:
            tell(event)
        moved = set(metrics.text().decode().splitlines()) - before
        return {line for line in moved if not re.search(r"_created|_bucket|_sum", line)}

    assert counted(request("queued", to="+49*")) == {'sidecar_requests_total{action="send",outcome="queued"} 1.0'}
    assert counted(request("refused", code="rate_limited", reason="limit ip")) == {
        'sidecar_requests_total{action="send",outcome="refused"} 1.0',
        'sidecar_refusals_total{code="rate_limited"} 1.0',
    }
    let_go = [{"code": "captcha_required", "reason": "no_token"}, {"code": "rate_limited", "reason": "limit to"}]
    assert counted(request("queued", observed_limits=["ip"], observed=let_go)) == {
        'sidecar_requests_total{action="send",outcome="queued"} 2.0',
        'sidecar_observed_refusals_total{code="captcha_required"} 1.0',
        'sidecar_observed_refusals_total{code="rate_limited"} 2.0',
    }
    assert counted(Verified(outcome="started")) == {'sidecar_verifications_total{outcome="started"} 1.0'}
    of = {"message": "1-0", "verification_id": "v", "request_id": "r", "to": "+49*", "provider": "hook", "reason": ""}
    assert counted(Attempt(**of, outcome="accepted", seconds=0.2, duplicate=False)) == {
        'sidecar_attempts_total{outcome="accepted",provider="hook"} 1.0',
        'sidecar_attempt_seconds_count{provider="hook"} 1.0',
    }
    assert counted(Attempt(**of, outcome="accepted", seconds=0.2, duplicate=True)) == {
        'sidecar_attempts_total{outcome="accepted",provider="hook"} 2.0',
        'sidecar_attempt_seconds_count{provider="hook"} 2.0',
        'sidecar_delivery_duplicates_total{provider="hook"} 1.0',
    }
    assert counted(MessageConcluded(outcome="sent")) == {'sidecar_messages_total{outcome="sent"} 1.0'}
    said: dict[str, Any] = {
        "provider": "hook",
        "verification_id": "v",
        "state": "delivered",
        "vendor_code": "0",
        "seconds": 1.0,
    }
    assert counted(ReceiptMoved(**said, duplicate=False)) == {
        'sidecar_receipts_total{provider="hook",state="delivered"} 1.0'
    }
    assert counted(ReceiptMoved(**said, duplicate=True)) == {
        'sidecar_receipts_total{provider="hook",state="delivered"} 2.0',
        'sidecar_delivery_duplicates_total{provider="hook"} 2.0',
    }
    assert counted(BreakerSeen(provider="hook", state=2)) == {'sidecar_breaker_state{provider="hook"} 2.0'}
    assert counted(RequestsRefused(route=None, action="send", code="x", count=9, clients=1)) == set()


def test_what_has_ended_counts_on_and_its_gauges_say_nothing() -> None:
    """Counters of a process that is no more are kept; a breaker that it had open is not open any more."""
    one, other = Metrics(dropped=lambda: 2), Metrics(dropped=lambda: 3)
    for tell in (told_to(one.hears), told_to(other.hears)):
        tell(BreakerSeen(provider="hook", state=2))
        tell(MessageConcluded(outcome="sent"))
    one.add(other.numbers(), has_ended=True)
    alone, both = Metrics(dropped=int), Metrics(dropped=int)
    alone.add(one.numbers(), has_ended=True)
    both.add(one.numbers())
    both.add(other.numbers())
    assert "sidecar_breaker_state{" not in alone.text().decode()
    assert 'sidecar_breaker_state{provider="hook"} 2.0' in both.text().decode()
    assert 'sidecar_messages_total{outcome="sent"} 3.0' in both.text().decode()
    assert "sidecar_log_lines_dropped_total 8.0" in both.text().decode()
