"""What is asked about downloads and what is told of them: the vocabulary that gateway and runtime share."""

from typing import Literal

import msgspec

Status = Literal["pending", "downloading", "completed", "failed", "cancelled"]


class DownloadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to have a repository of the hub on this machine. Two that are equal are one."""

    repo_id: str
    revision: str | None = None
    allow_patterns: tuple[str, ...] = ()
    ignore_patterns: tuple[str, ...] = ()


class DownloadView(msgspec.Struct, frozen=True, kw_only=True):
    """One download at one moment. What is not known yet is None."""

    download_id: str
    repo_id: str
    revision: str | None
    status: Status
    progress_percent: float
    downloaded_bytes: int
    total_bytes: int | None
    files_completed: int
    files_total: int | None
    bytes_per_second: float | None
    eta_seconds: float | None
    trouble: str | None
    """What it waits for, while nothing moves."""
    attempts: int
    """Processes that have worked on it."""
    error: str | None
    error_code: str | None
    started_at: float
    """Unix seconds, like `completed_at`."""
    completed_at: float | None
    local_path: str | None
    loads_model: bool
    """Whether the model is loaded when it has arrived."""


class ModelOnItsWay(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a load of a model that is not (wholly) on this machine: what will happen, or has to be confirmed."""

    status: Literal["download_required", "downloading"]
    model_id: str
    estimated_size_bytes: int | None
    message: str
    confirmation_token: str | None = None
    download_id: str | None = None


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is not on this machine any more."""

    model_id: str
    freed_bytes: int
