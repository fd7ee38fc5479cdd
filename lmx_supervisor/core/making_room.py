"""What it takes until a model fits that requests wait for: who leaves now, who begins nothing new, or until when to wait. Pure.

An operator's load takes the idle ones, whoever they are, or is refused. Requests can wait: so more can be done for them, and
more care is taken of those who serve. Nobody leaves who is busy, pinned or on trial, or has served for less than
`least_residency_sec`. Where nobody idle would be enough, those that are in use take turns with those that are waited for: one
that may itself be loaded on demand begins no new requests, leaves when the running ones have ended, and comes back in its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.admission import shortage
from lmx_supervisor.core.budget import charge_bytes, is_counted
from lmx_supervisor.core.eviction import Candidate, choose, is_pinned, may_be_evicted
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.state import FleetState


@dataclass(frozen=True, slots=True)
class Start:
    """It fits when these have left; they may be asked to."""

    evict: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """There will be room, not now."""

    not_before: float
    """Monotonic second; one that has passed: as soon as those that are in use are not any more."""
    because: str
    spoken_for: frozenset[str]
    """The models that make room."""
    spoken_for_bytes: int
    """What it needs beside theirs, of the memory that is free."""
    yields: frozenset[str] = frozenset()
    """Those of them that are to begin no new requests."""


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Whoever leaves, it does not fit; the text shows the sum."""

    text: str


@dataclass(frozen=True, slots=True)
class SpokenFor:
    """What those need who are waited for and go first."""

    models: frozenset[str] = frozenset()
    bytes: int = 0

    def and_what(self, wait: Wait) -> "SpokenFor":
        """With one more who waits."""
        return SpokenFor(self.models | wait.spoken_for, self.bytes + wait.spoken_for_bytes)


def make_room(state: FleetState, slot: Slot, spoken_for: SpokenFor, now: float) -> Start | Wait | Hopeless:
    """What it takes to load a model that requests wait for, and what the others that are waited for leave over."""
    missing = shortage(state, slot)
    if missing is None:
        return Start()
    short_bytes = missing.short_bytes + spoken_for.bytes
    if short_bytes <= 0:
        return Start()
    may_evict = state.policy.auto_evict_lru
    leave_now = [
        _candidate(state, each, since=each.last_used_at)
        for each in state.slots.values()
        if each is not slot and each.model_id not in spoken_for.models and may_leave(state, each, slot, now)
    ]
    chosen = choose(leave_now, short_bytes) if may_evict else ()
    if chosen:
        return Start(chosen)
    if missing.short_bytes <= 0:
        because = "the memory that is free is for a model that is waited for longer"
        return Wait(now, because, frozenset(), missing.need.total_bytes)
    chosen = _that_will_do(state, slot, missing.short_bytes, spoken_for) if may_evict else ()
    if not chosen:
        why = "the models that may leave would not make enough room" if may_evict else "no other model is unloaded for it"
        return Hopeless(missing.text(why))
    free_bytes = missing.need.total_bytes - sum(candidate.bytes for candidate in chosen)
    models = [state.slots[candidate.model_id] for candidate in chosen]
    return _wait_for(state, models, spoken_for, max(0, free_bytes), now)


def may_leave(state: FleetState, slot: Slot, beneficiary: Slot, now: float) -> bool:
    """Whether a model may be unloaded right now for one that requests wait for."""
    incarnation = state.incarnation_of(slot)
    if slot.yields_to == beneficiary.model_id:
        is_free = slot.state is WorkerState.READY and not slot.running
        return is_free and incarnation is not None and incarnation.ladder is None and free_at(state.policy, slot, now) <= now
    return may_be_evicted(state, slot) and free_at(state.policy, slot, now) <= now


def free_at(policy: Policy, slot: Slot, now: float) -> float:
    """From when on a model may be made to leave; what nobody has used yet, at any time."""
    if slot.prefetched:
        return now
    since = slot.ready_at if slot.state in SERVING and slot.ready_at is not None else now
    return since + policy.least_residency_seconds


def _that_will_do(state: FleetState, slot: Slot, short_bytes: int, spoken_for: SpokenFor) -> tuple[Candidate, ...]:
    """Who can make room sooner or later: of those that can yield, else of all; the one that has served for longest first."""
    others = [each for each in state.slots.values() if each is not slot and is_counted(each) and not is_pinned(each)]
    left_over = [each for each in others if each.model_id not in spoken_for.models]
    can_yield = [each for each in left_over if _can_yield(state.policy, each)]
    for among in (can_yield, left_over, others):
        chosen = choose([_candidate(state, each, since=each.ready_at) for each in among], short_bytes)
        if chosen:
            return chosen
    return ()


def _can_yield(policy: Policy, slot: Slot) -> bool:
    """Whether it may lose its memory although it is in use: it comes back as soon as it is its turn."""
    return slot.trial is None and slot.quarantine_reason is None and policy.loads_on_demand(slot.model_id)


def _candidate(state: FleetState, slot: Slot, *, since: float | None) -> Candidate:
    return Candidate(slot.model_id, charge_bytes(state, slot), since or 0.0, slot.prefetched)


def _wait_for(state: FleetState, models: Sequence[Slot], spoken_for: SpokenFor, free_bytes: int, now: float) -> Wait:
    """Until these can leave, beside whom `free_bytes` of the free memory are needed."""
    names = frozenset(each.model_id for each in models)
    latest = max(models, key=lambda each: free_at(state.policy, each, now))
    not_before = free_at(state.policy, latest, now)
    if not_before > now:
        has_served = f"has served for less than {state.policy.least_residency_seconds:g} s"
        because = f"'{latest.model_id}' {has_served if latest.state in SERVING else 'is on its way'}"
        return Wait(not_before, because, names, free_bytes)
    if promised := names & spoken_for.models:
        return Wait(now, f"'{min(promised)}' makes room for another one first", names, free_bytes)
    in_use = [each for each in models if not each.is_idle]
    yields = frozenset(each.model_id for each in in_use if each.state in SERVING and _can_yield(state.policy, each))
    because = f"'{(in_use or models)[0].model_id}' is in use"
    return Wait(now, because, names, free_bytes, yields)
