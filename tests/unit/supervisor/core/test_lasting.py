"""What of the fleet is written down."""

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.events import DrainWanted
from lmx_supervisor.core.lasting import lasting
from tests.support.stage import Stage


def test_a_model_lasts_once_it_has_served_or_when_it_is_to_be_there_from_the_start(stage: Stage) -> None:
    """An operator's load that has not come up yet is not brought back behind their back."""
    stage.load("ordered")
    stage.load("auto", at_start=True)
    assert [model.spec.model_id for model in lasting(stage.fleet.state).wanted] == ["auto"]
    stage.come_up("ordered")

    assert [model.spec.model_id for model in lasting(stage.fleet.state).wanted] == ["ordered", "auto"]


def test_a_restarting_model_lasts_and_an_unloaded_one_does_not(stage: Stage) -> None:
    """A crash changes nothing about what is wanted; an operator's order does."""
    stage.ready("m")
    stage.die("m")
    assert [model.spec.model_id for model in lasting(stage.fleet.state).wanted] == ["m"]
    stage.unload("m")

    assert lasting(stage.fleet.state).wanted == ()


def test_a_quarantine_lasts_with_its_reason_also_while_a_forced_load_tries(stage: Stage) -> None:
    """Only serving releases a forced model; until then a restart of the service finds it quarantined."""
    for _ in range(3):
        stage.load(digest="d")
        stage.die(signal=11)
    stage.load(digest="d", force=True)

    (model,) = lasting(stage.fleet.state).quarantined
    assert stage.state() is WorkerState.SPAWNING
    assert ("m", "d", "crash_loop:3", 3) == (model.spec.model_id, model.digest, model.reason, model.consecutive_failures)
    assert model.last_exit is not None
    assert model.last_exit.crash_id


def test_every_living_process_is_named(stage: Stage) -> None:
    """With the pid and the incarnation that the boot sweep will look for; the dead are not."""
    stage.ready("a")
    stage.load("b")
    stage.die("a")

    workers = {worker.incarnation: worker.pid for worker in lasting(stage.fleet.state).workers}
    assert stage.incarnation("b") in workers
    assert set(workers) == set(stage.fleet.state.incarnations)


def test_a_drain_is_told(stage: Stage) -> None:
    """What nobody wants any more only because the service stops can be told from what was unloaded."""
    stage.ready("m")
    stage.do(DrainWanted(10.0))

    assert (True, ()) == (lasting(stage.fleet.state).draining, lasting(stage.fleet.state).wanted)
