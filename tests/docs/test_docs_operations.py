"""docs/operations.md tells of every event and metric that there is, and of no other."""

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest
from documents import DOCUMENTS, ROOT
from sources import tree

import sidecar
from sidecar.events import Event
from sidecar.metrics import Counter, Gauge, Histogram, Metrics

PAGE: Final = ROOT / "docs" / "operations.md"
LEVELS: Final = {"debug", "info", "warning", "error", "critical", "exception"}


def events() -> dict[str, set[str]]:
    """Every event that the sources log, with its levels: of `sidecar.events`, or named where it is logged."""
    found: dict[str, set[str]] = defaultdict(set)
    folder = Path(sidecar.__file__).parent
    for path in folder.rglob("*.py"):
        if path.is_relative_to(folder / "demo"):
            continue
        for node in ast.walk(tree(path)):
            match node:
                case ast.Call(func=ast.Attribute(attr=level, value=logger), args=[first, *_]) if level in LEVELS:
                    assert "log" in ast.unparse(logger), f"{path.name}: what is {ast.unparse(node)}?"
                    if isinstance(first, ast.Constant) and isinstance(first.value, str):
                        found[first.value].add(level)
                    else:
                        assert path.name == "logs.py", f"{path.name}: write the event's name where it is logged"
                case ast.Call(func=ast.Name(id="_unheard"), args=[ast.Constant(value=str(event)), _]):
                    found[event].add("error")
                case ast.Call(
                    func=ast.Name(id="_line"),
                    args=[ast.Constant(value=str(level)), ast.Dict(values=[ast.Constant(value=str(event)), *_])],
                ):
                    found[event].add(level)
    for event_class in Event.__subclasses__():
        if event_class.level:
            found[event_class.name].add(event_class.level)
    return found


def told(heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    section = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_event_is_told() -> None:
    """The table of events names those of the sources, each with its level, and says what each means."""
    table: dict[str, set[str]] = {}
    for names, level, meaning, _ in told("Log events"):
        assert meaning
        for name in re.findall(r"`([a-z_]+)`", names):
            assert name not in table
            table[name] = {level}
    assert table == events()


def test_every_metric_is_told() -> None:
    """The table of metrics names those of the exposition, each with its labels."""
    described = {"sidecar_log_lines_dropped_total"}  # the one that the log keeps
    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            labels = f"{{{','.join(metric.label_names)}}}" if metric.label_names else ""
            described.add(f"{metric.name}{'_total' if isinstance(metric, Counter) else ''}{labels}")
    assert {row[0].strip("`") for row in told("Metrics")} == described


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_names_a_metric_that_is_not(path: Path) -> None:
    """Whatever begins with `sidecar_` in a document is in the exposition."""
    exposition = Metrics().text().decode()
    for name in re.findall(r"\bsidecar_[a-z_]+", path.read_text("utf-8")):
        assert f"# HELP {name} " in exposition or f"# HELP {name}_total " in exposition, name
