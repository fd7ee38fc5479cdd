"""GET /admin/metrics: everything that is measured, for Prometheus."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.service import Service

_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class AdminMetrics:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def scrape(self, _: Request) -> Response:
        """The text format."""
        return Response(self._service.metrics(), headers={"Content-Type": _TEXT_FORMAT})
