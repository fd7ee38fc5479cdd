"""Why a worker died: one pure function over what was observed, in the operator's words.

The table follows the exit classification of docs/faults.md. Death itself is never inferred from silence: the kernel reports it.
"""

import signal
from dataclasses import dataclass
from enum import StrEnum

from lmx_protocol.errors import ExitCode
from lmx_protocol.states import WorkerState


class ExitReason(StrEnum):
    """Typed reasons, for branching, labels and `lmx ps`."""

    STOPPED = "stopped"
    UNEXPECTED_EXIT = "unexpected_exit"
    BAD_MODEL = "bad_model"
    WILL_NOT_FIT = "will_not_fit"
    PROTOCOL = "protocol"
    PROTOCOL_VIOLATION = "protocol_violation"
    CONFIG = "config"
    PARENT_GONE = "parent_gone"
    HUNG = "hung"
    HUNG_SELF = "hung_self"
    STOP_TIMEOUT = "stop_timeout"
    LOAD_TIMEOUT = "load_timeout"
    CANARY_FAILED = "canary_failed"
    WORKER_BUG = "worker_bug"
    LOAD_FAILED = "load_failed"
    OOM_SUSPECTED = "oom_suspected"
    OOM_KILLED = "oom_killed"
    MODEL_TRUNCATED = "model_truncated"
    MODEL_CHANGED = "model_changed"
    MEMORY_EXCEEDED = "memory_exceeded"
    GPU_OOM = "gpu_oom"
    GPU_FAULT = "gpu_fault"
    NATIVE_ASSERT = "native_assert"
    NATIVE_CRASH = "native_crash"
    WRONG_BUILD = "wrong_build"
    EXTERNAL = "external"
    SPAWN_FAILED = "spawn_failed"
    MEMORY_NOT_RECLAIMED = "memory_not_reclaimed"
    SUPERVISOR_FAILED = "supervisor_failed"


NEVER_RESTART = frozenset(
    {
        ExitReason.BAD_MODEL,
        ExitReason.WILL_NOT_FIT,
        ExitReason.PROTOCOL,
        ExitReason.CONFIG,
        ExitReason.WRONG_BUILD,
        ExitReason.MODEL_TRUNCATED,
        ExitReason.MEMORY_NOT_RECLAIMED,
    }
)


BLAMES_REQUESTS = frozenset(
    {
        ExitReason.UNEXPECTED_EXIT,
        ExitReason.HUNG,
        ExitReason.HUNG_SELF,
        ExitReason.WORKER_BUG,
        ExitReason.OOM_SUSPECTED,
        ExitReason.OOM_KILLED,
        ExitReason.GPU_OOM,
        ExitReason.GPU_FAULT,
        ExitReason.NATIVE_ASSERT,
        ExitReason.NATIVE_CRASH,
    }
)
"""Deaths that a request in flight may have caused."""


class KillCause(StrEnum):
    """Why the supervisor itself ended a worker."""

    STOP = "stop"
    NO_HELLO = "no_hello"
    LOAD_STALL = "load_stall"
    LOAD_TOTAL = "load_total"
    CANARY_TIMEOUT = "canary_timeout"
    CANARY_FAILED = "canary_failed"
    FILES_CHANGED = "files_changed"
    NO_BEAT = "no_beat"
    NO_PROGRESS = "no_progress"
    VIOLATION = "violation"
    VERSION = "version"
    MEMORY_LOST = "memory_lost"
    NO_ROOM = "no_room"
    MEMORY_HIGH = "memory_high"
    MEMORY_LIMIT = "memory_limit"


@dataclass(frozen=True, slots=True)
class ExitObservation:
    """What the runtime saw of a death. Exactly one of `code` and `signal_number` is set, unless the spawn itself failed."""

    code: int | None = None
    signal_number: int | None = None
    stderr_tail: str = ""
    crash_head: str = ""
    """The beginning of the crash file: the stacks that faulthandler wrote."""
    spawn_error: str | None = None
    oom_confirmed: bool = False
    """The kernel counted a kill for want of memory that nobody else has died of."""
    model_truncated: bool = False
    """A file of its model is shorter now than when the load began."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reason and one sentence: what died, the likely cause, what to do."""

    reason: ExitReason
    text: str
    crash_id: str | None = None
    """Of the crash bundle; None for a worker that was stopped."""


_STACKS = "`lmx crashes show` has the stacks"
_MORE_MEMORY = "raise supervision.worker_memory_bytes_max, or load it with a shorter context or fewer slots"
_LESS_MEMORY = "unload another model, or load it with a shorter context or fewer slots"

