"""Why a model does not answer, in words for whoever asked."""

import math
from dataclasses import dataclass

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.exit_reason import NEVER_RESTART, ExitReason
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.state import FleetState

_LASTS = NEVER_RESTART - {ExitReason.WILL_NOT_FIT, ExitReason.MEMORY_NOT_RECLAIMED}
"""What keeps a model from being loaded until somebody has done something about it; memory comes back by itself."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Why a request cannot be answered now."""

    code: ErrorCode
    text: str
    retry_after_seconds: int | None = None


def lost_its_files(slot: Slot) -> bool:
    """Whether a slot is down because its model's files were cut short: no load can help before they are whole again."""
    truncated = slot.last_exit is not None and slot.last_exit.reason is ExitReason.MODEL_TRUNCATED
    return truncated and slot.state is WorkerState.FAILED


def not_loaded_text(model: str, slot: Slot | None) -> str:
    """That a model is not there, and what to do."""
    if slot is not None and slot.state is WorkerState.FAILED and slot.last_exit is not None:
        return f"Model '{model}' is not loaded: {slot.last_exit.text}."
    how = f"Load it with `lmx load {model}` or POST /admin/models/load; `lmx ls` lists what is here."
    return f"Model '{model}' is not loaded. {how}"


def refusal_of_absent(state: FleetState, model: str, slot: Slot | None, now: float) -> Absent:
    """What a request for a model that is neither served nor coming is told."""
    policy = state.policy
    text = not_loaded_text(model, slot)
    if slot is not None and lost_its_files(slot):
        return Absent(ErrorCode.MODEL_TRUNCATED, text)
    if not policy.load_on_demand:
        return Absent(ErrorCode.MODEL_NOT_FOUND, text)
    if state.safe_mode:
        return Absent(ErrorCode.MODEL_NOT_FOUND, f"{text} In safe mode no request loads a model.")
    if not policy.loads_on_demand(model):
        return Absent(ErrorCode.MODEL_NOT_FOUND, f"{text} models.on_demand_models does not have it.")
    held_off_seconds = held_off_until(policy, slot) - now if slot is not None else 0.0
    if slot is not None and slot.last_exit is not None and held_off_seconds > 0:
        again = math.ceil(held_off_seconds)
        text = f"{text} A request may have it loaded again in {again} s."
        if slot.last_exit.reason not in _LASTS:
            return Absent(ErrorCode.MODEL_LOADING, text, again)
    return Absent(ErrorCode.MODEL_NOT_FOUND, text)


def held_off_until(policy: Policy, slot: Slot) -> float:
    """Monotonic second before which no request loads a model whose last load failed; one that has not failed: any."""
    return slot.state_since + policy.restart_max_seconds if slot.state is WorkerState.FAILED else 0.0


def why_it_waits(slot: Slot) -> str:
    """What keeps a model from answering, as the end of a sentence about it."""
    if slot.is_demanded:
        return f"is not loaded yet, because {slot.waits_because}" if slot.waits_because else "is not loaded yet"
    if slot.yields_to is not None:
        return f"makes room for '{slot.yields_to}'"
    return "is busy" if slot.state in SERVING else "is still loading"


def poison_text(model: str) -> str:
    """That a request is refused for what it did."""
    return f"This request crashed model '{model}' each time it was tried; it is refused for a while. Change it."


def quarantine_text(slot: Slot) -> str:
    """Why a quarantined model is not served, in the runbook's words."""
    text = f"Model '{slot.model_id}' is quarantined after instability ({slot.quarantine_reason})"
    if slot.last_exit is not None:
        text += f": {slot.last_exit.text} (crash {slot.last_exit.crash_id})"
    return f"{text}. See `lmx crashes`; release it with `lmx quarantine clear {slot.model_id}`."
