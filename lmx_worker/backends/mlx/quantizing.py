"""Writing a quantized copy of an MLX model, a shard at a time.

mlx-lm's own `convert` does the same without telling how far it is, and keeps 5 GB shards in memory. Here the weights are read,
quantized and written piece by piece: what it costs is about one shard of the copy and the source of one piece.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_worker.backends.base import LoadError
from lmx_worker.backends.mlx.files import ModelFiles
from lmx_worker.backends.mlx.libraries import import_mlx
from lmx_worker.backends.mlx.loading import check_files, load_failures, open_lazily, open_tokenizer

EnterPhase = Callable[[str, int, int], None]
"""Told (what is being done, bytes done, bytes in all)."""

_PIECE_BYTES = 64 * 1024**2
_INDEX_NAME = "model.safetensors.index.json"
_COPIED_SUFFIXES = frozenset({".json", ".jinja", ".model", ".tiktoken", ".txt"})
_NOT_COPIED = frozenset({"config.json", _INDEX_NAME, "hf_quant_config.json"})
_DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights are to be written."""

    bits: int
    group_size: int
    mode: str


def write_quantized(source: str, target: Path, how: Quantization, enter: EnterPhase, check_room: Callable[[int], None]) -> int:
    """Fill the directory `target` with the copy, opened once to prove that it is a model; returns its bytes.

    `check_room` is told how many bytes are about to be written, and raises when they do not fit. Raises `LoadError`, `OSError`.
    """
    enter("importing", 0, 0)
    import_mlx()
    enter("opening", 0, 0)
    files = check_files(source)
    with load_failures(files):
        model, config = open_lazily(files)
        config = _quantize(model, config, how)
    copied = _files_to_copy(files)
    check_room(_weights_bytes(model) + sum(path.stat().st_size for path in copied))
    with _compute_failures(files):
        _write_weights(model, target, enter)
    _write_config(config, target)
    for path in copied:
        shutil.copyfile(path, target / path.name)
    enter("checking", 0, 0)
    _check(target)
    written = [path for path in target.iterdir() if path.is_file()]
    for path in (*written, target):
        _sync(path)
    return sum(path.stat().st_size for path in written)


def _quantize(model: Any, config: dict[str, Any], how: Quantization) -> dict[str, Any]:
    """Change the model in place, without reading a weight; returns the configuration that says so."""
    from mlx_lm.utils import quantize_model

    if _is_quantized(model):
        text = "it is quantized already, and doing it twice would only lose more; choose the original model"
        raise LoadError(ErrorCode.NOT_SUPPORTED, text)
    _cast(model, config)
    _, quantized = quantize_model(model, config, how.group_size, how.bits, mode=how.mode)
    if not _is_quantized(model):
        text = f"no layer of it is a multiple of {how.group_size} wide; choose a smaller group_size"
        raise LoadError(ErrorCode.NOT_SUPPORTED, text)
    return dict(quantized)


def _is_quantized(model: Any) -> bool:
    from mlx.utils import tree_flatten

    return any(name.endswith(".scales") for name, _ in tree_flatten(model.parameters()))


def _cast(model: Any, config: dict[str, Any]) -> None:
    """To the type that the configuration names, which is what the model is computed in."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    text = config.get("text_config")
    name = config.get("torch_dtype") or (text.get("dtype") if isinstance(text, dict) else None)
    if name not in _DTYPES:
        return
    may_cast = getattr(model, "cast_predicate", lambda _: True)

    def cast(path: str, weight: Any) -> Any:
        is_number = mx.issubdtype(weight.dtype, mx.floating)
        return weight.astype(getattr(mx, name)) if is_number and may_cast(path) else weight

    model.update(tree_map_with_path(cast, model.parameters()))


def _weights_bytes(model: Any) -> int:
    from mlx.utils import tree_flatten

    return sum(int(weight.nbytes) for _, weight in tree_flatten(model.parameters()))


def _write_weights(model: Any, target: Path, enter: EnterPhase) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.utils import make_shards

    weights = dict(tree_flatten(model.parameters()))
    total_bytes = sum(int(weight.nbytes) for weight in weights.values())
    shards = make_shards(weights, limits.QUANTIZE_SHARD_BYTES // 1024**3)
    # From here on a shard's weights are kept by the shard alone.
    weights.clear()
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))
    weight_map: dict[str, str] = {}
    # Every byte is computed, then written.
    done_bytes = 0
    count = len(shards)
    for number in range(1, count + 1):
        shard = shards.pop(0)
        done_bytes = _compute(shard, done_bytes, lambda done: enter("quantizing", done, 2 * total_bytes))
        name = f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
        mx.save_safetensors(str(target / name), shard, metadata={"format": "mlx"})
        done_bytes += sum(int(weight.nbytes) for weight in shard.values())
        weight_map |= dict.fromkeys(shard, name)
        shard.clear()
        mx.clear_cache()
        enter("quantizing", done_bytes, 2 * total_bytes)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (target / _INDEX_NAME).write_text(json.dumps(index, indent=1), encoding="utf-8")


@contextmanager
def _compute_failures(files: ModelFiles) -> Iterator[None]:
    """What MLX raises while it reads, computes and writes: of files, of shapes and of the disk alike."""
    try:
        yield
    except MemoryError as error:
        raise LoadError(ErrorCode.INSUFFICIENT_MEMORY, f"quantizing {files.directory} does not fit: {error}") from error
    except (RuntimeError, ValueError) as error:
        raise LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{files.directory} cannot be quantized: {error}") from error


def _compute(shard: dict[str, Any], done_bytes: int, moved: Callable[[int], None]) -> int:
    import mlx.core as mx

    pending: list[Any] = []
    pending_bytes = 0
    for weight in shard.values():
        pending.append(weight)
        pending_bytes += int(weight.nbytes)
        if pending_bytes >= _PIECE_BYTES:
            mx.eval(pending)
            done_bytes += pending_bytes
            pending, pending_bytes = [], 0
            moved(done_bytes)
    mx.eval(pending)
    moved(done_bytes + pending_bytes)
    return done_bytes + pending_bytes


def _write_config(config: dict[str, Any], target: Path) -> None:
    from mlx_lm.utils import save_config

    save_config(config, target / "config.json")


def _files_to_copy(files: ModelFiles) -> list[Path]:
    """Tokenizer, chat template and what else is small and no weights. Code is none of it: LMX runs nobody's."""
    return [
        path
        for path in sorted(files.directory.iterdir())
        if path.suffix in _COPIED_SUFFIXES
        and path.name not in _NOT_COPIED
        and not path.name.startswith(".")
        and path.is_file()
        and path.stat().st_size <= limits.QUANTIZE_COPIED_FILE_BYTES_MAX
    ]


def _check(target: Path) -> None:
    files = check_files(str(target))
    with load_failures(files):
        _, config = open_lazily(files)
        open_tokenizer(files, config)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
