"""How much of the machine this process may use: all of it, or what its control groups leave.

Containers (`docker run --memory 8g --cpus 2`), Kubernetes and systemd bound processes by control groups, of
Linux's first or second version. Python and psutil tell of the whole machine: models would be loaded for which
the kernel then ends the runner, and 64 threads would take turns on two processors. Groups lie within each
other, and each bounds what is in it.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

NO_LIMIT = 1 << 60
"""The first version says a number like this where there is none."""


class Machine:
    """own: where the kernel tells which groups this process is in; groups: where they are."""

    def __init__(self, own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        self._own = own
        self._groups = groups

    def processors(self) -> int:
        """How many it may keep busy; at least one."""
        quotas = [NO_LIMIT]
        for group in self._groups_of("cpu"):
            quota, period = (_read(group / "cpu.max").split() or ["max", ""])[:2]
            if quota == "max":
                quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
            if quota.isdecimal() and period.isdecimal():
                quotas.append(math.ceil(int(quota) / max(int(period), 1)))
        return max(min(_runnable(), *quotas), 1)

    def memory_bytes(self) -> int:
        """How much there is for it, and for what shares its groups."""
        return min(psutil.virtual_memory().total, *(limit for limit, _ in self._memory()), NO_LIMIT)

    def memory_left_bytes(self) -> int:
        """How much of that can be taken; what files in memory take can be had back."""
        left = (max(limit - used, 0) for limit, used in self._memory())
        return min(psutil.virtual_memory().available, *left, NO_LIMIT)

    def threads(self) -> dict[str, str]:
        """Variables for libraries that count processors themselves, and so not by groups; none where that is
        the same, or somebody has said how many.
        """
        most = self.processors()
        is_same = most == _runnable() or "OMP_NUM_THREADS" in os.environ
        return {} if is_same else {"OMP_NUM_THREADS": str(most)}

    def _memory(self) -> Iterator[tuple[int, int]]:
        """Limits of groups, and what is used of them."""
        for group in self._groups_of("memory"):
            limit, used = _read(group / "memory.max"), _read(group / "memory.current")
            if not limit:
                limit, used = _read(group / "memory.limit_in_bytes"), _read(group / "memory.usage_in_bytes")
            if limit.isdecimal() and int(limit) < NO_LIMIT:
                yield int(limit), int(used or 0) - _files_bytes(group)

    def _groups_of(self, controller: str) -> Iterator[Path]:
        """The folders of the groups of this process, the innermost first. In a container its own may be the
        outermost that is seen, under another name than the kernel says.
        """
        for line in _read(self._own).splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = self._groups / controller if controllers else self._groups
            inner = root / name.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _runnable() -> int:
    """Processors that the scheduler of the system may give to this process."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _read(file: Path) -> str:
    """What it says; "" where there is none, or it may not be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _files_bytes(group: Path) -> int:
    """Of files that are in memory because they were read, and have not been used for a while."""
    told = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    return int(told.get("total_inactive_file") or told.get("inactive_file") or 0)
