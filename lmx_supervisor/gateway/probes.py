"""GET /healthz and /readyz: open to everyone, cheap, and true at each moment."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol.states import Readiness, WorkerState
from lmx_supervisor.core.service import Service
from lmx_supervisor.core.views import FleetView, LoadProgressView, WorkerView
from lmx_supervisor.gateway.responses import json_response
from lmx_supervisor.gateway.version import VERSION

_STARTING = frozenset({WorkerState.SPAWNING, WorkerState.LOADING, WorkerState.WARMING})
_RESTARTING = frozenset({WorkerState.CRASHED, WorkerState.BACKOFF})


class Probes:
    """The two probes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def healthz(self, _: Request) -> Response:
        """The process is alive and its loop turns."""
        return json_response({"status": "ok", "version": VERSION})

    async def readyz(self, _: Request) -> Response:
        """At least one model can be routed to; 503 with the reason otherwise."""
        fleet = self._service.fleet()
        reason = unready_reason(fleet)
        if reason is not None:
            return json_response({"status": "unavailable", "reason": reason}, status=503)
        return json_response({"status": "ready", "version": VERSION, "models_loaded": len(routable(fleet))})


def routable(fleet: FleetView) -> list[WorkerView]:
    """The models that requests are routed to: those whose canary passed and whose worker serves."""
    return [worker for worker in fleet.workers if worker.readiness.state is Readiness.ROUTABLE]


def unready_reason(fleet: FleetView) -> str | None:
    """Why nothing can be served right now, in an operator's words; None when something can."""
    if fleet.draining:
        return "draining"
    if routable(fleet):
        return None
    reasons = [reason for worker in fleet.workers if (reason := _slot_reason(worker)) is not None]
    return "; ".join(reasons) or "no models loaded"


def _slot_reason(worker: WorkerView) -> str | None:
    if worker.readiness.state is Readiness.QUARANTINED:
        return f"{worker.model_id} is quarantined"
    if worker.state in _RESTARTING or (worker.state in _STARTING and worker.restarts > 0):
        return f"restarting {worker.model_id}"
    if worker.state in _STARTING:
        return f"loading {worker.model_id}{_percent(worker.load_progress)}"
    if worker.state is WorkerState.FAILED:
        return f"{worker.model_id} failed"
    return None


def _percent(progress: LoadProgressView | None) -> str:
    if progress is None or progress.total <= 0:
        return ""
    return f" {min(100, 100 * progress.done // progress.total)} %"
