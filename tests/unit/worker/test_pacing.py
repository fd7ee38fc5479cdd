"""How much of its time a worker puts into prompts when it is told to leave some of it to others."""

import pytest

from lmx_protocol.limits import PACED_PREFILL_STEP_SECONDS, PACED_PREFILL_TOKENS_MIN
from lmx_worker.pacing import PrefillPacing


def test_without_a_ratio_prompts_are_not_paced() -> None:
    """However long a piece took, the next one may come at once and be as long as the backend likes."""
    pacing = PrefillPacing()
    pacing.stepped(256, started_at=0.0, stepped_at=9.0)
    assert pacing.tokens_allowed(9.0) is None
    assert pacing.rest_seconds(9.0) == 0


@pytest.mark.parametrize(("ratio", "rest_seconds"), [(0.5, 0.25), (0.25, 0.75), (0.1, 2.25)])
def test_a_piece_is_paid_for_with_rest(ratio: float, rest_seconds: float) -> None:
    """After a quarter of a second of prompts, there is rest until they were the ratio of all time."""
    pacing = PrefillPacing()
    pacing.ratio = ratio
    pacing.stepped(64, started_at=1.0, stepped_at=1.25)
    assert pacing.rest_seconds(1.25) == pytest.approx(rest_seconds)
    assert pacing.tokens_allowed(1.25) == 0
    assert pacing.rest_seconds(1.26 + rest_seconds) == 0
    assert pacing.tokens_allowed(1.26 + rest_seconds)


def test_pieces_are_as_long_as_the_step_may_take() -> None:
    """The speed of the last piece says how many tokens fit; before any is known, and for the slowest model, it is a few."""
    pacing = PrefillPacing()
    pacing.ratio = 0.5
    assert pacing.tokens_allowed(0.0) == PACED_PREFILL_TOKENS_MIN
    pacing.stepped(1000, started_at=0.0, stepped_at=0.5)
    assert pacing.tokens_allowed(2.0) == 2000 * PACED_PREFILL_STEP_SECONDS
    pacing.stepped(16, started_at=2.0, stepped_at=4.0)
    assert pacing.tokens_allowed(9.0) == PACED_PREFILL_TOKENS_MIN


def test_steps_without_prompts_cost_nothing() -> None:
    """A step that only decoded leaves the bucket as it is."""
    pacing = PrefillPacing()
    pacing.ratio = 0.5
    pacing.stepped(0, started_at=0.0, stepped_at=5.0)
    assert pacing.rest_seconds(5.0) == 0


def test_a_new_ratio_ends_the_rest() -> None:
    """When nobody decodes any more, nobody is waited for."""
    pacing = PrefillPacing()
    pacing.ratio = 0.1
    pacing.stepped(64, started_at=0.0, stepped_at=1.0)
    pacing.ratio = 1.0
    assert pacing.rest_seconds(1.0) == 0
