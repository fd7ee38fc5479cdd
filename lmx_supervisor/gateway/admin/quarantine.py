"""POST /admin/quarantine/clear: an operator trusts a model again."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.model_bodies import clear_decoder, refuse_unsafe_id
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.responses import json_response


class AdminQuarantine:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def clear(self, request: Request) -> Response:
        """Release one model, or all of them for null. Raises `Problem`, `Refusal` (404 when that one is not quarantined)."""
        body = await read_json(request, clear_decoder, self._service.config.server)
        if body.model_id is not None:
            refuse_unsafe_id(body.model_id)
            note(request.scope, model=body.model_id)
        released = await self._service.clear_quarantine(body.model_id)
        return json_response({"success": True, "released": released})
