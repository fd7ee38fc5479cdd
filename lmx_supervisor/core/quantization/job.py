"""One job: its states, the table of allowed moves, and what is known of it.

queued ──▶ running ──▶ promoting ──▶ completed
  │           │  │         │
  │           │  └─────────┴──▶ failed
  ▼           ▼
cancelled ◀── cancelling (its process is being ended)
"""

from dataclasses import dataclass
from enum import StrEnum

from lmx_protocol.jobs import JobDone, JobFailed
from lmx_supervisor.core.quantization.orders import FailureCode, Mode, QuantizeJob, Status

_GIGABYTE = 1024**3


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    PROMOTING = "promoting"
    """The copy is whole; it is being put in its place."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = JobState
OVER = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
HAS_PROCESS = frozenset({_S.RUNNING, _S.CANCELLING})

TRANSITIONS: frozenset[tuple[JobState, JobState]] = frozenset(
    {
        (_S.QUEUED, _S.RUNNING),
        (_S.QUEUED, _S.CANCELLED),
        (_S.QUEUED, _S.FAILED),
        (_S.RUNNING, _S.CANCELLING),
        (_S.RUNNING, _S.PROMOTING),
        (_S.RUNNING, _S.FAILED),
        (_S.CANCELLING, _S.CANCELLED),
        # The service stops while it is being cancelled, or instead of that.
        (_S.CANCELLING, _S.FAILED),
        (_S.PROMOTING, _S.COMPLETED),
        (_S.PROMOTING, _S.FAILED),
    }
)

_STATUS: dict[JobState, Status] = {
    _S.QUEUED: "queued",
    _S.RUNNING: "running",
    _S.CANCELLING: "cancelling",
    _S.PROMOTING: "running",
    _S.COMPLETED: "completed",
    _S.FAILED: "failed",
    _S.CANCELLED: "cancelled",
}


class IllegalMove(Exception):  # noqa: N818 - a defect, named for what it is
    """A job was to make a move that is not in the table."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a job is to do, with every place worked out."""

    source_model: str
    source_path: str
    output_path: str
    staging_path: str
    bits: int
    group_size: int
    mode: Mode
    model_id: str | None
    """Of the copy."""


@dataclass(slots=True)
class Job:
    """Everything about one job. Only `QuantizeJobs` changes it."""

    job_id: str
    task: Task
    created_at: float
    state: JobState = JobState.QUEUED
    updated_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    cancel_requested_at: float | None = None
    percent: float = 0.0
    phase: str | None = None
    output_bytes: int | None = None
    failure_code: FailureCode | None = None
    error: str | None = None
    exit_code: int | None = None
    signal_number: int | None = None
    # --- of its process; times by the monotonic clock -----------------------------------------------------------------------
    pid: int | None = None
    outcome: JobDone | JobFailed | None = None
    """What the process said last, before it leaves."""
    running_since: float = 0.0
    heard_at: float = 0.0
    look_again_at: float = float("inf")
    """When a job that waits for memory asks for it again."""
    ending: tuple[FailureCode, str] | None = None
    """Why the process is being ended."""
    kill_at: float | None = None
    """When SIGKILL follows."""
    complain_at: float | None = None
    """When it is told that not even that has helped."""
    told_at: float | None = None
    told_percent: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing follows."""
        return self.state in OVER

    def move(self, to: JobState, unix_now: float) -> None:
        """Change the state. Raises `IllegalMove`."""
        if (self.state, to) not in TRANSITIONS:
            raise IllegalMove(f"{self.job_id} of {self.task.source_model} cannot go from {self.state} to {to}")
        self.state = to
        self.updated_at = unix_now
        if self.is_over:
            self.ended_at = unix_now
            self.phase = self.pid = None

    def view(self, queue_position: int | None) -> QuantizeJob:
        """For readers."""
        task, started, ended = self.task, self.started_at, self.ended_at
        cancelled = self.state is JobState.CANCELLED
        return QuantizeJob(
            job_id=self.job_id,
            source_model=task.source_model,
            output_path=task.output_path,
            bits=task.bits,
            group_size=task.group_size,
            mode=task.mode,
            status=_STATUS[self.state],
            queue_position=queue_position,
            progress_percent=round(self.percent, 1),
            phase=self.phase,
            model_id=task.model_id,
            created_at=self.created_at,
            started_at=started,
            updated_at=self.updated_at,
            completed_at=ended,
            cancelled_at=ended if cancelled else None,
            duration_sec=None if started is None or ended is None else round(max(0.0, ended - started), 3),
            output_size_bytes=self.output_bytes,
            output_size_gb=None if self.output_bytes is None else round(self.output_bytes / _GIGABYTE, 3),
            cancel_requested=self.cancel_requested_at is not None,
            cancel_requested_at=self.cancel_requested_at,
            failure_code=self.failure_code,
            error=self.error,
            exit_code=self.exit_code,
            signal=self.signal_number,
            worker_pid=self.pid,
        )
