"""One sequence's keys and values as mlx-lm holds them: cutting them, and writing them out as bytes and back.

The bytes are mlx-lm's own form of a saved prompt cache, which is safetensors with the layers' types beside them.
"""

import io
from typing import Any

KvCache = list[Any]
"""One mlx-lm cache object per layer."""

_OWN_LAYERS = "mlx_lm.models.cache"


class _State(io.BytesIO):
    """Bytes that MLX reads like a file: it asks for a name, to know their format."""

    name = "state.safetensors"


def trim(cache: KvCache, tokens: int) -> KvCache:
    """`cache`, with its last `tokens` tokens forgotten in place; only for a cache that can be trimmed."""
    from mlx_lm.models.cache import trim_prompt_cache

    if tokens > 0:
        trim_prompt_cache(cache, tokens)
    return cache


def detach(cache: KvCache) -> None:
    """Compute the pending copies, else a cache cut from a batch keeps the buffers of the whole batch alive."""
    import mlx.core as mx

    mx.eval([layer.state for layer in cache])


def can_be_saved(cache: KvCache) -> bool:
    """Whether mlx-lm can make the layers again: it knows its own types by their names, and none of a model's."""
    return all(type(layer).__module__ == _OWN_LAYERS for layer in cache)


def state_bytes(cache: KvCache) -> int:
    """About what `dump` gives: without the room that is not filled."""
    from mlx_lm.models.cache import KVCache

    sizes = [
        layer.nbytes * layer.offset // layer.keys.shape[2] if type(layer) is KVCache and layer.offset else layer.nbytes
        for layer in cache
    ]
    return sum(sizes)


def dump(cache: KvCache, *, drop_tokens: int) -> memoryview:
    """The state of a cache without its last `drop_tokens` tokens, which it forgets."""
    from mlx_lm.models.cache import KVCache, save_prompt_cache

    trim(cache, drop_tokens)
    for layer in cache:
        if type(layer) is KVCache:
            # Caches grow by steps of many tokens; the room that is not filled need not lie on the disk.
            layer.keys, layer.values = layer.keys_and_values()
    state = io.BytesIO()
    save_prompt_cache(state, cache)
    return state.getbuffer()


def load(state: memoryview) -> KvCache | None:
    """The cache that such bytes were made of; None: they do not fit this mlx-lm."""
    from mlx_lm.models.cache import load_prompt_cache

    try:
        cache: KvCache = load_prompt_cache(_State(state))
        detach(cache)
    # Whatever mlx-lm and MLX make of bytes that are not what they expect.
    except Exception:
        return None
    return cache
