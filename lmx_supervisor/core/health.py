"""Is this worker late, hung or stuck? Four different questions, each with its own bound; never asked by a request's round trip.

Before READY only the load's own progress counts: a heartbeat may starve while weights stream in. Afterwards the heartbeat must
come, and with requests in flight the engine must step: a long prefill steps chunk by chunk and is no hang; a stuck engine under
a healthy heartbeat is one.
"""

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.exit_reason import KillCause
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import SERVING, Slot


def overdue(incarnation: Incarnation, slot: Slot | None, now: float, policy: Policy) -> KillCause | None:
    """Why this process must be ended now, or None. Not asked of a process that is already on a ladder."""
    if incarnation.hello_at is None:
        return KillCause.NO_HELLO if now - incarnation.spawned_at > policy.hello_seconds else None
    if slot is None:
        return _spare_overdue(incarnation, now, policy)
    if slot.state is WorkerState.LOADING:
        return _load_overdue(incarnation, slot, now, policy)
    if slot.state is WorkerState.WARMING:
        return KillCause.CANARY_TIMEOUT if now - slot.state_since > policy.canary_seconds else None
    if now - incarnation.last_beat_at > policy.beat_dead_seconds:
        return KillCause.NO_BEAT
    busy = bool(slot.running)
    if busy and now - max(incarnation.last_progress_at, slot.state_since) > policy.progress_stall_seconds:
        return KillCause.NO_PROGRESS
    return None


def is_suspect(incarnation: Incarnation, slot: Slot, now: float, policy: Policy) -> bool:
    """Whether to show a serving worker as suspect: its heartbeat is late, but not late enough to act."""
    return slot.state in SERVING and now - incarnation.last_beat_at > policy.beat_suspect_seconds


def _spare_overdue(incarnation: Incarnation, now: float, policy: Policy) -> KillCause | None:
    if incarnation.imported_at is None:
        return KillCause.LOAD_STALL if now - incarnation.last_progress_at > policy.load_stall_seconds else None
    return KillCause.NO_BEAT if now - incarnation.last_beat_at > policy.beat_dead_seconds else None


def _load_overdue(incarnation: Incarnation, slot: Slot, now: float, policy: Policy) -> KillCause | None:
    if now - incarnation.last_progress_at > policy.load_stall_seconds:
        return KillCause.LOAD_STALL
    if now - slot.loading_since > policy.load_total_seconds:
        return KillCause.LOAD_TOTAL
    return None