_ABORT_PATTERNS: tuple[tuple[str, ExitReason, str, str], ...] = (
    ("Insufficient Memory", ExitReason.GPU_OOM, "the GPU ran out of memory", _LESS_MEMORY),
    (
        "Impacting Interactivity",
        ExitReason.GPU_FAULT,
        "macOS stopped its GPU work to keep the display alive",
        "lower models.prefill_chunk_tokens and load it again",
    ),
    (
        "SubmissionsIgnored",
        ExitReason.GPU_FAULT,
        "the GPU driver refused its work after an earlier fault",
        "restart the machine if that comes again",
    ),
    ("[METAL]", ExitReason.GPU_FAULT, "a GPU command failed", "try a shorter context or a smaller model if that comes again"),
    (
        "GGML_ASSERT",
        ExitReason.NATIVE_ASSERT,
        "llama.cpp met a model or a request it cannot handle",
        "try another quantization of the model, or report that line",
    ),
    ("ggml_abort", ExitReason.NATIVE_ASSERT, "llama.cpp gave up", "try another quantization of the model, or report that line"),
)
"""What is looked for in stderr after an abort, the reason, what happened, and what to do; the first that fits."""

_KILL_TEXTS: dict[KillCause, tuple[ExitReason, str]] = {
    KillCause.NO_HELLO: (
        ExitReason.HUNG,
        "it was killed because it never reported for duty after its start; the machine may be overloaded, see `lmx doctor`",
    ),
    KillCause.LOAD_STALL: (
        ExitReason.LOAD_TIMEOUT,
        "it was killed because its load made no progress; look at the model's disk and at the memory of the machine",
    ),
    KillCause.LOAD_TOTAL: (
        ExitReason.LOAD_TIMEOUT,
        "it was killed because its load took too long in all; raise supervision.load_total_seconds if its disk is just slow",
    ),
    KillCause.CANARY_TIMEOUT: (
        ExitReason.CANARY_FAILED,
        "it was killed because it did not answer the canary prompt in time; the machine is too slow for it, or swaps",
    ),
    KillCause.CANARY_FAILED: (
        ExitReason.CANARY_FAILED,
        "it was stopped because it could not answer the canary prompt; the model or its chat template is broken",
    ),
    KillCause.FILES_CHANGED: (
        ExitReason.MODEL_CHANGED,
        "it was killed because a file of its model changed while it was loaded; load it again when nothing writes to it",
    ),
    KillCause.NO_BEAT: (
        ExitReason.HUNG,
        f"it was killed because its heartbeat stopped, most likely in a native call that never returned; {_STACKS}",
    ),
    KillCause.NO_PROGRESS: (
        ExitReason.HUNG,
        f"it was killed because its engine stood still with requests in flight, most likely a stuck GPU; {_STACKS}",
    ),
    KillCause.MEMORY_LOST: (
        ExitReason.MEMORY_NOT_RECLAIMED,
        "it was stopped before its load, because the memory of a worker that died before has not come back",
    ),
    KillCause.VIOLATION: (
        ExitReason.PROTOCOL_VIOLATION,
        "it was killed because it broke the protocol, a bug in its backend; report it with what `lmx crashes show` says",
    ),
    KillCause.VERSION: (ExitReason.PROTOCOL, "it speaks another protocol version than the supervisor; reinstall LMX"),
    KillCause.NO_ROOM: (
        ExitReason.WILL_NOT_FIT,
        f"it was not told to load, because the host's memory was taken meanwhile; {_LESS_MEMORY}",
    ),
    KillCause.MEMORY_HIGH: (
        ExitReason.MEMORY_EXCEEDED,
        f"it was replaced in order because it came close to the limit of its memory; {_MORE_MEMORY}",
    ),
    KillCause.MEMORY_LIMIT: (
        ExitReason.MEMORY_EXCEEDED,
        f"it was killed because it reached the limit of its memory; {_MORE_MEMORY}",
    ),
}

_EXIT_CODES: dict[int, tuple[ExitReason, str, str]] = {
    ExitCode.BAD_MODEL: (
        ExitReason.BAD_MODEL,
        "the model cannot be loaded",
        "copy or download it again, or choose another one",
    ),
    ExitCode.WILL_NOT_FIT: (ExitReason.WILL_NOT_FIT, "the model does not fit into memory", _LESS_MEMORY),
    ExitCode.PROTOCOL: (
        ExitReason.PROTOCOL,
        "worker and supervisor speak different protocol versions",
        "reinstall LMX",
    ),
    ExitCode.CONFIG: (ExitReason.CONFIG, "its backend does not work here", "see `lmx doctor`"),
    ExitCode.PARENT_GONE: (ExitReason.PARENT_GONE, "it believed that its supervisor was gone", "report it if it comes again"),
}
"""What each status of ours means, and what to do."""

