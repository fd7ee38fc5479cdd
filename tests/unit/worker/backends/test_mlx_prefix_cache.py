"""The prefix cache: what is reused, and what is dropped."""

from typing import Any

import pytest

from lmx_worker.backends.mlx.libraries import import_mlx
from lmx_worker.backends.mlx.prefix_cache import PrefixCache

TOKEN_BYTES = 2 * 4 * 4  # keys and values, four numbers each, float32


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """MLX, imported the way the worker does."""
    import_mlx()


def attention_cache(tokens: list[int]) -> list[Any]:
    """A trimmable one-layer cache whose keys are the tokens themselves, without spare room."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache

    cache = KVCache()
    rows = mx.array(tokens, dtype=mx.float32)[None, None, :, None] * mx.ones((1, 1, 1, 4))
    cache.state = (rows, rows, len(tokens))
    return [cache]


def recurrent_cache() -> list[Any]:
    """A cache that stands for its whole history and cannot be cut back."""
    import mlx.core as mx
    from mlx_lm.models.cache import ArraysCache

    cache = ArraysCache(size=1)
    cache[0] = mx.ones((1, 4))
    return [cache]


def a_prefix_cache(*, entries_max: int = 8, bytes_max: int = 1024**2) -> PrefixCache:
    """An empty cache, roomy unless the test says otherwise."""
    return PrefixCache(entries_max=entries_max, bytes_max=bytes_max)


def test_the_longest_beginning_is_taken_and_cut() -> None:
    """Of two entries the one that saves more is used, cut back to what the prompt shares with it."""
    prefixes = a_prefix_cache()
    prefixes.put([1, 2, 9, 9], attention_cache([1, 2, 9, 9]))
    prefixes.put([1, 2, 3, 4, 5], attention_cache([1, 2, 3, 4, 5]))
    cache, reused = prefixes.take([1, 2, 3, 4, 7, 7])
    assert reused == 4
    assert cache is not None
    assert cache[0].offset == 4


def test_one_token_is_always_left_to_compute() -> None:
    """The very same prompt reuses all but its last token, since the model must compute something."""
    prefixes = a_prefix_cache()
    prefixes.put([1, 2, 3], attention_cache([1, 2, 3]))
    assert prefixes.take([1, 2, 3])[1] == 2
    assert prefixes.take([1]) == (None, 0)


def test_taking_leaves_the_entry_whole() -> None:
    """What the taker does to its cache does not reach the entry: the next taker gets all of it."""
    prefixes = a_prefix_cache()
    prefixes.put([1, 2, 3, 4], attention_cache([1, 2, 3, 4]))
    taken, _ = prefixes.take([1, 2, 8])
    assert taken is not None
    taken[0].keys[...] = 0
    again, reused = prefixes.take([1, 2, 3, 4, 5])
    assert reused == 4
    assert again is not None
    assert again[0].keys[0, 0, :, 0].tolist() == [1, 2, 3, 4]


def test_a_state_that_cannot_be_cut_is_reused_whole_or_not_at_all() -> None:
    """A recurrent state serves prompts that continue it and no others."""
    prefixes = a_prefix_cache()
    prefixes.put([1, 2, 3], recurrent_cache())
    assert prefixes.take([1, 2, 4, 5]) == (None, 0)
    assert prefixes.take([1, 2, 3]) == (None, 0)
    assert prefixes.take([1, 2, 3, 4])[1] == 3


def test_a_longer_entry_replaces_the_one_it_continues() -> None:
    """A conversation occupies one entry, not one per turn; a state that cannot be cut keeps its ancestors."""
    prefixes = a_prefix_cache()
    prefixes.put([1, 2], attention_cache([1, 2]))
    prefixes.put([1, 2, 3], attention_cache([1, 2, 3]))
    assert len(prefixes) == 1
    prefixes.put([5, 6], recurrent_cache())
    prefixes.put([5, 6, 7], recurrent_cache())
    prefixes.put([5, 6, 7], recurrent_cache())
    assert len(prefixes) == 3


def test_the_least_recently_used_entry_goes_first() -> None:
    """Over the entry bound, an entry that was used lately outlives an older one."""
    prefixes = a_prefix_cache(entries_max=2)
    prefixes.put([1, 1], attention_cache([1, 1]))
    prefixes.put([2, 2], attention_cache([2, 2]))
    prefixes.take([1, 1, 1])
    prefixes.put([3, 3], attention_cache([3, 3]))
    assert prefixes.take([1, 1, 1])[1] == 2
    assert prefixes.take([2, 2, 2])[1] == 0


def test_bytes_are_bounded() -> None:
    """Entries are dropped until the bytes fit, also when the bound shrinks and when one entry alone is too big."""
    prefixes = a_prefix_cache(bytes_max=6 * TOKEN_BYTES)
    prefixes.put([1] * 4, attention_cache([1] * 4))
    prefixes.put([2] * 4, attention_cache([2] * 4))
    assert prefixes.nbytes == 4 * TOKEN_BYTES
    prefixes.put([3] * 7, attention_cache([3] * 7))
    assert len(prefixes) == 0
    prefixes.put([4] * 4, attention_cache([4] * 4))
    prefixes.shrink_to(0)
    assert len(prefixes) == 0


def test_nothing_is_kept_for_no_tokens() -> None:
    """A request cancelled before any work leaves no entry."""
    prefixes = a_prefix_cache()
    prefixes.put([], attention_cache([]))
    assert len(prefixes) == 0
