"""One model's slot: its state machine with a visible transition table, its story, and who waits for it."""

from collections import deque
from dataclasses import dataclass, field

from lmx_protocol import limits
from lmx_protocol.messages import LoadProgress, ModelFacts, ModelSpec
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.adaptive import AdaptiveLimit
from lmx_supervisor.core.exit_reason import Verdict
from lmx_supervisor.core.line import Line
from lmx_supervisor.core.load_profile import NOTHING, UNTUNED, LoadProfile, ProfileLayers
from lmx_supervisor.core.memory_need import MemoryNeed
from lmx_supervisor.core.pace import Pace
from lmx_supervisor.core.restart_policy import FailureHistory
from lmx_supervisor.core.stop_reason import StopReason
from lmx_supervisor.core.trial import Trial
from lmx_supervisor.core.turns import Turns

S = WorkerState

TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    S.STOPPED: frozenset({S.SPAWNING, S.QUARANTINED}),
    S.SPAWNING: frozenset({S.LOADING, S.DRAINING, S.CRASHED}),
    S.LOADING: frozenset({S.WARMING, S.DRAINING, S.CRASHED}),
    S.WARMING: frozenset({S.READY, S.DRAINING, S.CRASHED}),
    S.READY: frozenset({S.BUSY, S.DRAINING, S.CRASHED}),
    S.BUSY: frozenset({S.READY, S.DRAINING, S.CRASHED}),
    S.DRAINING: frozenset({S.STOPPED}),
    S.CRASHED: frozenset({S.BACKOFF, S.FAILED, S.QUARANTINED, S.STOPPED}),
    S.BACKOFF: frozenset({S.SPAWNING, S.STOPPED}),
    S.FAILED: frozenset({S.SPAWNING, S.STOPPED}),
    S.QUARANTINED: frozenset({S.SPAWNING, S.STOPPED}),
}

STARTING = frozenset({S.SPAWNING, S.LOADING, S.WARMING})
SERVING = frozenset({S.READY, S.BUSY})
COMING = STARTING | {S.CRASHED, S.BACKOFF}
"""States a request may wait in: the model will be there without anyone asking again."""