_CRASH_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGTRAP})
_OUTSIDE_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def classify(observation: ExitObservation, *, state: WorkerState, cause: KillCause | None, outstayed: bool = False) -> Verdict:
    """Why a worker in `state` died, where `cause` is our own reason to have ended it, if any.

    `outstayed`: it was asked to stop and we killed it in the end. However else it left after we wanted it gone, it has stopped.
    """
    if observation.spawn_error is not None:
        text = f"it could not be started: {observation.spawn_error}; the machine may be out of processes, files or memory"
        return Verdict(ExitReason.SPAWN_FAILED, text)
    if cause is KillCause.STOP:
        if outstayed:
            return Verdict(ExitReason.STOP_TIMEOUT, "it did not stop in time when asked and was killed")
        return Verdict(ExitReason.STOPPED, "it was stopped")
    if cause is not None:
        return Verdict(*_KILL_TEXTS[cause])
    if observation.signal_number is not None:
        return _classify_signal(observation, observation.signal_number)
    return _classify_code(observation, state)


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11; a number the system has no name for keeps it."""
    return signal.Signals(number).name if number in signal.Signals._value2member_map_ else f"signal {number}"


def _classify_signal(seen: ExitObservation, number: int) -> Verdict:
    name = signal_name(number)
    if number == signal.SIGABRT:
        for pattern, reason, what, advice in _ABORT_PATTERNS:
            if pattern in seen.stderr_tail:
                return Verdict(reason, f"{what} ({name}): {_line_with(pattern, seen.stderr_tail)}; {advice}")
        return Verdict(ExitReason.NATIVE_CRASH, f"native code aborted ({name}){_last_line(seen.stderr_tail)}; {_STACKS}")
    if number == signal.SIGKILL:
        return _classify_kill(seen, name)
    if number == signal.SIGILL:
        text = f"its native libraries were built for another processor ({name}); reinstall them here"
        return Verdict(ExitReason.WRONG_BUILD, text)
    if number == signal.SIGBUS and seen.model_truncated:
        text = f"a file of the model was cut short while it was in use ({name}); copy or download the model again, then load it"
        return Verdict(ExitReason.MODEL_TRUNCATED, text)
    if number in _CRASH_SIGNALS:
        text = f"native code crashed ({name}), most likely a bug in its backend or a damaged model file; {_STACKS}"
        return Verdict(ExitReason.NATIVE_CRASH, text)
    if number in _OUTSIDE_SIGNALS:
        text = f"somebody else ended it ({name}); look for a script or a person that signals lmx-worker processes"
        return Verdict(ExitReason.EXTERNAL, text)
    return Verdict(ExitReason.NATIVE_CRASH, f"it died of {name}, which nothing of LMX sends; {_STACKS}")


def _classify_kill(seen: ExitObservation, name: str) -> Verdict:
    if seen.oom_confirmed:
        return Verdict(ExitReason.OOM_KILLED, f"the kernel killed it for want of memory ({name}, confirmed); {_LESS_MEMORY}")
    text = f"it was killed from outside ({name}), most likely by the kernel for want of memory; {_LESS_MEMORY}"
    return Verdict(ExitReason.OOM_SUSPECTED, text)


def _classify_code(observation: ExitObservation, state: WorkerState) -> Verdict:
    code = observation.code if observation.code is not None else -1
    last_line = _last_line(observation.stderr_tail)
    if code in _EXIT_CODES:
        reason, what, advice = _EXIT_CODES[code]
        return Verdict(reason, f"{what}{last_line}; {advice}")
    if code == ExitCode.OK:
        text = "it left on its own without being asked (exit code 0), a bug in its backend; report it if it comes again"
        return Verdict(ExitReason.UNEXPECTED_EXIT, text)
    if observation.crash_head.startswith("Timeout ("):
        text = f"its own watchdog ended it, most likely in a native call that never returned; {_STACKS}"
        return Verdict(ExitReason.HUNG_SELF, text)
    if "Traceback (most recent call last)" in observation.stderr_tail:
        loading = state in (WorkerState.SPAWNING, WorkerState.LOADING, WorkerState.WARMING)
        reason = ExitReason.LOAD_FAILED if loading else ExitReason.WORKER_BUG
        return Verdict(reason, f"an exception ended it{last_line}; `lmx crashes show` has the traceback")
    text = f"it left on its own (exit code {code}){last_line}; `lmx crashes show` has what it printed"
    return Verdict(ExitReason.UNEXPECTED_EXIT, text)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def _line_with(pattern: str, text: str) -> str:
    return next(line.strip()[:300] for line in text.splitlines() if pattern in line)
