"""What is counted? Every metric's name, labels and meaning, in one place. Prometheus text format.

A label's values are few and known in advance; a recipient, an address or an id is never one. Counting never raises:
what is counted has been done, and must not be done again because a number could not be written down.

The numbers are kept here, and made into the client library's families when somebody asks for them: its own counters
cost 2 µs a time, for they have a lock, and here one thread counts alone, the event loop's.
"""

import operator
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, Sample
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sidecar import logs
from sidecar.breaker import STATES
from sidecar.events import (
    AddressShareSeen,
    Attempt,
    BreakerSeen,
    BudgetReached,
    BudgetSpent,
    CaptchaBreakerMoved,
    CaptchaJudged,
    DecidedAlone,
    Event,
    MessageConcluded,
    MessagePaid,
    ReceiptMoved,
    RequestEnded,
    SendSuspected,
    StoredAlone,
    SuspectVerified,
    Verified,
)

# From a loopback answer to the longest default time-out.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_BOUNDS: Final = (*map(floatToGoString, _SECONDS), "+Inf")


class _Series:
    """The numbers of one combination of labels. `created`: since when, in seconds since the epoch."""

    __slots__ = ("counts", "created", "value")

    def __init__(self) -> None:
        self.value: float = 0  # a count, a gauge's value, or a histogram's sum
        self.counts = [0] * len(_BOUNDS)
        self.created = time.time()

    def observe(self, seconds: float) -> None:
        """Count seconds of a histogram."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.value += seconds


class _Metric(Collector):
    """What the kinds of metric share. `label_names` are its labels'; their values are given in that order."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, label_names: Sequence[str] = ()) -> None:
        self.name = name
        self.text = text
        self.label_names = label_names
        self.series: dict[tuple[str, ...], _Series] = {}
        if not label_names:
            self.series[()] = _Series()
        registry.register(self)

    def of(self, labels: tuple[object, ...]) -> _Series:
        """The numbers of these labels, from the first time on. Raises ValueError for too few or too many of them."""
        if len(labels) != len(self.label_names):
            raise ValueError(f"{self.name} has {len(self.label_names)} labels")
        return self.series.setdefault(tuple(map(str, labels)), _Series())

    def failed(self, error: Exception) -> None:
        structlog.get_logger().error("metric_failed", metric=self.name, exc_info=error)


class Counter(_Metric):
    """A number that only grows."""

    def inc(self, *labels: str, by: float = 1) -> None:
        try:
            series = self.series.get(labels) or self.of(labels)
            series.value += by
        except Exception as error:  # noqa: BLE001 - the law of this module
            self.failed(error)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, series in self.series.items():
            family.add_metric(labels, series.value, series.created)
        yield family


class Gauge(_Metric):
    """A number as it is now."""

    def set(self, value: float, *labels: str) -> None:
        try:
            self.of(labels).value = float(value)
        except Exception as error:  # noqa: BLE001 - the law of this module
            self.failed(error)

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, series in self.series.items():
            family.add_metric(labels, series.value)
        yield family


class Histogram(_Metric):
    """Seconds, counted by how long they are."""

    def observe(self, seconds: float, *labels: str) -> None:
        try:
            (self.series.get(labels) or self.of(labels)).observe(seconds)
        except Exception as error:  # noqa: BLE001 - the law of this module
            self.failed(error)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, series in self.series.items():
            up_to = zip(_BOUNDS, accumulate(series.counts), strict=True)
            family.add_metric(labels, list(up_to), series.value)
            created = dict(zip(self.label_names, labels, strict=True))
            family.samples.append(Sample(f"{self.name}_created", created, series.created))
        yield family


class _LogLines(Collector):
    """The log's own count, which its thread keeps; `elsewhere` is what other processes' logs have counted."""

    name: Final = "sidecar_log_lines_dropped"

    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped
        self.elsewhere = 0

    @property
    def value(self) -> int:
        return self._dropped() + self.elsewhere

    def collect(self) -> Iterator[Metric]:
        text = "Log lines that could not be written: nobody reads, or the disk is full"
        yield CounterMetricFamily(self.name, text, value=self.value)


