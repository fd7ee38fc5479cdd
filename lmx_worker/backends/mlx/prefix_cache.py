"""Key-value caches of ended requests, kept so that the next prompt with the same beginning does not compute it again.

The caches and the way they are trimmed are mlx-lm's. The look-up is ours: mlx-lm's `LRUPromptCache` keeps one dictionary per
token and, to find an entry that diverges from the prompt, copies growing paths through them: 0.8 s for one entry of 32k tokens
(it grows with the square), all of it on the thread that every stream waits for. A handful of entries is found faster by
comparing token lists: 16 entries of 32k tokens take under 10 ms.
"""

import copy
from dataclasses import dataclass

from lmx_worker.backends.mlx.kv_cache import KvCache, can_be_saved, detach, dump, load, state_bytes, trim
from lmx_worker.prefixes import prefix_file
from lmx_worker.prefixes.choice import reusable_tokens
from lmx_worker.prefixes.shelf import Prefix, Shelf


@dataclass(frozen=True, slots=True)
class _Entry:
    tokens: list[int]
    cache: KvCache
    nbytes: int
    can_trim: bool

    def reusable_tokens(self, prompt: list[int]) -> int:
        """How much of `prompt` this entry saves; at least one token must be left to compute."""
        return reusable_tokens(self.tokens, prompt, can_cut=self.can_trim)

    def dump(self, length: int) -> memoryview:
        """The state of the first `length` tokens; the others are forgotten."""
        return dump(self.cache, drop_tokens=len(self.tokens) - length)


class PrefixCache:
    """At most `entries_max` caches and `bytes_max` bytes; the least recently used goes first."""

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries: list[_Entry] = []
        self._shelf: Shelf | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes held by all entries."""
        return sum(entry.nbytes for entry in self._entries)

    def take(self, prompt: list[int]) -> tuple[KvCache | None, int]:
        """A cache of the longest known beginning of `prompt`, now the caller's, and its length in tokens; or (None, 0)."""
        savings = self._savings(prompt)
        if self._restore(prompt, known=max(savings, default=0)):
            savings = self._savings(prompt)
        reusable = max(savings, default=0)
        if reusable == 0:
            return None, 0
        best = self._entries[savings.index(reusable)]
        self._entries.remove(best)
        self._entries.append(best)
        cache = copy.deepcopy(best.cache)  # shares the arrays until one side writes
        return trim(cache, len(best.tokens) - reusable), reusable

    def use_shelf(self, shelf: Shelf) -> None:
        """See `PrefixKeeper.use_shelf`."""
        self._shelf = shelf

    def prefixes(self) -> list[Prefix]:
        """See `PrefixKeeper.prefixes`."""
        return [
            Prefix(
                tokens=entry.tokens,
                nbytes=prefix_file.file_bytes(len(entry.tokens), state_bytes(entry.cache)),
                can_cut=entry.can_trim,
                dump=entry.dump,
            )
            for entry in reversed(self._entries)
            if can_be_saved(entry.cache)
        ]

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

    def _savings(self, prompt: list[int]) -> list[int]:
        return [entry.reusable_tokens(prompt) for entry in self._entries]

    def _restore(self, prompt: list[int], *, known: int) -> bool:
        """Read a saved prefix, if one saves the prompt clearly more than the `known` tokens in memory."""
        shelf = self._shelf
        saved = shelf.best(prompt, known=known) if shelf is not None else None
        if shelf is None or saved is None:
            return False

        def take(state: memoryview) -> bool:
            cache = load(state)
            if cache is not None:
                self.put(saved.tokens, cache)
            return cache is not None

        return shelf.restore(saved, take)


def _is_covered(known: _Entry, new: _Entry) -> bool:
    """Whether `new` can do all that `known` can: it continues it and can be cut back to it, or it is the same."""
    if len(known.tokens) > len(new.tokens) or new.tokens[: len(known.tokens)] != known.tokens:
        return False
    return new.can_trim or len(known.tokens) == len(new.tokens)
