"""Embeddings and rankings on MLX: the hidden states below a decoder's head, pooled to one vector per input.

How is what the directory says in the way of sentence-transformers (`1_Pooling/config.json`): such a model only embeds. A model
that says nothing generates, and embeds beside that with the mean of its last hidden states, as the llama.cpp backend does.
"""

import gc
import json
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, ModelFacts, ModelSpec, Usage
from lmx_protocol.states import BackendName, ComputeSharing, ModelTask
from lmx_worker.backends.base import Delta, LoadError, LoadProgressCallback, PreparedInputs
from lmx_worker.backends.combined import CombinedBackend, Reader
from lmx_worker.backends.input_jobs import InputJobs, Piece
from lmx_worker.backends.input_prompts import InputEncoder
from lmx_worker.backends.mlx.backend import MlxBackend
from lmx_worker.backends.mlx.loading import LoadedModel, load_model
from lmx_worker.backends.vectors import Vector

_POOLING_FILE = Path("1_Pooling", "config.json")
_POOLING_FILE_BYTES_MAX = 64 * 1024
_INPUTS_PER_STEP_MAX = 64

HiddenStates = Callable[..., Any]
"""(token ids of shape (inputs, tokens), cache) → states of shape (inputs, tokens, dimensions)."""


class Pooling(StrEnum):
    """How one vector is made of an input's hidden states."""

    MEAN = "pooling_mode_mean_tokens"
    LAST = "pooling_mode_lasttoken"
    FIRST = "pooling_mode_cls_token"


def pooling_of(directory: Path) -> Pooling | None:
    """What the directory says; None: nothing. Raises `LoadError` for what this backend cannot do."""
    path = directory / _POOLING_FILE
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_POOLING_FILE_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{path} cannot be read: {error}") from error
    flags = said.items() if isinstance(said, dict) else ()
    modes = [mode for mode, is_set in flags if mode.startswith("pooling_mode_") and is_set]
    if len(modes) != 1 or modes[0] not in list(Pooling):
        kinds = ", ".join(modes) or "nothing"
        message = f"{path} asks for {kinds}; the mlx backend pools by one of {', '.join(Pooling)}"
        raise LoadError(ErrorCode.MODEL_UNSUPPORTED_BACKEND, message)
    return Pooling(modes[0])


class MlxReader:
    """See `lmx_worker.backends.combined.Reader`."""

    def __init__(
        self, loaded: LoadedModel, states: HiddenStates, spec: ModelSpec, pooling: Pooling, *, dimensions: int
    ) -> None:
        self._model = loaded.model
        self._states: HiddenStates | None = states
        self._pooling = pooling
        self._dimensions = dimensions
        self._cache: Any = None
        """Of an input that comes in several steps."""
        self._sum: Any = 0
        self._first: Any = None
        tokenizer = loaded.tokenizer
        self._encoder = InputEncoder(
            # What looks like a control token in a text is text.
            tokenize=lambda text: list(tokenizer.encode(text, split_special_tokens=True)),
            context_length=loaded.context_length,
            vocabulary_size=loaded.vocabulary_size,
            dimensions=dimensions,
        )
        self._jobs = InputJobs(budget_tokens=spec.prefill_chunk_tokens, inputs_max=_INPUTS_PER_STEP_MAX, cuts=True, pads=True)

    @property
    def tasks(self) -> tuple[ModelTask, ...]:
        """See `Reader.tasks`."""
        return (ModelTask.EMBED, ModelTask.RANK)

    @property
    def dimensions(self) -> int:
        """See `Reader.dimensions`."""
        return self._dimensions

    @property
    def tokens_done(self) -> int:
        """See `Reader.tokens_done`."""
        return self._jobs.tokens_done

    def __len__(self) -> int:
        return len(self._jobs)

    def prepare(self, request: AnyRequest) -> PreparedInputs:
        """See `Reader.prepare`."""
        return self._encoder.prepare(request)

    def insert(self, prepared: PreparedInputs) -> None:
        """See `Reader.insert`."""
        self._jobs.insert(prepared, time.monotonic())

    def step(self) -> list[Delta]:
        """See `Reader.step`. Raises whatever MLX raises; then every request in it must be removed."""
        pieces = self._jobs.take()
        if not pieces:
            return []
        is_whole = pieces[0].start == 0 and pieces[0].completes
        vectors = self._compute_whole(pieces) if is_whole else self._compute_part(pieces[0])
        return self._jobs.done(pieces, vectors, time.monotonic())

    def use_threads(self, threads: int) -> None:
        """See `Backend.use_threads`: MLX takes those it wants."""

    def remove(self, request_id: str) -> Usage | None:
        """See `Reader.remove`."""
        return self._jobs.remove(request_id)

    def close(self) -> None:
        """Let go of the model."""
        self._model = self._states = self._cache = None

    def _compute_whole(self, pieces: Sequence[Piece]) -> list[Vector]:
        """Several inputs at once. Padding at the end changes nothing before it: no token sees a later one."""
        import mlx.core as mx

        lengths = [len(piece.tokens) for piece in pieces]
        longest = max(lengths)
        assert self._states is not None, "a step after the close"
        states = self._states(mx.array([[*piece.tokens, *[0] * (longest - len(piece.tokens))] for piece in pieces]))
        states = states.astype(mx.float32)
        if self._pooling is Pooling.MEAN:
            is_text = mx.arange(longest)[None, :] < mx.array(lengths)[:, None]
            pooled = mx.where(is_text[:, :, None], states, 0).sum(axis=1) / mx.array(lengths)[:, None]
        else:
            places = [0 if self._pooling is Pooling.FIRST else length - 1 for length in lengths]
            pooled = states[mx.arange(len(pieces)), mx.array(places)]
        rows: Any = pooled.tolist()
        return list(rows)

    def _compute_part(self, piece: Piece) -> list[Vector]:
        """The next tokens of one long input."""
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        if piece.start == 0:
            self._cache = make_prompt_cache(self._model)
            self._sum = 0
        assert self._states is not None, "a step after the close"
        states = self._states(mx.array([list(piece.tokens)]), cache=self._cache).astype(mx.float32)[0]
        if piece.start == 0:
            self._first = states[0]
        self._sum = self._sum + states.sum(axis=0)
        mx.eval(self._sum, self._first, [layer.state for layer in self._cache])
        if not piece.completes:
            return []
        total = piece.start + len(piece.tokens)
        pooled = {Pooling.MEAN: self._sum / total, Pooling.LAST: states[-1], Pooling.FIRST: self._first}[self._pooling]
        self._cache = None
        row: Any = pooled.tolist()
        return [row]


