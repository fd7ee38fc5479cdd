"""What every OpenAI body is built on: null means absent, unknown fields are ignored, and how a field is refused. Pure."""

import msgspec
from msgspec import Raw

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.gateway.object_count import count_one
from lmx_supervisor.gateway.problem import Problem

ABSENT = Raw(b"null")
"""Of fields that are kept raw: containers of many small values, JSON schemas, and what is looked at only to refuse it."""

_NOTHING = frozenset({b"null", b"[]", b"{}", b'""', b"false"})


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what clients send."""

    def __post_init__(self) -> None:
        """Be counted. Raises `ValueError`, which ends the decoding, for one object too many."""
        count_one()


def is_given(raw: Raw) -> bool:
    """Whether a field says anything: it is not absent, null, false or empty."""
    return bytes(raw).replace(b" ", b"") not in _NOTHING


def not_supported(param: str, reason: str = "this is not supported; leave it out.") -> Problem:
    """The refusal of what would change the answer and cannot be done."""
    return Problem(ErrorCode.NOT_SUPPORTED, f"{param}: {reason}", param=param)


def invalid_value(param: str, reason: str) -> Problem:
    """The refusal of a value that fits its type but not the rest of the request."""
    return Problem(ErrorCode.INVALID_VALUE, f"{param}: {reason}", param=param)


def required(param: str) -> Problem:
    """The refusal of a request that lacks a field."""
    return Problem(ErrorCode.INVALID_REQUEST, f"{param}: this field is required.", param=param)
