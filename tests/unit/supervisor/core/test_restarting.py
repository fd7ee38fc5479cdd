"""Deaths, restarts, quarantine and the ladders."""

import pytest

from lmx_protocol import limits
from lmx_protocol.messages import Shutdown
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.restart_policy import FailureHistory, GiveUp, Quarantine, RestartAfter, decide
from tests.support.stage import Stage

KILL, ABORT, TERMINATE = a.WorkerSignal.KILL, a.WorkerSignal.ABORT, a.WorkerSignal.TERMINATE


def test_a_killed_worker_is_started_again_at_once(stage: Stage) -> None:
    """Nobody has to ask, and no backoff delays the first restart."""
    stage.ready()
    stage.die()

    assert stage.state() is WorkerState.SPAWNING
    assert stage.slot().restarts == 1


def test_the_second_failure_in_a_row_waits_and_the_third_is_quarantine(stage: Stage) -> None:
    """Without sustained service in between: at once, after about a second, not any more."""
    stage.ready()
    stage.die()
    stage.come_up()
    stage.die()
    assert stage.state() is WorkerState.BACKOFF
    assert 0.8 <= stage.slot().restart_at - stage.now <= 1.2
    stage.tick(2)
    stage.come_up()
    stage.die()

    assert stage.state() is WorkerState.QUARANTINED


def test_sustained_service_breaks_the_row_of_failures(stage: Stage) -> None:
    """A minute of READY with a served request in it resets the count."""
    stage.ready()
    for _ in range(5):
        stage.ask("r")
        stage.finish("r", seq=0)
        stage.now += limits.RESTART_WINDOW_SECONDS
        stage.die()
        assert stage.state() is WorkerState.SPAWNING
        stage.come_up()

    assert stage.slot().failures.consecutive == 1


def test_being_alive_without_serving_does_not_reset_the_count(stage: Stage) -> None:
    """READY for long but never used: the row goes on."""
    stage.ready()
    stage.die()
    stage.come_up()
    stage.now += 2 * limits.RESTART_STABLE_SECONDS
    stage.die()

    assert stage.slot().failures.consecutive == 2


def test_too_many_failures_in_the_window_are_quarantine_despite_service_in_between(stage: Stage) -> None:
    """Six crashes in ten minutes are a crash loop even if each minute in between was good."""
    stage.ready()
    for _ in range(limits.RESTART_MAX_IN_WINDOW + 1):
        stage.ask("r")
        stage.finish("r", seq=0)
        stage.now += limits.RESTART_STABLE_SECONDS + 1
        stage.die()
        if stage.state() is WorkerState.SPAWNING:
            stage.come_up()

    assert stage.slot().quarantine_reason == "crash_rate:6"


@pytest.mark.parametrize(
    ("consecutive", "low", "high"), [(1, 0, 0), (2, 0.8, 1.2), (3, 1.6, 2.4), (4, 3.2, 4.8), (9, 48, 72), (40, 48, 72)]
)
def test_delays_double_up_to_their_cap_with_bounded_jitter(consecutive: int, low: float, high: float) -> None:
    """0, 1, 2, 4 … 60 seconds, each within a fifth."""
    policy = Policy(quarantine_threshold=1000)
    for key in ("a", "b", "c"):
        decision = decide(FailureHistory(consecutive=consecutive), ExitReason.NATIVE_CRASH, policy, key)
        assert isinstance(decision, RestartAfter)
        assert low <= decision.seconds <= high


@pytest.mark.parametrize("reason", [ExitReason.BAD_MODEL, ExitReason.PROTOCOL, ExitReason.CONFIG, ExitReason.WRONG_BUILD])
def test_causes_a_restart_cannot_mend_are_given_up(reason: ExitReason) -> None:
    """Neither restart nor quarantine: the model or the installation must change."""
    assert isinstance(decide(FailureHistory(consecutive=1), reason, Policy(), "k"), GiveUp)


def test_the_threshold_is_the_runbooks() -> None:
    """The third consecutive failure quarantines, and the reason says so."""
    assert decide(FailureHistory(consecutive=3), ExitReason.HUNG, Policy(), "k") == Quarantine("crash_loop:3")


def test_a_worker_that_never_says_hello_is_killed(stage: Stage) -> None:
    """At its bound, not before."""
    stage.load()
    stage.tick(limits.SPAWN_HELLO_SECONDS)
    assert stage.signals() == []
    stage.tick(1)

    assert stage.signals() == [KILL]


