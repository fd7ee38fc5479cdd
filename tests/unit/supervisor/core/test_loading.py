"""From a load order to a served model, and back."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Load, LoadFailed, Shutdown
from lmx_protocol.states import Readiness, WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import InvalidTransitionError
from lmx_supervisor.core.snapshot import fleet_view
from tests.support.stage import Stage


def test_a_model_is_routable_only_after_its_canary(stage: Stage) -> None:
    """Loaded weights are not enough: the readiness the world sees changes with the canary's end."""
    order = stage.load()
    seen = [_readiness(stage)]
    stage.hello()
    seen.append(_readiness(stage))
    stage.loaded()
    seen.append(_readiness(stage))
    assert not stage.of(a.LoadSettled)
    stage.canary()
    seen.append(_readiness(stage))

    assert seen == [Readiness.ADMITTED, Readiness.LOADING, Readiness.CANARY_PENDING, Readiness.ROUTABLE]
    assert [settled.order_id for settled in stage.of(a.LoadSettled)] == [order]


def test_loads_of_one_model_share_one_process(stage: Stage) -> None:
    """A second order joins the first and gets its answer; a third, later, is told that nothing had to be done."""
    first = stage.load()
    second = stage.load()
    stage.come_up()
    third = stage.load()

    assert len(stage.of(a.Spawn)) == 1
    assert [(s.order_id, s.already) for s in stage.of(a.LoadSettled)] == [(first, False), (second, False), (third, True)]


def test_a_canary_without_a_token_is_a_failed_load(stage: Stage) -> None:
    """A model that cannot say anything is stopped and its order refused as a canary failure."""
    order = stage.load()
    stage.hello()
    stage.loaded()
    stage.canary(tokens=0)
    assert stage.sent(Shutdown)
    stage.die(code=0)

    assert stage.refusal(order).code is ErrorCode.MODEL_CANARY_FAILED
    assert stage.state() is WorkerState.FAILED


def test_files_that_changed_during_the_load_fail_it(stage: Stage) -> None:
    """What was loaded never meets its canary; the order is told which file, and a wanted model is tried again."""
    order = stage.load(at_start=True)
    stage.hello()
    stage.do(e.FilesChanged(stage.incarnation(), "m.gguf was replaced by another file"))
    stage.loaded()
    assert not stage.told("model_canary_started")
    assert stage.signals() == [a.WorkerSignal.KILL]
    stage.die()
    stage.come_up()

    assert [settled.order_id for settled in stage.of(a.LoadSettled)] == [order]
    assert "m.gguf was replaced by another file" in [line.text for line in stage.slot().story]
    last_exit = stage.slot().last_exit
    assert last_exit is not None
    assert last_exit.reason is ExitReason.MODEL_CHANGED


def test_a_bad_model_is_refused_in_the_workers_own_words_and_not_retried(stage: Stage) -> None:
    """What the worker says is wrong with the model reaches the order, and even a wanted model is not started again."""
    order = stage.load(at_start=True)
    stage.hello()
    stage.say(LoadFailed(code=ErrorCode.MODEL_PROBE_FAILED, message="tensor 'x' is missing"))
    stage.die(code=70)

    assert "tensor 'x' is missing" in stage.refusal(order).message
    assert stage.refusal(order).code is ErrorCode.MODEL_PROBE_FAILED
    assert stage.state() is WorkerState.FAILED
    assert stage.tick(700) == []


def test_a_first_load_that_crashes_is_not_retried_behind_the_operators_back(stage: Stage) -> None:
    """The order is refused at once with the reason; the next order tries again."""
    order = stage.load()
    stage.hello()
    stage.die(signal=11)
    assert stage.refusal(order).code is ErrorCode.MODEL_LOADER_CRASHED
    assert "SIGSEGV" in stage.refusal(order).message
    again = stage.load()
    stage.come_up()

    assert [settled.order_id for settled in stage.of(a.LoadSettled)] == [again]


def test_three_loads_that_crash_quarantine_the_model(stage: Stage) -> None:
    """The third crash in a row ends in quarantine, and a fourth load is refused without a process."""
    for _ in range(3):
        stage.load()
        stage.hello()
        stage.die(signal=6)
    spawned = len(stage.of(a.Spawn))
    order = stage.load()

    assert stage.state() is WorkerState.QUARANTINED
    assert stage.slot().quarantine_reason == "crash_loop:3"
    assert stage.refusal(order).code is ErrorCode.MODEL_UNSTABLE
    assert len(stage.of(a.Spawn)) == spawned


