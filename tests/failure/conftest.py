"""Fixtures only: what stands between a process and its system."""

from collections.abc import Iterator

import pytest
from failing import Shim, a_shim


@pytest.fixture
def shim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shim]:
    """A clock that jumps, and a name server that hangs, for the processes of one test."""
    with a_shim(tmp_path_factory.mktemp("shim")) as shim:
        yield shim
