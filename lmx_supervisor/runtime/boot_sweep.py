"""Workers that outlived an earlier supervisor, whatever the cause: found by the state file and ended before anything is loaded.

The last of four layers against orphans. A process is ours only if its pid, its start time and the incarnation in its arguments
all match what was written down during the same boot of the machine; a pid that was given to a stranger since then does not.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from lmx_protocol import limits
from lmx_supervisor.runtime.state_file import SavedWorker

_LINUX_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME_TOLERANCE_SECONDS = 0.005
_STAT_START_TIME = 19
"""Place of the start time in /proc/PID/stat, counted from the field after the command's closing bracket."""


@dataclass(frozen=True, slots=True)
class FoundProcess:
    """A process that runs now."""

    start_time: float
    arguments: tuple[str, ...]


def machine_boot_id() -> str:
    """Another text after each boot of the machine."""
    try:
        return _LINUX_BOOT_ID.read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"  # macOS: not run


def start_time_of(pid: int) -> float | None:
    """When a process was started, comparable within one boot of the machine; None when there is none.

    Linux: seconds since boot from the kernel's own clock, which no change of the wall clock moves.
    """
    if sys.platform != "linux":  # not run
        try:
            return float(psutil.Process(pid).create_time())
        except psutil.Error:
            return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        ticks = int(stat.rpartition(b")")[2].split()[_STAT_START_TIME])
    except (OSError, IndexError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def is_leftover(saved: SavedWorker, found: FoundProcess | None) -> bool:
    """Whether the process that has the pid now is the worker that was written down."""
    if found is None or abs(found.start_time - saved.start_time) > _START_TIME_TOLERANCE_SECONDS:
        return False
    # Before a worker has set its title the incarnation is an argument of its own, afterwards it stands in brackets.
    return saved.incarnation in found.arguments or f"[{saved.incarnation}]" in found.arguments


def sweep(workers: Iterable[SavedWorker], written_in_boot: str) -> list[SavedWorker]:
    """Kill the leftovers and wait until they are gone, up to `BOOT_SWEEP_SECONDS`; returns them. Blocks."""
    if written_in_boot != machine_boot_id():
        return []
    leftovers = [worker for worker in workers if is_leftover(worker, find_process(worker.pid))]
    for worker in leftovers:
        _kill(worker.pid)
    deadline = time.monotonic() + limits.BOOT_SWEEP_SECONDS
    while time.monotonic() < deadline and any(is_leftover(worker, find_process(worker.pid)) for worker in leftovers):
        time.sleep(limits.BOOT_SWEEP_POLL_SECONDS)
    return leftovers


def find_process(pid: int) -> FoundProcess | None:
    """The process with this pid; None when there is none, or none that we may look at."""
    start_time = start_time_of(pid)
    if start_time is None:
        return None
    try:
        arguments = " ".join(psutil.Process(pid).cmdline()).split()
    except psutil.Error:
        return None
    return FoundProcess(start_time, tuple(arguments))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
