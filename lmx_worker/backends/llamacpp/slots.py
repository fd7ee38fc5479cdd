"""Which sequence serves a request, what it can reuse, and how a step's prefill budget is shared. Pure decisions.

A slot is one sequence of the context. When its request ends, what it computed stays until the slot is needed, so that a request
that begins with the same tokens computes only the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

IDLE_STEPS_MAX = 4096
"""How long a prefix is kept for a request that may come. Every decoded token walks past all cells in use, whoever's they are:
on a CPU about 1 µs for each, where computing one takes about 2 ms. After some thousand steps keeping costs more than computing
again."""


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence of the context and the tokens whose keys and values it holds."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0
    """The backend's clock (steps and uses) at the last use: the smallest is the least recently used."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Serve a request in `slot`, keeping the first `reused` tokens of `source` (the slot itself, or another to copy from)."""

    slot: Slot
    source: Slot
    reused: int


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def place(slots: Sequence[Slot], prompt: Sequence[int], *, partial: bool) -> Placement:
    """Choose the slot and the reuse for a prompt; at least one slot must be free, and at least one token stays to compute.

    Where keys and values cannot be cut at a position (`partial` false: recurrent models), a free slot is reused as a whole or
    not at all. Otherwise the longest common prefix of any slot is taken. It is copied into the least recently used free slot
    when its own slot is busy, or would lose more than it gives: copies share memory cells, so they cost nothing.
    """
    oldest = oldest_free(slots)
    reusable = len(prompt) - 1

    def reuse(slot: Slot) -> int:
        shared = min(common_prefix(slot.tokens, prompt), reusable)
        return shared if partial or (not slot.busy and shared == len(slot.tokens)) else 0

    lengths = [(reuse(slot), not slot.busy, -slot.used_at, slot) for slot in slots]
    reused, is_free, _, source = max(lengths, key=lambda entry: entry[:3])
    if reused == 0:
        return Placement(oldest, oldest, 0)
    lost = len(source.tokens) - reused
    if is_free and (lost <= reused or source is oldest):
        return Placement(source, source, reused)
    return Placement(oldest, source, reused)


def oldest_free(slots: Sequence[Slot]) -> Slot:
    """The slot to give up first: an empty one, else the least recently used. At least one must be free."""
    return min((slot for slot in slots if not slot.busy), key=lambda slot: (bool(slot.tokens), slot.used_at))


def expired(slots: Sequence[Slot], clock: int) -> list[Slot]:
    """The free slots whose prefix nobody wanted for `IDLE_STEPS_MAX`."""
    return [slot for slot in slots if slot.tokens and not slot.busy and clock - slot.used_at > IDLE_STEPS_MAX]


def share_prefill(remaining: Sequence[int], budget: int) -> list[int]:
    """Tokens of each waiting prompt to compute in this step: equal shares, and what a short prompt leaves goes to the others.

    Earlier prompts get the odd tokens. The shares add up to `min(budget, sum(remaining))`.
    """
    shares = [0] * len(remaining)
    hungry = [index for index, tokens in enumerate(remaining) if tokens > 0]
    while budget > 0 and hungry:
        equal = max(1, budget // len(hungry))
        for index in hungry:
            taken = min(equal, remaining[index] - shares[index], budget)
            shares[index] += taken
            budget -= taken
        hungry = [index for index in hungry if shares[index] < remaining[index]]
    return shares
