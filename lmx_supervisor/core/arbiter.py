"""How the workers that compute at one moment share the host, so that nobody's prompt starves somebody else's stream.

On a processor, two workers with a thread per core each are far slower than two with half of the cores each: every layer ends
with all threads of a model waiting for the last one, and that one is the one that has no core (docs/scheduling.md has figures).
So cores are shared out: each worker that computes gets an equal part of them, those that decode the larger one, and all of
them when it is alone. Where there is nothing to share out (a GPU, or more workers than cores), prompts are paced instead while
others decode.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmx_protocol.limits import PREFILL_RATIO_BESIDE_DECODES
from lmx_protocol.messages import Grant
from lmx_protocol.states import ComputeSharing
from lmx_supervisor.core.actions import Send
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState


@dataclass(frozen=True, slots=True)
class Computing:
    """A worker that has requests, and what they need of the host now."""

    incarnation: str
    sharing: ComputeSharing
    threads_max: int
    """As its load was told; 0: nothing was said."""
    decodes: bool
    """Somebody reads what it writes, token by token."""
    prefills: bool
    """Prompts, or inputs to embed, are being read."""


def shared_out(processors: int, workers: Sequence[Computing]) -> dict[str, Grant]:
    """What each of them gets, by incarnation. Pure."""
    by_threads = [worker for worker in workers if worker.sharing is ComputeSharing.THREADS]
    # Those that cannot be told how many threads to have need one core to drive what they compute on.
    left = processors - sum(worker.sharing is ComputeSharing.TIME for worker in workers)
    threads = _threads(left, by_threads)
    ratios = _prefill_ratios([worker for worker in workers if worker.sharing is ComputeSharing.TIME])
    if len(by_threads) > left:
        ratios |= _prefill_ratios(by_threads)
    return {
        worker.incarnation: Grant(threads=threads.get(worker.incarnation, 1), prefill_ratio=ratios.get(worker.incarnation, 1.0))
        for worker in workers
    }


def _threads(processors: int, workers: Sequence[Computing]) -> dict[str, int]:
    """Equal parts, at least one each; what one may not have goes to the others, the odd ones to those that decode.

    Who is alone has what the operator says, be it more than there are cores.
    """
    if len(workers) == 1:
        return {worker.incarnation: max(1, worker.threads_max or processors) for worker in workers}
    threads: dict[str, int] = {}
    # The modest first, so that what they leave is still there for the others; the last ones get what does not divide evenly.
    by_appetite = sorted(workers, key=lambda worker: (worker.threads_max or processors, worker.decodes, worker.incarnation))
    for index, worker in enumerate(by_appetite):
        part = max(1, processors // (len(by_appetite) - index))
        threads[worker.incarnation] = min(part, worker.threads_max or part)
        processors -= threads[worker.incarnation]
    return threads


def _prefill_ratios(workers: Sequence[Computing]) -> dict[str, float]:
    """Who has to pace its prompts, because another one in `workers` decodes on the same device."""
    prefilling = [worker for worker in workers if worker.prefills]
    return {
        worker.incarnation: PREFILL_RATIO_BESIDE_DECODES / len(prefilling)
        for worker in prefilling
        if any(other.decodes and other is not worker for other in workers)
    }


def computing(state: FleetState) -> list[Computing]:
    """The workers that have requests to compute, and something of the host that they could do with less of."""
    return [worker for slot in state.slots.values() if (worker := _computing(state, slot)) is not None]


def _computing(state: FleetState, slot: Slot) -> Computing | None:
    incarnation = state.incarnation_of(slot)
    if incarnation is None or not slot.running or slot.facts is None or slot.facts.sharing is ComputeSharing.NOTHING:
        return None
    entries = [entry for entry in map(state.ledger.get, slot.running) if entry is not None and entry.takes_a_place]
    if not entries:
        return None
    return Computing(
        incarnation=incarnation.name,
        sharing=slot.facts.sharing,
        threads_max=slot.spec.threads,
        decodes=any(entry.has_begun for entry in entries),
        prefills=any(not entry.has_begun for entry in entries),
    )


class Arbiter:
    """Tells the workers what they get, whenever that changes."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def settle(self) -> None:
        """Look whether requests began, got their first token or ended since the last time."""
        state = self._state
        if not state.compute_changed:
            return
        state.compute_changed = False
        for name, grant in shared_out(state.processors, computing(state)).items():
            incarnation = state.incarnations[name]
            if grant != incarnation.grant:
                incarnation.grant = grant
                state.emit(Send(name, grant))
