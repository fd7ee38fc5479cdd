"""How much memory this host has and how much is in use; inside a container, the container's share.

Linux: the machine by psutil, narrowed by every cgroup (v2 or v1) on the way up whose limit is smaller than the machine.
macOS: psutil alone (not run).
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from lmx_supervisor.core.service import HostMemory
from lmx_supervisor.observe.cgroups import CGROUP_ROOT, PROC_CGROUP, own_groups


class CgroupMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One cgroup with a memory limit."""

    limit_bytes: int
    used_bytes: int
    """Without file cache, mapped weights included: the kernel takes it back before it kills, and so counts the machine's own
    reading too."""


class _CgroupFiles(msgspec.Struct, frozen=True):
    """What the files of one cgroup version are called."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]
    """The lines of memory.stat that count file cache, in bytes."""


_VERSION_2 = _CgroupFiles("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = _CgroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def read_host_memory() -> HostMemory:
    """The memory at this moment; a handful of small reads from kernel files, which never wait for a disk."""
    machine = psutil.virtual_memory()
    cgroups = list(cgroup_memories(PROC_CGROUP, CGROUP_ROOT)) if sys.platform == "linux" else []
    return host_memory(machine.total, machine.available, cgroups)


def host_memory(machine_total_bytes: int, machine_available_bytes: int, cgroups: list[CgroupMemory]) -> HostMemory:
    """What is there for us: the machine, narrowed by the cgroups whose limit is smaller than it. Pure."""
    limiting = [cgroup for cgroup in cgroups if cgroup.limit_bytes < machine_total_bytes]
    total_bytes = min([machine_total_bytes, *(cgroup.limit_bytes for cgroup in limiting)])
    free_in_cgroups = (max(0, cgroup.limit_bytes - cgroup.used_bytes) for cgroup in limiting)
    available_bytes = min([machine_available_bytes, total_bytes, *free_in_cgroups])
    used_bytes = total_bytes - available_bytes
    return HostMemory(
        total_bytes=total_bytes,
        used_bytes=used_bytes,
        available_bytes=available_bytes,
        used_percent=100.0 * used_bytes / total_bytes if total_bytes else 0.0,
    )


def cgroup_memories(proc_cgroup: Path, root: Path) -> Iterator[CgroupMemory]:
    """The limited cgroups this process is in, from its own up to the root of the hierarchy."""
    for directory, version in own_groups("memory", proc_cgroup, root):
        yield from _cgroup_memory(directory, _VERSION_2 if version == 2 else _VERSION_1)


def _cgroup_memory(directory: Path, files: _CgroupFiles) -> Iterator[CgroupMemory]:
    # "max" means no limit; the root of version 2 has no such files at all.
    with suppress(OSError, ValueError):
        limit_bytes = int((directory / files.limit).read_text())
        used_bytes = int((directory / files.used).read_text())
        reclaimable_bytes = _stat_values((directory / "memory.stat").read_text(), files.reclaimable)
        yield CgroupMemory(limit_bytes=limit_bytes, used_bytes=max(0, used_bytes - reclaimable_bytes))


def _stat_values(text: str, names: tuple[str, ...]) -> int:
    """The sum of the numbers after these names in a memory.stat; a missing one is 0."""
    pairs = (line.split() for line in text.splitlines())
    return sum(int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] in names)
