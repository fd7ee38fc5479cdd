"""What a GGUF file promises, checked against what is there, before native code maps it.

llama.cpp trusts offsets once it has mapped a file, so a cut-off download can end in a crash instead of an error. This reads the
header only (no tensor data) and proves that every tensor lies inside the file. See also: the GGUF specification, version 3.
"""

import functools
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from lmx_protocol.errors import ErrorCode
from lmx_worker.backends.base import LoadError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT_BYTES = 32
_DIMENSIONS_MAX = 4
_HEADERS_KEPT = 64
_ARRAY_TYPE = 9
_STRING_TYPE = 8
_SCALAR_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TENSOR_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""Tensor type → (elements per block, bytes per block). A newer type is taken to need at least one byte."""
_SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The checked header of one file."""

    architecture: str
    file_bytes: int
    needed_bytes: int
    """Where the last tensor ends; at most `file_bytes`."""
    pooling: int | None = None
    """How an embedding model makes one vector of many, in llama.cpp's numbers; None: it does not say."""
    is_causal: bool = True
    """Each token sees only those before it."""


def model_files(path: Path) -> list[Path]:
    """All files of a model: the file itself, or every part of a split one (`...-00001-of-00003.gguf`), in order.

    Raises:
        LoadError: the path is no file, or a part is missing.
    """
    match = _SPLIT_NAME.fullmatch(path.name)
    parts = [path]
    if match is not None:
        stem, count = match["stem"], int(match["count"])
        parts = [path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    for part in parts:
        if not part.exists():
            code = ErrorCode.MODEL_NOT_FOUND if part == path else ErrorCode.MODEL_INCOMPLETE
            raise LoadError(code, f"{part} does not exist")
        if not part.is_file():
            raise LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{part} is not a file; a GGUF model is one file")
    return parts


def check_gguf(path: Path) -> GgufHeader:
    """Read and check one file.

    Raises:
        LoadError: MODEL_PROBE_FAILED when it is no GGUF file, MODEL_INCOMPLETE when it ends before its tensors do.
    """
    try:
        seen = path.stat()
        return _checked(path, seen.st_size, seen.st_mtime_ns)
    except OSError as error:
        raise LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{path} cannot be read: {error.strerror or error}") from error


@functools.lru_cache(maxsize=_HEADERS_KEPT)
def _checked(path: Path, file_bytes: int, _modified_ns: int) -> GgufHeader:
    """Kept, because one load looks at a header twice: first to see what kind of model it is, then to load it."""
    if file_bytes == 0:
        raise LoadError(ErrorCode.MODEL_INCOMPLETE, f"{path} is empty")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _HeaderReader(data, path).read()
    except struct.error as error:
        raise LoadError(ErrorCode.MODEL_INCOMPLETE, f"{path} is cut off inside its header ({file_bytes} bytes)") from error
    if header.needed_bytes > header.file_bytes:
        raise LoadError(
            ErrorCode.MODEL_INCOMPLETE,
            f"{path} is cut off: its tensors end at byte {header.needed_bytes}, the file has {header.file_bytes}",
        )
    return header


class _HeaderReader:
    """A cursor over the header. Every loop consumes bytes, so a lying count ends at the end of the file (`struct.error`)."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = 0

    def read(self) -> GgufHeader:
        if self._data[:4] != _MAGIC:
            raise self._broken("it does not begin with 'GGUF'")
        self._at = len(_MAGIC)
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise self._broken(f"version {version} is not supported (or the file is big-endian)")
        tensor_count, field_count = self._scalar("<Q"), self._scalar("<Q")
        fields: dict[str, object] = {}
        for _ in range(field_count):
            key = self._string()
            fields[key] = self._value(self._scalar("<I"))
        ends = [self._tensor_end() for _ in range(tensor_count)]
        alignment = fields.get("general.alignment", _DEFAULT_ALIGNMENT_BYTES)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._broken("its alignment is not a positive number")
        data_start = -(-self._at // alignment) * alignment
        architecture = fields.get("general.architecture")
        pooling = fields.get(f"{architecture}.pooling_type")
        return GgufHeader(
            architecture=architecture if isinstance(architecture, str) else "",
            pooling=pooling if isinstance(pooling, int) else None,
            is_causal=bool(fields.get(f"{architecture}.attention.causal", True)),
            file_bytes=len(self._data),
            needed_bytes=data_start + max(ends) if ends else self._at,
        )

    def _scalar(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return int(value)

    def _string(self) -> str:
        length = self._scalar("<Q")
        self._skip(length)
        return self._data[self._at - length : self._at].decode("utf-8", "replace")

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise struct.error("past the end of the file")

    def _value(self, kind: int) -> object:
        if kind == _STRING_TYPE:
            return self._string()
        if kind == _ARRAY_TYPE:
            self._skip_array()
            return None
        return self._scalar(self._scalar_format(kind))

    def _skip_array(self) -> None:
        kind, count = self._scalar("<I"), self._scalar("<Q")
        if kind != _STRING_TYPE:
            self._skip(count * struct.calcsize(self._scalar_format(kind)))
            return
        for _ in range(count):
            self._skip(self._scalar("<Q"))

    def _scalar_format(self, kind: int) -> str:
        layout = _SCALAR_FORMATS.get(kind)
        if layout is None:
            raise self._broken(f"it has a metadata field of unknown type {kind}")
        return layout

    def _tensor_end(self) -> int:
        """Where a tensor ends, in bytes from the start of the tensor data."""
        name = self._string()
        dimensions = self._scalar("<I")
        if dimensions > _DIMENSIONS_MAX:
            raise self._broken(f"tensor {name!r} has {dimensions} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= self._scalar("<Q")
        kind, offset = self._scalar("<I"), self._scalar("<Q")
        block_elements, block_bytes = _TENSOR_BLOCKS.get(kind, (elements, 1))
        return offset + -(-elements // max(block_elements, 1)) * block_bytes

    def _broken(self, reason: str) -> LoadError:
        return LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{self._path} is not a usable GGUF file: {reason}")
