"""Whether a GGUF file is whole, from its header alone: magic, version, counts, and that all tensor data fits into the file.

Reads through a small window instead of mapping the file: a file that is cut while it is mapped kills its reader with SIGBUS,
and this runs in the supervisor. Does not judge whether a backend knows the architecture: the worker finds that out, isolated.
"""

import os
import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

import msgspec

from lmx_supervisor.catalog.refusals import incomplete, unknown_kind

MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_KEYS_MAX = 65_536
_TENSORS_MAX = 65_536
_DIMENSIONS_MAX = 4
_ELEMENTS_MAX = 2**48
_STRING_BYTES_MAX = 16 * 1024**2
_ARRAY_ITEMS_MAX = 2**24
_WINDOW_BYTES = 1024**2
_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32

# Metadata value types: fixed sizes, and the two that are not.
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32 = 4
_STRING = 8
_ARRAY = 9
_UNSIGNED = frozenset({0, 2, 4, 10})
_SIGNED = frozenset({1, 3, 5, 11})
_KEPT_ITEMS_MAX = 4096
"""Longest array of numbers that is kept: one per layer."""

# Tensor types: (elements, bytes) of one block. An unlisted type is new: its data is only known to start inside the file.
_TENSOR_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17),
}  # fmt: skip


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What the header says of the file."""

    version: int
    tensors: int
    bytes_needed: int
    """Size the file must have to hold all tensor data."""
    data_bytes: int
    """Of the tensor data itself."""
    numbers: dict[str, tuple[int, ...]]
    """The metadata's whole numbers, and its arrays of them, by key."""
    lengths: dict[str, int]
    """How long its arrays of texts are, by key."""


class _HeaderCutError(Exception):
    """The file ends before its header does."""

    def __init__(self, bytes_needed: int) -> None:
        super().__init__(bytes_needed)
        self.bytes_needed = bytes_needed


class _HeaderDamagedError(Exception):
    """The header says something that cannot be."""


