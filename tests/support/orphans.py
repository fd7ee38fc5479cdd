"""Orphans come to us: as subreaper this process inherits whatever a dead server left behind, so that nothing of it can hide.

Linux only; elsewhere orphans go to init and only the workers a test remembered are looked at.
"""

import contextlib
import ctypes
import os
import sys

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on be the parent of our descendants' orphans."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def adopted_orphans(our_servers: frozenset[int]) -> list[psutil.Process]:
    """The living ones; dead ones are reaped on the way. `our_servers`: the servers' pids, which are no orphans.

    Workers, and what they start, are not in our session; what a test starts itself is.
    """
    living = []
    for child in psutil.Process().children():
        with contextlib.suppress(ProcessLookupError, ChildProcessError, psutil.NoSuchProcess):
            if child.pid in our_servers or os.getsid(child.pid) == os.getsid(0):
                continue
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
            else:
                living.append(child)
    return living
