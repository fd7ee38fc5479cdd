"""Which keys a reload applies to a running service, and what a newly read configuration changes. Pure.

A key is live when everything that uses it looks at the configuration in force each time. All others keep their value until the
next start: what the port, the log's outputs and the clockwork of running workers were made from cannot change under them.
"""

import msgspec

from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.load import LoadedConfig, config_of, values_of
from lmx_supervisor.config.rules import broken_rules

LIVE_KEYS = frozenset(
    {
        "server.allowed_hosts",
        "server.body_bytes_max",
        "server.held_bodies_bytes_max",
        "server.body_seconds",
        "server.drain_seconds",
        "server.slow_client_seconds",
        "server.stream_keep_alive_seconds",
        "server.websocket_enabled",
        "server.sse_events_enabled",
        "server.sse_heartbeat_interval_sec",
        "models.default_model",
        # How models are loaded: for the loads to come.
        "models.context_length",
        "models.slots",
        "models.prefill_chunk_tokens",
        "models.gpu_layers",
        "models.threads",
        "models.backend_preference_order",
        "models.warm_spare",
        "models.warm_pool_enabled",
        "models.prefetch_interval_sec",
        "models.warm_pool_size",
        # For the stops to come; what is on the disk is cut down at once.
        "models.prefix_cache_enabled",
        "models.prefix_cache_disk_bytes_max",
        "models.load_on_demand",
        "models.on_demand_models",
        "models.least_residency_sec",
        "models.queue_per_model",
        "models.queue_total",
        "models.semaphore_timeout_sec",
        # For answers under way, too.
        "models.inference_timeout_sec",
        "models.max_concurrent_requests",
        "models.per_model_concurrency_limits",
        "models.per_client_default_concurrency",
        "models.per_client_concurrency_overrides",
        "models.adaptive_concurrency_enabled",
        "models.adaptive_latency_target_ms",
        "models.adaptive_latency_window",
        "models.adaptive_min_concurrent_requests",
        "supervision.hello_seconds",
        "supervision.load_stall_seconds",
        "supervision.load_total_seconds",
        "supervision.canary_seconds",
        "supervision.beat_suspect_seconds",
        "supervision.beat_dead_seconds",
        "supervision.progress_stall_seconds",
        "supervision.hang_abort_grace_seconds",
        "supervision.stop_grace_seconds",
        "supervision.kill_wait_seconds",
        "supervision.restart_initial_seconds",
        "supervision.restart_factor",
        "supervision.restart_max_seconds",
        "supervision.restart_jitter_ratio",
        "supervision.restart_stable_seconds",
        "supervision.restart_window_seconds",
        "supervision.restart_max_in_window",
        "supervision.quarantine_threshold",
        "supervision.worker_memory_bytes_max",
        "memory.max_memory_percent",
        "memory.auto_evict_lru",
        "memory.ttl_enabled",
        "memory.ttl_seconds",
        "memory.ttl_check_interval_sec",
        "memory.load_shedding_percent",
        "downloads.at_once",
        # For the processes to come.
        "downloads.disk_reserve_bytes",
        "downloads.stall_seconds",
        "downloads.attempts_max",
        "downloads.retry_initial_seconds",
        "downloads.retry_max_seconds",
        "routing.aliases",
        "routing.default_model",
        "presets.directory",
        "presets.enabled",
        "device.name",
        "device.purpose",
        "device.role",
        "quantize.timeout_sec",
        "logging.level",
        "security.admin_key",
        "security.inference_api_key",
        "security.inference_keys",
        "security.downloads_enabled",
        "security.profile",
        "security.cors_allowed_origins",
        "security.honor_x_forwarded_for",
        "security.trusted_proxies",
        "security.rate_limit.enabled",
        "security.rate_limit.default_limit",
        "security.rate_limit.chat_completions_limit",
        "security.rate_limit.embeddings_limit",
        "security.supabase_jwt_enabled",
        "security.supabase_jwt_require",
        "security.supabase_jwt_issuer",
        "security.supabase_jwt_audience",
        "security.supabase_jwt_jwks_url",
        "security.supabase_jwt_claim_user_id",
    }
)


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload comes to. Keys are dotted, in the order of the schema."""

    loaded: LoadedConfig
    """To be in force from here on."""
    updated: tuple[str, ...]
    """Keys that have another value now."""
    ignored: tuple[str, ...]
    """Keys that were changed where they are written, and keep their value until the next start."""


def plan_reload(running: LoadedConfig, fresh: LoadedConfig) -> Reload:
    """What of `fresh` a service that runs on `running` takes over.

    Raises:
        ConfigError: the live keys clash with one that cannot change before the next start.
    """
    before, after = values_of(running.config), values_of(fresh.config)
    changed = [key for key in before if before[key] != after[key]]
    ignored = tuple(key for key in changed if key not in LIVE_KEYS)
    config = config_of({**after, **{key: before[key] for key in ignored}})
    for broken in broken_rules(config):
        reason = f"{broken.reason}; what clashes with it changes only with the next start"
        raise ConfigError(str(fresh.file), broken.key, reason)
    origins = {**fresh.origins, **{key: running.origins[key] for key in ignored}}
    loaded = msgspec.structs.replace(fresh, config=config, origins=origins)
    return Reload(loaded=loaded, updated=tuple(key for key in changed if key in LIVE_KEYS), ignored=ignored)
