"""A decision that raised costs what its event was about, and nobody waits for ever."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Goodbye
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitObservation
from tests.support.stage import Stage


def _contain(stage: Stage, event: e.Event) -> list[str]:
    """As if `handle` had raised on this event before it changed anything."""
    actions, story = stage.fleet.contain(event)
    stage.actions += actions
    return story


def test_a_request_in_flight_ends_when_its_workers_exit_cannot_be_handled(stage: Stage) -> None:
    """Running and waiting requests, load orders: everybody hears of it, and the slot is given up with its story told."""
    stage.ready(slots=1)
    stage.ask("runs")
    stage.ask("waits")
    story = _contain(stage, e.Exited(stage.incarnation(), ExitObservation(signal_number=9)))

    assert [stage.ends(name)[0].code for name in ("runs", "waits")] == [ErrorCode.INTERNAL_ERROR] * 2
    assert stage.state() is WorkerState.FAILED
    assert not stage.fleet.state.incarnations
    assert any("the canary passed" in line for line in story)


def test_a_given_up_model_can_be_loaded_again(stage: Stage) -> None:
    """Nothing of the failure is left in the way."""
    stage.ready()
    _contain(stage, e.Exited(stage.incarnation(), ExitObservation(signal_number=9)))
    order = stage.load()
    stage.come_up()

    assert [settled.order_id for settled in stage.of(a.LoadSettled)][-1] == order


def test_a_worker_whose_message_could_not_be_handled_is_killed(stage: Stage) -> None:
    """Its exit is handled like any other death."""
    stage.ready()
    _contain(stage, e.Said(stage.incarnation(), Goodbye(reason="x")))

    assert stage.signals() == [a.WorkerSignal.KILL]


def test_a_failed_order_is_refused_once(stage: Stage) -> None:
    """An order that had already been noted down is not answered a second time when the load ends."""
    order = stage.load()
    _contain(stage, stage_order(stage, order))
    stage.come_up()

    assert stage.refusal(order).code is ErrorCode.INTERNAL_ERROR
    assert stage.of(a.LoadSettled) == []


def stage_order(stage: Stage, order: str) -> e.LoadWanted:
    """The event of an order already given."""
    return e.LoadWanted(order, stage.slot().spec, stage.slot().backend)


@pytest.mark.parametrize("accepted", [True, False])
def test_a_request_whose_arrival_failed_ends_once(stage: Stage, accepted: bool) -> None:
    """Whether or not it had been accepted when the handler raised."""
    stage.load()
    if accepted:
        stage.ask("r")
    request = GenerateRequest(request_id="r", model_id="m", prompt="p")
    _contain(stage, e.RequestArrived(request))
    stage.come_up()

    assert [end.code for end in stage.ends("r")] == [ErrorCode.INTERNAL_ERROR]
    assert stage.state() is WorkerState.READY
