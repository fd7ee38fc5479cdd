"""Every configuration key that exists, with its type, default and bounds. The only place that says so.

A key is added here when the feature behind it works; until then it is unknown, and an unknown key stops the start. Field
docstrings are the comments of `lmx config init`. Units are part of the names; names the predecessor's operators know (`*_sec`)
keep theirs.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lmx_protocol import limits

Port = Annotated[int, Meta(ge=0, le=65535)]
Slots = Annotated[int, Meta(ge=1, le=64)]
Positive = Annotated[float, Meta(gt=0, le=86400)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a configuration section."""


class ServerConfig(Section, frozen=True, kw_only=True):
    """Where and how the service listens."""

    host: str = "127.0.0.1"
    port: Port = 1234
    """0 takes a free port; the log and `<home>/server.json` say which."""
    connections_max: Annotated[int, Meta(ge=1, le=65536)] = limits.HTTP_CONNECTIONS_MAX
    body_bytes_max: Annotated[int, Meta(ge=1024, le=256 * 1024**2)] = limits.BODY_BYTES_MAX
    body_seconds: Positive = limits.BODY_SECONDS
    drain_seconds: Positive = limits.DRAIN_SECONDS
    slow_client_seconds: Positive = limits.SLOW_CLIENT_SECONDS
    stream_keep_alive_seconds: Positive = limits.STREAM_KEEP_ALIVE_SECONDS


class ModelsConfig(Section, frozen=True, kw_only=True):
    """Which models are served, and how."""

    default_model: str | None = None
    models_directory: str | None = None
    """Default: `models` in the home."""
    auto_load: tuple[str, ...] = ()
    """Model ids loaded at start."""
    paths: dict[str, str] = {}
    """Further models: id → file or directory."""
    context_length: Annotated[int, Meta(ge=512, le=1_048_576)] = 4096
    """Tokens per sequence, unless a load says otherwise; never more than the model was trained for."""
    slots: Slots = 8
    """Sequences a worker decodes together."""
    prefill_chunk_tokens: Annotated[int, Meta(ge=16, le=8192)] = 256
    gpu_layers: Annotated[int, Meta(ge=-1)] = -1
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads per worker; 0: one per core."""
    warm_spare: bool = True
    """Keep one pre-imported worker per backend in use, so that a load or restart pays for the weights only."""
    queue_per_model: Annotated[int, Meta(ge=0, le=100_000)] = limits.QUEUE_PER_MODEL
    queue_total: Annotated[int, Meta(ge=0, le=100_000)] = limits.QUEUE_TOTAL
    queue_wait_seconds: Positive = limits.QUEUE_WAIT_SECONDS


class SupervisionConfig(Section, frozen=True, kw_only=True):
    """When a worker counts as late, hung or broken, and what follows."""

    hello_seconds: Positive = limits.SPAWN_HELLO_SECONDS
    load_stall_seconds: Positive = limits.LOAD_STALL_SECONDS
    load_total_seconds: Positive = limits.LOAD_TOTAL_SECONDS
    canary_seconds: Positive = limits.CANARY_SECONDS
    beat_interval_seconds: Positive = limits.BEAT_INTERVAL_SECONDS
    beat_suspect_seconds: Positive = limits.BEAT_SUSPECT_SECONDS
    beat_dead_seconds: Positive = limits.BEAT_DEAD_SECONDS
    progress_stall_seconds: Positive = limits.PROGRESS_STALL_SECONDS
    c_watchdog_seconds: Positive = limits.C_WATCHDOG_SECONDS
    hang_abort_grace_seconds: Positive = limits.HANG_ABORT_GRACE_SECONDS
    stop_grace_seconds: Positive = limits.STOP_GRACE_SECONDS
    kill_wait_seconds: Positive = limits.KILL_WAIT_SECONDS
    restart_initial_seconds: Positive = limits.RESTART_INITIAL_SECONDS
    restart_factor: Annotated[float, Meta(ge=1, le=100)] = limits.RESTART_FACTOR
    restart_max_seconds: Positive = limits.RESTART_MAX_SECONDS
    restart_jitter_ratio: Annotated[float, Meta(ge=0, le=1)] = limits.RESTART_JITTER_RATIO
    restart_stable_seconds: Positive = limits.RESTART_STABLE_SECONDS
    restart_window_seconds: Positive = limits.RESTART_WINDOW_SECONDS
    restart_max_in_window: Annotated[int, Meta(ge=1, le=1000)] = limits.RESTART_MAX_IN_WINDOW
    quarantine_threshold: Annotated[int, Meta(ge=1, le=1000)] = limits.QUARANTINE_THRESHOLD


class LoggingConfig(Section, frozen=True, kw_only=True):
    """What is logged, how and where."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["structured", "text"] = "structured"
    file: str | None = None
    max_file_bytes: Annotated[int, Meta(ge=65536)] = 52_428_800
    backup_count: Annotated[int, Meta(ge=0, le=20)] = 5


class SecurityConfig(Section, frozen=True, kw_only=True):
    """Who may do what. A key that is null leaves its half open."""

    admin_key: str | None = None
    inference_api_key: str | None = None
    profile: Literal["lan", "cloud"] = "lan"
    """`cloud` refuses to start without both keys."""


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    models: ModelsConfig = ModelsConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    logging: LoggingConfig = LoggingConfig()
    security: SecurityConfig = SecurityConfig()


def models_directory(config: Config, home: Path) -> Path:
    """Where models are looked for: the configured directory (`~` expanded), else `<home>/models`."""
    configured = config.models.models_directory
    return Path(configured).expanduser() if configured else home / "models"
