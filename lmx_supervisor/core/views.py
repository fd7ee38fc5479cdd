"""Immutable snapshots of the fleet for readers: admin routes, metrics, the CLI. A read that gates a mutation is a bug."""

import msgspec

from lmx_protocol.messages import ModelFacts
from lmx_protocol.states import ModelFormat, Readiness, WorkerState
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.load_profile import NOTHING, UNTUNED, GenerationDefaults, LoadProfile, ProfileLayers


class ReadinessView(msgspec.Struct, frozen=True, kw_only=True):
    """How far a model is from being routed to, in the runbook's words."""

    state: Readiness
    reason: str | None = None
    crash_count: int = 0


class ExitView(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker last ended: the typed reason and one sentence for the operator."""

    reason: str
    text: str
    at_unix_seconds: float
    crash_id: str | None = None


class LoadProgressView(msgspec.Struct, frozen=True, kw_only=True):
    """How far a load is."""

    phase: str
    done: int
    total: int
    unit: str


class LaneView(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one lane."""

    running: int = 0
    waiting: int = 0


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One model's slot as `lmx ps` and GET /admin/workers show it."""

    model_id: str
    path: str
    format: ModelFormat
    backend: str
    incarnation: str | None
    pid: int | None
    state: WorkerState
    readiness: ReadinessView
    wanted: bool
    state_since_unix_seconds: float
    loaded_at_unix_seconds: float | None
    last_used_at_unix_seconds: float | None
    uptime_seconds: float
    restarts: int
    consecutive_failures: int
    restart_in_seconds: float | None
    load_seconds: float | None
    load_progress: LoadProgressView | None
    footprint_bytes: int | None
    peak_footprint_bytes: int | None
    requests_active: int
    requests_waiting: int
    requests_total: int
    tokens_total: int
    tokens_per_second: float
    suspect: bool
    last_exit: ExitView | None
    facts: ModelFacts | None
    heartbeat_age_seconds: float | None = None
    """Since its last heartbeat; None while it has not reported for duty."""
    unloaded: bool = False
    """In quarantine, and unloaded by an operator since it got there."""
    reserved_bytes: int = 0
    """Of the host's memory; 0 for a model that holds none."""
    keep_alive_seconds: float | None = None
    """How long it may be idle; 0: it is pinned. None: as the configuration says."""
    evicted_for: str | None = None
    """The model whose load it made room for, while that has not ended."""
    prefetched: bool = False
    """It was loaded unasked, and nobody has used it yet."""
    keeps_its_line: bool = False
    """Its worker is leaving or has left, and a request for it would wait: it may be back."""
    on_demand: bool = False
    """It was loaded on the account of requests, or requests wait for that."""
    waits_because: str | None = None
    """Why there is no room yet for it, while requests wait for it to be loaded."""
    yields_to: str | None = None
    """The model that it makes room for as soon as its running requests have ended."""
    performance: LoadProfile = NOTHING
    """What its load was tuned by, and what its requests default to."""
    profile: ProfileLayers = UNTUNED
    """Who said which of that."""
    threads: int | None = None
    """What it may compute with when it computes next to others as now; None: nothing was shared out to it yet."""
    prefill_ratio: float = 1.0
    """How much of its time may go into prompts."""
    concurrent_limit: int = 0
    """How many requests may run on it at once, now; 0 while it does not serve."""
    places_held_back: int = 0
    """By the adaptive limit, because answers began late."""
    latency_p95_seconds: float | None = None
    """What that judges by (docs/scheduling.md); None: nothing was heard since it changed last."""
    lanes: dict[Lane, LaneView] = {}
    """Its requests by lane."""
    prefill_tokens_per_second: float = 0.0
    """Of prompts, as `tokens_per_second` is of answers."""


class SpareView(msgspec.Struct, frozen=True, kw_only=True):
    """A warm worker without a model."""

    backend: str
    incarnation: str
    pid: int | None
    warm: bool


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """Every slot and spare at one moment."""

    workers: tuple[WorkerView, ...]
    spares: tuple[SpareView, ...]
    requests_in_flight: int
    requests_waiting: int
    draining: bool
    concurrent_limit: int = 0
    """How many requests may run at once on all models together, now."""
    lanes: dict[Lane, LaneView] = {}
    """All requests by lane."""

    def worker(self, model_id: str) -> WorkerView | None:
        """The slot of a model, or None."""
        return next((worker for worker in self.workers if worker.model_id == model_id), None)

    def defaults(self, model_id: str) -> GenerationDefaults:
        """What a model's requests are answered with where they leave something out."""
        worker = self.worker(model_id)
        return GenerationDefaults() if worker is None else worker.performance.generation


class MemoryView(msgspec.Struct, frozen=True, kw_only=True):
    """How the host's memory is shared out. All in bytes; zeros before it was read for the first time."""

    total_bytes: int = 0
    available_bytes: int = 0
    limit_bytes: int = 0
    """What may be used by models and everybody else together."""
    reserved_bytes: int = 0
    """Promised to models; one that costs more than its reservation counts with what it costs."""
    others_bytes: int = 0
    """Used by everybody else, our spare workers included."""
    free_bytes: int = 0
    """What a load may still reserve."""
    shedding: bool = False
