"""Two halves of one backend: what generates, and what reads (embeds and ranks). A model has the one, the other or both.

The halves share the weights and the worker's slots; each has its own context and its own part of every step, so that neither
waits for the other longer than for one chunk.
"""

from typing import Protocol

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, EmbedRequest, GenerateRequest, ModelFacts, ModelSpec, RankRequest, Usage
from lmx_protocol.states import ModelTask
from lmx_worker.backends.base import (
    AnyPrepared,
    Backend,
    BackendStats,
    Delta,
    LoadProgressCallback,
    PreparedInputs,
    RequestError,
    generation_only,
)
from lmx_worker.prefixes.keeping import PrefixKeeper
from lmx_worker.prefixes.shelf import Prefix, Shelf


class Reader(Protocol):
    """What embeds and ranks with one loaded model; like a `Backend` in its threads and bounds."""

    @property
    def tasks(self) -> tuple[ModelTask, ...]:
        """What it can be asked for."""

    @property
    def dimensions(self) -> int:
        """Of its vectors; 0 for a cross-encoder, which has none."""

    @property
    def tokens_done(self) -> int:
        """Since the load."""

    def __len__(self) -> int:
        """The requests that were inserted and have not ended."""

    def prepare(self, request: AnyRequest) -> PreparedInputs:
        """See `Backend.prepare`."""

    def insert(self, prepared: PreparedInputs) -> None:
        """See `Backend.insert`."""

    def step(self) -> list[Delta]:
        """See `Backend.step`: a bounded number of tokens."""

    def use_threads(self, threads: int) -> None:
        """See `Backend.use_threads`."""

    def remove(self, request_id: str) -> Usage | None:
        """See `Backend.remove`; None: it has no such request."""

    def close(self) -> None:
        """Free what is its own."""


class ReaderSource(Protocol):
    """Where a backend's readers come from."""

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> tuple[Reader, ModelFacts] | None:
        """Load a model that only reads; None: this one generates. Raises `LoadError`."""

    def beside_generator(self, spec: ModelSpec) -> Reader | None:
        """A reader on the weights that the generating half has loaded; None: they cannot be read with."""


class CombinedBackend:
    """See `lmx_worker.backends.base.Backend`."""

    def __init__(self, generator: Backend, readers: ReaderSource) -> None:
        self._generator = generator
        self._readers = readers
        self._reader: Reader | None = None
        self._generates = False
        self._slots = 0

    def import_libraries(self) -> str:
        """See `Backend.import_libraries`."""
        return self._generator.import_libraries()

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        """See `Backend.load`."""
        loaded = self._readers.load(spec, progress)
        if loaded is not None:
            self._reader, facts = loaded
        else:
            facts = self._generator.load(spec, progress)
            self._generates = True
            self._reader = self._readers.beside_generator(spec)
            if self._reader is not None:
                tasks = (*facts.tasks, *self._reader.tasks)
                facts = msgspec.structs.replace(facts, tasks=tasks, embedding_dimensions=self._reader.dimensions)
        self._slots = facts.slots
        return facts

    def prepare(self, request: AnyRequest) -> AnyPrepared:
        """See `Backend.prepare`."""
        is_for_reader = isinstance(request, EmbedRequest | RankRequest) or not self._generates
        if self._reader is not None and is_for_reader:
            return self._reader.prepare(request)
        return self._generator.prepare(generation_only(request))

    def count_tokens(self, request: GenerateRequest) -> int:
        """See `Backend.count_tokens`."""
        if not self._generates:
            message = f"Model '{request.model_id}' does not generate: it has no prompts to count."
            raise RequestError(ErrorCode.NOT_SUPPORTED, message, param="model")
        return self._generator.count_tokens(request)

    def has_room(self) -> bool:
        """See `Backend.has_room`: both halves share the slots."""
        reading = len(self._reader) if self._reader is not None else 0
        if not self._generates:
            return reading < self._slots
        return self._generator.has_room() and self._generator.stats().active + reading < self._slots

    def insert(self, prepared: AnyPrepared) -> None:
        """See `Backend.insert`."""
        if isinstance(prepared, PreparedInputs):
            assert self._reader is not None
            self._reader.insert(prepared)
        else:
            self._generator.insert(prepared)

    def step(self) -> list[Delta]:
        """See `Backend.step`."""
        deltas = self._generator.step() if self._generates else []
        return deltas + self._reader.step() if self._reader is not None else deltas

    def use_threads(self, threads: int) -> None:
        """See `Backend.use_threads`."""
        self._generator.use_threads(threads)
        if self._reader is not None:
            self._reader.use_threads(threads)

    def limit_prefill(self, tokens: int | None) -> None:
        """See `Backend.limit_prefill`. What is read comes in whole inputs."""
        self._generator.limit_prefill(tokens)

    def pause(self, request_id: str) -> None:
        """See `Backend.pause`. What is read is bounded by the request itself, so a slow reader of it holds up nothing."""
        if self._generates:
            self._generator.pause(request_id)

    def resume(self, request_id: str) -> None:
        """See `Backend.resume`."""
        if self._generates:
            self._generator.resume(request_id)

    def remove(self, request_id: str) -> Usage:
        """See `Backend.remove`."""
        usage = self._reader.remove(request_id) if self._reader is not None else None
        if usage is not None:
            return usage
        return self._generator.remove(request_id) if self._generates else Usage()

    def stats(self) -> BackendStats:
        """See `Backend.stats`."""
        generating = self._generator.stats()
        if self._reader is None:
            return generating
        return BackendStats(
            active=generating.active + len(self._reader),
            tokens_prefilled=generating.tokens_prefilled + self._reader.tokens_done,
            tokens_decoded=generating.tokens_decoded,
            kv_used_ratio=generating.kv_used_ratio,
        )

    def use_shelf(self, shelf: Shelf) -> None:
        """See `PrefixKeeper.use_shelf`: what is only read is computed anew each time."""
        if isinstance(self._generator, PrefixKeeper):
            self._generator.use_shelf(shelf)

    def prefixes(self) -> list[Prefix]:
        """See `PrefixKeeper.prefixes`."""
        return self._generator.prefixes() if isinstance(self._generator, PrefixKeeper) else []

    def close(self) -> None:
        """See `Backend.close`. The reader first: it may stand on the other half's weights."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._generator.close()
