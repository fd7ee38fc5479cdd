"""What the heartbeat tells about the engine: plain numbers that the engine thread writes and the heart thread reads.

No lock: each field has one writer, and a beat that is one step behind is still the truth of a moment ago.
"""

from dataclasses import dataclass

from lmx_protocol.states import WorkerPhase


@dataclass(slots=True)
class Vitals:
    """Progress and load of the engine."""

    phase: WorkerPhase = WorkerPhase.IMPORTING
    steps: int = 0
    """Engine steps plus load callbacks; it stands still exactly when the engine does."""
    active: int = 0
    waiting: int = 0
    loaded: bool = False
