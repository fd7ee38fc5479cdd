"""Embeddings and rankings on llama.cpp: a context of its own, several inputs per step, the vectors read out of it.

How one vector is made of many ("pooling") is what the file says. Where it says nothing, or the mean of a causal model, the mean
is taken here over the rows of all tokens, because llama.cpp takes it within one batch only and a long input comes in several.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import EMBEDDING_DIMENSIONS_MAX
from lmx_protocol.messages import AnyRequest, ModelFacts, ModelSpec, Usage
from lmx_protocol.states import ModelTask, RankMethod
from lmx_worker.backends.base import Delta, LoadError, LoadProgressCallback, PreparedInputs, RequestError
from lmx_worker.backends.combined import CombinedBackend, Reader
from lmx_worker.backends.input_jobs import InputJobs, Piece
from lmx_worker.backends.input_prompts import InputEncoder
from lmx_worker.backends.llamacpp.backend import CONTEXT_LENGTH, LlamaCppBackend
from lmx_worker.backends.llamacpp.context import DecodeContext, DecodeFailedError
from lmx_worker.backends.llamacpp.gguf_header import GgufHeader, check_gguf, model_files
from lmx_worker.backends.llamacpp.native_log import capture_native_log
from lmx_worker.backends.llamacpp.pairs import PairEncoder
from lmx_worker.backends.llamacpp.weights import Weights, load_weights
from lmx_worker.backends.vectors import Vector

NO_POOLING, MEAN, RANK = 0, 1, 4
"""Of llama.cpp's pooling types, those that need something beside the context parameter."""
_LAST = 3

_INPUTS_PER_STEP_MAX = 64
_WHOLE_STATE_INPUTS_MAX = 4
"""For models that keep a state per sequence, which takes memory for each whether it is used or not."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How a model makes one vector of an input."""

    native: int
    """What llama.cpp is told; `NO_POOLING`: the mean is taken here."""
    cuts: bool
    """An input may be computed in several batches, because no token sees a later one."""

    @property
    def ranks(self) -> bool:
        """Whether what comes out is a score."""
        return self.native == RANK


def pooling_of(header: GgufHeader) -> Pooling:
    """As the file says, else the mean."""
    declared = header.pooling if header.pooling is not None and header.pooling > NO_POOLING else None
    if declared is None or (declared == MEAN and header.is_causal):
        return Pooling(NO_POOLING, cuts=header.is_causal)
    return Pooling(declared, cuts=header.is_causal and declared == _LAST)


def only_reads(header: GgufHeader) -> bool:
    """Whether a model embeds or ranks and does not generate: it says how it pools, or its tokens see those that follow."""
    return bool(header.pooling) or not header.is_causal


