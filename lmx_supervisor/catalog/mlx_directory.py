"""Whether an MLX model directory is whole: config.json, every safetensors shard to its last byte, a tokenizer.

Like the GGUF check it reads headers only, and leaves it to the isolated worker whether the architecture can be served.
"""

import os
import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from lmx_supervisor.catalog.refusals import incomplete, unknown_kind

Decoded = TypeVar("Decoded")

CONFIG_FILE = "config.json"

_INDEX_FILE = "model.safetensors.index.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt")
_SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.safetensors")
_JSON_BYTES_MAX = 32 * 1024**2
_SHARDS_MAX = 4096
_NAMED_MAX = 5


class _ModelConfig(msgspec.Struct, frozen=True):
    """The part of config.json without which nothing can be loaded."""

    model_type: str


class _Index(msgspec.Struct, frozen=True):
    """Which shard holds which tensor."""

    weight_map: dict[str, str]


class _Tensor(msgspec.Struct, frozen=True):
    """One entry of a safetensors header; `__metadata__` has none of these."""

    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]] = (0, 0)


class _BrokenFileError(Exception):
    """One file of the model is not what it should be; the text says how."""


def check_mlx_directory(directory: Path) -> None:
    """Prove that the directory holds a whole model.

    Raises:
        Refusal: MODEL_INCOMPLETE naming the files that are missing or cut off, MODEL_UNSUPPORTED_BACKEND for a config.json that
            describes no model.
        OSError: a file cannot be read.
    """
    try:
        _decode(directory / CONFIG_FILE, _ModelConfig)
    except _BrokenFileError as broken:
        raise unknown_kind(directory, f"{CONFIG_FILE} {broken}") from None
    shards = shard_names(directory)
    missing = [name for name in shards if not (directory / name).is_file()]
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        missing.append(_TOKENIZER_FILES[0])
    if missing:
        raise incomplete(directory, f"missing {_listed(missing)}")
    cut = [f"{name} {broken}" for name in shards for broken in _shard_problems(directory / name)]
    if cut:
        raise incomplete(directory, _listed(cut))


def shard_names(directory: Path) -> list[str]:
    """The files with the weights. Raises `Refusal` MODEL_INCOMPLETE when they cannot be told."""
    if (directory / _INDEX_FILE).is_file():
        try:
            names = sorted(set(_decode(directory / _INDEX_FILE, _Index).weight_map.values()))
        except _BrokenFileError as broken:
            raise incomplete(directory, f"{_INDEX_FILE} {broken}") from None
        if any(Path(name).name != name for name in names):
            raise incomplete(directory, f"{_INDEX_FILE} names files outside the directory")
    else:
        names = _with_all_parts(sorted(path.name for path in directory.glob("*.safetensors")))
    if not names:
        raise incomplete(directory, "missing model.safetensors")
    if len(names) > _SHARDS_MAX:
        raise incomplete(directory, f"{len(names)} shards are more than {_SHARDS_MAX}")
    return names


def _with_all_parts(names: list[str]) -> list[str]:
    """The names, and those that their own `-00001-of-00003` says must be there too."""
    complete = set(names)
    for match in filter(None, map(_SHARD_NAME.fullmatch, names)):
        parts = min(int(match["parts"]), _SHARDS_MAX)
        complete |= {f"{match['stem']}-{part:05d}-of-{match['parts']}.safetensors" for part in range(1, parts + 1)}
    return sorted(complete)


def _shard_problems(path: Path) -> list[str]:
    """What is wrong with one safetensors file; empty when it is whole."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(file.read(8), "little")
        if size_bytes < 8:
            return ["is cut off inside its header"]
        if header_bytes > _JSON_BYTES_MAX:
            return ["is not a safetensors file"]
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        return ["is cut off inside its header"]
    try:
        tensors = msgspec.json.decode(header, type=dict[str, _Tensor])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ["is not a safetensors file"]
    needed_bytes = 8 + header_bytes + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    return [f"lacks {needed_bytes - size_bytes} of {needed_bytes} bytes"] if needed_bytes > size_bytes else []


def read_config(directory: Path) -> dict[str, object]:
    """config.json of a whole model; empty when it is not a JSON object."""
    try:
        return _decode(directory / CONFIG_FILE, dict[str, object])
    except _BrokenFileError:
        return {}


def _decode(path: Path, kind: type[Decoded]) -> Decoded:
    with path.open("rb") as file:
        data = file.read(_JSON_BYTES_MAX + 1)
    if len(data) > _JSON_BYTES_MAX:
        raise _BrokenFileError(f"has more than {_JSON_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _BrokenFileError(f"cannot be used ({error})") from error


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
