"""GET /admin/presets, GET /admin/presets/{name}, POST /admin/presets/reload."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.model_choice import unknown_preset
from lmx_supervisor.gateway.responses import json_response


class AdminPresets:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, _: Request) -> Response:
        """All of them, by name."""
        presets = [preset.shown() for preset in self._service.presets]
        return json_response({"presets": presets, "count": len(presets)})

    async def show(self, request: Request) -> Response:
        """One of them. Raises `Problem` (404)."""
        name = request.path_params["name"]
        preset = self._service.presets.find(name)
        if preset is None:
            raise unknown_preset(name, self._service.presets, param="name")
        return json_response(preset.shown())

    async def reload(self, _: Request) -> Response:
        """Read the files again. Raises `Refusal` (503) when the disk does not answer."""
        book = await self._service.reload_presets()
        return json_response({"success": True, "presets_loaded": len(book)})
