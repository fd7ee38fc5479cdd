"""GET /admin/crashes and /admin/crashes/{id}: the evidence of workers' deaths."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.problem import EdgeCode, Problem
from lmx_supervisor.gateway.responses import json_response


class AdminCrashes:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, request: Request) -> Response:
        """The newest deaths first: `?model_id=` of one model, `?limit=` at most so many. Raises `Problem` (400)."""
        at_most = _limit(request.query_params.get("limit"))
        crashes = await self._service.crashes(request.query_params.get("model_id"), at_most)
        return json_response({"crashes": crashes, "count": len(crashes)})

    async def show(self, request: Request) -> Response:
        """Everything about one death: `summary`, `stack`, `stderr`, `native`. Raises `Problem` (404)."""
        crash_id = request.path_params["crash_id"]
        report = await self._service.crash(crash_id)
        if report is None:
            kept = limits.CRASH_BUNDLES_MAX
            message = f"There is no crash '{crash_id}'; the newest {kept} are kept, and GET /admin/crashes lists them."
            raise Problem(EdgeCode.NOT_FOUND, message, param="crash_id")
        return json_response(report)


def _limit(text: str | None) -> int:
    if text is None:
        return limits.CRASH_BUNDLES_MAX
    is_short_number = text.isascii() and text.isdecimal() and len(text) <= len(str(limits.CRASH_BUNDLES_MAX))
    number = int(text) if is_short_number else 0
    if not 1 <= number <= limits.CRASH_BUNDLES_MAX:
        message = f"limit: expected a whole number from 1 to {limits.CRASH_BUNDLES_MAX}."
        raise Problem(ErrorCode.INVALID_VALUE, message, param="limit")
    return number
