"""An MLX model directory, checked before any native code reads it: what is there, what is missing, what was cut off.

Every finding is a `LoadError` that names the file, so that an operator can fix it; MLX itself would report a generic failure at
best, and a bus error while paging in a truncated shard at worst.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_worker.backends.base import LoadError

_INDEX_NAME = "model.safetensors.index.json"
_SHARD_PATTERN = "model*.safetensors"
_TOKENIZER_PATTERNS = ("tokenizer.json", "tokenizer.model", "vocab.json", "*.tiktoken", "tiktoken.model")
_HEADER_BYTES_MAX = 100_000_000  # the bound of the safetensors format itself


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory whose files are complete."""

    directory: Path
    config: dict[str, Any]
    model_type: str
    shards: tuple[Path, ...]
    weights_bytes: int
    """Size of all shards on disk."""


def check_model_directory(path: str) -> ModelFiles:
    """What `path` holds, once configuration, every shard and a tokenizer are known to be there and whole.

    Raises:
        LoadError: `MODEL_NOT_FOUND` (no such directory), `MODEL_INCOMPLETE` (a file is missing, truncated or not readable).
    """
    directory = Path(path)
    if not directory.exists():
        raise LoadError(ErrorCode.MODEL_NOT_FOUND, f"{directory} does not exist")
    if not directory.is_dir():
        raise _incomplete(f"{directory} is a file; an MLX model is a directory with config.json and *.safetensors")
    config = _read_json_object(directory / "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise _incomplete(f"{directory / 'config.json'} names no model_type")
    shards = _find_shards(directory)
    for shard in shards:
        _check_shard(shard)
    if not any(True for pattern in _TOKENIZER_PATTERNS for _ in directory.glob(pattern)):
        raise _incomplete(f"{directory} has no tokenizer (looked for {', '.join(_TOKENIZER_PATTERNS)})")
    return ModelFiles(
        directory=directory,
        config=config,
        model_type=model_type,
        shards=shards,
        weights_bytes=sum(shard.stat().st_size for shard in shards),
    )


def train_context_length(config: dict[str, Any]) -> int:
    """Tokens per sequence the model was trained for, as its configuration says; 0 where it does not say."""
    for section in (config, config.get("text_config")):
        if not isinstance(section, dict):
            continue
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"):
            value = section.get(name)
            if isinstance(value, int) and value > 0:
                return value
    return 0


def _find_shards(directory: Path) -> tuple[Path, ...]:
    index = directory / _INDEX_NAME
    shards = set(directory.glob(_SHARD_PATTERN))
    if index.exists():
        weight_map = _read_json_object(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise _incomplete(f"{index} has no weight_map")
        listed = {directory / str(name) for name in weight_map.values()}
        missing = sorted(shard.name for shard in listed if not shard.is_file())
        if missing:
            raise _incomplete(f"{len(missing)} of {len(listed)} files listed in {index} are missing: {', '.join(missing[:3])}")
    if not shards:
        raise _incomplete(f"{directory} has no {_SHARD_PATTERN} file")
    return tuple(sorted(shards))


def _check_shard(shard: Path) -> None:
    """A safetensors file is an 8-byte header length, a JSON header with the extent of every tensor, and the tensors."""
    size = shard.stat().st_size
    try:
        with shard.open("rb") as file:
            prefix = file.read(8)
            header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= header_bytes <= min(_HEADER_BYTES_MAX, size - 8):
                raise _incomplete(f"{shard} is truncated or no safetensors file ({size} bytes)")
            header = json.loads(file.read(header_bytes))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except OSError as error:
        raise _incomplete(f"{shard} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _incomplete(f"{shard} has no valid safetensors header") from error
    wanted = 8 + header_bytes + max(ends, default=0)
    if size < wanted:
        raise _incomplete(f"{shard} is truncated: {size} of {wanted} bytes")


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _incomplete(f"{path} is missing") from error
    except OSError as error:
        raise _incomplete(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _incomplete(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _incomplete(f"{path} holds no JSON object")
    return value


def _incomplete(message: str) -> LoadError:
    return LoadError(ErrorCode.MODEL_INCOMPLETE, message)
