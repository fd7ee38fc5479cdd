"""Machine-readable failure codes, exit codes of a worker, and the one exception for a broken peer."""

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Codes a client or operator can branch on; the gateway owns the HTTP status of each."""

    # the request itself
    INVALID_REQUEST = "invalid_request_error"
    INVALID_VALUE = "invalid_value"
    NOT_SUPPORTED = "not_supported"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    REQUEST_CRASHES_MODEL = "request_crashes_model"
    # the model
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_NOT_LOADED = "model_not_loaded"
    AUTOTUNE_NOT_FOUND = "autotune_not_found"
    MODEL_LOADING = "model_loading"
    MODEL_UNSTABLE = "model_unstable"
    MODEL_INCOMPLETE = "model_incomplete"
    MODEL_TRUNCATED = "model_truncated"
    MODEL_UNSUPPORTED_ARCH = "model_unsupported_arch"
    MODEL_UNSUPPORTED_BACKEND = "model_unsupported_backend"
    MODEL_LOAD_TIMEOUT = "model_load_timeout"
    MODEL_LOADER_CRASHED = "model_loader_crashed"
    MODEL_PROBE_FAILED = "model_probe_failed"
    MODEL_CANARY_FAILED = "model_canary_failed"
    MODEL_LOAD_CANCELLED = "model_load_cancelled"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    MODEL_IN_USE = "model_in_use"
    # downloads
    DOWNLOADS_DISABLED = "downloads_disabled"
    DOWNLOAD_NOT_FOUND = "download_not_found"
    DOWNLOAD_CORRUPT = "download_corrupt"
    DELETE_FAILED = "delete_failed"
    DOWNLOAD_FAILED = "download_failed"
    INSUFFICIENT_DISK = "insufficient_disk"
    HUB_UNAVAILABLE = "hub_unavailable"
    HUB_ACCESS_DENIED = "hub_access_denied"
    TOKEN_NOT_FOUND = "token_not_found"  # noqa: S105 - a code
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a code
    # other jobs
    JOB_NOT_FOUND = "job_not_found"
    OUTPUT_PATH_EXISTS = "output_path_exists"
    # the service
    WORKER_LOST = "worker_lost"
    GENERATION_ERROR = "generation_error"
    STREAM_GAP = "internal_stream_gap"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL_ERROR = "internal_error"


class ExitCode(IntEnum):
    """How a worker says by its exit status why it left (sysexits.h range, plus one of our own)."""

    OK = 0
    BAD_MODEL = 70
    WILL_NOT_FIT = 71
    PROTOCOL = 72
    CONFIG = 73
    PARENT_GONE = 86


class ProtocolViolation(Exception):  # noqa: N818 - the field's term
    """A peer sent bytes that are no message of this protocol, or a message that is not allowed now."""
