"""The exit classification table, row by row."""

import signal

import pytest

from lmx_protocol.errors import ExitCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.exit_reason import ExitObservation, ExitReason, KillCause, classify, signal_name

TRACEBACK = "Traceback (most recent call last):\n  File x\nValueError: boom\n"
OOM_KILLED = ExitObservation(signal_number=signal.SIGKILL, oom_confirmed=True)
TRUNCATED = ExitObservation(signal_number=signal.SIGBUS, model_truncated=True)


@pytest.mark.parametrize(
    ("seen", "cause", "state", "reason"),
    [
        (ExitObservation(code=0), KillCause.STOP, WorkerState.DRAINING, ExitReason.STOPPED),
        (ExitObservation(signal_number=signal.SIGTERM), KillCause.STOP, WorkerState.DRAINING, ExitReason.STOPPED),
        (ExitObservation(signal_number=signal.SIGKILL), KillCause.STOP, WorkerState.DRAINING, ExitReason.STOPPED),
        (ExitObservation(code=0), None, WorkerState.READY, ExitReason.UNEXPECTED_EXIT),
        (ExitObservation(code=3), None, WorkerState.READY, ExitReason.UNEXPECTED_EXIT),
        (ExitObservation(code=ExitCode.BAD_MODEL), None, WorkerState.LOADING, ExitReason.BAD_MODEL),
        (ExitObservation(code=ExitCode.WILL_NOT_FIT), None, WorkerState.LOADING, ExitReason.WILL_NOT_FIT),
        (ExitObservation(code=ExitCode.PROTOCOL), None, WorkerState.SPAWNING, ExitReason.PROTOCOL),
        (ExitObservation(code=ExitCode.CONFIG), None, WorkerState.SPAWNING, ExitReason.CONFIG),
        (ExitObservation(code=ExitCode.PARENT_GONE), None, WorkerState.READY, ExitReason.PARENT_GONE),
        (ExitObservation(code=1, crash_head="Timeout (0:01:00)!\n"), None, WorkerState.READY, ExitReason.HUNG_SELF),
        (ExitObservation(code=1, stderr_tail=TRACEBACK), None, WorkerState.READY, ExitReason.WORKER_BUG),
        (ExitObservation(code=1, stderr_tail=TRACEBACK), None, WorkerState.LOADING, ExitReason.LOAD_FAILED),
        (ExitObservation(signal_number=signal.SIGKILL), KillCause.NO_BEAT, WorkerState.READY, ExitReason.HUNG),
        (ExitObservation(signal_number=signal.SIGABRT), KillCause.NO_PROGRESS, WorkerState.BUSY, ExitReason.HUNG),
        (ExitObservation(signal_number=signal.SIGKILL), KillCause.VIOLATION, WorkerState.BUSY, ExitReason.PROTOCOL_VIOLATION),
        (ExitObservation(signal_number=signal.SIGKILL), KillCause.LOAD_STALL, WorkerState.LOADING, ExitReason.LOAD_TIMEOUT),
        (ExitObservation(signal_number=signal.SIGKILL), None, WorkerState.BUSY, ExitReason.OOM_SUSPECTED),
        (OOM_KILLED, None, WorkerState.BUSY, ExitReason.OOM_KILLED),
        (
            ExitObservation(signal_number=signal.SIGKILL, oom_confirmed=True),
            KillCause.NO_BEAT,
            WorkerState.BUSY,
            ExitReason.HUNG,
        ),
        (
            ExitObservation(signal_number=signal.SIGABRT, stderr_tail="[METAL] Command buffer failed: Insufficient Memory"),
            None,
            WorkerState.BUSY,
            ExitReason.GPU_OOM,
        ),
        (
            ExitObservation(signal_number=signal.SIGABRT, stderr_tail="[METAL] … Impacting Interactivity"),
            None,
            WorkerState.BUSY,
            ExitReason.GPU_FAULT,
        ),
        (
            ExitObservation(signal_number=signal.SIGABRT, stderr_tail="x.cpp:1: GGML_ASSERT(n > 0) failed"),
            None,
            WorkerState.BUSY,
            ExitReason.NATIVE_ASSERT,
        ),
        (ExitObservation(signal_number=signal.SIGABRT), None, WorkerState.BUSY, ExitReason.NATIVE_CRASH),
        (ExitObservation(signal_number=signal.SIGSEGV), None, WorkerState.BUSY, ExitReason.NATIVE_CRASH),
        (ExitObservation(signal_number=signal.SIGBUS), None, WorkerState.BUSY, ExitReason.NATIVE_CRASH),
        (
            TRUNCATED,
            None,
            WorkerState.BUSY,
            ExitReason.MODEL_TRUNCATED,
        ),
        (ExitObservation(signal_number=signal.SIGILL), None, WorkerState.LOADING, ExitReason.WRONG_BUILD),
        (ExitObservation(signal_number=signal.SIGTERM), None, WorkerState.READY, ExitReason.EXTERNAL),
        (ExitObservation(spawn_error="EAGAIN"), None, WorkerState.SPAWNING, ExitReason.SPAWN_FAILED),
    ],
)
def test_each_observation_has_its_reason(
    seen: ExitObservation, cause: KillCause | None, state: WorkerState, reason: ExitReason
) -> None:
    """What was observed, together with our own part in it, decides the typed reason."""
    verdict = classify(seen, state=state, cause=cause)

    assert verdict.reason is reason
    assert verdict.text


