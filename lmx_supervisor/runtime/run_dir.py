"""The private directory for this boot's sockets and crash files: `/tmp/lmx-<uid>/<8 hex>`, 0700, gone at the end.

`/tmp` rather than the temporary directory of the platform: a unix socket path has about 100 bytes, and macOS spends half of
them on its own. Each directory holds a locked file while its owner lives; what is left of dead owners is removed at the next
boot.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import stat
from pathlib import Path

from lmx_protocol import limits

log = logging.getLogger("lmx.run_dir")

_LOCK_NAME = "owner.lock"


class RunDirError(Exception):
    """The run directory cannot be used; the message names it and says what is wrong."""


class RunDir:
    """A fresh run directory, owned until `close`."""

    def __init__(self, base: Path | None = None) -> None:
        parent = base or Path("/tmp") / f"lmx-{os.getuid()}"  # noqa: S108 - private: checked below
        _make_private(parent)
        _remove_abandoned(parent)
        self.path = parent / secrets.token_hex(4)
        self._lock_fd = self._make()

    def endpoint(self, incarnation: str) -> str:
        """The ZeroMQ endpoint of a worker; a directory that somebody deleted meanwhile is made anew for it.

        Raises:
            RunDirError: the path is too long for a socket, or the directory cannot be trusted any more.
            OSError: it is gone and cannot be made.
        """
        if not self.path.is_dir():
            _make_private(self.path.parent)
            made_anew = self._make()
            os.close(self._lock_fd)
            self._lock_fd = made_anew
            log.warning("run_dir_made_anew", extra={"path": str(self.path)})
        path = self.path / incarnation
        if len(os.fsencode(path)) > limits.IPC_PATH_BYTES_MAX:
            raise RunDirError(f"socket path {path} is longer than {limits.IPC_PATH_BYTES_MAX} bytes")
        return f"ipc://{path}"

    def crash_file(self, incarnation: str) -> Path:
        """Where a worker writes its stacks when it dies."""
        return self.path / f"{incarnation}.crash"

    def forget(self, incarnation: str) -> None:
        """Remove what a dead worker left."""
        (self.path / incarnation).unlink(missing_ok=True)
        self.crash_file(incarnation).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)

    def _make(self) -> int:
        """Make and lock the directory; returns the descriptor that holds the lock."""
        self.path.mkdir(mode=0o700)
        lock_fd = os.open(self.path / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock_fd


def _make_private(directory: Path) -> None:
    # Something that is no directory raises it too; what is there is judged below.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RunDirError(f"run directory {directory} is not a directory (a link or a file): remove it")
    if found.st_uid != os.getuid():
        raise RunDirError(f"run directory {directory} belongs to user {found.st_uid}, not to us: remove it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RunDirError(f"run directory {directory} is open to others (mode {stat.S_IMODE(found.st_mode):o}): chmod 700 it")


def _remove_abandoned(parent: Path) -> None:
    for lock_path in parent.glob(f"*/{_LOCK_NAME}"):
        fd = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(lock_path.parent, ignore_errors=True)
        finally:
            os.close(fd)
