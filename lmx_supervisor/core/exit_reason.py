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
    MEMORY_EXCEEDED = "memory_exceeded"
    GPU_OOM = "gpu_oom"
    GPU_FAULT = "gpu_fault"
    NATIVE_ASSERT = "native_assert"
    NATIVE_CRASH = "native_crash"
    WRONG_BUILD = "wrong_build"
    EXTERNAL = "external"
    SPAWN_FAILED = "spawn_failed"


NEVER_RESTART = frozenset(
    {ExitReason.BAD_MODEL, ExitReason.WILL_NOT_FIT, ExitReason.PROTOCOL, ExitReason.CONFIG, ExitReason.WRONG_BUILD}
)


BLAMES_REQUESTS = frozenset(
    {
        ExitReason.UNEXPECTED_EXIT,
        ExitReason.HUNG,
        ExitReason.HUNG_SELF,
        ExitReason.WORKER_BUG,
        ExitReason.OOM_SUSPECTED,
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
    NO_BEAT = "no_beat"
    NO_PROGRESS = "no_progress"
    VIOLATION = "violation"
    VERSION = "version"
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reason and one sentence: what died, the likely cause, what to do."""

    reason: ExitReason
    text: str
    crash_id: str | None = None
    """Of the crash bundle; None for a worker that was stopped."""


_ABORT_PATTERNS: tuple[tuple[str, ExitReason, str], ...] = (
    ("Insufficient Memory", ExitReason.GPU_OOM, "the GPU ran out of memory; load it with a shorter context or fewer slots"),
    ("Impacting Interactivity", ExitReason.GPU_FAULT, "macOS stopped its GPU work to keep the display alive"),
    ("SubmissionsIgnored", ExitReason.GPU_FAULT, "the GPU driver refused its work after an earlier fault"),
    ("[METAL]", ExitReason.GPU_FAULT, "a GPU command failed"),
    ("GGML_ASSERT", ExitReason.NATIVE_ASSERT, "an assertion in llama.cpp failed"),
    ("ggml_abort", ExitReason.NATIVE_ASSERT, "llama.cpp aborted"),
)

_KILL_TEXTS: dict[KillCause, tuple[ExitReason, str]] = {
    KillCause.NO_HELLO: (ExitReason.HUNG, "it was killed because it never reported for duty after its start"),
    KillCause.LOAD_STALL: (ExitReason.LOAD_TIMEOUT, "it was killed because its load made no progress"),
    KillCause.LOAD_TOTAL: (ExitReason.LOAD_TIMEOUT, "it was killed because its load took too long in all"),
    KillCause.CANARY_TIMEOUT: (ExitReason.CANARY_FAILED, "it was killed because it did not answer the canary prompt in time"),
    KillCause.CANARY_FAILED: (ExitReason.CANARY_FAILED, "it was stopped because it could not answer the canary prompt"),
    KillCause.NO_BEAT: (ExitReason.HUNG, "it was killed because its heartbeat stopped"),
    KillCause.NO_PROGRESS: (ExitReason.HUNG, "it was killed because its engine stood still with requests in flight"),
    KillCause.VIOLATION: (ExitReason.PROTOCOL_VIOLATION, "it was killed because it broke the protocol"),
    KillCause.MEMORY_HIGH: (ExitReason.MEMORY_EXCEEDED, "it was replaced in order because it cost more memory than it may"),
    KillCause.MEMORY_LIMIT: (ExitReason.MEMORY_EXCEEDED, "it was killed because it reached the limit of its memory"),
    KillCause.VERSION: (ExitReason.PROTOCOL, "it speaks another protocol version than the supervisor; reinstall LMX"),
}

_EXIT_CODES: dict[int, tuple[ExitReason, str]] = {
    ExitCode.BAD_MODEL: (ExitReason.BAD_MODEL, "the model cannot be loaded"),
    ExitCode.WILL_NOT_FIT: (ExitReason.WILL_NOT_FIT, "the model does not fit into memory"),
    ExitCode.PROTOCOL: (ExitReason.PROTOCOL, "worker and supervisor speak different protocol versions; reinstall LMX"),
    ExitCode.CONFIG: (ExitReason.CONFIG, "its backend does not work here; see `lmx doctor`"),
    ExitCode.PARENT_GONE: (ExitReason.PARENT_GONE, "it lost its supervisor"),
}

_CRASH_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGTRAP})
_OUTSIDE_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def classify(observation: ExitObservation, *, state: WorkerState, cause: KillCause | None) -> Verdict:
    """Why a worker in `state` died, where `cause` is our own reason to have ended it, if any."""
    if observation.spawn_error is not None:
        return Verdict(ExitReason.SPAWN_FAILED, f"it could not be started: {observation.spawn_error}")
    if cause is KillCause.STOP:
        if observation.signal_number == signal.SIGKILL:
            return Verdict(ExitReason.STOP_TIMEOUT, "it did not stop when asked and was killed")
        return Verdict(ExitReason.STOPPED, "it was stopped")
    if cause is not None:
        return Verdict(*_KILL_TEXTS[cause])
    if observation.signal_number is not None:
        return _classify_signal(observation.signal_number, observation.stderr_tail)
    return _classify_code(observation, state)


def _classify_signal(number: int, stderr_tail: str) -> Verdict:
    name = signal.Signals(number).name if number in signal.Signals._value2member_map_ else f"signal {number}"
    if number == signal.SIGABRT:
        for pattern, reason, text in _ABORT_PATTERNS:
            if pattern in stderr_tail:
                return Verdict(reason, f"{text} ({name}): {_line_with(pattern, stderr_tail)}")
        return Verdict(ExitReason.NATIVE_CRASH, f"native code aborted ({name}){_last_line(stderr_tail)}")
    if number == signal.SIGKILL:
        text = f"it was killed from outside ({name}), most likely by the kernel for want of memory"
        return Verdict(ExitReason.OOM_SUSPECTED, text)
    if number == signal.SIGILL:
        text = f"its native libraries were built for another processor ({name}); reinstall them here"
        return Verdict(ExitReason.WRONG_BUILD, text)
    if number in _CRASH_SIGNALS:
        return Verdict(ExitReason.NATIVE_CRASH, f"native code crashed ({name}); the stacks are in its crash file")
    if number in _OUTSIDE_SIGNALS:
        return Verdict(ExitReason.EXTERNAL, f"somebody else ended it ({name})")
    return Verdict(ExitReason.NATIVE_CRASH, f"it died of {name}")


def _classify_code(observation: ExitObservation, state: WorkerState) -> Verdict:
    code = observation.code if observation.code is not None else -1
    if code in _EXIT_CODES:
        reason, text = _EXIT_CODES[code]
        return Verdict(reason, f"{text}{_last_line(observation.stderr_tail)}")
    if code == ExitCode.OK:
        return Verdict(ExitReason.UNEXPECTED_EXIT, "it left on its own without being asked (exit code 0)")
    if observation.crash_head.startswith("Timeout ("):
        text = "its own watchdog ended it because it stood still; the stacks are in its crash file"
        return Verdict(ExitReason.HUNG_SELF, text)
    if "Traceback (most recent call last)" in observation.stderr_tail:
        loading = state in (WorkerState.SPAWNING, WorkerState.LOADING, WorkerState.WARMING)
        reason = ExitReason.LOAD_FAILED if loading else ExitReason.WORKER_BUG
        return Verdict(reason, f"an exception ended it{_last_line(observation.stderr_tail)}")
    return Verdict(ExitReason.UNEXPECTED_EXIT, f"it left on its own (exit code {code}){_last_line(observation.stderr_tail)}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def _line_with(pattern: str, text: str) -> str:
    return next(line.strip()[:300] for line in text.splitlines() if pattern in line)