class Metrics:
    """The metrics of one process. `dropped`: the lines that its log could not write."""

    def __init__(self, dropped: Callable[[], int] = logs.dropped) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        r = self.registry
        self.requests = Counter(
            r, "sidecar_requests", "Requests by action and what came of them", ["action", "outcome"]
        )
        self.refusals = Counter(r, "sidecar_refusals", "Refusals by the contract's code", ["code"])
        self.observed = Counter(r, "sidecar_observed_refusals", "What observe mode would have refused", ["code"])
        self.attempts = Counter(r, "sidecar_attempts", "Sends by provider and outcome", ["provider", "outcome"])
        self.attempt_seconds = Histogram(r, "sidecar_attempt_seconds", "Time to a provider's answer", ["provider"])
        self.duplicates = Counter(
            r, "sidecar_delivery_duplicates", "Messages that a second provider took too", ["provider"]
        )
        self.receipts = Counter(
            r, "sidecar_receipts", "Receipts of our messages, by provider and state", ["provider", "state"]
        )
        self.messages = Counter(
            r,
            "sidecar_messages",
            "What sending a message came to: sent, unconfirmed (no provider accepted it, one may have it), deferred"
            " (all refused for now, it is tried again), failed",
            ["outcome"],
        )
        self.breaker_state = Gauge(
            r,
            "sidecar_breaker_state",
            "The worst of a provider's breakers: 0 closed, 1 half_open, 2 open",
            ["provider"],
        )
        self.captcha_tokens = Counter(
            r,
            "sidecar_captcha_tokens",
            "Captcha tokens by verdict: pass, reject, spent, policy, unproven (the browser says that the vendor is"
            " down), let_in, config, provider_error",
            ["captcha", "outcome"],
        )
        self.captcha_breaker_state = Gauge(
            r, "sidecar_captcha_breaker_state", "A captcha's breaker: 0 closed, 1 half_open, 2 open", ["captcha"]
        )
        self.outbox = Gauge(r, "sidecar_outbox_messages", "Messages waiting or being sent")
        self.address_share = Gauge(
            r,
            "sidecar_busiest_address_share",
            "At least this share of the last 200 guarded requests came from one address",
        )
        self.verifications = Counter(r, "sidecar_verifications", "Verifications by what came of them", ["outcome"])
        self.suspected = Counter(
            r,
            "sidecar_suspected_sends",
            "Sends that broke a rule of [pumping] or a budget; enforced: refused, else they were sent",
            ["rule", "enforced"],
        )
        self.suspects_verified = Counter(
            r, "sidecar_suspects_verified", "Sends that broke a rule, were sent all the same, and are verified"
        )
        self.cost = Counter(
            r,
            "sidecar_message_cost",
            "What messages cost that a provider took, or may have, by its price; in the budget's currency",
            ["provider", "country"],
        )
        self.budget_spent = Gauge(
            r,
            "sidecar_budget_spent",
            "What the day (UTC) has cost as the last send found it: daily, or a country with a budget of its own",
            ["scope"],
        )
        self.budget_alarms = Counter(r, "sidecar_budget_alarms", "Days on which a budget was reached", ["scope"])
        self.upstream_seconds = Histogram(r, "sidecar_upstream_seconds", "Time to upstream's status line")
        self.store_seconds = Histogram(r, "sidecar_store_seconds", "Time of one store command")
        self.decided_alone = Counter(
            r, "sidecar_decided_alone", "Decisions by this process's own buckets, as the store was away"
        )
        self.stored_alone = Counter(
            r, "sidecar_stored_alone", "Writes that must outlive a primary, on one that lacked its replicas"
        )
        self.task_ends = Counter(
            r, "sidecar_task_ends", "Long-lived tasks that ended, and were started again", ["task"]
        )
        self._log_lines = _LogLines(dropped)
        r.register(self._log_lines)
        self._of_events: dict[type[Event], Callable[[Any], None]] = {
            RequestEnded: self._request,
            DecidedAlone: lambda _: self.decided_alone.inc(),
            StoredAlone: lambda _: self.stored_alone.inc(),
            Verified: lambda event: self.verifications.inc(event.outcome),
            CaptchaJudged: lambda event: self.captcha_tokens.inc(event.captcha, event.outcome),
            CaptchaBreakerMoved: lambda event: self.captcha_breaker_state.set(STATES[event.state], event.captcha),
            Attempt: self._attempt,
            MessageConcluded: lambda event: self.messages.inc(event.outcome),
            ReceiptMoved: self._receipt,
            SendSuspected: lambda event: self.suspected.inc(event.rule, str(event.enforced).lower()),
            SuspectVerified: lambda event: self.suspects_verified.inc(by=event.sends),
            MessagePaid: lambda event: self.cost.inc(event.provider, event.country, by=event.amount),
            BudgetSpent: lambda event: self.budget_spent.set(event.amount, event.scope),
            BudgetReached: lambda event: self.budget_alarms.inc(event.scope),
            BreakerSeen: lambda event: self.breaker_state.set(event.state, event.provider),
            AddressShareSeen: lambda event: self.address_share.set(event.share),
        }

    def hears(self, of: type[Event]) -> Callable[[Any], None] | None:
        """Say what counts a class's events, where they are counted."""
        return self._of_events.get(of)

    def numbers(self) -> dict[str, Any]:
        """All that was counted, as JSON carries it: by metric, of each series its labels, value, counts and age."""
        return {
            metric.name: [
                [labels, series.value, series.counts, series.created] for labels, series in metric.series.items()
            ]
            for metric in self._all()
        } | {_LogLines.name: self._log_lines.value}

    def add(self, numbers: Mapping[str, Any], *, has_ended: bool = False) -> None:
        """Add what another process has counted (`numbers`). Of a gauge that both have, the larger one stays.

        `has_ended`: that process is no more, so its gauges say nothing of now.
        """
        for metric in self._all():
            if has_ended and isinstance(metric, Gauge):
                continue
            for labels, value, counts, created in numbers.get(metric.name, ()):
                series = metric.series.get(tuple(labels))
                if series is None:
                    series = metric.of(tuple(labels))
                    series.created = created
                series.value = max(series.value, value) if isinstance(metric, Gauge) else series.value + value
                series.counts = list(map(operator.add, series.counts, counts))
                series.created = min(series.created, created)
        self._log_lines.elsewhere += numbers.get(_LogLines.name, 0)

    def _all(self) -> list[_Metric]:
        return [metric for metric in vars(self).values() if isinstance(metric, _Metric)]

    def text(self) -> bytes:
        """The exposition that `GET /metrics` answers."""
        return generate_latest(self.registry)

    def _request(self, event: RequestEnded) -> None:
        self.requests.inc(event.action, event.outcome)
        if event.code is not None:
            self.refusals.inc(event.code)
        if event.observed_limits:
            self.observed.inc("rate_limited")
        for refusal in event.observed or ():
            self.observed.inc(refusal["code"])

    def _receipt(self, event: ReceiptMoved) -> None:
        self.receipts.inc(event.provider, event.state)
        if event.duplicate:
            self.duplicates.inc(event.provider)

    def _attempt(self, event: Attempt) -> None:
        self.attempts.inc(event.provider, event.outcome)
        self.attempt_seconds.observe(event.seconds, event.provider)
        if event.duplicate:
            self.duplicates.inc(event.provider)
