"""The slots over one context: which request gets which, what of its prompt is there already, and what outlives it.

Decisions are in `slots`; here they are carried out on the native memory. What a slot keeps can be written out when the worker
stops, and what earlier workers left is read back into a free slot when a prompt begins like it.
"""

from collections.abc import Callable, Sequence

from lmx_worker.backends.llamacpp.context import DecodeContext
from lmx_worker.backends.llamacpp.slots import Slot, expired, oldest_free, place
from lmx_worker.prefixes import prefix_file
from lmx_worker.prefixes.shelf import Prefix, Shelf


class SlotMemory:
    """All slots of a context. The native memory and the slots' token lists change together, and only here."""

    def __init__(self, context: DecodeContext, *, slots: int, can_cut: bool, reuses: bool) -> None:
        """`can_cut`: the first tokens of a sequence can be kept without the others. `reuses`: what is computed serves again."""
        self._context = context
        self._slots = [Slot(sequence) for sequence in range(slots)]
        self._can_cut = can_cut
        self._reuses = reuses
        self._shelf: Shelf | None = None
        self._clock = 0

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    @property
    def used_ratio(self) -> float:
        """How full the context is; cells that slots share are counted for each."""
        used = sum(len(slot.tokens) for slot in self._slots)
        return min(1.0, used / self._context.cells)

    def claim(self, prompt: Sequence[int]) -> tuple[Slot, int]:
        """Make a free slot hold the longest prefix of the prompt that is computed anywhere; return it and that length."""
        # Of one token nothing can be reused: at least one has to be computed.
        wanted = prompt if self._reuses else prompt[:1]
        placement = place(self._slots, wanted, partial=self._can_cut)
        if self._restore(list(wanted), known=placement.reused):
            placement = place(self._slots, wanted, partial=self._can_cut)
        slot, reused = placement.slot, placement.reused
        if placement.source is not slot:
            self._context.copy(placement.source.sequence, slot.sequence, reused)
        elif reused < len(slot.tokens) and not self._context.truncate(slot.sequence, reused):
            reused = 0
        slot.tokens = list(prompt[:reused])
        slot.busy = True
        self._touch(slot)
        return slot, reused

    def release(self, slot: Slot) -> None:
        """Its request has ended: what was computed stays until the slot is needed."""
        slot.busy = False
        self._touch(slot)

    def empty(self, slot: Slot) -> None:
        """Forget what a slot holds."""
        self._context.truncate(slot.sequence, 0)
        slot.tokens = []

    def tick(self) -> None:
        """A step was computed: forget what nobody wanted for too long."""
        self._clock += 1
        for slot in expired(self._slots, self._clock):
            self.empty(slot)

    def give_up_cached(self) -> bool:
        """Empty the slots that only keep a prefix for later; whether there were any."""
        cached = [slot for slot in self._slots if not slot.busy and slot.tokens]
        for slot in cached:
            self.empty(slot)
        return bool(cached)

    def forget_everything(self) -> None:
        """Empty all slots."""
        for slot in self._slots:
            self.empty(slot)

    def use_shelf(self, shelf: Shelf) -> None:
        """See `PrefixKeeper.use_shelf`."""
        self._shelf = shelf

    def prefixes(self) -> list[Prefix]:
        """See `PrefixKeeper.prefixes`."""
        kept = [slot for slot in self._slots if slot.tokens and not slot.busy]
        return [
            Prefix(
                tokens=list(slot.tokens),
                nbytes=prefix_file.file_bytes(len(slot.tokens), self._context.state_bytes(slot.sequence)),
                can_cut=self._can_cut,
                dump=self._dump_of(slot),
            )
            for slot in sorted(kept, key=lambda slot: slot.used_at, reverse=True)
        ]

    def _restore(self, prompt: list[int], *, known: int) -> bool:
        """Read a saved prefix into a free slot, if one saves the prompt clearly more than the `known` tokens in memory."""
        shelf = self._shelf
        saved = shelf.best(prompt, known=known) if shelf is not None else None
        if shelf is None or saved is None:
            return False
        slot = oldest_free(self._slots)
        self.empty(slot)
        if not shelf.restore(saved, lambda state: self._context.restore(slot.sequence, state)):
            return False
        slot.tokens = list(saved.tokens)
        self._touch(slot)
        return True

    def _dump_of(self, slot: Slot) -> Callable[[int], memoryview]:
        def dump(length: int) -> memoryview:
            if length < len(slot.tokens):
                self._context.truncate(slot.sequence, length)
                slot.tokens = slot.tokens[:length]
            return self._context.dump(slot.sequence)

        return dump

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock
