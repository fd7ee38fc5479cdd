"""GET /admin/status and /admin/health: the service as a whole, in numbers and in one word."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_protocol.states import Readiness, WorkerState
from lmx_supervisor.core.measured import RecentOfModel
from lmx_supervisor.core.service import HostMemory, Service
from lmx_supervisor.core.views import FleetView
from lmx_supervisor.gateway.admin.model_figures import figures_of
from lmx_supervisor.gateway.admin.units import gigabytes
from lmx_supervisor.gateway.probes import routable
from lmx_supervisor.gateway.responses import json_response
from lmx_supervisor.gateway.version import VERSION

DEGRADED_MEMORY_PERCENT = 100 * limits.MEMORY_HARD_RATIO


class AdminStatus:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, _: Request) -> Response:
        """Everything an operator looks at first."""
        status, fleet = self._service.status(), self._service.fleet()
        models = [worker.model_id for worker in routable(fleet)]
        recent = self._service.records.recent_of_models()
        return json_response(
            {
                "version": VERSION,
                "uptime_seconds": round(status.uptime_seconds, 3),
                "started_at": status.started_at_unix_seconds,
                "startup_complete": status.startup_complete,
                "safe_mode": status.safe_mode,
                "crash_loop_detected": status.crash_loop_detected,
                "startup_count": status.startup_count,
                "draining": fleet.draining,
                "loaded_models": len(models),
                "models": models,
                "per_model": {
                    worker.model_id: figures_of(worker, recent.get(worker.model_id, RecentOfModel()))
                    for worker in fleet.workers
                },
                "memory": _memory(status.memory, self._service),
                "in_flight_requests": fleet.requests_in_flight,
                "waiting_requests": fleet.requests_waiting,
                "max_concurrent_requests": self._service.config.models.max_concurrent_requests,
                "concurrent_limit": fleet.concurrent_limit,
                "lanes": fleet.lanes,
                "loop_lag_seconds": status.loop_lag_seconds,
                "loop_lag_max_seconds": status.loop_lag_max_seconds,
            }
        )

    async def health(self, _: Request) -> Response:
        """`ok` or `degraded`, and why."""
        status, fleet = self._service.status(), self._service.fleet()
        reason = degraded_reason(fleet, status.memory, shedding=self._service.is_shedding)
        return json_response(
            {
                "status": "ok" if reason is None else "degraded",
                "version": VERSION,
                "reason": reason,
                "memory_usage_percent": status.memory.used_percent,
                "metal": None,
                "helpers": {},
                "models_loaded": len(routable(fleet)),
                "in_flight_requests": fleet.requests_in_flight,
            }
        )


def degraded_reason(fleet: FleetView, memory: HostMemory, *, shedding: bool = False) -> str | None:
    """What an operator should look at, or None."""
    reasons = []
    if shedding or memory.used_percent > DEGRADED_MEMORY_PERCENT:
        reasons.append(f"memory usage is {memory.used_percent:.1f} %" + (", requests are shed" if shedding else ""))
    for worker in fleet.workers:
        if worker.readiness.state is Readiness.QUARANTINED:
            reasons.append(f"{worker.model_id} is quarantined")
        elif worker.state is WorkerState.FAILED or worker.consecutive_failures > 0:
            reasons.append(f"{worker.model_id} is failing")
    return "; ".join(reasons) or None


def _memory(memory: HostMemory, service: Service) -> dict[str, Any]:
    budget = service.memory()
    return {
        "total_gb": gigabytes(memory.total_bytes),
        "used_gb": gigabytes(memory.used_bytes),
        "available_gb": gigabytes(memory.available_bytes),
        "usage_percent": memory.used_percent,
        "threshold_percent": service.config.memory.max_memory_percent,
        "limit_gb": gigabytes(budget.limit_bytes),
        "reserved_gb": gigabytes(budget.reserved_bytes),
        "free_gb": gigabytes(budget.free_bytes),
        "load_shedding": budget.shedding,
    }
