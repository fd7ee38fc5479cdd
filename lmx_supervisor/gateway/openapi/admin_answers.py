"""What the probes and the admin routes answer where no view of the core says it, as structs for the OpenAPI document."""

from typing import Any, Literal

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.autotune import Metrics
from lmx_supervisor.core.crashes import CrashHeadline
from lmx_supervisor.core.downloads.orders import DownloadView, Status
from lmx_supervisor.core.quantization.orders import FailureCode, QuantizeJob
from lmx_supervisor.core.quantization.orders import Status as QuantizeStatus
from lmx_supervisor.core.service import CompatibilityRow
from lmx_supervisor.core.views import LaneView, ReadinessView
from lmx_supervisor.gateway.openapi.inference_answers import Answer


class BudgetOut(Answer, frozen=True, kw_only=True):
    """What models may take of the host's memory, and what of it is promised."""

    limit_gb: float | None
    reserved_gb: float | None
    others_gb: float | None
    free_gb: float | None


class MemoryOfModel(Answer, frozen=True, kw_only=True):
    """What one model takes, and what is reserved for it."""

    memory_gb: float | None
    peak_gb: float | None
    reserved_gb: float | None
    loaded: bool
    state: WorkerState
    pinned: bool
    keep_alive_sec: int | None
    evicted_for: str | None


class HostMemoryOut(Answer, frozen=True, kw_only=True):
    """The host's memory, what is promised of it, and to whom."""

    total_unified_memory_gb: float | None
    used_gb: float | None
    available_gb: float | None
    usage_percent: float
    threshold_percent: float
    load_shedding_percent: float
    load_shedding: bool
    budget: BudgetOut
    models: dict[str, MemoryOfModel]


class Alive(Answer, frozen=True, kw_only=True):
    """The process is alive."""

    status: Literal["ok"]
    version: str


class Ready(Answer, frozen=True, kw_only=True):
    """Something can be served."""

    status: Literal["ready"]
    version: str
    models_loaded: int


class Unready(Answer, frozen=True, kw_only=True):
    """Nothing can be served, and why."""

    status: Literal["unavailable"]
    reason: str


class LoadedModel(Answer, frozen=True, kw_only=True):
    """A model that is served, or in quarantine."""

    id: str
    loaded: bool
    memory_gb: float | None
    loaded_at: float | None
    use_batching: bool
    request_count: int
    last_used_at: float | None
    context_length: int | None
    performance: dict[str, Any]
    readiness: ReadinessView


class ModelPerformance(Answer, frozen=True, kw_only=True):
    """What a model was tuned by, who said so, and what it would be without."""

    model_id: str
    backend_type: str
    loaded_at: float | None
    request_count: int
    last_used_at: float | None
    memory_gb: float | None
    context_length: int | None
    slots: int | None
    use_batching: bool
    tokens_per_second: float
    performance: dict[str, Any]
    performance_sources: dict[str, Literal["override", "autotune", "preset"]]
    readiness: ReadinessView
    global_defaults: dict[str, Any]


class BenchmarkRun(Answer, frozen=True, kw_only=True):
    """One measured generation."""

    run: int
    tokens_generated: int
    prompt_tokens: int
    time_to_first_token_ms: float
    total_time_ms: float
    tokens_per_second: float
    decode_tokens_per_second: float | None
    speculative: dict[str, Any]


class BenchmarkOut(Answer, frozen=True, kw_only=True):
    """What some generations came to. Speed is tokens by the time from asking to the end."""

    model_id: str
    backend_type: str
    prompt: str
    max_tokens: int
    runs: int
    results: list[BenchmarkRun]
    avg_tokens_per_second: float
    avg_time_to_first_token_ms: float
    avg_total_time_ms: float
    speculative: dict[str, Any]


class TunedCandidate(Answer, frozen=True, kw_only=True):
    """Settings that were tried, and how they did."""

    profile: dict[str, Any]
    metrics: Metrics
    score: float
    error: str | None


class AutotuneOut(Answer, frozen=True, kw_only=True):
    """The best settings, and every candidate in the order they were tried."""

    model_id: str
    backend: str
    backend_version: str
    best_profile: dict[str, Any]
    best_metrics: Metrics
    best_score: float
    candidates: list[TunedCandidate]


class LoadedModels(Answer, frozen=True, kw_only=True):
    """What is served; `count` leaves out what is in quarantine."""

    loaded: list[LoadedModel]
    count: int


class AvailableModel(Answer, frozen=True, kw_only=True):
    """A model on disk."""

    repo_id: str
    local_path: str
    size_bytes: int
    downloaded_at: str | None


