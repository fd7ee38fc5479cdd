"""Which computed prefixes are worth a place on the disk, and how much a saved one saves a prompt. Pure decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lmx_protocol import limits

_BESIDE_TOKENS_BYTES_MAX = 64 * 1024
"""What of a state does not shrink with its tokens: names and shapes."""


class Candidate(Protocol):
    """What is computed, be it in memory or on the disk already."""

    @property
    def tokens(self) -> list[int]:
        """What it is computed of."""

    @property
    def nbytes(self) -> int:
        """What it takes on the disk, as far as is known."""

    @property
    def can_cut(self) -> bool:
        """Whether its first tokens can be used without the others."""

    @property
    def is_saved(self) -> bool:
        """Whether it is on the disk: it costs no time, and stays as it is or goes."""


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Choice(Generic[AnyCandidate]):
    """Keep the first `length` tokens of a candidate."""

    candidate: AnyCandidate
    length: int


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


def reusable_tokens(tokens: list[int], prompt: list[int], *, can_cut: bool) -> int:
    """How much of a prompt is saved by what was computed of `tokens`; at least one token must be left to compute."""
    shared = min(common_prefix_length(tokens, prompt), len(prompt) - 1)
    return shared if can_cut or shared == len(tokens) else 0


def choose(candidates: Sequence[AnyCandidate], *, bytes_max: int) -> list[Choice[AnyCandidate]]:
    """What to keep of the candidates, the most recently used first.

    A candidate is kept for what it adds to those before it, and has to add a good part of itself: ten questions below one
    system prompt are no reason to keep ten copies of it. One that is too large is cut to what there is room for.
    """
    chosen: list[Choice[AnyCandidate]] = []
    used_bytes = 0
    for candidate in _without_copies(candidates):
        if len(chosen) == limits.PREFIX_FILES_PER_MODEL_MAX:
            break
        room_bytes = min(bytes_max - used_bytes, limits.PREFIX_FILE_BYTES_MAX)
        length = _length_that_fits(candidate, room_bytes)
        known = max((_covered(candidate, length, choice) for choice in chosen), default=0)
        if length - known < max(limits.PREFIX_TOKENS_MIN, limits.PREFIX_NEW_RATIO_MIN * length):
            continue
        chosen.append(Choice(candidate, length))
        used_bytes += _bytes_of(candidate, length)
    return chosen


def _without_copies(candidates: Sequence[AnyCandidate]) -> list[AnyCandidate]:
    """In place of one in memory, the one on the disk that can do all that it can: it need not be written again."""
    saved = [candidate for candidate in candidates if candidate.is_saved]
    found: list[AnyCandidate] = []
    for candidate in candidates:
        copy = next((kept for kept in saved if _can_all_of(kept, candidate)), candidate)
        if not any(copy is other for other in found):
            found.append(copy)
    return found


def _can_all_of(saved: Candidate, candidate: Candidate) -> bool:
    if saved.can_cut:
        return saved.tokens[: len(candidate.tokens)] == candidate.tokens
    return saved.tokens == candidate.tokens


def _length_that_fits(candidate: Candidate, room_bytes: int) -> int:
    length = len(candidate.tokens)
    if candidate.nbytes <= room_bytes:
        return length
    if candidate.is_saved or not candidate.can_cut:
        return 0
    return length * max(0, room_bytes - _BESIDE_TOKENS_BYTES_MAX) // candidate.nbytes


def _covered(candidate: Candidate, length: int, choice: Choice[AnyCandidate]) -> int:
    """How much of the first `length` tokens of a candidate a chosen one saves already."""
    kept = choice.candidate.tokens[: choice.length]
    shared = common_prefix_length(kept, candidate.tokens[:length])
    return shared if choice.candidate.can_cut or shared == len(kept) else 0


def _bytes_of(candidate: Candidate, length: int) -> int:
    return -(-candidate.nbytes * length // len(candidate.tokens))
