"""JSON responses from msgspec structs and plain values."""

import json
from typing import Any

import msgspec
from starlette.responses import Response

EVENT_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Reverse proxies hold small chunks back unless told not to.
    (b"x-accel-buffering", b"no"),
]
"""Of every response that is a stream of server-sent events."""


def to_json(content: Any) -> bytes:
    """`content` as UTF-8 JSON.

    A file name that is not UTF-8 reaches us as a string with lone surrogates, which UTF-8 cannot carry: such content falls back
    to escaped ASCII, so that one oddly named model does not take the listing of all others down.
    """
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(content)).encode("ascii")


def json_response(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response of `content` as `application/json`."""
    return Response(to_json(content), status_code=status, headers=headers, media_type="application/json")
