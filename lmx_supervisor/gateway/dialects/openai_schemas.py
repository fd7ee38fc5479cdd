"""JSON schemas on their way through: kept as the client wrote them, checked only for what would break their carriers. Pure.

What a schema says is the worker's business: it alone knows what it can hold an answer to.
"""

import msgspec
from msgspec import Raw

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.problem import Problem

_object_decoder = msgspec.json.Decoder(dict[str, Raw] | None)


def schema_text(raw: Raw, param: str) -> str:
    """A JSON schema (an object) as JSON text; empty for null. Raises `Problem`."""
    if decode_field(param, raw, _object_decoder, bytes_max=limits.SCHEMA_BYTES_MAX) is None:
        return ""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise Problem(ErrorCode.INVALID_REQUEST, f"{param}: a string in it is not UTF-8.", param=param) from None
