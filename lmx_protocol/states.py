"""The states of a worker, what clients see of them, and why a generation ended."""

from enum import StrEnum


class WorkerState(StrEnum):
    """The life of one model's slot; the allowed moves are in `lmx_supervisor.core.slot`."""

    SPAWNING = "spawning"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPED = "stopped"
    CRASHED = "crashed"
    BACKOFF = "backoff"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class Readiness(StrEnum):
    """The runbook's public names for how far a model is from being routed to."""

    UNKNOWN = "unknown"
    ADMITTED = "admitted"
    LOADING = "loading"
    CANARY_PENDING = "canary_pending"
    ROUTABLE = "routable"
    QUARANTINED = "quarantined"


READINESS: dict[WorkerState, Readiness] = {
    WorkerState.SPAWNING: Readiness.ADMITTED,
    WorkerState.LOADING: Readiness.LOADING,
    WorkerState.WARMING: Readiness.CANARY_PENDING,
    WorkerState.READY: Readiness.ROUTABLE,
    WorkerState.BUSY: Readiness.ROUTABLE,
    WorkerState.DRAINING: Readiness.UNKNOWN,
    WorkerState.STOPPED: Readiness.UNKNOWN,
    WorkerState.CRASHED: Readiness.LOADING,
    WorkerState.BACKOFF: Readiness.LOADING,
    WorkerState.FAILED: Readiness.UNKNOWN,
    WorkerState.QUARANTINED: Readiness.QUARANTINED,
}


class WorkerPhase(StrEnum):
    """What a worker's engine is doing, as its heartbeat tells it; liveness rules differ by phase."""

    IMPORTING = "importing"
    IDLE = "idle"
    LOADING = "loading"
    GENERATING = "generating"
    STOPPING = "stopping"


class FinishReason(StrEnum):
    """Why a generation ended on its own."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class ToolMode(StrEnum):
    """Whether a model may, must or must not call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


class OutputKind(StrEnum):
    """What holds an answer's text to a form."""

    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"
    """A context-free grammar in llguidance's Lark form."""


class ModelTask(StrEnum):
    """What a loaded model can be asked for."""

    GENERATE = "generate"
    EMBED = "embed"
    RANK = "rank"


class RankMethod(StrEnum):
    """What scores of relevance are made of."""

    CROSS_ENCODER = "cross_encoder"
    """A model that reads query and document together."""
    COSINE = "cosine"
    """The angle between the vectors that an embedding model gives them."""


class ComputeSharing(StrEnum):
    """What a loaded model can be given less of, so that others on the same host compute beside it."""

    THREADS = "threads"
    """It computes on the processor, with as many threads as it is told."""
    TIME = "time"
    """It computes on what it cannot be given a part of; it can only rest between two pieces of a prompt."""
    NOTHING = "nothing"
    """It takes nothing worth sharing."""


class ModelFormat(StrEnum):
    """How a model lies on disk, which decides the backends that can serve it."""

    GGUF = "gguf"
    MLX = "mlx"
    SCRIPT = "script"


class BackendName(StrEnum):
    """The backends that ship with LMX."""

    LLAMACPP = "llamacpp"
    MLX = "mlx"
    SCRIPTED = "scripted"


BACKENDS_OF_FORMAT: dict[ModelFormat, tuple[BackendName, ...]] = {
    ModelFormat.GGUF: (BackendName.LLAMACPP,),
    ModelFormat.MLX: (BackendName.MLX,),
    ModelFormat.SCRIPT: (BackendName.SCRIPTED,),
}
"""The backends that can serve a format, the preferred one first."""

BACKEND_NAMES: dict[str, BackendName] = {
    **{name.value: name for name in BackendName},
    "gguf": BackendName.LLAMACPP,
    "mlx-lm": BackendName.MLX,
    "vllm-mlx": BackendName.MLX,
}
"""Every name that an operator may use. The predecessor's, which live on in scripts and in the runbook, mean what took their
place."""
