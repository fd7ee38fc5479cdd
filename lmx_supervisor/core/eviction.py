"""Which idle models make room for a load, and what becomes of them when the load is over. The choice is pure arithmetic.

Only a model that serves and has nothing to do is ever chosen, never a pinned one, the least recently used first; only as many
as are needed, and none when all of them would not be enough. Until the load they made room for serves, the evicted are not
given up: if it fails they come back, and requests for them wait for the outcome.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.budget import charge_bytes
from lmx_supervisor.core.slot import COMING, SERVING, Slot
from lmx_supervisor.core.state import FleetState

_ENDED = frozenset({WorkerState.STOPPED, WorkerState.FAILED, WorkerState.QUARANTINED})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be unloaded, and what that would free."""

    model_id: str
    bytes: int
    last_used_at: float
    unused: bool = False
    """It was loaded unasked, and nobody has wanted it yet."""


def choose(candidates: Sequence[Candidate], short_bytes: int) -> tuple[Candidate, ...]:
    """The least recently used that together free `short_bytes`, none of them for nothing; empty when all are not enough.

    What nobody has used at all goes before the others.
    """
    chosen: list[Candidate] = []
    freed_bytes = 0
    for candidate in sorted(candidates, key=lambda candidate: (not candidate.unused, candidate.last_used_at)):
        if freed_bytes >= short_bytes:
            break
        chosen.append(candidate)
        freed_bytes += candidate.bytes
    if freed_bytes < short_bytes:
        return ()
    # A large one may have made the smaller ones before it unnecessary; those used last are spared first.
    for candidate in reversed(chosen.copy()):
        if freed_bytes - candidate.bytes >= short_bytes:
            chosen.remove(candidate)
            freed_bytes -= candidate.bytes
    return tuple(chosen)


def candidates(state: FleetState, beneficiary: Slot) -> list[Candidate]:
    """The models that may be unloaded for another."""
    return [
        Candidate(slot.model_id, charge_bytes(state, slot), slot.last_used_at or 0.0, slot.prefetched)
        for slot in state.slots.values()
        if slot is not beneficiary and may_be_evicted(state, slot)
    ]


def may_be_evicted(state: FleetState, slot: Slot) -> bool:
    """Whether nobody would miss it right now: idle, healthy and not pinned."""
    incarnation = state.incarnation_of(slot)
    return slot.is_idle and not is_pinned(slot) and incarnation is not None and incarnation.ladder is None


def is_pinned(slot: Slot) -> bool:
    """Whether it stays until somebody unloads it."""
    return slot.keep_alive_seconds == 0


def outcome(state: FleetState, evicted: Slot) -> bool | None:
    """Whether the load that a model made room for came to serve; None while that is open."""
    beneficiary = state.slots.get(evicted.evicted_for or "")
    if beneficiary is None or beneficiary.state in _ENDED:
        return False
    if beneficiary.state in SERVING:
        return True
    # Stopped by an operator before it served: wait until its memory is back.
    assert beneficiary.state in COMING or beneficiary.state is WorkerState.DRAINING, beneficiary
    return None
