"""Everything that can happen to downloads. `Downloads.handle` takes these and nothing else."""

from dataclasses import dataclass

from lmx_protocol.jobs import JobMessage
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.service import LoadOrder


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happens, by both clocks."""

    monotonic: float
    unix: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody wants a repository here; `order_id` names who to tell, `download_id` is the id if it becomes a new download."""

    order_id: str
    download_id: str
    order: DownloadOrder
    estimated_bytes: int | None = None
    then_load: LoadOrder | None = None


@dataclass(frozen=True, slots=True)
class FollowWanted:
    """Somebody wants a model loaded that a download is bringing."""

    download_id: str
    then_load: LoadOrder


@dataclass(frozen=True, slots=True)
class CancelWanted:
    """Somebody does not want a download any more, nor what has come of it."""

    download_id: str


@dataclass(frozen=True, slots=True)
class StopWanted:
    """The service stops: no download outlives it."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A process could not be started."""

    download_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class JobSaid:
    """A download's process sent a message."""

    download_id: str
    message: JobMessage


@dataclass(frozen=True, slots=True)
class JobMisbehaved:
    """It sent bytes that are no message."""

    download_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class JobExited:
    """It is gone; the kernel said so. `detail`: how, and its last words."""

    download_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Due deadlines act. `lost_seconds`: what this process slept through, which is no job's fault."""

    lost_seconds: float = 0.0


DownloadEvent = (
    Wanted | FollowWanted | CancelWanted | StopWanted | NotStarted | JobSaid | JobMisbehaved | JobExited | TimePassed
)
