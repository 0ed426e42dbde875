"""What is counted? Every metric's name, labels and meaning, in one place. Prometheus text format.

A label's values are few and known in advance; a recipient, an address or an id is never one.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From a loopback answer to the longest default time-out.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


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

    def breaker(self, provider: str, state: int) -> None:
        self.breaker_state.labels(provider).set(state)