def test_quarantine_survives_an_unload(stage: Stage) -> None:
    """Unloading a quarantined model succeeds and changes nothing about the quarantine."""
    for _ in range(3):
        stage.load()
        stage.die(signal=6)
    stage.unload()

    assert len(stage.of(a.UnloadSettled)) == 1
    assert stage.state() is WorkerState.QUARANTINED


def test_an_unload_during_a_load_cancels_it(stage: Stage) -> None:
    """Both orders get an answer, the slot is gone, and nothing counts as a failure."""
    load = stage.load()
    stage.hello()
    stage.unload()
    stage.die(code=0)

    assert stage.refusal(load).code is ErrorCode.MODEL_LOAD_CANCELLED
    assert len(stage.of(a.UnloadSettled)) == 1
    assert not stage.fleet.state.slots


def test_an_unload_waits_for_running_requests(stage: Stage) -> None:
    """A stream that runs is let run; the worker is asked to stop only after its end."""
    stage.ready()
    stage.ask("r")
    stage.unload()
    assert not stage.sent(Shutdown)
    stage.finish("r", seq=0)

    assert len(stage.sent(Shutdown)) == 1


def test_a_load_during_an_unload_starts_over_when_the_old_worker_is_gone(stage: Stage) -> None:
    """Two incarnations of one model never overlap."""
    stage.ready()
    stage.unload()
    order = stage.load()
    assert len(stage.of(a.Spawn)) == 1
    stage.die(code=0)
    stage.come_up()

    assert [settled.order_id for settled in stage.of(a.LoadSettled)][-1] == order


def test_unloading_what_is_not_there_is_refused(stage: Stage) -> None:
    """The refusal is the 404 kind."""
    assert stage.refusal(stage.unload("ghost")).code is ErrorCode.MODEL_NOT_FOUND


def test_a_warm_spare_is_used_for_the_next_load() -> None:
    """With a spare of the right backend no process is started: the load goes to the spare."""
    stage = Stage(Policy(warm_spare=True))
    stage.ready("a")
    stage.tick()
    spare = stage.of(a.Spawn)[-1].incarnation
    stage.imported(spare)
    spawned = len(stage.of(a.Spawn))
    stage.load("b")

    assert stage.incarnation("b") == spare
    assert len(stage.of(a.Spawn)) == spawned
    assert [load.model.model_id for load in stage.sent(Load)] == ["a", "b"]


def test_the_spare_goes_when_its_backend_is_no_longer_used() -> None:
    """After the last unload of a backend its spare is stopped."""
    stage = Stage(Policy(warm_spare=True))
    stage.ready("a")
    stage.tick()
    stage.imported(stage.of(a.Spawn)[-1].incarnation)
    stage.unload("a")
    stage.die("a", code=0)
    stage.tick()

    assert len(stage.sent(Shutdown)) == 2


def test_the_spare_goes_when_spares_are_switched_off() -> None:
    """A reloaded policy without spares ends the one that waits, and no other comes; the model is left alone."""
    stage = Stage(Policy(warm_spare=True))
    stage.ready("a")
    stage.tick()
    stage.imported(stage.of(a.Spawn)[-1].incarnation)
    stage.fleet.policy = Policy(warm_spare=False)
    stage.tick(5.0)

    assert len(stage.sent(Shutdown)) == 1
    assert (stage.state("a"), len(stage.of(a.Spawn))) == (WorkerState.READY, 2)


def test_an_impossible_move_names_the_slot_and_tells_its_story(stage: Stage) -> None:
    """A bug in the core is found with everything that led to it."""
    stage.ready()
    with pytest.raises(InvalidTransitionError, match=r"m: ready → backoff(?s:.*)the canary passed"):
        stage.slot().move(WorkerState.BACKOFF, stage.now, "nonsense")


def _readiness(stage: Stage) -> Readiness:
    worker = fleet_view(stage.fleet.state, stage.now, stage.now).worker("m")
    assert worker is not None
    return worker.readiness.state


def test_nobody_hears_of_a_canary_that_a_shutdown_cut_short(stage: Stage) -> None:
    """The canary is ours: its end is never delivered as if a client had asked."""
    stage.load()
    stage.hello()
    stage.loaded()
    stage.unload()
    stage.tick(Policy().drain_seconds + 1)

    assert stage.of(a.Deliver) == []
