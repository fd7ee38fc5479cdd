"""Why a model does not answer, in words for whoever asked."""

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.slot import Slot


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


def poison_text(model: str) -> str:
    """That a request is refused for what it did."""
    return f"This request crashed model '{model}' each time it was tried; it is refused for a while. Change it."


def quarantine_text(slot: Slot) -> str:
    """Why a quarantined model is not served, in the runbook's words."""
    text = f"Model '{slot.model_id}' is quarantined after instability ({slot.quarantine_reason})"
    if slot.last_exit is not None:
        text += f": {slot.last_exit.text} (crash {slot.last_exit.crash_id})"
    return f"{text}. See `lmx crashes`; release it with `lmx quarantine clear {slot.model_id}`."
