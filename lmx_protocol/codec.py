"""Messages to bytes and back. The only place that knows how decoding fails."""

from typing import TypeVar

import msgspec

from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.messages import BootSpec, FromWorker, ToWorker

Decoded = TypeVar("Decoded")

_encoder = msgspec.msgpack.Encoder()
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_boot: msgspec.msgpack.Decoder[BootSpec] = msgspec.msgpack.Decoder(BootSpec)


def encode(message: FromWorker | ToWorker | BootSpec, *, bytes_max: int) -> bytes:
    """One message as msgpack bytes.

    Raises:
        ProtocolViolation: the message is larger than `bytes_max`. libzmq would drop the connection and the message with it,
            without a word, so the size is checked before sending.
    """
    data = _encoder.encode(message)
    if len(data) > bytes_max:
        raise ProtocolViolation(f"{type(message).__name__} of {len(data)} bytes is over the limit of {bytes_max}")
    return data


def decode_from_worker(data: bytes) -> FromWorker:
    """What a worker said. Raises `ProtocolViolation` for anything that is not a message of that direction."""
    return _decode(_from_worker, data)


def decode_to_worker(data: bytes) -> ToWorker:
    """What the supervisor said. Raises `ProtocolViolation` for anything that is not a message of that direction."""
    return _decode(_to_worker, data)


def decode_boot_spec(data: bytes) -> BootSpec:
    """The boot specification. Raises `ProtocolViolation`."""
    return _decode(_boot, data)


def _decode(decoder: msgspec.msgpack.Decoder[Decoded], data: bytes) -> Decoded:
    try:
        return decoder.decode(data)
    # A str field of broken UTF-8 and a deeply nested array do not surface as msgspec errors.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"undecodable message of {len(data)} bytes: {error}") from error
