"""What configurations are read with: an environment like a deployment's, and the real kinds."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from config.deployment import Read, Told, deployment

from sidecar.config.load import ConfigError, load
from sidecar.config.model import Config
from sidecar.kinds import kinds


@pytest.fixture(scope="session")
def env() -> Mapping[str, str]:
    return deployment()


@pytest.fixture
def read(env: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Loads a TOML text."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str) -> Config:
        Path("c.toml").write_bytes(text.encode())
        return load(Path("c.toml"), env, kinds())

    return loaded


@pytest.fixture
def told(read: Read) -> Told:
    """Gives the lines that a TOML text is refused with; none if it loads."""

    def lines(text: str) -> list[str]:
        try:
            read(text)
        except ConfigError as error:
            return str(error).splitlines()
        return []

    return lines
