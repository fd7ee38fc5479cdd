"""How fast a worker is, as its heartbeats tell."""

from lmx_supervisor.core.snapshot import fleet_view
from tests.support.stage import Stage


def test_speeds_are_what_came_between_two_heartbeats(stage: Stage) -> None:
    """Of prompts and of answers, per second; a worker that starts anew is not slower than nothing."""
    stage.tick()
    stage.ready()
    stage.beat(prefilled=100, decoded=10)
    stage.tick(2)
    stage.beat(prefilled=500, decoded=30)
    busy = fleet_view(stage.fleet.state, stage.now, 0.0).workers[0]
    stage.tick(1)
    stage.beat(prefilled=0, decoded=0)
    back = fleet_view(stage.fleet.state, stage.now, 0.0).workers[0]

    assert (busy.prefill_tokens_per_second, busy.tokens_per_second) == (200.0, 10.0)
    assert (back.prefill_tokens_per_second, back.tokens_per_second) == (0.0, 0.0)
