"""One download: its states, the table of allowed moves, and what is known of it.

queued ──▶ running ──▶ completed
  ▲  │      │  │  └──▶ failed
  │  │      │  ▼
  │  │      │ waiting (its process died) ──▶ queued, or failed after too many deaths
  │  ▼      ▼
  │ cancelled ◀── ending (its process is being killed)
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobDone, JobFailed
from lmx_supervisor.core.downloads.orders import DownloadOrder, DownloadView, Status
from lmx_supervisor.core.service import LoadOrder


class DownloadState(StrEnum):
    """Where a download is."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    ENDING = "ending"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = DownloadState
OVER = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
HAS_PROCESS = frozenset({_S.RUNNING, _S.ENDING})

TRANSITIONS: frozenset[tuple[DownloadState, DownloadState]] = frozenset(
    {
        (_S.QUEUED, _S.RUNNING),
        (_S.QUEUED, _S.CANCELLED),
        (_S.QUEUED, _S.FAILED),
        (_S.RUNNING, _S.WAITING),
        (_S.RUNNING, _S.ENDING),
        (_S.RUNNING, _S.COMPLETED),
        (_S.RUNNING, _S.FAILED),
        (_S.WAITING, _S.QUEUED),
        (_S.WAITING, _S.FAILED),
        (_S.WAITING, _S.CANCELLED),
        (_S.ENDING, _S.CANCELLED),
        # Its last word was that the work is done: whichever came first counts.
        (_S.ENDING, _S.COMPLETED),
    }
)

_STATUS: dict[DownloadState, Status] = {
    _S.QUEUED: "pending",
    _S.RUNNING: "downloading",
    _S.WAITING: "downloading",
    _S.ENDING: "downloading",
    _S.COMPLETED: "completed",
    _S.FAILED: "failed",
    _S.CANCELLED: "cancelled",
}


class IllegalMove(Exception):  # noqa: N818 - a defect, named for what it is
    """A download was to make a move that is not in the table."""


@dataclass(slots=True)
class Download:
    """Everything about one download. Only `Downloads` changes it."""

    download_id: str
    order: DownloadOrder
    started_at_unix: float
    loads: list[LoadOrder] = field(default_factory=list)
    """Wanted as soon as the model has arrived."""
    state: DownloadState = DownloadState.QUEUED
    estimated_bytes: int | None = None
    total_bytes: int | None = None
    done_bytes: int = 0
    files_total: int | None = None
    files_done: int = 0
    trouble: str | None = None
    attempts: int = 0
    deaths: int = 0
    error: str | None = None
    error_code: ErrorCode | None = None
    ended_at_unix: float | None = None
    local_path: str | None = None
    # --- of its process -----------------------------------------------------------------------------------------------------
    outcome: JobDone | JobFailed | None = None
    """What the process said last, before it leaves."""
    heard_at: float = 0.0
    retry_at: float = 0.0
    killed_for: str | None = None
    """Why the process is being killed, unless that was asked for."""
    discard: bool = False
    """What has come is not wanted any more."""
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    told_at: float | None = None
    told_percent: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing follows."""
        return self.state in OVER

    def move(self, to: DownloadState) -> None:
        """Change the state. Raises `IllegalMove`."""
        if (self.state, to) not in TRANSITIONS:
            raise IllegalMove(f"{self.download_id} of {self.order.repo_id} cannot go from {self.state} to {to}")
        self.state = to

    def sample(self, now: float) -> None:
        """Remember how far it is, to tell its speed."""
        self.samples.append((now, self.done_bytes))
        while self.samples[0][0] < now - limits.DOWNLOAD_SPEED_WINDOW_SECONDS:
            self.samples.popleft()

    @property
    def bytes_per_second(self) -> float | None:
        """Over the last seconds; None when it is not known."""
        if self.state is not DownloadState.RUNNING or len(self.samples) < 2:
            return None
        (earlier, before), (later, after) = self.samples[0], self.samples[-1]
        return max(0.0, (after - before) / (later - earlier)) if later > earlier else None

    @property
    def percent(self) -> float:
        """How much of it is here."""
        if self.state is DownloadState.COMPLETED:
            return 100.0
        return min(100.0, 100.0 * self.done_bytes / self.total_bytes) if self.total_bytes else 0.0

    def view(self) -> DownloadView:
        """For readers."""
        speed, total = self.bytes_per_second, self.total_bytes
        missing = None if total is None else max(0, total - self.done_bytes)
        return DownloadView(
            download_id=self.download_id,
            repo_id=self.order.repo_id,
            revision=self.order.revision,
            status=_STATUS[self.state],
            progress_percent=round(self.percent, 1),
            downloaded_bytes=self.done_bytes,
            total_bytes=total if total is not None else self.estimated_bytes,
            files_completed=self.files_done,
            files_total=self.files_total,
            bytes_per_second=None if speed is None else round(speed, 1),
            eta_seconds=round(missing / speed, 1) if speed and missing is not None else None,
            trouble=self.trouble,
            attempts=self.attempts,
            error=self.error,
            error_code=self.error_code,
            started_at=self.started_at_unix,
            completed_at=self.ended_at_unix,
            local_path=self.local_path,
            loads_model=bool(self.loads),
        )
