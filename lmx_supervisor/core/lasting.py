"""What of the fleet outlives the supervisor: which models are to be there, which are quarantined, which processes are ours."""

from dataclasses import dataclass

from lmx_protocol.messages import ModelSpec
from lmx_supervisor.core.exit_reason import Verdict
from lmx_supervisor.core.predictor import PredictorView
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.trial import WantedModel


@dataclass(frozen=True, slots=True)
class QuarantinedModel:
    """A model that is not loaded again until something changes. While a forced load tries it, it counts as quarantined."""

    spec: ModelSpec
    backend: str
    digest: str
    reason: str
    consecutive_failures: int
    last_exit: Verdict | None


@dataclass(frozen=True, slots=True)
class LivingWorker:
    """A process of ours."""

    incarnation: str
    pid: int


@dataclass(frozen=True, slots=True)
class Lasting:
    """All of it at one moment."""

    wanted: tuple[WantedModel, ...]
    quarantined: tuple[QuarantinedModel, ...]
    workers: tuple[LivingWorker, ...]
    peaks: tuple[tuple[str, int], ...]
    """What models cost at their peak: digest and bytes, the latest noted last."""
    accesses: PredictorView
    """Which models were wanted lately."""
    draining: bool
    """Nothing is wanted any more: the service is stopping."""


def lasting(state: FleetState) -> Lasting:
    """Read it off the fleet."""
    slots = state.slots.values()
    incarnations = state.incarnations.values()
    return Lasting(
        wanted=tuple(wanted for slot in slots if (wanted := _wanted(slot)) is not None),
        quarantined=tuple(
            QuarantinedModel(
                spec=slot.spec,
                backend=slot.backend,
                digest=slot.digest,
                reason=slot.quarantine_reason,
                consecutive_failures=slot.failures.consecutive,
                last_exit=slot.last_exit,
            )
            for slot in slots
            if slot.quarantine_reason is not None
        ),
        workers=tuple(LivingWorker(worker.name, worker.pid) for worker in incarnations if worker.pid is not None),
        peaks=tuple(state.peaks),
        accesses=state.predictor.view(state.slots),
        draining=state.draining,
    )


def _wanted(slot: Slot) -> WantedModel | None:
    if slot.trial is not None:
        return slot.trial.before
    if slot.prefetched or not slot.wanted:
        return None
    return WantedModel(slot.spec, slot.backend, slot.keep_alive_seconds, slot.profile)
