"""What the compatibility registry learns, and what it does not."""

from typing import Any

import pytest

from lmx_protocol import limits
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.runtime.compatibility import row_of

EXIT = {
    "model_id": "m",
    "backend": "llamacpp",
    "backend_version": "0.3",
    "state": WorkerState.LOADING,
    "reason": ExitReason.NATIVE_CRASH,
    "text": "native code crashed",
    "crash_id": "b-1",
}


def test_a_passed_canary_is_a_pass() -> None:
    """With the backend's version, as the worker told it."""
    tell = Tell("model_canary_passed", {"model_id": "m", "backend": "mlx", "backend_version": "9", "duration_seconds": 0.5})
    row = row_of(tell, 7.0)

    assert row is not None
    assert (7.0, "m", "mlx", "9", "pass", None) == (
        row.ts,
        row.model_id,
        row.backend,
        row.backend_version,
        row.outcome,
        row.reason,
    )


@pytest.mark.parametrize("state", [WorkerState.SPAWNING, WorkerState.LOADING, WorkerState.WARMING])
@pytest.mark.parametrize(
    "reason", [ExitReason.NATIVE_CRASH, ExitReason.BAD_MODEL, ExitReason.CANARY_FAILED, ExitReason.LOAD_TIMEOUT]
)
def test_a_failed_load_is_a_fail(state: WorkerState, reason: ExitReason) -> None:
    """Whatever the model did to its worker before it served."""
    row = row_of(Tell("worker_exited", {**EXIT, "state": state, "reason": reason}), 7.0)

    assert row is not None
    assert ("fail", f"{reason}: native code crashed", {"crash_id": "b-1"}) == (row.outcome, row.reason, row.metadata)


@pytest.mark.parametrize(
    "change",
    [
        {"state": WorkerState.READY},
        {"state": WorkerState.BUSY},
        {"state": WorkerState.DRAINING, "reason": ExitReason.STOPPED},
        {"reason": ExitReason.CONFIG},
        {"reason": ExitReason.PROTOCOL},
        {"reason": ExitReason.WILL_NOT_FIT},
        {"reason": ExitReason.SPAWN_FAILED},
        {"reason": ExitReason.EXTERNAL},
        {"backend_version": None},
        {"model_id": None},
    ],
)
def test_what_says_nothing_of_the_model_is_not_recorded(change: dict[str, Any]) -> None:
    """Deaths in service (quarantine tells of those), cancelled loads, broken installations, failed imports, spares."""
    assert row_of(Tell("worker_exited", {**EXIT, **change}), 7.0) is None


@pytest.mark.parametrize(("while_serving", "recorded"), [(True, True), (False, False)])
def test_a_quarantine_is_recorded_once(while_serving: bool, recorded: bool) -> None:
    """One that failed loads led to has its fails in the registry already."""
    fields = {**EXIT, "reason": "crash_loop:3", "while_serving": while_serving}
    row = row_of(Tell("model_quarantined", fields), 7.0)

    assert (row is not None) is recorded
    assert row is None or row.reason == "crash_loop:3: native code crashed"


def test_reasons_are_bounded() -> None:
    """Two thousand rows have to fit into a file that is read whole."""
    row = row_of(Tell("worker_exited", {**EXIT, "text": "x" * 10_000}), 7.0)

    assert row is not None
    assert len(row.reason or "") == limits.COMPATIBILITY_REASON_CHARACTERS_MAX


@pytest.mark.parametrize("outcome", ["pass", "fail"])
def test_a_probe_is_marked(outcome: str) -> None:
    """Its word counts as what it is, with how long it took; one that says nothing of the model is no row."""
    reason = None if outcome == "pass" else "model_probe_failed:it is broken"
    fields = {"model_id": "m", "backend": "mlx", "backend_version": "9", "outcome": outcome, "reason": reason}
    row = row_of(Tell("model_probed", {**fields, "duration_seconds": 0.5, "is_evidence": True}), 7.0)

    assert row is not None
    assert (outcome, reason, 0.5) == (row.outcome, row.reason, row.metadata["probe_seconds"])
    assert "probe" in row.metadata
    assert None is row_of(Tell("model_probed", {**fields, "duration_seconds": 0.5, "is_evidence": False}), 7.0)
