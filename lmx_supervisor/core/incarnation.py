"""One worker process as the core knows it: what it said, when, and which ladder it is on."""

from collections import deque
from dataclasses import dataclass, field

from lmx_protocol import limits
from lmx_protocol.messages import Beat, Grant
from lmx_supervisor.core.exit_reason import KillCause


@dataclass(slots=True)
class Ladder:
    """The rungs still ahead of a worker that is being ended."""

    cause: KillCause
    kill_at: float
    """When the group gets SIGKILL."""
    asked: bool = False
    """It was told to stop first, and had a grace to do so."""
    killed: bool = False
    unkillable_at: float = float("inf")
    """When a killed process that is still there becomes an alarm."""


@dataclass(slots=True)
class Incarnation:
    """A process from spawn to exit. Times are monotonic seconds."""

    name: str
    backend: str
    spawned_at: float
    pid: int | None = None
    model_id: str | None = None
    """None: a spare."""
    hello_at: float | None = None
    imported_at: float | None = None
    backend_version: str | None = None
    """Told with the import; None: it never got that far."""
    load_sent_at: float | None = None
    last_progress_at: float = 0.0
    """Of the load or the engine."""
    last_beat_at: float = 0.0
    steps: int = -1
    tokens_decoded: int = 0
    tokens_per_second: float = 0.0
    """Generated, from the heartbeat before the last to the last."""
    tokens_prefilled: int = 0
    prefill_tokens_per_second: float = 0.0
    """Of prompts, in the same time."""
    footprint_bytes: int | None = None
    peak_footprint_bytes: int | None = None
    memory_curve: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=limits.MEMORY_CURVE_SAMPLES_MAX))
    """Monotonic second and footprint in bytes of the last heartbeats."""
    grant: Grant | None = None
    """What it was told last to use of the host; None: nothing yet."""
    memory_mark: int = 0
    """How close it is to the memory it may cost, as `memory_watch.MemoryMark`; above 0 it gets no new requests."""
    retire_by: float | None = None
    """It is to be replaced once its requests have ended, and at this time whether they have or not."""
    ladder: Ladder | None = None
    load_refusal: str | None = None
    """What the worker said was wrong with the model, if it did."""
    load_refusal_code: str | None = None
    ended_requests: dict[str, None] = field(default_factory=dict)
    """Requests of this worker that the supervisor ended first; their late events are dropped, not violations."""

    @property
    def takes_work(self) -> bool:
        """Whether it may be given requests."""
        return self.ladder is None and self.retire_by is None and not self.memory_mark

    @property
    def footprint_before_bytes(self) -> int | None:
        """What it cost at the heartbeat before the last."""
        return self.memory_curve[-2][1] if len(self.memory_curve) > 1 else None

    def note_beat(self, beat: Beat, now: float) -> None:
        """Take in a heartbeat."""
        if beat.steps != self.steps:
            self.steps = beat.steps
            self.last_progress_at = now
        if self.last_beat_at and now > self.last_beat_at:
            seconds = now - self.last_beat_at
            self.tokens_per_second = max(0, beat.tokens_decoded - self.tokens_decoded) / seconds
            self.prefill_tokens_per_second = max(0, beat.tokens_prefilled - self.tokens_prefilled) / seconds
        self.tokens_decoded, self.tokens_prefilled = beat.tokens_decoded, beat.tokens_prefilled
        self.last_beat_at = now
        self.note_footprint(beat.footprint_bytes)
        self.memory_curve.append((now, beat.footprint_bytes))

    def note_footprint(self, footprint_bytes: int) -> None:
        """Take in how much memory the process costs now."""
        self.footprint_bytes = footprint_bytes
        self.peak_footprint_bytes = max(self.peak_footprint_bytes or 0, footprint_bytes)

    def postpone(self, seconds: float) -> None:
        """Forget that time passed: the machine slept or the supervisor was stopped."""
        for name in ("spawned_at", "last_progress_at", "last_beat_at"):
            setattr(self, name, getattr(self, name) + seconds)
        for name in ("hello_at", "imported_at", "load_sent_at", "retire_by"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value + seconds)
        if self.ladder is not None:
            self.ladder.kill_at += seconds
            self.ladder.unkillable_at += seconds
