"""What is counted, and that counting holds up nothing."""

from typing import Any

import pytest

from sidecar.metrics import Metrics


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("amount", [-1, "x", None])
def test_counting_never_raises(amount: Any) -> None:
    """A wrong amount, too few labels, a label that cannot be a text: what is counted is done, and stays done."""
    metrics = Metrics()
    metrics.refusals.labels("rate_limited").inc(amount)
    metrics.refusals.labels("too", "many").inc()
    metrics.refusals.labels(Unprintable()).inc()
    metrics.requests.inc()
    metrics.outbox.set(amount)
    metrics.upstream_seconds.observe(amount)
    metrics.attempts.labels("hook", "accepted").inc()
    assert b'sidecar_attempts_total{outcome="accepted",provider="hook"} 1.0' in metrics.text()
