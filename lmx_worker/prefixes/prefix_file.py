"""One saved prefix: a head of fixed size, a header, the backend's state. Blocks on the disk.

The state is native data that a backend copies into its memory as it is: nothing of it is handed out before the name, every size
and both checksums are right. That makes flushing to the platter unnecessary too: what a power cut tears is not used.
"""

import hashlib
import os
import stat
import struct
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path

import msgspec

from lmx_protocol import limits

_HEAD = struct.Struct("<8sIQ32s")
"""Magic, bytes of the header, bytes of the state, checksum of the header."""
_MAGIC = b"LMXPRE\x00\x01"
_TOKEN_BYTES = 4
_HEADER_BESIDE_TOKENS_BYTES_MAX = 256
_MODE = 0o600


class UnusableError(Exception):
    """The file cannot be used; the text says why."""


class OutOfTimeError(Exception):
    """The disk was too slow: the file is not there."""


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    fingerprint: str
    tokens: bytes
    """As 32-bit integers of this machine's byte order, which is part of the fingerprint."""
    can_cut: bool
    state_checksum: bytes


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of itself."""

    tokens: list[int]
    can_cut: bool
    file_bytes: int


def file_bytes(tokens: int, state_bytes: int) -> int:
    """At most what a file of so much takes."""
    return _HEAD.size + _HEADER_BESIDE_TOKENS_BYTES_MAX + _TOKEN_BYTES * tokens + state_bytes


def write(
    path: Path,
    fingerprint: str,
    tokens: list[int],
    state: memoryview,
    *,
    can_cut: bool,
    until: float,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Put a file there, whole or not at all; returns its bytes. Raises `OSError`, and `OutOfTimeError` at second `until`."""
    header = msgspec.msgpack.encode(
        _Header(
            fingerprint=fingerprint,
            tokens=array("i", tokens).tobytes(),
            can_cut=can_cut,
            state_checksum=_checksum(state),
        )
    )
    head = _HEAD.pack(_MAGIC, len(header), state.nbytes, _checksum(header))
    temporary = path.with_name(f".{path.name}.lmx-tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
            for part in (memoryview(head), memoryview(header), state):
                rest = part
                while rest.nbytes:
                    if now() >= until:
                        raise OutOfTimeError
                    rest = rest[file.write(rest[: limits.PREFIX_CHUNK_BYTES]) :]
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return len(head) + len(header) + state.nbytes


def look_at(path: Path, fingerprint: str) -> Contents:
    """What a file holds, without its state. Raises `UnusableError`, `OSError`."""
    with _opened(path) as file:
        header = _read_header(file, fingerprint)
        return Contents(tokens=_tokens(header), can_cut=header.can_cut, file_bytes=os.fstat(file.fileno()).st_size)


def read_state(path: Path, fingerprint: str, tokens: list[int]) -> memoryview:
    """The state of a file that is known to hold these tokens. Raises `UnusableError`, `OSError`."""
    with _opened(path) as file:
        header = _read_header(file, fingerprint)
        state = memoryview(bytearray(os.fstat(file.fileno()).st_size - file.tell()))
        filled = 0
        while filled < state.nbytes:
            count = file.readinto(state[filled : filled + limits.PREFIX_CHUNK_BYTES])
            if not count:
                raise UnusableError("it is cut off")
            filled += count
    if _checksum(state) != header.state_checksum:
        raise UnusableError("its checksum is wrong")
    if _tokens(header) != tokens:
        raise UnusableError("it holds other tokens than before")
    return state


def _opened(path: Path) -> FileIO:
    # Non-blocking: a FIFO under this name must not hang the worker.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123 - a descriptor, and the caller's to close


def _read_header(file: FileIO, fingerprint: str) -> _Header:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise UnusableError("it is no file of ours")
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise UnusableError("it is cut off")
    magic, header_bytes, state_bytes, checksum = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise UnusableError("it is of another version")
    if header_bytes > limits.PREFIX_HEADER_BYTES_MAX or state_bytes > limits.PREFIX_FILE_BYTES_MAX:
        raise UnusableError("it is too large")
    if found.st_size != _HEAD.size + header_bytes + state_bytes:
        raise UnusableError("it is cut off")
    data = file.read(header_bytes)
    if _checksum(data) != checksum:
        raise UnusableError("its checksum is wrong")
    try:
        header = msgspec.msgpack.decode(data, type=_Header)
    except msgspec.MsgspecError as error:
        raise UnusableError(f"its header is no header: {error}") from error
    if header.fingerprint != fingerprint:
        raise UnusableError("it is of another model, backend or setting")
    return header


def _tokens(header: _Header) -> list[int]:
    whole_bytes = len(header.tokens) - len(header.tokens) % _TOKEN_BYTES
    return array("i", header.tokens[:whole_bytes]).tolist()


def _checksum(data: bytes | memoryview) -> bytes:
    # Processors compute this one themselves: twice as fast as others here, and all of a state goes through it.
    return hashlib.sha256(data).digest()
