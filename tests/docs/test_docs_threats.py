"""The documents that name a test for each line of a table: the threat model, and any other that promises so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def rows(document: str) -> list[tuple[str, str]]:
    """The first and the last cell of each row of a document's tables whose last column is named `test`."""
    found: list[tuple[str, str]] = []
    is_table = False
    for line in (ROOT / "docs" / document).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            is_table = False
        elif cells[-1] == "test":
            is_table = True
        elif is_table and not set(line) <= set("|-: "):
            found.append((cells[0], cells[-1]))
    return found


@pytest.mark.parametrize("document", ["threat-model.md"])
def test_each_row_names_tests_that_are_there(document: str) -> None:
    """A file with tests, or a folder of such, below tests/; and every file of tests/attack is named by a row."""
    named: set[str] = set()
    for first, last in rows(document):
        names = re.findall(r"`([^`]+)`", last)
        assert names, f"{document}: {first}: names no test"
        for name in names:
            path = ROOT / "tests" / name
            files = [path] if path.is_file() else list(path.glob("**/test_*.py"))
            assert any("def test_" in file.read_text("utf-8") for file in files), f"{document}: {first}: no {name}"
        named |= set(names)
    assert len(named) > 10
    attacks = {f"attack/{file.name}" for file in (ROOT / "tests" / "attack").glob("test_*.py")}
    assert document != "threat-model.md" or attacks <= named, attacks - named
