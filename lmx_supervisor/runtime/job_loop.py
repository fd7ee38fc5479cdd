"""What drives a pure machine of jobs (`core.downloads`, `core.quantization`): its events, its deadlines, its processes."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from lmx_protocol import limits
from lmx_protocol.jobs import JobMessage, JobSpec
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Autopsy
from lmx_supervisor.core.exit_reason import ExitObservation, classify
from lmx_supervisor.runtime.boot_sweep import start_time_of
from lmx_supervisor.runtime.job_evidence import JobKind, job_autopsy
from lmx_supervisor.runtime.job_process import JobProcess
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.state_file import SavedWorker

Event = TypeVar("Event")


class JobLoop(Generic[Event]):
    """One machine's, on the running loop: one event at a time, in order, and an event when a deadline has passed."""

    def __init__(
        self,
        handle: Callable[[Event], None],
        time_passed: Callable[[float], Event],
        *,
        next_deadline: Callable[[], float],
        after: Callable[[], None],
    ) -> None:
        """`time_passed`: the event, given the seconds that this process slept through. `after`: called when all is handled."""
        self._handle = handle
        self._time_passed = time_passed
        self._next_deadline = next_deadline
        self._after = after
        self._inbox: deque[Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None

    def post(self, event: Event) -> None:
        """Handle an event now, or right after the one being handled."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._handling = False
        self._after()
        self._set_timer()

    def close(self) -> None:
        """No deadline passes any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        self.close()
        self._timer = None
        deadline = self._next_deadline()
        if deadline != float("inf"):
            self._timer = asyncio.get_running_loop().call_at(deadline, self._wake, deadline)

    def _wake(self, deadline: float) -> None:
        late_seconds = time.monotonic() - deadline
        # The process was stopped or the machine slept: what a job said meanwhile is still to be read.
        self.post(self._time_passed(late_seconds if late_seconds >= limits.CLOCK_GAP_SECONDS else 0.0))


class JobProcesses:
    """The processes of one kind of jobs, by the job's id; at most one for each."""

    def __init__(self, kind: JobKind, run_dir: RunDir) -> None:
        self._kind: JobKind = kind
        self._run_dir = run_dir
        self._running: dict[str, JobProcess] = {}
        self._saved: dict[int, SavedWorker] = {}
        self._started_at: dict[str, float] = {}
        self._last_seen: dict[str, ExitObservation] = {}

    def start(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        on_message: Callable[[JobMessage], None],
        on_violation: Callable[[str], None],
        on_exit: Callable[[ExitObservation, str], None],
    ) -> int:
        """Start one; returns its pid. `on_exit` also gets how it ended, in words.

        Raises `OSError`, `RunDirError`, `ProtocolViolation`.
        """
        process = JobProcess(
            spec,
            self._run_dir,
            on_message=on_message,
            on_violation=on_violation,
            on_exit=lambda observation: self._exited(job_id, observation, on_exit),
        )
        self._running[job_id] = process
        self._started_at[job_id] = time.monotonic()
        start_time = start_time_of(process.pid)
        if start_time is not None:
            self._saved[process.pid] = SavedWorker(pid=process.pid, start_time=start_time, incarnation=spec.job)
        return process.pid

    def end(self, job_id: str, *, by_force: bool) -> None:
        """End one and whatever it started, or ask it to leave; its exit is reported like any other, if it is still to come."""
        process = self._running.get(job_id)
        if process is not None:
            process.kill() if by_force else process.terminate()

    def ids(self) -> list[str]:
        """The jobs that have a process."""
        return list(self._running)

    def saved(self) -> tuple[SavedWorker, ...]:
        """Those that run, for the sweep of the next start."""
        return tuple(self._saved.values())

    def autopsy(self, job_id: str, model_id: str) -> Autopsy:
        """Of the process whose exit is being reported."""
        uptime_seconds = time.monotonic() - self._started_at[job_id]
        return job_autopsy(self._kind, model_id, self._last_seen[job_id], uptime_seconds)

    def _exited(self, job_id: str, observation: ExitObservation, on_exit: Callable[[ExitObservation, str], None]) -> None:
        self._saved.pop(self._running.pop(job_id).pid, None)
        self._last_seen[job_id] = observation
        on_exit(observation, classify(observation, state=WorkerState.BUSY, cause=None).text)
        self._last_seen.pop(job_id, None)
        # A job that is started again from within its exit has a time of its own by now.
        if job_id not in self._running:
            self._started_at.pop(job_id, None)
