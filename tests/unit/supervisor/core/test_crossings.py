"""Histories that cross: sleep before orders, unloads after reloads, words of the doomed. The simulation found each of them."""

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Begin
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage

PATIENT = Policy(warm_spare=False, quarantine_threshold=100, restart_max_in_window=100)


def _quarantined(stage: Stage) -> None:
    for _ in range(3):
        stage.load()
        stage.die(signal=6)
    assert stage.state() is WorkerState.QUARANTINED


def _poisonable() -> Stage:
    stage = Stage(PATIENT)
    stage.ready(slots=2)
    return stage


# --- sleep ------------------------------------------------------------------------------------------------------------------


def test_what_begins_right_after_a_sleep_is_not_late_by_the_sleep(stage: Stage) -> None:
    """An unload that is handled before the first tick after the gap has its grace from then, not an hour later."""
    stage.ready()
    stage.tick(1)
    stage.now += 3600
    stage.unload()
    stage.tick(stage.fleet.policy.stop_grace_seconds)

    assert stage.signals() == [a.WorkerSignal.TERMINATE, a.WorkerSignal.KILL]


def test_a_request_that_comes_right_after_a_sleep_waits_no_longer_than_others(stage: Stage) -> None:
    """Its deadline is not shifted by a gap that was over when it came."""
    stage.load()
    stage.tick(1)
    stage.now += 3600
    stage.ask("r")
    stage.tick(stage.fleet.policy.queue_wait_seconds)

    assert len(stage.ends("r")) == 1


# --- orders -----------------------------------------------------------------------------------------------------------------


def test_an_unload_takes_back_a_reload_that_was_ordered_before_it(stage: Stage) -> None:
    """Load while it stops, then unload: the last order counts, and whoever waited for the reload is told."""
    stage.ready()
    stage.unload()
    reload = stage.load()
    stage.ask("r")
    stage.unload()
    stage.die(code=0)

    assert stage.refusal(reload).code is ErrorCode.MODEL_LOAD_CANCELLED
    assert stage.ends("r")[0].code is ErrorCode.MODEL_NOT_FOUND
    assert stage.fleet.state.slots == {}
    assert len(stage.of(a.UnloadSettled)) == 2


def test_a_forced_model_that_is_unloaded_before_it_served_is_quarantined_still(stage: Stage) -> None:
    """Quarantine survives an unload; forcing is not one of its ends."""
    _quarantined(stage)
    stage.load(force=True)
    stage.come_up()
    unload = stage.unload()
    stage.die(code=0)

    assert [settled.order_id for settled in stage.of(a.UnloadSettled)] == [unload]
    assert stage.refusal(stage.load()).code is ErrorCode.MODEL_UNSTABLE


def test_a_forced_model_that_is_being_unloaded_is_no_way_around_its_quarantine(stage: Stage) -> None:
    """A plain load that comes while it stops is refused like any other."""
    _quarantined(stage)
    stage.load(force=True)
    stage.unload()

    assert stage.refusal(stage.load()).code is ErrorCode.MODEL_UNSTABLE


def test_a_forced_load_of_a_bad_model_leaves_it_quarantined(stage: Stage) -> None:
    """An exit that forbids a restart does not turn quarantine into a plain failure."""
    _quarantined(stage)
    stage.load(force=True)
    stage.die(code=70)

    assert stage.state() is WorkerState.QUARANTINED


def test_what_a_model_served_before_its_quarantine_does_not_release_it(stage: Stage) -> None:
    """Only a request served by the forced worker does; its canary is none."""
    stage.ready()
    stage.ask("r")
    stage.finish("r", seq=0)
    for _ in range(3):
        stage.die(signal=6)
        stage.tick(2)
        if stage.state() is not WorkerState.QUARANTINED:
            stage.hello()
    stage.load(force=True)
    stage.come_up()

    assert not stage.told("quarantine_cleared")


