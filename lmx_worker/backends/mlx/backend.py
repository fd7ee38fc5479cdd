"""The MLX backend: mlx-lm's batch generator behind the worker's interface. One step is one `BatchGenerator.next()`.

Importing this module imports nothing of MLX. MLX binds arrays and streams to threads, so `import_libraries`, `load` and
everything that steps must run on one thread; `prepare` uses the tokenizer only.
"""

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, GenerateRequest, ModelFacts, ModelSpec, Timing, Usage
from lmx_protocol.states import BackendName, ComputeSharing, FinishReason
from lmx_worker.backends.base import (
    AnyPrepared,
    BackendStats,
    Delta,
    FinishDelta,
    LoadProgressCallback,
    PrefillDelta,
    Prepared,
    RequestError,
    TextDelta,
    generation_only,
)
from lmx_worker.backends.logprobs import LogprobReader
from lmx_worker.backends.mlx.forms import FormProcessor
from lmx_worker.backends.mlx.kv_cache import KvCache, detach, trim
from lmx_worker.backends.mlx.libraries import import_mlx
from lmx_worker.backends.mlx.loading import LoadedModel, load_model
from lmx_worker.backends.mlx.prefix_cache import PrefixCache
from lmx_worker.backends.mlx.prompts import PromptEncoder
from lmx_worker.backends.mlx.recorder import LogprobRecorder
from lmx_worker.backends.mlx.sampling import KeyedSampler, LogitsProcessor, make_processors, make_sampler
from lmx_worker.backends.mlx.text_stream import TextStream, visible_tokens
from lmx_worker.prefixes.shelf import Prefix, Shelf
from lmx_worker.text.grammar import form_failed
from lmx_worker.text.output import AnswerOutput

PREFIX_ENTRIES_PER_SLOT = 2
"""Ended prompts remembered per slot: enough for a conversation that alternates with its side requests."""


@dataclass(slots=True)
class _Sequence:
    """One inserted request. It is in the batch under `uid`, or held outside it with the cache of its first tokens."""

    prepared: Prepared
    prompt: list[int]
    cached_tokens: int
    sampler: KeyedSampler | None
    recorder: LogprobRecorder | None
    processors: list[LogitsProcessor]
    text: TextStream
    inserted_at: float
    uid: int | None = None
    held: tuple[KvCache, list[int]] | None = None
    computed_before: int = 0
    """Prompt tokens that were already in the cache when the sequence last entered the batch."""
    prefilled: int = 0
    prompt_done_at: float | None = None
    generated: list[int] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        return self.prepared.request.request_id

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.generated),
            cached_tokens=self.cached_tokens,
            reasoning_tokens=self.text.output.reasoning_tokens,
        )

    def timing(self, now: float) -> Timing:
        prompt_done_at = now if self.prompt_done_at is None else self.prompt_done_at
        return Timing(prefill_seconds=prompt_done_at - self.inserted_at, decode_seconds=now - prompt_done_at)


