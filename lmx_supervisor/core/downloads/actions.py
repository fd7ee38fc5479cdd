"""Everything `Downloads` can ask for. The runtime performs these, in order."""

from dataclasses import dataclass

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.service import LoadOrder


@dataclass(frozen=True, slots=True)
class Accepted:
    """An order became this download, or joined it."""

    order_id: str
    download_id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """An order cannot be granted."""

    order_id: str
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class StartJob:
    """Start a process for a download."""

    download_id: str
    order: DownloadOrder


@dataclass(frozen=True, slots=True)
class KillJob:
    """End a download's process, now."""

    download_id: str


@dataclass(frozen=True, slots=True)
class KeepEvidence:
    """A download's process died that should not have: keep what it left."""

    download_id: str
    repo_id: str


@dataclass(frozen=True, slots=True)
class DiscardParts:
    """Remove what has come of a download that is not wanted any more."""

    repo_id: str


@dataclass(frozen=True, slots=True)
class LoadArrived:
    """Load a model that was waited for."""

    order: LoadOrder


@dataclass(frozen=True, slots=True)
class Publish:
    """Something for subscribers only: too frequent for the log."""

    tell: Tell


DownloadAction = Accepted | Declined | StartJob | KillJob | KeepEvidence | DiscardParts | LoadArrived | Publish | Tell
