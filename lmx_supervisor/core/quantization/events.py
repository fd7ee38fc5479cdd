"""Everything that can happen to quantize jobs, and everything that is to be done about it."""

from dataclasses import dataclass

from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobMessage
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.quantization.job import Task
from lmx_supervisor.core.quantization.orders import FailureCode

# --- events -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happens, by both clocks, and whether the host's memory is nearly used up."""

    monotonic: float
    unix: float
    shedding: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody wants a copy. `job_id` is the job's if it is accepted."""

    job_id: str
    task: Task


@dataclass(frozen=True, slots=True)
class CancelWanted:
    """Somebody does not want it any more."""

    job_id: str


@dataclass(frozen=True, slots=True)
class StopWanted:
    """The service stops: no job outlives it."""


@dataclass(frozen=True, slots=True)
class Started:
    """A job's process runs."""

    job_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A process could not be started."""

    job_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class JobSaid:
    """A job's process sent a message."""

    job_id: str
    message: JobMessage


@dataclass(frozen=True, slots=True)
class JobMisbehaved:
    """It sent bytes that are no message."""

    job_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class JobExited:
    """It is gone; the kernel said so. `detail`: how, and its last words."""

    job_id: str
    exit_code: int | None
    signal_number: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """The copy is in its place; or it could not be put there, and why."""

    job_id: str
    failure: tuple[FailureCode, str] | None = None


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Due deadlines act. `lost_seconds`: what this process slept through, which is no job's fault."""

    lost_seconds: float = 0.0


QuantizeEvent = (
    Wanted | CancelWanted | StopWanted | Started | NotStarted | JobSaid | JobMisbehaved | JobExited | Promoted | TimePassed
)

# --- actions ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """A wish became a job."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A wish cannot be granted."""

    job_id: str
    code: ErrorCode
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class StartJob:
    """Start a process for a job."""

    job_id: str
    task: Task


@dataclass(frozen=True, slots=True)
class EndJob:
    """End a job's process and whatever it started: ask it to leave, or make it."""

    job_id: str
    by_force: bool


@dataclass(frozen=True, slots=True)
class KeepEvidence:
    """A job's process died that should not have: keep what it left."""

    job_id: str
    model_id: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Put the copy in its place, in one step."""

    job_id: str
    task: Task


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove what there is of a copy."""

    staging_path: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Something for subscribers only: too frequent for the log."""

    tell: Tell


QuantizeAction = Accepted | Declined | StartJob | EndJob | KeepEvidence | Promote | Discard | Publish | Tell
