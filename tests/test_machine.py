"""sidecar/machine.py: what control groups leave of a machine, as systemd, containers and both versions lay them out."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar import machine

WHOLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.parametrize(
    ("member", "files", "cores", "memory"),
    [
        pytest.param("0::/\n", {}, 16, WHOLE, id="no limit"),
        pytest.param("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, 16, WHOLE, id="a limit that is none"),
        pytest.param(
            "0::/\n", {"cpu.max": "250000 100000", "memory.max": f"{64 * MIB}"}, 3, 64 * MIB, id="a container"
        ),
        pytest.param("0::/\n", {"cpu.max": "20000 100000"}, 1, WHOLE, id="a part of one"),
        pytest.param("0::/\n", {"cpu.max": "6400000 100000"}, 16, WHOLE, id="more than there are"),
        pytest.param(
            "0::/system.slice/sidecar.service\n",
            {
                "system.slice/sidecar.service/cpu.max": "200000 100000",
                "system.slice/sidecar.service/memory.max": f"{96 * MIB}",
                "system.slice/cpu.max": "max 100000",
            },
            2,
            96 * MIB,
            id="CPUQuota=200%",
        ),
        pytest.param(
            "0::/a.slice/b.service\n",
            {"a.slice/b.service/cpu.max": "800000 100000", "a.slice/cpu.max": "400000 100000"},
            4,
            WHOLE,
            id="a slice that allows less",
        ),
        pytest.param(
            "0::/docker/f00d\n", {"cpu.max": "300000 100000"}, 3, WHOLE, id="a group that is not seen from inside"
        ),
        pytest.param(
            "9:name=systemd:/\n4:memory:/pod/one\n2:cpu,cpuacct:/pod\n0::/\n",
            {
                "memory/pod/one/memory.limit_in_bytes": f"{80 * MIB}",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "cpu/pod/cpu.cfs_quota_us": "150000\n",
                "cpu/pod/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
            80 * MIB,
            id="version 1",
        ),
    ],
)
def test_what_every_group_allows_is_the_most(
    tmp_path: Path, member: str, files: Mapping[str, str], cores: int, memory: int
) -> None:
    """Its own and those above, whichever is least; and one that says nothing takes nothing away."""
    (tmp_path / "member").write_text(member)
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(text)
    where = tmp_path / "mounted", tmp_path / "member"
    assert (machine.cores(*where), machine.memory(*where)) == (cores, memory)


def test_this_machine_has_some() -> None:
    """Whatever it is."""
    assert 1 <= machine.cores() <= 16
    assert 0 < machine.memory() <= WHOLE


def test_a_system_without_control_groups_has_all(tmp_path: Path) -> None:
    """Such as macOS."""
    where = tmp_path / "mounted", tmp_path / "member"
    assert (machine.cores(*where), machine.memory(*where)) == (16, WHOLE)
