"""What discovery, the measurements, the diagnostics and the logs answer, as structs for the OpenAPI document."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from lmx_protocol.states import Readiness
from lmx_supervisor.gateway.openapi.inference_answers import Answer


class OutputQuery(Struct, frozen=True, kw_only=True):
    """How a worker's output is read."""

    follow: Literal["true", "false"] | UnsetType = UNSET
    last_event_id: str | UnsetType = UNSET


class Continuity(Answer, frozen=True, kw_only=True):
    """What a client can take up again."""

    event_resume_supported: bool


class NeededKeys(Answer, frozen=True, kw_only=True):
    """Which keys have to be sent."""

    admin_key_required: bool
    inference_key_required: bool
    supabase_jwt_enabled: bool


class Endpoints(Answer, frozen=True, kw_only=True):
    """Where the interfaces are, the best place first."""

    preferred_base_url: str
    base_urls: list[str]
    openai_base_url: str
    admin_base_url: str
    websocket_url: str | None


class HardwareSummary(Answer, frozen=True, kw_only=True):
    """The machine in short."""

    chip: str | None
    memory_gb: float | None
    metal: bool


class DiscoveryOut(Answer, frozen=True, kw_only=True):
    """What a client has to know before it has a key."""

    schema_version: str
    instance_id: str
    continuity: Continuity
    service: Literal["opta-lmx"]
    version: str
    security_profile: str
    ready: bool
    loaded_models: list[str]
    loaded_model_count: int
    in_flight_requests: int
    auth: NeededKeys
    endpoints: Endpoints
    client_probe_order: list[str]
    hardware_summary: HardwareSummary


class RequestCounts(Answer, frozen=True, kw_only=True):
    """Requests since the start, and how many ended per second over the last minute."""

    total: int
    errors: int
    stream_total: int
    throughput_1m: float


class TokenCounts(Answer, frozen=True, kw_only=True):
    """Tokens since the start."""

    prompt_total: int
    completion_total: int


class MeasuredModel(Answer, frozen=True, kw_only=True):
    """One model's requests since the start, and its last minutes."""

    requests: int
    errors: int
    completion_tokens: int
    queue_wait_sec: float | None
    ttft_sec: float | None
    error_rate: float | None
    tokens_per_second: float | None


class MeasuredClient(Answer, frozen=True, kw_only=True):
    """One client's requests since the start."""

    requests: int
    errors: int
    tokens: int


class MetricsOut(Answer, frozen=True, kw_only=True):
    """What is measured of requests."""

    schema_version: str
    uptime_seconds: float
    total_requests: int
    total_errors: int
    total_stream_requests: int
    total_prompt_tokens: int
    total_completion_tokens: int
    latency_p95_sec: float | None
    requests: RequestCounts
    tokens: TokenCounts
    speculative: dict[str, int | None]
    per_model: dict[str, MeasuredModel]
    per_client: dict[str, MeasuredClient]


class DiagnosedModel(Answer, frozen=True, kw_only=True):
    """One model's slot."""

    id: str
    readiness: Readiness
    loaded_at: float | None
    requests_total: int
    backend_type: str
    memory_gb: float | None


class Diagnosed(Answer, frozen=True, kw_only=True):
    """The models."""

    loaded_count: int
    quarantined_count: int
    models: list[DiagnosedModel]


class DiagnosedRequests(Answer, frozen=True, kw_only=True):
    """The requests; rates and means over the last minutes."""

    total_requests: int
    active_requests: int
    avg_latency_ms: float | None
    error_rate_pct: float | None
    tokens_generated: int
    total_tokens_processed: int


class RecentErrorOut(Answer, frozen=True, kw_only=True):
    """Something that went wrong lately."""

    timestamp: float
    type: str
    model_id: str | None
    code: str | None
    message: str


class DiagnosticsOut(Answer, frozen=True, kw_only=True):
    """The service for a report of trouble."""

    timestamp: float
    version: str
    health_verdict: Literal["healthy", "degraded", "critical"]
    system: dict[str, Any]
    models: Diagnosed
    inference: DiagnosedRequests
    agents: dict[str, int]
    recent_errors: list[RecentErrorOut]
