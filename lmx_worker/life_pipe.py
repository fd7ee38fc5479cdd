"""The pipe a worker inherits as its stdin: first it carries the boot specification, then its end means that nobody is left."""

import os
import struct

from lmx_protocol.codec import decode_boot_spec
from lmx_protocol.errors import ExitCode, ProtocolViolation
from lmx_protocol.limits import BOOT_SPEC_BYTES_MAX
from lmx_protocol.messages import BootSpec

_LENGTH = struct.Struct(">I")


def read_boot_spec(descriptor: int) -> BootSpec:
    """Read one length-prefixed specification, and not a byte more.

    Raises:
        EOFError: the pipe ended first.
        ProtocolViolation: what came is no specification, or is larger than `BOOT_SPEC_BYTES_MAX`.
    """
    return decode_boot_spec(read_frame(descriptor, BOOT_SPEC_BYTES_MAX))


def read_frame(descriptor: int, bytes_max: int) -> bytes:
    """Read one length-prefixed message, and not a byte more. Raises `EOFError` and, for a larger one, `ProtocolViolation`."""
    (length,) = _LENGTH.unpack(_read_exactly(descriptor, _LENGTH.size))
    if length > bytes_max:
        raise ProtocolViolation(f"boot specification of {length} bytes is over the limit of {bytes_max}")
    return _read_exactly(descriptor, length)


def exit_at_end(descriptor: int) -> None:
    """Block until the pipe ends, then end this process at once: its supervisor is gone, however that happened.

    Unconditional on purpose. An orderly exit could hang in native code, and an orphan that holds a model's memory is worse
    than a model that was not freed politely.
    """
    while os.read(descriptor, 4096):
        pass
    os._exit(ExitCode.PARENT_GONE)


def _read_exactly(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = os.read(descriptor, count - len(data))
        if not chunk:
            raise EOFError(f"the life pipe ended after {len(data)} of {count} bytes")
        data += chunk
    return data
