"""When operators are told that a model's readiness changed."""

from typing import Any

from lmx_supervisor.core.readiness import READINESS_CHANGED
from tests.support.stage import Stage


def _told(stage: Stage) -> list[dict[str, Any]]:
    return stage.told(READINESS_CHANGED)


def _moves(stage: Stage) -> list[tuple[str, str]]:
    return [(str(fields["previous_state"]), str(fields["state"])) for fields in _told(stage)]


def test_a_load_is_told_step_by_step(stage: Stage) -> None:
    """From unknown to routable every step is told once, with the one before."""
    stage.ready()
    assert _moves(stage) == [
        ("unknown", "admitted"),
        ("admitted", "loading"),
        ("loading", "canary_pending"),
        ("canary_pending", "routable"),
    ]


def test_serving_changes_nothing(stage: Stage) -> None:
    """Ready and busy are the same to those who route: requests come and go without a word."""
    stage.ready()
    stage.actions.clear()
    stage.ask("r")
    stage.finish("r", seq=0)
    assert _told(stage) == []


def test_a_crash_is_told_with_its_reason_and_count(stage: Stage) -> None:
    """The step away from routable says why, and how often in a row it failed."""
    stage.ready()
    stage.actions.clear()
    stage.die(signal=11)
    [told] = _told(stage)
    assert (told["previous_state"], told["crash_count"]) == ("routable", 1)
    assert "SIGSEGV" in told["reason"]


def test_a_model_that_is_gone_is_unknown(stage: Stage) -> None:
    """An unload ends in unknown, once."""
    stage.ready()
    stage.actions.clear()
    stage.unload()
    stage.die(code=0)
    assert _moves(stage) == [("routable", "unknown")]
    assert stage.fleet.state.slots == {}
