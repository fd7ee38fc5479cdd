"""One budget for the memory of this host: what is promised, what is occupied, and what is left.

A load *claims* its memory before it starts, so that two loads in flight cannot both have the same gigabytes. Two sums follow:

- promised: everything that will be there once those that are leaving have left. A claim is granted against this one.
- occupied: everything that is there now, with the loads that were let go. A load is let go against this one, so that a claim
  on the memory of a model that is still draining waits until it is gone.

Every model counts with its claim or with what it really costs, whichever is more; what is used by anybody else counts too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.slot import COMING, SERVING, Slot
from lmx_supervisor.core.state import FleetState


@dataclass(frozen=True, slots=True)
class Sums:
    """The budget at one moment. All in bytes."""

    total: int
    """Of the host, or of its share of it."""
    limit: int
    """What may be used of it, by models and everybody else together."""
    others: int
    """Used by what is no worker of ours."""
    workers: Mapping[str, int]
    """Promised to models, by id."""
    processes: int
    """Workers without a model: warm spares, and those that are on their way out."""

    @property
    def promised(self) -> int:
        """Everything together."""
        return self.others + self.processes + sum(self.workers.values())

    @property
    def free(self) -> int:
        """What a load may still claim; negative when more is used than may be."""
        return self.limit - self.promised


def sums(state: FleetState) -> Sums | None:
    """The budget as it will be when those that are leaving have left; None before the host's memory was read."""
    host = state.host
    if host is None:
        return None
    stays = {slot.model_id: charge_bytes(state, slot) for slot in state.slots.values() if is_counted(slot)}
    return Sums(
        total=host.total_bytes,
        limit=limit_bytes(state),
        others=_others_bytes(state),
        workers=stays,
        processes=_unattached_bytes(state),
    )


def occupied_bytes(state: FleetState, without: Slot) -> int:
    """What is in use now beside one slot, with every load that was let go counted in full."""
    others = [slot for slot in state.slots.values() if slot is not without]
    models = sum(charge_bytes(state, slot) if _has_its_model(state, slot) else _footprint_bytes(state, slot) for slot in others)
    return _others_bytes(state) + _unattached_bytes(state) + models


def limit_bytes(state: FleetState) -> int:
    """What may be used of this host."""
    assert state.host is not None
    return int(state.host.total_bytes * state.policy.memory_max_percent / 100)


def charge_bytes(state: FleetState, slot: Slot) -> int:
    """What a slot counts for: its claim, or what its worker costs, whichever is more."""
    return max(slot.claimed_bytes, _footprint_bytes(state, slot))


def is_somebody_leaving(state: FleetState) -> bool:
    """Whether memory is about to come back by itself."""
    ending = any(incarnation.ladder is not None for incarnation in state.incarnations.values())
    return ending or any(slot.state is WorkerState.DRAINING for slot in state.slots.values())


def is_counted(slot: Slot) -> bool:
    """Whether a slot's claim is in force: it is there, or it will be."""
    return slot.state in SERVING or slot.state in COMING or (slot.state is WorkerState.DRAINING and slot.returns)


def _has_its_model(state: FleetState, slot: Slot) -> bool:
    incarnation = state.incarnation_of(slot)
    return incarnation is not None and incarnation.load_sent_at is not None


def _footprint_bytes(state: FleetState, slot: Slot) -> int:
    incarnation = state.incarnation_of(slot)
    return (incarnation.footprint_bytes or 0) if incarnation is not None else 0


def _unattached_bytes(state: FleetState) -> int:
    return sum(worker.footprint_bytes or 0 for worker in state.incarnations.values() if state.slot_of(worker) is None)


def _others_bytes(state: FleetState) -> int:
    """What the host uses beside our workers, whose part of the very same reading is known."""
    assert state.host is not None
    resident, used_bytes = state.host.resident_bytes, state.host.total_bytes - state.host.available_bytes
    ours = sum(resident.get(name, worker.footprint_bytes or 0) for name, worker in state.incarnations.items())
    return max(0, used_bytes - ours)
