"""What a failure looks like to a client: the one table from code to status, error type and `Retry-After`, and the envelope.

Covers every failure of the gateway, whoever found it: the edge itself (`EdgeCode`), or the service (`ErrorCode`, arriving as a
`Refusal` or a `Failed` event). A dialect with an envelope of its own renders the same `Problem`.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.gateway.responses import json_response, to_json


class EdgeCode(StrEnum):
    """Codes of failures that exist only in HTTP."""

    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INVALID_API_KEY = "invalid_api_key"
    INVALID_ADMIN_KEY = "invalid_admin_key"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    BODY_TOO_LARGE = "request_too_large"
    BODY_TIMEOUT = "request_timeout"
    HEADERS_TOO_LARGE = "headers_too_large"
    NOT_IMPLEMENTED = "not_implemented"
    FOREIGN_HOST = "foreign_host"
    FOREIGN_ORIGIN = "foreign_origin"
    INVALID_INPUT = "invalid_input"
    INVALID_HEADER = "invalid_header"
    REQUEST_NOT_FOUND = "request_not_found"
    REQUEST_CANCELLED = "request_cancelled"
    RESPONSE_NOT_FOUND = "response_not_found"


Code = ErrorCode | EdgeCode


class Kind(msgspec.Struct, frozen=True):
    """How one code travels: HTTP status, OpenAI error type, default `Retry-After` in seconds."""

    status: int
    type: str
    retry_after_seconds: int | None = None


KINDS: Mapping[Code, Kind] = {
    ErrorCode.INVALID_REQUEST: Kind(400, "invalid_request_error"),
    ErrorCode.INVALID_VALUE: Kind(400, "invalid_request_error"),
    ErrorCode.NOT_SUPPORTED: Kind(400, "invalid_request_error"),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: Kind(400, "invalid_request_error"),
    ErrorCode.REQUEST_CRASHES_MODEL: Kind(422, "invalid_request_error"),
    ErrorCode.MODEL_NOT_FOUND: Kind(404, "invalid_request_error"),
    ErrorCode.MODEL_NOT_LOADED: Kind(409, "conflict"),
    ErrorCode.AUTOTUNE_NOT_FOUND: Kind(404, "invalid_request_error"),
    ErrorCode.MODEL_LOADING: Kind(503, "server_error", retry_after_seconds=5),
    ErrorCode.MODEL_UNSTABLE: Kind(409, "conflict"),
    ErrorCode.MODEL_INCOMPLETE: Kind(409, "conflict"),
    ErrorCode.MODEL_TRUNCATED: Kind(422, "invalid_request_error"),
    ErrorCode.MODEL_UNSUPPORTED_ARCH: Kind(422, "not_supported_error"),
    ErrorCode.MODEL_UNSUPPORTED_BACKEND: Kind(422, "not_supported_error"),
    ErrorCode.MODEL_LOAD_TIMEOUT: Kind(409, "conflict"),
    ErrorCode.MODEL_LOADER_CRASHED: Kind(409, "conflict"),
    ErrorCode.MODEL_PROBE_FAILED: Kind(409, "conflict"),
    ErrorCode.MODEL_CANARY_FAILED: Kind(409, "conflict"),
    ErrorCode.MODEL_LOAD_CANCELLED: Kind(409, "conflict"),
    ErrorCode.INSUFFICIENT_MEMORY: Kind(507, "server_error"),
    ErrorCode.MODEL_IN_USE: Kind(409, "conflict"),
    ErrorCode.DELETE_FAILED: Kind(409, "conflict"),
    ErrorCode.DOWNLOADS_DISABLED: Kind(403, "permission_error"),
    ErrorCode.DOWNLOAD_NOT_FOUND: Kind(404, "invalid_request_error"),
    ErrorCode.DOWNLOAD_CORRUPT: Kind(409, "conflict"),
    ErrorCode.DOWNLOAD_FAILED: Kind(409, "conflict"),
    ErrorCode.INSUFFICIENT_DISK: Kind(507, "server_error"),
    # Not a 5xx: this server is well, and clients would take it for down and avoid it for a while.
    ErrorCode.HUB_UNAVAILABLE: Kind(424, "hub_error"),
    ErrorCode.HUB_ACCESS_DENIED: Kind(403, "permission_error"),
    ErrorCode.JOB_NOT_FOUND: Kind(404, "invalid_request_error"),
    ErrorCode.OUTPUT_PATH_EXISTS: Kind(409, "conflict"),
    ErrorCode.TOKEN_NOT_FOUND: Kind(404, "invalid_request_error"),
    ErrorCode.TOKEN_EXPIRED: Kind(404, "invalid_request_error"),
    ErrorCode.WORKER_LOST: Kind(503, "server_error", retry_after_seconds=2),
    ErrorCode.GENERATION_ERROR: Kind(500, "server_error"),
    ErrorCode.STREAM_GAP: Kind(500, "server_error"),
    ErrorCode.RATE_LIMIT_EXCEEDED: Kind(429, "server_error", retry_after_seconds=5),
    ErrorCode.OVERLOADED: Kind(503, "server_error", retry_after_seconds=30),
    ErrorCode.DEADLINE_EXCEEDED: Kind(504, "timeout_error"),
    ErrorCode.SHUTTING_DOWN: Kind(503, "server_error", retry_after_seconds=5),
    ErrorCode.INTERNAL_ERROR: Kind(500, "internal_server_error"),
    EdgeCode.NOT_FOUND: Kind(404, "invalid_request_error"),
    EdgeCode.METHOD_NOT_ALLOWED: Kind(405, "invalid_request_error"),
    EdgeCode.INVALID_API_KEY: Kind(401, "authentication_error"),
    EdgeCode.INVALID_ADMIN_KEY: Kind(403, "permission_error"),
    EdgeCode.MODEL_NOT_ALLOWED: Kind(403, "permission_error"),
    EdgeCode.BODY_TOO_LARGE: Kind(413, "invalid_request_error"),
    EdgeCode.BODY_TIMEOUT: Kind(408, "invalid_request_error"),
    EdgeCode.HEADERS_TOO_LARGE: Kind(431, "invalid_request_error"),
    EdgeCode.NOT_IMPLEMENTED: Kind(501, "invalid_request_error"),
    EdgeCode.FOREIGN_HOST: Kind(403, "permission_error"),
    EdgeCode.FOREIGN_ORIGIN: Kind(403, "permission_error"),
    EdgeCode.INVALID_INPUT: Kind(400, "invalid_request_error"),
    EdgeCode.INVALID_HEADER: Kind(400, "invalid_request_error"),
    EdgeCode.REQUEST_NOT_FOUND: Kind(404, "invalid_request_error"),
    EdgeCode.RESPONSE_NOT_FOUND: Kind(404, "invalid_request_error"),
    # Not 408 or 409, which clients take for an invitation to try again.
    EdgeCode.REQUEST_CANCELLED: Kind(499, "invalid_request_error"),
}

CLOSE = {"Connection": "close"}
"""For failures after which the rest of the connection cannot be trusted or is not worth reading."""


class Problem(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is answered with an error: raised anywhere in the gateway, rendered once at its edge."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.kind = KINDS[code]
        self.retry_after_seconds = retry_after_seconds if retry_after_seconds is not None else self.kind.retry_after_seconds
        self.headers = headers or {}

    @classmethod
    def of(cls, failure: Failed | Refusal) -> "Problem":
        """The service's own words, as a problem."""
        return cls(failure.code, failure.message, param=failure.param, retry_after_seconds=failure.retry_after_seconds)

    @classmethod
    def of_http(cls, error: HTTPException) -> "Problem":
        """What the router found: no such route, or not with this method (its `Allow` header is kept)."""
        if error.status_code == KINDS[EdgeCode.METHOD_NOT_ALLOWED].status:
            allow = (error.headers or {}).get("Allow", "")
            return cls(
                EdgeCode.METHOD_NOT_ALLOWED, f"This route does not take that method; it takes {allow}.", headers=error.headers
            )
        return cls(EdgeCode.NOT_FOUND, "There is no such route here.")

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The OpenAI form: all four keys, null where empty."""
        return {
            "error": {"message": self.message, "type": self.kind.type, "param": self.param, "code": self.code.value},
        }

    def body(self) -> bytes:
        """The envelope as JSON."""
        return to_json(self.envelope())

    def response(self) -> Response:
        """The whole answer, with status, `Retry-After` and further headers."""
        return self.response_in(self.envelope(), self.kind.status)

    def response_in(self, envelope: Mapping[str, object], status: int) -> Response:
        """The whole answer in the envelope of a dialect."""
        headers = dict(self.headers)
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        return json_response(envelope, status=status, headers=headers)


def internal_error() -> Problem:
    """A bug of ours, without any internals: the request id is in the response's headers and in the log."""
    return Problem(
        ErrorCode.INTERNAL_ERROR, "Internal server error; quote the X-Request-ID of this response when reporting it."
    )