def test_the_text_carries_the_last_line_of_the_traceback() -> None:
    """An operator reads the exception without opening a file."""
    verdict = classify(ExitObservation(code=1, stderr_tail=TRACEBACK), state=WorkerState.READY, cause=None)

    assert "ValueError: boom" in verdict.text


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (ExitObservation(signal_number=signal.SIGSEGV), ("SIGSEGV", "damaged model file", "`lmx crashes show`")),
        (ExitObservation(signal_number=signal.SIGKILL), ("SIGKILL", "from outside", "unload another model")),
        (OOM_KILLED, ("SIGKILL", "confirmed", "unload another model")),
        (
            TRUNCATED,
            ("SIGBUS", "cut short", "download the model again"),
        ),
        (
            ExitObservation(signal_number=signal.SIGABRT, stderr_tail="x\na.cpp:1: GGML_ASSERT(n > 0) failed\ny"),
            ("SIGABRT", "a.cpp:1: GGML_ASSERT(n > 0) failed;", "another quantization"),
        ),
        (ExitObservation(code=1, crash_head="Timeout (0:01:00)!\n"), ("watchdog", "never returned", "`lmx crashes show`")),
        (ExitObservation(code=3, stderr_tail="a\nlast words\n"), ("exit code 3", "last words", "`lmx crashes show`")),
        (ExitObservation(code=ExitCode.CONFIG), ("backend does not work here", "`lmx doctor`")),
    ],
)
def test_a_text_says_what_died_why_and_what_to_do(seen: ExitObservation, words: tuple[str, ...]) -> None:
    """An operator who is paged at night reads the observation, the likely cause and the next step in one sentence."""
    text = classify(seen, state=WorkerState.BUSY, cause=None).text

    assert [word for word in words if word not in text] == []
    assert not text.endswith(".")


def test_every_kill_of_ours_has_a_text() -> None:
    """No cause falls through to a guess about strangers."""
    for cause in KillCause:
        verdict = classify(ExitObservation(signal_number=signal.SIGKILL), state=WorkerState.BUSY, cause=cause)
        assert verdict.reason not in (ExitReason.OOM_SUSPECTED, ExitReason.EXTERNAL)


def test_a_signal_without_a_name_keeps_its_number() -> None:
    """Real-time signals have no names of their own in Python; the text still says which one it was."""
    assert (signal_name(signal.SIGSEGV), signal_name(40)) == ("SIGSEGV", "signal 40")
