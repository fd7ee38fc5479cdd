"""POST /v1/requests/{id}/cancel: the end of a request that is queued, in its prompt or streaming, from wherever it was sent.

A key with a name ends only what was sent with it; the admin key ends everything.

The id is the `X-Request-ID` of the request (the client's own, or the one LMX gave it), or the `id` in its answer.
"""

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.gateway.answer_reader import OpenAnswers
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.problem import EdgeCode, Problem
from lmx_supervisor.gateway.responses import json_response


class OpenRequests:
    """The route."""

    def __init__(self, open_answers: OpenAnswers) -> None:
        self._open_answers = open_answers

    async def cancel(self, request: Request) -> Response:
        """Cancel every open request of that id that the caller may end. Raises `Problem` (404)."""
        request_id = request.path_params["request_id"]
        if not self._open_answers.cancel(request_id, caller_of(request.scope)):
            message = "No request of that id is open here: it has ended, or never was."
            raise Problem(EdgeCode.REQUEST_NOT_FOUND, message, param="request_id")
        return json_response({"request_id": request_id, "cancelled": True})
