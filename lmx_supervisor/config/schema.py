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
Concurrency = Annotated[int, Meta(ge=1, le=limits.CONCURRENT_REQUESTS_MAX)]
Positive = Annotated[float, Meta(gt=0, le=86400)]
BackendChoice = Literal["llamacpp", "mlx", "scripted", "gguf", "mlx-lm", "vllm-mlx"]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Label = Annotated[str, Meta(max_length=1024)]
Alias = Annotated[str, Meta(min_length=1, max_length=limits.ALIAS_CHARACTERS_MAX)]
AliasModels = Annotated[tuple[Text, ...], Meta(max_length=limits.ALIAS_MODELS_MAX)]
OnDemandModels = Annotated[tuple[Text, ...], Meta(max_length=limits.ON_DEMAND_MODELS_MAX)]
Aliases = Annotated[dict[Alias, AliasModels], Meta(max_length=limits.ALIASES_MAX)]
# Only what fits into an HTTP header: a key with a space or an umlaut could never be sent, and an empty one protects nothing.
KEY_PATTERN = r"^[!-~]+\Z"
DIGEST_PATTERN = r"^[0-9a-f]{64}\Z"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"
Secret = Annotated[str, Meta(min_length=1, max_length=512, pattern=KEY_PATTERN)]
# Shown nowhere either: who knows it can try out likely keys.
SecretDigest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
KeyName = Annotated[str, Meta(max_length=64, pattern=NAME_PATTERN)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a configuration section."""


class ServerConfig(Section, frozen=True, kw_only=True):
    """Where and how the service listens."""

    host: Text = "127.0.0.1"
    """Address to listen on; set both keys before choosing one that other machines can reach."""
    port: Port = 1234
    """0 takes a free port; the log and `<home>/server.json` say which."""
    allowed_hosts: tuple[Text, ...] = ()
    """On the loopback: further host names this service goes by, and sites whose pages may use it; names only, without port."""
    connections_max: Annotated[int, Meta(ge=1, le=65536)] = limits.HTTP_CONNECTIONS_MAX
    """Open connections at one time; fewer where the limit of open files does not allow them."""
    body_bytes_max: Annotated[int, Meta(ge=1024, le=256 * 1024**2)] = limits.BODY_BYTES_MAX
    """Largest request body."""
    held_bodies_bytes_max: Annotated[int, Meta(ge=1024, le=64 * 1024**3)] = limits.HELD_BODIES_BYTES_MAX
    """What the bodies of all requests under way may take together."""
    body_seconds: Positive = limits.BODY_SECONDS
    """How long a client may take to send its body."""
    drain_seconds: Positive = limits.DRAIN_SECONDS
    """How long running requests may go on after the service was told to stop."""
    slow_client_seconds: Positive = limits.SLOW_CLIENT_SECONDS
    """A client that reads nothing for this long loses its request."""
    stream_keep_alive_seconds: Positive = limits.STREAM_KEEP_ALIVE_SECONDS
    """A stream in which nothing flows sends a sign of life this often."""
    websocket_enabled: bool = True
    """Whether chats may come over a WebSocket; sockets that are open stay so."""
    sse_events_enabled: bool = True
    """Whether GET /admin/events may be followed."""
    sse_heartbeat_interval_sec: Annotated[int, Meta(ge=1, le=3600)] = limits.EVENT_HEARTBEAT_SECONDS
    """How often GET /admin/events sends a heartbeat."""


class ModelsConfig(Section, frozen=True, kw_only=True):
    """Which models are served, and how."""

    default_model: Text | None = None
    """The model of a request that names none: an id, an alias, `auto` or `preset:NAME`."""
    models_directory: Text | None = None
    """Default: `models` in the home."""
    auto_load: tuple[Text, ...] = ()
    """Model ids loaded at start."""
    paths: dict[Text, Text] = {}
    """Further models: id → file or directory."""
    context_length: Annotated[int, Meta(ge=512, le=1_048_576)] = 4096
    """Tokens per sequence, unless a load says otherwise; never more than the model was trained for."""
    slots: Slots = 4
    """Sequences a worker decodes together."""
    prefill_chunk_tokens: Annotated[int, Meta(ge=16, le=8192)] = 256
    """Prompt tokens computed per step, beside the running streams: more is faster to the first token, less is smoother."""
    gpu_layers: Annotated[int, Meta(ge=-1)] = -1
    """Layers on the GPU (llama.cpp); -1: all of them."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads per worker; 0: one per core."""
    backend_preference_order: tuple[BackendChoice, ...] | None = None
    """Backends to try first, where several can serve a model's format; null: as LMX ranks them."""
    warm_spare: bool = True
    """Keep one pre-imported worker per backend in use, so that a load or restart pays for the weights only."""
    warm_pool_enabled: bool = False
    """Load the model that is likely to be wanted next before anybody asks, where it fits without another one leaving."""
    prefetch_interval_sec: Annotated[int, Meta(ge=30, le=86400)] = limits.PREFETCH_INTERVAL_SECONDS
    """How often that is looked at."""
    warm_pool_size: Annotated[int, Meta(ge=1, le=10)] = limits.WARM_POOL_SIZE
    """Models loaded so that nobody has used yet, at most."""
    prefix_cache_enabled: bool = True
    """Keep computed prompts on the disk when a model is stopped in order, and read them back when it is loaded again.
    Off: none are kept, and those there are get deleted."""
    prefix_cache_disk_bytes_max: Annotated[int, Meta(ge=0, le=2**50)] = limits.PREFIX_CACHE_DISK_BYTES
    """What they may take on the disk, those of all models together; the least recently used go first."""
    load_on_demand: bool = False
    """Load a model of this machine when a request asks for it, and have the request wait; nothing is downloaded for it."""
    on_demand_models: OnDemandModels = ("*",)
    """Which models that may be: ids, in which `*` stands for anything."""
    least_residency_sec: Annotated[float, Meta(ge=0, le=86400)] = limits.LEAST_RESIDENCY_SECONDS
    """How long a model serves at least before it makes room for one that is loaded on demand."""
    queue_per_model: Annotated[int, Meta(ge=0, le=100_000)] = limits.QUEUE_PER_MODEL
    """Requests that may wait for one model."""
    queue_total: Annotated[int, Meta(ge=0, le=100_000)] = limits.QUEUE_TOTAL
    """Requests that may wait altogether."""
    semaphore_timeout_sec: Positive = limits.QUEUE_WAIT_SECONDS
    """How long a request may wait, for a place or for its model, before it is refused."""
    inference_timeout_sec: Positive | None = limits.ANSWER_SECONDS
    """How long an answer may take from when a worker gets its request, unless its client's own limit is over sooner.
    null: as long as its client waits."""
    max_concurrent_requests: Concurrency = limits.CONCURRENT_REQUESTS
    """Requests that may run at once, on all models together."""
    per_model_concurrency_limits: dict[Text, Concurrency] = {}
    """Model id → requests that may run on it at once, where that is to be fewer than its worker's slots."""
    per_client_default_concurrency: Concurrency | None = None
    """Requests of one client that may run at once; null: as many as there are places."""
    per_client_concurrency_overrides: dict[Text, Concurrency] = {}
    """Client (`X-Client-ID`, else its address) → the same for that one."""
    adaptive_concurrency_enabled: bool = True
    """Run fewer requests at once on a model whose answers begin late, and on all of them while memory is short."""
    adaptive_latency_target_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = limits.ADAPTIVE_LATENCY_TARGET_MILLISECONDS
    """The first text of 95 % of answers comes this soon after their worker got them, per 512 tokens of prompt computed."""
    adaptive_latency_window: Annotated[int, Meta(ge=8, le=10_000)] = limits.ADAPTIVE_LATENCY_WINDOW
    """Answers that this is judged by."""
    adaptive_min_concurrent_requests: Concurrency = 1
    """On one model, never fewer than this."""


class SupervisionConfig(Section, frozen=True, kw_only=True):
    """When a worker counts as late, hung or broken, and what follows."""

    hello_seconds: Positive = limits.SPAWN_HELLO_SECONDS
    """From the start of a worker to its first message."""
    load_stall_seconds: Positive = limits.LOAD_STALL_SECONDS
    """A load without progress for this long is ended."""
    load_total_seconds: Positive = limits.LOAD_TOTAL_SECONDS
    """Longest load."""
    canary_seconds: Positive = limits.CANARY_SECONDS
    """Longest first generation after a load; only a model that passed it is served."""
    beat_interval_seconds: Positive = limits.BEAT_INTERVAL_SECONDS
    """How often a worker says that it is alive."""
    beat_suspect_seconds: Positive = limits.BEAT_SUSPECT_SECONDS
    """A worker silent for this long is shown as suspect."""
    beat_dead_seconds: Positive = limits.BEAT_DEAD_SECONDS
    """A worker silent for this long is killed and restarted."""
    progress_stall_seconds: Positive = limits.PROGRESS_STALL_SECONDS
    """A worker that beats but computes nothing for this long, with work at hand, is killed and restarted."""
    c_watchdog_seconds: Positive = limits.C_WATCHDOG_SECONDS
    """A worker whose own heartbeat stops for this long ends itself."""
    hang_abort_grace_seconds: Positive = limits.HANG_ABORT_GRACE_SECONDS
    """Time for a hung worker to write its stacks, before it is killed."""
    stop_grace_seconds: Positive = limits.STOP_GRACE_SECONDS
    """Time for a worker to stop in order, before it is killed."""
    kill_wait_seconds: Positive = limits.KILL_WAIT_SECONDS
    """Time for the system to remove a killed worker, before that is reported."""
    restart_initial_seconds: Positive = limits.RESTART_INITIAL_SECONDS
    """Wait before the second restart in a row; the first is at once."""
    restart_factor: Annotated[float, Meta(ge=1, le=100)] = limits.RESTART_FACTOR
    """Each further wait is this many times the one before."""
    restart_max_seconds: Positive = limits.RESTART_MAX_SECONDS
    """Longest wait between restarts."""
    restart_jitter_ratio: Annotated[float, Meta(ge=0, le=1)] = limits.RESTART_JITTER_RATIO
    """Random share of each wait, so that several workers do not restart together."""
    restart_stable_seconds: Positive = limits.RESTART_STABLE_SECONDS
    """A worker that served for this long starts again from the shortest wait."""
    restart_window_seconds: Positive = limits.RESTART_WINDOW_SECONDS
    """The time over which restarts are counted."""
    restart_max_in_window: Annotated[int, Meta(ge=1, le=1000)] = limits.RESTART_MAX_IN_WINDOW
    """More restarts than this in the window and the model stays down."""
    quarantine_threshold: Annotated[int, Meta(ge=1, le=1000)] = limits.QUARANTINE_THRESHOLD
    """Failures in a row after which a model is not routed to any more."""
    worker_memory_bytes_max: Annotated[int, Meta(ge=64 * 1024**2, le=2**50)] | None = None
    """Memory one worker may cost: at 85 % it gets no new requests, at 95 % it is replaced in order, at 100 % at once.
    null: no bound."""


class MemoryConfig(Section, frozen=True, kw_only=True):
    """How much of this host's memory may be used, and what gives way."""

    max_memory_percent: Annotated[int, Meta(ge=50, le=99)] = limits.MEMORY_THRESHOLD_PERCENT
    """A load that would bring the host (or its cgroup) above this share of its memory is refused."""
    auto_evict_lru: bool = True
    """Unload idle models, the least recently used first, for a load that would not fit otherwise; never one that is pinned."""
    ttl_enabled: bool = False
    """Unload models that have been idle for `ttl_seconds`; a load's own `keep_alive_sec` goes before, and counts always."""
    ttl_seconds: Annotated[int, Meta(ge=60, le=limits.KEEP_ALIVE_SECONDS_MAX)] = limits.IDLE_TTL_SECONDS
    """How long a model may be idle, from the end of its last request."""
    ttl_check_interval_sec: Annotated[int, Meta(ge=10, le=86400)] = limits.IDLE_CHECK_SECONDS
    """How often that is looked at."""
    load_shedding_percent: Annotated[float, Meta(ge=50, le=99.9)] = limits.LOAD_SHEDDING_PERCENT
    """Above this share of memory in use, requests are refused until it is less; what relieves the pressure is let in."""


class DownloadsConfig(Section, frozen=True, kw_only=True):
    """How models are fetched from the hub; whether they are is `security.downloads_enabled`."""

    at_once: Annotated[int, Meta(ge=1, le=16)] = limits.DOWNLOADS_AT_ONCE
    """Downloads that run at the same time; others wait."""
    disk_reserve_bytes: Annotated[int, Meta(ge=0, le=2**50)] = limits.DOWNLOAD_DISK_RESERVE_BYTES
    """What a download has to leave free on the disk."""
    stall_seconds: Positive = limits.DOWNLOAD_STALL_SECONDS
    """A connection that brings nothing for this long is given up and tried again."""
    attempts_max: Annotated[int, Meta(ge=1, le=1000)] = limits.DOWNLOAD_ATTEMPTS_MAX
    """Attempts in a row that may fail without progress, before the download fails."""
    retry_initial_seconds: Positive = limits.DOWNLOAD_RETRY_INITIAL_SECONDS
    """Wait before the second attempt; each further wait is twice the one before."""
    retry_max_seconds: Positive = limits.DOWNLOAD_RETRY_MAX_SECONDS
    """Longest wait between attempts."""


class RoutingConfig(Section, frozen=True, kw_only=True):
    """Which names a request may use for a model, beside its id."""

    aliases: Aliases = msgspec.field(default_factory=lambda: {"code": (), "reasoning": (), "chat": ()})
    """Alias → ids of models: a request for the alias goes to the first of them that is served."""
    default_model: Text | None = None
    """What `auto` means while it is served; else, the first of all served models by their ids."""


class PresetsConfig(Section, frozen=True, kw_only=True):
    """Names for a model together with how it is asked and loaded, each in a file of its own."""

    directory: Text | None = None
    """Where their `NAME.yaml` files are. Default: `presets` in the home."""
    enabled: bool = True
    """Whether there are any."""


class DeviceConfig(Section, frozen=True, kw_only=True):
    """What this machine is called and what it is for, in GET /admin/device; nothing depends on it."""

    name: Label = ""
    """Empty: the host's name."""
    purpose: Label = ""
    """In your own words."""
    role: Label = "inference_server"
    """In one word."""


class QuantizeConfig(Section, frozen=True, kw_only=True):
    """How quantized copies are made."""

    timeout_sec: Annotated[int, Meta(ge=10, le=86400)] = limits.QUANTIZE_SECONDS
    """A job that is not done by then is ended."""


class LoggingConfig(Section, frozen=True, kw_only=True):
    """What is logged, how and where."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    format: Literal["structured", "text"] = "structured"
    """`structured`: one JSON object a line; `text`: for reading."""
    file: Text | None = None
    """Also log to this file."""
    max_file_bytes: Annotated[int, Meta(ge=65536)] = 52_428_800
    """The file is rotated at this size."""
    backup_count: Annotated[int, Meta(ge=0, le=20)] = 5
    """Rotated files to keep."""


class JournalingConfig(Section, frozen=True, kw_only=True):
    """What is written down about each run of the service: a page to read, every event as a line, a page per change."""

    enabled: bool = False
    """Whether anything is."""
    session_logs_dir: Text | None = None
    """Default: `session-logs` in the home. The events lie there too."""
    update_logs_dir: Text | None = None
    """Default: `update-logs` in the home."""
    event_jsonl_enabled: bool = True
    """Whether every event is appended as a line of JSON."""
    author: Text | None = None
    """Who the pages name as their author; default: the user that the service runs as."""
    timezone: Text = "UTC"
    """Of the times in the journals: UTC, or a place such as Europe/Berlin."""
    retention_days: Annotated[int, Meta(ge=1, le=36_500)] = limits.JOURNAL_RETENTION_DAYS
    """What was written before is deleted."""
    max_session_logs: Annotated[int, Meta(ge=1, le=100_000)] = limits.JOURNAL_SESSION_LOGS_MAX
    """Session logs to keep, and as many files of events."""


class NamedKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One inference key of several: written as one of `key`, `key_sha256` and `key_file`, with what it may do."""

    key: Secret | None = None
    key_sha256: SecretDigest | None = None
    key_file: Text | None = None
    models: tuple[Text, ...] | None = None
    """Ids it may use, `*` standing for anything; null: all."""
    requests_per_minute: Annotated[int, Meta(ge=1, le=limits.RATE_LIMIT_AMOUNT_MAX)] | None = None
    """In place of `security.rate_limit`."""
    concurrent_max: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Requests that run at one time; more of them wait."""


class RateLimitConfig(Section, frozen=True, kw_only=True):
    """How often a key (or an address, where no key is needed) may ask below /v1."""

    enabled: bool = False
    """Whether requests are limited; keys with `requests_per_minute` of their own always are."""
    default_limit: Text = "60/minute"
    """For each key or address: requests per second, minute, hour or day; several limits are separated by `;`."""
    chat_completions_limit: Text | None = None
    """In its place for conversations, in every dialect."""
    embeddings_limit: Text | None = None
    """In its place for /v1/embeddings."""


class SecurityConfig(Section, frozen=True, kw_only=True):
    """Who may do what (docs/security.md). A key that is null leaves its half open."""

    admin_key: Secret | None = None
    """Opens /admin, and /v1 too."""
    inference_api_key: Secret | None = None
    """Opens /v1."""
    inference_keys: dict[KeyName, NamedKey] = {}
    """Further keys to /v1 by name, each with its own models and limits."""
    downloads_enabled: bool = False
    """Whether models may be fetched from the hub."""
    profile: Literal["lan", "cloud"] = "lan"
    """`cloud` refuses to start unless /admin and /v1 both need a key."""
    cors_allowed_origins: tuple[Text, ...] = ()
    """Sites whose pages may use the service, as `https://host:port`, or `*`. Empty: all in the lan profile off the loopback."""
    honor_x_forwarded_for: bool = False
    """Believe `trusted_proxies` about a client's address; for limits and logs, never for keys."""
    trusted_proxies: tuple[Text, ...] = ()
    """Addresses and networks of reverse proxies."""
    rate_limit: RateLimitConfig = RateLimitConfig()
    supabase_jwt_enabled: bool = False
    """Accept signed tokens (JWT) below /v1 as well as keys."""
    supabase_jwt_require: bool = False
    """Accept nothing else there, but for the admin key."""
    supabase_jwt_issuer: str = ""
    """What `iss` must be."""
    supabase_jwt_audience: str = ""
    """What `aud` must be or contain."""
    supabase_jwt_jwks_url: str = ""
    """Where the public keys are: an https address (http on the loopback), a file:// address, or a path."""
    supabase_jwt_claim_user_id: Text = "sub"
    """The claim that says who the caller is, for metrics and limits."""


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    models: ModelsConfig = ModelsConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    memory: MemoryConfig = MemoryConfig()
    downloads: DownloadsConfig = DownloadsConfig()
    routing: RoutingConfig = RoutingConfig()
    presets: PresetsConfig = PresetsConfig()
    device: DeviceConfig = DeviceConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    logging: LoggingConfig = LoggingConfig()
    journaling: JournalingConfig = JournalingConfig()
    security: SecurityConfig = SecurityConfig()


def models_directory(config: Config, home: Path) -> Path:
    """Where models are looked for: the configured directory (`~` expanded), else `<home>/models`."""
    configured = config.models.models_directory
    return Path(configured).expanduser() if configured else home / "models"


def presets_directory(config: Config, home: Path) -> Path:
    """Where presets are looked for: the configured directory (`~` expanded), else `<home>/presets`."""
    configured = config.presets.directory
    return Path(configured).expanduser() if configured else home / "presets"


def inference_needs_key(security: SecurityConfig) -> bool:
    """Whether /v1 is closed to those who offer neither a key nor a token."""
    return security.inference_api_key is not None or bool(security.inference_keys) or security.supabase_jwt_enabled
