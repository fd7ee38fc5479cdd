"""A worker's end as an event. The kernel is asked, nobody polls; what the worker left in its process group goes with it.

Linux: a pidfd becomes readable. Elsewhere a thread waits in `waitpid` (macOS: not run here). Either way the callback runs on
the loop with the wait status, once.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable

ExitCallback = Callable[[int], None]
"""Called with the raw wait status."""


def watch_exit(loop: asyncio.AbstractEventLoop, pid: int, callback: ExitCallback) -> None:
    """Call back when our child `pid` has ended; it is reaped by then."""
    if hasattr(os, "pidfd_open"):
        _watch_by_pidfd(loop, pid, callback)
    else:
        _watch_by_thread(loop, pid, callback)


def _watch_by_pidfd(loop: asyncio.AbstractEventLoop, pid: int, callback: ExitCallback) -> None:
    fd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        callback(_end_group_and_reap(pid))

    loop.add_reader(fd, ended)


def _watch_by_thread(loop: asyncio.AbstractEventLoop, pid: int, callback: ExitCallback) -> None:
    def wait() -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        loop.call_soon_threadsafe(callback, _end_group_and_reap(pid))

    threading.Thread(target=wait, name=f"wait-{pid}", daemon=True).start()


def _end_group_and_reap(pid: int) -> int:
    # While the leader is unreaped nobody else can have its number, so this cannot hit a stranger. macOS answers EPERM for
    # zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return status
