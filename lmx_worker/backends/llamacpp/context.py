"""The decoding context: one unified key/value memory for all sequences, and the batch that a step computes.

Unified means that sequences draw cells from one pool and can share them, so a common prefix is copied for free.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_worker.backends.base import LoadError
from lmx_worker.backends.llamacpp.native_log import capture_native_log
from lmx_worker.backends.llamacpp.weights import Weights

_MEMORY_FULL = 1


class DecodeFailedError(RuntimeError):
    """llama.cpp could not compute a batch. Its memory is in an unknown state, so the worker must go."""


class DecodeContext:
    """The native context. A batch is built with `add`, computed with `decode`, and begun anew with `clear_batch`."""

    def __init__(self, api: Any, handle: Any, *, cells: int, batch_tokens: int) -> None:
        self._api = api
        self.handle = handle
        self.cells = cells
        self._memory = api.llama_get_memory(handle)
        self._batch_tokens = batch_tokens
        self._token = (ctypes.c_int32 * batch_tokens)()
        self._position = (ctypes.c_int32 * batch_tokens)()
        self._sequence = (ctypes.c_int32 * batch_tokens)()
        self._wants_logits = (ctypes.c_int8 * batch_tokens)()
        # Each token belongs to exactly one sequence: its list of sequences is one cell of `_sequence`.
        self._sequence_count = (ctypes.c_int32 * batch_tokens)(*[1] * batch_tokens)
        pointer = ctypes.POINTER(ctypes.c_int32)
        step = ctypes.sizeof(ctypes.c_int32)
        base = ctypes.addressof(self._sequence)
        self._sequence_lists = (pointer * batch_tokens)(
            *[ctypes.cast(base + index * step, pointer) for index in range(batch_tokens)]
        )
        self._batch = api.llama_batch(
            n_tokens=0,
            token=self._token,
            embd=None,
            pos=self._position,
            n_seq_id=self._sequence_count,
            seq_id=self._sequence_lists,
            logits=self._wants_logits,
        )

    def clear_batch(self) -> None:
        """Begin a new batch."""
        self._batch.n_tokens = 0

    def add(self, tokens: Sequence[int], *, position: int, sequence: int, wants_logits: bool, wants_all: bool = False) -> int:
        """Append tokens of one sequence; return the batch row of the last one, the only one whose logits may be wanted.

        With `wants_all` every token has an output, as embeddings need it.
        """
        start = int(self._batch.n_tokens)
        end = start + len(tokens)
        assert 0 < len(tokens) <= self._batch_tokens - start, "the batch is full"
        self._token[start:end] = list(tokens)
        self._position[start:end] = list(range(position, position + len(tokens)))
        self._sequence[start:end] = [sequence] * len(tokens)
        self._wants_logits[start:end] = [int(wants_all)] * len(tokens)
        self._wants_logits[end - 1] = wants_logits
        self._batch.n_tokens = end
        return end - 1

    def decode(self) -> bool:
        """Compute the batch. False: the memory has no room for it, and nothing was computed.

        Raises:
            DecodeFailedError: the computation failed.
        """
        code = self._api.llama_decode(self.handle, self._batch)
        if code == 0:
            return True
        if code == _MEMORY_FULL:
            return False
        reason = capture_native_log().last_error()
        raise DecodeFailedError(f"llama_decode returned {code} for {self._batch.n_tokens} tokens: {reason}")

    def use_threads(self, threads: int) -> None:
        """Compute the next batches with so many threads."""
        self._api.llama_set_n_threads(self.handle, threads, threads)

    def truncate(self, sequence: int, length: int) -> bool:
        """Keep the first `length` tokens of a sequence. False: this memory cannot, and the sequence is empty now."""
        if self._api.llama_memory_seq_rm(self._memory, sequence, length, -1):
            return True
        self._api.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return False

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the first `length` tokens of `source` the whole of `target`, sharing the cells."""
        self._api.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._api.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def state_bytes(self, sequence: int) -> int:
        """The size of what `dump` gives."""
        return int(self._api.llama_state_seq_get_size(self.handle, sequence))

    def dump(self, sequence: int) -> memoryview:
        """Keys and values (or the whole memory) of a sequence, for a context of the same model and settings."""
        state = (ctypes.c_uint8 * self.state_bytes(sequence))()
        written = self._api.llama_state_seq_get_data(self.handle, state, len(state), sequence)
        return memoryview(state).cast("B")[:written]

    def restore(self, sequence: int, state: memoryview) -> bool:
        """Make an empty sequence what another one was when it was dumped. False: it does not fit, and the sequence is empty."""
        data = (ctypes.c_uint8 * state.nbytes).from_buffer(state)
        if self._api.llama_state_seq_set_data(self.handle, data, state.nbytes, sequence) == state.nbytes:
            return True
        self.truncate(sequence, 0)
        return False

    def forget_all(self) -> None:
        """Empty every sequence. A context of an encoder has none."""
        if self._memory:
            self._api.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the context; idempotent."""
        if self.handle is not None:
            self._api.llama_free(self.handle)
            self.handle = None


def open_context(api: Any, weights: Weights, spec: ModelSpec, *, context_length: int, cells: int) -> DecodeContext:
    """A context for `spec.slots` sequences of `context_length` tokens each over `cells` shared cells.

    Raises:
        LoadError: the key/value memory cannot be allocated, or the model has none.
    """
    batch_tokens = spec.slots + spec.prefill_chunk_tokens
    threads = spec.threads or os.cpu_count() or 1
    params = api.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = params.n_ubatch = batch_tokens
    params.n_seq_max = params.n_outputs_max = spec.slots
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True
    params.swa_full = True
    params.no_perf = True
    params.type_k = params.type_v = _memory_type(api, spec.kv_bits)
    log = capture_native_log()
    log.clear()
    handle = api.llama_init_from_model(weights.handle, params)
    if not handle:
        reason = log.first_error() or "llama.cpp gave no reason"
        raise LoadError(
            ErrorCode.INSUFFICIENT_MEMORY,
            f"no context of {spec.slots} x {context_length} tokens for {spec.path}: {reason}; lower context_length or slots",
        )
    if not api.llama_get_memory(handle):
        api.llama_free(handle)
        raise LoadError(
            ErrorCode.MODEL_UNSUPPORTED_BACKEND, f"{spec.path} ({weights.architecture}) is not a text generation model"
        )
    return DecodeContext(api, handle, cells=cells, batch_tokens=batch_tokens)


def _memory_type(api: Any, bits: int) -> int:
    types = {16: api.GGML_TYPE_F16, 8: api.GGML_TYPE_Q8_0, 4: api.GGML_TYPE_Q4_0}
    if bits not in types:
        raise LoadError(ErrorCode.INVALID_VALUE, f"kv_bits {bits} is not supported; use one of {sorted(types)}")
    return int(types[bits])
