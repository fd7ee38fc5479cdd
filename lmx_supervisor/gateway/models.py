"""GET /v1/models and /v1/models/{id}: what can be routed to, in OpenAI's form."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import ModelTask
from lmx_supervisor.core.service import Service
from lmx_supervisor.core.views import WorkerView
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.probes import routable
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import json_response


class Models:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, request: Request) -> Response:
        """All that the caller may use."""
        caller = caller_of(request.scope)
        workers = [worker for worker in routable(self._service.fleet()) if caller.may_use(worker.model_id)]
        return json_response({"object": "list", "data": [_to_model(worker) for worker in workers]})

    async def show(self, request: Request) -> Response:
        """One of them. Raises `Problem` (403, 404)."""
        model_id = request.path_params["model_id"]
        caller_of(request.scope).refuse_other_models(model_id)
        for worker in routable(self._service.fleet()):
            if worker.model_id == model_id:
                return json_response(_to_model(worker))
        message = f"Model '{model_id}' is not loaded; load it with POST /admin/models/load."
        raise Problem(ErrorCode.MODEL_NOT_FOUND, message, param="model")


def _to_model(worker: WorkerView) -> dict[str, Any]:
    return {
        "id": worker.model_id,
        "object": "model",
        "created": int(worker.loaded_at_unix_seconds or worker.state_since_unix_seconds),
        "owned_by": "local" if worker.facts is None or ModelTask.GENERATE in worker.facts.tasks else "local-embedding",
    }
