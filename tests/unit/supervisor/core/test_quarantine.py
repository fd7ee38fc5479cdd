"""How quarantine ends, how it outlives the service, and the step-down before it."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Load
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitReason, Verdict
from tests.support.stage import Stage, spec

GPU_OOM = "[METAL] Command buffer execution failed: Insufficient Memory"


def _quarantined(stage: Stage) -> None:
    for _ in range(3):
        stage.load()
        stage.die(signal=6)
    assert stage.state() is WorkerState.QUARANTINED


@pytest.mark.parametrize("change", [{"backend": "mlx"}, {"digest": "2"}])
def test_another_backend_or_changed_files_release_the_model(stage: Stage, change: dict[str, str]) -> None:
    """What crashed is not what is loaded now: the count starts anew."""
    _quarantined(stage)
    stage.load(**change)
    assert stage.state() is WorkerState.SPAWNING
    stage.die(signal=6)

    assert stage.slot().failures.consecutive == 1
    assert stage.told("quarantine_cleared")


def test_a_forced_load_that_serves_releases_the_model(stage: Stage) -> None:
    """Forcing is a try: a model that comes up and serves is trusted again."""
    _quarantined(stage)
    stage.load(force=True)
    stage.come_up()
    stage.ask("r")
    stage.finish("r", seq=0)

    assert stage.told("quarantine_cleared")
    assert stage.slot().failures.consecutive == 0


def test_a_forced_load_that_crashes_is_quarantined_again_at_once(stage: Stage) -> None:
    """Forcing does not forgive."""
    _quarantined(stage)
    order = stage.load(force=True)
    stage.die(signal=6)

    assert stage.state() is WorkerState.QUARANTINED
    assert stage.refusal(order).code is ErrorCode.MODEL_LOADER_CRASHED


@pytest.mark.parametrize("model_id", ["m", None])
def test_an_operator_clears_one_or_all(stage: Stage, model_id: str | None) -> None:
    """The order is told which models were released, and the next load starts."""
    _quarantined(stage)
    stage.do(e.QuarantineClearWanted("clear", model_id))
    stage.load()

    assert [settled.model_ids for settled in stage.of(a.QuarantineSettled)] == [("m",)]
    assert stage.state() is WorkerState.SPAWNING


def test_an_unload_is_remembered_until_the_next_load(stage: Stage) -> None:
    """The quarantine outlives the unload; a forced load is waited for again, and what became of it is to be seen."""
    _quarantined(stage)
    before = stage.slot().unloaded
    stage.do(e.UnloadWanted("unload", "m"))
    after = stage.slot().unloaded
    stage.load(force=True)
    stage.die(signal=6)

    assert (before, after, stage.slot().unloaded) == (False, True, False)
    assert stage.state() is WorkerState.QUARANTINED


def test_clearing_what_is_not_quarantined_is_refused(stage: Stage) -> None:
    """The refusal is the 404 kind."""
    stage.do(e.QuarantineClearWanted("clear", "ghost"))

    assert stage.refusal("clear").code is ErrorCode.MODEL_NOT_FOUND


def test_a_quarantine_from_before_the_restart_is_in_force(stage: Stage) -> None:
    """Loads are refused with the reason of old until something changes."""
    verdict = Verdict(ExitReason.NATIVE_CRASH, "native code crashed (SIGSEGV)")
    stage.do(e.QuarantineKnown(spec(), "llamacpp", "1", "crash_loop:3", 3, verdict))
    refused = stage.refusal(stage.load())
    stage.load(digest="2")

    assert refused.code is ErrorCode.MODEL_UNSTABLE
    assert "SIGSEGV" in refused.message
    assert stage.state() is WorkerState.SPAWNING


def test_two_gpu_ooms_halve_the_context_once(stage: Stage) -> None:
    """The second restart asks for half the tokens and says so; a third death is quarantine."""
    stage.ready()
    for _ in range(2):
        stage.die(signal=6, stderr=GPU_OOM)
        stage.tick(2)
        stage.come_up()
    assert [load.model.context_length for load in stage.sent(Load)] == [0, 0, 2048]
    assert stage.told("model_stepped_down") == [{"model_id": "m", "context_length": 2048}]
    stage.die(signal=6, stderr=GPU_OOM)

    assert stage.state() is WorkerState.QUARANTINED


def test_a_restart_by_order_drains_and_comes_back(stage: Stage) -> None:
    """Running requests end first; the order is settled when the fresh worker is ready; waiting requests are kept."""
    stage.ready(slots=1)
    stage.ask("runs")
    stage.ask("waits")
    stage.do(e.RestartWanted("restart", "m"))
    assert stage.state() is WorkerState.DRAINING
    stage.finish("runs", seq=0)
    stage.die(code=0)
    stage.come_up()

    assert [settled.order_id for settled in stage.of(a.LoadSettled)][-1] == "restart"
    assert stage.slot().running == {"waits"}
    assert stage.slot().failures.consecutive == 0
