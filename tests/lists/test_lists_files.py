"""An asn_file that changes while the sidecar runs: what it says now, or what it said before and a loud word."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar import ranges
from sidecar.events import AsnFileRead, AsnFileRefused, Event
from sidecar.life import ended
from sidecar.lists.files import AsnFiles

DEADLINE_S = 30.0


class Watched:
    """A file that is looked at, and what was told of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[Event] = []
        self.files = AsnFiles([str(path), str(path)], self.told.append)

    @property
    def number(self) -> int:
        return self.files.ranges[str(self.path)].value(ranges.address("1.0.0.1"))

    async def hears(self, count: int) -> Event:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.told) < count:
                await asyncio.sleep(0.02)
        return self.told[-1]


@asynccontextmanager
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    path = tmp_path / "asn.csv"
    path.write_text("1.0.0.0/24,1\n")
    one = Watched(path)
    await one.files.open()
    looking = asyncio.create_task(one.files.run())
    try:
        yield one
    finally:
        await ended(looking)


def replaced(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


@pytest.mark.parametrize("change", [Path.write_text, replaced], ids=["written", "replaced"])
async def test_what_a_changed_file_says_is_in_force_without_a_restart(
    tmp_path: Path, change: Callable[[Path, str], object]
) -> None:
    async with watched(tmp_path) as one:
        assert one.number == 1
        change(one.path, "1.0.0.0/24,22\n")
        assert await one.hears(1) == AsnFileRead(file=str(one.path))
        assert one.number == 22


async def test_a_bad_file_changes_nothing_and_is_told_once(tmp_path: Path) -> None:
    """With its line; and the next good one is taken."""
    async with watched(tmp_path) as one:
        one.path.write_text("1.0.0.0/24,33\n1.0.0.1/24,33\n")
        refused = await one.hears(1)
        assert isinstance(refused, AsnFileRefused)
        assert (refused.file, refused.line) == (str(one.path), 2)
        assert '"1.0.0.1/24" is an address inside a network' in refused.problem
        assert one.number == 1
        one.path.unlink()
        gone = await one.hears(2)
        assert isinstance(gone, AsnFileRefused)
        assert "No such file" in gone.problem
        assert one.number == 1
        one.path.write_text("1.0.0.0/24,44\n")
        assert await one.hears(3) == AsnFileRead(file=str(one.path))
        assert (one.number, len(one.told)) == (44, 3)


async def test_a_file_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    """Half a list, up to the end of a line, looks whole: it is read once it has kept still for a look."""
    async with watched(tmp_path) as one:
        with one.path.open("w") as file:
            for line in range(30):
                file.write(f"9.{line}.0.0/24,7\n")
                file.flush()
                await asyncio.sleep(0.1)
                assert one.number == 1
            file.write("1.0.0.0/24,55\n")
        assert await one.hears(1) == AsnFileRead(file=str(one.path))
        assert (one.number, len(one.told)) == (55, 1)


async def test_a_file_that_is_not_there_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await AsnFiles([str(tmp_path / "none.csv")], lambda _: None).open()
    (tmp_path / "bad.csv").write_text("\n\nbad\n")
    with pytest.raises(ValueError, match=r"bad\.csv: line 3: "):
        await AsnFiles([str(tmp_path / "bad.csv")], lambda _: None).open()