# --- the doomed ---------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_being_ended_does_not_become_ready(stage: Stage) -> None:
    """Its canary passes within the grace of its kill: nobody is told that the model is loaded."""
    order = stage.load()
    stage.hello()
    stage.loaded()
    stage.beat()
    stage.tick(stage.fleet.policy.canary_seconds + 1)
    assert stage.signals() == [a.WorkerSignal.ABORT]
    stage.canary()
    stage.die(signal=6)

    assert not stage.of(a.LoadSettled)
    assert stage.refusal(order).code is ErrorCode.MODEL_CANARY_FAILED


def test_a_load_that_ends_within_the_grace_of_its_kill_gets_no_canary(stage: Stage) -> None:
    """A worker on a ladder is given nothing more to do."""
    stage.load()
    stage.hello()
    stage.tick(stage.fleet.policy.load_stall_seconds + 1)
    stage.loaded()

    assert not stage.sent(Begin)


def test_a_pid_that_is_known_after_the_death_changes_nothing(stage: Stage) -> None:
    """The report of a spawn may come after the report of the exit."""
    stage.load()
    name = stage.incarnation()
    stage.die(signal=9)

    assert stage.do(e.Spawned(name, 7)) == []


def test_sustained_service_before_an_ordered_restart_counts(stage: Stage) -> None:
    """A crash, a day of service, a restart by order, a crash: the second crash is a first one."""
    stage.ready()
    stage.die(signal=11)
    stage.come_up()
    stage.ask("r")
    stage.finish("r", seq=0)
    for _ in range(4):
        stage.tick(stage.fleet.policy.restart_stable_seconds / 4)
        stage.beat()
    stage.do(e.RestartWanted("restart", "m"))
    stage.die(code=0)
    stage.come_up()
    stage.die(signal=11)

    assert stage.slot().failures.consecutive == 1


# --- poison -------------------------------------------------------------------------------------------------------------------


def test_one_death_is_held_once_against_equal_requests() -> None:
    """Two clients who ask the same are one suspect: a single crash does not ban their question."""
    stage = _poisonable()
    stage.ask("r1", prompt="same")
    stage.ask("r2", prompt="same")
    stage.die(signal=11)
    stage.come_up()

    assert stage.slot().running == {"r1"}
    assert not stage.ends("r1")
    assert not stage.ends("r2")


def test_a_copy_that_waited_through_the_crash_is_on_trial_too() -> None:
    """Otherwise it would run beside the trial of an innocent, who would be blamed for the next crash."""
    stage = _poisonable()
    for name in ("innocent", "poison"):
        stage.ask(name, prompt=name)
    stage.ask("copy", prompt="poison")
    stage.die(signal=11)
    stage.come_up()

    assert stage.slot().running == {"innocent"}


def test_a_copy_that_waits_when_its_question_is_found_out_is_refused() -> None:
    """The third try is refused even if it was accepted before the second crash."""
    stage = _poisonable()
    for name in ("r1", "r2", "r3"):
        stage.ask(name, prompt="poison")
    for _ in range(2):
        stage.die(signal=11)
        stage.tick(2)
        stage.come_up()

    assert stage.slot().running == set()
    assert stage.ends("r3")[0].code is ErrorCode.REQUEST_CRASHES_MODEL


def test_a_request_found_out_on_its_first_try_is_not_replayed() -> None:
    """Its question had crashed the model before; once it is refused, its replay would be the third crash."""
    stage = _poisonable()
    stage.ask("r1", prompt="poison")
    stage.text("r1", 0)
    stage.die(signal=11)
    stage.come_up()
    stage.ask("r2", prompt="poison")
    stage.die(signal=11)

    assert stage.ends("r2")[0].code is ErrorCode.WORKER_LOST
    assert stage.slot().failures.consecutive == 2


def test_a_replay_is_on_trial_until_it_is_past_the_point_of_the_crash() -> None:
    """Tokens without text were heard before the crash; the replay starts from its first token again."""
    stage = _poisonable()
    stage.ask("r1")
    for seq in range(2):
        stage.text("r1", seq, text="")
    stage.die(signal=11)
    stage.come_up()
    for seq in range(2):
        stage.text("r1", seq, text="")
    entry = stage.fleet.state.ledger.get("r1")
    assert entry is not None

    assert entry.on_trial
