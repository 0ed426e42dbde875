"""How much of this machine may the process use? Processors and memory, by its control groups as well.

Its law: what any group allows that the process is in, its own or one above, is the most that there is. A service of
systemd is in a group far below the root, and a container sees its own as the root. cgroups(7), versions 2 and 1.
"""

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_MOUNTED: Final = Path("/sys/fs/cgroup")
_MEMBER: Final = Path("/proc/self/cgroup")


def cores(mounted: Path = _MOUNTED, member: Path = _MEMBER) -> int:
    """Count the processors: of its affinity as many as the quota of each group is worth, a part of one for one."""
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu", mounted, member):
        with suppress(OSError, ValueError):  # it has no quota ("max")
            quota, period = (group / "cpu.max").read_text().split()
            most = min(most, math.ceil(int(quota) / int(period)))
        with suppress(OSError):
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:  # -1: it has none
                most = min(most, math.ceil(int(quota) / int(period)))
    return max(1, most)


def memory(mounted: Path = _MOUNTED, member: Path = _MEMBER) -> int:
    """Count the octets of memory: the machine's, or what each group has of them."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _groups("memory", mounted, member):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # it has no limit ("max")
                most = min(most, int((group / name).read_text()))
    return most


def _groups(controller: str, mounted: Path, member: Path) -> list[Path]:
    """Give the folders of the groups that may limit this: from the process's own to the root, those not seen, too."""
    found: list[Path] = []
    with suppress(OSError):  # no Linux
        for line in member.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = mounted / controller if controllers else mounted
            own = root / path.lstrip("/")
            found += [own, *(folder for folder in own.parents if folder.is_relative_to(root))]
    return found
