"""One supervisor per home. The lock is the kernel's: it goes with its holder, however that dies."""

import fcntl
import os
from pathlib import Path


class AlreadyRunningError(Exception):
    """Another supervisor holds this home."""


class InstanceLock:
    """Held from construction to `close`. The file names its holder for operators; it is never removed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "lmx.lock"
        self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunningError(f"LMX is already running with the home {home} (pid {holder})") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go of the home."""
        os.close(self._fd)
