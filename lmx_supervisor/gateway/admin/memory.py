"""GET /admin/memory: the host's memory, what is promised of it, and to whom."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol.states import Readiness
from lmx_supervisor.core.service import Service
from lmx_supervisor.core.views import MemoryView, WorkerView
from lmx_supervisor.gateway.admin.units import gigabytes
from lmx_supervisor.gateway.responses import json_response


class AdminMemory:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, _: Request) -> Response:
        """The host, the budget, and every model that holds or awaits a part of it."""
        host, budget, config = self._service.status().memory, self._service.memory(), self._service.config.memory
        workers = self._service.fleet().workers
        return json_response(
            {
                "total_unified_memory_gb": gigabytes(host.total_bytes),
                "used_gb": gigabytes(host.used_bytes),
                "available_gb": gigabytes(host.available_bytes),
                "usage_percent": host.used_percent,
                "threshold_percent": config.max_memory_percent,
                "load_shedding_percent": config.load_shedding_percent,
                "load_shedding": budget.shedding,
                "budget": _budget(budget),
                "models": {worker.model_id: _model(worker) for worker in workers if _concerns_memory(worker)},
            }
        )


def _budget(budget: MemoryView) -> dict[str, float | None]:
    return {
        "limit_gb": gigabytes(budget.limit_bytes),
        "reserved_gb": gigabytes(budget.reserved_bytes),
        "others_gb": gigabytes(budget.others_bytes),
        "free_gb": gigabytes(budget.free_bytes),
    }


def _model(worker: WorkerView) -> dict[str, Any]:
    return {
        "memory_gb": gigabytes(worker.footprint_bytes),
        "peak_gb": gigabytes(worker.peak_footprint_bytes),
        "reserved_gb": gigabytes(worker.reserved_bytes),
        "loaded": worker.readiness.state is Readiness.ROUTABLE,
        "state": worker.state,
        "pinned": worker.keep_alive_seconds == 0,
        "keep_alive_sec": worker.keep_alive_seconds,
        "evicted_for": worker.evicted_for,
    }


def _concerns_memory(worker: WorkerView) -> bool:
    return bool(worker.footprint_bytes or worker.reserved_bytes or worker.evicted_for)