def test_a_load_without_progress_is_ended_and_one_with_progress_is_not(stage: Stage) -> None:
    """Silence counts, not duration: ten slow minutes with beats that show steps are fine, two still ones are not."""
    stage.load()
    stage.hello()
    for step in range(600):
        stage.beat(steps=step)
        stage.tick(1)
    assert stage.signals() == []
    stage.tick(limits.LOAD_STALL_SECONDS + 1)

    assert stage.signals() == [ABORT]


def test_a_hung_worker_is_aborted_for_its_stacks_and_then_killed(stage: Stage) -> None:
    """No heartbeat for the bound: SIGABRT, three seconds, SIGKILL."""
    stage.ready()
    stage.beat()
    stage.tick(limits.BEAT_DEAD_SECONDS + 1)
    assert stage.signals() == [ABORT]
    stage.tick(limits.HANG_ABORT_GRACE_SECONDS)

    assert stage.signals() == [ABORT, KILL]


def test_a_stuck_engine_under_a_healthy_heartbeat_is_a_hang(stage: Stage) -> None:
    """Beats flow, steps stand still, a request is in flight."""
    stage.ready()
    stage.ask("r")
    for _ in range(int(limits.PROGRESS_STALL_SECONDS) + 3):
        stage.beat(steps=7)
        stage.tick(1)

    assert stage.signals()[0] is ABORT


def test_a_worker_that_steps_on_and_never_acknowledges_a_cancel_is_ended(stage: Stage) -> None:
    """The slot of the forgotten request would be lost for ever; a worker that is just slow to step is not meant."""
    stage.ready()
    stage.ask("forgotten")
    stage.do(e.RequestCancelled("forgotten"))
    for step in range(int(limits.CANCEL_IGNORED_SECONDS)):
        stage.beat(steps=step)
        stage.tick(1)
    assert stage.signals() == []
    stage.beat(steps=1000)
    stage.tick(1)
    stage.beat(steps=1001)
    stage.tick(1)

    assert stage.signals()[0] is ABORT


def test_an_idle_engine_is_no_hang(stage: Stage) -> None:
    """Without a request nothing has to move."""
    stage.ready()
    for _ in range(int(limits.PROGRESS_STALL_SECONDS) * 2):
        stage.beat(steps=7)
        stage.tick(1)

    assert stage.signals() == []


def test_a_worker_that_ignores_the_polite_stop_is_killed_after_its_grace(stage: Stage) -> None:
    """Shutdown and SIGTERM first, SIGKILL at the end of the grace, and the unload is answered."""
    stage.ready()
    stage.unload()
    assert (len(stage.sent(Shutdown)), stage.signals()) == (1, [TERMINATE])
    stage.tick(limits.STOP_GRACE_SECONDS)
    assert stage.signals() == [TERMINATE, KILL]
    stage.die()

    assert len(stage.of(a.UnloadSettled)) == 1


def test_a_process_that_survives_sigkill_is_an_alarm(stage: Stage) -> None:
    """It is said once, so that an operator looks."""
    stage.ready()
    stage.unload()
    stage.tick(limits.STOP_GRACE_SECONDS + limits.KILL_WAIT_SECONDS + 5)

    assert len(stage.told("worker_unkillable")) == 1


def test_a_slept_machine_kills_nobody(stage: Stage) -> None:
    """A gap between two ticks shifts every deadline instead of ending every worker."""
    stage.ready()
    stage.beat()
    stage.tick()
    stage.now += 3600
    stage.tick()
    assert stage.signals() == []
    stage.tick(limits.BEAT_DEAD_SECONDS + 1)

    assert stage.signals() == [ABORT]


def test_a_death_during_a_drain_is_no_crash(stage: Stage) -> None:
    """Whatever its exit status, a worker that was asked to go has stopped."""
    stage.ready()
    stage.unload()
    stage.die(signal=11)

    assert not stage.fleet.state.slots
    assert len(stage.of(a.UnloadSettled)) == 1


def test_another_protocol_version_is_never_restarted(stage: Stage) -> None:
    """Two installations were mixed up: the worker is killed and the model fails."""
    stage.load(at_start=True)
    stage.hello(protocol=999)
    stage.die()

    assert stage.state() is WorkerState.FAILED


def test_a_failed_spawn_counts_and_is_tried_again(stage: Stage) -> None:
    """The system could not start a process now; the model is still wanted."""
    stage.ready()
    stage.die()
    stage.do(e.SpawnFailed(stage.incarnation(), "EAGAIN"))

    assert stage.state() is WorkerState.BACKOFF
    assert stage.slot().last_exit is not None
    assert "EAGAIN" in stage.slot().last_exit.text
