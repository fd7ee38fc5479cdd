"""How much memory a model will need, from what its files say about it and how it is to be loaded. Pure.

Three parts: the weights; the key/value cache of all slots at full context; and the working memory, which is the process
itself and what one step of the largest batch computes with. The first two are arithmetic on facts of the file. The third is
an estimate with measured constants; what a worker really cost at its peak corrects it from then on.
"""

import msgspec

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat

MIB = 1024**2

_DEFAULT_CONTEXT_TOKENS = 4096
"""What the backends take where an order leaves it to them."""
_PROCESS_BYTES = {ModelFormat.GGUF: 85 * MIB, ModelFormat.MLX: 90 * MIB, ModelFormat.SCRIPT: 32 * MIB}
"""A worker with its libraries, before it has a model."""
_KV_BYTES_PER_ELEMENT = {16: 2.0, 8: 34 / 32, 4: 18 / 32}
"""Of llama.cpp's cache types f16, q8_0 and q4_0, scales included."""
_ACTIVATION_BYTES = 4
_ACTIVATIONS_KEPT = 4
"""Buffers of a layer's width that are alive at one time while a batch is computed."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's files say that decides its memory."""

    weights_bytes: int
    kv_elements_per_token: int = 0
    """Keys and values of all layers that have a cache; 0 for a model without one."""
    kv_element_bytes: float = 2.0
    """Where the order cannot choose: how wide the backend keeps them at 16 bits."""
    train_context_length: int = 0
    """0: the files do not say."""
    width: int = 0
    """Of the widest layer, in elements."""
    vocabulary_size: int = 0


class MemoryNeed(msgspec.Struct, frozen=True, kw_only=True):
    """What one load will need."""

    weights_bytes: int
    kv_bytes: int
    working_bytes: int
    is_said: bool = False
    """An operator said how much it is; what was measured corrects it upwards only."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.working_bytes

    def corrected(self, peak_bytes: int | None) -> "MemoryNeed":
        """The same with the working memory that was measured, where a load of this very kind has been seen at its peak.

        Weights and cache are never corrected downwards: a cache that has not been full yet, or experts that nobody has asked,
        will still need their room.
        """
        if peak_bytes is None:
            return self
        working_bytes = max(0, peak_bytes - self.weights_bytes - self.kv_bytes)
        if self.is_said:
            working_bytes = max(working_bytes, self.working_bytes)
        return msgspec.structs.replace(self, working_bytes=working_bytes)

    def said_to_be(self, total_bytes: int) -> "MemoryNeed":
        """This much instead, because an operator says so; the parts are cut, the cache before the weights, or padded."""
        weights_bytes = min(self.weights_bytes, total_bytes)
        kv_bytes = min(self.kv_bytes, total_bytes - weights_bytes)
        working_bytes = total_bytes - weights_bytes - kv_bytes
        return MemoryNeed(weights_bytes=weights_bytes, kv_bytes=kv_bytes, working_bytes=working_bytes, is_said=True)


def memory_need(shape: ModelShape, spec: ModelSpec) -> MemoryNeed:
    """What loading a model of this shape as `spec` says will need at its peak."""
    context_tokens = spec.context_length or _DEFAULT_CONTEXT_TOKENS
    if shape.train_context_length:
        context_tokens = min(context_tokens, shape.train_context_length)
    element_bytes = _KV_BYTES_PER_ELEMENT.get(spec.kv_bits, 2.0) if spec.kv_bits != 16 else shape.kv_element_bytes
    kv_bytes = int(shape.kv_elements_per_token * context_tokens * spec.slots * element_bytes)
    batch_tokens = spec.slots + spec.prefill_chunk_tokens
    layer_bytes = batch_tokens * shape.width * _ACTIVATION_BYTES * _ACTIVATIONS_KEPT
    logits_bytes = spec.slots * shape.vocabulary_size * _ACTIVATION_BYTES
    return MemoryNeed(
        weights_bytes=shape.weights_bytes,
        kv_bytes=kv_bytes,
        working_bytes=_PROCESS_BYTES[spec.format] + layer_bytes + logits_bytes,
    )
