"""Key-value caches of ended requests, kept so that the next prompt with the same beginning does not compute it again.

The caches and the way they are trimmed are mlx-lm's. The look-up is ours: mlx-lm's `LRUPromptCache` keeps one dictionary per
token and, to find an entry that diverges from the prompt, copies growing paths through them: 0.8 s for one entry of 32k tokens
(it grows with the square), all of it on the thread that every stream waits for. A handful of entries is found faster by
comparing token lists: 16 entries of 32k tokens take under 10 ms.
"""

import copy
from dataclasses import dataclass
from typing import Any

KvCache = list[Any]
"""One mlx-lm cache object per layer."""


@dataclass(frozen=True, slots=True)
class _Entry:
    tokens: list[int]
    cache: KvCache
    nbytes: int
    can_trim: bool

    def reusable_tokens(self, prompt: list[int]) -> int:
        """How much of `prompt` this entry saves; at least one token must be left to compute."""
        shared = min(common_prefix_length(self.tokens, prompt), len(prompt) - 1)
        return shared if self.can_trim or shared == len(self.tokens) else 0


class PrefixCache:
    """At most `entries_max` caches and `bytes_max` bytes; the least recently used goes first."""

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes held by all entries."""
        return sum(entry.nbytes for entry in self._entries)

    def take(self, prompt: list[int]) -> tuple[KvCache | None, int]:
        """A cache of the longest known beginning of `prompt`, now the caller's, and its length in tokens; or (None, 0)."""
        savings = [entry.reusable_tokens(prompt) for entry in self._entries]
        reusable = max(savings, default=0)
        if reusable == 0:
            return None, 0
        best = self._entries[savings.index(reusable)]
        self._entries.remove(best)
        self._entries.append(best)
        cache = copy.deepcopy(best.cache)  # shares the arrays until one side writes
        return trim(cache, len(best.tokens) - reusable), reusable

    def put(self, tokens: list[int], cache: KvCache) -> None:
        """Keep `cache`, which holds exactly `tokens`. Entries it makes superfluous go."""
        from mlx_lm.models.cache import can_trim_prompt_cache

        if not tokens:
            return
        detach(cache)
        can_trim = bool(can_trim_prompt_cache(cache))
        entry = _Entry(list(tokens), cache, sum(layer.nbytes for layer in cache), can_trim)
        self._entries = [known for known in self._entries if not _is_covered(known, entry)]
        self._entries.append(entry)
        self.shrink_to(self._bytes_max)

    def shrink_to(self, bytes_max: int) -> None:
        """Drop entries, the least recently used first, until at most `bytes_max` bytes are held."""
        while self._entries and (len(self._entries) > self._entries_max or self.nbytes > bytes_max):
            del self._entries[0]


def common_prefix_length(left: list[int], right: list[int]) -> int:
    """How many tokens two lists start with in common; slices are compared at C speed, so bisecting beats a loop."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def trim(cache: KvCache, tokens: int) -> KvCache:
    """`cache`, with its last `tokens` tokens forgotten in place; only for a cache that can be trimmed."""
    from mlx_lm.models.cache import trim_prompt_cache

    if tokens > 0:
        trim_prompt_cache(cache, tokens)
    return cache


def _is_covered(known: _Entry, new: _Entry) -> bool:
    """Whether `new` can do all that `known` can: it continues it and can be cut back to it, or it is the same."""
    if len(known.tokens) > len(new.tokens) or new.tokens[: len(known.tokens)] != known.tokens:
        return False
    return new.can_trim or len(known.tokens) == len(new.tokens)


def detach(cache: KvCache) -> None:
    """Compute the pending copies, else a cache cut from a batch keeps the buffers of the whole batch alive."""
    import mlx.core as mx

    mx.eval([layer.state for layer in cache])
