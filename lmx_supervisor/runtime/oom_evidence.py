"""Whether the kernel itself killed a worker for want of memory: its own count of such kills, before and after.

Linux: the count of the control group that supervisor and workers live in (cgroup v2 `memory.events`, v1 `memory.oom_control`);
in the root group, which has no count of its own, the machine's (`/proc/vmstat`). A kill in the group that was not a worker's
can be claimed for the next worker that somebody else kills, so run LMX in a group of its own, as a systemd unit does by itself.

macOS: the system's JetsamEvent reports, which name the process (not run).
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lmx_protocol import limits

_COUNT_NAME = "oom_kill"
_REPORTS_OF_MACOS = Path("/Library/Logs/DiagnosticReports")


class OomEvidence(Protocol):
    """Tells a kill by the kernel for want of memory from every other SIGKILL."""

    waits_for_disk: bool
    """Whether `claim` must be called in a thread."""

    def claim(self, pid: int) -> bool:
        """Whether the kernel killed `pid`, which has just died of SIGKILL, for want of memory. Each kill confirms one death."""


def oom_evidence() -> OomEvidence:
    """What this system offers."""
    return JetsamReports(_REPORTS_OF_MACOS) if sys.platform == "darwin" else CgroupCount(Path("/"))


class CgroupCount:
    """The count of this process's control group. Reading it costs microseconds: the kernel writes it from memory."""

    waits_for_disk = False

    def __init__(self, root: Path) -> None:
        """`root` is the root of the file system, another one in tests."""
        self._file = next((file for file in _counting_files(root) if _count(file) is not None), None)
        self._claimed = self._total()

    def claim(self, pid: int) -> bool:
        """Whether there was a kill that no other death has claimed."""
        if self._total() <= self._claimed:
            return False
        self._claimed += 1
        return True

    def _total(self) -> int:
        return (_count(self._file) if self._file is not None else None) or 0


class JetsamReports:
    """The reports that macOS writes when it ends processes for want of memory (not run)."""

    waits_for_disk = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def claim(self, pid: int) -> bool:
        """Whether one of the newest reports names the process; one that comes too late leaves the death a suspicion."""
        newest = sorted(self._directory.glob("JetsamEvent-*.ips"), reverse=True)[: limits.OS_REPORTS_READ_MAX]
        return any(f'"pid" : {pid},' in _beginning(report) for report in newest)


def _counting_files(root: Path) -> Iterator[Path]:
    """Where the count may be, the best place first.

    A container may see the group's path as the host names it, and the group itself where the root should be.
    """
    mount = root / "sys/fs/cgroup"
    unified, legacy = "/", "/"
    for line in _beginning(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            unified = path
        elif "memory" in controllers.split(","):
            legacy = path
    yield mount / unified.lstrip("/") / "memory.events"
    yield mount / "memory" / legacy.lstrip("/") / "memory.oom_control"
    yield mount / "memory.events"
    yield mount / "memory/memory.oom_control"
    yield root / "proc/vmstat"


def _count(file: Path) -> int | None:
    for line in _beginning(file).splitlines():
        name, _, number = line.partition(" ")
        if name == _COUNT_NAME and number.isdecimal():
            return int(number)
    return None


def _beginning(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(limits.OS_REPORT_BYTES_MAX)
    except OSError:
        return ""
