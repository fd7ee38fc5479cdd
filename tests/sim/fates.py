"""What goes wrong with a simulated worker: which deed, at which moment of its life, and how it dies if it does."""

import random
from dataclasses import dataclass
from enum import Enum, auto
from signal import SIGABRT, SIGBUS, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGKILL, SIGSEGV, SIGTERM

from lmx_protocol.errors import ExitCode
from lmx_supervisor.core.exit_reason import ExitObservation


class Moment(Enum):
    """Where in its life something happens to a worker."""

    HELLO = auto()
    IMPORTED = auto()
    LOADING = auto()
    LOADED = auto()
    CANARY = auto()
    BEAT = auto()
    PREFILL = auto()
    TEXT = auto()
    FINISHED = auto()
    STOPPING = auto()


class Deed(Enum):
    """What happens to it, or what it does."""

    NOTHING = auto()
    DIE = auto()
    DIE_UNHEARD = auto()
    """It dies, and what it said last is heard only after its exit."""
    FREEZE = auto()
    """Stopped by a signal: no beats, deaf to everything but SIGKILL."""
    HOLD_GIL = auto()
    """No beats and no work; its own watchdog ends it in the end, SIGABRT at once."""
    STICK = auto()
    """The engine stands still; beats go on."""
    LIE = auto()
    OTHER_VERSION = auto()
    REFUSE_LOAD = auto()
    LOAD_FOREVER = auto()
    """Progress is told for ever."""
    CANARY_EMPTY = auto()
    CANARY_FAILED = auto()


class Lie(Enum):
    """Ways to break the protocol."""

    STRANGER = auto()
    GAP = auto()
    REPEAT = auto()
    AFTER_END = auto()
    SECOND_HELLO = auto()
    FOREIGN_HELLO = auto()
    SECOND_LOADED = auto()
    GARBAGE = auto()


SERVING_MOMENTS = (Moment.BEAT, Moment.PREFILL, Moment.TEXT, Moment.FINISHED)
ANY_MOMENT = tuple(Moment)
_MOMENTS_OF = {
    Deed.OTHER_VERSION: (Moment.HELLO,),
    Deed.REFUSE_LOAD: (Moment.LOADING,),
    Deed.LOAD_FOREVER: (Moment.LOADING,),
    Deed.CANARY_EMPTY: (Moment.CANARY,),
    Deed.CANARY_FAILED: (Moment.CANARY,),
    Deed.LIE: (*SERVING_MOMENTS, Moment.PREFILL, Moment.TEXT, Moment.LOADING, Moment.CANARY),
}
_DEEDS = (
    *(Deed.DIE,) * 8,
    *(Deed.DIE_UNHEARD,) * 3,
    *(Deed.LIE,) * 4,
    Deed.FREEZE,
    Deed.FREEZE,
    Deed.HOLD_GIL,
    Deed.STICK,
    Deed.STICK,
    Deed.OTHER_VERSION,
    Deed.REFUSE_LOAD,
    Deed.LOAD_FOREVER,
    Deed.CANARY_EMPTY,
    Deed.CANARY_FAILED,
)

_TRACEBACK = "Traceback (most recent call last):\nValueError: no"
DEATHS = (
    *(ExitObservation(signal_number=number) for number in (SIGKILL, SIGSEGV, SIGBUS, SIGFPE, SIGTERM, SIGINT, SIGHUP, SIGABRT)),
    *(ExitObservation(signal_number=number) for number in (SIGTERM, SIGTERM, SIGSEGV, SIGKILL, SIGILL)),
    ExitObservation(signal_number=64),
    ExitObservation(signal_number=SIGABRT, stderr_tail="[METAL] Command buffer execution failed: Insufficient Memory"),
    ExitObservation(signal_number=SIGABRT, stderr_tail="[METAL] Command buffer execution failed: Impacting Interactivity"),
    ExitObservation(signal_number=SIGABRT, stderr_tail="GGML_ASSERT(n > 0) failed"),
    ExitObservation(code=1, stderr_tail=_TRACEBACK),
    ExitObservation(code=1, crash_head="Timeout (0:01:00)!"),
    ExitObservation(code=3),
    *(ExitObservation(code=code) for code in ExitCode),
)
GOOD_FOOTPRINT_BYTES = 1 << 30
BLAMELESS_DEATH = ExitObservation(signal_number=SIGTERM)
POISON_DEATH = ExitObservation(signal_number=SIGSEGV)


@dataclass
class Fate:
    """One worker's. `countdown` is how often the moment passes before the deed is done."""

    deed: Deed = Deed.NOTHING
    moment: Moment = Moment.HELLO
    countdown: int = 0
    lie: Lie = Lie.STRANGER
    death: ExitObservation = BLAMELESS_DEATH
    ignores_shutdown: bool = False
    unkillable_seconds: float = 0.0
    load_slowness: float = 1.0
    footprint_bytes: int = GOOD_FOOTPRINT_BYTES
    leaked_bytes_per_beat: int = 0

    def strikes(self, moment: Moment) -> bool:
        """Whether the deed is due now; it is done once."""
        if moment is not self.moment or self.deed is Deed.NOTHING:
            return False
        self.countdown -= 1
        return self.countdown == -1


def draw_fate(rng: random.Random, misfortune: float) -> Fate:
    """A worker's fate; most of the misfortune comes once it serves."""
    if rng.random() >= misfortune:
        return Fate()
    deed = rng.choice(_DEEDS)
    moments = _MOMENTS_OF.get(deed, SERVING_MOMENTS if rng.random() < 0.6 else ANY_MOMENT)
    return Fate(
        deed=deed,
        moment=rng.choice(moments),
        countdown=rng.choice((0, 0, 1, 2, 5, 12)) if moments is not ANY_MOMENT else 0,
        lie=rng.choice((*Lie, Lie.GAP, Lie.GAP, Lie.REPEAT)),
        death=rng.choice(DEATHS),
        ignores_shutdown=rng.random() < 0.15,
        unkillable_seconds=rng.choice((0.0,) * 12 + (5.0,)),
        load_slowness=rng.choice((1.0, 1.0, 4.0)),
        footprint_bytes=rng.choice((GOOD_FOOTPRINT_BYTES, GOOD_FOOTPRINT_BYTES, 40 << 30)),
        leaked_bytes_per_beat=rng.choice((0, 0, 0, 1 << 29)),
    )
