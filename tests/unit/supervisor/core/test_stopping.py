"""How a stop that was asked for is judged, whatever way the worker took out."""

import pytest

from lmx_protocol.messages import Hello
from lmx_protocol.states import WorkerState
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_supervisor.core import actions as a
from tests.support.stage import Stage


@pytest.mark.parametrize(("signal", "code"), [(None, 0), (None, 3), (9, None), (11, None), (15, None)])
def test_a_worker_that_dies_while_it_is_being_stopped_has_stopped(signal: int | None, code: int | None) -> None:
    """A segfault on the way out is no failure of the model, and neither is somebody else's SIGKILL."""
    stage = Stage()
    stage.ready()
    stage.unload()
    stage.die(signal=signal, code=code)

    assert stage.told("worker_exited")[0]["reason"] == "stopped"
    assert stage.of(a.Autopsy) == []
    assert "m" not in stage.fleet.state.slots


def test_a_worker_that_had_to_be_killed_after_its_grace_is_told_apart() -> None:
    """It was asked, it stayed, we killed it: that leaves evidence."""
    stage = Stage()
    stage.ready()
    stage.unload()
    stage.tick(stage.fleet.policy.stop_grace_seconds + 1)
    assert stage.signals() == [a.WorkerSignal.TERMINATE, a.WorkerSignal.KILL]
    stage.die(signal=9)

    assert [autopsy.verdict.reason for autopsy in stage.of(a.Autopsy)] == ["stop_timeout"]


def test_a_worker_that_is_unloaded_before_its_hello_has_stopped() -> None:
    """It cannot be asked yet, so it is killed at once; that is no crash."""
    stage = Stage()
    stage.load()
    assert stage.state() is WorkerState.SPAWNING
    stage.unload()
    assert stage.signals() == [a.WorkerSignal.KILL]
    stage.die(signal=9)

    assert stage.of(a.Autopsy) == []


def test_a_hello_that_comes_after_the_blow_changes_nothing() -> None:
    """The worker was killed unasked; that it managed to say hello in its last milliseconds does not make it one that stayed."""
    stage = Stage()
    stage.load()
    stage.unload()
    stage.hello()
    stage.die(signal=9)

    assert stage.told("worker_exited")[0]["reason"] == "stopped"
    assert stage.of(a.Autopsy) == []


def test_a_worker_of_another_version_is_named_with_both() -> None:
    """Whoever mixed two installations reads which two."""
    stage = Stage()
    order = stage.load()
    stage.say(Hello(protocol=PROTOCOL_VERSION + 41, incarnation=stage.incarnation(), pid=1, backend="llamacpp"))
    stage.die(signal=9)

    message = stage.refusal(order).message
    assert f"the worker speaks protocol {PROTOCOL_VERSION + 41}, the supervisor protocol {PROTOCOL_VERSION}" in message
    assert stage.state() is WorkerState.FAILED
