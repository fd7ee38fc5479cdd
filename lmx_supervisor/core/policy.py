"""The numbers the core decides by, taken from the configuration in one place so that a reload is one assignment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmx_protocol import limits
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.model_patterns import is_one_of


@dataclass(frozen=True, slots=True)
class Policy:
    """Bounds and delays, all in seconds, bytes or counts. Field by field: `config.schema`."""

    hello_seconds: float = limits.SPAWN_HELLO_SECONDS
    load_stall_seconds: float = limits.LOAD_STALL_SECONDS
    load_total_seconds: float = limits.LOAD_TOTAL_SECONDS
    canary_seconds: float = limits.CANARY_SECONDS
    beat_suspect_seconds: float = limits.BEAT_SUSPECT_SECONDS
    beat_dead_seconds: float = limits.BEAT_DEAD_SECONDS
    progress_stall_seconds: float = limits.PROGRESS_STALL_SECONDS
    hang_abort_grace_seconds: float = limits.HANG_ABORT_GRACE_SECONDS
    stop_grace_seconds: float = limits.STOP_GRACE_SECONDS
    kill_wait_seconds: float = limits.KILL_WAIT_SECONDS
    drain_seconds: float = limits.DRAIN_SECONDS
    restart_initial_seconds: float = limits.RESTART_INITIAL_SECONDS
    restart_factor: float = limits.RESTART_FACTOR
    restart_max_seconds: float = limits.RESTART_MAX_SECONDS
    restart_jitter_ratio: float = limits.RESTART_JITTER_RATIO
    restart_stable_seconds: float = limits.RESTART_STABLE_SECONDS
    restart_window_seconds: float = limits.RESTART_WINDOW_SECONDS
    restart_max_in_window: int = limits.RESTART_MAX_IN_WINDOW
    quarantine_threshold: int = limits.QUARANTINE_THRESHOLD
    worker_memory_bytes_max: int | None = None
    memory_max_percent: float = limits.MEMORY_THRESHOLD_PERCENT
    load_shedding_percent: float = limits.LOAD_SHEDDING_PERCENT
    auto_evict_lru: bool = True
    ttl_enabled: bool = False
    ttl_seconds: float = limits.IDLE_TTL_SECONDS
    ttl_check_interval_seconds: float = limits.IDLE_CHECK_SECONDS
    queue_per_model: int = limits.QUEUE_PER_MODEL
    queue_total: int = limits.QUEUE_TOTAL
    queue_wait_seconds: float = limits.QUEUE_WAIT_SECONDS
    answer_seconds: float | None = limits.ANSWER_SECONDS
    max_concurrent_requests: int = limits.CONCURRENT_REQUESTS
    per_model_concurrency_limits: Mapping[str, int] = field(default_factory=dict)
    per_client_default_concurrency: int | None = None
    per_client_concurrency_overrides: Mapping[str, int] = field(default_factory=dict)
    adaptive_concurrency_enabled: bool = True
    adaptive_latency_target_seconds: float = limits.ADAPTIVE_LATENCY_TARGET_MILLISECONDS / 1000
    adaptive_latency_window: int = limits.ADAPTIVE_LATENCY_WINDOW
    adaptive_min_concurrent_requests: int = 1
    load_on_demand: bool = False
    on_demand_models: tuple[str, ...] = ("*",)
    least_residency_seconds: float = limits.LEAST_RESIDENCY_SECONDS
    warm_spare: bool = True
    warm_pool_enabled: bool = False
    prefetch_interval_seconds: float = limits.PREFETCH_INTERVAL_SECONDS
    warm_pool_size: int = limits.WARM_POOL_SIZE
    prefix_cache_bytes_max: int = 0

    def loads_on_demand(self, model_id: str) -> bool:
        """Whether a request is enough to have this model loaded."""
        return self.load_on_demand and is_one_of(self.on_demand_models, model_id)


def policy_of(config: Config) -> Policy:
    """The policy a configuration asks for."""
    supervision, models, memory = config.supervision, config.models, config.memory
    return Policy(
        hello_seconds=supervision.hello_seconds,
        load_stall_seconds=supervision.load_stall_seconds,
        load_total_seconds=supervision.load_total_seconds,
        canary_seconds=supervision.canary_seconds,
        beat_suspect_seconds=supervision.beat_suspect_seconds,
        beat_dead_seconds=supervision.beat_dead_seconds,
        progress_stall_seconds=supervision.progress_stall_seconds,
        hang_abort_grace_seconds=supervision.hang_abort_grace_seconds,
        stop_grace_seconds=supervision.stop_grace_seconds,
        kill_wait_seconds=supervision.kill_wait_seconds,
        drain_seconds=config.server.drain_seconds,
        restart_initial_seconds=supervision.restart_initial_seconds,
        restart_factor=supervision.restart_factor,
        restart_max_seconds=supervision.restart_max_seconds,
        restart_jitter_ratio=supervision.restart_jitter_ratio,
        restart_stable_seconds=supervision.restart_stable_seconds,
        restart_window_seconds=supervision.restart_window_seconds,
        restart_max_in_window=supervision.restart_max_in_window,
        quarantine_threshold=supervision.quarantine_threshold,
        worker_memory_bytes_max=supervision.worker_memory_bytes_max,
        memory_max_percent=memory.max_memory_percent,
        load_shedding_percent=memory.load_shedding_percent,
        auto_evict_lru=memory.auto_evict_lru,
        ttl_enabled=memory.ttl_enabled,
        ttl_seconds=memory.ttl_seconds,
        ttl_check_interval_seconds=memory.ttl_check_interval_sec,
        queue_per_model=models.queue_per_model,
        queue_total=models.queue_total,
        queue_wait_seconds=models.semaphore_timeout_sec,
        answer_seconds=models.inference_timeout_sec,
        max_concurrent_requests=models.max_concurrent_requests,
        per_model_concurrency_limits=models.per_model_concurrency_limits,
        per_client_default_concurrency=models.per_client_default_concurrency,
        per_client_concurrency_overrides=models.per_client_concurrency_overrides,
        adaptive_concurrency_enabled=models.adaptive_concurrency_enabled,
        adaptive_latency_target_seconds=models.adaptive_latency_target_ms / 1000,
        adaptive_latency_window=models.adaptive_latency_window,
        adaptive_min_concurrent_requests=models.adaptive_min_concurrent_requests,
        load_on_demand=models.load_on_demand,
        on_demand_models=models.on_demand_models,
        least_residency_seconds=models.least_residency_sec,
        warm_spare=models.warm_spare,
        warm_pool_enabled=models.warm_pool_enabled,
        prefetch_interval_seconds=models.prefetch_interval_sec,
        warm_pool_size=models.warm_pool_size,
        prefix_cache_bytes_max=models.prefix_cache_disk_bytes_max if models.prefix_cache_enabled else 0,
    )
