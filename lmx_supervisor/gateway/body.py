"""Reading a request's body within bounds, and JSON into typed structs: the only place that knows how either fails.

`param` of a decoding problem is the field's path with dots and indexes: `messages.0.content.1.text`, `max_tokens`. A problem of
the body as a whole (not JSON, not an object, empty) has none. Duplicate keys: the last one wins.
"""

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.config.schema import ServerConfig
from lmx_supervisor.gateway.object_count import counting
from lmx_supervisor.gateway.problem import CLOSE, EdgeCode, Problem

Decoded = TypeVar("Decoded")

_LOCATION = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`$")


async def read_json(request: Request, decoder: msgspec.json.Decoder[Decoded], server: ServerConfig) -> Decoded:
    """The request's body as the decoder's type. Raises `Problem` (400, 408, 413) and `ClientDisconnect`."""
    return decode_json(await read_body(request, server), decoder)


async def read_body(request: Request, server: ServerConfig) -> bytes:
    """The whole body. Raises `Problem` (408 after `body_seconds`, 413 over `body_bytes_max`) and `ClientDisconnect`."""
    declared = request.headers.get("content-length", "")
    # The server's parser lets only digits through, and not so many of them that `int` would refuse.
    if declared.isdecimal() and int(declared) > server.body_bytes_max:
        raise _too_large(server)
    try:
        async with asyncio.timeout(server.body_seconds):
            return await _receive_all(request, server)
    except TimeoutError:
        message = f"The request's body did not arrive within {server.body_seconds:g} seconds."
        raise Problem(EdgeCode.BODY_TIMEOUT, message, headers=CLOSE) from None


async def _receive_all(request: Request, server: ServerConfig) -> bytes:
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > server.body_bytes_max:
            raise _too_large(server)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(server: ServerConfig) -> Problem:
    return Problem(EdgeCode.BODY_TOO_LARGE, f"The body is over the limit of {server.body_bytes_max} bytes.", headers=CLOSE)


def decode_json(body: bytes, decoder: msgspec.json.Decoder[Decoded], *, within: str = "") -> Decoded:
    """Bytes from a client as the decoder's type; `within` is the field they are the value of. Raises `Problem` (400)."""
    if not body:
        raise Problem(ErrorCode.INVALID_REQUEST, "The body is empty; send a JSON object.")
    try:
        with counting(anew=not within):
            return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error), within) from None
    except msgspec.DecodeError as error:
        message = f"{within or 'The body'} is not valid JSON: {error}."
        raise Problem(ErrorCode.INVALID_REQUEST, message, param=within or None) from None
    except UnicodeDecodeError:
        raise Problem(ErrorCode.INVALID_REQUEST, "The body is not valid JSON: a string is not UTF-8.") from None
    except RecursionError:
        raise Problem(ErrorCode.INVALID_REQUEST, "The body is not valid JSON: it is nested too deeply.") from None


def decode_field(
    name: str, raw: msgspec.Raw, decoder: msgspec.json.Decoder[Decoded], *, bytes_max: int = limits.RAW_FIELD_BYTES_MAX
) -> Decoded:
    """A list or map that was kept as raw JSON, as the decoder's type. Raises `Problem` (400) with its `param`.

    msgspec builds a whole container before it looks at its bounds, and a million small values take it long enough for every
    stream to notice. Skipping over them costs nothing, so such fields are kept raw and refused by their size in bytes first.
    """
    data = bytes(raw)
    if len(data) > bytes_max:
        message = f"{name}: this takes {len(data)} bytes; at most {bytes_max} are allowed."
        raise Problem(ErrorCode.INVALID_REQUEST, message, param=name)
    return decode_json(data, decoder, within=name)


def _invalid_field(text: str, within: str) -> Problem:
    """msgspec's words, ``Expected `int` >= 1 - at `$.max_tokens` ``, as a problem with a `param`."""
    location = _LOCATION.search(text)
    reason = text[: location.start()] if location else text
    inside = (
        re.sub(r"\[(\d+|\.\.\.)\]", lambda index: "" if index[1] == "..." else f".{index[1]}", location["path"])
        if location
        else ""
    )
    missing = _MISSING.search(reason)
    names = [within, inside.removeprefix("."), *([missing["field"]] if missing else [])]
    path = ".".join(name for name in names if name)
    if missing:
        reason = "this field is required"
    return Problem(ErrorCode.INVALID_REQUEST, f"{path or 'The body'}: {reason[0].lower()}{reason[1:]}.", param=path or None)
