"""docs/scaling.md, and bench/scaling.py, which its tables are worked out by."""

import importlib.util
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT
from hypothesis import given
from hypothesis import strategies as st

_PATH = ROOT / "bench" / "scaling.py"


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("scaling", _PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


scaling = _loaded()
MEASURED = scaling.Figures.read(json.loads(scaling.FIGURES.read_text()))
# Figures that can be followed by hand: half of the requests are sends, half are let in.
ROUND = scaling.Figures(
    cpu_us={"guard": 100.0, "send": 500.0},
    store_us={
        "guard": {"limits": 10.0, "outbox": 0.0, "receipts": 0.0, "recipients": 0.0},
        "send": {"limits": 30.0, "outbox": 40.0, "receipts": 20.0, "recipients": 100.0},
    },
    commands={"guard": 1.0, "send": 9.0},
    octets={"guard": {"client": 1_000.0}, "send": {"client": 500.0, "sms": 2_000.0}},
    keys={"verification": 300.0, "current": 100.0, "bucket:to": 100.0, "posted": 200.0, "vendor_id": 100.0},
    overhead=1.0,
)
HALVES = scaling.Assumed(mix={"guard": 0.5, "send": 0.5}, busy=0.5, day=0.5, spare=1.0, vendor_cap=1_000, price=0.01)
WHOLE = {"rate": st.floats(10, 1e7), "busy": st.floats(0.1, 1.0)}


def test_the_document_has_the_tables_that_the_script_prints() -> None:
    """Of the figures that are committed; each table of the document stands where the script puts it."""
    document = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    shown = [table.strip() for table in re.findall(r"<!-- scaling -->\n(.*?)<!-- end -->", document, re.DOTALL)]
    assert shown == scaling.told(MEASURED, scaling.Assumed(), scaling.RATES).split("\n\n")


def test_a_fleet_by_hand() -> None:
    """10,000 a second, half of them sends: each figure as one works it out on paper."""
    fleet = scaling.fleet(10_000, ROUND, HALVES)
    assert fleet.cores == pytest.approx(10_000 * 300e-6 / 0.5)
    assert fleet.pods == 2  # 6 cores, 4 a pod
    assert fleet.store_cores == pytest.approx({"limits": 0.2, "outbox": 0.2, "receipts": 0.1, "recipients": 0.5})
    assert fleet.commands == pytest.approx(50_000)
    assert fleet.mbit == pytest.approx({"client": 60.0, "sms": 80.0})
    assert (fleet.sends, fleet.accounts) == (5_000, 5)
    assert fleet.usd_day == pytest.approx(5_000 * 0.01 * 43_200)
    assert fleet.memory["recipients"] == pytest.approx(5_000 * (1_200 * 300 + 600 * 100))
    assert fleet.memory["receipts"] == pytest.approx(5_000 * 0.5 * 86_400 * 300)
    # 64.8 GB of receipts on 16 GB primaries: their slot takes five of them, so five fleets.
    assert fleet.cells == 5


@given(**WHOLE)
def test_what_is_planned_fits(rate: float, busy: float) -> None:
    """No worker and no primary is busier than planned, and no slot is more than one primary has room for."""
    assumed = replace(scaling.Assumed(), busy=busy)
    fleet = scaling.fleet(rate, MEASURED, assumed)
    per_worker = rate * scaling.mean(MEASURED.cpu_us, assumed.mix) / 1e6 / (fleet.pods * assumed.pod_cores)
    assert per_worker <= busy * (1 + 1e-9)
    for part in scaling.SLOTS:
        assert fleet.store_cores[part] / fleet.cells <= busy * (1 + 1e-6)
        assert fleet.memory[part] / fleet.cells <= assumed.primary_gb * 1e9 * (1 + 1e-6)
    assert sum(fleet.store_cores.values()) / fleet.primaries <= busy * (1 + 1e-6)
    assert fleet.accounts * assumed.vendor_cap >= fleet.sends


@given(**WHOLE)
def test_twice_as_much_takes_twice_as_much(rate: float, busy: float) -> None:
    """But for what is counted in whole pieces, which is never less."""
    assumed = replace(scaling.Assumed(), busy=busy)
    one, two = (scaling.fleet(times * rate, MEASURED, assumed) for times in (1, 2))
    assert two.cores == pytest.approx(2 * one.cores)
    assert two.usd_s == pytest.approx(2 * one.usd_s)
    assert sum(two.memory.values()) == pytest.approx(2 * sum(one.memory.values()))
    assert two.pods >= one.pods
    assert two.primaries >= one.primaries


def test_what_ends_first_stands_first() -> None:
    """At each rate that is told, what is said to end there just fits, and does not any more above it."""
    assumed = scaling.Assumed()
    order = scaling.breaks(MEASURED, assumed)
    assert [one.rate for one in order] == sorted(one.rate for one in order)
    at = {one.what: one.rate for one in order}
    slots = [rate for what, rate in at.items() if what.startswith("the slot of")]
    assert len(slots) >= len(scaling.SLOTS)
    first = min(slots)
    assert scaling.fleet(first * 0.999, MEASURED, assumed).cells == 1
    assert scaling.fleet(first * 1.001, MEASURED, assumed).cells == 2
    account = at[f"one vendor account ({assumed.vendor_cap:,}/s)"]
    assert [scaling.fleet(account * times, MEASURED, assumed).accounts for times in (0.999, 1.001)] == [1, 2]
    assert scaling.largest_rate(100, 0.5) == 5_000
    assert scaling.lasts_s(10_000, 0) == math.inf


@given(st.lists(st.floats(0, 1), max_size=8))
def test_what_is_packed_fits(loads: list[float]) -> None:
    """Never fewer primaries than all need together, never more than one each."""
    assert math.ceil(sum(loads) - 1e-9) <= scaling.packed(loads, 1.0) <= len(loads)


def test_shares_are_of_one() -> None:
    """A mix that forgets a part of the requests is a mistake."""
    assert scaling.read_mix("guard=0.9,send=0.1") == {"guard": 0.9, "send": 0.1}
    with pytest.raises(ValueError, match="must be 1"):
        scaling.read_mix("guard=0.9")


def test_the_script_needs_python_alone(tmp_path: Path) -> None:
    """Whoever has a fleet to plan need not install the sidecar."""
    import subprocess

    asked = [sys.executable, "-S", "-I", str(_PATH), "--rates", "100", "--mix", "guard=1"]
    printed = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "| guarded requests a second | 100 |" in printed