class ModelLoaded(Answer, frozen=True, kw_only=True):
    """A model that is served now; the numbers are null when it was already."""

    success: Literal[True]
    model_id: str
    memory_after_load_gb: float | None
    time_to_load_ms: float | None


class ModelOnItsWay(Answer, frozen=True, kw_only=True):
    """A model that is not on this machine, or not whole: what has to be confirmed, or what is under way."""

    status: Literal["download_required", "downloading"]
    model_id: str
    estimated_size_bytes: int | None
    estimated_size_human: str | None
    confirmation_token: str | None
    download_id: str | None
    message: str
    confirm_url: str | None
    progress_url: str | None


class DownloadStarted(Answer, frozen=True, kw_only=True):
    """A download that runs, or waits for its turn."""

    download_id: str
    repo_id: str
    estimated_size_bytes: int | None
    status: Status


class DownloadList(Answer, frozen=True, kw_only=True):
    """Downloads, the newest last."""

    downloads: list[DownloadView]
    count: int
    include_inactive: bool


class DownloadCancelled(DownloadView, frozen=True, kw_only=True):
    """A download that is over; `cancelled` says whether this request ended it."""

    cancelled: bool


class ModelDeleted(Answer, frozen=True, kw_only=True):
    """A model that is not on this machine any more."""

    success: Literal[True]
    model_id: str
    freed_bytes: int


class ModelUnloaded(Answer, frozen=True, kw_only=True):
    """A model that is not served any more."""

    success: Literal[True]
    model_id: str
    memory_freed_gb: float | None


class QuantizeJobs(Answer, frozen=True, kw_only=True):
    """Quantize jobs, the newest first."""

    jobs: list[QuantizeJob]
    count: int


class QuantizeCancelled(Answer, frozen=True, kw_only=True):
    """What a cancel came to."""

    job_id: str
    status: QuantizeStatus
    reason: Literal["cancelled", "cancelling", "already_terminal"]
    cancelled: bool
    cancel_requested: bool
    cancel_requested_at: float | None
    failure_code: FailureCode | None
    exit_code: int | None
    signal: int | None


class Compatibility(Answer, frozen=True, kw_only=True):
    """What was learned about models and backends."""

    total: int
    rows: list[CompatibilityRow]
    summary: dict[str, dict[str, Any]] | None


class Released(Answer, frozen=True, kw_only=True):
    """Models that may be loaded again."""

    success: Literal[True]
    released: list[str]


class PrefixesCleared(Answer, frozen=True, kw_only=True):
    """Computed prompts that are not on the disk any more."""

    success: Literal[True]
    freed_bytes: int


class MemoryOut(Answer, frozen=True, kw_only=True):
    """The machine's memory."""

    total_gb: float | None
    used_gb: float | None
    available_gb: float | None
    usage_percent: float
    threshold_percent: float


class FiguresOut(Answer, frozen=True, kw_only=True):
    """What one model does right now; times of the last five minutes."""

    state: WorkerState
    running_requests: int
    waiting_requests: int
    concurrent_limit: int
    tokens_per_second: float
    prefill_tokens_per_second: float
    ttft_p50_sec: float | None
    ttft_p95_sec: float | None
    queue_wait_p50_sec: float | None
    queue_wait_p95_sec: float | None
    memory_gb: float | None
    peak_gb: float | None
    reserved_gb: float | None
    restarts: int


class StatusOut(Answer, frozen=True, kw_only=True):
    """The service as a whole."""

    version: str
    uptime_seconds: float
    startup_complete: bool
    safe_mode: bool
    crash_loop_detected: bool
    startup_count: int
    draining: bool
    loaded_models: int
    models: list[str]
    per_model: dict[str, FiguresOut]
    memory: MemoryOut
    in_flight_requests: int
    waiting_requests: int
    max_concurrent_requests: int
    concurrent_limit: int
    lanes: dict[str, LaneView]


class HealthOut(Answer, frozen=True, kw_only=True):
    """The service in one word."""

    status: Literal["ok", "degraded"]
    version: str
    reason: str | None
    memory_usage_percent: float
    metal: None
    helpers: dict[str, Any]
    models_loaded: int
    in_flight_requests: int


class Crashes(Answer, frozen=True, kw_only=True):
    """The newest deaths first."""

    crashes: list[CrashHeadline]
    count: int


class Reloaded(Answer, frozen=True, kw_only=True):
    """What a reload of the configuration changed."""

    success: Literal[True]
    updated: list[str]
    ignored: list[str]
