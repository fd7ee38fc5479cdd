"""Whether a load may start: its claim on the host's memory, who has to make room, and the arithmetic of a refusal."""

from dataclasses import dataclass

from lmx_supervisor.core.budget import Sums, is_somebody_leaving, limit_bytes, occupied_bytes, sums
from lmx_supervisor.core.eviction import Candidate, candidates, choose
from lmx_supervisor.core.memory_need import MemoryNeed
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState

_NAMED_MAX = 8


@dataclass(frozen=True, slots=True)
class Granted:
    """The claim fits, once these have left."""

    evict: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Denied:
    """It does not fit; the text shows the sum."""

    text: str


def claim(state: FleetState, slot: Slot, *, may_evict: bool) -> Granted | Denied:
    """Reserve what a slot needs. A granted claim is in force at once and lasts until the slot has stopped or is given up."""
    slot.claimed_bytes = 0
    evict: tuple[Candidate, ...] = ()
    missing = shortage(state, slot)
    if missing is not None and missing.short_bytes > 0:
        may_go = candidates(state, slot)
        evict = choose(may_go, missing.short_bytes) if may_evict else ()
        if not evict:
            return Denied(missing.text(_why_not(may_go, may_evict=may_evict)))
    reserve(state, slot)
    return Granted(evict)


def reserve(state: FleetState, slot: Slot) -> None:
    """Claim what a slot needs, whether it fits or not; what that is may not be known."""
    need = _need_of(state, slot)
    slot.claimed_bytes = need.total_bytes if need is not None else 0


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a slot needs and what there is."""

    model_id: str
    need: MemoryNeed
    budget: Sums

    @property
    def free_bytes(self) -> int:
        """What it may have. Its process may be there already: what that costs is part of the claim."""
        return self.budget.free + self.budget.workers.get(self.model_id, 0)

    @property
    def short_bytes(self) -> int:
        """What is missing; nothing is where that is not positive."""
        return self.need.total_bytes - self.free_bytes

    def text(self, why: str) -> str:
        """The sum, and why nobody makes room."""
        return _denial(self.model_id, self.need, self.budget, self.free_bytes, why)


def shortage(state: FleetState, slot: Slot) -> Shortage | None:
    """What a slot that holds no claim would lack; None when its need or the host's memory is not known."""
    need, budget = _need_of(state, slot), sums(state)
    return Shortage(slot.model_id, need, budget) if need is not None and budget is not None else None


def may_go_on(state: FleetState, slot: Slot) -> bool | Denied:
    """Whether a worker may be told to load now. False: not yet, because those that make room for it are still leaving."""
    if state.host is None or occupied_bytes(state, slot) + slot.claimed_bytes <= limit_bytes(state):
        return True
    if is_somebody_leaving(state):
        return False
    missing = shortage(state, slot)
    assert missing is not None, "a slot without a claim always fits"
    return Denied(missing.text("the memory was taken by others while it was about to load"))


def _need_of(state: FleetState, slot: Slot) -> MemoryNeed | None:
    return slot.need.corrected(state.peaks.of(slot.digest)) if slot.need is not None else None


def _why_not(may_go: list[Candidate], *, may_evict: bool) -> str:
    if not may_evict:
        return "no other model is unloaded for it"
    if not may_go:
        return "no idle model could make room"
    idle = _listed([(candidate.model_id, candidate.bytes) for candidate in may_go])
    return f"unloading every idle model would not be enough ({idle})"


def _denial(model_id: str, need: MemoryNeed, budget: Sums, free_bytes: int, why: str) -> str:
    kv = f"key/value cache {gb(need.kv_bytes)}"
    parts = f"weights {gb(need.weights_bytes)} + {kv} + working memory {gb(need.working_bytes)}"
    percent = f"{100 * budget.limit / budget.total:.0f} % of {gb(budget.total)}"
    others = {each: size for each, size in budget.workers.items() if each != model_id}
    models = _listed(sorted(others.items(), key=lambda item: -item[1]))
    promised = f"{gb(sum(others.values()))} are promised to models" + (f" ({models})" if models else "")
    used = f"{gb(budget.others + budget.processes)} are used by everything else"
    return (
        f"Model '{model_id}' needs {gb(need.total_bytes)} ({parts}), and {gb(max(0, free_bytes))} are free: of the "
        f"{gb(budget.limit)} that may be used ({percent}), {promised} and {used}; {why}. Unload a model, load this one with a "
        f"shorter context or fewer slots, or raise memory.max_memory_percent."
    )


def _listed(sizes: list[tuple[str, int]]) -> str:
    more = len(sizes) - _NAMED_MAX
    return ", ".join(f"{model_id} {gb(size)}" for model_id, size in sizes[:_NAMED_MAX]) + (f", {more} more" if more > 0 else "")


def gb(size_bytes: int) -> str:
    """For people, in units of 1024³ bytes."""
    return f"{size_bytes / 1024**3:.2f} GB"
