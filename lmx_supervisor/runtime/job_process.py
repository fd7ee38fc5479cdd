"""One job process with everything of ours that belongs to it: pipes, exit watch, crash file. Compare `worker_process`."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from lmx_protocol import limits
from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.jobs import JobFrames, JobMessage, JobSpec
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.runtime.exit_watcher import watch_exit
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.spawner import SpawnedJob, spawn_job
from lmx_supervisor.runtime.stderr_ring import OutputRing

_READ_BYTES = 65536


class JobProcess:
    """From spawn to reaping. Callbacks run on the loop, never from within the constructor; `on_exit` is the last one."""

    def __init__(
        self,
        spec: JobSpec,
        run_dir: RunDir,
        *,
        on_message: Callable[[JobMessage], None],
        on_violation: Callable[[str], None],
        on_exit: Callable[[ExitObservation], None],
    ) -> None:
        """Start the process. Raises `OSError` when the system cannot, `ProtocolViolation` for a specification too large."""
        self._loop = asyncio.get_running_loop()
        self._job = spec.job
        self._run_dir = run_dir
        self._on_message = on_message
        self._on_violation = on_violation
        self._on_exit = on_exit
        self._frames: JobFrames | None = JobFrames()
        self._has_ended = False
        spawned = self._start(spec)
        self.pid = spawned.process.pid
        self._life_fd = spawned.process.life_fd
        self._words_fd = spawned.words_fd
        self._output = OutputRing(self._loop, spawned.process.output_fd)
        os.set_blocking(self._words_fd, False)
        self._loop.add_reader(self._words_fd, self._hear)

    def kill(self) -> None:
        """End it and whatever it started, now; its exit is reported like any other."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to leave, which one that is stuck does not hear."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if not self._has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _start(self, spec: JobSpec) -> SpawnedJob:
        """A process whose end will be seen, or none."""
        spawned = spawn_job(spec, self._run_dir.crash_file(spec.job))
        try:
            watch_exit(self._loop, spawned.process.pid, self._ended)
        except OSError:
            spawned.abandon()
            self._run_dir.forget(spec.job)
            raise
        return spawned

    def _hear(self) -> bool:
        """Take in one piece of what it says; whether there may be more."""
        try:
            data = os.read(self._words_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._words_fd)
            return False
        if self._frames is not None:
            try:
                for message in self._frames.feed(data):
                    self._on_message(message)
            except ProtocolViolation as error:
                # What follows cannot be read any more; it is drained, so that the process can end.
                self._frames = None
                self._on_violation(str(error))
        return True

    def _ended(self, status: int) -> None:
        self._has_ended = True
        left_bytes = limits.JOB_LAST_WORDS_BYTES_MAX
        while left_bytes > 0 and self._hear():
            left_bytes -= _READ_BYTES
        self._loop.remove_reader(self._words_fd)
        self._output.close()
        for descriptor in (self._words_fd, self._life_fd):
            os.close(descriptor)
        observation = ExitObservation(
            code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            signal_number=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            stderr_tail=self._output.tail(),
            crash_head=self._read_crash_head(),
        )
        self._run_dir.forget(self._job)
        self._on_exit(observation)

    def _read_crash_head(self) -> str:
        try:
            with self._run_dir.crash_file(self._job).open(encoding="utf-8", errors="replace") as file:
                return file.read(limits.STDERR_TAIL_BYTES)
        except OSError:
            return ""
