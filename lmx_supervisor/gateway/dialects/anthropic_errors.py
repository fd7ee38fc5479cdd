"""Anthropic's error envelope, for every failure below `/v1/messages`: the same problems as everywhere, in the vendor's words.

Its SDK chooses the exception by the status and reads the kind of failure from `type`. What the envelope has no place for, the
name of the field, begins the message.
"""

from typing import Any

from starlette.responses import Response

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.gateway.problem import Problem

_PATH = "/v1/messages"

OVERLOADED_STATUS = 529
"""The vendor's own, which its SDK raises as `OverloadedError`."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    OVERLOADED_STATUS: "overloaded_error",
}
"""By status; the others below 500 are `invalid_request_error`, those from there on `api_error`."""

_API_ERRORS = frozenset({ErrorCode.WORKER_LOST})
"""Not a matter of load, whatever their status."""

_PROMPT_TOO_LONG = "prompt is too long"
"""What agents look for in a message to know that they have to shorten the conversation."""


def speaks_anthropic(path: str) -> bool:
    """Whether failures below this path have this envelope."""
    return path == _PATH or path.startswith(f"{_PATH}/")


def status_of(problem: Problem) -> int:
    """The HTTP status of a problem in this dialect."""
    return OVERLOADED_STATUS if problem.code is ErrorCode.OVERLOADED else problem.kind.status


def error_envelope(problem: Problem, request_id: str) -> dict[str, Any]:
    """The problem in the vendor's form."""
    status = status_of(problem)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    if problem.code in _API_ERRORS:
        kind = "api_error"
    message = problem.message
    if problem.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        message = f"{_PROMPT_TOO_LONG}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_response(problem: Problem, request_id: str) -> Response:
    """The whole answer."""
    return problem.response_in(error_envelope(problem, request_id), status_of(problem))
