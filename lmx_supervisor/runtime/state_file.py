"""`<home>/runtime-state.json`: what a start has to know of the last one. This module: its shape, reading it, composing it.

The flat fields at the top are the operators' (their runbook reads them with `json.tool`); the rest is ours. Nothing a client
was promised depends on the file: without it the service starts afresh.
"""

import msgspec

from lmx_protocol.messages import ModelSpec
from lmx_supervisor.core.events import QuarantineKnown
from lmx_supervisor.core.exit_reason import ExitReason, Verdict
from lmx_supervisor.core.lasting import QuarantinedModel
from lmx_supervisor.core.load_profile import UNTUNED, ProfileLayers
from lmx_supervisor.core.startup import LastRun
from lmx_supervisor.core.trial import WantedModel
from lmx_supervisor.runtime.atomic_file import Document

FILE_NAME = "runtime-state.json"


class SavedSpec(ModelSpec, frozen=True, kw_only=True, array_like=False):
    """A model specification with its field names, for people."""


class SavedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was loaded."""

    spec: SavedSpec
    backend: str
    keep_alive_seconds: float | None = None
    profile: ProfileLayers = UNTUNED


class SavedPeak(msgspec.Struct, frozen=True, kw_only=True):
    """What a model, loaded in a certain way, cost at its peak."""

    digest: str
    bytes: int


class SavedQuarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A quarantined model: what it was, and why."""

    spec: SavedSpec
    backend: str
    digest: str
    reason: str
    count: int
    """Consecutive failures."""
    since: float
    """Unix seconds."""
    last_exit_reason: str | None = None
    last_exit_text: str | None = None
    crash_id: str | None = None


class SavedCrash(msgspec.Struct, frozen=True, kw_only=True):
    """A death of a worker that nobody asked for. `at` in unix seconds."""

    at: float
    model_id: str | None
    reason: str
    text: str
    crash_id: str | None = None


class SavedWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A process of ours; `start_time` as `boot_sweep.start_time_of` tells it."""

    pid: int
    start_time: float
    incarnation: str


class RuntimeState(Document, frozen=True, kw_only=True):
    """The whole file. Times are unix seconds."""

    loaded_models: tuple[str, ...] = ()
    last_clean_shutdown: bool = False
    pid: int = 0
    saved_at: float = 0.0
    startup_count: int = 0
    last_startup_at: float | None = None
    schema: int = 1
    boot_id: str = ""
    """Of the machine: process start times of another boot say nothing."""
    recent_starts: tuple[float, ...] = ()
    models: tuple[SavedModel, ...] = ()
    """How the loaded models were loaded."""
    quarantine: tuple[SavedQuarantine, ...] = ()
    crash_history: tuple[SavedCrash, ...] = ()
    workers: tuple[SavedWorker, ...] = ()
    memory_peaks: tuple[SavedPeak, ...] = ()
    """The latest noted last."""


def last_run(state: RuntimeState | None) -> LastRun:
    """What the start decides by; no file is a clean slate."""
    if state is None:
        return LastRun()
    return LastRun(
        clean=state.last_clean_shutdown,
        recent_starts=state.recent_starts,
        loaded_models=tuple(dict.fromkeys(state.loaded_models)),
    )


def saved_model(model: WantedModel) -> SavedModel:
    """For the file."""
    return SavedModel(
        spec=_saved_spec(model.spec),
        backend=model.backend,
        keep_alive_seconds=model.keep_alive_seconds,
        profile=model.profile,
    )


def plain_spec(saved: SavedSpec) -> ModelSpec:
    """From the file: what may be sent to a worker."""
    return ModelSpec(**msgspec.structs.asdict(saved))


def saved_quarantine(model: QuarantinedModel, since_unix_seconds: float) -> SavedQuarantine:
    """For the file."""
    return SavedQuarantine(
        spec=_saved_spec(model.spec),
        backend=model.backend,
        digest=model.digest,
        reason=model.reason,
        count=model.consecutive_failures,
        since=since_unix_seconds,
        last_exit_reason=model.last_exit.reason if model.last_exit is not None else None,
        last_exit_text=model.last_exit.text if model.last_exit is not None else None,
        crash_id=model.last_exit.crash_id if model.last_exit is not None else None,
    )


def quarantine_known(saved: SavedQuarantine) -> QuarantineKnown:
    """From the file: what the fleet is told before anything is loaded."""
    return QuarantineKnown(
        spec=plain_spec(saved.spec),
        backend=saved.backend,
        digest=saved.digest,
        reason=saved.reason,
        consecutive_failures=saved.count,
        last_exit=_verdict(saved),
    )


def _saved_spec(spec: ModelSpec) -> SavedSpec:
    return SavedSpec(**msgspec.structs.asdict(spec))


def _verdict(saved: SavedQuarantine) -> Verdict | None:
    if saved.last_exit_reason is None or saved.last_exit_text is None:
        return None
    # A reason of another version is not known here; the text still says it all.
    known = saved.last_exit_reason in ExitReason._value2member_map_
    reason = ExitReason(saved.last_exit_reason) if known else ExitReason.UNEXPECTED_EXIT
    return Verdict(reason, saved.last_exit_text, saved.crash_id)
