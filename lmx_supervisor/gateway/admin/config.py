"""POST /admin/config/reload: put a changed configuration in force without a restart."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.responses import json_response


class AdminConfig:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def reload(self, _: Request) -> Response:
        """What changed: `updated` is in force now, `ignored` with the next start. Raises `Refusal` (400)."""
        outcome = await self._service.reload_config()
        return json_response({"success": True, "updated": outcome.updated, "ignored": outcome.ignored})