class LlamaCppReader:
    """See `lmx_worker.backends.combined.Reader`."""

    def __init__(self, api: Any, weights: Weights, spec: ModelSpec, pooling: Pooling, *, context_length: int) -> None:
        self._api = api
        self._weights = weights
        self._spec = spec
        self._pooling = pooling
        at_most = _WHOLE_STATE_INPUTS_MAX if weights.keeps_whole_sequences else _INPUTS_PER_STEP_MAX
        # llama.cpp aborts the process when a context has more sequences than its batch has tokens.
        self._inputs_max = min(at_most, spec.prefill_chunk_tokens)
        self._context_length = context_length
        self._context: DecodeContext | None = None
        self._threads = spec.threads or os.cpu_count() or 1
        self._sum: Any = 0
        """Of the rows of an input that comes in several batches, so far."""
        self._width = 1 if pooling.ranks else int(api.llama_model_n_embd_out(weights.handle))
        self._encoder = InputEncoder(
            tokenize=lambda text: weights.tokenize(text, add_special=True, parse_special=False),
            pair=PairEncoder(weights).tokens if pooling.ranks else None,
            context_length=context_length,
            vocabulary_size=weights.vocabulary_size,
            dimensions=self.dimensions,
        )
        self._jobs = InputJobs(
            budget_tokens=spec.prefill_chunk_tokens,
            inputs_max=self._inputs_max,
            cuts=pooling.cuts,
            ranks_by=RankMethod.CROSS_ENCODER if pooling.ranks else RankMethod.COSINE,
        )

    @property
    def tasks(self) -> tuple[ModelTask, ...]:
        """See `Reader.tasks`."""
        return (ModelTask.RANK,) if self._pooling.ranks else (ModelTask.EMBED, ModelTask.RANK)

    @property
    def dimensions(self) -> int:
        """See `Reader.dimensions`."""
        return 0 if self._pooling.ranks else self._width

    @property
    def tokens_done(self) -> int:
        """See `Reader.tokens_done`."""
        return self._jobs.tokens_done

    def __len__(self) -> int:
        return len(self._jobs)

    def open(self) -> None:
        """Have a context. Raises `LoadError` when there is no memory for it."""
        if self._context is None:
            self._context = self._open_context()

    def prepare(self, request: AnyRequest) -> PreparedInputs:
        """See `Reader.prepare`."""
        return self._encoder.prepare(request)

    def insert(self, prepared: PreparedInputs) -> None:
        """See `Reader.insert`. A model that generates gets its second context with the first request that needs it."""
        try:
            self.open()
        except LoadError as error:
            raise RequestError(error.code, str(error)) from error
        self._jobs.insert(prepared, time.monotonic())

    def step(self) -> list[Delta]:
        """See `Reader.step`. Raises `DecodeFailedError`; then every request in it must be removed."""
        pieces = self._jobs.take()
        if not pieces:
            return []
        return self._jobs.done(pieces, self._compute(pieces), time.monotonic())

    def use_threads(self, threads: int) -> None:
        """See `Backend.use_threads`."""
        self._threads = threads
        if self._context is not None:
            self._context.use_threads(threads)

    def remove(self, request_id: str) -> Usage | None:
        """See `Reader.remove`."""
        return self._jobs.remove(request_id)

    def close(self) -> None:
        """Free the context; idempotent. The weights belong to whoever loaded them."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def _compute(self, pieces: Sequence[Piece]) -> list[Vector]:
        context = self._context
        assert context is not None
        if pieces[0].start == 0:
            context.forget_all()
            self._sum = 0
        context.clear_batch()
        for sequence, piece in enumerate(pieces):
            context.add(piece.tokens, position=piece.start, sequence=sequence, wants_logits=True, wants_all=True)
        if not context.decode():
            raise DecodeFailedError("the context of the embeddings has no room for one batch")
        if self._pooling.native == NO_POOLING:
            return self._means(context, pieces)
        ends = [sequence for sequence, piece in enumerate(pieces) if piece.completes]
        vectors = [self._api.llama_get_embeddings_seq(context.handle, sequence)[: self._width] for sequence in ends]
        return [[_probability(vector[0])] for vector in vectors] if self._scores_are_logits else vectors

    @property
    def _scores_are_logits(self) -> bool:
        # A head of two classes (yes, no) ends in a softmax inside llama.cpp.
        return self._pooling.ranks and self._weights.classes == 1

    def _means(self, context: DecodeContext, pieces: Sequence[Piece]) -> list[Vector]:
        from numpy import float64
        from numpy.ctypeslib import as_array  # here: importing a backend's modules must be cheap

        total = sum(len(piece.tokens) for piece in pieces)
        rows = as_array(self._api.llama_get_embeddings(context.handle), shape=(total, self._width))
        means: list[Vector] = []
        at = 0
        for piece in pieces:
            self._sum = self._sum + rows[at : at + len(piece.tokens)].sum(axis=0, dtype=float64)
            at += len(piece.tokens)
            if piece.completes:
                means.append((self._sum / (piece.start + len(piece.tokens))).tolist())
                self._sum = 0
        return means

    def _open_context(self) -> DecodeContext:
        api, spec = self._api, self._spec
        # An input that cannot be cut has to fit into one batch.
        batch_tokens = spec.prefill_chunk_tokens if self._pooling.cuts else max(spec.prefill_chunk_tokens, self._context_length)
        params = api.llama_context_default_params()
        params.n_ctx = max(self._context_length, batch_tokens)
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_seq_max = self._inputs_max
        params.n_threads = params.n_threads_batch = self._threads
        params.embeddings = True
        params.pooling_type = self._pooling.native
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        log = capture_native_log()
        log.clear()
        handle = api.llama_init_from_model(self._weights.handle, params)
        if not handle:
            reason = log.first_error() or "llama.cpp gave no reason"
            raise LoadError(
                ErrorCode.INSUFFICIENT_MEMORY,
                f"no context of {self._context_length} tokens for embeddings with {spec.path}: {reason}; lower context_length",
            )
        return DecodeContext(api, handle, cells=params.n_ctx, batch_tokens=batch_tokens)


def create_backend() -> CombinedBackend:
    """The whole llama.cpp backend: it generates, embeds and ranks."""
    generator = LlamaCppBackend()
    return CombinedBackend(generator, LlamaCppReaders(generator))


class LlamaCppReaders:
    """See `lmx_worker.backends.combined.ReaderSource`."""

    def __init__(self, generator: LlamaCppBackend) -> None:
        self._generator = generator

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> tuple[Reader, ModelFacts] | None:
        """See `ReaderSource.load`."""
        header = check_gguf(model_files(Path(spec.path))[0])
        if not only_reads(header):
            return None
        version = self._generator.import_libraries()
        api = self._generator.api
        weights = load_weights(api, spec, progress)
        try:
            pooling = _checked(pooling_of(header), weights, spec)
            reader = _OwningReader(api, weights, spec, pooling, context_length=_length(spec, weights))
            reader.open()
        except LoadError:
            weights.close()
            raise
        return reader, _facts(reader, weights, spec, version)

    def beside_generator(self, spec: ModelSpec) -> Reader | None:
        """See `ReaderSource.beside_generator`."""
        weights = self._generator.weights
        assert weights is not None
        pooling = Pooling(NO_POOLING, cuts=True)
        return LlamaCppReader(self._generator.api, weights, spec, pooling, context_length=_length(spec, weights))


class _OwningReader(LlamaCppReader):
    """The only user of its weights."""

    def close(self) -> None:
        """Free everything; idempotent."""
        super().close()
        self._weights.close()


def _checked(pooling: Pooling, weights: Weights, spec: ModelSpec) -> Pooling:
    """Raises `LoadError` for what calls itself an embedding model and cannot be served as one."""
    problem = ""
    if pooling.ranks and weights.classes > 2:
        problem = f"it tells {weights.classes} classes apart, and a reranker has one score"
    elif weights.embedding_dimensions > EMBEDDING_DIMENSIONS_MAX:
        problem = f"its vectors have {weights.embedding_dimensions} dimensions, and LMX carries {EMBEDDING_DIMENSIONS_MAX}"
    if problem:
        message = f"{spec.path} ({weights.architecture}) cannot embed or rank here: {problem}"
        raise LoadError(ErrorCode.MODEL_UNSUPPORTED_BACKEND, message)
    return pooling


def _length(spec: ModelSpec, weights: Weights) -> int:
    return min(spec.context_length or CONTEXT_LENGTH, weights.train_context_length)


def _facts(reader: LlamaCppReader, weights: Weights, spec: ModelSpec, version: str) -> ModelFacts:
    return ModelFacts(
        backend="llamacpp",
        backend_version=version,
        architecture=weights.architecture,
        context_length=_length(spec, weights),
        train_context_length=weights.train_context_length,
        vocabulary_size=weights.vocabulary_size,
        parameters=weights.parameters,
        weights_bytes=weights.weights_bytes,
        slots=spec.slots,
        has_chat_template=False,
        tasks=reader.tasks,
        embedding_dimensions=reader.dimensions,
        sharing=weights.sharing,
    )


def _probability(logit: float) -> float:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * logit))
