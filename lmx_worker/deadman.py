"""Ties this process's life to its parent's by means of the kernel: what the life pipe does, but also with a stuck GIL."""

import contextlib
import ctypes
import os
import select
import signal
import sys

from lmx_protocol.errors import ExitCode

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Linux: have the kernel send SIGKILL when the parent dies. Elsewhere nothing; see `exit_with_process`.

    The parent may be dead already: ask `is_child_of` afterwards. Raises `OSError` when the kernel refuses.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def is_child_of(pid: int) -> bool:
    """Whether `pid` is our living parent: an orphan is handed to another process at once."""
    return os.getppid() == pid


def has_exit_events() -> bool:
    """Whether this platform tells of a process's end by kqueue."""
    return sys.platform == "darwin"


def exit_with_process(pid: int) -> None:
    """Block until the process `pid` ends, then end this one. For macOS, on a thread of its own (not run)."""
    if sys.platform == "darwin":
        queue = select.kqueue()
        watch = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT)
        # It may have ended before we could watch it.
        with contextlib.suppress(ProcessLookupError):
            queue.control([watch], 1, None)
        os._exit(ExitCode.PARENT_GONE)
