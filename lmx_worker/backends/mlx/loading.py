"""Bringing an MLX model into memory: checked files, known architecture, weights evaluated piece by piece, one trial token."""

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_worker.backends.base import LoadError, LoadProgressCallback
from lmx_worker.backends.mlx.files import ModelFiles, check_model_directory, train_context_length

DEFAULT_CONTEXT_TOKENS = 4096
"""Context per sequence where neither the operator nor the model says; also the most taken unasked from a longer model."""

_PHASE = "weights"
_PIECE_BYTES = 64 * 1024**2
"""Weights are evaluated about this much at a time: steady progress on a slow disk, and no cost on a fast one."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that has computed one token, and what was learned on the way."""

    model: Any
    tokenizer: Any
    """mlx-lm's `TokenizerWrapper`."""
    files: ModelFiles
    context_length: int
    train_context_length: int
    vocabulary_size: int
    parameters: int
    weights_bytes: int
    sequence_bytes: int
    """Key-value bytes of one sequence that fills its context."""


def load_model(spec: ModelSpec, progress: LoadProgressCallback) -> LoadedModel:
    """Load the directory `spec.path`. Blocks for as long as the disk takes; `progress` counts bytes of weights.

    Raises:
        LoadError: see `check_model_directory`; also `MODEL_UNSUPPORTED_ARCH` (mlx-lm has no such model), `INVALID_VALUE`
            (`kv_bits`), `MODEL_UNSUPPORTED_BACKEND` (its cache cannot be batched), `INSUFFICIENT_MEMORY`,
            `MODEL_PROBE_FAILED` (everything else).
    """
    if spec.kv_bits != 16:
        raise LoadError(ErrorCode.INVALID_VALUE, f"kv_bits is {spec.kv_bits}, but mlx-lm batches 16-bit caches only; use 16")
    files = check_files(spec.path)
    with load_failures(files):
        return _load(files, spec, progress)


def check_files(path: str) -> ModelFiles:
    """The directory's files, whole and of an architecture that mlx-lm has. Raises `LoadError`."""
    files = check_model_directory(path)
    _check_architecture(files)
    return files


@contextmanager
def load_failures(files: ModelFiles) -> Iterator[None]:
    """Whatever a model's code, its tokenizer or MLX raises while it is opened means the same: it cannot be served."""
    try:
        yield
    except LoadError:
        raise
    except MemoryError as error:
        raise _does_not_fit(files, error) from error
    except Exception as error:
        if isinstance(error, RuntimeError) and "malloc" in str(error):  # all that MLX's allocator says of itself
            raise _does_not_fit(files, error) from error
        raise LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{files.directory} does not load: {error}") from error


def open_lazily(files: ModelFiles) -> tuple[Any, dict[str, Any]]:
    """The model and its configuration: every weight is known by name, shape and type, and none is read yet."""
    from mlx_lm.utils import load_model as load_lazily

    model, config = load_lazily(files.directory, lazy=True)
    return model, config


def open_tokenizer(files: ModelFiles, config: dict[str, Any]) -> Any:
    """mlx-lm's `TokenizerWrapper`, from the directory alone."""
    from mlx_lm.utils import load_tokenizer

    offline = {"trust_remote_code": False, "local_files_only": True}
    return load_tokenizer(files.directory, offline, eos_token_ids=config.get("eos_token_id"))


def check_cache(model: Any) -> list[Any]:
    """A prompt cache of the model, one that can be batched. Raises `LoadError`."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    if not all(hasattr(layer, "merge") for layer in cache):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in cache}))
        raise LoadError(ErrorCode.MODEL_UNSUPPORTED_BACKEND, f"mlx-lm cannot batch this model's cache ({kinds})")
    return list(cache)


def _does_not_fit(files: ModelFiles, error: Exception) -> LoadError:
    return LoadError(
        ErrorCode.INSUFFICIENT_MEMORY, f"{files.directory} ({files.weights_bytes} bytes of weights) does not fit: {error}"
    )


def _load(files: ModelFiles, spec: ModelSpec, progress: LoadProgressCallback) -> LoadedModel:
    from mlx_lm.utils import get_total_parameters

    progress(_PHASE, 0, files.weights_bytes)
    model, config = open_lazily(files)
    weights_bytes = _evaluate_weights(model, files.weights_bytes, progress)
    tokenizer = open_tokenizer(files, config)
    trained = train_context_length(config)
    context = min(spec.context_length or DEFAULT_CONTEXT_TOKENS, trained or spec.context_length or DEFAULT_CONTEXT_TOKENS)
    vocabulary_size, bytes_per_token = _try_one_token(model)
    progress(_PHASE, files.weights_bytes, files.weights_bytes)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        files=files,
        context_length=context,
        train_context_length=trained or context,
        vocabulary_size=vocabulary_size,
        parameters=int(get_total_parameters(model)),
        weights_bytes=weights_bytes,
        sequence_bytes=math.ceil(bytes_per_token * context),
    )


def _check_architecture(files: ModelFiles) -> None:
    from mlx_lm.utils import MODEL_REMAPPING

    module = str(MODEL_REMAPPING.get(files.model_type, files.model_type))
    if "model_file" in files.config:
        raise LoadError(
            ErrorCode.MODEL_UNSUPPORTED_ARCH, f"{files.directory} wants to run its own code ({files.config['model_file']})"
        )
    if not module.isidentifier() or importlib.util.find_spec(f"mlx_lm.models.{module}") is None:
        raise LoadError(ErrorCode.MODEL_UNSUPPORTED_ARCH, f"mlx-lm knows no model_type {files.model_type!r}")


def _evaluate_weights(model: Any, file_bytes: int, progress: LoadProgressCallback) -> int:
    """MLX reads weights when they are first needed; need them now. Returns their bytes in memory."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    done = pending_bytes = 0
    pending: list[Any] = []
    for _, weight in tree_flatten(model.parameters()):
        pending.append(weight)
        pending_bytes += weight.nbytes
        if pending_bytes >= _PIECE_BYTES:
            mx.eval(pending)
            done += pending_bytes
            pending, pending_bytes = [], 0
            progress(_PHASE, min(done, file_bytes), file_bytes)
    mx.eval(pending)
    return done + pending_bytes


def _try_one_token(model: Any) -> tuple[int, float]:
    """Compute one token, which proves that the weights fit the architecture. Returns (vocabulary size, KV bytes per token)."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache

    cache = check_cache(model)
    logits = model(mx.array([[0]]), cache=cache)
    mx.eval(logits)
    # Caches grow by whole steps, so the first token already allocates the room of `KVCache.step` tokens.
    return int(logits.shape[-1]), sum(layer.nbytes for layer in cache) / KVCache.step
