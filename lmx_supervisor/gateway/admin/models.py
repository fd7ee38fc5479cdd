"""The routes under /admin/models: what is loaded, what is on disk, load, restart and unload.

A load belongs to the service: a client that leaves while it runs stops waiting and changes nothing.
"""

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol.states import Readiness
from lmx_supervisor.core.downloads.orders import ModelOnItsWay
from lmx_supervisor.core.load_profile import settings_of
from lmx_supervisor.core.service import LoadOutcome, ModelOnDisk, Service
from lmx_supervisor.core.views import WorkerView
from lmx_supervisor.gateway.admin.downloads import on_its_way_response
from lmx_supervisor.gateway.admin.model_bodies import load_decoder, refuse_unsafe_id, to_load_order, unload_decoder
from lmx_supervisor.gateway.admin.performance import SPECULATIVE
from lmx_supervisor.gateway.admin.units import gigabytes, milliseconds
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.disconnect import DetachedWork
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.probes import routable
from lmx_supervisor.gateway.responses import json_response


class AdminModels:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._detached = DetachedWork()

    async def index(self, _: Request) -> Response:
        """The models that are served now, which `count` counts; after them, as not loaded, those in quarantine.

        A quarantined model that was unloaded is left out: clients wait for an id to vanish after their unload (docs/adr/0008).
        """
        fleet = self._service.fleet()
        served = routable(fleet)
        quarantined = [
            worker for worker in fleet.workers if worker.readiness.state is Readiness.QUARANTINED and not worker.unloaded
        ]
        return json_response({"loaded": [_to_loaded(worker) for worker in (*served, *quarantined)], "count": len(served)})

    async def available(self, _: Request) -> Response:
        """The models on disk."""
        return json_response([_to_available(model) for model in await self._service.available()])

    async def load(self, request: Request) -> Response:
        """Have a model served; answers when its canary passed, or at once when it has to be fetched first.

        Raises `Problem`, `Refusal`, `ClientGoneError`.
        """
        body = await read_json(request, load_decoder, self._service.config.server)
        order = to_load_order(body)
        note(request.scope, model=order.model_id)
        outcome = await self._detached.wait(self._service.load(order), request.receive)
        return on_its_way_response(outcome) if isinstance(outcome, ModelOnItsWay) else _load_response(outcome)

    async def restart(self, request: Request) -> Response:
        """Replace a served model's worker by a fresh one. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        model_id = request.path_params["model_id"]
        refuse_unsafe_id(model_id)
        note(request.scope, model=model_id)
        return _load_response(await self._detached.wait(self._service.restart(model_id), request.receive))

    async def unload(self, request: Request) -> Response:
        """Drain and stop a model. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, unload_decoder, self._service.config.server)
        refuse_unsafe_id(body.model_id)
        note(request.scope, model=body.model_id)
        outcome = await self._detached.wait(self._service.unload(body.model_id), request.receive)
        freed_gb = gigabytes(outcome.freed_bytes)
        return json_response({"success": True, "model_id": outcome.model_id, "memory_freed_gb": freed_gb})


def _load_response(outcome: LoadOutcome) -> Response:
    return json_response(
        {
            "success": True,
            "model_id": outcome.model_id,
            "memory_after_load_gb": None if outcome.already else gigabytes(outcome.footprint_bytes),
            "time_to_load_ms": None if outcome.already else milliseconds(outcome.seconds),
        }
    )


def _to_loaded(worker: WorkerView) -> dict[str, Any]:
    is_loaded = worker.readiness.state is Readiness.ROUTABLE
    return {
        "id": worker.model_id,
        "loaded": is_loaded,
        "memory_gb": gigabytes(worker.footprint_bytes),
        "loaded_at": worker.loaded_at_unix_seconds if is_loaded else None,
        "use_batching": True,
        "request_count": worker.requests_total,
        "last_used_at": worker.last_used_at_unix_seconds,
        "context_length": worker.facts.context_length if worker.facts is not None else None,
        "performance": settings_of(worker.performance),
        "speculative": SPECULATIVE,
        "readiness": worker.readiness,
    }


def _to_available(model: ModelOnDisk) -> dict[str, Any]:
    return {
        "repo_id": model.model_id,
        "local_path": model.path,
        "size_bytes": model.size_bytes,
        "downloaded_at": datetime.fromtimestamp(model.modified_at_unix_seconds, UTC),
    }
