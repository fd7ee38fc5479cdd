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
from typing import Self

from lmx_protocol import limits
from lmx_protocol.codec import encode
from lmx_protocol.jobs import JobSpec, job_frame
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
_OFFLINE = frozenset({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})


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


@dataclass(frozen=True, slots=True)
class SpawnedJob:
    """A started job: `process.output_fd` is its stderr alone."""

    process: Spawned
    words_fd: int
    """What it says."""

    def abandon(self) -> None:
        """End a process nobody could watch, reap it and close our ends."""
        self.process.abandon()
        os.close(self.words_fd)


def spawn_worker(spec: BootSpec, crash_file: Path) -> Spawned:
    """Start a worker. Raises `OSError` when the system cannot start a process now.

    Must be called from the main thread: the kernel ties a child's parent-death signal to the thread that started it.
    """
    data = encode(spec, bytes_max=limits.FRAME_BYTES_MAX_DOWN)
    with _Pipes() as pipes:
        pid = _start(
            _argv(spec.incarnation, crash_file), worker_environment(os.environ), pipes.spec, pipes.output, pipes.output
        )
    return pipes.handed_to(pid, struct.pack("!I", len(data)) + data)


def spawn_job(spec: JobSpec, crash_file: Path) -> SpawnedJob:
    """Start a job, which may use the network. Raises `OSError`; call it from the main thread, like `spawn_worker`."""
    frame = job_frame(spec)
    environment = {name: value for name, value in worker_environment(os.environ).items() if name not in _OFFLINE}
    with _Pipes() as pipes:
        words_read, words_write = pipes.pipe()
        pid = _start([*_argv(spec.job, crash_file), "--job"], environment, pipes.spec, words_write, pipes.output)
    return SpawnedJob(pipes.handed_to(pid, frame), words_read)


class _Pipes:
    """The pipes of a process about to be started: its ends are closed here at the end of the block, ours if that fails."""

    def __init__(self) -> None:
        self._theirs = contextlib.ExitStack()
        self._ours = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            # Of this one the child has the reading end.
            self.spec, self._life = os.pipe()
            self._theirs.callback(os.close, self.spec)
            self._ours.callback(os.close, self._life)
            self._output, self.output = self.pipe()
        except OSError:
            self.__exit__(OSError)
            raise
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._theirs.close()
        if error is not None:
            self._ours.close()

    def pipe(self) -> tuple[int, int]:
        """A pipe that the child writes to."""
        ours, theirs = os.pipe()
        self._theirs.callback(os.close, theirs)
        self._ours.callback(os.close, ours)
        return ours, theirs

    def handed_to(self, pid: int, specification: bytes) -> Spawned:
        """Our ends, for good; the process has its specification."""
        self._ours.pop_all()
        # Killed before it could read: its exit is reported like any other, and it needs no specification any more.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._life, specification)
        return Spawned(pid, self._life, self._output)


def _argv(name: str, crash_file: Path) -> list[str]:
    return [sys.executable, "-m", "lmx_worker", "--incarnation", name, "--crash-file", str(crash_file)]


def _start(argv: list[str], environment: dict[str, str], stdin_fd: int, stdout_fd: int, stderr_fd: int) -> int:
    start = _posix_spawn if sys.platform == "darwin" else _popen
    return start(argv, environment, stdin_fd, stdout_fd, stderr_fd)


def worker_environment(ours: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The environment of a worker: what it needs of ours, and nothing that could hold a key."""
    allowed = {name: value for name, value in ours.items() if name in _ENVIRONMENT_ALLOWED}
    return _ENVIRONMENT_DEFAULTS | allowed | _ENVIRONMENT_FIXED


def _popen(argv: list[str], environment: dict[str, str], stdin_fd: int, stdout_fd: int, stderr_fd: int) -> int:
    process = subprocess.Popen(
        argv, stdin=stdin_fd, stdout=stdout_fd, stderr=stderr_fd, env=environment, start_new_session=True, close_fds=True
    )
    # The exit watcher reaps it; without this the destructor of Popen would complain about a child it thinks is still running.
    process.returncode = 0
    return process.pid


def _posix_spawn(argv: list[str], environment: dict[str, str], stdin_fd: int, stdout_fd: int, stderr_fd: int) -> int:
    """The macOS way (not run here): every other descriptor of ours is close-on-exec already (PEP 446)."""
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin_fd, 0),
        (os.POSIX_SPAWN_DUP2, stdout_fd, 1),
        (os.POSIX_SPAWN_DUP2, stderr_fd, 2),
    ]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)
