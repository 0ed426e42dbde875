"""What is counted? Every metric's name, labels and meaning, in one place. Prometheus text format.

A label's values are few and known in advance; a recipient, an address or an id is never one. Counting never raises:
what is counted has been done, and must not be done again because a number could not be written down.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Final, TypeVar

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from sidecar import logs

# From a loopback answer to the longest default time-out.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

_T = TypeVar("_T", bound=Callable[..., Any])


def _unfailing(method: _T) -> _T:
    """Have a method of a metric that tells and does not raise; it gives the metric itself where it fails."""

    @wraps(method)
    def told(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except Exception as error:  # noqa: BLE001 - the law of this module
            structlog.get_logger().error("metric_failed", metric=self._name, exc_info=error)
            return self

    return told  # type: ignore[return-value] # the same shape, which only ParamSpec and Concatenate would say


class Counter(prometheus_client.Counter):
    labels = _unfailing(prometheus_client.Counter.labels)
    inc = _unfailing(prometheus_client.Counter.inc)


class Gauge(prometheus_client.Gauge):
    labels = _unfailing(prometheus_client.Gauge.labels)
    set = _unfailing(prometheus_client.Gauge.set)


class Histogram(prometheus_client.Histogram):
    labels = _unfailing(prometheus_client.Histogram.labels)
    observe = _unfailing(prometheus_client.Histogram.observe)


class _LogLines(Collector):
    """The log's own count: its thread must not wait for a metric's lock."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        text = "Log lines that could not be written: nobody reads, or the disk is full"
        yield CounterMetricFamily("sidecar_log_lines_dropped", text, value=logs.dropped())


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        r = self.registry
        self.requests = Counter(
            "sidecar_requests", "Requests by action and what came of them", ["action", "outcome"], registry=r
        )
        self.refusals = Counter("sidecar_refusals", "Refusals by the contract's code", ["code"], registry=r)
        self.observed = Counter(
            "sidecar_observed_refusals", "What observe mode would have refused", ["code"], registry=r
        )
        self.attempts = Counter(
            "sidecar_attempts", "Sends by provider and outcome", ["provider", "outcome"], registry=r
        )
        self.attempt_seconds = Histogram(
            "sidecar_attempt_seconds", "Time to a provider's answer", ["provider"], registry=r, buckets=_SECONDS
        )
        self.duplicates = Counter(
            "sidecar_delivery_duplicates", "Messages that a second provider took too", ["provider"], registry=r
        )
        self.receipts = Counter(
            "sidecar_receipts", "Receipts of our messages, by provider and state", ["provider", "state"], registry=r
        )
        self.messages = Counter(
            "sidecar_messages",
            "What sending a message came to: sent, unconfirmed (no provider accepted it, one may have it), deferred"
            " (all refused for now, it is tried again), failed",
            ["outcome"],
            registry=r,
        )
        self.breaker_state = Gauge(
            "sidecar_breaker_state",
            "The worst of a provider's breakers: 0 closed, 1 half_open, 2 open",
            ["provider"],
            registry=r,
        )
        self.outbox = Gauge("sidecar_outbox_messages", "Messages waiting or being sent", registry=r)
        self.verifications = Counter(
            "sidecar_verifications", "Verifications by what came of them", ["outcome"], registry=r
        )
        self.upstream_seconds = Histogram(
            "sidecar_upstream_seconds", "Time to upstream's status line", registry=r, buckets=_SECONDS
        )
        self.store_seconds = Histogram(
            "sidecar_store_seconds", "Time of one store command", registry=r, buckets=_SECONDS
        )
        self.task_ends = Counter(
            "sidecar_task_ends", "Long-lived tasks that ended, and were started again", ["task"], registry=r
        )
        r.register(_LogLines())

    def text(self) -> bytes:
        """The exposition that `GET /metrics` answers."""
        return generate_latest(self.registry)

    # What the courier reports.

    def attempt(self, provider: str, outcome: str, seconds: float) -> None:
        self.attempts.labels(provider, outcome).inc()
        self.attempt_seconds.labels(provider).observe(seconds)

    def duplicate(self, provider: str) -> None:
        self.duplicates.labels(provider).inc()

    def receipt(self, provider: str, state: str) -> None:
        self.receipts.labels(provider, state).inc()

    def message(self, outcome: str) -> None:
        self.messages.labels(outcome).inc()

    def breaker(self, provider: str, state: int) -> None:
        self.breaker_state.labels(provider).set(state)
