"""The llama.cpp backend: many requests in one context, one batch per step.

A step's batch holds one token of every decoding request and, in fair shares, the next prompt tokens of the others, so that a
long prompt slows the running streams but never stops them. Decisions live in `slots`, native calls in `weights`, `context` and
`sampler`; this module only puts them together.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, GenerateRequest, ModelFacts, ModelSpec, OutputForm, Usage
from lmx_worker.backends.base import (
    AnyPrepared,
    BackendStats,
    Delta,
    ErrorDelta,
    FinishDelta,
    LoadError,
    LoadProgressCallback,
    Prepared,
    RequestError,
    check_prompt_tokens,
    generation_only,
)
from lmx_worker.backends.llamacpp.context import DecodeContext, DecodeFailedError, open_context
from lmx_worker.backends.llamacpp.generation import Generation
from lmx_worker.backends.llamacpp.grammar_tokens import open_grammar_tokenizer
from lmx_worker.backends.llamacpp.sampler import TokenSampler, check_sampling
from lmx_worker.backends.llamacpp.slot_memory import SlotMemory
from lmx_worker.backends.llamacpp.slots import share_prefill
from lmx_worker.backends.llamacpp.weights import Weights, load_weights
from lmx_worker.backends.logprobs import LogprobReader
from lmx_worker.prefixes.shelf import Prefix, Shelf
from lmx_worker.text.answer_reader import PLAIN, Reading
from lmx_worker.text.grammar import FormCompiler, form_failed
from lmx_worker.text.output import AnswerOutput

if TYPE_CHECKING:
    from lmx_worker.text.chat import Chat  # at run time only where jinja2 may be imported

CONTEXT_LENGTH = 4096
"""Tokens per sequence where the order leaves it to us and the model was trained for more."""


class LlamaCppBackend:
    """`base.Backend` on llama-cpp-python's low-level API."""

    def __init__(self, *, cells: int | None = None) -> None:
        """`cells` bounds the key/value memory of all sequences together; None: enough for every sequence at full length."""
        self._cells_wanted = cells
        self._api: Any = None
        self._version = ""
        self._weights: Weights | None = None
        self._context: DecodeContext | None = None
        self._chat: Any = None
        self._forms: FormCompiler | None = None
        self._memory: SlotMemory | None = None
        self._generations: dict[str, Generation] = {}
        self._context_length = 0
        self._prefill_chunk_tokens = 0
        self._prefill_tokens_max = 0
        self._tokens_prefilled = 0
        self._tokens_decoded = 0
        self._stats = BackendStats(0, 0, 0, 0.0)

    # --- life ---------------------------------------------------------------------------------------------------------

    def import_libraries(self) -> str:
        """Import llama-cpp-python and jinja2; return the former's version. Raises `ImportError`."""
        try:
            import llama_cpp
            import llama_cpp.llama_cpp as api
            import llguidance  # noqa: F401 - paid for now, used when the first form comes

            import lmx_worker.text.chat  # noqa: F401 - paid for now, used at load
        except (OSError, RuntimeError) as error:
            raise ImportError(f"llama-cpp-python does not work here: {error}") from error
        self._api = api
        self._version = str(llama_cpp.__version__)
        return self._version

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        """Load weights, context and chat template. Raises `LoadError`."""
        if self._api is None:
            self.import_libraries()
        weights = self._weights = load_weights(self._api, spec, progress)
        self._context_length = min(spec.context_length or CONTEXT_LENGTH, weights.train_context_length)
        self._prefill_chunk_tokens = self._prefill_tokens_max = spec.prefill_chunk_tokens
        cells = self._cells_wanted or self._context_length * spec.slots
        try:
            self._chat = _chat_of(weights)
            self._context = open_context(self._api, weights, spec, context_length=self._context_length, cells=cells)
        except LoadError:
            self.close()
            raise
        self._forms = FormCompiler(lambda: open_grammar_tokenizer(weights))
        self._memory = SlotMemory(
            self._context, slots=spec.slots, can_cut=not weights.keeps_whole_sequences, reuses=spec.prefix_cache
        )
        return ModelFacts(
            backend="llamacpp",
            backend_version=self._version,
            architecture=weights.architecture,
            context_length=self._context_length,
            train_context_length=weights.train_context_length,
            vocabulary_size=weights.vocabulary_size,
            parameters=weights.parameters,
            weights_bytes=weights.weights_bytes,
            slots=spec.slots,
            has_chat_template=weights.chat_template() is not None,
            sharing=weights.sharing,
        )

    def close(self) -> None:
        """Free everything; idempotent."""
        for generation in self._generations.values():
            generation.sampler.close()
        self._generations.clear()
        if self._context is not None:
            self._context.close()
            self._context = None
        if self._weights is not None:
            self._weights.close()
            self._weights = None

    @property
    def api(self) -> Any:
        """llama.cpp's functions, once they are imported."""
        return self._api

    @property
    def weights(self) -> Weights | None:
        """What is loaded, for others that read with it."""
        return self._weights

    def use_shelf(self, shelf: Shelf) -> None:
        """See `PrefixKeeper.use_shelf`."""
        assert self._memory is not None, "a shelf before load"
        self._memory.use_shelf(shelf)

    def prefixes(self) -> list[Prefix]:
        """See `PrefixKeeper.prefixes`."""
        return self._memory.prefixes() if self._memory is not None else []

    # --- requests -----------------------------------------------------------------------------------------------------

    def prepare(self, request: AnyRequest) -> Prepared:
        """Template, tokenize and check against the context. Raises `RequestError`. Thread-safe."""
        weights = self._weights
        assert weights is not None
        request = generation_only(request)
        check_sampling(request.sampling, weights.vocabulary_size)
        param = "messages" if request.messages else "prompt"
        tokens, reading, form = self._prompt(request, weights)
        if not tokens:
            raise RequestError(ErrorCode.INVALID_REQUEST, f"{param} must not be empty", param=param)
        room = self._context_length - len(tokens)
        if room < 1:
            raise RequestError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"This model's context holds {self._context_length} tokens, prompt and answer together, and the prompt alone "
                f"has {len(tokens)}. Shorten it, or load the model with a longer context.",
                param=param,
            )
        wanted = limits.DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        assert self._forms is not None
        return Prepared(
            request=request,
            tokens=tokens,
            max_tokens=max(1, min(wanted, room)),
            reading=reading,
            constraint=self._forms.compile(form),
        )

    def count_tokens(self, request: GenerateRequest) -> int:
        """As `prepare` would make of it, however long. Raises `RequestError`. Thread-safe."""
        assert self._weights is not None
        return len(self._prompt(request, self._weights)[0])

    def _prompt(self, request: GenerateRequest, weights: Weights) -> tuple[Sequence[int], Reading, OutputForm]:
        """The prompt's tokens, how the answer is to be read, and what it is held to."""
        if request.messages:
            prompt = self._chat.write(request)
            # Most templates write the first token themselves; the tokenizer must not write it again.
            writes_bos = bool(weights.bos_text) and prompt.text.startswith(weights.bos_text)
            return weights.tokenize(prompt.text, add_special=not writes_bos), prompt.reading, prompt.form
        if request.prompt is not None:
            return weights.tokenize(request.prompt, add_special=True), PLAIN, request.output
        return check_prompt_tokens(request.prompt_tokens, weights.vocabulary_size), PLAIN, request.output

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return self._memory is not None and len(self._generations) < len(self._memory)

    def insert(self, prepared: AnyPrepared) -> None:
        """Give the request a slot, with whatever computed prefix can be found for it."""
        weights, memory = self._weights, self._memory
        assert isinstance(prepared, Prepared), "what is only read goes to the reader"
        assert weights is not None and memory is not None and self.has_room()
        assert prepared.request.request_id not in self._generations
        slot, cached_tokens = memory.claim(prepared.tokens)
        alternatives = prepared.request.logprobs
        self._generations[prepared.request.request_id] = Generation(
            prepared=prepared,
            slot=slot,
            sampler=TokenSampler(
                self._api,
                prepared.request.sampling,
                prompt=prepared.tokens,
                vocabulary_size=weights.vocabulary_size,
                window_tokens=self._context_length,
                constraint=prepared.constraint,
            ),
            output=AnswerOutput(prepared.request.request_id, prepared.reading, stops=prepared.request.stop),
            cached_tokens=cached_tokens,
            started_at=time.monotonic(),
            logprobs=None if alternatives is None else LogprobReader(alternatives, weights.token_text),
        )
        self._publish_stats()

    def use_threads(self, threads: int) -> None:
        """See `Backend.use_threads`."""
        if self._context is not None:
            self._context.use_threads(threads)

    def limit_prefill(self, tokens: int | None) -> None:
        """See `Backend.limit_prefill`."""
        chunk = self._prefill_chunk_tokens
        self._prefill_tokens_max = chunk if tokens is None else min(tokens, chunk)

    def pause(self, request_id: str) -> None:
        """Compute nothing for a request until `resume`."""
        if generation := self._generations.get(request_id):
            generation.paused = True

    def resume(self, request_id: str) -> None:
        """Undo `pause`."""
        if generation := self._generations.get(request_id):
            generation.paused = False

    def remove(self, request_id: str) -> Usage:
        """Forget a request; its slot keeps what was computed."""
        generation = self._generations.get(request_id)
        if generation is None:
            return Usage()
        self._release(generation)
        return generation.usage()

    def stats(self) -> BackendStats:
        """The numbers as of the last step."""
        return self._stats

    def _release(self, generation: Generation) -> None:
        assert self._memory is not None
        del self._generations[generation.request_id]
        generation.sampler.close()
        self._memory.release(generation.slot)
        self._publish_stats()

    # --- the step -----------------------------------------------------------------------------------------------------

    def step(self) -> list[Delta]:
        """Compute one batch and sample from it.

        Raises:
            DecodeFailedError: the computation failed; every running request must be removed, nothing computed is kept.
        """
        memory = self._memory
        assert memory is not None, "step before load"
        running = [generation for generation in self._generations.values() if not generation.paused]
        deltas: list[Delta] = []
        try:
            rows = self._decode(running, deltas, memory)
        except DecodeFailedError:
            memory.forget_everything()
            raise
        now = time.monotonic()
        for generation, tokens, row in rows:
            deltas.extend(self._advance(generation, len(tokens), row, now))
        if rows:
            memory.tick()
        self._publish_stats()
        return deltas

    def _decode(
        self, running: list[Generation], deltas: list[Delta], memory: SlotMemory
    ) -> list[tuple[Generation, list[int], int]]:
        """Compute the next tokens of the running requests; return each with its tokens and its row in the batch.

        When the key/value memory is full, cached sequences are given up first, then the newest requests, one by one.
        """
        context = self._context
        assert context is not None
        while running:
            rows = self._fill_batch(context, running)
            if context.decode():
                for generation, tokens, _ in rows:
                    generation.slot.tokens.extend(tokens)
                return rows
            if memory.give_up_cached():
                continue
            victim = running.pop()
            self._release(victim)
            memory.empty(victim.slot)
            message = (
                "The model's context memory is full: too many long requests at once. Retry later, or load with fewer slots."
            )
            deltas.append(ErrorDelta(victim.request_id, ErrorCode.OVERLOADED, message))
        return []

    def _fill_batch(self, context: DecodeContext, running: list[Generation]) -> list[tuple[Generation, list[int], int]]:
        context.clear_batch()
        shares = share_prefill([generation.remaining_prompt for generation in running], self._prefill_tokens_max)
        rows = []
        for generation, share in zip(running, shares, strict=True):
            tokens = list(generation.next_tokens(share))
            if tokens:
                position = len(generation.slot.tokens)
                row = context.add(
                    tokens,
                    position=position,
                    sequence=generation.slot.sequence,
                    wants_logits=position + len(tokens) >= len(generation.prepared.tokens),
                )
                rows.append((generation, tokens, row))
        return rows

    def _advance(self, generation: Generation, computed: int, row: int, now: float) -> list[Delta]:
        """After its tokens were computed: report the prompt's progress, sample when the prompt is complete."""
        deltas: list[Delta] = []
        if generation.pending is None:
            self._tokens_prefilled += computed
            deltas.append(generation.prefill_delta())
            if generation.remaining_prompt:
                return deltas
        weights, context = self._weights, self._context
        assert weights is not None and context is not None
        token, logprob = generation.sample(context.handle, row)
        constraint = generation.prepared.constraint
        if constraint is not None and constraint.failure is not None:
            self._release(generation)
            return [*deltas, form_failed(generation.request_id, constraint.failure)]
        self._tokens_decoded += 1
        piece = None if weights.ends_generation(token) else weights.piece(token)
        deltas.extend(generation.accept(token, piece, now, logprob))
        if isinstance(deltas[-1], FinishDelta):
            self._release(generation)
        return deltas

    def _publish_stats(self) -> None:
        assert self._memory is not None
        self._stats = BackendStats(
            active=len(self._generations),
            tokens_prefilled=self._tokens_prefilled,
            tokens_decoded=self._tokens_decoded,
            kv_used_ratio=self._memory.used_ratio,
        )


def _chat_of(weights: Weights) -> "Chat":
    """The model's chat template, with what it tells about answers; `show_marks` has been called for them."""
    from lmx_worker.text.chat import Chat
    from lmx_worker.text.template import TemplateSyntaxError

    try:
        chat = Chat(
            weights.chat_template(),
            bos_token=weights.bos_text,
            eos_token=weights.eos_text,
            has_token=lambda text: len(weights.tokenize(text, add_special=False)) == 1,
            tool_template=weights.chat_template("tool_use"),
        )
    except TemplateSyntaxError as error:
        raise LoadError(ErrorCode.MODEL_PROBE_FAILED, str(error)) from error
    weights.show_marks(chat.format.marks)
    return chat
