"""How many cores this host has for us: not those that an affinity or a container's quota keeps from us.

With a thread for each core of the machine, a container that has a quota of two of its 64 would spend its time waiting.
"""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lmx_supervisor.observe.cgroups import CGROUP_ROOT, PROC_CGROUP, own_groups


def count_processors() -> int:
    """At least 1; on macOS all of the machine's (not run)."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return processors(len(os.sched_getaffinity(0)), list(cgroup_quotas(PROC_CGROUP, CGROUP_ROOT)))


def processors(allowed: int, quotas: list[float]) -> int:
    """The cores that we may run on, narrowed by quotas in cores; half a core is a core. Pure."""
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def cgroup_quotas(proc_cgroup: Path, root: Path) -> Iterator[float]:
    """The limits, in cores, of the groups that have one."""
    for directory, version in own_groups("cpu", proc_cgroup, root):
        # "max" and -1 mean no limit; the root of version 2 has no such file at all.
        with suppress(OSError, ValueError):
            if version == 2:
                quota, period = (directory / "cpu.max").read_text().split()
            else:
                quota = (directory / "cpu.cfs_quota_us").read_text()
                period = (directory / "cpu.cfs_period_us").read_text()
            if int(quota) > 0:
                yield int(quota) / int(period)
