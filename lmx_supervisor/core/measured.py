"""What was measured of requests, as readers see it: counts since the start, and how the last minutes were."""

import msgspec


class RequestTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start."""

    requests: int = 0
    errors: int = 0
    """Failed through no mistake of the client's."""
    completion_tokens: int = 0


class RecentOfModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model's last minutes; None where nothing happened in them."""

    queue_wait_p50_seconds: float | None = None
    queue_wait_p95_seconds: float | None = None
    first_token_p50_seconds: float | None = None
    """From arrival to the first text."""
    first_token_p95_seconds: float | None = None
    error_ratio: float | None = None
    tokens_per_second: float | None = None


class RecentRequests(msgspec.Struct, frozen=True, kw_only=True):
    """The last minutes of all models; None where nothing happened in them."""

    latency_p95_seconds: float | None = None
    latency_mean_seconds: float | None = None
    error_ratio: float | None = None
    ended_per_second: float = 0.0
    """Over the last minute."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of that; models and clients by the labels they have in the metrics."""

    total: RequestTotals = RequestTotals()
    stream_requests: int = 0
    prompt_tokens: int = 0
    recent: RecentRequests = RecentRequests()
    models: dict[str, RequestTotals] = {}
    recent_of_models: dict[str, RecentOfModel] = {}
    clients: dict[str, RequestTotals] = {}


class RecentError(msgspec.Struct, frozen=True, kw_only=True):
    """Something that went wrong lately, in an operator's words."""

    at_unix_seconds: float
    kind: str
    """The event that told of it."""
    model_id: str | None
    code: str | None
    """A machine's word for why, where there is one."""
    text: str
