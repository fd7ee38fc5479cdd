"""GET /admin/models/{id}/performance: what a served model was tuned by, and what it would be without."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.load_profile import ProfileLayers, settings_of
from lmx_supervisor.core.service import Service
from lmx_supervisor.core.views import WorkerView
from lmx_supervisor.gateway.admin.units import gigabytes
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import json_response

SPECULATIVE: dict[str, Any] = {
    "requested": False,
    "active": False,
    "reason": None,
    "draft_model": None,
    "num_tokens": None,
    "telemetry": None,
}
"""No model is served with a draft model yet."""


class AdminPerformance:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, request: Request) -> Response:
        """One model, in whatever state. Raises `Problem` (404)."""
        model_id = request.path_params["model_id"]
        worker = self._service.fleet().worker(model_id)
        if worker is None:
            message = f"Model '{model_id}' is not loaded; GET /admin/models lists what is."
            raise Problem(ErrorCode.MODEL_NOT_FOUND, message, param="model_id")
        return json_response(
            {
                "model_id": worker.model_id,
                "backend_type": worker.backend,
                "loaded_at": worker.loaded_at_unix_seconds,
                "request_count": worker.requests_total,
                "last_used_at": worker.last_used_at_unix_seconds,
                "memory_gb": gigabytes(worker.footprint_bytes),
                "context_length": worker.facts.context_length if worker.facts is not None else None,
                "slots": worker.facts.slots if worker.facts is not None else None,
                "use_batching": True,
                "tokens_per_second": worker.tokens_per_second,
                "performance": settings_of(worker.performance),
                "performance_sources": sources(worker.profile),
                "speculative": SPECULATIVE,
                "readiness": worker.readiness,
                "global_defaults": _global_defaults(self._service.config, worker, self._service.status().memory.used_percent),
            }
        )


def sources(profile: ProfileLayers) -> dict[str, str]:
    """Who has the last word on each setting that somebody named."""
    layers = {"preset": profile.preset, "autotune": profile.tuned, "override": profile.explicit}
    return {name: layer for layer, said in layers.items() for name in settings_of(said)}


def _why_fewer(worker: WorkerView, config: Config, used_percent: float) -> str | None:
    """What keeps the adaptive limit below what the model could take; None: nothing."""
    if worker.places_held_back:
        return "answers begin late"
    is_short = config.models.adaptive_concurrency_enabled and used_percent > config.memory.max_memory_percent
    return "memory is short" if is_short else None


def _global_defaults(config: Config, worker: WorkerView, used_percent: float) -> dict[str, Any]:
    """What loads are made with where nobody says otherwise, and how the adaptive limit judges this one's answers.

    Null: LMX has no such setting, or nothing was heard.
    """
    models = config.models
    return {
        "context_length": models.context_length,
        "prefill_chunk_tokens": models.prefill_chunk_tokens,
        "gpu_layers": models.gpu_layers,
        "threads": models.threads,
        "kv_bits": 16,
        "kv_group_size": None,
        "quantized_kv_start": None,
        "prefix_cache_enabled": True,
        "speculative_model": None,
        "speculative_num_tokens": None,
        "speculative_require_supported": False,
        # Every load ends with a generation; only a model that passed it is served.
        "warmup_on_load": True,
        "stream_interval": None,
        "scheduler": {
            "max_num_seqs": models.slots,
            "prefill_batch_size": None,
            "completion_batch_size": None,
            "cache_memory_percent": None,
        },
        "adaptive": {
            "enabled": models.adaptive_concurrency_enabled,
            "latency_target_ms": models.adaptive_latency_target_ms,
            "latency_window_size": models.adaptive_latency_window,
            "latency_p95_sec": worker.latency_p95_seconds,
            "min_concurrent_requests": models.adaptive_min_concurrent_requests,
            "last_reason": _why_fewer(worker, config, used_percent),
        },
        "max_concurrent_requests": models.max_concurrent_requests,
    }
