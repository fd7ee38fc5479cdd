"""A model whose file was cut short under its worker: it stays down, and everybody is told why."""

import signal

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import Spawn
from lmx_supervisor.core.exit_reason import ExitObservation, ExitReason
from tests.support.stage import Stage

TRUNCATED = ExitObservation(signal_number=signal.SIGBUS, model_truncated=True)


def test_a_truncated_model_is_not_started_again(stage: Stage) -> None:
    """Its file will not grow back by itself, so a restart would only crash again."""
    stage.ready()
    stage.do(e.Exited(stage.incarnation(), TRUNCATED))
    stage.tick(120.0)

    assert (stage.state(), len(stage.of(Spawn))) == (WorkerState.FAILED, 1)
    last_exit = stage.slot().last_exit
    assert last_exit is not None
    assert last_exit.reason is ExitReason.MODEL_TRUNCATED


def test_requests_for_a_truncated_model_are_told_so(stage: Stage) -> None:
    """Those that waited and those that come later: the code says that the model's file is at fault, the text what to do."""
    stage.ready(slots=1)
    stage.ask("running")
    stage.ask("waiting")
    stage.do(e.Exited(stage.incarnation(), TRUNCATED))
    stage.ask("later")

    assert [stage.ends(name)[0].code for name in ("running", "waiting", "later")] == [
        ErrorCode.WORKER_LOST,
        ErrorCode.MODEL_TRUNCATED,
        ErrorCode.MODEL_TRUNCATED,
    ]
    assert "download the model again" in stage.ends("later")[0].message


def test_a_load_after_the_file_is_whole_again_serves(stage: Stage) -> None:
    """The verdict is about the file as it was: an operator's next load is tried."""
    stage.ready()
    stage.do(e.Exited(stage.incarnation(), TRUNCATED))
    stage.ready(digest="2")

    assert stage.state() is WorkerState.READY