class MlxReaders:
    """See `lmx_worker.backends.combined.ReaderSource`."""

    def __init__(self, generator: MlxBackend) -> None:
        self._generator = generator

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> tuple[Reader, ModelFacts] | None:
        """See `ReaderSource.load`."""
        pooling = pooling_of(Path(spec.path))
        if pooling is None:
            return None
        loaded = load_model(spec, progress)
        reader = _reader(loaded, spec, pooling, _OwningReader)
        if reader is None:
            message = f"{spec.path}: mlx-lm's {loaded.files.model_type} does not show its hidden states"
            raise LoadError(ErrorCode.MODEL_UNSUPPORTED_BACKEND, message)
        facts = ModelFacts(
            backend=BackendName.MLX,
            backend_version=self._generator.import_libraries(),
            architecture=loaded.files.model_type,
            context_length=loaded.context_length,
            train_context_length=loaded.train_context_length,
            vocabulary_size=loaded.vocabulary_size,
            parameters=loaded.parameters,
            weights_bytes=loaded.weights_bytes,
            slots=spec.slots,
            has_chat_template=False,
            tasks=reader.tasks,
            embedding_dimensions=reader.dimensions,
            sharing=ComputeSharing.TIME,
        )
        return reader, facts

    def beside_generator(self, spec: ModelSpec) -> Reader | None:
        """See `ReaderSource.beside_generator`."""
        loaded = self._generator.loaded
        assert loaded is not None
        return _reader(loaded, spec, Pooling.MEAN, MlxReader)


class _OwningReader(MlxReader):
    """The only user of its model."""

    def close(self) -> None:
        """Free the model."""
        import mlx.core as mx

        super().close()
        gc.collect()
        mx.clear_cache()


def create_backend() -> CombinedBackend:
    """The whole MLX backend: it generates, embeds and ranks."""
    generator = MlxBackend()
    return CombinedBackend(generator, MlxReaders(generator))


def _reader(loaded: LoadedModel, spec: ModelSpec, pooling: Pooling, kind: type[MlxReader]) -> MlxReader | None:
    """A reader, or None where the model does not have its body under the usual name, or the body does not give states."""
    import mlx.core as mx

    states = getattr(loaded.model, "model", None)
    if not callable(states):
        return None
    try:
        shape = states(mx.array([[0]])).shape
    # The body is the model's own code, called in a way that its author need not have thought of.
    except Exception:
        return None
    if len(shape) != 3 or shape[-1] == loaded.vocabulary_size:
        return None
    return kind(loaded, states, spec, pooling, dimensions=int(shape[-1]))
