"""The benches start. What they measure is nothing that a test could hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_BENCHES = sorted((Path(__file__).parents[1] / "bench").glob("bench_*.py"))


@pytest.mark.parametrize("bench", _BENCHES, ids=lambda path: path.stem)
def test_a_bench_starts_and_says_what_it_can_be_told(bench: Path) -> None:
    """All that it imports is there, and it knows how to be brief."""
    asked = subprocess.run([sys.executable, bench, "--help"], capture_output=True, text=True, check=True)
    assert re.search(r"^  --(?!help)", asked.stdout, re.MULTILINE)
