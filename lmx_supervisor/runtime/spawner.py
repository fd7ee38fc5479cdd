"""Starting a worker process: own session and group, allow-listed environment, its specification on stdin.

stdin is also the life pipe: the supervisor keeps the write end and never writes again, so its end of file tells the worker that
the supervisor is gone, however it died. Nothing secret is in argv or the environment.

Never `fork` without `exec`, never `multiprocessing`. On macOS fork+exec from a process that touched Apple frameworks breaks
Metal in the child, so there `posix_spawn` is called directly (not run here).
"""

import contextlib
import os
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.codec import encode
from lmx_protocol.messages import BootSpec

_ENVIRONMENT_ALLOWED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TMPDIR",
        "TZ",
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "LMX_SCRIPTED_BOOT",
        "GOMP_SPINCOUNT",
    }
)
_ENVIRONMENT_DEFAULTS = {"GOMP_SPINCOUNT": str(limits.GOMP_SPIN_ROUNDS)}
"""The operator's own value wins. GNU OpenMP reads it when it is loaded, before any code of ours runs (docs/adr/0009)."""
_ENVIRONMENT_FIXED = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class Spawned:
    """A started process and our ends of its pipes."""

    pid: int
    life_fd: int
    """Close it and the worker leaves."""
    output_fd: int
    """Its stdout and stderr together."""

    def abandon(self) -> None:
        """End a process nobody could watch, reap it and close our ends."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.life_fd)
        os.close(self.output_fd)


def spawn_worker(spec: BootSpec, crash_file: Path) -> Spawned:
    """Start a worker. Raises `OSError` when the system cannot start a process now.

    Must be called from the main thread: the kernel ties a child's parent-death signal to the thread that started it.
    """
    argv = [sys.executable, "-m", "lmx_worker", "--incarnation", spec.incarnation, "--crash-file", str(crash_file)]
    with contextlib.ExitStack() as at_failure, contextlib.ExitStack() as at_once:
        spec_read, life_write = os.pipe()
        at_once.callback(os.close, spec_read)
        at_failure.callback(os.close, life_write)
        output_read, output_write = os.pipe()
        at_once.callback(os.close, output_write)
        at_failure.callback(os.close, output_read)
        start = _posix_spawn if sys.platform == "darwin" else _popen
        pid = start(argv, worker_environment(os.environ), spec_read, output_write)
        at_failure.pop_all()
    data = encode(spec, bytes_max=limits.FRAME_BYTES_MAX_DOWN)
    # Killed before it could read: its exit is reported like any other, and it needs no specification any more.
    with contextlib.suppress(BrokenPipeError):
        os.write(life_write, struct.pack("!I", len(data)) + data)
    return Spawned(pid, life_write, output_read)


def worker_environment(ours: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The environment of a worker: what it needs of ours, and nothing that could hold a key."""
    allowed = {name: value for name, value in ours.items() if name in _ENVIRONMENT_ALLOWED}
    return _ENVIRONMENT_DEFAULTS | allowed | _ENVIRONMENT_FIXED


def _popen(argv: list[str], environment: dict[str, str], stdin_fd: int, output_fd: int) -> int:
    process = subprocess.Popen(
        argv, stdin=stdin_fd, stdout=output_fd, stderr=output_fd, env=environment, start_new_session=True, close_fds=True
    )
    # The exit watcher reaps it; without this the destructor of Popen would complain about a child it thinks is still running.
    process.returncode = 0
    return process.pid


def _posix_spawn(argv: list[str], environment: dict[str, str], stdin_fd: int, output_fd: int) -> int:
    """The macOS way (not run here): every other descriptor of ours is close-on-exec already (PEP 446)."""
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin_fd, 0),
        (os.POSIX_SPAWN_DUP2, output_fd, 1),
        (os.POSIX_SPAWN_DUP2, output_fd, 2),
    ]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)