class InvalidTransitionError(Exception):
    """A slot was asked for a move its table does not have; carries the slot's story."""


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One thing that happened to a slot, for operators and crash bundles."""

    at_seconds: float
    text: str


@dataclass(slots=True)
class Slot:
    """Everything the core knows about one model. Times are monotonic seconds."""

    spec: ModelSpec
    backend: str
    digest: str = ""
    """Of the model's files and load configuration, as they were when the load was asked for."""
    profile: ProfileLayers = UNTUNED
    """Who tuned the load."""
    performance: LoadProfile = NOTHING
    """What comes of it: the tuned part of `spec`, and what requests default to."""
    trial: Trial | None = None
    """It is loaded only to try its settings."""
    size_bytes: int = 0
    """Of the model's files."""
    need: MemoryNeed | None = None
    """What it was said to need."""
    claimed_bytes: int = 0
    """Reserved for it, from before its load until it has stopped or is given up."""
    keep_alive_seconds: float | None = None
    """How long it may be idle; 0: for ever. None: as the configuration says."""
    stop_reason: StopReason = StopReason.MANUAL
    """Why it drains or has drained."""
    evicted_for: str | None = None
    """The model that got its memory, until that one serves; if it never does, this one comes back."""
    prefetched: bool = False
    """It was loaded because it was likely to be wanted, and nobody has wanted it yet: the first to go."""
    demanded_at: float | None = None
    """Requests wait for it to be loaded on their account, or are about to come; when one last did."""
    on_demand: bool = False
    """It was loaded on the account of requests."""
    room_at: float = 0.0
    """While it is demanded: before this there is no room for it."""
    waits_because: str = ""
    """While it is demanded: why there is no room yet."""
    yields_to: str | None = None
    """The model that gets its memory when its running requests have ended; meanwhile it begins no other."""
    comes_back: bool = False
    """It starts again when it has stopped, although nobody ordered that."""
    state: WorkerState = WorkerState.STOPPED
    state_since: float = 0.0
    wanted: bool = False
    """Restart it whenever it dies: it was asked for and has served, or it is to be there from the start."""
    incarnation: str | None = None
    facts: ModelFacts | None = None
    load_progress: LoadProgress | None = None
    load_seconds: float | None = None
    loading_since: float = 0.0
    ready_at: float | None = None
    served_since_ready: int = 0
    restart_at: float = 0.0
    drain_until: float = 0.0
    last_used_at: float | None = None
    restarts: int = 0
    failures: FailureHistory = field(default_factory=FailureHistory)
    quarantine_reason: str | None = None
    unloaded: bool = False
    """An operator unloaded it since it was last started: in quarantine it stays, but nobody waits for it."""
    gpu_ooms: int = 0
    stepped_down: bool = False
    last_exit: Verdict | None = None
    last_exit_at: float = 0.0
    requests_total: int = 0
    tokens_total: int = 0
    load_orders: list[str] = field(default_factory=list)
    unload_orders: list[str] = field(default_factory=list)
    reload_orders: list[str] = field(default_factory=list)
    """Load orders that came while the slot was draining; it starts again when it has stopped."""
    waiting: Line = field(default_factory=Line)
    """Requests that have no worker; `choosing` says who is next."""
    turns: Turns = field(default_factory=Turns)
    pace: Pace = field(default_factory=Pace)
    adaptive: AdaptiveLimit = field(default_factory=AdaptiveLimit)
    running: set[str] = field(default_factory=set)
    """Request ids leased to the current incarnation, the canary among them."""
    story: deque[StoryLine] = field(default_factory=lambda: deque(maxlen=limits.STORY_EVENTS_MAX))

    @property
    def model_id(self) -> str:
        """The model this slot is for."""
        return self.spec.model_id

    @property
    def returns(self) -> bool:
        """Whether a slot that is draining starts again afterwards."""
        wanted_again = self.stop_reason is StopReason.TTL and bool(self.waiting)
        return bool(self.reload_orders) or self.comes_back or wanted_again

    @property
    def keeps_its_line(self) -> bool:
        """Whether requests may wait although its worker is leaving or has left: it may be back, or is started for them."""
        if self.is_demanded:
            return True
        if self.state is S.DRAINING:
            is_coming = bool(self.reload_orders) or self.comes_back or self.stop_reason is StopReason.TTL
            return is_coming or self.evicted_for is not None
        return self.state is S.STOPPED and self.evicted_for is not None

    @property
    def is_demanded(self) -> bool:
        """Whether it is to be loaded on the account of requests, as soon as there is room."""
        return self.demanded_at is not None and self.state in (S.DRAINING, S.STOPPED)

    @property
    def is_idle(self) -> bool:
        """Whether it serves and nobody has anything to do with it."""
        on_trial = self.quarantine_reason is not None
        return self.state is S.READY and self.trial is None and not (self.running or self.waiting or on_trial)

    def note(self, now: float, text: str) -> None:
        """Add a line to the story."""
        self.story.append(StoryLine(now, text))

    def move(self, to: WorkerState, now: float, why: str) -> None:
        """Change state. Raises `InvalidTransitionError` with the story when the table does not allow it."""
        if to not in TRANSITIONS[self.state]:
            told = "\n".join(f"  {line.at_seconds:.3f} {line.text}" for line in self.story)
            raise InvalidTransitionError(f"{self.model_id}: {self.state} → {to} ({why}) is not in the table; story:\n{told}")
        self.note(now, f"{self.state} → {to}: {why}")
        self.state = to
        self.state_since = now

    def capacity(self) -> int:
        """How many requests its worker takes at once."""
        return self.facts.slots if self.facts else self.spec.slots

    def postpone(self, seconds: float) -> None:
        """Forget that time passed."""
        self.restart_at += seconds
        self.drain_until += seconds
        self.loading_since += seconds
        self.state_since += seconds
        self.adaptive.postpone(seconds)
        self.room_at += seconds
        if self.ready_at is not None:
            self.ready_at += seconds
        if self.demanded_at is not None:
            self.demanded_at += seconds

    def __repr__(self) -> str:
        """State at a glance; tests and logs read it."""
        return f"<Slot {self.model_id} {self.state} running={len(self.running)} waiting={len(self.waiting)}>"
