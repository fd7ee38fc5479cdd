"""What the fleet's parts share: slots, processes, requests, and the actions decided so far."""

from dataclasses import dataclass, field

from lmx_supervisor.core.actions import Action, Tell
from lmx_supervisor.core.events import HostMemoryRead
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.ledger import Ledger
from lmx_supervisor.core.peaks import Peaks
from lmx_supervisor.core.poison import Suspects
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.predictor import Predictor
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.turns import Turns


@dataclass(slots=True)
class FleetState:
    """Mutated only inside `Fleet.handle`."""

    boot_id: str
    policy: Policy
    slots: dict[str, Slot] = field(default_factory=dict)
    incarnations: dict[str, Incarnation] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    turns: Turns = field(default_factory=Turns)
    """Those had on any model."""
    suspects: Suspects = field(default_factory=Suspects)
    actions: list[Action] = field(default_factory=list)
    draining: bool = False
    host: HostMemoryRead | None = None
    """The last reading; without one nothing is refused for want of memory."""
    shedding: bool = False
    """The host is so full that only what relieves or explains the pressure is let in."""
    peaks: Peaks = field(default_factory=Peaks)
    predictor: Predictor = field(default_factory=Predictor)
    processors: int = 1
    """Cores that this host has for us."""
    compute_changed: bool = False
    """Requests got a worker, their first text or their end since the arbiter looked."""
    safe_mode: bool = False
    """Nothing is loaded unasked in this run."""

    def emit(self, action: Action) -> None:
        """Ask the runtime for something."""
        self.actions.append(action)

    def tell(self, kind: str, *, alarming: bool = False, **fields: object) -> None:
        """Say something to the operators."""
        self.actions.append(Tell(kind, fields, alarming))

    def take_actions(self) -> list[Action]:
        """The actions decided since the last call."""
        taken, self.actions = self.actions, []
        return taken

    def slot_of(self, incarnation: Incarnation) -> Slot | None:
        """The slot a process works for now; None for spares and for processes a slot has given up."""
        slot = self.slots.get(incarnation.model_id) if incarnation.model_id is not None else None
        return slot if slot is not None and slot.incarnation == incarnation.name else None

    def incarnation_of(self, slot: Slot) -> Incarnation | None:
        """The process that works for a slot."""
        return self.incarnations.get(slot.incarnation) if slot.incarnation is not None else None

    def is_wanted_back(self, slot: Slot) -> bool:
        """Whether requests wait for a model, and are enough to have it loaded."""
        may = slot.quarantine_reason is None and not self.safe_mode and self.policy.loads_on_demand(slot.model_id)
        return bool(slot.waiting) and may

    def postpone(self, seconds: float) -> None:
        """Shift every deadline: the machine slept, or the supervisor was stopped, and nobody is to blame for that time."""
        for incarnation in self.incarnations.values():
            incarnation.postpone(seconds)
        for slot in self.slots.values():
            slot.postpone(seconds)
        self.ledger.postpone(seconds)
