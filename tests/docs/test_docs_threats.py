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


# Every test file of a document's own folder below tests/ is named by one of its rows.
FOLDERS = {"threat-model.md": "attack", "failure.md": "failure"}


@pytest.mark.parametrize("document", FOLDERS)
def test_each_row_names_tests_that_are_there(document: str) -> None:
    """A file with tests, a test in one, or a folder of such, below tests/."""
    named: set[str] = set()
    for first, last in rows(document):
        names = re.findall(r"`([^`]+)`", last)
        assert names, f"{document}: {first}: names no test"
        for name in names:
            file_name, _, test = name.partition("::")
            path = ROOT / "tests" / file_name
            files = [path] if path.is_file() else list(path.glob("**/test_*.py"))
            said = f"def {test}(" if test else "def test_"
            assert any(said in file.read_text("utf-8") for file in files), f"{document}: {first}: no {name}"
        named |= set(names)
    assert len(named) > 10
    folder = FOLDERS[document]
    own = {f"{folder}/{file.name}" for file in (ROOT / "tests" / folder).glob("test_*.py")}
    assert own <= {name.partition("::")[0] for name in named}, own


def test_each_test_of_a_failure_is_a_row() -> None:
    """docs/failure.md tells of all that tests/failure proves."""
    text = (ROOT / "docs" / "failure.md").read_text("utf-8")
    for file in (ROOT / "tests" / "failure").glob("test_*.py"):
        for test in re.findall(r"def (test_\w+)\(", file.read_text("utf-8")):
            assert f"`failure/{file.name}::{test}`" in text, test