class MlxBackend:
    """See `lmx_worker.backends.base.Backend`."""

    def __init__(self) -> None:
        self._version = ""
        self._slots = 0
        self._chunk_tokens = 0
        self._prefill_tokens_max = 0
        self._loaded: LoadedModel | None = None
        self._encoder: PromptEncoder | None = None
        self._generator: Any = None
        self._stop_tokens: Any = None
        self._is_visible = b""
        self._prefixes: PrefixCache | None = None
        self._kv_bytes_max = 0
        self._sequences: dict[str, _Sequence] = {}
        self._by_uid: dict[int, _Sequence] = {}
        self._tokens_prefilled = 0
        self._tokens_decoded = 0
        self._kv_used_ratio = 0.0

    def import_libraries(self) -> str:
        """Import MLX and mlx-lm; returns their versions. Raises `ImportError` where they do not work."""
        self._version = import_mlx()
        return self._version

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        """Load the model directory `spec.path`. Raises `LoadError`."""
        from mlx_lm.generate import make_stop_sequences

        loaded = load_model(spec, progress)
        self._loaded = loaded
        self._slots = spec.slots
        self._chunk_tokens = self._prefill_tokens_max = spec.prefill_chunk_tokens
        self._kv_bytes_max = loaded.sequence_bytes * spec.slots
        self._encoder = PromptEncoder(
            loaded.tokenizer, context_length=loaded.context_length, vocabulary_size=loaded.vocabulary_size
        )
        self._is_visible = visible_tokens(loaded.tokenizer, loaded.vocabulary_size, self._encoder.marks)
        entries_max = spec.slots * PREFIX_ENTRIES_PER_SLOT if spec.prefix_cache else 0
        self._prefixes = PrefixCache(entries_max=entries_max, bytes_max=self._kv_bytes_max)
        self._stop_tokens = make_stop_sequences(loaded.tokenizer)
        self._open_batch()
        return ModelFacts(
            backend=BackendName.MLX,
            backend_version=self._version,
            architecture=loaded.files.model_type,
            context_length=loaded.context_length,
            train_context_length=loaded.train_context_length,
            vocabulary_size=loaded.vocabulary_size,
            parameters=loaded.parameters,
            weights_bytes=loaded.weights_bytes,
            slots=spec.slots,
            has_chat_template=bool(loaded.tokenizer.has_chat_template),
            sharing=ComputeSharing.TIME,
        )

    @property
    def loaded(self) -> LoadedModel | None:
        """What is loaded, for others that read with it."""
        return self._loaded

    def use_shelf(self, shelf: Shelf) -> None:
        """See `PrefixKeeper.use_shelf`."""
        assert self._prefixes is not None, "a shelf before load"
        self._prefixes.use_shelf(shelf)

    def prefixes(self) -> list[Prefix]:
        """See `PrefixKeeper.prefixes`."""
        return self._prefixes.prefixes() if self._prefixes is not None else []

    def prepare(self, request: AnyRequest) -> Prepared:
        """Template, tokenize and validate. Raises `RequestError`. Touches nothing that `step` writes."""
        assert self._encoder is not None, "prepare before load"
        return self._encoder.prepare(generation_only(request))

    def count_tokens(self, request: GenerateRequest) -> int:
        """As `prepare` would make of it, however long. Raises `RequestError`. Touches nothing that `step` writes."""
        assert self._encoder is not None, "count before load"
        return self._encoder.count(request)

    def has_room(self) -> bool:
        """Whether a slot is free; a paused request keeps its slot."""
        return len(self._sequences) < self._slots

    def insert(self, prepared: AnyPrepared) -> None:
        """Take a request into the batch, with as much of its prompt as an ended request has computed already."""
        assert isinstance(prepared, Prepared), "what is only read goes to the reader"
        assert self._loaded is not None and self._prefixes is not None, "insert before load"
        request = prepared.request
        if request.request_id in self._sequences:
            raise RequestError(ErrorCode.INVALID_REQUEST, f"request {request.request_id} is already running")
        prompt = list(prepared.tokens)
        cache, cached_tokens = self._prefixes.take(prompt)
        recorder = self._recorder(prepared)
        sequence = _Sequence(
            prepared=prepared,
            prompt=prompt,
            cached_tokens=cached_tokens,
            sampler=make_sampler(request.sampling, vocabulary_size=self._loaded.vocabulary_size),
            recorder=recorder,
            processors=self._processors(prepared, recorder),
            text=TextStream(
                self._loaded.tokenizer.detokenizer,
                self._is_visible,
                AnswerOutput(request.request_id, prepared.reading, stops=request.stop),
            ),
            inserted_at=time.monotonic(),
            prefilled=cached_tokens,
        )
        self._enter_batch(sequence, cache, prompt[:cached_tokens])
        self._sequences[request.request_id] = sequence
        self._prefixes.shrink_to(max(0, self._kv_bytes_max - int(self._generator.prompt_cache_nbytes)))

    def step(self) -> list[Delta]:
        """One prefill chunk, shared by all prompts in progress, and one token for each that decodes.

        Raises whatever MLX raises; then nothing that ran goes on, and the caller has to remove it.
        """
        if not self._by_uid:
            return []
        prefilling = sum(1 for sequence in self._by_uid.values() if sequence.prompt_done_at is None)
        self._generator.prefill_step_size = max(1, self._prefill_tokens_max // max(1, prefilling))
        try:
            prompt_responses, token_responses = self._generator.next()
        except Exception:
            self._abandon_batch()
            raise
        deltas: list[Delta] = []
        # Tokens first: they were computed before the prompts of the same step.
        for response in token_responses:
            deltas.extend(self._on_token(self._by_uid[response.uid], response))
        for response in prompt_responses:
            deltas.extend(self._on_prompt(self._by_uid[response.uid], response))
        self._update_kv_used()
        return deltas

    def use_threads(self, threads: int) -> None:
        """See `Backend.use_threads`: MLX takes those it wants."""

    def limit_prefill(self, tokens: int | None) -> None:
        """See `Backend.limit_prefill`: mlx-lm's batch takes at least one token of each prompt."""
        self._prefill_tokens_max = self._chunk_tokens if tokens is None else min(tokens, self._chunk_tokens)

    def pause(self, request_id: str) -> None:
        """Take a request out of the batch, with its cache; its slot stays taken."""
        sequence = self._sequences.get(request_id)
        if sequence is not None and sequence.uid is not None:
            sequence.held = self._leave_batch(sequence)

    def resume(self, request_id: str) -> None:
        """Put a paused request back where it was."""
        sequence = self._sequences.get(request_id)
        if sequence is None or sequence.held is None:
            return
        cache, tokens = sequence.held
        sequence.held = None
        known = len(sequence.prompt) + len(sequence.generated)
        if len(tokens) < known:
            self._enter_batch(sequence, cache, tokens)
        elif all(layer.is_trimmable() for layer in cache):
            # The batch starts from a token it has not seen, so the last one is computed again.
            self._enter_batch(sequence, trim(cache, 1), tokens[:-1])
        else:
            self._enter_batch(sequence, None, [])

    def remove(self, request_id: str) -> Usage:
        """Forget a request; what was computed for it stays in the prefix cache. Unknown ids: `Usage()`."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return Usage()
        held = self._leave_batch(sequence) if sequence.uid is not None else sequence.held
        self._remember(held)
        self._update_kv_used()
        return sequence.usage()

    def stats(self) -> BackendStats:
        """Plain numbers, readable from any thread."""
        return BackendStats(
            active=len(self._sequences),
            tokens_prefilled=self._tokens_prefilled,
            tokens_decoded=self._tokens_decoded,
            kv_used_ratio=self._kv_used_ratio,
        )

    def close(self) -> None:
        """Free the model and every cache; the libraries stay imported."""
        if self._generator is None:
            return
        import mlx.core as mx

        self._generator.close()
        self._generator = self._stop_tokens = None
        self._loaded = self._encoder = self._prefixes = None
        self._sequences.clear()
        self._by_uid.clear()
        gc.collect()
        mx.clear_cache()

    def _recorder(self, prepared: Prepared) -> LogprobRecorder | None:
        alternatives = prepared.request.logprobs
        if alternatives is None:
            return None
        assert self._encoder is not None, "insert before load"
        return LogprobRecorder(LogprobReader(alternatives, self._encoder.token_bytes), prompt_tokens=len(prepared.tokens))

    def _processors(self, prepared: Prepared, recorder: LogprobRecorder | None) -> list[LogitsProcessor]:
        """What sees and changes a request's logits. The recorder sees the model's own; the form has the last word."""
        assert self._loaded is not None, "insert before load"
        processors: list[LogitsProcessor] = [] if recorder is None else [recorder]
        processors += make_processors(prepared.request.sampling)
        if prepared.constraint is not None:
            vocabulary_size = self._loaded.vocabulary_size
            processors.append(
                FormProcessor(prepared.constraint, prompt_tokens=len(prepared.tokens), vocabulary_size=vocabulary_size)
            )
        return processors

    def _open_batch(self) -> None:
        from mlx_lm.generate import BatchGenerator

        assert self._loaded is not None, "a batch before load"
        self._generator = BatchGenerator(
            self._loaded.model,
            completion_batch_size=self._slots,
            prefill_batch_size=self._slots,
            prefill_step_size=self._chunk_tokens,
        )

    def _abandon_batch(self) -> None:
        """A failed step leaves caches that hold less than their token lists say: none of them may be reused."""
        for sequence in self._by_uid.values():
            sequence.uid = None
        self._by_uid.clear()
        self._generator.close()
        self._open_batch()

    def _enter_batch(self, sequence: _Sequence, cache: KvCache | None, in_cache: list[int]) -> None:
        everything = sequence.prompt + sequence.generated
        sequence.computed_before = len(in_cache)
        if sequence.sampler is not None:
            # The batch draws one token ahead of what it has delivered; a draw that was never delivered is drawn again.
            sequence.sampler.position = len(sequence.generated)
        (sequence.uid,) = self._generator.insert(
            [everything[len(in_cache) :]],
            max_tokens=[sequence.prepared.max_tokens - len(sequence.generated)],
            caches=[cache],
            all_tokens=[list(in_cache)],
            samplers=[sequence.sampler],
            logits_processors=[sequence.processors],
            stop_sequences=[self._stop_tokens],
        )
        self._by_uid[sequence.uid] = sequence

    def _leave_batch(self, sequence: _Sequence) -> tuple[KvCache, list[int]] | None:
        uid, sequence.uid = sequence.uid, None
        assert uid is not None, "only a sequence in the batch can leave it"
        del self._by_uid[uid]
        removed: dict[int, Iterable[Any]] = self._generator.remove([uid], return_prompt_caches=True)
        cache, tokens = removed[uid]
        detach(cache)
        return cache, list(tokens)

    def _on_prompt(self, sequence: _Sequence, response: Any) -> list[Delta]:
        if sequence.prompt_done_at is not None:
            return []  # a resumed answer: its tokens are a prompt to the batch only
        done = sequence.computed_before + response.progress[0]
        self._tokens_prefilled += done - sequence.prefilled
        sequence.prefilled = done
        if response.end_of_prompt:
            sequence.prompt_done_at = time.monotonic()
        return [PrefillDelta(sequence.request_id, done, len(sequence.prompt), sequence.cached_tokens)]

    def _on_token(self, sequence: _Sequence, response: Any) -> list[Delta]:
        sequence.generated.append(response.token)
        self._tokens_decoded += 1
        output, constraint = sequence.text.output, sequence.prepared.constraint
        is_complete = constraint is not None and constraint.is_complete
        # The end-of-sequence token is counted but says nothing.
        is_end = response.finish_reason == "stop"
        if is_end:
            deltas: list[Delta] = [TextDelta(sequence.request_id, "", 1)]
        else:
            recorder = sequence.recorder
            logprob = None if recorder is None else recorder.take(len(sequence.generated) - 1, response.token)
            deltas = sequence.text.push(response.token, logprob)
        if response.finish_reason is not None or is_complete or output.has_ended:
            deltas += sequence.text.finish()
            self._end(sequence, response)
            is_length = response.finish_reason == "length" and not is_complete and not output.has_ended
            reason = output.reason(FinishReason.LENGTH if is_length else FinishReason.STOP)
            timing = sequence.timing(time.monotonic())
            deltas.append(FinishDelta(sequence.request_id, reason, sequence.usage(), timing, output.stop_sequence))
        elif constraint is not None and constraint.failure is not None:
            self._end(sequence, response)
            deltas.append(form_failed(sequence.request_id, constraint.failure))
        return deltas

    def _end(self, sequence: _Sequence, response: Any) -> None:
        """Forget a request that is over, in the batch too if that does not know it yet."""
        if response.finish_reason is None:
            self._remember(self._leave_batch(sequence))
        else:
            del self._by_uid[response.uid]
            self._remember((response.prompt_cache, response.all_tokens))
        del self._sequences[sequence.request_id]

    def _remember(self, held: tuple[KvCache | None, list[int]] | None) -> None:
        assert self._prefixes is not None, "remember before load"
        if held is not None and held[0] is not None:
            self._prefixes.put(held[1], held[0])

    def _update_kv_used(self) -> None:
        assert self._loaded is not None, "step before load"
        used = sum(sequence.prefilled + len(sequence.generated) for sequence in self._sequences.values())
        self._kv_used_ratio = used / (self._slots * self._loaded.context_length)
