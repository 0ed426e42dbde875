"""What a configuration file becomes: a Config, or all of its mistakes."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import LEAK, LONG_SECRET, Read, Told

from sidecar.app import kinds
from sidecar.config.load import ConfigError, Kinds, load
from sidecar.config.units import Rate

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "config.example.toml"
GOOD = sorted((HERE / "good").glob("*.toml"))
BAD = sorted((HERE / "bad").glob("*.toml"))


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_every_good_file_loads(file: Path, env: Mapping[str, str]) -> None:
    config = load(file, env, kinds())
    routes = tomllib.loads(file.read_text()).get("routes", [])
    assert [route.match for route in config.routes] == [route["match"] for route in routes]


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_every_bad_file_is_refused_with_exactly_these_lines(
    file: Path, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError) as refused:
        load(Path(file.name), env, kinds())
    assert str(refused.value).splitlines() == file.with_suffix(".expected").read_text(encoding="utf-8").splitlines()


def test_no_bad_file_lacks_its_lines_and_none_prints_a_secret(env: Mapping[str, str]) -> None:
    assert len(BAD) >= 25
    assert any(LEAK in file.read_text() for file in BAD)
    for file in BAD:
        lines = file.with_suffix(".expected").read_text(encoding="utf-8")
        assert lines
        assert not [value for value in (LEAK, *env.values()) if len(value) > 9 and value in lines]
