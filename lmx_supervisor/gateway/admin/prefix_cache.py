"""GET and DELETE /admin/prefix-cache: what stopped models left of computed prompts on the disk, and getting rid of it."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.model_bodies import refuse_unsafe_id
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.responses import json_response


class AdminPrefixCache:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, _: Request) -> Response:
        """How much there is, and how much there may be. Raises `Refusal`."""
        return json_response(await self._service.prefixes.use())

    async def clear(self, _: Request) -> Response:
        """Delete the prompts of all models. Raises `Refusal`."""
        return self._cleared(await self._service.prefixes.clear())

    async def clear_model(self, request: Request) -> Response:
        """Delete those of one; a model that has none is fine. Raises `Problem`, `Refusal`."""
        model_id: str = request.path_params["model_id"]
        refuse_unsafe_id(model_id)
        note(request.scope, model=model_id)
        return self._cleared(await self._service.prefixes.clear(model_id))

    @staticmethod
    def _cleared(freed_bytes: int) -> Response:
        return json_response({"success": True, "freed_bytes": freed_bytes})
