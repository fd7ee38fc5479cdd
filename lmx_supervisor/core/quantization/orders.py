"""What is asked about quantized copies and what is told of them: the vocabulary that gateway and runtime share."""

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
Status = Literal["queued", "running", "cancelling", "completed", "failed", "cancelled"]
FailureCode = Literal[
    "cancelled_by_user",
    "interrupted_by_restart",
    "worker_crashed",
    "worker_timeout",
    "worker_exit_nonzero",
    "worker_payload_invalid",
    "output_path_exists",
    "quantize_failed",
]

COMBINATIONS: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "affine": dict.fromkeys((4, 2, 3, 5, 6, 8), (64, 32, 128)),
    "mxfp4": {4: (32,)},
    "mxfp8": {8: (32,)},
    "nvfp4": {4: (16,)},
}
"""Mode → bits → group sizes; of each the first one is what is taken when nothing is said."""

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARACTERS_MAX = 120


class QuantizeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for a quantized copy."""

    source_model: str
    output_path: str | None = None
    """None: a directory named after the model, in the home."""
    bits: int
    group_size: int
    mode: Mode


class QuantizeJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job at one moment. Times in unix seconds; what is not known (yet) is None."""

    job_id: str
    source_model: str
    output_path: str
    bits: int
    group_size: int
    mode: Mode
    status: Status
    queue_position: int | None
    """1: the next to run. None: it does not wait."""
    progress_percent: float
    phase: str | None
    """What it is doing, or waits for."""
    model_id: str | None
    """By which the copy can be loaded; None for one that lies where the catalog does not look."""
    created_at: float
    started_at: float | None
    updated_at: float
    completed_at: float | None
    cancelled_at: float | None
    duration_sec: float | None
    output_size_bytes: int | None
    output_size_gb: float | None
    cancel_requested: bool
    cancel_requested_at: float | None
    failure_code: FailureCode | None
    error: str | None
    exit_code: int | None
    signal: int | None
    worker_pid: int | None


def copy_name(source_model: str, bits: int, group_size: int, mode: str) -> str:
    """The directory's name for a copy of this model: `Llama-3-8B-4bit`, with what is not usual said too."""
    stem = _NOT_IN_A_NAME.sub("-", source_model.rpartition("/")[2]).strip("-.")[:_NAME_CHARACTERS_MAX] or "model"
    kind = f"-{bits}bit" if mode == "affine" else f"-{mode}"
    return f"{stem}{kind}" + (f"-g{group_size}" if group_size != COMBINATIONS[mode][bits][0] else "")
