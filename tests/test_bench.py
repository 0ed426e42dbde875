"""The benches start. What they measure is nothing that a test could hold; what the soak calls lost is."""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

_BENCH: Final = Path(__file__).parents[1] / "bench"
_BENCHES: Final = [*sorted(_BENCH.glob("bench_*.py")), _BENCH / "soak.py"]


@pytest.mark.parametrize("bench", _BENCHES, ids=lambda path: path.stem)
def test_a_bench_starts_and_says_what_it_can_be_told(bench: Path) -> None:
    """All that it imports is there, and it knows how to be brief."""
    asked = subprocess.run([sys.executable, bench, "--help"], capture_output=True, text=True, check=True)
    assert re.search(r"^  --(?!help)", asked.stdout, re.MULTILINE)


def _verdicts() -> Any:
    spec = importlib.util.spec_from_file_location("soak_verdicts", _BENCH / "soak_verdicts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_soak_misses_a_message_that_is_nowhere() -> None:
    """Accepted, and neither at a vendor nor reported failed: once is enough, also beside one that arrived."""
    accepted = Counter({"+1": 1, "+2": 1, "+3": 2, "+4": 2, "+5": 1})
    calls = {"+2": {"twilio": 1}, "+3": {"twilio": 1}, "+4": {"twilio": 1, "hook": 1}}
    assert _verdicts().lost_of(accepted, calls, Counter({"+5": 1})) == ["+1", "+3"]


def test_the_soak_sees_a_message_that_a_vendor_was_asked_for_again() -> None:
    """It is told from a second vendor's turn, and from one that may have been queued without an answer."""
    accepted, maybe = Counter({"+1": 1, "+2": 1, "+3": 1}), Counter({"+3": 1})
    calls = {"+1": {"twilio": 2}, "+2": {"twilio": 1, "hook": 1}, "+3": {"twilio": 2}, "+4": {"twilio": 5}}
    assert _verdicts().repeated_of(accepted, maybe, calls) == {"+1": 1}


def test_the_soak_sees_a_proof_that_was_used_again_though_its_answer_was_told() -> None:
    registered = Counter({"+1": 2, "+2": 2, "+3": 1, "+4": 3, "+5": 2})
    tries = {
        "+1": ["200", "200"],
        "+2": ["504 upstream_timeout", "503 overloaded", "200"],
        "+4": ["502 upstream_unavailable", "200"],
        "+5": ["0", "200"],
    }
    assert _verdicts().used_again(registered, tries) == ["+1", "+4"]


def test_the_soak_tells_how_fast_memory_grows() -> None:
    """At the rate of a leak, whatever short-lived work stands on top of it now and then."""
    points = [(5.0 * n, 40 + 0.01 * n + (30 if n % 10 == 3 else 0)) for n in range(200)]
    assert _verdicts().slope(points) == pytest.approx(0.01 / 5)
