"""What follows when a worker costs more memory than it may, before the machine has to swap.

Three marks, as shares of `worker_memory_bytes_max`: at the soft one the worker gets no new requests, at the hard one it is
replaced as soon as its requests have ended, at the limit it is killed. A worker between the first two that grows so fast that
it would pass the limit unseen is at the hard mark already, so that a fast leak ends in order too. Requests that wait go to the
next incarnation. Each replacement counts as a failure, so that a model that outgrows every new worker ends in quarantine and
not in a loop of loads.
"""

from enum import IntEnum

from lmx_protocol import limits
from lmx_supervisor.core.exit_reason import KillCause
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.roster import Roster
from lmx_supervisor.core.serving import Serving
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.state import FleetState


class MemoryMark(IntEnum):
    """The highest mark a worker's memory has reached."""

    NONE = 0
    SOFT = 1
    HARD = 2
    LIMIT = 3


def memory_mark(footprint_bytes: int | None, policy: Policy, *, at_last_beat_bytes: int | None = None) -> MemoryMark:
    """Where this footprint stands. Without a bound, or before it is known, nowhere.

    `at_last_beat_bytes`: what the heartbeat before the one that said `footprint_bytes` said. Two of them above the soft mark
    make a trend; a single leap, such as the first long prefill, does not.
    """
    limit_bytes = policy.worker_memory_bytes_max
    if limit_bytes is None or footprint_bytes is None:
        return MemoryMark.NONE
    share = footprint_bytes / limit_bytes
    if share >= 1:
        return MemoryMark.LIMIT
    if share < limits.MEMORY_SOFT_RATIO:
        return MemoryMark.NONE
    if share >= limits.MEMORY_HARD_RATIO or _passes_the_limit(at_last_beat_bytes, footprint_bytes, limit_bytes):
        return MemoryMark.HARD
    return MemoryMark.SOFT


def _passes_the_limit(before_bytes: int | None, now_bytes: int, limit_bytes: int) -> bool:
    if before_bytes is None or before_bytes < limit_bytes * limits.MEMORY_SOFT_RATIO:
        return False
    return now_bytes + limits.MEMORY_FORESIGHT_BEATS * (now_bytes - before_bytes) >= limit_bytes


class MemoryWatch:
    """Looks at the workers of serving slots; a load is not judged before it is over."""

    def __init__(self, state: FleetState, roster: Roster, serving: Serving) -> None:
        self._state = state
        self._roster = roster
        self._serving = serving

    def look(self, slot: Slot, now: float) -> None:
        """Compare one worker's memory with the marks, and act."""
        incarnation = self._state.incarnation_of(slot)
        if incarnation is None or incarnation.ladder is not None or slot.state not in SERVING:
            return
        before_bytes = incarnation.footprint_before_bytes
        mark = memory_mark(incarnation.footprint_bytes, self._state.policy, at_last_beat_bytes=before_bytes)
        if mark != incarnation.memory_mark:
            self._tell(incarnation, mark)
            incarnation.memory_mark = mark
            self._serving.dispatch(now)
        # An idle worker at the soft mark gives nothing back by itself, and somebody waits for it.
        nobody_gains = mark is MemoryMark.SOFT and not slot.running and bool(slot.waiting)
        if incarnation.retire_by is None and (mark >= MemoryMark.HARD or nobody_gains):
            incarnation.retire_by = now + self._state.policy.drain_seconds
            slot.note(now, f"to be replaced: it costs {incarnation.footprint_bytes} bytes of memory")
        if mark is MemoryMark.LIMIT or (incarnation.retire_by is not None and now >= incarnation.retire_by):
            self._roster.end(incarnation, KillCause.MEMORY_LIMIT, now)
        elif incarnation.retire_by is not None and not slot.running:
            self._roster.end(incarnation, KillCause.MEMORY_HIGH, now)

    def _tell(self, incarnation: Incarnation, mark: MemoryMark) -> None:
        self._state.tell(
            "worker_memory",
            model_id=incarnation.model_id,
            mark=mark.name.lower(),
            memory_bytes=incarnation.footprint_bytes,
            memory_bytes_max=self._state.policy.worker_memory_bytes_max,
            alarming=mark > incarnation.memory_mark,
        )
