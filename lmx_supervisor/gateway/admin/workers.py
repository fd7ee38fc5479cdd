"""GET /admin/workers and /admin/workers/{id}: the fleet as `lmx ps` shows it, every slot in every state."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import json_response


class AdminWorkers:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, _: Request) -> Response:
        """The whole fleet: `workers`, `spares`, and the request counts."""
        return json_response(self._service.fleet())

    async def show(self, request: Request) -> Response:
        """One slot. Raises `Problem` (404)."""
        model_id = request.path_params["model_id"]
        worker = self._service.fleet().worker(model_id)
        if worker is None:
            message = f"There is no worker for '{model_id}'; GET /admin/workers lists them all."
            raise Problem(ErrorCode.MODEL_NOT_FOUND, message, param="model_id")
        return json_response(worker)