def check_gguf(path: Path) -> GgufHeader:
    """Read the header and prove that the file holds all the data it promises.

    Raises:
        Refusal: MODEL_INCOMPLETE for a truncated or damaged file, MODEL_UNSUPPORTED_BACKEND for an unknown version.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        window = _Window(file)
        try:
            header = _read_header(path, window)
        except _HeaderCutError as cut:
            missing = cut.bytes_needed - size_bytes
            raise incomplete(path, f"the file is cut off inside its header, at least {missing} bytes are missing") from None
        except _HeaderDamagedError as damage:
            raise incomplete(path, f"the GGUF header is damaged near byte {window.position}: {damage}") from None
    if header.bytes_needed > size_bytes:
        missing = header.bytes_needed - size_bytes
        raise incomplete(path, f"the file is cut off, {missing} of {header.bytes_needed} bytes are missing")
    return header


def _read_header(path: Path, window: "_Window") -> GgufHeader:
    window.skip(len(MAGIC))
    version = window.unsigned(4)
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "a big-endian GGUF file" if swapped in _VERSIONS else f"GGUF version {version}"
        raise unknown_kind(path, f"it is {what}, and LMX reads little-endian versions 2 and 3")
    tensors = _bounded(window.unsigned(8), _TENSORS_MAX, "tensors")
    keys = _bounded(window.unsigned(8), _KEYS_MAX, "metadata keys")
    numbers: dict[str, tuple[int, ...]] = {}
    lengths: dict[str, int] = {}
    _read_metadata(window, keys, numbers, lengths)
    (alignment,) = numbers.get(_ALIGNMENT_KEY, (_DEFAULT_ALIGNMENT,))
    data_bytes = max((_read_tensor_end(window) for _ in range(tensors)), default=0)
    data_start = -(-window.position // alignment) * alignment
    return GgufHeader(
        version=version,
        tensors=tensors,
        bytes_needed=data_start + data_bytes if tensors else window.position,
        data_bytes=data_bytes,
        numbers=numbers,
        lengths=lengths,
    )


def _read_metadata(window: "_Window", keys: int, numbers: dict[str, tuple[int, ...]], lengths: dict[str, int]) -> None:
    """Step over all metadata, and keep its whole numbers and the lengths of its lists of texts."""
    for _ in range(keys):
        name = window.take(_bounded(window.unsigned(8), _STRING_BYTES_MAX, "bytes of a key")).decode("utf-8", "replace")
        kind = window.unsigned(4)
        if kind == _STRING:
            window.skip_strings(1)
        elif kind == _ARRAY:
            item, items = window.unsigned(4), _bounded(window.unsigned(8), _ARRAY_ITEMS_MAX, "array items")
            if item == _STRING:
                lengths[name] = items
                window.skip_strings(items)
            elif items <= _KEPT_ITEMS_MAX:
                numbers[name] = tuple(_read_number(window, item) for _ in range(items))
            else:
                window.skip(items * _value_bytes(item))
        else:
            numbers[name] = (_read_number(window, kind),)
            if name == _ALIGNMENT_KEY and (kind != _UINT32 or not _is_power_of_two(numbers[name][0])):
                raise _HeaderDamagedError(f"alignment {numbers[name][0]} is not a power of two")


def _read_number(window: "_Window", kind: int) -> int:
    """A whole number; 0 for a value of another kind, which is stepped over."""
    raw = window.take(_value_bytes(kind))
    if kind in _UNSIGNED or kind in _SIGNED:
        return int.from_bytes(raw, "little", signed=kind in _SIGNED)
    return 0


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _read_tensor_end(window: "_Window") -> int:
    """Where one tensor ends, in bytes from the start of the tensor data."""
    window.skip_strings(1)
    dimensions = _bounded(window.unsigned(4), _DIMENSIONS_MAX, "dimensions")
    elements = _bounded(prod(window.unsigned(8) for _ in range(dimensions)), _ELEMENTS_MAX, "tensor elements")
    block_elements, block_bytes = _TENSOR_BLOCKS.get(window.unsigned(4), (1, 0))
    offset = window.unsigned(8)
    return offset + -(-elements // block_elements) * block_bytes


def _value_bytes(kind: int) -> int:
    if kind not in _VALUE_BYTES:
        raise _HeaderDamagedError(f"value type {kind} does not exist here")
    return _VALUE_BYTES[kind]


def _bounded(count: int, at_most: int, what: str) -> int:
    if count > at_most:
        raise _HeaderDamagedError(f"{count} {what}")
    return count


class _Window:
    """A forward-only view of a file that holds about a megabyte of it at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = b""
        self._offset = 0
        """Of the next unread byte in the buffer."""
        self._start = 0
        """Of the buffer in the file."""

    @property
    def position(self) -> int:
        """Of the next unread byte in the file."""
        return self._start + self._offset

    def take(self, count: int) -> bytes:
        self._ensure(count)
        taken = self._buffer[self._offset : self._offset + count]
        self._offset += count
        return taken

    def unsigned(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def skip(self, count: int) -> None:
        if self._offset + count <= len(self._buffer):
            self._offset += count
        else:
            self._start, self._offset, self._buffer = self.position + count, 0, b""
            self._file.seek(self._start)

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings. A tokenizer has hundreds of thousands, hence the inlined loop."""
        unpack_length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if self._offset + 8 > len(self._buffer):
                self._ensure(8)
            length: int = unpack_length(self._buffer, self._offset)[0]
            self._offset += 8
            if length > _STRING_BYTES_MAX:
                raise _HeaderDamagedError(f"a string of {length} bytes")
            if self._offset + length <= len(self._buffer):
                self._offset += length
            else:
                self.skip(length)

    def _ensure(self, count: int) -> None:
        """Have `count` unread bytes in the buffer, or raise `_HeaderCutError`."""
        if self._offset + count <= len(self._buffer):
            return
        self._start, self._buffer, self._offset = self.position, self._buffer[self._offset :], 0
        while len(self._buffer) < count:
            more = self._file.read(max(_WINDOW_BYTES, count - len(self._buffer)))
            if not more:
                raise _HeaderCutError(self._start + count)
            self._buffer += more
