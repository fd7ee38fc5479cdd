"""GET /admin/diagnostics: one document for a report of trouble, and one word for how the service is. No prompts, no secrets."""

import platform
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_protocol.states import Readiness
from lmx_supervisor.core.measured import Measured, RecentError
from lmx_supervisor.core.service import Service, ServiceStatus
from lmx_supervisor.core.views import FleetView, WorkerView
from lmx_supervisor.gateway.admin.metrics import rounded
from lmx_supervisor.gateway.admin.units import gigabytes, milliseconds
from lmx_supervisor.gateway.probes import routable
from lmx_supervisor.gateway.responses import json_response
from lmx_supervisor.gateway.version import VERSION

_NO_AGENTS = {"active_runs": 0, "completed_runs": 0, "failed_runs": 0}


class AdminDiagnostics:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, _: Request) -> Response:
        """Everything at this moment."""
        status, fleet, measured = self._service.status(), self._service.fleet(), self._service.records.measured()
        error_ratio = measured.recent.error_ratio or 0.0
        quarantined = sum(worker.readiness.state is Readiness.QUARANTINED for worker in fleet.workers)
        threshold_percent = self._service.config.memory.max_memory_percent
        return json_response(
            {
                "timestamp": round(time.time(), 3),
                "version": VERSION,
                "health_verdict": verdict(status, error_ratio, quarantined, threshold_percent),
                "system": _system(status),
                "models": {
                    "loaded_count": len(routable(fleet)),
                    "quarantined_count": quarantined,
                    "models": [_model(worker) for worker in fleet.workers],
                },
                "inference": _inference(measured, fleet, error_ratio),
                "agents": _NO_AGENTS,
                "recent_errors": [_error(error) for error in self._service.records.recent_errors()],
            }
        )


def verdict(status: ServiceStatus, error_ratio: float, quarantined: int, threshold_percent: float) -> str:
    """`critical`: a crash loop, or too many of the last minutes' requests failed; `degraded`: memory or a model. Pure."""
    if status.crash_loop_detected or error_ratio > limits.CRITICAL_ERROR_RATIO:
        return "critical"
    if status.memory.used_percent >= threshold_percent or quarantined > 0:
        return "degraded"
    return "healthy"


def _system(status: ServiceStatus) -> dict[str, Any]:
    return {
        "memory_percent": status.memory.used_percent,
        "memory_gb_used": gigabytes(status.memory.used_bytes),
        "memory_gb_total": gigabytes(status.memory.total_bytes),
        "uptime_seconds": round(status.uptime_seconds, 3),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "crash_loop_detected": status.crash_loop_detected,
        "safe_mode": status.safe_mode,
        "loop_lag_max_seconds": status.loop_lag_max_seconds,
    }


def _model(worker: WorkerView) -> dict[str, Any]:
    return {
        "id": worker.model_id,
        "readiness": worker.readiness.state,
        "state": worker.state,
        "reason": worker.readiness.reason,
        "loaded_at": worker.loaded_at_unix_seconds,
        "requests_total": worker.requests_total,
        "backend_type": worker.backend,
        "memory_gb": gigabytes(worker.footprint_bytes),
        "restarts": worker.restarts,
        "last_exit": worker.last_exit,
    }


def _inference(measured: Measured, fleet: FleetView, error_ratio: float) -> dict[str, Any]:
    total = measured.total
    return {
        "total_requests": total.requests,
        "active_requests": fleet.requests_in_flight,
        "waiting_requests": fleet.requests_waiting,
        "avg_latency_ms": milliseconds(measured.recent.latency_mean_seconds),
        "error_rate_pct": rounded(100 * error_ratio),
        "tokens_generated": total.completion_tokens,
        "total_tokens_processed": measured.prompt_tokens + total.completion_tokens,
    }


def _error(error: RecentError) -> dict[str, Any]:
    return {
        "timestamp": round(error.at_unix_seconds, 3),
        "type": error.kind,
        "model_id": error.model_id,
        "code": error.code,
        "message": error.text,
    }
